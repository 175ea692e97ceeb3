"""The representation that ships with the portraits: it is theirs, it says what it is worth, and the transfer methods find it."""

import pytest

from fusion.methods.training import shipped
from fusion.transfer.report import page
from fusion.transfer.representation import Representation
from fusion.transfer.sources import fits
from models.catalog import REPOSITORY, catalog
from models.loading import load_ensemble

NAMES = ("base", "harbor", "summit", "meadow", "delta")
FILE = REPOSITORY / "assets" / "transfer" / "portraits.safetensors"


@pytest.fixture(scope="module")
def pair():
    return load_ensemble([catalog["portraits/harbor"], catalog["portraits/summit"]], device="cpu")


@pytest.mark.skipif(not FILE.is_file(), reason="made by `python -m fusion represent`, see its --help")
def test_the_portraits_share_the_representation_they_ship_with(pair):
    about = Representation.load(FILE).about
    assert about.members == tuple(catalog[f"portraits/{name}"].title for name in NAMES)
    assert about.diagnosis["shared"] is True and about.dimensions == 8
    assert all(loss["share"] < 0.1 for loss in about.diagnosis["losses"]) and len(about.diagnosis["left_out"]) == len(NAMES)
    assert (FILE.parent / "README.md").read_text() == page(about, FILE.name)
    assert all(fits(shipped(pair, k), pair, k) for k in range(2))


def test_every_portrait_card_names_it_and_no_public_one():
    for name, card in catalog.items():
        assert (card.representation == "transfer/portraits.safetensors") is name.startswith("portraits/")
