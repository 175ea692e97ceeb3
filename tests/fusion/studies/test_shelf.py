"""The shelf of a study: parts are made once, parts of other settings and damaged ones are refused with what to do."""

import numpy as np
import pytest

from fusion.studies.shelf import Shelf


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


def test_a_stopped_study_makes_nothing_more(tmp_path):
    with pytest.raises(RuntimeError, match="stopped before a"):
        Shelf(tmp_path, {}, 1, stop=lambda: True).part("a", lambda: pytest.fail("made"))
