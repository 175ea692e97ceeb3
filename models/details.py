"""What a model is before it is fetched: family, prediction type, size, memory, licence, trigger words; from configurations and headers.

Nothing large is read: a repository's listing, its small files and the first bytes of its weights are enough. What cannot be used is said
here, too, so that nobody waits for a download in vain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath

from .card import hub_file, is_hub_id, local_path, located, split_commit
from .catalog import beside, card_for, catalog
from .checkpoint import Checkpoint, checked_prediction, detect
from .errors import ModelError
from .families import FAMILIES, family_of
from .headers import Header
from .hub import Listing, listing, refuse_unreadable, remote_header
from .integrity import full_header, index_of, read_json, weight_files
from .inversions import is_alone
from .layer_names import ENCODERS
from .model_cards import UNSTATED, front_matter, licence_of, read_card_text, trigger_words
from .parts import UNFILTERED, files_of, has_checker, parts_of, variant_in, weights_among
from .relatives import folder_words
from .samplers import few_steps
from .sources import one_adapter
from .stacks import Adapter, written

SCHEDULE = "scheduler/scheduler_config.json"


@dataclass(frozen=True)
class Part:
    """A part of a model. size: bytes of its weights; origin: whose files these are; cached: bytes of them that are here; fetched: whether
    they come from the hub."""

    name: str
    parameters: int
    size: int
    origin: str
    cached: int = 0
    fetched: bool = False


@dataclass(frozen=True)
class Details:
    """One model before it is loaded.

    kind: what it is, in words. prediction, how: what the network predicts and how that is known. download: bytes to be fetched from the
    hub, cached: those of them that are here already. trigger: words its card says to use in prompts; base: what an adapter says it was made
    for. problems: why it cannot be used, notes: what to know, one sentence each.
    """

    source: str
    kind: str
    family: str | None
    prediction: str | None
    how: str
    parts: tuple[Part, ...]
    revision: str | None = None
    download: int = 0
    cached: int = 0
    licence: str = UNSTATED
    gated: bool = False
    trigger: tuple[str, ...] = ()
    base: str | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def parameters(self) -> int | None:
        """Of all parts together; None when nothing could be read."""
        return sum(part.parameters for part in self.parts) if self.parts else None

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of the weights once loaded, at each precision; empty when unknown. Sampling needs room for activations besides."""
        return {} if self.parameters is None else {"float32": 4 * self.parameters, "float16 or bfloat16": 2 * self.parameters}

    def to_dict(self) -> dict:
        """Plain JSON values."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {**plain, "parameters": self.parameters, "memory": self.memory}


def describe(source: str, adapter: str | Sequence[Adapter] | None = None, revision: str | None = None, *, family: str | None = None,
             prediction: str | None = None, components: str | None = None) -> Details:  # fmt: skip
    """Details of a model, and of the adapters on it: a catalogue id, a hub id, one file on the hub, or a folder or file here.

    family, prediction, components: as in `card_for`. Raises ModelError when there is no such model or it cannot be reached; what speaks
    against using one that is there stands in `problems`.
    """
    worn = (Adapter(adapter),) if isinstance(adapter, str) else tuple(adapter or ())
    if source in catalog:
        known = catalog[source]
        worn = (*known.adapters, *worn)
        found = describe(known.source, worn, revision or known.revision, prediction=prediction or known.prediction)
        return replace(found, licence=known.licence or found.licence)
    if located(source):
        found = _here(source, family, prediction, components)
    elif is_hub_id(source):
        found = _repository(source, revision, prediction)
    elif hub_file(source):
        found = _remote_file(source, revision, family, prediction, components)
    else:
        found = _here(source, family, prediction, components)
    if family is not None and found.family not in (None, family):
        found = replace(found, problems=(*found.problems, f"it is of family {found.family}, not {family}"))
    for one in worn:
        found = _with_adapter(found, one)
    return found


# ------------------------------------------------------------------------------------------------ diffusers models

def _repository(source: str, revision: str | None, prediction: str | None) -> Details:
    """A diffusers model on the hub."""
    held = listing(source, revision)
    notes = (f"it is now called {held.id}",) if held.id != source else ()
    empty = Details(source, "", None, None, "", (), held.commit, notes=notes, **_said(held))
    weights = {path: size for path, size in held.files.items() if path.endswith(".safetensors")}
    if "model_index.json" not in held.files:
        return replace(empty, problems=(f"it {folder_words(source, held.files)}",))
    try:
        index = held.small("model_index.json")
        family, names = family_of(str(index.get("_class_name"))), [*parts_of(index)]
        refuse_unreadable(held, names, source)
        variant = held.variant(names)
        schedule = held.small(SCHEDULE) if SCHEDULE in held.files else {}
        here = held.cached()
        parts = tuple(_remote_part(held, name, files, here) for name in names if (files := held.weights(name, variant)))
    except ModelError as error:
        return replace(empty, problems=(str(error),), download=sum(weights.values()))
    wanted = held.pipeline_files(names, variant)
    found, how = _prediction(family.name, schedule, prediction)
    return replace(empty, kind=family.title, family=family.name, prediction=found, how=how, parts=parts, download=sum(wanted.values()),
                   notes=(*notes, *_notes(index)), cached=sum(size for path, size in wanted.items() if path in here))  # fmt: skip


def _remote_part(held: Listing, name: str, files: Mapping[str, int], here: set[str]) -> Part:
    """A part with its parameters counted from the headers of its files."""
    numbers = sum(remote_header(held.source, path, held.commit).numbers for path in files)
    return Part(name, numbers, sum(files.values()), held.source, sum(size for path, size in files.items() if path in here), True)


def _notes(index: Mapping) -> tuple[str, ...]:
    return (UNFILTERED,) if has_checker(index) else ()


def _few(place: Path, family: str, index: Mapping, schedule: Mapping) -> tuple[str, ...]:
    """Whether a folder's model draws in few steps, and how that is known."""
    config = place / FAMILIES[family].slot / "config.json"
    network = read_json(config, place.name) if config.is_file() else {}
    found = few_steps(str((index.get("scheduler") or [None, ""])[1]), schedule, network, place.name)
    return () if found is None else (f"it is a few-step model ({found.sign}): alone it draws in {found.steps} steps",)


