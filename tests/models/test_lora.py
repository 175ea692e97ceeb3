"""LoRA files as people have them: names of every trainer, scales, text encoders; and nothing passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fusion.sampler import fused
from models.errors import ModelError
from models.loading import load_ensemble
from tests.conftest import SIZE, tiny_card

TRANSFORMER = "attentions.{}.transformer_blocks.0."
UNET = {  # kohya's names, which are diffusers' with underscores on SD 1 and 2
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q": "down_blocks.1." + TRANSFORMER.format(0) + "attn1.to_q",
    "lora_unet_up_blocks_0_attentions_1_transformer_blocks_0_attn2_to_out_0": "up_blocks.0." + TRANSFORMER.format(1) + "attn2.to_out.0",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj": "mid_block." + TRANSFORMER.format(0) + "ff.net.0.proj",
    "lora_unet_mid_block_attentions_0_proj_in": "mid_block.attentions.0.proj_in",  # a convolution of 1 x 1
}
CONVOLUTIONS = {"lora_unet_down_blocks_0_resnets_0_conv1": "down_blocks.0.resnets.0.conv1",
                "lora_unet_down_blocks_0_downsamplers_0_conv": "down_blocks.0.downsamplers.0.conv",
                "lora_unet_up_blocks_1_resnets_1_conv_shortcut": "up_blocks.1.resnets.1.conv_shortcut",
                "lora_unet_up_blocks_0_resnets_0_time_emb_proj": "up_blocks.0.resnets.0.time_emb_proj",
                "lora_unet_conv_in": "conv_in", "lora_unet_time_embedding_linear_1": "time_embedding.linear_1"}  # fmt: skip
SGM = {  # SDXL: the names of the original U-Net
    "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q": "down_blocks.1." + TRANSFORMER.format(0) + "attn1.to_q",
    "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v": "mid_block." + TRANSFORMER.format(0) + "attn2.to_v",
    "lora_unet_output_blocks_1_1_transformer_blocks_0_ff_net_2": "up_blocks.0." + TRANSFORMER.format(1) + "ff.net.2",
    "lora_unet_input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
    "lora_unet_input_blocks_2_0_op": "down_blocks.0.downsamplers.0.conv",
    "lora_unet_output_blocks_1_2_conv": "up_blocks.0.upsamplers.0.conv",
    "lora_unet_output_blocks_3_0_skip_connection": "up_blocks.1.resnets.1.conv_shortcut",
    "lora_unet_middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
    "lora_unet_output_blocks_2_0_emb_layers_1": "up_blocks.1.resnets.0.time_emb_proj",
    "lora_unet_label_emb_0_0": "add_embedding.linear_1",
    "lora_unet_time_embed_2": "time_embedding.linear_2",
    "lora_unet_input_blocks_0_0": "conv_in",
    "lora_unet_out_2": "conv_out",
}
FLUX = {
    "lora_unet_double_blocks_0_img_attn_qkv": [f"transformer_blocks.0.attn.to_{x}" for x in "qkv"],
    "lora_unet_double_blocks_0_txt_attn_qkv": [f"transformer_blocks.0.attn.add_{x}_proj" for x in "qkv"],
    "lora_unet_double_blocks_0_img_mod_lin": ["transformer_blocks.0.norm1.linear"],
    "lora_unet_double_blocks_0_txt_mlp_2": ["transformer_blocks.0.ff_context.net.2"],
    "lora_unet_single_blocks_0_linear1": [
        *(f"single_transformer_blocks.0.attn.to_{x}" for x in "qkv"),
        "single_transformer_blocks.0.proj_mlp",
    ],
    "lora_unet_single_blocks_0_linear2": ["single_transformer_blocks.0.proj_out"],
    "lora_unet_guidance_in_in_layer": ["time_text_embed.guidance_embedder.linear_1"],
    "lora_unet_final_layer_linear": ["proj_out"],
}
SD3 = {
    "lora_unet_joint_blocks_0_x_block_attn_qkv": [f"transformer_blocks.0.attn.to_{x}" for x in "qkv"],
    "lora_unet_joint_blocks_1_context_block_attn_qkv": [f"transformer_blocks.1.attn.add_{x}_proj" for x in "qkv"],
    "lora_unet_joint_blocks_0_context_block_attn_proj": ["transformer_blocks.0.attn.to_add_out"],
    "lora_unet_joint_blocks_1_x_block_mlp_fc1": ["transformer_blocks.1.ff.net.0.proj"],
    "lora_unet_joint_blocks_0_x_block_adaLN_modulation_1": ["transformer_blocks.0.norm1.linear"],
    "lora_unet_y_embedder_mlp_0": ["time_text_embed.text_embedder.linear_1"],
}


def kohya(folder: Path, shapes: dict[str, tuple[int, ...]], rank: int = 3, alpha: float | None = 1.5, dtype=torch.float32, **more) -> Path:
    """A file with `{name: shape of the weight it changes}`, in the form of kohya's scripts."""
    tensors = {}
    for name, (rows, columns, *kernel) in shapes.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, columns, *kernel, dtype=dtype)
        tensors[f"{name}.lora_up.weight"] = torch.randn(rows, rank, *[1 for _ in kernel], dtype=dtype)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({**tensors, **more}, folder / "kohya.safetensors", metadata={"ss_network_module": "networks.lora"})
    return folder / "kohya.safetensors"


