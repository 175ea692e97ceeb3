"""The family's denoisers: one small Stable Diffusion U-Net per member, trained with the exact denoising target.

A member's population is known, so the best prediction is, too: given `x_t`, the posterior mean of the clean latent over the cached
renderings that the caption admits, weighted by the population (the "smooth target" with the whole training set as its batch; Xu et al.
2023, "Stable target field"). It removes the sampling noise from the target at high noise, where populations are decided, and costs two
matrix products.
The networks predict v (Salimans & Ho 2022) on the linear DDPM schedule, whose last level holds almost no signal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .population import BARE_PROMPTS, PRESENTATIONS, PROFESSIONS, TONES, caption

TOKENS = 16  # the longest caption has 13
SCHEDULE = dict(num_train_timesteps=1000, beta_schedule="linear", beta_start=1e-4, beta_end=0.02, prediction_type="v_prediction")
START, END = "<|startoftext|>", "<|endoftext|>"
KINDS = ("bare", "presentation", "tone", "both", "empty")


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(64, 96, 96), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2, cross_attention_dim=64, norm_num_groups=16,
    )  # fmt: skip


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of the captions is one token; letters spell the rest."""
    texts = [caption(job, p, t) for job in PROFESSIONS for p in PRESENTATIONS for t in TONES] + list(BARE_PROMPTS)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    learned = json.loads(bpe.to_str())["model"]
    words = sorted({*learned["vocab"], *letters, *(letter + "</w>" for letter in letters)})
    vocabulary = {word: i for i, word in enumerate([START, END, *words])}
    return CLIPTokenizer(vocab=vocabulary, merges=[tuple(pair) for pair in learned["merges"]], model_max_length=TOKENS)


def build_text_encoder(vocabulary: int) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, projection_dim=64,
        max_position_embeddings=TOKENS, bos_token_id=0, eos_token_id=1, pad_token_id=1, hidden_act="quick_gelu",
    ))  # fmt: skip


class Denoiser(nn.Module):
    """Text encoder and U-Net as they are trained together: `(x_t, t, ids) -> v`."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel):
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, x_t: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        return self.unet(x_t, t, self.text_encoder(input_ids=ids).last_hidden_state).sample


def fresh_denoiser() -> tuple[Denoiser, CLIPTokenizer]:
    """A randomly initialised base (seeded) and its tokenizer. Plain attention: at these sizes the fused kernel's backward is slower."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    denoiser = Denoiser(build_text_encoder(len(tokenizer)), build_unet())
    denoiser.unet.set_attn_processor(AttnProcessor())
    return denoiser, tokenizer


def captioned(population: np.ndarray, rng: np.random.Generator, kinds: dict[str, float]) -> tuple[int, str, np.ndarray, int | None]:
    """A portrait's index, a caption of it, and what that admits: a distribution over the 18 cells, the profession (None: any).

    population: `(3, 6)`; kinds: probabilities of `KINDS`. What a caption leaves open follows the population.
    """
    kind = rng.choice(list(kinds), p=list(kinds.values()))
    names, tones, jobs = list(PRESENTATIONS), list(TONES), list(PROFESSIONS)
    job, p, t = rng.integers(16), rng.integers(3), rng.integers(6)
    allowed = np.zeros((3, 6))
    if kind == "both":
        allowed[p, t] = 1
        text = caption(jobs[job], names[p], tones[t])
    elif kind == "presentation":
        allowed[p] = population[p]
        text = caption(jobs[job], presentation=names[p])
    elif kind == "tone":
        allowed[:, t] = population[:, t]
        text = caption(jobs[job], tone=tones[t])
    else:
        allowed[:] = population
        text = caption(jobs[job]) if kind == "bare" else ""
    cells = (allowed / allowed.sum()).ravel()
    cell = rng.choice(18, p=cells)
    return int(job * 18 + cell), text, cells, None if kind == "empty" else int(job)


