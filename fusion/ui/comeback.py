"""Section 6, the way back: a recipe.json, or an image that carries its recipe, becomes the page's state and draws the same images again.

A recipe holds no target images: fit and pictures stay as they are. Whatever is wrong with it is said here, and the page stays as it was.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from . import draw, fit, foreign, jobs, models_section, prompts, state, texts

SHOWN = 64  # images drawn again at most; the command line draws all
ROUTED = ("mixture", "single")  # methods whose weights are proportions of samples, as in Mix
FITTED = ("fit", "fit_ids", "fit_pictures", "blend")
KEPT = ("selected", "plan", "mode", "weights", *FITTED)


@dataclass
class Loaded:
    """A recipe taken back. `picture`: the image that carried it; `before`: what the visitor had, for Undo; `difference`: 0..255."""

    recipe: object
    cards: list
    name: str
    picture: object | None = None
    before: dict = field(default_factory=dict)
    after: object | None = None  # the fit as it was just after loading: a later one is not undone
    shots: list[state.Shot] = field(default_factory=list)
    difference: int | None = None

    @property
    def images(self) -> int:
        return 1 if self.recipe.picture is not None else max(len(self.recipe.prompts), len(self.recipe.seeds))


def weights_of(recipe) -> np.ndarray:
    """`(K,)` shares of a recipe's models, averaged over noise levels where they differ by level."""
    values = np.asarray(recipe.weights, float)
    shares = values if values.ndim == 1 else values.mean(0)
    return shares / shares.sum()


def jobs_of(recipe) -> list[tuple[str, int]]:
    """`(prompt, seed)` of every image of a recipe."""
    from fusion.methods import SamplingPlan

    return SamplingPlan(list(recipe.prompts), list(recipe.seeds)).jobs


# ------------------------------------------------------------------------------------------------ taking one


def load_all(session, paths: list[str]) -> None:
    """A recipe and, where its method trained, the file of what was trained: laid side by side, as they were saved."""
    folder = Path(tempfile.mkdtemp(prefix="recipe-", dir=session.folder))
    for path in paths:
        shutil.copyfile(path, folder / Path(path).name)
    recipes = [p for p in paths if not p.endswith(".safetensors")]
    if recipes:
        load(session, str(folder / Path(recipes[0]).name))
    else:
        session.note("comeback", "bad", session.tell("comeback.alone", name=Path(paths[0]).name))


def load(session, path: str) -> bool:
    """Take the recipe in a .json file or in a PNG, or what another program's picture says (`foreign`). False, with a sentence in place and
    nothing changed, when it cannot be used."""
    from fusion.foreign import ForeignRecipe
    from fusion.recipe import Recipe, RecipeError

    name = Path(path).name
    try:
        recipe = Recipe.load(path)
        picture = None
        if recipe.picture is not None and Path(path).read_bytes()[:4] == b"\x89PNG":
            picture = _pixels(path)
        return take(session, recipe, name, picture)
    except ForeignRecipe as error:
        return _refuse(session, name, error) if error.found is None else foreign.take(session, error.found, name)
    except (RecipeError, OSError) as error:
        return _refuse(session, name, error)


def _pixels(path: str):
    """The picture itself, decoded under the intake's own limit and never reduced: a redrawn one is compared with it bit by bit."""
    from PIL import Image

    from fusion.images import MAX_PIXELS
    from fusion.recipe import RecipeError

    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height <= MAX_PIXELS:
                return image.convert("RGB")
            size = f"{image.width:,} x {image.height:,}"
    except Exception:  # decoders raise nearly anything for broken files
        raise RecipeError("this picture cannot be read as PNG: choose an image as it was saved here, not a converted copy") from None
    raise RecipeError(f"this picture has {size} pixels and at most {MAX_PIXELS // 10**6} million are read: "
                      "choose an image as it was saved here")  # fmt: skip


def take(session, recipe, name: str, picture=None) -> bool:
    """Make a checked recipe the page's state: models, prompts, seeds, steps, method, weights. Target and fit stay."""
    from fusion.recipe import RecipeError, described

    try:
        local = {described(card)["id"]: card for card in session.added.values()}
        cards = recipe.cards(models_section.offered(session), local)
    except RecipeError as error:
        return _refuse(session, name, error)
    recipe = _with_trained(session, recipe)
    before = {key: getattr(session, key) for key in KEPT}
    before |= {"plan": replace(session.plan), "selected": list(session.selected), "weights": dict(session.weights)}
    session.filled = None
    session.loaded = Loaded(recipe, cards, name, picture, before)
    _apply(session, recipe, cards)
    session.loaded.after = session.fit
    unsure, exact = _unchecked(recipe, cards), _set_plan(session.plan, recipe)
    said = [session.tell("comeback.no_hashes", models=texts.join(session.language, unsure))] if unsure else []
    said += [] if exact else [session.tell("comeback.near")]
    session.note("comeback", "warn" if unsure else "info", session.tell("comeback.taken", name=name), *said)
    return True


