"""Refusals of models and methods reach Japanese visitors in Japanese. The real code raises them, so a changed sentence is noticed."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file

from fusion.methods import METHODS, SamplingPlan
from fusion.recipe import Recipe
from fusion.ui import texts
from models import relatives
from models.catalog import card_for
from models.families import FAMILIES, check_size
from models.file_kinds import refuse_other
from models.integrity import full_header
from models.loading import load_ensemble
from models.relatives import folder_words
from tests import tiny
from tests.conftest import tiny_card
from tests.fusion import small
from tests.models.checker import with_checker
from tests.models.test_file_kinds import KINDS
from tests.models.test_loading import edit


def said(action) -> str:
    """The Japanese of whatever `action` is refused with; also checks that English stays as it is."""
    with pytest.raises(ValueError) as caught:
        action()
    sentence = str(caught.value)
    assert texts.translate("en", sentence) == sentence
    return texts.translate("ja", sentence)


def japanese(sentence: str, *names: str) -> bool:
    """Japanese, and no English words are left but `names` and what stands in brackets or quotes."""
    bare = re.sub(r"「[^」]*」|（[^）]*）|\([^)]*\)", "", sentence)
    for name in (*names, "SCOREFUSION_MODELS", "safetensors", "diffusers", "pickle", "LoRA", "Stable Diffusion"):
        bare = bare.replace(name, "")
    return bool(re.search(r"[\u3040-\u30ff]", sentence)) and not re.search(r"[A-Za-z]{5,}", bare)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    sd = tiny.portraits(root / "one")
    pickled = tiny.portraits(root / "pickled", 1, sibling=sd)
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").rename(pickled / "unet" / "diffusion_pytorch_model.bin")
    tiny.sd(root / "other", 9, size=16)  # another autoencoder
    mixed = tiny.sd(root / "mixed", 9, sibling=root / "other", size=16)
    for part, variant in (("unet", "fp16"), ("vae", "bf16")):
        (mixed / part / "diffusion_pytorch_model.safetensors").rename(mixed / part / f"diffusion_pytorch_model.{variant}.safetensors")
    return {"sd": sd, "sd3": tiny.FAMILIES["sd3"](root / "three"), "pickled": pickled, "empty": root,
            "other": root / "other", "mixed": mixed}  # fmt: skip


def test_models_that_cannot_be_named():
    for typed in ("/etc", "no/such/folder/here", "\0"):
        assert japanese(said(lambda typed=typed: card_for(typed))), typed


@pytest.mark.parametrize("name", KINDS)
def test_files_that_are_no_model(tmp_path, name):
    (tmp_path / "x.safetensors").write_bytes(KINDS[name][0])
    for sentence in (said(lambda: refuse_other(tmp_path / "x.safetensors")), said(lambda: full_header(tmp_path / "x.safetensors", "y"))):
        known = ("NumPy", "Keras", "TensorRT", "TensorFlow", "OpenVINO", "PyTorch", "TensorFlow Lite", "git annex get", "annex")
        assert japanese(sentence, "x.safetensors", *known), sentence


def test_recipes_that_a_download_replaced(tmp_path):
    for name in ("html", "pointer", "annex", "bucket"):
        (tmp_path / "x.json").write_bytes(KINDS[name][0])
        assert japanese(said(lambda: Recipe.load(tmp_path / "x.json")))


def test_weights_and_folders_that_are_no_model(tmp_path):
    parts = {name: value for name, value in vars(relatives).items() if name.isupper() and isinstance(value, str)}
    told = {*parts.values(), *(words for _, words in relatives._PIPELINES), *(words for _, words in relatives._TENSORS)}
    told |= {folder_words("x", names) for names in (["a.safetensors"], ["q.gguf"], ["b/model_index.json"], ["a.json"], ["a.plan"])}
    for words in told:
        for sentence in (f"x {words}", f"'x' {words}"):
            known = ("Adapter", "AnimateDiff", "ControlNet", "ADAPTER", "textual inversion", "components", "OpenVINO", "TensorRT", "latent")
            assert japanese(texts.translate("ja", sentence), *known, "consistency model"), sentence


def test_models_that_cannot_be_loaded_or_fused(folders, tmp_path):
    one = tiny_card("sd", folders["sd"])
    refused = [
        [one, tiny_card("sd3", folders["sd3"])],
        [tiny_card("sd", folders["pickled"])],
        [one, tiny_card("sd", folders["other"])],
        [tiny_card("sd", folders["mixed"])],
        [dataclasses.replace(one, adapter=str(folders["empty"]))],
        [tiny_card("sd", tmp_path / "gone")],
        [tiny_card("sd3", folders["sd"])],
        [dataclasses.replace(one, sha256={"model_index.json": "0" * 64})],
    ]
    for cards in refused:
        sentence = said(lambda cards=cards: load_ensemble(cards, device="cpu"))
        assert japanese(sentence, str(tmp_path), "model_index.json", "SDXL", "Medium", "Diffusion", "Stable"), sentence


def test_what_is_known_of_loaded_models(folders, sd_cards, tmp_path):
    folder = with_checker(shutil.copytree(sd_cards["second"].source, tmp_path / "own"))
    (folder / "v1.ckpt").write_bytes(b"x")
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    inside = lambda name: name.startswith("encoder.down_blocks.0.resnets.0.conv1.")  # normalised right behind it
    save_file({name: value * (0.5 if inside(name) else 1) for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    notes = load_ensemble([sd_cards["base"], tiny_card("sd", folder)], device="cpu").warnings
    assert len(notes) == 3
    for sentence in notes:
        assert japanese(texts.translate("ja", sentence), "own", "sd-a", "v1.ckpt"), sentence


def test_models_that_lie_about_their_size_or_their_kind(sd_cards, tmp_path):
    base = sd_cards["base"]
    large = tiny_card("sd", tiny.sd(tmp_path / "large", 3, sibling=Path(base.source), size=12))
    lcm = shutil.copytree(sd_cards["second"].source, tmp_path / "distilled")
    edit(lcm / "unet/config.json", time_cond_proj_dim=8)
    assert japanese(said(lambda: load_ensemble([base, large], device="cpu")), "height", "width")
    assert japanese(said(lambda: load_ensemble([base, tiny_card("sd", lcm)], device="cpu")))
    (note,) = load_ensemble([base, large], device="cpu", meeting=(None, None)).warnings
    assert japanese(texts.translate("ja", note), "large")
    assert japanese(texts.translate("ja", "it is a few-step model (its scheduler is LCMScheduler): alone it draws in 4 steps"))
    file = tmp_path / "alone.safetensors"
    save_file(load_file(Path(base.source) / "unet/diffusion_pytorch_model.safetensors"), file)
    card = dataclasses.replace(base, source=str(file), components=str(file))
    assert japanese(said(lambda: load_ensemble([card], device="cpu")), "components")


def test_methods_that_cannot_run(tmp_path):
    loaded = small.ensemble(tmp_path)
    bare, plan = dataclasses.replace(small.fit(loaded), calibrated=None), SamplingPlan(["a cat"], [0], steps=2)
    for name, fit in (("matched", bare), ("scorefusion", None), ("single", None), ("finetune", bare), ("finetune", None)):
        sentence = said(lambda name=name, fit=fit: METHODS[name].cost(loaded, fit, plan))
        assert japanese(sentence, "Fine-tune", "the published method", "the best single model", METHODS[name].title), sentence


def test_numbers_that_nothing_is_drawn_with(tmp_path):
    loaded = small.ensemble(tmp_path)
    for wrong in ({"steps": 1001}, {"guidance": float("nan")}, {"guidance": -3.0}, {"height": -8}, {"seeds": [-1]}):
        sentence = said(lambda wrong=wrong: SamplingPlan(**({"prompts": ["a cat"], "seeds": [0]} | wrong)).jobs)
        assert japanese(sentence, "nan"), sentence
    plan = SamplingPlan(["a cat"], [0], height=101)
    assert japanese(said(lambda: METHODS["uniform"].cost(loaded, None, plan)))
    pixels = SimpleNamespace(unet=loaded.members[0].network)
    assert japanese(said(lambda: check_size(pixels, FAMILIES["ddpm"], (100, 100))))


def test_notes_of_images_and_figures():
    from fusion.evaluation.columns import LOSS_NOTES, NO_LOSS, remarks

    said = [["effective sample size 1.3 of 4, 2 lineages left"] * 3 + ["effective sample size 2.6 of 4, 1 lineages left"],
            ["alone with its prompt in its batch: not corrected"] * 4, ["log densities equal to 1.2e-05", "log densities equal to 0.3"],
            ["effective sample size 1.3 of 4, 2 lineages left", "alone with its prompt in its batch: not corrected"]]  # fmt: skip
    told = [remarks([SimpleNamespace(note=note) for note in notes]) for notes in said]
    alone = "alone with its prompt in its batch: not corrected"
    for sentence in (*NO_LOSS.values(), *LOSS_NOTES.values(), "effective sample size 9.3 of 16, 4 lineages left", alone, *told):
        assert japanese(texts.translate("ja", sentence)), sentence


def test_verdicts_on_what_models_share():
    from fusion.methods.training import verdict_of
    from fusion.transfer.diagnosis import Loss, judge

    def loss(share, low, high):
        return Loss("Ada", 0.1, 0.1 + share, 1.1, share, (low, high), True)

    for found, left_out in (([loss(0.02, 0, 0.05)], [loss(0.1, 0.05, 0.15)]), ([loss(0.5, 0.4, 0.6)], []), ([loss(0.2, 0.1, 0.4)], []),
                            ([loss(0.02, 0, 0.05)], [])):  # fmt: skip
        verdict = judge(found, left_out)[1]
        for sentence in (verdict, f"Preparing took 12 s here. {verdict}"):
            assert japanese(texts.translate("ja", sentence)) and ("12" in texts.translate("ja", sentence)) == ("12" in sentence), sentence
    bare = verdict_of(SimpleNamespace(about=SimpleNamespace(diagnosis={})))
    assert japanese(texts.translate("ja", bare))


def test_a_model_tells_what_it_is_before_it_is_used(folders, monkeypatch):
    from fusion.ui import engine, models_section, state

    monkeypatch.setattr(engine, "cards", dict)
    monkeypatch.setenv("SCOREFUSION_MODELS", str(folders["empty"]))
    session = state.Session()
    models_section.add(session, {"value": str(folders["sd"])})
    (kind, added), (_, told), *_ = session.notes["models"]
    assert kind == "info" and "one" in added and session.selected == [str(folders["sd"])]
    assert "0.00 GB to fetch" in told and "licence: not stated" in told and "predicts " in told
    models_section.add(session, {"value": str(folders["pickled"])})
    assert session.notes["models"][0][0] == "bad" and len(session.selected) == 1
    models_section.add(session, {"value": str(folders["sd"]) + "?template=x"})
    assert session.notes["models"][0][0] == "bad" and len(session.selected) == 1
