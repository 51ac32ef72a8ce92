from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from lossrag import ConfigError
from lossrag.lossbank.experience.context import CONTEXT_NAMES, TaskSignals, context_vector, neighbour_part


def signals(batch=64, classes=4, kind="classification", seed=0, scale=2.0, **more) -> TaskSignals:
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, batch, classes, generator=g)
    if kind == "classification":
        targets = torch.randint(classes, (2, batch), generator=g)
    else:
        targets = logits + torch.randn(2, batch, classes, generator=g)
    loss = torch.tensor(1.0)
    given_ = {"features": torch.randn(batch, 6, generator=g), "class_counts": torch.full((classes,), 9.0)} | more
    return TaskSignals(logits[0], targets[0], logits[1], targets[1], kind, loss, loss / 2, **given_)


def entries(task: TaskSignals) -> dict[str, float]:
    return dict(zip(CONTEXT_NAMES, context_vector(task).tolist(), strict=True))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 5),
    st.integers(1, 6),
    st.sampled_from(["classification", "regression"]),
    st.sampled_from([0.0, 1.0, 100.0, 1e4]),
    st.booleans(),
)
def test_finite_and_of_one_size_for_every_batch(batch, classes, kind, scale, bare):
    more = {"features": None, "class_counts": None} if bare else {"features": torch.zeros(batch, 3)}
    context = context_vector(signals(batch, classes, kind, scale=scale, **more))
    assert context.shape == (len(CONTEXT_NAMES),)
    assert context.dtype == torch.float32
    assert bool(context.isfinite().all())
    bounded = [i for i, name in enumerate(CONTEXT_NAMES) if name not in ("feature_norm", "support_loss", "query_loss")]
    assert float(context[bounded].abs().max()) <= 1 + 1e-5


def test_label_noise_shows():
    clean = signals(400, 4, scale=6.0)
    clean = replace(clean, support_targets=clean.support_logits.argmax(dim=1))
    flipped = torch.where(torch.arange(400) % 5 < 2, (clean.support_targets + 1) % 4, clean.support_targets)
    a, b = entries(clean), entries(replace(clean, support_targets=flipped))
    assert a["support_sure_and_wrong"] == a["support_disagreement"] == 0
    assert b["support_disagreement"] == pytest.approx(0.4)
    assert b["support_sure_and_wrong"] > 0.2
    assert b["support_p_10"] < 0.05 < a["support_p_10"]
    assert a["query_sure_and_wrong"] == b["query_sure_and_wrong"]


def test_imbalance_shows():
    task = signals(classes=3)
    even, skewed = (
        entries(replace(task, class_counts=torch.tensor(counts))) for counts in ([5.0] * 3, [1000.0, 50.0, 10.0])
    )
    assert (even["balance_entropy"], even["balance_rarest"]) == pytest.approx((1.0, 1.0))
    assert skewed["balance_entropy"] < 0.3
    assert skewed["balance_rarest"] == pytest.approx(0.01)
    # the rare class is not learnt: the mean over samples looks better than the mean over classes
    logits = torch.tensor([[5.0, 0.0]] * 10)
    targets = torch.tensor([0] * 9 + [1])
    lag = entries(
        replace(
            task,
            support_logits=logits,
            support_targets=targets,
            query_logits=logits,
            query_targets=targets,
            features=None,
            class_counts=None,
        )
    )
    assert lag["support_rare_lag"] == pytest.approx(0.9 - 0.5, abs=0.02)
    assert lag["balance_rarest"] == pytest.approx(1 / 9)


@pytest.mark.parametrize("classes", [2, 3, 10, 50])
def test_chance_looks_alike_whatever_the_number_of_classes(classes):
    logits, targets = torch.zeros(8, classes), torch.arange(8) % classes
    found = entries(replace(signals(8, classes), support_logits=logits, support_targets=targets))
    assert (found["support_p_mean"], found["support_p_50"]) == pytest.approx((0.5, 0.5))
    assert found["support_confidence_1"] == 1.0
    histogram = [found[f"query_confidence_{i}"] for i in range(1, 6)]
    assert sum(histogram) == pytest.approx(1.0)


def test_rates_gap_progress_and_features():
    found = entries(signals(previous_support_loss=torch.tensor(3.0), progress=0.25))
    assert found["support_loss_fall"] == 0.5
    assert found["query_loss_fall"] == 0
    assert found["loss_gap"] == pytest.approx(-1 / 3)
    assert found["progress"] == 0.25
    assert 0.7 < found["feature_rank"] <= 1
    flat = entries(signals(features=torch.randn(64, 1) * torch.ones(1, 6)))
    assert flat["feature_rank"] == pytest.approx(1 / 6, abs=1e-3)
    task = signals()
    split = entries(replace(task, features=torch.eye(4)[task.support_targets]))
    assert split["feature_separation"] == pytest.approx(1.0, abs=1e-4)
    assert entries(replace(task, features=None))["feature_norm"] == 0


