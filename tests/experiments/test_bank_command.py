"""`lossrag bank`: every command on a made-up bank, its mistakes, and losses of one's own."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.image import imread

from lossrag import ConfigError
from lossrag.experiments.bank.command import COMMANDS
from lossrag.experiments.config.library import _loaded, load_library
from lossrag.experiments.config.schema import LossConfig
from lossrag.lossbank import CONTEXT_NAMES, LOSSES, POLICIES, LossBank

NOISE = CONTEXT_NAMES.index("support_sure_and_wrong")
KIND = CONTEXT_NAMES.index("classification")

OWN = """
import torch
from lossrag import register_loss

@register_loss("{name}", family="noise-robust", target_kind="classification", reference="mine", formula="(1 - p_y)^[2]")
def my_loss(logits, targets):
    return (1 - logits.softmax(1).gather(1, targets[:, None]).squeeze(1)) ** 2
"""


def told(table):
    """The text of a table, its wrapped cells put together."""
    return " ".join(table.replace("│", " ").split())


@pytest.fixture
def folder(tmp_path):
    """A bank of two tasks: on CLEAN cross-entropy helped, on NOISY mae; symmetric_ce was never tried."""
    bank = LossBank.create()
    for task, noise, best in (("CLEAN", 0.0, "cross_entropy"), ("NOISY", 0.4, "mae")):
        for step in range(10):
            context = np.zeros((2, len(CONTEXT_NAMES)))
            context[:, KIND], context[:, NOISE] = 1, noise + step / 1000
            contributions = [0.3 if name == best else -0.1 for name in ("cross_entropy", "mae")]
            bank.memory.add(context, ["cross_entropy", "mae"], contributions, run="r", task=task, step=step)
    bank.save(tmp_path / "bank")
    return tmp_path / "bank"


@pytest.fixture
def own(tmp_path):
    """A file with a loss of one's own, forgotten afterwards."""
    before = set(LOSSES)
    path = tmp_path / "my_losses.py"
    path.write_text(OWN.format(name="my_squared_miss"))
    yield path
    for name in set(LOSSES) - before:
        LOSSES.remove(name)
    _loaded.clear()
    for name in [name for name in sys.modules if name.startswith("lossrag_library_")]:
        del sys.modules[name]


def test_the_page_has_every_option_family_and_command():
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    rows = dict(re.findall(r"^\| `loss\.(\w+)` \| `(.+?)` \|", page, flags=re.MULTILINE))
    options = dataclasses.asdict(LossConfig())
    assert rows.keys() == options.keys()
    assert {name: yaml.safe_load(value) for name, value in rows.items()} == options
    families = set(re.findall(r"^\| `([\w-]+)` \| (?:classes|values) \|", page, flags=re.MULTILINE))
    assert families >= {
        LOSSES[name].family for name in ("mae", "l1", "brier", "triplet_0.2", "ldam_1", "focal_1", "vector_scaling")
    }
    policies = set(re.findall(r"^\| `(\w+)` \| .+ \| (?:yes|no) \|", page, flags=re.MULTILINE))
    assert policies == set(POLICIES)
    commands = set(re.findall(r"^\| `([\w-]+)[^|]*` \| [^|]+ \|$", page, flags=re.MULTILINE))
    assert commands == set(COMMANDS)


def test_help_needs_no_torch(command):
    shown = command("bank", "--help")
    assert shown.returncode == 0
    for name in ("list", "show", "query", "neighbours", "export", "merge", "check"):
        assert f"\n  {name} " in shown.stdout


def test_list(lossrag, folder):
    plain = lossrag("bank", "list")
    assert all(name in plain.out for name in LOSSES)
    assert "2 (1 - p_y)" in told(plain.out)
    counted = lossrag("bank", "list", f"bank={folder}").out
    assert "40 records" in counted
    (row,) = (line for line in counted.splitlines() if "│ mae " in line)
    assert [cell.strip() for cell in row.split("│")[3:6]] == ["20", "+0.100", "0.200"]


def test_show(lossrag, folder, tmp_path):
    shown = lossrag("bank", "show", "mae", f"bank={folder}", f"output={tmp_path / 'mae.png'}")
    assert shown.code == 0
    for part in ("noise-robust", "Ghosh", "bounded", "▁", "NOISY: 10 records, mean +0.300", "all tasks: 20 records"):
        assert part in shown.out
    assert imread(tmp_path / "mae.png").shape[0] > 300


def test_neighbours(lossrag):
    shown = lossrag("bank", "neighbours", "mae", "k=1")
    assert "one_minus_p" in shown.out
    assert shown.out.count("1.000") == 1


def test_query_by_description(lossrag, folder):
    noisy = lossrag("bank", "query", f"bank={folder}", "sure_and_wrong=0.4", "classes=4", "k=5").out
    order = [name for line in noisy.splitlines() for name in LOSSES if f"│ {name} " in line]
    assert len(order) == 5
    assert order[0] == "mae"
    assert "tried 5 times at the nearest moments" in told(noisy)
    assert "like mae (cosine 1.00)" in told(noisy)
    assert "NOISY at step" in noisy
    clean = lossrag("bank", "query", f"bank={folder}", "sure_and_wrong=0", "k=1").out
    assert "│ cross_entropy " in clean


def test_query_of_an_empty_bank(lossrag, tmp_path):
    LossBank.create().save(tmp_path / "empty")
    shown = lossrag("bank", "query", f"bank={tmp_path / 'empty'}", "kind=regression", "k=2")
    assert shown.code == 0
    assert "nothing is remembered" in told(shown.out)


