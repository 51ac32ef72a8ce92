"""Validation: every row by a plain loop, nothing of a source in its answers, and hidden losses."""

import itertools
import math

import numpy as np
import pytest

from lossrag.errors import OptionError
from lossrag.lossbank import LOSSES
from lossrag.lossbank.experience.bank import LossBank, Retrieval
from lossrag.lossbank.experience.hidden import TWIN, Found, HiddenTrial, found_by_family, hidden_losses
from lossrag.lossbank.experience.questions import Question
from lossrag.lossbank.experience.trials import Experience
from lossrag.lossbank.experience.validation import (
    HINDSIGHT,
    NEAREST,
    ONE,
    RANDOM,
    RETRIEVED,
    TOLD,
    Estimate,
    ValidationOptions,
    best_of_random,
    validate,
)
from lossrag.lossbank.shape.geometry import geometry_vectors
from tests.lossbank.experiences import FOUR, SIZE, record, world

FEW = Retrieval(neighbours=4, trainings=1)


def gains_of(known: Experience) -> dict[int, dict[str, float]]:
    """By case the gains of its losses."""
    table: dict[int, dict[str, float]] = {}
    for n, loss, gain in zip(known.outcome_case, known.outcome_loss, known.gain, strict=True):
        table.setdefault(int(n), {})[known.names["loss"][loss]] = float(gain)
    return table


def chosen(own: dict[str, float], expected: dict[str, float]) -> float:
    best = max(sorted(own), key=lambda name: expected.get(name, 0.0))
    return own[best] if expected.get(best, 0.0) > 0 else 0.0


def means(table, cases) -> dict[str, float]:
    """Mean gains over these cases, with one more case of each loss that gained nothing."""
    found: dict[str, list[float]] = {name: [] for name in FOUR}
    for n in cases:
        for name, gain in table[n].items():
            found[name].append(gain)
    return {name: sum(values) / (1 + len(values)) for name, values in found.items()}


