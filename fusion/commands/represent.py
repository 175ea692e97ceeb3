"""`python -m fusion represent`: learn what several models share of how they read prompts, and say whether they share it."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from fusion.commands import options

ABOUT = """Learn a representation that several models share, for the methods `transfer` and `transfer_unfrozen`, and diagnose it.

Phase 1 of Cheng, Xie, Zhang, Zhang (arXiv 2502.04491): prompts are pressed into a few numbers and back, so that every model (a source)
still denoises its own images as before. The verdict says whether the models share such a representation: what each loses through it, how
many of its numbers are used, and what a model loses through a representation that never saw it. Images come from --images, one folder of
captioned pictures for each model; otherwise every model draws its own for the prompts given (the shipped portraits: from their training
population). The first line made the representation of the shipped portraits.

  python -m fusion represent --models portraits/base portraits/harbor portraits/summit portraits/meadow portraits/delta --count 1024 \\
      --numbers 8 --out assets/transfer/portraits.safetensors --report assets/transfer/README.md
  python -m fusion represent --models owner/model-a owner/model-b --prompts captions.txt --out shared.safetensors
  python -m fusion train --models owner/model-a owner/model-b --images my-images --method transfer --representation shared.safetensors
"""
MOST_NUMBERS = 256  # the diagnosis takes time and memory by its square


def arguments(command: ArgumentParser) -> None:
    command.add_argument("--models", nargs="+", required=True, metavar="MODEL", help=options.MODELS)
    command.add_argument("--out", required=True, metavar="FILE", help="where the representation goes, a .safetensors file")
    command.add_argument("--report", metavar="FILE", help="also write settings and figures as a page (.md)")
    command.add_argument("--images", nargs="+", metavar="FOLDER", help="pictures of each model's own, one folder for each, in their order")
    command.add_argument("--prompt", action="append", metavar="TEXT", help="what the models draw; may be given several times")
    command.add_argument("--prompts", metavar="FILE", help="the same, from a text file with one prompt a line")
    command.add_argument("--count", type=int, default=256, metavar="N", help="images of each model, where they are made (default: 256)")
    command.add_argument("--numbers", type=int, default=16, metavar="D",
                         help=f"size of the representation (default: 16, at most {MOST_NUMBERS})")  # fmt: skip
    command.add_argument("--steps", type=int, default=800, metavar="N", help="training steps (default: 800)")
    command.add_argument("--left-out-steps", type=int, default=200, metavar="N",
                         help="training steps of each representation without one of the models; 0: none (default: 200)")  # fmt: skip
    command.add_argument("--own-networks", type=int, default=0, metavar="RANK",
                         help="train a LoRA of this rank on the first model for each source (default: 0, frozen models)")  # fmt: skip
    command.add_argument("--seed", type=options.seed, default=0, metavar="S", help="of images and training (default: 0)")
    command.add_argument("--work", metavar="FOLDER", help="keep checkpoints here, and go on from them after an interruption")
    options.loading(command)
    options.shared(command)


def run(args, *, progress, stop):
    """Learn, diagnose, save. ValueError before any long work for arguments that cannot be used."""
    _check(args)
    from dataclasses import replace

    from fusion.commands.shared import ensemble_of, pictures_in, say
    from fusion.transfer import learning, source_phase
    from fusion.transfer.report import page
    from fusion.transfer.sources import check_prompts

    prompts = _prompts(args)
    own = [pictures_in(folder, "") for folder in args.images or ()]  # before models, which may have to be fetched
    ensemble = ensemble_of(args.models, args.device, progress, **options.held(args))
    check_prompts(ensemble)
    if own:
        pictures = [([one.image for one in images], captions) for images, captions in own]
    else:
        say(f"Images: {args.count} of each of {len(ensemble)} models")
        pictures = source_phase.gather(ensemble, args.count, prompts, seed=args.seed, progress=progress, stop=stop)
    schedule = replace(learning.SCHEDULE, steps=args.steps, seed=args.seed)
    leave = replace(schedule, steps=args.left_out_steps) if args.left_out_steps else None
    representation = source_phase.represent(
        ensemble, pictures, dimensions=args.numbers, schedule=schedule, rank=args.own_networks, leave=leave,
        work=Path(args.work) if args.work else None, progress=progress, stop=stop,
    )  # fmt: skip
    representation.save(args.out)
    about = representation.about
    if args.report:
        Path(args.report).write_text(page(about, Path(args.out).name), encoding="utf-8")
    result = {"representation": str(args.out), "members": list(about.members), "settings": about.settings, "diagnosis": about.diagnosis}
    return result, f"{about.diagnosis['verdict']}\nThe representation is in {args.out}."


def _check(args) -> None:
    if args.images and len(args.images) != len(args.models):
        raise ValueError(f"{len(args.images)} folders of images for {len(args.models)} models: give one for each, in their order")
    for name, least in (("count", 16), ("numbers", 1), ("steps", 1), ("left_out_steps", 0), ("own_networks", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(args, name)}")
    if args.numbers > MOST_NUMBERS:
        raise ValueError(f"--numbers must be at most {MOST_NUMBERS}, not {args.numbers}: what models share is to be low-dimensional")
    options.writable(args.out, ".safetensors")
    if args.report:
        options.writable(args.report, ".md")
    if args.work:
        options.folder(args.work)


def _prompts(args) -> list[str]:
    """Prompts that were typed and those of the file, without empty lines. ValueError for a file that is no text."""
    try:
        lines = [] if args.prompts is None else Path(args.prompts).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        cause = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ValueError(f"the prompts in {args.prompts} cannot be read ({cause}): give a text file with one prompt a line") from None
    return [*(args.prompt or []), *(line.strip() for line in lines if line.strip())]
