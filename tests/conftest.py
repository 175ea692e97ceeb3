"""Fixtures shared by all tests: tiny pipelines on disk (one per family and session), their cards and ensembles. Offline, one thread."""

from __future__ import annotations

import os

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", DIFFUSERS_VERBOSITY="error",
                  TRANSFORMERS_VERBOSITY="error")  # fmt: skip

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch

from models.catalog import ModelCard
from models.loading import Ensemble, load_ensemble
from tests import tiny

torch.set_num_threads(1)
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")
SIZE = {"flux": (16, 16), "schnell": (16, 16)}  # pixels; the pipeline's own default is 256 x 256


@pytest.fixture(scope="session", autouse=True)
def _no_progress_bars() -> None:
    import diffusers
    import transformers

    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()


def tiny_card(family: str, folder: Path, **more: object) -> ModelCard:
    """A card for a folder of tests/tiny.py, called as the folder is."""
    return ModelCard(**{"id": folder.name, "title": folder.name, "family": family, "source": str(folder), **more})


@pytest.fixture(scope="session")
def tiny_cards(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[ModelCard]]:
    """`tiny_cards(kind)`: two members that share everything but the denoiser, of a kind of `tiny.KINDS`; three `portraits`."""
    root, made = tmp_path_factory.mktemp("tiny"), {}

    def cards(kind: str) -> list[ModelCard]:
        if kind not in made:
            build = tiny.portraits if kind == "portraits" else tiny.KINDS[kind]
            first = build(root / f"{kind}-a")
            count = 3 if kind == "portraits" else 2
            others = [build(root / f"{kind}-{'bc'[k]}", k + 1, **({} if kind == "ddpm" else {"sibling": first})) for k in range(count - 1)]
            made[kind] = [tiny_card(tiny.family_of(kind), folder) for folder in (first, *others)]
        return made[kind]

    return cards


@pytest.fixture(scope="session")
def tiny_ensemble(tiny_cards: Callable[[str], list[ModelCard]]) -> Callable[[str], Ensemble]:
    """`tiny_ensemble(kind)`: the loaded members of `tiny_cards`, shared by the session: leave it as it was."""
    made = {}

    def ensemble(kind: str) -> Ensemble:
        if kind not in made:
            made[kind] = load_ensemble(tiny_cards(kind), device="cpu", size=SIZE.get(kind))
        return made[kind]

    return ensemble


@pytest.fixture(scope="session")
def sd_cards(tiny_cards: Callable[[str], list[ModelCard]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelCard]:
    """Relatives of the tiny SD base: `base`, `second`, `v` (v prediction, other schedule), `lora`, `lora2`, `lora_text`."""
    base, second = tiny_cards("sd")
    root, folder = tmp_path_factory.mktemp("relatives"), Path(base.source)
    v = tiny.sd(root / "v", 7, sibling=folder, prediction="v_prediction", beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    names = ["lora", "lora2", "lora_text"]
    loras = {name: tiny.lora(root / name, folder, seed, text=name == "lora_text") for seed, name in enumerate(names)}
    return {"base": base, "second": second, "v": tiny_card("sd", v),
            **{name: tiny_card("sd", folder, id=name, title=name, adapter=str(path)) for name, path in loras.items()}}  # fmt: skip
