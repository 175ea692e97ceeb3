"""A member alone is drawn as its own pipeline draws it; what is averaged has one sampler; both are said, priced, and redrawn."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from fusion.commands import sample as command
from fusion.evaluation.compare import compare
from fusion.methods import METHODS, SamplingPlan
from fusion.methods.alone import sampler_words
from fusion.methods.drawing import draw
from fusion.methods.mixture import route
from fusion.methods.single import singles
from fusion.recipe import Recipe
from models.catalog import catalog, typed_card
from models.errors import ModelError
from models.loading import load_ensemble
from models.samplers import few_steps, few_steps_of, sampler_of
from tests import tiny
from tests.conftest import tiny_card

EULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TURBO = diffusers.EulerAncestralDiscreteScheduler(**EULER, timestep_spacing="trailing")


def sibling(folder: Path, base, seed: int, scheduler) -> Path:
    """A tiny SD of another sampler."""
    made = tiny.sd(folder, seed, sibling=Path(base.source))
    scheduler.save_pretrained(made / "scheduler")
    index = json.loads((made / "model_index.json").read_text()) | {"scheduler": ["diffusers", type(scheduler).__name__]}
    (made / "model_index.json").write_text(json.dumps(index))
    return made


@pytest.fixture(scope="module")
def folders(sd_cards, tmp_path_factory):
    root, base = tmp_path_factory.mktemp("alone"), sd_cards["base"]
    return {"base": Path(base.source), "euler": sibling(root / "euler", base, 5, diffusers.EulerDiscreteScheduler(**EULER)),
            "quick": sibling(root / "quick", base, 6, TURBO)}  # fmt: skip


@pytest.fixture(scope="module")
def ensemble(folders):
    return load_ensemble([tiny_card("sd", folder) for folder in folders.values()], device="cpu")


def own(folder: Path, steps: int, guidance: float, seed: int, prompt: str = "a cat") -> np.ndarray:
    """What diffusers alone draws with the model's own pipeline."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(seed)]
    image = pipe([prompt], num_inference_steps=steps, guidance_scale=guidance, generator=noise, height=16, width=16).images[0]
    return np.asarray(image)


def alone(ensemble, index: int, **changes) -> np.ndarray:
    plan = SamplingPlan(["a cat"], [7], 12, 5.0, weights=np.eye(len(ensemble))[index]).with_(**changes)
    (sample,) = METHODS["single"].run(ensemble, None, plan)
    return np.asarray(sample.image)


def test_a_later_member_is_drawn_with_its_own_scheduler(ensemble, folders):
    assert np.array_equal(alone(ensemble, 0), own(folders["base"], 12, 5.0, 7))
    assert np.array_equal(alone(ensemble, 1), own(folders["euler"], 12, 5.0, 7))
    assert not np.array_equal(alone(ensemble, 1), alone(ensemble, 1, sampler="first"))


@pytest.mark.parametrize(
    ("asked", "taken"), [((12, 5.0), (4, 1.0)), ((6, 5.0), (6, 1.0)), ((12, 1.5), (4, 1.5)), ((2, 1.0), (2, 1.0))]
)
def test_a_few_step_member_takes_few_steps(ensemble, folders, asked, taken):
    drawn = alone(ensemble, 2, steps=asked[0], guidance=asked[1])
    assert np.array_equal(drawn, own(folders["quick"], *taken, 7))


def test_the_columns_of_every_model_alone_are_the_same(ensemble):
    plan = SamplingPlan(["a cat"], [7], 12, 5.0)
    for index, method in enumerate(singles(ensemble).values()):
        (sample,) = method.run(ensemble, None, plan)
        assert np.array_equal(np.asarray(sample.image), alone(ensemble, index)) and sample.member == ensemble.names[index]
        assert sample.weights.tolist() == np.eye(3)[index].tolist()


