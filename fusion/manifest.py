"""`spaces.yaml` read and checked: where the page is hosted, on what hardware, with which models and limits. Data only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

FILE = Path(__file__).resolve().parents[1] / "spaces.yaml"
ZEROGPU = "zero-a10g"
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")

_COUNT = {"type": "integer", "minimum": 1}
_SECONDS = {"type": "number", "exclusiveMinimum": 0}
_RANGE = r"(==|>=|<=|<|>|~=|!=)\s*[0-9][0-9A-Za-z.+*]*"
_VERSION = {"type": "string", "pattern": rf"^{_RANGE}(\s*,\s*{_RANGE})*$"}
_FRONT = {
    "type": "object",
    "required": ["title", "emoji", "colorFrom", "colorTo", "short_description", "license"],
    "additionalProperties": False,
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": 60},
        "emoji": {"type": "string", "minLength": 1, "maxLength": 8},
        "colorFrom": {"enum": list(COLOURS)},
        "colorTo": {"enum": list(COLOURS)},
        "short_description": {"type": "string", "minLength": 1, "maxLength": 60},  # the hub refuses longer ones
        "pinned": {"type": "boolean"},
        "license": {"type": "string", "minLength": 1},
        "hf_oauth": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    },
}
_TARGET = {
    "type": "object",
    "required": ["repository", "private", "hardware", "python_version", "front_matter", "requirements", "models", "limits", "secrets"],
    "additionalProperties": False,
    "properties": {
        "repository": {"type": "string", "pattern": r"^([A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}$"},
        "private": {"type": "boolean"},
        "hardware": {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"},
        "python_version": {"type": "string", "pattern": r"^3\.[0-9]+(\.[0-9]+)?$"},  # quoted in YAML: 3.10 would be 3.1
        "front_matter": _FRONT,
        "requirements": {"type": "object", "required": ["torch"], "additionalProperties": _VERSION},
        "models": {"anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "string"}, "minItems": 2, "uniqueItems": True}]},
        "limits": {
            "type": "object",
            "required": ["models", "images", "looks", "samples", "steps", "calibration"],
            "additionalProperties": False,
            "properties": {name: _COUNT for name in ("models", "images", "looks", "samples", "steps", "seconds")}
            | {name: {"type": "integer", "minimum": 0} for name in ("calibration", "training")},
        },
        "pace": {
            "type": "object",
            "required": ["load", "evaluation", "image"],
            "additionalProperties": False,
            "properties": {"load": _SECONDS, "evaluation": _SECONDS, "image": _SECONDS},
        },
        "variables": {"type": "object", "propertyNames": {"pattern": "^[A-Z][A-Z0-9_]*$"}, "additionalProperties": {"type": "string"}},
        "secrets": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$"}, "uniqueItems": True},
    },
}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "ScoreFusion Studio hosted pages",
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"},
    "additionalProperties": _TARGET,
}
_LOOKS_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY")


class ManifestError(ValueError):
    """`spaces.yaml` cannot be used; the message names the place, the cause and the cure."""


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for at once; None: no limit. `looks`: noise levels times draws. `samples`: images of one method.

    `calibration`: images drawn from each model for a calibration. `seconds`: of GPU for one request.
    `training`: seconds of training that a method may take before it draws, 0 for none.
    """

    models: int | None = None
    images: int | None = None
    looks: int | None = None
    samples: int | None = None
    steps: int | None = None
    calibration: int | None = None
    seconds: int | None = None
    training: int | None = None


@dataclass(frozen=True)
class Target:
    """One hosted page. `models`: ids on offer, None for all. `pace`: seconds to load, for a network evaluation, for an image."""

    name: str
    repository: str
    private: bool
    hardware: str
    python_version: str
    front_matter: Mapping
    requirements: Mapping[str, str]
    models: tuple[str, ...] | None
    limits: Limits
    secrets: tuple[str, ...]
    pace: Mapping[str, float] | None
    variables: Mapping[str, str]

    @property
    def zerogpu(self) -> bool:
        return self.hardware == ZEROGPU


def targets(path: Path = FILE) -> dict[str, Target]:
    """Every target of the manifest, checked. Raises ManifestError with place, cause and cure."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"{path.name} cannot be read ({error.strerror}): it stands at the top of the repository") from None
    except yaml.YAMLError as error:
        raise ManifestError(f"{path.name} is no valid YAML ({' '.join(str(error).split())}): correct it there") from None
    return {name: _target(name, entry) for name, entry in checked(content).items()}


def checked(content: object) -> dict:
    """The manifest as plain data, or ManifestError. Checks what the schema says and what it cannot."""
    import jsonschema  # only where a manifest is read

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(SCHEMA).iter_errors(content))
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "the top"
        message = error.message if len(error.message) <= 200 else f"{error.message[:120]} ... fails the rule `{error.validator}`"
        raise ManifestError(f"spaces.yaml is wrong at {where}: {message}. Correct it there")
    for name, entry in content.items():
        _check_secrets(name, entry)
        if entry["hardware"] == ZEROGPU:
            _check_zerogpu(name, entry)
    return content


def _check_secrets(name: str, entry: dict) -> None:
    for key, value in entry.get("variables", {}).items():
        if _LOOKS_SECRET.search(key) or re.match(r"hf_\w{20}", value):
            raise ManifestError(f"spaces.yaml is wrong at {name}.variables.{key}: that is a secret. Name it under `secrets`, "
                                f"and give its value in the environment as SPACE_SECRET_{key} when deploying")  # fmt: skip


def _check_zerogpu(name: str, entry: dict) -> None:
    """ZeroGPU runs Python 3.10.13 or 3.12.12, torch up to 2.11, and asks for a duration before anything runs."""
    from packaging.specifiers import SpecifierSet

    if not entry["python_version"].startswith("3.12"):
        raise ManifestError(f"spaces.yaml is wrong at {name}.python_version: ZeroGPU has Python 3.12.12 and 3.10.13, and ours is 3.11 or "
                            'newer. Write "3.12.12"')  # fmt: skip
    if SpecifierSet(entry["requirements"]["torch"]).contains("2.12.0"):
        raise ManifestError(f'spaces.yaml is wrong at {name}.requirements.torch: ZeroGPU supports torch up to 2.11. Write ">=2.8,<2.12"')
    if "spaces" not in entry["requirements"] or "pace" not in entry or "seconds" not in entry["limits"]:
        raise ManifestError(f"spaces.yaml is wrong at {name}: ZeroGPU needs the package `spaces` under requirements, `pace`, "
                            "and `seconds` under limits. Add them")  # fmt: skip


def _target(name: str, entry: dict) -> Target:
    models = None if entry["models"] == "all" else tuple(entry["models"])
    typed = {"name": name, "models": models, "limits": Limits(**entry["limits"]), "secrets": tuple(entry["secrets"])}
    return Target(**({"pace": None, "variables": {}} | entry | typed))
