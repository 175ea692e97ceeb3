"""Barycenter and superposition through stock pipelines of every family: against diffusers' own stochastic solver, and the house's rules."""

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch

from fusion.methods import METHODS, SamplingPlan
from fusion.methods.barycenter import prompt_groups, side_by_side
from models.loading import load_ensemble
from tests import tiny
from tests.conftest import SIZE

CHAINS = ("barycenter", "superposition", "superposition_and")


def plan(**changes):
    return SamplingPlan(**{"prompts": ["a cat"], "seeds": [0, 1, 2, 3], "steps": 4, "batch_size": 4, "weights": [0.4, 0.6]} | changes)


def drawn(name, ensemble, **changes):
    return list(METHODS[name].run(ensemble, None, plan(**changes)))


def pixels(samples):
    return np.stack([np.asarray(sample.image) for sample in samples]).astype(int)


def stochastic(pipeline):
    """The pipeline with SDE-DPM-Solver++(2M), diffusers' own."""
    settings = dict(algorithm_type="sde-dpmsolver++", solver_order=2, timestep_spacing="leading")
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Watch:
    """Every call of a member: its name, and the latents it was shown."""

    def __init__(self, ensemble, monkeypatch):
        self.calls, member, name = [], type(ensemble.members[0]), ensemble.family.sample
        forward = member.__call__

        def watched(this, *args, **kwargs):
            self.calls.append((this.name, kwargs[name].clone()))
            return forward(this, *args, **kwargs)

        monkeypatch.setattr(member, "__call__", watched)

    def rows(self):
        return sum(len(x) for _, x in self.calls)


# ------------------------------------------------------------------------------------------------ against diffusers

@pytest.mark.parametrize("kind, guidance", [("sd", 1.0), ("sd", 4.0), ("portraits", 1.0), ("sdxl", 3.0)])
@pytest.mark.parametrize("name", CHAINS)
def test_one_member_alone_is_the_stochastic_solver_of_diffusers(tiny_ensemble, kind, guidance, name):
    """Same noise in each step, from the same generators; diffusers' solver knows nothing of levels, keeps or moves."""
    ensemble = tiny_ensemble(kind).subset(range(2))
    stochastic(ensemble.pipeline)
    alone = stochastic(ensemble.members[1].new_pipeline("unet"))
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    theirs = alone(["a cat", "a dog"], num_inference_steps=6, guidance_scale=guidance, generator=generators).images
    ours = drawn(name, ensemble, prompts=["a cat", "a dog"], seeds=[5, 6], steps=6, guidance=guidance, weights=[0, 1])
    assert abs(pixels(ours) - np.stack([np.asarray(image) for image in theirs]).astype(int)).max() <= 1


def test_each_member_hears_the_prompt_through_its_own_template(tiny_cards):
    cards = [tiny_cards("sd")[0], replace(tiny_cards("sd")[1], prompt_template="a drawing of {prompt}")]
    ensemble = load_ensemble(cards, device="cpu")
    stochastic(ensemble.pipeline)
    alone = stochastic(ensemble.members[1].new_pipeline("unet"))
    theirs = alone("a drawing of a cat", num_inference_steps=4, guidance_scale=3.0, generator=torch.Generator().manual_seed(0)).images[0]
    ours = drawn("barycenter", ensemble, seeds=[0], guidance=3.0, weights=[0, 1])
    assert abs(pixels(ours)[0] - np.asarray(theirs).astype(int)).max() <= 1


# ------------------------------------------------------------------------------------------------ every family

@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("name", CHAINS)
def test_every_family_is_drawn_repeatably_from_the_same_first_latent(tiny_ensemble, monkeypatch, kind, name):
    ensemble = tiny_ensemble(kind).subset(range(2))
    guidance = 3.0 if ensemble.family.guidance == "batch" else 1.0
    watch = Watch(ensemble, monkeypatch)
    first = drawn(name, ensemble, steps=3, guidance=guidance)
    shown, cost = watch.calls[0][1], METHODS[name].cost(ensemble, None, plan(steps=3, guidance=guidance))
    assert watch.rows() / 4 == cost.evaluations == 2 * 3 * (2 if guidance > 1 else 1)
    again = drawn(name, ensemble, steps=3, guidance=guidance)
    assert np.array_equal(pixels(first), pixels(again)) and [s.note for s in first] == [s.note for s in again]
    assert [s.seed for s in first] == [0, 1, 2, 3] and all(s.method == name and s.note for s in first)
    assert pixels(first).std() > 0 and first[0].image.size == tuple(reversed(SIZE.get(kind, ensemble.size)))
    watch.calls.clear()
    list(METHODS["scorefusion"].run(ensemble, None, plan(steps=3, guidance=guidance)))
    assert torch.equal(watch.calls[0][1], shown)