def _prediction(family: str, schedule: Mapping, said: str | None) -> tuple[str, str]:
    """`(type, how it is known)` of a model with a scheduler's configuration."""
    if said is not None:
        return checked_prediction(said, family), "as you say"
    if family in ("sd3", "flux"):
        return "flow", "as all of its kind"
    return str(schedule.get("prediction_type", "epsilon")), "its scheduler's configuration says so"


def _said(held: Listing) -> dict:
    """Licence, gate and trigger words of a repository."""
    return {"licence": licence_of(held.about), "gated": held.gated, "trigger": trigger_words({}, held.about, held.readme())}


def _here(source: str, family: str | None, prediction: str | None, components: str | None) -> Details:
    """A folder or a file of this machine."""
    card = card_for(source, family=family, prediction=prediction, components=components)
    place = local_path(card.source)
    if place.is_file():
        file = detect(full_header(place, card.title), place.name, family=family, prediction=prediction)
        return _single(source, file, components, Part("", 0, 0, place.name))
    text = read_card_text(place / "README.md")
    about, parts, index = front_matter(text), [], index_of(place, card.title)
    variant = variant_in(place, parts_of(index), card.title)
    for name in parts_of(index):
        files = [place / name / file for file in weights_among(files_of(place / name), variant)]
        numbers = sum(full_header(file, card.title).numbers for file in files)
        parts += [Part(name, numbers, sum(file.stat().st_size for file in files), source)] if files else []
    schedule = read_json(place / SCHEDULE, card.title) if (place / SCHEDULE).is_file() else {}
    found, how = _prediction(card.family, schedule, prediction)
    return Details(source, FAMILIES[card.family].title, card.family, found, how, tuple(parts), licence=licence_of(about),
                   trigger=trigger_words({}, about, text), notes=(*_notes(index), *_few(place, card.family, index, schedule)))  # fmt: skip


# ------------------------------------------------------------------------------------------------ single files

def _remote_file(source: str, revision: str | None, family: str | None, prediction: str | None, components: str | None) -> Details:
    """One file on the hub, from its first bytes."""
    place, path = hub_file(source)
    held = listing(place, revision)
    if path not in held.files:
        raise ModelError(f"'{place}' does not hold {path}: check its name on the hub")
    file = detect(remote_header(place, path, held.commit), path.rpartition("/")[2], family=family, prediction=prediction)
    size = held.files[path]
    found = _single(source, file, components, Part("", 0, 0, path, size if path in held.cached() else 0, True))
    said = _said(held)
    said["trigger"] = tuple(dict.fromkeys((*found.trigger, *said["trigger"])))
    rest = size - sum(part.size for part in found.parts if part.origin == path)  # its header, and what no part uses
    return replace(found, revision=held.commit, download=found.download + rest, **said)


