"""The cost of learned losses on a tiny model: rows, options, and a library that is gone afterwards."""

from __future__ import annotations

import json

from lossrag.lossbank import LOSSES

SMALL = ["batch=16", "length=12", "vectors=4", "filters=2", "words=50", "tasks=2", "steps=2", "pairs=2", "rows=8"]


def test_rows(lossrag, tmp_path):
    before = list(LOSSES)
    output = tmp_path / "cost.json"
    result = lossrag("benchmark", "lossbank", *SMALL, "sizes=[10,12]", "run_losses=10", f"output={output}")
    assert result.code == 0, result
    rows = json.loads(output.read_text())
    assert [row["unit"] for row in rows] == ["x measuring 10 losses", *["x MetaWeighting run"] * 5]
    assert list(LOSSES) == before


def test_a_library_too_small(lossrag):
    assert "two or more sizes above 8" in lossrag("benchmark", "lossbank", "sizes=[4,8]").error
