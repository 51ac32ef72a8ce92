"""Theorems 1 to 3: bounds worked out by hand, common descent on matrices made by hand, classes of known complexity."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from torch import nn

from lossrag import ConfigError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.record.descent import descent_checks, descent_summary
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.theory.bounds import query_bound, train_slack
from lossrag.experiments.theory.measure import bounded_losses, estimate_complexity
from lossrag.experiments.theory.rademacher import correlation, draw_signs, fit_signs, sign_loss
from lossrag.experiments.theory.report import theory_report, theory_sentences
from lossrag.tasks import SUITES
from lossrag.weighting import MetaWeighting

SMALL = ["experiment=digits", "train.batch_size=256"]


class TestBounds:
    def test_theorem_3(self):
        assert query_bound(50, 2 / math.e) == pytest.approx(0.1)  # log(2 / delta) = 1, so sqrt(1 / 100)

    def test_theorem_2(self):
        delta = 4 / math.e**2  # log(4 / delta) = 2, so 4 sqrt(4 / (T n)); T n = 400
        assert train_slack([100] * 4, delta) == pytest.approx(0.4)

    def test_theorem_2_for_tasks_of_unequal_size(self):
        """A sample moves the mean by c_i = 1 / (T n_t); McDiarmid's sum of c_i^2 is 1 / (T n) for equal n_t."""
        sizes = [100, 25]
        squares = sum(n * (1 / (2 * n)) ** 2 for n in sizes)
        assert train_slack(sizes, 0.1) == pytest.approx(4 * math.sqrt(2 * math.log(40) * squares))

    def test_rows_that_tasks_share_count_once(self):
        assert train_slack([100, 100], 0.1, shared_input=True) == pytest.approx(train_slack([100], 0.1))

    @pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
    def test_delta(self, delta):
        with pytest.raises(ConfigError, match="delta"):
            query_bound(10, delta)

    def test_no_samples(self):
        with pytest.raises(ConfigError, match="sample"):
            train_slack([10, 0], 0.1)


class TestTheorem1:
    def direction(self, D):
        method = MetaWeighting(scale="unit")
        _, outer = method.learn(method.init(len(D), torch.device("cpu")), D)
        return outer.direction

    @pytest.mark.parametrize("seed", range(5))
    def test_metaweightings_direction(self, seed):
        """Rows in a half space: the shortest vector of their hull is not 0, and descends for all of them."""
        D = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)) - torch.tensor([3.0, 0, 0, 0])
        direction = self.direction(D)
        assert descent_checks(D, direction).tolist() == [1, 1]
        assert descent_checks(D, -direction).tolist() == [0, 0]

    def test_stationary(self):
        """Opposite rows: d_c = 0 is the shortest, and lowers nothing."""
        D = torch.tensor([[1.0, -2.0], [-1.0, 2.0]])
        assert descent_checks(D, self.direction(D)).tolist() == [1, 0]

    def test_a_descent_direction_that_is_not_the_shortest(self):
        D = torch.tensor([[1.0, 0.0], [0.5, 5.0]])
        assert descent_checks(D, D.mean(dim=0)).tolist() == [0, 1]

    def test_a_mean_that_sacrifices_a_task(self):
        D = torch.tensor([[1.0, 0.0], [-5.0, 1.0]])
        assert descent_checks(D, D.mean(dim=0)).tolist() == [0, 0]
        assert descent_checks(D, self.direction(D)).tolist() == [1, 1]

    def test_the_scale_of_the_rows_does_not_matter(self):
        D = torch.tensor([[1.0, 0.0], [0.5, 5.0]])
        for factor in (1e-6, 1e6):
            assert descent_checks(factor * D, factor * D.mean(dim=0)).tolist() == [0, 1]

    def test_in_a_run(self, finished):
        points = read_points(finished / "metrics.jsonl")
        summary = json.loads((finished / "summary.json").read_text())
        epochs = [point for point in points if "theory/common_descent" in point]
        assert [point["epoch"] for point in epochs] == [1, 2]
        found = summary["theorem_1"]
        assert found["steps"] == max(point["step"] for point in points)
        assert found["min_norm"] == 1
        assert 0 <= found["common_descent"] <= 1
        assert found == descent_summary(points)["theorem_1"]

    def test_every_step_counts_whether_logged_or_not(self, finished, train):
        sparse = train("log.every_steps=4", "log.tensorboard=false")
        one, other = (json.loads((path / "summary.json").read_text())["theorem_1"] for path in (finished, sparse))
        assert one == other

    def test_a_run_without_an_outer_problem(self, train):
        summary = json.loads((train("weighting=uniform", "train.epochs=1") / "summary.json").read_text())
        assert "theorem_1" not in summary


