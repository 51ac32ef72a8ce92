"""Trained word vectors of which a step updates only the rows that its support batch reads."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lossrag import ConfigError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.optim.lazy_adam import LazyAdam
from lossrag.experiments.run.build import build_problem, build_suite, trained_tables
from lossrag.experiments.run.step import BatchStep
from lossrag.weighting import GradientRows, MetaWeighting, MultiTaskStep, TableRows, TaskGradients, TaskGroup

pytestmark = pytest.mark.usefixtures("toy")
TRAINED = ["tasks=toy", "model.trainable_vectors=true", "model.filters=4", "train.batch_size=12"]
LAZY = [*TRAINED, "optimizer.vectors=lazy"]
METHODS = {
    "metaweighting": ["weighting.scale=unit"],
    "shared": ["weighting.parameters=shared"],
    "seldom": ["weighting.scale=unit", "outer.every=3"],
    "uniform": ["weighting=uniform"],
    "single task": ["weighting=single_task", "model.sharing=none"],
}


class Run:
    """A problem in float64 and its step, one support batch after the other."""

    def __init__(self, *overrides: str) -> None:
        self.config, _ = load_config(list(overrides))
        self.problem = build_problem(self.config, build_suite(self.config), torch.device("cpu"))
        self.problem.model.double()
        self.batch_step = BatchStep.of(self.config, self.problem, 1)
        self.step, self.plan = self.batch_step.step, self.batch_step.plan(0)
        self.tables = [table.weight for table in trained_tables(self.problem.model)]

    def __call__(self, number: int) -> list[torch.Tensor]:
        """One step; the rows of the tables that its support batch reads, by table."""
        index = self.plan[number % len(self.plan)]
        self.batch_step(index, 0)
        read = [e.inputs.gather(i) for e, i in zip(self.problem.suite.splits["support"], index, strict=True)]
        parts = [read] if len(self.tables) == 1 else [[batch] for batch in read]
        return [torch.cat([batch.flatten() for batch in part]).unique() for part in parts]


@pytest.mark.parametrize("method", METHODS)
def test_plain_sgd_is_the_same(method):
    common = [*METHODS[method], "optimizer.name=sgd", "optimizer.lr=0.05", "optimizer.vectors_lr_factor=3"]
    dense, lazy = Run(*TRAINED, *common), Run(*LAZY, *common)
    for number in range(8):
        dense(number)
        lazy(number)
        assert all(table.grad.is_sparse for table in lazy.tables)
        for a, b in zip(dense.problem.model.parameters(), lazy.problem.model.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=1e-11, atol=1e-14)
    assert torch.allclose(dense.step.task_weights, lazy.step.task_weights, rtol=1e-10)


def adam_rows(values, state, gradients, lr, betas=(0.9, 0.999), eps=1e-8):
    """Lazy Adam in plain Python: ``values`` rows of floats, ``gradients`` {row: floats}, ``state`` its memory."""
    state["count"] = state.get("count", 0) + 1
    for row, gradient in gradients.items():
        m, v = state.setdefault(row, ([0.0] * len(gradient), [0.0] * len(gradient)))
        for i, g in enumerate(gradient):
            m[i] = betas[0] * m[i] + (1 - betas[0]) * g
            v[i] = betas[1] * v[i] + (1 - betas[1]) * g * g
            m_hat, v_hat = m[i] / (1 - betas[0] ** state["count"]), v[i] / (1 - betas[1] ** state["count"])
            values[row][i] -= lr * m_hat / (v_hat**0.5 + eps)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_against_plain_python(method, name):
    run = Run(*LAZY, *METHODS[method], f"optimizer.name={name}", "optimizer.lr=0.05", "optimizer.vectors_lr_factor=2")
    expected = [table.tolist() for table in run.tables]
    states: list[dict] = [{} for _ in run.tables]
    absent, returned = set(), False
    for number in range(9):
        read = run(number)
        for at, (table, words) in enumerate(zip(run.tables, read, strict=True)):
            held, rows = table.grad.coalesce(), words[words != 0]
            assert held.indices()[0].equal(rows), "the rows of the batch, padding excepted"
            adam_rows(expected[at], states[at], dict(zip(rows.tolist(), held.values().tolist(), strict=True)), lr=0.1)
            assert torch.allclose(table, table.new_tensor(expected[at]), rtol=1e-10)
            assert not table[0].any()
            returned |= any((at, row) in absent for row in rows.tolist())
            absent |= {(at, row) for row in range(1, len(table)) if row in states[at] and row not in rows}
    assert returned, "some row came back after it had been away"


@pytest.mark.parametrize("method", ["metaweighting", "uniform"])
def test_gradients_and_other_parameters_are_those_of_the_dense_route(method):
    dense, lazy = Run(*TRAINED, *METHODS[method]), Run(*LAZY, *METHODS[method])
    dense(0)
    lazy(0)
    (a,), (b,) = dense.tables, lazy.tables
    assert torch.allclose(a.grad, b.grad.to_dense(), rtol=1e-11, atol=1e-15)
    assert all(
        torch.allclose(p, q, rtol=1e-9, atol=1e-12)
        for p, q in zip(dense.problem.model.parameters(), lazy.problem.model.parameters(), strict=True)
    ), "in the first step there are no moments that could decay"


def given(steps, make):
    """A table of five rows and a dense vector after these gradients, {row: value} per step, and the optimiser."""
    table = torch.arange(10.0, dtype=torch.float64).view(5, 2).requires_grad_()
    vector = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = make([{"params": [vector]}, {"params": [table], "fused": False}])
    for number, step in enumerate(steps):
        values = torch.tensor([[g, -2 * g] for g in step.values()], dtype=torch.float64)
        sparse = torch.sparse_coo_tensor([list(step)], values.view(-1, 2), table.shape, check_invariants=True)
        table.grad = sparse if isinstance(optimizer, LazyAdam | torch.optim.SparseAdam) else sparse.to_dense()
        vector.grad = None if isinstance(optimizer, torch.optim.SparseAdam) else torch.ones_like(vector) * number
        optimizer.step()
    return table, vector, optimizer


STEPS = [{1: 0.5, 3: -1.0}, {3: 2.0}, {3: 0.25, 4: -3.0}, {}, {1: -0.125, 2: 1.0}]


def test_lazy_adam_is_torchs_sparse_adam_but_for_the_place_of_epsilon():
    ours, _, _ = given(STEPS, lambda groups: LazyAdam(groups, lr=0.1, eps=1e-300, fused=True))
    theirs, _, _ = given(STEPS, lambda groups: torch.optim.SparseAdam(groups, lr=0.1, eps=1e-300))
    assert torch.allclose(ours, theirs, rtol=1e-12)


def test_lazy_adam_is_adam_for_rows_that_are_never_absent_and_for_dense_gradients():
    steps = [{row: (row + 1) * (-0.7) ** number for row in range(5)} for number in range(6)]
    (ours, vector, _), (theirs, other, _) = (
        given(steps, lambda g, c=c: c(g, lr=0.1)) for c in (LazyAdam, torch.optim.Adam)
    )
    assert torch.allclose(ours, theirs, rtol=1e-14)
    assert vector.equal(other)


def test_absent_rows_rest():
    table, _, optimizer = given(STEPS[:3], lambda groups: LazyAdam(groups, lr=0.1))
    before = {key: value.clone() for key, value in optimizer.state[table].items()} | {"table": table.detach().clone()}
    table.grad = torch.sparse_coo_tensor(
        [[3]], torch.ones(1, 2, dtype=torch.float64), table.shape, check_invariants=True
    )
    optimizer.step()
    for key in ("table", "exp_avg", "exp_avg_sq"):
        changed = (before[key] != (table if key == "table" else optimizer.state[table][key])).any(1)
        assert changed.tolist() == [False, False, False, True, False]
    assert table.grad.is_sparse, "the gradient is left as it was found"


def test_closure():
    table = torch.ones(3, 1, requires_grad=True)
    optimizer = LazyAdam([table], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.embedding(torch.tensor([1, 1]), table, sparse=True).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2
    assert table.flatten().tolist() == pytest.approx([1, 0.5, 1])


def test_combination_of_rows_is_coalesced():
    table, ids = torch.zeros(6, 2, requires_grad=True), torch.tensor([1, 4])
    for sparse in (frozenset(), frozenset([0])):
        rows = GradientRows([table], 2, sparse)
        rows.restrict(0, ids)
        rows.write(TaskGradients(range(2), {0: torch.arange(8.0).view(2, 2, 2)}))
        (combined,) = rows.combine(torch.tensor([1.0, 2.0], dtype=torch.float64))
        assert combined.is_sparse == bool(sparse)
        assert combined.to_dense()[ids].tolist() == [[8, 11], [14, 17]]
        assert combined.to_dense().sum() == 50
    assert combined.is_coalesced()
    torch.sparse_coo_tensor(
        combined.indices(), combined.values(), combined.shape, is_coalesced=True, check_invariants=True
    )


def test_a_group_of_the_optimiser_asks_for_it():
    """In anybody's own loop, with any optimiser that takes sparse gradients."""
    for sparse in (False, True):
        table = torch.ones(5, 2, requires_grad=True)
        optimizer = torch.optim.SGD([{"params": [table], "sparse": sparse}], lr=0.5)
        step = MultiTaskStep([table], optimizer, MetaWeighting(), 2)
        rows = TableRows(table, torch.tensor([1, 3]))
        losses = [TaskGroup(range(2), [rows], [], lambda copies, _: copies[0].square().sum((1, 2)))]
        step(losses, losses)
        assert table.grad.is_sparse == sparse
        assert table.tolist() == [[1, 1], [0, 0], [1, 1], [0, 0], [1, 1]]


