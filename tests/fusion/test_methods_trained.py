"""Methods that train on the target: nothing trained is the model itself, what was trained is drawn again, refusals come in sentences."""

import dataclasses

import numpy as np
import pytest
import torch

from fusion.fitting import fit_all
from fusion.methods import METHODS, TRAINED, MethodError, SamplingPlan, Unfinished
from fusion.methods import training as shared
from fusion.methods.single import best_single
from fusion.objective import fit_gram
from fusion.recipe import Recipe, RecipeError
from fusion.target import Target
from fusion.transfer import adapting, source_phase, sources
from fusion.transfer.adapting import adapt, with_trained
from fusion.transfer.networks import TransferError
from fusion.transfer.sources import fingerprint_of, fits, fresh
from fusion.transfer.trained import Trained, TrainedError
from fusion.transfer.training import Schedule
from tests.fusion import small

FEW = Schedule(steps=4, batch=4, rate=3e-2, every=2, patience=None, warmup=1, average_over=1)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return small.ensemble(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def fit(ensemble):
    """A fit with six target pictures and a representation that was not learned on anything."""
    target = Target(small.pictures(6, 9, 40), [small.PROMPTS[i % 3] for i in range(6)])
    return dataclasses.replace(small.fit(ensemble), target=target, trained={shared.SHARED: small.code(ensemble)})


@pytest.fixture
def quick(monkeypatch):
    """Training of a few steps."""
    monkeypatch.setattr(adapting, "SCHEDULE", FEW)


def plan(**changes):
    return SamplingPlan(**{"prompts": ["a cat"], "seeds": [0, 1, 2], "steps": 2, "batch_size": 2} | changes)


def arrays(samples):
    return [np.asarray(s.image) for s in samples]


def equal(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other))


def never(ensemble, fit, name="finetune", **more):
    """What a training of no steps leaves."""
    k = best_single(fit)
    return adapt(ensemble, k, fit.target.images, fit.target.prompts, method=name, schedule=Schedule(steps=0), **more)


# ------------------------------------------------------------------------------------------------ identities

def test_nothing_trained_draws_the_single_model_bit_for_bit(ensemble, fit):
    k = best_single(fit)
    alone = arrays(METHODS["single"].run(ensemble, fit, plan(weights=np.eye(3)[k], guidance=3.0)))
    assert equal(alone, arrays(METHODS["finetune"].run(ensemble, fit, plan(trained=never(ensemble, fit), guidance=3.0))))


def test_nothing_trained_reads_prompts_through_the_representation_and_is_else_the_single_model(ensemble, fit):
    """Against the stock pipeline, given what the representation makes of its embeddings."""
    code, k = fit.trained[shared.SHARED], best_single(fit)
    pipeline = ensemble.members[k].new_pipeline("unet")
    pipeline.set_progress_bar_config(disable=True)
    said, empty = pipeline.encode_prompt("a cat", "cpu", 1, True)
    changed = [code({"encoder_hidden_states": torch.cat([tensor] * 2)})["encoder_hidden_states"][:1] for tensor in (said, empty)]
    stock = pipeline(prompt_embeds=changed[0], negative_prompt_embeds=changed[1], num_inference_steps=2, guidance_scale=3.0,
                     generator=torch.Generator("cpu").manual_seed(1)).images  # fmt: skip
    trained = never(ensemble, fit, "transfer", representation=code)
    drawn = METHODS["transfer"].run(ensemble, fit, plan(seeds=[1], trained=trained, guidance=3.0))
    difference = np.abs(np.asarray(stock[0]).astype(int) - arrays(drawn)[0].astype(int))
    assert difference.max() <= 1
    plain = arrays(METHODS["single"].run(ensemble, fit, plan(seeds=[1], weights=np.eye(3)[k], guidance=3.0)))[0]
    assert np.abs(plain.astype(int) - np.asarray(stock[0]).astype(int)).max() > 3


@pytest.mark.parametrize("name", TRAINED)
def test_training_changes_the_images_and_nothing_of_the_ensemble(ensemble, fit, quick, name):
    k = best_single(fit)
    weights = {key: value.clone() for key, value in ensemble.members[k].network.state_dict().items()}
    before = arrays(METHODS["single"].run(ensemble, fit, plan(weights=np.eye(3)[k])))
    prepared = METHODS[name].prepare(ensemble, fit, plan())
    trained = prepared.trained[name]
    samples = list(METHODS[name].run(ensemble, prepared, plan()))
    assert not equal(before, arrays(samples))
    assert equal(before, arrays(METHODS["single"].run(ensemble, fit, plan(weights=np.eye(3)[k]))))
    now = ensemble.members[k].network.state_dict()
    assert now.keys() == weights.keys() and all(torch.equal(now[key], weights[key]) for key in now)
    assert type(next(iter(ensemble.members[k].network.attn_processors.values()))).__name__ == "AttnProcessor2_0"
    assert {s.method for s in samples} == {name} and all(s.trained is trained and s.member == trained.member for s in samples)
    assert all(np.array_equal(s.weights, np.eye(3)[k]) for s in samples) and sorted(s.seed for s in samples) == [0, 1, 2]
    assert METHODS[name].prepare(ensemble, prepared, plan()) is prepared  # done once
    assert (trained.representation is None) == (name == "finetune") and trained.images == (4, 2)