def shape_of(network, paths) -> tuple[int, ...]:
    weights = [network.get_submodule(path).weight for path in ([paths] if isinstance(paths, str) else paths)]
    return (sum(len(weight) for weight in weights), *weights[0].shape[1:])


def change(file: Path, name: str) -> torch.Tensor:
    """`alpha / rank * up @ down` of one layer, as its definition says."""
    tensors = load_file(file)
    down, up = (tensors[f"{name}.lora_{half}.weight"].double() for half in ("down", "up"))
    scale = float(tensors[f"{name}.alpha"]) / len(down) if f"{name}.alpha" in tensors else 1.0
    return scale * (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])


def merged(card, adapter: Path, **more):
    return load_ensemble([tiny_card(card.family, Path(card.source), id="m", title="m", adapter=str(adapter), **more)], device="cpu",
                         lora="merge", size=SIZE.get(card.family)).members[0]  # fmt: skip


def check_weights(member, base, file: Path, names: dict, slot: str) -> None:
    """Every layer named changed by exactly its change, every other as it was."""
    network, plain = member.network, base.network.state_dict()
    expected = {}
    for name, paths in names.items():
        paths = [paths] if isinstance(paths, str) else paths
        rows = [len(plain[f"{path}.weight"]) for path in paths]
        for path, part in zip(paths, change(file, name).split(rows)):
            expected[f"{path}.weight"] = plain[f"{path}.weight"].double() + part.reshape(plain[f"{path}.weight"].shape)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value.double(), expected.get(key, plain[key].double()), atol=1e-5, rtol=1e-5)
    assert expected and all(not torch.equal(plain[key].double(), value) for key, value in expected.items())


# ------------------------------------------------------------------------------------------------ names and scales


@pytest.mark.parametrize(("kind", "names"), [("sd", {**UNET, **CONVOLUTIONS}), ("sd2", {k: v for k, v in UNET.items()}), ("sdxl", SGM),
                                             ("flux", FLUX), ("sd3", SD3), ("sd35", SD3)])  # fmt: skip
@pytest.mark.parametrize("alpha", [None, 1.5])
def test_kohya_files_change_the_layers_they_name(tiny_cards, tiny_ensemble, tmp_path, kind, names, alpha):
    base = tiny_ensemble(kind).members[0]
    torch.manual_seed(1)
    file = kohya(tmp_path, {name: shape_of(base.network, paths) for name, paths in names.items()}, alpha=alpha)
    member = merged(tiny_cards(kind)[0], file)
    check_weights(member, base, file, names, tiny_ensemble(kind).family.slot)
    assert member.warnings == ()


def test_modulation_of_the_last_norm_changes_places(tiny_cards, tiny_ensemble, tmp_path):
    """The original code shifts and then scales, diffusers scales and then shifts: the halves of these layers are exchanged."""
    base = tiny_ensemble("flux").members[0].network
    file = kohya(tmp_path, {"lora_unet_final_layer_adaLN_modulation_1": shape_of(base, "norm_out.linear")})
    got = merged(tiny_cards("flux")[0], file).network.norm_out.linear.weight
    shift, scale = change(file, "lora_unet_final_layer_adaLN_modulation_1").chunk(2)
    torch.testing.assert_close(got.double(), base.norm_out.linear.weight.double() + torch.cat([scale, shift]), atol=1e-5, rtol=1e-5)


