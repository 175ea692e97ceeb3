"""The Hugging Face hub as we read it: what a repository holds before anything large is fetched, and its errors as cause and cure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from . import headers, room
from .card import COMMIT
from .causes import kind
from .errors import ModelError, Unreached
from .headers import Header
from .integrity import PICKLES, read_json
from .parts import variant_of, weights_among

FIRST = 100_000  # bytes asked for at first: holds the whole header of nearly every file
MAX_README = 1_000_000  # bytes


@dataclass(frozen=True)
class Listing:
    """One commit of a repository. source: as it was asked for, id: what it is called now. files: `{path: bytes}`; gated: whether its
    licence must be accepted; about: its card's front matter."""

    source: str
    id: str
    commit: str
    files: Mapping[str, int]
    gated: bool
    about: Mapping

    def inside(self, part: str) -> list[str]:
        """Names of the files of a part's folder."""
        return [path.removeprefix(f"{part}/") for path in self.files if path.startswith(f"{part}/") and path.count("/") == 1]

    def variant(self, parts: Iterable[str]) -> str | None:
        """The variant in which its parts are loaded, None for plain files. Raises ModelError."""
        return variant_of({part: self.inside(part) for part in parts}, self.source)

    def weights(self, part: str, variant: str | None = None) -> dict[str, int]:
        """`{path: bytes}` of the weights a pipeline loads for a part: those of the variant where there are some, else the plain ones."""
        paths = [f"{part}/{name}" for name in weights_among(self.inside(part), variant)]
        return {path: self.files[path] for path in paths}

    def pipeline_files(self, parts: Iterable[str], variant: str | None = None) -> dict[str, int]:
        """`{path: bytes}` of everything a pipeline of these parts needs: weights, configurations, tokenizers."""
        wanted = {"model_index.json"}
        for part in parts:
            weights, inside = self.weights(part, variant), [f"{part}/{name}" for name in self.inside(part)]
            wanted |= {*weights, *(path for path in inside if path.endswith((".json", ".txt", ".model")) or not weights)}
        return {path: self.files[path] for path in wanted if path in self.files}

    def small(self, path: str) -> dict:
        """A configuration file of the repository, fetched. Raises ModelError."""
        return read_json(self._fetched(path), self.source)

    def readme(self) -> str:
        """The model card, as far as a card may be long; empty when there is none, or it may not be read."""
        if not 0 < self.files.get("README.md", 0) <= MAX_README:
            return ""
        with suppress(ModelError, OSError):
            return self._fetched("README.md").read_text(encoding="utf-8", errors="replace")
        return ""

    def _fetched(self, path: str) -> Path:
        from huggingface_hub import hf_hub_download

        with explained(self.source, self.commit):
            return Path(hf_hub_download(self.source, path, revision=self.commit))

    def cached(self) -> set[str]:
        """The files that are here already."""
        from huggingface_hub import try_to_load_from_cache

        return {path for path in self.files if isinstance(try_to_load_from_cache(self.source, path, revision=self.commit), str)}

    def pickled(self, part: str) -> bool:
        """Whether there are weights for a part, but none that can be read safely."""
        inside = [path for path in self.files if path.startswith(f"{part}/")]
        return any(path.endswith(PICKLES) for path in inside) and not any(path.endswith(".safetensors") for path in inside)


def _network_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises without a connection: its HTTP library has changed twice."""
    found: list[type[Exception]] = [OSError]
    for library, name in (("httpx2", "HTTPError"), ("httpx", "HTTPError"), ("requests", "RequestException")):
        with suppress(ImportError):
            found.append(getattr(import_module(library), name))
    return tuple(found)


@contextmanager
def explained(source: str, revision: str | None) -> Iterator[None]:
    """Turn the hub client's errors into ours."""
    from huggingface_hub import constants, errors

    try:
        with room.writing(constants.HF_HUB_CACHE):
            yield
    except room.DiskFull as error:
        raise ModelError(f"'{source}' cannot be fetched: {error}") from error
    except errors.GatedRepoError as error:
        raise ModelError(f"'{source}' asks you to accept its licence: do so on its page, then log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"there is no public model '{source}' on the hub: check the spelling (owner/name)") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"'{source}' has no commit {revision}: take one from its history on the hub") from error
    except getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):  # without a connection, in older clients the same class
            raise Unreached(_unreached(source, error)) from error
        raise ModelError(f"'{source}' does not hold that file: check its name on the hub") from error
    except _network_errors() as error:
        raise Unreached(_unreached(source, error)) from error


