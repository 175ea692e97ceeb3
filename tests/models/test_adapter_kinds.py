"""Adapters that are more than up and down: LoHa, LoKr, DoRA, Tucker cores, differences. Held against lycoris-lora's and peft's modules."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from models.errors import ModelError
from models.loading import load_ensemble
from tests.conftest import SIZE, tiny_card

LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
CONV, POINT = "down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.proj_in"
KINDS = {
    "loha": (LohaModule, {}), "loha, Tucker": (LohaModule, {"use_tucker": True}), "lokr": (LokrModule, {"factor": 4}),
    "lokr, both decomposed": (LokrModule, {"factor": 4, "decompose_both": True}), "lokr, whole": (LokrModule, {"full_matrix": True}),
    "lokr, Tucker": (LokrModule, {"factor": 2, "use_tucker": True}), "locon": (LoConModule, {}),
    "locon, Tucker": (LoConModule, {"use_tucker": True}), "full": (FullModule, {}),
    "dora": (LoConModule, {"weight_decompose": True}), "dora of columns": (LoConModule, {"weight_decompose": True, "wd_on_out": False}),
    "dora of loha": (LohaModule, {"weight_decompose": True}), "dora of lokr": (LokrModule, {"weight_decompose": True, "factor": 4}),
}  # fmt: skip


def filled(cls, layer, **more):
    """One of lycoris' modules on a copy of `layer`, all of its parameters drawn; its tensors and its merged weight."""
    layer = copy.deepcopy(layer)
    layer.requires_grad_(False)
    module = cls("m", layer, 1.0, 2, 1.0, **more) if cls not in (FullModule, NormModule) else cls("m", layer, 1.0, **more)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith("org_"):
                parameter.data = torch.rand_like(parameter) + 0.5 if "dora_scale" in name else 0.3 * torch.randn_like(parameter)
    return module


@torch.no_grad()
def turned(module, weight) -> torch.Tensor:
    """What the module makes of the weight while it runs. (`get_merged_weight` of LyCORIS 4.1 scales LoHa and LoKr twice.)"""
    if isinstance(module, LohaModule | LokrModule):
        changed = weight + module.get_weight(weight.shape)
        return module.apply_weight_decompose(changed) if module.wd else changed
    if isinstance(module, FullModule):
        return weight + module.custom_state_dict()["diff"]
    return module.get_merged_weight(1, weight.shape)[0]


def worn(card, file: Path, strength: float = 1.0, lora: str = "switch", **more):
    place = tiny_card(card.family, Path(card.source), id="m", title="m", adapter=str(file), strength=strength, **more)
    return load_ensemble([place, card], device="cpu", lora=lora, size=SIZE.get(card.family))


