"""The cards: what each model is, where it comes from, what it may be used for. Data in catalog.yaml and hashes.yaml; no model is loaded.

`python -m models.catalog hash` rewrites hashes.yaml from the shipped files; `python -m models.catalog check` compares them.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import yaml

from .errors import ModelError
from .families import FAMILIES, family_of
from .integrity import ADAPTER, folder_hashes, read_json, refuse_pickles

__all__ = ["ModelCard", "ModelError", "REPOSITORY", "Catalog", "card_for", "catalog", "is_hub_id"]

REPOSITORY = Path(__file__).resolve().parents[1]
ROOTS = "SCOREFUSION_MODELS"  # environment variable: further folders below which a typed path may lie, separated like PATH
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelCard:
    """One model on offer.

    source, adapter: a path relative to the repository, an absolute path, or a hub id `owner/name` (a LoRA may name its file,
    `owner/name/file.safetensors`). revision: the hub commit. sha256: `{path below the folder: hash}`, an adapter's files under `adapter:`;
    empty means unchecked. limits: what it is not for, one sentence each. population: `(3, 6)` over presentation and tone, portraits only.
    calibration, thumbnail: paths below assets/.
    """

    id: str
    title: str
    family: str
    source: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None
    prompt_template: str = "{prompt}"
    licence: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""
    limits: tuple[str, ...] = ()
    thumbnail: str | None = None
    population: tuple[tuple[float, ...], ...] | None = None
    calibration: str | None = None

    def __post_init__(self) -> None:
        where = f"card '{self.id}'"
        for name in ("id", "title", "family", "source", "prompt_template"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise ModelError(f"{where} needs a {name}: write it as text")
        if self.family not in FAMILIES:
            raise ModelError(f"{where} has the unknown family '{self.family}': use one of {', '.join(FAMILIES)}")
        if "{prompt}" not in self.prompt_template:
            raise ModelError(f"{where}: the prompt template '{self.prompt_template}' must say where the prompt goes, as {{prompt}}")
        for name in ("revision", "adapter_revision"):
            if getattr(self, name) is not None and not COMMIT.fullmatch(str(getattr(self, name))):
                raise ModelError(f"{where}: {name} must be a full commit (40 hexadecimal digits), because branches and tags can move")
        bad = [path for path, value in self.sha256.items() if not HASH.fullmatch(str(value))]
        if bad:
            raise ModelError(f"{where}: the sha256 of {bad[0]} must be 64 hexadecimal digits")
        if self.population is not None:
            _check_population(self.population, where)

    @property
    def is_hub(self) -> bool:
        """Whether the source must be fetched from the hub."""
        return is_hub_id(self.source)

    def __hash__(self) -> int:
        return hash((self.id, self.source, self.revision, self.adapter, self.adapter_revision))


def _check_population(table: tuple[tuple[float, ...], ...], where: str) -> None:
    total = sum(sum(row) for row in table)
    if len(table) != 3 or any(len(row) != 6 or min(row) < 0 for row in table) or abs(total - 1) > 1e-6:
        raise ModelError(f"{where}: the population must be 3 rows of 6 shares that sum to 1, not {total:.4f}")


def local_path(source: str) -> Path:
    """The path a local source means: as it is when absolute, below the repository otherwise."""
    return Path(source) if Path(source).is_absolute() else REPOSITORY / source


def is_hub_id(source: str) -> bool:
    """`owner/name`, unless a folder of that name lies in the repository."""
    return bool(HUB_ID.fullmatch(source)) and not local_path(source).exists()


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
            known = {**hashes.get(card.source, {}), **{ADAPTER + name: value for name, value in hashes.get(card.adapter, {}).items()}}
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
    return ModelCard(**values)


catalog = Catalog(Path(__file__).with_name("catalog.yaml"), Path(__file__).with_name("hashes.yaml"))


# ------------------------------------------------------------------------------------------------ what a user typed

def card_for(source: str, *, adapter: str | None = None, revision: str | None = None, family: str | None = None) -> ModelCard:
    """A card for a hub id, or a folder below an allowed root (the repository, or those named by SCOREFUSION_MODELS).

    Raises ModelError for anything else. A hub model without `family` is looked up when it is loaded; give it to be refused earlier.
    """
    source = source.strip()
    if is_hub_id(source):
        if family is None:
            from .sources import hub_family

            family, revision = hub_family(source, revision)
    else:
        folder = _allowed(source)
        refuse_pickles(folder, folder.name)
        if folder.is_file():
            raise ModelError(f"'{folder.name}' is a single file: convert it to a diffusers folder with "
                             "StableDiffusionPipeline.from_single_file(...).save_pretrained(...), or add a LoRA to its base")  # fmt: skip
        found = family_of(str(read_json(folder / "model_index.json", folder.name).get("_class_name"))).name
        if family not in (None, found):
            raise ModelError(f"'{folder.name}' is of family {found}, not {family}")
        source, family = str(folder), found
    if adapter is not None and not (is_hub_id(adapter) or _hub_file(adapter)):
        path = _allowed(adapter)
        refuse_pickles(path, path.name)
        adapter = str(path)
    title = (adapter or source).removesuffix(".safetensors").rstrip("/").rsplit("/", 1)[-1]
    name = source if adapter is None else f"{source}+{adapter}"
    return ModelCard(id=name, title=title, family=family, source=source, revision=revision, adapter=adapter,
                     licence="not stated: look at its source", summary="Added by hand.")  # fmt: skip


def _hub_file(adapter: str) -> bool:
    return adapter.endswith(".safetensors") and adapter.count("/") == 2 and not local_path(adapter).exists() and not adapter.startswith("/")


def _allowed(typed: str) -> Path:
    """The existing path a user typed, if it lies below an allowed root once links are followed."""
    try:
        path = local_path(os.path.expanduser(typed)).resolve()
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise ModelError(f"'{typed[:80]}' is not a path ({error}): type a hub id (owner/name) or an existing folder") from error
    roots = [REPOSITORY, *(Path(root).expanduser() for root in os.environ.get(ROOTS, "").split(os.pathsep) if root)]
    if not any(path.is_relative_to(root.resolve()) for root in roots):
        raise ModelError(f"'{typed}' is neither a hub id (owner/name) nor below an allowed folder: "
                         f"put it below the repository, or start with {ROOTS}=<folder>")  # fmt: skip
    if not exists:
        raise ModelError(f"'{typed}' does not exist: type a hub id (owner/name) or an existing folder")
    return path


# ------------------------------------------------------------------------------------------------ hashes of shipped files

def shipped_hashes() -> dict[str, dict[str, str]]:
    """`{folder: {file: sha256}}` of every shipped model folder that a card names."""
    folders = {place for card in catalog.values() for place in (card.source, card.adapter) if place and (REPOSITORY / place).is_dir()}
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
