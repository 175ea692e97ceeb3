"""The command line, run in this process on tiny models: what a newcomer reads, what scripts get, what bad input and Ctrl-C leave behind."""

import json
import os
import signal
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusion import images
from fusion.calibration import Calibration
from fusion.cli import COMMANDS, Bar, Interrupt, main
from fusion.commands import options, shared
from fusion.commands.diary import Diary
from fusion.methods import METHODS, SamplingPlan
from fusion.objective import ResidualGram
from fusion.recipe import Recipe
from models.catalog import REPOSITORY
from models.loading import load_ensemble
from tests import tiny
from tests.fusion import small


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return folder, [card.source for card in small.cards(folder)]


@pytest.fixture
def models(tiny_models, monkeypatch):
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tiny_models[0]))
    return tiny_models[1]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(small.pictures(4)):
        picture.save(folder / f"{number}.png")
    return str(folder)


def run(capsys, *args):
    """Exit code, stdout, stderr."""
    code = main([str(a) for a in args])
    out = capsys.readouterr()
    return code, out.out, out.err


# ------------------------------------------------------------------------------------------------ help

@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_explains_with_examples_and_loads_nothing_heavy(command):
    args = [sys.executable, "-X", "importtime", "-m", "fusion", *([command] if command else []), "--help"]
    done = subprocess.run(args, cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and "python -m fusion" in done.stdout and len(done.stdout) > 300
    assert " torch" not in done.stderr and " diffusers" not in done.stderr


def test_only_commands_that_take_a_recipe_speak_of_one(capsys):
    for command, spoken in (("sample", True), ("compare", False)):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        said = capsys.readouterr().out
        assert ("the recipe's" in said) is spoken and "--guidance-interval" in said


def test_every_method_can_be_asked_for():
    for command in ("sample", "compare"):
        parser = ArgumentParser()
        COMMANDS[command].arguments(parser)
        options = {option.dest: option for option in parser._actions}
        more = ("singles",) if command == "compare" else ()
        assert tuple((options.get("methods") or options["method"]).choices) == (*METHODS, *more)



def test_wrong_usage_is_exit_code_2(capsys):
    for args in ([], ["fit"], ["dance"], ["compare", "--models", "a", "--target", "b", "--methods", "magic"]):
        with pytest.raises(SystemExit) as ended:
            main(args)
        assert ended.value.code == 2
    capsys.readouterr()


# ------------------------------------------------------------------------------------------------ fit, sample, compare

def test_fit_then_sample_then_the_same_image_again(capsys, models, pictures, tmp_path):
    recipe, gram = tmp_path / "fit.json", tmp_path / "gram.safetensors"
    code, out, err = run(capsys, "fit", "--models", *models, "--images", pictures, "--caption", "a cat", "--levels", 3, "--out", recipe,
                         "--gram", gram, "--device", "cpu", "--json")  # fmt: skip
    result = json.loads(out)
    assert code == 0 and result["images"] == 4 and result["recipe"] == str(recipe) and "no calibration" in err
    assert Recipe.load(recipe).method == "scorefusion" and len(ResidualGram.load(gram)) == 4 and Recipe.load(recipe).guidance == 7.5
    assert Recipe.load(recipe).metrics["published"]["members"].keys() == {"ada", "bea", "cyd"}

    images = tmp_path / "images"
    code, out, _ = run(capsys, "sample", recipe, "--models", *models, "--prompt", "a dog", "--count", 2, "--seed", 5, "--steps", 2,
                       "--out", images, "--json")  # fmt: skip
    files = [image["file"] for image in json.loads(out)["images"]]
    assert code == 0 and [image["seed"] for image in json.loads(out)["images"]] == [5, 6]
    code, _, _ = run(capsys, "sample", files[1], "--models", *models, "--out", tmp_path / "again")
    again = list((tmp_path / "again").iterdir())
    assert code == 0 and len(again) == 1
    with Image.open(files[1]) as one, Image.open(again[0]) as other:
        assert np.array_equal(np.asarray(one), np.asarray(other)) and one.info["scorefusion"] == other.info["scorefusion"]


def test_images_of_a_method_that_trains_lie_beside_what_it_trained(capsys, models, tmp_path):
    members = load_ensemble(shared.cards_of(models), device="cpu")
    record = small.trained(members, "finetune")
    recipe = Recipe.of(members, "finetune", SamplingPlan(["a cat"], [3, 4], steps=1), trained=record).save(tmp_path / "finetune.json")
    code, out, _ = run(capsys, "sample", recipe, "--models", *models, "--out", tmp_path / "x", "--json")
    files = [image["file"] for image in json.loads(out)["images"]]
    assert code == 0 and len(files) == 2 and (tmp_path / "x" / record.file).is_file()
    code, _, _ = run(capsys, "sample", files[1], "--models", *models, "--out", tmp_path / "y")
    assert code == 0 and next((tmp_path / "y").glob("*.png")).read_bytes() == open(files[1], "rb").read()


def test_fit_with_a_calibration_drawn_now_gives_a_mixture(capsys, models, pictures, tmp_path):
    code, out, err = run(capsys, "fit", "--models", *models[:2], "--images", pictures, "--caption", "a cat", "--levels", 3,
                         "--calibrate", 8, "--calibration", tmp_path / "own.safetensors", "--out", tmp_path / "fit.json")  # fmt: skip
    recipe = Recipe.load(tmp_path / "fit.json")
    assert code == 0 and recipe.method == "mixture" and recipe.interval is not None and "these 4 images look like" in out
    assert "8 images are drawn" in err and "calibrated" in recipe.metrics and len(Calibration.load(tmp_path / "own.safetensors").names) == 2


def test_sample_from_models_and_weights(capsys, models, tmp_path):
    code, out, err = run(capsys, "sample", "--models", *models[:2], "--weights", 0.5, 0.5, "--method", "uniform", "--prompt", "a cat",
                         "--prompt", "a dog", "--count", 1, "--steps", 1, "--out", tmp_path / "x")  # fmt: skip
    assert code == 0 and "2 images" in out and len(list((tmp_path / "x").iterdir())) == 2
    assert "2 images at guidance 7.5, the models' own, 4 network evaluations each" in err  # as is usual for Stable Diffusion
    drawn = Recipe.load(next((tmp_path / "x").iterdir()))
    assert drawn.guidance == 7.5
    _, _, err = run(capsys, "sample", next((tmp_path / "x").iterdir()), "--models", *models[:2], "--out", tmp_path / "y")
    assert "images at guidance 7.5, the recipe's, " in err
    for typed, said in ((1, "at guidance 1, 2 network"), (3, "at guidance 3, 4 network")):
        _, _, err = run(capsys, "sample", "--models", *models[:2], "--weights", 0.5, 0.5, "--prompt", "a cat", "--method", "uniform",
                        "--count", 1, "--steps", 1, "--guidance", typed, "--out", tmp_path / str(typed))  # fmt: skip
        assert said in err


def test_compare_writes_a_report(capsys, models, pictures, tmp_path):
    code, out, err = run(capsys, "compare", "--models", *models[:2], "--target", pictures, "--caption", "a cat", "--levels", 3,
                         "--steps", 1, "--count", 2, "--methods", "single", "uniform", "matched", "--out", tmp_path / "r.html",
                         "--json")  # fmt: skip
    rows = json.loads(out)["rows"]
    assert code == 0 and [row["method"] for row in rows] == ["single", "uniform", "matched"]
    assert len(rows[0]["samples"]) == 2 and "calibration" in rows[2]["problem"] and rows[1]["loss"]["value"] > 0
    assert "Every second one" in err and "<h1>" in (tmp_path / "r.html").read_text()
    prices = err.split("2 images a method at guidance 7.5, the models' own:")[1].splitlines()[1:4]  # said before anything was drawn
    assert "Best single model: 2 network evaluations each" in prices[0] and ": 4 network evaluations each" in prices[1]
    assert "cannot run: " in prices[2] and "calibration" in prices[2]


def test_a_prompt_that_no_held_out_picture_has_is_said(capsys, models, pictures):
    asked = ["compare", "--models", *models[:2], "--target", pictures, "--caption", "a cat", "--levels", 3, "--steps", 1, "--count", 1,
             "--methods", "single", "--no-features"]  # fmt: skip
    assert "No held-out picture has the caption 'a dog'" in run(capsys, *asked, "--prompt", "a dog")[2]
    code, out, err = run(capsys, *asked)
    assert code == 0 and "No held-out picture has" not in err


def test_one_method_alone_is_measured_and_not_said_to_be_no_evidence(capsys, models, pictures):
    code, out, _ = run(capsys, "compare", "--models", *models[:2], "--target", pictures, "--held-out", pictures_of(pictures), "--caption",
                       "a cat", "--levels", 3, "--steps", 1, "--count", 4, "--methods", "uniform")  # fmt: skip
    assert code == 0 and "Equal weights alone was measured, so nothing is left to compare" in out and "no evidence" not in out


def pictures_of(folder):
    """Held-out pictures beside those of `folder`."""
    held = Path(folder).parent / "held"
    held.mkdir(exist_ok=True)
    for number, picture in enumerate(small.pictures(4, 60)):
        picture.save(held / f"{number}.png")
    return held


def test_each_model_alone_can_be_compared(capsys, models, pictures):
    code, out, err = run(capsys, "compare", "--models", *models[:2], "--target", pictures, "--caption", "a cat", "--levels", 3,
                         "--steps", 1, "--count", 2, "--methods", "single", "singles", "merge", "--json")  # fmt: skip
    rows = {row["method"]: row for row in json.loads(out)["rows"]}
    assert code == 0 and list(rows) == ["single", "single/ada", "single/bea", "merge"] and "bea: 2 network evaluations each" in err
    gains = [rows[name]["gain"]["value"] for name in ("single/ada", "single/bea")]
    assert 0.0 in gains and rows["merge"]["loss"]["value"] > 0 and rows["merge"]["gain"] is not None
    assert {sample["member"] for sample in rows["single/bea"]["samples"]} == {"bea"}


def test_a_report_that_cannot_be_written_does_not_take_the_figures_with_it(capsys, models, pictures, tmp_path, monkeypatch):
    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fusion.evaluation.report.Report.save", full)
    code, out, err = run(capsys, "compare", "--models", *models[:2], "--target", pictures, "--caption", "a cat", "--levels", 3,
                         "--steps", 1, "--count", 1, "--methods", "single", "--no-features", "--out", tmp_path / "r.html")  # fmt: skip
    assert code == 1 and "Best single model" in out and "could not be written" in err and "No space left" in err


# ------------------------------------------------------------------------------------------------ bad input

def test_bad_input_is_a_sentence_and_exit_code_1(capsys, models, pictures, tmp_path):
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.mkdir()
    text.mkdir()
    (text / "a.png").write_text("hello")
    (tmp_path / "broken.json").write_text('{"version": 1}')
    unknown = {"version": 1, "models": [{"id": "no/such"}], "weights": [1.0], "method": "single", "prompts": ["a"], "seeds": [1]}
    (tmp_path / "unknown.json").write_text(json.dumps(unknown))
    cases = [
        (["fit", "--models", *models, "--images", empty], "no readable picture"),
        (["fit", "--models", *models, "--images", text], "text file"),
        (["fit", "--models", tmp_path / "gone", *models, "--images", pictures], "gone"),
        (["sample", tmp_path / "broken.json"], "broken"),
        (["sample", tmp_path / "unknown.json"], "no/such"),
        (["sample", tmp_path / "gone.json"], "cannot be opened"),
        (["sample"], "say what to draw"),
        (["sample", "--models", *models, "--prompt", "a"], "--weights"),
        (["sample", "--models", *models, "--prompt", "a", "--weights", 0.5, 0.5], "3 models"),
        (["sample", "--models", *models, "--prompt", "a", "--method", "finetune"], "python -m fusion train --method finetune"),
        (["sample", "--models", *models, "--prompt", "a", "--method", "scratch", "--weights", 1, 0, 0], "train --method scratch"),
        (["sample", "--models", *models, "--prompt", "a", "--method", "uniform", "--weights", 1, 0, 0], "leave --weights out"),
        (["sample", "--models", *models, "--prompt", "a", "--method", "single", "--weights", 0.5, 0.5, 0], "one weight as 1"),
        (["sample", "--models", *models, "--prompt", "a", "--method", "switch", "--weights", 0.5, 0.5, 0], "one weight as 1"),
        (["sample", "--models", *models, "--prompt", "a", "--weights", "nan", 0.5, 0.5], "at least 0"),
        (["sample", "--models", *models, "--prompt", "a", "--weights", 1, 0, 0, "--count", -1], "nothing to draw"),
    ]
    for args, word in cases:
        code, out, err = run(capsys, *args, "--device", "cpu", "--out", tmp_path / "out")
        assert code == 1 and word in err and "error: " in err and "Traceback" not in err and out == "", (args, err)


@pytest.mark.parametrize("option, value", [("--guidance", "nan"), ("--guidance", "-3"), ("--guidance", "101"), ("--height", "-8"),
                                           ("--width", "0"), ("--seed", "-1"), ("--steps", "0")])  # fmt: skip
def test_numbers_that_mean_nothing_are_wrong_usage(capsys, option, value):
    with pytest.raises(SystemExit) as ended:
        main(["sample", "--models", "a", "--prompt", "a", option, value])
    assert ended.value.code == 2 and f"{option}: must be" in capsys.readouterr().err


def test_a_size_that_models_cannot_draw_is_refused_before_drawing(capsys, models, tmp_path):
    drawing = ["sample", "--models", *models[:2], "--weights", 0.5, 0.5, "--prompt", "a", "--device", "cpu", "--out", tmp_path / "x"]
    code, _, err = run(capsys, *drawing, "--height", 101)
    assert code == 1 and "multiples of" in err and not (tmp_path / "x").exists()
    code, _, err = run(capsys, *drawing[:-1], tmp_path / "y", "--height", 8)
    assert code == 1 and "16 to 4096" in err and not (tmp_path / "y").exists()


def test_a_size_that_models_cannot_draw_is_refused_before_they_are_fitted(capsys, models, pictures, monkeypatch):
    monkeypatch.setattr("fusion.commands.shared.fit_gram", lambda *a, **k: pytest.fail("the models were fitted"))
    code, out, err = run(capsys, "compare", "--models", *models[:2], "--target", pictures, "--caption", "a cat", "--height", 101)
    assert code == 1 and out == "" and "multiples of" in err


def test_fitted_pictures_are_no_evidence(capsys, models, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("fusion.commands.shared.load_ensemble", lambda *a, **k: pytest.fail("work was begun"))
    (held := tmp_path / "held").mkdir()
    small.pictures(1, 50)[0].save(held / "own.png")
    with Image.open(f"{pictures}/2.png") as picture:
        picture.save(held / "known.bmp")
    code, out, err = run(capsys, "compare", "--models", *models[:2], "--target", pictures, "--caption", "a cat", "--held-out", held)
    assert code == 1 and out == "" and "known.bmp: among the held-out pictures and among the fitted ones" in err and "own.png" not in err


@pytest.mark.parametrize("method", ["transfer", "transfer_unfrozen", "scratch"])
def test_models_that_read_no_prompt_are_refused_before_they_are_fitted(capsys, pictures, tmp_path, monkeypatch, method):
    monkeypatch.setattr("fusion.commands.shared.fit_gram", lambda *a, **k: pytest.fail("the models were fitted"))
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tmp_path))
    paths = [tiny.ddpm(tmp_path / str(i), i) for i in range(2)]
    code, out, err = run(capsys, "train", "--method", method, "--models", *paths, "--images", pictures, "--out", tmp_path / "r.json")
    assert code == 1 and out == "" and "reads no prompt" in err and not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more"),
                                   RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")])  # fmt: skip
