"""The guidance that models are meant for: their card's, else the default of their family's stock pipeline."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest

from models.catalog import REPOSITORY, ModelCard, catalog, read_card, typed_card
from models.errors import ModelError
from models.families import FAMILIES
from tests import tiny


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_family_takes_what_its_stock_pipeline_takes(family):
    call = inspect.signature(getattr(diffusers, family.pipelines[0]).__call__).parameters
    assert family.usual_guidance == (call["guidance_scale"].default if "guidance_scale" in call else 1.0)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_an_ensemble_takes_its_familys_unless_its_network_hears_none(tiny_ensemble, kind):
    ensemble = tiny_ensemble(kind)
    assert ensemble.guidance == (1.0 if kind == "schnell" else FAMILIES[tiny.family_of(kind)].usual_guidance)


def test_the_first_members_card_goes_first(tiny_ensemble):
    ensemble = tiny_ensemble("sd")
    said = [replace(member, card=replace(member.card, guidance=scale)) for member, scale in zip(ensemble.members, (2, None))]
    assert replace(ensemble, members=tuple(said)).guidance == 2.0 and replace(ensemble, members=tuple(said[::-1])).guidance == 7.5


def test_the_portraits_are_drawn_without_by_whatever_name_they_are_typed():
    folder = Path(catalog["portraits/harbor"].source)
    for typed in ("portraits/harbor", str(folder), str(REPOSITORY / folder), f"{folder}?template=a {{prompt}}", f"{folder}+{folder}"):
        assert typed_card(typed).usual_guidance == 1.0, typed
    assert {card.usual_guidance for card in catalog.values() if card.id.startswith("portraits/")} == {1.0}
    assert catalog["public/sdxl"].usual_guidance == 5.0


def test_a_card_with_another_guidance():
    entry = {"id": "x", "title": "X", "family": "sd", "source": "assets/x"}
    assert read_card({**entry, "guidance": 3}).usual_guidance == 3.0 and ModelCard(**entry).usual_guidance == 7.5
    for wrong in (-1, 101, "much", float("nan")):
        with pytest.raises(ModelError, match="the guidance must be a number from 0 to 100"):
            read_card({**entry, "guidance": wrong})
