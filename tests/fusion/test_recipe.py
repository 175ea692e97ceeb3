"""Recipes: what is written comes back, images repeat to the last pixel, and whatever is broken gets a sentence."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fusion.methods import METHODS, SamplingPlan
from fusion.recipe import KEY, Recipe, RecipeError, described
from fusion.recipe_schema import MAX_BYTES
from fusion.weights import Weights
from models.catalog import ModelCard, typed_id
from tests.fusion import small


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return small.ensemble(tmp_path_factory.mktemp("models"))


def plan(**changes):
    return SamplingPlan(**{"prompts": ["a cat"], "seeds": [0, 1, 2, 3, 4], "steps": 2, "batch_size": 2} | changes)


def document(**changes):
    """A recipe as a plain dictionary; None removes a key."""
    whole = {"version": 1, "models": [{"id": "a"}, {"id": "b"}], "weights": [0.25, 0.75], "method": "mixture"}
    whole |= {"prompts": ["a cat"], "seeds": [1]}
    return {key: value for key, value in (whole | changes).items() if value is not None}


def refused(text):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(text if isinstance(text, str | bytes) else json.dumps(text))
    message = str(caught.value)
    assert ": " in message and len(message) < 400  # cause: cure
    return message


# ------------------------------------------------------------------------------------------------ round trips

def test_json_comes_back_equal(ensemble, tmp_path):
    weights = Weights(np.array([0.1, 0.2, 0.7]), np.array([[0, 0.3], [0.1, 0.4], [0.5, 0.9]]), ensemble.names, "calibrated proportions")
    recipe = Recipe.of(ensemble, "mixture", plan(), weights, metrics={"loss": np.float64(0.25), "table": np.eye(2)})
    assert Recipe.from_json(recipe.to_json()) == recipe == Recipe.load(recipe.save(tmp_path / "r.json"))
    assert recipe.weights == (0.1, 0.2, 0.7) and recipe.metrics["table"] == [[1.0, 0.0], [0.0, 1.0]]
    assert recipe.prompts == ("a cat",) * 5 and recipe.seeds == (0, 1, 2, 3, 4)
    assert "0.70 Cyd" in recipe.summary() and recipe.environment["dtype"] == "float32"


@given(st.lists(st.floats(1e-12, 1), min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_weights_keep_every_bit(raw):
    weights = np.array(raw) / sum(raw)
    recipe = Recipe.from_json(json.dumps(document(models=[{"id": n} for n in "abc"], weights=weights.tolist())))
    assert np.array_equal(np.array(Recipe.from_json(recipe.to_json()).weights), weights)
    assert np.array_equal(recipe.plan().weights, weights)


def test_weights_typed_with_few_decimals_are_completed():
    recipe = Recipe.from_json(json.dumps(document(models=[{"id": n} for n in "abc"], weights=[0.333, 0.333, 0.333])))
    assert recipe.plan().weights.sum() == pytest.approx(1.0, abs=1e-12) and recipe.as_weights().values[0] == pytest.approx(1 / 3)


CASES = {
    "single": [0, 1, 0], "uniform": [1 / 3, 1 / 3, 1 / 3], "scorefusion": [0.3, 0.3, 0.4], "mixture": [0.5, 0.2, 0.3],
    "matched": [0.2, 0.0, 0.8], "scorefusion_levels": None, "barycenter": [0.2, 0.3, 0.5], "superposition": [0.5, 0.2, 0.3],
    "superposition_and": [0.5, 0.0, 0.5], "merge": [0.6, 0.0, 0.4], "switch": [0, 0, 1],
    "finetune": "trained", "transfer": "trained", "transfer_unfrozen": "trained", "scratch": "trained",
}  # fmt: skip


@pytest.mark.parametrize("method", list(METHODS))
def test_an_image_is_drawn_again_to_the_last_pixel(ensemble, tmp_path, method):
    weights = CASES[method]
    if weights is None:
        rows = np.array([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]])
        weights = Weights(rows, None, ensemble.names, "levels", np.array([-6.0, 0.1, 9.2]))
    drawn = plan(trained=small.trained(ensemble, method)) if weights == "trained" else plan(weights=weights)
    for number, sample in enumerate(METHODS[method].run(ensemble, None, drawn)):
        file = Recipe.of_sample(ensemble, sample, drawn).save_png(sample.image, tmp_path / f"{number}.png")
        again = list(Recipe.load(file).run(ensemble))
        assert len(again) == 1 and (again[0].prompt, again[0].seed, again[0].member) == (sample.prompt, sample.seed, sample.member)
        with Image.open(file) as saved:
            assert np.array_equal(np.asarray(saved), np.asarray(again[0].image))


def test_a_whole_run_is_drawn_again(ensemble):
    drawn = plan(weights=[0.5, 0.2, 0.3], prompts=list(small.PROMPTS), seeds=[5, 6, 7], guidance=3.0)
    first = list(METHODS["mixture"].run(ensemble, None, drawn))
    again = list(Recipe.from_json(Recipe.of(ensemble, "mixture", drawn).to_json()).run(ensemble))
    assert len(first) == len(again) == 3
    assert all(np.array_equal(np.asarray(a.image), np.asarray(b.image)) for a, b in zip(first, again))


def test_what_of_refuses(ensemble):
    with pytest.raises(RecipeError, match="needs the weights"):
        Recipe.of(ensemble, "mixture", plan())
    with pytest.raises(RecipeError, match="finite"):
        Recipe.of(ensemble, "mixture", plan(), np.array([0.5, 0.5, float("nan")]))
    with pytest.raises(RecipeError, match="finite"):
        Recipe.of(ensemble, "mixture", plan(weights=[0.5, 0.5, 0]), metrics={"loss": float("inf")})


def test_paths_of_the_maker_stay_private(ensemble, tmp_path):
    text = Recipe.of(ensemble, "uniform", plan(weights=[1 / 3] * 3)).to_json()
    assert str(tmp_path.parent.parent) not in text and '"source": "ada"' in text
    folder = tmp_path / "mü & x"
    secret = ModelCard(typed_id(str(folder), None, f"{folder}/lora", components=str(folder), template="a{prompt}"), "X", "sd", str(folder),
                       adapter=f"{folder}/lora", components=str(folder), prompt_template="a{prompt}")  # fmt: skip
    kept = described(secret)
    assert tmp_path.name not in json.dumps(kept) and kept["id"].startswith("mü & x+lora?") and kept["id"].endswith("template=a{prompt}")
    shipped = described(ModelCard("portraits/x", "X", "sd", "assets/models/portraits/x", licence="MIT"))
    path = "assets/models/portraits/x"
    assert shipped == {"id": "portraits/x", "title": "X", "family": "sd", "source": path, "prompt_template": "{prompt}"}


# ------------------------------------------------------------------------------------------------ broken files

@pytest.mark.parametrize("text, word", [
    ("", "JSON"), ("{", "line 1"), ("hello", "JSON"), (b"\xff\xfe\x00", "JSON"), ("[" * 200_000, "JSON"),
    ("[]", "version"), ("{}", "version"),
    ("null", "version"), ('{"version": 2}', "update"), ('{"version": "1"}', "version"), ('{"version": 0}', "version"),
    ('{"version": 1}', "required"), ("9" * 5000, "JSON"), (" " * (MAX_BYTES + 1), "MB"),
])  # fmt: skip
def test_what_is_no_recipe(text, word):
    assert word in refused(text)


@pytest.mark.parametrize("changes, word", [
    ({"weights": [0.5, 0.6]}, "sum to 1"), ({"weights": [1.5, -0.5]}, "weights"),
    ({"weights": [1.0]}, "1 weights for 2 models"),
    ({"weights": "equal"}, "weights"), ({"weights": []}, "weights"), ({"weights": [[0.5, 0.5], [1.0]]}, "lengths"),
    ({"weights": [True, False]}, "weights"), ({"weights": [[0.5, 0.5]]}, "strata"), ({"strata": [0, 1]}, "strata"),
    ({"weights": [[0.5, 0.5]], "strata": [1, 0]}, "rise"), ({"interval": [[0, 1]]}, "interval"),
    ({"interval": [[0, 2], [0, 1]]}, "interval"),
    ({"method": "magic"}, "single, uniform"), ({"method": None}, "method"), ({"prompts": []}, "prompts"),
    ({"prompts": ["x" * 5000]}, "prompts"),
    ({"prompts": ["a", "b"], "seeds": [1, 2, 3]}, "2 prompts and 3 seeds"), ({"seeds": [-1]}, "seeds"), ({"seeds": [1.5]}, "seeds"),
    ({"steps": 0}, "steps"), ({"steps": 10**9}, "steps"), ({"height": 10**6}, "height"), ({"guidance": -1}, "guidance"),
    ({"models": []}, "models"), ({"models": [{"id": "a", "run": "rm"}]}, "models"), ({"models": [{"id": 5}, {"id": "b"}]}, "models"),
    ({"models": [{"id": "a", "sha256": {"f": "xyz"}}, {"id": "b"}]}, "sha256"),
    ({"surprise": 1}, "surprise"), ({"batch_size": 0}, "batch_size"),
])  # fmt: skip
def test_broken_recipes_name_the_place(changes, word):
    assert word in refused(document(**changes))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(number):
    text = json.dumps(document(weights=[0.25, 0.5])).replace("0.25", number)
    assert "finite" in refused(text)
    assert "finite" in refused(json.dumps(document(metrics={"x": 0.25})).replace("0.25}", number + "}"))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
KEYS = st.sampled_from(list(document()))


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6)))
@settings(max_examples=60, deadline=None)
def test_any_json_is_a_recipe_or_a_sentence(value):
    for content in (value, document() | value if isinstance(value, dict) else document(weights=value)):
        try:
            Recipe.from_json(json.dumps(content))
        except RecipeError as error:
            assert ": " in str(error)


def test_files_that_hold_no_recipe(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "chat.webp")
    (tmp_path / "cut.png").write_bytes((tmp_path / "plain.png").read_bytes()[:20])
    info = PngInfo()
    info.add_text(KEY, "{not json")
    Image.new("RGB", (8, 8)).save(tmp_path / "bad.png", pnginfo=info)
    loaded = {"plain.png": "holds no recipe", "photo.jpg": "is JPEG and holds no recipe", "chat.webp": "is WebP and holds",
              "cut.png": "PNG", "bad.png": "JSON", "gone.json": "cannot be opened"}
    for name, word in loaded.items():
        with pytest.raises(RecipeError, match=word):
            Recipe.load(tmp_path / name)
    for name, word in {"photo.jpg": "PNG", "gone.png": "no file"}.items():
        with pytest.raises(RecipeError, match=word):
            Recipe.from_png(tmp_path / name)


def test_a_recipe_in_a_huge_picture_is_read_without_its_pixels_or_refused(tmp_path):
    from tests.fusion.test_images import huge_png

    huge_png(tmp_path / "bomb.png", 20_000, 20_000)
    with pytest.raises(RecipeError):
        Recipe.from_png(tmp_path / "bomb.png")


# ------------------------------------------------------------------------------------------------ models

HASH, OTHER = "0" * 64, "1" * 64
COMMIT, NEWER = "a" * 40, "b" * 40


def card(**changes):
    return ModelCard(**{"id": "a", "title": "A", "family": "sd", "source": "owner/a", "revision": COMMIT, "sha256": {"f": HASH}} | changes)


def test_cards_are_found_and_compared():
    models = [described(card())]
    recipe = Recipe.from_json(json.dumps(document(models=models, weights=[1.0])))
    assert recipe.cards({"a": card()}) == [card()]
    assert recipe.cards({}, {"a": card()}) == [card()]
    for wrong, word in [({}, "not installed"), ({"a": card(revision=NEWER)}, NEWER), ({"a": card(sha256={"f": OTHER})}, "another hash")]:
        with pytest.raises(RecipeError, match=word):
            recipe.cards(wrong)
    assert recipe.cards({"a": card(sha256={}, revision=None)})  # a card that states less cannot contradict


def test_recipes_are_frozen():
    recipe = Recipe.from_json(json.dumps(document()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.weights = (1.0, 0.0)
