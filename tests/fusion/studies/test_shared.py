"""What every study shares: intervals over seeds, tables, figures, idx files, and the command that runs one."""

import argparse
import csv
import gzip
import inspect
import math
import sys
import types
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from fusion.commands import study
from fusion.evaluation.estimate import Estimate
from fusion.studies import NAMES, STUDIES, tables
from fusion.studies.figures import Panel, draw
from fusion.studies.idx import read_digits, read_idx


def test_the_interval_of_a_mean_is_students():
    found = tables.mean_interval([1.0, 2.0, 3.0])
    assert found.value == 2.0 and found.high - found.value == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    assert tables.mean_interval([5.0]).high == math.inf
    with pytest.raises(ValueError, match="no seed"):
        tables.mean_interval([])


def test_what_the_seeds_cannot_tell_from_the_best():
    errors = {"best": [1.0, 2.0, 3.0], "farther": [2.0, 3.01, 4.0], "close": [1.2, 1.9, 3.1], "short": [9.0, 9.0]}
    rows = [{"method": name, "seed": seed, "error": value} for name, values in errors.items() for seed, value in enumerate(values)]
    assert tables.not_told_apart(rows, "error", "best") == ["close"]  # paired: `farther` always lies 1 farther
    assert tables.not_told_apart([row for row in rows if row["seed"] == 0], "error", "best") == ["farther", "close", "short"]


def test_students_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    drawn = [tables.mean_interval(rng.normal(3.0, 2.0, 3)) for _ in range(1000)]
    assert 0.93 < np.mean([one.low <= 3.0 <= one.high for one in drawn]) < 0.97


def test_rows_are_averaged_over_what_is_not_named():
    rows = [{"n": n, "method": m, "seed": s, "w1": n + s} for n in (32, 64) for m in ("a", "b") for s in (0, 1)]
    found = tables.over_seeds([*rows, {"n": 32, "method": "c"}], ("method", "n"), "w1")
    assert list(found) == [("a", 32), ("b", 32), ("a", 64), ("b", 64)] and found["b", 64].value == 64.5
    text = tables.pivot(found, "method", (32, 64), lambda n: f"n = {n}", digits=1)
    assert text.splitlines()[0] == "| method | n = 32 | n = 64 |" and text.splitlines()[2] == "| a | 32.5 ± 6.4 | 64.5 ± 6.4 |"


def test_figures_are_told_with_their_uncertainty():
    assert tables.told(Estimate(1.0, 0.9, 1.1), 1) == "1.0 ± 0.1" and tables.told(None) == "-"
    assert tables.told(Estimate(1.0, 0.5, 1.1), 1) == "1.0 (0.5 to 1.1)" and tables.told(Estimate(1.0, -math.inf, math.inf), 1) == "1.0"
    assert tables.markdown([{"a": "x|y", "b": None}]) == "| a | b |\n| --- | --- |\n| x\\|y | - |\n"


def test_csv_has_every_column_of_every_row(tmp_path):
    tables.write_csv(tmp_path / "a.csv", [{"n": 1, "w1": 1 / 3}, {"n": 2, "loss": Estimate(1.0, 0.5, 1.5)}])
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert rows[0]["w1"] == "0.333333" and rows[1]["loss high"] == "1.5" and rows[0]["loss"] == ""


def test_a_figure_is_the_same_every_time_and_names_its_curves(tmp_path):
    points = [(32, Estimate(1.0, 0.5, 1.5)), (64, Estimate(0.5, -0.1, 1.1))]
    panels = [Panel("W1", "n", "W1", {"fusion": points, "scratch": [(32, 2.0)]}, {"floor": 0.1}, log_x=True, log_y=True, ticks=(32, 64)),
              Panel("density", "x", "p", {"fusion": [(0, 1.0), (1, 2.0)]}, marks=False)]  # fmt: skip
    for name in ("a.svg", "b.svg", "a.png"):
        draw(tmp_path / name, panels)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    said = "".join(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
    assert all(word in said for word in ("fusion", "scratch", "floor", "density")) and said.count("scratch") == 1
    assert Image.open(tmp_path / "a.png").size[0] > 500
    with pytest.raises(ValueError, match="told apart"):
        draw(tmp_path / "c.svg", [Panel("", "", "", {str(i): points for i in range(9)})])


def idx(values: np.ndarray) -> bytes:
    """The idx file of a uint8 array, written by the format's description."""
    return bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape) + values.astype(np.uint8).tobytes()


