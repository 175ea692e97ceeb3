"""Intake of untrusted pictures, tried as a new user would and as somebody who means harm would."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from fusion.images import advice, read_folder, read_images, safe_name
from fusion.intake import opening as intake


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))


def only(result):
    """The single problem of a read that accepted nothing."""
    intakes, problems = result
    assert intakes == [] and len(problems) == 1
    sentence = problems[0].cause_and_cure
    assert sentence[0].isupper() and sentence.endswith(".") and "Error" not in sentence and "Traceback" not in sentence
    return sentence


def accepted(path):
    intakes, problems = read_images([path])
    assert problems == [] and len(intakes) == 1 and intakes[0].image.mode == "RGB" and intakes[0].image.info == {}
    return intakes[0]


def test_a_plain_picture_comes_back_pixel_for_pixel(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    one = accepted(tmp_path / "a.png")
    assert np.array_equal(np.asarray(one.image), np.asarray(picture)) and one.note == "" and one.name == "a.png"


def test_no_picture_says_what_to_do():
    assert "about a dozen" in only(read_images([]))


def test_two_hundred_are_read_in_order_and_the_257th_is_left_out(tmp_path):
    paths = []
    for i in range(258):
        Image.new("RGB", (16, 16), (i % 256, i // 256, 7)).save(tmp_path / f"{i:03}.png")
        paths.append(tmp_path / f"{i:03}.png")
    intakes, problems = read_images(paths[:200])
    assert [i.name for i in intakes] == [p.name for p in paths[:200]] and problems == []
    intakes, problems = read_images(paths)
    assert len(intakes) == 256 and "last 2 were left out" in problems[0].cause_and_cure


@pytest.mark.parametrize("content, word", [
    (b"", "empty"),
    (b"Dear colleague,\nhere are the pictures.\n" * 40, "text file"),
    ("写真は添付のとおりです。\n".encode() * 40, "text file"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "SVG"),
    (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    (b"\x00\x00\x00\x18ftypheic" + bytes(40), "HEIC"),
    (b"\x00\x00\x00\x18ftypavif" + bytes(40), "AVIF"),
    (b"\x00\x00\x00\x18ftypisom" + bytes(40), "video"),
    (b"%PDF-1.7\n" + bytes(range(256)), "PDF"),
    (bytes(range(256)) * 8, "not a picture"),
    (b"\x89PNG\r\n\x1a\n" + bytes(30), "damaged"),
])  # fmt: skip
def test_what_is_no_picture_is_named(tmp_path, content, word):
    (tmp_path / "photo.png").write_bytes(content)
    assert word in only(read_images([tmp_path / "photo.png"]))


def test_missing_file_and_folder(tmp_path):
    assert "not a file" in only(read_images([tmp_path]))
    assert "not a file" in only(read_images([tmp_path / "gone.png"]))


def huge_png(path, width, height):
    """A PNG whose header claims width x height and whose pixel data is one short zlib stream."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


@pytest.mark.parametrize("side", [20_000, 11_000, 7_100])  # above Pillow's error, above its warning, above ours alone
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, monkeypatch, side):
    huge_png(tmp_path / "bomb.png", side, side)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    assert "million pixels" in only(read_images([tmp_path / "bomb.png"]))


def test_too_many_bytes_are_refused_before_opening(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "MAX_BYTES", 100)
    (tmp_path / "a.png").write_bytes(bytes(101))
    assert "MB" in only(read_images([tmp_path / "a.png"]))


def test_too_small_is_refused(tmp_path):
    Image.new("RGB", (300, 3)).save(tmp_path / "line.png")
    assert "300 x 3" in only(read_images([tmp_path / "line.png"]))


def test_truncated_jpeg(tmp_path, picture):
    picture.resize((400, 400)).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    assert "incomplete" in only(read_images([tmp_path / "half.jpg"]))


def test_animated_gif_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    one = accepted(tmp_path / "a.gif")
    assert one.image.getpixel((5, 5)) == (255, 0, 0) and "first frame" in one.note


def test_transparency_goes_on_white(tmp_path):
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    image.save(tmp_path / "a.png")
    one = accepted(tmp_path / "a.png")
    assert one.image.getpixel((0, 0)) == (255, 255, 255) and one.image.getpixel((9, 9)) == (255, 0, 0)
    assert abs(one.image.getpixel((1, 0))[0] - 127) <= 1 and "white" in one.note
    image.convert("P").save(tmp_path / "p.png", transparency=0)
    assert accepted(tmp_path / "p.png").image.mode == "RGB"


