"""Memory plans: what is chosen from made-up sizes, what is counted from files, and that waiting on the CPU changes no number."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import models.turns
from fusion.methods import METHODS, SamplingPlan
from models.catalog import ModelCard
from models.errors import ModelError
from models.loading import load_ensemble, look
from models.placement import MemoryPlan, plan_memory
from models.sizes import Sizes

GB = 10**9
XL = Sizes((2_570_000_000,), (2,), 50_000_000, (123_000_000, 695_000_000), 84_000_000, 256, 1024 * 1024, "sdxl")
FOUR = Sizes((860_000_000,) * 4, (0,) * 4, 0, (123_000_000,), 84_000_000, 256, 512 * 512, "sd")
ELSEWHERE = torch.device("meta")  # stands for a GPU; `moves` sees to it that nothing really goes there


def shape(plan):
    return plan.adapters, plan.encoders, plan.waiting, plan.decoding


# ------------------------------------------------------------------------------------------------ the choice

@pytest.mark.parametrize("free, expected", [
    (200, ("merge", "device", "device", "whole")),
    (40, ("merge", "device", "device", "sliced")),
    (20, ("switch", "device", "device", "sliced")),  # the copies would take more than half
    (14, ("switch", "cpu", "device", "sliced")),
])  # fmt: skip
def test_two_loras_give_up_no_more_than_they_must(free, expected):
    plan = plan_memory(XL, "cuda:0", free=free * GB)
    assert shape(plan) == expected and plan.fits and plan.dtype == "float16"
    assert plan.total == sum(plan.needed.values()) <= 0.9 * free * GB


@pytest.mark.parametrize("free, expected", [
    (40, ("switch", "device", "device", "whole")), (12, ("switch", "device", "device", "sliced")),
    (8.8, ("switch", "cpu", "device", "sliced")), (5, ("switch", "cpu", "cpu", "sliced")),
])  # fmt: skip
def test_four_models_wait_for_each_other_last(free, expected):
    plan = plan_memory(FOUR, "cuda:0", free=int(free * GB))
    assert shape(plan) == expected and plan.fits
    assert plan.needed["networks"] == 2 * 860_000_000 * (1 if plan.waiting == "cpu" else 4)


def test_what_does_not_fit_at_all_is_said():
    plan = plan_memory(FOUR, "cuda:0", free=GB)
    assert shape(plan) == ("switch", "cpu", "cpu", "sliced") and not plan.fits and "likely too little" in plan.why


def test_a_cpu_has_nowhere_to_wait_and_halves_its_numbers_last():
    wide = plan_memory(FOUR, "cpu", free=100 * GB)
    assert shape(wide) == ("switch", "device", "device", "whole") and wide.dtype == "float32"
    narrow = plan_memory(FOUR, "cpu", free=14 * GB)  # 14.6 GB of weights in float32
    assert (narrow.waiting, narrow.encoders, narrow.dtype) == ("device", "device", "bfloat16")
    assert plan_memory(FOUR, "cpu", torch.float32, free=14 * GB).dtype == "float32"


def test_what_is_fixed_stays_and_the_rest_is_chosen_around_it():
    plan = plan_memory(XL, "cuda:0", free=200 * GB, lora="switch", words=["waiting", "bfloat16"])
    assert shape(plan) == ("switch", "cpu", "cpu", "whole") and plan.dtype == "bfloat16"
    assert plan.needed["networks"] == 2 * 2_570_000_000 and plan.needed["adapters"] == 2 * 50_000_000
    merged = plan_memory(XL, "cuda:0", free=14 * GB, words=["merge"])
    assert merged.adapters == "merge" and merged.waiting == "cpu" and "adapters" not in merged.needed
    for words, said in ((["merge", "switch"], "both merge and switch"), (["faster"], "use merge, switch")):
        with pytest.raises(ModelError, match=said):
            plan_memory(XL, "cuda:0", free=GB, words=words)
    with pytest.raises(ModelError, match="use device or cpu"):
        MemoryPlan(waiting="disk")


def test_the_sentence_says_what_the_plan_is():
    why = plan_memory(XL, "cuda:0", free=14 * GB).why
    assert "2 LoRAs switched" in why and "text encoders waiting on the CPU" in why and "of the 14.0 GB free on cuda:0" in why
    assert "networks waiting" not in why and "\n" not in why


def test_sizes_are_those_of_what_is_loaded(sd_cards):
    cards = [sd_cards[name] for name in ("lora", "base", "second", "lora2", "lora")]
    sizes = Sizes.of([look(card) for card in cards])
    ensemble = load_ensemble(cards, device="cpu", lora="switch")
    count = lambda module, lora=False: sum(p.numel() for n, p in module.named_parameters() if ("lora_" in n) == lora)  # noqa: E731
    first, second = ensemble.members[0], ensemble.members[2]
    assert sizes.networks == (count(first.network), count(second.network)) and sizes.copies == (2, 0)
    assert sizes.adapters == count(first.network, lora=True)
    assert sizes.text == (count(first.components["text_encoder"]),) and sizes.autoencoder == count(first.components["vae"])
    assert sizes.pixels == ensemble.size[0] * ensemble.size[1]


# ------------------------------------------------------------------------------------------------ carrying it out

@pytest.fixture
def moves(monkeypatch):
    """What is moved where, in order; nothing really is."""
    made = []
    monkeypatch.setattr(models.turns, "move", lambda module, device: made.append((module, torch.device(device))))
    return made


def both(cards, plan):
    """The same members held plainly, and taking turns on a device that is none."""
    plain, turning = (load_ensemble(cards, device="cpu", lora="switch") for _ in range(2))
    assert models.turns.arrange(turning.members, turning.family.text, plan, ELSEWHERE)
    return plain, turning


def worked(ensemble):
    """A prediction and images of it."""
    x = torch.randn(2, *ensemble.shape, generator=torch.Generator().manual_seed(0))
    predicted = ensemble.predictor(["a cat", "a dog"])(x, torch.tensor([0.0, 1.0]))
    drawn = METHODS["uniform"].run(ensemble, None, SamplingPlan(["a cat"], [1, 2], steps=2, guidance=3.0))
    return predicted, [np.asarray(sample.image) for sample in drawn]


@pytest.mark.parametrize("waiting, encoders", [("cpu", "cpu"), ("cpu", "device"), ("device", "cpu")])
def test_members_that_take_turns_answer_bit_for_bit(sd_cards, moves, waiting, encoders):
    plain, turning = both([sd_cards[n] for n in ("base", "second", "lora")], MemoryPlan(waiting=waiting, encoders=encoders))
    (first, images), (again, others) = worked(plain), worked(turning)
    assert torch.equal(first, again) and all(np.array_equal(a, b) for a, b in zip(images, others)) and len(images) == 2
    waits = {id(m.network) for m in turning.members} if waiting == "cpu" else set()
    waits |= {id(turning.members[0].components["text_encoder"])} if encoders == "cpu" else set()
    assert {id(module) for module, _ in moves} == waits
    here = set()
    for module, device in moves:
        assert device.type == "cpu" or id(module) not in here  # who is there is not moved again
        here = here - {id(module)} if device.type == "cpu" else here | {id(module)}
        assert len(here) <= 1  # never two of them at once
    arrivals = [module for module, device in moves if device == ELSEWHERE]
    assert arrivals
    if waiting == "device":
        assert not here and len(arrivals) == 2  # the text encoder came for the predictor and for the images, and made room


def test_a_call_that_fails_lets_the_next_one_in(sd_cards, moves):
    _, turning = both([sd_cards["base"], sd_cards["second"]], MemoryPlan(waiting="cpu"))
    with pytest.raises(TypeError):
        turning.members[0](nonsense=1)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(worked(turning.subset([1]))))
    thread.start()
    thread.join(20)
    assert answers


def test_memory_that_runs_out_half_way_is_given_back(moves, monkeypatch):
    stage, (one, other) = models.turns.Stage(ELSEWHERE), (nn.Linear(2, 2), nn.Linear(2, 2))
    stage.take_turns(one), stage.take_turns(other)
    full = lambda module, device: moves.append((module, torch.device(device))) or (_ for _ in ()).throw(MemoryError())  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(models.turns, "move", full)
        with pytest.raises(MemoryError):
            one(torch.zeros(1, 2))
    other(torch.zeros(1, 2))
    assert moves == [(one, ELSEWHERE), (one, torch.device("cpu")), (other, ELSEWHERE)]


def test_copies_take_turns_of_their_own_and_are_not_trained(sd_cards, moves):
    from fusion.transfer.networks import TransferError, trainable_copy

    _, turning = both([sd_cards["base"], sd_cards["second"]], MemoryPlan(waiting="cpu"))
    moves.clear()
    twin = copy.deepcopy(turning.members[0].network)
    twin(torch.zeros(1, 4, 8, 8), 5, torch.zeros(1, 4, 16))
    assert moves == [(twin, ELSEWHERE)]
    with pytest.raises(TransferError, match="load it whole on one device"):
        trainable_copy(turning.members[0])


def test_on_a_cpu_nothing_is_moved(sd_cards, moves):
    plan = MemoryPlan(waiting="cpu", encoders="cpu", decoding="sliced")
    ensemble = load_ensemble([sd_cards["base"], sd_cards["second"]], device="cpu", memory=plan)
    assert ensemble.plan == ensemble.subset([1]).plan == replace(plan, dtype="float32")  # what auto means on a CPU
    sliced, whole = worked(ensemble)[1], worked(load_ensemble([sd_cards["base"], sd_cards["second"]], device="cpu", memory=["whole"]))[1]
    assert moves == [] and ensemble.members[0].place is None
    vae = ensemble.members[0].components["vae"]
    assert vae.use_slicing and vae.use_tiling
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(sliced, whole)) <= 1


def test_the_loader_keeps_to_the_plan(sd_cards, monkeypatch):
    cards = [sd_cards["base"], sd_cards["lora"]]
    assert load_ensemble(cards, device="cpu", memory=MemoryPlan(adapters="merge")).members[1].switch is None
    ensemble = load_ensemble(cards, device="cpu", memory=MemoryPlan(adapters="merge", dtype="bfloat16"), lora="switch")
    assert ensemble.members[1].switch is not None and ensemble.dtype == torch.bfloat16 and ensemble.plan.adapters == "switch"
    chosen = load_ensemble(cards, device="cpu", memory=["switch", "sliced"]).plan
    assert (chosen.adapters, chosen.decoding) == ("switch", "sliced") and chosen.needed["networks"] > 0 and chosen.why
    assert load_ensemble(cards[:1], device="cpu", memory=["resident"]).plan.dtype == "float32"
    missing = ModelCard("no", "no", "sd", "/nowhere")
    with pytest.raises(ModelError, match="not a choice of memory"):  # before anything is looked at
        load_ensemble([missing], device="cpu", memory=["nonsense"])
    monkeypatch.setattr("models.loading.arrange", lambda *_: True)
    assert load_ensemble(cards, device="cpu").device == torch.device("cpu") == load_ensemble(cards, device="cpu").members[0].place


# ------------------------------------------------------------------------------------------------ compiling

def test_networks_are_compiled_once_each_and_not_on_spaces(sd_cards, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *_, **__: compiled.append(self))
    cards = [sd_cards["base"], sd_cards["lora"], sd_cards["base"]]
    ensemble = load_ensemble(cards, device="cpu", compile=True)
    assert ensemble.plan.adapters == "merge" and {id(n) for n in compiled} == {id(m.network) for m in ensemble.members}
    assert len(compiled) == 2
    for memory in (["switch"], ["waiting"], MemoryPlan(waiting="cpu")):
        with pytest.raises(ModelError, match="both|cannot be compiled"):
            load_ensemble(cards, device="cpu", compile=True, memory=memory)
    monkeypatch.setenv("SPACE_ID", "someone/somewhere")
    with pytest.raises(ModelError, match="Spaces"):
        load_ensemble(cards, device="cpu", compile=True)
    assert len(compiled) == 2


def test_a_compiled_network_answers_the_same(tiny_cards, monkeypatch):
    """With the compiler's tracing, but without its code generation, which needs a C++ compiler."""
    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: real(self, backend="eager"))
    ensembles = [load_ensemble(tiny_cards("ddpm")[:1], device="cpu", compile=compiled) for compiled in (False, True)]
    x = torch.randn(1, *ensembles[0].shape, generator=torch.Generator().manual_seed(0))
    answers = [ensemble.members[0](x, torch.tensor(5)) for ensemble in ensembles]
    assert torch.allclose(*answers, atol=1e-5) and ensembles[1].members[0].network._compiled_call_impl is not None


# ------------------------------------------------------------------------------------------------ commands

def test_commands_take_it_and_say_it(sd_cards, monkeypatch, capsys):
    from fusion.cli import parser
    from fusion.commands import options, shared

    args = parser().parse_args(["sample", "r.json", "--memory", "switch", "sliced", "--compile"])
    assert options.held(args) == {"memory": ("switch", "sliced"), "compile": True}
    monkeypatch.setenv("SCOREFUSION_MODELS", str(Path(sd_cards["base"].source).parent))
    shared.ensemble_of([sd_cards["base"].source], "cpu", None, memory=("sliced",))
    said = capsys.readouterr().err
    assert "images decoded one by one" in said and "free on cpu" in said
