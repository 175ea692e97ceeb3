"""What the commands do: each takes parsed arguments, `progress` and `stop`, and returns `(plain JSON values, text to print)`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fusion.calibration import Calibration, calibrate
from fusion.evaluation import compare as run_comparison
from fusion.fitting import Fit, fit_all
from fusion.images import Intake, advice, read_folder
from fusion.methods import METHODS, SamplingPlan
from fusion.objective import fit_gram
from fusion.recipe import Recipe
from models.catalog import REPOSITORY, card_for, catalog
from models.loading import load_ensemble
from models.portraits.population import TARGET_POPULATIONS


def fit(args, *, progress, stop):
    """Fit, and write the recipe (and the statistic)."""
    ensemble = _ensemble(args.models, args.device, progress)
    pictures, captions = _pictures(args.images, args.caption)
    say(advice(len(pictures)))
    found = _fitted(args, ensemble, pictures, captions, progress, stop)
    if args.gram:
        found.gram.save(args.gram)
    recipe = _recipe(ensemble, found)
    recipe.save(args.out)
    result = {"recipe": str(args.out), "stopped": stop(), **found.summary()}
    return result, f"{_told(found)}\nThe recipe is in {args.out}: python -m fusion sample {args.out} --prompt \"...\""


def sample(args, *, progress, stop):
    """Draw images and write each, with its recipe inside, as soon as it is there."""
    recipe = Recipe.load(args.recipe) if args.recipe else None
    if recipe is None and not (args.models and args.prompt):
        raise ValueError("say what to draw: give a recipe, or --models with --weights and at least one --prompt")
    ensemble, method, plan, picture = _drawing(args, recipe, progress)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    method_cost = METHODS[method].cost(ensemble, None, plan)
    price = f"{method_cost.evaluations:g} network evaluations each, {method_cost.memory:.2f} x the memory of one model"
    say(f"{len(plan.jobs)} images, {price}")
    written = []
    for number, one in enumerate(METHODS[method].run(ensemble, None, plan.with_(progress=progress, stop=stop))):
        if picture is None or number == picture:
            path = folder / f"{len(written):04}-{method}-seed{one.seed}.png"
            Recipe.of_sample(ensemble, one, plan).save_png(one.image, path)
            written.append({"file": str(path), "prompt": one.prompt, "seed": one.seed, "member": one.member})
    text = f"{len(written)} images in {folder}, each with its recipe inside" + (" (stopped early)" if stop() else "")
    return {"method": method, "images": written, "stopped": stop()}, text


def compare(args, *, progress, stop):
    """Fit on one part of the target, run the methods, weigh them on the other part."""
    ensemble = _ensemble(args.models, args.device, progress)
    pictures, captions, held, held_captions = _split(args)
    found = _fitted(args, ensemble, pictures, captions, progress, stop)
    held_images = [picture.image for picture in held]
    held_out = fit_gram(ensemble, held_images, held_captions, levels=args.levels, seed=1, progress=progress, stop=stop)
    prompts = args.prompt or sorted(set(held_captions))
    known = _known_population(args.target)
    report = run_comparison(
        ensemble, args.methods, [prompts[i % len(prompts)] for i in range(args.count)], range(args.seed, args.seed + args.count),
        fit=found, held_out=held_out, target=held_images if known is None else known, steps=args.steps or 20,
        guidance=1.0 if args.guidance is None else args.guidance, height=args.height, width=args.width,
        read_features=not args.no_features, progress=progress, stop=stop,
    )  # fmt: skip
    if args.out:
        report.save(args.out)
    lines = [_told(found), "", *(_line(row) for row in report.rows), "", report.verdict]
    return report.to_dict(), "\n".join(lines + ([f"The report is in {args.out}"] if args.out else []))


def serve(args, *, progress, stop):
    """Start the page; returns when it is stopped."""
    from app import main  # the page stands above us: only this command reaches up, and only when it runs

    main((["--port", str(args.port)] if args.port else []) + (["--open"] if args.open else []))
    return {}, "The page is closed."


def say(text: str) -> None:
    """A remark on stderr, so that stdout holds the result alone."""
    print(text, file=sys.stderr)


# ------------------------------------------------------------------------------------------------ models

def cards_of(names: Sequence[str]) -> list:
    """Cards of catalog ids, hub ids `owner/name[@commit]` and folders, each with an optional `+ADAPTER`. Raises ModelError."""
    found = []
    for name in names:
        base, _, adapter = name.partition("+")
        source, _, revision = base.partition("@")
        if name in catalog:
            found.append(catalog[name])
        else:
            source = catalog[source].source if source in catalog else source
            found.append(card_for(source, adapter=adapter or None, revision=revision or None))
    return found


def _ensemble(names: Sequence[str], device: str, progress):
    return load_ensemble(cards_of(names), device=device, progress=progress)


def shipped_calibration(ensemble) -> Calibration | None:
    """The calibration that the members' cards name, cut to them; None unless all name one file that is there and holds them."""
    files = {card.calibration for card in ensemble.cards}
    path = REPOSITORY / "assets" / next(iter(files)) if len(files) == 1 and None not in files else None
    if path is None or not path.is_file():
        return None
    whole = Calibration.load(path)
    return whole.select(ensemble.names) if set(ensemble.names) <= set(whole.names) else None


