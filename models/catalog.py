"""The cards: what each model is, where it comes from, what it may be used for. Data in catalog.yaml and hashes.yaml; no model is loaded.

`python -m models.catalog hash` rewrites hashes.yaml from the shipped files; `python -m models.catalog check` compares them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

import yaml

from .card import COMMIT, REPOSITORY, ROOTS, ModelCard, allowed, hub_file, is_hub_id, local_path, located, split_commit
from .errors import ModelError
from .families import family_of
from .file_kinds import refuse_other
from .integrity import adapter_prefix, folder_hashes, full_header, index_of, refuse_pickles
from .parts import parts_of
from .stacks import Adapter, split, written

__all__ = ["ModelCard", "ModelError", "REPOSITORY", "Catalog", "card_for", "catalog", "is_hub_id", "typed_card", "typed_id"]


# ------------------------------------------------------------------------------------------------ the shipped catalog

class Catalog(Mapping):
    """The cards of catalog.yaml by id, read at first use."""

    def __init__(self, file: Path, hashes: Path):
        self.file, self.hashes = file, hashes

    @cached_property
    def cards(self) -> dict[str, ModelCard]:
        hashes = _read(self.hashes) if self.hashes.is_file() else {}
        cards = {}
        for entry in _read(self.file).get("models", []):
            card = read_card(entry)
            if card.id in cards:
                raise ModelError(f"{self.file.name} lists '{card.id}' twice: give every card an id of its own")
            known = {**hashes.get(card.source, {}), **{adapter_prefix(number) + name: value for number, one in enumerate(card.adapters)
                                                       for name, value in hashes.get(one.source, {}).items()}}  # fmt: skip
            cards[card.id] = replace(card, sha256=known) if known else card
        return cards

    def __getitem__(self, key: str) -> ModelCard:
        if key not in self.cards:
            raise KeyError(f"no model is called '{key}': the catalog has {', '.join(self.cards)}")
        return self.cards[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.cards)

    def __len__(self) -> int:
        return len(self.cards)


def _read(file: Path) -> dict:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ModelError(f"{file.name} cannot be read ({error}): restore it from the repository") from error
    if not isinstance(data, dict):
        raise ModelError(f"{file.name} must be a mapping: restore it from the repository")
    return data


def read_card(entry: Mapping) -> ModelCard:
    """A card from plain data. `population` may name a table of `models.portraits.population`. Raises ModelError, naming the card."""
    if not isinstance(entry, Mapping):
        raise ModelError(f"a card must be a mapping with id, title, family and source, not {entry!r}")
    name, values = entry.get("id", "without id"), dict(entry)
    unknown = sorted({*values} - {f.name for f in fields(ModelCard)})
    missing = sorted({"id", "title", "family", "source"} - {*values})
    if unknown or missing:
        raise ModelError(f"card '{name}': unknown fields {unknown}, missing fields {missing}")
    if isinstance(values.get("population"), str):
        from .portraits.population import MEMBER_POPULATIONS

        if values["population"] not in MEMBER_POPULATIONS:
            raise ModelError(f"card '{name}': no population is called '{values['population']}': use one of {', '.join(MEMBER_POPULATIONS)}")
        values["population"] = MEMBER_POPULATIONS[values["population"]].tolist()
    if values.get("population") is not None:
        values["population"] = tuple(tuple(float(share) for share in row) for row in values["population"])
    values["limits"] = tuple(values.get("limits") or ())
    values["further"] = tuple(Adapter(**one) for one in values.get("further") or ())
    return ModelCard(**values)


catalog = Catalog(Path(__file__).with_name("catalog.yaml"), Path(__file__).with_name("hashes.yaml"))


# ------------------------------------------------------------------------------------------------ what a user typed

def card_for(source: str, *, adapter: str | Sequence[Adapter] | None = None, revision: str | None = None, family: str | None = None,
             prediction: str | None = None, components: str | None = None) -> ModelCard:  # fmt: skip
    """A card for a hub id, or for a folder or file below an allowed root (the repository, or those named by SCOREFUSION_MODELS).

    adapter: one place, or several with strengths. family, prediction: what the model is, where its files are silent or wrong. components:
    a companion for a single file. Raises ModelError for what cannot be used. A hub model without `family` is looked up (small files and
    headers alone); give it to be refused later.
    """
    from .checkpoint import checked_prediction, detect

    source, prediction, commit = located(source.strip()) or source.strip(), checked_prediction(prediction, family), revision
    if is_hub_id(source) or hub_file(source):
        if family is None:
            from .sources import hub_family

            family, revision = hub_family(source, revision, prediction)
    else:
        place = _allowed(source)
        refuse_other(place)
        refuse_pickles(place, place.name)
        if place.is_file():
            found = detect(full_header(place, place.name), place.name, family=family, prediction=prediction).family.name
        else:
            index = index_of(place, place.name)
            found = family_of(str(index.get("_class_name"))).name
            refuse_pickles(place, place.name, parts_of(index))
        if family not in (None, found):
            raise ModelError(f"'{place.name}' is of family {found}, not {family}")
        source, family, prediction = str(place), found, checked_prediction(prediction, found)
    adapters, components = _worn(adapter), beside(components)
    title = " + ".join(one.title for one in adapters or [Adapter(source)])
    name = typed_id(source, commit, adapters, prediction=prediction, components=components)
    card = ModelCard(id=name, title=title, family=family, source=source, revision=revision, prediction=prediction, components=components,
                     licence="not stated: look at its source", summary="Added by hand.", guidance=_known_guidance(source))  # fmt: skip
    return card.wearing(adapters)


def _worn(typed: str | Sequence[Adapter] | None) -> tuple[Adapter, ...]:
    """Adapters as a card keeps them: places below allowed roots, commits in place of branches and tags."""
    found = []
    for one in (Adapter(typed),) if isinstance(typed, str) else typed or ():
        place, revision = beside(one.source), one.revision
        if revision is not None and not COMMIT.fullmatch(revision):
            from .sources import pin

            revision = pin("/".join(place.split("/")[:2]), revision)[0]
        found.append(replace(one, source=place, revision=revision))
    return tuple(found)


def _known_guidance(source: str) -> float | None:
    """What the catalog says of the guidance of these files, by whatever name they were typed."""
    place = lambda name: str(local_path(name).resolve())  # noqa: E731
    return next((card.guidance for card in catalog.values() if card.source == source or place(card.source) == place(source)), None)


def typed_card(text: str) -> ModelCard:
    """A card for what is typed after --models: a catalogue id, or MODEL[@COMMIT][+ADAPTER[:STRENGTH]...][?OPTION=VALUE&...].

    Any number of adapters: what they change adds up. On a catalogue's model that has one already they lie beside it. Options: family,
    prediction, components (see `card_for`), template, the words around every prompt, with {prompt} where it goes, and
    steps and guidance, what it is meant to be drawn with alone.
    Raises ModelError.
    """
    if text in catalog:
        return catalog[text]
    text, query = (text, "") if located(text) else text.partition("?")[::2]
    try:
        options = dict(parse_qsl(query, strict_parsing=True)) if query else {}
    except ValueError as error:
        raise ModelError(f"'{query}' is not a list of options: write them as prediction=v_prediction&template=...") from error
    unknown = options.keys() - {"family", "prediction", "components", "template", "steps", "guidance"}
    if unknown:
        raise ModelError(f"'{min(unknown)}' is no option of a model: use family, prediction, components, template, steps or guidance")
    drawn = {name: _number(name, options.pop(name)) for name in ("steps", "guidance") if name in options}
    source, revision, adapters = split_model(text)
    template = options.pop("template", None)
    mine = [name for name, card in catalog.items() if card.source.startswith("assets/")]
    if source not in catalog and source.split("/")[0] in {name.split("/")[0] for name in mine} and not local_path(source).exists():
        raise ModelError(f"'{source}' is not in the catalogue, which has {', '.join(mine)}: choose one of them")
    if source in catalog:
        adapters = (*catalog[source].adapters, *adapters)
        source = catalog[source].source if catalog[source].is_hub else str(local_path(catalog[source].source))
    card = card_for(source, adapter=adapters, revision=revision, **options)
    if template is None and not drawn:
        return card
    said = {name: f"{value:g}" for name, value in drawn.items()}
    name = typed_id(card.source, revision, card.adapters, prediction=card.prediction, components=card.components, template=template, **said)
    return replace(card, id=name, prompt_template=template or card.prompt_template, **drawn)


def _number(name: str, typed: str) -> int | float:
    """The steps or guidance that were typed of a model. Raises ModelError."""
    try:
        return int(typed) if name == "steps" else float(typed)
    except ValueError:
        raise ModelError(f"'{typed[:40]}' is no number of {name}: write it as {name}=4") from None


def typed_id(source: str, revision: str | None, adapter: str | Sequence[Adapter] | None, **options: str | None) -> str:
    """The id of a typed model, as it would be typed: it differs where anything that was said about the model differs."""
    query = urlencode({key: value for key, value in options.items() if value is not None}, quote_via=quote, safe="/:@,{} ")
    worn = written([Adapter(adapter)] if isinstance(adapter, str) else adapter or ())
    return source + (f"@{revision}" if revision else "") + worn + (f"?{query}" if query else "")


def split_model(text: str) -> tuple[str, str | None, tuple[Adapter, ...]]:
    """`(source, commit, adapters)` of `MODEL[@COMMIT][+ADAPTER[@COMMIT][:STRENGTH]...]`.

    Paths that are there keep their own `@`, `+` and `:`; the longest one wins. Raises ModelError for a strength that is none.
    """
    for end in (len(text), *(at for at in reversed(range(len(text))) if text[at] == "+")):
        if located(text[:end]):
            return text[:end], None, split(text[end + 1 :], located)
    base, _, adapters = text.partition("+")
    source, _, revision = base.partition("@")
    return source, revision or None, split(adapters, located)


def beside(typed: str | None) -> str | None:
    """An adapter or companion as a card keeps it: a hub id as it is, a path only below an allowed root."""
    typed = typed and (located(typed) or typed)
    if typed is None or is_hub_id(split_commit(typed)[0]) or hub_file(typed):
        return typed
    path = _allowed(typed)
    refuse_other(path)
    refuse_pickles(path, path.name)
    return str(path)


def _allowed(typed: str) -> Path:
    """The existing path a user typed, from the working directory or else the repository, below an allowed root once links are followed."""
    try:
        near, usual = (place.resolve() for place in (Path.cwd() / os.path.expanduser(typed), local_path(os.path.expanduser(typed))))
        path = near if near.exists() else usual
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise ModelError(f"'{typed[:80]}' is not a path ({error}): type a hub id (owner/name) or an existing folder") from error
    if not allowed(path):
        raise ModelError(f"'{typed}' is neither a hub id (owner/name) nor below an allowed folder: "
                         f"put it below the repository, or start with {ROOTS}=<folder>")  # fmt: skip
    if not exists:
        raise ModelError(f"'{typed}' does not exist: type a hub id (owner/name) or an existing folder")
    return path


# ------------------------------------------------------------------------------------------------ hashes of shipped files

def shipped_hashes() -> dict[str, dict[str, str]]:
    """`{folder: {file: sha256}}` of every shipped model folder that a card names."""
    places = {place for card in catalog.values() for place in (card.source, *(one.source for one in card.adapters))}
    folders = {place for place in places if (REPOSITORY / place).is_dir()}
    return {place: folder_hashes(REPOSITORY / place) for place in sorted(folders)}


def main(arguments: list[str] | None = None) -> int:
    """Write or check hashes.yaml. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.catalog", description="sha256 of shipped model files, in models/hashes.yaml")
    parser.add_argument("command", choices=["hash", "check"], help="hash: rewrite the file; check: compare it with the files")
    command = parser.parse_args(arguments).command
    found = shipped_hashes()
    if command == "hash":
        note = "# Generated by `python -m models.catalog hash`. Do not edit.\n"
        catalog.hashes.write_text(note + yaml.safe_dump(found, sort_keys=True, width=200), encoding="utf-8")
        print(f"{sum(map(len, found.values()))} files in {len(found)} folders")
        return 0
    known = _read(catalog.hashes)
    wrong = sorted(f"{place}/{file}" for place in {*known, *found} for file in {*known.get(place, {}), *found.get(place, {})}
                   if known.get(place, {}).get(file) != found.get(place, {}).get(file))  # fmt: skip
    print("\n".join(wrong) or "all files match")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
