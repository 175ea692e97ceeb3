"""What lies in an adapter's file: tensors sorted by the layer they change and by their part in it. What cannot be used is refused by name.

Kinds that are read: LoRA (Hu et al. 2021) and LoCon, with a Tucker core, too; DoRA (arXiv 2402.09353); LoHa and LoKr (arXiv 2309.14859);
full differences of weights, biases and normalisations. Names end alike in every trainer; what stands before is the layer's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .errors import ModelError
from .headers import FLOATS, Header
from .layer_names import modern

_NAME = r"(?:\.(?!lora|hada|lokr)\w+)??"  # peft puts an adapter's name between
_ENDS = r"\.lora_{0}\.weight$|\.lora\.{0}\.weight$|\.lora_{1}" + _NAME + r"\.weight$|(?:(?<=_lora|layer)|(?<=_lora[12]))\.{0}\.weight$"
_FACTORS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1_a", "lokr_w1_b", "lokr_w1", "lokr_w2_a",
            "lokr_w2_b", "lokr_w2", "lokr_t2")  # fmt: skip
ROLES = [(re.compile(pattern), role) for pattern, role in (
    (_ENDS.format("down", "A"), "down"), (_ENDS.format("up", "B"), "up"), (r"\.lora_mid\.weight$", "mid"),
    (r"(?:\.lora)?\.alpha$", "alpha"), (r"\.dora_scale$", "dora_scale"), (r"\.scalar$", "scalar"),
    (rf"\.lora_magnitude_vector{_NAME}(?:\.weight)?$", "magnitude"),
    (rf"\.lora_(?:B{_NAME}|up)\.bias$", "up_bias"), (r"\.(?:diff|w_norm)$", "diff"), (r"\.(?:diff_b|b_norm)$", "diff_b"),
    *((rf"\.{name}{_NAME}$", name) for name in _FACTORS),
)]  # fmt: skip
REFUSED = {"oft_": "OFT", ".on_input": "IA3", ".a1.": "GLoRA", ".a2.": "GLoRA", ".b1.": "GLoRA", ".b2.": "GLoRA", "vera_": "VeRA",
           "lora_embedding": "LoRA on an embedding", ".bias": "biases", ".set_weight": "weights in place of changes",
           "scale_weight": "scaled 8-bit weights",
           "weight_scale": "scaled 8-bit weights"}  # fmt: skip
NEEDED = {"LoRA": [("down", "up")], "LoHa": [("hada_w1_a", "hada_w1_b"), ("hada_w2_a", "hada_w2_b")],
          "LoKr": [("lokr_w1",), ("lokr_w2",)], "difference": [("diff",)]}  # fmt: skip
Group = dict[str, Tensor]


def role_of(key: str) -> tuple[str, str] | None:
    """`(layer's name, role)` of a tensor's name; None for one that has no part in any kind."""
    for pattern, role in ROLES:
        if hit := pattern.search(key):
            return modern(key[: hit.start()]), role
    return None


def kind_of(group: Iterable[str]) -> str:
    """LoRA, LoHa, LoKr, difference, or bias alone."""
    roles = {*group}
    for start, kind in (("hada", "LoHa"), ("lokr", "LoKr"), ("down", "LoRA"), ("up", "LoRA"), ("mid", "LoRA"), ("diff", "difference")):
        if any(role.startswith(start) and role not in ("diff_b", "up_bias") for role in roles):
            return kind
    return "LoRA" if "up_bias" in roles else "bias"


def is_low_rank(group: Iterable[str]) -> bool:
    """Whether a layer's change is a product of two small matrices, which can be switched on and off beside the weight."""
    return kind_of(group) == "LoRA" and not {"dora_scale", "magnitude", "up_bias", "diff_b"} & {*group}


def merges(keys: Iterable[str]) -> bool:
    """Whether a file with tensors of these names changes weights themselves, so that its model needs a network of its own."""
    dense = {role for _, role in ROLES} - {"down", "up", "mid", "alpha", "scalar"}
    return any(found[1] in dense for found in map(role_of, keys) if found)


