"""Details of models on this machine, what cards say to people, and the command that prints them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fusion.cli import main
from fusion.commands.details import amount, told
from models.catalog import catalog, typed_card
from models.details import Details, Part, describe
from models.errors import ModelError
from models.headers import read
from models.loading import load_ensemble
from models.model_cards import front_matter, licence_of, trigger_words
from tests import tiny
from tests.models.originals import LAYOUT, original, write
from tests.models.test_lora import kohya


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_cards):
    """A folder from which models may be taken, besides those of the tiny cards."""
    monkeypatch.setenv("SCOREFUSION_MODELS", f"{tmp_path}:{Path(tiny_cards('sd')[0].source).parent}")
    return tmp_path


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_folders_of_every_kind(here, tiny_cards, tiny_ensemble, kind):
    first = tiny_cards(kind)[0]
    found, ensemble = describe(first.source), tiny_ensemble(kind)
    modules = [
        ensemble.members[0].network,
        *(value for value in ensemble.members[0].components.values() if isinstance(value, torch.nn.Module)),
    ]
    counted = sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())
    kept = (
        sum(b.numel() for name, b in ensemble.members[0].network.named_buffers() if name == "pos_embed.pos_embed")
        if kind in ("sd3", "sd35")
        else 0
    )
    assert found.parameters == counted + kept and found.memory["float32"] == 4 * found.parameters
    assert (found.family, found.prediction) == (ensemble.family.name, ensemble.noise.prediction_type)
    assert found.download == found.cached == 0 and found.problems == () and found.revision is None


@pytest.mark.parametrize("kind", LAYOUT)
def test_single_files_of_every_kind(here, tiny_cards, tiny_ensemble, kind):
    pipe = tiny_ensemble(kind).members[0].new_pipeline(tiny_ensemble(kind).family.slot)
    says = {"modelspec.prediction_type": "v" if kind == "sd2" else "epsilon"}
    found = describe(str(write(here / "x.safetensors", original(pipe, LAYOUT[kind]), **says)))
    folder = describe(tiny_cards(kind)[0].source)
    assert (found.family, found.prediction, found.problems) == (folder.family, folder.prediction, ())
    assert found.parameters == folder.parameters and {part.name for part in found.parts} == {part.name for part in folder.parts}
    assert "a single file" in found.kind and found.licence.startswith("not stated")


def test_overrides_and_what_is_missing(here, tiny_cards, tiny_ensemble):
    pipe = tiny_ensemble("sdxl").pipeline
    file = write(here / "x.safetensors", original(pipe, "sdxl", ["unet", "vae"]))
    found = describe(str(file))
    assert (found.prediction, found.how) == ("epsilon", "usual for its kind; the file does not say")
    assert "it lacks text_encoder, text_encoder_2" in found.problems[0]
    whole = describe(str(file), components=tiny_cards("sdxl")[0].source, prediction="v")
    assert (whole.prediction, whole.how, whole.problems) == ("v_prediction", "as you say", ())
    assert [part.origin for part in whole.parts] == ["x.safetensors"] * 2 + [tiny_cards("sdxl")[0].source] * 2
    assert describe(tiny_cards("sd")[0].source, prediction="v").prediction == "v_prediction"
    for wrong in (lambda: describe(str(file), family="sd"), lambda: describe("/etc/hostname"), lambda: describe("nowhere/at/all")):
        with pytest.raises(ModelError):
            wrong()
    silent = describe(str(write(here / "two.safetensors", original(tiny_ensemble("sd2").pipeline, "sd2"))))
    assert silent.prediction is None and "the network is asked" in silent.how


def test_adapters(here, tiny_cards, sd_cards):
    file = kohya(here / "lora", {"lora_unet_conv_in": (8, 4, 3, 3), "lora_te_text_model_encoder_layers_0_mlp_fc1": (32, 16)})
    (here / "lora/README.md").write_text("---\nlicense: cc0-1.0\nbase_model: owner/base\ninstance_prompt: ohwx\n---\n# hi\n")
    base = tiny_cards("sd")[0].source
    found = describe(base, str(file))
    assert found.base == "owner/base" and found.trigger == ("ohwx",) and "cc0-1.0" in found.licence
    assert found.notes == (f"{file} changes its network and text encoders",)
    assert found.parameters == describe(base).parameters + read(file).numbers
    member = load_ensemble([typed_card(f"{base}+{file}?template=ohwx%20{{prompt}}")], device="cpu").members[0]
    assert member.card.prompt_template == "ohwx {prompt}"
    (here / "lora/second.safetensors").write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="must be one safetensors file, .* holds kohya.safetensors, second.safetensors"):
        describe(base, str(here / "lora"))


def test_the_catalogue(monkeypatch):
    found = describe("portraits/harbor-lora")
    assert found.prediction == "v_prediction" and found.licence == catalog["portraits/harbor-lora"].licence
    assert found.parts[-1].name == "adapter" and found.family == "sd" and json.dumps(found.to_dict())


# ------------------------------------------------------------------------------------------------ what cards say


@pytest.mark.parametrize(("about", "text", "words"), [
    ({"instance_prompt": "a photo of sks dog"}, "", ("a photo of sks dog",)), ({"trigger_words": ["one", "two"]}, "", ("one", "two")),
    ({}, "You should use `TOK` to trigger the image generation.", ("TOK",)), ({}, "you must use **ohwx man** to trigger", ("ohwx man",)),
    ({}, "You should use `a`, `b` to trigger.\nYou should use `a` to trigger.", ("a", "b")), ({"instance_prompt": None}, "use it", ()),
    ({"instance_prompt": 7}, "", ()),
])  # fmt: skip
def test_trigger_words(about, text, words):
    assert trigger_words({}, about, text) == words
    assert trigger_words({"modelspec.trigger_phrase": "dreamy"}, {}, "") == ("dreamy",)


def test_licences_and_front_matter():
    assert (
        licence_of({"license": "other", "license_name": "flux-1-dev"}) == "flux-1-dev"
        and licence_of({"license": ["mit", "ofl"]}) == "mit, ofl"
    )
    assert licence_of({}) == "not stated: look at its source"
    assert front_matter("---\na: 1\n---\nb") == {"a": 1} == front_matter("\n---\na: 1\n---\nb")
    for text in ("", "# no", "---\na: [\n---\n", "---\n- 1\n---\n", "x\n---\na: 1\n---"):
        assert front_matter(text) == {}
    assert front_matter("---\n!!python/object/apply:os.system ['true']\n---\n") == {}  # a card cannot run anything


# ------------------------------------------------------------------------------------------------ in words


def test_typed_options(here, tiny_cards, tiny_ensemble):
    base = tiny_cards("sd")[0].source
    typed = typed_card(f"{base}?prediction=v&template=sks+{{prompt}}")
    assert (typed.prediction, typed.prompt_template, typed.family) == ("v_prediction", "sks {prompt}", "sd")
    assert typed_card("portraits/harbor") is catalog["portraits/harbor"]
    assert typed_card("portraits/base+assets/models/portraits/harbor-lora").adapter.endswith("harbor-lora")
    texts = (base, f"{base}?prediction=v_prediction", f"{base}?components={base}", f"{base}?template=%26sks+{{prompt}}")
    assert len({typed_card(text).id for text in texts}) == 4  # two of one model may stand side by side
    for card in map(typed_card, texts):
        assert typed_card(card.id) == card  # an id can be typed
    for text, message in ((f"{base}?colour=red", "'colour' is no option"), (f"{base}?v", "not a list of options"),
                          (f"{base}?template=sks", "must say where the prompt goes"),
                          (f"{base}?family=sdxl", "is of family sd, not sdxl")):  # fmt: skip
        with pytest.raises(ModelError, match=message):
            typed_card(text)


def test_the_command(here, tiny_cards, tiny_ensemble, capsys):
    file = write(here / "x.safetensors", original(tiny_ensemble("sdxl").pipeline, "sdxl", ["unet", "vae"]))
    assert main(["details", str(file), "--components", tiny_cards("sdxl")[0].source, "--prediction", "v_prediction"]) == 0
    said = capsys.readouterr().out
    assert "Stable Diffusion XL, a single file" in said and "predicts    v_prediction (as you say)" in said and "M parameters" in said
    assert main(["details", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"][0].startswith("it lacks text_encoder, text_encoder_2")
    assert main(["details", "/etc/hostname"]) == 1 and "nor below an allowed folder" in capsys.readouterr().err


def test_amounts_and_lines():
    assert [amount(size) for size in (0, 999, 1500, 4.27e9, 2.4e10)] == ["0 B", "999 B", "2 kB", "4.3 GB", "24.0 GB"]
    part = Part("vae", 1_000_000, 4_000_000, "a/b")
    found = Details("a/b", "Flux", "flux", "flow", "as all of its kind", (part,), "c" * 40, 5_000_000, 4_000_000, "x", True, ("w",), "base",
                    ("n",), ("p",))  # fmt: skip
    lines = told(found).split("\n")
    assert "  memory      4 MB in float32, 2 MB in float16 or bfloat16, and room for activations" in lines
    for line in ("download    1 MB to fetch of 5 MB", "licence     x (to be accepted on its page first)", "say         w", "note: n",
                 "cannot be used: p", "made for    base"):  # fmt: skip
        assert "  " + line in lines
