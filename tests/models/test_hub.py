"""The hub over HTTP, against a small server of our own: nothing is faked on this side of the connection."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from models.card import REPOSITORY, ModelCard
from models.catalog import card_for, typed_card
from models.details import describe
from models.errors import ModelError
from models.hub import remote_header
from models.loading import load_ensemble
from models.parts import LEFT_OUT
from tests.models import hub_server
from tests.models.checker import with_checker
from tests.models.hub_server import Repository
from tests.models.originals import original, write

OLD, NEW = "a" * 40, "b" * 40
NETWORK = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running server, to which the hub's client turns for the length of the test, with an empty cache."""
    with hub_server.serve() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}")
        if hasattr(constants, "HF_URL_HOSTS"):
            monkeypatch.setattr(constants, "HF_URL_HOSTS", frozenset({"127.0.0.1"}))
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", running.url)  # module-level functions, as diffusers uses them
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.setattr(constants, name, str(tmp_path / "cache"), raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # what is kept of a connection that drops: whole chunks
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        huggingface_hub.close_session() if hasattr(huggingface_hub, "close_session") else None
        yield running
        huggingface_hub.close_session() if hasattr(huggingface_hub, "close_session") else None


@pytest.fixture
def published(hub, tiny_cards, sd_cards, tmp_path):
    """Two commits of `owner/sd`, with the clutter of real repositories around the second; also sdxl and a LoRA."""
    first, second = (Path(card.source) for card in tiny_cards("sd"))
    folder = Path(shutil.copytree(second, tmp_path / "published"))
    for clutter in ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "unet/model.onnx", "old-v1.ckpt",
                    "old-v1.safetensors", "picture.png", "unet/openvino_model.bin", "text_encoder/pytorch_model.bin"):  # fmt: skip
        (folder / clutter).write_bytes(b"\0" * 5000)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nYou should use `ohwx cat` and `style 3` to trigger the image generation.\n")
    lora = Path(shutil.copytree(sd_cards["lora"].adapter, tmp_path / "lora"))
    (lora / "README.md").write_text("Nothing to say.")
    hub.repositories |= {
        "owner/sd": Repository({OLD: first, NEW: folder}, about={"license": "other", "license_name": "my-licence"}),
        "owner/sdxl": Repository({NEW: Path(tiny_cards("sdxl")[0].source)}),
        "owner/lora": Repository({NEW: lora}, about={"license": "mit", "instance_prompt": "a photo of sks", "base_model": "owner/sd"}),
    }
    return hub


def card(source: str, family: str = "sd", **more) -> ModelCard:
    return ModelCard(id=source, title=source, family=family, source=source, **more)


def load(*cards, **more):
    return load_ensemble(list(cards), device="cpu", **more)


def same_weights(network, folder) -> bool:
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").state_dict()
    return all(torch.equal(value, plain[key]) for key, value in network.state_dict().items())


def unplugged() -> None:
    """Nobody listens from now on; put back by the fixture."""
    constants.ENDPOINT = "http://127.0.0.1:9"
    constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    huggingface_hub.hf_api.api.endpoint = constants.ENDPOINT


# ------------------------------------------------------------------------------------------------ as it should be


def test_what_was_said_before_the_download_is_what_is_fetched(published):
    before = describe("owner/sd")
    assert published.sent(".safetensors") < 5 * 100_001 and not published.sent(".bin")  # first bytes of files that are smaller than those
    assert (before.family, before.kind, before.prediction) == ("sd", "Stable Diffusion 1 and 2", "epsilon") and before.revision == NEW
    assert before.problems == () and not before.gated and before.licence == "my-licence" and before.trigger == ("ohwx cat", "style 3")
    published.log.clear()
    ensemble = load(card_for("owner/sd"))
    member = ensemble.members[0]
    modules = [member.network, member.components["vae"], member.components["text_encoder"]]
    assert before.parameters == sum(p.numel() for module in modules for p in module.parameters())
    assert before.memory == {"float32": 4 * before.parameters, "float16 or bfloat16": 2 * before.parameters}
    fetched = sum(path.stat().st_size for path in {path.resolve() for path in Path(constants.HF_HUB_CACHE).rglob("snapshots/*/**/*")
                                                   if path.is_file() and path.name != "README.md"})  # fmt: skip
    assert before.download == fetched and before.cached < before.download
    assert not {"old-v1.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin"} & {
        *published.fetched()
    }
    after = describe("owner/sd")
    assert after.download == before.download == after.cached and ensemble.cards[0].revision == NEW
    published.log.clear()
    load(card("owner/sd", revision=NEW))
    assert published.fetched() == []  # everything is here


