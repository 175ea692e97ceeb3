"""Where files come from: a local folder as it is, a hub id fetched at a pinned commit, small files first. Errors name cause and cure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from .card import COMMIT, ModelCard, hub_file, is_hub_id, local_path
from .checkpoint import detect
from .errors import ModelError, Unreached
from .families import family_of
from .file_kinds import refuse_other
from .headers import Header
from .hub import cached_commits, explained, listing, refuse_unreadable, remote_header
from .integrity import full_header, read_json, refuse_pickles, weight_files
from .parts import LEFT_OUT, left_out, parts_of, variant_in
from .relatives import folder_words
from .stacks import Adapter

SMALL = ["model_index.json", "*/*.json", "*/*.txt", "*/*.model", "vae/diffusion_pytorch_model.safetensors"]
UNUSED = [f"{part}/*" for part in LEFT_OUT]
USUAL = "pytorch_lora_weights.safetensors"  # what trainers call a LoRA


def pin(source: str, revision: str | None) -> tuple[str, tuple[str, ...]]:
    """`(commit, warnings)`: the given commit, or the hub's current one; where it does not answer, the one that is here, and so said."""
    if revision is not None and COMMIT.fullmatch(revision):
        return revision, ()
    from huggingface_hub import HfApi

    try:
        with explained(source, revision):
            return HfApi().model_info(source, revision=revision).sha, ()
    except Unreached as error:
        held = cached_commits(source) if revision is None else []
        if not held:
            raise
        if len(held) > 1:
            raise Unreached(f"the hub does not answer, and of '{source}' several versions are here: name one, as "
                            f"{' or '.join(f'{source}@{commit}' for commit in held)}") from error  # fmt: skip
        return held[0], (f"the hub does not answer, so the version of {source} that is here is used, commit {held[0]}",)


def hub_family(source: str, revision: str | None = None, prediction: str | None = None) -> tuple[str, str | None]:
    """`(family, commit)` of a hub model, from its model_index.json or, for one file, its header alone.

    No commit where the hub does not answer: loading asks it again, and warns.
    """
    place = hub_file(source)
    commit, warnings = pin(place[0] if place else source, revision)
    fixed = None if warnings else commit
    if place:
        return detect(remote_header(*place, commit), place[1], prediction=prediction).family.name, fixed
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with explained(source, commit):
        try:
            index = hf_hub_download(source, "model_index.json", revision=commit)
        except EntryNotFoundError:
            raise ModelError(_no_index(source, commit)) from None
    return family_of(str(read_json(Path(index), source).get("_class_name"))).name, fixed


def _no_index(source: str, commit: str) -> str:
    """What to say of a repository that is no diffusers model."""
    return f"'{source}' {folder_words(source, listing(source, commit).files)}"


def pinned(card: ModelCard) -> tuple[ModelCard, tuple[str, ...]]:
    """`(card, warnings)`: the card with the commits that will be used, so that what was loaded can be loaded again."""
    said: list[tuple[str, ...]] = []

    def commit(source: str, revision: str | None) -> str:
        found, warnings = pin(source, revision)
        said.append(warnings)
        return found

    if card.is_hub:
        card = replace(card, revision=commit((hub_file(card.source) or (card.source,))[0], card.revision))
    on_hub = lambda one: not local_path(one.source).exists() and is_hub_id(_repository(one.source)[0])  # noqa: E731
    card = card.wearing([replace(one, revision=commit(_repository(one.source)[0], one.revision)) if on_hub(one) else one
                         for one in card.adapters])  # fmt: skip
    if card.companion and is_hub_id(card.companion[0]):
        source, revision = card.companion
        card = replace(card, components=f"{source}@{commit(source, revision)}")
    return card, tuple(dict.fromkeys(sum(said, ())))


# ------------------------------------------------------------------------------------------------ diffusers folders

def small_files(card: ModelCard) -> Path:
    """The folder with a card's configuration, tokenizers and autoencoder: enough to refuse it."""
    return _small(card.source, card.revision, card.title)


def _small(source: str, revision: str | None, title: str) -> Path:
    if not is_hub_id(source):
        return local_path(source)
    from huggingface_hub import snapshot_download

    fetch = lambda files: Path(snapshot_download(source, revision=revision, allow_patterns=files, ignore_patterns=UNUSED))  # noqa: E731
    with explained(source, revision):
        folder = fetch(SMALL)
    index = folder / "model_index.json"
    if not index.is_file() or _complete(folder, parts := parts_of(read_json(index, title))):
        return folder
    held = listing(source, revision)
    refuse_unreadable(held, parts, title)
    autoencoder = held.weights("vae", held.variant(parts))
    if not all((folder / path).is_file() for path in autoencoder):  # in shards, or in a variant
        with explained(source, revision):
            fetch([*autoencoder])
    return folder


