"""`python -m fusion fit`: the mix of models that a folder of images looks like."""

from __future__ import annotations

from argparse import ArgumentParser

from fusion.commands import options

ABOUT = """Find the mix of models that your images look like.

Runs every model over your images, forward only, and writes a recipe with weights and their uncertainty. Twelve images are a good start.
Captions come from captions.json in the folder, a list of {"file": ..., "prompt": ...}; --caption is used for images without one.

  python -m fusion fit --models portraits/harbor portraits/summit portraits/meadow --images my-images --caption "a portrait of a cook"
  python -m fusion fit --models owner/model-a owner/model-b --images my-images --caption "a photo of a harbour" --calibrate 96
"""


def arguments(command: ArgumentParser) -> None:
    command.add_argument("--models", nargs="+", required=True, metavar="MODEL", help=options.MODELS)
    command.add_argument("--images", required=True, metavar="FOLDER", help="folder of target images (PNG, JPEG, WebP, GIF, BMP, TIFF)")
    command.add_argument("--caption", default="", help="prompt for images that captions.json does not name")
    command.add_argument("--out", default="fit.json", metavar="FILE", help="where the recipe goes (default: fit.json)")
    command.add_argument("--gram", metavar="FILE", help="also keep the measured statistic (.safetensors), for later analysis")
    options.calibration(command)
    options.shared(command)


def run(args, *, progress, stop):
    """Fit, and write the recipe (and the statistic)."""
    from fusion.commands.shared import ensemble_of, fitted, pictures_in, say, told
    from fusion.images import advice

    ensemble = ensemble_of(args.models, args.device, progress)
    pictures, captions = pictures_in(args.images, args.caption)
    say(advice(len(pictures)))
    found = fitted(args, ensemble, pictures, captions, progress, stop)
    if args.gram:
        found.gram.save(args.gram)
    recipe = _recipe(ensemble, found)
    recipe.save(args.out)
    result = {"recipe": str(args.out), "stopped": stop(), **found.summary()}
    return result, f"{told(found)}\nThe recipe is in {args.out}: python -m fusion sample {args.out} --prompt \"...\""


def _recipe(ensemble, found):
    """The calibrated proportions as a mixture; without a calibration the published weights."""
    from fusion.methods import SamplingPlan
    from fusion.recipe import Recipe

    prompts = sorted(set(found.gram.prompts))[:64]
    plan = SamplingPlan(prompts, range(len(prompts)))
    if found.calibrated is not None:
        return Recipe.of(ensemble, "mixture", plan, found.calibrated.as_weights(), metrics=found.summary())
    return Recipe.of(ensemble, "scorefusion", plan, found.published.as_weights(), metrics=found.summary())
