"""One LoRA that gives the fused prediction: learned without images, loaded like any LoRA, close to its teachers."""

import functools
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from fusion.cli import main
from fusion.distillation import DistillError, distill, teach
from fusion.methods import SamplingPlan
from fusion.methods.drawing import draw
from fusion.recipe import Recipe
from fusion.transfer.networks import TransferError
from fusion.transfer.training import Schedule
from models.catalog import typed_card
from models.loading import load_ensemble
from tests import tiny
from tests.fusion import small

PROMPTS = ["a cat", "a dog"]
QUICK = Schedule(steps=80, batch=16, rate=3e-3, every=40, patience=None, decay=True, average_over=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distil")


@pytest.fixture(scope="module")
def ensemble(folder):
    return small.ensemble(folder)


@pytest.fixture(scope="module")
def found(ensemble):
    return distill(ensemble, [0.2, 0.5, 0.3], PROMPTS, trajectories=40, rank=8, schedule=QUICK)


def test_lessons_are_what_the_fused_denoiser_says(ensemble):
    lessons = teach(ensemble, np.array([0.5, 0.5, 0.0]), PROMPTS, 11)
    assert lessons.prompts == ("a cat", "a dog", "") and (lessons.prompt[lessons.run == 9] == 2).all()
    assert len(lessons) == 11 * 8 and set(lessons.run.tolist()) == set(range(11))
    row = int((lessons.run == 4).nonzero()[3])
    predict = ensemble.predictor([lessons.prompts[lessons.prompt[row]]])
    level = ensemble.noise.level(lessons.t[row : row + 1])
    noise = predict(lessons.x[row : row + 1], level).numpy()  # an independent way to the same prediction
    said = ensemble.noise.to_noise(lessons.said[row : row + 1], lessons.x[row : row + 1], level).numpy()
    np.testing.assert_allclose(0.5 * noise[0] + 0.5 * noise[1], said, atol=0.02)  # bfloat16 where this machine computes in it
    learn, held = lessons.split()
    assert not set(learn.run.tolist()) & set(held.run.tolist()) and len(learn) + len(held) == len(lessons)


def test_the_student_comes_closer_to_its_teachers(found):
    assert found.student == "Bea" and found.course.steps == QUICK.steps
    assert found.unexplained < 0.5
    assert found.course.curve[-1][1] < found.course.curve[0][1]


def test_the_folder_is_an_ordinary_lora(found, ensemble, folder, tmp_path):
    out = found.save(tmp_path / "student", ensemble)
    base = folder / "bea"
    plan = SamplingPlan(["a cat"], [3], steps=4)
    (fused,) = draw(ensemble, plan, np.array([0.2, 0.5, 0.3]), method="x")
    (alone,) = draw(ensemble.subset([1]), plan, np.ones(1), method="x")
    student = load_ensemble([replace(found.base, adapter=str(out))], device="cpu", lora="switch")
    (ours,) = draw(student, plan, np.ones(1), method="x")
    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.load_lora_weights(out)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe("a cat", num_inference_steps=4, guidance_scale=1.0, generator=[torch.Generator().manual_seed(3)]).images[0]
    np.testing.assert_array_equal(np.asarray(ours.image), np.asarray(theirs))
    far = lambda a: np.abs(np.asarray(a.image, dtype=float) - np.asarray(fused.image, dtype=float)).mean()
    assert far(ours) < far(alone)


def test_adapters_on_one_base_are_distilled_onto_the_base(folder, tmp_path):
    base = folder / "ada"
    adapters = [tiny.lora(tmp_path / f"l{k}", base, k) for k in (1, 2)]
    card = small.cards(folder)[0]
    cards = [replace(card, id=f"l{k}", title=f"L{k}", adapter=str(path)) for k, path in enumerate(adapters)]
    switched = load_ensemble(cards, device="cpu", lora="switch")
    found = distill(switched, [0.5, 0.5], PROMPTS, trajectories=16, rank=8, schedule=QUICK)
    assert found.base.adapter is None and found.unexplained < 0.8
    with pytest.raises(DistillError, match="switch"):
        distill(load_ensemble(cards, device="cpu", lora="merge"), [0.5, 0.5], PROMPTS, trajectories=16, schedule=QUICK)


def test_a_network_that_cannot_be_trained_is_refused_before_the_teacher_draws(ensemble, monkeypatch):
    told = []
    monkeypatch.setattr(ensemble.members[0].network, "_takes_turns", True, raising=False)
    with pytest.raises(TransferError, match="--memory resident"):
        distill(ensemble, [0.6, 0.4, 0], PROMPTS, trajectories=4, progress=lambda *step: told.append(step))
    assert told == []


def test_lessons_of_a_batch_that_memory_has_no_room_for_count_once(ensemble, monkeypatch):
    weights, failed = np.array([0.5, 0.5, 0.0]), []
    whole = teach(ensemble, weights, PROMPTS, 6)

    def full(module, args, kwargs):
        rows = len(kwargs["sample"] if "sample" in kwargs else args[0])
        failed.append(rows)
        if rows > 3 and len(failed) > 4:  # some steps are done by then
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = ensemble.members[0].network.register_forward_pre_hook(full, with_kwargs=True)
    halved = teach(ensemble, weights, PROMPTS, 6)
    hook.remove()
    assert max(failed[-8:]) == 3 and len(halved) == len(whole) and sorted(halved.run.tolist()) == sorted(whole.run.tolist())


def test_a_student_that_memory_has_no_room_for_learns_the_same(ensemble):
    """Activations are computed again first, then the batch is halved; the held-out look is halved by itself."""
    schedule, seen = replace(QUICK, steps=6, every=6), []
    whole = distill(ensemble, [0.5, 0.5, 0], PROMPTS, trajectories=8, rank=4, schedule=schedule)
    forward = UNet2DConditionModel.forward

    @functools.wraps(forward)
    def greedy(self, sample, *args, **kwargs):
        trained = torch.is_grad_enabled()
        if trained or any("lora_" in name for name, _ in self.named_parameters()):
            seen.append((trained, len(sample), self.is_gradient_checkpointing))
            if len(sample) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, sample, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(UNet2DConditionModel, "forward", greedy)
        parts = distill(ensemble, [0.5, 0.5, 0], PROMPTS, trajectories=8, rank=4, schedule=schedule)
    training = [(rows, lean) for trained, rows, lean in seen if trained]
    assert training[:4] == [(16, False), (16, True), (8, True), (4, True)] and max(rows for rows, _ in training[4:]) == 4
    looks = [rows for trained, rows, _ in seen if not trained]
    assert looks[0] > 5 and looks[-1] <= 5 and parts.course.steps == 6
    assert not any(member.network.is_gradient_checkpointing for member in ensemble.members)
    assert parts.unexplained == pytest.approx(whole.unexplained, rel=0.02)  # bfloat16 where this machine computes in it


def test_refusals(ensemble, folder):
    with pytest.raises(DistillError, match="nothing to distil"):
        distill(ensemble, [0, 1, 0], PROMPTS)
    with pytest.raises(DistillError, match="one weight for each"):
        distill(ensemble, [0.5, 0.5], PROMPTS)
    with pytest.raises(DistillError, match="held out"):
        distill(ensemble, [0.5, 0.5, 0], PROMPTS, trajectories=1)
    with pytest.raises(ValueError, match="sum to 1"):
        distill(ensemble, [0.5, 0.7, 0], PROMPTS)
    with pytest.raises(DistillError, match="stopped"):
        distill(ensemble, [0.5, 0.5, 0], PROMPTS, stop=lambda: True)


def test_the_command(folder, ensemble, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SCOREFUSION_MODELS", os.pathsep.join([str(folder), str(tmp_path)]))
    recipe = Recipe.of(ensemble, "scorefusion", SamplingPlan(PROMPTS, [0, 1]), np.array([0.5, 0.5, 0.0]))
    recipe.save(tmp_path / "r.json")
    models = ["--models", *(card.source for card in small.cards(folder))]
    common = ["--trajectories", "12", "--train-steps", "20", "--check", "0", "--json", "--device", "cpu"]
    code = main(["distill", str(tmp_path / "r.json"), *models, *common, "--out", str(tmp_path / "one")])
    out = json.loads(capsys.readouterr().out)
    assert typed_card(out["model"]).adapter == str(tmp_path / "one") and typed_card(out["model"]).source == out["base"]
    assert code == 0 and out["unexplained"] < 1 and (tmp_path / "one" / "pytorch_lora_weights.safetensors").is_file()
    assert json.loads((tmp_path / "one" / "distillation.json").read_text())["steps"] == 20
    Recipe.of(ensemble, "mixture", SamplingPlan(PROMPTS, [0, 1]), np.array([0.5, 0.5, 0.0])).save(tmp_path / "m.json")
    code = main(["distill", str(tmp_path / "m.json"), *models, *common, "--out", str(tmp_path / "two")])
    assert code == 1 and "no average" in capsys.readouterr().err
    code = main(["distill", str(tmp_path / "m.json"), *models, *common, "--method", "matched", "--out", str(tmp_path / "two")])
    assert code == 1 and "holds no weights for matched" in capsys.readouterr().err
