"""The cost of a bank on small ones: rows, recall, and options."""

from __future__ import annotations

import json

import pytest

from lossrag.lossbank.experience import neighbours


def test_rows(lossrag, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "EXACT", 1000)
    output = tmp_path / "bank.json"
    result = lossrag("benchmark", "bank", "sizes=[500,3000]", "questions=20", "losses=8", f"output={output}")
    assert result.code == 0, result
    exact, cells = json.loads(output.read_text())
    assert exact["case"] == "500 moments"
    assert exact["recall@15"] == 1.0
    assert cells["recall@15"] > 0.9
    assert not exact["built_anew"]
    assert not cells["built_anew"]
    assert min(exact[name] for name in ("p50_ms", "p95_ms", "load_s", "first_s", "add_s")) > 0


@pytest.mark.parametrize(
    ("argument", "message"), [("sizes=[10]", "from 500 up"), ("questions=0", "questions must be 1 or more")]
)
def test_mistakes(lossrag, argument, message):
    assert message in lossrag("benchmark", "bank", argument).error
