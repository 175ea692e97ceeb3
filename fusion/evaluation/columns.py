"""What every column of a comparison means, and what a cell means where it is unusual: sentences for the report and the page alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fusion.methods import TRAINED


@dataclass(frozen=True)
class Column:
    """`name`: the `Row` field it shows. `lower_is_better`: None where neither end is better, as with diversity, where 1 is best."""

    name: str
    title: str
    unit: str
    explanation: str
    lower_is_better: bool | None = True


COLUMNS = (
    Column("kid", "KID", "squared kernel distance",
           "Kernel distance between the method's samples and held-out target images in features of a model's own denoiser. 0 is what fresh "
           "images of the target measure on average; chance may take it below 0."),
    Column("features", "Calibrated features", "standard deviations of one picture",
           "Distance between the mean of the samples and of held-out target images in the features that tell the models apart, training "
           "errors taken out."),
    Column("population", "Population", "total variation, 0 to 1",
           "Share of samples that would have to change their kind for the samples' population to be the target's, counted by a probe; only "
           "where kinds can be counted."),
    Column("diversity", "Diversity", "ratio to the held-out images",
           "Mean distance between two samples over that between two held-out images: 1 is as diverse as the target, below 1 is narrower.",
           None),
    Column("copies", "Copies", "share of samples",
           "Samples that lie nearer to a fitted image than any held-out image does. A few do by chance; more mean that the method repeats "
           "the images it was fitted to."),
    Column("effective", "Effective images", "images",
           "How many independent images the samples are worth: those that descend from one particle are near-copies until late, and count "
           "as one family (Kish's number). A remark tells what the samples say of themselves.", None),
    Column("loss", "Loss", "squared error per latent number",
           "Denoising loss on held-out target images: what the papers minimise. Averaging lowers it without matching the population: no "
           "ground to choose. A network that a method merged or trained is asked about the same pictures at the same noise, which takes as "
           "many evaluations as measuring one model."),
    Column("gain", "Loss saved", "squared error per latent number",
           "Held-out denoising loss saved against the best single model. It hardly sees populations: no ground to choose.", False),
    Column("evaluations", "Evaluations", "network evaluations an image", "How often a network runs for one image: time on any machine."),
    Column("memory", "Memory", "times one model", "Bytes of weights held while drawing, against one single model."),
    Column("training_seconds", "Training", "seconds, once", "Time spent training before the first image, as stated before it ran."),
    Column("seconds", "Time", "seconds an image", "Measured while this comparison drew, on this machine, with whatever else it was doing."),
)  # fmt: skip
FIGURES = ("kid", "features", "population", "diversity", "copies", "loss", "gain")  # estimates; the others are plain numbers

NO_LOSS = {
    "barycenter": "No loss: it weighs and resamples whole paths, and no single prediction of noise stands for that.",
    "superposition": "No loss: its weights follow each sample along its path, so they are not known for a held-out image.",
    "superposition_and": "No loss: its weights follow each sample along its path, so they are not known for a held-out image.",
    **dict.fromkeys(("merge", *TRAINED), "No loss: it is a network of its own, which was not asked about the pictures of the statistic."),
}
KINDS = 3  # of samples' notes that a row repeats
NUMBER = re.compile(r"-?(?<![\w.])\d+(?:\.\d+)?(?:e[-+]?\d+)?")
LOSS_NOTES = {"mixture": "Mean of the models' own losses, in its proportions: every sample comes from one model, so nothing is averaged."}


def shown(rows: Sequence) -> tuple[Column, ...]:
    """The columns in which at least one row has something to show; none of training where nothing is trained, and none of effective images
    where no sample has anything to say of itself."""

    def told(name: str) -> bool:
        if name == "training_seconds":
            return any(value(row, name) or name in row.notes for row in rows)
        return any(value(row, name) is not None for row in rows) and (name != "effective" or any(name in row.notes for row in rows))

    return tuple(column for column in COLUMNS if told(column.name))


def value(row, name: str):
    """The `Estimate` or number of a cell, None where there is none. A cost of 0 s of training is shown as such."""
    return getattr(row.cost, name, None) if name in ("evaluations", "memory", "training_seconds") else getattr(row, name)


def remarks(samples: Sequence) -> str:
    """What samples say of themselves, in one sentence: like notes are counted once, with the range of each number in them. Else empty.

    `16 of 16 samples: effective sample size 1.3–3.2 of 4, 1–3 lineages left`. Notes of more than `KINDS` kinds: the others' number.
    """
    kinds: dict[tuple[str, ...], list[list[str]]] = {}
    for sample in samples:
        if sample.note:
            kinds.setdefault(tuple(NUMBER.split(sample.note)), []).append(NUMBER.findall(sample.note))
    found = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    told = [f"{len(numbers)} of {len(samples)} samples: {_ranges(words, numbers)}" for words, numbers in found[:KINDS]]
    others = sum(len(numbers) for _, numbers in found[KINDS:])
    return ", ".join([*told, *([f"{others} of {len(samples)} samples: otherwise"] if others else [])])


def _ranges(words: tuple[str, ...], numbers: list[list[str]]) -> str:
    """The words with the least and the greatest of the numbers between them."""
    ends = [(min(column, key=float), max(column, key=float)) for column in zip(*numbers)]
    between = [low if low == high else f"{low}–{high}" for low, high in ends] + [""]
    return "".join(word + number for word, number in zip(words, between))


def notes(row) -> dict[str, str]:
    """Sentences for the unusual cells of a row, by column."""
    found = dict(row.notes)
    if row.problem:
        return found
    if row.loss is None and row.method in NO_LOSS:
        found["loss"] = found["gain"] = NO_LOSS[row.method]
    elif row.loss is not None and row.method in LOSS_NOTES:
        found["loss"] = LOSS_NOTES[row.method]
    if row.method == "single" and row.gain is not None:
        found["gain"] = "0 by definition: this is the model that the others are measured against."
    if row.kid is not None and row.kid.low < 0 < row.kid.high:
        found["kid"] = "Not told from 0: with this many images it could be a perfect sampler of the target, or not."
    for name in ("population", "features"):
        one = getattr(row, name)
        if one is not None and one.floor is not None and one.value <= one.floor:
            found[name] = "No farther than chance alone takes a perfect method with so few images."
    if row.diversity is not None and row.diversity.high < 1:
        found["diversity"] = "Narrower than the target by more than chance: part of its variety is missing."
    if row.cost is not None and row.cost.preparation:
        found["evaluations"] = f"And {row.cost.preparation:,} evaluations once, before the first image."
    return found
