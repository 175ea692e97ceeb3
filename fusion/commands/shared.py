"""What several commands do alike: models and pictures from what was typed, a fit, and its words. Imports torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fusion.calibration import Calibration, calibrate
from fusion.commands.options import interval, writable
from fusion.features import FOLDS
from fusion.fitting import Fit, fit_all
from fusion.images import MAX_CAPTION, Intake, clean_caption, read_folder
from fusion.intake.text import one_line
from fusion.methods import Cost, SamplingPlan
from fusion.objective import fit_gram
from fusion.parallel import ALONE, Team, started
from fusion.target import Target
from models.catalog import REPOSITORY, ModelCard, typed_card
from models.fusable import refuse_families
from models.loading import load_ensemble
from models.samplers import few_steps_of

WORTH_SAYING = 10_000_000  # bytes of a download
SAID = 8  # remarks of one kind

def say(text: str) -> None:
    """A remark on stderr, so that stdout holds the result alone; of several processes only the first one speaks."""
    if started()[0] == 0:
        print(text, file=sys.stderr)


def cards_of(names: Sequence[str]) -> list:
    """Cards of catalog ids, hub ids, folders and files as they are typed (`models.catalog.typed_card`). Raises ModelError."""
    return [typed_card(name) for name in names]


def ensemble_of(names: Sequence[str], device: str, progress, *, meeting=(None, None), **held):
    """The loaded models, held in memory as `options.held` says, and where their own sizes differ, of the size of `options.size`.

    What is about to be fetched is said before, the memory plan and what a person should know about how they were loaded after.
    """
    cards = cards_of(names)
    refuse_families(cards)
    announce(cards)
    return remarked(load_ensemble(cards, device=device, meeting=meeting, progress=progress, **held))


def remarked(ensemble):
    """A loaded ensemble, with its memory plan and what a person should know about it said."""
    if ensemble.plan is not None and ensemble.plan.why:
        say(ensemble.plan.why)
    for warning in ensemble.warnings:
        say(f"note: {warning}")
    return ensemble


def announce(cards: Sequence[ModelCard]) -> None:
    """Say kind, size, memory and licence of the models that must be fetched first."""
    from fusion.commands.details import amount
    from models.details import describe
    from models.errors import ModelError

    for card in (card for card in cards if card.is_hub):
        try:
            found = describe(card.source, card.adapters, card.revision, prediction=card.prediction, components=card.components)
        except ModelError:  # without a connection: it may be here already, and loading says what is wrong
            continue
        left = found.download - found.cached
        if left >= WORTH_SAYING:
            needs = ", ".join(f"{amount(size)} of memory in {precision}" for precision, size in found.memory.items())
            gate = " (to be accepted on its page first)" if found.gated else ""
            say(f"{card.title}: {found.kind}, {amount(left)} to fetch, {needs}; licence: {found.licence}{gate}")


def guidance_of(args) -> float:
    """The guidance that was typed, else what the first model's card says: before it is loaded."""
    return cards_of(args.models[:1])[0].usual_guidance if args.guidance is None else args.guidance


def guided(args, plan: SamplingPlan, ensemble) -> SamplingPlan:
    """The plan with the guidance of the loaded models where none was typed, and their steps where all of them take few.

    Raises ValueError for an interval in which no guidance acts.
    """
    guidance = ensemble.guidance if args.guidance is None else args.guidance
    few = [few_steps_of(member) for member in ensemble.members]
    steps = plan.steps if args.steps is not None or None in few else max(one.steps for one in few)
    return plan.with_(steps=steps, guidance=guidance, guidance_interval=interval(args.guidance_interval, guidance))


def at_guidance(args, plan: SamplingPlan) -> str:
    """The guidance of a plan in words, and whose it is."""
    whose = "" if args.guidance is not None else ", the models' own" if not getattr(args, "recipe", None) else ", the recipe's"
    return f"at guidance {plan.guidance:g}{whose}"


def priced(cost: Cost) -> str:
    """What a method costs, as it is said before it runs."""
    text = f"{cost.evaluations:g} network evaluations each, {cost.memory:.2f} x the memory of one model"
    text += f" ({cost.saved:g} saved by the guidance interval)" if cost.saved else ""
    text += f", {cost.preparation:,} evaluations once" if cost.preparation else ""
    how = "at most" if cost.at_most else "about"
    return text + (f", {how} {cost.training_seconds:.0f} s of training once" if cost.training_seconds else "")


def shipped_calibration(cards: Sequence[ModelCard], names: Sequence[str]) -> Calibration | None:
    """The calibration that the members' cards name, cut to them; None unless all name one file that is there and holds them."""
    files = {card.calibration for card in cards}
    path = REPOSITORY / "assets" / next(iter(files)) if len(files) == 1 and None not in files else None
    if path is None or not path.is_file():
        return None
    whole = Calibration.load(path)
    return whole.select(names) if set(names) <= set(whole.names) else None