def test_running_out_of_memory_is_a_sentence(capsys, monkeypatch, error):
    monkeypatch.setattr(COMMANDS["sample"], "run", lambda *_, **__: (_ for _ in ()).throw(error))
    code, out, err = run(capsys, "sample")
    assert code == 1 and out == "" and "memory ran out (" in err and "--memory waiting sliced" in err and "and more" not in err
    monkeypatch.setattr(COMMANDS["details"], "run", lambda *_, **__: (_ for _ in ()).throw(error))
    code, _, err = run(capsys, "details", "x")
    assert code == 1 and "memory ran out" in err and "--memory" not in err and "--height" not in err


def test_a_bug_keeps_its_traceback(capsys, monkeypatch):
    monkeypatch.setattr(COMMANDS["sample"], "run", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes"):
        run(capsys, "sample")


def test_card_names_are_understood(models, tmp_path):
    first, second = shared.cards_of([models[0], "portraits/harbor"])
    assert first.source == models[0] and second.id == "portraits/harbor"


# ------------------------------------------------------------------------------------------------ Ctrl-C and progress

def test_one_ctrl_c_keeps_what_is_done(capsys, models, tmp_path, monkeypatch):
    original, before = Diary.write, signal.getsignal(signal.SIGINT)

    def write_and_interrupt(self, batch):
        if not self.written:  # once: the second Ctrl-C would end the program
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch)

    monkeypatch.setattr(Diary, "write", write_and_interrupt)
    code, out, err = run(capsys, "sample", "--models", *models[:2], "--weights", 0.5, 0.5, "--prompt", "a cat", "--count", 40, "--steps", 1,
                         "--out", tmp_path / "x")  # fmt: skip
    kept = list((tmp_path / "x").glob("*.png"))
    assert code == 130 and "stopped early" in out and "Stopping after this step" in err and 0 < len(kept) < 40
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_before_anything_is_done(capsys, models, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "advice", lambda count: os.kill(os.getpid(), signal.SIGINT) or "")
    code, out, err = run(capsys, "fit", "--models", *models[:2], "--images", pictures, "--caption", "a cat", "--out", tmp_path / "f.json")
    assert code == 130 and "nothing to keep" in err and out == "" and not (tmp_path / "f.json").exists()


