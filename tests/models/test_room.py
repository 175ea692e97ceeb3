"""A full disk: what is needed and what there is, in the right unit, wherever something is written."""

from __future__ import annotations

import errno
import os
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.calibration import Calibration
from fusion.cli import main
from fusion.kept import Kept
from fusion.objective import ResidualGram
from models import room

USAGE = namedtuple("usage", "total used free")


@pytest.mark.parametrize("size,said", [(0, "0 bytes"), (1, "1 bytes"), (999, "999 bytes"), (1000, "1.0 KB"), (43_210, "43 KB"),
                                       (999_600, "1.0 MB"), (5_368_709, "5.4 MB"), (268e6, "268 MB"),
                                       (3.44e9, "3.4 GB"), (2.5e15, "2500 TB")])  # fmt: skip
def test_amounts_have_a_unit_in_which_they_say_something(size, said):
    assert room.amount(size) == said


def gram() -> ResidualGram:
    return ResidualGram(plain=np.ones((1, 2, 2, 2)), smooth=None, levels=np.zeros((1, 2, 1)), strata=np.arange(3.0), names=("a", "b"),
                        level_weights={"simple": np.ones(2) / 2}, prompts=("",), evaluations=1, dimensions=4, draws=1)  # fmt: skip


@pytest.fixture
def full(monkeypatch):
    """A disk with 1.5 MB that no file fits on, as Python, safetensors and Pillow tell it."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: USAGE(10**9, 10**9 - 1_500_000, 1_500_000))

    def no_room(*arguments, **settings):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_room_in_rust(*arguments, **settings):
        from safetensors import SafetensorError

        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    for module in ("gram", "calibration_record", "kept"):
        monkeypatch.setattr(f"fusion.{module}.save_file", no_room_in_rust)
    monkeypatch.setattr(Path, "write_bytes", no_room)
    monkeypatch.setattr(Path, "write_text", no_room)
    monkeypatch.setattr(Image.Image, "save", no_room)


def test_every_file_that_is_written_says_what_it_needs_and_what_there_is(full, tmp_path, tiny_ensemble):
    from fusion.methods import SamplingPlan
    from fusion.recipe import Recipe
    from fusion.transfer.representation import Representation

    kept = Kept(tmp_path / "kept", seconds=1e9)
    kept.put("shelf", {"x": np.zeros(10**6)})
    calibration = Calibration(("a", "b"), np.ones((16, 2, 2, 2)), np.repeat([0, 1], 8), np.arange(3.0), 1)
    recipe = Recipe.of(tiny_ensemble("sd"), "uniform", SamplingPlan(["a dog"], [0], steps=2), np.ones(2) / 2)
    image = Image.new("RGB", (1000, 1000))
    representation = type("Bytes", (), {"to_bytes": lambda self: b"x" * 2_000_000})()
    writers = {gram().save: "bytes", calibration.save: "KB", recipe.save: "KB|bytes",
               (lambda path: recipe.save_png(image, path)): "3.0 MB", (lambda path: kept.flush()): "4.0 MB",
               (lambda path: Representation.save(representation, path)): "2.0 MB"}  # fmt: skip
    for write, needed in writers.items():
        with pytest.raises(room.DiskFull, match=rf"the disk is full: .* needs .*({needed}), and there is room for 1\.5 MB: make room"):
            write(tmp_path / "file.safetensors")


def test_other_errors_and_the_half_that_was_written(tmp_path):
    half = tmp_path / "half"
    with pytest.raises(PermissionError), room.writing(half):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(room.DiskFull, match="needs 7 bytes"), room.writing(half, 7):
        half.write_bytes(b"abc")
        raise OSError(errno.EDQUOT, "quota")
    assert not half.exists()
    room.require(tmp_path / "not" / "yet" / "there", 1)
    with pytest.raises(room.DiskFull, match="TB"):
        room.require(tmp_path / "not" / "yet", 10**18)


def test_a_command_says_it_in_one_line(monkeypatch, capsys, tmp_path):
    for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x.png")), room.full(tmp_path / "x.png", 5_000_000)):
        def run(args, *, progress, stop, error=error):
            raise error

        monkeypatch.setattr("fusion.commands.details.run", run)
        assert main(["details", "x"]) == 1
        said = capsys.readouterr().err
        assert "error: the disk is full" in said and "Errno" not in said and "x.png" in said and "there is room for" in said


def test_the_page_says_it_in_both_languages(monkeypatch):
    from fusion.ui import events, state, troubles

    session = state.Session()
    for error in (OSError(errno.ENOSPC, "No space left on device"), room.full("x.png", 5_000_000)):
        session.language = "en"
        assert "the disk is full" in troubles.explain(session, error)
        session.language = "ja"
        assert "ディスクがいっぱい" in troubles.explain(session, error)

    def take(session, files):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fusion.ui.uploads.take", take)
    events.on_upload(session, ["a.png"])
    assert "ディスクがいっぱい" in session.notes["target"][0][1]
