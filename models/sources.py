"""Where files come from: a local folder as it is, a hub id fetched at a pinned commit, small files first. Errors name cause and cure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from .catalog import COMMIT, ModelCard, is_hub_id, local_path
from .errors import ModelError
from .families import family_of
from .integrity import read_json, refuse_pickles, weight_files

SMALL = ["model_index.json", "*/*.json", "*/*.txt", "*/*.model", "vae/diffusion_pytorch_model.safetensors"]


@contextmanager
def _explained(source: str, revision: str | None) -> Iterator[None]:
    """Turn the hub client's errors into ours."""
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(f"'{source}' asks you to accept its licence: do so on its page, then log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"there is no public model '{source}' on the hub: check the spelling (owner/name)") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"'{source}' has no commit {revision}: take one from its history on the hub") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        raise ModelError(f"'{source}' cannot be fetched ({type(error).__name__}): check the connection, or use a local folder") from error


def pin(source: str, revision: str | None) -> str:
    """The commit to use: the given one, or the hub's current one."""
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    with _explained(source, revision):
        return HfApi().model_info(source, revision=revision).sha


def hub_family(source: str, revision: str | None = None) -> tuple[str, str]:
    """`(family, commit)` of a hub model, from its model_index.json alone."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    commit = pin(source, revision)
    with _explained(source, commit):
        try:
            index = hf_hub_download(source, "model_index.json", revision=commit)
        except EntryNotFoundError:
            raise ModelError(f"'{source}' is not a diffusers model (no model_index.json): choose a diffusers version of it") from None
    return family_of(str(read_json(Path(index), source).get("_class_name"))).name, commit


def pinned(card: ModelCard) -> ModelCard:
    """The card with the commits that will be used, so that what was loaded can be loaded again."""
    if is_hub_id(card.source):
        card = replace(card, revision=pin(card.source, card.revision))
    if card.adapter and is_hub_id(_repository(card.adapter)[0]):
        card = replace(card, adapter_revision=pin(_repository(card.adapter)[0], card.adapter_revision))
    return card


def small_files(card: ModelCard) -> Path:
    """The folder with a card's configuration, tokenizers and autoencoder: enough to refuse it."""
    if not is_hub_id(card.source):
        folder = local_path(card.source)
        if folder.is_dir():
            refuse_pickles(folder, card.title)
        return folder
    from huggingface_hub import snapshot_download

    with _explained(card.source, card.revision):
        return Path(snapshot_download(card.source, revision=card.revision, allow_patterns=SMALL))


def all_files(card: ModelCard, pipeline_class: str) -> Path:
    """The folder with everything a pipeline loads, safetensors only."""
    if not is_hub_id(card.source):
        return local_path(card.source)
    import diffusers

    with _explained(card.source, card.revision):
        cls = getattr(diffusers, pipeline_class)
        return Path(cls.download(card.source, revision=card.revision, use_safetensors=True, trust_remote_code=False))


def _repository(adapter: str) -> tuple[str, str | None]:
    """`owner/name[/file.safetensors]` as repository and file."""
    owner, _, rest = adapter.partition("/")
    name, _, file = rest.partition("/")
    return f"{owner}/{name}", file or None


def adapter_file(card: ModelCard) -> Path | None:
    """The safetensors file of a card's LoRA adapter, None without one."""
    if not card.adapter:
        return None
    path, wanted = local_path(card.adapter), None
    repository, file = _repository(card.adapter)
    if not path.exists() and is_hub_id(repository):
        from huggingface_hub import snapshot_download

        with _explained(card.adapter, card.adapter_revision):
            path = Path(snapshot_download(repository, revision=card.adapter_revision, allow_patterns=[file or "*.safetensors", "*.json"]))
        wanted = file
    elif not path.exists():
        raise ModelError(f"'{card.title}': there is no adapter {card.adapter}: check the path")
    else:
        refuse_pickles(path, card.title)
    found = [path / wanted] if wanted else weight_files(path, ".safetensors")
    usual = [file for file in found if file.name == "pytorch_lora_weights.safetensors"]
    if len(usual or found) != 1:
        held = ", ".join(file.name for file in found) or "none"
        raise ModelError(f"'{card.title}': the adapter must be one safetensors file, {card.adapter} holds {held}: name the file itself")
    return (usual or found)[0]
