"""Words that a text encoder does not read, and syntax that is text to it, are named."""

import pytest

from models.prompts import PromptError, understood
from models.reading import dropped, remarks, unread

WEIGHTS = {
    "a cat": [], "((word))": [("word", 1.21)], "[word]": [("word", 0.9091)], "[(w)]": [], "a (red:1.4) cat": [("red", 1.4)],
    "(a (b:1.5):1.2)": [("a", 1.2), ("b", 1.8)], r"a \(x\)": [], "a :( b": [], "(a [b) c]": [("a [b", 1.1)],
}  # fmt: skip


@pytest.mark.parametrize("prompt", WEIGHTS)
def test_weights_are_found(prompt):
    assert list(understood(prompt).weighted) == WEIGHTS[prompt]


def test_what_is_no_word_is_told_apart():
    said = understood("a <lora:x:0.8> {a|b} AND [c:d:0.5] BREAK e")
    assert said.networks == ("<lora:x:0.8>",) and set(said.foreign) == {"{a|b}", "AND", "[c:d:0.5]"} and len(said.parts) == 2
    with pytest.raises(PromptError, match="from 0 to 10"):
        understood("(a:11)")


@pytest.mark.parametrize("kind, by", [("sd", {"text_encoder"}), ("sdxl", {"text_encoder", "text_encoder_2"}),
                                      ("sd3", {"text_encoder", "text_encoder_2"}), ("flux", {"text_encoder"})])  # fmt: skip
def test_words_beyond_the_encoder_are_named(tiny_ensemble, kind, by):
    found = unread(tiny_ensemble(kind), ["a cat", "a cat with a very long tail"])  # the tiny tokenizer spells, and reads 14 letters
    assert {row["by"] for row in found} == by and {row["not_read"] for row in found} == {"long tail"}
    assert unread(tiny_ensemble("ddpm"), ["a cat " * 100]) == []


def test_t5_reads_further_and_is_cut_too(tiny_ensemble):
    assert unread(tiny_ensemble("pixart"), ["ab " * 50]) == []
    assert unread(tiny_ensemble("pixart"), ["ab " * 200 + "the end"])[0]["not_read"].endswith("the end")


def test_remarks_say_both(tiny_ensemble):
    prompt = "a (red:1.4) cat, <lora:foo:0.8>"
    rows, said = remarks(tiny_ensemble("pixart"), [prompt], "prompt")
    assert "plain text" in said[-2] and "<lora:foo:0.8>" in said[-1]
    rows, said = remarks(tiny_ensemble("sd"), [prompt])
    assert len(said) == 1 and rows[0]["not_read"] in said[0], "a caption's brackets are letters"
    rows, said = remarks(tiny_ensemble("sd"), [prompt], "prompt")
    assert rows == [] and "beyond" in said[0] and "left out" in said[-1] and not any("plain text" in one for one in said)
    assert remarks(tiny_ensemble("sd"), ["a cat"]) == remarks(tiny_ensemble("sd"), ["a cat"], "prompt") == ([], [])


def test_negative_prompts_are_put_into_no_template(tiny_ensemble):
    from dataclasses import replace

    from fusion.commands.shared import heard

    plain = tiny_ensemble("sd3")
    members = tuple(replace(one, card=replace(one.card, prompt_template="a long style, {prompt}")) for one in plain.members)
    ensemble, words = replace(plain, members=members), "a short dog"
    assert dropped(ensemble, [words]) and not dropped(ensemble, [words], templates=False)
    assert dropped(tiny_ensemble("sd"), ["a cat with a very long tail"], "prompt") == []
    rows = heard(plain, ["a cat"], "prompt", "a dog with a very long tail")
    assert {row["not_read"] for row in rows} == {"long tail"}
