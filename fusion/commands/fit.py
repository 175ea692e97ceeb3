"""`python -m fusion fit`: the mix of models that a folder of images looks like."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from fusion.commands import options

ABOUT = """Find the mix of models that your images look like.

Runs every model over your images, forward only, and writes a recipe with weights and their uncertainty. Twelve images are a good start.
Captions come from captions.json, a list of {"file": ..., "prompt": ...}, or from text files beside the images; --caption is for the others.

  python -m fusion fit --models portraits/harbor portraits/summit portraits/meadow --images my-images --caption "a portrait of a cook"
  python -m fusion fit --models owner/model-a owner/model-b --images my-images --caption "a photo of a harbour" --calibrate 96

A fit that was cut short goes on where it was when the same command is given again; with one more model or picture only what is new is
computed. Several GPUs share the work (on CPUs too: with --device cpu):

  accelerate launch --multi_gpu --num_processes 4 -m fusion fit --models owner/model-a owner/model-b --images my-images
"""
PARALLEL = True  # may run in several processes: they share the pictures and noise levels out, the first one writes


def arguments(command: ArgumentParser) -> None:
    command.add_argument("--models", nargs="+", required=True, metavar="MODEL", help=options.MODELS)
    command.add_argument("--images", required=True, metavar="FOLDER", help="folder of target images, or a zip of one (see docs/guide.md)")
    command.add_argument("--caption", default="", help="prompt for images that have no caption of their own (docs/guide.md)")
    command.add_argument("--out", default="fit.json", metavar="FILE", help="where the recipe goes (default: fit.json)")
    command.add_argument("--gram", metavar="FILE", help="also keep the measured statistic (.safetensors), for later analysis")
    command.add_argument("--work", metavar="FOLDER", help="where what the models say is kept, for a fit that goes on and for the next one "
                         "(default: beside the recipe)")  # fmt: skip
    command.add_argument("--no-work", action="store_true", help="keep nothing: a fit that is cut short begins anew")
    options.calibration(command)
    options.loading(command)
    options.shared(command)


def run(args, *, progress, stop):
    """Fit, and write the recipe (and the statistic)."""
    from fusion.commands.shared import check_levels, ensemble_of, fitted, heard, pictures_in, say, told
    from fusion.images import advice
    from fusion.parallel import together
    from models.room import amount

    for file in filter(None, (args.out, args.gram)):
        options.writable(file)
    if not args.no_work:
        options.folder(_work(args))
    check_levels(args)
    with together(args.device) as team:
        pictures, captions = pictures_in(args.images, args.caption)  # before models, which may have to be fetched
        say(advice(len(pictures)))
        ensemble = ensemble_of(args.models, args.device, progress, **options.held(args))
        kept = None if args.no_work else _kept(args, ensemble, len(pictures))
        unread = heard(ensemble, captions)
        found = fitted(args, ensemble, pictures, captions, progress, stop, team, kept)
        asked, known = (0, 0) if kept is None else (int(n[0]) for n in team.total([kept.asked], [kept.found]))
    if not team.first:
        return {}, ""
    if args.gram:
        found.gram.save(args.gram)
    recipe = _recipe(ensemble, found)
    recipe.save(args.out)
    result = {"recipe": str(args.out), "stopped": stop(), **found.summary(), "captions": unread}
    lines = [told(found), f"The recipe is in {args.out}: python -m fusion sample {args.out} --prompt \"...\""]
    if kept is not None:
        result |= {"work": str(kept.folder), "asked": asked, "kept": known}
        lines.append(f"{kept.folder} ({amount(kept.size())}) keeps what the models said ({known} of {asked + known} answers were "
                     "there before): another model or picture costs only what is new. Delete it when you are done.")  # fmt: skip
    return result, "\n".join(lines)


def _work(args) -> Path:
    """Where what the models say is kept: beside the recipe, unless another folder was typed."""
    return Path(args.work) if args.work else Path(args.out).with_suffix(".work")


def _kept(args, ensemble, images: int):
    """The folder of predictions. Raises ValueError where the disk has no room for them."""
    from fusion.kept import Kept, size_of
    from models import room

    folder = _work(args)
    own = len(ensemble) * (args.calibrate or 0)
    kept, there = Kept(folder), room.free(folder)
    needed = size_of(ensemble, images + own, args.levels) - kept.size()
    if needed > there:
        raise ValueError(f"keeping what the models say takes {room.amount(needed)} and {folder} has room for {room.amount(there)}: "
                         "choose another folder with --work, or use --no-work")  # fmt: skip
    return kept


def _recipe(ensemble, found):
    """The calibrated proportions as a mixture; without a calibration the published weights."""
    from fusion.methods import SamplingPlan
    from fusion.recipe import Recipe

    prompts = sorted(set(found.gram.prompts))[:64]
    plan = SamplingPlan(prompts, range(len(prompts)), guidance=ensemble.guidance)
    if found.calibrated is not None:
        return Recipe.of(ensemble, "mixture", plan, found.calibrated.as_weights(), metrics=found.summary())
    return Recipe.of(ensemble, "scorefusion", plan, found.published.as_weights(), metrics=found.summary())
