"""`python -m fusion compare`: several methods on the same seeds, weighed on target images that the fit has not seen."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from fusion.commands import options
from fusion.methods import NAMES

ABOUT = """Run several methods on the same seeds and weigh them on target images that the fit has not seen.

--target is a folder with `fit` and `held_out` inside, or a folder of images, of which every second one is then held out.
`matched` first searches for its weights by drawing (minutes on a CPU): leave it out of --methods for a quick look.

  python -m fusion compare --models portraits/harbor portraits/summit portraits/meadow portraits/delta --target assets/targets/valley \\
      --methods single scorefusion mixture --count 16 --out report.html
"""
READ = 32  # held-out pictures whose statistic is measured


def arguments(command: ArgumentParser) -> None:
    command.add_argument("--models", nargs="+", required=True, metavar="MODEL", help=options.MODELS)
    command.add_argument("--target", required=True, metavar="FOLDER", help="target images, see above")
    command.add_argument("--held-out", metavar="FOLDER", help="held-out target images, when they are elsewhere")
    command.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES), metavar="METHOD",
                         help=f"which to run (default: all of {', '.join(NAMES)})")  # fmt: skip
    command.add_argument("--caption", default="", help="prompt for images that captions.json does not name")
    command.add_argument("--prompt", action="append", metavar="TEXT", help="what to draw (default: the target's own prompts)")
    command.add_argument("--count", type=int, default=16, metavar="N", help="images for each method (default: 16)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="first seed (default: 0)")
    command.add_argument("--out", metavar="FILE", help="the report, .html with images or .json")
    command.add_argument("--no-features", action="store_true", help="skip reading the samples' features (faster, less evidence)")
    options.calibration(command)
    options.drawing(command, recipe=False)
    options.loading(command)
    options.shared(command)


def run(args, *, progress, stop):
    """Fit on one part of the target, run the methods, weigh them on the other part."""
    import numpy as np

    from fusion.commands.shared import ensemble_of, fitted, say, told
    from fusion.evaluation import compare
    from fusion.objective import fit_gram
    from fusion.target import Target

    guidance = 1.0 if args.guidance is None else args.guidance
    interval = options.interval(args.guidance_interval, guidance)
    pictures, captions, held, held_captions = _split(args)  # before models, which may have to be fetched
    ensemble = ensemble_of(args.models, args.device, progress, **options.held(args))
    found = fitted(args, ensemble, pictures, captions, progress, stop)
    held_images = [picture.image for picture in held]
    read = np.unique(np.linspace(0, len(held) - 1, min(len(held), READ)).round().astype(int))  # every network at every level is dear
    if len(read) < len(held):
        say(f"Losses and calibrated features are measured on {len(read)} of the {len(held)} held-out pictures, all else on every one")
    held_out = fit_gram(ensemble, [held_images[i] for i in read], [held_captions[i] for i in read], levels=args.levels, seed=1,
                        progress=progress, stop=stop)  # fmt: skip
    prompts = args.prompt or sorted(set(held_captions))
    known = _known_population(args.target)
    report = compare(
        ensemble, args.methods, [prompts[i % len(prompts)] for i in range(args.count)], range(args.seed, args.seed + args.count),
        fit=found, held_out=held_out, target=held_images if known is None else known,
        pictures=Target(tuple(held_images), tuple(held_captions)), steps=args.steps or 20,
        guidance=guidance, guidance_interval=interval, height=args.height, width=args.width,
        read_features=not args.no_features, progress=progress, stop=stop,
    )  # fmt: skip
    if args.out:
        report.save(args.out)
    text = f"{told(found)}\n\n{report.to_text()}" + (f"\nThe report is in {args.out}" if args.out else "")
    return report.to_dict(), text


def _split(args) -> tuple[list, list[str], list, list[str]]:
    """Pictures and captions to fit, and held-out ones."""
    from fusion.commands.shared import pictures_in, say

    target = Path(args.target)
    if args.held_out or (target / "held_out").is_dir():
        fit_folder = target / "fit" if (target / "fit").is_dir() else target
        return *pictures_in(str(fit_folder), args.caption), *pictures_in(args.held_out or str(target / "held_out"), args.caption)
    pictures, captions = pictures_in(args.target, args.caption)
    if len(pictures) < 4:
        raise ValueError(f"{len(pictures)} pictures cannot be split into fitted and held-out ones: give at least 4, or --held-out FOLDER")
    say(f"Every second one of the {len(pictures)} pictures is held out")
    return pictures[::2], captions[::2], pictures[1::2], captions[1::2]


def _known_population(folder: str):
    """The exact population of a shipped example target, None for anybody else's images."""
    from models.catalog import REPOSITORY
    from models.portraits.population import TARGET_POPULATIONS

    path = Path(folder).resolve()
    return TARGET_POPULATIONS.get(path.name) if path.parent == (REPOSITORY / "assets" / "targets").resolve() else None