def test_members_that_sample_alike_are_drawn_as_ever(sd_cards):
    """Bit for bit: pictures and recipes of the shipped models do not change."""
    pair = load_ensemble([sd_cards["base"], sd_cards["second"]], device="cpu")
    plan = SamplingPlan(["a cat", "a dog"], [7, 8], 4, 5.0, weights=np.array([0.0, 1.0]))
    before = list(draw(pair, plan, plan.weights, method="single"))
    for one, other in zip(before, METHODS["single"].run(pair, None, plan)):
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
        assert Recipe.of_sample(pair, other, plan).sampler is None
        assert "sampler" not in json.loads(Recipe.of_sample(pair, other, plan).to_json())
    assert pair.warnings == () and sampler_words(pair, plan, "single") == []


def test_what_is_averaged_has_the_sampler_of_the_first(ensemble):
    plan = SamplingPlan(["a cat"], [7], 6, 5.0, weights=np.array([0.0, 1.0, 0.0]))
    (sample,) = METHODS["scorefusion"].run(ensemble, None, plan)
    assert np.array_equal(np.asarray(sample.image), alone(ensemble, 1, steps=6, sampler="first"))


def test_a_mixture_is_made_of_the_members_own_pictures(ensemble, folders):
    shares, seeds = np.array([0.3, 0.3, 0.4]), range(6)
    plan = SamplingPlan(["a cat"], list(seeds), 12, 5.0, weights=shares, batch_size=1)
    told = []
    plan = plan.with_(progress=lambda done, total, _: told.append((done, total)))
    drawn = {sample.seed: sample for sample in METHODS["mixture"].run(ensemble, None, plan)}
    routed = route(seeds, shares)
    assert {*routed} == {0, 1, 2}
    for seed, index in zip(seeds, routed):
        steps, guidance = (4, 1.0) if index == 2 else (12, 5.0)
        assert np.array_equal(np.asarray(drawn[seed].image), own(list(folders.values())[index], steps, guidance, seed))
    total = sum(4 if index == 2 else 12 for index in routed)
    assert told[-1] == (total, total) and all(of == total for _, of in told)


def test_prices_are_of_the_steps_that_are_taken(ensemble):
    plan = SamplingPlan(["a cat"], [7], 12, 5.0)
    price = lambda index: METHODS["single"].cost(ensemble, None, plan.with_(weights=np.eye(3)[index])).evaluations
    assert [price(index) for index in range(3)] == [24, 24, 4]
    shares = np.array([0.5, 0.0, 0.5])
    assert METHODS["mixture"].cost(ensemble, None, plan.with_(weights=shares)).evaluations == pytest.approx(14)
    assert [method.cost(ensemble, None, plan).evaluations for method in singles(ensemble).values()] == [24, 24, 4]


