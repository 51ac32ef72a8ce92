"""Runs of the command line: in this process, in a process of its own, and in processes that are killed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lossrag import ConfigError
from lossrag.experiments.cli import run
from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.tasks import SUITES, Examples, Suite, SuiteEntry, Task, TokenInputs

SMALL = ["experiment=digits", "train.epochs=2", "train.batch_size=256"]
"""Two epochs of five or six steps."""


@dataclass(frozen=True)
class Result:
    """What a command line left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one message of a mistake."""
        assert self.code == 2, self
        assert self.err.startswith("error: "), self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("error: ")


@pytest.fixture(autouse=True)
def _alone(request, monkeypatch, tmp_path, presets_composed_once):
    """No data of this machine, no cache, one thread, and nothing written into the checkout; no pictures but for tests
    of them."""
    if request.node.get_closest_marker("pictures") is None:
        unpictured(monkeypatch)
    monkeypatch.delenv("LOSSRAG_DATA", raising=False)
    monkeypatch.setenv("LOSSRAG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lossrag(capsys) -> Callable[..., Result]:
    """`lossrag ARGUMENTS` in this process."""

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        code = run(list(arguments))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


class RunHere:
    """Stands in for the process of a run: the same command line, without new imports."""

    def __init__(self, line: list[str], stdout: Any, **_: Any) -> None:
        self.stdin = io.BytesIO()
        with Path(stdout.name).open("a") as log, redirect_stdout(log), redirect_stderr(log):
            self.returncode = run(line[line.index("train") :])

    def poll(self) -> int:
        return self.returncode


@pytest.fixture(scope="session")
def runs_here() -> Callable[[], AbstractContextManager[None]]:
    """While its context lasts, comparisons and ablations do their runs in this process, one after the other, and draw
    no pictures: what is not about processes need not wait for them. test_killed_on_the_way has real ones, and ends with
    the same files."""

    @contextmanager
    def patched() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            unpictured(patch)
            parts = {name: getattr(subprocess, name) for name in ("PIPE", "STDOUT", "TimeoutExpired")}
            patch.setattr(
                "lossrag.experiments.studies.launchers.local.subprocess", SimpleNamespace(Popen=RunHere, **parts)
            )
            yield

    return patched


@pytest.fixture
def train(lossrag, tmp_path) -> Callable[..., Path]:
    """A small digits run with these overrides; its directory."""

    def call(*overrides: str, root: Path = tmp_path / "runs") -> Path:
        before = set(root.glob("*"))
        result = lossrag("train", *SMALL, f"run.root={root}", *overrides)
        assert result.code == 0, result
        (new,) = set(root.glob("*")) - before
        return new

    return call


def unpictured(patch: pytest.MonkeyPatch) -> None:
    """Draw no pictures, which take most of the time of a small run."""
    for picture in (
        "record.composition_log.draw_compositions",
        "record.composition_log.draw_bank",
        "train.plot_trajectories",
    ):
        patch.setattr(f"lossrag.experiments.{picture}", lambda *_: None)


@pytest.fixture
def quick(train) -> Callable[..., Path]:
    """As ``train``, without TensorBoard."""
    return partial(train, "log.tensorboard=false")


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The directory of one finished small run, to be read only."""
    root = tmp_path_factory.mktemp("finished")
    assert run(["train", *SMALL, f"run.root={root}", "log.figures_every=1"]) == 0
    (directory,) = root.iterdir()
    return directory


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The installed console command, in a process of its own."""

    def call(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        script = Path(sys.executable).with_name("lossrag")
        line = (
            [str(script)]
            if script.exists()
            else [sys.executable, "-c", "from lossrag.experiments.cli import main; main()"]
        )
        return subprocess.run([*line, *arguments], capture_output=True, text=True, timeout=120, check=False, **options)

    return call


# Imports once, then forks a process for every session, which sends itself a signal before the n-th call of a function.
FORKER = """
import importlib.util, json, os, signal, sys, tempfile, time, traceback
import lossrag.experiments.benchmark.command
import sklearn.datasets
from lossrag import MultiTaskStep
from lossrag.experiments import train as training
from lossrag.experiments.cli import run
from lossrag.experiments.record import composition_log, state
from lossrag.experiments.record.jsonl import JsonLines
from lossrag.tasks import SUITES, SuiteEntry

specification = importlib.util.spec_from_file_location("conftest_of_runs", sys.argv[1])
conftest = sys.modules[specification.name] = importlib.util.module_from_spec(specification)
specification.loader.exec_module(conftest)
SUITES._entries["toy"] = SuiteEntry(conftest.ToyConfig, conftest.load_toy)

# pictures are no part of what is compared, and take half of a session's time
training.plot_trajectories = composition_log.draw_compositions = composition_log.draw_bank = lambda *_: None
PLACES = {
    "build": (training, "build_suite"),
    "step": (MultiTaskStep, "__call__"),
    "line": (JsonLines, "write"),
    "save": (state, "save_tensors"),
    "rename": (os, "replace"),
    "figure": (training, "plot_trajectories"),
    "summary": (training, "write_summary"),
    "refit": (training, "refit"),
    "test": (training.Problem, "evaluate"),
}

