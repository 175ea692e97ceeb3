"""Pictures that other programs drew: prompt, seed, steps and guidance that they hold, and by name what has no place here.

A1111's web UI and those of its kind (`fusion.infotext`), NovelAI, InvokeAI, Fooocus and SwarmUI state them; ComfyUI keeps a graph of nodes,
which is only named. No picture of theirs is a recipe: it names models by file names, so the visitor's own models draw.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fusion import infotext
from fusion.intake.opening import Refused, opened
from fusion.intake.text import one_line
from fusion.methods.plan import MAX_CLIP_SKIP, MAX_GUIDANCE, MAX_STEPS, SIDES
from fusion.recipe_schema import RecipeError
from models import bounded
from models.families import Family

PICTURES = ("PNG", "JPEG", "WEBP", "AVIF")  # what these programs write
EXIF, USER_COMMENT, CAMERA_MODEL = 0x8769, 0x9286, 0x0110  # ComfyUI writes its graph where cameras have their names
MAX_JSON = 1_000_000  # bytes
LONGEST_PROMPT = 4000  # characters, as in a recipe
LONGEST_NAME, MOST_NAMED = 80, 8  # characters of a name from a stranger's file; names of one kind that are said
QUIET = ("version", "app", "backend", "pipeline", "parser", "user", "created date", "hashes", "civitai resources", "civitai metadata",
         "lora hashes", "model hash", "ti hashes", "vae hash", "schedule type", "denoising strength", "fooocus v2 expansion")  # fmt: skip
KINDS = {
    "sampler": "sampler {}", "model": "model {}", "lora": "LoRA {}", "vae": "VAE {}", "hires": "Hires fix", "controlnet": "ControlNet",
    "variation": "variation seed", "image": "the picture that it began with", "refiner": "refiner {}",
    "prompt": "the prompt beyond {} characters",
    "negative": "the negative prompt", "clip_skip": "clip skip {}", "range": "{}, which cannot be drawn with", "other": "{}",
}  # fmt: skip
"""What can be left: its kind and how it is said in English. `range`: a number that cannot be used, `steps 5000`."""


@dataclass(frozen=True)
class Foreign:
    """What a picture of another program says. None: nothing, or no number that could be drawn with.

    `program`: its name. `prompt`, `negative`: without `<lora:...>`, at most `LONGEST_PROMPT` characters. `guidance`: as in `SamplingPlan`.
    `size`: width and height in pixels. `clip_skip`: which layer of CLIP is read, the last one being 1, as here and in web UIs; None: the
    models' own. `left`: what has no place here, `(kind in KINDS, name)`.
    """

    program: str
    prompt: str = ""
    negative: str = ""
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    size: tuple[int, int] | None = None
    clip_skip: int | None = None
    left: tuple[tuple[str, str], ...] = ()

    def for_families(self, families: Iterable[Family]) -> Foreign:
        """With what models of these families do not take moved to `left`: a negative prompt, or a layer of CLIP.

        Only families that read layer 1 are told a layer: web UIs read the others at their own, whatever their pictures say.
        """
        families, found = list(families), self
        if self.negative and any(family.guidance != "batch" for family in families):
            found = replace(found, negative="", left=(*found.left, ("negative", "")))
        layers = {family.clip_layer for family in families}
        if self.clip_skip is not None and layers and layers != {1}:
            named = () if layers == {self.clip_skip} else (("clip_skip", str(self.clip_skip)),)
            found = replace(found, clip_skip=None, left=(*found.left, *named))
        return found

    @property
    def flags(self) -> str:
        """As flags of `sample`, quoted for a shell."""
        width, height = self.size or (None, None)
        given = {"prompt": self.prompt, "negative": self.negative, "seed": self.seed, "steps": self.steps, "guidance": self.guidance,
                 "clip-skip": self.clip_skip, "width": width, "height": height}  # fmt: skip
        return " ".join(f"--{name} {shlex.quote(_plain(value))}" for name, value in given.items() if value not in (None, ""))

    @property
    def left_words(self) -> str:
        """What has no place here, in English; empty where all has one."""
        return ", ".join(KINDS[kind].format(name) for kind, name in self.left)


class ForeignRecipe(RecipeError):
    """The picture is another program's. `found`: what it says; None where it is known whose it is, and no more."""

    def __init__(self, message: str, found: Foreign | None = None):
        super().__init__(message)
        self.found = found


