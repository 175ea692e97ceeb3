"""The shelf of a study: parts are made once, parts of other settings and damaged ones are refused with what to do."""

import numpy as np
import pytest

from fusion.studies import portrait_samples
from fusion.studies.shelf import Shelf, keep, kept


def test_a_part_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(6.0).reshape(2, 3).T}

    first, again = (Shelf(tmp_path, {"seeds": 2}, 1).part("a", make)["x"] for _ in range(2))
    assert made == [1] and np.array_equal(first, np.arange(6.0).reshape(2, 3).T) and np.array_equal(first, again)


def test_parts_of_other_settings_and_damaged_parts_are_refused(tmp_path):
    Shelf(tmp_path, {"seeds": 2}, 1).part("a", lambda: {"x": np.ones(3)})
    with pytest.raises(ValueError, match="other settings.*give another --work"):
        Shelf(tmp_path, {"seeds": 3}, 1)
    (tmp_path / "a.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="a.safetensors is damaged.*delete it"):
        Shelf(tmp_path, {"seeds": 2}, 1).part("a", lambda: pytest.fail("it is there"))


def test_what_is_kept_is_whole_or_refused_by_name(tmp_path):
    keep(tmp_path / "a.json", {"x": [1, 2]})
    assert kept(tmp_path / "a.json") == {"x": [1, 2]} and [file.name for file in tmp_path.iterdir()] == ["a.json"]
    (tmp_path / "a.json").write_text('{"x": [1')
    with pytest.raises(ValueError, match="a.json is damaged.*delete it"):
        kept(tmp_path / "a.json")
    (tmp_path / "p.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="p.safetensors is damaged.*delete it"):
        portrait_samples.load(tmp_path / "p.safetensors")


def test_a_stopped_study_makes_nothing_more(tmp_path):
    with pytest.raises(RuntimeError, match="stopped before a"):
        Shelf(tmp_path, {}, 1, stop=lambda: True).part("a", lambda: pytest.fail("made"))
