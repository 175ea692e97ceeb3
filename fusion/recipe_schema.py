"""What a recipe file may contain: its JSON schema, its bounds, and the checks that a schema cannot say. Every refusal is a sentence."""

from __future__ import annotations

import json
import math

import jsonschema
import numpy as np

from fusion.methods import METHODS, TRAINED
from fusion.methods.plan import MAX_BATCH, MAX_GUIDANCE, MAX_STEPS, SIDES
from models import bounded
from models.file_kinds import FIRST, kind

VERSION = 1
MAX_BYTES = 1_000_000

_TEXT = {"type": "string", "maxLength": 400}
_PROMPT = {"type": "string", "maxLength": 4000}
_NAME = {"type": "string", "minLength": 1, "maxLength": 200}
_LONG = {"type": "string", "minLength": 1, "maxLength": 2000}  # of a model with many adapters
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_SHARES = {"type": "array", "items": _SHARE, "minItems": 1, "maxItems": 64}
_PIXELS = {"type": ["integer", "null"], "minimum": SIDES[0], "maximum": SIDES[1]}
_STRENGTH = {"type": "number", "minimum": -100, "maximum": 100}
_ADAPTER = {
    "type": "object", "required": ["source"], "additionalProperties": False,
    "properties": {"source": _NAME, "revision": {"type": ["string", "null"], "maxLength": 200}, "strength": _STRENGTH},
}  # fmt: skip
_MODEL = {
    "type": "object",
    "required": ["id"],
    "additionalProperties": False,
    "properties": {
        "id": _LONG, "title": _LONG, "family": _NAME, "source": _NAME, "revision": {"type": ["string", "null"], "maxLength": 200},
        "adapter": {"type": ["string", "null"], "maxLength": 200}, "adapter_revision": {"type": ["string", "null"], "maxLength": 200},
        "strength": _STRENGTH, "further": {"type": "array", "items": _ADAPTER, "maxItems": 32},
        "prediction": _NAME, "components": _TEXT, "prompt_template": _TEXT,
        "sha256": {"type": "object", "maxProperties": 200, "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
    },
}  # fmt: skip
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "ScoreFusion Studio recipe",
    "type": "object",
    "required": ["version", "models", "weights", "method", "prompts", "seeds"],
    "additionalProperties": False,
    "properties": {
        "version": {"const": VERSION},
        "models": {"type": "array", "items": _MODEL, "minItems": 1, "maxItems": 64},
        "weights": {"anyOf": [_SHARES, {"type": "array", "items": _SHARES, "minItems": 1, "maxItems": 256}]},
        "interval": {"type": ["array", "null"], "items": {"type": "array", "items": _SHARE, "minItems": 2, "maxItems": 2}, "maxItems": 64},
        "strata": {"type": ["array", "null"], "items": {"type": "number"}, "minItems": 2, "maxItems": 257},
        "how": _TEXT,
        "method": _NAME,
        "prompts": {"type": "array", "items": _PROMPT, "minItems": 1, "maxItems": 4096},
        "seeds": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, "minItems": 1, "maxItems": 4096},
        "steps": {"type": "integer", "minimum": 1, "maximum": MAX_STEPS},
        "guidance": {"type": "number", "minimum": 0, "maximum": MAX_GUIDANCE},
        "guidance_interval": {"type": ["array", "null"], "items": _SHARE, "minItems": 2, "maxItems": 2},
        "sampler": {"enum": ["own", "written", None]},
        "negative_prompt": {"type": "string", "maxLength": 4000},
        "clip_skip": {"type": "integer", "minimum": 0, "maximum": 12},
        "reading": {"enum": ["prompt", "text", "cut", None]},
        "height": _PIXELS,
        "width": _PIXELS,
        "batch_size": {"type": "integer", "minimum": 1, "maximum": MAX_BATCH},
        "picture": {"type": ["integer", "null"], "minimum": 0, "maximum": 4095},
        "metrics": {"type": "object"},
        "trained": {
            "type": "object",
            "required": ["file", "sha256", "member"],
            "additionalProperties": False,
            "properties": {
                "file": {"type": "string", "maxLength": 120, "pattern": r"^[A-Za-z0-9][A-Za-z0-9_-]*\.safetensors$"},  # a name, no path
                "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "member": _NAME,
            },
        },
        "environment": {"type": "object", "maxProperties": 20, "additionalProperties": _TEXT},
    },
}


class RecipeError(ValueError):
    """A recipe cannot be used; the message names the cause and the cure."""


