"""Cards: the shipped catalog, its validation, what a user may type, and the hashes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from models import catalog as module
from models.catalog import REPOSITORY, Catalog, ModelCard, card_for, catalog, read_card, typed_card
from models.details import describe
from models.errors import ModelError
from models.portraits.population import MEMBER_POPULATIONS

PORTRAITS = ["base", "harbor", "summit", "meadow", "delta", "sketch", "harbor-lora", "summit-lora"]
MINIMAL = {"id": "x", "title": "X", "family": "sd", "source": "assets/x"}


def test_importing_reads_nothing_and_loads_no_torch_model():
    code = "import models.catalog as m; assert 'cards' not in vars(m.catalog); import sys; assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_the_portraits_are_there_with_their_populations():
    for name in PORTRAITS:
        card = catalog[f"portraits/{name}"]
        assert card.family == "sd" and card.summary.endswith(".") and card.limits and "MIT" in card.licence and "OFL" in card.licence
        assert card.population == tuple(map(tuple, MEMBER_POPULATIONS[name.removesuffix("-lora")].tolist()))
        assert (card.adapter is not None) == name.endswith("-lora") and not card.is_hub
    assert len({card.title for card in catalog.values()}) == len(catalog)


@pytest.mark.parametrize("name", ["harbor", "summit", "meadow"])
def test_figures_in_the_summaries_are_those_of_the_population(name):
    table, numbers = MEMBER_POPULATIONS[name], list(map(int, re.findall(r"(\d+) %", catalog[f"portraits/{name}"].summary)))
    rows = {"harbor": (0, [1, 2]), "summit": (1, [4, 5]), "meadow": (2, [0, 3])}[name]
    assert numbers == [round(100 * table[rows[0]].sum()), round(100 * table[:, rows[1]].sum())]


def test_public_models_are_pinned_and_say_what_they_are_not_for():
    public = [card for card in catalog.values() if card.id.startswith("public/")]
    assert {card.family for card in public} == {"sd", "sdxl", "sd3", "flux"}
    for card in public:
        assert card.is_hub and re.fullmatch("[0-9a-f]{40}", card.revision) and card.licence and card.limits


def test_unknown_id_names_the_known_ones():
    with pytest.raises(KeyError, match="no model is called 'nope': the catalog has portraits/base"):
        catalog["nope"]
    assert "nope" not in catalog


@pytest.mark.parametrize(("change", "message"), [
    ({"title": ""}, "card 'x' needs a title"), ({"family": "dit"}, "unknown family 'dit'"), ({"prompt_template": "a photo"}, "as {prompt}"),
    ({"revision": "main"}, "full commit"), ({"adapter_revision": "v1"}, "full commit"), ({"sha256": {"a": "12"}}, "64 hexadecimal"),
    ({"population": [[1.0] * 6] * 3}, "sum to 1, not 18"), ({"population": [[0.5, 0.5]]}, "3 rows of 6"),
    ({"population": "mars"}, "no population"), ({"licens": "MIT"}, "unknown fields \\['licens'\\]"), ({"source": None}, "needs a source"),
])  # fmt: skip
def test_bad_cards(change, message):
    with pytest.raises(ModelError, match=message):
        read_card({**MINIMAL, **change})


def test_bad_files(tmp_path):
    def read(text):
        (tmp_path / "c.yaml").write_text(text)
        return dict(Catalog(tmp_path / "c.yaml", tmp_path / "none.yaml"))

    assert read(yaml.safe_dump({"models": [MINIMAL]})) == {"x": ModelCard(**MINIMAL)}
    twice = yaml.safe_dump({"models": [MINIMAL, MINIMAL]})
    bad = {twice: "'x' twice", "a: [": "cannot be read", "[1]": "must be a mapping", "models: [1]": "a card must be a mapping",
           "models: [{id: y}]": "missing fields"}  # fmt: skip
    for text, message in bad.items():
        with pytest.raises(ModelError, match=message):
            read(text)


def test_cards_are_frozen_and_hashable():
    card = catalog["portraits/harbor"]
    with pytest.raises(AttributeError):
        card.title = "other"
    assert len({card, replace(card)}) == 1


# ------------------------------------------------------------------------------------------------ what a user typed

def test_folder_below_an_allowed_root(tiny_cards, monkeypatch, tmp_path):
    folder = Path(tiny_cards("sdxl")[0].source)
    with pytest.raises(ModelError, match="neither a hub id .* nor below an allowed folder"):
        card_for(str(folder))
    monkeypatch.setenv("SCOREFUSION_MODELS", f"{tmp_path / 'x'}:{folder.parent}")
    card = card_for(f" {folder} ")
    assert (card.family, card.source, card.title) == ("sdxl", str(folder.resolve()), folder.name)
    with pytest.raises(ModelError, match="is of family sdxl, not sd"):
        card_for(str(folder), family="sd")
    with pytest.raises(ModelError, match="does not exist"):
        card_for(str(folder.parent / "nowhere"))
    for nonsense in ("a\0b", "/" + "x" * 5000, "x" * 5000 + "/y"):
        with pytest.raises(ModelError, match="is not a path|nor below"):
            card_for(nonsense)
    with pytest.raises(ModelError, match="neither a hub id"):
        card_for(f"{folder}/../../../../../../../../etc")


def test_paths_are_read_from_the_working_directory_first(tiny_cards, sd_cards, monkeypatch, tmp_path):
    base, lora = Path(tiny_cards("sd")[0].source), Path(sd_cards["lora"].adapter)
    shutil.copytree(base, tmp_path / "shelf/owner/sd")
    shutil.copytree(lora, tmp_path / "shelf/lora")
    monkeypatch.chdir(tmp_path / "shelf")
    with pytest.raises(ModelError, match="'./owner/sd' is neither a hub id .* nor below an allowed folder"):
        card_for("./owner/sd")
    assert typed_card("owner/sd?family=sdxl").is_hub  # a folder that may not be used is none
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tmp_path / "shelf"))
    place = str(tmp_path / "shelf/owner/sd")
    for typed in ("./owner/sd", "owner/sd", "../shelf/owner/sd"):
        assert typed_card(typed).source == place == describe(typed).source.replace(typed, place)
    assert typed_card("owner/sd+lora").adapter == str(tmp_path / "shelf/lora")
    assert typed_card("portraits/base?template=a {prompt}").source == str(REPOSITORY / "assets/models/portraits/base")
    assert typed_card("assets/models/portraits/base").family == "sd"  # from the repository, wherever one is


def test_paths_may_hold_the_signs_between_models_and_options(tiny_cards, sd_cards, monkeypatch, tmp_path):
    base, lora = Path(tiny_cards("sd")[0].source), Path(sd_cards["lora"].adapter)
    for name in ("v2@home", "what?", "a+b", "a"):
        shutil.copytree(base, tmp_path / name)
    shutil.copytree(lora, tmp_path / "lo+ra@1")
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for typed in ("v2@home", "what?", "a+b"):
        card = typed_card(typed)
        assert (card.source, card.adapter, card.revision) == (str(tmp_path / typed), None, None)
    assert typed_card("v2@home?template=old {prompt}").prompt_template == "old {prompt}"
    both = typed_card("a+b+lo+ra@1")
    assert (both.source, both.adapter) == (str(tmp_path / "a+b"), str(tmp_path / "lo+ra@1"))
    assert typed_card("a+lo+ra@1").source == str(tmp_path / "a")
    assert replace(card_for("a"), components=str(tmp_path / "v2@home")).companion == (str(tmp_path / "v2@home"), None)
    hub = typed_card("owner/name@" + "a" * 40 + "+someone/lora?family=sd")
    assert (hub.source, hub.revision, hub.adapter) == ("owner/name", "a" * 40, "someone/lora")


def test_links_do_not_lead_out_of_the_root(tiny_cards, monkeypatch, tmp_path):
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tmp_path))
    (tmp_path / "link").symlink_to(tiny_cards("sd")[0].source)
    with pytest.raises(ModelError, match="nor below an allowed folder"):
        card_for(str(tmp_path / "link"))


def test_typed_folders_with_pickles_and_single_files(tiny_cards, monkeypatch, tmp_path):
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tmp_path))
    folder = tmp_path / "m"
    shutil.copytree(tiny_cards("sd")[0].source, folder)
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"")
    assert card_for(str(folder)).family == "sd"  # its safetensors are read, and the pickle is not
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="'m' holds pickled weights only \\(unet/diffusion_pytorch_model.bin\\)"):
        card_for(str(folder))
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "v1.ckpt").write_bytes(b"")
    with pytest.raises(ModelError, match="'m' holds pickled weights only \\(v1.ckpt\\)"):
        card_for(str(folder))
    (tmp_path / "one.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="one.safetensors is damaged"):
        card_for(str(tmp_path / "one.safetensors"))
    (tmp_path / "one.ckpt").write_bytes(b"")
    with pytest.raises(ModelError, match="pickled weights"):
        card_for(str(tmp_path / "one.ckpt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="not a complete diffusers folder"):
        card_for(str(tmp_path / "empty"))


def test_typed_adapter(sd_cards, monkeypatch):
    base, lora = Path(sd_cards["base"].source), Path(sd_cards["lora"].adapter)
    monkeypatch.setenv("SCOREFUSION_MODELS", f"{base.parent}:{lora.parent}")
    card = card_for(str(base), adapter=str(lora))
    assert (card.adapter, card.title, card.id) == (str(lora.resolve()), "lora", f"{base.resolve()}+{lora.resolve()}")
    assert card_for(str(base), adapter="someone/some-lora").adapter == "someone/some-lora"
    with pytest.raises(ModelError, match="neither a hub id"):
        card_for(str(base), adapter="/etc/hostname")


def test_hub_ids():
    commit = "a" * 40
    card = card_for("owner/name", family="sdxl", revision=commit)
    assert card.is_hub and (card.family, card.revision, card.title) == ("sdxl", commit, "name")
    with pytest.raises(ModelError, match="full commit"):
        card_for("owner/name", family="sd", revision="main")
    assert not module.is_hub_id("models/portraits") and not module.is_hub_id("a/b/c") and not module.is_hub_id("../x")


# ------------------------------------------------------------------------------------------------ hashes

def test_shipped_hashes_match_the_files(capsys):
    assert module.main(["check"]) == 0, capsys.readouterr().out


def test_hash_command_writes_what_check_finds(tiny_cards, monkeypatch, tmp_path, capsys):
    folder = Path(shutil.copytree(tiny_cards("sd")[0].source, tmp_path / "m"))
    (tmp_path / "c.yaml").write_text(json.dumps({"models": [{**MINIMAL, "source": "m"}]}))
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    monkeypatch.setattr(module, "catalog", Catalog(tmp_path / "c.yaml", tmp_path / "h.yaml"))
    assert module.main(["hash"]) == 0
    written = yaml.safe_load((tmp_path / "h.yaml").read_text())
    name = "unet/diffusion_pytorch_model.safetensors"
    digest = subprocess.run(["sha256sum", folder / name], capture_output=True, text=True, check=True).stdout.split()[0]
    assert written["m"][name] == digest and "model_index.json" in written["m"]
    assert dict(Catalog(tmp_path / "c.yaml", tmp_path / "h.yaml"))["x"].sha256 == written["m"]
    assert module.main(["check"]) == 0
    (folder / name).write_bytes(b"")
    assert module.main(["check"]) == 1 and f"m/{name}" in capsys.readouterr().out