def _unreached(source: str, error: Exception) -> str:
    """Cause and cure of a fetch that failed, without the words or the class of the client's error."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    name = type(error).__name__
    if name == "OfflineModeIsEnabled":
        return f"'{source}' cannot be fetched (offline mode is on): leave HF_HUB_OFFLINE out, or use a local folder"
    if status == 429:
        return f"'{source}' cannot be fetched (the hub was asked too often): wait some minutes, log in, or use a local folder"
    if status in (401, 403):
        return f"'{source}' cannot be fetched (the hub refuses access): log in with `hf auth login`, or use a local folder"
    if status is not None and status >= 500:
        return f"'{source}' cannot be fetched (the hub has a fault of its own): try again later, or use a local folder"
    if isinstance(error, PermissionError):
        return f"'{source}' cannot be fetched (the folder for downloads cannot be written): allow it, or set HF_HOME to another"
    slow = "the hub took too long" if "Timeout" in name else "no answer from the hub"
    why = "the download broke off" if kind(error) == "download" else slow
    return f"'{source}' cannot be fetched ({why}): check the connection, or use a local folder"


def cached_commits(source: str) -> list[str]:
    """The commit that a repository's `main` was when it was last fetched, where that is known, else all commits that are here."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    place = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="model")
    held = sorted(path.name for path in (place / "snapshots").glob("*") if COMMIT.fullmatch(path.name))
    main = (place / "refs/main").read_text(encoding="utf-8").strip() if (place / "refs/main").is_file() else ""
    return [main] if main in held else held


def listing(source: str, revision: str | None = None) -> Listing:
    """What a repository holds at a commit (None: its newest). One small request. Raises ModelError."""
    from huggingface_hub import HfApi

    with explained(source, revision):
        info = HfApi().model_info(source, revision=revision, files_metadata=True)
    about = info.card_data.to_dict() if info.card_data is not None else {}
    files = {file.rfilename: file.size or 0 for file in info.siblings or []}
    return Listing(source, info.id, info.sha, files, bool(info.gated), about)


def remote_header(source: str, file: str, revision: str | None) -> Header:
    """The header of a safetensors file on the hub, read within bounds by one or two small requests; from the cache when it lies there."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source, file, revision=revision)
    if isinstance(cached, str):
        return headers.read(Path(cached))
    with explained(source, revision):
        start, size = _first(source, file, revision, FIRST)
        length = headers.header_length(start, size, file)
        if headers.PREFIX + length > len(start):
            start, _ = _first(source, file, revision, headers.PREFIX + length)
    return headers.parse(start[headers.PREFIX : headers.PREFIX + length], size, file)


def _first(source: str, file: str, revision: str | None, count: int) -> tuple[bytes, int]:
    """The first `count` bytes of a file and its size. Never holds more than asked for, also where the server ignores the range."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url, session = hf_hub_url(source, file, revision=revision), get_session()
    asked = {**build_hf_headers(), "Range": f"bytes=0-{count - 1}", "Accept-Encoding": "identity"}
    modern = hasattr(session, "stream")
    opened = session.stream("GET", url, headers=asked, timeout=30) if modern else session.get(url, headers=asked, timeout=30, stream=True)
    with opened as response:
        if response.status_code >= 400 and modern:
            response.read()
        hf_raise_for_status(response)
        stated = response.headers.get("Content-Range", "").rpartition("/")[2] or response.headers.get("Content-Length", "")
        data = bytearray()
        for chunk in response.iter_bytes(FIRST) if modern else response.iter_content(FIRST):
            data += chunk
            if len(data) >= count:
                break
    return bytes(data[:count]), int(stated) if stated.isdigit() else len(data)


def refuse_unreadable(held: Listing, parts: Iterable[str], name: str) -> None:
    """Raise ModelError, before anything is fetched, when a part of a pipeline comes as pickles only, or in no variant of the others."""
    for part in parts:
        if held.pickled(part):
            raise ModelError(f"'{name}' holds pickled weights only ({part}/), which can run any program when read: "
                             "choose a safetensors version of it")  # fmt: skip
    held.variant(parts)
