"""How the page is served: to whom, with which limits, in which type and colours."""

from __future__ import annotations

import os
import socket
from importlib import resources

import gradio as gr

from . import engine, first_screen

MAX_FILE = "64mb"
STYLES = ("page", "header", "first_screen", "sections", "compare", "evidence", "narrow", "mixer")  # in this order


def theme() -> gr.Theme:
    """Gradio's own parts in our type; the font lies in the package, nothing is fetched (its semibold is only a subset)."""
    font = [
        gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)),
        "system-ui",
        "Segoe UI",
        "Hiragino Sans",
        "Noto Sans JP",
        "Noto Sans CJK JP",
        "sans-serif",
    ]
    return gr.themes.Base(font=font, font_mono=["ui-monospace", "Menlo", "monospace"], primary_hue="indigo", neutral_hue="stone")


def refuse_taken(port: int | None) -> None:
    """Raise ValueError, with cause and cure, where nothing can be served at `port`. Quick: to be asked before the page is built."""
    if port is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was left a moment ago is free
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise ValueError(f"port {port} is kept for the system: choose one from 1024 up with --port, or leave --port out") from None
        except OSError:
            raise ValueError(f"port {port} is taken: choose another with --port, or leave --port out") from None


def launch(page: gr.Blocks, **overrides):
    """Serve the page: to this machine only, unless it runs on a Space. `overrides` for tests (port, prevent_thread_lock)."""
    folder = resources.files(__package__)
    css = "".join(folder.joinpath(f"{name}.css").read_text("utf-8") for name in STYLES)
    gr.set_static_paths([p for p in (first_screen.FOLDER, engine.ASSETS / "targets", engine.ASSETS / "thumbnails") if p.is_dir()])
    page.queue(max_size=64)
    server = dict(
        server_name="0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1", share=False, quiet=True, state_session_capacity=1000
    )
    closed = dict(show_error=False, allowed_paths=[], max_file_size=MAX_FILE, enable_monitoring=False, strict_cors=True, run_history=False)
    plain = dict(ssr_mode=False, pwa=False, mcp_server=False, footer_links=[])  # no endpoints, so no page of them
    look = dict(theme=theme(), css=css, js=folder.joinpath("page.js").read_text("utf-8"))
    return page.launch(**(server | closed | plain | look | overrides))
