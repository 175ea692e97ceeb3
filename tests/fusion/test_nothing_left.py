"""What is refused or stopped leaves nothing behind: no folder, no file that git would take, no part in place of a whole page."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fusion.cli import main
from fusion.commands import study

OPTIONS = [["--out", "a/b/fit.json"], ["--out", "fit.json", "--work", "c/d"], ["--out", "fit.json", "--gram", "e/f/g.safetensors"]]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_refused_fit_leaves_no_folder(tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    command = ["fit", "--models", "portraits/harbor", "portraits/summit", "--images", "pictures", *options]
    assert main(command) == 1 and "no readable picture" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    (tmp_path / "a" / "b").mkdir(parents=True)  # what was there stays, empty as it is
    assert main(command) == 1
    assert (tmp_path / "a" / "b").is_dir() and {path.name for path in tmp_path.iterdir()} == {"pictures", "a"}


@pytest.mark.parametrize("out", [None, "space"])
def test_a_dry_run_writes_nothing_that_git_would_take(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    git = lambda *words: subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout
    git("init", "-q")
    assert main(["deploy", "cpu-demo", "--dry-run", *(["--out", out] if out else [])]) == 0
    folder = tmp_path / (out or "space-cpu-demo")
    assert (folder / "app.py").is_file()
    assert git("status", "--porcelain", "--untracked-files=all") == ""


class Study:
    TITLE = "A study"

    def __init__(self, stops: list[bool]):
        self.stops, self.text = stops, ""

    def run(self, out: Path, work: Path, *, quick, seeds, progress, stop):
        (out / "pictures").mkdir()
        for name in ("results.csv", "pictures/a.svg", "README.md"):
            (out / name).write_text(self.text)
        if self.stops[0] == "killed":
            raise KeyboardInterrupt
        return {"written": self.text}


def test_a_study_that_is_stopped_or_killed_never_replaces_a_whole_page(tmp_path, monkeypatch):
    made, stops = Study([True]), [True]
    made.stops = stops
    monkeypatch.setattr(study, "STUDIES", {"gaussians": made})
    args = ["study", "gaussians", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    run = lambda: study.run(parsed(args), progress=None, stop=lambda: stops[0] is True)
    out = tmp_path / "out"
    page = lambda: {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*") if path.is_file()}
    names = ("results.csv", "pictures/a.svg", "README.md")
    made.text = "part"
    assert run()[0]["stopped"] and page() == dict.fromkeys(names, "part")  # nothing was there: better a part than none
    made.text, stops[0] = "whole", False
    assert not run()[0]["stopped"] and page() == dict.fromkeys(names, "whole")
    made.text, stops[0] = "second part", True
    run()
    assert page() == dict.fromkeys(names, "whole")
    stops[0] = "killed"
    with pytest.raises(KeyboardInterrupt):
        run()
    assert page() == dict.fromkeys(names, "whole")


def parsed(args):
    from fusion.cli import parser

    return parser().parse_args(args)


def test_a_calibration_draws_with_the_guidance_that_will_be_drawn_with(tiny_ensemble, monkeypatch):
    import fusion.methods.alone as alone
    from fusion.calibration import calibrate

    seen = []

    def drawn(ensemble, plan, index, **_more):
        seen.append(plan.guidance)
        raise RuntimeError("enough")

    monkeypatch.setattr(alone, "draw_alone", drawn)
    together = tiny_ensemble("sd")
    for given in (None, 3.5, 1.0):
        with pytest.raises(RuntimeError, match="enough"):
            calibrate(together, samples=8, prompts=["a dog"], guidance=given)
    assert seen == [together.guidance, 3.5, 1.0] and together.guidance != 1.0


def test_the_page_hands_its_guidance_to_the_calibration(tiny_ensemble, monkeypatch):
    from types import SimpleNamespace

    from fusion.ui import engine, fit, models_section, state

    seen = []
    monkeypatch.setattr(engine, "calibrate", lambda *a, guidance, **k: seen.append(guidance))
    monkeypatch.setattr(models_section, "chosen", lambda session: [])
    monkeypatch.setattr(state.Session, "stale", lambda self: False)
    session = state.Session()
    session.fit, session.plan.guidance = SimpleNamespace(), 4.5
    for _ in fit.run_calibration(session):
        pass
    assert seen == [4.5]
