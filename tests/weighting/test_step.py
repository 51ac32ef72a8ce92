"""The step in a user's own loop: what it computes, refuses, remembers, and that it never reads the device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lossrag import ConfigError, DivergedError
from lossrag.weighting import MetaWeighting, MultiTaskStep, SingleTask, Uniform


def quadratic(weighting=None, lr=0.1, tasks=2):
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=lr), weighting or Uniform(), tasks)
    return theta, step, [lambda: (theta[0] - 1) ** 2, lambda: (theta[1] + 1) ** 2]


class TestUpdate:
    def test_uniform_is_the_mean_of_the_losses(self):
        theta, step, losses = quadratic()
        record = step(losses)
        # gradient of the mean: (1/2) (-2, 2)
        assert theta.tolist() == pytest.approx([0.1, -0.1])
        assert record.support_losses.tolist() == [1.0, 1.0]
        assert record.weights.tolist() == record.next_weights.tolist() == [1.0, 1.0]
        assert record.query_losses is record.hypergradient is record.lam is None

    def test_single_task_is_the_sum(self):
        theta, step, losses = quadratic(SingleTask())
        step(losses)
        assert theta.tolist() == pytest.approx([0.2, -0.2])

    def test_rows_and_one_backward_pass_update_alike(self):
        torch.manual_seed(0)
        trunk, heads = torch.nn.Linear(3, 4), torch.nn.ModuleList([torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)])
        inputs = torch.randn(5, 3)
        results = []
        for method in (Uniform(), MetaWeighting(alpha=1e-30)):
            model = copy.deepcopy(torch.nn.ModuleList([trunk, heads]))
            step = MultiTaskStep(model.parameters(), torch.optim.Adam(model.parameters(), lr=0.1), method, 2)
            losses = [lambda t=t, m=model: m[1][t](m[0](inputs)).square().mean() for t in range(2)]
            for _ in range(4):
                step(losses, losses if step.weighting.needs.hypergradient else None)
            results.append([p.detach() for p in model.parameters()])
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))

    def test_query_gradients_do_not_touch_the_parameters(self):
        theta, step, losses = quadratic(MetaWeighting())
        step(losses, [lambda: 100 * theta.sum(), lambda: 7 * theta.sum()])
        assert theta.tolist() == pytest.approx([0.1, -0.1])

    def test_a_parameter_that_no_task_touches_stays(self):
        theta, idle = torch.zeros(1, requires_grad=True), torch.ones(1, requires_grad=True)
        optimizer = torch.optim.Adam([theta, idle], lr=0.1)
        step = MultiTaskStep([theta, idle], optimizer, MetaWeighting(), 1)
        step([lambda: (theta - 1).square().sum()], [lambda: (theta - 2).square().sum()])
        assert idle.item() == 1.0
        assert idle.grad is None

    def test_a_task_that_stops_touching_a_parameter_leaves_no_old_gradient_behind(self):
        theta, other = (torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
        optimizer = torch.optim.SGD([theta, other], lr=0.1)
        step = MultiTaskStep([theta, other], optimizer, MetaWeighting(alpha=1e-30), 2)
        moving = [
            lambda: (theta[0] - 1) ** 2,
            lambda: (theta[1] + 1) ** 2 if step.count == 1 else (other - 1).square().sum(),
        ]
        step(moving, moving)
        assert theta[1] != 0
        after_one = theta.detach().clone()
        step(moving, moving)
        assert theta[0] != after_one[0]
        assert theta[1] == after_one[1]

    def test_one_task(self):
        theta = torch.zeros(1, requires_grad=True)
        step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.5), MetaWeighting(parameters="shared"), 1)
        record = step([lambda: (theta - 1).square().sum()], [lambda: (theta - 1).square().sum()])
        assert record.lam.tolist() == [1.0]
        assert record.hypergradient.shape == (1, 1)
        assert torch.isfinite(record.next_weights).all()


class TestDevices:
    def test_no_read_of_the_device(self):
        """Meta tensors hold no data: any .item() or branch on a value of the step would raise."""
        theta = torch.zeros(3, device="meta", requires_grad=True)
        heads = [torch.zeros(3, device="meta", requires_grad=True) for _ in range(4)]
        parameters = [theta, *heads]
        step = MultiTaskStep(parameters, torch.optim.SGD(parameters, lr=0.1), MetaWeighting(), 4)
        losses = [lambda head=head: (theta * head - 1).square().sum() for head in heads]
        for _ in range(2):
            record = step(losses, losses)
        assert record.hypergradient.device.type == "meta"
        assert record.next_weights.shape == (4,)

    @pytest.mark.parametrize("constraint", ["none", "nonnegative", "simplex"])
    def test_no_read_of_the_device_in_the_outer_step(self, constraint):
        method = MetaWeighting(constraint=constraint)
        with FakeTensorMode():
            D = torch.zeros(4, 4, device="cuda")
            state, outer = method.learn(method.init(4, D.device), D)
        assert state["weights"].device.type == outer.gap.device.type == "cuda"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_any_dtype(self, dtype):
        theta = torch.zeros(2, dtype=dtype, requires_grad=True)
        step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.1), MetaWeighting(scale="unit"), 2)
        losses = [lambda: (theta[0] - 1) ** 2, lambda: (theta[1] + 1) ** 2]
        record = step(losses, losses)
        assert theta.dtype == record.hypergradient.dtype == dtype
        assert torch.isfinite(record.next_weights).all()


class TestMemory:
    def test_state_round_trip_continues_alike(self):
        theta, step, losses = quadratic(MetaWeighting(scale="unit"))
        step(losses, losses)
        saved, values = {k: v.clone() for k, v in step.state_dict().items()}, theta.detach().clone()
        expected = step(losses, losses).next_weights
        other_theta, other, other_losses = quadratic(MetaWeighting(scale="unit"))
        with torch.no_grad():
            other_theta.copy_(values)
        other.load_state_dict(saved)
        record = other(other_losses, other_losses)
        assert record.step == 2
        assert torch.equal(record.next_weights, expected)

    def test_foreign_state(self):
        _, step, _ = quadratic()
        with pytest.raises(ConfigError, match="this is no state of a step"):
            step.load_state_dict({"weights": torch.ones(3), "count": torch.tensor(1)})
        _, other, _ = quadratic(MetaWeighting(alpha=0.2))
        with pytest.raises(ConfigError, match="the method is 'metaweighting' there, 'uniform' here"):
            step.load_state_dict(other.state_dict())
        _, mine, _ = quadratic(MetaWeighting(alpha=0.1))
        with pytest.raises(ConfigError, match=r"alpha is 0.2 there, 0.1 here"):
            mine.load_state_dict(other.state_dict())

    def test_rows_are_reused(self):
        _, step, losses = quadratic(MetaWeighting())
        step(losses, losses)
        held = step.nbytes
        step(losses, losses)
        assert step.nbytes == held == 2 * 2 * 8


class TestMistakes:
    def test_query_missing_or_needless(self):
        _, step, losses = quadratic(MetaWeighting())
        with pytest.raises(ConfigError, match="needs query losses"):
            step(losses)
        _, step, losses = quadratic()
        with pytest.raises(ConfigError, match="takes no query losses"):
            step(losses, losses)

    @pytest.mark.parametrize("weighting", [Uniform(), MetaWeighting()])
    def test_wrong_number_of_losses(self, weighting):
        _, step, losses = quadratic(weighting)
        query = losses if weighting.needs.hypergradient else None
        with pytest.raises(ConfigError, match=r"expected 2 .*, one per task, got 1"):
            step(losses[:1], query)
        with pytest.raises(ConfigError, match="expected 2 task losses"):
            step(lambda: [losses[0]()], query)

    def test_stacked_losses(self):
        _, step, losses = quadratic()
        with pytest.raises(ConfigError, match="without stacking them"):
            step(lambda: torch.stack([loss() for loss in losses]))

    def test_loss_that_is_no_scalar(self):
        theta, step, losses = quadratic()
        with pytest.raises(ConfigError, match="task '1' must be a scalar"):
            step([losses[0], lambda: theta**2])

    def test_loss_without_gradient(self):
        _, step, losses = quadratic()
        with pytest.raises(ConfigError, match="does not depend on any trained parameter"):
            step([losses[0], lambda: torch.tensor(1.0)])

    def test_sparse_gradients(self):
        table = torch.nn.Embedding(4, 2, sparse=True)
        step = MultiTaskStep(table.parameters(), torch.optim.SGD(table.parameters(), lr=0.1), MetaWeighting(), 1)
        losses = [lambda: table(torch.tensor([1])).sum()]
        with pytest.raises(ConfigError, match="sparse=False"):
            step(losses, losses)

    def test_nothing_to_train(self):
        frozen = torch.zeros(1)
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        with pytest.raises(ConfigError, match="nothing to train"):
            MultiTaskStep([frozen], optimizer, Uniform(), 1)
        with pytest.raises(ConfigError, match="not in the optimiser"):
            MultiTaskStep([torch.zeros(1, requires_grad=True)], optimizer, Uniform(), 1)
        with pytest.raises(ConfigError, match="at least one task"):
            MultiTaskStep(optimizer.param_groups[0]["params"], optimizer, Uniform(), 0)

    @pytest.mark.parametrize("optimizer", ["SGD", "RMSprop", "amsgrad"])
    def test_adam_route_needs_adam(self, optimizer):
        theta = torch.zeros(1, requires_grad=True)
        made = (
            torch.optim.Adam([theta], amsgrad=True)
            if optimizer == "amsgrad"
            else getattr(torch.optim, optimizer)([theta], lr=0.1)
        )
        with pytest.raises(ConfigError, match=r"use torch\.optim\.Adam or AdamW without amsgrad"):
            MultiTaskStep([theta], made, MetaWeighting(inner="adam"), 1)


class TestDivergence:
    def test_a_nan_names_task_and_step(self):
        theta = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([theta], lr=0.1)
        step = MultiTaskStep([theta], optimizer, Uniform(), ["calm", "wild"])
        with pytest.raises(DivergedError, match=r"Step 1: the support loss is not finite for wild \(nan\)"):
            step([theta.sum, lambda: theta.sum() * float("nan")])
        assert (theta.item(), step.count) == (0, 0)

    def test_query_loss_is_checked(self):
        theta, step, losses = quadratic(MetaWeighting())
        with pytest.raises(DivergedError, match="query loss is not finite for 1"):
            step(losses, [losses[0], lambda: theta.sum() * float("inf")])
        assert step.task_weights.tolist() == [1, 1]