def test_query_of_a_run(lossrag, quick):
    run = quick("loss.policy=knn", "loss.candidates=[cross_entropy,mae,l1,huber]", "train.epochs=1")
    shown = lossrag("bank", "query", f"run={run}", "task=centre", "k=3")
    assert "losses for such a regression" in shown.out
    assert "looked alike (1.00): centre at step 4" in shown.out
    assert "'centre'" in lossrag("bank", "query", f"run={run}", "task=centr").error
    assert "together" in lossrag("bank", "query", f"run={run}").error


def test_export(lossrag, folder, tmp_path):
    for suffix in ("csv", "json"):
        assert lossrag("bank", "export", f"bank={folder}", f"output={tmp_path / 'all'}.{suffix}").code == 0
    with open(tmp_path / "all.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    entries = json.loads((tmp_path / "all.json").read_text(), parse_constant=pytest.fail)
    for row, entry in zip(rows, entries, strict=True):
        assert (row["loss"], int(row["step"])) == (entry["loss"], entry["step"])
        assert float(row["contribution"]) == entry["contribution"]
        assert float(row["support_sure_and_wrong"]) == entry["support_sure_and_wrong"]


def test_merge_and_check(lossrag, folder, tmp_path):
    other = LossBank.create()
    other.memory.add(np.zeros((1, len(CONTEXT_NAMES))), ["brier"], [0.1], run="s", task="CLEAN", step=0)
    other.save(tmp_path / "other")
    merged = tmp_path / "merged"
    assert lossrag("bank", "merge", str(folder), str(tmp_path / "other"), f"output={merged}").code == 0
    assert len(LossBank.load(merged).memory) == 41
    assert "exists already" in lossrag("bank", "merge", str(folder), str(folder), f"output={merged}").error
    checked = lossrag("bank", "check", str(merged))
    assert checked.code == 1
    assert "Without history" in checked.out
    data = merged / "bank.safetensors"
    data.write_bytes(data.read_bytes()[:-4])
    assert lossrag("bank", "check", str(merged)).code == 1


def test_check_finds_nothing(lossrag, tmp_path, monkeypatch):
    monkeypatch.setattr("lossrag.experiments.bank.command.check", lambda folder: [])
    checked = lossrag("bank", "check", str(tmp_path))
    assert (checked.code, checked.out) == (0, "all is well\n")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["shwo"], "did you mean 'show'?"),
        (["show", "mea"], "did you mean 'mae'?"),
        (["show"], "Write: lossrag bank show LOSS"),
        (["show", "mae", "outptu=a.png"], "did you mean 'output'?"),
        (["show", "mae", "output=nowhere/a.png"], "Cannot write"),
        (["show", "mae", "output=a.xyz"], "Cannot write"),
        (["list", "bank=nowhere"], "does not exist"),
        (["neighbours", "mae", "k=0"], "k must be"),
        (["query"], "add bank=FOLDER"),
        (["query", "bank=BANK", "clases=4"], "did you mean 'classes'"),
        (["query", "bank=BANK", "classes=many"], "is no number"),
        (["query", "bank=BANK", "kind=ranking"], "is unknown"),
        (["query", "bank=BANK", "by=towers"], "no towers"),
        (["query", "bank=BANK", "by=magic"], "is unknown"),
        (["query", "bank=BANK", "run=nowhere", "task=A"], "no run directory"),
        (["export", "bank=BANK"], "needs output="),
        (["export", "bank=BANK", "output=a.txt"], ".csv or .json"),
        (["merge", "BANK", "output=c"], "takes 2 names"),
        (["merge", "BANK", "BANK"], "needs output="),
        (["list", "library=nowhere.py"], "no Python file"),
    ],
)
def test_mistakes(lossrag, folder, arguments, part):
    assert part in lossrag("bank", *(argument.replace("BANK", str(folder)) for argument in arguments)).error


def test_a_loss_of_ones_own(lossrag, folder, own, quick):
    """Listed, drawn, retrieved and weighted."""
    assert "my_squared_miss" in lossrag("bank", "list", f"library={own}").out
    assert "(1 - p_y)^[2]" in lossrag("bank", "show", "my_squared_miss", f"library=[{own}]").out
    found = lossrag("bank", "query", f"bank={folder}", "sure_and_wrong=0.4", "k=30", f"library={own}").out
    assert "my_squared_miss" in found
    both = ["loss.policy=gradient", "loss.candidates=[cross_entropy,my_squared_miss,l1]", "loss.confidence=100"]
    run = quick(*both, f"loss.library=[{own}]", "train.epochs=1")
    shares = json.loads((run / "summary.json").read_text())["compositions"]["digit"]
    assert shares.keys() == {"cross_entropy", "my_squared_miss"}
    quick(f"loss.library=[{own}]", "loss.classification=my_squared_miss", "train.epochs=1")


def test_files_that_do_not_run(tmp_path, own):
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"broken.py does not run \(ZeroDivisionError"):
        load_library([str(tmp_path / "broken.py")])
    (tmp_path / "taken.py").write_text(OWN.format(name="mae"))
    with pytest.raises(ConfigError, match="taken"):
        load_library([str(tmp_path / "taken.py")])
    assert load_library([str(own)]) == load_library([str(own)]) == ["my_squared_miss"]