def arm(place, number, name):
    owner, attribute = PLACES[place]
    original, calls = getattr(owner, attribute), [0]
    def signalling(*arguments, **options):
        calls[0] += 1
        if calls[0] == number:
            for each in name.split():
                os.kill(os.getpid(), getattr(signal, each))
        return original(*arguments, **options)
    setattr(owner, attribute, signalling)

# what every session would have to warm up for itself: Hydra's grammar, fonts, the data
with tempfile.TemporaryDirectory() as folder:
    sys.stdout, terminal = open(os.devnull, "w"), sys.stdout
    assert run(["train", "experiment=digits", "train.epochs=1", "train.batch_size=2000", f"run.root={folder}"]) == 0
    sys.stdout = terminal

for line in sys.stdin:
    codes = []
    for session in json.loads(line):
        time.sleep(session.get("wait", 0))
        child = os.fork()
        if child == 0:
            # a shell's background job is born deaf to SIGINT
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.stdout = sys.stderr = open(session["log"], "a")
            if session.get("place"):
                arm(session["place"], session["number"], session.get("signal", "SIGKILL"))
            try:
                code = run(session["arguments"])
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(codes), flush=True)
"""


@pytest.fixture(scope="session")
def sessions(tmp_path_factory) -> Iterator[Callable[[list[dict[str, Any]]], list[int]]]:
    """Run command lines one after the other, each a dictionary with ``arguments``; their exit codes.

    With ``place`` and ``number`` the process sends itself ``signal`` (SIGKILL) before that call of that function.
    """
    log = tmp_path_factory.mktemp("sessions") / "log"
    line = [sys.executable, "-c", FORKER, __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=log.parent
    ) as forker:
        assert forker.stdin is not None
        assert forker.stdout is not None

        def call(plan: list[dict[str, Any]]) -> list[int]:
            print(json.dumps([{"log": str(log), **session} for session in plan]), file=forker.stdin, flush=True)
            codes = json.loads(forker.stdout.readline())
            assert 1 not in codes, log.read_text()
            return codes

        yield call
        forker.stdin.close()


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in meta.items() if key != "seconds"}


@pytest.fixture(scope="session")
def assert_same_run() -> Callable[[Path, Path], None]:
    """Two run directories hold the same run, bit for bit."""

    def check(first: Path, second: Path) -> None:
        for name in ("last", "best"):
            (a, meta_a), (b, meta_b) = (
                load_checkpoint(path / "checkpoints" / f"{name}.safetensors") for path in (first, second)
            )
            assert a.keys() == b.keys()
            for key, tensor in a.items():
                assert tensor.dtype == b[key].dtype
                # contexts hold no numbers where none were taken
                assert tensor.shape == b[key].shape
                assert torch.allclose(tensor, b[key], rtol=0, atol=0, equal_nan=True), (name, key)
            assert _plain(meta_a) == _plain(meta_b)
        assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
        summaries = [json.loads((path / "summary.json").read_text()) for path in (first, second)]
        for summary in summaries:
            del summary["seconds"], summary["directory"]
        assert summaries[0] == summaries[1]

    return check


@dataclass(frozen=True)
class ToyConfig:
    """A suite of token sequences with inputs of their own for every task."""

    rho: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rho < 1:
            raise ConfigError(f"tasks.rho must be in (0, 1), got {self.rho}.")


def load_toy(config: ToyConfig) -> Suite:
    generator = torch.Generator().manual_seed(config.seed)
    tasks = (Task("two", "classification", 2), Task("three", "classification", 3), Task("value", "regression", 1))

    def examples(task: Task, rows: int) -> Examples:
        lengths = torch.randint(1, 12, (rows,), generator=generator)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        classes = torch.arange(rows) % max(task.outputs, 2)
        ids = torch.randint(1, 20, (int(lengths.sum()),), generator=generator)
        ids[offsets[:-1]] = 1 + classes  # the first word tells the class
        targets = classes if task.kind == "classification" else classes[:, None].float()
        return Examples(TokenInputs(ids, offsets), targets)

    sizes = {"support": (24, 30, 18), "query": (9, 6, 8), "validation": (8, 9, 6), "test": (8, 9, 6)}
    splits = {
        name: tuple(examples(task, n) for task, n in zip(tasks, rows, strict=True)) for name, rows in sizes.items()
    }
    vectors = torch.randn(20, 5, generator=generator)
    vectors[0] = 0
    return Suite("toy", "made up", tasks, False, splits, vectors=vectors)


@pytest.fixture(scope="session")
def toy_entry() -> SuiteEntry:
    """What :func:`toy` registers."""
    return SuiteEntry(ToyConfig, load_toy)


@pytest.fixture
def toy(monkeypatch, toy_entry) -> None:
    """The suite ``tasks=toy``."""
    monkeypatch.setitem(SUITES._entries, "toy", toy_entry)
