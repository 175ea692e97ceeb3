"""`python -m fusion distill`: one LoRA that gives the fused prediction, so that fusion costs one model from then on."""

from __future__ import annotations

import json
import shlex
from argparse import ArgumentParser
from pathlib import Path

from fusion.commands import options

ABOUT = """Train one LoRA to give the fused prediction: from then on, sampling costs one model instead of several.

The models of the recipe are its teachers and draw all that it learns from: no images are needed. It starts from the model of largest
weight. Afterwards it is checked: how much of the difference to the fused prediction is left on trajectories it has not seen, and for
models with a countable population how far its samples are from the fused ones. The folder holds an ordinary LoRA, for diffusers and here:

  python -m fusion distill fit.json --method scorefusion --out one-model
  python -m fusion sample --models portraits/harbor+one-model --weights 1 --method single --prompt "a portrait of a scientist"
"""
AVERAGES = ("uniform", "scorefusion", "scorefusion_levels", "matched")  # methods whose every step is one weighted sum


def arguments(command: ArgumentParser) -> None:
    command.add_argument("recipe", help="a recipe .json, or a PNG that was drawn here")
    command.add_argument("--models", nargs="+", metavar="MODEL", help="where the recipe's models are, in its order")
    command.add_argument("--method", choices=AVERAGES, help="which average to learn (default: the recipe's)")
    command.add_argument("--weights", nargs="+", type=float, metavar="W", help="other weights than the recipe's, one for each model")
    command.add_argument("--prompt", action="append", metavar="TEXT", help="what the teachers draw (default: the recipe's prompts)")
    command.add_argument("--trajectories", type=options.positive, default=256, metavar="N",
                         help="images that the teachers draw (default: 256)")  # fmt: skip
    command.add_argument("--rank", type=options.positive, default=16, metavar="R", help="of the LoRA (default: 16)")
    command.add_argument("--train-steps", type=options.positive, default=800, metavar="N", help="training steps (default: 800)")
    command.add_argument("--check", type=options.natural, default=128, metavar="N",
                         help="samples of each for the check (default: 128; 0: none)")  # fmt: skip
    command.add_argument("--seed", type=options.seed, default=0, metavar="S", help="first seed of the trajectories (default: 0)")
    command.add_argument("--out", required=True, metavar="FOLDER", help="where the LoRA and its report go")
    options.memory(command)
    options.shared(command)


def run(args, *, progress, stop):
    """Distil, check, save; ValueError before any long work for a recipe that is no average."""
    from dataclasses import replace

    import numpy as np

    from fusion.commands.shared import cards_of, remarked, say
    from fusion.distillation import SCHEDULE, distill
    from fusion.methods.drawing import weights_for
    from fusion.recipe import Recipe
    from models.catalog import catalog
    from models.loading import load_ensemble

    recipe = Recipe.load(args.recipe)
    method = args.method or recipe.method
    if method not in AVERAGES:
        raise ValueError(f"{method} is no average of predictions, so one model cannot learn it so: choose --method {', '.join(AVERAGES)}")
    typed = cards_of(args.models) if args.models else []
    cards = recipe.cards(catalog, {model["id"]: card for model, card in zip(recipe.models, typed)})
    weights = weights_for(len(recipe.models), _weights(args, recipe, method), levels=True)
    options.folder(args.out)
    more = {"meeting": options.size(args, recipe), **options.held(args)}
    ensemble = remarked(load_ensemble(cards, device=args.device, lora="switch", progress=progress, **more))
    prompts = args.prompt or list(dict.fromkeys(recipe.prompts))
    say(f"{args.trajectories} trajectories of {int((np.atleast_2d(getattr(weights, 'values', weights)) > 0).any(0).sum())} models, "
        f"then {args.train_steps} training steps")  # fmt: skip
    found = distill(ensemble, weights, prompts, trajectories=args.trajectories, rank=args.rank, seed=args.seed,
                    schedule=replace(SCHEDULE, steps=args.train_steps), progress=progress, stop=stop)  # fmt: skip
    folder = found.save(args.out, ensemble)
    result = {"adapter": str(folder), "base": found.base.id, "model": _model(found.base, folder), "method": method, "rank": found.rank,
              "lessons": found.lessons, "steps": found.course.steps, "seconds": round(found.course.seconds, 1),
              "unexplained": found.unexplained, "stopped": found.course.stopped}  # fmt: skip
    if args.check and not stop():
        result["check"] = _check(args, ensemble, weights, found, folder, prompts, progress, stop)
    (folder / "distillation.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result, _told(result)


def _weights(args, recipe, method: str):
    """What the recipe applies, unless other weights were typed. ValueError where the recipe's weights belong to another method."""
    import numpy as np

    from fusion.weights import Weights

    if args.weights:
        return np.array(args.weights)
    if method == "uniform":
        return np.full(len(recipe.models), 1 / len(recipe.models))
    if method == recipe.method:
        return recipe.plan().weights
    stored = recipe.metrics.get({"scorefusion": "published", "scorefusion_levels": "levels", "matched": "matched"}[method])
    if not stored or len(stored["members"]) != len(recipe.models):
        raise ValueError(f"this recipe holds no weights for {method}: give --weights, or a recipe that was made with {method}")
    if "levels" in stored:
        return Weights(np.array(stored["levels"]), None, tuple(stored["members"]), stored["how"], np.array(stored["strata"]))
    return np.array([member["weight"] for member in stored["members"].values()])


def _check(args, ensemble, weights, found, folder: Path, prompts: list[str], progress, stop) -> dict | None:
    """Distance between the populations of the fused models' samples and the student's, where the portraits' probe can count them."""
    import numpy as np

    from fusion.evaluation.population import cells, distance_of_counts, is_countable
    from fusion.methods.drawing import draw
    from fusion.methods.plan import SamplingPlan
    from models.loading import load_ensemble

    if not is_countable(ensemble.cards):
        return None
    from dataclasses import asdict

    from models.stacks import Adapter

    plan = SamplingPlan([prompts[i % len(prompts)] for i in range(args.check)], range(10_000, 10_000 + args.check), batch_size=32,
                        progress=progress, stop=stop)  # fmt: skip
    student = load_ensemble([found.base.wearing([Adapter(str(folder.resolve()))])], device=args.device, **options.held(args))
    fused = [sample.image for sample in draw(ensemble, plan, weights, method="fused")]
    single = [sample.image for sample in draw(student, plan, np.ones(1), method="distilled")]
    if not fused or not single:
        return None
    distance = distance_of_counts(cells(single), cells(fused), known=False)
    return {"samples": len(single), "population": asdict(distance)}


def _model(base, folder: Path) -> str:
    """What to type after --models for the student: a catalogue's base by its id, any other by its place and options."""
    from models.catalog import catalog, typed_id

    template = None if base.prompt_template == "{prompt}" else base.prompt_template
    place = base.id if base.id in catalog else base.source
    return typed_id(place, base.revision, str(folder), prediction=base.prediction, components=base.components, template=template)


def _told(result: dict) -> str:
    lines = [f"{1 - result['unexplained']:.1%} of the difference to the fused prediction is learned, on trajectories it has not seen."]
    if result.get("check"):
        found = result["check"]["population"]
        lines.append(f"Its samples' population is {found['value']:.3f} from the fused ones' (chance alone: {found['floor']:.3f}).")
    use = f"--models {shlex.quote(result['model'])} --weights 1 --method single"
    return "\n".join([*lines, f"One model from now on: python -m fusion sample {use} --prompt \"...\""])