def _single(source: str, file: Checkpoint, components: str | None, like: Part) -> Details:
    """A single-file checkpoint, and what its companion adds to it. like: a part with the file's own origin."""
    header, parts, problems = file.header, [], []
    for name in file.held:
        tensors = [header.tensors[key] for key in file.keys(name).values()]
        numbers, size = (sum(getattr(tensor, what) for tensor in tensors) for what in ("numbers", "size"))
        parts.append(replace(like, name=name, parameters=numbers, size=size, cached=size if like.cached else 0))
    missing = [part for part, told in file.parts.items() if "names" in told and part not in file.held]
    if missing and components:
        given, revision = split_commit(components)
        companion = describe(given, revision=revision)
        parts += [part for part in companion.parts if part.name in missing]
        problems += companion.problems
    missing = [name for name in missing if name not in {part.name for part in parts}]
    needed = [name for name in missing if not file.parts[name].get("optional")]
    if needed:
        problems.append(f"it lacks {', '.join(needed)}: name a {file.title} in diffusers form to take them from (components)")
    notes = [f"it comes without {name} and is used without it" for name in missing if name not in needed]
    return Details(source, f"{file.title}, a single file", file.family.name, file.prediction, file.how, tuple(parts),
                   download=sum(part.size for part in parts if part.fetched), cached=sum(part.cached for part in parts),
                   trigger=trigger_words(header.metadata, {}, ""), notes=(*file.notes, *notes), problems=tuple(problems))  # fmt: skip


# ------------------------------------------------------------------------------------------------ adapters

def _with_adapter(found: Details, one: Adapter) -> Details:
    """A model with an adapter on it: its size, its own licence and trigger words, and what it says it was made for."""
    adapter = one.source
    owner = "/".join(adapter.split("/")[:2])
    remote = not located(adapter) and is_hub_id(owner)
    header, part, about, text, said = _remote_adapter(one, owner) if remote else _local_adapter(adapter)
    base = header.metadata.get("modelspec.architecture") or header.metadata.get("ss_base_model_version") or about.get("base_model")
    changes = ["words"] if is_alone(header.shapes) else sorted({"text encoders" if key.startswith(ENCODERS) else "network"
                                                                for key in header.tensors})  # fmt: skip
    strength = "" if one.strength == 1 else f", at strength {one.strength:g}"
    licence = found.licence if said["licence"] == found.licence else f"{found.licence}; the adapter: {said['licence']}"
    words = (*found.trigger, *said["trigger"], *trigger_words(header.metadata, about, text))
    return replace(found, source=f"{found.source}{written([one])}", parts=(*found.parts, part), licence=licence,
                   download=found.download + part.size * part.fetched, cached=found.cached + part.cached,
                   gated=found.gated or said["gated"], trigger=tuple(dict.fromkeys(words)), base=base if isinstance(base, str) else None,
                   notes=(*found.notes, f"{adapter} changes its {' and '.join(changes)}{strength}"))  # fmt: skip


def _remote_adapter(one: Adapter, owner: str) -> tuple[Header, Part, Mapping, str, dict]:
    adapter = one.source
    held, named = listing(owner, one.revision), adapter.removeprefix(owner).lstrip("/")
    files = [PurePath(path) for path in held.files if path == named or (not named and path.endswith(".safetensors"))]
    path = one_adapter(files, adapter).as_posix()
    header, size = remote_header(owner, path, held.commit), held.files[path]
    part = Part("adapter", header.numbers, size, adapter, size if path in held.cached() else 0, True)
    return header, part, held.about, held.readme(), _said(held)


def _local_adapter(adapter: str) -> tuple[Header, Part, Mapping, str, dict]:
    place = Path(beside(adapter))
    path = one_adapter(weight_files(place, ".safetensors"), adapter)
    header, text = full_header(path, path.name), read_card_text(path.with_name("README.md"))
    about = front_matter(text)
    part = Part("adapter", header.numbers, path.stat().st_size, adapter)
    return header, part, about, text, {"licence": licence_of(about), "gated": False, "trigger": ()}
