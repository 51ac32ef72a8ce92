"""The composition's arithmetic by hand, and what a composer decides in situations whose right answer is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag import ConfigError
from lossrag.lossbank import LOSSES, Composer, ComposerConfig, Composition, Lens, TaskSpec
from lossrag.lossbank.composing.composition import LARGEST_SCALE

REFERENCE = "cross_entropy"


def ones(count):
    return torch.ones(count, dtype=torch.float64)


def start(active):
    return Composition.start(torch.tensor([active]))


class TestComposition:
    def test_equal_shares_to_begin_with(self):
        assert start([True, False, True]).shares.tolist() == [[0.5, 0.0, 0.5]]

    def test_a_price_moves_the_scores_by_what_it_is_above_the_mean(self):
        state = start([True, True, False])
        prices = state.centred(0, [0, 1, 2], torch.tensor([0.4, 0.1, 0.1]).double())
        state = state.observe_prices(0, [0, 1, 2], prices, 2.0, 0.0)
        # .2, -.1 and -.1, in units of their root mean square
        unit = (0.06 / 3) ** 0.5
        assert state.scores[0].tolist() == pytest.approx([0.4 / unit, -0.2 / unit, -0.2 / unit])
        expected = torch.softmax(torch.tensor([0.4 / unit, -0.2 / unit]), 0)
        assert state.shares[0, :2].tolist() == pytest.approx(expected.tolist())
        assert state.shares[0, 2] == 0

    def test_decay_forgets(self):
        state = start([True, True])
        for _ in range(200):
            state = state.observe_prices(0, [0, 1], torch.tensor([0.2, -0.2]).double(), 0.1, 0.1)
        # the fixed point of a <- 0.9 a + 0.1: prices are of typical size
        assert state.scores[0].tolist() == pytest.approx([1.0, -1.0], abs=1e-6)

    def test_the_unit_of_prices_does_not_matter(self):
        few, many = start([True, True, True]), start([True, True, True])
        for prices in ([0.3, -0.1, -0.2], [0.1, 0.1, -0.2]):
            few = few.observe_prices(0, [0, 1, 2], torch.tensor(prices).double(), 0.15, 0.1)
            many = many.observe_prices(0, [0, 1, 2], 20 * torch.tensor(prices).double(), 0.15, 0.1)
        assert torch.allclose(few.scores, many.scores)

    def test_losses_enter_at_the_size_of_the_reference(self):
        state = start([True, True]).observe_sizes(
            0, [0, 1], torch.tensor([0.5, 0.1]).double(), torch.tensor(0.5), ones(2)
        )
        assert state.coefficients([0])[0].tolist() == pytest.approx([0.5, 0.5 * 5])

    def test_a_loss_without_gradient_is_not_blown_up(self):
        state = start([True, True]).observe_sizes(
            0, [0, 1], torch.tensor([0.5, 1e-9]).double(), torch.tensor(0.5), ones(2)
        )
        assert state.coefficients([0])[0, 1] == 0.5 * LARGEST_SCALE

    def test_uncertainty_by_hand(self):
        state = start([True, True])
        assert state.uncertainty.tolist() == [[1.0, 1.0]]
        for price in (0.2, -0.2):
            state = state.observe_prices(0, [0, 1], torch.tensor([price, -price]).double(), 0.0, 0.0)
        # mean 0.9 * 0.2 - 0.1 * 0.2 = 0.16, mean square 0.04: variance 0.04 - 0.0256, over 2 prices
        assert float(state.uncertainty[0, 0]) == pytest.approx((0.0144 / 2) ** 0.5)

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.floats(-1, 1), min_size=4, max_size=4), st.floats(-0.5, 0.5))
    def test_what_all_prices_have_in_common_changes_nothing(self, prices, common):
        base = torch.tensor(prices, dtype=torch.float64)
        state, every = start([True] * 4), [0, 1, 2, 3]
        assert torch.allclose(state.centred(0, every, base), state.centred(0, every, base + common), atol=1e-12)
        moved = state.observe_prices(0, every, state.centred(0, every, base), 1.0, 0.0)
        assert float(moved.shares.sum()) == pytest.approx(1)

    def test_a_direction_of_next_to_nothing_is_not_followed(self):
        state = start([True] * 3).observe_sizes(
            0, [0, 1, 2], torch.tensor([0.5, 0.4, 0.01]).double(), torch.tensor(0.5), ones(3)
        )
        assert state.centred(0, [0, 1, 2], torch.tensor([0.1, 0.3, 0.9]).double()).tolist() == pytest.approx(
            [-0.1, 0.1, 0]
        )

    def test_a_loss_that_acts_on_few_samples_is_not_followed(self):
        coverage = torch.tensor([1.0, 0.8, 0.2]).double()
        state = start([True] * 3).observe_sizes(0, [0, 1, 2], 0.5 * ones(3), torch.tensor(0.5), coverage)
        prices = torch.tensor([0.1, 0.3, 0.9]).double()
        assert state.centred(0, [0, 1, 2], prices).tolist() == pytest.approx([-0.1, 0.1, 0])


def lens(direction, rows=32):
    """A task whose logits the outer objective wants to move along ``direction`` (rows, 3)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, 3, generator=generator)
    features = torch.randn(rows, 4, generator=generator)
    targets = torch.randint(3, (rows,), generator=generator)
    counts = torch.tensor([10.0, 5.0, 2.0])
    tangent = direction(logits, targets)
    return Lens(logits, tangent, features, torch.zeros_like(features), targets, counts, torch.tensor(1.0))