def test_idx_files_are_read_gzipped_or_not(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, (5, 28, 28)), np.array([7, 9, 7, 1, 9])
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[:3])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[:3])))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images[3:]))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels[3:]))
    read, said = read_digits(tmp_path)
    assert np.array_equal(read, images) and np.array_equal(said, labels) and read.dtype == np.uint8


def test_bad_idx_files_are_refused_with_a_cure(tmp_path):
    good = idx(np.zeros((2, 3, 3)))
    for content, said in ((b"hello", "not an idx"), (good[:-1], "states 2x3x3"), (b"", "not an idx")):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ValueError, match=said):
            read_idx(tmp_path / "x")
    (tmp_path / "x.gz").write_bytes(gzip.compress(good)[:-9])
    with pytest.raises(ValueError, match="damaged"):
        read_idx(tmp_path / "x.gz")
    for folder, said in ((None, "needs handwritten"), (tmp_path / "none", "no folder"), (tmp_path, "no idx files")):
        with pytest.raises(ValueError, match=said):
            read_digits(folder)
    (tmp_path / "a-images-idx3-ubyte").write_bytes(good)
    with pytest.raises(ValueError, match="beside it"):
        read_digits(tmp_path)


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def made_up(monkeypatch):
    """A study called `made-up` that notes how it was called."""
    module, calls = types.ModuleType("fusion.studies.made_up"), []

    def run(out, work, *, quick, seeds, progress, stop):
        calls.append({"out": out, "work": work, "quick": quick, "seeds": seeds})
        return {"w1": 0.5}

    module.TITLE, module.run = "A made-up study", run
    monkeypatch.setitem(sys.modules, "fusion.studies.made_up", module)
    monkeypatch.setattr(study, "STUDIES", {"made-up": module})
    monkeypatch.setattr(study, "NAMES", ("made-up",))
    return calls


def asked(*args):
    parser = argparse.ArgumentParser()
    study.arguments(parser)
    return study.run(parser.parse_args([str(a) for a in args]), progress=None, stop=lambda: False)


def test_the_command_runs_a_study_and_keeps_quick_results_apart(made_up, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result, text = asked("made-up", "--seeds", 2)
    assert result == {"study": "made-up", "out": "assets/studies/made-up", "stopped": False, "summary": {"w1": 0.5}}
    assert "A made-up study" in text and made_up[0]["seeds"] == 2 and (tmp_path / "assets/studies/made-up").is_dir()
    asked("made-up", "--quick")
    assert made_up[1]["out"] != made_up[0]["out"] and made_up[1]["work"] != made_up[0]["work"] and made_up[1]["quick"]
    asked("made-up", "--out", tmp_path / "o", "--work", tmp_path / "w")
    assert made_up[2]["work"] == tmp_path / "w"  # the page moves to `o` once it is whole


def test_the_command_refuses_what_a_study_cannot_use(made_up, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):  # argparse says why
        asked("made-up", "--seeds", 0)
    with pytest.raises(ValueError, match="leave --data out"):
        asked("made-up", "--data", tmp_path)
    assert not made_up and not list(tmp_path.iterdir())


def test_every_named_study_has_a_title_and_is_called_like_the_others():
    for name in NAMES:
        parameters = inspect.signature(STUDIES[name].run).parameters
        given = {"out", "work", "quick", "seeds", "progress", "stop"}  # what the command passes, beside `data` where it is asked for
        assert STUDIES[name].TITLE and given <= set(parameters), name
        assert all(parameters[extra].default is not inspect.Parameter.empty for extra in set(parameters) - given), name
