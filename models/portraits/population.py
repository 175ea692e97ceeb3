"""The world of the shipped family: who is in a portrait, how a population is written down, how a portrait is drawn.

288 portraits (16 professions x 3 presentations x 6 tones) are rendered from the Noto Color Emoji font, so the population of any set of
images can be counted. Code points: Unicode's emoji-zwj-sequences. This module knows no network.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

SIZE = 64
PRESENTATIONS = {"man": "\U0001F468", "woman": "\U0001F469", "person": "\U0001F9D1"}
TONES = {
    "yellow": "", "light": "\U0001F3FB", "medium light": "\U0001F3FC",
    "medium": "\U0001F3FD", "medium dark": "\U0001F3FE", "dark": "\U0001F3FF",
}  # fmt: skip
PROFESSIONS = {
    "scientist": "\U0001F52C", "technologist": "\U0001F4BB", "astronaut": "\U0001F680", "firefighter": "\U0001F692",
    "cook": "\U0001F373", "farmer": "\U0001F33E", "artist": "\U0001F3A8", "singer": "\U0001F3A4",
    "teacher": "\U0001F3EB", "student": "\U0001F393", "judge": "\u2696\uFE0F", "pilot": "\u2708\uFE0F",
    "health worker": "\u2695\uFE0F", "mechanic": "\U0001F527", "factory worker": "\U0001F3ED", "office worker": "\U0001F4BC",
}  # fmt: skip
CELLS = tuple(itertools.product(PRESENTATIONS, TONES))  # 18 cells, presentation-major
FONT_FILES = ("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf", "/usr/share/fonts/noto/NotoColorEmoji.ttf")


@dataclass(frozen=True)
class Portrait:
    """One of the 288: the attributes that a caption can ask for and that the probe reads back."""

    presentation: str
    tone: str
    profession: str

    @property
    def cell(self) -> int:
        """Index of (presentation, tone) in `CELLS`, 0..17."""
        return CELLS.index((self.presentation, self.tone))

    @property
    def glyph(self) -> str:
        return PRESENTATIONS[self.presentation] + TONES[self.tone] + "\u200D" + PROFESSIONS[self.profession]


PORTRAITS = tuple(Portrait(p, t, job) for job in PROFESSIONS for p, t in CELLS)  # index = profession * 18 + cell


def caption(profession: str, presentation: str | None = None, tone: str | None = None) -> str:
    """`a portrait of a woman scientist with dark skin tone`; what is None is left to the model's population."""
    subject = f"{presentation} {profession}" if presentation else profession
    article = "an" if subject[0] in "aeiou" else "a"
    return f"a portrait of {article} {subject}" + (f" with {tone} skin tone" if tone else "")


BARE_PROMPTS = tuple(caption(job) for job in PROFESSIONS)


# ------------------------------------------------------------------------------------------------ populations

def _product(presentation: tuple[float, ...], tone: tuple[float, ...]) -> np.ndarray:
    return np.outer(presentation, tone)


_LIGHTER, _DARKER = (0.05, 0.42, 0.30, 0.12, 0.06, 0.05), (0.05, 0.05, 0.06, 0.12, 0.30, 0.42)
_MAN, _WOMAN, _PERSON = (0.78, 0.12, 0.10), (0.12, 0.78, 0.10), (0.12, 0.13, 0.75)

# (3, 6) tables over presentation x tone, each summing to 1, no zero cell. `delta` crosses what harbor and summit pair
# (men darker, women lighter), so that no member is a mixture of the others.
MEMBER_POPULATIONS = {
    "base": np.full((3, 6), 1 / 18),
    "harbor": _product(_MAN, _LIGHTER),
    "summit": _product(_WOMAN, _DARKER),
    "meadow": _product(_PERSON, (0.40, 0.08, 0.09, 0.27, 0.09, 0.07)),
    "delta": 0.5 * _product(_MAN, _DARKER) + 0.5 * _product(_WOMAN, _LIGHTER),
    "sketch": np.full((3, 6), 1 / 18),
}


def mixture(shares: dict[str, float]) -> np.ndarray:
    """Sum of `share * population` over named members: `(3, 6)`."""
    return sum(share * MEMBER_POPULATIONS[name] for name, share in shares.items())