def test_a_pinned_revision(published, tiny_cards):
    first, second = (card.source for card in tiny_cards("sd"))
    ensemble = load(card("owner/sd", revision=OLD), card("owner/sd"))
    assert same_weights(ensemble.members[0].network, first) and same_weights(ensemble.members[1].network, second)
    assert [card.revision for card in ensemble.cards] == [OLD, NEW]
    assert describe("owner/sd", revision=OLD).revision == OLD
    with pytest.raises(ModelError, match=f"'owner/sd' has no commit {'c' * 40}"):
        load(card("owner/sd", revision="c" * 40))


def test_small_files_first(published):
    with pytest.raises(ModelError, match="'owner/sd' and 'owner/sdxl' cannot be fused"):
        load(card("owner/sd"), card("owner/sdxl", "sdxl"))
    assert published.log == []  # the cards say it all
    with pytest.raises(ModelError, match="'owner/sdxl' is Stable Diffusion XL, but its card says sd: correct the family to sdxl"):
        load(card("owner/sd"), card("owner/sdxl"))
    assert published.fetched() == ["vae/diffusion_pytorch_model.safetensors"]


def test_an_adapter(published, tiny_cards, sd_cards):
    found = describe("owner/sd", "owner/lora")
    assert found.trigger[-1] == "a photo of sks" and found.base == "owner/sd" and found.licence == "my-licence; the adapter: mit"
    size = (Path(sd_cards["lora"].adapter) / "pytorch_lora_weights.safetensors").stat().st_size
    assert found.download == describe("owner/sd").download + size and found.parts[-1].name == "adapter"
    ensemble = load(card("owner/sd", adapter="owner/lora"))
    assert ensemble.cards[0].adapter_revision == NEW and ensemble.warnings == ()
    assert typed_card("owner/sd@" + OLD + "+owner/lora?template=sks%20{prompt}").prompt_template == "sks {prompt}"


def test_a_renamed_repository(published):
    published.renamed["former/name"] = "owner/sd"
    found = describe("former/name")
    assert found.notes == ("it is now called owner/sd",) and found.family == "sd"
    assert load(card_for("former/name")).cards[0].revision == NEW


# ------------------------------------------------------------------------------------------------ as it should not be


def test_a_gated_repository(published, monkeypatch):
    published.repositories["owner/sd"].gated = True
    found = describe("owner/sd")
    assert found.gated and found.family is None and found.licence == "my-licence" and found.download > 0
    assert "asks you to accept its licence" in found.problems[0] and found.parameters is None and found.memory == {}
    for attempt in (lambda: card_for("owner/sd"), lambda: load(card("owner/sd"))):
        with pytest.raises(ModelError, match="'owner/sd' asks you to accept its licence: .* `hf auth login`"):
            attempt()
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")  # logged in, but the licence is not accepted: 403
    with pytest.raises(ModelError, match="asks you to accept its licence"):
        load(card("owner/sd"))
    assert published.fetched() == []
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    assert describe("owner/sd").family == "sd" and load(card_for("owner/sd")).names == ("sd",)


def test_a_missing_repository(published):
    for attempt in (lambda: describe("owner/nothing"), lambda: card_for("owner/nothing"),
                    lambda: load(card("owner/nothing")), lambda: load(card("owner/nothing", revision=NEW)),
                    lambda: load(card("owner/sd", adapter="owner/nothing"))):  # fmt: skip
        with pytest.raises(ModelError, match="there is no public model 'owner/nothing' on the hub"):
            attempt()


def test_a_connection_that_drops_once_is_taken_up_again(published, tiny_cards):
    published.drops[NETWORK] = [1000]
    assert same_weights(load(card("owner/sd")).members[0].network, tiny_cards("sd")[1].source)
    asked = [request for request in published.log if request.path.endswith("name=" + NETWORK) and request.method == "GET"]
    assert [request.range for request in asked] == [None, "bytes=1000-"] and asked[0].sent == 1000


