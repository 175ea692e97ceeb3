"""The portraits study on constructed pictures, whose shares and distances are known, and once through tiny models."""

import csv

import numpy as np
import pytest

from fusion.methods.barycenter import prompt_groups, side_by_side
from fusion.studies import portraits, portraits_report
from fusion.studies.portrait_samples import BATCH, Pictures, prompt_of
from models.portraits.population import MEMBER_POPULATIONS
from tests.fusion import small


def pictures(population, count: int, seed: int = 0, scale: float = 1.0) -> Pictures:
    rng = np.random.default_rng(seed)
    cells = rng.choice(18, size=count, p=np.ravel(population))
    images = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    return Pictures(images, cells, scale * rng.normal(size=(count, 6)), tuple(prompt_of(s) for s in range(count)), np.arange(count))


def test_the_figures_of_a_perfect_sampler():
    truth = portraits_report.populations(0.5)
    found = portraits_report.measured(pictures(truth["geometric"], 3200, scale=2.0), 0.5)
    men = truth["geometric"].reshape(3, 6)[0].sum()
    assert found["man"].low < men < found["man"].high and found["man"].high - found["man"].low < 0.05
    near, far = found["distance to geometric"], found["distance to arithmetic"]
    assert near.value < 2 * near.floor and far.value > near.value + 0.03  # they are different populations
    assert found["spread"].value == pytest.approx(2 * np.sqrt(6), rel=0.03)  # six features of deviation 2
    assert found["man"].value + found["woman"].value + found["person"].value == pytest.approx(1)


def test_spreads_are_compared_seed_by_seed():
    truth = portraits_report.populations(0.5)["geometric"]
    near, far = pictures(truth, 400), pictures(truth, 400, scale=1.03)  # the same pictures, 3 % wider
    found = portraits_report.wider(far, near)
    assert found.value == pytest.approx(0.03) and found.low == pytest.approx(0.03) and found.high == pytest.approx(0.03)
    assert "as published (+3.0%" in portraits_report._wider(found)
    other = portraits_report.wider(pictures(truth, 400, seed=1), near)
    assert other.low < 0 < other.high and "not told apart" in portraits_report._wider(other)
    with pytest.raises(ValueError, match="same seeds"):
        portraits_report.wider(near, near.take(slice(5)))


def test_the_ends_of_the_sweep_are_the_members():
    for end, name in ((0.0, "harbor"), (1.0, "summit")):
        for truth in portraits_report.populations(end).values():
            np.testing.assert_allclose(truth, MEMBER_POPULATIONS[name].ravel())


def test_images_that_go_together_count_less():
    drawn = pictures(portraits_report.populations(0.5)["geometric"], 320)
    for start in range(0, 320, 8):  # eight copies of everything
        drawn.cells[start : start + 8] = drawn.cells[start]
    widths = [np.subtract(*(getattr(portraits_report.measured(drawn, 0.5, groups)["man"], end) for end in ("high", "low")))
              for groups in (None, np.arange(320) // 8)]  # fmt: skip
    assert widths[1] > 2 * widths[0]


def test_companies_are_the_groups_that_the_method_resamples():
    count = 200
    found = portraits.companies(count)
    order = side_by_side([(prompt_of(seed), seed) for seed in range(count)])
    for start in range(0, count, BATCH):
        batch = order[start : start + BATCH]
        for group in prompt_groups(batch):
            assert len({found[batch[i][1]] for i in group.tolist()}) == 1
    assert len(set(found)) == sum(len(prompt_groups(order[start : start + BATCH])) for start in range(0, count, BATCH))


def test_the_page_holds_every_table_and_the_published_figures(tmp_path):
    size = portraits.Size()
    points = {(method, share): pictures(portraits_report.populations(share)["geometric"], 64, seed=int(100 * share))
              for method in portraits.SWEPT for share in size.shares}  # fmt: skip
    points["noisy", 0.5] = points["barycenter", 0.5]
    summary = portraits_report.write(tmp_path, points, size, 64)
    page = (tmp_path / "README.md").read_text()
    assert "0.979" in page and "published 0.600" in page and "study portraits" in page and "nan" not in page
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert len(rows) == 4 * 7 and float(rows[3]["man"]) == pytest.approx(summary["scorefusion 0.5"]["man"], abs=1e-5)
    assert all((tmp_path / name).stat().st_size < 150_000 for name in ("sweep.svg", "images.png"))


def test_tiny_models_are_swept_resumed_and_stopped(tmp_path):
    ensemble = small.ensemble(tmp_path / "models").subset([0, 1])
    size, seen = portraits.Size(samples=4, steps=2, shares=(0.0, 0.5, 1.0)), []
    assert portraits.pictures(ensemble, tmp_path / "stopped", size, 4, stop=lambda: True) is None
    points = portraits.pictures(ensemble, tmp_path / "work", size, 4, lambda *report: seen.append(report))
    assert set(points) == {(m, share) for m in portraits.SWEPT for share in size.shares} | {("noisy", 0.5)}
    assert len(points["merge", 0.5]) == 4
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen) and seen[-1][0] == seen[-1][1]
    again = portraits.pictures(ensemble, tmp_path / "work", size, 4, stop=lambda: True)  # nothing is left to draw
    assert all(np.array_equal(one.images, again[key].images) for key, one in points.items())
    assert points["scorefusion", 0.0] is points["barycenter", 0.0]