def test_ranks_and_alphas_of_their_own(tiny_cards, tiny_ensemble, tmp_path):
    base = tiny_ensemble("sd").members[0]
    tensors = {}
    for number, (name, path) in enumerate({**UNET, **CONVOLUTIONS}.items()):
        part = kohya(tmp_path / str(number), {name: shape_of(base.network, path)}, rank=number + 1, alpha=1.0 + number / 2)
        tensors |= load_file(part)
    save_file(tensors, tmp_path / "all.safetensors")
    for lora in ("merge", "switch"):
        card = tiny_card("sd", Path(tiny_cards("sd")[0].source), id="m", title="m", adapter=str(tmp_path / "all.safetensors"))
        member = load_ensemble([card], device="cpu", lora=lora).members[0]
        if lora == "merge":
            check_weights(member, base, tmp_path / "all.safetensors", {**UNET, **CONVOLUTIONS}, "unet")
            by_merge = member
    x, t, words = torch.randn(2, 4, 8, 8), torch.tensor([5.0, 900.0]), torch.randn(2, 16, 16)
    torch.testing.assert_close(member(x, t, words), by_merge(x, t, words), atol=1e-4, rtol=1e-4)


def test_half_precision_files(tiny_cards, tiny_ensemble, tmp_path):
    base = tiny_ensemble("sd").members[0]
    file = kohya(tmp_path, {name: shape_of(base.network, path) for name, path in UNET.items()}, dtype=torch.float16, alpha=1.0)
    check_weights(merged(tiny_cards("sd")[0], file), base, file, UNET, "unet")


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_as_diffusers_reads_the_same_file(tiny_cards, tiny_ensemble, tmp_path, kind):
    """With one alpha for all layers and no attention of text encoders: these are what diffusers 0.42 handles, the rest it loses."""
    base = tiny_ensemble(kind).members[0]
    shapes = {name: shape_of(base.network, path) for name, path in (SGM if kind == "sdxl" else UNET).items()}
    encoders = {"te1": "text_encoder", "te2": "text_encoder_2"} if kind == "sdxl" else {"te": "text_encoder"}
    for short in encoders:
        layer = f"lora_{short}_text_model_encoder_layers_"
        shapes |= {layer + "1_mlp_fc2": (16, 32), layer + "0_mlp_fc1": (32, 16)}
    file = kohya(tmp_path, shapes, rank=4, alpha=2.0)
    cls = diffusers.StableDiffusionXLPipeline if kind == "sdxl" else diffusers.StableDiffusionPipeline
    pipe = cls.from_pretrained(tiny_cards(kind)[0].source, **({} if kind == "sdxl" else {"requires_safety_checker": False}))
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    draw = lambda p: (
        p("a cat", num_inference_steps=2, guidance_scale=3.0, output_type="np", generator=torch.Generator().manual_seed(0)).images
    )
    card = tiny_card(kind, Path(tiny_cards(kind)[0].source), id="m", title="m", adapter=str(file))
    ensemble = load_ensemble([card, tiny_cards(kind)[0]], device="cpu", lora="switch")
    with fused(ensemble, [1, 0]) as ours:
        np.testing.assert_allclose(draw(ours), draw(pipe), atol=2e-5)
    pipe.unload_lora_weights()
    with fused(ensemble, [0, 1]) as ours:  # the base beside it hears and sees as if there were no adapter
        np.testing.assert_allclose(draw(ours), draw(pipe), atol=2e-5)
    for part in encoders.values():
        assert ensemble.members[0].components[part] is not ensemble.members[1].components[part]


