"""`python -m fusion sample`: images from a recipe, from a picture that carries one, or from models and weights."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import replace

from fusion.commands import options
from fusion.commands.diary import Diary, batches, received, sent
from fusion.methods import METHODS, NAMES, TRAINED, SamplingPlan

ABOUT = """Draw images: again from a recipe, from a recipe with other prompts, or from models and weights given here.

Every image is a PNG that carries its own recipe: `sample IMAGE.png` draws it again, pixel for pixel on the same machine.

  python -m fusion sample fit.json --prompt "a portrait of a scientist" --count 8
  python -m fusion sample images/0001-mixture-seed1.png
  python -m fusion sample --models portraits/harbor portraits/summit --weights 0.7 0.3 --method mixture --prompt "a portrait of a judge"

A run that was cut short goes on where it was when the same command is given again. Several GPUs share the images:

  accelerate launch -m fusion sample fit.json --prompt "a portrait of a scientist" --count 64
"""
HEARD = ("negative_prompt", "clip_skip")
EQUAL = ("uniform", "superposition_and")  # these look at no target, so they need no weights
PARALLEL = True  # may run in several processes: they share the images out, the first one writes


def arguments(command: ArgumentParser) -> None:
    command.add_argument("recipe", nargs="?", help="a recipe .json, or a PNG that was drawn here; with --models also a "
                         "picture of A1111, NovelAI, InvokeAI, Fooocus or SwarmUI, whose prompt, seed, size and numbers are used")
    command.add_argument("--models", nargs="+", metavar="MODEL",
                         help=options.MODELS + " (with a recipe: where its models are, in its order)")  # fmt: skip
    command.add_argument("--weights", nargs="+", type=float, metavar="W", help="a number of at least 0 for each model; they must sum to 1")
    command.add_argument("--method", choices=NAMES, help="how models are combined (default: the recipe's, else mixture)")
    command.add_argument("--prompt", action="append", metavar="TEXT", help="what to draw; may be given several times")
    command.add_argument("--count", type=int, metavar="N", help="images for each prompt (default: the recipe's, else 4)")
    command.add_argument("--seed", type=options.seed, metavar="S",
                         help="first seed (default: 0); every image has a seed of its own, numbered on from prompt to prompt, so that "
                              "together they are independent draws of a population")
    command.add_argument("--same-seeds", action="store_true",
                         help="the same seeds for every prompt, S to S + N - 1: for looking at prompts side by side, not for a population")
    command.add_argument("--out", default="images", metavar="FOLDER", help="where images go (default: images)")
    options.drawing(command)
    options.loading(command)
    options.shared(command)


def run(args, *, progress, stop):
    """Draw images and write each batch, with recipes inside, as soon as it is there; a run that was cut short goes on where it was."""
    import numpy as np

    from fusion.commands.shared import at_guidance, guided, heard, priced, say
    from fusion.methods.alone import drawing, sampler_words
    from fusion.methods.drawing import mean_weights
    from fusion.methods.plan import Part
    from fusion.parallel import together

    recipe = _recipe(args)
    if recipe is None and not (args.models and args.prompt):
        raise ValueError("say what to draw: give a recipe, or --models with --weights and at least one --prompt")
    method, plan, picture = _asked(args, recipe)
    wanted, folder = len(plan.jobs), options.folder(args.out)
    with together(args.device) as team:
        ensemble = _ensemble(args, recipe, progress)
        plan = plan if recipe else guided(args, plan, ensemble)
        unread = heard(ensemble, [prompt for prompt, _ in plan.jobs], plan.reading, plan.negative_prompt)
        if plan.negative_prompt and plan.guidance <= 1:
            say("note: the negative prompt has no effect, since there is no guidance: give --guidance above 1")
        say(f"{wanted} images {at_guidance(args, plan)}, {priced(METHODS[method].cost(ensemble, None, plan))}{_seeds_of(plan)}")
        samplers = sampler_words(ensemble, plan, method, None if plan.weights is None else drawing(method, plan.weights))
        for sentence in samplers:
            say(sentence)
        if method == "single" and plan.weights is not None:
            say(f"The one model is {ensemble.names[int(np.argmax(mean_weights(plan.weights)))]}, which has the largest weight")
        if plan.trained is not None and team.first:
            plan.trained.save_in(folder)  # what the recipes inside the images refer to lies beside them
        diary = Diary.of(folder, ensemble, method, plan, picture)
        if diary.written:
            say(f"{len(diary.written)} images are there from a run that was cut short: going on")
        plan = plan.with_(progress=progress, stop=stop, part=Part(team.rank, team.size, first=team.most(diary.batches)))
        drawn = METHODS[method].run(ensemble, None, plan)
        for piece in team.in_turn(sent(batch) for batch in batches(drawn, ensemble, plan)):
            if team.first:
                diary.write(received(piece))
        stopped = bool(team.most(stop()))
    if team.first and not stopped:
        if diary.seen != wanted:
            raise RuntimeError(f"{method} gave {diary.seen} images where {wanted} were asked for")
        diary.close()
    text = f"{len(diary.written)} images in {folder}, each with its recipe inside" + (" (stopped early)" if stopped else "")
    return {"method": method, "images": diary.written, "stopped": stopped, "samplers": samplers, "prompts": unread}, text


def _recipe(args):
    """The recipe that was given, None for none. Raises RecipeError.

    A picture of another program names no model of here: with --models its settings are flags that were not typed, and it is said.
    """
    from fusion.commands.shared import cards_of, say
    from fusion.foreign import ForeignRecipe
    from fusion.recipe import Recipe
    from models.families import FAMILIES

    if not args.recipe:
        return None
    try:
        return Recipe.load(args.recipe)
    except ForeignRecipe as error:
        found = error.found
        if found is None or not args.models or not (found.prompt or args.prompt):
            raise
    found = found.for_families(FAMILIES[card.family] for card in cards_of(args.models) if card.family in FAMILIES)
    width, height = found.size or (None, None)
    says = {"prompt": [found.prompt], "negative_prompt": found.negative or None, "seed": found.seed, "count": 1, "steps": found.steps,
            "guidance": found.guidance, "clip_skip": found.clip_skip, "width": width, "height": height}  # fmt: skip
    for name, value in says.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.recipe = None
    say(f"note: settings of {found.program}: {found.flags}" + (f"; without a flag here: {found.left_words}" if found.left else ""))
    return None


def _seeds_of(plan) -> str:
    """Whether images of several prompts share seeds, in words behind a sentence; empty for one prompt."""
    seeds = [seed for _, seed in plan.jobs]
    if len({prompt for prompt, _ in plan.jobs}) == 1:
        return ""
    return "; every image has a seed of its own" if len(set(seeds)) == len(seeds) else "; prompts share their seeds"


def _asked(args, recipe):
    """`(method, plan, picture)` of a recipe, changed by what was typed, or of what was typed alone. Raises MethodError for weights
    that cannot be drawn with: no model need be loaded to know that."""
    import numpy as np

    from fusion.commands.shared import guidance_of
    from fusion.methods.drawing import weights_for

    own = args.weights and np.array(args.weights)
    if recipe is None:
        if not args.weights and len(args.models) > 1 and args.method not in (*EQUAL, *TRAINED):
            raise ValueError("say how much of each model: give --weights, one number for each model, or a recipe from `fit`")
        given = np.ones(1) if len(args.models) == 1 and not args.weights else own  # one model has all the weight
        plan, method, picture = SamplingPlan([""], [0], weights=given), args.method or ("mixture" if args.weights else "uniform"), None
        count, prompts = 4 if args.count is None else args.count, args.prompt
    else:
        plan, method = recipe.plan(), args.method or recipe.method
        plan = plan if not args.weights else plan.with_(weights=own)
        redrawn = not (args.prompt or args.count is not None or args.seed is not None)
        picture, count = (recipe.picture, None) if redrawn else (None, 1 if args.count is None else args.count)
        prompts = args.prompt or list(dict.fromkeys(recipe.prompts))
    if args.weights:
        own = weights_for(len(args.models if recipe is None else recipe.models), own)
    _check(method, own, None if recipe is None else plan.trained)
    plan = plan.with_(weights=None) if method == "uniform" else plan
    changes = {name: getattr(args, name) for name in ("steps", "guidance", "height", "width", *HEARD) if getattr(args, name) is not None}
    if count is not None:
        first, prompts = args.seed or 0, list(dict.fromkeys(prompts))
        same = SamplingPlan.grid(prompts, range(first, first + count))
        jobs = same if args.same_seeds else SamplingPlan.population(prompts, count, first)
        changes |= {"prompts": jobs.prompts, "seeds": jobs.seeds}
    if args.guidance_interval is not None:
        given = changes.get("guidance", plan.guidance) if recipe else guidance_of(args)
        changes["guidance_interval"] = options.interval(args.guidance_interval, given)
    return method, replace(plan, **changes), picture


def _check(method: str, weights, trained) -> None:
    """ValueError where a method cannot draw with what was typed: no model need be loaded to know that. `weights`: those typed, or None."""
    if method in TRAINED and (trained is None or trained.method != method):
        raise ValueError(f"{method} draws with what was trained on target images: run `python -m fusion train --method {method} --models "
                         "... --images FOLDER` first, then `sample` the recipe that it writes")  # fmt: skip
    if weights is None or not len(weights):
        return
    if method == "uniform" and max(weights) - min(weights) > 1e-3:
        raise ValueError("uniform gives all models the same weight: leave --weights out, or average with these by --method scorefusion")
    if method in ("single", "switch") and sum(weight > 0 for weight in weights) > 1:
        raise ValueError(f"{method} draws with one model at a time: give one weight as 1 and the others as 0, or route images by these "
                         "with --method mixture")  # fmt: skip


def _ensemble(args, recipe, progress):
    """The models that were typed, or those of the recipe."""
    from fusion.commands.shared import cards_of, ensemble_of, remarked
    from models.catalog import catalog
    from models.loading import load_ensemble

    if recipe is None:
        return ensemble_of(args.models, args.device, progress, meeting=options.size(args), **options.held(args))
    typed = cards_of(args.models) if args.models else []
    cards = recipe.cards(catalog, {model["id"]: card for model, card in zip(recipe.models, typed)})
    meeting = options.size(args, recipe)
    return remarked(load_ensemble(cards, device=args.device, meeting=meeting, progress=progress, **options.held(args)))