@pytest.mark.parametrize("method", ["single", "mixture"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_recipes_draw_it_again(ensemble, method, index):
    plan = SamplingPlan(["a cat"], [7, 8], 12, 5.0, weights=np.eye(3)[index])
    for sample in METHODS[method].run(ensemble, None, plan):
        recipe = Recipe.from_json(Recipe.of_sample(ensemble, sample, plan).to_json())
        (again,) = recipe.run(ensemble)
        assert np.array_equal(np.asarray(again.image), np.asarray(sample.image)) and recipe.sampler == "written"
        assert (recipe.steps, recipe.guidance) == ((4, 1.0) if index == 2 else (12, 5.0))
        assert Recipe.of_sample(ensemble, again, recipe.plan()).to_json() == recipe.to_json()  # also of what was drawn again


def test_recipes_of_old_draw_what_they_did(ensemble):
    plan = SamplingPlan(["a cat"], [7], 6, 5.0, weights=np.eye(3)[2])
    (sample,) = METHODS["single"].run(ensemble, None, plan.with_(sampler="first"))
    old = Recipe.of_sample(ensemble, sample, plan.with_(sampler="first"))
    assert "sampler" not in json.loads(old.to_json())
    (again,) = Recipe.from_json(old.to_json()).run(ensemble)
    (before,) = draw(ensemble, plan, np.eye(3)[2], method="single")
    assert np.array_equal(np.asarray(again.image), np.asarray(before.image))


def test_a_fit_is_drawn_with_the_members_own_samplers(ensemble):
    recipe = Recipe.of(ensemble, "mixture", SamplingPlan(["a cat"], [7], 12, 5.0), np.eye(3)[2])
    assert Recipe.from_json(recipe.to_json()).plan().sampler == "own"
    assert Recipe.of(ensemble, "scorefusion", SamplingPlan(["a cat"], [7], 12, 5.0), np.eye(3)[2]).sampler is None


def test_the_rule_for_empty_prompts_is_the_members_own(tmp_path):
    """SDXL of a kind that hears an empty negative prompt, behind one that is given zeros."""
    first, second = tiny.sdxl(tmp_path / "one"), tmp_path / "two"
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(tiny.sdxl(tmp_path / "made", 1, sibling=first))
    diffusers.StableDiffusionXLPipeline(**pipe.components, force_zeros_for_empty_prompt=False).save_pretrained(second)
    pair = load_ensemble([tiny_card("sdxl", first), tiny_card("sdxl", second)], device="cpu")
    stock = diffusers.StableDiffusionXLPipeline.from_pretrained(second)
    stock.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(7)]
    expected = stock(["a cat"], num_inference_steps=3, guidance_scale=5.0, generator=noise, height=16, width=16).images[0]
    assert np.array_equal(alone(pair, 1, steps=3), np.asarray(expected))
    assert not np.array_equal(alone(pair, 1, steps=3, sampler="first"), np.asarray(expected))


@pytest.mark.parametrize(
    ("name", "kind", "changes"),
    [("my-turbo", "EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}), ("x_lightning_4step_lora", "EulerDiscreteScheduler",
     {"timestep_spacing": "trailing"}), ("lcm-lora-sdv1-5", "LCMScheduler", {}), ("Hyper-SD15-4steps-lora", "DDIMScheduler",
     {"timestep_spacing": "trailing"})],
)  # fmt: skip
def test_an_adapter_that_makes_a_model_quick_is_drawn_with_its_sampler(sd_cards, tmp_path, name, kind, changes):
    """A LoRA brings no scheduler: its name says which one it was distilled for. The base beside it keeps its own."""
    base = sd_cards["base"]
    (file,) = Path(sd_cards["lora"].adapter).glob("*.safetensors")
    lora = shutil.copy(file, tmp_path / f"{name}.safetensors")
    pair = load_ensemble([base, replace(base, id="quick", title="quick", adapter=str(lora))], device="cpu", lora="switch")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(base.source, safety_checker=None, requires_safety_checker=False)
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **changes)
    pipe.load_lora_weights(str(lora))
    pipe.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(7)]
    expected = pipe(["a cat"], num_inference_steps=4, guidance_scale=1.0, generator=noise, height=16, width=16).images[0]
    assert np.abs(alone(pair, 1).astype(int) - np.asarray(expected).astype(int)).max() <= 1
    assert np.array_equal(alone(pair, 0), own(Path(base.source), 12, 5.0, 7))
    assert any(kind in words and "what is averaged is drawn with that of" in words for words in pair.warnings)


# ------------------------------------------------------------------------------------------------ what is said

def test_samplers_are_said(ensemble):
    words = " ".join(ensemble.warnings)
    assert "quick: it is a few-step model (its scheduler is EulerAncestralDiscreteScheduler with trailing steps" in words
    assert "euler: its own sampler is EulerDiscreteScheduler (linspace steps), with which it draws alone" in words
    plan = SamplingPlan(["a cat"], [7], 12, 5.0)
    assert sampler_words(ensemble, plan, "single", np.eye(3)[2]) == [
        "quick is drawn alone with its own sampler: EulerAncestralDiscreteScheduler (trailing steps), 4 steps, guidance 1"
    ]
    assert len(sampler_words(ensemble, plan, "mixture")) == 3
    (average,) = sampler_words(ensemble, plan, "barycenter")
    assert average.startswith(f"What is averaged is drawn with the sampler of {ensemble.names[0]}: DDIM")


