"""`python -m fusion deploy`: the page as a Hugging Face Space, rendered to a folder or put there."""

from __future__ import annotations

from argparse import ArgumentParser

ABOUT = """Put the page on Hugging Face Spaces, as spaces.yaml describes it.

--dry-run only writes the Space's folder, to look at or to start here: cd FOLDER && python app.py. Without it the Space is made or renewed,
with the token from the environment variable HF_TOKEN; a secret NAME of spaces.yaml takes its value from SPACE_SECRET_NAME.

  python -m fusion deploy cpu-demo --dry-run --out space
  HF_TOKEN=... python -m fusion deploy cpu-demo
  HF_TOKEN=... SPACE_SECRET_HF_TOKEN=... python -m fusion deploy private --repository my-organisation/studio
"""


def arguments(command: ArgumentParser) -> None:
    command.add_argument("target", help="an entry of spaces.yaml: cpu-demo, zerogpu, private")
    command.add_argument("--dry-run", action="store_true", help="only write the Space's folder")
    command.add_argument("--out", metavar="FOLDER", help="where the folder goes: empty or new (default: space-TARGET; without --dry-run: "
                         "a temporary one)")  # fmt: skip
    command.add_argument("--repository", metavar="OWNER/NAME", help="the Space, in place of the one in spaces.yaml")
    command.add_argument("--json", action="store_true", help="print the result as one JSON object, for scripts")


def run(args, *, progress, stop):
    """Render the Space's folder and, unless it is a dry run, hand it to the hub."""
    import tempfile
    from contextlib import ExitStack
    from pathlib import Path

    from fusion.commands.shared import say
    from fusion.deploy import GIVEN, DeployError, deploy, render, secrets_of
    from fusion.manifest import targets

    known = targets()
    if args.target not in known:
        raise DeployError(f"spaces.yaml has no target {args.target!r}: choose one of {', '.join(known)}")
    target = known[args.target]
    result = {"target": target.name, "repository": args.repository or target.repository, "hardware": target.hardware}
    result |= {"private": target.private, "variables": dict(target.variables), "secrets": list(target.secrets)}
    with ExitStack() as stack:
        if args.out or args.dry_run:
            out = Path(args.out or f"space-{target.name}")
        else:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "space"
        if not args.dry_run:
            import os

            secrets_of(target, os.environ)  # before any long work
        made = render(target, out)
        size = f"{made.files} files, {made.size / 1e6:.1f} MB"
        if args.dry_run:
            (out / ".gitignore").write_text("# a dry run, made anew at any time: nothing for a repository\n*\n", encoding="utf-8")
            result |= {"folder": str(out), "files": made.files, "bytes": made.size}
            needs = "".join(f"\nSecret {name}: its value is taken from {GIVEN}{name}" for name in target.secrets)
            return result, f"The Space {result['repository']} on {target.hardware} is in {out}: {size}.{needs}\nNothing was sent anywhere."
        say(f"Sending {size}")
        address = deploy(target, out, repository=args.repository)
    return result | {"address": address}, f"The Space is at {address}; it is built now, which takes some minutes."