def _with_trained(session, recipe):
    """The recipe with what this visitor's fit has trained, where that is the very thing it draws with."""
    trained = None if recipe.trained is None or session.fit is None else session.fit.trained.get(recipe.method)
    return recipe if trained is None or trained.sha256 != recipe.trained["sha256"] else replace(recipe, record=trained)


def _refuse(session, name: str, error: Exception) -> bool:
    reason = texts.translate(session.language, str(error))
    session.note("comeback", "bad", session.tell("comeback.refused", name=name, reason=reason))
    return False


def _unchecked(recipe, cards) -> list[str]:
    """Titles of models for which the recipe, or the card here, says no hash: nobody can tell whether they are the same."""
    return list(dict.fromkeys(c.title for model, c in zip(recipe.models, cards) if not set(model.get("sha256", {})) & set(c.sha256)))


def _apply(session, recipe, cards) -> None:
    """Models and weights; a model that is named twice gets the sum."""
    before = [c.id for c in models_section.chosen(session)]
    shares = {}
    for card, share in zip(cards, weights_of(recipe)):
        shares[card.id] = shares.get(card.id, 0.0) + float(share)
    session.selected = list(shares)
    models_section.carry(session, before)
    session.mode = "mix" if recipe.method in ROUTED else "blend"
    session.weights[session.mode] = np.array([shares[c.id] for c in models_section.chosen(session)])
    session.stamp += 1


def _set_plan(plan, recipe) -> bool:
    """Prompts, seeds and steps for section 4, as near as its grid of consecutive seeds can be. True if it is the same set of images."""
    asked = jobs_of(recipe)
    said, seeds = list(dict.fromkeys(p for p, _ in asked)), sorted({s for _, s in asked})
    plan.prompts = tuple(p[: prompts.LONGEST] for p in said[: prompts.MOST] if p.strip()) or plan.prompts
    plan.first_seed = state.whole(seeds[0], plan.first_seed, 0, state.MAX_SEED - 64)
    plan.count = min(len(seeds), 16)
    plan.steps, plan.guidance = state.whole(recipe.steps, plan.steps, 2, 100), state.guidance(recipe.guidance, plan.guidance)
    plan.negative, plan.clip_skip = recipe.negative_prompt, recipe.clip_skip
    plan.methods = tuple(dict.fromkeys([*plan.methods, recipe.method, "yours"]))
    grid = {(p, s) for p in plan.prompts for s in plan.seeds}
    return grid == set(asked) and (plan.steps, plan.guidance) == (recipe.steps, recipe.guidance)


def undo(session, data: dict) -> None:
    """Everything as it was before the recipe, whose own images go; or before another program's picture, where that came later."""
    if session.filled is not None:
        foreign.undo(session)
        return
    if session.loaded is None:
        return
    newer = session.fit is not session.loaded.after
    for key, value in session.loaded.before.items():
        if not (newer and key in FITTED):
            setattr(session, key, value)
    session.loaded = None
    session.notes.pop("comeback", None)
    session.stamp += 1


# ------------------------------------------------------------------------------------------------ drawing again


def run(session):
    """Generator: the recipe's own images, as it says, whatever section 4 is set to; compared with the picture that carried it."""
    loaded = session.loaded
    if loaded is None:
        return
    session.notes.pop("comeback", None)
    loaded.shots, loaded.difference = [], None

    def work(job) -> None:
        for sample in draw.again(loaded.cards, loaded.recipe, job=job):
            path = session.folder / f"again-{session.stamp}-{len(loaded.shots)}.png"
            draw.save(sample, loaded.cards, loaded.recipe.plan(), path)
            loaded.shots.append(state.Shot(str(path), sample.prompt, int(sample.seed), tuple(map(float, sample.weights)), sample.member))
            if loaded.picture is not None:
                loaded.difference = draw.difference(sample.image, loaded.picture)
            if len(loaded.shots) >= SHOWN:
                return

    job = jobs.Job("redraw", work)
    yield from fit.follow(session, job)
    if job.stopped() and "comeback" not in session.notes:
        session.note("comeback", "warn", session.tell("run.stopped_early" if loaded.shots else "run.stopped_nothing"))
    yield