def test_another_noise_schedule_is_no_other_sampler(sd_cards, tmp_path):
    """What a member predicts and at which noise is converted where it is averaged: nothing to warn of. Alone it is drawn as it is."""
    v = tiny.sd(tmp_path / "v", 8, sibling=Path(sd_cards["base"].source), prediction="v_prediction")
    pair = load_ensemble([sd_cards["base"], tiny_card("sd", v)], device="cpu")
    assert pair.warnings == () and sampler_words(pair, SamplingPlan(["a"], [1]), "single") == []
    assert np.array_equal(alone(pair, 1), own(v, 12, 5.0, 7))
    karras = diffusers.DPMSolverMultistepScheduler(**EULER, use_karras_sigmas=True, algorithm_type="sde-dpmsolver++")
    told = load_ensemble([sd_cards["base"], tiny_card("sd", sibling(tmp_path / "k", sd_cards["base"], 9, karras))], device="cpu").warnings
    assert "DPMSolverMultistepScheduler (linspace steps, Karras noise, sde-dpmsolver++), with which it draws alone" in told[0]


def test_a_report_says_which_samplers_were_used(ensemble):
    report = compare(ensemble, ["singles", "uniform"], ["a cat"], [1, 2], steps=3, guidance=1.0)
    assert "quick is drawn alone with its own sampler" in report.settings["samplers"]
    assert "What is averaged" in report.settings["samplers"]


def test_one_model_twice_is_said(sd_cards, tmp_path):
    base = sd_cards["base"]
    plain = lambda cards: [w for w in load_ensemble(cards, device="cpu").warnings if "same model" in w]
    said = "(2): it is the same model as {0}, so that their shares cannot be told apart: leave one of them out"
    assert plain([base, base]) == [f"{base.title} {said.format(base.title)}"]
    for dtype in (torch.float16, torch.bfloat16):
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(base.source, dtype=dtype, safety_checker=None)
        pipe.save_pretrained(rounded := tmp_path / str(dtype))
        assert len(plain([base, sd_cards["second"], tiny_card("sd", rounded)])) == 1
    again = shutil.copytree(sd_cards["lora"].adapter, tmp_path / "again")
    for lora in ("switch", "merge"):
        one, other = sd_cards["lora"], replace(sd_cards["lora"], id="again", title="again", adapter=str(again))
        told = load_ensemble([base, one, other, sd_cards["lora2"]], device="cpu", lora=lora).warnings
        assert [words.partition(": ")[0] for words in told if "same model" in words] == ["again"]
    assert plain([base, replace(base, prompt_template="{prompt}, painted")]) == [] == plain([base, sd_cards["second"]])