def test_members_of_another_parametrisation_and_schedule_take_part(sd_cards):
    ensemble = load_ensemble([sd_cards["base"], sd_cards["v"]], device="cpu")
    for name in CHAINS:
        assert pixels(drawn(name, ensemble, steps=6)).std() > 0
    notes = [sample.note for sample in drawn("superposition_and", ensemble, steps=6)]
    assert all(np.isfinite(float(note.split()[-1])) for note in notes)


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "DDIMScheduler"])
def test_timesteps_of_any_scheduler_are_followed_downwards(tiny_ensemble, scheduler):
    ensemble = tiny_ensemble("sd").subset(range(2))
    ensemble.pipeline.scheduler = getattr(diffusers, scheduler).from_config(ensemble.pipeline.scheduler.config)
    assert pixels(drawn("barycenter", ensemble, steps=5)).std() > 0


# ------------------------------------------------------------------------------------------------ rules of the house

@pytest.mark.parametrize("name", CHAINS)
def test_members_of_weight_zero_are_not_called(tiny_ensemble, monkeypatch, name):
    ensemble = tiny_ensemble("portraits")
    watch = Watch(ensemble, monkeypatch)
    drawn(name, ensemble, weights=[0.5, 0.0, 0.5])
    assert {member for member, _ in watch.calls} == {ensemble.names[0], ensemble.names[2]}


@pytest.mark.parametrize("name", CHAINS)
def test_stop_ends_within_a_step_and_leaves_the_pipeline_whole(tiny_ensemble, monkeypatch, name):
    ensemble, asked = tiny_ensemble("sd").subset(range(2)), []
    network, watch = ensemble.pipeline.unet, Watch(ensemble, monkeypatch)

    def stop():
        asked.append(1)
        return len(asked) > 7  # once before each batch and after each of its 4 steps: the second batch runs two

    samples = drawn(name, ensemble, batch_size=2, stop=stop)
    assert [s.seed for s in samples] == [0, 1] and len(watch.calls) == 2 * (4 + 2) and len(asked) == 8
    assert ensemble.pipeline.unet is network
    assert drawn(name, ensemble, stop=lambda: True) == []


@pytest.mark.parametrize("name", CHAINS)
def test_progress_rises_to_its_total_and_says_what_happens(tiny_ensemble, name):
    seen = []
    drawn(name, tiny_ensemble("sd"), batch_size=2, progress=lambda *report: seen.append(report))
    assert [done for done, _, _ in seen] == list(range(1, 9)) and {total for _, total, _ in seen} == {8}
    words = {"barycenter": "effective sample size", "superposition": "decided", "superposition_and": "equal"}[name]
    assert all(words in message for _, _, message in seen)


@pytest.mark.parametrize("name", ["superposition", "superposition_and"])
def test_superposed_images_do_not_depend_on_their_company(tiny_ensemble, name):
    together, alone = (pixels(drawn(name, tiny_ensemble("sd"), batch_size=size)) for size in (4, 1))
    assert abs(together - alone).max() <= 1


def test_superposition_of_equal_members_keeps_the_proportions(tiny_cards):
    card = tiny_cards("sd")[0]
    ensemble = load_ensemble([card, card], device="cpu")
    two = drawn("superposition", ensemble, weights=[0.25, 0.75])
    assert {sample.note for sample in two} == {f"0.75 {ensemble.names[1]}, 0.25 {ensemble.names[0]}"}
    assert abs(pixels(two) - pixels(drawn("superposition", ensemble, weights=[1, 0]))).max() <= 1


def test_barycenter_resamples_within_a_prompt_and_says_how_well_it_went(tiny_ensemble):
    ensemble = tiny_ensemble("portraits")
    jobs = dict(prompts=["a cat"] * 8 + ["a dog"], seeds=range(9), batch_size=9, steps=6, weights=[0.3, 0.3, 0.4])
    samples = drawn("barycenter", ensemble, **jobs)
    assert samples[8].note == "alone with its prompt in its batch: not corrected"
    assert len({sample.note for sample in samples[:8]}) == 1 and "of 8" in samples[0].note
    size, lineages = float(samples[0].note.split()[3]), int(samples[0].note.split(", ")[1].split()[0])
    assert len({sample.family for sample in samples[:8]}) == lineages and samples[8].family == ("a dog", 8)
    assert {sample.family for sample in samples} <= set(samples[0].batch)  # the particle that an image descends from
    assert all(sample.family is None for sample in drawn("superposition", ensemble, weights=[0.3, 0.3, 0.4]))
    assert 1 <= size < 8 and 1 <= lineages < 8  # random networks disagree much, so some particles replaced others
    images = pixels(samples)
    assert len(np.unique(images.reshape(9, -1), axis=0)) == 9  # no two are copies
    assert np.array_equal(pixels(drawn("barycenter", ensemble, **jobs | {"seeds": [*range(8), 99]}))[:8], images[:8])


def test_jobs_of_one_prompt_come_together():
    jobs = [("b", 1), ("a", 2), ("b", 3), ("c", 4), ("a", 5)]
    assert side_by_side(jobs) == [("b", 1), ("b", 3), ("a", 2), ("a", 5), ("c", 4)]
    assert [group.tolist() for group in prompt_groups(jobs)] == [[0, 2], [1, 4], [3]]
    assert side_by_side(side_by_side(jobs)) == side_by_side(jobs)  # a recipe's batch stays as it was drawn


def test_another_size_reaches_the_chain(tiny_ensemble):
    assert drawn("barycenter", tiny_ensemble("sd"), height=32, width=16)[0].image.size == (16, 32)