def test_a_download_that_was_cut_short_leaves_nothing_damaged(published, tiny_cards):
    """After a piece the line is dead, until the client gives up: an error in words. The next run fetches what is not whole, no more."""
    published.drops[NETWORK] = [2000, *[0] * 8]
    with pytest.raises(ModelError, match="'owner/sd' cannot be fetched .*check the connection"):
        load(card("owner/sd"))
    published.drops.clear()
    published.log.clear()
    assert same_weights(load(card("owner/sd")).members[0].network, tiny_cards("sd")[1].source)
    assert NETWORK in published.fetched() and "vae/diffusion_pytorch_model.safetensors" not in published.fetched()


def test_no_server(published):
    constants.ENDPOINT = "http://127.0.0.1:9"  # nobody listens; put back by the fixture
    constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    for attempt in (lambda: describe("owner/sd"), lambda: load(card("owner/sd")), lambda: remote_header("owner/sd", NETWORK, NEW)):
        with pytest.raises(ModelError, match="'owner/sd' cannot be fetched .*check the connection, or use a local folder"):
            attempt()


def test_what_is_here_loads_without_a_connection(published):
    load(card("owner/sd", revision=NEW, adapter="owner/lora", adapter_revision=NEW))
    unplugged()
    assert load(card("owner/sd", revision=NEW, adapter="owner/lora", adapter_revision=NEW)).names == ("owner/sd",)


def test_branches_of_adapters_are_pinned_when_they_are_typed(published):
    typed = typed_card(f"owner/sd+owner/lora@main:0.5+owner/lora@{NEW}+owner/lora/pytorch_lora_weights.safetensors:-1")
    assert [(one.revision, one.strength) for one in typed.adapters] == [(NEW, 0.5), (NEW, 1.0), (None, -1.0)]
    ensemble = load(typed)
    assert [one.revision for one in ensemble.cards[0].adapters] == [NEW] * 3 and typed.id.endswith(":-1")
    with pytest.raises(ModelError):
        typed_card("owner/sd+owner/lora@nowhere:0.5")


def test_what_is_here_loads_without_a_connection_and_without_its_commit(published):
    """As typed the first time; the version is said, and a second one must be named."""
    load(card_for("owner/sd", adapter="owner/lora"))
    unplugged()
    typed = card_for("owner/sd", adapter="owner/lora")
    ensemble = load(typed)
    assert ensemble.cards[0].revision == ensemble.cards[0].adapter_revision == NEW
    assert ensemble.warnings == tuple(f"lora: the hub does not answer, so the version of owner/{name} that is here is used, commit {NEW}"
                                      for name in ("sd", "lora"))  # fmt: skip
    cache = Path(constants.HF_HUB_CACHE) / "models--owner--sd"
    (cache / "snapshots" / OLD).mkdir()
    with pytest.raises(ModelError, match=f"of 'owner/sd' several versions are here: name one, as owner/sd@{OLD} or owner/sd@{NEW}"):
        card_for("owner/sd")
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs/main").write_text(NEW)
    assert load(card_for("owner/sd")).cards[0].revision == NEW
    with pytest.raises(ModelError, match="'owner/sdxl' cannot be fetched .*check the connection, or use a local folder"):
        card_for("owner/sdxl")


def test_an_adapter_that_does_not_fit_is_refused_before_its_base_is_fetched(published, tmp_path):
    from tests.models.test_lora import kohya

    kohya(tmp_path / "wrong", {"lora_unet_down_blocks_7_resnets_0_conv1": (8, 8, 3, 3)})
    published.repositories["owner/wrong"] = Repository({NEW: tmp_path / "wrong"})
    with pytest.raises(ModelError, match="does not fit its base .1 of its 1 layers are not in this model: lora_unet_down_blocks_7"):
        load(card("owner/sd", adapter="owner/wrong"))
    assert published.fetched() == ["kohya.safetensors", "vae/diffusion_pytorch_model.safetensors"]


def test_pickles_only(published, tiny_cards, tmp_path):
    folder = Path(shutil.copytree(tiny_cards("sd")[0].source, tmp_path / "pickled"))
    (folder / NETWORK).rename(folder / "unet/diffusion_pytorch_model.bin")
    published.repositories["owner/pickled"] = Repository({NEW: folder})
    found = describe("owner/pickled")
    assert "'owner/pickled' holds pickled weights only (unet/)" in found.problems[0]
    with pytest.raises(ModelError, match=r"'pickled' holds pickled weights only \(unet/\)"):
        load(card_for("owner/pickled"))
    assert not [name for name in published.fetched() if not name.startswith("vae/")]


