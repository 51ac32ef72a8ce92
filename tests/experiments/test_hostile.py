"""Hostile files and options: every one ends in a message of one kind, and none in a traceback, a hang or code that
runs.

Files are forged with right checksums, so that damage is not what refuses them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from lossrag.errors import LossRAGError
from lossrag.experiments.bank.collect.plan import load_collect_plan
from lossrag.experiments.cli import run
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.identity import flatten
from lossrag.experiments.figures.command import NAMES
from lossrag.experiments.record.contexts import load_contexts
from lossrag.experiments.record.directory import sums_of
from lossrag.experiments.record.finished import load_runs, read_summary
from lossrag.experiments.record.settings import read_settings
from lossrag.experiments.record.summary import print_summary, summary_markdown
from lossrag.experiments.studies.plan import Plan, Row, Run, load_plan
from lossrag.experiments.studies.report import markdown, suite_report
from lossrag.experiments.studies.results import Results, runs_csv
from lossrag.experiments.trained.loaded import load_run
from lossrag.lossbank.experience.files import load_experience
from lossrag.proof import Chain, read_lines, write_sums
from lossrag.tensors import load_tensors, save_tensors
from tests.experiments.banks import write_bank
from tests.experiments.hostile import CANARY, CODE, OPTIONS, VALUES, twisted
from tests.experiments.hostile_options import COMMANDS, trial_of_options
from tests.experiments.tables import SMALL, people, write

SEED = os.environ.get("LOSSRAG_TEST_SEED", "slow")
"""Of the full numbers: another one draws other trials."""
SECONDS = 60
"""After which a trial hangs."""
COMPOSED = ["experiment=digits", "train.epochs=1", "train.batch_size=256", "log.tensorboard=false"]
PLAN = {
    "experiments": ["digits"],
    "seeds": [0],
    "overrides": ["train.epochs=1"],
    "tuning": {"seed": 1, "runs": 2, "learning_rates": [0.1], "learning_rates_without_knobs": [0.1, 0.2]},
    "methods": {"uniform": [], "dwa": {"knobs": {"weighting.temperature": [1, 2]}}},
}
ABLATED = {
    "experiments": ["digits"],
    "seeds": [0, 1],
    "reference": "a",
    "rows": {"a": [], "b": ["loss.policy=retrieval"], "c": {"overrides": [], "suites": {"digits": ["seed=1"]}}},
    "fixed": ["b"],
    "also": [["a", "c"]],
}
COLLECTED = {
    "seed": 0,
    "stacked": {"a": {"cases": 2, "sources": {"digits": 1}, "troubles": {"clean": 1}, "classes": [2, 3]}},
    "squares": {
        "b": {"squares": 1, "experiment": "digits", "losses": ["cross_entropy", "mae"], "troubles": {"clean": 1}}
    },
}
STUDY = Plan("study", Path(), ("",), {"a": Row(()), "b": Row(())}, (0, 1), "a", rivals=["b"])


@contextmanager
def alarm():
    """Raise where a trial hangs."""

    def hangs(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that composed losses, the same before it ended, a run on a table, a bank."""
    made = tmp_path_factory.mktemp("hostile")
    bank = write_bank(made / "bank.safetensors")
    composed = [*COMPOSED, "loss.policy=retrieval", "log.contexts=true", f"loss.bank={bank}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.setenv("OMP_NUM_THREADS", "1")
        for picture in ("record.composition_log.draw_compositions", "record.composition_log.draw_bank"):
            patch.setattr(f"lossrag.experiments.{picture}", lambda *_: None)
        patch.setattr("lossrag.experiments.train.plot_trajectories", lambda *_: None)
        assert run(["train", *composed, "run.dir=run"]) == 0
        people(made / "train.csv", 80, 0)
        data = ["experiment=table", *SMALL, "tasks.data=train.csv", "tasks.targets=[income,hours]"]
        assert run(["train", *data, "tasks.ignore=[said]", "run.dir=table"]) == 0
    people(made / "new.csv", 5, 1)
    own = load_run(made / "run").preprocessing
    assert own is not None
    write(made / "digits.csv", [{column.name: str(value) for column in own.columns} for value in range(3)])
    np.save(made / "new.npy", np.zeros((3, 64), dtype=np.float32))
    return made


def prove(directory):
    """Sums of the files as they are now: what was forged is not damaged."""
    write_sums(directory, sums_of(directory))


def forge_plain(path, chance):
    """A file of JSON, or of YAML, with some values replaced, and its checksums right."""
    name = path.name
    plain = read_settings(path.parent) if name == "config.yaml" else json.loads(path.read_text())
    plain.pop("sha256", None)
    made = twisted(plain, chance, chance.randint(1, 3))
    if name == "model.json" and isinstance(made, dict):
        from lossrag.experiments.record.description import _digest

        made = {"sha256": _digest(made), **made}
    path.write_text(json.dumps(made))
    if name == "preprocessing.json":
        import hashlib

        from lossrag.experiments.record.description import _digest

        model = path.with_name("model.json")
        plain = json.loads(model.read_text()) | {"preprocessing": hashlib.sha256(path.read_bytes()).hexdigest()}
        plain.pop("sha256")
        model.write_text(json.dumps({"sha256": _digest(plain), **plain}))
    prove(path.parent)


def forge_lines(path, chance):
    """A file of lines with one of them replaced, and the chain right."""
    lines, _ = read_lines(path)
    place, chain = chance.randrange(len(lines)), Chain()
    lines[place] = twisted(lines[place], chance)
    if not isinstance(lines[place], dict) or not lines[place]:
        lines[place] = {"step": "x"}
    path.write_bytes(b"".join(chain.line(line) for line in lines))
    prove(path.parent)


def forge_tensors(path, chance):
    """A tensor file with metadata or tensors replaced, and its checksum right."""
    tensors, meta = load_tensors(path)
    if chance.random() < 0.5:
        made = twisted(meta, chance, chance.randint(1, 2))
        meta = made if isinstance(made, dict) else {"kind": "x"}
    else:
        name = chance.choice(sorted(tensors))
        own = tensors[name]
        changes = {
            "gone": lambda: tensors.pop(name),
            "more": lambda: tensors.update({chance.choice(["x", "optimizer/x/y", "model/", "sums/weights"]): own}),
            "shape": lambda: tensors.update({name: torch.zeros(chance.choice([(), (0,), (3,), (2, 2), (1, 1, 1)]))}),
            "type": lambda: tensors.update({name: own.to(chance.choice([torch.int64, torch.bool, torch.bfloat16]))}),
            "numbers": lambda: tensors.update({name: torch.full_like(own, chance.choice([-1, 0, 1, 127]))}),
        }
        changes[chance.choice(sorted(changes))]()
    save_tensors(path, tensors, meta)


def shown(directory, folder, chance):
    """What the commands that read a finished run make of one, and of it beside another."""
    summary = read_summary(directory)
    if summary is not None:
        print_summary(summary, Console())
        summary_markdown(summary)
        runs_csv(["row"], [(("a",), summary), (("b",), None), (("c",), read_summary(folder / "table"))], seconds=True)
        twice = {(row, seed): summary for row in "ab" for seed in (0, 1)}
        report = suite_report(STUDY, "", {"a": (), "b": ()}, {}, Results(["a", "b"], [0, 1], twice))
        json.dumps(report, allow_nan=False)
        markdown("study", [report], STUDY.seeds)
    (found, *_), _ = load_runs([directory])
    assert (found.points, found.deciding, found.seed, found.method, found.problem, found.tasks) is not None
    for task in found.tasks:
        assert found.lower_is_better(task) in (True, False)
        found.score(task)
    return run(chance.choice(showing(directory, folder, chance.choice(NAMES))))


def showing(directory, folder, figure):
    """The command lines that show a finished run, whole as it is."""
    lines = [
        ["figures", f"runs=[{directory},{folder}/run]", f"only=[{figure}]"],
        ["report", f"{directory}", f"{folder}/run"],
        ["check", f"{directory}", "repair=true"],
    ]
    if directory.name == "table":
        return [*lines, ["predict", f"run={directory}", f"data={folder}/new.csv", "output=out.csv"]]
    bank = f"loss.bank={folder}/bank.safetensors"
    return [
        *lines,
        ["bank", "add", f"run={directory}", f"reference={folder}/run", "bank=new.safetensors"],
        ["bank", "picture", f"run={directory}", "output=picture.png"],
        ["theory", f"run={directory}", "draws=1", "epochs=1"],
        ["train", *COMPOSED, "loss.policy=retrieval", "log.contexts=true", bank, f"run.dir={directory}"],
        ["predict", f"run={directory}", f"data={folder}/digits.csv", "output=out.csv"],
    ]


def trained(directory, bank, *more):
    (directory / "summary.json").unlink(missing_ok=True)
    line = [*COMPOSED, "loss.policy=retrieval", "log.contexts=true", f"loss.bank={bank}", f"run.dir={directory}"]
    return run(["train", *line, *more])


def trial_of_file(kind, folder, here, chance):
    """Forge a file of one kind, and have it read by what reads it."""
    name, _, form = kind.partition(" ")
    directory = here / name
    if name in ("run", "table"):
        shutil.copytree(folder / name, directory)
    if form.endswith(".jsonl"):
        forge_lines(directory / form, chance)
    elif form.endswith(".safetensors"):
        forge_tensors(directory / form, chance)
    elif name in ("run", "table"):
        forge_plain(directory / form, chance)
    if name in ("run", "table"):
        return trial_of_run(name, form, folder, directory, chance)
    return trial_of_other_files(name, folder, here, chance)


def trial_of_run(name, form, folder, directory, chance):
    """Have a run directory in which one file was forged read by a command that reads that file."""
    predicted = ["predict", f"run={directory}", f"data={folder}/digits.csv", "output=out.csv"]
    asked = ["bank", "query", f"run={directory}", "task=digit"]
    reported = ["report", f"{directory}"]
    lines = {"events.jsonl": [asked, reported], "test_predictions.safetensors": [reported]}.get(form, [predicted])
    child = form == "model.json" and name == "run" and chance.random() < 0.3
    if form in ("summary.json", "config.yaml", "metrics.jsonl"):
        return shown(directory, folder, chance)
    if form == "contexts.safetensors":
        assert load_contexts(directory).tasks
    if form.startswith("checkpoints/last") and chance.random() < 0.3:
        return run(asked)
    if form.startswith("checkpoints") or child:
        begun = [f"train.from={directory}"] if child else []
        return trained(directory.with_name("child") if child else directory, folder / "bank.safetensors", *begun)
    if name == "table":
        return run(["evaluate", f"run={directory}", f"data={folder}/new.csv", "output=out.json"])
    return run(chance.choice(lines))


def trial_of_other_files(name, folder, here, chance):
    """A bank, a plan, or a table and an array that are made of anything."""
    if name == "bank":
        shutil.copy(folder / "bank.safetensors", here / "bank.safetensors")
        forge_tensors(here / "bank.safetensors", chance)
        load_experience(here / "bank.safetensors")
        return run(["bank", "query", "bank=bank.safetensors", "kind=classification", "classes=3"])
    if name == "plan":
        (here / "plan.yaml").write_text(json.dumps(twisted(PLAN, chance, chance.randint(1, 2))))
        plan = load_plan("compare", str(here / "plan.yaml"))
        lines = [plan.command(Run(suite, row, (), seed)) for suite in plan.suites for row in plan.rows for seed in (0,)]
        return len([load_config(line) for line in lines])
    if name == "ablation":
        (here / "plan.yaml").write_text(json.dumps(twisted(ABLATED, chance, chance.randint(1, 2))))
        return len(load_plan("ablation", str(here / "plan.yaml")).rows)
    if name == "collect":
        (here / "plan.yaml").write_text(json.dumps(twisted(COLLECTED, chance, 2)))
        return len(load_collect_plan(str(here / "plan.yaml")).parts)
    suffix = chance.choice([".csv", ".tsv", ".jsonl", ".parquet", ".npy"])
    content = bytearray((folder / ("new.npy" if suffix == ".npy" else "new.csv")).read_bytes())
    if suffix == ".jsonl":
        rows = [twisted({"age": 1, "school": "hs", "income": ">50K"}, chance) for _ in range(4)]
        content = bytearray("\n".join(json.dumps(row) for row in rows).encode())
    for _ in range(chance.randint(0, 4)):
        at = chance.randrange(len(content))
        content[at : at + chance.choice([0, 1, 8])] = chance.choice(
            [b"", b"\0", b'"', b"\xff", b"\r", b"9" * 5000, b","]
        )
    (here / f"data{suffix}").write_bytes(bytes(content))
    return run(["predict", f"run={folder / 'table'}", f"data=data{suffix}", "output=out.csv"])


FILES = (
    "run summary.json",
    "run config.yaml",
    "run metrics.jsonl",
    "run events.jsonl",
    "run model.json",
    "table model.json",
    "table preprocessing.json",
    "run contexts.safetensors",
    "run checkpoints/best.safetensors",
    "run checkpoints/last.safetensors",
    "run test_predictions.safetensors",
    "table summary.json",
    "bank",
    "plan",
    "ablation",
    "collect",
    "rows",
)


def told(trials, capsys, what):
    """Do the trials; how many ended in a message, or well."""
    outcomes: Counter[str] = Counter()
    wrong = []
    for name, trial in trials:
        try:
            with alarm():
                code = trial()
        except (LossRAGError, OSError) as error:
            code = 2 if str(error) else -1
            if isinstance(error, TimeoutError):
                wrong.append((name, "hangs"))
        except Exception as error:
            wrong.append((name, f"{type(error).__name__}: {error!s:.300}"))
            continue
        outcomes[{0: "0", 1: "1", 2: "2"}.get(int(code), "0")] += 1
        err = capsys.readouterr().err
        if "Traceback" in err:
            wrong.append((name, err[-300:]))
    total = outcomes.total() + len([reason for _, reason in wrong if reason != "hangs"])
    with capsys.disabled():
        good = f"{total - len(wrong)} of {total} {what}"
        print(f"\n{good} without traceback, hang or execution: exit codes {dict(outcomes)}")
        for name, reason in wrong[:40]:
            print(f"  {name}: {reason}")
    assert not wrong


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path):
    yield
    for place in (tmp_path, *tmp_path.rglob("*/")):
        assert not (place / CANARY).exists()