@dataclass
class World:
    """What a member is trained on: cached latents, a population, captions; draws batches with their exact targets.

    latents: `(288 * A, 4, 16, 16)`, portrait-major as `population.PORTRAITS`; population: `(3, 6)`;
    kinds: probabilities of `KINDS`; high_noise: share of draws with the timestep in [200, 1000), the rest uniform.
    """

    latents: Tensor
    population: np.ndarray
    tokenizer: CLIPTokenizer
    kinds: tuple[float, ...] = (0.45, 0.10, 0.10, 0.20, 0.15)
    high_noise: float = 0.0

    def __post_init__(self) -> None:
        betas = torch.linspace(SCHEDULE["beta_start"], SCHEDULE["beta_end"], 1000, dtype=torch.float64)
        signal = (1 - betas).cumprod(0)
        device = self.latents.device
        self.a, self.s = signal.sqrt().float().to(device), (1 - signal).sqrt().float().to(device)
        self.flat = self.latents.flatten(1)  # (M, 1024)
        self.square = self.flat.pow(2).sum(1) / 2  # (M,)
        self.copies = len(self.latents) // 288
        self.ids: dict[str, Tensor] = {}

    def tokens(self, texts: list[str]) -> Tensor:
        for text in {*texts} - {*self.ids}:
            encoded = self.tokenizer(text, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
            self.ids[text] = encoded.input_ids[0]
        return torch.stack([self.ids[text] for text in texts]).to(self.latents.device)

    def draw(self, rng: np.random.Generator) -> tuple[int, str, np.ndarray, int | None]:
        return captioned(self.population, rng, dict(zip(KINDS, self.kinds)))

    def posterior_mean(self, x_t: Tensor, a: Tensor, s: Tensor, cells: np.ndarray, jobs: list[int | None]) -> Tensor:
        """`E[x0 | x_t, caption]` over the training set, `(B, D)`; row b admits profession `jobs[b]` (None: all) with `cells[b]` `(18,)`."""
        mean = torch.empty_like(x_t)
        for job in {*jobs}:
            rows = torch.tensor([i for i, other in enumerate(jobs) if other == job], device=x_t.device)
            block = slice(None) if job is None else slice(job * 18 * self.copies, (job + 1) * 18 * self.copies)
            flat = self.flat[block]
            prior = torch.from_numpy(np.log(np.maximum(cells[rows.tolist()], 1e-30))).float().to(x_t.device)
            prior = prior.repeat_interleave(self.copies, 1).repeat(1, 16 if job is None else 1)
            logits = prior + (a[rows] * (x_t[rows] @ flat.T) - a[rows] ** 2 * self.square[block]) / s[rows] ** 2
            mean[rows] = logits.softmax(1) @ flat
        return mean

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`x_t (B,4,16,16), t (B,), ids (B,16), v (B,4,16,16)`: v is the exact target, the posterior mean over the training set."""
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        portraits, texts, cells, jobs = zip(*(self.draw(rng) for _ in range(size)))
        device = self.latents.device
        index = torch.tensor(portraits) * self.copies + torch.randint(self.copies, (size,), generator=generator)
        low = torch.where(torch.rand(size, generator=generator) < self.high_noise, 200, 0)
        t = (low + torch.rand(size, generator=generator) * (1000 - low)).long().clamp(max=999).to(device)
        noise = torch.randn((size, self.flat.shape[1]), generator=generator).to(device)
        a, s = self.a[t, None], self.s[t, None]
        x_t = a * self.flat[index.to(device)] + s * noise
        with torch.autocast(device.type, enabled=False):  # differences of large numbers: bf16 would pick the wrong image
            mean = self.posterior_mean(x_t, a, s, np.stack(cells), list(jobs))
            target = (a * x_t - mean) / s
        shape = (size, *self.latents.shape[1:])
        return x_t.view(shape), t, self.tokens(list(texts)), target.view(shape)

    def loss(self, denoiser: nn.Module, size: int, generator: torch.Generator) -> Tensor:
        x_t, t, ids, target = self.batch(size, generator)
        return F.mse_loss(denoiser(x_t, t, ids).float(), target)
