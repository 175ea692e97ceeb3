"""Prompts in one field: what separates them, and what belongs to one of them."""

import pytest

from fusion.ui import address, compare, prompts, state


@pytest.mark.parametrize(("text", "found"), [
    ("a cat | a dog", ("a cat", "a dog")), ("a {red|blue} cat|a [dog|fox:0.5]", ("a {red|blue} cat", "a [dog|fox:0.5]")),
    ("one \\| two | three", ("one | two", "three")), ("a (cat | a dog", ("a (cat", "a dog")), (" | ", ()), ("a) | b", ("a)", "b")),
    ("|".join("abcdefghijklmnopqrst"), tuple("abcdefghijklmnop")), ("x" * 5000, ("x" * 4000,)),
])  # fmt: skip
def test_bars_within_brackets_belong_to_the_prompt(text, found):
    assert prompts.split(text) == found
    assert prompts.split(prompts.joined(found)) == found


def test_field_and_address_give_back_what_was_typed():
    session = state.Session()
    compare.set_plan(session, {"name": "prompts", "value": "a {red|blue} cat | a (dog:1.3)"})
    for name, value in (("negative", "blurred & dark"), ("clip_skip", 2), ("first_seed", 2**32 - 1)):
        compare.set_plan(session, {"name": name, "value": value})
    other = state.Session()
    asked = dict(address.parse_qsl(address.query(session)[1:]))
    assert address.restore(other, asked, set()) == [] and other.plan == session.plan
    assert other.plan.first_seed == 2**32 - 1 and other.plan.negative == "blurred & dark" and len(other.plan.prompts) == 2


def test_rows_of_the_grid_are_one_seed_in_every_column():
    session = state.Session()
    shot = lambda seed: state.Shot(path="", seed=seed, prompt="a cat", weights=(), member="")
    session.plan.prompts = ("a cat",)
    for order in ((0, 2, 1, 3), (0, 1, 2, 3)):
        session.columns.append(state.Column("mixture", "", {("a cat", seed): shot(seed) for seed in order}))
    assert compare.rows(session) == [("a cat", seed) for seed in range(4)]


def test_rows_before_the_first_image_are_those_to_be_drawn():
    session = state.Session()
    session.plan.prompts, session.plan.count, session.plan.first_seed = ("a cat", "a dog"), 2, 5
    session.columns.append(state.Column("mixture", ""))
    assert compare.rows(session) == [("a cat", 5), ("a cat", 6), ("a dog", 5), ("a dog", 6)]


def test_what_a_field_does_not_take_is_said():
    session = state.Session()
    for value, said in (("|".join("abcdefghijklmnopqrst"), True), ("x" * 4001, True), ("x" * 4000 + " | b", False)):
        compare.set_plan(session, {"name": "prompts", "value": value})
        assert ("at most 16 prompts of 4000" in compare._plan(session).lower()) == said
