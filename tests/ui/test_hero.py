"""The first screen states what is settled and no more, is the latest truth, and never at odds with the evidence."""

from __future__ import annotations

import copy
import json
import re

import pytest
from PIL import Image

from fusion.ui import address, compare, engine, events, first_screen, hero, measure, measured, state, target, texts
from tests.fusion import small

DATA = {
    "schema": 2, "target": "valley", "members": ["a", "b", "c"], "names": ["Harbor", "Summit", "Meadow"], "images": 96, "fitted": 48,
    "files": [f"fit/{n:03}.png" for n in range(96)], "matched": None, "blend": None, "prompts": ["p"], "seeds": [0], "steps": 20,
    "answer": {"images": 48, "proportions": [0.61, 0.27, 0.12], "interval": [[0.55, 0.7], [0.2, 0.35], [0.05, 0.2]], "outside": False},
    "rows": [{"method": m, "member": "Harbor" if m == "single" else None, "weights": [0.6, 0.3, 0.1],
              "shots": [{"file": "x.png", "seed": 0, "prompt": "p", "member": None}]} for m in ("single", "scorefusion", "mixture")],
}  # fmt: skip


def figure(value: float) -> dict:
    return {"value": value, "seeds": None, "samples": [value - 0.02, value + 0.02], "values": [value], "floor": 0.04}


def evidence(**recommended) -> dict:
    """What the study of that name leaves, for one target."""
    cost = {"evaluations": 20.0, "memory": 1.0, "training_seconds": 0.0, "preparation": 0}
    rows = [{"method": m, "title": m, "cost": cost, "seconds": None, "notes": {},
             "figures": {"population": figure(v), "kid": figure(v / 9)}}
            for m, v in (("single", 0.31), ("scorefusion", 0.25), ("mixture", 0.07))]  # fmt: skip
    told = {"sentence": "s", "method": "mixture", "kind": "kid", "value": 0.07 / 9, "decided": True, "rival": "single", "ties": [],
            "lead": {"value": 0.03, "low": 0.01, "high": 0.05}} | recommended  # fmt: skip
    columns = [{"name": n, "title": n, "unit": "u", "explanation": "e", "lower_is_better": True} for n in ("kid", "population")]
    settings = {"samples": 128, "seeds": 1, "steps": 20, "fitted": 48, "held_out": 96, "residual": 16, "complete": True}
    return {"settings": settings, "columns": columns,
            "targets": {"valley": {"rows": rows, "problems": {}, "recommendation": told, "recommendations": [told]}}}  # fmt: skip


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """`shown(data, language, found) -> text` of the first screen with this stored answer and evidence; None for none."""
    folder = tmp_path / "first_screen"
    folder.mkdir()
    monkeypatch.setattr(first_screen, "FOLDER", folder)
    monkeypatch.setattr(measure, "FOLDER", tmp_path)
    monkeypatch.setattr(engine, "ASSETS", tmp_path)

    def render(data: dict | None, language: str = "en", found: dict | None = None) -> str:
        first_screen.stored.cache_clear()
        for file, content in ((folder / "valley.json", data), (tmp_path / "evidence.json", found)):
            file.unlink(missing_ok=True)
            if content is not None:
                file.write_text(json.dumps(content))
        return text_of(state.Session(language=language, example="valley"))

    yield render
    first_screen.stored.cache_clear()


def text_of(session) -> str:
    return re.sub(r"<[^>]+>", "", hero.render(session)).replace("\u202f", " ")


def answering(**changes) -> dict:
    return copy.deepcopy(DATA) | {"answer": DATA["answer"] | changes}


