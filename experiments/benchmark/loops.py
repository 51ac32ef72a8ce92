"""What loops hand to a step, and what becomes of it here and in torchjd: the same nets, batches and method (MGDA).

Every case says what would be right. A verdict is ``right``, ``refused`` where an error in words of the library's own
stops the loop before anything is changed, ``error`` where another one does, or ``wrong``; the text says what was seen.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from lossrag.checks import check_least
from lossrag.errors import ConfigError, DivergedError
from lossrag.experiments.benchmark.loop_nets import RATE, Net, Ours, Theirs, Updater, draw
from lossrag.experiments.benchmark.paired import Result
from lossrag.experiments.benchmark.peer_torchjd import METHODS, aggregator
from lossrag.lossbank import LOSSES
from lossrag.weighting import MGDA, MetaWeighting, MultiTaskStep, Signals

SAID = 150
"""Characters of an error that are told."""
EQUAL = 1e-6
Verdict = tuple[str, str]
"""``right``, ``refused``, ``error`` or ``wrong``, and what was seen."""
Look = Callable[[type[Updater]], Verdict]


@dataclass(frozen=True)
class LoopsBenchmark:
    """Options of `lossrag benchmark loops`. processes: False leaves out the case that starts two processes."""

    threads: int = 1
    processes: bool = True

    def __post_init__(self) -> None:
        check_least(self, 1, "threads")


def run_loops(options: LoopsBenchmark) -> list[Result]:
    """A row for every case."""
    results = []
    for name, (right, look, peer) in CASES.items():
        if name == WRAPPED and not options.processes:
            continue
        ours = judged(partial(look, Ours))
        theirs = judged(partial(look, Theirs)) if peer is None else ("-", peer)
        more = {"right": right, "here": ours[0], "seen_here": ours[1], "torchjd": theirs[0], "seen_there": theirs[1]}
        results.append(Result("loops", name, None, None, "verdicts", more))
    return results


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the rows of a benchmark.json."""
    lines = ["| what the loop hands over | right | here | torchjd |", "| -- | -- | -- | -- |"]
    for row in rows:
        here, there = (_cell(row[side], row[seen]) for side, seen in (("here", "seen_here"), ("torchjd", "seen_there")))
        lines.append(f"| {row['case']} | {row['right']} | {here} | {there} |")
    return "\n".join(lines)


def _cell(verdict: str, seen: str) -> str:
    text = seen.replace("|", "\\|")
    return text if verdict == "-" else f"**{verdict}**: {text}"


def judged(look: Callable[[], Verdict]) -> Verdict:
    """What a case told, or the error that it ended with."""
    try:
        return look()
    except Exception as error:  # whatever a library makes of it is what is asked
        kind = "refused" if isinstance(error, (ConfigError, DivergedError, ValueError)) else "error"
        said = " ".join(str(error).split())
        return kind, f"{type(error).__name__}: {said[:SAID]}{'...' if len(said) > SAID else ''}"


def alike(one: Tensor, other: Tensor, what: str) -> Verdict:
    """Right where both are the same to 1e-6."""
    if not bool(one.isfinite().all()):
        return "wrong", "the parameters are no numbers"
    error = float((one - other).abs().max())
    return ("right" if error <= EQUAL else "wrong"), f"{what}: difference {error:.0e}"


def _unlabelled(kind: type[Updater]) -> Verdict:
    """Task c has no label in one of the batches: cross entropy is NaN then, its gradient 0."""
    nets = Net(), Net()
    steps = [kind(net) for net in nets]
    for number in range(3):
        x, y = draw(number)
        if number != 1:
            for step in steps:
                step.update((x, y))
            continue
        empty = y.clone()
        empty[:, 2] = -100
        steps[0].update((x, empty))
        steps[1].update((x, y), tasks=(0, 1))
    return alike(nets[0].flat(), nets[1].flat(), "as without the task in that step")


