"""Configurations as their classes read them: a key that is left out stands for its class's default.

Later versions write down what earlier ones left out, so that a model and its fine-tune may say one thing in two ways.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache


def completed(config: Mapping, name: str | None = None) -> Mapping:
    """A part's configuration with the defaults of its class; as it is where the class is not known.

    name: the class, None for what the configuration itself says (`_class_name` of diffusers, `model_type` of transformers).
    """
    if not config:
        return config
    defaults = _diffusers(str(name or config.get("_class_name") or ""))
    if defaults is None:
        return _transformers(config) if name is None else config
    return {**defaults, **config}


@cache
def _diffusers(name: str) -> Mapping | None:
    """Defaults of a class of diffusers, tuples as lists, as JSON has them."""
    import diffusers

    cls = getattr(diffusers, name, None) if name.isidentifier() else None
    if not isinstance(cls, type) or not hasattr(cls, "load_config"):
        return None
    given = inspect.signature(cls.__init__).parameters.values()
    plain = lambda value: list(value) if isinstance(value, tuple) else value
    return {one.name: plain(one.default) for one in given if one.default is not inspect.Parameter.empty}


def _transformers(config: Mapping) -> Mapping:
    """The same for text encoders: what their configuration class makes of the file."""
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return config
    try:
        return CONFIG_MAPPING[kind].from_dict(dict(config)).to_dict()
    except (TypeError, ValueError, KeyError, AttributeError):  # a strange configuration is compared as it stands
        return config
