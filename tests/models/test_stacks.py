"""Adapters with strengths, and several on one model: as typed (MODEL+ADAPTER:0.7+SECOND:0.4), drawn, kept in recipes and drawn again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fusion.kept import identities
from fusion.methods import METHODS, SamplingPlan
from fusion.recipe import Recipe, RecipeError
from models import samplers
from models.catalog import catalog, split_model, typed_card
from models.details import describe
from models.errors import ModelError
from models.loading import load_ensemble
from models.stacks import Adapter, split, written

LAYERS = ["mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"]
TEXT = "lora_te_text_model_encoder_layers_1_mlp_fc1"


@pytest.fixture
def shelf(tiny_cards, tmp_path, monkeypatch):
    """A folder with a base, and adapters `one` (LoRA), `two` (LoRA of another rank), `three` (a difference), `text` (both)."""
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tmp_path))
    base = Path(shutil.copytree(tiny_cards("sd")[0].source, tmp_path / "base"))
    torch.manual_seed(1)
    for rank, name in ((2, "one"), (3, "two")):
        save_file({f"unet.{path}.{half}.weight": torch.randn(*shape) * 0.5 for path in LAYERS
                   for half, shape in (("lora_A", (rank, 16)), ("lora_B", (16, rank)))}, tmp_path / f"{name}.safetensors")  # fmt: skip
    save_file({f"unet.{LAYERS[0]}.diff": torch.randn(16, 16) * 0.3}, tmp_path / "three.safetensors")
    text = {f"{TEXT}.lora_down.weight": torch.randn(2, 16), f"{TEXT}.lora_up.weight": torch.randn(32, 2)}
    save_file(text | load_file(tmp_path / "one.safetensors"), tmp_path / "text.safetensors")
    return base


def change(shelf: Path, name: str, path: str) -> torch.Tensor:
    held = load_file(shelf.with_name(f"{name}.safetensors"))
    if f"unet.{path}.diff" in held:
        return held[f"unet.{path}.diff"]
    return held[f"unet.{path}.lora_B.weight"] @ held[f"unet.{path}.lora_A.weight"] if f"unet.{path}.lora_B.weight" in held else 0.0


def typed(shelf: Path, *worn: str) -> str:
    """`one:0.7` as a path behind the base."""
    places = [f"{shelf.with_name(name)}.safetensors{colon}{number}" for name, colon, number in (one.partition(":") for one in worn)]
    return "+".join([str(shelf), *places])


def load(*texts: str, lora: str = "switch"):
    return load_ensemble([typed_card(text) for text in texts], device="cpu", lora=lora)


def draw(ensemble, weights, method="scorefusion", **more):
    plan = SamplingPlan(["a red cat"], [5], 3, 4.0, None, None, np.array(weights, float), **more)
    return np.asarray(next(iter(METHODS[method].run(ensemble, None, plan))).image, dtype=float) / 255


def by_hand(shelf: Path, *worn: tuple[str, float]):
    """The base alone with these changes added to its weights."""
    ensemble = load(str(shelf))
    with torch.no_grad():
        for path in LAYERS:
            for name, strength in worn:
                ensemble.members[0].network.get_submodule(path).weight += strength * change(shelf, name, path)
    return ensemble


# ------------------------------------------------------------------------------------------------ as they are typed

def test_what_is_typed(tmp_path):
    there = {r"C:\m\a.safetensors", "/x/b:0.5", "/x/c+d.safetensors", "/x/e", "/x/l:2.safetensors", "/x/f@1"}.__contains__
    for text, found in {
        r"C:\m\a.safetensors:0.7+o/n:0.4": [Adapter(r"C:\m\a.safetensors", None, 0.7), Adapter("o/n", None, 0.4)],
        "/x/b:0.5": [Adapter("/x/b:0.5")], "/x/b:0.5:0.3+/x/c+d.safetensors:-1": [Adapter("/x/b:0.5", None, 0.3),
                                                                               Adapter("/x/c+d.safetensors", None, -1.0)],
        "o/n@abc:0.7+o/n/f.safetensors": [Adapter("o/n", "abc", 0.7), Adapter("o/n/f.safetensors")],
        "/x/l:2.safetensors:2+/x/f@1": [Adapter("/x/l:2.safetensors", None, 2.0), Adapter("/x/f@1")],
        "/x/e:+.5+/x/e:0": [Adapter("/x/e", None, 0.5), Adapter("/x/e", None, 0.0)], "": [],
    }.items():  # fmt: skip
        assert split(text, there) == tuple(found) and split(written(found)[1:], there) == tuple(found), text
    for text, message in {"/x/e:abc": "'abc' behind /x/e is no strength", "/x/e:0,7": "is no strength", "/x/e:": "is no strength",
                          "/x/e:nan": "must be a number from -100 to 100", "/x/e:1e9": "must be a number",
                          "/x/e+": "behind the last"}.items():  # fmt: skip
        with pytest.raises(ModelError, match=message):
            split(text, there)


def test_a_card_keeps_every_adapter(shelf):
    card = typed_card(typed(shelf, "one:0.7", "two", "one:-0.25"))
    assert [(Path(one.source).stem, one.strength) for one in card.adapters] == [("one", 0.7), ("two", 1.0), ("one", -0.25)]
    assert card.title == "one:0.7 + two + one:-0.25" and typed_card(card.id) == card
    assert card.wearing(()).adapters == () and card.wearing(card.adapters[1:]).adapters == card.adapters[1:]
    assert typed_card(typed(shelf, "one")).title == "one" and typed_card(typed(shelf, "one:1")) == typed_card(typed(shelf, "one"))
    with pytest.raises(ModelError, match="without a first one"):
        replace(card, adapter=None)
    with pytest.raises(ModelError, match="full commit"):
        replace(card, further=(Adapter("o/n", "main"),))
    with pytest.raises(ModelError, match="does not exist"):
        typed_card(typed(shelf, "one:0.7", "nowhere:0.4"))
    assert split_model(typed(shelf, "one:0.5"))[2] == (Adapter(str(shelf.with_name("one.safetensors")), None, 0.5),)


def test_an_adapter_on_a_card_that_has_one(shelf):
    shipped = next(card for card in catalog.values() if card.adapter)
    card = typed_card(f"{shipped.id}+{shelf.with_name('one.safetensors')}:0.5")
    assert [Path(one.source).name for one in card.adapters] == [Path(shipped.adapter).name, "one.safetensors"]


def test_names_with_signs_in_them(shelf):
    for name in ("a+b:0.3.safetensors", "d@e.safetensors"):
        place = shutil.copy(shelf.with_name("one.safetensors"), shelf.with_name(name))
        (adapter,) = typed_card(f"{shelf}+{place}:0.5").adapters
        assert (adapter.source, adapter.strength) == (str(place), 0.5)
    base = shutil.copytree(shelf, shelf.with_name("c:2"))
    assert typed_card(str(base)).adapters == () and typed_card(f"{base}+{place}").adapters == (Adapter(str(place)),)


def test_details_name_strengths(shelf):
    source, revision, adapters = split_model(typed(shelf, "one:0.7", "text"))
    found = describe(source, adapters, revision)
    assert found.source == typed(shelf, "one:0.7", "text") and [part.name for part in found.parts].count("adapter") == 2
    assert any(note.endswith("one.safetensors changes its network, at strength 0.7") for note in found.notes)


# ------------------------------------------------------------------------------------------------ as they are drawn

@pytest.mark.parametrize("lora", ["switch", "merge"])
@pytest.mark.parametrize("worn", [[("one", 0.7), ("two", 0.4)], [("one", -0.5)], [("one", 1.0), ("one", 1.0)],
                                  [("three", 0.5), ("one", 0.7)], [("two", 0.0), ("one", 1.0)]])  # fmt: skip
def test_a_stack_draws_what_weights_added_by_hand_draw(shelf, lora, worn):
    text = typed(shelf, *(f"{name}:{strength}" for name, strength in worn))
    ensemble = load(text, str(shelf), lora=lora)
    want = draw(by_hand(shelf, *worn), [1.0])
    assert np.abs(draw(ensemble, [1, 0]) - want).max() <= 0.0045  # 1 of 255
    assert np.abs(draw(ensemble, [0, 1]) - draw(load(str(shelf)), [1.0])).max() == 0  # the base beside it is untouched
    assert np.abs(want - draw(load(str(shelf)), [1.0])).max() > 0.02
    other = load(typed(shelf, *(f"{name}:{strength}" for name, strength in worn[::-1])), str(shelf), lora=lora)
    assert np.array_equal(draw(other, [1, 0]), draw(ensemble, [1, 0]))


@pytest.mark.parametrize("lora", ["switch", "merge"])
def test_strength_0_is_the_base_and_1_as_it_always_was(shelf, lora):
    bare = draw(load(str(shelf)), [1.0])
    for worn in (["one:0"], ["text:0", "three:0"]):
        ensemble = load(typed(shelf, *worn), str(shelf), lora=lora)
        assert np.array_equal(draw(ensemble, [1, 0]), bare) and ensemble.members[0].network is ensemble.members[1].network
        assert any("has strength 0 and changes nothing" in warning for warning in ensemble.members[0].warnings)
    assert np.array_equal(draw(load(typed(shelf, "one:1.0"), lora=lora), [1.0]), draw(load(typed(shelf, "one"), lora=lora), [1.0]))


def test_strength_is_of_text_encoders_too(shelf):
    half, whole, base = load(typed(shelf, "text:0.5"), typed(shelf, "text"), str(shelf), lora="merge").members
    encoders = [member.components["text_encoder"] for member in (half, whole, base)]
    half, whole, base = (getattr(encoder, "text_model", encoder).encoder.layers[1].mlp.fc1 for encoder in encoders)
    x = torch.randn(2, 16)
    torch.testing.assert_close(2 * (half(x) - base(x)), whole(x) - base(x), atol=1e-5, rtol=1e-4)
    assert len({*map(id, encoders)}) == 3


def test_members_of_one_adapter_at_several_strengths(shelf):
    """On one network each has its own; a few-step adapter at strength 0 makes no few-step model."""
    ensemble = load(typed(shelf, "one:0.3"), typed(shelf, "one:0.6"), typed(shelf, "one:0.3"))
    networks = {id(member.network) for member in ensemble.members}
    assert len(networks) == 1 and len({member.adapter for member in ensemble.members}) == 2
    names = identities(ensemble)
    assert names[0] == names[2] != names[1]
    quick = shelf.with_name("lcm-lora.safetensors")
    shutil.copy(shelf.with_name("one.safetensors"), quick)
    with_it, without = (load(f"{shelf}+{quick}{colon}").members[0] for colon in ("", ":0"))
    assert samplers.few_steps_of(with_it) is not None and samplers.few_steps_of(without) is None


def test_a_stack_of_kinds_needs_room_for_its_network(shelf):
    from models.loading import look
    from models.placement import plan_memory
    from models.sizes import Sizes

    worn = (typed(shelf, "three"), typed(shelf, "one"), typed(shelf, "three:0", "one:0.5"), str(shelf))
    looked = [look(typed_card(text)) for text in worn]
    sizes = Sizes.of(looked)
    assert (sizes.copies, sizes.alone) == ((3,), (1,))
    plan = plan_memory(sizes, "cpu", lora="switch", free=10**9)
    assert plan.needed["networks"] == 2 * 4 * sizes.networks[0] and "2 LoRAs switched, 1 adapter of other kinds merged" in plan.why


# ------------------------------------------------------------------------------------------------ as they are kept

@pytest.mark.parametrize("worn", [["one:0.7", "two:0.4"], ["one"], ["three:-0.5"]])
def test_recipes_record_every_adapter_and_draw_again(shelf, worn):
    text = typed(shelf, *worn)
    ensemble = load(text, str(shelf))
    plan = SamplingPlan(["a red cat"], [5], 3, 4.0, None, None, np.array([0.5, 0.5]))
    first = next(iter(METHODS["scorefusion"].run(ensemble, None, plan)))
    recipe = Recipe.from_json(Recipe.of_sample(ensemble, first, plan).to_json())
    assert str(shelf.parent) not in recipe.to_json()
    model = recipe.models[0]
    kept = [(model["adapter"], model.get("strength", 1.0)), *((one["source"], one["strength"]) for one in model.get("further", ()))]
    assert kept == [(f"{name}.safetensors", float(number or 1)) for name, _, number in (one.partition(":") for one in worn)]
    assert ("strength" in model or "further" in model) == (worn != ["one"])
    assert len([path for path in model["sha256"] if path.startswith("adapter")]) == len(worn)
    local = lambda *texts: {model["id"]: typed_card(one) for model, one in zip(recipe.models, texts)}
    again = load_ensemble(recipe.cards(catalog, local(text, str(shelf))), device="cpu", lora="switch")
    assert np.array_equal(np.asarray(next(recipe.run(again)).image), np.asarray(first.image))
    for other in (typed(shelf, "one:0.6", "two:0.4"), str(shelf)):
        with pytest.raises(RecipeError, match="the recipe was made with .*, and here it has .*: add it that way"):
            recipe.cards(catalog, local(other, str(shelf)))
    name = worn[0].partition(":")[0]
    file = shelf.with_name(f"{name}.safetensors")
    save_file({key: value * 2 for key, value in load_file(file).items()}, file)
    with pytest.raises(RecipeError, match=f"{name}.safetensors has another hash"):
        recipe.cards(catalog, local(text, str(shelf)))


def test_recipes_of_before_are_read(shelf):
    """One adapter, no strength, no hash of its file."""
    ensemble = load(typed(shelf, "one"), str(shelf))
    recipe = Recipe.of(ensemble, "scorefusion", SamplingPlan(["a"], [1], 1, 1.0), np.array([0.5, 0.5]))
    models = tuple({key: value for key, value in model.items() if key != "sha256"} for model in recipe.models)
    old = Recipe.from_json(replace(recipe, models=models).to_json())
    local = {model["id"]: card for model, card in zip(old.models, ensemble.cards)}
    assert old.cards(catalog, local) == list(ensemble.cards)
