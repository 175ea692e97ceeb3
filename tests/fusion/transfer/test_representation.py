"""Representations of tensors: learned where there is one, used on a new population, refused and diagnosed where there is none."""

import json

import pytest
import torch

from fusion.transfer.diagnosis import Diagnosis, Loss, diagnose, judge, leave_out, loss_through
from fusion.transfer.learning import Source, conditions_of, learn
from fusion.transfer.representation import Representation, fingerprint, same_fingerprint
from fusion.transfer.task import Task, same
from fusion.transfer.training import Schedule, train
from tests.fusion.transfer import world

SCHEDULE = Schedule(steps=160, batch=48, rate=4e-3, every=160, patience=None, warmup=20, decay=True, average_over=20)
K = 4


def fresh(sources, seed=0):
    condition = conditions_of(sources, ["y"])
    return Representation.for_conditions(condition, 3, seed=seed, width=64, channels=32)


def made(sources):
    found = fresh(sources)
    learn(found, sources, SCHEDULE, warm=None)
    return found.requires_grad_(False)


@pytest.fixture(scope="module")
def worlds():
    """`{shared: (sources, representation)}`."""
    out = {}
    for shared in (True, False):
        sources = [world.source(k, shared) for k in range(K)]
        out[shared] = sources, made(sources)
    return out


def diagnosis(sources, representation):
    left = [leave_out(made, sources, k, world.BLANK) for k in (K - 1,)]
    return diagnose(representation, sources, world.BLANK, left)


def test_sources_that_share_a_representation_are_told_from_sources_that_do_not(worlds):
    yes, no = (diagnosis(*worlds[shared]) for shared in (True, False))
    assert yes.shared is True and "share a representation" in yes.verdict
    assert all(loss.interval[0] <= loss.share <= loss.interval[1] < 0.25 for loss in (*yes.losses, *yes.left_out))
    assert no.shared is False and "do not share" in no.verdict
    assert min(loss.share for loss in no.left_out) > 0.5  # what the others have taught is of no use
    assert all(loss.worth for loss in (*yes.losses, *no.losses))
    assert yes.dimension.used <= world.CODE and 1 <= yes.dimension.participation <= 3  # three numbers, of which two are needed
    assert sum(yes.dimension.spectrum) == pytest.approx(1) and yes.dimension.lost[0][1] > 0.9  # nothing kept, everything lost
    assert json.loads(json.dumps(yes.summary()))["shared"] is True


def test_losses_agree_with_direct_measurements(worlds):
    sources, representation = worlds[True]
    found = loss_through(sources[1].held_out, representation, world.BLANK, seed=3)
    full = sources[1].held_out.measure(same, levels=4, seed=3).mean()
    none = sources[1].held_out.measure(lambda c: {"y": torch.zeros_like(c["y"])}, levels=4, seed=3).mean()
    through = sources[1].held_out.measure(representation, levels=4, seed=3).mean()
    assert (found.full, found.blank, found.through) == pytest.approx((float(full), float(none), float(through)))
    assert found.share == pytest.approx(float((through - full) / (none - full)))


def target(count, held_out):
    """A new population that shares W: its network reads the condition through a matrix that is trained."""
    x, y = world.draw(9, True, count + held_out, 5)
    matrix = torch.nn.Parameter(torch.zeros(world.X, world.Y))

    def predict(x_t, level, condition):
        return world.noise_of(x_t, level, condition["y"] @ matrix.T)

    return Source.of(Task("target", x, {"y": y}, torch.arange(len(x)), predict, world.PATH, {"matrix": matrix}), held_out)


def adapted(representation, freeze, seed=0):
    """Held-out loss after Phase 2 on 12 samples, 3 of them to stop early; judged on 400 others."""
    one, code = target(12, 400), representation
    parameters = dict(one.fitted.parameters)
    if not freeze:
        code.requires_grad_(True)
        parameters |= dict(code.named_parameters())
    fit, stop = one.fitted.part(torch.arange(9)), one.fitted.part(torch.arange(9, 12))
    train(parameters, lambda g: fit.loss(code, g, 32), Schedule(steps=300, rate=1e-2, every=20, patience=5, seed=seed),
          held_out=lambda: float(stop.measure(code).mean()))  # fmt: skip
    with torch.no_grad():
        return float(one.held_out.measure(code).mean())


def test_transfer_beats_starting_at_random_where_a_representation_is_shared(worlds):
    sources, representation = worlds[True]
    irreducible = world.source(9, True, 1, 400).held_out.measure(same).mean()
    transferred = adapted(representation, True) - irreducible
    scratch = [adapted(fresh(sources, seed), False, seed) - irreducible for seed in (1, 2)]
    assert transferred < 0.6 * min(scratch), (transferred, scratch)
    foreign = adapted(worlds[False][1], True) - irreducible
    assert transferred < 0.6 * foreign  # it is not any representation that helps