def _absent(kind: type[Updater]) -> Verdict:
    """A task of which the batch has nothing: its loss is None."""
    nets = Net(), Net()
    kind(nets[0]).update(draw(0), absent=2)
    kind(nets[1]).update(draw(0), tasks=(0, 1))
    return alike(nets[0].flat(), nets[1].flat(), "as without the task")


def _not_finite(kind: type[Updater]) -> Verdict:
    net = Net()
    x, y = draw(0)
    x[3, 1] = torch.nan
    before = net.flat()
    try:
        kind(net).update((x, y))
    except Exception:
        if torch.equal(net.flat(), before):
            raise
        return "wrong", "an error after the parameters were changed"
    finite = bool(net.flat().isfinite().all())
    return "wrong", "the parameters are numbers still" if finite else "the parameters are no numbers"


def _outside(kind: type[Updater]) -> Verdict:
    """A learned temperature that the optimiser trains and the list of shared parameters lacks."""
    net = Net(temperature=True)
    kind(net).update(draw(0))
    moved = float((net.temperature - 1).detach().abs())
    return ("right" if moved else "wrong"), f"it moved by {moved:.0e}" if moved else "it stands still"


def _twice(kind: type[Updater]) -> Verdict:
    nets = Net(), Net()
    kind(nets[0], twice=True).update(draw(0))
    kind(nets[1]).update(draw(0))
    return alike(nets[0].flat(), nets[1].flat(), "as listed once")


def _compiled(kind: type[Updater]) -> Verdict:
    nets = Net(), Net()
    nets[0].call = torch.compile(nets[0].trunk, backend="aot_eager")
    for net in nets:
        step = kind(net)
        for number in range(2):
            step.update(draw(number))
    return alike(nets[0].flat(), nets[1].flat(), "as the eager model")


def _overflow(kind: type[Updater]) -> Verdict:
    """Scaled losses that float32 cannot hold."""
    net = Net().float()
    net.unit = 100.0
    x, y = draw(0)
    start = net.flat()
    kind(net).update((x.float(), y), scaler=torch.amp.GradScaler("cpu", init_scale=2.0**126))
    return alike(net.flat(), start, "parameters as before")


def _scaler(kind: type[Updater]) -> Verdict:
    nets = Net(), Net()
    steps = [kind(net) for net in nets]
    scaler = torch.amp.GradScaler("cpu")
    for number in range(2):
        steps[0].update(draw(number), scaler=scaler)
        steps[1].update(draw(number))
    return alike(nets[0].flat(), nets[1].flat(), "as without a scaler")


def _accumulated(kind: type[Updater]) -> Verdict:
    nets = Net(), Net()
    x, y = draw(0, 64)
    kind(nets[0]).update_from([(x[rows], y[rows]) for rows in torch.arange(64).view(4, 16)])
    kind(nets[1]).update((x, y))
    return alike(nets[0].flat(), nets[1].flat(), "as 64 rows at once")


def _sparse(kind: type[Updater]) -> Verdict:
    """A table with ``sparse=True``, whose gradient is a sparse tensor."""
    nets = Net(table="sparse"), Net(table="dense")
    for net in nets:
        kind(net).update(draw(0))
    return alike(nets[0].flat(), nets[1].flat(), "as a dense table")


def _statistics(kind: type[Updater]) -> Verdict:
    """Only here is there a query pass."""
    norm = nn.BatchNorm1d(4)
    parameters = list(norm.parameters())
    step = MultiTaskStep(norm, torch.optim.SGD(parameters, lr=RATE), MetaWeighting(), 2)

    def losses() -> list[Tensor]:
        z = norm(draw(0)[0][:, :4].float())
        return [z[:, :2].square().mean(), z[:, 2:].abs().mean()]

    step(losses, losses)
    passes = int(norm.num_batches_tracked or 0)
    return ("right" if passes == 1 else "wrong"), f"running statistics moved by {passes} of 2 passes"


def _shapes(kind: type[Updater]) -> Verdict:
    exact, targets = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0.0, 1.0, 2.0])
    lost = LOSSES["squared_error"](exact, targets).tolist()
    return ("right" if lost == [0.0] * 3 else "wrong"), f"exact predictions lose {lost}"


