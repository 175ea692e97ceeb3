"""`python -m fusion train`: one of the methods that train, on a folder of images; a recipe that draws with what was trained."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

from fusion.commands import options
from fusion.methods import SHARING, TRAINED

ABOUT = """Train a model a little on your images, and write a recipe that draws with it.

What most people would do instead of mixing models, to compare with it. `finetune` trains a small adapter on the model that your images look
most like; `transfer` does so with prompts read through what all the models share (see `represent`), `transfer_unfrozen` trains that, too,
and `scratch` has to learn it from your images alone. A quarter of the images is held out, to stop before the others are learned by heart.
What was trained is one .safetensors file beside the recipe: keep the two together.

  python -m fusion train --models portraits/harbor portraits/summit portraits/meadow portraits/delta --images assets/targets/valley/fit
  python -m fusion sample trained.json --prompt "a portrait of a scientist" --count 8 --out images
"""


def arguments(command: ArgumentParser) -> None:
    command.add_argument("--models", nargs="+", required=True, metavar="MODEL", help=options.MODELS)
    command.add_argument("--images", required=True, metavar="FOLDER", help="folder of at least 2 target images, as for `fit`")
    command.add_argument("--method", choices=TRAINED, default="finetune", help="how to train (default: finetune)")
    command.add_argument("--representation", metavar="FILE", help="made with `represent` (default: the one shipped for the models, "
                         "or one that is learned first)")  # fmt: skip
    command.add_argument("--caption", default="", help="prompt for images that have no caption of their own (docs/guide.md)")
    command.add_argument("--out", default="trained.json", metavar="FILE", help="where the recipe goes (default: trained.json)")
    options.calibration(command)
    options.loading(command)
    options.shared(command)


def run(args, *, progress, stop):
    """Fit, to find the model to train; train; write recipe and file. ValueError where there is nothing to train on."""
    from fusion.commands.shared import check_levels, ensemble_of, fitted, heard, pictures_in, say
    from fusion.methods import METHODS, SamplingPlan, Unfinished
    from fusion.methods.single import best_single
    from fusion.methods.training import SHARED, found_of, represented, verdict_of
    from fusion.recipe import Recipe
    from fusion.transfer.representation import Representation
    from fusion.transfer.sources import check_prompts

    pictures, captions = pictures_in(args.images, args.caption)  # before models, which may have to be fetched
    if len(pictures) < 2:
        raise ValueError("training needs at least 2 images, one of them to tell when to stop: add images")
    options.writable(args.out)
    check_levels(args)
    code = None if args.representation is None else Representation.load(args.representation)
    ensemble = ensemble_of(args.models, args.device, progress, **options.held(args))
    if args.method in (*SHARING, "scratch"):  # these read prompts through a representation: its models are looked at before they are fitted
        check_prompts(ensemble)
    _check_fits(code, args.representation, ensemble)
    heard(ensemble, captions)
    found = fitted(args, ensemble, pictures, captions, progress, stop)
    found = found if code is None else replace(found, trained={**found.trained, SHARED: code})
    prompts = sorted(set(captions))[:64]
    plan = SamplingPlan(prompts, range(len(prompts)), guidance=ensemble.guidance, progress=progress, stop=stop)
    method = METHODS[args.method]
    cost = method.cost(ensemble, found, plan)
    say(f"Training takes {'at most' if cost.at_most else 'about'} {cost.training_seconds:.0f} s on this machine")
    if args.method in SHARING:  # what the models share is diagnosed before it is built on
        found = represented(ensemble, found, best_single(found), plan)
        say(verdict_of(found.trained[SHARED]))
    try:
        ready = method.prepare(ensemble, found, plan)
    except Unfinished as early:  # whoever stops a training that runs by itself wants what it has reached
        ready = early.fit
        if ready is None:
            raise
    trained = ready.trained[args.method]
    metrics = {"held_out_loss": [list(point) for point in trained.course.curve], "kept_step": trained.course.best}
    Recipe.of(ensemble, args.method, plan, trained=trained, metrics=metrics).save(args.out)
    course, (fit_on, held) = trained.course, trained.images
    result = {"recipe": str(args.out), "file": str(Path(args.out).parent / trained.file), "member": trained.member, "steps": course.steps,
              "kept_step": course.best, "held_out_loss": metrics["held_out_loss"], "seconds": course.seconds, "stopped": course.stopped}
    best = min(loss for _, loss in course.curve)
    nothing = f"{found_of(trained)} What is saved draws as before training: add images.\n" if found_of(trained) else ""
    text = (f"{method.title} of {trained.member} on {fit_on} images: loss on the {held} held-out ones {course.curve[0][1]:.4f} before, "
            f"{best:.4f} after {course.best} of {course.steps} steps.\n"
            f"{nothing}The recipe is in {args.out}, with {trained.file} beside it: python -m fusion sample {args.out}")  # fmt: skip
    return result, text


def _check_fits(code, file: str | None, ensemble) -> None:
    """ValueError where a representation from a file was made for other models."""
    from fusion.transfer.sources import fits

    wrong = [] if code is None else [name for k, name in enumerate(ensemble.names) if not fits(code, ensemble, k)]
    if wrong:
        raise ValueError(f"{Path(file).name} was made for models with other text encoders than {', '.join(wrong)}: make one for these with "
                         "`python -m fusion represent`")  # fmt: skip
