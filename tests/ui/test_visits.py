"""A reload finds what was there: pictures, fit, images and what the models said; a stranger, a forged key and another tab find nothing."""

from __future__ import annotations

import threading
import types

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from fusion.ui import address, engine, events, fit, state, visits
from tests.fusion import small

KEY, OTHER = "0f" * 24, "a1" * 24


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    cards = {card.id: card for card in small.cards(tmp_path_factory.mktemp("models"))}
    return types.SimpleNamespace(cards=cards, ensemble=small.load_ensemble(list(cards.values()), device="cpu"))


@pytest.fixture
def session(world, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(engine, "cards", lambda: world.cards)
    monkeypatch.setattr(engine, "ensemble", lambda chosen, progress=None: world.ensemble)
    made = state.Session(selected=list(world.cards), level_count=8)
    made.pictures = [_picture(made, n) for n in range(2)]
    visits.resume(made, KEY)
    return made


def _picture(session, n: int) -> state.Picture:
    image = small.pictures(n + 1)[n]
    path = session.folder / f"target-{n}.png"
    image.save(path)
    return state.Picture(image, path.name, "a cat", str(path))


def run(work) -> None:
    for _ in work:
        pass


def test_a_reload_finds_everything_and_the_files_outlive_the_page_before(session):
    run(fit.run(session))
    session.weights["mix"] = np.array([0.5, 0.3, 0.2])
    after = state.Session()
    assert visits.resume(after, KEY)
    assert [p.path for p in after.pictures] == [p.path for p in session.pictures] and after.fit.gram.names == session.fit.gram.names
    assert not after.stale() and after.weights["mix"].tolist() == [0.5, 0.3, 0.2] and after.notes == {} and after.job is None
    session.close()  # Gradio forgets the page before after an hour
    assert all(Image.open(p.path).size for p in after.pictures)
    folder = after.folder
    after.close()
    assert not folder.exists()


def test_the_two_pages_of_a_duplicated_tab_do_not_write_into_one_state(session):
    other = state.Session()
    visits.resume(other, KEY)
    other.pictures[0].caption, other.selected[:] = "a dog", other.selected[:2]
    other.pictures.pop()
    assert len(session.pictures) == 2 and session.pictures[0].caption == "a cat" and len(session.selected) == 3


@pytest.mark.parametrize("key", [None, "", OTHER, KEY[:-1], KEY.upper(), 5, {"key": KEY}])
def test_who_does_not_know_the_key_gets_nothing(session, key):
    stranger = state.Session()
    assert not visits.resume(stranger, key)
    assert stranger.pictures == [] and stranger.token != session.token


def test_work_that_a_reload_cut_short_is_said_in_its_place_and_goes_on_where_it_was(session, world, monkeypatch):
    asked, plain = [], type(world.ensemble).predictor
    cut = threading.Event()

    def predictor(ensemble, prompts):
        inner = plain(ensemble, prompts)

        def predict(x_t, *rest, **more):
            if asked and not cut.is_set():  # the second call lasts until the page is reloaded
                assert cut.wait(600)
            asked.append(len(x_t))
            return inner(x_t, *rest, **more)

        return predict

    monkeypatch.setattr(type(world.ensemble), "predictor", predictor)
    work, after = fit.run(session), state.Session()
    while not asked:
        next(work)
    assert visits.resume(after, KEY)  # while the page before still works
    session.job.stop()
    cut.set()
    work.close()
    assert [kind for kind, _ in after.notes["fit"]] == ["warn"] and "reloaded" in after.notes["fit"][0][1]
    before, asked[:] = sum(asked), []
    run(fit.run(after))
    again, asked[:] = sum(asked), []
    run(fit.run(after))
    whole = 3 * 2 * 2 * 8  # members, pictures, an antithetic pair, noise levels
    assert 0 < before < whole and before + again == whole and sum(asked) == 0  # what was said is not asked again
    assert len(after.fit.gram) == 2 and "fit" not in after.notes


def test_a_folder_of_answers_never_outgrows_its_share(session, monkeypatch):
    run(fit.run(session))
    size = sum(f.stat().st_size for f in session.answers.rglob("*.safetensors"))
    monkeypatch.setattr(engine, "KEPT_ANSWERS", {False: int(1.5 * size)})
    session.pictures[0].caption = "a dog"  # other questions: the folder would hold both
    run(fit.run(session))
    assert 0 < sum(f.stat().st_size for f in session.answers.rglob("*.safetensors")) < 1.5 * size
    monkeypatch.setattr(engine, "KEPT_ANSWERS", {False: 10})
    assert engine._kept(session.answers, engine.ensemble(()), 2, 8) is None


def load(session, key: str, query: str = "") -> list:
    params = dict(part.split("=") for part in query.split("&") if part)
    return events.on_load(session, key, gr.Request(request=types.SimpleNamespace(headers={}, query_params=params, session=None)))


def test_an_address_that_says_something_else_has_the_last_word(session, monkeypatch):
    session.weights["mix"] = np.array([0.123456, 0.3, 0.576544])
    after, linked = state.Session(), state.Session()
    load(after, KEY, address.query(session)[1:].replace("%2C", ",").replace("%2F", "/").replace("+", " "))
    assert after.weights["mix"][0] == 0.123456 and len(after.pictures) == 2
    load(linked, KEY, "models=tiny/bea,tiny/ada&mode=blend&lang=ja&seed=9")
    assert linked.selected == ["tiny/bea", "tiny/ada"] and linked.mode == "blend" and linked.plan.first_seed == 9
    assert linked.language == "ja" and len(linked.pictures) == 2


def test_stop_leaves_the_screen_to_the_work_that_ends():
    """A panel sent by Stop could reach the browser after the work's last one and show it running for ever."""
    session, pressed = state.Session(), []
    session.job = types.SimpleNamespace(stop=lambda: pressed.append(True))
    answer = events.on_stop(session)
    assert pressed == [True] and len(answer) == len(events.PANELS) and not session.sent