def as_variant(folder: Path, part: str, variant: str) -> None:
    file = next((folder / part).glob("*.safetensors"))
    file.rename(file.with_suffix(f".{variant}.safetensors"))


def test_variants_only(published, tiny_cards, tmp_path):
    """What there is only as a variant is loaded as it; before and after the download the same is said, and no connection is needed then."""
    folder = Path(shutil.copytree(tiny_cards("sd")[0].source, tmp_path / "half"))
    for part in ("unet", "vae"):
        as_variant(folder, part, "fp16")
    published.repositories["owner/half"] = Repository({NEW: folder})
    before = describe("owner/half")
    assert before.problems == () and {part.name for part in before.parts} == {"unet", "vae", "text_encoder"}
    assert same_weights(load(card("owner/half")).members[0].network, tiny_cards("sd")[0].source)
    names = ["text_encoder/model.safetensors", *(f"{part}/diffusion_pytorch_model.fp16.safetensors" for part in ("unet", "vae"))]
    assert published.fetched() == names and describe("owner/half").cached == before.download
    unplugged()
    assert load(card("owner/half", revision=NEW)).names == ("owner/half",)


def test_variants_that_do_not_meet(published, tiny_cards, tmp_path):
    folder = Path(shutil.copytree(tiny_cards("sd")[0].source, tmp_path / "half"))
    for part, variant in (("unet", "fp16"), ("text_encoder", "bf16")):
        as_variant(folder, part, variant)
    published.repositories["owner/half"] = Repository({NEW: folder})
    with pytest.raises(ModelError, match=r"holds its parts in different variants only \(text_encoder: bf16; unet: fp16\)"):
        load(card("owner/half"))
    assert not [name for name in published.fetched() if not name.startswith("vae/")]


def test_a_safety_checker_is_neither_fetched_nor_counted(published, tiny_cards, tmp_path):
    folder = with_checker(shutil.copytree(tiny_cards("sd")[0].source, tmp_path / "checked"))
    published.repositories["owner/checked"] = Repository({NEW: folder})
    before = describe("owner/checked")
    assert "not filtered" in before.notes[0]
    used = [path for path in folder.rglob("*.*") if path.parent.name not in LEFT_OUT]
    assert before.download == sum(path.stat().st_size for path in used)
    ensemble = load(card("owner/checked"))
    assert published.fetched() == ["text_encoder/model.safetensors", NETWORK, "vae/diffusion_pytorch_model.safetensors"]
    assert ensemble.pipeline.safety_checker is None and "not filtered" in ensemble.warnings[0]


# ------------------------------------------------------------------------------------------------ single files on the hub


@pytest.fixture
def single(published, tiny_cards, tiny_ensemble, tmp_path):
    """`someone/files` with a single file of sdxl without its second text encoder; a file of the same name below a folder."""
    pipe = tiny_ensemble("sdxl").members[1].new_pipeline("unet")
    tensors = original(pipe, "sdxl", ["unet", "vae", "text_encoder"])
    file = write(tmp_path / "files/sub/dream.safetensors", {**tensors, "big": torch.zeros(200_000)},
                 **{"modelspec.prediction_type": "epsilon", "modelspec.trigger_phrase": "dreamy"})  # fmt: skip
    published.repositories["someone/files"] = Repository({NEW: tmp_path / "files"}, about={"license": "openrail"})
    return file