def test_frozen_means_frozen(ensemble, fit, quick):
    code = fit.trained[shared.SHARED].state_dict()
    for name, kept in (("transfer", True), ("transfer_unfrozen", False)):
        after = METHODS[name].prepare(ensemble, fit, plan()).trained[name].representation.state_dict()
        assert all(torch.equal(code[key], after[key]) for key in code) is kept
    assert all(torch.equal(code[key], value) for key, value in fit.trained[shared.SHARED].state_dict().items())


def test_training_repeats(ensemble, fit, quick):
    one, other = (METHODS["finetune"].prepare(ensemble, fit, plan()).trained["finetune"] for _ in range(2))
    assert all(torch.equal(one.tensors[key], other.tensors[key]) for key in one.tensors) and one.course.curve == other.course.curve


def test_the_held_out_loss_falls(ensemble, fit):
    target = Target([small.pictures(1, 3)[0]] * 8, ["a cat"] * 8)
    made = adapt(ensemble, 0, target.images, target.prompts, method="finetune", schedule=dataclasses.replace(FEW, steps=30, every=10))
    assert made.course.gain > 0.05 * made.course.curve[0][1] and made.course.best > 0


# ------------------------------------------------------------------------------------------------ stop and price

def test_a_training_that_was_stopped_is_no_result_and_gives_what_it_has_to_who_asks(ensemble, fit, monkeypatch, quick):
    with pytest.raises(Unfinished, match="stopped before it was better") as early:
        METHODS["finetune"].prepare(ensemble, fit, plan(stop=lambda: True))
    assert early.value.fit is None
    assert list(METHODS["finetune"].run(ensemble, fit, plan(stop=lambda: True))) == []
    asked, seen = [], []
    same = dataclasses.replace(fit, target=Target([small.pictures(1, 3)[0]] * 8, ["a cat"] * 8))
    with pytest.raises(Unfinished, match="before its training ended: start it again") as early:
        METHODS["finetune"].prepare(ensemble, same, plan(stop=lambda: (asked.append(1), len(asked) > 3)[1],
                                                         progress=lambda *told: seen.append(told)))  # fmt: skip
    found = early.value.fit
    assert "finetune" not in same.trained and found.trained["finetune"].course.steps == 3 and found.trained["finetune"].course.best == 2
    assert [done for done, _, _ in seen] == [1, 2, 3] and {total for _, total, _ in seen} == {4} and "6 images" in seen[0][2]


def test_the_price_is_stated_before_and_falls_when_training_is_done(ensemble, fit, quick):
    for name in TRAINED:
        before = METHODS[name].cost(ensemble, fit, plan())
        after = METHODS[name].cost(ensemble, METHODS[name].prepare(ensemble, fit, plan()), plan())
        assert before.training_seconds > 0 and before.preparation == 0 and before.evaluations == after.evaluations == 2
        assert after.training_seconds == 0 and 1 < after.memory
        if not name.startswith("transfer"):  # the representation of this fit is smaller than those that are made here
            assert before.memory == pytest.approx(after.memory, rel=0.15)


def test_a_representation_is_learned_when_there_is_none(ensemble, fit, quick, monkeypatch):
    few = dataclasses.replace(FEW, steps=2, decay=True)
    monkeypatch.setattr(source_phase, "SHORT", few)
    monkeypatch.setattr(source_phase, "IMAGES", 8)
    monkeypatch.setattr(source_phase.learning, "WARM", few)
    for module in (source_phase, sources):
        monkeypatch.setattr(module, "DRAWING_STEPS", 2)
    bare = dataclasses.replace(fit, trained={})
    price = METHODS["transfer"].cost(ensemble, bare, plan())
    assert price.preparation == 3 * 8 * 2 and price.training_seconds > METHODS["finetune"].cost(ensemble, bare, plan()).training_seconds
    found = METHODS["transfer"].prepare(ensemble, bare, plan())
    code = found.trained[shared.SHARED]
    assert code.about.members == ensemble.names and {loss["source"] for loss in code.about.diagnosis["losses"]} == set(ensemble.names)
    assert fits(code, ensemble, 1) and found.trained["transfer"].notes["sources"] == list(ensemble.names)
    again = METHODS["transfer_unfrozen"].prepare(ensemble, found, plan())
    assert again.trained[shared.SHARED] is code  # learned once


# ------------------------------------------------------------------------------------------------ refusals

