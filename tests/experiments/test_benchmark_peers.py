"""`lossrag benchmark peers`: every way of doing a step gives the same gradients, or nothing is timed."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

from lossrag import ConfigError, LossRAGError
from lossrag.experiments.benchmark import peer_torchjd, peers
from lossrag.experiments.benchmark.peer_problems import (
    autograd_loop,
    our_hypergradient,
    our_step,
    own_case,
    shared_case,
)
from lossrag.experiments.benchmark.peer_torchjd import ENGINES, METHODS, ROW_BY_ROW, aggregator, fastest, jac_per_task
from lossrag.experiments.benchmark.peers import PeersBenchmark, run_peers, shortest_by_nnls
from lossrag.experiments.benchmark.problems import TextOptions, require_equal
from lossrag.weighting import MGDA, PCGrad, Signals

SMALL = TextOptions(batch=9, length=12, vectors=4, filters=3, words=50)
OWN, SHARED = own_case(SMALL, 3), shared_case(12, 4, 2, 3)
needs_torchjd = pytest.mark.skipif(importlib.util.find_spec("torchjd") is None, reason="torchjd is not installed")


@pytest.fixture
def without_upgrad(monkeypatch):
    """Its solver quadprog need not be there."""
    monkeypatch.delitem(METHODS, "UPGrad")


@needs_torchjd
@pytest.mark.parametrize("case", [OWN, SHARED], ids=["own", "shared"])
@pytest.mark.parametrize("method", ["MGDA", "PCGrad"])
def test_all_engines_agree_with_the_step(case, method):
    expected = our_step(case, METHODS[method].ours, torch.float64).gradient()
    # vmap and autogram want layers to be called, and TextCNN computes with their weights
    engines = [ENGINES[ROW_BY_ROW], jac_per_task] if case is OWN else ENGINES.values()
    for engine in engines:
        update = engine(case, aggregator(METHODS[method], tight=True), torch.float64)
        assert torch.allclose(update.gradient(), expected, atol=1e-6 * float(expected.norm())), update.name


@needs_torchjd
def test_the_fastest_engine_is_one_that_can_do_the_case():
    found = fastest(OWN, METHODS["PCGrad"])
    assert found.engine is ENGINES[ROW_BY_ROW]
    assert list(found.milliseconds) == [ROW_BY_ROW]
    assert found.failed.keys() == ENGINES.keys() - {ROW_BY_ROW}
    assert all("Error: " in reason for reason in found.failed.values())
    every = fastest(SHARED, METHODS["PCGrad"])
    assert (len(every.milliseconds), every.failed) == (3, {})


@needs_torchjd
def test_when_no_engine_can_do_it_each_says_why(monkeypatch):
    monkeypatch.delitem(ENGINES, ROW_BY_ROW)
    with pytest.raises(ConfigError, match=r"no engine of torchjd can do .* mtl_backward: \w+Error: .*autogram: \w+"):
        fastest(OWN, METHODS["PCGrad"])


@pytest.mark.parametrize("case", [OWN, SHARED], ids=["own", "shared"])
def test_the_loop_computes_the_same_hypergradient(case):
    D = autograd_loop(case, torch.float64).run()
    assert D.shape == (3, 3)
    assert torch.allclose(our_hypergradient(case).double(), D, rtol=1e-3, atol=1e-6)


@needs_torchjd
def test_from_the_command_line(lossrag, tmp_path, without_upgrad):
    output = tmp_path / "peers.json"
    sizes = ["batch=8", "length=12", "vectors=4", "filters=2", "words=50", "tasks=[2]", "shared=[[6,3,1]]", "heads=3"]
    result = lossrag("benchmark", "peers", *sizes, "pairs=2", "problems=2", f"output={output}")
    assert result.code == 0, result
    rows = json.loads(output.read_text())
    units = [row["unit"] for row in rows]
    # own input: two methods against an engine and against jac; shared input: two methods against an engine
    failed = [row for row in rows if "failed" in row]
    assert units.count("x torchjd") == 6 + len(failed)
    # own input: two engines cannot do it, with either method, and say so beside the figures
    assert [(row["engine"], row["ratio"]) for row in failed] == [("mtl_backward", None), ("autogram", None)] * 2
    assert all("Error: " in row["failed"] for row in failed)
    assert units.count("x autograd loop") == 2
    assert units.count("x scipy nnls") == 1
    assert all(float(row["difference"]) <= 1e-3 for row in rows if "difference" in row)


def test_different_results_are_not_timed():
    assert require_equal("same", torch.ones(3), torch.ones(3), 1e-6) == 0
    with pytest.raises(LossRAGError, match=r"PCGrad: the two results differ by 1.0e-01"):
        require_equal("PCGrad", 1.1 * torch.ones(3), torch.ones(3), 1e-3)
    with pytest.raises(LossRAGError, match="nan"):
        require_equal("PCGrad", torch.full((3,), torch.nan), torch.ones(3), 1e-3)


def test_a_wrong_method_is_caught(monkeypatch):
    pytest.importorskip("torchjd")
    monkeypatch.setitem(METHODS, "MGDA", peer_torchjd.Method(PCGrad(), "MGDA", METHODS["MGDA"].tight))
    with pytest.raises(LossRAGError, match="differ"):
        peers._difference(OWN, METHODS["MGDA"], ENGINES[ROW_BY_ROW])


@pytest.mark.parametrize("T", [1, 2, 5, 16])
def test_nnls_finds_the_shortest_vector(T):
    D = np.random.default_rng(T).normal(size=(T, 2 * T))
    weights = torch.from_numpy(shortest_by_nnls(D))
    B = torch.from_numpy(D @ D.T)
    ours = MGDA().weigh({"weights": torch.ones(T, dtype=torch.float64)}, Signals(torch.ones(T), B))[0] / T
    assert torch.allclose(weights, ours, atol=1e-6)


def test_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(ConfigError, match=r"pip install .*\[baselines\]"):
        run_peers(PeersBenchmark(**{**vars(SMALL), "tasks": (2,), "shared": []}))


@needs_torchjd
def test_a_missing_solver_is_named(monkeypatch):
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="quadprog"):
        aggregator(METHODS["UPGrad"])