def test_a_single_file_is_known_by_its_first_bytes(published, single):
    source = "someone/files/sub/dream.safetensors"
    found = describe(source)
    assert (found.family, found.prediction, found.how, found.licence) == ("sdxl", "epsilon", "the file says so", "openrail")
    assert found.trigger == ("dreamy",) and found.download == single.stat().st_size and found.cached == 0
    assert "it lacks text_encoder_2: name a Stable Diffusion XL" in found.problems[0] and "1 tensors that no part" in found.notes[0]
    assert 0 < published.sent("dream.safetensors") <= 300_003 < single.stat().st_size
    whole = describe(source, components="owner/sdxl")
    assert whole.problems == () and {part.origin for part in whole.parts} == {"sub/dream.safetensors", "owner/sdxl"}
    published.log.clear()
    ensemble = load(card_for(source, components="owner/sdxl"), card("owner/sdxl", "sdxl"))
    assert "dreamy" not in ensemble.cards[0].prompt_template and ensemble.cards[0].revision == NEW
    assert ensemble.cards[0].components == f"owner/sdxl@{NEW}"
    assert ensemble.members[0].components["text_encoder_2"] is ensemble.members[1].components["text_encoder_2"]
    assert ensemble.members[0].components["vae"] is ensemble.members[1].components["vae"]
    with pytest.raises(ModelError, match="dream.safetensors lacks text_encoder_2"):
        load(card_for(source))
    with pytest.raises(ModelError, match="'someone/files' does not hold other.safetensors"):
        describe("someone/files/other.safetensors")
    with pytest.raises(ModelError, match="'someone/files' does not hold that file"):
        card_for("someone/files/other.safetensors")


def test_a_companion_gives_only_what_is_missing(published, single):
    load(card_for("someone/files/sub/dream.safetensors", components="owner/sdxl"))
    assert published.fetched() == ["sub/dream.safetensors", "text_encoder_2/model.safetensors", "vae/diffusion_pytorch_model.safetensors"]


def test_other_autoencoders_are_found_out_also_after_the_download(published, single, tiny_ensemble, tmp_path):
    pipe = tiny_ensemble("sdxl").members[1].new_pipeline("unet")
    tensors = original(pipe, "sdxl", ["unet", "vae", "text_encoder"])
    tensors["first_stage_model.encoder.conv_in.weight"] += 1
    write(tmp_path / "files/other.safetensors", tensors, **{"modelspec.prediction_type": "epsilon"})
    cards = [card_for(f"someone/files/{name}.safetensors", components="owner/sdxl") for name in ("sub/dream", "other")]
    with pytest.raises(ModelError, match="'dream' and 'other' cannot be fused: their autoencoders have different weights"):
        load(*cards)


def test_a_repository_of_single_files_says_so(published, single):
    with pytest.raises(ModelError, match="no model_index.json.: name one of its files, as someone/files/sub/dream.safetensors"):
        card_for("someone/files")
    assert "name one of its files" in describe("someone/files").problems[0]


def test_servers_that_ignore_ranges_and_headers_that_lie(published, single, tmp_path):
    published.deaf = True
    published.log.clear()
    assert remote_header("someone/files", "sub/dream.safetensors", NEW).metadata["modelspec.trigger_phrase"] == "dreamy"
    lies = tmp_path / "files/lies.safetensors"
    for length, message in ((2**40, "is damaged"), (60_000_000, "no model needs more than 25 MB")):
        with open(lies, "wb") as file:
            file.write(struct.pack("<Q", length))
            file.truncate(70_000_000 if length < 2**30 else 100)
        published.deaf = False
        with pytest.raises(ModelError, match=message):
            remote_header("someone/files", "lies.safetensors", NEW)


# ------------------------------------------------------------------------------------------------ as a command

def test_commands_say_what_they_are_about_to_fetch(published, monkeypatch, capsys):
    from fusion.commands import shared

    monkeypatch.setattr(shared, "WORTH_SAYING", 1)
    shared.ensemble_of(["owner/sd"], "cpu", None)
    said = capsys.readouterr().err
    assert "sd: Stable Diffusion 1 and 2, " in said and "kB to fetch, " in said and "licence: my-licence" in said
    shared.ensemble_of(["owner/sd"], "cpu", None)
    assert "to fetch" not in capsys.readouterr().err  # it is here now


def test_details_as_a_command_in_a_process_of_its_own(published, tmp_path):
    """With HF_ENDPOINT, as a person would set it."""
    more = {"HF_ENDPOINT": published.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1,localhost"}
    done = subprocess.run([sys.executable, "-m", "fusion", "details", "owner/sd+owner/lora", "--json"], cwd=REPOSITORY, text=True,
                          capture_output=True, env={**os.environ, **more})  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["family"] == "sd" and found["licence"] == "my-licence; the adapter: mit" and found["trigger"][-1] == "a photo of sks"
    assert found["memory"]["float32"] == 4 * found["parameters"] and found["problems"] == [] and found["download"] > found["cached"] > 0
    assert published.sent(".safetensors") < found["download"] + 300_000
