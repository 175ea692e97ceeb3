"""The parts of a pipeline: which of them are used, which files hold their weights, and in which variant (`model.fp16.safetensors`)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .errors import ModelError

CHECKER = "safety_checker"
LEFT_OUT = (CHECKER, "feature_extractor")  # of Stable Diffusion 1: the first blackens images, fused ones too; the second only serves it
UNFILTERED = ("it comes with a safety checker, which is not used here, since blackened images would falsify every comparison: its images "
              "are not filtered, so look at them before you show them to others")  # fmt: skip
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<new>\w[\w-]*?))?(?:-\d{5}-of-\d{5})?(?:\.(?P<old>\w[\w-]*))?\.safetensors"
)  # what pipelines load; shards name their variant before or (formerly) behind their number


def parts_of(index: Mapping) -> dict[str, list]:
    """`{part: [library, class]}` of a model_index.json: the parts that are used."""
    return {part: value for part, value in index.items()
            if isinstance(value, list) and len(value) == 2 and value[1] is not None and part not in LEFT_OUT}  # fmt: skip


def left_out(pipeline_class: type) -> dict[str, object]:
    """Arguments that keep a pipeline from loading and fetching what is not used; the note `UNFILTERED` says what that means."""
    wanted = inspect.signature(pipeline_class.__init__).parameters
    unused = {part: None for part in LEFT_OUT} | {"requires_safety_checker": False}
    return {name: value for name, value in unused.items() if name in wanted}


def has_checker(index: Mapping) -> bool:
    """Whether a pipeline would filter its images."""
    return isinstance(index.get(CHECKER), list) and index[CHECKER][-1] is not None


def variants(names: Iterable[str]) -> dict[str, list[str]]:
    """`{variant: names}` of the weights among the names of one folder's files; the plain ones are variant `""`."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        if hit := WEIGHTS.fullmatch(name):
            found.setdefault(hit["new"] or hit["old"] or "", []).append(name)
    for kind, files in found.items():
        found[kind] = [name for name in files if "-of-" not in name] or files  # a whole file beside its own shards
    return found


def weights_among(names: Iterable[str], variant: str | None = None) -> list[str]:
    """What is loaded of one folder: the files of `variant` where it has them, else the plain ones."""
    found = variants(names)
    return found.get(variant or "") or found.get("", [])


def variant_of(parts: Mapping[str, Iterable[str]], name: str) -> str | None:
    """The variant in which to load a model, None for plain files. parts: `{part: names of its files}`.

    Plain files are preferred, then `fp16`. Raises ModelError where some parts lack plain files and share no variant.
    """
    found = {part: variants(names) for part, names in parts.items()}
    lacking = {part: kinds for part, kinds in found.items() if kinds and "" not in kinds}
    if not lacking:
        return None
    shared = set.intersection(*({*kinds} for kinds in lacking.values()))
    if not shared:
        held = "; ".join(f"{part}: {', '.join(sorted(kinds))}" for part, kinds in lacking.items())
        raise ModelError(f"'{name}' holds its parts in different variants only ({held}): "
                         "save it once as a plain diffusers folder, or choose another copy")  # fmt: skip
    return "fp16" if "fp16" in shared else min(shared)


def files_of(folder: Path) -> list[str]:
    """Names of the files right in a folder; none where there is no such folder."""
    return [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def variant_in(folder: Path, parts: Iterable[str], name: str) -> str | None:
    """`variant_of` for a local diffusers folder."""
    return variant_of({part: files_of(folder / part) for part in parts}, name)