def test_cmyk(tmp_path):
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    one = accepted(tmp_path / "a.jpg")
    red, green, blue = one.image.getpixel((9, 9))
    assert red > 240 and green < 15 and blue < 15 and "CMYK" in one.note


@pytest.mark.parametrize("brightest", [65535, 200])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, brightest):
    ramp = np.tile(np.linspace(0, brightest, 64).astype(np.uint16), (32, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    grey = np.asarray(accepted(tmp_path / "a.png").image)[..., 0]
    assert np.abs(grey - ramp / 257.0).max() <= 0.51


def test_floating_point_tiff(tmp_path):
    Image.fromarray(np.full((32, 32), 0.5, dtype=np.float32)).save(tmp_path / "a.tiff")
    assert accepted(tmp_path / "a.tiff").image.getpixel((0, 0)) == (128, 128, 128)


def test_exif_rotation_is_applied_and_metadata_dropped(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to view
    exif[0x010F] = "a camera that tells where you live"
    picture.save(tmp_path / "a.png", exif=exif)
    one = accepted(tmp_path / "a.png")
    assert np.array_equal(np.asarray(one.image), np.asarray(picture.transpose(Image.Transpose.ROTATE_270))) and "upright" in one.note
    assert dict(one.image.getexif()) == {}


def test_duplicates_are_used_once_and_said(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.bmp")  # the same pixels in another format
    intakes, problems = read_images([tmp_path / "a.png", tmp_path / "b.bmp"])
    assert [i.name for i in intakes] == ["a.png"] and "same picture as a.png" in problems[0].cause_and_cure and problems[0].name == "b.bmp"


def test_large_pictures_are_reduced(tmp_path):
    Image.linear_gradient("L").resize((4000, 1000)).convert("RGB").save(tmp_path / "a.jpg")
    one = accepted(tmp_path / "a.jpg")
    assert max(one.image.size) == intake.LONGEST_SIDE and "reduced from 4000 x 1000" in one.note


def test_one_bad_file_does_not_cost_the_others(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("hello")
    intakes, problems = read_images([tmp_path / "b.png", tmp_path / "a.png"])
    assert len(intakes) == 1 and len(problems) == 1


def test_random_damage_never_raises(tmp_path, picture):
    rng = np.random.default_rng(1)
    for extension in ("png", "jpg", "gif", "webp", "bmp", "tiff"):
        picture.save(tmp_path / f"x.{extension}")
        data = bytearray((tmp_path / f"x.{extension}").read_bytes())
        for _ in range(30):
            broken = bytearray(data[: rng.integers(1, len(data) + 1)])
            for at in rng.integers(0, len(broken), 8):
                broken[at] = rng.integers(0, 256)
            (tmp_path / "broken").write_bytes(broken)
            intakes, problems = read_images([tmp_path / "broken"])
            assert len(intakes) + len(problems) == 1


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>.png", "a\nb\x1b[31m.png", "x" * 300 + ".png", "../../etc/passwd", "&amp;", '"\'`', "\u200b"]
)
def test_names_are_harmless_and_short(name):
    shown = safe_name(name)
    assert 0 < len(shown) <= 80 and not set(shown) & set("<>&\"'`/\\\n\r\x1b\u200b")


def test_names_people_use_stay_readable():
    assert safe_name("Porträt 写真 (2).png") == "Porträt 写真 (2).png"


def test_folder_with_captions(tmp_path, picture):
    picture.save(tmp_path / "b.png")
    picture.rotate(180).save(tmp_path / "a.png")
    captions = [{"file": "a.png", "prompt": " a  portrait\nof a cook "}, {"file": "b.png", "prompt": "x " * 999}]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    intakes, problems = read_folder(tmp_path)
    assert [i.name for i in intakes] == ["a.png", "b.png"] and problems == []
    assert intakes[0].caption == "a portrait of a cook" and len(intakes[1].caption) == 1997


@pytest.mark.parametrize("captions", ["{", "[1, 2]", '[{"file": "a.png"}]', '{"a.png": 5}', '"text"', "[" * 100_000])
def test_broken_captions_are_said_and_the_pictures_kept(tmp_path, picture, captions):
    picture.save(tmp_path / "a.png")
    (tmp_path / "captions.json").write_text(captions)
    intakes, problems = read_folder(tmp_path)
    assert len(intakes) == 1 and [p.name for p in problems] == ["captions.json"] and "cannot be used" in problems[0].cause_and_cure


def test_advice_grows_with_the_number():
    assert "very little" in advice(1) and "good start" in advice(12) and "plenty" in advice(30) and "slower" in advice(200)
    assert advice(0) != advice(1)
