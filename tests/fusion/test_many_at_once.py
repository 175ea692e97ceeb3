"""Several visitors on one ensemble: every picture and statistic is, bit for bit, the one that is made alone."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from fusion.evaluation.denoiser_features import denoiser_features
from fusion.methods import METHODS, SamplingPlan
from fusion.objective import fit_gram
from fusion.transfer.adapting import adapt
from fusion.transfer.training import Schedule
from models.conditioning import record
from models.loading import load_ensemble
from models.own import own_pipeline

HALVES = np.array([0.5, 0.5])
ROUNDS = 3


def pictures(count=3):
    return [Image.fromarray(np.random.default_rng(n).integers(0, 255, (32, 32, 3), dtype=np.uint8)) for n in range(count)]


def drawn(ensemble, method, weights=HALVES):
    plan = SamplingPlan(["a cat", "a much longer prompt of a dog"], [3, 4], 3, 3.0, weights=weights)
    return [np.asarray(sample.image) for sample in METHODS[method].run(ensemble, None, plan)]


def fitted(ensemble):
    return [fit_gram(ensemble, pictures(), ["a", "b", "a longer caption"], levels=2).plain]


def measured(ensemble):
    return [denoiser_features(ensemble, pictures(), ["a", "b", "c"])]


def trained(ensemble):
    schedule = Schedule(steps=2, batch=2, rate=1e-3, every=1, patience=4, average_over=2)
    found = adapt(ensemble, 1, pictures(4), ["a", "b", "c", "d"], method="finetune", schedule=schedule)
    return [tensor.numpy() for tensor in found.tensors.values()]


def read(ensemble):
    member = ensemble.members[1]
    said = record(member.new_pipeline(ensemble.family.slot), ensemble.family, ["a", "one of many words " * 5], ensemble.size)
    return [said.arguments["encoder_hidden_states"].numpy()]


def opened(cards):
    """Loading, and pricing as the page does when it opens."""
    again = load_ensemble(cards, device="cpu", lora="switch")
    price = METHODS["mixture"].cost(again, None, SamplingPlan(["a"], [1], weights=HALVES))
    return [*drawn(again, "mixture"), np.array(price.evaluations)]


def digest(arrays):
    return [hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for array in arrays]


@pytest.fixture(scope="module", params=["sd", "switched", "sdxl"])
def scene(request, tiny_cards, sd_cards):
    """`(ensemble, jobs)`: two members, of one kind or two LoRAs that take turns on one network, and what visitors do with them."""
    cards = [sd_cards["lora"], sd_cards["lora2"]] if request.param == "switched" else tiny_cards(request.param)
    ensemble = load_ensemble(cards, device="cpu", lora="switch")
    jobs = {
        "fused": lambda: drawn(ensemble, "scorefusion"),
        "alone": lambda: drawn(ensemble, "single", np.array([0.0, 1.0])),
        "mixed": lambda: drawn(ensemble, "mixture"),
        "exact": lambda: drawn(ensemble, "barycenter"),
        "merged": lambda: drawn(ensemble, "merge"),
        "fitted": lambda: fitted(ensemble),
        "measured": lambda: measured(ensemble),
        "trained": lambda: trained(ensemble),
        "read": lambda: read(ensemble),
        "opened": lambda: opened(cards),
    }
    return jobs


def test_everything_at_once_gives_what_each_gives_alone(scene):
    alone, together, failed = {name: digest(job()) for name, job in scene.items()}, {}, []
    start = threading.Barrier(len(scene))

    def visitor(name, job):
        try:
            start.wait()
            together[name] = [digest(job()) for _ in range(ROUNDS)]
        except Exception as error:  # whatever it is: shown by the assertion below
            failed.append(f"{name}: {type(error).__name__}: {error}")

    visitors = [threading.Thread(target=visitor, args=item) for item in scene.items()]
    for one in visitors:
        one.start()
    for one in visitors:
        one.join()
    assert not failed
    assert [name for name, found in together.items() if found != [alone[name]] * ROUNDS] == []


def test_a_call_leaves_nothing_behind(tiny_ensemble):
    pipeline = tiny_ensemble("sd").pipeline
    before = {name: id(part) for name, part in pipeline.components.items()}
    drawn(tiny_ensemble("sd"), "scorefusion")
    read(tiny_ensemble("sd"))
    assert {name: id(part) for name, part in pipeline.components.items()} == before
    assert pipeline.scheduler.num_inference_steps is None, "nobody set timesteps on the scheduler that all share"
    mine = own_pipeline(pipeline)
    mine.set_progress_bar_config(disable=True)
    mine.vae.enable_slicing()
    assert not getattr(pipeline, "_progress_bar_config", {}).get("disable") and not pipeline.vae.use_slicing
    assert torch.equal(mine.vae.decoder.conv_in.weight, pipeline.vae.decoder.conv_in.weight)
    assert mine.vae.decoder.conv_in.weight.data_ptr() == pipeline.vae.decoder.conv_in.weight.data_ptr()


def test_a_tokenizer_is_read_by_one_at_a_time(tiny_cards):
    tokenizer = load_ensemble(tiny_cards("sd"), device="cpu").members[0].components["tokenizer"]
    words, wrong = [f"{'cat ' * n}dog" for n in range(1, 40)], []
    want = {text: tokenizer(text, truncation=True, max_length=8 + n % 3).input_ids for n, text in enumerate(words)}

    def visitor():
        for _ in range(20):
            for n, text in enumerate(words):
                try:
                    if tokenizer(text, truncation=True, max_length=8 + n % 3).input_ids != want[text]:
                        wrong.append(text)
                except RuntimeError as error:
                    wrong.append(str(error))

    visitors = [threading.Thread(target=visitor) for _ in range(4)]
    for one in visitors:
        one.start()
    for one in visitors:
        one.join()
    assert wrong == []
