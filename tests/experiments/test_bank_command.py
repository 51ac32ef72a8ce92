"""`lossrag bank`: every command on a made-up bank, its mistakes, and losses of one's own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from matplotlib.image import imread

from lossrag import ConfigError
from lossrag.experiments.bank.command import COMMANDS
from lossrag.experiments.config.library import _loaded, load_library
from lossrag.experiments.config.schema import LossConfig
from lossrag.experiments.record.composition_log import ANSWERS, read_events
from lossrag.experiments.record.summary import share_text
from lossrag.lossbank import LOSSES, POLICIES, LossBank
from lossrag.lossbank.experience.bank import Retrieval
from lossrag.lossbank.experience.trials import Experience
from tests.experiments.banks import SMALL_CLASS_GAINS, records, write_bank

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


def rows(table):
    """By loss the cells of its row, but for the frame."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    return {cells[0]: cells for cells in lines}


@pytest.fixture
def bank(tmp_path):
    """A bank of tasks with symmetric and pair noise, where mae gained 4 points; symmetric_ce was never tried."""
    return f"bank={write_bank(tmp_path / 'bank.safetensors')}"


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
    assert {name: yaml.safe_load(value) for name, value in rows.items()} == {
        name: list(value) if isinstance(value, tuple) else value for name, value in options.items()
    }
    families = set(re.findall(r"^\| `([\w-]+)` \| (?:classes|values) \|", page, flags=re.MULTILINE))
    assert families >= {
        LOSSES[name].family for name in ("mae", "l1", "brier", "triplet_0.2", "ldam_1", "focal_1", "vector_scaling")
    }
    policies = set(re.findall(r"^\| `(\w+)` \| .+ \| (?:never|may|must) \|", page, flags=re.MULTILINE))
    assert policies == set(POLICIES)
    commands = set(re.findall(r"^\| `([\w-]+)[^|]*` \| [^|]+ \|$", page, flags=re.MULTILINE))
    assert commands == set(COMMANDS)


def test_help_needs_no_torch(command):
    shown = command("bank", "--help")
    assert shown.returncode == 0
    for name in ("list", "show", "query", "neighbours"):
        assert f"\n  {name} " in shown.stdout


def test_list(lossrag, bank):
    plain = lossrag("bank", "list")
    assert all(name in plain.out for name in LOSSES)
    assert "2 (1 - p_y)" in told(plain.out)
    counted = lossrag("bank", "list", bank).out
    assert "48 cases, 144 trials; from made up" in counted
    (row,) = (line for line in counted.splitlines() if "│ mae " in line)
    assert [cell.strip() for cell in row.split("│")[3:6]] == ["24", "+4.0", "0.1"]


def test_show(lossrag, bank, tmp_path):
    shown = lossrag("bank", "show", "mae", bank, f"output={tmp_path / 'mae.png'}")
    assert shown.code == 0
    for part in ("noise-robust", "Ghosh", "bounded", "▁", "pair: 12 trials, mean gain +4.0", "all tasks: 24 trials"):
        assert part in shown.out
    assert imread(tmp_path / "mae.png").shape[0] > 300


def test_neighbours(lossrag):
    shown = lossrag("bank", "neighbours", "mae", "k=1")
    assert "one_minus_p" in shown.out
    assert shown.out.count("1.000") == 1


def test_query_by_description(lossrag, bank):
    shown = lossrag("bank", "query", bank, "disagreement=0.4", "classes=4", "balance_rarest=0.1", "k=5").out
    order = [name for line in shown.splitlines() for name in LOSSES if f"│ {name} " in line]
    assert "mae" in order
    (row,) = (line for line in shown.splitlines() if "│ mae " in line)
    assert row.split("│")[3].strip() == str(Retrieval().neighbours)
    assert float(row.split("│")[4]) > 0.1
    assert "such a classification with the encoder mlp after 5% of the steps" in told(shown)
    assert f"of {Retrieval().neighbours} like it had" in told(shown)
    assert "made up, task" in shown
    assert "huber" in lossrag("bank", "query", bank, "kind=regression", "k=2").out


def test_losses_for_rare_classes_are_offered_where_classes_are_uneven(lossrag, bank):
    even, uneven = (lossrag("bank", "query", bank, f"balance_rarest={share}", "k=60").out for share in (0.9, 0.1))
    assert "logit_adjusted_1" in uneven
    assert "logit_adjusted_1" not in even


