"""`python -m fusion compare`: several methods on the same seeds, weighed on target images that the fit has not seen."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from fusion.commands import options
from fusion.methods import NAMES, SINGLES

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
    command.add_argument("--methods", nargs="+", choices=(*NAMES, SINGLES), default=list(NAMES), metavar="METHOD",
                         help=f"which to run (default: all of {', '.join(NAMES)}); {SINGLES} stands for each model alone")  # fmt: skip
    command.add_argument("--caption", default="", help="prompt for images that have no caption of their own (docs/guide.md)")
    command.add_argument("--prompt", action="append", metavar="TEXT", help="what to draw (default: the target's own prompts)")
    command.add_argument("--count", type=options.positive, default=16, metavar="N", help="images for each method (default: 16)")
    command.add_argument("--seed", type=options.seed, default=0, metavar="S", help="first seed (default: 0)")
    command.add_argument("--out", metavar="FILE", help="the report, .html with images or .json")
    command.add_argument("--no-features", action="store_true", help="skip reading the samples' features (faster, less evidence)")
    options.calibration(command)
    options.drawing(command, recipe=False)
    options.loading(command)
    options.shared(command)


def run(args, *, progress, stop):
    """Fit on one part of the target, run the methods, weigh them on the other part. ValueError for what cannot be used, before any work."""
    from fusion.commands.shared import check_levels, ensemble_of, fitted, guided, heard, say, told
    from fusion.evaluation import compare
    from fusion.evaluation.compare import chosen
    from fusion.evaluation.report import ENDINGS
    from fusion.methods.drawing import size_of
    from fusion.target import Target

    if args.out:
        options.writable(args.out, *ENDINGS)
    pictures, captions, *others = _split(args)  # before models, which may have to be fetched
    held, plan = Target([picture.image for picture in others[0]], others[1]), _plan(args, others[1])
    check_levels(args)
    ensemble = ensemble_of(args.models, args.device, progress, meeting=options.size(args), **options.held(args))
    other = sorted(set(plan.prompts) - set(others[1]))
    if other and any(others[1]):
        say(f"No held-out picture has the caption {other[0]!r}: figures then compare pictures of other contents as well")
    size_of(ensemble, plan)  # refuses what these models cannot draw, before they are fitted
    heard(ensemble, [*captions, *others[1]])
    heard(ensemble, plan.prompts, plan.reading, plan.negative_prompt)
    found = fitted(args, ensemble, pictures, captions, progress, stop)
    methods, plan = chosen(ensemble, args.methods), guided(args, plan, ensemble)
    _say_prices(args, ensemble, methods, found, plan)
    held_out, measured = _measured(args, ensemble, held, progress, stop)
    known = _known_population(args.target)
    report = compare(
        ensemble, methods, plan.prompts, plan.seeds, fit=found, held_out=held_out, target=list(held.images) if known is None else known,
        pictures=held, measured=measured, steps=plan.steps, guidance=plan.guidance, negative_prompt=plan.negative_prompt,
        clip_skip=plan.clip_skip, guidance_interval=plan.guidance_interval,
        height=plan.height, width=plan.width, read_features=not args.no_features, progress=progress, stop=stop,
    )  # fmt: skip
    return _saved(report, args.out, f"{told(found)}\n\n{report.to_text()}")


def _plan(args, captions: list[str]):
    """What every method draws: the typed prompts, else the held-out images' own, in turn. ValueError for settings out of range."""
    from fusion.commands.shared import guidance_of
    from fusion.methods import SamplingPlan

    guidance = guidance_of(args)
    prompts = args.prompt or sorted(set(captions))
    plan = SamplingPlan(
        [prompts[i % len(prompts)] for i in range(args.count)], range(args.seed, args.seed + args.count), args.steps or 20, guidance,
        args.height, args.width, guidance_interval=options.interval(args.guidance_interval, guidance),
        negative_prompt=args.negative_prompt or "", clip_skip=args.clip_skip or 0,
    )  # fmt: skip
    _ = plan.jobs  # checks them, before anything is loaded
    return plan


def _say_prices(args, ensemble, methods, fit, plan) -> None:
    """What every method costs, before any of them runs."""
    from fusion.commands.shared import at_guidance, priced, say
    from fusion.methods import MethodError
    from fusion.methods.alone import sampler_words

    say(f"{len(plan.jobs)} images a method {at_guidance(args, plan)}:")
    for method in methods.values():
        try:
            say(f"  {method.title}: {priced(method.cost(ensemble, fit, plan))}")
        except MethodError as error:
            say(f"  {method.title} cannot run: {error}")
    for sentence in dict.fromkeys(one for name in methods for one in sampler_words(ensemble, plan, name)):
        say(sentence)


def _measured(args, ensemble, held, progress, stop):
    """The statistic of at most `READ` held-out pictures, spread over all (every network at every level is dear), and these pictures."""
    import numpy as np

    from fusion.commands.shared import say
    from fusion.evaluation.own_loss import SEED
    from fusion.objective import fit_gram
    from fusion.target import Target

    read = np.unique(np.linspace(0, len(held) - 1, min(len(held), READ)).round().astype(int))
    if len(read) < len(held):
        say(f"Losses and calibrated features are measured on {len(read)} of the {len(held)} held-out pictures, all else on every one")
    part = Target([held.images[i] for i in read], [held.prompts[i] for i in read])
    return fit_gram(ensemble, part.images, part.prompts, levels=args.levels, seed=SEED, progress=progress, stop=stop), part


def _saved(report, out: str | None, text: str) -> tuple[dict, str]:
    """The result and its words, once the report is written. Raises Unsaved, which holds both, where it cannot be."""
    from fusion.commands import Unsaved

    if not out:
        return report.to_dict(), text
    try:
        report.save(out)
    except OSError as error:
        lost = f"the report could not be written to {out} ({error.strerror}): the figures are above, without the images"
        raise Unsaved(lost, report.to_dict(), text) from None
    return report.to_dict(), f"{text}\nThe report is in {out}"


def _split(args) -> tuple[list, list[str], list, list[str]]:
    """Pictures and captions to fit, and held-out ones. ValueError where one picture is among both."""
    from fusion.commands.shared import pictures_in, say

    target = Path(args.target)
    if args.held_out or (target / "held_out").is_dir():
        fit_folder = target / "fit" if (target / "fit").is_dir() else target
        parts = *pictures_in(str(fit_folder), args.caption), *pictures_in(args.held_out or str(target / "held_out"), args.caption)
        fitted = {picture.image.tobytes() for picture in parts[0]}
        both = [picture.name for picture in parts[2] if picture.image.tobytes() in fitted]
        if both:
            more = f" and {len(both) - 3} more" if len(both) > 3 else ""
            raise ValueError(f"{', '.join(both[:3])}{more}: among the held-out pictures and among the fitted ones, which is no evidence: "
                             "hold out others")  # fmt: skip
        return parts
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
