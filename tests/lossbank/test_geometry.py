from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from lossrag import ConfigError
from lossrag.lossbank import LOSSES
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.shape.geometry import GEOMETRY_NAMES, _geometry, geometry, geometry_vectors, gradient_curve
from tests.lossbank.oracles import built_in

NAMES = tuple(built_in())


def shape_of(name: str) -> dict[str, float]:
    return dict(zip(GEOMETRY_NAMES, geometry(LOSSES[name]).tolist(), strict=True))


def distance(one: str, two: str) -> float:
    a, b = geometry_vectors([LOSSES[one], LOSSES[two]])
    return float((a - b).norm())


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_is_finite_bounded_and_says_something(name):
    vector = geometry(LOSSES[name])
    assert vector.shape == (len(GEOMETRY_NAMES),)
    assert vector.dtype == torch.float32
    assert bool(vector.isfinite().all())
    assert float(vector.abs().max()) <= 1
    assert int(vector[5:].count_nonzero()) >= 5


@pytest.mark.parametrize("factor", [3.0, 1e-3])
@pytest.mark.parametrize("name", NAMES)
def test_a_factor_changes_nothing(name, factor):
    loss = LOSSES[name]
    scaled = replace(loss, function=lambda *args, **more: factor * loss.function(*args, **more))
    torch.testing.assert_close(geometry(scaled), geometry(loss), rtol=0, atol=2e-3)


def test_the_whole_library_takes_less_than_a_second_and_is_the_same_every_time():
    losses = [LOSSES[name] for name in NAMES]
    first = torch.stack([geometry(loss) for loss in losses])
    _geometry.cache_clear()
    torch.manual_seed(1)
    with torch.no_grad():
        start = time.process_time()
        second = torch.stack([geometry(loss) for loss in losses])
        assert time.process_time() - start < 1.5  # 0.4 s on an idle core
    assert torch.equal(first, second)
    geometry(losses[0]).fill_(7.0)
    assert torch.equal(geometry(losses[0]), first[0])


@pytest.mark.parametrize(
    ("near", "to", "than"),
    [
        ("focal_1", "cross_entropy", "mae"),
        ("generalised_ce_0.7", "mae", "cross_entropy"),
        ("generalised_ce_0.3", "cross_entropy", "logit_adjusted_2"),
        ("logit_adjusted_1", "logit_adjusted_2", "mae"),
        ("logit_adjusted_1", "logit_adjusted_2", "cross_entropy"),
        ("label_smoothing_0.1", "cross_entropy", "mae"),
        ("label_smoothing_0.1", "label_smoothing_0.05", "cross_entropy"),
        ("symmetric_ce", "mae", "cross_entropy"),
        ("symmetric_ce_6_0.1", "cross_entropy", "mae"),
        ("class_balanced_ce_0.9999", "inverse_frequency_ce", "cross_entropy"),
        ("nt_xent_0.5", "supervised_contrastive_0.5", "cross_entropy"),
        ("triplet_0.2", "triplet_0.5", "brier"),
        ("huber", "log_cosh", "tukey"),
        ("barron_-2", "tukey", "squared_error"),
        ("quantile_0.1", "quantile_0.25", "quantile_0.9"),
        ("l1", "quantile_0.75", "squared_error"),
        ("multiclass_hinge", "weston_watkins_hinge", "mae"),
    ],
)
def test_near_losses_are_near(near, to, than):
    assert distance(near, to) < distance(near, than)


def test_mae_and_its_half_are_one_lens():
    assert distance("mae", "one_minus_p") < 1e-5


def test_robust_and_imbalance_losses_stand_apart():
    names = [name for name in NAMES if LOSSES[name].family in ("noise-robust", "imbalance")]
    vectors = geometry_vectors([LOSSES[name] for name in names])
    nearest = (torch.cdist(vectors, vectors) + 9 * torch.eye(len(names))).argmin(dim=1)
    assert all(LOSSES[names[i]].family == LOSSES[name].family for name, i in zip(names, nearest.tolist(), strict=True))