def check(member, base, expected: dict) -> None:
    """These parameters and no other changed."""
    plain = base.network.state_dict()
    for key, value in member.network.state_dict().items():
        torch.testing.assert_close(value.double(), expected.get(key, plain[key]).double(), atol=2e-5, rtol=2e-5)
    assert expected and all(not torch.allclose(value, plain[key], atol=1e-3) for key, value in expected.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", ["lora_unet_", "unet.", "diffusion_model."])
def test_every_kind_of_lycoris_changes_what_its_module_changes(tiny_cards, tiny_ensemble, tmp_path, kind, names):
    torch.manual_seed(3)
    base, (cls, more) = tiny_ensemble("sd").members[0], KINDS[kind]
    tensors, expected = {}, {}
    for path in (LINEAR, CONV, POINT):
        layer = base.network.get_submodule(path)
        module = filled(cls, layer, **more)
        stem = names + (path.replace(".", "_") if names.endswith("_") else path)
        tensors |= {f"{stem}.{key}": value.detach().clone().contiguous() for key, value in module.custom_state_dict().items()}
        expected[f"{path}.weight"] = turned(module, layer.weight).detach()
        if kind == "full" and layer.bias is not None:
            expected[f"{path}.bias"] = (layer.bias + module.custom_state_dict()["diff_b"]).detach()
    save_file(tensors, tmp_path / "a.safetensors")
    ensemble = worn(tiny_cards("sd")[0], tmp_path / "a.safetensors", lora="merge")
    check(ensemble.members[0], base, expected)
    plain = base.network.state_dict()
    less = worn(tiny_cards("sd")[0], tmp_path / "a.safetensors", strength=-0.5, lora="merge").members[0]
    check(less, base, {key: plain[key] - 0.5 * (value - plain[key]) for key, value in expected.items()})
    assert ensemble.members[0].warnings == ()
    switched = worn(tiny_cards("sd")[0], tmp_path / "a.safetensors")  # beside its base: that is not touched
    x, level = torch.randn(1, *ensemble.shape), torch.tensor([0.5])
    both = [one.predictor(["a cat"])(x, level) for one in (switched, ensemble)]
    torch.testing.assert_close(both[0], both[1], atol=1e-4, rtol=1e-4)
    assert torch.equal(both[0][1], tiny_ensemble("sd").subset([0]).predictor(["a cat"])(x, level)[0])


def test_differences_of_normalisations_and_biases(tiny_cards, tiny_ensemble, tmp_path):
    base = tiny_ensemble("sd").members[0]
    norm = base.network.get_submodule("mid_block.resnets.0.norm1")
    tensors = {"lora_unet_mid_block_resnets_0_norm1.w_norm": torch.randn(norm.weight.shape), f"unet.{LINEAR}.diff": torch.randn(16, 16),
               "lora_unet_mid_block_resnets_0_norm1.b_norm": torch.randn(norm.bias.shape), "diffusion_model.out.2.diff_b": torch.randn(4),
               "lora_te_text_model_embeddings_token_embedding.diff": torch.randn(_table(base).shape)}  # fmt: skip
    save_file(tensors, tmp_path / "a.safetensors")
    member = worn(tiny_cards("sd")[0], tmp_path / "a.safetensors").members[0]
    values, plain = [*tensors.values()], base.network.state_dict()
    changes = {"mid_block.resnets.0.norm1.weight": 0, f"{LINEAR}.weight": 1, "mid_block.resnets.0.norm1.bias": 2, "conv_out.bias": 3}
    check(member, base, {key: plain[key] + values[at] for key, at in changes.items()})
    torch.testing.assert_close(_table(member), _table(base) + values[4])
    save_file({f"unet.{LINEAR}.diff_b": torch.ones(16)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=rf"does not fit its base \(layer unet.{LINEAR} \(bias\)"):
        worn(tiny_cards("sd")[0], tmp_path / "a.safetensors")


def _table(member):
    return member.components["text_encoder"].get_input_embeddings().weight


PEFT = {"LoHa": LoHaConfig(r=2, alpha=3, target_modules=[LINEAR, CONV]), "LoKr": LoKrConfig(r=2, alpha=3, target_modules=[LINEAR, CONV]),
        "LoHa, Tucker": LoHaConfig(r=2, alpha=3, target_modules=[LINEAR, CONV], use_effective_conv2d=True),
        "LoKr, both": LoKrConfig(r=2, alpha=3, target_modules=[LINEAR, CONV], decompose_both=True, decompose_factor=4),
        "DoRA": LoraConfig(r=2, lora_alpha=3, target_modules=[LINEAR, CONV], use_dora=True),
        "DoRA, rs": LoraConfig(r=4, lora_alpha=3, target_modules=[LINEAR, CONV], use_dora=True, use_rslora=True)}  # fmt: skip


@pytest.mark.parametrize("kind", PEFT)
def test_every_kind_of_peft_changes_what_peft_merges(tiny_cards, tiny_ensemble, tmp_path, kind):
    torch.manual_seed(4)
    base = tiny_ensemble("sd").members[0]
    model = get_peft_model(copy.deepcopy(base.network), copy.deepcopy(PEFT[kind]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.rand_like(parameter) + 0.5 if "magnitude" in name else 0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    merged = model.merge_and_unload().state_dict()
    member = worn(tiny_cards("sd")[0], tmp_path).members[0]
    check(member, base, {f"{path}.weight": merged[f"{path}.weight"] for path in (LINEAR, CONV)})


@pytest.mark.parametrize("kind", ["flux", "sd3", "sdxl"])
def test_layers_that_are_one_in_the_original_code(tiny_cards, tiny_ensemble, tmp_path, kind):
    """Queries, keys and values together: a DoRA's norms of columns are those of the whole layer."""
    base = tiny_ensemble(kind).members[0]
    block = "transformer_blocks.0.attn.to_"
    name, paths = {"flux": ("diffusion_model.double_blocks.0.img_attn.qkv", [block + x for x in "qkv"]),
                   "sd3": ("lora_unet_joint_blocks_0_x_block_attn_qkv", [block + x for x in "qkv"]),
                   "sdxl": ("unet.middle_block.1.transformer_blocks.0.attn2.to_v", [LINEAR.replace("to_k", "to_v")])}[kind]
    weight = torch.cat([base.network.get_submodule(path).weight for path in paths]).detach()
    down, up, size = torch.randn(2, weight.shape[1]), torch.randn(len(weight), 2), torch.rand(1, weight.shape[1]) + 0.5
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": size, "alpha": torch.tensor(1)}
    save_file({f"{name}.{key}": value for key, value in tensors.items()}, tmp_path / "a.safetensors")
    turned = weight + 0.5 * up @ down
    turned = turned / turned.norm(dim=0, keepdim=True) * size
    member = worn(tiny_cards(kind)[0], tmp_path / "a.safetensors").members[0]
    check(member, base, {f"{path}.weight": part for path, part in zip(paths, turned.chunk(len(paths)))})


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
@pytest.mark.parametrize("kind", ["locon", "lokr"])
def test_eight_and_sixteen_bits(tiny_cards, tiny_ensemble, tmp_path, dtype, kind):
    torch.manual_seed(5)
    base = tiny_ensemble("sd").members[0]
    module = filled(KINDS[kind][0], base.network.get_submodule(LINEAR), **KINDS[kind][1])
    rounded = {key: value.detach().to(dtype) for key, value in module.custom_state_dict().items()}
    save_file({f"unet.{LINEAR}.{key}": value.contiguous() for key, value in rounded.items()}, tmp_path / "a.safetensors")
    save_file({f"unet.{LINEAR}.{key}": value.float().contiguous() for key, value in rounded.items()}, tmp_path / "b.safetensors")
    got, want = (worn(tiny_cards("sd")[0], tmp_path / f"{name}.safetensors", lora="merge").members[0] for name in "ab")
    check(got, base, {f"{LINEAR}.weight": want.network.get_submodule(LINEAR).weight})


def test_integers_are_refused_by_name(tiny_cards, tmp_path):
    save_file({f"unet.{LINEAR}.lora_A.weight": torch.ones(2, 16, dtype=torch.int8), f"unet.{LINEAR}.lora_B.weight": torch.ones(16, 2)},
              tmp_path / "a.safetensors")  # fmt: skip
    with pytest.raises(ModelError, match="holds numbers of type I8 .*lora_A.weight.*choose a copy in 16-bit or 8-bit floats"):
        worn(tiny_cards("sd")[0], tmp_path / "a.safetensors")


def test_scalar_and_whole_alphas(tiny_cards, tiny_ensemble, tmp_path):
    """LyCORIS' older files keep a trained factor apart; an alpha may be a whole number."""
    base = tiny_ensemble("sd").members[0]
    down, up = torch.randn(2, 16), torch.randn(16, 2)
    save_file({f"unet.{LINEAR}.lora_down.weight": down, f"unet.{LINEAR}.lora_up.weight": up, f"unet.{LINEAR}.alpha": torch.tensor(4),
               f"unet.{LINEAR}.scalar": torch.tensor(0.25)}, tmp_path / "a.safetensors")  # fmt: skip
    member = worn(tiny_cards("sd")[0], tmp_path / "a.safetensors", lora="merge").members[0]
    check(member, base, {f"{LINEAR}.weight": base.network.get_submodule(LINEAR).weight + 0.5 * up @ down})


def test_alphas_under_the_layer_and_factors_under_its_processor(tiny_cards, tiny_ensemble, tmp_path):
    """As diffusers kept them as network_alphas."""
    base, path = tiny_ensemble("sd").members[0], LINEAR.removesuffix(".to_k")
    down, up = torch.randn(2, 16), torch.randn(16, 2)
    save_file({f"unet.{path}.processor.to_k_lora.down.weight": down, f"unet.{path}.processor.to_k_lora.up.weight": up,
               f"unet.{LINEAR}.alpha": torch.tensor(1.0)}, tmp_path / "a.safetensors")  # fmt: skip
    member = worn(tiny_cards("sd")[0], tmp_path / "a.safetensors", lora="merge").members[0]
    check(member, base, {f"{LINEAR}.weight": base.network.get_submodule(LINEAR).weight + 0.5 * up @ down})


def test_text_encoders_take_every_kind(tiny_cards, tiny_ensemble, tmp_path):
    base = tiny_ensemble("sd").members[0]
    path = "text_model.encoder.layers.0.mlp.fc1"
    encoder = base.components["text_encoder"]
    layer = encoder.get_submodule(path if hasattr(encoder, "text_model") else path.removeprefix("text_model."))
    module = filled(LohaModule, layer)
    for stem in ("lora_te_" + path.replace(".", "_"), "clip_l." + path, "text_encoder." + path):
        save_file({f"{stem}.{key}": value.detach() for key, value in module.custom_state_dict().items()}, tmp_path / "a.safetensors")
        ensemble = worn(tiny_cards("sd")[0], tmp_path / "a.safetensors", strength=0.5)
        mine, other = (member.components["text_encoder"].state_dict() for member in ensemble.members)
        (changed,) = [key for key, value in mine.items() if not torch.equal(value, other[key])]
        assert path.removeprefix("text_model.") in changed and ensemble.members[0].network is ensemble.members[1].network
        torch.testing.assert_close(mine[changed], other[changed] + 0.5 * module.get_weight(layer.weight.shape).detach())


@pytest.mark.parametrize("kind", ["loha", "lokr", "full", "locon, Tucker"])
def test_nothing_is_said(tiny_cards, tiny_ensemble, tmp_path, kind):
    base = tiny_ensemble("sd").members[0]
    module = filled(KINDS[kind][0], base.network.get_submodule(CONV), **KINDS[kind][1])
    zero = {key: value if key == "alpha" else torch.zeros_like(value) for key, value in module.custom_state_dict().items()}
    save_file({f"unet.{CONV}.{key}": value.contiguous() for key, value in zero.items()}, tmp_path / "a.safetensors")
    (warning,) = worn(tiny_cards("sd")[0], tmp_path / "a.safetensors", lora="merge").members[0].warnings[:1]
    assert "a.safetensors changes nothing" in warning


def test_a_dora_of_its_bases_own_norms_changes_nothing(tiny_cards, tiny_ensemble, tmp_path):
    weight = tiny_ensemble("sd").members[0].network.get_submodule(LINEAR).weight.detach()
    for size, told in ((weight.norm(dim=1, keepdim=True), True), (2 * weight.norm(dim=1, keepdim=True), False)):
        save_file({f"unet.{LINEAR}.lora_down.weight": torch.zeros(2, 16), f"unet.{LINEAR}.lora_up.weight": torch.zeros(16, 2),
                   f"unet.{LINEAR}.dora_scale": size}, tmp_path / "a.safetensors")  # fmt: skip
        member = worn(tiny_cards("sd")[0], tmp_path / "a.safetensors").members[0]
        gap = (member.network.get_submodule(LINEAR).weight - weight).abs().max()
        assert any("is nothing" in warning for warning in member.warnings) is told and bool(gap < 1e-6) is told


@pytest.mark.parametrize(("key", "shape"), [("dora_scale", (7, 1)), ("dora_scale", (1, 7)), ("magnitude", (7,))])
def test_magnitudes_of_another_layer_are_refused(tiny_cards, tmp_path, key, shape):
    name = {"magnitude": "lora_magnitude_vector"}.get(key, key)
    save_file({f"unet.{LINEAR}.lora_down.weight": torch.ones(2, 16), f"unet.{LINEAR}.lora_up.weight": torch.ones(16, 2),
               f"unet.{LINEAR}.{name}": torch.ones(shape)}, tmp_path / "a.safetensors")  # fmt: skip
    with pytest.raises(ModelError, match="does not fit its base"):
        worn(tiny_cards("sd")[0], tmp_path / "a.safetensors")


def test_half_of_a_factor_is_named(tiny_cards, tiny_ensemble, tmp_path):
    module = filled(LohaModule, tiny_ensemble("sd").members[0].network.get_submodule(LINEAR))
    whole = {f"unet.{LINEAR}.{key}": value.detach() for key, value in module.custom_state_dict().items()}
    for left_out in ("hada_w1_a", "hada_w2_b"):
        save_file({key: value for key, value in whole.items() if left_out not in key}, tmp_path / "a.safetensors")
        with pytest.raises(ModelError, match=f"lacks a half of unet.{LINEAR}"):
            worn(tiny_cards("sd")[0], tmp_path / "a.safetensors")
    assert load_file(tmp_path / "a.safetensors")
