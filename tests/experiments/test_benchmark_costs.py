"""`lossrag benchmark` memory, scaling and plot, with sizes that take no time."""

from __future__ import annotations

import json

import pytest

from lossrag import ConfigError, LossRAGError
from lossrag.experiments.benchmark import memory
from lossrag.experiments.benchmark.memory import MemoryBenchmark, peak_bytes, row_bytes, run_memory
from lossrag.experiments.benchmark.paired import paired_within
from lossrag.experiments.benchmark.plots import plot_costs, short
from lossrag.experiments.benchmark.problems import TextOptions, floor, query_rows
from lossrag.experiments.benchmark.runs import _seconds

TINY = {"length": 12, "vectors": 4, "filters": 2, "words": 50}
OPTIONS = [f"{key}={value}" for key, value in TINY.items()]


class InThisProcess:
    """Stands in for a pool of processes, which takes seconds to start."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def apply(self, function, arguments):
        return function(*arguments)


@pytest.fixture
def one_process(monkeypatch):
    monkeypatch.setattr(memory.multiprocessing, "get_context", lambda _: memory)
    monkeypatch.setattr(memory, "Pool", lambda *_, **__: InThisProcess(), raising=False)


def test_memory_in_units_of_the_matrix(monkeypatch, one_process):
    peaks = {"uniform": 1000, "rows": 1000 + 3 * 80, "low": 1000 + 2 * 80}
    monkeypatch.setattr(memory, "peak_bytes", lambda options, tasks, kind: peaks[kind])
    monkeypatch.setattr(memory, "row_bytes", lambda options, tasks: 80)
    rows, low, timed = run_memory(MemoryBenchmark(**TINY, batch=8, tasks=(3,), pairs=2, seconds=1))
    assert rows.ratio == pytest.approx(1.0)
    assert low.ratio == pytest.approx(2 / 3)
    assert (rows.more["in_units_of_d"], low.more["in_units_of_d"]) == (3.0, 2.0)
    assert "low over rows" in timed.case


@pytest.mark.parametrize("kind", ["uniform", "rows", "low"])
def test_a_peak_is_measured(kind):
    """Beyond what torch itself takes, and in bytes: less than this machine has."""
    assert 50 * 2**20 < peak_bytes(TextOptions(**TINY, batch=8), 2, kind) < 2**40


def test_bytes_of_a_gradient():
    # three kernels of 2 filters over 4-d words with biases, two heads of 4 classes on 6 features
    d = 2 * 4 * (3 + 5 + 7) + 3 * 2 + 2 * (4 * 6 + 4)
    assert row_bytes(TextOptions(**TINY), 2) == 4 * d
    assert row_bytes(TextOptions(**TINY, trainable=True), 2) == 4 * (d + 50 * 4)


def test_query_rows_and_floor():
    options = TextOptions(batch=512)
    assert [query_rows(options, 64, share) for share in (1.0, 0.125)] == [8, 1]
    assert floor(options, 64, 0.125) == 1.125
    assert query_rows(TextOptions(batch=64), 64, 0.125) == 1


@pytest.fixture(scope="module")
def scaling(tmp_path_factory):
    return tmp_path_factory.mktemp("scaling") / "scaling.json"


def test_scaling(lossrag, scaling):
    sweeps = ["batch=8", "tasks=[4,8]", "batches=[4,8]", "sizes=[1,2]", "at=2", "pairs=2"]
    result = lossrag("benchmark", "scaling", *OPTIONS, *sweeps, f"output={scaling}")
    assert result.code == 0, result
    rows = json.loads(scaling.read_text())
    assert [row["sweep"] for row in rows] == [
        *["tasks", "tasks", "batch", "batch", *["parameters"] * 2] * 2,
        *["growth"] * 2,
    ]
    assert [row["floor"] for row in rows[:6]] == [2.0] * 6
    assert {row["query"] for row in rows} == {"query = support", "query = support / 8"}
    assert rows[8]["floor"] == 1.5
    assert rows[4]["parameters"] < rows[5]["parameters"]
    assert rows[-1]["case"] == "T=8 over T=4, query = support / 8"


def row(sweep, at, query="query = support", **more):
    fixed = {"tasks": 14, "batch": 512, "parameters": 90_000}
    return {"ratio": 2.1, "spread": 0.1, "floor": 2.0, "sweep": sweep, "query": query, **fixed, sweep: at, **more}


def test_plot(lossrag, tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps([row("tasks", T) for T in (2, 4, 64)]))
    second.write_text(json.dumps([row("batch", B) for B in (64, 128)] + [row("growth", 4), {"ratio": 1.0}]))
    result = lossrag("benchmark", "plot", str(first), str(second), f"output={tmp_path}/cost.png")
    assert result.code == 0, result
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "No rows of the subject scaling"), ("{}", "no list of benchmark rows"), ("[", "Cannot read")],
)
def test_files_without_rows(tmp_path, text, message):
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        plot_costs([file], tmp_path / "cost.png")


def test_a_picture_of_an_unknown_kind(lossrag, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([row("tasks", 2)]))
    assert "Cannot write output=" in lossrag("benchmark", "plot", str(file), f"output={tmp_path}/cost.xyz").error


def test_short():
    assert [short(value) for value in (7, 9999, 10_000, 48_192, 2.46e6)] == ["7", "9999", "10k", "48k", "2.5M"]


def test_slow_routines_get_two_pairs(monkeypatch):
    monkeypatch.setattr("lossrag.experiments.benchmark.paired.milliseconds", lambda routine: routine() or 5000.0)
    calls = []
    paired_within(lambda: calls.append("a"), lambda: calls.append("b"), pairs=9, seconds=10)
    assert calls == ["a", "b"] * 3
    calls.clear()
    paired_within(lambda: calls.append("a"), lambda: calls.append("b"), pairs=9, seconds=1000)
    assert calls == ["a", "b"] * 10


def test_devices_by_the_model(lossrag, tmp_path):
    assert lossrag("benchmark", "devices", "tasks=[4,64]", "devices=[8]", "output=devices.json").code == 0
    rows = {row["case"]: row for row in json.loads((tmp_path / "devices.json").read_text())}
    assert len(rows) == 16
    divided = rows["T=64, R=8, tasks, H100, NVLink, 400 Gb/s each"]
    # 2 * 8 + 1 pieces of 7/8 of 438 MB, and 64 eighths of it held
    assert divided["sent_GB"] == pytest.approx(17 * 0.438 * 7 / 8, abs=2e-3)
    assert divided["held_GB"] == pytest.approx(64 * 0.438 / 8, abs=1e-3)
    assert divided["ratio"] < rows["T=64, R=8, rows, H100, NVLink, 400 Gb/s each"]["ratio"] < 1
    assert rows["T=64, R=8, rows, A100, 10 Gb/s each"]["ratio"] > 1


def test_whole_runs_in_pairs(lossrag, tmp_path, monkeypatch):
    said = []

    def seconds(experiment, seed, line, threads):
        said.append((experiment, seed, line[-1], threads))
        return {"loss.policy=retrieval": 3.0, "loss.policy=fixed": 2.0}[line[-1]] * (10 if seed == 7 else 1)

    monkeypatch.setattr("lossrag.experiments.benchmark.runs._seconds", seconds)
    assert lossrag("benchmark", "runs", "pairs=2", "seed=6", "output=runs.json").code == 0
    (row,) = json.loads((tmp_path / "runs.json").read_text())
    assert (row["case"], row["ratio"], row["seconds"]) == ("digits", 1.5, [[3.0, 2.0], [30.0, 20.0]])
    assert said[:2] == [("digits", 6, "loss.policy=retrieval", 1), ("digits", 6, "loss.policy=fixed", 1)]


@pytest.mark.slow
def test_seconds_are_those_of_the_processor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["train.epochs=1", "log.tensorboard=false", "train.batch_size=512"]
    assert 0.5 < _seconds("digits", 0, short, 1) < 120
    assert not list(tmp_path.iterdir())
    with pytest.raises(LossRAGError, match=r"exit code 2: error:.*no_such_suite"):
        _seconds("digits", 0, ["tasks=no_such_suite"], 1)
