"""Stop within one network call: members are asked one after the other, and between two of them `stop()` is looked at."""

from __future__ import annotations

from collections.abc import Callable


class Interrupted(Exception):
    """`stop()` turned true inside a batch: what the batch had so far is dropped, what was finished before it stays."""


def attentive(predict: Callable, members: int, stop: Callable[[], bool] | None) -> Callable:
    """`predict(x_t, level, index, members=) -> (K, B, ...)` that asks one member at a time and raises Interrupted once `stop()` is true.

    Every network is called with the very batch that `predict` would give it, so no number changes.
    """
    if stop is None:
        return predict
    import torch  # here, so that naming Interrupted stays cheap

    every = range(members)

    def careful(x_t, level, index, members=every):
        answers = []
        for k in members:
            if stop():
                raise Interrupted
            answers.append(predict(x_t, level, index, members=[k]))
        return torch.cat(answers)

    return careful
