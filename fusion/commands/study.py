"""`study`: repeat one of the papers' experiments here and write its page, tables and figures."""

from __future__ import annotations

import inspect
import shutil
from argparse import ArgumentParser
from pathlib import Path

from fusion.commands import options
from fusion.studies import NAMES, STUDIES

PAGE = "page"  # below a study's work: what it writes until it is whole

ABOUT = """Repeat one of the papers' experiments, over seeds, and write its page, tables and figures.

A study takes about an hour at most on two cores and goes on where it was stopped: partial results stay in --work.
`--quick` takes seconds and shows only that everything runs. The committed results are in assets/studies.

  python -m fusion study gaussians
  python -m fusion study digits --data FOLDER-WITH-MNIST --seeds 5 --out my-digits
  python -m fusion study gaussians --quick --out /tmp/gaussians
"""


def arguments(command: ArgumentParser) -> None:
    command.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    command.add_argument("--quick", action="store_true", help="a size of seconds, to see it run; its figures mean nothing")
    command.add_argument("--seeds", type=options.positive, metavar="N",
                         help="repetitions that intervals come from (default: the study's own)")  # fmt: skip
    command.add_argument("--out", metavar="FOLDER", help="where the results go (default: assets/studies/NAME; with --quick: quick-NAME)")
    command.add_argument("--work", metavar="FOLDER", help="where partial results stay (default: .train/study-NAME)")
    command.add_argument("--data", metavar="FOLDER", help="idx files of handwritten digits, for the studies that need them")
    command.add_argument("--json", action="store_true", help="print the result as one JSON object, for scripts")


def folders(name: str, quick: bool = False, out: str | None = None, work: str | None = None) -> tuple[Path, Path]:
    """Where results and partial results go: a quick run must neither replace committed results nor be taken up by a full one."""
    results = Path(out or (f"quick-{name}" if quick else Path("assets") / "studies" / name))
    return results, Path(work or Path(".train") / f"{'quick' if quick else 'study'}-{name}")


def put(fresh: Path, out: Path) -> None:
    """Move the files of a page to where it belongs, the page itself last: it never names what is not there."""
    for file in sorted((path for path in fresh.rglob("*") if path.is_file()), key=lambda path: (path.name == "README.md", path)):
        place = out / file.relative_to(fresh)
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{place.name}.new")
        shutil.copyfile(file, beside)  # another disk, perhaps; then at once
        beside.replace(place)


def run(args, *, progress, stop):
    """Run the study; `({"study", "out", "stopped", "summary"}, text)`. ValueError where the study cannot be run as asked."""
    study = STUDIES[args.name]
    more = {"data": args.data} if "data" in inspect.signature(study.run).parameters else {}
    if args.data is not None and not more:
        raise ValueError(f"the study {args.name} makes its own data: leave --data out")
    out, work = folders(args.name, args.quick, args.out, args.work)
    for folder in (out, work):
        options.folder(folder)
    fresh = work / PAGE
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    summary = study.run(fresh, work, quick=args.quick, seeds=args.seeds, progress=progress, stop=stop, **more)
    stopped = bool(stop())
    if not stopped or not (out / "README.md").is_file():  # a part never takes the place of a whole page
        put(fresh, out)
    text = f"Stopped; the same command goes on from {work}." if stopped else f"{study.TITLE}: {out / 'README.md'}"
    return {"study": args.name, "out": str(out), "stopped": stopped, "summary": summary}, text