def barycenter(weights: dict[str, float]) -> np.ndarray:
    """The Kullback-Leibler barycenter of named members, `(3, 6)`: the normalised product of `population ** weight`."""
    log = sum(w * np.log(MEMBER_POPULATIONS[name]) for name, w in weights.items())
    table = np.exp(log - log.max())
    return table / table.sum()


def _outside() -> np.ndarray:
    """Three tenths a mixture of members, seven tenths a corner that every member makes rare: persons with the two darkest tones."""
    corner = np.zeros((3, 6))
    corner[2, 4:] = 0.5
    return 0.3 * mixture({"harbor": 0.3, "summit": 0.3, "meadow": 0.4}) + 0.7 * corner


TARGET_POPULATIONS = {
    "valley": mixture({"harbor": 0.61, "summit": 0.27, "meadow": 0.12}),  # a plain mixture
    "coast": barycenter({"harbor": 0.40, "meadow": 0.35, "delta": 0.25}),  # inside the barycenter family
    "island": _outside(),  # partly outside both
}


def draw(population: np.ndarray, count: int, rng: np.random.Generator) -> list[Portrait]:
    """`count` portraits: cell from `population` `(3, 6)`, profession uniform."""
    cells = rng.choice(18, size=count, p=np.asarray(population).ravel() / np.sum(population))
    jobs = list(PROFESSIONS)
    return [Portrait(*CELLS[c], jobs[j]) for c, j in zip(cells, rng.integers(len(jobs), size=count))]


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """Half the L1 distance of two distributions over the same cells, 0..1."""
    return 0.5 * float(np.abs(np.asarray(p).ravel() - np.asarray(q).ravel()).sum())


def sampling_floor(population: np.ndarray, count: int, *, draws: int = 2000, seed: int = 0) -> float:
    """Mean total variation that a perfect sampler of `population` measures with `count` samples."""
    p = np.asarray(population).ravel()
    counts = np.random.default_rng(seed).multinomial(count, p / p.sum(), size=draws)
    return float(np.abs(counts / count - p).sum(1).mean() / 2)


# ------------------------------------------------------------------------------------------------ drawing

def find_font() -> Path:
    """The Noto Color Emoji font file. Raises FileNotFoundError with the package to install."""
    for name in FONT_FILES:
        if Path(name).is_file():
            return Path(name)
    try:
        found = subprocess.run(["fc-match", "-f", "%{file}", "Noto Color Emoji"], capture_output=True, text=True).stdout
    except OSError:
        found = ""
    if found.endswith("NotoColorEmoji.ttf"):
        return Path(found)
    raise FileNotFoundError("Noto Color Emoji is not installed: on Debian or Ubuntu, `apt-get install fonts-noto-color-emoji`")


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    if not features.check("raqm"):
        raise RuntimeError("this Pillow has no Raqm layout, which emoji sequences need: install Pillow from PyPI")
    return ImageFont.truetype(str(find_font()), 109, layout_engine=ImageFont.Layout.RAQM)


@functools.cache
def _glyph(portrait: Portrait) -> Image.Image:
    """The portrait at the font's own bitmap size on white, 160 x 160 with room for shifts."""
    box = _font().getbbox(portrait.glyph)
    if box[2] > 150:
        raise RuntimeError(f"the emoji font lacks {portrait} (it draws several glyphs): install a current Noto Color Emoji")
    canvas = Image.new("RGB", (160, 160), "white")
    ImageDraw.Draw(canvas).text((12, 16), portrait.glyph, font=_font(), embedded_color=True)
    return canvas


def render(portrait: Portrait, rng: np.random.Generator | None = None) -> Image.Image:
    """The portrait as 64 x 64 RGB; with `rng`, a fresh small shift (+-3 px), scale (0.92..1.06) and rotation (+-6 degrees)."""
    glyph = _glyph(portrait)
    if rng is None:
        return glyph.crop((16, 16, 144, 144)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    dx, dy = rng.uniform(-6, 6, size=2)  # at twice the final size
    scale, angle = rng.uniform(0.92, 1.06), np.deg2rad(rng.uniform(-6, 6))
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    inverse = (cos, sin, 80 - cos * (64 + dx) - sin * (64 + dy), -sin, cos, 80 + sin * (64 + dx) - cos * (64 + dy))
    big = glyph.transform((128, 128), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC, fillcolor="white")
    return big.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def to_array(images: list[Image.Image]) -> np.ndarray:
    """`(N, 64, 64, 3)` uint8."""
    return np.stack([np.asarray(image.convert("RGB")) for image in images])