def gradient_of(name):
    def direction(logits, targets):
        z = logits.clone().requires_grad_()
        return torch.autograd.grad(LOSSES[name](z, targets, class_counts=torch.tensor([10.0, 5.0, 2.0])).mean(), z)[0]

    return direction


def composer(**options):
    config = ComposerConfig(relational=False, horizon=1, **options)
    return Composer([TaskSpec("only", "classification", REFERENCE, torch.tensor([10.0, 5.0, 2.0]))], config, None)


class TestComposer:
    @pytest.mark.parametrize("name", ["mae", "brier", "logit_adjusted_1"])
    def test_the_loss_whose_gradient_is_wanted_wins(self, name):
        learner = composer(
            policy="gradient", candidates=("cross_entropy", "mae", "brier", "logit_adjusted_1"), review=5, decay=0.0
        )
        for step in range(1, 60):
            learner.price([lens(gradient_of(name))], [torch.zeros(1)], step)
        shares = learner.composition.shares[0]
        assert learner.names[int(shares.argmax())] == name
        assert float(shares.max()) > 0.9
        assert any(event.what == "off" and "mixture" in event.reason for event in learner.events)

    def test_of_twins_one_is_retrieved(self):
        """mae and one_minus_p have the same shape: both at once would bring nothing, and take a place."""
        names = ("cross_entropy", "mae", "one_minus_p", "brier", "focal_2", "multiclass_hinge")

        class Knows:
            def remember(self, *_):
                pass

            def predict(self, task, context, asked):
                mean = {"mae": 0.5, "one_minus_p": 0.5, "brier": 0.4}
                return torch.tensor([mean.get(name, -0.5) for name in asked]).double(), torch.zeros(len(asked)).double()

        config = ComposerConfig(policy="knn", horizon=1, candidates=names, k=3, explore=1, review=3)
        learner = Composer([TaskSpec("only", "classification", REFERENCE)], config, Knows())
        for step in range(1, 4):
            learner.price([lens(gradient_of("mae"))], [torch.zeros(1)], step)
        retrieved = {event.loss for event in learner.events if event.what in ("retrieved", "explored")}
        active = {loss.name for loss in learner.mixtures()[0].losses}
        assert len({"mae", "one_minus_p"} & active) == 1
        assert "brier" in active or "brier" in retrieved

    def test_reviews_come_early_at_first(self):
        learner = composer(policy="gradient", review=20)
        found = []
        for step in range(1, 42):
            before = learner.reviews
            learner.price([lens(gradient_of("mae"))], [torch.zeros(1)], step)
            found += [step] * (learner.reviews - before)
        assert found == [4, 8, 16, 20, 40]

    def test_priors_are_corrected_where_they_are_uneven(self):
        def offered(counts, **options):
            spec = [TaskSpec("only", "classification", REFERENCE, torch.tensor(counts))]
            learner = Composer(spec, ComposerConfig(policy="gradient", horizon=1, relational=False, **options), None)
            return {loss.name for loss in learner.mixtures()[0].losses}

        assert "logit_adjusted_1" in offered([10.0, 5.0, 2.0])
        even = offered([10.0, 9.0, 8.0])
        assert {"logit_adjusted_1", "class_balanced_ce_0.99"} & even == set()
        assert {"cross_entropy", "mae", "multiclass_hinge"} <= even
        assert "logit_adjusted_1" in offered([10.0, 9.0, 8.0], candidates=("cross_entropy", "logit_adjusted_1"))

    def test_uniform_learns_nothing(self):
        learner = composer(policy="uniform", candidates=("cross_entropy", "mae"))
        for step in range(1, 6):
            learner.price([lens(gradient_of("mae"))], [torch.zeros(1)], step)
        assert learner.composition.shares.tolist() == [[0.5, 0.5]]

    def test_random_draws_by_the_seed(self):
        spec = [TaskSpec("only", "classification", REFERENCE)]
        chosen = [Composer(spec, ComposerConfig(policy="random"), None, seed).composition.active for seed in (0, 0, 1)]
        assert torch.equal(chosen[0], chosen[1])
        assert not torch.equal(chosen[0], chosen[2])
        assert int(chosen[0].sum()) == 8

    def test_k_larger_than_the_library_takes_all(self):
        learner = composer(policy="random", candidates=("cross_entropy", "mae"), k=50)
        assert int(learner.composition.active.sum()) == 2

    def test_state_round_trip(self):
        first, second = composer(policy="gradient", review=2), composer(policy="gradient", review=2)
        for step in range(1, 4):
            first.price([lens(gradient_of("mae"))], [torch.zeros(1)], step)
        second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
        for each in (first, second):
            each.price([lens(gradient_of("mae"))], [torch.zeros(1)], 4)
        assert torch.equal(first.composition.scores, second.composition.scores)
        assert [m.losses for m in first.mixtures()] == [m.losses for m in second.mixtures()]
        with pytest.raises(ConfigError, match="another library"):
            composer(policy="gradient", candidates=("mae",)).load_state_dict(first.state_dict())

    def test_mistakes(self):
        with pytest.raises(ConfigError, match="needs a bank"):
            composer(policy="knn")
        with pytest.raises(ConfigError, match="is for regression, not classification"):
            Composer([TaskSpec("only", "classification", "huber")], ComposerConfig(policy="uniform"), None)
        with pytest.raises(ConfigError, match="did you mean 'cross_entropy'"):
            composer(policy="gradient", candidates=("cross_entropi",))
