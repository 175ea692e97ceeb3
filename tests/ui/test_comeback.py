"""A recipe comes back: the state it describes, the same pixels, and one sentence in place for every recipe that cannot be used."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from fusion.ui import comeback, comeback_card, draw, engine, jobs, models_section, state, target, texts, uploads
from models.catalog import ModelCard
from tests.fusion import small


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    from dataclasses import replace

    hashes = {"unet/weights.safetensors": "0" * 64}
    return {card.id: replace(card, sha256=hashes) for card in small.cards(tmp_path_factory.mktemp("models"))}


@pytest.fixture
def session(cards, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    monkeypatch.setattr(engine, "cards", lambda: cards)
    monkeypatch.setattr(engine, "ensemble", draw_ensemble := _loader())
    monkeypatch.setattr(draw, "ensemble", draw_ensemble)
    return state.Session(selected=["tiny/ada", "tiny/bea"], plan=state.Plan(prompts=("a hen",), first_seed=1, count=2, steps=5))


_loaded = {}


def _loader():
    """Loads the tiny models once; their made-up hashes are for the recipe to compare, not for the files."""
    from dataclasses import replace

    from models.loading import load_ensemble

    def ensemble(chosen, progress=None):
        key = tuple(c.id for c in chosen)
        if key not in _loaded:
            _loaded[key] = load_ensemble([replace(c, sha256={}) for c in chosen], device="cpu")
        return _loaded[key]

    return ensemble


def recipe_of(cards, **changes) -> dict:
    from fusion.recipe import described

    content = {
        "models": [described(cards["tiny/cyd"]), described(cards["tiny/ada"])], "weights": [0.75, 0.25], "method": "mixture",
        "prompts": ["a cat", "a cat", "a dog", "a dog"], "seeds": [7, 8, 7, 8], "steps": 3, "version": 1,
    }  # fmt: skip
    return content | changes


def write(tmp_path, content, name="recipe.json"):
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return str(tmp_path / name)


def shown(session):
    return list(session.selected), vars(session.plan).copy(), session.mode, {k: list(v) for k, v in session.weights.items()}


def test_a_recipe_becomes_the_state(session, cards, tmp_path):
    assert comeback.load(session, write(tmp_path, recipe_of(cards)))
    assert [c.id for c in models_section.chosen(session)] == ["tiny/ada", "tiny/cyd"]
    np.testing.assert_allclose(session.weights["mix"], [0.25, 0.75])  # in the page's order
    plan = session.plan
    assert (session.mode, plan.prompts, plan.seeds, plan.steps) == ("mix", ("a cat", "a dog"), (7, 8), 3)
    assert {"mixture", "yours"} <= set(plan.methods)
    assert [kind for kind, _ in session.notes["comeback"]] == ["info"]  # exact grid, hashes known
    assert "Cyd 0.75" in comeback_card.render(session)


def test_undo_puts_everything_back(session, cards, tmp_path):
    before = shown(session)
    comeback.load(session, write(tmp_path, recipe_of(cards)))
    assert shown(session) != before
    comeback.undo(session, {})
    assert shown(session) == before and session.loaded is None and "comeback" not in session.notes


@pytest.mark.parametrize("language", texts.LANGUAGES)
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("{", "JSON"), ("[1, 2]", "version"), ({"version": 9}, "9"), ({"version": "x"}, "x"), ({"weights": [0.5, float("nan")]}, "NaN"),
        ({"weights": [0.5, 0.6]}, "1.1"), ({"weights": [1.0]}, "2"), ({"method": "alchemy"}, "alchemy"), ({"steps": 0}, "steps"),
        ({"models": [{"id": "nobody/nothing"}, {"id": "tiny/ada"}]}, "nobody/nothing"), ({"seeds": [1, 2, 3]}, "3"),
        ({"models": [{"id": "tiny/ada", "sha256": {"unet/weights.safetensors": "1" * 64}}, {"id": "tiny/bea"}]}, "weights.safetensors"),
        ("x" * 1_100_000, "1 MB"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_and_changes_nothing(session, cards, tmp_path, change, word, language):
    session.language = language
    before = shown(session)
    path = write(tmp_path, change if isinstance(change, str) else recipe_of(cards, **change))
    assert not comeback.load(session, path)
    (kind, sentence), *_ = session.notes["comeback"]
    assert kind == "bad" and word in sentence and shown(session) == before and session.loaded is None
    if language == "ja":
        assert re.search(r"[\u3040-\u30ff]", sentence)


def test_missing_hashes_are_a_warning(session, cards, tmp_path):
    bare = recipe_of(cards, models=[{"id": "tiny/cyd"}, {"id": "tiny/ada"}])
    assert comeback.load(session, write(tmp_path, bare))
    kind, sentence = session.notes["comeback"][-1]
    assert kind == "warn" and "Cyd and Ada" in sentence and session.selected == ["tiny/cyd", "tiny/ada"]


def test_added_folders_are_found_by_name(session, cards, tmp_path):
    card = ModelCard(str(tmp_path / "mine"), "mine", "sd", str(tmp_path / "mine"))
    session.added[card.id] = card
    named = recipe_of(cards, models=[{"id": "mine"}, {"id": "tiny/ada"}])
    assert comeback.load(session, write(tmp_path, named)) and session.selected == [card.id, "tiny/ada"]


def test_an_image_draws_itself_again_to_the_last_pixel(session, cards, tmp_path):
    chosen, plan = [cards["tiny/ada"], cards["tiny/bea"]], session.plan
    job = jobs.Job("compare", lambda j: list(draw.samples(chosen, None, "yours", plan, ("blend", [0.5, 0.5]), job=j)))
    list(job.ticks(0.01))
    sample = job.result[1]
    draw.save(sample, chosen, draw.settings(plan, chosen), tmp_path / "shot.png")
    visitor = state.Session(selected=["tiny/bea", "tiny/cyd"])
    assert comeback.load(visitor, str(tmp_path / "shot.png"))
    list(comeback.run(visitor))
    (shot,) = visitor.loaded.shots
    assert (shot.seed, shot.prompt, visitor.loaded.difference) == (2, "a hen", 0)
    np.testing.assert_array_equal(np.asarray(Image.open(shot.path)), np.asarray(sample.image))
    assert "comeback" not in visitor.notes and texts.say("en", "comeback.same") in comeback_card.render(visitor)


def test_a_recipe_among_the_pictures_is_loaded_and_a_picture_offers_its_own(session, cards, tmp_path):
    from fusion.recipe import Recipe

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    Recipe.from_json(json.dumps(recipe_of(cards))).save_png(image, tmp_path / "carrier.png")
    uploads.take(session, [write(tmp_path, recipe_of(cards, steps=9)), str(tmp_path / "carrier.png")])
    assert session.plan.steps == 9 and [p.name for p in session.pictures] == ["carrier.png"]
    assert 'data-do="recipe_of"' in target.render(session)
    target.take_recipe(session, {"index": "0"})
    assert session.plan.steps == 3 and session.loaded.name == "carrier.png"
    uploads.take(session, [write(tmp_path, "{", "bad.json")])
    assert session.notes["target"][0][1].startswith("bad.json") and len(session.pictures) == 1