@pytest.mark.parametrize("kind", ["sd", "sdxl", "flux", "sd3"])
def test_attention_of_text_encoders(tiny_cards, tiny_ensemble, tmp_path, kind):
    """What each encoder says with its change, worked out on its own weights."""
    base, name = tiny_ensemble(kind).members[0], "lora_te{}_text_model_encoder_layers_0_self_attn_k_proj"
    changed = {"text_encoder": name.format("" if kind == "sd" else 1)}
    if kind == "sdxl":
        changed["text_encoder_2"] = name.format(2)
    if kind in ("flux", "sd3"):
        changed["text_encoder_2" if kind == "flux" else "text_encoder_3"] = "lora_te3_encoder_block_0_layer_0_SelfAttention_q"
    places = {part: _layer(base.components[part], key) for part, key in changed.items()}
    file = kohya(tmp_path, {key: tuple(places[part].weight.shape) for part, key in changed.items()})
    card = tiny_card(kind, Path(tiny_cards(kind)[0].source), id="m", title="m", adapter=str(file))
    ensemble = load_ensemble([card, tiny_cards(kind)[0]], device="cpu", lora="switch", size=SIZE.get(kind))
    member, ids = ensemble.members[0], torch.tensor([[0, 5, 6, 1]])
    for part, key in changed.items():
        weight, plain = places[part].weight, base.components[part]
        with torch.no_grad():
            before, kept = plain(ids)[0].clone(), weight.clone()
            weight += change(file, key).float()
            expected = plain(ids)[0].clone()
            weight.copy_(kept)
            torch.testing.assert_close(member.components[part](ids)[0], expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(before, expected, atol=1e-3)
    assert member.adapter is None and "changes text encoders only" in member.warnings[0]
    x, level = torch.randn(1, *ensemble.shape), torch.tensor([0.5])
    both = ensemble.predictor(["a cat"])(x, level)
    assert not torch.allclose(both[0], both[1], atol=1e-6)  # one network, two ways of hearing
    assert ensemble.warnings == (f"m: {member.warnings[0]}",)


def _layer(encoder, key: str):
    """The layer of an encoder that a name of kohya's means."""
    if "SelfAttention" in key:
        return encoder.encoder.block[0].layer[0].SelfAttention.q
    return getattr(encoder, "text_model", encoder).encoder.layers[0].self_attn.k_proj


FORMS = {"peft": ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight"),
         "named": ("{}.lora_A.default.weight", "{}.lora_B.default.weight"),
         "plain": ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"),
         "trainer": ("transformer.{}.lora_down.weight", "transformer.{}.lora_up.weight")}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_peft_with_the_configuration_beside_the_file(tiny_cards, tiny_ensemble, tmp_path, form):
    """PixArt has no loader of its own in diffusers. alpha is in adapter_config.json, one layer has its own."""
    base = tiny_ensemble("pixart").members[0].network
    layers = ["transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn2.to_v", "proj_out"]
    down, up = (dict(zip(layers, [torch.randn(2, 16), torch.randn(2, 16), torch.randn(2, 16)])),
                {path: torch.randn(len(base.get_submodule(path).weight), 2) for path in layers})  # fmt: skip
    tensors = {FORMS[form][0].format(path): down[path] for path in layers} | {FORMS[form][1].format(path): up[path] for path in layers}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 6, "alpha_pattern": {"attn2.to_v": 1}}))
    member = merged(tiny_cards("pixart")[0], tmp_path)
    got = member.network
    for path, scale in zip(layers, (3, 0.5, 3)):
        torch.testing.assert_close(
            got.get_submodule(path).weight, base.get_submodule(path).weight + scale * up[path] @ down[path], atol=1e-5, rtol=1e-5
        )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6, "use_rslora": True}))
    got = merged(tiny_cards("pixart")[0], tmp_path).network.proj_out.weight
    torch.testing.assert_close(got, base.proj_out.weight + 6 / 2**0.5 * up["proj_out"] @ down["proj_out"], atol=1e-5, rtol=1e-5)
    switched = load_ensemble([member.card, tiny_cards("pixart")[0]], device="cpu", lora="switch")
    once, again = (switched.predictor(["a cat"])(torch.ones(1, 4, 8, 8), torch.zeros(1)) for _ in range(2))
    assert torch.equal(once, again) and not torch.allclose(once[0], once[1], atol=1e-3)  # one network, switched back and forth
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="configuration cannot be read"):
        merged(tiny_cards("pixart")[0], tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"use_dora": True}))
    with pytest.raises(ModelError, match="'m' is a DoRA"):
        merged(tiny_cards("pixart")[0], tmp_path)


