"""The benchmark of costs counts what runs: three members fused are three evaluations, one merged model is one."""

from dataclasses import replace

import pytest

from fusion.methods import METHODS, Cost, SamplingPlan
from tests.benchmarks.methods import measure, table
from tests.fusion import small


def test_ratios_are_measured_and_understatements_are_told(tmp_path):
    ensemble = small.ensemble(tmp_path)
    plan, fit = SamplingPlan(["a cat"], range(2), steps=2, batch_size=2, weights=[0.2, 0.3, 0.5]), small.fit(ensemble, calibrated=False)
    cheap = replace(METHODS["barycenter"], name="cheap", cost=lambda *_: Cost(2, 1.0))  # states less than it takes
    methods = {name: METHODS[name] for name in ("single", "uniform", "merge", "superposition")} | {"cheap": cheap}
    rows = {row["method"]: row for row in measure(ensemble, fit, methods, plan, 1)}
    found = {name: row["evaluations"] for name, row in rows.items()}
    assert found == {"single": 1, "uniform": 3, "merge": 1, "superposition": 3, "cheap": 3}
    assert rows["merge"]["memory"] == pytest.approx(1.0) and rows["uniform"]["memory"] > 2
    assert rows["uniform"]["memory"] == pytest.approx(rows["uniform"]["memory_stated"], rel=0.01)
    assert [name for name, row in rows.items() if not row["kept"]] == ["cheap"] and all(row["time"] > 0 for row in rows.values())
    assert "| cheap |" in table(list(rows.values())) and table(list(rows.values())).count("YES") == 1
