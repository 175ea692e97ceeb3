"""`sample` and a picture of another program: its flags ready to copy, and its settings with the models that are given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusion.cli import main
from fusion.recipe import Recipe
from tests.fusion import small
from tests.fusion.test_foreign import COMFY, png

TEXT = "a cat\nNegative prompt: a dog\nSteps: 2, Sampler: Euler a, CFG scale: 3, Seed: 41, Size: 32x32, Model: other"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small.cards(tmp_path_factory.mktemp("models"))[0].source


@pytest.fixture
def model(made, monkeypatch):
    monkeypatch.setenv("SCOREFUSION_MODELS", str(Path(made).parent))
    return made


def test_without_models_the_flags_are_ready_to_copy(capsys, tmp_path):
    assert main(["sample", str(png(tmp_path / "a.png", parameters=TEXT)), "--out", str(tmp_path / "x")]) == 1
    said = capsys.readouterr().err
    assert ("draw with your own, python -m fusion sample --models MODEL --count 1 --prompt 'a cat' --negative 'a dog' --seed 41 --steps 2 "
            "--guidance 3 --width 32 --height 32. What it says besides has no flag: sampler Euler a, model other") in said
    assert main(["sample", str(png(tmp_path / "c.png", prompt=json.dumps(COMFY))), "--models", "a", "--out", str(tmp_path / "x")]) == 1
    assert "drawn by ComfyUI" in capsys.readouterr().err


def test_with_models_its_settings_are_drawn_and_what_was_typed_has_the_last_word(capsys, tmp_path, model):
    path = str(png(tmp_path / "a.png", parameters=TEXT))
    rest = ["--models", model, "--device", "cpu", "--out", str(tmp_path / "x"), "--json"]
    assert main(["sample", path, "--guidance", "2", *rest]) == 0
    out = capsys.readouterr()
    (image,) = json.loads(out.out)["images"]
    drawn = Recipe.load(image["file"])
    assert (drawn.prompts, drawn.seeds, drawn.negative_prompt, drawn.steps) == (("a cat",), (41,), "a dog", 2)
    assert (drawn.guidance, drawn.width, drawn.height) == (2.0, 32, 32)
    assert "note: settings of A1111: --prompt 'a cat'" in out.err and "without a flag here: sampler Euler a, model other" in out.err
