"""The command line: what can be asked, in words for a newcomer. What is done stands in `fusion.commands`.

Exit codes: 0 done, 1 could not be done (a sentence on stderr says why and what to do), 2 wrong usage, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence

from tqdm import tqdm

METHOD_NAMES = ("single", "uniform", "scorefusion", "scorefusion_levels", "mixture", "matched")

ABOUT = """Fuse several text-to-image models to make images like yours.

First `fit`: it looks at a dozen of your images and finds the mix of models they look like. Then `sample`: it draws new images from that
mix. `compare` shows whether the mix is better than any single model. `serve` opens all of it as a page in the browser.

  python -m fusion fit --models portraits/harbor portraits/summit --images assets/targets/valley/fit --out fit.json
  python -m fusion sample fit.json --prompt "a portrait of a scientist" --count 8 --out images
  python -m fusion compare --models portraits/harbor portraits/summit --target assets/targets/valley --out report.html
  python -m fusion serve
"""
FIT = """Find the mix of models that your images look like.

Runs every model over your images, forward only, and writes a recipe with weights and their uncertainty. Twelve images are a good start.
Captions come from captions.json in the folder, a list of {"file": ..., "prompt": ...}; --caption is used for images without one.

  python -m fusion fit --models portraits/harbor portraits/summit portraits/meadow --images my-images --caption "a portrait of a cook"
  python -m fusion fit --models owner/model-a owner/model-b --images my-images --caption "a photo of a harbour" --calibrate 96
"""
SAMPLE = """Draw images: again from a recipe, from a recipe with other prompts, or from models and weights given here.

Every image is a PNG that carries its own recipe: `sample IMAGE.png` draws it again, pixel for pixel on the same machine.

  python -m fusion sample fit.json --prompt "a portrait of a scientist" --count 8
  python -m fusion sample images/0001-mixture-seed1.png
  python -m fusion sample --models portraits/harbor portraits/summit --weights 0.7 0.3 --method mixture --prompt "a portrait of a judge"
"""
COMPARE = """Run several methods on the same seeds and weigh them on target images that the fit has not seen.

--target is a folder with `fit` and `held_out` inside, or a folder of images, of which every second one is then held out.
`matched` first searches for its weights by drawing (minutes on a CPU): leave it out of --methods for a quick look.

  python -m fusion compare --models portraits/harbor portraits/summit portraits/meadow portraits/delta --target assets/targets/valley \\
      --methods single scorefusion mixture --count 16 --out report.html
"""
SERVE = """Open the page: choose models, drop in images, fit, mix, compare. It listens on this machine only.

  python -m fusion serve --port 7860
