"""What the networks said, kept on disk while a fit runs: a killed run goes on where it was, a new model or picture asks only what is new.

Every prediction is filed under what decides it: the member (its weights, text encoder, schedule and precision, hashed as they lie in
memory) and the question (noisy latent, level, prompt). So nothing here can be stale: what changed is not found. Predictions, not products,
are kept, because the statistic of a new member holds its products with all the others. A folder may be used by any number of processes,
at the same time or one after the other; files appear whole or not at all.

Disk: 4 bytes x K x N x L x draws x numbers in a latent (Stable Diffusion 1.5, 4 models, 32 images: 268 MB; SDXL at 1024 pixels: 1.1 GB).
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from models import room

log = logging.getLogger(__name__)


def size_of(ensemble, images: int, looks: int) -> int:
    """Bytes that keeping a fit of so many pictures takes, at `looks` noise levels times draws a picture, each in an antithetic pair."""
    return 4 * len(ensemble) * images * looks * 2 * math.prod(ensemble.shape)


_open = lru_cache(maxsize=32)(lambda path: safe_open(path, framework="np"))  # rows of one batch mostly lie in one file


class Kept:
    """A folder of predictions and latents. `seconds`: how much work a killed run may lose; `asked`, `found`: predictions so far."""

    def __init__(self, folder: str | Path, seconds: float = 5.0):
        self.folder, self.seconds = Path(folder), seconds
        self.asked = self.found = 0
        self._where: dict[str, dict[str, Path]] = {}  # shelf -> name -> file
        self._waiting: dict[str, dict[str, np.ndarray]] = {}
        self._written = time.monotonic()

    # -------------------------------------------------------------------------------------------- shelves

    def _shelf(self, name: str) -> dict[str, Path]:
        """What lies on a shelf, read once; a file that cannot be read was damaged: it is taken away and its content computed again."""
        if name not in self._where:
            self._where[name] = {}
            for file in sorted((self.folder / name).glob("*.safetensors")):
                try:
                    with safe_open(str(file), framework="np") as opened:
                        self._where[name].update(dict.fromkeys(opened.keys(), file))
                except (SafetensorError, OSError) as error:
                    log.warning("%s cannot be read (%s): it is removed, its content will be computed again", file, error)
                    file.unlink(missing_ok=True)
        return self._where[name]

    def get(self, shelf: str, key: str, shape: Sequence[int]) -> np.ndarray | None:
        """The float32 array kept under `key`, or None where there is none of that shape."""
        waiting = self._waiting.get(shelf, {}).get(key)
        if waiting is not None:
            return waiting
        file = self._shelf(shelf).get(key)
        if file is None:
            return None
        try:
            found = _open(str(file)).get_tensor(key)
        except (SafetensorError, OSError):  # removed or overwritten meanwhile by somebody else
            return None
        return found if found.shape == tuple(shape) and found.dtype == np.float32 else None

    def put(self, shelf: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep some arrays, all or none of them; they are on disk about `seconds` later, at the latest after `flush`."""
        self._waiting.setdefault(shelf, {}).update({key: np.ascontiguousarray(value, dtype=np.float32) for key, value in arrays.items()})
        if time.monotonic() - self._written >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting: one file for each shelf, under its own name at once. Raises OSError (`models.room.DiskFull`)."""
        for shelf, arrays in self._waiting.items():
            folder = self.folder / shelf
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{uuid.uuid4().hex}.safetensors"
            unfinished = file.with_suffix(".unfinished")
            try:
                save_file(arrays, str(unfinished))
                os.replace(unfinished, file)
            except (OSError, SafetensorError) as error:
                unfinished.unlink(missing_ok=True)
                if room.is_full(error):
                    raise room.full(self.folder, sum(x.nbytes for x in arrays.values())) from error
                raise OSError(f"what was measured cannot be kept in {self.folder} ({error}): use --no-work") from error
            self._shelf(shelf).update(dict.fromkeys(arrays, file))
        self._waiting, self._written = {}, time.monotonic()

    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    # -------------------------------------------------------------------------------------------- what is kept

    def predictor(self, ensemble, predict: Callable, prompts: Sequence[str]) -> Callable:
        """`predict(x_t, level, index, members=[k])` of the ensemble for these prompts, asked only where the answer is not kept."""
        shelves = identities(ensemble)

        def recall(x_t: torch.Tensor, level: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            keys = [_question(x, at, prompts[n]) for x, at, n in zip(x_t, level, index.tolist())]
            answers = torch.empty(len(shelves), *x_t.shape)
            for k, shelf in enumerate(shelves):
                known = [self.get(shelf, key, x_t.shape[1:]) for key in keys]
                for row, value in enumerate(known):
                    if value is not None:
                        answers[k, row] = torch.from_numpy(value)
                missing = [row for row, value in enumerate(known) if value is None]
                self.found += len(known) - len(missing)
                if missing:
                    answers[k, missing] = predict(x_t[missing], level[missing], index[missing], members=[k])[0].float().cpu()
                    self.asked += len(missing)
                    if bool(torch.isfinite(answers[k, missing]).all()):  # otherwise the caller refuses them
                        self.put(shelf, {keys[row]: answers[k, row].numpy() for row in missing})
            return answers

        return recall

    def album(self, ensemble) -> Callable:
        """`recall(plan, make) -> [PNG bytes]`: what `make()` drew with this ensemble for the plan, called only when it is not kept."""
        scheduler = _plain(ensemble.members[0].components.get("scheduler").config)
        shelf = self.folder / ("pictures-" + _digest(*identities(ensemble), _encoder_identity(ensemble), scheduler))

        def recall(plan, make: Callable) -> list[bytes]:
            jobs = plan.jobs
            name = _digest(jobs, plan.steps, plan.guidance, plan.height, plan.width)
            files = [shelf / f"{name}-{place}.png" for place in range(len(jobs))]
            if all(file.is_file() for file in files):
                return [file.read_bytes() for file in files]
            made = make()
            if len(made) == len(files):  # a stopped run draws fewer
                shelf.mkdir(parents=True, exist_ok=True)
                for file, data in zip(files, made):
                    unfinished = file.with_suffix(f".{uuid.uuid4().hex}")
                    with room.writing(unfinished, len(data)):
                        unfinished.write_bytes(data)
                    os.replace(unfinished, file)
            return made

        return recall

    def encoder(self, ensemble) -> Callable:
        """`encode([image]) -> (1, ...)` of the ensemble, asked only for pictures whose latents are not kept."""
        shelf = "latents-" + _encoder_identity(ensemble)

        def encode(images: list) -> torch.Tensor:
            keys = [_digest(f"{image.mode} {image.size}", image.tobytes()) for image in images]
            known = [self.get(shelf, key, ensemble.shape) for key in keys]
            for n, key in enumerate(keys):
                if known[n] is None:
                    known[n] = ensemble.encode([images[n]])[0].float().cpu().numpy()
                    self.put(shelf, {key: known[n]})
            return torch.from_numpy(np.stack(known))

        return encode


# ------------------------------------------------------------------------------------------------ who said it, and to what

def digest(*parts: object) -> str:
    """A name for what decides a piece of work: parts of any kind, of which none may change while the name stays."""
    return _digest(*parts)


def _digest(*parts: object) -> str:
    """sha256 over parts of any kind, 40 hexadecimal digits: lengths are hashed too, so that parts cannot run together."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        hashed.update(f"{len(data)}:".encode() + data)
    return hashed.hexdigest()[:40]


