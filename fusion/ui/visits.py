"""What outlives a reload: a tab brings a key of its own along, and goes on where the page it replaces was.

The key is made by the browser, kept for the tab alone (`sessionStorage`) and never shown: who does not know it gets nothing. A duplicated
tab starts from a copy, so two open pages never write into one state.
"""

from __future__ import annotations

import re
import threading
import weakref

from . import jobs, state

# Gives the load event this tab's key. Storage may be forbidden; then every load is a first one, as it always was.
KEY_OF_TAB = """() => {
  try {
    sessionStorage.scoreFusionTab ||= [...crypto.getRandomValues(new Uint8Array(24))].map((b) => b.toString(16).padStart(2, '0')).join('');
    return [null, sessionStorage.scoreFusionTab];
  } catch { return [null, '']; }
}"""
KEY = re.compile(r"[0-9a-f]{48}")

_last: weakref.WeakValueDictionary[str, state.Session] = weakref.WeakValueDictionary()  # Gradio forgets them an hour after a tab is closed
_lock = threading.Lock()


def resume(session: state.Session, key: object) -> bool:
    """Make `session` go on where this tab's last one is, if there is one. Work that its reload cut short is said in its place."""
    if not isinstance(key, str) or not KEY.fullmatch(key):
        return False
    with _lock:
        before = _last.get(key)
        _last[key] = session
    if before is None or before is session:
        return False
    cut = before.waiting or (before.job.kind if before.job is not None else "")
    session.adopt(before)
    if cut:
        session.note(jobs.PLACES[cut], "warn", session.tell("run.reloaded"))
    return True