class TableSized(TorchDispatchMode):
    """Collects the operations that make a new dense tensor with at least so many entries."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.entries, self.found = entries, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor) and not a.is_sparse}
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            dense = isinstance(made, torch.Tensor) and not made.is_sparse
            if dense and made.numel() >= self.entries and made.untyped_storage().data_ptr() not in known:
                self.found.append(str(function))
        return result


@pytest.mark.parametrize("method", ["metaweighting", "uniform"])
@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("vectors", ["lazy", "dense"])
def test_nothing_as_large_as_the_table_is_made(monkeypatch, method, name, vectors):
    from lossrag.tasks import SUITES, SuiteEntry

    entry, rows = SUITES["toy"], 100_000

    def load(options):
        suite = entry.load(options)
        object.__setattr__(suite, "vectors", torch.cat([suite.vectors, torch.ones(rows, 5)]))
        return suite

    monkeypatch.setitem(SUITES._entries, "toy", SuiteEntry(entry.config, load))
    run = Run(*TRAINED, f"optimizer.vectors={vectors}", *METHODS[method], f"optimizer.name={name}")
    run(0)  # makes the moments
    with TableSized(rows * 5) as mode:
        run(1)
    assert bool(mode.found) == (vectors == "dense"), mode.found


REFUSED = {
    "optimizer.weight_decay=0.1": "set optimizer.weight_decay=0,",
    "optimizer.momentum=0.9 optimizer.name=sgd": "set optimizer.momentum=0,",
    "weighting.inner=adam": "set weighting.inner=sgd,",
    "model.trainable_vectors=false": "set model=textcnn model.trainable_vectors=true,",
    "tasks=digits model=mlp": "set model=textcnn model.trainable_vectors=true,",
    "train.memory=low": "set train.memory=rows,",
    "model.sharing=none": "set model.sharing=hard,",
    "optimizer.vectors=lasy": "did you mean 'lazy'",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_refusals(overrides):
    kept = [key for key in LAZY if "mlp" not in overrides or key.startswith(("train", "optimizer"))]
    with pytest.raises(ConfigError) as caught:
        load_config([*kept, *overrides.split()])
    assert REFUSED[overrides] in str(caught.value)


def test_low_memory_is_no_matter_to_a_baseline():
    load_config([*LAZY, "train.memory=low", "weighting=uniform"])
