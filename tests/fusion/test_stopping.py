"""Stop takes effect within one network call, whatever the batch, and a fit that nobody stops is the same to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fusion.objective import fit_gram
from tests.fusion.world import World


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(6)]


class Counted:
    """How often the members' networks were called, and a stop that turns true at the `at`-th call."""

    def __init__(self, ensemble, at: int):
        self.calls, self.at, networks = 0, at, {id(m.network): m.network for m in ensemble.members}
        self.hooks = [network.register_forward_pre_hook(self.count) for network in networks.values()]

    def count(self, *_):
        self.calls += 1

    def stop(self) -> bool:
        return self.calls >= self.at

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def test_no_call_after_stop_and_finished_images_stay(tiny_ensemble, pictures):
    ensemble = tiny_ensemble("portraits")
    whole = fit_gram(ensemble, pictures, "a cat", levels=4, batch_size=8)
    with Counted(ensemble, at=8) as counted:  # the second member's call of the third of six batches: one image a batch
        part = fit_gram(ensemble, pictures, "a cat", levels=4, batch_size=8, stop=counted.stop)
    assert counted.calls == 8 and len(part) == 2
    np.testing.assert_array_equal(part.plain, whole.plain[:2])


def test_stop_before_the_first_image(tiny_ensemble, pictures):
    ensemble = tiny_ensemble("portraits")
    with Counted(ensemble, at=2) as counted, pytest.raises(RuntimeError, match="nothing was measured"):
        fit_gram(ensemble, pictures, "a cat", levels=4, stop=counted.stop)
    assert counted.calls == 2
    with pytest.raises(RuntimeError, match="nothing was measured"):
        fit_gram(ensemble, pictures, "a cat", levels=4, stop=lambda: True)


def test_a_stop_that_never_comes_changes_no_bit(tiny_ensemble, pictures):
    ensemble = tiny_ensemble("portraits")
    one = fit_gram(ensemble, pictures, "a cat", levels=4)
    other = fit_gram(ensemble, pictures, "a cat", levels=4, stop=lambda: False)
    np.testing.assert_array_equal(one.plain, other.plain)
    np.testing.assert_array_equal(one.smooth, other.smooth)
    assert one.evaluations == other.evaluations


def test_large_latents_are_asked_in_small_calls_on_a_cpu():
    world, seen = World(size=2**13), []
    _, prompts, images = world.draw([1.0, 0.0, 0.0, 0.0], 3, seed=0)
    asked = world.predict
    world.predict = lambda x_t, level, shift: seen.append(len(x_t)) or asked(x_t, level, shift)
    fit_gram(world, images, prompts, levels=4)
    assert max(seen) == 2**16 // 2**13