def test_sources_with_networks_of_their_own_are_trained_with_it(worlds):
    """The theory's setting: f_k is trained, too."""
    sources = [target(96, 32), target(96, 32)]
    before = [float(s.held_out.measure(same).mean()) for s in sources]
    representation = fresh(sources)
    learn(representation, sources, Schedule(steps=120, batch=32, rate=5e-3, every=60, patience=None), warm=None)
    with torch.no_grad():
        assert all(float(s.held_out.measure(representation).mean()) < 0.8 * b for s, b in zip(sources, before))
    assert all(bool(p.any()) for s in sources for p in s.fitted.parameters.values())


# ------------------------------------------------------------------------------------------------ verdicts in words

def loss(name, share, low, high, worth=True):
    return Loss(name, 0.1, 0.1 + share, 1.1, share, (low, high), worth)


@pytest.mark.parametrize("losses, left_out, shared, word", [
    ([loss("a", 0.02, 0, 0.05)], [loss("a", 0.1, 0.05, 0.15)], True, "10%"),
    ([loss("a", 0.5, 0.4, 0.6)], [loss("a", 0.1, 0.05, 0.15)], False, "joint"),
    ([loss("a", 0.02, 0, 0.05)], [loss("a", 0.9, 0.8, 1.0)], False, "never saw"),
    ([loss("a", 0.2, 0.1, 0.4)], [loss("a", 0.1, 0.05, 0.15)], None, "more images"),
    ([loss("a", 0.02, 0, 0.05)], [], None, "leave sources out"),
    ([loss("a", -0.02, -0.04, -0.001)], [], None, "at most 0% is lost"),
    ([loss("a", -0.02, -0.04, 0.01)], [loss("a", -0.02, -0.04, 0.01)], True, "loses most, 0%"),
    ([loss("a", 0.02, 0, 0.05, worth=False)], [], None, "no difference"),
])  # fmt: skip
def test_verdicts(losses, left_out, shared, word):
    found, text = judge(losses, left_out)
    assert found is shared and word in text


def test_one_source_alone_shows_nothing(worlds):
    sources, representation = worlds[True]
    with pytest.raises(ValueError, match="at least two"):
        leave_out(made, sources[:1], 0, world.BLANK)
    assert isinstance(diagnose(representation, sources[:1], world.BLANK), Diagnosis)


# ------------------------------------------------------------------------------------------------ files and shapes

def tokens(rows=5):
    g = torch.Generator().manual_seed(0)
    return {"words": torch.randn(rows, 4, 6, generator=g), "pooled": torch.randn(rows, 8, generator=g), "size": torch.ones(rows, 2)}


def representation_of(condition):
    read = {name: condition[name] for name in ("words", "pooled")}
    return Representation.for_conditions(read, 2, family="sd", members=("A", "B"), fingerprint=fingerprint(read), width=16, channels=4)


def test_tokens_and_pooled_vectors_are_replaced_and_the_rest_passes():
    condition = tokens()
    found = representation_of(condition)(condition)
    assert {name: tuple(t.shape) for name, t in found.items()} == {name: tuple(t.shape) for name, t in condition.items()}
    assert torch.equal(found["size"], condition["size"]) and not torch.allclose(found["words"], condition["words"])
    half = representation_of(condition)({name: t.half() for name, t in condition.items()})
    assert half["words"].dtype == torch.float16


def test_a_file_comes_back_equal_and_foreign_files_are_refused(tmp_path):
    one = representation_of(tokens())
    one.save(tmp_path / "r.safetensors")
    again = Representation.load(tmp_path / "r.safetensors")
    assert again.about == one.about and again.to_bytes() == one.to_bytes() == (tmp_path / "r.safetensors").read_bytes()
    one.requires_grad_(False)  # kernels, and with them the last bit, differ for what is trained
    assert torch.equal(again(tokens())["words"], one(tokens())["words"])
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    for name in ("other", "text", "gone"):
        with pytest.raises(ValueError, match=name):
            Representation.load(tmp_path / f"{name}.safetensors")


def test_a_file_that_lies_about_its_size_allocates_nothing(tmp_path):
    from dataclasses import asdict, replace

    from safetensors.torch import save_file

    one = representation_of(tokens())
    huge = replace(one.about, width=10**6, shapes={"words": (10**6, 10**4)})
    metadata = {"representation": json.dumps(asdict(huge))}
    save_file(one.state_dict(), tmp_path / "huge.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="huge"):
        Representation.load(tmp_path / "huge.safetensors")


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="words"):
        representation_of(tokens())({"words": torch.zeros(1, 4, 7), "pooled": torch.zeros(1, 8)})


def test_fingerprints_tell_encoders_apart_in_any_precision():
    one, other = {"words": tokens()["words"]}, {"words": tokens()["words"].flip(-1)}
    assert same_fingerprint(fingerprint(one), fingerprint({"words": one["words"].half()}))
    assert not same_fingerprint(fingerprint(one), fingerprint(other))