def test_without_images_there_is_nothing_to_train_on(ensemble, fit):
    for name in TRAINED:
        for work in (METHODS[name].prepare, METHODS[name].cost, lambda *a, name=name: list(METHODS[name].run(*a))):
            with pytest.raises(MethodError, match="statistic"):
                work(ensemble, dataclasses.replace(fit, target=None), plan())
            with pytest.raises(MethodError, match="at least 2"):
                work(ensemble, dataclasses.replace(fit, target=Target(small.pictures(1), ["a cat"])), plan())
            with pytest.raises(MethodError, match="fit"):
                work(ensemble, None, plan())


def test_models_without_prompts_have_no_condition_to_represent(tiny_ensemble):
    pair = tiny_ensemble("ddpm")
    with pytest.raises(TransferError, match="reads no prompt"):
        source_phase.represent(pair, source_phase.gather(pair, 2, [""]))
    images = small.pictures(4)
    found = fit_all(fit_gram(pair, images, [""] * 4, levels=2), target=Target(images, [""] * 4))
    for name in ("transfer", "transfer_unfrozen", "scratch"):
        with pytest.raises(MethodError, match="reads no prompt"):
            METHODS[name].cost(pair, found, plan())
    assert METHODS["finetune"].cost(pair, found, plan()).training_seconds > 0


def test_a_representation_of_other_text_encoders_does_not_fit(ensemble, fit):
    code = fit.trained[shared.SHARED]
    assert fits(code, ensemble, 0)
    changed = fresh(ensemble, {"encoder_hidden_states": torch.randn(2, 16, 16)}, 4)
    changed.about = dataclasses.replace(changed.about, fingerprint=tuple(2 * v for v in fingerprint_of(ensemble, 0)))
    assert not fits(changed, ensemble, 0)
    changed.about = dataclasses.replace(code.about, shapes={"encoder_hidden_states": (77, 16)})
    assert not fits(changed, ensemble, 0)


# ------------------------------------------------------------------------------------------------ files and recipes

@pytest.mark.parametrize("name", ["finetune", "transfer_unfrozen"])
def test_an_image_is_drawn_again_from_its_recipe_and_the_file_beside_it(ensemble, fit, quick, tmp_path, name):
    prepared = METHODS[name].prepare(ensemble, fit, plan())
    samples = list(METHODS[name].run(ensemble, prepared, plan()))
    file = Recipe.of_sample(ensemble, samples[2], plan()).save_png(samples[2].image, tmp_path / "image.png")
    assert (tmp_path / prepared.trained[name].file).is_file()
    again = list(Recipe.load(file).run(ensemble))
    assert len(again) == 1 and equal(arrays(samples[2:]), arrays(again)) and again[0].member == samples[2].member
    whole = Recipe.load(Recipe.of(ensemble, name, plan(trained=prepared.trained[name])).save(tmp_path / "recipe.json"))
    assert equal(arrays(samples), arrays(whole.run(ensemble)))


def test_a_recipe_without_its_file_says_which_is_missing(ensemble, fit, tmp_path):
    trained = never(ensemble, fit)
    recipe = Recipe.of(ensemble, "finetune", plan(trained=trained))
    path = recipe.save(tmp_path / "recipe.json")
    beside = tmp_path / trained.file
    content = beside.read_bytes()
    beside.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RecipeError, match="hash differs"):
        Recipe.load(path).plan()
    beside.unlink()
    with pytest.raises(RecipeError, match=f"{trained.file} is missing"):
        list(Recipe.load(path).run(ensemble))
    with pytest.raises(RecipeError, match="from its own folder"):
        Recipe.from_json(recipe.to_json()).plan()
    assert recipe.plan().trained is trained  # the one that made it still holds it
    with pytest.raises(RecipeError, match="`trained`"):
        Recipe.from_json(recipe.to_json().replace('"finetune"', '"mixture"', 1))


def test_a_trained_file_comes_back_equal_and_foreign_ones_are_refused(ensemble, fit, tmp_path):
    one = never(ensemble, fit, "transfer", representation=fit.trained[shared.SHARED])
    path = one.save_in(tmp_path)
    again = Trained.load(path, one.sha256)
    assert again.content == one.content and again.course == one.course and path.name == one.file
    (tmp_path / "other.safetensors").write_bytes(b"no")
    fit.trained[shared.SHARED].save(tmp_path / "code.safetensors")
    for name in ("other", "code"):
        with pytest.raises(TrainedError, match=name):
            Trained.load(tmp_path / f"{name}.safetensors")


def test_what_was_trained_fits_its_own_member_alone(ensemble, fit):
    one = never(ensemble, fit)
    with pytest.raises(TransferError, match="not among"):
        with_trained(ensemble, dataclasses.replace(one, member="Dan"))
    with pytest.raises(TrainedError, match="does not fit"):
        with_trained(ensemble, dataclasses.replace(one, rank=one.rank + 1))