def _plain(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------------------------ reading a file


def refusal(path: str | Path) -> ForeignRecipe | None:
    """Why this picture is no recipe, with what to do instead, where another program drew it; None where none is known to have. Never
    raises for what a file holds."""
    try:
        found = read(path)
    except ForeignRecipe as error:
        return error
    except RecipeError as error:
        return ForeignRecipe(str(error))
    if found is None:
        return None
    left = f". What it says besides has no flag: {found.left_words}" if found.left else ""
    command = f"python -m fusion sample --models MODEL --count 1 {found.flags}"
    return ForeignRecipe(f"this picture holds settings of {found.program} and names no model of this program: draw with your own, "
                         f"{command}{left}", found)  # fmt: skip


def read(path: str | Path) -> Foreign | None:
    """What another program wrote into a picture; None where there is nothing that is known.

    Only headers and texts are read, within the bounds of the intake. Raises ForeignRecipe for a picture of a program whose settings cannot
    be told, RecipeError for a text that is too long.
    """
    try:
        with opened(path, PICTURES) as image:
            texts = {key: value for key, value in image.info.items() if isinstance(key, str) and isinstance(value, str)}
            tags, heavy = image.getexif(), image.info.get("too heavy")
            comment, graph = tags.get_ifd(EXIF).get(USER_COMMENT), tags.get(CAMERA_MODEL)
    except Refused:
        return None
    if heavy:
        raise RecipeError("the texts in this picture are larger than what is read: copy prompt and settings from the program that drew it")
    if isinstance(graph, str) and graph.startswith("prompt:{"):
        texts.setdefault("prompt", graph.removeprefix("prompt:"))
    if "parameters" not in texts and (said := decoded(comment)):
        texts["parameters"] = said
    return of(texts)


def decoded(comment: object) -> str:
    """An EXIF UserComment as text: behind the eight letters that name its encoding, UTF-16 in either order, or UTF-8. "" for none."""
    if isinstance(comment, str):
        return comment
    if not isinstance(comment, bytes):
        return ""
    kind, body = comment[:8], comment[8 : 4 * infotext.LONGEST]
    if kind != b"UNICODE\0":
        return (body if kind in (b"ASCII\0\0\0", b"\0" * 8) else kind + body).decode("utf-8", "replace").strip("\0 ")
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return body.decode("utf-16", "replace").strip("\0 ")
    if b"\0" not in body[:64]:  # some write the word and then UTF-8
        return body.decode("utf-8", "replace")
    # the web UI writes the high byte first, others the low one; the settings at least are plain letters, whose high byte is zero
    return body.decode("utf-16-be" if body[::2].count(0) >= body[1::2].count(0) else "utf-16-le", "replace").strip("\0 ")


def of(texts: Mapping[str, str]) -> Foreign | None:
    """What the texts of a picture say. Raises as `read` does."""
    if "parameters" in texts:
        found = _of_json(texts["parameters"]) if texts["parameters"].lstrip().startswith("{") else of_infotext(texts["parameters"])
        if found is not None:
            return found
    if texts.get("Software") == "NovelAI":
        return _of("NovelAI", _object(texts.get("Comment")), NOVELAI)
    for key in ("invokeai_metadata", "sd-metadata"):
        if key in texts:
            return _of_invoke(_object(texts[key]))
    if any(key in texts for key in ("invokeai_graph", "invokeai_workflow", "Dream", "dream")):
        raise _only_named("InvokeAI", "holds no settings that can be read")
    if any(texts.get(key, "").lstrip().startswith("{") for key in ("prompt", "workflow")):
        raise _only_named("ComfyUI", "holds a graph of nodes, from which nobody can tell the prompt for certain")
    return None


def _only_named(program: str, why: str) -> ForeignRecipe:
    return ForeignRecipe(f"this picture was drawn by {program} and {why}: open it in {program} and copy prompt, seed, steps and guidance "
                         "from there")  # fmt: skip


def _object(text: str | None) -> dict:
    """A JSON object; empty for what is none."""
    try:
        found = bounded.parse(text or "", MAX_JSON)
    except bounded.Unreadable:
        return {}
    return found if isinstance(found, dict) else {}


# ------------------------------------------------------------------------------------------------ A1111


def of_infotext(text: str) -> Foreign | None:
    """What a text of A1111's kind says; None for another text. Raises RecipeError for one that is too long."""
    parts = infotext.split(text)
    if parts is None:
        return None
    prompt, negative, given = parts
    program = "SD.Next" if "sd.next" in given.get("app", "").lower() else "Forge" if given.get("version", "").startswith("f") else "A1111"
    guidance = given.get("cfg scale")
    distilled = infotext.number(given.pop("distilled cfg scale", None))
    if distilled is not None and (infotext.number(guidance) or 1.0) <= 1:
        guidance = distilled  # Forge's name for what Flux is told: the other one is then off
    skip = given.get("clip skip")
    skip = None if skip == "1" else skip  # the last layer is what the web UI reads unless told otherwise: the models' own
    wide, _, high = given.get("size", "").partition("x")
    found = _with(
        Foreign(program), prompt, negative, given.get("seed"), given.get("steps"), guidance, (wide, high), skip,
        networks=_hashed(given.get("lora hashes", "")),
    )  # fmt: skip
    return replace(found, left=tuple(dict.fromkeys([*_left(given), *found.left])))


def _hashed(text: str) -> list[str]:
    """The names in `film: ab12, other: cd34`."""
    return [name for part in text.split(",")[:64] if (name := part.partition(":")[0].strip())]


def _left(given: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a line of settings says that has no place here."""
    hires = any(name.startswith("hires") for name in given)
    left = [("sampler", _name(given["sampler"] + (f" ({given['schedule type']})" if given.get("schedule type") else "")))] \
        if given.get("sampler") else []  # fmt: skip
    if model := given.get("model") or given.get("model hash"):
        left.append(("model", _name(model)))
    left += [("hires", "")] if hires else [("image", "")] if "denoising strength" in given else []
    others = []
    for name, value in given.items():
        if name in ("steps", "sampler", "cfg scale", "seed", "size", "clip skip", "model") or name in QUIET or name.startswith("hires"):
            continue
        if name in ("variation seed", "variation seed strength", "seed resize from"):
            left.append(("variation", ""))
        elif name.startswith("controlnet"):
            left.append(("controlnet", ""))
        elif name == "vae" or name == "refiner":
            left.append((name, _name(value)))
        else:
            others.append(("other", _name(name.partition(" model")[0] if name.startswith("adetailer") else name)))
    others = list(dict.fromkeys(others))
    return [*left, *others[:MOST_NAMED], *([("other", "…")] if len(others) > MOST_NAMED else [])]


def _name(text: object) -> str:
    """A stranger's name, of one line and short."""
    line = one_line(str(text))
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


def _with(found: Foreign, prompt, negative, seed, steps, guidance, size, clip_skip, networks=()) -> Foreign:
    """`found` with these values, as far as they can be drawn with; the others are left."""
    left: list[tuple[str, str]] = []
    texts, tags = [], []
    for text in (prompt, negative):
        words, names = infotext.without_networks(one_line(text))
        if len(words) > LONGEST_PROMPT:
            left.append(("prompt", str(LONGEST_PROMPT)))
        texts.append(words[:LONGEST_PROMPT])
        tags += names
    known = {tag.partition(":")[0] for tag in tags}
    tags += [name for name in networks if name not in known]
    left = [("lora", _name(tag)) for tag in dict.fromkeys(tags)][:MOST_NAMED] + left
    values = {}
    for name, given, value, low, high in (
        ("seed", seed, infotext.whole(seed), 0, 2**63 - 1), ("steps", steps, infotext.whole(steps), 1, MAX_STEPS),
        ("guidance", guidance, infotext.number(guidance), 0, MAX_GUIDANCE),
        ("clip_skip", clip_skip, infotext.whole(clip_skip), 1, MAX_CLIP_SKIP),
    ):  # fmt: skip
        values[name] = value if value is not None and low <= value <= high else None
        if given is not None and values[name] is None:
            left.append(("range", f"{name.replace('_', ' ')} {_name(given)}"))
    sides = tuple(infotext.whole(side) for side in size)
    if all(side is not None and SIDES[0] <= side <= SIDES[1] for side in sides):
        values["size"] = sides
    elif any(side not in (None, "") for side in size):
        left.append(("range", f"size {'x'.join(_name(side) for side in size)}"))
    return replace(found, prompt=texts[0], negative=texts[1], **values, left=(*found.left, *left))


# ------------------------------------------------------------------------------------------------ programs that write JSON


@dataclass(frozen=True)
class Names:
    """What a program calls things in its JSON; None: it does not say them. `skip`: what to add to its clip skip to count from 1."""

    prompt: str
    negative: str
    steps: str
    guidance: str
    sampler: str | None = None
    model: str | None = None
    clip_skip: str | None = None
    skip: int = 0
    others: Mapping[str, str] = field(default_factory=dict)  # a key that says of something without a place here -> its name


NOVELAI = Names("prompt", "uc", "steps", "scale", "sampler", others={
    "v4_prompt": "character prompts", "reference_image_multiple": "vibe transfer", "cfg_rescale": "cfg rescale"})  # fmt: skip
INVOKE = Names("positive_prompt", "negative_prompt", "steps", "cfg_scale", "scheduler", "model", "clip_skip", 1, {
    "controlnets": "ControlNet", "ipAdapters": "IP adapter", "t2iAdapters": "T2I adapter"})  # fmt: skip
FOOOCUS = Names("prompt", "negative_prompt", "steps", "guidance_scale", "sampler", "base_model", "clip_skip")
SWARM = Names("prompt", "negativeprompt", "steps", "cfgscale", "sampler", "model")


def _of(program: str, said: Mapping, names: Names) -> Foreign:
    """What JSON says under `names`. Raises ForeignRecipe where it says no prompt."""
    if not isinstance(said.get(names.prompt), str):
        raise _only_named(program, "holds no settings that can be read")
    model = said.get(names.model) if names.model else None
    model = model.get("name") or model.get("model_name") if isinstance(model, Mapping) else model
    left = [(kind, _name(value)) for kind, value in (("sampler", said.get(names.sampler)), ("model", model)) if isinstance(value, str)]
    left += [("controlnet", "") if name == "ControlNet" else ("other", name) for key, name in names.others.items() if _meant(said.get(key))]
    skip = infotext.whole(said.get(names.clip_skip)) if names.clip_skip else None
    skip = skip + names.skip if skip else None  # 0 there: the last layer, which is the models' own
    found = _with(Foreign(program, left=tuple(left)), said[names.prompt], said.get(names.negative), said.get("seed"), said.get(names.steps),
                  said.get(names.guidance), (said.get("width"), said.get("height")), skip, _networks(said.get("loras")))  # fmt: skip
    if program == "NovelAI" and "{" in found.prompt + found.negative:  # its sign for weight, which is text here
        found = replace(found, left=(*found.left, ("other", "{}")))
    return found


def _meant(value: object) -> bool:
    """Whether an option says anything; NovelAI's `v4_prompt` always repeats the prompt, and has characters or none."""
    if isinstance(value, Mapping) and isinstance(value.get("caption"), Mapping):
        return bool(value["caption"].get("char_captions"))
    return bool(value)


def _networks(loras: object) -> list[str]:
    """InvokeAI's list of LoRAs, `[{"model": {"name": ...}, "weight": 0.8}]`, and Fooocus', `[[name, weight], ...]`."""
    names = []
    for one in loras[:64] if isinstance(loras, list) else ():
        model = one.get("model", one.get("lora")) if isinstance(one, Mapping) else one[0] if isinstance(one, list) and one else None
        name = model.get("name", model.get("model_name")) if isinstance(model, Mapping) else model
        names += [name] if isinstance(name, str) else []
    return names


def _of_invoke(said: Mapping) -> Foreign:
    """InvokeAI's present metadata, and those of its version 2, where what was drawn lies under `image`."""
    image = said.get("image")
    if not isinstance(image, Mapping):
        return _of("InvokeAI", said, INVOKE)
    prompt = image.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], Mapping):
        prompt = prompt[0].get("prompt")
    flat = {**image, "positive_prompt": prompt, "scheduler": image.get("sampler"), "model": said.get("model_weights")}
    if isinstance(prompt, str) and prompt.endswith("]") and "[" in prompt:  # it writes what is not wanted into square brackets
        flat["positive_prompt"], _, rest = prompt.rpartition("[")
        flat["negative_prompt"] = rest[:-1]
    return _of("InvokeAI", flat, INVOKE)


def _of_json(text: str) -> Foreign | None:
    """`parameters` that are JSON: SwarmUI's, or Fooocus'. None for others."""
    said = _object(text)
    if isinstance(said.get("sui_image_params"), Mapping):
        return _of("SwarmUI", said["sui_image_params"], SWARM)
    return _of("Fooocus", said, FOOOCUS) if {"prompt", "guidance_scale"} <= set(said) else None
