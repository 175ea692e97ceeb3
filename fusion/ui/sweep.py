"""A weight sweep inside Compare: one seed, the two strongest models, five blends between them."""

from __future__ import annotations

import numpy as np

from . import compare, draw, engine, fit, jobs, models_section, state

SWEEP = (1.0, 0.75, 0.5, 0.25, 0.0)  # share of the stronger of the two


def render(session, busy: bool) -> str:
    say, names = session.say, list(session.fit.gram.names)
    order = np.argsort(-engine.default_weights(session.fit, "mix"))[:2]
    text = say("sweep.help", first=names[order[0]], second=names[order[1]])
    shots = ""
    if session.sweep:
        shots = (
            '<div class="sweep">'
            + "".join(
                f'<figure class="shot"><img src="{state.link(s.path)}" alt="{compare.plain_weights(session, s.weights)}">'
                f"<figcaption>{compare.plain_weights(session, s.weights)}<br>{say('compare.seed', seed=s.seed)}</figcaption></figure>"
                for s in session.sweep
            )
            + "</div>"
        )
    fold = f'<details data-key="sweep" {"open" if session.sweep else ""}><summary>{say("sweep.title")}</summary>'
    return (
        f'{fold}<div class="stack"><p class="soft">{text}'
        f'</p><p><button class="btn" type="button" data-do="sweep" '
        f'data-event="sweep" {"disabled" if busy else ""}>{say("sweep.button")}</button></p>{shots}</div></details>'
    )


def run(session):
    """Generator: one seed, the two strongest models, five blends between them."""
    cards, result, plan = models_section.chosen(session), session.fit, session.plan
    if result is None or session.stale():
        return
    order = np.argsort(-engine.default_weights(result, "mix"))[:2]
    session.sweep = []
    one = state.Plan(prompts=plan.prompts[:1], first_seed=plan.first_seed, count=1, steps=plan.steps, guidance=plan.guidance)

    def work(job):
        for share in SWEEP:
            weights = np.zeros(len(cards))
            weights[order] = share, 1 - share
            column = state.Column(f"sweep-{share:.2f}", session.column_key("yours"))
            for sample in draw.samples(cards, result, "yours", one, ("blend", weights), job=job):
                compare.keep(session, column, sample, cards, one)
            session.sweep += list(column.shots.values())

    yield from fit.follow(session, jobs.Job("sweep", work))
    yield
