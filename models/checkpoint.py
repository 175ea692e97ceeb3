"""Single-file checkpoints, as shared on Civitai and elsewhere: which model a file is, from the names and shapes in its header alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from .errors import ModelError
from .families import FAMILIES, Family, family_of
from .headers import Header, Tensor
from .modern import network_layout
from .noise import PREDICTIONS
from .relatives import CONTROL, UPSCALER, tensor_words

NETWORK = "model.diffusion_model."
# schedules and counters of training, which the scheduler knows and the networks do not need
CONSTANTS = re.compile(r"(alphas_cumprod\w*|betas|sqrt_\w+|log_one_minus_\w+|posterior_\w+|lvlb_weights|logvar|denoiser\.sigmas|"
                       r"model_ema\.(decay|num_updates)|global_step|v_pred|ztsnr|embedding_manager\..*)")  # fmt: skip
QUANTISED = (".absmax", ".quant_map", ".scale_weight", ".weight_scale", "scaled_fp8", ".comfy_quant", ".qweight")
STATED = {"v": "v_prediction", "v_prediction": "v_prediction", "v-prediction": "v_prediction", "epsilon": "epsilon", "eps": "epsilon"}


@dataclass(frozen=True)
class Checkpoint:
    """What a header says. layout: a name of models/layouts.yaml; held: part -> prefix of its tensors; prediction: None when the file does
    not tell; how: where that comes from, in words; stated: whether the file or a person said so; spare: tensors that belong to no part."""

    name: str
    header: Header
    layout: str
    held: Mapping[str, str]
    prediction: str | None
    how: str
    stated: bool
    zero_snr: bool = False
    spare: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    modern: bool = False  # whether the network's weights have the names of diffusers, not the original ones

    @property
    def title(self) -> str:
        return layouts()[self.layout]["title"]

    @property
    def pipeline(self) -> str:
        return layouts()[self.layout]["pipeline"]

    @property
    def family(self) -> Family:
        return family_of(self.pipeline)

    @property
    def parts(self) -> Mapping[str, dict]:
        """What the layout says of every part of the pipeline."""
        return layouts()[self.layout]["parts"]

    def names(self, part: str) -> str:
        """How the tensors of a part that has weights are called (`models.checkpoint_names`)."""
        return "diffusers" if self.modern and part == self.family.slot else self.parts[part]["names"]

    def shapes(self, part: str) -> dict[str, tuple[int, ...]]:
        """`{original name without prefix: shape}` of a part the file holds."""
        return {short: self.header.tensors[key].shape for short, key in self.keys(part).items()}

    def keys(self, part: str) -> dict[str, str]:
        """`{original name without prefix: name in the file}`. CLIP of some old files lacks the level text_model: it is put back."""
        prefix, others = self.held[part], tuple(place for place in self.held.values() if place != self.held[part] and place)
        keys = {key.removeprefix(prefix): key for key in self.header.tensors
                if key.startswith(prefix) and not (prefix == "" and key.startswith(others))}  # fmt: skip
        if self.parts[part]["names"] == "clip" and not any(short.startswith("text_model.") for short in keys):
            keys = {short if short.startswith("text_projection") else "text_model." + short: key for short, key in keys.items()}
        return keys


@cache
def layouts() -> Mapping[str, dict]:
    """The table of models/layouts.yaml."""
    return yaml.safe_load(Path(__file__).with_name("layouts.yaml").read_text(encoding="utf-8"))["layouts"]


def checked_prediction(prediction: str | None, family: str | None = None) -> str | None:
    """A prediction type as networks of a family may have it. Raises ModelError for others."""
    if prediction is None:
        return None
    known = STATED.get(prediction, prediction)
    if known not in PREDICTIONS:
        raise ModelError(f"'{prediction}' is no prediction type: use one of {', '.join(PREDICTIONS)}")
    if family is not None and (family in ("sd3", "flux")) != (known == "flow"):
        raise ModelError(f"models of family {family} cannot predict {known}: leave the prediction type out")
    return known


def detect(header: Header, name: str, *, family: str | None = None, prediction: str | None = None) -> Checkpoint:
    """Recognise a file. family, prediction: what a person says of it. Raises ModelError, saying what it is, for what cannot be used."""
    keys = header.tensors
    prefix = NETWORK if any(key.startswith(NETWORK) for key in keys) else ""
    _refuse_others(header, name, prefix)
    layout, modern = _layout(header, prefix), None
    if layout is None:
        layout, modern = network_layout(header.shapes, name)
        prefix = prefix if modern is None else modern
    if layout is None:
        raise ModelError(f"{name} {_what_else(keys)}")
    found = family_of(layouts()[layout]["pipeline"]).name
    if family not in (None, found):
        raise ModelError(f"{name} has the layers of {layouts()[layout]['title']}, so its family is {found}, not {family}")
    held = {}
    for part, told in layouts()[layout]["parts"].items():
        places = [prefix] if told.get("names") in ("unet", "sd3", "flux") else told.get("prefixes", [])
        found_at = [place for place in places if any(key.startswith(place) for key in keys)]
        if found_at:
            held[part] = found_at[0]
    known, how, stated = _prediction(header, layout, checked_prediction(prediction, found))
    spare = tuple(key for key in keys if not key.startswith(tuple(held.values())) and not CONSTANTS.fullmatch(key))
    ema = [key for key in spare if key.startswith("model_ema.")]
    notes = [f"{name} holds a second, averaged copy of its weights ({len(ema)} tensors), which is not used"] if ema else []
    spare = tuple(key for key in spare if not key.startswith("model_ema."))
    if spare:
        notes.append(f"{name} holds {len(spare)} tensors that no part of {layouts()[layout]['title']} uses ({', '.join(spare[:3])}"
                     f"{' ...' if len(spare) > 3 else ''})")  # fmt: skip
    return Checkpoint(name, header, layout, held, known, how, stated, "ztsnr" in keys, spare, tuple(notes), modern is not None)


def _layout(header: Header, prefix: str) -> str | None:
    """The name of the layout, by the layers that only it has."""
    keys = header.tensors
    if prefix + "double_blocks.0.img_attn.norm.key_norm.scale" in keys:
        return "flux-dev" if prefix + "guidance_in.in_layer.weight" in keys else "flux-schnell"
    if prefix + "joint_blocks.0.context_block.adaLN_modulation.1.weight" in keys:
        if prefix + "joint_blocks.0.x_block.attn2.qkv.weight" in keys:
            return "sd35-medium"
        return "sd35-large" if prefix + "joint_blocks.0.x_block.attn.ln_q.weight" in keys else "sd3"
    if prefix + "input_blocks.0.0.weight" in keys:
        if prefix + "label_emb.0.0.weight" in keys:
            return "sdxl"
        width = next((keys[key].shape[-1] for key in keys if key.startswith(prefix) and key.endswith("attn2.to_k.weight")), 0)
        old = any(key.startswith("cond_stage_model.transformer.") for key in keys)
        new = any(key.startswith("cond_stage_model.model.") for key in keys)
        return "sd2" if new or (width == 1024 and not old) else "sd1"
    return None


def _refuse_others(header: Header, name: str, prefix: str) -> None:
    """Relatives of the models we fuse, recognisable but different."""
    keys = header.tensors
    if any(key.startswith(("input_hint_block.", "zero_convs.")) for key in keys):
        raise ModelError(f"{name} {CONTROL}")
    inputs = next((keys[prefix + key].shape[1] for key in ("input_blocks.0.0.weight",) if prefix + key in keys), 4)
    if inputs == 7:
        raise ModelError(f"{name} {UPSCALER}")
    if inputs != 4:
        raise ModelError(f"{name} takes {inputs} channels for a latent of 4: inpainting and editing models do not fuse")
    if prefix + "double_blocks.0.img_attn.norm.key_norm.scale" in keys and keys[prefix + "img_in.weight"].shape[1] in (128, 384):
        raise ModelError(f"{name} is a Flux for inpainting or editing, which does not fuse: use FLUX.1 dev or schnell")
    if any(key.startswith("conditioner.embedders.0.model.") for key in keys):
        raise ModelError(f"{name} is the refiner of Stable Diffusion XL, which draws nothing alone: use the base model")
    if "edm_mean" in keys or "edm_vpred.sigma_max" in keys:
        raise ModelError(f"{name} was trained on another kind of noise schedule (EDM), which cannot be fused here: use another model")
    if any(key.startswith(prefix + "distilled_guidance_layer.") for key in keys):
        raise ModelError(f"{name} is Chroma, which is none of the families here ({', '.join(FAMILIES)})")
    quantised = next((key for key in keys if key.endswith(QUANTISED)), None)
    if quantised:
        raise ModelError(f"{name} is quantised ({quantised}), which cannot be read here: use the copy in bf16, fp16 or plain fp8")


def _what_else(keys: Mapping[str, Tensor]) -> str:
    """What a file is that holds no model: with what to do about it."""
    if words := tensor_words({key: tensor.shape for key, tensor in keys.items()}):
        return words
    first = next(iter(keys), "nothing")
    titles = ", ".join(layout["title"] for layout in layouts().values())
    return f"is no checkpoint of a model known here (its first tensor is {first}): known are {titles}"


def _prediction(header: Header, layout: str, said: str | None) -> tuple[str | None, str, bool]:
    """`(type, where it comes from, whether it was stated)`."""
    if said is not None:
        return said, "as you say", True
    usual = layouts()[layout]["prediction"]
    if usual == "flow":
        return "flow", "as all of its kind", True
    told = STATED.get(header.metadata.get("modelspec.prediction_type", "").lower())
    kind = header.metadata.get("modelspec.architecture", "").lower()
    if told is None and kind.startswith("stable-diffusion-v2"):
        told = "v_prediction" if "768-v" in kind else "epsilon"
    if told is None and header.metadata.get("ss_v_parameterization", "").lower() == "true":
        told = "v_prediction"
    if told is not None:
        return told, "the file says so", True
    if "v_pred" in header.tensors:
        return "v_prediction", "the file is marked so", True
    return usual, "usual for its kind; the file does not say" if usual else "the file does not say; the network is asked when loaded", False
