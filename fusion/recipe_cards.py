"""The models of a recipe: what is kept of a card, and whether the card that is here is the one that was meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path

from fusion.recipe_schema import RecipeError
from models.card import local_path
from models.catalog import typed_id
from models.integrity import ADAPTER_FILE, adapter_prefix, file_hash
from models.sources import adapter_file


def described(card) -> dict:
    """What a recipe keeps of a card; absolute folders by their name alone, since paths tell who made it.

    The hashes of adapters' files that are here are kept, too: a file of the same name may be another.
    """
    kept = {name: getattr(card, name) for name in ("id", "title", "family", "source", "revision", "prediction", "components")}
    spelled = next((way for way in _spellings(card) if card.id == _typed_as(vars(card), *way)), None)
    for name in ("source", "components"):
        if kept[name]:
            kept[name] = _name(kept[name])
    if spelled:
        revision, worn = spelled
        worn = [replace(one, source=_name(one.source)) for one in worn]
        kept["id"] = _typed_as(kept | {"prompt_template": card.prompt_template}, revision, worn)
    elif Path(card.id).is_absolute():
        kept["id"] = Path(card.id).name
    kept |= {"prompt_template": card.prompt_template, "sha256": {**_adapter_hashes(card), **card.sha256}}
    return {key: value for key, value in (kept | _worn(card)).items() if value not in (None, "", {}, [])}


def _name(place: str) -> str:
    return Path(place).name if Path(place).is_absolute() else place


def _worn(card) -> dict:
    """A card's adapters; what is usual is left out, so that recipes of one plain adapter are as they always were."""
    plain = [{"source": _name(one.source), "revision": one.revision, "strength": one.strength} for one in card.adapters]
    if not plain:
        return {}
    first, *further = plain
    found = {"adapter": first["source"], "adapter_revision": first["revision"], "strength": first["strength"],
             "further": [{key: value for key, value in one.items() if value is not None} for one in further]}  # fmt: skip
    return found if first["strength"] != 1 else {key: value for key, value in found.items() if key != "strength"}


def _adapter_hashes(card) -> dict[str, str]:
    """`{adapter's file: sha256}` of the adapters that lie here. On the hub a commit says which file is meant."""
    found = {}
    for number, one in enumerate(card.adapters):
        if local_path(one.source).exists() and not any(path.startswith(adapter_prefix(number)) for path in card.sha256):
            file = adapter_file(one, card.title)
            about = file.stat()
            found[adapter_prefix(number) + file.name] = _hash(file, about.st_size, about.st_mtime_ns)
    return found


@lru_cache(64)
def _hash(file: Path, _size: int, _changed: int) -> str:
    return file_hash(file)


def _spellings(card) -> list[tuple]:
    """`(revision, adapters)`: the ways a card's model may have been typed, with the commits that were found since or without."""
    bare = [replace(one, revision=None) for one in card.adapters]
    mixed = product(*({one, plain} for one, plain in zip(card.adapters, bare))) if len(bare) < 8 else [card.adapters, bare]
    return [(revision, worn) for worn in mixed for revision in (None, card.revision)]


def _typed_as(said: Mapping, revision: str | None, adapters: Sequence) -> str:
    """The id of a model that was typed so; a template that changes nothing was not typed."""
    template = None if said["prompt_template"] == "{prompt}" else said["prompt_template"]
    return typed_id(said["source"], revision, adapters, prediction=said["prediction"], components=said["components"], template=template)


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
    _same_adapters(model, card)
    wrong = [file for file, digest in card.sha256.items() if model.get("sha256", {}).get(file, digest) != digest]
    if wrong:
        raise RecipeError(f"{card.id} here is not the recipe's: {wrong[0]} has another hash. Install the version it was made with")
    return card


def _same_adapters(model: Mapping, card) -> None:
    """Raises RecipeError where a recipe that tells of its adapters was made with others, or with other strengths."""
    asked = [(model["adapter"], model.get("strength", 1.0))] if model.get("adapter") else []
    asked += [(one["source"], one.get("strength", 1.0)) for one in model.get("further", ())]
    here = [(_name(one.source), one.strength) for one in card.adapters]
    told = lambda worn: " + ".join(f"{_bare(name)}:{strength:g}" for name, strength in worn) or "no adapter"  # noqa: E731
    renamed = sorted(name for name, _ in asked) != sorted(name for name, _ in here)
    pick = (lambda worn: sorted(strength for _, strength in worn)) if renamed else sorted
    if "source" in model and pick(asked) != pick(here):
        raise RecipeError(f"the recipe was made with {told(asked)} on {card.title}, and here it has {told(here)}: add it that way")
    files = {path: digest for path, digest in model.get("sha256", {}).items() if ADAPTER_FILE.match(path) and path.endswith(".safetensors")}
    found = {*_adapter_hashes(card).values()}
    if found and (lost := [path for path, digest in files.items() if digest not in found]):
        name = lost[0].partition(":")[2]
        raise RecipeError(f"{card.title} here is not the recipe's: {name} has another hash. Install the version it was made with")


def _bare(name: str) -> str:
    return name.removesuffix(".safetensors")
