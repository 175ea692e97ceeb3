"""Folders, phone pictures and colours as people have them."""

import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from fusion.images import MAX_CAPTION, read_folder, read_images
from fusion.intake import opening, primaries
from fusion.intake.text import decoded
from fusion.recipe_schema import _PROMPT
from fusion.ui import texts


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8))


def folder(tmp_path, files, count=2):
    for n in range(count):
        picture(n).save(tmp_path / f"{n}.png")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    intakes, problems = read_folder(tmp_path)
    return [one.caption for one in intakes], problems


@pytest.mark.parametrize("files", [
    {"0.txt": "a hen\r\n", "1.txt": "a café", "Thumbs.db": b"\xd0", ".DS_Store": b"\0", "desktop.ini": "x", "0_latents.npz": b"x"},
    {"0.caption": "a hen", "1.caption": "a café"},
    {"0.png.txt": "a hen", "1.TXT": "a café"},
    {"0.txt": "a hen".encode("utf-16"), "1.txt": "a café".encode("utf-16-le")},
    {"metadata.jsonl": '{"file_name": "0.png", "text": "a hen"}\n{"file_name": "./1.PNG", "caption": "a café"}\n'},
    {"metadata.csv": "\ufefffile_name;prompt\r\n0.png;\"a\r\nhen\"\r\n1.png;a café\r\n"},
    {"captions.json": "\ufeff" + json.dumps({"0.png": "a hen", "1": {"caption": "a café"}})},
    {"0.json": '{"caption": "a hen"}', "1.json": '{"prompt": "a café"}'},
])  # fmt: skip
def test_captions_as_trainers_and_editors_leave_them(tmp_path, files):
    assert folder(tmp_path, files) == (["a hen", "a café"], [])


OLDER = [
    ("un café à Köln", "cp1252"), ("Frühstück", "cp1252"), ("料理人の肖像", "cp932"), ("a cook、コック", "cp932"),
    ("料理人の肖像", "euc-jp"), ("一位厨师的肖像", "gbk"), ("女孩，长发，微笑", "gbk"), ("一位廚師的肖像", "big5"),
    ("女孩，長髮，微笑", "big5"), ("마당에 있는 닭", "cp949"),
    ("портрет повара", "cp1251"), ("a photo of кошка", "cp1251"), ("портрет повара", "koi8-r"), ("piękna dziewczyna", "cp1250"),
    ("πορτρέτο ενός μάγειρα", "cp1253"), ("güzel kız, uzun saç", "cp1254"), ("ภาพเหมือนของพ่อครัว", "cp874"),
]  # fmt: skip


@pytest.mark.parametrize("text, encoding", OLDER)
def test_older_encodings_are_told_apart(text, encoding):
    assert decoded(text.encode(encoding))[0] == text and decoded(text.encode(encoding))[1]


@pytest.mark.parametrize("encoding, texts", [
    ("gbk", ["a photo of 鸡", "一位厨师的肖像"]), ("big5", ["a photo of 貓", "一位廚師的肖像，微笑"]),
    ("cp932", ["a photo of 猫", "女の子、長い髪"]),
])  # fmt: skip
def test_captions_with_few_letters_are_told_by_those_beside_them(tmp_path, encoding, texts):
    captions, problems = folder(tmp_path, {f"{n}.txt": text.encode(encoding) for n, text in enumerate(texts)})
    assert captions == texts and [p.kind for p in problems] == ["info", "info"]


def test_the_encoding_of_a_list_is_guessed_and_said(tmp_path):
    rows = "file_name,text\n0.png,一位厨师的肖像\n1.png,一只母鸡站在院子里\n"
    captions, problems = folder(tmp_path, {"metadata.csv": rows.encode("gbk")})
    assert captions == ["一位厨师的肖像", "一只母鸡站在院子里"] and "read as GBK" in str(problems[0])