def test_scales_inside_a_diffusers_file(tiny_cards, tiny_ensemble, tmp_path):
    base = tiny_ensemble("sd").members[0].network
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    down, up = torch.randn(2, 16), torch.randn(16, 2)
    note = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 5, "text_encoder.lora_alpha": 9})}
    save_file({f"unet.{path}.lora_A.weight": down, f"unet.{path}.lora_B.weight": up}, tmp_path / "x.safetensors", metadata=note)
    got = merged(tiny_cards("sd")[0], tmp_path / "x.safetensors").network.get_submodule(path).weight
    torch.testing.assert_close(got, base.get_submodule(path).weight + 2.5 * up @ down, atol=1e-5, rtol=1e-5)


def test_names_of_diffusers_before_peft(tiny_cards, tiny_ensemble, tmp_path):
    base = tiny_ensemble("sd").members[0]
    block = "mid_block.attentions.0.transformer_blocks.0.attn1"
    tensors = {}
    for half, (rows, columns) in (("down", (2, 16)), ("up", (16, 2))):
        tensors |= {f"unet.{block}.processor.{name}_lora.{half}.weight": torch.randn(rows, columns) for name in ("to_q", "to_out")}
        tensors[f"text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.{half}.weight"] = torch.randn(rows, columns)
        tensors[f"text_encoder.text_model.encoder.layers.0.mlp.fc2.lora_linear_layer.{half}.weight"] = torch.randn(
            *((2, 32) if half == "down" else (16, 2))
        )
    save_file(tensors, tmp_path / "old.safetensors")
    member = merged(tiny_cards("sd")[0], tmp_path / "old.safetensors")
    for name, path in (("to_q", "to_q"), ("to_out", "to_out.0")):
        down, up = (tensors[f"unet.{block}.processor.{name}_lora.{half}.weight"] for half in ("down", "up"))
        plain = base.network.get_submodule(f"{block}.{path}").weight
        torch.testing.assert_close(member.network.get_submodule(f"{block}.{path}").weight, plain + up @ down, atol=1e-5, rtol=1e-5)
    changed = [name for name, _ in member.components["text_encoder"].named_parameters() if "lora_A" in name]
    assert len(changed) == 2 and any("out_proj" in name for name in changed) and any("fc2" in name for name in changed)


def test_names_of_comfy(tiny_cards, tiny_ensemble, tmp_path):
    base, names = tiny_ensemble("flux").members[0], {}
    for name, paths in FLUX.items():
        dotted = (
            name.removeprefix("lora_unet_")
            .replace("_blocks_0_", "_blocks.0.")
            .replace("_attn_qkv", "_attn.qkv")
            .replace("_mod_lin", "_mod.lin")
        )
        names[
            "diffusion_model."
            + dotted.replace("mlp_2", "mlp.2").replace("_in_in_layer", "_in.in_layer").replace("layer_linear", "layer.linear")
        ] = paths
    file = kohya(tmp_path, {name: shape_of(base.network, paths) for name, paths in names.items()})
    check_weights(merged(tiny_cards("flux")[0], file), base, file, names, "transformer")


# ------------------------------------------------------------------------------------------------ nothing in silence


def one_layer(tmp_path, network, **more) -> Path:
    name, path = next(iter(UNET.items()))
    return kohya(tmp_path, {name: shape_of(network, path)}, **more)


@pytest.mark.parametrize(("key", "tensor", "message"), [
    ("lora_unet_conv_in.dora_scale", torch.ones(8, 1), "lacks a half of lora_unet_conv_in"),
    ("lora_unet_conv_in.hada_w1_a", torch.ones(2, 2), "lacks a half"), ("lora_unet_conv_in.lokr_w1", torch.ones(2, 2), "lacks a half"),
    ("lora_unet_conv_in.lora_mid.weight", torch.ones(3, 3), "lacks a half"),
    ("unet.conv_in.lora_magnitude_vector", torch.ones(8), "lacks a half"),
    ("lora_unet_conv_in.oft_blocks", torch.ones(2, 2), "holds OFT"), ("lora_unet_conv_in.on_input", torch.ones(1), "holds IA3"),
    ("lora_unet_conv_in.a1.weight", torch.ones(2, 2), "holds GLoRA"), ("lora_unet_conv_in.b2.weight", torch.ones(2, 2), "holds GLoRA"),
    ("unet.conv_in.vera_lambda_b", torch.ones(8), "holds VeRA"), ("unet.conv_in.bias", torch.ones(8), "holds biases"),
    ("something.else", torch.ones(8), "holds no LoRA weights .something"),
    ("lora_unet_conv_in.lora_down.weight", torch.ones(3, 4, 3, 3), "lacks a half of lora_unet_conv_in"),
    ("lora_unet_conv_in.alpha", torch.tensor(1.0), "lacks a half of lora_unet_conv_in"),
])  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name(tiny_cards, tiny_ensemble, tmp_path, key, tensor, message):
    file = one_layer(tmp_path, tiny_ensemble("sd").members[0].network, **{key: tensor})
    with pytest.raises(ModelError, match=f"'m': kohya.safetensors .*{message}"):
        merged(tiny_cards("sd")[0], file)