def _calibration(args, ensemble, captions, progress, stop) -> Calibration | None:
    """Measured now, from a file, or as shipped; None, and said so, where there is none."""
    if len(ensemble) < 2:
        return None
    if args.calibrate:
        say(f"Calibrating: {args.calibrate} images are drawn from each model")
        prompts = sorted(set(captions))
        made = calibrate(ensemble, None, samples=args.calibrate, prompts=prompts, levels=args.levels, progress=progress, stop=stop)
        if args.calibration:
            made.save(args.calibration)
        return made
    if args.calibration:
        return Calibration.load(args.calibration).select(ensemble.names)
    shipped = shipped_calibration(ensemble)
    if shipped is None:
        say("These models have no calibration, so proportions cannot be told from training errors: consider --calibrate 96")
    return shipped


# ------------------------------------------------------------------------------------------------ pictures

def _pictures(folder: str, caption: str) -> tuple[list[Intake], list[str]]:
    """Readable pictures and a prompt for each; problems are said. Raises ValueError when none is readable."""
    intakes, problems = read_folder(folder)
    for problem in problems:
        say(f"  {problem}")
    if not intakes:
        raise ValueError(f"there is no readable picture in {Path(folder).name or folder}: put the target images there, as PNG or JPEG")
    if any(intake.caption is None for intake in intakes) and not caption:
        say("Some pictures have no caption: --caption \"what they show\" or a captions.json makes the fit better")
    return intakes, [intake.caption or caption for intake in intakes]


def _split(args) -> tuple[list[Intake], list[str], list[Intake], list[str]]:
    """Pictures and captions to fit, and held-out ones."""
    target = Path(args.target)
    if args.held_out or (target / "held_out").is_dir():
        fit_folder = target / "fit" if (target / "fit").is_dir() else target
        return *_pictures(str(fit_folder), args.caption), *_pictures(args.held_out or str(target / "held_out"), args.caption)
    pictures, captions = _pictures(args.target, args.caption)
    if len(pictures) < 4:
        raise ValueError(f"{len(pictures)} pictures cannot be split into fitted and held-out ones: give at least 4, or --held-out FOLDER")
    say(f"Every second one of the {len(pictures)} pictures is held out")
    return pictures[::2], captions[::2], pictures[1::2], captions[1::2]


def _known_population(folder: str) -> np.ndarray | None:
    """The exact population of a shipped example target, None for anybody else's images."""
    path = Path(folder).resolve()
    return TARGET_POPULATIONS.get(path.name) if path.parent == (REPOSITORY / "assets" / "targets").resolve() else None


# ------------------------------------------------------------------------------------------------ fits and drawing

def _fitted(args, ensemble, pictures, captions, progress, stop) -> Fit:
    calibration = _calibration(args, ensemble, captions, progress, stop)
    images = [picture.image for picture in pictures]
    return fit_all(fit_gram(ensemble, images, captions, levels=args.levels, progress=progress, stop=stop), calibration)


def _recipe(ensemble, found: Fit) -> Recipe:
    """The calibrated proportions as a mixture; without a calibration the published weights."""
    prompts = sorted(set(found.gram.prompts))[:64]
    plan = SamplingPlan(prompts, range(len(prompts)))
    if found.calibrated is not None:
        return Recipe.of(ensemble, "mixture", plan, found.calibrated.as_weights(), metrics=found.summary())
    return Recipe.of(ensemble, "scorefusion", plan, found.published.as_weights(), metrics=found.summary())


def _drawing(args, recipe: Recipe | None, progress):
    """`(ensemble, method, plan, picture)` from a recipe, changed by what was typed, or from what was typed alone."""
    if recipe is None:
        if not args.weights and len(args.models) > 1 and args.method != "uniform":
            raise ValueError("say how much of each model: give --weights, one number for each model, or a recipe from `fit`")
        ensemble = _ensemble(args.models, args.device, progress)
        plan = SamplingPlan([""], [0], weights=args.weights and np.array(args.weights))
        method, picture, count = args.method or ("mixture" if args.weights else "uniform"), None, args.count or 4
        prompts = args.prompt
    else:
        typed = cards_of(args.models) if args.models else []
        local = {model["id"]: card for model, card in zip(recipe.models, typed)}
        ensemble = load_ensemble(recipe.cards(catalog, local), device=args.device, progress=progress)
        plan, method = recipe.plan(), args.method or recipe.method
        plan = plan if not args.weights else plan.with_(weights=np.array(args.weights))
        redrawn = not (args.prompt or args.count or args.seed is not None)
        picture, count = (recipe.picture, None) if redrawn else (None, args.count or 1)
        prompts = args.prompt or list(dict.fromkeys(recipe.prompts))
    changes = {name: getattr(args, name) for name in ("steps", "guidance", "height", "width") if getattr(args, name) is not None}
    if count is not None:
        first = args.seed or 0
        grid = SamplingPlan.grid(prompts, range(first, first + count))
        changes |= {"prompts": grid.prompts, "seeds": grid.seeds}
    return ensemble, method, replace(plan, **changes), picture


# ------------------------------------------------------------------------------------------------ words

def _told(found: Fit) -> str:
    """A fit in a few lines: proportions first, published weights beside them, why they differ."""
    lines = [found.calibrated.verdict_] if found.calibrated is not None else []
    published = ", ".join(f"{w:.0%} {name}" for w, name in zip(found.published.weights_, found.gram.names))
    return "\n".join([*lines, f"Published weights: {published}. {found.published.verdict_}", found.explain()])


def _line(row) -> str:
    """One method of a comparison as a line of text."""
    if row.problem:
        return f"{row.title:24} {row.problem}"
    figures = [f"{name} {getattr(row, name)}" for name in ("population", "features", "loss") if getattr(row, name) is not None]
    return f"{row.title:24} " + "; ".join(figures)
