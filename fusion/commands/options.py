"""Arguments that several commands share. Light: read for `--help`, before torch is imported."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import suppress
from pathlib import Path

MODELS = (
    "two or more models: an id of the catalog (portraits/harbor), a Hugging Face id (owner/name or owner/name@COMMIT), a folder, or a "
    "single .safetensors file; MODEL+ADAPTER puts a LoRA or its like on a model, "
    "MODEL+ADAPTER:0.7+SECOND:0.4 several, each at a strength (1 where none is given); "
    "?prediction=v_prediction&components=MODEL&template=TEXT behind it "
    "says what its files do not: what it predicts, where missing parts come from, the words around every {prompt}; "
    "?steps=4&guidance=1 what it draws with alone. Folders and files lie below the repository or below a folder named in "
    "the environment variable SCOREFUSION_MODELS"
)


def positive(typed: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not typed.isdigit() or int(typed) < 1:
        raise ArgumentTypeError(f"must be a whole number of at least 1, not {typed}")
    return int(typed)


def natural(typed: str) -> int:
    """A whole number of at least 0, for argparse."""
    if not typed.isdigit():
        raise ArgumentTypeError(f"must be a whole number of at least 0, not {typed}")
    return int(typed)


def seed(typed: str) -> int:
    """A whole number that a generator can start from, for argparse."""
    if not typed.isdigit() or int(typed) >= 2**63:
        raise ArgumentTypeError(f"must be a whole number from 0 to 2^63 - 1, not {typed}")
    return int(typed)


def strength(typed: str) -> float:
    """A scale of guidance, for argparse: none is stronger than recipes can keep."""
    from fusion.methods.plan import MAX_GUIDANCE  # numpy, which `--help` need not wait for

    try:
        value = float(typed)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_GUIDANCE:  # false for nan, too
        raise ArgumentTypeError(f"must be a number from 0 to {MAX_GUIDANCE:g}, not {typed}")
    return value


_made: list[Path] = []  # folders that this run of a command has made


def _make(path: Path) -> None:
    """Make a folder and those above it, and remember which ones were not there."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    _made.extend(missing)


def tidy() -> None:
    """Take away the folders that were made and stayed empty: what is refused or stopped at once leaves nothing behind."""
    while _made:
        path = _made.pop()
        deep = [path, *(one for one in _made if path in one.parents)]
        for one in sorted(deep, key=lambda one: len(one.parts), reverse=True):
            with suppress(OSError):  # it holds something, or is gone
                one.rmdir()


def writable(typed: str, *endings: str) -> Path:
    """The file that a result will go to, its folder made. ValueError, before any long work, where it cannot be written there.

    `endings`: those that its format may have; none: any.
    """
    path = Path(typed)
    if endings and path.suffix.lower() not in endings:
        raise ValueError(f"{path.name} must end in {' or '.join(endings)}, the format it is written in")
    try:
        _make(path.parent)
    except OSError as error:
        raise ValueError(f"{path} cannot be written, since its folder cannot be made ({error.strerror}): choose another place") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        cause = "it is a folder" if path.is_dir() else "its folder is read-only"
        raise ValueError(f"{path} cannot be written, since {cause}: choose another name or place")
    return path


def folder(typed: str | Path) -> Path:
    """The folder that results will go to, made. ValueError, before any long work, where nothing can be written in it."""
    path = Path(typed)
    try:
        _make(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in its name
        cause = "a file is in its place" if isinstance(error, (FileExistsError, NotADirectoryError)) else getattr(error, "strerror", error)
        raise ValueError(f"the folder {path} cannot be made ({cause}): choose another place") from None
    if not os.access(path, os.W_OK):
        raise ValueError(f"the folder {path} is read-only: choose another place")
    return path


def port(typed: str) -> int:
    """A port to serve at, for argparse."""
    if not typed.isdigit() or not 1 <= int(typed) <= 65535:
        raise ArgumentTypeError(f"must be a whole number from 1 to 65535, not {typed}")
    return int(typed)


def drawing(command: ArgumentParser, recipe: bool = True) -> None:
    """How images are drawn. recipe: whether the command may take a recipe, which then says what was not typed."""
    first = "the recipe's, else " if recipe else ""
    command.add_argument("--steps", type=positive, metavar="N", help=f"sampling steps (default: {first}20)")
    command.add_argument("--guidance", type=strength, metavar="G", help=f"pull of the prompt, 1 for none (default: {first}what the first "
                         "model is meant for: its card's, or usual for its kind, as 7.5 for Stable Diffusion)")  # fmt: skip
    command.add_argument("--guidance-interval", nargs=2, type=float, metavar=("A", "B"),
                         help=f"guide only between these shares of the steps, 0 for noise and 1 for the image (default: {first}all): "
                              "0.2 0.8 saves two fifths of what guidance costs")  # fmt: skip
    command.add_argument("--negative", dest="negative_prompt", metavar="TEXT",
                         help=f"what guidance pulls away from; it acts with guidance above 1 (default: {first}nothing)")
    command.add_argument("--clip-skip", type=natural, metavar="N",
                         help="which layer of the CLIP text encoders is read, counted from the last one, 1, as web UIs count; models of "
                              f"the NovelAI line are made for 2 (default: {first}the family's own)")
    command.add_argument("--height", type=positive, metavar="PIXELS", help="default: the models' own")
    command.add_argument("--width", type=positive, metavar="PIXELS", help="default: the models' own")


def interval(typed: list[float] | None, guidance: float) -> tuple[float, float] | None:
    """The guidance interval that was typed. Raises ValueError, with cause and cure, for one that means nothing."""
    from fusion.guidance import checked

    if typed is not None and guidance <= 1:
        raise ValueError("there is no guidance to limit to an interval: give --guidance above 1, too, for example 5")
    return checked(typed)


def calibration(command: ArgumentParser) -> None:
    """Where the members' calibration comes from."""
    command.add_argument("--calibration", metavar="FILE", help="a saved calibration (default: the one shipped for the models)")
    command.add_argument("--calibrate", type=natural, metavar="N",
                         help="measure one now: draw N images from each model (96 is a good start) and keep it in FILE")  # fmt: skip
    command.add_argument("--levels", type=positive, default=16, metavar="L",
                         help="noise levels measured (default: 16, as shipped calibrations)")  # fmt: skip


def memory(command: ArgumentParser) -> None:
    """How models are held in memory."""
    command.add_argument("--memory", nargs="+", metavar="WORD", default=(),
                         help="fix parts of the memory plan, which is chosen from the memory there is and printed: merge or switch "
                              "(LoRAs), "
                              "waiting or resident (networks and text encoders), whole or sliced (decoding), float32, float16, "
                              "bfloat16")  # fmt: skip


def loading(command: ArgumentParser) -> None:
    """How models are held in memory, and whether their networks are compiled."""
    memory(command)
    command.add_argument("--compile", action="store_true",
                         help="compile the networks (torch.compile): the first image takes minutes, later ones less")  # fmt: skip


def held(args) -> dict:
    """What `memory` or `loading` gave, as arguments of `load_ensemble`."""
    return {"memory": tuple(args.memory), "compile": getattr(args, "compile", False)}


def size(args, recipe=None) -> tuple[int | None, int | None]:
    """(height, width) that was typed, else the recipe's: where models whose own sizes differ meet."""
    height, width = (getattr(args, side, None) or getattr(recipe, side, None) for side in ("height", "width"))
    return height, width


def shared(command: ArgumentParser) -> None:
    """What every command that runs models understands."""
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    command.add_argument("--json", action="store_true", help="print the result as one JSON object, for scripts")
