"""`python -m fusion serve`: the page, on this machine."""

from __future__ import annotations

from argparse import ArgumentParser

from fusion.commands import options

ABOUT = """Open the page: choose models, drop in images, fit, mix, compare. It listens on this machine only.

  python -m fusion serve --port 7860
"""


def arguments(command: ArgumentParser) -> None:
    command.add_argument("--port", type=options.port, help="port to serve at (default: the first free one from 7860)")
    command.add_argument("--open", action="store_true", help="open the page in a browser")


def run(args, *, progress, stop):
    """Start the page; returns when it is stopped."""
    from app import main  # the page stands above us: only this command reaches up, and only when it runs

    main((["--port", str(args.port)] if args.port else []) + (["--open"] if args.open else []))
    return {}, "The page is closed."