def files(count, folder, tmp_path, seed):
    for number in range(count):
        kind, here = FILES[number % len(FILES)], tmp_path / f"file{number}"
        here.mkdir()
        os.chdir(here)
        yield (
            f"{kind} {seed}/{number}",
            lambda k=kind, h=here, n=number: trial_of_file(k, folder, h, random.Random(f"{seed}/{n}")),
        )
        os.chdir(tmp_path)
        shutil.rmtree(here)


def options(count, folder, tmp_path, seed):
    for number in range(count):
        command, names = COMMANDS[number % len(COMMANDS)]
        chance = random.Random(f"{seed}/{number}/options")
        yield (
            f"{command} {seed}/{number}",
            lambda c=command, n=names, r=chance: trial_of_options(c, n, folder, tmp_path, r),
        )


def configurations(count, seed, deepest):
    """Overrides of keys that there are, and of some that there are not, by anything."""
    keys = [
        *flatten(load_config(["experiment=digits"])[1]),
        "tasks",
        "model",
        "weighting",
        "loss",
        "run",
        "x",
        "tasks.x",
    ]
    values = [
        *OPTIONS,
        *(json.dumps(value) for value in VALUES if value != CODE),
        *("[" * n + "]" * n for n in deepest),
    ]
    for number in range(count):
        chance = random.Random(f"{seed}/{number}")
        line = []
        for _ in range(chance.randint(1, 3)):
            prefix = chance.choice(["", "", "", "+", "~", "++", "@"])
            line.append(
                f"{prefix}{chance.choice(keys)}{chance.choice(['=', '=', '=', '', ':', '=='])}{chance.choice(values)}"
            )
        yield f"{line!r:.200}", lambda own=line: len(load_config(["experiment=digits", *own])) * 0


