"""`python -m fusion details`: what a model is, how large and under which licence, before anything is fetched."""

from __future__ import annotations

from argparse import ArgumentParser

ABOUT = """Say what a model is before it is downloaded: kind, size, memory, licence.

MODEL is an id of the catalog, a Hugging Face id (owner/name, owner/name@COMMIT or owner/name/file.safetensors), a folder or a single file;
MODEL+ADAPTER:0.7 puts a LoRA on it, at strength 0.7. Only listings, configurations and headers are read.

  python -m fusion details stable-diffusion-v1-5/stable-diffusion-v1-5
  python -m fusion details my-models/dreamy.safetensors --components stabilityai/stable-diffusion-xl-base-1.0
"""


def arguments(command: ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="the model to look at")
    command.add_argument("--family", help="what it must be: sd, sdxl, sd3, flux, pixart or ddpm")
    command.add_argument("--prediction", metavar="TYPE", help="what it predicts, where its files do not say: epsilon, v_prediction")
    command.add_argument("--components", metavar="MODEL", help="for a single file: a diffusers model that has what it lacks")
    command.add_argument("--json", action="store_true", help="print the result as one JSON object, for scripts")


def run(args, *, progress, stop):
    """Look at the model. Raises ModelError when there is none; what speaks against using it is part of the answer."""
    from models.catalog import split_model
    from models.details import describe

    source, revision, adapters = split_model(args.model)
    found = describe(source, adapters, revision, family=args.family, prediction=args.prediction, components=args.components)
    return found.to_dict(), told(found)


def told(found) -> str:
    """Details as lines of text."""
    lines = [f"{found.source}: {found.kind or 'not recognised'}"]
    if found.prediction or found.how:
        lines.append(f"  predicts    {found.prediction or 'unknown'} ({found.how})")
    for part in found.parts:
        lines.append(f"  {part.name:<16}{part.parameters / 1e6:>10,.1f} M parameters  {amount(part.size):>9}  from {part.origin}")
    if found.parameters is not None:
        needs = ", ".join(f"{amount(size)} in {precision}" for precision, size in found.memory.items())
        lines.append(f"  memory      {needs}, and room for activations")
    if found.download:
        lines.append(f"  download    {amount(found.download - found.cached)} to fetch of {amount(found.download)}")
    lines.append(f"  licence     {found.licence}" + (" (to be accepted on its page first)" if found.gated else ""))
    lines += [f"  made for    {found.base}"] if found.base else []
    lines += [f"  say         {', '.join(found.trigger)}"] if found.trigger else []
    lines += [f"  commit      {found.revision}"] if found.revision else []
    lines += [f"  note: {note}" for note in found.notes]
    lines += [f"  cannot be used: {problem}" for problem in found.problems]
    return "\n".join(lines)


def amount(size: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