def test_the_headline_states_what_is_settled_and_no_more(shown):
    assert "These 48 images look like 61 % Harbor, 27 % Summit and 12 % Meadow." in shown(DATA)
    most = shown(answering(interval=[[0.52, 0.9], [0.06, 0.4], [0.0, 0.08]]))
    assert "More than half of what these 48 images show is Harbor (52 to 90 %)." in most
    assert "Certain, too: Summit (6 to 40 %) is among them and there is hardly any Meadow (at most 8 %)." in most
    largest = shown(answering(interval=[[0.43, 0.85], [0.0, 0.41], [0.0, 0.3]]))
    assert "The largest part of what these 48 images show is Harbor (43 to 85 %)." in largest and "Certain" not in largest
    outside = shown(answering(outside=True))
    assert "No mix of these models explains these 48 images." in outside and "61 % Harbor," not in outside
    nothing = shown(answering(interval=[[0.0, 0.89], [0.0, 1.0], [0.0, 0.3]], images=12))
    assert "Which mix these are cannot be told from 12 images yet." in nothing and "61 % Harbor," not in nothing
    assert "Certain so far: Harbor (32 to 89 %) is among them." in shown(answering(interval=[[0.32, 0.89], [0.0, 0.5], [0.0, 0.3]]))
    assert "cannot be told from one image" in shown(answering(images=1, interval=[[0, 1]] * 3))


def test_hero_and_evidence_recommend_alike_in_one_rounding(shown):
    text = shown(DATA, found=evidence())
    session = state.Session(example="valley")
    report = measure.stored("valley")
    said = measured.recommendation(session, report)
    assert said in text and said in re.sub(r"<[^>]+>", "", measured.render(session, report, key="shipped"))
    assert said.startswith("Recommended: Mix. It comes nearer to the held-out images than the best single model by more than chance")
    assert said.endswith("(KID 0.008 against 0.034).")
    table = measured.render(session, report, key="shipped")
    for value in ("0.034", "0.028", "0.008"):
        assert value in text and value in table
    assert text.index("Mix recommended") < text.index("Best single model") and "squared kernel distance" in text.lower()
    assert "right for 9 of 11 fresh targets" in text  # by 96 held-out pictures
    unsure = shown(DATA, found=evidence(decided=False, lead={"value": 0.03, "low": -0.01, "high": 0.05}))
    assert "Recommended, but not certain: Mix. Its lead over the best single model is within noise" in unsure


def test_figures_of_other_pictures_say_so(shown):
    found = evidence()
    found["settings"]["fitted"] = 12
    assert "Measured with methods fitted to the first 12 pictures." in shown(DATA, found=found)


@pytest.fixture
def own(shown, tmp_path):
    """A visitor's session with three pictures of his own, not fitted yet."""
    shown(DATA, found=evidence())
    session = state.Session(selected=["a", "b", "c"])
    session.pictures = [state.Picture(image, "x.png", "a cat", f"{tmp_path}/{n}.png") for n, image in enumerate(small.pictures(3))]
    return session


def test_own_pictures_go_from_shares_to_samples_to_a_recommendation(own, tmp_path):
    assert "Harbor" in text_of(own)  # not fitted yet: the example's
    own.take_fit(small.fit(small.ensemble(tmp_path / "models")), ("a", "b", "c"))
    html = hero.render(own)
    assert "Your images" in html and "Harbor" not in html and html.count('width="52"') == 3 and "Recommended" not in html
    assert texts.say("en", "hero.not_drawn") in text_of(own)
    shot = state.Shot(path=f"{tmp_path}/s.png", seed=7, prompt="a cat", weights=(0.2, 0.3, 0.5))
    own.plan.prompts, own.plan.methods = ("a cat",), ("mixture", "uniform")
    for method in own.plan.methods:
        own.columns.append(state.Column(method, own.column_key(method), {("a cat", 7): shot}, weights=(0.2, 0.3, 0.5)))
    html = hero.render(own)
    assert html.count('width="58"') == 2 and "Equal weights" in html and "section 5" in html and "hero-verdict" not in html
    report = {"rows": [{"method": m, "title": m, "cost": None, "notes": {}, "problem": "", "kid": {"value": v, "low": v - 0.01,
                                                                                                  "high": v + 0.01, "floor": None}}
                       for m, v in (("mixture", 0.1), ("uniform", 0.3))],
              "columns": evidence()["columns"], "settings": {"held-out images": 48}, "stopped": False, "key": measure.key(own),
              "recommendation": {"sentence": "s", "method": "mixture", "kind": "kid", "value": 0.1, "decided": True, "rival": "uniform",
                                 "lead": {"value": 0.2, "low": 0.1, "high": 0.3}}}  # fmt: skip
    own.report = report
    text = text_of(own)
    assert "Recommended: Mix." in text and "0.100" in text and "right for 7 of 11" in text
    own.plan.steps += 1  # what was drawn and measured belongs to other settings now
    assert "Recommended" not in text_of(own) and 'width="58"' not in hero.render(own)
    own.selected = ["a", "b"]
    assert "Harbor" in text_of(own)  # older settings: no answer to these


