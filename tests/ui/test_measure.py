"""Evidence in the page: measured on held-out images only, every cell explained, sortable, in both languages; and the report on paper."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from fusion.evaluation.recommendation import NONE
from fusion.evaluation.record import record
from fusion.ui import charts, engine, measure, measured, paper, state, texts, uploads
from tests.fusion import small


def report() -> dict:
    def row(method, kid, evaluations, **more):
        found = {"value": kid, "low": kid - 0.1, "high": kid + 0.1, "floor": 0.05}
        cost = {"evaluations": evaluations, "memory": 1.0, "training_seconds": 0.0, "preparation": 0}
        return {"method": method, "title": method.title(), "kid": found, "cost": cost, "notes": {}, "problem": "", **more}

    return {
        "rows": [row("single", 0.6, 20), row("mixture", 0.2, 21, notes={"kid": "Not told from 0 <b>."}), row("uniform", 0.4, 80),
                 {"method": "matched", "title": "Blend", "cost": None, "notes": {}, "problem": "matching needs a calibration: do it"}],
        "columns": [{"name": "kid", "title": "KID", "unit": "u", "explanation": "e", "lower_is_better": True},
                    {"name": "evaluations", "title": "Evaluations", "unit": "u", "explanation": "e", "lower_is_better": True},
                    {"name": "novel", "title": "Novel & new", "unit": "u", "explanation": "never seen", "lower_is_better": None}],
        "recommendation": {"sentence": "Recommended: Mixture.", "method": "mixture", "kind": "kid", "value": 0.2, "decided": True,
                           "lead": {"value": 0.4, "low": 0.2, "high": 0.6}, "rival": "single", "ties": ["uniform"]},
        "settings": {"steps": 4}, "stopped": False,
    }  # fmt: skip


def order(html: str) -> list[str]:
    return re.findall(r'<th scope="row">([^<]+)', html)


def test_every_cell_explains_itself_and_markup_stays_text():
    session = state.Session()
    html = measured.render(session, report(), key="own")
    assert html.index("Recommended: Mix.") < html.index("<table")
    cells = re.findall(r'<td class="num[^"]*" title="([^"]*)" aria-description="([^"]*)"', html)
    assert len(cells) == 6 and all(a == b and len(a) > 40 for a, b in cells)
    assert any("chance alone" in a and "Not told from 0 &lt;b&gt;" in a and "Lower is better" in a for a, _ in cells)
    assert "matching needs a calibration" in html and "<b>.<" not in html and "Novel" not in html  # nothing measured there
    assert "<b>0.20</b>" in html and html.count("<svg") == 1


def test_sorting_turns_and_keeps_gaps_last():
    session, found = state.Session(), report()
    assert order(measured.render(session, found, key="own")) == ["Best single model", "Mix ", "Equal weights ", "Blend"]
    measured.sort(session, {"table": "own", "name": "kid"})
    html = measured.render(session, found, key="own")
    assert order(html) == ["Mix ", "Equal weights ", "Best single model", "Blend"] and 'aria-sort="ascending"' in html
    measured.sort(session, {"table": "own", "name": "kid"})
    html = measured.render(session, found, key="own")
    assert order(html) == ["Best single model", "Equal weights ", "Mix ", "Blend"] and 'aria-sort="descending"' in html
    measured.sort(session, {"table": "<x>", "name": "kid"})
    assert set(session.sort) == {"own"}


@pytest.mark.parametrize(("best", "decided"), [("mixture", True), ("mixture", False), ("single", True), ("single", False), (None, False)])
def test_the_recommendation_in_japanese_says_the_same(best, decided):
    session, found = state.Session(language="ja"), report()
    found["recommendation"] |= {"method": best, "decided": decided, "rival": "uniform" if best == "single" else "single"}
    if best is None:
        found["recommendation"]["sentence"] = NONE
    said = measured.recommendation(session, found)
    assert re.search(r"[\u3040-\u30ff]", said) and not re.search(r"[a-z]{5,}", said)
    if best:
        assert texts.say("ja", f"method.{best}") in said and ("偶然では" in said) == decided
    session.language = "en"
    again = measured.recommendation(session, found)
    assert len(again) < 160 and ("by more than chance" in again) == (decided and best is not None)


def test_who_is_not_told_apart_or_left_out_stands_in_the_table_and_how_often_verdicts_were_right_beside_it():
    session, found = state.Session(), report()
    found["recommendation"] |= {"ties": ["uniform"], "copying": ["single"]}
    found["settings"]["held-out images"] = 48
    html = measured.render(session, found, key="own")
    badges = dict(re.findall(r'<th scope="row">([^<]+?) <span class="badge">([^<]+)<', html))
    assert badges == {"Mix": "recommended", "Equal weights": "not told apart", "Best single model": "left out: repeats fitted images"}
    beside = " ".join(measured.beside(session, found))
    known = record(48)
    assert (known.right, known.clear) == (7, 11) and "right for 7 of 11 fresh targets" in beside and "by 48 held-out pictures" in beside
    assert (record(96).right, record(500).held_out) == (9, 96) and "0.40, 95 % interval 0.20 … 0.60" in beside
    found["recommendation"]["method"] = None
    assert measured.beside(session, found) == []


def test_what_samples_say_of_how_they_were_drawn_stands_by_the_methods_name():
    session, found = state.Session(), report()
    found["rows"][1]["notes"]["method"] = "16 of 16 samples: <i>Ada alone"
    html = measured.render(session, found, key="own")
    assert html.count("16 of 16 samples: &lt;i&gt;Ada alone") == 2 and order(html)[1] == "Mix"


def test_a_columns_figures_have_the_same_decimals_and_no_interval_of_no_width():
    columns = [{"name": name, "title": name, "explanation": "", "unit": ""} for name in ("kid", "copies", "gain", "evaluations")]
    figure = lambda value, low, high: {"value": value, "low": low, "high": high}  # noqa: E731
    counted = {"copies": figure(1 / 128, 1 / 128, 1 / 128), "cost": {"evaluations": 10}}
    rows = [{"method": "a", "title": "a", "kid": figure(1.2, 1.1, 1.3), "gain": figure(0.0, 0.0, 0.001), **counted},
            {"method": "b", "title": "b", "kid": figure(-0.0035, -0.1, 0.09), "gain": figure(-0.0019, -0.0019, -0.0009), **counted}]
    table = measured.blocks(state.Session(), {"columns": columns, "rows": rows})[0]
    assert table[2][0][1:] == ["1.20\n1.10 … 1.30", "0.0078", "0.0000\n0.0000 … 0.0010", "10"]
    assert table[2][1][1:] == ["0.00\n−0.10 … 0.09", "0.0078", "−0.0019\n−0.0019 … −0.0009", "10"]


def test_what_a_pointer_finds_on_the_page_is_written_out_on_paper():
    figure = {"value": 0.1, "low": -0.1, "high": 0.2}
    open_ = "Not told from 0: with this many images it could be a perfect sampler of the target, or not."
    rows = [{"method": "a", "title": "A", "kid": figure, "notes": {"kid": open_, "method": "4 of 4 samples: by way of B"}},
            {"method": "b", "title": "B", "kid": figure, "notes": {"kid": open_, "hidden": "x"}},
            {"method": "c", "title": "C", "problem": "too few"}]  # fmt: skip
    found = {"columns": [{"name": "kid", "title": "KID", "explanation": "", "unit": ""}], "rows": rows}
    said = [block[1] for block in measured.blocks(state.Session(), found) if block[0] == "text"]
    assert said[:3] == ["A: 4 of 4 samples: by way of B", "C: too few", f"KID, A and B: {open_}"] and len(said) == 4
    japanese = [block[1] for block in measured.blocks(state.Session(language="ja"), found) if block[0] == "text"]
    assert japanese[2].startswith("KID, A、B: 0 と区別できません")


def test_every_remark_of_the_shipped_evidence_is_there_in_japanese():
    targets = json.loads((measure.FOLDER / "evidence.json").read_text())["targets"].values()
    notes = {note for found in targets for row in found["rows"] for note in (row.get("notes") or {}).values()}
    assert len(notes) > 5 and not [note for note in notes if re.search("[a-z]{4,}", texts.translate("ja", note))]


def test_a_training_that_found_nothing_is_said_in_japanese_after_its_time():
    nothing = "Training kept none of its 100 steps: none was better on the 3 images held out to tell when to stop."
    for more in ("", " The sources share a representation: x.", " Whether the models share a representation was never measured."):
        said = texts.translate("ja", f"Preparing took 20 s here. {nothing}{more}")
        assert "20 秒" in said and "100 ステップ" in said and not re.search("[a-z]{4,}", said) and ("共通の表現" in said) == bool(more)


def test_dots_hold_every_number():
    found = [{"value": -0.5, "low": None, "high": 0.1}, {"value": 2.0, "low": 1.0, "high": 3.0, "floor": 0.5}]
    svg = charts.dots(["a & b", "c"], found, label="x")
    assert "a &amp; b" in svg and ">−0.5<" in svg and ">2.0<" in svg
    places = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="\d+" text-anchor="middle"', svg)]
    assert places[0] < places[1] and all(150 <= x <= 400 for x in places)


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    return state.Session()


def save(folder, count: int, seed: int) -> list[str]:
    out = []
    for n, image in enumerate(small.pictures(count, seed)):
        image.save(folder / f"{seed}-{n}.png")
        out.append(str(folder / f"{seed}-{n}.png"))
    return out


def test_fitted_images_are_no_evidence(session, tmp_path):
    fitted, others = save(tmp_path, 3, 1), save(tmp_path, 4, 2)
    uploads.take(session, fitted)
    measure.upload(session, [fitted[0], *others, others[0]])
    assert len(session.held) == 4 and len(measure.held_out(session)) == 4
    said = [sentence for _, sentence in session.notes["held"]]
    assert len(said) == 2 and any(s == f"1-0.png: {texts.say('en', 'measure.fitted')}" for s in said)  # the other: the same picture twice
    measure.clear(session, {})
    assert measure.held_out(session) == [] and "held" not in session.notes


def test_held_out_images_that_are_left_out_are_counted_and_lists_of_captions_found(session, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MOST", 5)
    measure.upload(session, files := save(tmp_path, 4, 2))
    measure.upload(session, [*files, *save(tmp_path, 3, 3)])
    assert len(session.held) == 5
    assert [(kind, sentence.split(":")[0]) for kind, sentence in session.notes["held"]] == [
        ("bad", "At most 5 pictures are used; left out"), ("info", "2-0.png, 2-1.png and 2 more files")]  # fmt: skip
    (tmp_path / "captions.json").write_text(json.dumps({"2-0.png": "a hen", "2-1.png": "a cat"}))
    measure.upload(session, [str(tmp_path / "captions.json")])
    assert [caption for _, caption in measure.held_out(session)] == ["a hen", "a cat", "", "", ""]
    assert session.notes["held"] == [("info", texts.say("en", "captions.taken", count=2, total=5))]


def test_measuring_end_to_end(session, tmp_path, monkeypatch):
    cards = {card.id: card for card in small.cards(tmp_path / "models")}
    loaded = small.load_ensemble(list(cards.values()), device="cpu")
    monkeypatch.setattr(engine, "cards", lambda: cards)
    monkeypatch.setitem(engine._ensembles, engine.key_of(cards.values()), loaded)
    uploads.take(session, save(tmp_path, 6, 9))
    session.selected, session.measure_count = list(cards), 16
    session.plan = state.Plan(("a cat",), 0, 2, 2, ("single", "uniform", "yours"))
    session.take_fit(small.fit(loaded), tuple(cards))
    list(measure.run(session))
    assert session.report is None  # no held-out images: nothing is measured
    measure.upload(session, save(tmp_path, 8, 3))
    list(measure.run(session))
    assert session.notes.get("measure") is None
    rows = {row["method"]: row for row in session.report["rows"]}
    assert set(rows) == {"single", "uniform", "yours"} and session.report["key"] == measure.key(session)
    assert all(np.isfinite(row["kid"]["value"]) for row in rows.values()) and rows["uniform"]["cost"]["evaluations"] == 6
    html = measure.render_head(session)
    assert 'id="measured"' in html and "older" not in html
    session.plan.steps = 3
    assert texts.say("en", "older") in measure.render_head(session)


def test_the_page_reads_what_the_study_writes():
    from fusion.commands.study import folders
    from models.catalog import REPOSITORY

    assert measure.FOLDER == REPOSITORY / folders("evidence")[0]


def test_stored_evidence_is_shown_where_it_is(session, tmp_path, monkeypatch):
    import json

    monkeypatch.setattr(measure, "FOLDER", tmp_path)
    session.example = "valley"
    assert measure.stored("valley") is None and "figures-shipped" not in measure.render_head(session)
    figure = {"value": 0.2, "seeds": [0.1, 0.3], "samples": [0.15, 0.27], "values": [0.2, 0.2], "floor": None}
    rows = [{"method": m, "title": m, "cost": {"evaluations": 20.0, "memory": 1.0, "training_seconds": 0.0}, "seconds": None, "notes": {},
             "figures": {"kid": figure | {"value": v}, "loss": None}} for m, v in (("mixture", 0.2), ("single", 0.5))]  # fmt: skip
    told = [report()["recommendation"], report()["recommendation"] | {"method": "single", "sentence": "Stay."}]
    target_ = {"rows": rows, "floor": 0.1, "problems": {"finetune": "too few"}, "recommendation": told[0],
               "recommendations": [*told, told[0]], "fit": {}}  # fmt: skip
    settings = {"samples": 128, "seeds": 3, "steps": 20, "fitted": 12, "held_out": 48, "residual": 16, "complete": True}
    data = {"settings": settings, "columns": report()["columns"], "targets": {"valley": target_}}
    (tmp_path / "evidence.json").write_text(json.dumps(data))
    html = measure.render_head(session)
    assert "figures-shipped" in html and "Recommended: Mix. It comes nearer" in html
    assert "By the images of all 3 seeds; 2 of them alone say the same. Calibrated features are of 16 images of the first." in html
    assert "By how the seeds differ, 95 % interval 0.100 … 0.300" in html
    assert "too few" in html and "samples 128" in html
    assert measure.stored("../x") is None and measure.stored(None) is None


def blocks(folder) -> list[tuple]:
    path = save(folder, 1, 5)[0]
    found = [{"value": 1, "low": 0, "high": 2}] * 2
    return [("title", "Report"), ("lead", "One <b>sentence</b>."), ("heading", "A"), ("text", "word " * 2000),
            ("table", ["a", "b"], [["x", "1\n2"]] * 80), ("subheading", "B"), ("pictures", [(path, "seed 1\n0.5")] * 30),
            ("dots", "KID", ["m", "n"], found), ("code", '{"a": "' + "0123456789" * 60 + '"}'),
            ("folded", "r.json", '{"b": "<i>"}')]  # fmt: skip


def test_the_same_blocks_on_the_web_and_on_paper(tmp_path):
    made = blocks(tmp_path)
    page = paper.html(made, "en")
    assert "One &lt;b&gt;sentence&lt;/b&gt;." in page and page.count("<img") == 30 and page.count("<tr>") == 81 and "<script" not in page
    assert "<details><summary>r.json</summary><pre>{&quot;b&quot;: &quot;&lt;i&gt;&quot;}</pre></details>" in page
    assert paper.pdf(made, tmp_path / "report.pdf")
    content = (tmp_path / "report.pdf").read_bytes()
    pages = len(re.findall(rb"/Type /Page\b", content))
    assert content.startswith(b"%PDF") and pages >= 4 and len(content) < 3_000_000


def test_lines_fit_their_width():
    lines = paper.wrapped("a very long sentence 日本語の文章はどこでも改行できます " + "x" * 300, 200, 10)
    assert all(paper._width(line, 10) <= 200 for line in lines) and "".join(lines).replace(" ", "").endswith("x" * 300)
    assert len(lines) > 8
