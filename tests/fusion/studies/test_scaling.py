"""The cost study: its model finds known constants, its counts are those of a real run, and the whole of it runs at its quick size."""

import json

import numpy as np
import pytest
import torch

from fusion.objective import residual_gram
from fusion.parallel import Team
from fusion.studies import scaling
from tests.fusion.world import Path

KNOWN = {"network": np.array([0.01]), "encode": np.array([0.02]), "algebra": np.array([5e-4, 2e-5, 3e-6])}


def test_the_model_finds_the_constants_that_made_the_figures():
    points = [scaling.Fit(*values) for values in scaling.Size().fits]
    found = scaling.fitted([(point, scaling.predicted(KNOWN, point)) for point in points])
    for part, constants in KNOWN.items():
        np.testing.assert_allclose(found[part], constants, rtol=1e-5)


@pytest.mark.parametrize("point", [scaling.Fit(2, 7, 3, 1), scaling.Fit(3, 5, 4, 3), scaling.Fit(2, 4, 2, 8)])
def test_the_counts_are_those_of_the_busiest_process(point):
    """Counted in the loop that does the work, with batches of 4 copies."""
    x0, edges = torch.randn(point.n, 2, dtype=torch.float64), torch.linspace(-4, 6, point.l + 1, dtype=torch.float64)

    class Deaf(Team):  # one of a team, without the others
        def total(self, *arrays):
            return list(arrays)

        def most(self, number):
            return point.k

    def share(rank: int) -> int:
        asked = []

        def predict(x, level):
            asked.append(len(x))
            return torch.zeros(point.k, *x.shape, dtype=x.dtype)

        try:
            residual_gram(predict, x0, Path(), edges, batch_size=4, team=Deaf(rank, point.p), seeds=range(point.n))
        except RuntimeError as error:  # its own part alone finishes no image
            assert "nothing was measured" in str(error)
        return sum(asked)

    shares = [share(rank) for rank in range(point.p)]
    assert sum(shares) * point.k == point.evaluations
    assert max(shares) * point.k == scaling.work_of(point, batch=4)["network"][0]


def test_the_study_runs_writes_its_page_and_goes_on(tmp_path):
    steps = []
    settings = dict(quick=True, seeds=1, stop=None)
    summary = scaling.run(tmp_path / "out", tmp_path / "work", progress=lambda *step: steps.append(step), **settings)
    page = (tmp_path / "out" / "README.md").read_text()
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text()) and summary["largest_error"] < 3
    assert "| 2 | 4 | 4 | 2 | 64 |" in page and "nan" not in page and steps[-1][0] == steps[-1][1] == 7
    assert (tmp_path / "out" / "scaling.svg").stat().st_size < 150_000
    again = scaling.run(tmp_path / "again", tmp_path / "work", progress=None, **settings)  # nothing is measured twice
    assert again == summary and (tmp_path / "again" / "README.md").read_text() == page
    stopped = scaling.run(tmp_path / "never", tmp_path / "new", quick=True, seeds=1, progress=None, stop=lambda: True)
    assert stopped == {"stopped": True} and not (tmp_path / "never").exists()