def test_a_visitor_takes_more_pictures_of_the_example_and_sees_the_intervals_close():
    session = events.start(state.Session())
    widths = {}
    for count in target.COUNTS:
        target.take_example(session, {"name": "valley", "count": count})
        interval = session.fit.calibrated.interval_
        widths[count] = float((interval[:, 1] - interval[:, 0]).max())
        assert len(session.pictures) == len(session.fit.gram) == count and not session.stale()
        assert f'aria-pressed="true" data-do="example" data-name="valley" data-count="{count}"' in hero.render(session)
    assert widths[12] > widths[24] > widths[48] > widths[96] and widths[96] <= 0.3
    other = state.Session()
    events.start(other)
    asked = dict(address.parse_qsl(address.query(session)[1:]))
    assert asked["example"] == "valley" and asked["pictures"] == "96"


def test_the_example_shown_first_is_one_that_its_pictures_settle():
    session = events.start(state.Session())
    assert session.example == "valley" and len(session.pictures) == target.FIRST == 48
    text = text_of(session)
    assert text.count("largest part of what these 48 images show is Harbor") == 1 and "Certain, too: Summit" in text
    target.take_example(session, {"name": "valley", "count": 12})
    assert "Which mix these are cannot be told from 12 images yet." in text_of(session)
    target.take_example(session, {"name": "island"})
    assert "No mix of these models explains these 48 images." in text_of(session)


def test_the_stored_answer_is_the_fit_of_the_stored_statistic():
    for name in target.EXAMPLES:
        data, session = first_screen.stored(name), events.start(state.Session())
        target.take_example(session, {"name": name})
        assert hero._fitted(session)["proportions"] == pytest.approx(data["answer"]["proportions"], abs=1e-3)
        assert bool(session.fit.calibrated.outside_) == data["answer"]["outside"] and session.fit.matched is not None


@pytest.mark.parametrize(("data", "taken"), [
    ({"count": 10**9}, 96), ({"count": "x"}, 48), ({"count": -5}, 12), ({"count": [1]}, 48), ({}, 48)])  # fmt: skip
def test_a_count_from_a_browser_is_one_that_is_offered(data, taken):
    session = state.Session()
    target.take_example(session, {"name": "coast"} | data)
    assert len(session.pictures) == taken


def test_a_hosted_page_offers_no_more_pictures_than_it_takes(monkeypatch):
    from fusion.ui import uploads

    monkeypatch.setattr(uploads, "most_pictures", lambda: 24)
    session = state.Session()
    target.take_example(session, {"name": "valley", "count": 96})
    assert len(session.pictures) == 24 and target.counts("valley", 24) == (12, 24)


def test_in_japanese(shown):
    text = shown(answering(interval=[[0.43, 0.85], [0.06, 0.41], [0.0, 0.08]]), "ja", evidence())
    assert "この 48 枚で最も多いのは Harbor（43〜85 %）です。" in text and "Summit（6〜41 %）も含まれます" in text
    assert not re.search(r"[a-z]{5,}", text.replace("Harbor", "").replace("Summit", "").replace("Meadow", "")), text


@pytest.mark.parametrize("data", [None, DATA | {"schema": 99}])
def test_without_files_it_asks_the_question_and_names_one_action(shown, data):
    text = shown(data)
    assert texts.say("en", "hero.empty") in text and texts.say("en", "hero.own") in text


def test_a_name_from_outside_reads_no_other_file(shown):
    shown(DATA)
    assert first_screen.stored("../first_screen/valley") is None


def test_the_thumbnail_is_a_row():
    from fusion.ui.first_screen_make import _thumbnail

    assert _thumbnail([Image.new("RGB", (64, 64))] * 6).size == (384, 64)


def test_columns_of_other_settings_are_no_rows_of_the_hero(own):
    assert compare.is_old(own, state.Column("mixture", "another")) and hero._drawn(own, None) == []
