"""`lossrag benchmark frank_wolfe`: small sizes with torchjd, and the way out without it."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from lossrag import ConfigError
from lossrag.experiments.benchmark import frank_wolfe as subject
from lossrag.experiments.benchmark.frank_wolfe import FrankWolfeBenchmark, iterations_needed, problem, run_frank_wolfe

SMALL = FrankWolfeBenchmark(tasks=(2, 3), batch_tasks=(3,), problems=2, pairs=2, batch=5, max_iterations=50)


def test_a_row_for_every_kind_and_size_or_what_to_install() -> None:
    if importlib.util.find_spec("torchjd") is None:
        with pytest.raises(ConfigError, match=r"pip install .*\[baselines\]"):
            run_frank_wolfe(SMALL)
        return
    results = run_frank_wolfe(SMALL)
    assert len(results) == 2 * len(subject.KINDS) + 2
    assert len({result.case for result in results}) == len(results)
    for result in results:
        assert float(result.more["exact_gap"]) < 1e-12
        if result.unit == "x torchjd":
            assert float(result.more["gap"]) <= 1e-6
            assert (float(result.more["torchjd_gap"]) > 1.01e-6) == (result.more["torchjd_gave_up"] != "0 of 2")


def test_without_torchjd_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(ConfigError, match=r"torchjd.*pip install .*\[baselines\]"):
        run_frank_wolfe(SMALL)


def test_the_iterations_of_the_peer_are_counted_on_its_own_loop() -> None:
    B = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
    # From (1/2, 1/2) one exact line search ends at the optimum (3/4, 1/4).
    assert iterations_needed(B, 1e-12, 50) == 1
    assert iterations_needed(problem("ordinary", 14, 0), 1e-6, 50) == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": (0,)}, r"tasks must list numbers from 1 up, .* got \[0\]"),
        ({"batch": 1}, "batch must be 2 or more, got 1"),
        ({"gap": 0.0}, "gap must lie between 0 and 1, got 0.0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FrankWolfeBenchmark(**options)  # type: ignore[arg-type]
