"""A blind vote inside Compare: two images of one seed, no names; the tally names the methods afterwards."""

from __future__ import annotations

import random

from . import charts, state
from .engine import open_images


def render(session) -> str:
    """Two images, no names. The tally names the methods only after the choice."""
    pair, say = session.vote.get("pair"), session.say
    tally = session.vote.get("tally") or {}
    if len([c for c in session.columns if c.shots]) < 2:
        return ""
    body = f'<button class="btn" type="button" data-do="vote_next">{say("vote.start")}</button>'
    if pair:
        shots = [session.columns[c].shots[tuple(key)] for c, key in pair]
        body = (
            f'<p>{say("vote.question")}</p><div class="vote">'
            + "".join(
                f'<div class="stack" style="gap:8px"><img src="{state.link(s.path)}" alt="{say("vote.option", letter="AB"[i])}">'
                f'<button class="btn" type="button" data-do="vote" data-side="{i}">{say("vote.choose", letter="AB"[i])}</button></div>'
                for i, s in enumerate(shots)
            )
            + f'</div><button class="btn quiet" type="button" data-do="vote_pause">{say("vote.pause")}</button>'
        )
    rows = [[session.tell(f"method.{m}"), won, lost] for m, (won, lost) in tally.items()]
    if rows:
        body += charts.table(
            [session.tell("word.method"), session.tell("vote.won"), session.tell("vote.lost")], rows, session.tell("vote.tally")
        )
    fold = f'<details data-key="vote" {"open" if pair or tally else ""}><summary>{say("vote.title")}</summary>'
    return f'{fold}<div class="stack">{body}</div></details>'


def following(session, data: dict) -> None:
    """Draw the next pair: same prompt and seed, two methods, sides at random."""
    columns = list(enumerate(session.columns))
    common = [(i, j, k) for i, a in columns for j, b in columns if i != j for k in a.shots if k in b.shots]
    common = [(i, j, k) for i, j, k in common if not _same(session.columns[i].shots[k], session.columns[j].shots[k])]
    if common:
        i, j, key = random.choice(common)
        session.vote["pair"] = [(i, key), (j, key)]


def _same(one, other) -> bool:
    """Two methods may well draw the very same image: nobody can choose between those."""
    return (one.member, one.weights) == (other.member, other.weights) and open_images([one.path])[0] == open_images([other.path])[0]


def choose(session, data: dict) -> None:
    pair, side = session.vote.get("pair"), str(data.get("side"))
    if not pair or side not in ("0", "1"):
        return
    tally = session.vote.setdefault("tally", {})
    for at, (column, _) in enumerate(pair):
        won, lost = tally.get(session.columns[column].method, (0, 0))
        tally[session.columns[column].method] = (won + 1, lost) if at == int(side) else (won, lost + 1)
    following(session, data)


def pause(session, data: dict) -> None:
    session.vote.pop("pair", None)