class TestComplexity:
    def test_signs_are_fair_and_reproducible(self):
        first, second = draw_signs([5000, 5000], 0), draw_signs([5000, 5000], 0)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not torch.equal(first[0], first[1])
        assert abs(float(torch.cat(first).mean())) < 0.03

    def test_a_single_model_has_none(self):
        signs = draw_signs([4000, 4000], 1)
        constant = [torch.full((4000,), 0.7)] * 2
        assert abs(fit_signs(signs, lambda: constant, lambda epoch: None, 3)) < 0.02

    def test_losses_that_follow_any_signs_have_a_half(self):
        signs = draw_signs([4000, 1000], 2)
        follows = [(1 + each) / 2 for each in signs]
        assert correlation(signs, follows) == pytest.approx(0.5, abs=0.02)

    def test_tasks_count_alike(self):
        signs = [torch.ones(10), -torch.ones(1000)]
        losses = [torch.ones(10), torch.ones(1000)]
        assert correlation(signs, losses) == 0

    def test_the_best_epoch_counts(self):
        signs = [torch.ones(4)]
        values = iter([0.1, 0.6, 0.3])
        assert fit_signs(signs, lambda: [torch.full((4,), next(values))], lambda epoch: None, 2) == pytest.approx(0.6)

    def test_a_table_fits_any_signs(self):
        """A free row of logits for every sample, trained: near 1/2. The same logits for all: near 0."""
        (signs,), targets = draw_signs([400], 3), torch.arange(400) % 3
        reached = []
        for rows in (400, 1):
            table = nn.Parameter(torch.zeros(rows, 3))
            optimizer = torch.optim.Adam([table], lr=0.5)

            def losses(table=table):
                return [1 - torch.softmax(table.detach().expand(400, 3), dim=1)[range(400), targets]]

            def epoch(number, table=table, optimizer=optimizer):
                for _ in range(20):
                    optimizer.zero_grad()
                    sign_loss(table.expand(400, 3), targets, signs).backward()
                    optimizer.step()

            reached.append(fit_signs([signs], losses, epoch, 4))
        assert reached[0] == pytest.approx(float((signs > 0).float().mean()), abs=0.02)
        assert 0.45 < reached[0] < 0.55
        assert abs(reached[1]) < 0.06

    def test_sign_loss(self):
        logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        p = torch.softmax(logits[0], dim=0)
        found = sign_loss(logits, torch.tensor([0, 0]), torch.tensor([-1.0, 1.0]))
        assert float(found) == pytest.approx(-(float(p[0].log()) + float((1 - p[0]).log())) / 2, rel=1e-5)

    def test_more_epochs_reach_more(self):
        """The run's own class, in which half the sign pattern is easy: never less than before, and above chance."""
        config, _ = load_config([*SMALL, "optimizer.lr=0.01"])
        suite = SUITES["digits"].load(config.tasks.options)
        device = torch.device("cpu")
        few, many = (estimate_complexity(config, suite, device, "zero_one", 1, epochs)[0] for epochs in (1, 12))
        assert few <= many < 0.55
        assert many > 0.05  # the mean of the signs, which constants reach, is about 0.01


