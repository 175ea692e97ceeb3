"""Pictures of other programs: what is read from them, what is named, and that nothing a stranger writes raises but our own error."""

from __future__ import annotations

import json
import shlex
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fusion import foreign, infotext
from fusion.foreign import Foreign, ForeignRecipe
from fusion.recipe import Recipe, RecipeError

TEXT = """masterpiece, (a lighthouse:1.2) at dusk, <lora:film_grain:0.8>, storm
BREAK waves
Negative prompt: blurred,
two heads <lora:bad-hands:1>
Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 3141592653, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned, VAE hash: 735e4c3a44, VAE: vae-ft.safetensors, Clip skip: 2, Variation seed: 5, Variation seed strength: 0.1, \
ControlNet 0: "Module: canny, Model: control_v11p, Weight: 1", Denoising strength: 0.4, Hires upscale: 2, Hires upscaler: Latent, \
Lora hashes: "film_grain: ab12, bad-hands: cd34", \
ADetailer model: face_yolov8n.pt, ADetailer prompt: "a face, \\"old\\"", Version: v1.9.4"""
COMFY = {"3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20, "cfg": 8.0}}}
NOVELAI = {"prompt": "1girl, {smile}", "uc": "lowres", "steps": 28, "scale": 5.0, "seed": 1234567890, "sampler": "k_euler_ancestral",
           "width": 832, "height": 1216, "v4_prompt": {"caption": {"base_caption": "x", "char_captions": []}}}  # fmt: skip
INVOKE = {"positive_prompt": "a fox", "negative_prompt": "snow", "width": 1024, "height": 768, "seed": 77, "cfg_scale": 7, "steps": 30,
          "scheduler": "dpmpp_2m_k", "clip_skip": 1, "model": {"name": "Dreamshaper", "hash": "x"},
          "loras": [{"model": {"name": "ink"}, "weight": 0.7}], "controlnets": []}  # fmt: skip
OLD_INVOKE = {"model_weights": "sd-1.4", "image": {"prompt": [{"prompt": "a hill [fog]", "weight": 1.0}], "steps": 50, "cfg_scale": 7.5,
                                                   "seed": 9, "width": 512, "height": 512, "sampler": "k_lms"}}  # fmt: skip


def png(path, kind="tEXt", **texts):
    """A PNG with these text chunks, of the wished kind."""
    info = PngInfo()
    for key, text in texts.items():
        if kind == "iTXt":
            info.add_itxt(key, text)
        else:
            info.add_text(key, text, zip=kind == "zTXt")
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def with_comment(path, comment: bytes):
    """A picture whose EXIF has a UserComment."""
    tags = Image.Exif()
    tags.get_ifd(foreign.EXIF)[foreign.USER_COMMENT] = comment
    Image.new("RGB", (16, 16)).save(path, exif=tags.tobytes())
    return path


def test_a_web_uis_text_is_read_and_what_has_no_place_is_named():
    found = foreign.of({"parameters": TEXT})
    assert found == Foreign(
        "A1111", "masterpiece, (a lighthouse:1.2) at dusk, storm BREAK waves", "blurred, two heads", 3141592653, 28, 6.5, (512, 768), 2,
        (("sampler", "DPM++ 2M (Karras)"), ("model", "v1-5-pruned"), ("hires", ""), ("vae", "vae-ft.safetensors"), ("variation", ""),
         ("controlnet", ""), ("other", "adetailer"), ("other", "adetailer prompt"), ("lora", "film_grain:0.8"), ("lora", "bad-hands:1")),
    )  # fmt: skip
    assert found.left_words.startswith("sampler DPM++ 2M (Karras), model v1-5-pruned, Hires fix, VAE vae-ft.safetensors, vari")


@pytest.mark.parametrize(("text", "expected"), [
    ("a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512", ("a cat", "", 20, 7.0, 1, None)),
    ("Negative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 0", ("", "dog", 20, 7.0, 0, None)),
    ("a cat\nSteps: 5, Seed: 2, CFG scale: 1\nTemplate: a {cat|dog}\nNegative Template: x", ("a cat", "", 5, 1.0, 2, None)),
    ("Steps: to heaven, a stair\nSteps: 5, Seed: 2, CFG scale: 1", ("Steps: to heaven, a stair", "", 5, 1.0, 2, None)),
    ("a cat\nSteps: 4, CFG scale: 1, Seed: 2, Distilled CFG Scale: 3.5, Version: f2.0.1", ("a cat", "", 4, 3.5, 2, None)),
    ("a cat\r\nSteps: 20, CFG scale: 7.0, Seed: 4294967296, Clip skip: 1", ("a cat", "", 20, 7.0, 4294967296, None)),
    ("a cat\nSteps: 20000, CFG scale: nan, Seed: -1, Clip skip: 99", ("a cat", "", None, None, None, None)),
    ('a\nSteps: 3, Sampler: x, Seed: 1, Civitai resources: [{"type": "lora", "weight": 1}, {"a": [1, 2]}], CFG scale: 4',
     ("a", "", 3, 4.0, 1, None)),
    ('a\nSteps: 3, Sampler: "x, Seed: 1, CFG scale: 4', ("a", "", 3, 4.0, 1, None)),
])  # fmt: skip
def test_texts_of_all_kinds(text, expected):
    found = foreign.of_infotext(text)
    assert (found.prompt, found.negative, found.steps, found.guidance, found.seed, found.clip_skip) == expected


def test_numbers_that_nothing_is_drawn_with_are_named():
    found = foreign.of_infotext("a cat\nSteps: 20000, CFG scale: nan, Seed: -1, Clip skip: 99, Size: 9x99999")
    assert [name for kind, name in found.left if kind == "range"] == [
        "seed -1", "steps 20000", "guidance nan", "clip skip 99", "size 9x99999"]  # fmt: skip
    long = foreign.of_infotext(f"{'cat ' * 1500}\nSteps: 20, CFG scale: 7, Seed: 1")
    assert len(long.prompt) == 4000 and ("prompt", "4000") in long.left


@pytest.mark.parametrize("text", ["", "a cat", "a cat\nNegative prompt: dog", "Steps: 20", "a: b, c: d, e: f", "\n\n", "Kodak, x: 1"])
def test_what_is_no_text_of_a_web_ui_is_left_alone(text):
    assert foreign.of_infotext(text) is None


@pytest.mark.parametrize(("text", "expected"), [
    ("a cat", ("a cat", [])), ("<lora:x:1>", ("", ["x:1"])), ("a <LoRA:x:1> cat", ("a cat", ["x:1"])),
    ("a, <lora:x:1>, <lyco:y:0.5>, b", ("a, b", ["x:1", "y:0.5"])), ("a, <lora:x:1>", ("a", ["x:1"])),
    ("<lora:x:1>, a", ("a", ["x:1"])), ("a <lora:x:1><lora:x:1>", ("a", ["x:1"])), ("a < b <lora:>", ("a < b <lora:>", [])),
])  # fmt: skip
def test_loras_are_taken_out_of_a_prompt(text, expected):
    assert infotext.without_networks(text) == expected


@pytest.mark.parametrize("kind", ["tEXt", "iTXt", "zTXt"])
def test_every_kind_of_text_in_a_png(tmp_path, kind):
    assert foreign.read(png(tmp_path / "a.png", kind, parameters=TEXT)).seed == 3141592653


@pytest.mark.parametrize("ending", ["jpg", "webp", "avif"])
@pytest.mark.parametrize("comment", [
    b"UNICODE\0" + TEXT.encode("utf-16-be"), b"UNICODE\0" + TEXT.encode("utf-16-le"), b"UNICODE\0" + TEXT.encode("utf-16"),
    b"ASCII\0\0\0" + TEXT.encode(), TEXT.encode(), b"UNICODE\0" + TEXT.encode(),
    b"UNICODE\0" + TEXT.replace("waves", "海" * 60).encode("utf-16-be"),
])  # fmt: skip
def test_the_comment_of_a_photo(tmp_path, ending, comment):
    found = foreign.read(with_comment(tmp_path / f"a.{ending}", comment))
    assert found.prompt.startswith("masterpiece, (a lighthouse:1.2) at dusk") and found.guidance == 6.5
    with pytest.raises(ForeignRecipe, match="settings of A1111"):
        Recipe.load(tmp_path / f"a.{ending}")


def test_pictures_of_other_programs_are_known(tmp_path):
    with pytest.raises(ForeignRecipe, match="by ComfyUI and holds a graph .* open it in ComfyUI and copy"):
        foreign.read(png(tmp_path / "c.png", prompt=json.dumps(COMFY), workflow="{}"))
    tags = Image.Exif()
    tags[foreign.CAMERA_MODEL] = "prompt:" + json.dumps(COMFY)
    Image.new("RGB", (16, 16)).save(tmp_path / "c.webp", exif=tags)
    with pytest.raises(ForeignRecipe, match="ComfyUI"):
        Recipe.load(tmp_path / "c.webp")
    found = foreign.read(png(tmp_path / "n.png", Software="NovelAI", Comment=json.dumps(NOVELAI), Description="1girl"))
    assert found == Foreign("NovelAI", "1girl, {smile}", "lowres", 1234567890, 28, 5.0, (832, 1216), None,
                            (("sampler", "k_euler_ancestral"), ("other", "{}")))  # fmt: skip
    found = foreign.read(png(tmp_path / "i.png", invokeai_metadata=json.dumps(INVOKE), invokeai_graph="{}"))
    assert found == Foreign("InvokeAI", "a fox", "snow", 77, 30, 7.0, (1024, 768), 2,
                            (("sampler", "dpmpp_2m_k"), ("model", "Dreamshaper"), ("lora", "ink")))  # fmt: skip
    found = foreign.of({"sd-metadata": json.dumps(OLD_INVOKE)})
    assert (found.prompt, found.negative, found.seed, found.clip_skip) == ("a hill", "fog", 9, None)
    for texts in ({"Software": "NovelAI", "Comment": "{"}, {"invokeai_metadata": "[]"}, {"invokeai_workflow": "{}"}):
        with pytest.raises(ForeignRecipe, match=": open it in"):
            foreign.of(texts)
    fooocus = {"prompt": "a", "negative_prompt": "b", "seed": "12", "steps": 30, "guidance_scale": 4, "base_model": "jx", "clip_skip": 2}
    assert foreign.of({"parameters": json.dumps(fooocus)}).seed == 12
    swarm = {"sui_image_params": {"prompt": "a", "seed": 3, "steps": 20, "cfgscale": 7.0, "model": "x", "width": 64, "height": 64}}
    assert foreign.of({"parameters": json.dumps(swarm)}).guidance == 7.0
    assert foreign.of({"parameters": "{}"}) is None and foreign.of({}) is None


def test_a_recipe_of_here_says_what_the_picture_says_ready_to_copy(tmp_path):
    with pytest.raises(ForeignRecipe) as caught:
        Recipe.load(png(tmp_path / "a.png", parameters=TEXT.replace("at dusk", "at 'dusk'")))
    sentence = str(caught.value)
    flags = shlex.split(sentence.split("--count 1 ")[1].split(". What it says besides")[0])
    assert flags == ["--prompt", "masterpiece, (a lighthouse:1.2) at 'dusk', storm BREAK waves", "--negative", "blurred, two heads",
                     "--seed", "3141592653", "--steps", "28", "--guidance", "6.5", "--clip-skip", "2", "--width", "512", "--height", "768"]
    assert sentence.startswith("this picture holds settings of A1111 and names no model") and "film_grain:0.8" in sentence


def test_what_models_do_not_take_is_named():
    from models.families import FAMILIES

    found = Foreign("A1111", "a cat", "a dog", clip_skip=3)
    assert found.for_families([FAMILIES["sd"]]) == found == found.for_families([])
    assert found.for_families([FAMILIES["sdxl"]]) == Foreign("A1111", "a cat", "a dog", left=(("clip_skip", "3"),))
    assert found.for_families([FAMILIES["flux"]]) == Foreign("A1111", "a cat", left=(("negative", ""), ("clip_skip", "3")))
    assert Foreign("A1111", clip_skip=2).for_families([FAMILIES["sdxl"]]) == Foreign("A1111")  # its own layer


def test_a_picture_whose_texts_are_too_large_says_so(tmp_path):
    with pytest.raises(RecipeError, match="texts in this picture are larger than what is read: copy"):
        Recipe.load(png(tmp_path / "a.png", "zTXt", workflow="{" + "x" * 2_000_000))


def test_hostile_texts_are_quick_and_raise_our_own_error_only():
    start = time.monotonic()
    for text in ("<lora:" * 30_000, "<lora:a:1>b" * 15_000, 'a:["x:",' * 20_000, 'a:"b:' * 30_000, "[" * 150_000, "a:[" * 60_000,
                 ", :" * 60_000, "Negative prompt:" * 9000, "\n" * 150_000, " " * 150_000, '"' * 150_000, "Steps:\n" * 25_000):  # fmt: skip
        for whole in (text, f"{text}\nSteps: 1, Seed: 1, Sampler: x", f"Steps: 1, Seed: 1, Sampler: x, {text}"):
            foreign.of({"parameters": whole})
    assert time.monotonic() - start < 10
    for key, more in (("parameters", {}), ("Comment", {"Software": "NovelAI"}), ("invokeai_metadata", {}), ("sd-metadata", {})):
        for text in ('{"a":' * 100_000, '{"prompt": ' + "9" * 5000 + "}", '{"prompt": "x"' + " " * 2_000_000, "x" * 250_000):
            try:
                foreign.of({key: text, **more})
            except RecipeError as error:
                assert ": " in str(error)
    with pytest.raises(RecipeError, match="characters and at most 200,000"):
        foreign.of({"parameters": "x" * 200_001})


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = st.sampled_from(["prompt", "uc", "steps", "scale", "seed", "sampler", "width", "height", "model", "loras", "image", "clip_skip",
                        "positive_prompt", "v4_prompt", "caption", "name", "cfg_scale", "sui_image_params", "guidance_scale"])  # fmt: skip
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=12)


@given(st.dictionaries(KEYS, VALUES, max_size=8), st.text())
@settings(max_examples=100, deadline=None)
def test_anything_is_a_foreign_recipe_or_a_sentence(content, text):
    said = json.dumps(content)
    for texts in ({"Software": "NovelAI", "Comment": said}, {"invokeai_metadata": said}, {"sd-metadata": said}, {"parameters": said},
                  {"parameters": f"{text}\nSteps: {text}, Seed: {text}, Sampler: {text}"}, {"prompt": said}):  # fmt: skip
        try:
            found = foreign.of(texts)
        except RecipeError as error:
            assert ": " in str(error)
        else:
            assert found is None or shlex.split(found.flags) is not None and isinstance(found.left_words, str)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_comment_is_text(comment):
    for start in (b"", b"UNICODE\0", b"ASCII\0\0\0"):
        assert isinstance(foreign.decoded(start + comment), str)
