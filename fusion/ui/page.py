"""The page: one panel per section over plain functions, wired together. `build()` makes it, `launch()` (server.py) serves it."""

from __future__ import annotations

import gradio as gr

from . import arriving, jobs, mixer, state, visits
from .events import (
    ACTIONS,
    LONG,
    PANELS,
    long,
    on_act,
    on_held,
    on_load,
    on_mode,
    on_recipe,
    on_release,
    on_stop,
    on_unload,
    on_upload,
    on_warm,
    refresh,
    start,
    waiting,
)
from .panel import panel
from .server import launch, theme

__all__ = ["ACTIONS", "LONG", "PANELS", "build", "launch", "on_act", "refresh", "theme"]

DROPS = {"target": ("drop", "multiple", 140), "held": ("held-drop", "multiple", 100), "comeback": ("recipe-drop", "multiple", 120)}


def build() -> gr.Blocks:
    """The page. Its first content is that of a fresh visitor, so that the answer is painted before any event."""
    first = start(state.Session())
    shown = {name: render(first) for name, render in PANELS.items()}
    with arriving.Page(title="ScoreFusion Studio", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        session = gr.State(state.Session(), time_to_live=6 * 3600, delete_callback=state.Session.close)
        parts, drops = {}, {}
        with gr.Column(elem_classes="sf-page"):
            for name in PANELS:
                if name in DROPS:
                    drops[name] = _drop(name)
                parts[name] = mixer.build(shown[name]) if name == "mixer" else panel(shown[name], f"panel-{name}")
        _wire(page, session, parts, drops)
    return page


def _drop(name: str) -> gr.File:
    """A drop zone: pictures for the target, held-out pictures, one recipe for the way back."""
    elem_id, many, height = DROPS[name]
    return gr.File(file_count=many, show_label=False, label=name.title(), elem_id=elem_id, elem_classes="sf-drop", height=height)


def _wire(page: gr.Blocks, session: gr.State, parts: dict, drops: dict) -> None:
    outputs = list(parts.values())
    quick = {"inputs": session, "outputs": outputs, "show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
    for name, part in parts.items():
        if name == "mixer":
            continue
        part.act(on_act, api_name=f"act_{name}", **quick)
    for name in dict.fromkeys(jobs.PLACES.values()):
        parts[name].stop(on_stop, api_name=f"stop_{name}", **quick)
    for kind, place in jobs.PLACES.items():
        started = getattr(parts[place], kind)(waiting(kind), api_name=f"wait_{kind}", **quick)
        started.then(long(kind), api_name=kind, **(quick | {"concurrency_limit": 1, "concurrency_id": "device"}))
    parts["mixer"].release(on_release, api_name="release", **quick)
    parts["mixer"].mode(on_mode, api_name="mode", **quick)
    taken = {k: v for k, v in quick.items() if k not in ("inputs", "outputs")}
    for name, take in (("target", on_upload), ("held", on_held), ("comeback", on_recipe)):
        drops[name].upload(take, [session, drops[name]], [drops[name], *outputs], api_name=f"upload_{name}", **taken)
    tab = gr.Textbox(visible=False)  # carries a key from the browser to the load event
    loaded = page.load(on_load, api_name="load", js=visits.KEY_OF_TAB, **(quick | {"inputs": [session, tab]}))
    loaded.then(on_warm, api_name="warm", **quick)
    loaded.then(None, js="() => { window.scoreFusionReady = true; window.scoreFusionAddress(); }", api_visibility="private")
    page.unload(on_unload)