def test_what_is_not_forged_is_read(folder, tmp_path, monkeypatch):
    """Or nothing would be shown by the refusal of what is."""
    for forge in ("forge_plain", "forge_lines", "forge_tensors"):
        monkeypatch.setattr(f"{__name__}.{forge}", lambda *_: None)
    monkeypatch.setattr(f"{__name__}.twisted", lambda plain, *_: plain)
    for number, kind in enumerate(FILES[:-1]):
        here = tmp_path / str(number)
        here.mkdir()
        monkeypatch.chdir(here)
        code = trial_of_file(kind, folder, here, random.Random(0))
        assert code == {"plan": 2, "ablation": 3, "collect": 2}.get(kind, 0), kind


def test_files(folder, tmp_path, capsys):
    told(files(34, folder, tmp_path, "small"), capsys, "hostile files")


def test_options(folder, tmp_path, capsys):
    told(options(36, folder, tmp_path, "small"), capsys, "hostile options")


def test_configurations(capsys):
    told(configurations(40, "small", ()), capsys, "hostile configurations")


@pytest.mark.slow
def test_1200_files(folder, tmp_path, capsys):
    told(files(1200, folder, tmp_path, SEED), capsys, "hostile files")


@pytest.mark.slow
def test_800_options(folder, tmp_path, capsys):
    told(options(800, folder, tmp_path, SEED), capsys, "hostile options")


@pytest.mark.slow
def test_10000_configurations(capsys):
    told(configurations(10_000, SEED, (50, 200, 1000)), capsys, "hostile configurations")