def rings(groups: int) -> torch.Tensor:
    """Features of eleven like rows in each group: the ten nearest rows are the others of the own one."""
    return torch.eye(groups).repeat_interleave(11, dim=0)


def test_labels_of_rows_with_like_features():
    """Four groups with a label each; then two rows of each group get the next label. Of their ten neighbours one agrees
    with them, and eight of ten with the other nine: (2 * 1 + 9 * 8) / 110 votes for the own label."""
    features, labels = rings(4), torch.arange(4).repeat_interleave(11)
    like = torch.zeros(1)
    assert neighbour_part(features, labels, 4, like).tolist() == pytest.approx([1, 0])
    wrong = torch.where(torch.arange(44) % 11 < 2, (labels + 1) % 4, labels)
    expected = [(74 / 110 - 1 / 4) / (3 / 4), 2 / 11]
    assert neighbour_part(features, wrong, 4, like).tolist() == pytest.approx(expected)
    assert neighbour_part(None, labels, 4, like).tolist() == [0, 0]
    assert neighbour_part(features[:1], labels[:1], 4, like).tolist() == [0, 0]


def test_values_of_rows_with_like_features():
    """What the neighbours do not explain is noise, of which the mean of ten has a tenth; a value far off stands out."""
    torch.manual_seed(0)
    means, noise = torch.arange(8.0).repeat_interleave(11)[:, None], torch.randn(88, 1)
    assert neighbour_part(rings(8), means, 1, means).tolist() == pytest.approx([1, 0])
    assert float(neighbour_part(rings(8), means + noise, 1, means)[0]) == pytest.approx(5.25 / 6.25, abs=0.05)
    far = means + 0.1 * noise
    far[::11] += 30
    assert float(neighbour_part(rings(8), far, 1, means)[1]) == pytest.approx(1 / 11)


def test_both_sides_count_among_the_like_rows():
    task = signals(44, 4, features=rings(4))
    same = replace(task, query_features=rings(4), query_targets=task.support_targets)
    alone, together = (entries(own)["neighbour_agreement"] for own in (task, same))
    assert together > alone, "every row has its copy on the other side"
    with pytest.raises(ConfigError, match="Give features of the 44 query samples"):
        context_vector(replace(task, query_features=rings(2)))


def test_residuals_of_a_regression():
    task = signals(500, 1, "regression")
    outlying = task.support_targets.clone()
    outlying[:20] -= 40.0
    a, b = entries(task), entries(replace(task, support_targets=outlying))
    assert a["support_kurtosis"] == pytest.approx(0.5, abs=0.05)
    assert b["support_kurtosis"] > 0.75
    assert (a["support_outliers"] < 0.02, b["support_outliers"] > 0.03) == (True, True)
    assert b["support_skew"] > 0.5 > abs(a["support_skew"])
    assert a["support_explained"] > 0.5
    assert (
        abs(a["support_bias"]) < 0.1 < entries(replace(task, support_targets=task.support_targets - 3))["support_bias"]
    )
    assert all(a[name] == 0 for name in CONTEXT_NAMES if "confidence" in name or "balance" in name)


def test_no_tensor_value_is_read_back():
    task = signals(class_counts=None)
    with FakeTensorMode() as mode:
        fake = {key: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for key, v in vars(task).items()}
        assert context_vector(TaskSignals(**fake)).shape == (len(CONTEXT_NAMES),)


def test_the_graph_is_left_alone():
    task = signals()
    task.support_logits.requires_grad_()
    assert not context_vector(task).requires_grad


def test_refusals():
    task = signals()
    for changes, message in [
        ({"target_kind": "ranking"}, "target kind"),
        ({"support_logits": torch.zeros(0, 4)}, "one sample at least"),
        ({"query_logits": torch.zeros(64, 3)}, r"query logits are \(B, 4\)"),
        ({"support_targets": torch.zeros(3, dtype=torch.long)}, "support targets"),
        ({"features": torch.zeros(3, 2)}, "64 support samples"),
        ({"class_counts": torch.ones(3)}, "counts of 4 classes"),
    ]:
        with pytest.raises(ConfigError, match=message):
            context_vector(replace(task, **changes))