def test_a_broken_line_is_named_and_the_others_are_used(tmp_path):
    captions, problems = folder(tmp_path, {"metadata.jsonl": '{"file_name": "0.png", "text": "a hen"}\n{"file_name": \n'})
    assert captions == ["a hen", None] and "line 2" in str(problems[0])


def test_captions_that_differ_and_lists_that_are_not_read_are_said(tmp_path):
    captions, problems = folder(tmp_path, {"0.txt": "a hen", "0.caption": "a cat", "metadata.parquet": b"PAR1"})
    assert captions == ["a hen", None] and {p.name for p in problems} == {"0.png", "metadata.parquet"}
    assert "0.txt and 0.caption differ" in str(problems[1])


def test_captions_are_kept_whole_and_a_cut_is_said(tmp_path):
    captions, problems = folder(tmp_path, {"0.txt": "word " * 700, "1.txt": "x" * (MAX_CAPTION + 1)})
    assert captions == [("word " * 700).strip(), "x" * MAX_CAPTION] and "was cut" in str(problems[0]) and problems[0].name == "1.png"
    assert len(captions[1]) <= _PROMPT["maxLength"]


def test_kohya_folders_are_read(tmp_path):
    (tmp_path / "10_a hen").mkdir()
    picture(5).save(tmp_path / "10_a hen/x.png")
    picture(6).save(tmp_path / "10_a hen/y.png")
    (tmp_path / "10_a hen/y.txt").write_text("a cat")
    captions, problems = folder(tmp_path, {})
    assert captions == [None, None, "a hen", "a cat"]
    assert [(p.name, p.kind) for p in problems] == [("10_a hen", "info")]
    assert "'a hen' to the pictures in it that have none: 1" in str(problems[0])


def test_a_list_above_its_pictures(tmp_path):
    (tmp_path / "train").mkdir()
    picture(5).save(tmp_path / "train/a.png")
    assert folder(tmp_path, {"metadata.csv": "file_name,text\ntrain/a.png,a hen\n"}, 0) == (["a hen"], [])


def test_phones_pictures_are_read(tmp_path):
    opening._with_heif()
    exif = Image.Exif()
    exif[0x0112] = 6
    for seed, name in enumerate(("a.heic", "a.avif")):
        picture(seed).save(tmp_path / name, exif=exif.tobytes())
    picture(2).save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[picture(1)])
    intakes, problems = read_images([tmp_path / "a.avif", tmp_path / "a.jpg", tmp_path / "a.heic"])
    assert problems == [] and [one.image.size for one in intakes] == [(48, 64), (64, 48), (48, 64)]
    assert intakes[1].note == "main picture of several used"


