"""Bad input, as a new visitor would bring it: one sentence each, in the visitor's language, and nothing else is lost."""

from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fusion.ui import state, target, texts, uploads


def picture(seed: int = 0, size: int = 64, mode: str = "RGB") -> Image.Image:
    channels = {"RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, channels), dtype=np.uint8), mode)


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    return state.Session()


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size without its pixels: they must not be looked for."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + struct.pack(">I", 10)
        + b"IDAT"
        + bytes(10)
    )


def bad_files(folder):
    buffer = io.BytesIO()
    picture(9).save(buffer, "JPEG")
    files = {
        "notes.png": b"this is a text file, not a picture\n", "empty.png": b"", "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'></svg>",
        "cut.jpg": buffer.getvalue()[: len(buffer.getvalue()) // 2], "paper.pdf": b"%PDF-1.7 ...", "noise.webp": bytes(range(256)),
        "phone.heic": b"\0\0\0\x18ftypheic" + bytes(40),
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "huge.png").write_bytes(png_header(20_000, 20_000))
    picture(1, size=8).save(folder / "tiny.png")
    return [*files, "huge.png", "tiny.png"]


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_every_bad_file_gets_a_sentence_and_good_ones_stay(session, tmp_path, language):
    session.language = language
    names = bad_files(tmp_path)
    for n in range(3):
        picture(n).save(tmp_path / f"good{n}.png")
    uploads.take(session, [str(tmp_path / n) for n in ("good0.png", *names, "good1.png", "good2.png")])
    said = [text for _, text in session.notes["target"]]
    assert len(session.pictures) == 3 and len(said) == len(names)
    for name in names:
        sentence = next(t for t in said if t.startswith(name + ":"))[len(name) + 1 :]
        assert len(sentence) > 15
        if language == "ja":
            assert re.search(r"[\u3040-\u30ff]", sentence) and not re.search(r"[a-z]{5,}", sentence), sentence


def test_odd_but_readable_pictures_are_taken(session, tmp_path):
    picture(1, mode="RGBA").save(tmp_path / "rgba.png")
    picture(2, mode="CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.random.default_rng(3).integers(0, 65535, (64, 64), dtype=np.uint16)).save(tmp_path / "deep.png")
    picture(4).save(tmp_path / "moving.gif", save_all=True, append_images=[picture(5)])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(6, size=64).crop((0, 0, 64, 32)).save(tmp_path / "turned.jpg", exif=exif)
    uploads.take(session, [str(tmp_path / n) for n in ("rgba.png", "cmyk.jpg", "deep.png", "moving.gif", "turned.jpg")])
    assert [p.image.mode for p in session.pictures] == ["RGB"] * 5
    assert session.pictures[4].image.size == (32, 64)
    assert "target" not in session.notes
    session.language = "ja"
    assert not re.search(r"[a-z]{5,}", re.sub(r"<[^>]*>", "", "".join(texts.translate("ja", p.note) for p in session.pictures)))


def test_a_picture_twice_is_used_once(session, tmp_path):
    picture(1).save(tmp_path / "a.png")
    uploads.take(session, [str(tmp_path / "a.png")])
    uploads.take(session, [str(tmp_path / "a.png")])
    assert len(session.pictures) == 1 and session.notes["target"][0][0] == "info"


def test_more_than_can_be_used(session, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MOST", 3)
    for n in range(5):
        picture(n, size=16).save(tmp_path / f"{n}.png")
    uploads.take(session, [str(tmp_path / f"{n}.png") for n in range(5)])
    assert len(session.pictures) == 3 and [kind for kind, _ in session.notes["target"]] == ["bad"]
    assert "left out: 2." in session.notes["target"][0][1]


def test_many_files_with_one_problem_are_said_in_one_line_and_a_cut_list_says_so(session, tmp_path):
    for n in range(9):
        (tmp_path / f"text{n}.png").write_text("this is a text file")
    uploads.take(session, [str(tmp_path / f"text{n}.png") for n in range(9)])
    assert [text[:46] for _, text in session.notes["target"]] == ["text0.png, text1.png and 7 more files: This is"]
    uploads.show(session, "target", [("info", str(n)) for n in range(15)] + [("bad", "worst")])
    assert session.notes["target"][0] == ("bad", "worst") and session.notes["target"][-1][1] == "… and 4 more." and len(
        session.notes["target"]) == uploads.LINES + 1  # fmt: skip


def test_many_repeated_pictures_are_one_calm_line(session, tmp_path):
    for n in range(10):
        picture(n % 5, size=16).save(tmp_path / f"{n}.png")
    uploads.take(session, [str(tmp_path / f"{n}.png") for n in range(10)])
    ((kind, sentence),) = session.notes["target"]
    assert len(session.pictures) == 5 and kind == "info" and sentence.startswith("5.png, 6.png and 3 more files: ")


def test_large_numbers_are_said_as_japanese_counts_them():
    from fusion.intake.opening import too_large

    assert "5 千万画素" in texts.translate("ja", too_large("9,000 x 9,000 pixels"))
    assert "5 千万画素" in texts.translate("ja", too_large("more than 150 million pixels"))


def test_a_file_that_cannot_be_used_leaves_the_example_where_it_was(session, tmp_path):
    target.take_example(session, {"name": "valley"})
    (tmp_path / "notes.png").write_text("no picture")
    uploads.take(session, [str(tmp_path / "notes.png")])
    assert len(session.pictures) == target.FIRST and session.example == "valley" and session.notes["target"][0][0] == "bad"
    picture(1).save(tmp_path / "own.png")
    uploads.take(session, [str(tmp_path / "own.png")])
    assert [p.name for p in session.pictures] == ["own.png"] and session.example is None


def test_names_and_captions_cannot_break_the_page(session, tmp_path):
    picture(1).save(tmp_path / "x.png")
    uploads.take(session, [str(tmp_path / "x.png")])
    target.caption(session, {"index": "0", "value": '"><img src=x onerror=alert(1)>'})
    assert "<img src=x" not in target.render(session)
    for bad in ("7", "-3", "x", None):
        target.remove(session, {"index": bad})
        target.caption(session, {"index": bad, "value": "y"})
    assert len(session.pictures) == 1


def test_examples_cannot_leave_their_folder(session):
    target.take_example(session, {"name": "../../etc"})
    assert session.pictures == [] and not target.has_example("../valley")