@pytest.mark.parametrize("bank", ["all", "within", "without"])
def test_rows_are_those_of_a_plain_loop(bank):
    known = world()
    options = ValidationOptions(at=0.06, k=2, bank=bank, retrieval=FEW)
    result = validate(known, options)
    assert result.cases.tolist() == list(range(36))
    table = gains_of(known)
    sources, encoders, troubles = (known.texts(name) for name in ("source", "encoder", "trouble"))
    for place, n in enumerate(range(36)):
        own = table[n]
        other = [
            m
            for m in range(36)
            if sources[m] != sources[n]
            and {"all": True, "within": encoders[m] == encoders[n], "without": encoders[m] != encoders[n]}[bank]
        ]
        at = np.flatnonzero(known.moment_case == n)[1]
        assert known.progress[at] == pytest.approx(0.05)
        part = LossBank(known.where(np.isin(np.arange(36), other)), retrieval=FEW)
        answer = part.ask(Question(known.contexts[at], 0.05, encoders[n], "classification", sorted(own)))
        mean = dict(zip(answer.losses, answer.mean.tolist(), strict=True))
        error = dict(zip(answer.losses, answer.error.tolist(), strict=True))
        same = [m for m in other if encoders[m] == encoders[n]] or other
        here = [m for m in range(36) if (sources[m], encoders[m]) == (sources[n], encoders[n])]
        alike = [m for m in other if troubles[m] == troubles[n]]
        alike = [m for m in alike if encoders[m] == encoders[n]] or alike
        best = max(mean, key=mean.get)
        k = min(2, max(len(own) // 2, 1))
        expected = {
            NEAREST: chosen(own, mean),
            "nearest, if sure by 1 errors": own[best] if mean[best] > error[best] else 0.0,
            "lower bound, 2 errors": chosen(own, {name: mean[name] - 2 * error[name] for name in own}),
            ONE: chosen(own, means(table, same)),
            HINDSIGHT: chosen(own, means(table, here)),
            TOLD: chosen(own, means(table, alike)),
            RETRIEVED: max(own[name] for name in sorted(own, key=lambda name: -mean[name])[:k]),
            RANDOM: np.mean([max(some) for some in itertools.combinations(own.values(), k)]),
        }
        assert {row: result.gains[row][place] for row in expected} == pytest.approx(expected, abs=1e-6)


def test_nothing_of_a_source_is_in_its_answers():
    known = world()
    before = validate(known, ValidationOptions(retrieval=FEW))
    lying = known.where(np.ones(36, np.bool_))
    own = known.texts("source")[known.outcome_case] == "source 1"
    lying.gain[own] *= -3
    after = validate(lying, ValidationOptions(retrieval=FEW))
    asked = before.sources == "source 1"
    for row in (NEAREST, ONE, TOLD):
        changed = before.gains[row][asked] * -3
        assert after.gains[row][asked] == pytest.approx(changed, abs=1e-6)


def test_groups_and_differences():
    result = validate(world(), ValidationOptions(retrieval=FEW))
    noisy = result.troubles == "symmetric"
    values = result.gains[NEAREST][noisy]
    row = result.rows(noisy)[NEAREST]
    assert (row.mean, row.cases) == (pytest.approx(values.mean()), 12)
    assert row.half == pytest.approx(1.96 * values.std(ddof=1) / math.sqrt(12))
    apart = (result.gains[NEAREST] - result.gains[TOLD])[result.encoders == "mlp"]
    assert result.differences(result.encoders == "mlp")[NEAREST, TOLD].mean == pytest.approx(apart.mean())
    assert result.rows(np.zeros(36, np.bool_)) == {}
    assert result.differences(np.zeros(36, np.bool_)) == {}
    assert result.harmed(points=-1.0) == 1.0
    assert math.isnan(Estimate.of(np.ones(1)).half)


def test_cases_that_nobody_can_answer_about_are_left_out():
    one = world().without(["source 0", "source 1"])
    assert len(validate(one).cases) == 0
    assert math.isnan(validate(one).harmed())
    assert len(validate(world(), ValidationOptions(target_kind="regression")).cases) == 0
    assert len(validate(Experience()).cases) == 0
    single = world()
    alone = single.where((single.texts("encoder") == "mlp") | (single.texts("source") == "source 0"))
    result = validate(alone, ValidationOptions(bank="within"))
    assert set(result.encoders.tolist()) == {"mlp"}


def test_a_loss_that_is_not_registered_is_no_choice():
    rng = np.random.default_rng(0)
    records = [
        record(
            {"mae": 0.01, "somebody_s_own": 0.5},
            {0.05: rng.normal(size=SIZE).astype(np.float32)},
            source=source,
            seed=n,
        )
        for n, source in enumerate("abab")
    ]
    result = validate(Experience.of(records))
    assert result.gains[HINDSIGHT] == pytest.approx([0.01] * 4)


@pytest.mark.parametrize(("n", "k"), [(5, 1), (5, 3), (5, 5), (1, 1)])
def test_best_of_random_is_the_mean_over_all_draws(n, k):
    gains = np.random.default_rng(n).normal(size=n)
    draws = [max(some) for some in itertools.combinations(gains, k)]
    assert best_of_random(gains, k) == pytest.approx(np.mean(draws))


@pytest.mark.parametrize("changes", [{"at": 0.0}, {"k": 0}, {"target_kind": "x"}, {"bank": "some"}])
def test_options_out_of_range_are_refused(changes):
    with pytest.raises(OptionError, match="ValidationOptions"):
        ValidationOptions(**changes)


def lenses() -> Experience:
    """Noisy cases in which losses gain by how near they are to mae, and imbalanced ones by how near to logit
    adjustment."""
    names = [name for name, loss in LOSSES.items() if loss.target_kind == "classification" and not loss.relational]
    shapes = geometry_vectors([LOSSES[name] for name in names]).double().numpy()
    near = {lens: shapes @ shapes[names.index(lens)] - 0.8 for lens in ("mae", "logit_adjusted_1")}
    rng = np.random.default_rng(0)
    records = []
    for n in range(24):
        trouble, lens = (("symmetric", "mae"), ("imbalance", "logit_adjusted_1"))[n % 2]
        values = rng.normal(scale=0.1, size=SIZE).astype(np.float32)
        values[20:40] += n % 2
        gains = dict(zip(names, (0.1 * near[lens] + rng.normal(scale=1e-3, size=len(names))).tolist(), strict=True))
        records.append(record(gains, {0.05: values}, source=f"source {n % 3}", trouble=trouble, seed=n))
    return Experience.of(records)


def test_hidden_losses_are_found_where_losses_alike_gain():
    trials = hidden_losses(lenses(), ValidationOptions(retrieval=FEW))
    assert len(trials) == 24 * 3
    shares = found_by_family(trials)
    assert shares["noise-robust", "symmetric"].hidden > 0.9
    assert shares["imbalance", "imbalance"].hidden > 0.9
    assert all(trial.open_rank <= 5 for trial in trials)
    assert all(trial.k == 8 for trial in trials)


def test_a_hidden_loss_is_hidden_with_its_twins(monkeypatch):
    """Where only the twins tell, nothing is found."""
    known = lenses()
    names = known.names["loss"]
    shapes = geometry_vectors([LOSSES[name] for name in names]).double().numpy()
    twins = [names[n] for n in np.flatnonzero(shapes @ shapes[names.index("mae")] >= TWIN)]
    assert {"mae", "one_minus_p"} <= set(twins)
    best = np.isin(known.outcome_loss, [names.index(name) for name in twins])
    known.gain[best], known.gain[~best] = 0.1, -0.1
    trials = [trial for trial in hidden_losses(known, ValidationOptions(retrieval=FEW)) if trial.loss in twins]
    assert trials
    assert all(trial.open_rank <= 2 for trial in trials)
    assert all(trial.rank > 2 for trial in trials)


def test_clean_and_unknown_cases_are_not_asked_about():
    known = world(missing=0.0)
    troubled = np.flatnonzero(known.texts("trouble") != "clean")
    assert {trial.case for trial in hidden_losses(known, ValidationOptions(retrieval=FEW))} <= set(troubled.tolist())


def test_shares_of_hidden_losses():
    trials = [
        HiddenTrial(0, "mae", "noise-robust", "pair", 1, 1, 4, 2),
        HiddenTrial(1, "mae", "noise-robust", "both", 3, 2, 4, 2),
    ]
    assert found_by_family(trials) == {
        ("noise-robust", ""): Found(2, 0.5, 1.0, 0.5),
        ("noise-robust", "both"): Found(1, 0.0, 1.0, 0.5),
        ("noise-robust", "pair"): Found(1, 1.0, 1.0, 0.5),
    }