def test_profiles_are_converted_and_srgb_is_not(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tag = next(12 * n + 132 for n in range(40) if srgb[12 * n + 132 : 12 * n + 136] == b"rXYZ")
    other = next(12 * n + 132 for n in range(40) if srgb[12 * n + 132 : 12 * n + 136] == b"gXYZ")
    wide = bytearray(srgb)  # red and green exchanged
    wide[tag : tag + 4], wide[other : other + 4] = b"gXYZ", b"rXYZ"
    flat = Image.new("RGB", (32, 32), (200, 60, 40))
    flat.save(tmp_path / "wide.png", icc_profile=bytes(wide))
    flat.save(tmp_path / "same.png", icc_profile=srgb)
    flat.save(tmp_path / "junk.png", icc_profile=b"junk" * 50)
    flat.save(tmp_path / "huge.png", icc_profile=srgb + bytes(3_000_000))
    want = ImageCms.profileToProfile(flat, ImageCms.ImageCmsProfile(io.BytesIO(bytes(wide))), ImageCms.createProfile("sRGB"))
    image, note = opening.read(tmp_path / "wide.png")
    assert image.getpixel((3, 3)) == want.getpixel((3, 3)) != (200, 60, 40) and note.endswith("to sRGB")
    for name, word in (("same", ""), ("junk", "damaged"), ("huge", "too large")):
        image, note = opening.read(tmp_path / f"{name}.png")
        assert image.getpixel((3, 3)) == (200, 60, 40) and word in note and bool(word) == bool(note)


def test_a_zip_of_a_folder_is_read_and_nothing_leaves_it(tmp_path):
    picture().save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as file:
        file.write(tmp_path / "a.png", "set/a.png")
        file.writestr("set/a.txt", "a hen")
        file.writestr("__MACOSX/set/._a.png", b"x")
    intakes, problems = read_folder(tmp_path / "good.zip")
    assert [(one.name, one.caption) for one in intakes] == [("a.png", "a hen")] and problems == []
    for name, content in (("../out.png", b"x"), ("bomb.bmp", bytes(20_000_000))):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(name, content)
        intakes, problems = read_folder(tmp_path / "bad.zip")
        assert intakes == [] and "cannot be used" in str(problems[0]) and not (tmp_path.parent / "out.png").exists()


def test_near_duplicates_are_pointed_out(tmp_path):
    large = picture(3).resize((16, 12)).resize((256, 192))
    large.save(tmp_path / "a.png")
    large.resize((128, 96)).save(tmp_path / "b.jpg", quality=60)
    picture(4).resize((16, 12)).resize((256, 192)).save(tmp_path / "c.png")
    intakes, problems = read_images([tmp_path / n for n in ("a.png", "b.jpg", "c.png")])
    assert len(intakes) == 3 and [p.name for p in problems] == ["b.jpg"] and "nearly the same picture as a.png" in str(problems[0])


@pytest.mark.parametrize("masks", [["0-masklabel.png"], ["0_mask.png", "1_mask.png"], ["masks/0.png"], ["mask/0_mask.png"], ["0.mask.png"]])
def test_masks_are_no_pictures(tmp_path, masks):
    for n, name in enumerate(masks):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(20 + n).save(tmp_path / name)
    captions, problems = folder(tmp_path, {})
    assert len(captions) == 2 and len(problems) == 1 and "Masks are not read" in str(problems[0]) and problems[0].kind == "info"


def test_masks_alone_or_of_nothing_are_pictures(tmp_path):
    picture(7).save(tmp_path / "gas_mask.png")
    assert folder(tmp_path, {}) == ([None] * 3, [])


@pytest.mark.parametrize("name, content", [
    ("captions.json", '{"0.png": "a hen", "gone.png": "x", "lost.png": "y"}'),
    ("metadata.jsonl", '{"file_name": "train/0.png", "text": "a hen"}\n{"file_name": "gone.png", "text": "x"}'),
    ("metadata.csv", "file_name,text\n0.png,a hen\ngone.png,x\nlost.png,y\n"),
])  # fmt: skip
def test_lists_that_name_pictures_which_are_not_there_say_how_many(tmp_path, name, content):
    captions, problems = folder(tmp_path, {name: content})
    assert captions == ["a hen", None] and [p.name for p in problems] == [name] and problems[0].kind == "warn"
    assert f"not here: {2 - name.endswith('jsonl')}, such as gone.png" in str(problems[0])


def test_what_is_typed_for_all_is_for_pictures_without_a_caption_and_a_cut_is_said(tmp_path, capsys):
    from fusion.commands.shared import pictures_in

    (tmp_path / "10_a hen").mkdir()
    picture(5).save(tmp_path / "10_a hen/x.png")
    folder(tmp_path, {"0.txt": "a cat"})
    assert pictures_in(str(tmp_path), "a dog")[1] == ["a cat", "a dog", "a hen"] and "was cut" not in capsys.readouterr().err
    assert pictures_in(str(tmp_path), "x" * (MAX_CAPTION + 1))[1][1] == "x" * MAX_CAPTION
    assert "--caption is longer than" in capsys.readouterr().err
    pictures_in(str(tmp_path), "")
    assert "a.txt beside a.png" in capsys.readouterr().err


def test_a_cut_is_said_to_those_who_call_the_library(tmp_path):
    picture().save(tmp_path / "a.png")
    intakes, problems = read_images([tmp_path / "a.png"], {"a.png": "x" * (MAX_CAPTION + 1)})
    assert intakes[0].caption == "x" * MAX_CAPTION and [p.kind for p in problems] == ["warn"] and "was cut" in str(problems[0])


def with_chunk(data, kind, content):
    """A PNG with one more part behind its header."""
    part = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data[:33] + part + data[33:]


def flat(tmp_path, name, numbers=None, **saved):
    """A picture of one colour whose file states its colours by numbers."""
    opening._with_heif()
    Image.new("RGB", (32, 32), (200, 60, 40)).save(tmp_path / name, **saved)
    data = (tmp_path / name).read_bytes()
    if numbers and name.endswith("png"):
        data = with_chunk(data, b"cICP", bytes([*numbers, 0, 1]))
    elif numbers:
        at = data.index(b"colrnclx") + 8
        data = data[:at] + struct.pack(">HH", *numbers) + data[at + 4 :]
    (tmp_path / name).write_bytes(data)
    image, note = opening.read(tmp_path / name)
    return image.getpixel((16, 16)), note


LOSSLESS = {"a.png": {}, "a.avif": {"quality": 100, "subsampling": "4:4:4"}, "a.heic": {"quality": -1, "chroma": 444}}


@pytest.mark.parametrize("name", LOSSLESS)
def test_colours_stated_by_numbers_are_converted_or_said(tmp_path, name):
    plain, note = flat(tmp_path, name, (1, 13), **LOSSLESS[name])
    assert note == "" and np.abs(np.subtract(plain, (200, 60, 40))).max() <= 3
    by_css = (((12, 13), (217, 42, 23), "Display P3"), ((9, 1), (247, 0, 23), "BT.2020"))  # by the matrices of CSS Color 4
    for numbers, want, word in by_css:
        found, note = flat(tmp_path, name, numbers, **LOSSLESS[name])
        assert np.abs(np.subtract(found, want)).max() <= 8 and note == f"colours converted from {word} to sRGB"
    for numbers in ((9, 16), (9, 18), (12, 17), (10, 13)):
        found, note = flat(tmp_path, name, numbers, **LOSSLESS[name])
        assert found == plain and note.startswith("colours may differ") and texts.translate("ja", note) != note


def test_chromaticities_and_gamma_of_a_png_are_converted(tmp_path):
    Image.new("RGB", (32, 32), (200, 60, 40)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    p3 = struct.pack(">8I", *(round(100_000 * one) for one in primaries.NUMBERED[12][1]))
    srgb = struct.pack(">8I", *(round(100_000 * one) for one in primaries.SRGB))
    for parts, want, word in (
        ([(b"cHRM", srgb), (b"gAMA", struct.pack(">I", 45455))], (200, 60, 40), ""),
        ([(b"cHRM", p3)], (217, 42, 23), "converted"),
        ([(b"cHRM", p3), (b"sRGB", b"\0")], (200, 60, 40), ""),
        ([(b"gAMA", struct.pack(">I", 100_000))], (229, 133, 110), "converted"),
        ([(b"cHRM", bytes(32))], (200, 60, 40), "colours may differ"),
        ([(b"gAMA", bytes(4))], (200, 60, 40), "colours may differ"),
    ):
        whole = data
        for kind, content in parts:
            whole = with_chunk(whole, kind, content)
        (tmp_path / "b.png").write_bytes(whole)
        image, note = opening.read(tmp_path / "b.png")
        assert np.abs(np.subtract(image.getpixel((3, 3)), want)).max() <= 3 and word in note and bool(word) == bool(note), (parts, note)


def test_a_cameras_adobe_rgb_is_converted(tmp_path):
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    Image.new("RGB", (32, 32), (60, 200, 40)).save(tmp_path / "a.jpg", quality=100, exif=exif)
    image, note = opening.read(tmp_path / "a.jpg")
    assert note == "colours converted from Adobe RGB to sRGB" and image.getpixel((3, 3))[0] < 10 and image.getpixel((3, 3))[1] > 198


def inks():
    """A printer's profile whose first ink is red, and whose other inks are all black: nobody's guess of CMYK gives its colours."""
    lab = [(255, 128, 128), (136, 209, 195)] + [(0, 128, 128)] * 14  # paper, red; each number of the 4 inks is full or none, the last first
    lab = [lab[1 if n == 8 else 0 if n == 0 else 2] for n in range(16)]
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    table = b"mft1" + bytes([0, 0, 0, 0, 4, 3, 2, 0]) + identity + ramp * 4 + bytes(sum(lab, ())) + ramp * 3
    data = bytearray(primaries._packed({b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(79), b"A2B0": table,
                                        b"wtpt": primaries._xyz(primaries.D50), b"cprt": b"text" + bytes(4) + b"none\0"}))  # fmt: skip
    data[12:24] = b"prtrCMYKLab "
    return bytes(data)


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_inks_are_read_by_their_own_profile(tmp_path, name):
    first = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    first.save(tmp_path / name, icc_profile=inks())
    image, note = opening.read(tmp_path / name)
    red, green, blue = image.getpixel((3, 3))
    assert red > 200 and green < 60 and blue < 60 and note == "colours converted from inks to sRGB"
    first.save(tmp_path / name)
    image, note = opening.read(tmp_path / name)
    assert image.getpixel((3, 3))[0] < 60 and note == "converted from CMYK"
    first.save(tmp_path / name, icc_profile=primaries.icc(primaries.ADOBE, 2.2, "x"))
    image, note = opening.read(tmp_path / name)
    assert image.getpixel((3, 3))[0] < 60 and note.startswith("colour profile damaged or of another kind") and note.endswith("from CMYK")


def test_kohyas_whole_project_is_read_without_its_regularization(tmp_path):
    for n, name in enumerate(("img/10_a hen/x.png", "img/10_a hen/y.png", "reg/1_bird/x.png", "model/log.txt")):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(n).save(tmp_path / "train" / name, "PNG")
    (tmp_path / "train/img/10_a hen/y.txt").write_text("a cat")
    intakes, problems = read_folder(tmp_path / "train")
    assert [(one.name, one.caption) for one in intakes] == [("x.png", "a hen"), ("y.png", "a cat")]
    assert sorted(p.name for p in problems) == ["10_a hen", "reg"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for path in sorted((tmp_path / "train").rglob("*.*")):
            file.write(path, path.relative_to(tmp_path))
    intakes, problems = read_folder(tmp_path / "set.zip")
    assert len(intakes) == 2 and sorted(p.name for p in problems) == ["10_a hen", "reg"]
    assert len(read_folder(tmp_path / "train/reg")[0]) == 1


def test_a_name_that_two_pictures_have_is_nobodys_and_said(tmp_path):
    for n, name in enumerate(("cats/1.png", "dogs/1.png", "dogs/2.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(n).save(tmp_path / name)
    captions, problems = folder(tmp_path, {"metadata.csv": "file_name,text\n1.png,a cat\n2.png,a dog\n"}, 0)
    assert captions == [None, None, "a dog"] and [texts.translate("ja", str(p.cause_and_cure))[:5] for p in problems] == ["1.png"]
    assert "several pictures have: 1, such as 1.png" in str(problems[0])
    captions, problems = folder(tmp_path, {"metadata.csv": "file_name,text\n/data/me/cats/1.png,a cat\ndogs/1,a dog\n"}, 0)
    assert captions == ["a cat", "a dog", None] and problems == []
