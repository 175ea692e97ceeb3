"""The front door: build the page and serve it. `python app.py [--port N]`; on a Space the port comes from the environment."""

from __future__ import annotations

import argparse
import os

from fusion.commands import options
from fusion.ui.page import build, launch
from fusion.ui.server import refuse_taken


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="ScoreFusion Studio: find out which mix of models makes images like yours.")
    parser.add_argument("--port", type=options.port, help="port to serve at (default: the first free one from 7860)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    args = parser.parse_args(argv)
    try:
        refuse_taken(args.port)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would advise on torchvision, which nothing here needs
    page = build()
    _, address, _ = launch(page, server_port=args.port, inbrowser=args.open, prevent_thread_lock=True)
    print(f"ScoreFusion Studio is at {address} (stop with Ctrl+C)", flush=True)
    page.block_thread()


if __name__ == "__main__":
    main()