LOSSES = {"support": [0.1, 0.2], "query": [0.2, 0.4], "test": [0.3, 0.5]}
SIZES = {"support": [1000, 1000], "query": [50, 50], "test": [10, 10]}


class TestReport:
    def report(self, complexity=0.1, query_seen=False, **losses):
        parts = (["a", "b"], {**LOSSES, **losses}, SIZES, (complexity, complexity))
        return {"loss": "one_minus_p", **theory_report(*parts, 2 / math.e, False, query_seen)}

    def test_numbers(self):
        report = self.report()
        assert report["theorem_3"] == {"applies": True, "gap": pytest.approx(0.1), "bound": pytest.approx(0.1)}
        two = report["theorem_2"]
        assert two["gap"] == pytest.approx(0.25)
        slack = 4 * math.sqrt(2 * (1 + math.log(2)) / 2000)
        assert two["slack"] == pytest.approx(slack)
        assert two["bound_from_below"] == pytest.approx(0.2 + slack)
        assert report["tasks"]["b"]["test_minus_query"] == pytest.approx(0.1)

    def test_sentences(self):
        assert "more than its bound of 0.1000" in theory_sentences(self.report(test=[0.9, 0.9]))[1]
        assert "within its bound" in theory_sentences(self.report(test=[0.2, 0.4]))[1]
        assert "does not apply" in theory_sentences(self.report(query_seen=True))[1]
        assert "says nothing about a loss in [0, 1]" in theory_sentences(self.report(complexity=0.5))[0]
        assert "says nothing" not in theory_sentences(self.report())[0]


class TestCommand:
    def test_on_a_run(self, lossrag, finished, tmp_path):
        path = shutil.copytree(finished, tmp_path / "run")
        result = lossrag("theory", f"run={path}", "loss=zero_one", "draws=1", "epochs=1")
        assert result.code == 0, result
        report = json.loads((path / "theory.json").read_text())
        summary = json.loads((path / "summary.json").read_text())
        assert list(report["tasks"]) == ["digit", "parity", "loops"]
        for task, row in report["tasks"].items():
            assert row["test"] == pytest.approx(1 - summary["test_accuracy"][task])  # the model is the chosen one
        assert report["theorem_3"]["applies"]
        assert report["theorem_1"] == summary["theorem_1"]
        assert "theorem 1: d_c lowers" in result.out
        assert "left out: centre" in result.out

    def test_losses_are_in_the_order_of_the_samples(self, toy):
        """Evaluation sorts by length; signs do not."""
        from lossrag.experiments.run.build import build_problem, build_suite

        config, _ = load_config(["~experiment", "tasks=toy", "weighting=uniform", "train.query_for_baselines=support"])
        suite = build_suite(config)
        problem = build_problem(config, suite, torch.device("cpu"))
        first, _ = bounded_losses(problem, "support", "one_minus_p")
        examples = suite.splits["support"][0]
        problem.model.eval()
        for i in (0, 5, 11):
            p = torch.softmax(problem.model(examples.inputs.gather(torch.tensor([i])), 0)[0].detach(), dim=0)
            assert float(first[i]) == pytest.approx(1 - float(p[examples.targets[i]]), abs=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["delta=0.1"], "needs a finished run"),
            (["run=x", "loss=cross_entropy"], "loss='cross_entropy' is unknown"),
            (["run=x", "delta=1"], "delta must be in (0, 1)"),
            (["run=x", "draws=0"], "draws must be 1 or more"),
            (["run=x"], "is no run directory"),
        ],
    )
    def test_mistakes(self, lossrag, arguments, said):
        assert said in lossrag("theory", *arguments).error

    def test_unfinished(self, lossrag, finished, tmp_path):
        path = shutil.copytree(finished, tmp_path / "run")
        (path / "summary.json").unlink()
        assert "is not finished" in lossrag("theory", f"run={path}").error

    def test_help(self, lossrag):
        assert "random signs" in lossrag("theory").out
