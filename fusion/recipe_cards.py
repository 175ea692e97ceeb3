"""The models of a recipe: what is kept of a card, and whether the card that is here is the one that was meant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fusion.recipe_schema import RecipeError
from models.catalog import typed_id


def described(card) -> dict:
    """What a recipe keeps of a card; absolute folders by their name alone, since paths tell who made it."""
    kept = {name: getattr(card, name) for name in ("id", "title", "family", "source", "revision", "adapter", "adapter_revision",
                                                   "prediction", "components")}  # fmt: skip
    typed = card.id in (_typed_as(vars(card), revision) for revision in (None, card.revision))
    for name in ("source", "adapter", "components"):
        if kept[name] and Path(kept[name]).is_absolute():
            kept[name] = Path(kept[name]).name
    if typed:
        kept["id"] = _typed_as(kept | {"prompt_template": card.prompt_template}, card.revision if "@" in card.id else None)
    elif Path(card.id).is_absolute():
        kept["id"] = Path(card.id).name
    kept |= {"prompt_template": card.prompt_template, "sha256": dict(card.sha256)}
    return {key: value for key, value in kept.items() if value not in (None, "", {})}


def _typed_as(said: Mapping, revision: str | None) -> str:
    """The id of a model that was typed so; a template that changes nothing was not typed."""
    template = None if said["prompt_template"] == "{prompt}" else said["prompt_template"]
    return typed_id(said["source"], revision, said["adapter"], prediction=said["prediction"], components=said["components"],
                    template=template)  # fmt: skip


def known(model: Mapping, catalog: Mapping):
    """The catalogue's card of a recipe's model. Raises RecipeError when there is none."""
    if model["id"] in catalog:
        return catalog[model["id"]]
    names = ", ".join(sorted(catalog)[:12])
    raise RecipeError(f"this recipe names the model {model['id']!r}, which is not installed here: add it first. Known models: {names}")


def same_model(model: Mapping, card):
    """`card`, or RecipeError when it is not the model that the recipe was made with."""
    for name in ("revision", "adapter_revision"):
        if model.get(name) and getattr(card, name) and model[name] != getattr(card, name):
            here = getattr(card, name)
            raise RecipeError(f"{card.id} is here at {name} {here} and the recipe was made with {model[name]}: install that one")
    if model.get("prediction") != card.prediction:
        asked = f"prediction={model['prediction']}" if model.get("prediction") else "no prediction type of its own"
        raise RecipeError(f"the recipe was made with {asked} for {card.id}, and here it has {card.prediction or 'none'}: add it that way")
    wrong = [file for file, digest in card.sha256.items() if model.get("sha256", {}).get(file, digest) != digest]
    if wrong:
        raise RecipeError(f"{card.id} here is not the recipe's: {wrong[0]} has another hash. Install the version it was made with")
    return card
