"""The evidence studies on constructed pictures: true distances, what their pages count, where curves cross, and that drawing resumes."""

import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fusion.methods import METHODS, NAMES, Cost
from fusion.studies import evidence, method_bench, portrait_samples, recommendation, recommendation_report, sample_size, sample_size_report
from fusion.studies.evidence_report import write as write_evidence
from fusion.studies.portrait_evidence import copying, judged, population_lead, share_of_cells
from fusion.studies.portrait_samples import Pictures, prompt_of, routed
from fusion.target import Target
from fusion.transfer import adapting
from fusion.transfer.training import Schedule
from fusion.weights import Weights
from models.catalog import REPOSITORY
from models.portraits.population import MEMBER_POPULATIONS, TARGET_POPULATIONS, total_variation
from tests.fusion import small

MEANS = np.random.default_rng(9).normal(size=(18, 6))


def pictures(population, count: int, seed: int, first: int = 0) -> Pictures:
    """Pictures whose features show their cell: as if a denoiser had read them."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(18, size=count, p=np.ravel(population))
    features, seeds = MEANS[cells] + 0.3 * rng.normal(size=(count, 6)), np.arange(first, first + count)
    return Pictures(np.zeros((count, 8, 8, 3), np.uint8), cells, features, tuple(prompt_of(int(s)) for s in seeds), seeds)


def test_the_lead_is_the_difference_of_distances():
    truth = TARGET_POPULATIONS["valley"]
    near, far = pictures(truth, 400, 0), pictures(MEMBER_POPULATIONS["summit"], 400, 1)
    value, low, high = population_lead(near, far, truth)
    distances = [total_variation(share_of_cells(one), truth) for one in (far, near)]
    assert value == pytest.approx(distances[0] - distances[1]) and 0 < low < value < high
    assert population_lead(far, near, truth)[0] == pytest.approx(-value)
    assert population_lead(near, near, truth) == (0.0, 0.0, 0.0)
    kin = replace(far, kin=np.arange(400) // 8)  # families of 8: what they share by chance does not cancel
    assert np.ptp(population_lead(near, kin, truth)[1:]) > 0.9 * np.ptp(population_lead(near, far, truth)[1:])
    copied = replace(far, cells=far.cells[np.arange(400) // 8 * 8], kin=np.arange(400) // 8)
    blind = replace(copied, kin=None)
    assert np.ptp(population_lead(near, copied, truth)[1:]) > 1.5 * np.ptp(population_lead(near, blind, truth)[1:])
    with pytest.raises(ValueError, match="same seeds"):
        population_lead(near, pictures(truth, 400, 2, first=1), truth)


def test_the_nearest_population_is_recommended_without_seeing_populations():
    truth = TARGET_POPULATIONS["valley"]
    drawn = {"single": pictures(MEMBER_POPULATIONS["harbor"], 256, 0), "uniform": pictures(MEMBER_POPULATIONS["base"], 256, 1),
             "mixture": pictures(truth, 256, 2)}  # fmt: skip
    rows, told = judged(drawn, pictures(truth, 96, 3), truth, {name: Cost(10, 1) for name in drawn})
    assert told.method == "mixture" and told.decided
    assert min(rows, key=lambda row: row.population.value).method == "mixture"


def test_routed_pictures_are_the_members_own():
    pools = [pictures(MEMBER_POPULATIONS[name], 160, k) for k, name in enumerate(("harbor", "summit"))]
    found = routed(pools, np.array([0.75, 0.25]))
    own = [[np.array_equal(found.features[i], pool.features[i]) for i in range(160)] for pool in pools]
    assert np.logical_xor(*own).all() and np.mean(own[0]) == pytest.approx(0.75, abs=0.02)
    assert routed(pools, np.array([0.0, 1.0])).cells.tolist() == pools[1].cells.tolist()


def test_drawn_targets_are_populations_and_repeat():
    kinds = [recommendation.population(number) for number in range(12)]
    assert [kind for kind, _ in kinds[:3]] == list(recommendation.KINDS)
    for number, (_, table) in enumerate(kinds):
        assert table.shape == (3, 6) and table.sum() == pytest.approx(1) and (table > 0).all()
        assert np.array_equal(recommendation.population(number)[1], table)


def draw_of(number, truth, recommended, lead_low, oracle="mixture"):
    far = {"single": 0.4, "mixture": 0.2, "uniform": 0.3, "scorefusion": 0.25}
    return {"number": number, "kind": "mixture", "distance": far, "kid": far, "recommended": recommended, "ties": [], "decided": True,
            "twice": {"recommended": "mixture", "ties": [], "decided": False, "oracle": "uniform"},
            "truth": truth, "as_near": [truth], "second": "uniform", "lead": 0.1, "lead_low": lead_low, "oracle": oracle}  # fmt: skip


def test_the_page_counts_what_was_right_apart_from_draws_that_the_rule_was_revised_with(tmp_path):
    fresh = [draw_of(24, "mixture", "mixture", 0.05), draw_of(25, "mixture", "single", 0.05), draw_of(26, "mixture", "mixture", -0.01)]
    settings = asdict(recommendation.Sizes()) | {"targets": 4, "seen": 24, "methods": ["A", "B"]}
    summary = recommendation_report.write(tmp_path, [*fresh, draw_of(0, "mixture", "uniform", 0.05)], settings)
    found, rule = summary["fresh"], summary["fresh"]["rules"]["recommended"]
    assert (found["clear"], rule["right"], rule["right_clear"]) == (2, 2, 1) and rule["regret"] == pytest.approx(0.2 / 3)
    assert found["rules"]["cautious"] == rule  # here every sentence was certain
    assert recommendation_report.named(fresh[0] | {"decided": False}, "cautious") == "single"
    assert found["rules"]["twice"]["right_clear"] == 2 and found["rules"]["oracle twice"]["right"] == 0
    assert found["decisions twice"]["decided"] == 0 and found["decisions twice"]["right_clear"] == 2
    assert found["rules"]["oracle"]["right"] == 3 and found["rules"]["scorefusion"]["right"] == 0
    counted = {"decided": 3, "true": 2, "draws": 3, "truth_among_ties": 2, "right_clear": 1, "sure_clear": 1}
    assert found["decisions"] == counted  # the single model is not the closest
    assert (summary["draws"], summary["earlier"]["draws"], summary["earlier"]["rules"]["recommended"]["right"]) == (4, 1, 0)
    text = (tmp_path / "README.md").read_text()
    assert "--seeds 4`" in text and "right in the 2 clear draws" in text and "1 (50%, 1% to 99%)" in text
    assert text.index("independent test of it") < text.index("these 24 targets: they are no independent test")
    assert (tmp_path / "right.svg").stat().st_size < 150_000
    assert json.loads((tmp_path / "recommendation.json").read_text())["draws"] == 4
    alone = recommendation_report.write(tmp_path, fresh, settings | {"targets": 3})
    assert "earlier" not in alone and "revised with" not in (tmp_path / "README.md").read_text()


def test_the_committed_page_is_made_of_the_committed_figures_over_enough_fresh_draws(tmp_path):
    folder = REPOSITORY / "assets" / "studies" / "recommendation"
    kept = json.loads((folder / "recommendation.json").read_text())
    summary = recommendation_report.write(tmp_path, kept["targets"], kept["settings"])
    for name in ("README.md", "recommendation.json", "draws.csv"):
        assert (tmp_path / name).read_text() == (folder / name).read_text(), name
    assert kept["settings"]["seen"] == recommendation.SEEN and summary["fresh"]["draws"] >= 20
    assert [row["number"] for row in kept["targets"]] == recommendation.numbers(len(kept["targets"]))
    rules = summary["fresh"]["rules"]
    assert rules["recommended"]["regret"] < 0.5 * min(rules[name]["regret"] for name in ("single", "scorefusion"))


def test_targets_that_no_rule_was_revised_with_are_drawn_first():
    assert recommendation.numbers(20) == list(range(24, 44)) and sorted(recommendation.numbers(50)) == list(range(50))
    assert recommendation.numbers(30)[22:26] == [46, 47, 0, 1]


def test_a_quick_run_writes_its_page_and_goes_on_from_what_is_kept(tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    first = recommendation.run(out, work, quick=True, seeds=1)
    target = json.loads((out / "recommendation.json").read_text())["targets"][0]
    assert set(target["distance"]) == set(recommendation.COMPARED) - {"transfer"}
    assert first["fresh"]["rules"]["scorefusion"]["right"] in (0, 1)
    drawn = {file.name: file.stat().st_mtime_ns for file in work.glob("*.safetensors")}
    assert recommendation.run(out, work, quick=True, seeds=1) == first
    assert {file.name: file.stat().st_mtime_ns for file in work.glob("*.safetensors")} == drawn
    with pytest.raises(ValueError, match="other settings"):
        recommendation.run(out, work, seeds=1)


def test_break_even_lies_where_the_curve_crosses():
    curve = [[4, 0.5, 0, 1], [16, 0.3, 0, 1], [64, 0.22, 0, 1]]
    found = sample_size_report.break_even(curve)
    row = lambda seed, size, value: {"seed": seed, "size": size, "population": {"value": value}}  # noqa: E731
    needed = lambda *rows: sample_size_report._needed([[4, 0.5, 0.4, 0.6], [16, 0.3, 0.2, 0.4]], [row(*r) for r in rows])["0.40"]  # noqa: E731
    assert needed((0, 4, 0.5), (0, 16, 0.3)) == pytest.approx([8, 4, 16])  # one seed: its interval over samples
    assert needed((0, 4, 0.3), (0, 16, 0.3), (1, 4, 0.5), (1, 16, 0.3)) == pytest.approx([8, 4, 8])
    assert needed((0, 4, 0.5), (0, 16, 0.3), (1, 4, 0.5), (1, 16, 0.45), (2, 4, 0.4), (2, 16, 0.3)) == [pytest.approx(8), 4, None]
    assert needed((0, 4, 0.3), (0, 16, 0.3), (1, 4, 0.5), (1, 16, 0.3), (2, 4, 0.3)) == pytest.approx([8, 4, 8])  # stopped in the third
    assert found["0.40"] == pytest.approx(8.0)  # half-way down, half-way in the logarithm
    assert found["0.30"] == pytest.approx(16) and found["0.20"] is None
    assert sample_size_report.break_even([[4, 0.19, 0, 1], [64, 0.1, 0, 1]])["0.20"] == 4
    bumpy = [[4, 0.2, 0, 1], [16, 0.5, 0, 1], [64, 0.3, 0, 1]]  # what is not kept has not been reached
    assert found["0.25"] > 16 and sample_size_report.break_even(bumpy)["0.40"] > 16


def test_sample_size_tells_what_is_saved_from_chance_by_pairs(tmp_path):
    """Over seeds the distances spread far more than what a method saves in each of them."""
    cost = asdict(Cost(10, 1.0))
    rows = [{"seed": seed, "size": size, "method": name, "title": name.title(), "population": figure(0.3 + 0.1 * seed - saved),
             "kid": figure(0.1), "cost": cost, "preparing": 0.0, "recommended": False}
            for seed in range(3) for size in (4, 8) for name, saved in (("single", 0.0), ("mixture", 0.05 + 0.001 * seed))]  # fmt: skip
    settings = {"sizes": [4, 8], "seeds": 3, "samples": 128, "steps": 10, "held_out": 96, "target": "valley", "floor": 0.08,
                "methods": ["single", "mixture"], "complete": True,
                "before": {"calibration": {"evaluations": 1000, "images": 10}, "source phase": None}}  # fmt: skip
    found = sample_size_report.write(tmp_path, rows, settings)
    page = (tmp_path / "README.md").read_text()
    assert found["curves"]["mixture"]["population"][0][2] < 0.2 < 0.3 < found["curves"]["single"]["population"][0][1]
    assert "sample-size --seeds 3`" in page and "0.051 ± 0.002" in page and "would measure 0.080" in page
    one = sample_size_report.write(tmp_path, rows[:4], settings | {"seeds": 1})
    assert one["rows"] == rows[:4] and sample_size_report.SAVED not in (tmp_path / "README.md").read_text()


def test_drawing_goes_on_where_it_was_stopped(tmp_path):
    ensemble, asked = small.ensemble(tmp_path), []

    def draw(plan):
        asked.append(list(plan.seeds))
        return METHODS["uniform"].run(ensemble, None, plan)

    settings, file = {"at_once": 4, "steps": 1}, tmp_path / "x.safetensors"
    assert portrait_samples.samples(ensemble, draw, file, range(8), stop=lambda: len(asked) == 1 and file.is_file(), **settings) is None
    assert len(portrait_samples.load(file)) == 4
    whole = portrait_samples.samples(ensemble, draw, file, range(8), **settings)
    assert len(whole) == 8 and asked[-1] == [4, 5, 6, 7] and whole.prompts[5] == prompt_of(5)
    again = portrait_samples.samples(ensemble, None, file, range(8), **settings)
    assert np.array_equal(again.features, whole.features) and len(again.take(slice(3))) == 3


def test_what_is_saved_by_a_study_that_was_stopped_in_its_second_seed():
    row = lambda seed, size, method, value: {"seed": seed, "size": size, "method": method, "title": method, "population": {"value": value}}  # noqa: E731
    rows = [row(0, 4, "single", 0.5), row(0, 4, "mixture", 0.3), row(0, 8, "single", 0.5), row(0, 8, "mixture", 0.2),
            row(1, 4, "single", 0.6), row(1, 4, "mixture", 0.3)]  # fmt: skip
    saved = sample_size_report._saved(rows)
    assert saved["mixture", 4].value == pytest.approx(0.25) and saved["mixture", 8].value == pytest.approx(0.3)
    assert saved["mixture", 8].high == math.inf


def test_copies_are_counted_over_all_samples_of_a_network_that_was_trained():
    rng = np.random.default_rng(3)

    def some(n):
        return Pictures(rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8), np.zeros(n, int), np.zeros((n, 1)), ("p",) * n, np.arange(n))

    fitted, held = some(4), some(20)
    repeats = replace(some(8), images=np.concatenate([fitted.images, some(4).images]))
    encode = lambda images: torch.stack([torch.from_numpy(np.asarray(image).astype(np.float32)) for image in images])  # noqa: E731
    drawn = {"transfer": [repeats, repeats], "mixture": [repeats], "finetune": [some(8)]}
    found = copying(SimpleNamespace(encode=encode), drawn, fitted, held)
    assert list(found) == ["transfer"] and found["transfer"] < 0.01


def figure(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "floor": None}


def test_the_evidence_page_holds_every_method_with_both_intervals(tmp_path):
    rng = np.random.default_rng(0)
    cells = lambda name: np.bincount(rng.choice(18, 64, p=TARGET_POPULATIONS[name].ravel()), minlength=18).tolist()  # noqa: E731
    results = []
    for target in ("valley", "coast"):
        for seed in range(3):
            rows = [{"method": name, "title": name.title(), "cost": asdict(Cost(10, 1.0)),
                     "seconds": 0.1 if seed else None, "preparing": 0.0, "effective": 64.0,
                     "copied": 0.004 if name == "single" else None, "training": "", "cells": cells(target),
                     **{f: figure(0.2 + seed / 100) for f in ("kid", "features", "population", "diversity", "copies", "loss", "gain")}}
                    for name in ("single", "mixture")]  # fmt: skip
            results.append({"target": target, "seed": seed, "rows": rows, "problems": {"matched": "no calibration"}, "fit": {},
                            "alone": {"harbor": [4] * 18, "exact": np.round(10_000 * TARGET_POPULATIONS[target].ravel()).tolist()},
                            "recommendation": {"method": "mixture", "sentence": f"Recommended {seed}."}})  # fmt: skip
    settings = {"samples": 64, "seeds": 3, "steps": 2, "fitted": 12, "held_out": 48, "residual": 4, "methods": ["single"], "complete": True}
    pooled = {"mixture": figure(0.2), "single": figure(0.3)}
    told = {"method": "mixture", "sentence": "Recommended: all.", "details": ["Sure."]}
    both = {"recommendation": told, "kid": pooled, "diversity": pooled}
    summary = write_evidence(tmp_path, results, {"valley": both, "coast": both}, settings)
    text, row = (tmp_path / "README.md").read_text(), summary["targets"]["valley"]["rows"][0]
    assert row["method"] == "mixture" and row["figures"]["kid"]["value"] == 0.2  # of all seeds together
    assert row["figures"]["kid"]["samples"] == pytest.approx([0.1, 0.3]) and row["figures"]["loss"]["value"] == pytest.approx(0.21)
    assert "**All seeds together.** Recommended: all. Sure.\n" in text and summary["targets"]["valley"]["recommendation"] == told
    assert row["figures"]["kid"]["seeds"][1] - 0.21 == pytest.approx(4.302653 * 0.01 / np.sqrt(3), abs=1e-5)
    assert row["figures"]["population"]["samples"][0] <= row["figures"]["population"]["value"] <= row["figures"]["population"]["samples"][1]
    alone = summary["targets"]["valley"]["alone"]
    assert list(alone) == ["exact", "harbor"] and alone["exact"][0] < 0.001 < 0.1 < alone["harbor"][1]
    assert "takes to be nearest: exact 0.000" in text and "of 3 seeds alone recommend it.\n\nEach model alone" in text
    assert "Seed 2 alone: Recommended 2." in text and "0.210 ± 0.025 [0.110 to 0.310]" in text
    assert "of Single: It repeats images it was fitted to: fresh images of the target show so many with probability 0.004." in text
    assert "; not told from it by these seeds: " in text or summary["targets"]["valley"]["not_told_apart"] == []
    assert "Not told from 0" not in text and "Effective images" not in text and row["figures"]["population"]["floor"] < 0.12
    assert "matched: no calibration" in text and "## coast" in text and (tmp_path / "population.svg").stat().st_size < 150_000
    assert len((tmp_path / "evidence.csv").read_text().splitlines()) == 5 and json.loads((tmp_path / "evidence.json").read_text())


def test_what_a_method_prepares_is_found_once_and_kept(tmp_path, monkeypatch):
    ensemble, made = small.ensemble(tmp_path / "models"), []
    fit = replace(small.fit(ensemble), target=Target(small.pictures(6, 9, 40), [small.PROMPTS[i % 3] for i in range(6)]))
    weights = Weights(np.array([0.2, 0.5, 0.3]), np.array([[0.0, 1.0]] * 3), fit.gram.names, "matched")
    record = small.trained(ensemble, "finetune")

    def prepare(found):
        return lambda *_: made.append(found) or replace(fit, **found)

    methods = {"matched": replace(METHODS["matched"], prepare=prepare({"matched": weights})),
               "finetune": replace(METHODS["finetune"], prepare=prepare({"trained": {"finetune": record}})),
               "uniform": METHODS["uniform"]}  # fmt: skip
    monkeypatch.setattr(method_bench, "METHODS", methods)
    bench = method_bench.Bench(ensemble, "x", None, None, tmp_path, 4, 1)
    monkeypatch.setattr(bench, "fit", lambda seed: fit)
    for _ in range(2):
        assert np.array_equal(bench.prepared("matched", fit)[0].matched.values, weights.values)
        kept = bench.prepared("finetune", fit)[0].trained["finetune"]
        assert kept.sha256 == record.sha256 and bench.prepared("uniform", fit) == (fit, 0.0)
    assert len(made) == 2
    # drawn with what was prepared, and noted with the weights that were applied
    pictures, told = bench.cell("matched", 1)
    assert len(pictures) == 4 and pictures.seeds.tolist() == [4, 5, 6, 7] and told["cost"]["evaluations"] > 0
    assert method_bench.applied(told, fit.gram.names).values == pytest.approx(weights.values)
    assert len(bench.cell("finetune", 0)[0]) == 4 and len(made) == 2


def test_a_training_that_was_stopped_is_not_kept_for_the_whole(tmp_path, monkeypatch):
    ensemble, asked = small.ensemble(tmp_path / "models"), []
    monkeypatch.setattr(adapting, "SCHEDULE", Schedule(steps=4, batch=4, rate=3e-2, every=1, patience=None, warmup=1, average_over=1))
    alike = Target([small.pictures(1, 3)[0]] * 8, ["a cat"] * 8)
    fit = replace(small.fit(ensemble), target=alike)
    (work := tmp_path / "work").mkdir()
    bench = method_bench.Bench(ensemble, "x", None, None, work, 4, 1)
    monkeypatch.setattr(bench, "fit", lambda seed: fit)
    assert bench.cell("finetune", 0, lambda: (asked.append(1), len(asked) > 3)[1]) is None and not list(work.iterdir())
    assert len(bench.cell("finetune", 0)[0]) == 4
    course = bench.trained("finetune", fit).course
    assert course.steps == 4 and not course.stopped
    (file := work / "x-finetune.trained").write_bytes(b"cut")
    with pytest.raises(ValueError, match="x-finetune.trained is damaged.*delete it"):
        bench.trained("finetune", fit)
    file.unlink()
    assert bench.trained("finetune", fit).course.steps == 4 and file.is_file()


def test_a_quick_run_writes_its_page_and_resumes(tmp_path):
    told = []
    methods = ("single", "mixture")
    first = evidence.run(tmp_path / "out", tmp_path / "work", quick=True, methods=methods, progress=lambda *a: told.append(a))
    both = {row["method"]: row["figures"]["kid"] for row in first["targets"]["valley"]["rows"]}
    assert first["targets"]["valley"]["recommendation"]["value"] == both[first["targets"]["valley"]["recommendation"]["method"]]["value"]
    assert told and first["settings"]["complete"] and {row["method"] for row in first["targets"]["valley"]["rows"]} == set(methods)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").iterdir()}
    assert evidence.run(tmp_path / "out", tmp_path / "work", quick=True, methods=methods) == first
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "work").iterdir()}
    assert set(methods) <= set(NAMES)


def test_a_study_stopped_before_there_was_anything_leaves_what_is_there(tmp_path):
    for study, name in ((evidence, "evidence.json"), (sample_size, "sample-size.json")):
        (out := tmp_path / name).mkdir()
        (out / name).write_text("kept")
        study.run(out, tmp_path / f"{name}.work", quick=True, stop=lambda: True, methods=("single", "uniform"))
        assert [file.name for file in out.iterdir()] == [name] and (out / name).read_text() == "kept"
    assert (sample_size.SIZES, evidence.SEEDS) == ((4, 8, 16, 32, 64), 3)


def test_a_quick_sample_size_curve(tmp_path):
    found = sample_size.run(tmp_path / "out", tmp_path / "work", quick=True, methods=("single", "uniform"))
    assert found["settings"]["complete"] and [point[0] for point in found["curves"]["uniform"]["population"]] == [3, 4]
    assert found["curves"]["uniform"]["population"][0][1:] == found["curves"]["uniform"]["population"][1][1:]  # it looks at no target
    assert "Images needed for a quality" in (tmp_path / "out" / "README.md").read_text()
