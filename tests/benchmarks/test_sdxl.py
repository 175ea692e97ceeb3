"""The SDXL benchmark at tiny size: its code runs, and what does not depend on the machine holds."""

import pytest

from tests.benchmarks import sdxl


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return sdxl.measure(tmp_path_factory.mktemp("sdxl"), tiny=True, device="cpu", steps=2, repeats=1, images=2, levels=2)


def test_switched_adapters_cost_hardly_more_than_one_model(found):
    rows = sdxl.ratios(found)
    assert rows["switch"]["memory against one model"] <= 1.15
    assert rows["switch"]["memory against published"] < rows["merge"]["memory against published"] <= 1


def test_the_table_names_every_aim_and_where_it_was_measured(found):
    text = sdxl.table(found)
    assert all(f"| {name} |" in text for name in sdxl.AIMS) and "cpu" in text and "2 images x 2 levels" in text
    assert all(f"| {title} | {found[way]['seconds']:.3g} |" in text for way, title in sdxl.WAYS.items()) and "tiny networks" in text
    assert found["settings"]["date"] in text and found["settings"]["size"] == [16, 16]
    text = sdxl.table(found | {way: {**found[way], "peak": 6_800_000_000} for way in sdxl.WAYS})  # as on a GPU
    assert text.count("| 6.8 |") == len(sdxl.WAYS) and "ratios is peak memory." in text


def test_the_published_design_draws_the_picture_that_ours_draws(found, tmp_path):
    """Else the comparison would be between two different computations."""
    import numpy as np
    import torch

    from fusion.methods import METHODS, SamplingPlan
    from models.catalog import ModelCard
    from models.loading import load_ensemble
    from tests import tiny

    base = tiny.sdxl(tmp_path / "base")
    loras = sdxl.adapters(tmp_path, base, 2, torch.float32, "cpu")
    theirs = sdxl.Published(base, loras, torch.float32, "cpu")(3)
    cards = [ModelCard(f"l{n}", f"L{n}", "sdxl", str(base), adapter=str(lora)) for n, lora in enumerate(loras)]
    ensemble = load_ensemble(cards, device="cpu", lora="switch")
    plan = SamplingPlan([sdxl.PROMPT], [0], steps=3, guidance=sdxl.GUIDANCE, reading="cut")  # as the published one reads it
    (ours,) = METHODS["uniform"].run(ensemble, None, plan)
    assert np.abs(np.asarray(theirs, dtype=int) - np.asarray(ours.image, dtype=int)).max() <= 2
