"""The file a user keeps: which models, which weights, which prompts and seeds. One JSON document, also inside every saved PNG.

A recipe is untrusted input: it is bounded before it is parsed, checked against a schema, and names models without loading anything.
Folders on the maker's machine are kept by name and hash only, never by path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fusion import foreign
from fusion.methods import METHODS, Sample, SamplingPlan
from fusion.methods.alone import ALONE, as_drawn, uneven
from fusion.methods.drawing import mean_weights, normalised, values_of
from fusion.recipe_cards import described, known, same_model
from fusion.recipe_schema import MAX_BYTES, VERSION, RecipeError, parse
from fusion.weights import Weights
from models import room

CONVERTED = {b"\xff\xd8\xff": "JPEG", b"RIFF": "WebP", b"GIF8": "GIF", b"ftypavif": "AVIF"}  # what a chat or an editor makes of a PNG
KEY = "scorefusion"  # of the text chunk in PNG files
LATER = ("trained", "guidance_interval", "sampler", "reading", "negative_prompt", "clip_skip")
MAX_PNG_BYTES = 64 * 1024 * 1024

__all__ = ["KEY", "Recipe", "RecipeError", "described"]


@dataclass(frozen=True)
class Recipe:
    """`models`: one mapping per member (id, source, revision, adapter, hashes). `weights` (K,), or (L, K) with `strata` (L + 1,).

    `prompts`, `seeds`, `steps`, `guidance`, `guidance_interval`, `height`, `width`, `batch_size` as in `SamplingPlan`.
    `picture`: for a recipe inside an image, the index of that image among those the recipe draws (an image is drawn in the company it was
    first drawn in, since rounding depends on the batch). `negative_prompt`, `clip_skip`, `reading` as in `SamplingPlan`; no reading: the
    prompts are cut, as in recipes of old, and as those are whose prompts fit. `sampler` as in `SamplingPlan`; None: the first member's, as
    recipes of old drew, and where it makes no difference.
    `metrics`: what was measured, free form. `environment`: versions and device it
    was made with, for information.
    `trained`: of a method that trains, the file it draws with: its name, sha256, and the member it belongs to. The file lies beside the
    recipe or its images: saving writes it there (`record`, where the recipe was made), drawing looks for it there (`folder`, where it was
    read).
    """

    models: tuple[Mapping, ...]
    weights: tuple
    method: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    interval: tuple | None = None
    strata: tuple[float, ...] | None = None
    how: str = ""
    steps: int = 20
    guidance: float = 1.0
    height: int | None = None
    width: int | None = None
    batch_size: int = 16
    picture: int | None = None
    metrics: Mapping = field(default_factory=dict)
    environment: Mapping = field(default_factory=dict)
    trained: Mapping | None = None
    guidance_interval: tuple[float, float] | None = None
    sampler: str | None = None
    reading: str | None = None
    negative_prompt: str = ""
    clip_skip: int = 0
    version: int = VERSION
    record: Any = field(default=None, compare=False, repr=False)
    folder: Path | None = field(default=None, compare=False, repr=False)

    # ---------------------------------------------------------------- making one

    @classmethod
    def of(cls, ensemble, method: str, plan: SamplingPlan, weights=None, *, metrics: Mapping | None = None, trained=None) -> Recipe:
        """The recipe of a run. `weights`: `Weights` or array as applied (None: the plan's own). `trained`: what a method that trains drew
        with (None: the plan's own; the weights are then its member's). Raises RecipeError for unusable values.
        """
        trained = plan.trained if trained is None else trained
        if weights is None and trained is not None:
            weights = np.eye(len(ensemble.members))[ensemble.names.index(trained.member)]
        weights = plan.weights if weights is None else weights
        if weights is None:
            raise RecipeError("a recipe needs the weights that were used: pass those of the fit or of the samples")
        interval, strata = getattr(weights, "interval", None), getattr(weights, "strata", None)
        recipe = cls(
            models=tuple(described(card) for card in ensemble.cards), weights=_tuples(values_of(weights)), method=method.split("/")[0],
            prompts=tuple(p for p, _ in plan.jobs), seeds=tuple(s for _, s in plan.jobs),
            interval=None if interval is None or np.ndim(interval) != 2 else _tuples(np.clip(interval, 0, 1)),
            strata=None if strata is None else _tuples(strata), how=str(getattr(weights, "how", ""))[:400], steps=plan.steps,
            guidance=float(plan.guidance), height=plan.height, width=plan.width, batch_size=plan.batch_size,
            guidance_interval=plan.guidance_interval, sampler=_sampler(ensemble, plan, method),
            reading=_reading(ensemble, plan), negative_prompt=plan.negative_prompt,
            clip_skip=plan.clip_skip, metrics=dict(metrics or {}),
            environment=_environment(ensemble),
            trained=None if trained is None else {"file": trained.file, "sha256": trained.sha256, "member": trained.member},
        )  # fmt: skip
        return replace(cls.from_json(recipe.to_json()), record=trained)  # what we write is held to what we read

    @classmethod
    def of_sample(cls, ensemble, sample: Sample, plan: SamplingPlan, *, metrics: Mapping | None = None) -> Recipe:
        """The recipe to write into one image: it draws the image's own batch and says which of it this is."""
        batch = plan.with_(prompts=[p for p, _ in sample.batch], seeds=[s for _, s in sample.batch])
        if sample.method in ALONE and uneven(ensemble, plan):  # its own steps, as they were
            batch = as_drawn(ensemble, batch, ensemble.names.index(sample.member)).with_(sampler="written")
        applied = np.eye(len(ensemble.members))[ensemble.names.index(sample.member)] if sample.method == "single" else sample.applied
        return replace(cls.of(ensemble, sample.method, batch, applied, metrics=metrics, trained=sample.trained), picture=sample.place)

    # ---------------------------------------------------------------- reading

    @classmethod
    def from_json(cls, text: str | bytes) -> Recipe:
        """Parse and check. Raises RecipeError, with cause and cure, for anything that is not a usable recipe."""
        content = parse(text)
        known = {key: _tuples(value) if isinstance(value, list) else value for key, value in content.items()}
        return cls(**known)

    @classmethod
    def from_png(cls, path: str | Path) -> Recipe:
        """The recipe inside an image saved here. Only the header and the text chunks before the pixels are read.

        Raises RecipeError, which for a picture of another program is a ForeignRecipe with what that says.
        """
        path = Path(path)
        try:
            if path.stat().st_size > MAX_PNG_BYTES:
                raise RecipeError(f"this picture is larger than {MAX_PNG_BYTES // 2**20} MB and was not made here: choose another file")
            with Image.open(path, formats=("PNG",)) as image:
                text = image.info.get(KEY)
        except FileNotFoundError:
            raise RecipeError(f"there is no file {path.name}: check the name") from None
        except RecipeError:
            raise
        except Exception:  # decoders raise nearly anything for broken files
            if other := foreign.refusal(path):
                raise other from None
            raise RecipeError("this picture cannot be read as PNG: choose an image as it was saved here, not a converted copy") from None
        if not isinstance(text, str):
            if other := foreign.refusal(path):
                raise other
            raise RecipeError("this picture holds no recipe: choose an image as it was saved here; editors and chats remove what is in it")
        return cls.from_json(text)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """From a .json file or a PNG, told apart by content. Raises RecipeError; a ForeignRecipe for another program's picture."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                start = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise RecipeError(f"{path.name} cannot be opened ({error.strerror}): check the name") from None
        kind = next((kind for head, kind in CONVERTED.items() if start.startswith(head) or start[4:12] == head), "")
        if kind and (kind != "WebP" or start[8:12] == b"WEBP"):
            if other := foreign.refusal(path):
                raise other
            raise RecipeError(f"this picture is {kind} and holds no recipe: choose the PNG as it was saved here; chats and editors convert "
                              "pictures and remove what is in them")  # fmt: skip
        return replace(cls.from_png(path) if start.startswith(b"\x89PNG") else cls.from_json(start), folder=path.parent)

    # ---------------------------------------------------------------- writing

    def to_json(self, indent: int | None = 2) -> str:
        """Valid JSON, keys in the order of the fields. Raises RecipeError for metrics that JSON cannot hold."""
        try:
            kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("record", "folder")}
            for name in LATER:  # recipes without them stay readable for earlier versions
                if kept[name] in (None, "", 0):
                    del kept[name]
            return json.dumps(_plain(kept), indent=indent, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            cause = f"the recipe holds a value that cannot be written ({error})"
            raise RecipeError(f"{cause}: weights and metrics must be finite numbers") from None

    def save(self, path: str | Path) -> Path:
        """Write the recipe, and beside it the file of what was trained."""
        self._save_trained(Path(path).parent)
        text = self.to_json() + "\n"
        with room.writing(path, len(text)):
            Path(path).write_text(text, encoding="utf-8")
        return Path(path)

    def png_info(self) -> PngInfo:
        """For `image.save(path, pnginfo=recipe.png_info())`."""
        info = PngInfo()
        info.add_itxt(KEY, self.to_json(indent=None))
        return info

    def save_png(self, image: Image.Image, path: str | Path) -> Path:
        """Write an image with the recipe inside, and beside it the file of what was trained."""
        self._save_trained(Path(path).parent)
        with room.writing(path, image.width * image.height * 3):  # at most: what it takes once compressed is known afterwards
            image.save(path, format="PNG", pnginfo=self.png_info())
        return Path(path)

    def _save_trained(self, folder: Path) -> None:
        if self.record is not None:
            self.record.save_in(folder)

    # ---------------------------------------------------------------- using

    def load_trained(self, folder: str | Path | None = None):
        """What a method that trains drew with, from the file in `folder` (beside the recipe where it was read). Raises RecipeError."""
        from fusion.transfer.trained import Trained, TrainedError

        folder = self.folder if folder is None else folder
        if self.record is not None:
            return self.record
        if folder is None:
            raise RecipeError(f"this recipe draws with {self.trained['file']}, which lies beside it: load the recipe from its own folder")
        try:
            return Trained.load(Path(folder) / self.trained["file"], self.trained["sha256"])
        except TrainedError as error:
            raise RecipeError(f"this recipe's {self.method} cannot be drawn here: {error}") from None

    def cards(self, catalog: Mapping, local: Mapping | None = None) -> list:
        """The cards of the members: from `local` (id -> card of models that are no catalogue entries), then the catalogue.

        Raises RecipeError for a model that is in neither, or whose revision or hashes are not those of the recipe.
        """
        local = local or {}
        return [same_model(model, local[model["id"]] if model["id"] in local else known(model, catalog)) for model in self.models]

    def as_weights(self) -> Weights:
        return Weights(
            values=normalised(np.array(self.weights, dtype=float)), interval=None if self.interval is None else np.array(self.interval),
            names=tuple(m.get("title", m["id"]) for m in self.models), how=self.how or "recipe",
            strata=None if self.strata is None else np.array(self.strata),
        )  # fmt: skip

    def plan(self, **changes) -> SamplingPlan:
        """The plan of the run; `changes` adds stop and progress. Raises RecipeError where what was trained is not there."""
        if self.trained is not None and changes.get("trained") is None:
            changes["trained"] = self.load_trained()
        weights = self.as_weights() if self.strata is not None else normalised(np.array(self.weights, dtype=float))
        plan = SamplingPlan(
            list(self.prompts), list(self.seeds), self.steps, self.guidance, self.height, self.width, weights, batch_size=self.batch_size,
            guidance_interval=self.guidance_interval, sampler=self.sampler or "first", reading=self.reading or "cut",
            negative_prompt=self.negative_prompt, clip_skip=self.clip_skip,
        )  # fmt: skip
        return plan.with_(**changes)

    def run(self, ensemble, **changes) -> Iterator[Sample]:
        """Draw the images again: all of them, or the one picture that the recipe was found in."""
        for number, sample in enumerate(METHODS[self.method].run(ensemble, None, self.plan(**changes))):
            if self.picture is None or number == self.picture:
                yield sample

    def summary(self) -> str:
        """One line: `0.61 Harbor + 0.39 Summit, Blend, 4 images`."""
        shares = mean_weights(self.weights)
        parts = " + ".join(f"{w:.2f} {m.get('title', m['id'])}" for w, m in zip(shares, self.models) if w > 0)
        images = 1 if self.picture is not None else max(len(self.prompts), len(self.seeds))
        return f"{parts}, {METHODS[self.method].title}, {images} image{'s' if images != 1 else ''}"


# ------------------------------------------------------------------------------------------------ small conversions

def _reading(ensemble, plan: SamplingPlan) -> str | None:
    """What a recipe says of how its prompts are read: nothing where every way of reading them is the same."""
    prompts = sorted({prompt for prompt, _ in plan.jobs} | ({plan.negative_prompt} if plan.negative_prompt else set()))
    skipped = plan.clip_skip and ensemble.family.weighs  # layers are chosen where prompts are read whole
    return None if not skipped and all(ensemble.plainly(prompt) for prompt in prompts) else plan.reading


def _sampler(ensemble, plan: SamplingPlan, method: str) -> str | None:
    """What a recipe says of samplers: nothing where all members sample alike, or none is drawn alone."""
    alone = method.split("/")[0] in ALONE and uneven(ensemble, plan)
    return plan.sampler if alone else None


def _environment(ensemble) -> dict[str, str]:
    found = {"device": str(ensemble.device), "dtype": str(ensemble.dtype).removeprefix("torch.")}
    for package in ("scorefusion-studio", "torch", "diffusers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            continue
    return found


def _plain(value):
    """numpy scalars and arrays, tuples and mappings as what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _tuples(value):
    """Nested lists or arrays as nested tuples."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return tuple(_tuples(one) for one in value) if isinstance(value, list | tuple) else value
