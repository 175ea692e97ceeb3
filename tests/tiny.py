"""Tiny random pipelines of every family, written to disk in a second or two each: offline, seeded, for tests only.

`sibling=` writes a model that shares everything but the denoiser with an earlier folder.
"""

from __future__ import annotations

import copy
import string
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 16  # enough letters to tell "a cat" from "a dog"
VP = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that spells words letter by letter."""
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate([START, END, *letters])}, merges=[], model_max_length=TOKENS)


def text_encoder(width: int = 16, projected: bool = False) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=54, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2, projection_dim=width,
        max_position_embeddings=TOKENS, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5() -> tuple[T5Tokenizer, T5EncoderModel]:
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((letter, -2.0) for letter in string.ascii_lowercase)]
    words = T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=TOKENS)
    config = T5Config(vocab_size=len(vocabulary), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return words, T5EncoderModel(config).eval()


def vae(channels: int = 4, scaling: float = 0.18215, shift: float | None = None) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8], layers_per_block=1, latent_channels=channels, norm_num_groups=4, sample_size=16, scaling_factor=scaling,
        shift_factor=shift, use_quant_conv=channels == 4, use_post_quant_conv=channels == 4, mid_block_add_attention=False,
    ).eval()  # fmt: skip


def unet(context: int = 16, size: int = 8, heads: int | tuple[int, ...] = 2, **more: object) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=size, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context, attention_head_dim=heads, norm_num_groups=4, **more,
    ).eval()  # fmt: skip


def scheduler(prediction: str = "epsilon", **more: object) -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(**{**VP, "prediction_type": prediction, **more})


# ------------------------------------------------------------------------------------------------ whole pipelines

def sd(folder: Path, seed: int = 0, *, sibling: Path | None = None, prediction: str = "epsilon", size: int = 8, context: int = 16,
       **schedule: object) -> Path:  # fmt: skip
    """Stable Diffusion 1.x at 4 x `size` x `size` latents. `sibling`: another folder whose other parts it takes over."""
    torch.manual_seed(seed)
    parts = dict(unet=unet(context, size), scheduler=scheduler(prediction, **schedule))
    if sibling is not None:
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(sibling, **parts, requires_safety_checker=False)
    else:
        pipeline = diffusers.StableDiffusionPipeline(
            **parts, vae=vae(), text_encoder=text_encoder(context), tokenizer=tokenizer(), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    return _save(pipeline, folder)


def portraits(folder: Path, seed: int = 0, *, sibling: Path | None = None) -> Path:
    """Like the shipped portraits: 4 x 16 x 16 latents, v prediction, linear schedule."""
    return sd(folder, seed, sibling=sibling, prediction="v_prediction", size=16, beta_schedule="linear", beta_start=1e-4, beta_end=0.02)


def sd2(folder: Path, seed: int = 0, *, sibling: Path | None = None) -> Path:
    """Stable Diffusion 2.x at 768 pixels, but tiny: v prediction, linear projections, one number of heads per block."""
    torch.manual_seed(seed)
    parts = dict(unet=unet(24, use_linear_projection=True, heads=(1, 2)), scheduler=scheduler("v_prediction"))
    if sibling is not None:
        return _save(diffusers.StableDiffusionPipeline.from_pretrained(sibling, **parts, requires_safety_checker=False), folder)
    return _save(diffusers.StableDiffusionPipeline(
        **parts, vae=vae(), text_encoder=text_encoder(24), tokenizer=tokenizer(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False), folder)  # fmt: skip


def sdxl(folder: Path, seed: int = 0, *, sibling: Path | None = None, second: int = 16) -> Path:
    """Stable Diffusion XL; `second`: width of its second text encoder."""
    torch.manual_seed(seed)
    more = dict(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=second + 6 * 8)
    parts = dict(unet=unet(16 + second, **more),
                 scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012))  # fmt: skip
    if sibling is not None:
        return _save(diffusers.StableDiffusionXLPipeline.from_pretrained(sibling, **parts), folder)
    return _save(diffusers.StableDiffusionXLPipeline(**parts, vae=vae(scaling=0.13025), text_encoder=text_encoder(), tokenizer=tokenizer(),
                 text_encoder_2=text_encoder(second, projected=True), tokenizer_2=tokenizer()), folder)  # fmt: skip


def sd3(folder: Path, seed: int = 0, *, sibling: Path | None = None, shift: float = 3.0, **more: object) -> Path:
    torch.manual_seed(seed)
    network = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, pos_embed_max_size=8, **more,
    )  # fmt: skip
    parts = dict(transformer=network.eval(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=shift))
    if sibling is not None:
        return _save(diffusers.StableDiffusion3Pipeline.from_pretrained(sibling, **parts), folder)
    words, encoder = t5()
    return _save(diffusers.StableDiffusion3Pipeline(
        **parts, vae=vae(scaling=1.5, shift=0.06), text_encoder=text_encoder(projected=True), tokenizer=tokenizer(), tokenizer_3=words,
        text_encoder_2=text_encoder(projected=True), tokenizer_2=tokenizer(), text_encoder_3=_wide_t5(encoder)), folder)  # fmt: skip


def sd35(folder: Path, seed: int = 0, *, sibling: Path | None = None) -> Path:
    """Stable Diffusion 3.5 medium, but tiny: normalised queries and keys, a second attention in its first layer."""
    return sd3(folder, seed, sibling=sibling, qk_norm="rms_norm", dual_attention_layers=(0,))


def _wide_t5(encoder: T5EncoderModel) -> T5EncoderModel:
    """SD3 pads its two CLIP embeddings (16 + 16) to the width of T5: 32."""
    config = copy.deepcopy(encoder.config)
    config.d_model = 32
    return T5EncoderModel(config).eval()


def flux(folder: Path, seed: int = 0, *, sibling: Path | None = None, guidance: bool = True) -> Path:
    """Flux dev, which is given the guidance as a number; without `guidance` schnell, which is not and has a plain schedule."""
    torch.manual_seed(seed)
    network = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=[4, 4, 8], guidance_embeds=guidance,
    )  # fmt: skip
    parts = dict(transformer=network.eval(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance))
    if sibling is not None:
        return _save(diffusers.FluxPipeline.from_pretrained(sibling, **parts), folder)
    words, encoder = t5()
    return _save(diffusers.FluxPipeline(**parts, vae=vae(scaling=0.3611, shift=0.1159), text_encoder=text_encoder(), tokenizer=tokenizer(),
                                        text_encoder_2=encoder, tokenizer_2=words), folder)  # fmt: skip


def schnell(folder: Path, seed: int = 0, *, sibling: Path | None = None) -> Path:
    return flux(folder, seed, sibling=sibling, guidance=False)


def pixart(folder: Path, seed: int = 0, *, sibling: Path | None = None) -> Path:
    """PixArt-Sigma, but tiny: T5 alone, a learned variance behind the predicted noise."""
    torch.manual_seed(seed)
    network = diffusers.PixArtTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        cross_attention_dim=16, caption_channels=16, interpolation_scale=1, use_additional_conditions=False,
    )  # fmt: skip
    steps = diffusers.DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02)
    parts = dict(transformer=network.eval(), scheduler=steps)
    if sibling is not None:
        return _save(diffusers.PixArtSigmaPipeline.from_pretrained(sibling, **parts), folder)
    words, encoder = t5()
    return _save(diffusers.PixArtSigmaPipeline(**parts, vae=vae(scaling=0.13025), text_encoder=encoder, tokenizer=words), folder)


def ddpm(folder: Path, seed: int = 0, *, ddim: bool = False, channels: int = 3, prediction: str = "epsilon") -> Path:
    torch.manual_seed(seed)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), norm_num_groups=4,
        attention_head_dim=4,
    )  # fmt: skip
    steps = (diffusers.DDIMScheduler if ddim else diffusers.DDPMScheduler)(prediction_type=prediction)
    return _save((diffusers.DDIMPipeline if ddim else diffusers.DDPMPipeline)(network.eval(), steps), folder)


def lora(folder: Path, base: Path, seed: int = 0, *, text: bool = False) -> Path:
    """A LoRA folder for an SD base, far from zero so that it changes images; `text`: for its text encoder, too."""
    torch.manual_seed(seed)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(base)
    layers = {}
    for part, targets in (("unet", ["to_q", "to_k", "to_v", "to_out.0"]), ("text_encoder", ["q_proj", "v_proj"] if text else [])):
        if targets:
            module = getattr(pipeline, part)
            module.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=targets))
            layers[f"{part}_lora_layers"] = {key: value.clone() for key, value in get_peft_model_state_dict(module).items()}
    diffusers.StableDiffusionPipeline.save_lora_weights(folder, **layers)
    return Path(folder)


FAMILIES = {"sd": sd, "sdxl": sdxl, "sd3": sd3, "flux": flux, "pixart": pixart, "ddpm": ddpm}
VARIANTS = {"sd2": sd2, "sd35": sd35, "schnell": schnell}  # of these families: sd, sd3, flux
KINDS = {**FAMILIES, **VARIANTS}


def family_of(kind: str) -> str:
    """The family of a kind of tiny pipeline; `portraits` is one more of them."""
    return {"portraits": "sd", "sd2": "sd", "sd35": "sd3", "schnell": "flux"}.get(kind, kind)


def _save(pipeline: diffusers.DiffusionPipeline, folder: Path) -> Path:
    pipeline.save_pretrained(folder, safe_serialization=True)
    return Path(folder)