def _singular(kind: type[Updater]) -> Verdict:
    """20 gradients of rank 10 in float32 that cancel with positive weights: the update must vanish."""
    g = torch.Generator().manual_seed(0)
    v = torch.rand(20, generator=g, dtype=torch.float64) + 0.1
    v /= v.norm()
    U = torch.randn(20, 10, generator=g, dtype=torch.float64)
    rows = ((U - v[:, None] * (v @ U)) @ torch.randn(10, 10, generator=g, dtype=torch.float64)).float()
    left = float((weights_of(kind, rows) @ rows.double()).norm() / rows.double().norm(dim=1).max())
    return ("right" if left <= 1e-3 else "wrong"), f"|update| / max |g| = {left:.0e}"


def _copies(kind: type[Updater]) -> Verdict:
    """Two copies of one gradient, and one at a right angle: 1/4, 1/4, 1/2."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = [round(value, 3) for value in weights_of(kind, rows).tolist()]
    return ("right" if found == [0.25, 0.25, 0.5] else "wrong"), f"weights {found}"


def weights_of(kind: type[Updater], rows: Tensor) -> Tensor:
    """MGDA's weights (T,), of sum 1, of gradients (T, d), from their Gramian in the precision they are in."""
    if kind is Theirs:
        found: Tensor = aggregator(METHODS["MGDA"], tight=True).gramian_weighting(rows @ rows.T)
        return found.double()
    method = MGDA()
    signals = Signals(torch.ones(len(rows)), rows @ rows.T)
    return method.weigh(method.init(len(rows), rows.device), signals)[0] / len(rows)


def _wrapped(kind: type[Updater]) -> Verdict:
    """Two processes with batches of their own: after three steps both must hold the same parameters."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (kind, folder), nprocs=2)  # type: ignore[no-untyped-call]
        said = Path(folder) / "said"
        if said.exists():
            return "refused", said.read_text()
        first, second = (torch.load(Path(folder) / str(rank), weights_only=True) for rank in range(2))
    return alike(first, second, "the ranks against each other")


def _rank(rank: int, kind: type[Updater], folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    net = Net()
    net.call = nn.parallel.DistributedDataParallel(net.trunk)
    step = kind(net)
    try:
        for number in range(3):
            step.update(draw(10 * rank + number))
        torch.save(net.flat(), Path(folder) / str(rank))
    except ConfigError as error:
        (Path(folder) / "said").write_text(f"ConfigError: {str(error)[:SAID]}...")
    distributed.destroy_process_group()


WRAPPED = "a model in DistributedDataParallel"
CASES: dict[str, tuple[str, Look, str | None]] = {
    "a task without labels in a batch": ("it sits the step out", _unlabelled, None),
    "a task whose loss is None": ("it sits the step out", _absent, None),
    "an input that is NaN": ("refused before anything is changed", _not_finite, None),
    "a trained parameter outside the list": ("trained by the weighted losses", _outside, None),
    "a parameter listed twice": ("counts once", _twice, None),
    "a compiled trunk": ("the eager result", _compiled, None),
    "losses of a gradient scaler": ("the result without it", _scaler, None),
    "a gradient scaler that overflows": ("the step is left out", _overflow, None),
    "four micro-batches": ("the result of one batch", _accumulated, None),
    "a sparse table": ("the result of a dense one, or refused", _sparse, None),
    "statistics in query passes": ("left alone", _statistics, "has no query pass"),
    "targets (B,) beside outputs (B, 1)": ("one residual a row", _shapes, "has no losses; those of torch broadcast"),
    "a singular Gramian in float32": ("no update where gradients cancel", _singular, None),
    "copies of one gradient": ("share its weight", _copies, None),
    WRAPPED: ("equal ranks, or refused", _wrapped, None),
}
"""By name: what would be right, how it is looked at, and why torchjd is not asked."""