def _complete(folder: Path, parts: Iterable[str]) -> bool:
    """Whether every part is here already, so that nothing needs to be asked, and no connection is needed."""
    return all(weight_files(folder / part, ".safetensors") for part in parts if (folder / part / "config.json").is_file())


def all_files(card: ModelCard, pipeline_class: str, folder: Path) -> Path:
    """The folder with everything a pipeline loads, safetensors only. folder: that of `small_files`."""
    if not is_hub_id(card.source):
        return folder
    import diffusers

    variant = _variant(card, folder)
    with explained(card.source, card.revision):
        cls = getattr(diffusers, pipeline_class)
        return Path(cls.download(card.source, revision=card.revision, use_safetensors=True, trust_remote_code=False, variant=variant,
                                 **left_out(cls)))  # fmt: skip


def _variant(card: ModelCard, folder: Path) -> str | None:
    """The variant to fetch: what the repository needs, or, where it cannot be asked, the one that is here."""
    parts = parts_of(read_json(folder / "model_index.json", card.title))
    here = variant_in(folder, parts, card.title)
    if here is None and _complete(folder, parts):
        return None
    try:
        return listing(card.source, card.revision).variant(parts)
    except Unreached:
        return here


# ------------------------------------------------------------------------------------------------ single files

def header_of(card: ModelCard) -> tuple[Header, str, Path | None]:
    """`(header, name, path)` of a single-file checkpoint; no path for one on the hub, of which nothing else has been read."""
    if place := hub_file(card.source):
        return remote_header(*place, card.revision), place[1].rpartition("/")[2], None
    path = local_path(card.source)
    if not path.is_file():
        raise ModelError(f"'{card.title}': there is no file {path}: check the path")
    return full_header(path, card.title), path.name, path


def whole_file(card: ModelCard) -> Path:
    """The checkpoint itself, fetched when it is on the hub."""
    place = hub_file(card.source)
    if place is None:
        return local_path(card.source)
    from huggingface_hub import hf_hub_download

    with explained(card.source, card.revision):
        return Path(hf_hub_download(*place, revision=card.revision))


def companion(card: ModelCard) -> Path | None:
    """The folder with the configurations and tokenizers of a card's companion model; None without one."""
    if card.companion is None:
        return None
    source, revision = card.companion
    return _small(source, revision, f"{card.title}: {source}")


def companion_files(card: ModelCard, parts: list[str]) -> Path | None:
    """The same with the weights of these parts."""
    if card.companion is None:
        return None
    source, revision = card.companion
    if not is_hub_id(source):
        return local_path(source)
    from huggingface_hub import snapshot_download

    held = listing(source, revision)
    variant = held.variant(parts)
    files = [path for part in parts for path in (*held.weights(part, variant), f"{part}/*.json", f"{part}/*.txt", f"{part}/*.model")]
    with explained(source, revision):
        return Path(snapshot_download(source, revision=held.commit, allow_patterns=["model_index.json", "scheduler/*.json", *files]))


# ------------------------------------------------------------------------------------------------ adapters

def _repository(adapter: str) -> tuple[str, str | None]:
    """`owner/name[/file.safetensors]` as repository and file."""
    owner, _, rest = adapter.partition("/")
    name, _, file = rest.partition("/")
    return f"{owner}/{name}", file or None


def adapter_file(one: Adapter, title: str) -> Path:
    """The safetensors file of an adapter on the model called `title`."""
    path, wanted = local_path(one.source), None
    repository, file = _repository(one.source)
    if not path.exists() and is_hub_id(repository):
        from huggingface_hub import snapshot_download

        with explained(one.source, one.revision):
            path = Path(snapshot_download(repository, revision=one.revision, allow_patterns=[file or "*.safetensors", "*.json"]))
        wanted = file
    elif not path.exists():
        raise ModelError(f"'{title}': there is no adapter {one.source}: check the path")
    else:
        refuse_other(path)
        refuse_pickles(path, title)
    found = [path / wanted] if wanted else weight_files(path, ".safetensors")
    return one_adapter(found, one.source)


def one_adapter(files: Sequence[PurePath], adapter: str) -> PurePath:
    """The one file of an adapter: the usual name wins, then the folder nearest to the top (checkpoints of a training lie below it).

    Raises ModelError where that leaves several, or there is none.
    """
    best = [file for file in files if file.name == USUAL] or list(files)
    best = [file for file in best if len(file.parts) == min(len(other.parts) for other in best)]
    if len(best) != 1:
        held = ", ".join(file.name for file in best) or "none"
        raise ModelError(f"the adapter must be one safetensors file, {adapter} holds {held}: name the file itself")
    return best[0]