"""
MODELS = (
    "two or more models: an id of the catalog (portraits/harbor), a Hugging Face id (owner/name or owner/name@COMMIT), or a folder; "
    "MODEL+ADAPTER puts a LoRA on a model"
)


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="python -m fusion", description=ABOUT, formatter_class=raw)
    commands = top.add_subparsers(dest="command", required=True, metavar="{fit,sample,compare,serve}")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text.split("\n")[0], description=text, formatter_class=raw)

    _fit(add("fit", FIT))
    _sample(add("sample", SAMPLE))
    _compare(add("compare", COMPARE))
    serve = add("serve", SERVE)
    serve.add_argument("--port", type=int, help="port to serve at (default: the first free one from 7860)")
    serve.add_argument("--open", action="store_true", help="open the page in a browser")
    return top


def _fit(command) -> None:
    command.add_argument("--models", nargs="+", required=True, metavar="MODEL", help=MODELS)
    command.add_argument("--images", required=True, metavar="FOLDER", help="folder of target images (PNG, JPEG, WebP, GIF, BMP, TIFF)")
    command.add_argument("--caption", default="", help="prompt for images that captions.json does not name")
    command.add_argument("--out", default="fit.json", metavar="FILE", help="where the recipe goes (default: fit.json)")
    command.add_argument("--gram", metavar="FILE", help="also keep the measured statistic (.safetensors), for later analysis")
    _calibration(command)
    _shared(command)


def _sample(command) -> None:
    command.add_argument("recipe", nargs="?", help="a recipe .json, or a PNG that was drawn here")
    command.add_argument("--models", nargs="+", metavar="MODEL", help=MODELS + " (with a recipe: where its models are, in its order)")
    command.add_argument("--weights", nargs="+", type=float, metavar="W", help="a number of at least 0 for each model; they must sum to 1")
    command.add_argument("--method", choices=METHOD_NAMES, help="how models are combined (default: the recipe's, else mixture)")
    command.add_argument("--prompt", action="append", metavar="TEXT", help="what to draw; may be given several times")
    command.add_argument("--count", type=int, metavar="N", help="images for each prompt (default: the recipe's, else 4)")
    command.add_argument("--seed", type=int, metavar="S", help="first seed; image i of a prompt has seed S + i (default: 0)")
    command.add_argument("--out", default="images", metavar="FOLDER", help="where images go (default: images)")
    _drawing(command)
    _shared(command)


def _compare(command) -> None:
    command.add_argument("--models", nargs="+", required=True, metavar="MODEL", help=MODELS)
    command.add_argument("--target", required=True, metavar="FOLDER", help="target images, see above")
    command.add_argument("--held-out", metavar="FOLDER", help="held-out target images, when they are elsewhere")
    command.add_argument("--methods", nargs="+", choices=METHOD_NAMES, default=list(METHOD_NAMES), metavar="METHOD",
                         help=f"which to run (default: all of {', '.join(METHOD_NAMES)})")  # fmt: skip
    command.add_argument("--caption", default="", help="prompt for images that captions.json does not name")
    command.add_argument("--prompt", action="append", metavar="TEXT", help="what to draw (default: the target's own prompts)")
    command.add_argument("--count", type=int, default=16, metavar="N", help="images for each method (default: 16)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="first seed (default: 0)")
    command.add_argument("--out", metavar="FILE", help="the report, .html with images or .json")
    command.add_argument("--no-features", action="store_true", help="skip reading the samples' features (faster, less evidence)")
    _calibration(command)
    _drawing(command)
    _shared(command)


def _drawing(command) -> None:
    command.add_argument("--steps", type=int, metavar="N", help="sampling steps (default: the recipe's, else 20)")
    command.add_argument("--guidance", type=float, metavar="G", help="pull of the prompt (default: the recipe's, else 1: none added)")
    command.add_argument("--height", type=int, metavar="PIXELS", help="default: the models' own")
    command.add_argument("--width", type=int, metavar="PIXELS", help="default: the models' own")


def _calibration(command) -> None:
    command.add_argument("--calibration", metavar="FILE", help="a saved calibration (default: the one shipped for the models)")
    command.add_argument("--calibrate", type=int, metavar="N",
                         help="measure one now: draw N images from each model (96 is a good start) and keep it in FILE")  # fmt: skip
    command.add_argument("--levels", type=int, default=16, metavar="L", help="noise levels measured (default: 16, as shipped calibrations)")


def _shared(command) -> None:
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    command.add_argument("--json", action="store_true", help="print the result as one JSON object, for scripts")


class Interrupt:
    """`stop()` for long work: the first Ctrl-C asks it to end and keep what is done, the second ends the program at once."""

    def __init__(self):
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_error) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, _signal, _frame) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nStopping after this step; what is done is kept. Ctrl-C again ends at once.", file=sys.stderr)


class Bar:
    """`progress(done, total, message)` as bars on stderr, one after another; silent where stderr is no terminal."""

    def __init__(self):
        self._bar = None

    def __call__(self, done: int, total: int, message: str) -> None:
        if self._bar is not None and (done < self._bar.n or total != self._bar.total):
            self.close()
        if self._bar is None:
            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left"
            self._bar = tqdm(total=total, disable=None, file=sys.stderr, bar_format=form)
        self._bar.set_description(message, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = parser().parse_args(argv)
    from fusion import commands  # loads torch and diffusers: not needed for --help

    bar = Bar()
    with Interrupt() as interrupt:
        try:
            result, text = getattr(commands, args.command)(args, progress=bar, stop=interrupt)
        except KeyboardInterrupt:
            return 130
        except (ValueError, OSError, FloatingPointError, RuntimeError) as error:  # our refusals are ValueErrors
            if isinstance(error, RuntimeError) and not interrupt():  # long work raises it when stopped before anything was done
                raise
            bar.close()
            print("Stopped; there was nothing to keep yet." if interrupt() else f"error: {error}", file=sys.stderr)
            return 130 if interrupt() else 1
    bar.close()
    print(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False) if args.command != "serve" and args.json else text)
    return 130 if interrupt() else 0
