"""What a pipeline tells its denoiser besides the latent: recorded once, replayed with our own latents, relayed per member while sampling.

Pipelines read only a few attributes of the module in their denoiser slot, so a module that shows exactly these (`Slot`) may stand there:
a recorder while fitting, the fused denoiser while sampling. Everything a pipeline would not read is deliberately not forwarded: a forwarded
`enable_cache`, for one, would touch a single member in silence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .encoding import encode
from .errors import ModelError
from .families import Family
from .own import own_pipeline
from .prompts import PLACE, understood
from .reading import Reader


class Slot(nn.Module):
    """A module for a pipeline's denoiser slot, showing what pipelines read there: the first network's, the context on all of them."""

    def __init__(self, networks: tuple[nn.Module, ...]):
        super().__init__()
        self.networks = networks  # a tuple is not registered: `pipe.to(...)` must not move members behind the loader's back

    @property
    def config(self) -> Mapping:
        return self.networks[0].config

    @property
    def device(self) -> torch.device:
        return self.networks[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.networks[0].dtype

    @property
    def add_embedding(self) -> nn.Module:  # SDXL reads the width of its time ids here
        return self.networks[0].add_embedding

    @property
    def encoder_hid_proj(self) -> nn.Module:  # IP-Adapter
        return self.networks[0].encoder_hid_proj

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:  # Flux
        with ExitStack() as stack:
            for network in self.networks:
                stack.enter_context(network.cache_context(name))
            yield


class _Recorded(Exception):
    """Ends a pipeline's run at the first call of its denoiser."""


class Recorder(Slot):
    """Captures the keyword arguments of the first call, latent and timestep left out, and ends the run."""

    def __init__(self, network: nn.Module, family: Family):
        super().__init__((network,))
        self.family, self.captured = family, None

    def forward(self, *args: object, **kwargs: object) -> None:
        given = named_arguments(self.networks[0], args, kwargs)
        self.captured = {name: value for name, value in given.items() if name not in (self.family.sample, "timestep", "return_dict")}
        raise _Recorded


def named_arguments(network: nn.Module, args: tuple, kwargs: dict) -> dict:
    """Positional arguments of a denoiser call by name, beside the named ones."""
    return {**dict(zip(inspect.signature(network.forward).parameters, args)), **kwargs} if args else dict(kwargs)


# ------------------------------------------------------------------------------------------------ record and replay

def _map(tree: Mapping, change: Callable[[str, Tensor], Tensor]) -> dict:
    """`tree` with `change(name, tensor)` at every tensor; other leaves kept."""
    return {name: _map(leaf, change) if isinstance(leaf, Mapping) else change(name, leaf) if isinstance(leaf, Tensor) else leaf
            for name, leaf in tree.items()}  # fmt: skip


def _join(trees: list[dict], join: Callable[[str, list[Tensor]], Tensor]) -> dict:
    """Trees of equal structure joined at every tensor."""
    first = trees[0]
    return {name: _join([tree[name] for tree in trees], join) if isinstance(leaf, Mapping)
            else join(name, [tree[name] for tree in trees]) if isinstance(leaf, Tensor) else leaf
            for name, leaf in first.items()}  # fmt: skip


