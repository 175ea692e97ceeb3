"""Evidence: losses against direct sums, intervals that cover, distances near their floor for perfect samplers, whole reports."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fusion.evaluation import Estimate, Recommendation, Report, Row, compare, weigh
from fusion.evaluation.columns import remarks
from fusion.evaluation.denoiser_features import through_autoencoder
from fusion.evaluation.estimate import bootstrap_mean
from fusion.evaluation.features import distance_of_means
from fusion.evaluation.loss import held_out_gain, held_out_loss, image_losses
from fusion.evaluation.population import distance_of_counts, is_countable
from fusion.methods import METHODS, Cost, MethodError, Sample
from fusion.target import Target
from fusion.weights import Weights
from models.portraits import probe
from models.portraits.population import CELLS, MEMBER_POPULATIONS, Portrait, total_variation
from tests.fusion import small


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return small.ensemble(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def fit(ensemble):
    return small.fit(ensemble)


@pytest.fixture(scope="module")
def held_out(ensemble):
    return small.gram(ensemble, small.pictures(4, 77, 40), seed=5)


# ------------------------------------------------------------------------------------------------ loss

def test_losses_are_the_quadratic_forms_written_out(held_out):
    w = np.array([0.2, 0.5, 0.3])
    omega = held_out.level_weights["simple"]
    for smooth, rows in ((False, held_out.plain), (True, held_out.smooth)):
        for n, loss in enumerate(image_losses(held_out, w, smooth=smooth)):
            direct = sum(omega[t] * w[i] * w[j] * rows[n, t, i, j] for t in range(4) for i in range(3) for j in range(3))
            assert loss == pytest.approx(direct, rel=1e-12)
    routed = image_losses(held_out, w, routed=True)
    assert routed == pytest.approx(sum(w[k] * image_losses(held_out, np.eye(3)[k]) for k in range(3)), rel=1e-12)
    assert (routed >= image_losses(held_out, w) - 1e-12).all()  # Jensen: averaging predictions never loses more than averaging losses


def test_losses_by_level_use_each_levels_weights(held_out):
    rows = np.eye(3)[[0, 1, 2, 1]]
    loss = image_losses(held_out, Weights(rows, None, held_out.names, "test", held_out.strata))
    omega = held_out.level_weights["simple"]
    assert loss == pytest.approx(sum(omega[t] * held_out.plain[:, t, k, k] for t, k in enumerate([0, 1, 2, 1])), rel=1e-12)


def test_gain_is_zero_against_oneself_and_signed(held_out):
    w, best = np.array([0.4, 0.3, 0.3]), np.eye(3)[0]
    assert held_out_gain(held_out, w, w).value == 0.0
    one, other = held_out_gain(held_out, w, best), held_out_gain(held_out, best, w)
    assert one.value == pytest.approx(-other.value) and one.low <= one.value <= one.high
    assert held_out_loss(held_out, w).value == pytest.approx(image_losses(held_out, w).mean())


def test_bootstrap_interval_covers_the_mean():
    rng = np.random.default_rng(0)
    inside = [e.low <= 0 <= e.high for e in (bootstrap_mean(rng.normal(size=40), draws=400, seed=i) for i in range(200))]
    assert 0.88 <= np.mean(inside) <= 0.99
    assert bootstrap_mean(np.array([2.0])).low == -np.inf


# ------------------------------------------------------------------------------------------------ population

def test_a_perfect_sampler_measures_the_floor_and_its_interval_reaches_below(monkeypatch):
    rng, truth = np.random.default_rng(1), MEMBER_POPULATIONS["harbor"]
    found = [distance_of_counts(rng.multinomial(100, truth.ravel()), truth, known=True, draws=300, seed=i) for i in range(60)]
    assert np.mean([e.value for e in found]) == pytest.approx(np.mean([e.floor for e in found]), rel=0.05)
    assert all(e.low <= e.value <= e.high for e in found) and np.mean([e.low < 0.5 * e.floor for e in found]) > 0.9


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("number", "share"), [(16, 0.0), (16, 0.2), (32, 0.5), (400, 0.1), (400, 1.0)])
def test_intervals_cover_a_true_distance(number, share, known):
    """Also a small one that few images blur: the measured distance then lies far above the true one."""
    rng = np.random.default_rng(2)
    q, other = MEMBER_POPULATIONS["summit"], MEMBER_POPULATIONS["harbor"]
    p = q + share * (other - q)
    true, covered = total_variation(p, q), 0
    for seed in range(40):
        target = q if known else rng.multinomial(200, q.ravel())
        found = distance_of_counts(rng.multinomial(number, p.ravel()), target, known=known, draws=200, seed=seed)
        covered += found.low - 1e-9 <= true <= found.high + 1e-9
    assert covered >= (34 if known or share < 1 else 28)  # the chance of the far target's own images is only partly in


def test_images_of_one_family_make_the_interval_wider_and_the_floor_higher():
    counts, truth = np.array([16] * 8 + [0] * 10), MEMBER_POPULATIONS["harbor"]
    apart, kin = (distance_of_counts(counts, truth, known=True, effective=n) for n in (None, 16.0))
    assert apart.value == kin.value and kin.high - kin.low > 1.5 * (apart.high - apart.low) and kin.floor > 2 * apart.floor


def test_a_distance_below_what_chance_alone_gives_may_be_none():
    found = distance_of_counts(np.full(18, 2), np.full(18, 1 / 18), known=True)
    lucky = distance_of_counts(np.array([3, 1] + [2] * 16), np.full(18, 1 / 18), known=True)
    assert found.value == found.low == 0.0 and lucky.low == 0.0 < lucky.value <= lucky.high < lucky.floor


def test_a_sampled_target_has_a_higher_floor_than_a_known_one():
    counts = np.full(18, 4)
    known = distance_of_counts(counts, np.full((3, 6), 1 / 18), known=True)
    sampled = distance_of_counts(counts, np.full(18, 2), known=False)
    assert known.value == sampled.value == 0.0 and sampled.floor > known.floor > 0


def test_countable_only_with_stated_populations(ensemble):
    assert is_countable(ensemble.cards) and not is_countable([replace(ensemble.cards[0], population=None)])


# ------------------------------------------------------------------------------------------------ features

def test_equal_populations_measure_chance_and_others_their_distance():
    rng = np.random.default_rng(3)
    same = [distance_of_means(rng.normal(size=(40, 3)), rng.normal(size=(30, 3)), draws=200, seed=i) for i in range(40)]
    assert np.mean([e.value for e in same]) == pytest.approx(np.mean([e.floor for e in same]), rel=0.15)
    far = distance_of_means(rng.normal(size=(400, 3)) + [2, 0, 0], rng.normal(size=(400, 3)))
    assert far.low < 2.0 < far.high and far.low > 10 * far.floor / 5


@pytest.mark.parametrize("apart", [0.0, 0.2, 1.0])
def test_the_interval_of_a_distance_of_means_covers_the_true_one(apart):
    """A reflected bootstrap, for comparison, covers 0 in 55 % of such draws: chance in eight directions measures as distance."""
    rng, way = np.random.default_rng(5), apart * np.eye(8)[0]
    found = [distance_of_means(rng.normal(size=(32, 8)) + way, rng.normal(size=(12, 8)), draws=200, seed=i) for i in range(150)]
    assert np.mean([e.low <= apart <= e.high for e in found]) >= 0.86


# ------------------------------------------------------------------------------------------------ compare

@pytest.fixture(scope="module")
def report(ensemble, fit, held_out, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        rng = np.random.default_rng(0)
        patch.setattr(probe, "read", lambda images: [Portrait(*CELLS[rng.integers(18)], "cook") for _ in images])
        seen = []
        made = compare(
            ensemble, ["single", "uniform", "scorefusion", "mixture"], small.PROMPTS, [1, 2, 3], fit=fit, held_out=held_out,
            target=MEMBER_POPULATIONS["harbor"], pictures=Target(tuple(small.pictures(4, 77, 40)), small.PROMPTS[:1] * 4), steps=2,
            on_sample=seen.append, progress=lambda *a: None,
        )  # fmt: skip
    assert len(seen) == 12
    return made


def test_compare_weighs_every_method_on_the_same_jobs(report, ensemble, held_out):
    assert [row.method for row in report.rows] == ["single", "uniform", "scorefusion", "mixture"]
    for row in report.rows:
        assert sorted((s.prompt, s.seed) for s in row.samples) == sorted(zip(small.PROMPTS, [1, 2, 3]))
        assert None not in (row.loss, row.gain, row.population, row.features, row.kid, row.diversity, row.cost)
        assert row.problem == "" and row.seconds > 0
    assert report.row("single").gain.value == 0.0
    assert report.row("uniform").loss.value == pytest.approx(image_losses(held_out, np.full(3, 1 / 3)).mean())
    assert report.row("mixture").cost.evaluations == 2 and report.row("uniform").cost.evaluations == 6


def test_compare_says_why_a_method_did_not_run(ensemble, fit):
    made = compare(ensemble, ["uniform", "matched", "single"], ["a cat"], [0], fit=replace(fit, calibrated=None), steps=1)
    assert "calibration" in made.row("matched").problem and len(made.row("uniform").samples) == 1
    assert "no method is recommended" in made.verdict and "calibration" in made.to_html()


def test_a_comparison_that_could_tell_nothing_is_refused_before_it_draws(ensemble, fit, held_out):
    drawn = []
    settings = {"fit": fit, "held_out": held_out, "steps": 1, "on_sample": drawn.append}
    with pytest.raises(ValueError, match="a seed of its own"):
        compare(ensemble, ["single", "uniform"], ["a cat"] * 4, [1] * 4, **settings)
    with pytest.raises(ValueError, match="the same picture"):
        compare(ensemble, ["single", "uniform"], ["a cat"] * 4, range(4), target=small.pictures(1) * 5, **settings)
    with pytest.raises(MethodError, match="multiples of"):
        compare(ensemble, ["single", "uniform"], ["a cat"] * 4, range(4), height=101, **settings)
    assert not drawn


def test_what_samples_say_of_themselves_reaches_every_form_of_the_report(ensemble, fit, held_out):
    pictures = Target(tuple(small.pictures(4, 77, 40)), ("a cat",) * 4)
    made = compare(ensemble, ["uniform", "barycenter"], small.PROMPTS, [1, 2, 3], fit=fit, held_out=held_out, pictures=pictures, steps=2)
    assert made.recommendation.uncorrected == ("barycenter",) and made.recommendation.method != "barycenter"
    row, text = made.row("barycenter"), "3 of 3 samples: alone with its prompt in its batch: not corrected"
    assert row.effective == 3 and text in row.notes["effective"] and "effective" not in made.row("uniform").notes
    assert text in made.to_text() and text in made.to_html() and made.to_dict()["rows"][1]["notes"]["effective"] == text
    assert "Effective images (images): How many independent" in made.to_text() and made.to_dict()["rows"][1]["effective"] == 3
    assert "Effective images" not in compare(ensemble, ["uniform"], small.PROMPTS, [1], fit=fit, steps=1).to_text()


def test_a_trained_method_that_repeats_fitted_images_is_left_out(ensemble, fit):
    row = compare(ensemble, ["uniform"], "a cat", range(8), fit=fit, steps=1).rows[0]
    fitted, held = (Target(tuple(small.pictures(8, seed)), ("a cat",) * 8) for seed in (5, 77))
    seen = through_autoencoder(ensemble, fitted.images)  # as a network that learned them by heart would draw them
    repeats = tuple(replace(sample, image=image) for sample, image in zip(row.samples, seen))
    rows = [row, *(replace(row, method=name, title=name.title(), samples=repeats) for name in ("finetune", "mixture"))]
    found, told = weigh(ensemble, rows, fit=replace(fit, target=fitted), pictures=held)
    assert told.copying == ("finetune",) and told.method != "finetune" and "Left out for repeating images" in told.details[-1]
    notes = {one.method: one.notes.get("copies", "") for one in found}
    assert "repeats images" in notes["finetune"] and not notes["mixture"] and not notes["uniform"]  # weights cannot hold an image


def test_a_family_of_near_copies_weighs_as_one(ensemble, fit, held_out):
    row = compare(ensemble, ["uniform"], "a cat", range(8), fit=fit, steps=1).rows[0]
    samples, pictures = row.samples, Target(small.pictures(4, 77), ["a cat"] * 4)
    first = [0, 0, 0, 3, 3, 3, 6, 7]  # whom each descends from, and looks like
    copied = [replace(s, image=samples[k].image, family=("a cat", k)) for s, k in zip(samples, first)]
    kin = replace(row, method="kin", samples=tuple(copied))
    alone = replace(row, method="alone", samples=tuple(replace(s, family=None) for s in copied))
    few = replace(row, method="few", samples=tuple(replace(s, family=("a cat", k % 2)) for k, s in enumerate(samples)))
    (kin, alone, few), _ = weigh(ensemble, [kin, alone, few], fit=fit, held_out=held_out, pictures=pictures)
    assert kin.effective == pytest.approx(64 / 20) and alone.effective == 8 and kin.kid.high - kin.kid.low > alone.kid.high - alone.kid.low
    assert few.kid is None and few.diversity is None and "2 particles" in few.notes["kid"] and few.features.high == np.inf


def test_samples_notes_are_counted_with_the_ranges_of_their_numbers():
    said = ["size 1.3 of 4, 2 left"] * 2 + ["size 0.9 of 4, 3 left", "", "level -1.5", "level 2e-3", "b", "c", "c"]
    found = remarks([SimpleNamespace(note=note) for note in said])
    assert found == ("3 of 9 samples: size 0.9–1.3 of 4, 2–3 left, 2 of 9 samples: level -1.5–2e-3, 2 of 9 samples: c, "
                     "1 of 9 samples: otherwise")  # fmt: skip
    assert remarks([SimpleNamespace(note="")]) == ""


def test_a_transfer_says_whether_the_models_share_what_it_rests_on(ensemble, fit):
    pictures = Target(tuple(small.pictures(6, 9, 40)), (small.PROMPTS * 2))
    code = small.code(ensemble)
    code.about = replace(code.about, diagnosis={"shared": False, "verdict": "The sources do not share a representation."})
    record = replace(small.trained(ensemble, "transfer"), representation=code, notes={"representation": "shared"})
    known = replace(fit, target=pictures, trained={"transfer": record, "scratch": small.trained(ensemble, "scratch")})
    made = compare(ensemble, ["transfer", "scratch"], ["a cat"], [1], fit=known, steps=1)
    assert made.row("transfer").notes["training_seconds"] == "The sources do not share a representation."
    assert "do not share" in made.to_text() and "training_seconds" not in made.row("scratch").notes


def test_compare_stops_and_keeps(ensemble, fit):
    asked = iter([False] * 6 + [True] * 100)
    made = compare(ensemble, METHODS, ["a cat"], [0], fit=fit, steps=2, stop=lambda: next(asked))
    assert made.stopped and [len(r.samples) for r in made.rows][:1] == [1] and len(made.rows) < len(METHODS)


# ------------------------------------------------------------------------------------------------ report

def test_json_holds_figures_and_no_pixels(report, tmp_path):
    content = json.loads(report.save(tmp_path / "r.json").read_text())
    assert content["rows"][0]["method"] == "single" and content["rows"][0]["population"]["floor"] > 0
    assert content["fit"]["calibrated"]["members"]["Ada"]["weight"] >= 0 and len(json.dumps(content)) < 60_000
    with pytest.raises(ValueError, match="html"):
        report.save(tmp_path / "r.pdf")


class Page(HTMLParser):
    """Collects tags and checks that what opens is closed."""

    VOID = {"meta", "img", "line", "circle", "br", "link"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_html_is_whole_and_needs_nothing_else(report, tmp_path):
    text = report.save(tmp_path / "r.html").read_text()
    page = Page(text)
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 12 and all(a["src"].startswith("data:image/png;base64,") and a["alt"] for a in images)
    assert not re.search(r"https?://|<script|<link|@import", text) and "default-src 'none'" in text
    assert report.verdict in page.words.replace("\n", " ") and "Best single model" in page.words


def test_html_escapes_what_users_wrote():
    evil = "<script>alert(1)</script>\"'&"
    sample = Sample(Image.new("RGB", (8, 8)), "single", evil, 1, np.array([1.0]), evil)
    row = Row("single", evil, {evil: 1.0}, Cost(1, 1), 0.1, Estimate(1, 0, np.inf), samples=(sample,), problem="")
    broken = Row("matched", evil, {}, problem=evil)
    member = {"weight": 1.0, "interval": [0.0, 1.0]}
    fit = {"calibrated": {"members": {evil: member}, "verdict": evil}, "explanation": evil}
    text = Report((row, broken), ({"id": evil, "title": evil},), (evil,), (1,), {evil: evil}, fit, Recommendation(evil)).to_html()
    assert "<script" not in text and not [tag for tag, _ in Page(text).tags if tag == "script"]


def test_rows_keep_the_same_places_whatever_order_a_method_draws_in(ensemble, fit):
    prompts, seeds = ["a cat", "a dog", "a cat", "a hen", "a dog", "a hen"], [3, 4, 5, 6, 7, 8]
    found = compare(ensemble, ["mixture", "uniform"], prompts, seeds, fit=fit, steps=1, keep=3)
    kept = [{(one.prompt, one.seed) for one in row.samples} for row in found.rows]
    assert kept == [{("a cat", 3), ("a dog", 4), ("a cat", 5)}] * 2