def parse(text: str | bytes) -> dict:
    """A checked recipe document. Raises RecipeError, with cause and cure, for anything else; the size is bounded before parsing."""
    if len(text) > MAX_BYTES:
        raise RecipeError(f"this file has {len(text) / 1e6:.1f} MB and a recipe at most {MAX_BYTES / 1e6:.0f} MB: choose a recipe file")
    try:
        content = json.loads(bounded.checked(text, MAX_BYTES), parse_constant=_refuse_number, parse_float=_finite)
    except RecipeError:
        raise
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, or nested thousands deep
        told = kind(text.encode() if isinstance(text, str) else bytes(text[:FIRST]), len(text)) or ""
        if "in place of the file" in told:  # a download that brought something else
            raise RecipeError(f"this is not a recipe: it {told}") from None
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise RecipeError(f"this is not a recipe: it is no valid JSON{where}. Save the recipe again, or undo the last edit") from None
    check(content)
    return content


def _refuse_number(text: str):
    raise RecipeError(f"this recipe contains {text}, which is no number: weights and settings must be finite. Fit again and save it anew")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_number(text[:30])


def check(content: object) -> None:
    if not isinstance(content, dict) or "version" not in content:
        raise RecipeError("this JSON file is not a recipe: it has no `version`. Choose a file saved as a recipe here")
    if isinstance(content["version"], int) and content["version"] > VERSION:
        newer = f"this recipe has version {content['version']} and this program reads version {VERSION}"
        raise RecipeError(f"{newer}: update ScoreFusion Studio")
    if content["version"] is True or content["version"] != VERSION:
        found = str(content["version"])[:40]
        raise RecipeError(f"this recipe's version is {found!r} and must be {VERSION}: correct it, or save the recipe again")
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(SCHEMA).iter_errors(content))
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "the recipe"
        raise RecipeError(f"this recipe is broken at {where}: {_short(error)}. Correct it there, or save the recipe again")
    _check_weights(content)
    if content["method"] not in METHODS:
        raise RecipeError(f"this recipe asks for the unknown method {content['method']!r}: use one of {', '.join(METHODS)}")
    trains = content["method"] in TRAINED
    if trains != ("trained" in content):
        raise RecipeError(f"this recipe of {content['method']} {'lacks' if trains else 'must not have'} `trained`, the file of what was "
                          "trained: save the recipe again")  # fmt: skip
    guided = content.get("guidance_interval")
    if guided is not None and guided[0] > guided[1]:
        raise RecipeError(f"the guidance interval of this recipe ends at {guided[1]:g}, before its start at {guided[0]:g}: exchange them")
    prompts, seeds = len(content["prompts"]), len(content["seeds"])
    if prompts != seeds and 1 not in (prompts, seeds):
        raise RecipeError(f"this recipe has {prompts} prompts and {seeds} seeds: give equally many, or one of either")


def _check_weights(content: dict) -> None:
    members, weights = len(content["models"]), np.array(_ragged(content["weights"]), dtype=float)
    if weights.shape[-1] != members:
        raise RecipeError(f"this recipe has {weights.shape[-1]} weights for {members} models: give one weight for each model")
    if (abs(weights.sum(-1) - 1.0) > 1e-3).any():
        raise RecipeError(f"the weights of this recipe sum to {np.atleast_1d(weights.sum(-1))[0]:.4g} and must sum to 1: correct them")
    strata = content.get("strata")
    if (weights.ndim == 2) != (strata is not None) or (strata is not None and len(strata) != len(weights) + 1):
        raise RecipeError("weights by noise level and their `strata` do not belong together: L rows of weights need L + 1 rising levels")
    if strata is not None and (np.diff(strata) <= 0).any():
        raise RecipeError("the `strata` of this recipe do not rise: they are the edges of the noise levels, from clean to noisy")
    interval = content.get("interval")
    if interval is not None and len(interval) != members:
        raise RecipeError(f"this recipe has {len(interval)} intervals for {members} models: give one for each, or remove `interval`")


def _short(error) -> str:
    """The validator's message without the whole document in it."""
    return error.message if len(error.message) <= 160 else f"{error.message[:100]} ... fails the rule `{error.validator}`"


def _ragged(weights: list) -> list:
    """Rows of equal length, or RecipeError."""
    if isinstance(weights[0], list) and len({len(row) for row in weights}) > 1:
        raise RecipeError("the rows of the weights have different lengths: give one weight for each model at every level")
    return weights
