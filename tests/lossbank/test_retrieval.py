from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag import ConfigError
from lossrag.lossbank import LOSSES
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.embedding import VECTOR_SIZE, loss_vectors
from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.experience.predictors import KnnPredictor, Prediction, TowerPredictor, top
from lossrag.lossbank.experience.towers import Towers
from tests.lossbank.simulated import GEOMETRIES, NAMES, filled, moments

C = len(CONTEXT_NAMES)
K = 8
TWINS = 0.995
"""Cosine of geometries from which on two losses are one lens."""


def learnt(memory: Memory, steps: int = 200) -> TowerPredictor:
    vectors = dict(zip(NAMES, loss_vectors([LOSSES[name] for name in NAMES], memory), strict=True))
    towers = Towers(C, VECTOR_SIZE)
    towers.fit(memory, vectors, steps=steps)
    return TowerPredictor(towers, vectors)


def test_a_loss_left_out_of_the_memory_is_retrieved_where_it_is_right():
    """Among the best 8 of 50 wherever it is truly among the best 4; chance finds it in 16 % of the trials."""
    contexts, contributions, _ = moments(40, seed=777)
    best = contributions.argsort(dim=1, descending=True)[:, :4]
    rows = torch.stack(list(GEOMETRIES.values()))
    alike = rows @ rows.T > TWINS
    done, found = set(), {"knn": [], "towers": []}
    # Every loss that is the right one somewhere; its twins are left out with it, and not tried again.
    for place in best.unique().tolist():
        name, twins = NAMES[place], {NAMES[other] for other in alike[place].nonzero().flatten().tolist()}
        if name in done:
            continue
        done |= twins
        memory = filled(place, without=twins)
        assert name not in memory.records.losses
        knn, towers = KnnPredictor(memory, GEOMETRIES), learnt(memory)
        for context in contexts[(best == place).any(dim=1)][:8]:
            for kind, predictor in (("knn", knn), ("towers", towers)):
                found[kind].append(name in dict(top(predictor.predict(context, NAMES), NAMES, K)))
    for trials in found.values():
        assert len(trials) >= 50
        assert np.mean(trials) >= 0.8, {kind: np.mean(each) for kind, each in found.items()}


def test_both_predict_what_is_true_and_how_sure_they_are():
    memory = filled(1)
    contexts, truth, _ = moments(30, seed=50)
    for predictor in (KnnPredictor(memory, GEOMETRIES), learnt(memory)):
        found = [predictor.predict(context, NAMES) for context in contexts]
        means, uncertainties = (
            torch.stack([getattr(each, part) for each in found]) for part in ("mean", "uncertainty")
        )
        assert float(torch.corrcoef(torch.stack([means.flatten(), truth.flatten()]))[0, 1]) > 0.85
        assert 0 < float(uncertainties.min()) <= float(uncertainties.max()) <= 1
        assert float(((means - truth).abs() < 2 * uncertainties).float().mean()) > 0.8


def test_a_new_loss_like_those_that_help_is_predicted_to_help_and_less_surely():
    contexts, truth, _ = moments(40, seed=12)
    noisy = contexts[truth[:, NAMES.index("mae")].argsort(descending=True)[:5]]
    known, new = KnnPredictor(filled(1), GEOMETRIES), KnnPredictor(filled(1, without={"mae"}), GEOMETRIES)
    for context in noisy:
        with_it, without_it = known.predict(context, ["mae"]), new.predict(context, ["mae", "cross_entropy"])
        assert without_it.mean[0] > 0.1 > without_it.mean[1]
        assert with_it.uncertainty[0] < without_it.uncertainty[0] < 0.9


def test_an_empty_memory_says_nothing():
    memory = Memory(C, "v1")
    for predictor in (KnnPredictor(memory, GEOMETRIES), learnt(memory)):
        found = predictor.predict(torch.zeros(C), NAMES)
        assert found.mean.tolist() == [0.0] * len(NAMES)
        assert found.uncertainty.tolist() == [1.0] * len(NAMES)
        assert predictor.predict(torch.zeros(C), []).mean.shape == (0,)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(NAMES[:6]), st.integers(0, 5), st.floats(-1e3, 1e3)), min_size=1, max_size=20),
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2),
)
def test_predictions_stay_in_their_range(records, context):
    memory = Memory(2, "v1")
    losses, steps, values = zip(*records, strict=True)
    memory.add([[s, -s] for s in steps], losses, values, run="r", task="t", step=steps)
    found = KnnPredictor(memory, GEOMETRIES).predict(torch.tensor(context), NAMES)
    assert float(found.mean.abs().max()) <= 1
    assert 0 <= float(found.uncertainty.min()) <= float(found.uncertainty.max()) <= 1


def test_more_records_mean_more_certainty():
    uncertainties = []
    for count in (0, 1, 4, 30):
        memory = Memory(1, "v1")
        memory.add(np.zeros((count, 1)), ["mae"] * count, [0.5] * count, run="r", task="t", step=np.arange(count))
        uncertainties.append(float(KnnPredictor(memory, GEOMETRIES).predict(torch.zeros(1), ["mae"]).uncertainty[0]))
    assert uncertainties[0] == 1.0
    assert uncertainties == sorted(uncertainties, reverse=True)
    assert uncertainties[-1] < 0.2


def test_losses_of_the_memory_without_a_vector_play_no_part():
    memory = Memory(1, "v1")
    memory.add([[0.0]], ["of another library"], [1.0], run="r", task="t", step=0)
    found = KnnPredictor(memory, GEOMETRIES).predict(torch.zeros(1), ["mae"])
    assert (found.mean.tolist(), found.uncertainty.tolist()) == ([0.0], [1.0])


def test_refusals():
    memory = filled(2, count=5)
    knn, towers = KnnPredictor(memory, GEOMETRIES), learnt(memory, steps=1)
    for predictor in (knn, towers):
        with pytest.raises(ConfigError, match="did you mean 'mae'"):
            predictor.predict(torch.zeros(C), ["mea"])
        with pytest.raises(ConfigError):
            predictor.predict(torch.zeros(2), ["mae"])
    assert KnnPredictor(memory, {}).predict(torch.zeros(C), []).mean.shape == (0,)
    assert top(Prediction(torch.zeros(2), torch.ones(2)), ["b", "a"], 5) == [("a", -0.0), ("b", -0.0)]