def test_layers_that_the_model_lacks_are_named(tiny_cards, tiny_ensemble, tmp_path):
    network = tiny_ensemble("sd").members[0].network
    other = {f"lora_unet_down_blocks_{i}_attentions_9_transformer_blocks_0_attn1_to_q": (16, 16) for i in range(6)}
    file = kohya(tmp_path, {next(iter(UNET)): shape_of(network, next(iter(UNET.values()))), **other})
    with pytest.raises(
        ModelError, match=r"does not fit its base \(6 of its 7 layers are not in this model: lora_unet_down_blocks_0_.*\.\.\."
    ):
        merged(tiny_cards("sd")[0], file)
    for name in (
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        "lora_te_text_model_encoder_layers_7_mlp_fc1",
        "lora_unet_input_blocks_1_1_proj_in",
    ):
        with pytest.raises(ModelError, match=f"not in this model: {name}"):
            merged(tiny_cards("sd")[0], kohya(tmp_path, {name: (32, 16)}))


def test_layers_of_other_shapes(tiny_cards, tmp_path):
    name = next(iter(UNET))
    for shape in ((16, 24), (24, 16), (16, 16, 3, 3)):
        with pytest.raises(ModelError, match="the adapter does not fit its base .layer lora_unet_down_blocks_1"):
            merged(tiny_cards("sd")[0], kohya(tmp_path, {name: shape}))


def test_one_layer_under_two_names(tiny_cards, tiny_ensemble, tmp_path):
    name, path = next(iter(UNET.items()))
    shape = shape_of(tiny_ensemble("sd").members[0].network, path)
    with pytest.raises(ModelError, match=f"changes the layer {path} twice"):
        merged(tiny_cards("sd")[0], kohya(tmp_path, {name: shape, f"unet.{path}": shape}))


def test_what_changes_nothing_is_a_warning(tiny_cards, tiny_ensemble, tmp_path):
    base = tiny_ensemble("sd").members[0]
    zero = {"lora_unet_nowhere.lora_down.weight": torch.zeros(3, 4), "lora_unet_nowhere.lora_up.weight": torch.zeros(4, 3),
            "lora_te_text_model_embeddings_position_embedding.diff": torch.zeros(4, 4),
            "bundle_emb.mycat.string_to_param.*": torch.ones(2, 24)}  # fmt: skip
    file = one_layer(tmp_path, base.network, **zero)
    member = merged(tiny_cards("sd")[0], file)
    check_weights(member, base, file, dict([next(iter(UNET.items()))]), "unet")
    for told in (
        "no text encoder here can take them: mycat",
        "1 changes that are zero (lora_te_text_model_embeddings",
        "lora_unet_nowhere, which this model lacks",
    ):
        assert sum(told in warning for warning in member.warnings) == 1, told
    assert len(member.warnings) == 3


def test_a_layer_that_the_libraries_below_lose_is_noticed(tiny_cards, tiny_ensemble, tmp_path, monkeypatch):
    from diffusers.loaders.peft import PeftAdapterMixin

    whole = PeftAdapterMixin.load_lora_adapter
    monkeypatch.setattr(
        PeftAdapterMixin, "load_lora_adapter", lambda self, state, **more: whole(self, dict(list(state.items())[:2]), **more)
    )
    file = kohya(tmp_path, {name: shape_of(tiny_ensemble("sd").members[0].network, path) for name, path in UNET.items()})
    with pytest.raises(ModelError, match="layer .* could not be put into the model"):
        merged(tiny_cards("sd")[0], file)