def test_query_of_a_run_is_what_the_run_was_told(lossrag, quick, tmp_path):
    """Gains, order, shares, sentence and cases, of every task after every question about it; an excluded source stays
    away. The classifications are composed at the second question; of regressions nothing is known."""
    path = tmp_path / "two.safetensors"
    made = [r for source in ("known", "hidden") for r in records("mlp", source, SMALL_CLASS_GAINS, "classification")]
    LossBank(Experience.of(made)).save(path)
    options = ["loss.policy=retrieval", f"loss.bank={path}", "loss.bank_exclude=[hidden]"]
    options += ["loss.questions=[0,0.05,0.15]", "loss.temperature=0.01"]
    run = quick(*options, "train.epochs=1", "train.batch_size=64")
    events = read_events(run)
    answers = [event for event in events if event.what in ANSWERS]
    assert {(event.task, event.step) for event in answers} == {
        *((task, step) for task in ("digit", "parity", "loops") for step in (0, 1)),
        *(("centre", step) for step in (0, 1, 3)),
    }
    assert {(event.step, event.what) for event in answers if event.task != "centre"} == {(0, "kept"), (1, "composed")}
    assert {event.what for event in answers if event.task == "centre"} == {"silent"}
    for event in answers:
        shown = lossrag("bank", "query", f"run={run}", f"task={event.task}", f"step={event.step}").out
        why = event.reason if event.what != "silent" else event.reason.split(". ")[0]  # and what came of it
        assert told(why) in told(shown)
        shares = {name: cells[-1] for name, cells in rows(shown).items() if cells[-1]}
        assert shares == {name: share_text(share) for name, share in event.shares.items()}
        cases = re.findall(r"^(\d\.\d\d)  (.+), (.+): (.+), (.+)$", shown, flags=re.MULTILINE)
        assert [(source, task, trouble, encoder) for _, source, task, trouble, encoder in cases] == [
            (near["source"], near["task"], near["trouble"], near["encoder"]) for near in event.neighbours[:5]
        ]
        far = [near["distance"] for near in event.neighbours[:5]]
        assert [float(distance) for distance, *_ in cases] == pytest.approx(far, abs=0.006)
        assert "hidden" not in shown
    for event in events:
        if event.what == "ranked":
            shown = lossrag("bank", "query", f"run={run}", f"task={event.task}", f"step={event.step}").out
            for line in event.reason.splitlines():
                _, name, mean, _, error, trials, _ = line.replace(",", "").split()
                assert rows(shown)[name][1:3] == [f"{mean} ± {error}", trials]
    last = lossrag("bank", "query", f"run={run}", "task=digit").out
    assert lossrag("bank", "query", f"run={run}", "task=digit", "step=1").out == last
    elsewhere = lossrag("bank", "query", f"run={run}", "task=digit", f"bank={path}").out
    assert "hidden" not in elsewhere, "the same bank in another place is asked without that source, too"
    assert json.loads((run / "summary.json").read_text())["bank_sources"] == ["known"]
    for arguments, part in (
        (["task=digt"], "did you mean 'digit'"),
        ([], "together"),
        (["task=digit", "classes=4"], "together"),
        (["task=digit", "step=2"], "did not ask about digit after step 2: choose from [0, 1]"),
        (["task=digit", "step=3"], "did not ask about digit after step 3: choose from [0, 1]"),
        (["task=centre", "step=2"], "did not ask about centre after step 2: choose from [0, 1, 3]"),
    ):
        message = lossrag("bank", "query", f"run={run}", *arguments).error
        assert part in message or "run=RUN_DIR and task=NAME" in message


def test_runs_that_asked_no_bank(lossrag, quick):
    run = quick("loss.policy=uniform", "loss.candidates=[mae,l1]", "train.epochs=1")
    assert "has not asked a bank" in lossrag("bank", "query", f"run={run}", "task=digit").error
    silent = quick("loss.policy=retrieval", "loss.bank=none", "train.epochs=1")
    assert "had no bank to ask" in lossrag("bank", "query", f"run={silent}", "task=digit").error


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
        (["list", "bank=none"], "knows nothing"),
        (["neighbours", "mae", "k=0"], "from 1 up"),
        (["neighbours", "mea"], "did you mean 'mae'?"),
        (["query", "BANK", "clases=4"], "did you mean 'classes'"),
        (["query", "BANK", "classes=many"], "is no number"),
        (["query", "BANK", "classes=0"], "1 output or more"),
        (["query", "BANK", "kind=ranking"], "is unknown"),
        (["query", "BANK", "step=3"], "or a description"),
        (["query", "BANK", "run=nowhere", "task=A"], "no run directory"),
        (["list", "library=nowhere.py"], "library: 'nowhere.py' is not there"),
    ],
)
def test_mistakes(lossrag, bank, arguments, part):
    assert part in lossrag("bank", *(bank if argument == "BANK" else argument for argument in arguments)).error


def test_a_loss_of_ones_own(lossrag, bank, own, quick):
    """Listed, drawn, retrieved and weighted."""
    assert "my_squared_miss" in lossrag("bank", "list", f"library={own}").out
    assert "(1 - p_y)^[2]" in lossrag("bank", "show", "my_squared_miss", f"library=[{own}]").out
    found = lossrag("bank", "query", bank, "sure_and_wrong=0.4", "k=60", f"library={own}").out
    (row,) = (line for line in found.splitlines() if "my_squared_miss" in line)
    assert row.split("│")[3].strip() == "0", "nobody ever ran it: what is known of it is that it is like others"
    both = ["loss.policy=gradient", "loss.candidates=[cross_entropy,my_squared_miss,l1]", "loss.confidence=100"]
    run = quick(*both, f"library=[{own}]", "train.epochs=1")
    shares = json.loads((run / "summary.json").read_text())["compositions"]["digit"]
    assert shares.keys() == {"cross_entropy", "my_squared_miss"}
    quick(f"library=[{own}]", "loss.classification=my_squared_miss", "train.epochs=1")


def test_files_that_do_not_run(tmp_path, own):
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"broken.py, line 1 does not run \(ZeroDivisionError"):
        load_library([str(tmp_path / "broken.py")])
    (tmp_path / "taken.py").write_text(OWN.format(name="mae"))
    with pytest.raises(ConfigError, match="taken"):
        load_library([str(tmp_path / "taken.py")])
    assert (
        load_library([str(own)]) == {str(own): hashlib.sha256(own.read_bytes()).hexdigest()} == load_library([str(own)])
    )
    assert [name for _, name in _loaded[own].names] == ["my_squared_miss"]
