"""The hub, replaced by a folder: pinning, small files before large ones, safetensors only, and errors in words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import diffusers
import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors

from models import sources
from models.catalog import ModelCard, card_for
from models.errors import ModelError
from models.loading import load_ensemble

COMMIT, HEAD = "b" * 40, "c" * 40


@pytest.fixture
def hub(monkeypatch, tiny_cards, sd_cards):
    """`owner/sd`, `owner/sdxl` and `owner/lora` on a pretended hub; returns the log of (what, repository, revision)."""
    folders = {"owner/sd": tiny_cards("sd")[0].source, "owner/sdxl": tiny_cards("sdxl")[0].source, "owner/lora": sd_cards["lora"].adapter}
    log = []

    def find(what, repository, revision):
        log.append((what, repository, revision))
        if repository not in folders:
            request = httpx.Request("GET", "https://hub.invalid")
            raise errors.RepositoryNotFoundError("404", response=httpx.Response(404, request=request))
        return folders[repository]

    def info(self, repository, revision=None):
        find("info", repository, revision)
        return SimpleNamespace(sha=HEAD)

    def snapshot(repository, revision=None, allow_patterns=None, ignore_patterns=()):
        assert not any(pattern.endswith((".bin", ".ckpt", "*")) for pattern in allow_patterns)
        return find("small", repository, revision)

    def download(cls, repository, revision=None, use_safetensors=None, trust_remote_code=None, variant=None, **unused):
        assert use_safetensors is True and trust_remote_code is False and variant is None and unused["safety_checker"] is None
        return find("all", repository, revision)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file, revision=None: f"{find('index', repo, revision)}/{file}")
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", classmethod(download))
    return log


def card(source: str, family: str = "sd", **more) -> ModelCard:
    return ModelCard(id=source, title=source, family=family, source=source, **more)


def test_a_pinned_model_is_fetched_at_its_commit(hub):
    ensemble = load_ensemble([card("owner/sd", revision=COMMIT)], device="cpu")
    assert hub == [("small", "owner/sd", COMMIT), ("all", "owner/sd", COMMIT)] and ensemble.cards[0].revision == COMMIT


def test_an_unpinned_model_is_pinned_to_what_was_loaded(hub):
    ensemble = load_ensemble([card("owner/sd", adapter="owner/lora")], device="cpu")
    assert (ensemble.cards[0].revision, ensemble.cards[0].adapter_revision) == (HEAD, HEAD)
    assert ("all", "owner/sd", HEAD) in hub and ("small", "owner/lora", HEAD) in hub


def test_members_that_cannot_be_fused_are_refused_before_the_large_download(hub):
    with pytest.raises(ModelError, match="'owner/sd' and 'owner/sdxl' cannot be fused"):
        load_ensemble([card("owner/sd", revision=COMMIT), card("owner/sdxl", "sdxl", revision=COMMIT)], device="cpu")
    assert not [entry for entry in hub if entry[0] == "all"]


def test_one_file_of_an_adapter_repository(hub):
    named = card("owner/sd", adapter="owner/lora/pytorch_lora_weights.safetensors", adapter_revision=COMMIT)
    assert sources.adapter_file(named.adapters[0], named.title).name == "pytorch_lora_weights.safetensors"


def test_typed_hub_id_finds_its_family_and_commit(hub):
    found = card_for("owner/sdxl")
    assert (found.family, found.revision) == ("sdxl", HEAD)


@pytest.mark.parametrize(("error", "message"), [
    (errors.RepositoryNotFoundError, "no public model 'owner/sd'"), (errors.GatedRepoError, "asks you to accept its licence"),
    (errors.RevisionNotFoundError, "has no commit"),
])  # fmt: skip
def test_errors_of_the_hub(monkeypatch, error, message):
    def fail(*_, **__):
        raise error("refused", response=httpx.Response(404, request=httpx.Request("GET", "https://hub.invalid")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=message):
        sources.small_files(card("owner/sd", revision=COMMIT))


def test_no_connection(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="cannot be fetched .*check the connection, or use a local folder"):
        sources.small_files(card("owner/never-fetched-before", revision=COMMIT))


def test_local_sources_need_no_hub(tiny_cards):
    local = tiny_cards("sd")[0]
    assert sources.pinned(local) == (local, ()) and sources.small_files(local) == Path(local.source)
    assert sources.all_files(local, "X", Path(local.source)) == Path(local.source)
