"""The command line: the table of commands, Ctrl-C, progress bars, exit codes. Each command has its file in `fusion.commands`.

Exit codes: 0 done, 1 could not be done (a sentence on stderr says why and what to do), 2 wrong usage, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence

from tqdm import tqdm

from fusion.commands import Unsaved, options
from fusion.lazy import Lazy
from fusion.parallel import lonely, started, wants_cpu
from models.room import is_full, told

NAMES = ("fit", "sample", "compare", "details", "train", "represent", "distill", "study", "deploy", "serve")
COMMANDS = Lazy(NAMES, "fusion.commands")  # name -> module with ABOUT, arguments, run

ABOUT = """Fuse several text-to-image models to make images like yours.

First `fit`: it looks at a dozen of your images and finds the mix of models they look like. Then `sample`: it draws new images from that
mix. `compare` shows whether the mix is better than any single model. `serve` opens all of it as a page in the browser.

  python -m fusion fit --models portraits/harbor portraits/summit --images assets/targets/valley/fit --out fit.json
  python -m fusion sample fit.json --prompt "a portrait of a scientist" --count 8 --out images
  python -m fusion compare --models portraits/harbor portraits/summit --target assets/targets/valley --out report.html
  python -m fusion serve
"""


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="python -m fusion", description=ABOUT, formatter_class=raw)
    commands = top.add_subparsers(dest="command", required=True, metavar="{" + ",".join(COMMANDS) + "}")
    for name, module in COMMANDS.items():
        module.arguments(commands.add_parser(name, help=module.ABOUT.split("\n")[0], description=module.ABOUT, formatter_class=raw))
    return top


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

    def __init__(self, shown: bool = True):
        self._bar, self._shown = None, shown

    def __call__(self, done: int, total: int, message: str) -> None:
        if not self._shown:
            return
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
    try:
        return _main(argv)
    finally:
        options.tidy()


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would advise on torchvision, which nothing here needs, at every start
    command, (rank, size) = COMMANDS[args.command], started()
    bar = Bar(shown=rank == 0)
    with Interrupt() as interrupt:
        try:
            if size > 1 and not getattr(command, "PARALLEL", False):
                raise ValueError(f"{args.command} runs in one process: start it without accelerate launch")
            if lonely():
                print("accelerate started one process: on CPUs it starts several only with --multi_gpu in place of --cpu", file=sys.stderr)
            if wants_cpu() and getattr(args, "device", None) == "auto":
                args.device = "cpu"
            result, text = command.run(args, progress=bar, stop=interrupt)
        except KeyboardInterrupt:
            return 130
        except Unsaved as error:
            bar.close()
            _show(args, error.result, error.text)
            print(f"error: {error}", file=sys.stderr)
            return 1
        except Exception as error:  # our refusals are ValueErrors; a full disk is told by whichever library was writing
            if not isinstance(error, (ValueError, OSError, FloatingPointError, RuntimeError, MemoryError)) and not is_full(error):
                raise
            said = _cause(error, args)
            if said is None and not interrupt():  # long work raises RuntimeError when stopped before anything was done; else it is a bug
                raise
            bar.close()
            who = f"process {rank + 1} of {size}: " if rank else ""
            print("Stopped; there was nothing to keep yet." if interrupt() else f"{who}error: {said}", file=sys.stderr)
            return 130 if interrupt() else 1
    bar.close()
    if rank:  # the first process speaks for all
        return 130 if interrupt() else 0
    _show(args, result, text)
    return 130 if interrupt() else 0


def _cause(error: Exception, args) -> str | None:
    """What to say of an error; None for one that only a bug explains."""
    if is_full(error):
        return told(error, getattr(args, "out", None) or ".")
    if not isinstance(error, (RuntimeError, MemoryError)):
        return str(error)
    from fusion.memory import out_of_memory

    if not out_of_memory(error):
        return None
    reason = next(iter(str(error).splitlines()), "").strip() or "the machine has no more"
    cures = {"memory": "hold less at once with --memory waiting sliced", "height": "make smaller images with --height and --width"}
    cures = [*(cure for option, cure in cures.items() if hasattr(args, option)), "use fewer or smaller models or images"]
    return f"memory ran out ({reason}): {', or '.join(cures)}"


def _show(args, result: dict, text: str) -> None:
    print(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False) if getattr(args, "json", False) else text)