def conditional_half(arguments: Mapping, family: Family) -> dict:
    """Denoiser arguments of the prompts alone, from those of a batch doubled for guidance (unconditional half first)."""
    return _map(arguments, lambda name, leaf: leaf if name in family.shared else leaf[len(leaf) // 2 :])


@dataclass(frozen=True)
class Conditioning:
    """What a pipeline passes its denoiser for `P` prompts. `arguments`: tensors of `P` rows, `2 P` when guided (unconditional first)."""

    family: Family
    arguments: Mapping
    prompts: tuple[str, ...]
    guidance: float | None = None  # classifier-free guidance scale when the rows are doubled

    def predict(self, network: Callable[..., Tensor], x_t: Tensor, t: Tensor, index: Tensor) -> Tensor:
        """The network's prediction `(B, ...)` for latents at its own t `(B,)`, row b conditioned on prompt `index[b]`; no variance."""
        index = index.to(x_t.device)
        if self.guidance is not None:
            x_t, t, index = x_t.repeat(2, *[1] * (x_t.ndim - 1)), t.repeat(2), torch.cat([index, index + len(self.prompts)])
        given = _map(self.arguments, lambda name, leaf: leaf if name in self.family.shared else leaf[index])
        prediction = self.family.mean(network(**{self.family.sample: x_t, "timestep": t}, **given), x_t)
        if self.guidance is None:
            return prediction
        without, with_prompt = prediction.chunk(2)
        return without + self.guidance * (with_prompt - without)


@torch.no_grad()
def record(pipeline: object, family: Family, prompts: list[str], size: tuple[int, int], *, guidance: float | None = None,
           batch: int = 32) -> Conditioning:
    """Run a stock pipeline to its first denoiser call and keep what it passes, for every prompt. The pipeline itself stays as it is.

    size: (height, width) in pixels. `guidance=None` is the plain conditional model (scale 1; networks that are given the number get 1).
    Prompts are used as they are.
    """
    if family.guidance == "none":
        if guidance not in (None, 1.0):
            raise ModelError(f"{family.title} has no prompt, so it cannot be guided: leave guidance at 1")
        return Conditioning(family, {}, tuple(prompts))
    scale = 1.0 if guidance is None else float(guidance)
    network, mine, parts = getattr(pipeline, family.slot), own_pipeline(pipeline, draws=False), []
    mine.set_progress_bar_config(disable=True)
    for start in range(0, len(prompts), batch):
        recorder = Recorder(network, family)
        setattr(mine, family.slot, recorder)
        try:
            mine(prompt=list(prompts[start : start + batch]), height=size[0], width=size[1], num_inference_steps=4,
                 guidance_scale=scale, output_type="latent", generator=torch.Generator().manual_seed(0),  # the process's is others'
                 **family.call)  # fmt: skip
        except _Recorded:
            parts.append(recorder.captured)
    doubled = family.guidance == "batch" and scale > 1

    def join(name: str, leaves: list[Tensor]) -> Tensor:
        if name in family.shared:
            return leaves[0]
        return torch.cat([half for i in range(2) for half in (leaf.chunk(2)[i] for leaf in leaves)] if doubled else leaves)

    return Conditioning(family, _join(parts, join), tuple(prompts), scale if doubled else None)


# ------------------------------------------------------------------------------------------------ relay while sampling

@dataclass(frozen=True)
class Voice:
    """How one member reads prompts: its template and a pipeline with its own text encoders."""

    template: str
    pipeline: object

    def say(self, prompt: str | list[str] | None) -> str | list[str] | None:
        if prompt is None:
            return None
        return self.template.replace(PLACE, prompt) if isinstance(prompt, str) else [self.template.replace(PLACE, p) for p in prompt]


class Relay:
    """While a stock pipeline runs with one set of prompts, gives every member the conditioning of its own template and text encoders.

    `voices`: the distinct ones, the pipeline's own first; `of_member[k]`: which one member k listens with. The pipeline's `encode_prompt`
    is wrapped: it encodes once per voice, returns voice 0's result, and remembers which tensor of voice 0 stands for which of the others;
    `arguments` exchanges them. Templates wrap the prompt, never the negative prompt.
    `reading` (`models.prompts.READINGS`): how prompts are read where the family's encoders can weigh words and read any length.
    """

    def __init__(self, family: Family, voices: tuple[Voice, ...], of_member: tuple[int, ...], reading: str = "cut"):
        self.family, self.voices, self.of_member, self.reading = family, voices, of_member, reading
        self.encoded: list[tuple[tuple, ...]] = []  # per encode_prompt call of this run: one result per voice

    @property
    def needed(self) -> bool:
        return len(self.voices) > 1 or self.voices[0].template != PLACE or self.whole

    @property
    def whole(self) -> bool:
        """Whether prompts are read whole, with their weights."""
        return self.reading != "cut" and self.family.weighs

    @contextmanager
    def installed(self, pipeline: object) -> Iterator[None]:
        if not (self.needed and self.family.text):
            yield
            return
        encode, check = pipeline.encode_prompt, pipeline.check_inputs
        signature = inspect.signature(encode)

        def check_inputs(*args: object, **kwargs: object) -> None:  # every run starts here
            self.encoded.clear()
            return check(*args, **kwargs)

        def encode_prompt(*args: object, **kwargs: object) -> tuple:
            given = signature.bind(*args, **kwargs).arguments
            if given.get("prompt") is None:
                raise ModelError("members with their own prompt templates or text encoders need the prompt as text: "
                                 "pass prompt=, not prompt_embeds=")  # fmt: skip
            negative = bool(self.encoded)  # Flux encodes its negative prompt in a second call
            self.encoded.append(tuple(self._encode(voice, encode, given, negative) for voice in self.voices))
            return self.encoded[-1][0]

        pipeline.encode_prompt, pipeline.check_inputs = encode_prompt, check_inputs
        try:
            yield
        finally:
            self.encoded.clear()
            del pipeline.encode_prompt, pipeline.check_inputs

    def _encode(self, voice: Voice, encode: Callable, given: Mapping, negative: bool) -> tuple:
        stock = encode if voice is self.voices[0] else voice.pipeline.encode_prompt
        if self.whole and given.get("prompt_embeds") is None and given.get("prompt_2") is None:
            return self._encode_whole(voice, stock, given)
        mine = () if negative else ("prompt", "prompt_2", "prompt_3")
        said = {name: voice.say(value) if name in mine else value for name, value in given.items()}
        return stock(**said)

    def _encode_whole(self, voice: Voice, stock: Callable, given: Mapping) -> tuple:
        """The same, every word read and weighed as the prompt says."""
        texts = [given["prompt"]] if isinstance(given["prompt"], str) else list(given["prompt"])
        against = given.get("negative_prompt")
        if isinstance(against, str):
            against = [against] * len(texts)
        said = [understood(text, self.reading).within(voice.template) for text in texts]
        negative = None if against is None else [understood(text, self.reading) for text in against]
        return encode(Reader(voice.pipeline, self.family), stock, given, said, negative)

    def arguments(self, member: int, given: Mapping) -> Mapping:
        """The denoiser arguments `given` with member's own conditioning in place of voice 0's."""
        voice = self.of_member[member]
        if voice == 0:
            return given
        changed = dict(given)
        for path, positions in self.family.embeddings.items():
            *outer, name = path.split(".")
            if outer:
                changed[outer[0]] = {**changed[outer[0]]}
            holder = changed[outer[0]] if outer else changed
            holder[name] = self._counterpart(holder[name], positions, voice)
        return changed

    def _counterpart(self, value: Tensor, positions: tuple[int, ...], voice: int) -> Tensor:
        """What `voice` has where voice 0 has `value`: the positive embedding, the negative one, or both as guidance stacks them."""
        found = []
        for results in self.encoded:
            ours, theirs = ([result[i] for i in positions] for result in (results[0], results[voice]))
            found += [(a, b) for a, b in zip(ours, theirs) if a is not None]
            if len(positions) == 2 and ours[1] is not None:
                found.append((torch.cat(ours[::-1]), torch.cat(theirs[::-1])))
        for a, b in found:
            if a is value:
                return b
        for a, b in found:
            if a.shape == value.shape and torch.equal(a.to(value), value):
                return b.to(value)
        raise ModelError("the pipeline changed its prompt embeddings on the way, so members with their own prompt templates or text "
                         "encoders cannot be given theirs: use members that share both, or leave the embeddings alone")  # fmt: skip