def test_target_kinds_stand_apart():
    vectors = geometry_vectors([LOSSES[name] for name in NAMES])
    kinds = [LOSSES[name].target_kind for name in NAMES]
    nearest = (torch.cdist(vectors, vectors) + 9 * torch.eye(len(NAMES))).argmin(dim=1)
    assert all(kinds[i] == kind for kind, i in zip(kinds, nearest.tolist(), strict=True))


def test_entries_mean_what_their_names_say():
    ce, mae, rare = shape_of("cross_entropy"), shape_of("mae"), shape_of("logit_adjusted_1")
    assert mae["outlier_sensitivity"] < -0.4 < 0 < ce["outlier_sensitivity"]
    assert (mae["growth"] < 0.01, ce["growth"] > 0.3) == (True, True)
    assert mae["curvature_wrong"] < 0 < ce["curvature_wrong"]
    assert shape_of("focal_5")["saturation"] < ce["saturation"]
    assert shape_of("label_smoothing_0.1")["direction_very_right"] < 0
    assert rare["rarity_0.5"] > 0.3
    assert shape_of("inverse_frequency_ce")["rarity_0.05"] == pytest.approx(
        shape_of("inverse_frequency_ce")["rarity_0.95"]
    )
    assert shape_of("quantile_0.1")["asymmetry"] == pytest.approx(0.8)
    assert shape_of("quantile_0.9")["asymmetry"] == pytest.approx(-0.8)
    assert shape_of("squared_error")["asymmetry"] == 0
    assert shape_of("squared_error")["temperature"] == pytest.approx(0.301, abs=1e-3)
    assert shape_of("gaussian_profiled")["temperature"] < 0 == round(shape_of("l1")["temperature"], 5)
    triplet = shape_of("triplet_0.2")
    assert (triplet["relational"], triplet["feature_share"], triplet["size_9"]) == (1.0, 1.0, 0.0)
    # on the unit sphere the gradient halves when the features double
    assert triplet["feature_scaling"] == pytest.approx(-0.5, abs=0.01)
    assert triplet["feature_concentration"] < shape_of("centre")["feature_concentration"]
    assert shape_of("multiclass_hinge")["sharing_wrong"] < shape_of("weston_watkins_hinge")["sharing_wrong"]


def test_a_loss_from_outside_and_a_bad_one_get_finite_vectors():
    def explodes(logits, targets):
        return logits.exp().pow(9).sum(dim=1) + (logits - logits).sqrt().sum(dim=1)

    def flat(logits, targets):
        return logits.sum(dim=1) * 0.0

    def reads_all(logits, targets, *, features, class_counts):
        return (logits - targets).abs().mean(dim=1) + features.square().sum(dim=1) / class_counts.sum()

    both = frozenset({"features", "class_counts"})
    for loss in (
        Loss("explodes", explodes, "mine", "classification", ""),
        Loss("flat", flat, "mine", "classification", ""),
        Loss("flat", flat, "mine", "regression", ""),
        Loss("reads", reads_all, "mine", "regression", "", needs=both, relational=True),
    ):
        vector = geometry(loss)
        assert bool(vector.isfinite().all())
        assert float(vector.abs().max()) <= 1


def test_curves():
    p, size = gradient_curve(LOSSES["cross_entropy"], 11, classes=2)
    torch.testing.assert_close(size, (1 - p) * 2**0.5, rtol=1e-3, atol=1e-5)
    assert all(a >= b for a, b in pairwise(size.tolist()))
    where, size = gradient_curve(LOSSES["l1"], 5)
    assert where.tolist() == [-5.0, -2.5, 0.0, 2.5, 5.0]
    assert size.tolist() == [1.0, 1.0, 0.0, 1.0, 1.0]
    assert gradient_curve(LOSSES["triplet_0.2"], 5)[1].tolist() == [0.0] * 5
    for name in NAMES:
        assert all(bool(part.isfinite().all()) for part in gradient_curve(LOSSES[name], 7))
    with pytest.raises(ConfigError, match="2 points"):
        gradient_curve(LOSSES["mae"], 1)
