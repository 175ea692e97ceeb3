"""JSON of strangers: within bounds it is read, beyond them it is one sentence, wherever it comes in."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from models import bounded
from models.catalog import read_card
from models.errors import ModelError
from models.loading import load_ensemble

DEEP = "[" * 5000 + "]" * 5000
RATHER_DEEP = '{"a": ' * 300 + "1" + "}" * 300  # a parser takes it; a copy or a comparison of it would not end well
LONG = '{"a": ' + "9" * 5000 + "}"
WILD = {"deep": DEEP, "rather deep": RATHER_DEEP, "unclosed": "[" * 100_000, "long number": LONG, "long float": f"[0.{'1' * 5000}]",
        "not JSON": "{", "nothing": ""}  # fmt: skip


@pytest.mark.parametrize("text", WILD.values(), ids=WILD)
def test_what_is_beyond_the_bounds_is_one_short_sentence(text):
    for form in (text, text.encode()):
        with pytest.raises(bounded.Unreadable) as found:
            bounded.parse(form)
        assert len(str(found.value)) < 80 and "limit" not in str(found.value)


def test_what_is_within_them_is_read():
    deep = json.dumps({"text": "[" * 5000 + '\\"' + "9" * 5000, "list": [[[[1, 2.5e-3, None]]]]})
    assert bounded.parse(deep) == json.loads(deep)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert bounded.parse('{"é": 1}'.encode(encoding)) == {"é": 1}
    assert bounded.parse("\ufeff[1]") == [1]


def test_no_more_of_a_file_is_read_than_may_be_and_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "long.json").write_text(json.dumps(["x" * 2000]))
    with pytest.raises(bounded.Unreadable, match="at most"):
        bounded.read(tmp_path / "long.json", 1000)
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path):
        with pytest.raises(bounded.Unreadable, match="not a file"):
            bounded.read(path)
    with pytest.raises(FileNotFoundError):
        bounded.read(tmp_path / "none.json")


@pytest.mark.parametrize("text", WILD.values(), ids=WILD)
@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json",
                                  "tokenizer/vocab.json", "text_encoder/config.json"])  # fmt: skip
def test_a_folder_of_a_stranger_is_refused_by_the_file_that_is_wild(tiny_cards, tmp_path, file, text):
    own, other = tiny_cards("sd")
    shutil.copytree(own.source, tmp_path / "wild")
    (tmp_path / "wild" / file).write_text(text)
    card = read_card({"id": "wild", "title": "Wild", "family": own.family, "source": str(tmp_path / "wild")})
    with pytest.raises(ModelError, match=rf"'Wild'.*{Path(file).name}") as found:
        load_ensemble([card, other], device="cpu")
    assert "Traceback" not in str(found.value) and len(str(found.value)) < 300


@pytest.mark.parametrize("text", [DEEP, "a: " + "9" * 5000, "a: 2026-13-77", "a: [", "- 1"])
def test_a_model_card_s_front_matter_is_none_where_it_cannot_be_read(text):
    from models.model_cards import front_matter

    assert front_matter(f"---\n{text}\n---\n# Card") == {}
    assert front_matter("---\nlicense: mit\n---\n# Card") == {"license": "mit"}


@pytest.mark.parametrize("text", [DEEP, RATHER_DEEP, LONG, "[]x"], ids=["deep", "rather deep", "long number", "not JSON"])
def test_metadata_of_a_file_of_tensors_is_held_to_the_same(tmp_path, text):
    from fusion.calibration import Calibration
    from fusion.objective import ResidualGram
    from fusion.transfer.representation import about_of
    from fusion.transfer.trained import KEY, Trained, TrainedError

    for key, load, error in (("calibration", Calibration.load, ValueError), ("residual_gram", ResidualGram.load, ValueError),
                             (KEY, Trained.load, TrainedError)):  # fmt: skip
        save_file({"x": np.zeros(2, np.float32)}, tmp_path / "x.safetensors", metadata={key: text})
        with pytest.raises(error):
            load(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="not a saved representation"):
        about_of(text, "x")