def test_the_command_says_it(folders, tmp_path, monkeypatch, capsys):
    from fusion.cli import main

    monkeypatch.setenv("SCOREFUSION_MODELS", str(folders["quick"].parent))
    monkeypatch.setattr("models.card.REPOSITORY", folders["base"].parent)
    out = tmp_path / "out"
    typed = ["--models", str(folders["euler"]), str(folders["quick"]), "--weights", "0", "1", "--method", "single"]
    assert main(["sample", *typed, "--prompt", "a cat", "--count", "1", "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "quick is drawn alone with its own sampler: EulerAncestralDiscreteScheduler (trailing steps), 4 steps, guidance 1" in said
    assert "4 network evaluations each" in said and command.ABOUT
    (picture,) = out.glob("*.png")
    assert Recipe.load(picture).steps == 4


def test_models_that_all_take_few_steps_are_averaged_in_few(folders, tmp_path, monkeypatch, capsys):
    from fusion.cli import main

    monkeypatch.setenv("SCOREFUSION_MODELS", str(folders["quick"].parent))
    models = [str(folders["quick"]), f"{folders['quick']}?template={{prompt}}, x"]
    typed = ["sample", "--models", *models, "--method", "uniform", "--prompt", "a"]
    for steps, evaluations in ((), 8), (("--steps", "6"), 12):
        assert main([*typed, "--count", "1", *steps, "--out", str(tmp_path / str(evaluations)), "--json"]) == 0
        said = capsys.readouterr()
        assert f"at guidance 1, the models' own, {evaluations} network evaluations each" in said.err
        assert json.loads(said.out)["samplers"] == ["What is averaged is drawn with the sampler of quick: EulerAncestralDiscreteScheduler "
                                                    "(trailing steps)"]  # fmt: skip
    assert main(["details", str(folders["quick"])]) == 0
    assert "it is a few-step model (its scheduler is EulerAncestralDiscreteScheduler with trailing steps" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ who takes few steps

LCM = ("LCMScheduler", {}, {}, "a/b", None)
KINDS = [
    (LCM, 4, 1.0), (("TCDScheduler", {}, {}, "a/b", None), 4, 1.0),
    (("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, {}, "a/b", None), 4, 1.0),
    (("DDIMScheduler", {}, {"time_cond_proj_dim": 256}, "a/b", None), 4, 8.0),
    (("EulerDiscreteScheduler", {}, {}, "ByteDance/SDXL-Lightning/sdxl_lightning_8step_unet.safetensors", None), 8, 1.0),
    (("EulerDiscreteScheduler", {}, {}, "/models/sd_xl_turbo_1.0_fp16.safetensors", None), 4, 1.0),
    (("PNDMScheduler", {}, {}, "a/b", "latent-consistency/lcm-lora-sdv1-5"), 4, 1.0),
    (("PNDMScheduler", {}, {}, "a/b", "x/Hyper-SDXL-1step-lora.safetensors"), 1, 1.0),
    (("FlowMatchEulerDiscreteScheduler", {"shift": 1.0}, {"guidance_embeds": False}, "a/b", None), 4, 1.0),
]  # fmt: skip
ORDINARY = [
    ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}, {}, "stabilityai/stable-diffusion-xl-base-1.0", None),
    ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}, {}, "a/vpred", None),
    ("DDIMScheduler", {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, {}, "a/b", None),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {"guidance_embeds": False}, "a/b", None),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 1.0}, {}, "a/b", None),
    ("PNDMScheduler", {"time_cond_proj_dim": None}, {"time_cond_proj_dim": None}, "a/hyperrealism", "x/lightning-storms"),
    ("PNDMScheduler", {}, {}, "lightning/turbot", None),
]


@pytest.mark.parametrize(("model", "steps", "guidance"), KINDS)
def test_few_step_models_are_known(model, steps, guidance):
    found = few_steps(*model)
    assert (found.steps, found.guidance) == (steps, guidance) and found.sign


@pytest.mark.parametrize("model", ORDINARY)
def test_ordinary_models_are_not_taken_for_one(model):
    assert few_steps(*model) is None


def test_a_card_says_more_than_its_files(folders, monkeypatch):
    monkeypatch.setenv("SCOREFUSION_MODELS", str(folders["quick"].parent))
    load = lambda options: load_ensemble([typed_card(f"{folders['quick']}{options}")], device="cpu").members[0]
    assert (few := few_steps_of(load("?steps=2&guidance=1.5"))).steps == 2 and few.guidance == 1.5
    assert few_steps_of(load("?steps=30")) is None and few_steps_of(load("?guidance=0")).guidance == 0
    for wrong in ("?steps=x", "?guidance=much", "?steps=0", "?steps=2000"):
        with pytest.raises(ModelError, match="steps|guidance"):
            typed_card(f"{folders['quick']}{wrong}")


def test_shipped_models_share_one_sampler():
    """Their pictures must never change."""
    cards = [card for card in catalog.values() if card.source.startswith("assets/") and not card.adapter]
    members = load_ensemble(cards[:4], device="cpu").members
    assert len({sampler_of(member) for member in members}) == 1 and not any(few_steps_of(member) for member in members)