def check_levels(args) -> None:
    """Before models are loaded: ValueError where the target would be measured at other noise levels than the calibration was, and for a
    calibration that could not be made or kept."""
    if args.calibrate and args.calibrate < FOLDS:
        raise ValueError(f"--calibrate {args.calibrate} is too few: a calibration needs at least {FOLDS} images of each model (96 is a "
                         "good start)")  # fmt: skip
    if args.calibrate and args.calibration:
        writable(args.calibration, ".safetensors")
    if args.calibrate or len(args.models) < 2:
        return
    cards = cards_of(args.models)
    known = Calibration.load(args.calibration) if args.calibration else shipped_calibration(cards, [card.title for card in cards])
    if known is not None and known.settings["levels"] != args.levels:
        there = known.settings["levels"]
        raise ValueError(f"--levels {args.levels} cannot be compared with the calibration of these models, which was measured at {there}: "
                         f"give --levels {there}, or measure another calibration now with --calibrate 96")  # fmt: skip


def calibration_of(args, ensemble, captions, progress, stop, team: Team = ALONE, kept=None) -> Calibration | None:
    """Measured now, from a file, or as shipped; None, and said so, where there is none."""
    if len(ensemble) < 2:
        return None
    if args.calibrate:
        say(f"Calibrating: {args.calibrate} images are drawn from each model")
        prompts = sorted(set(captions))
        made = calibrate(ensemble, None, samples=args.calibrate, prompts=prompts, levels=args.levels, progress=progress, stop=stop,
                         team=team, kept=kept)  # fmt: skip
        if args.calibration and team.first:
            made.save(args.calibration)
        return made
    if args.calibration:
        return Calibration.load(args.calibration).select(ensemble.names)
    shipped = shipped_calibration(ensemble.cards, ensemble.names)
    if shipped is None:
        say("These models have no calibration, so proportions cannot be told from training errors: consider --calibrate 96")
    return shipped


def pictures_in(folder: str, caption: str) -> tuple[list[Intake], list[str]]:
    """Readable pictures and a prompt for each, `caption` for those without one; problems are said. ValueError when none is readable."""
    whole, caption = one_line(caption), clean_caption(caption) or ""
    if len(whole) > len(caption):
        say(f"--caption is longer than {MAX_CAPTION} characters and was cut there. Shorten it.")
    intakes, problems = read_folder(folder)
    for problem in problems:
        say(f"  {problem}")
    if not intakes:
        raise ValueError(f"there is no readable picture in {Path(folder).name or folder}: put the target images there, as PNG or JPEG")
    if any(intake.caption is None for intake in intakes) and not caption:
        say("Some pictures have no caption: to models that read captions they look foreign, and the proportions with them; give "
            "--caption \"what they show\" or, better, one for each: a.txt beside a.png, or a captions.json")  # fmt: skip
    return intakes, [intake.caption or caption for intake in intakes]


def heard(ensemble, prompts: Sequence[str], reading: str = "cut", negative: str = "") -> list[dict]:
    """What text encoders do not read of prompts and of the negative prompt, as `models.reading.unread` lists it; that and what else is read
    otherwise is said."""
    from models.reading import dropped, remarks

    rows, said = remarks(ensemble, prompts, reading)
    against = dropped(ensemble, [negative], reading, templates=False) if negative else []
    said += [f"not read by {row['model']}'s {row['by']}, since the negative prompt is too long: \"{row['not_read']}\"" for row in against]
    rows += against
    for sentence in said[:SAID]:
        say(f"note: {sentence}")
    if len(said) > SAID:
        say(f"note: and {len(said) - SAID} more like these")
    return rows


def fitted(args, ensemble, pictures, captions, progress, stop, team: Team = ALONE, kept=None) -> Fit:
    """Statistic and estimators of the pictures, with the calibration that the arguments ask for.

    `team`: processes that share the work; `kept`: where predictions are kept (`fusion.kept.Kept`).
    """
    calibration = calibration_of(args, ensemble, captions, progress, stop, team, kept)
    images = [picture.image for picture in pictures]
    gram = fit_gram(ensemble, images, captions, levels=args.levels, progress=progress, stop=stop, team=team, kept=kept)
    return fit_all(gram, calibration, Target(images[: len(gram)], captions[: len(gram)]))  # a stopped fit holds the images it finished


def told(found: Fit) -> str:
    """A fit in a few lines: proportions first, published weights beside them, why they differ."""
    lines = [found.calibrated.verdict_] if found.calibrated is not None else []
    published = ", ".join(f"{w:.0%} {name}" for w, name in zip(found.published.weights_, found.gram.names))
    return "\n".join([*lines, f"Published weights: {published}. {found.published.verdict_}", found.explain()])
