"""What an adapter adds to a weight, reckoned from its factors: for every kind that is more than a product of two small matrices.

A LoRA's is `scale up down`; a LoHa's the element-wise product of two such, a LoKr's their Kronecker product; with Tucker cores for
convolutions. A DoRA sets the norm of every row (or column) of the changed weight. scale: alpha / rank (arXiv 2106.09685, 2309.14859,
2402.09353). The products of LoHa and LoKr are peft's; all are held against lycoris-lora's own modules by the tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .adapter_files import Group, kind_of


def fold(group: Group) -> Group:
    """A LoRA without Tucker core: the core is taken into the down half, which then has its kernel."""
    if "mid" not in group:
        return group
    down, mid = group["down"].float().flatten(1), group["mid"].float()
    return {**{role: tensor for role, tensor in group.items() if role != "mid"}, "down": torch.einsum("oi...,ic->oc...", mid, down)}


def rank_of(group: Group) -> int | None:
    """The rank that alpha is divided by; None for kinds, or forms of them, that have none."""
    for role, axis in (("hada_w1_b", 0), ("lokr_w2_b", 0), ("lokr_w1_b", 0), ("down", 0)):
        if role in group:
            return group[role].shape[axis]
    return None


def product(group: Group) -> Tensor:
    """The change of a weight before its scale, float32 `(rows, ...)`; its other sides are yet to be shaped like the weight's."""
    kind = kind_of(group)
    full = {role: tensor.float() for role, tensor in group.items()}
    if kind == "LoHa":
        return _hada(full)
    if kind == "LoKr":
        return _kron(full)
    if kind == "difference":
        return full["diff"]
    folded = fold(full)
    return folded["up"].flatten(1) @ folded["down"].flatten(1)


def _hada(full: Group) -> Tensor:
    from peft.tuners.loha.layer import make_weight, make_weight_cp

    one = torch.ones((), device=full["hada_w1_a"].device)
    halves = [[full[f"hada_w{n}_a"], full[f"hada_w{n}_b"]] for n in (1, 2)]
    if "hada_t1" in full:
        return make_weight_cp(full["hada_t1"], *halves[0], full["hada_t2"], *halves[1], one)
    return make_weight(*(half.flatten(1) for pair in halves for half in pair), one)


def _kron(full: Group) -> Tensor:
    from peft.tuners.lokr.layer import make_kron, make_weight_cp

    first = full["lokr_w1"] if "lokr_w1" in full else full["lokr_w1_a"] @ full["lokr_w1_b"]
    if "lokr_w2" in full:
        second = full["lokr_w2"]
    elif "lokr_t2" in full:
        second = make_weight_cp(full["lokr_t2"], full["lokr_w2_a"], full["lokr_w2_b"])
    else:
        second = full["lokr_w2_a"] @ full["lokr_w2_b"]
    return make_kron(first, second, 1.0)


def decomposed(weight: Tensor, change: Tensor, group: Group) -> Tensor | None:
    """What a DoRA adds to `weight` (rows, columns, ...) with this change of its direction. None where its magnitudes do not fit.

    LyCORIS' magnitudes are of rows (rows, 1) or of columns (1, columns), peft's always of rows.
    """
    turned, flat = weight + change, weight.dim() - 1
    size = (group["dora_scale"] if "dora_scale" in group else group["magnitude"]).float().to(weight.device)
    if "magnitude" in group or size.shape[0] == len(weight):
        if size.numel() != len(weight):
            return None
        norm, size = turned.flatten(1).norm(dim=1).reshape(-1, *[1] * flat), size.reshape(-1, *[1] * flat)
    else:
        if size.numel() != weight.shape[1]:
            return None
        norm = turned.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, -1, *[1] * (flat - 1))
        size = size.reshape(norm.shape)
    return turned * (size / (norm + torch.finfo(torch.float32).eps)) - weight
