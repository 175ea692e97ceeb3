"""`represent` and `train` on tiny models: what they write, what they say, and what they refuse before any long work."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fusion.cli import main
from fusion.recipe import Recipe
from fusion.transfer import adapting, learning, source_phase, sources
from fusion.transfer.representation import Representation
from fusion.transfer.trained import Trained
from fusion.transfer.training import Schedule
from tests import tiny
from tests.fusion import small

FEW = Schedule(steps=3, batch=4, rate=3e-2, every=1, patience=None, warmup=1, average_over=1)


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return folder, [card.source for card in small.cards(folder)]


@pytest.fixture
def models(tiny_models, monkeypatch):
    """Folders of three models; training takes a few steps."""
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tiny_models[0]))
    monkeypatch.setattr(adapting, "SCHEDULE", FEW)
    monkeypatch.setattr(source_phase, "SHORT", FEW)
    monkeypatch.setattr(source_phase, "IMAGES", 8)
    monkeypatch.setattr(learning, "SCHEDULE", FEW)
    monkeypatch.setattr(learning, "WARM", FEW)
    for module in (source_phase, sources):
        monkeypatch.setattr(module, "DRAWING_STEPS", 2)
    return tiny_models[1]


@pytest.fixture
def pictures(tmp_path):
    return folder_of(tmp_path / "pictures", 4)


def folder_of(folder, count, seed=0):
    folder.mkdir()
    for number, picture in enumerate(small.pictures(count, seed)):
        picture.save(folder / f"{number}.png")
    records = [{"file": f"{n}.png", "prompt": small.PROMPTS[n % 3]} for n in range(count)]
    (folder / "captions.json").write_text(json.dumps(records))
    return folder


def run(capsys, *args):
    """Exit code, stdout, stderr."""
    code = main([str(a) for a in args])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_represent_learns_diagnoses_and_writes_a_page(capsys, models, tmp_path):
    out, report = tmp_path / "made" / "shared.safetensors", tmp_path / "made" / "page.md"
    code, said, _ = run(capsys, "represent", "--models", *models[:2], "--prompt", "a cat", "--prompt", "a dog", "--count", 16,
                        "--steps", 2, "--left-out-steps", 1, "--numbers", 2, "--out", out, "--report", report,
                        "--work", tmp_path / "work", "--json")  # fmt: skip
    result, made = json.loads(said), Representation.load(out)
    assert code == 0 and result["members"] == ["ada", "bea"] and made.about.dimensions == 2
    assert result["diagnosis"]["shared"] in (True, False, None) and len(result["diagnosis"]["left_out"]) == 2
    text = report.read_text()
    assert result["diagnosis"]["verdict"] in text and text.count("| ada |") == 2 and "frozen" in text and "2 different prompts" in text
    assert len(list((tmp_path / "work").iterdir())) == 3  # a checkpoint of each training


@pytest.mark.parametrize("more, word", [(["--report", "{}/r.safetensors"], ".md"), (["--work", "{}/file"], "file"),
                                        (["--numbers", "257"], "at most 256")])  # fmt: skip
def test_represent_refuses_before_models_are_loaded(capsys, models, tmp_path, monkeypatch, more, word):
    monkeypatch.setattr("fusion.commands.shared.load_ensemble", lambda *a, **k: pytest.fail("work was begun"))
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "represent", "--models", *models[:2], "--prompt", "a cat", "--out", tmp_path / "r.safetensors",
                       *(part.format(tmp_path) for part in more))  # fmt: skip
    assert code == 1 and word in err and not (tmp_path / "r.safetensors").exists()


def test_represent_on_given_pictures_with_networks_of_their_own(capsys, models, tmp_path):
    folders = [folder_of(tmp_path / str(k), 6, k) for k in range(2)]
    code, said, _ = run(capsys, "represent", "--models", *models[:2], "--images", *folders, "--steps", 1, "--left-out-steps", 0,
                        "--own-networks", 2, "--out", tmp_path / "r.safetensors", "--json")  # fmt: skip
    result = json.loads(said)
    assert code == 0 and result["settings"]["images"] == [6, 6] and result["settings"]["rank"] == 2 and not result["diagnosis"]["left_out"]


@pytest.mark.parametrize("method", ["finetune", "transfer"])
def test_train_then_sample_from_the_recipe(capsys, models, pictures, tmp_path, method):
    recipe = tmp_path / "out" / "trained.json"
    code, said, err = run(capsys, "train", "--models", *models, "--images", pictures, "--method", method, "--levels", 3, "--out", recipe,
                          "--device", "cpu", "--json")  # fmt: skip
    result = json.loads(said)
    record = Trained.load(result["file"])
    assert code == 0 and "Training takes at most" in err and ("the sources share" in err.lower()) == (method == "transfer")
    assert result["member"] == record.member and len(result["held_out_loss"]) == 4
    assert Recipe.load(recipe).trained["sha256"] == record.sha256 and record.method == method
    images = [tmp_path / "first", tmp_path / "second"]
    for folder in images:
        assert run(capsys, "sample", recipe, "--models", *models, "--prompt", "a cat", "--steps", 2, "--out", folder)[0] == 0
    one, other = (next(folder.glob("*.png")) for folder in images)
    with Image.open(one) as a, Image.open(other) as b:
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_one_ctrl_c_in_a_training_keeps_what_it_has_reached(capsys, models, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(adapting, "SCHEDULE", replace(FEW, steps=40))
    original = adapting.train

    def interrupted(*args, progress=None, **more):
        def tell(done, *told):
            progress(done, *told)
            if done == 5:
                os.kill(os.getpid(), signal.SIGINT)

        return original(*args, progress=tell, **more)

    monkeypatch.setattr(adapting, "train", interrupted)
    code, said, _ = run(capsys, "train", "--models", *models, "--images", pictures, "--levels", 3, "--out", tmp_path / "r.json", "--json")
    result = json.loads(said)
    assert code == 130 and result["stopped"] and 5 <= result["steps"] < 40
    assert Trained.load(result["file"]).course.stopped and Recipe.load(tmp_path / "r.json").method == "finetune"


def test_train_uses_a_given_representation_and_refuses_a_foreign_one(capsys, models, pictures, tmp_path, tiny_models):
    members = small.ensemble(tmp_path)
    code_file = tmp_path / "code.safetensors"
    small.code(members, 3).save(code_file)
    arguments = ["train", "--images", pictures, "--method", "transfer", "--representation", code_file, "--levels", 3]
    arguments += ["--out", tmp_path / "t.json"]
    code, _, err = run(capsys, *arguments, "--models", *models)
    assert code == 0 and "never measured" in err
    diagnosed = Representation.load(code_file)
    diagnosed.about = replace(diagnosed.about, diagnosis={"shared": False, "verdict": "The sources do not share a representation."})
    diagnosed.save(code_file)
    assert "The sources do not share a representation." in run(capsys, *arguments, "--models", *models)[2]
    trained = Trained.load(next(tmp_path.glob("transfer-*.safetensors")))  # either: the two differ in their diagnosis alone
    assert trained.representation.about.dimensions == 3
    other = tiny.sd(tiny_models[0] / "other", 5, context=8, size=16)
    code, _, err = run(capsys, *arguments, "--models", other)
    assert code == 1 and "represent" in err and "other" in err


@pytest.mark.parametrize("arguments, word", [
    (["--out", "x.bin"], "safetensors"), (["--out", "x.safetensors", "--images", "a"], "give one for each"),
    (["--out", "x.safetensors", "--numbers", "0"], "numbers"), (["--out", "x.safetensors", "--count", "3"], "count"),
    (["--out", "x.safetensors"], "prompts"), (["--out", "x.safetensors", "--prompts", "gone.txt"], "one prompt a line"),
])  # fmt: skip
def test_represent_refuses_before_any_work(capsys, models, arguments, word):
    code, out, err = run(capsys, "represent", "--models", *models, *arguments)
    assert code == 1 and out == "" and word in err and "Traceback" not in err


def test_train_needs_two_pictures(capsys, models, tmp_path):
    code, _, err = run(capsys, "train", "--models", *models, "--images", folder_of(tmp_path / "one", 1), "--out", tmp_path / "t.json")
    assert code == 1 and "at least 2 images" in err


