"""One block of the page: HTML made in Python, whose buttons and fields come back as events. Knows no section.

Every element with `data-do` reports: `data-event` names the Gradio event (default `act`), all other `data-*` travel with it, and fields add
`value`; `data-then` is what to scroll to. Gradio compares old and new HTML node by node, so focus and scroll position stay where they are.
"""

from __future__ import annotations

import json
from html import escape

import gradio as gr

# Gradio knows a custom event only if its name stands in quotes in the script: hence the first line.
DELEGATE = """
// events: 'act' 'fit' 'stop' 'compare' 'sweep' 'calibrate' 'redraw' 'measure'
const send = (node, extra) => {
  const { event = 'act', with: other, then, ...rest } = node.dataset;
  if (other) extra.value = element.querySelector(other)?.value ?? '';
  if (then) document.querySelector(then)?.scrollIntoView();
  trigger(event, { ...rest, ...extra });
};
element.addEventListener('click', (e) => {
  const node = e.target.closest('[data-do]');
  if (!node || !element.contains(node) || node.matches('select, input, textarea') || node.disabled) return;
  if (node.dataset.do === 'copy') { scoreFusionCopy(node); return; }
  send(node, {});
});
element.addEventListener('change', (e) => {
  const node = e.target.closest('[data-do]');
  if (node && node.matches('select, input, textarea')) send(node, { value: node.type === 'checkbox' ? node.checked : node.value });
});
// What a visitor has folded open stays open when the HTML around it is renewed.
const folded = new Map();
element.addEventListener('click', (e) => {
  const fold = e.target.closest('summary')?.parentElement;
  if (fold) setTimeout(() => folded.set(fold.dataset.key, fold.open), 0);
});
watch('value', () => element.querySelectorAll('details[data-key]').forEach((fold) => {
  if (folded.has(fold.dataset.key)) fold.open = folded.get(fold.dataset.key);
}));
element.addEventListener('input', (e) => {
  if (e.target.matches('[data-cut]')) element.querySelector('.wipe').style.setProperty('--cut', e.target.value + '%');
});
element.addEventListener('keydown', (e) => {
  if (e.key === 'Enter' && !e.isComposing && e.target.matches('textarea[data-do]')) {  // one line of text, wrapped
    e.preventDefault();
    e.target.blur();
  }
  const enter = e.key === 'Enter' && e.target.closest('[data-enter]');
  if (enter) { e.preventDefault(); element.querySelector(enter.dataset.enter)?.click(); }
  const tab = e.target.closest('[role=tab]');
  if (tab && (e.key === 'ArrowRight' || e.key === 'ArrowLeft')) {
    const all = [...element.querySelectorAll('[role=tab]')], step = e.key === 'ArrowRight' ? 1 : all.length - 1;
    const next = all[(all.indexOf(tab) + step) % all.length];
    next.focus(); next.click();
  }
});
"""


def panel(value: str, elem_id: str) -> gr.HTML:
    """An HTML block with the events above; `value` is its first content."""
    return gr.HTML(
        value, html_template="${value}", js_on_load=DELEGATE, elem_id=elem_id, apply_default_css=False, container=False, padding=False
    )


def drop_words(session, elem_id: str, key: str) -> str:
    """The words inside a drop zone, empty and while its files are read: Gradio's own follow the browser's language and not ours."""
    empty, reading = (json.dumps(session.tell(word), ensure_ascii=False) for word in (key, "word.reading"))
    return (f"<style>#{elem_id} .wrap::after {{ content: {empty}; }} "
            f"#{elem_id}:has(.file-preview-holder)::after {{ content: {reading}; }}</style>")  # fmt: skip


def section(session, number: int, name: str, body: str) -> str:
    """The frame that all numbered sections share."""
    say = session.say
    return (
        f'<section class="sf section" id="{name}" aria-labelledby="{name}-title"><header>'
        f'<span class="num" aria-hidden="true">{number}</span>'
        f'<h2 id="{name}-title">{say(f"{name}.title")}</h2><p>{say(f"{name}.lead")}</p></header></section>'
        f'<div class="sf inset stack" style="padding-top:20px">{body}</div>'
    )


def notes(session, place: str) -> str:
    """What is to be said at one place: problems with their cure, or a calm remark."""
    said = session.notes.get(place) or []
    if not said:
        return ""
    boxes = []
    for kind in dict.fromkeys(kind for kind, _ in said):
        role = "alert" if kind == "bad" else "status"
        items = "".join(f"<li>{escape(text)}</li>" for own, text in said if own == kind)
        boxes.append(f'<div class="note {kind}" role="{role}" data-place="{place}"><ul>{items}</ul></div>')
    return "".join(boxes)


def progress(session, kind: str) -> str:
    """i of n, elapsed time and Stop, while a job of this kind runs or waits."""
    job, say = session.job, session.say
    if session.waiting == kind:
        return (
            f'<div class="card progress" role="status" data-waiting="{kind}"><div class="row" style="justify-content:space-between">'
            f"<p>{say('run.waiting')}</p>"
            f'<button class="btn" type="button" data-do="stop" data-event="stop">{say("run.stop")}</button></div><div class="bar">'
            f'<i style="width:0"></i></div></div>'
        )
    if job is None or job.kind != kind:
        return ""
    part = job.done / job.total if job.total else 0.02
    count = f"{100 * part:.0f}\u202f%" if job.percent else say("run.progress", done=job.done, total=job.total)
    text = (f"{escape(job.label)} · " if job.label else "") + say(f"run.{job.stage}") + (f" · {count}" if job.total else "")
    stop = say("run.stopping") if job.stopped() else say("run.stop")
    return (
        f'<div class="card progress" role="status" data-running="{kind}"><div class="row" style="justify-content:space-between">'
        f'<p>{text} <span class="soft">· {say("run.seconds", seconds=f"{job.seconds:.0f}")}</span></p>'
        f'<button class="btn" type="button" data-do="stop" data-event="stop" {"disabled" if job.stopped() else ""}>{stop}</button>'
        f"</div>"
        f'<div class="bar"><i style="width:{100 * part:.1f}%"></i></div></div>'
    )
