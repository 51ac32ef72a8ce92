"""`lossrag bank validate`: its tables, its file, and what it refuses."""

from __future__ import annotations

import json

import pytest

from lossrag.lossbank.experience import bank as bank_module
from lossrag.lossbank.experience.files import save_experience
from lossrag.lossbank.experience.validation import NEAREST, ValidationOptions, validate
from tests.lossbank.experiences import random_experience, world


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "bank.safetensors"
    save_experience(path, world())
    return path


def test_tables_and_file(lossrag, path, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    output = tmp_path / "validation.json"
    result = lossrag("bank", "validate", f"bank={path}", "moments=[0.01,0.2]", f"output={output}")
    assert result.code == 0, result
    report = json.loads(output.read_text())
    assert set(report) == {"options", "classification"}
    own = report["classification"]
    asked = validate(world(), ValidationOptions())
    nearest = asked.rows()[NEAREST]
    assert own["all"]["everything"]["rows"][NEAREST] == vars(nearest)
    told = f"{100 * nearest.mean:+.2f} ± {100 * nearest.half:.2f}"
    assert told in result.out
    noisy = asked.rows(asked.troubles == "symmetric")[NEAREST]
    assert own["all"]["by_trouble"]["symmetric"]["rows"][NEAREST]["mean"] == noisy.mean
    assert set(own["within"]["by_encoder"]) == {"mlp", "textcnn"}
    assert list(own["moments"]) == ["0.01", "0.2"]
    assert {"all", "mlp", "textcnn"} == set(own["moments"]["0.2"])
    assert own["hidden"][0]["trials"] > 0
    for words in (
        "without that encoder",
        "36 cases, asked at 0.05",
        "harm by more than a point",
        "0.01: ",
        "not hidden",
    ):
        assert words in result.out


def test_the_builtin_bank_is_the_default(lossrag, path, monkeypatch):
    monkeypatch.setattr(bank_module, "BUILTIN", path)
    assert lossrag("bank", "validate").code == 0
    path.unlink()
    assert "comes without a bank" in lossrag("bank", "validate").error


def test_options_reach_the_retrieval(lossrag, path, tmp_path):
    reports = []
    for neighbours in (1, 24):
        output = tmp_path / f"{neighbours}.json"
        assert lossrag("bank", "validate", f"bank={path}", f"neighbours={neighbours}", f"output={output}").code == 0
        reports.append(json.loads(output.read_text())["classification"]["all"]["everything"]["rows"][NEAREST]["mean"])
    assert reports[0] != reports[1]


def test_a_bank_of_one_source(lossrag, tmp_path):
    save_experience(tmp_path / "one.safetensors", random_experience(9).without(["source 1", "source 2"]))
    assert (
        "No case can be answered without its own source"
        in lossrag("bank", "validate", f"bank={tmp_path / 'one.safetensors'}").error
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("bank=nowhere", "does not exist"),
        ("at=0", "at must be in (0, 1)"),
        ("neighbours=0", "neighbours must be 1 or more"),
        ("trouble=-1", "trouble must be 0 or more"),
        ("output=table.txt", "ends in .json"),
        ("output=nowhere/x.json", "a folder that exists"),
        ("nearest=3", "has no option 'nearest'"),
    ],
)
def test_mistakes(lossrag, path, argument, message):
    given = [argument] if argument.startswith("bank=") else [f"bank={path}", argument]
    result = lossrag("bank", "validate", *given)
    assert result.code != 0
    assert message in result.error


def test_where_there_is_little_room_nothing_is_cut_off(lossrag, path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = lossrag("bank", "validate", f"bank={path}", "moments=[]").out
    assert "…" not in shown
    rows = validate(world(), ValidationOptions()).rows()
    assert f"│ {NEAREST}  " in shown
    assert f"{100 * rows[NEAREST].mean:+.2f} ± {100 * rows[NEAREST].half:.2f}" in shown