def read(file: Path, header: Header, title: str) -> dict[str, Tensor]:
    """The tensors, 8-bit floats as float32, in which they can be reckoned with. Raises ModelError for numbers that are no weights."""
    for key, tensor in header.tensors.items():
        whole = tensor.dtype in ("I16", "I32", "I64", "U16", "U32", "U64") and key.endswith((".alpha", ".scalar"))
        if tensor.dtype not in FLOATS and not whole and not key.endswith("position_ids"):
            raise ModelError(f"'{title}': {file.name} holds numbers of type {tensor.dtype} ({key}), which are no weights but codes of "
                             "them: choose a copy in 16-bit or 8-bit floats")  # fmt: skip
    return {key: value.float() if value.dtype.itemsize == 1 else value for key, value in load_file(file).items()}


def groups(tensors: Mapping[str, Tensor], title: str, file: str) -> tuple[dict[str, Group], list[str]]:
    """`{layer's name: {role: tensor}}` and warnings. Refuses tensors that have no part in any kind, naming what they are."""
    found, others = {}, []
    for key, tensor in tensors.items():
        place = role_of(key)
        if place is None:
            others.append(key)
        elif place[1] in found.setdefault(place[0], {}):
            raise ModelError(f"'{title}': {file} holds {place[0]} twice: choose another copy of it")
        else:
            found[place[0]][place[1]] = tensor
    silent = [key for key in others if not bool(tensors[key].any())]
    warnings = [f"{file} holds {len(silent)} tensors that are zero ({silent[0]} ...) and change nothing"] if silent else []
    wrong = [key for key in others if bool(tensors[key].any())]
    if wrong:
        kinds = sorted({kind for part, kind in REFUSED.items() for key in wrong if part in key}) or ["no LoRA weights"]
        raise ModelError(f"'{title}': {file} holds {', '.join(kinds)} ({wrong[0]}), which cannot be used here: "
                         "choose a plain LoRA, or merge it into its base first")  # fmt: skip
    for stem, group in found.items():
        _refuse_half(stem, group, title, file)
    if not found:
        raise ModelError(f"'{title}': {file} holds no LoRA weights: choose a LoRA file in safetensors form")
    return found, warnings


def _refuse_half(stem: str, group: Group, title: str, file: str) -> None:
    kind = kind_of(group)
    factored = lambda role: role in group or {f"{role}_a", f"{role}_b"} <= {*group}  # noqa: E731
    whole = kind == "bias" and "diff_b" in group or kind != "bias" and all(factored(role) for pair in NEEDED[kind] for role in pair)
    core = ("hada_t1" in group) == ("hada_t2" in group)
    mixed = {role[:4] for role in group} & {"hada", "lokr", "down", "diff"} - ({"diff"} if "diff" not in group else set())
    if not whole or not core or len(mixed) > 1:
        raise ModelError(f"'{title}': {file} lacks a half of {stem}: download it again")


def broken(group: Group) -> str | None:
    """The role of a tensor that is not a number; None where all are."""
    return next((role for role, tensor in group.items() if not bool(torch.isfinite(tensor).all())), None)


def is_nothing(group: Group) -> bool:
    """Whether a layer's change is zero, as far as its own tensors tell: of a DoRA its base's weight decides, too."""
    if {"dora_scale", "magnitude"} & {*group}:
        return False
    zero = lambda *roles: any(role in group and not bool(group[role].any()) for role in roles)  # noqa: E731
    bias = all(not bool(group[role].any()) for role in ("up_bias", "diff_b") if role in group)
    kind = kind_of(group)
    if kind == "bias":
        return bias
    factors = {"LoRA": ("down", "mid", "up"), "difference": ("diff",)}.get(kind, _FACTORS)
    return bias and (zero(*factors) or zero("scalar"))