def test_the_second_ctrl_c_ends_at_once(capsys):
    with Interrupt() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    capsys.readouterr()


def test_bars_follow_progress_and_start_anew(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = Bar()
    for done, total in [(0, 4), (2, 4), (4, 4), (1, 2), (2, 2)]:
        bar(done, total, "drawing")
    bar.close()
    shown = capsys.readouterr().err
    assert "drawing" in shown and "100%" in shown and shown.count("\n") == 2


def test_serve_opens_the_page(monkeypatch, capsys):
    import types

    asked = []
    monkeypatch.setitem(sys.modules, "app", types.SimpleNamespace(main=asked.append))
    code, out, _ = run(capsys, "serve", "--port", 7870, "--open")
    assert code == 0 and asked == [["--port", "7870", "--open"]] and "closed" in out


# ------------------------------------------------------------------------------------------------ refused before models are loaded

def test_numbers_that_mean_nothing_are_usage_errors(capsys):
    for args in (["fit", "--models", "a", "--images", "b", "--levels", "0"], ["sample", "r.json", "--steps", "-3"]):
        with pytest.raises(SystemExit) as left:
            main(args)
        assert left.value.code == 2 and "at least 1" in capsys.readouterr().err


def test_a_comparison_is_refused_before_any_work(capsys, models, pictures, tmp_path, monkeypatch):
    for module in ("fusion.commands.shared.load_ensemble", "fusion.commands.shared.fit_gram"):
        monkeypatch.setattr(module, lambda *a, **k: pytest.fail("work was begun"))
    for typed, word in ((["--count", "0"], "at least 1"), (["--seed", "-1"], "from 0"), (["--seed", 2**63], "from 0")):
        with pytest.raises(SystemExit):
            main([str(a) for a in ["compare", "--models", *models[:2], "--target", pictures, *typed]])
        assert word in capsys.readouterr().err
    blocked = tmp_path / "file"
    blocked.write_text("")
    (tmp_path / "broken.safetensors").write_text("hello")
    shipped = ["portraits/harbor", "portraits/summit"]
    cases = [
        (models[:2], ["--out", tmp_path / "r.txt"], ".html or .json"),
        (models[:2], ["--out", blocked / "x" / "r.html"], "cannot be made"),
        (models[:2], ["--seed", 2**63 - 2], "seeds must be"),
        (shipped, ["--guidance-interval", 0.2, 0.8], "--guidance above 1"),
        (models[:2], ["--calibration", tmp_path / "gone.safetensors"], "check the name"),
        (models[:2], ["--calibration", tmp_path / "broken.safetensors"], "cannot be read as a calibration"),
        (shipped, ["--levels", 2], "--levels 16"),
    ]
    cases += [
        (models[:2], ["--calibrate", 3], "at least 8 images"),
        (models[:2], ["--calibrate", 8, "--calibration", blocked / "c.safetensors"], "cannot be made"),
        (models[:2], ["--calibrate", 8, "--calibration", tmp_path / "c.txt"], ".safetensors"),
    ]
    for names, typed, word in cases:
        code, out, err = run(capsys, "compare", "--models", *names, "--target", pictures, "--caption", "a cat", *typed)
        assert code == 1 and out == "" and word in err, (typed, err)
    for command in (["fit", "--out", tmp_path / "f.json"], ["train", "--out", tmp_path / "t.json"]):
        code, _, err = run(capsys, *command, "--models", *shipped, "--images", pictures, "--caption", "a cat", "--levels", 2)
        assert code == 1 and "--levels 16" in err


def test_prompts_of_one_command_are_independent_unless_a_grid_is_asked_for(models, tmp_path, capsys):
    common = ["sample", "--models", *models[:2], "--weights", 0.5, 0.5, "--prompt", "a cat", "--prompt", "a dog", "--prompt", "a cat",
              "--count", 2, "--seed", 3, "--steps", 1, "--json"]  # fmt: skip
    code, out, said = run(capsys, *common, "--out", tmp_path / "one")
    assert code == 0 and sorted((image["prompt"], image["seed"]) for image in json.loads(out)["images"]) == [
        ("a cat", 3), ("a cat", 4), ("a dog", 5), ("a dog", 6)] and "a seed of its own" in said  # fmt: skip
    code, out, said = run(capsys, *common, "--same-seeds", "--out", tmp_path / "two")
    assert sorted(image["seed"] for image in json.loads(out)["images"]) == [3, 3, 4, 4] and "share their seeds" in said


def test_a_result_goes_to_a_folder_that_is_made(tmp_path):
    assert options.writable(tmp_path / "new" / "r.json", ".html", ".json").parent.is_dir()
    with pytest.raises(ValueError, match="it is a folder"):
        options.writable(tmp_path / "new")


@pytest.mark.parametrize("place", ["file", "file/below", "a\0b", "long" * 100])
def test_a_folder_that_cannot_be_made_is_said_before_any_work(capsys, tmp_path, place):
    (tmp_path / "file").write_text("")
    for command in (["study", "gaussians", "--quick", "--work", tmp_path / "w", "--out"], ["study", "gaussians", "--quick", "--work"],
                    ["fit", "--models", "portraits/harbor", "--images", tmp_path, "--out", tmp_path / "f.json", "--work"],
                    ["sample", "--models", "portraits/harbor", "--weights", 1, "--prompt", "a", "--out"]):  # fmt: skip
        code, out, err = run(capsys, *command, tmp_path / place)
        assert code == 1 and "cannot be made" in err and "choose another place" in err and out == ""


def test_a_count_of_none_is_not_four(capsys, models, tmp_path):
    code, out, err = run(capsys, "sample", "--models", *models[:2], "--weights", 0.5, 0.5, "--prompt", "a cat", "--count", 0, "--out",
                         tmp_path / "x")  # fmt: skip
    assert code == 1 and "nothing to draw" in err and not list(tmp_path.glob("x/*.png"))


@pytest.mark.parametrize(("more", "word"), [
    (["--weights", 0.7, 0.7], "sum to 1"), (["--weights", "nan", 1], "at least 0"), (["--weights", 1], "2 models"),
    (["--weights", 0.5, 0.5, "--count", 0], "nothing to draw"), (["--weights", 0.5, 0.5, "--count", 4, "--seed", 2**63 - 2], "seeds must"),
])  # fmt: skip
def test_weights_and_jobs_are_looked_at_before_models(capsys, models, tmp_path, monkeypatch, more, word):
    monkeypatch.setattr(shared, "ensemble_of", lambda *a, **k: pytest.fail("models were loaded"))
    monkeypatch.setattr("models.loading.load_ensemble", lambda *a, **k: pytest.fail("models were loaded"))
    code, _, err = run(capsys, "sample", "--models", *models[:2], "--prompt", "a", *more, "--out", tmp_path / "x")
    assert code == 1 and word in err and not (tmp_path / "x").exists()
    described = [{"id": model, "source": model} for model in models[:2]]
    kept = {"version": 1, "models": described, "weights": [0.5, 0.5], "method": "mixture", "prompts": ["a"], "seeds": [1]}
    (tmp_path / "r.json").write_text(json.dumps(kept))
    code, _, err = run(capsys, "sample", tmp_path / "r.json", "--models", *models[:2], *more, "--out", tmp_path / "x")
    assert code == 1 and word in err


def test_pictures_are_looked_at_before_models(capsys, models, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "load_ensemble", lambda *a, **k: pytest.fail("models were loaded"))
    code, _, err = run(capsys, "fit", "--models", *models[:2], "--images", tmp_path / "nowhere")
    assert code == 1 and "error: " in err
    code, _, err = run(capsys, "compare", "--models", *models[:2], "--target", tmp_path / "nowhere")
    assert code == 1 and "error: " in err
    code, _, err = run(capsys, "train", "--models", *models[:2], "--images", tmp_path / "nowhere", "--out", tmp_path / "t.json")
    assert code == 1 and "error: " in err
    code, _, err = run(capsys, "represent", "--models", *models[:2], "--images", tmp_path / "nowhere", tmp_path / "nowhere", "--out",
                       tmp_path / "r.safetensors")  # fmt: skip
    assert code == 1 and "error: " in err


def test_a_misspelt_catalogue_id_and_a_device_that_is_not_there(capsys, models, pictures, monkeypatch):
    code, _, err = run(capsys, "fit", "--models", models[0], "portraits/nope", "--images", pictures, "--caption", "a cat")
    assert code == 1 and "not in the catalogue" in err and "portraits/harbor" in err
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for device, word in (("cuda", "no cuda device"), ("gpu", "not a device")):
        code, _, err = run(capsys, "fit", "--models", *models[:2], "--images", pictures, "--caption", "a cat", "--device", device)
        assert code == 1 and word in err