def _question(x_t: torch.Tensor, level: torch.Tensor, prompt: str) -> str:
    return _digest(prompt, x_t.contiguous().numpy().tobytes(), level.numpy().tobytes())


def identities(ensemble) -> list[str]:
    """A name for each member that changes with anything that changes its predictions, and with nothing else."""
    seen: dict[tuple, str] = {}
    found = []
    for member in ensemble.members:
        parts = [member.network, *(member.components.get(name) for name in ensemble.family.text)]
        asked = ("member 1", ensemble.family.name, ensemble.size, ensemble.noise, member.noise, member.card.prompt_template)
        found.append(_digest(*asked, *(_part(part, member.adapter, seen) for part in parts)))
    return found


def _encoder_identity(ensemble) -> str:
    """A name for what turns pictures into latents."""
    vae = ensemble.members[0].components.get("vae")
    return _digest("encoder 1", ensemble.family.name, ensemble.size, ensemble.shape, "" if vae is None else _part(vae, None, {}))


def _part(part: object, adapter: str | None, seen: dict) -> str:
    """A text encoder, autoencoder or tokenizer; its configuration counts, where it came from does not."""
    if part is None:
        return "none"
    if isinstance(part, torch.nn.Module):
        return _digest(_plain(getattr(part, "config", {})), _weights(part, adapter, seen), _adapter(part, adapter))
    added = sorted((place, str(token)) for place, token in getattr(part, "added_tokens_decoder", {}).items() if token.single_word)
    # words of textual inversions: no tokenizer has others that stand for themselves alone
    return _digest(type(part).__name__, getattr(part, "vocab_size", ""), getattr(part, "model_max_length", ""), *([added] if added else []))


def _plain(config: object) -> list:
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return sorted((str(key), str(value)) for key, value in values.items() if not str(key).startswith("_") and "version" not in str(key))


def _weights(network: torch.nn.Module, adapter: str | None, seen: dict) -> str:
    """Hash of the tensors that this member uses: on a network with several adapters its own, under names that do not tell of the others."""
    found = []
    for name, tensor in network.state_dict().items():
        if "lora_" in name:
            if adapter is None or f".{adapter}." not in name:
                continue
            name = name.replace(f".{adapter}.", ".")
        found.append((name.replace("base_layer.", ""), _tensor(tensor, seen)))
    return _digest(type(network).__name__, *(part for pair in sorted(found) for part in pair))


def _tensor(tensor: torch.Tensor, seen: dict[tuple, str]) -> str:
    """sha256 of the values as they lie in memory. Raises ValueError for weights that are elsewhere."""
    if tensor.is_meta:
        raise ValueError("the weights of a model are not in memory and cannot be told apart: fit without keeping predictions (--no-work)")
    key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    if key not in seen or not tensor.numel():
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        seen[key] = _digest(tensor.dtype, tuple(tensor.shape), hashlib.sha256(values).hexdigest())
    return seen[key]


def _adapter(network: torch.nn.Module, adapter: str | None) -> str:
    """What scales an adapter besides its tensors."""
    config: Mapping = getattr(network, "peft_config", None) or {}
    if adapter is None or adapter not in config:
        return ""
    names = ("r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora", "use_dora")
    return str([(name, str(getattr(config[adapter], name, None))) for name in names])
