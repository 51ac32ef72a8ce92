from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from lossrag import ConfigError, DataError
from lossrag.tasks import SPLITS, DenseInputs, Examples, Suite, Task, TokenInputs, load_suite
from lossrag.tasks.corruption.corrupt import CORRUPTED, corrupt
from lossrag.tasks.corruption.settings import Corruption
from lossrag.tasks.suite import select

K = 4
FROZEN = "3130133200033001200233331"
SIZES = dict(zip(SPLITS, (400, 100, 60, 60), strict=True))
CORRUPTIONS = st.one_of(
    st.builds(Corruption, st.sampled_from(["symmetric", "pair"]), st.floats(0, 0.7)),
    st.builds(
        lambda rate, shares: Corruption("symmetric", rate, imbalance=shares),
        st.floats(0, 0.4),
        st.tuples(*[st.floats(0.5, 1)] * K),
    ),
    st.just(Corruption("asymmetric", 0.5, flips=((0, "c1"), ("c2", 3)))),
    st.just(Corruption("asymmetric", matrix=tuple(map(tuple, (0.6 * np.eye(K) + 0.1).tolist())))),
)


def rows(count: int, rng: np.random.Generator, tokens: bool):
    if not tokens:
        return DenseInputs(torch.from_numpy(rng.normal(size=(count, 2))))
    lengths = torch.from_numpy(rng.integers(1, 5, size=count))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return TokenInputs(torch.from_numpy(rng.integers(1, 99, size=int(offsets[-1]))), offsets)


def suite(shared=False, tokens=False, sizes=SIZES, names=("REC", "TALK", "SCI")) -> Suite:
    tasks = tuple(Task(name, "classification", K, ("c0", "c1", "c2", "c3")) for name in names)
    splits = {}
    for number, split in enumerate(SPLITS):
        shared_rows = rows(sizes[split], np.random.default_rng(number), tokens) if shared else None
        splits[split] = tuple(
            Examples(shared_rows or rows(len(labels), rng, tokens), torch.from_numpy(labels))
            for task in tasks
            for rng in [np.random.default_rng([number, *task.name.encode()])]
            for labels in [rng.permutation(np.arange(sizes[split]) % K)]
        )
    return Suite("made", "made up", tasks, shared, splits)


def column(examples: Examples) -> np.ndarray:
    """One row an input: none is longer than the least width of a batch."""
    return examples.inputs.gather(torch.arange(len(examples.inputs))).numpy()


def same(a: Suite, b: Suite) -> None:
    for split in SPLITS:
        for one, two in zip(a.splits[split], b.splits[split], strict=True):
            assert torch.equal(one.targets, two.targets)
            assert np.array_equal(column(one), column(two))


@settings(deadline=None, max_examples=60)
@given(CORRUPTIONS, st.integers(0, 5), st.booleans())
def test_invariants(corruption, seed, tokens):
    clean = suite(tokens=tokens)
    dirty, reports = corrupt(clean, {"TALK": corruption}, seed)
    assert all(dirty.splits[split] is clean.splits[split] for split in ("validation", "test"))
    assert list(reports) == ["TALK"]
    for split in CORRUPTED:
        assert dirty.splits[split][0] is clean.splits[split][0]
        old, new, report = clean.splits[split][1], dirty.splits[split][1], reports["TALK"][split]
        kept = np.flatnonzero(report.kept)
        assert np.array_equal(column(new), column(old)[kept])
        assert new.targets.dtype == torch.int64
        assert np.array_equal(new.targets.numpy() != old.targets.numpy()[kept], report.changed)
        assert np.bincount(old.targets, minlength=K).tolist() == report.before.tolist()
        assert np.bincount(new.targets, minlength=K).tolist() == report.after.tolist()
        assert report.rate == report.changed.mean()
        if corruption.imbalance is None:
            assert report.kept.all()
        else:
            wanted = [max(1, round(s * int(n))) for s, n in zip(corruption.imbalance, report.before, strict=True)]
            assert np.bincount(old.targets.numpy()[kept], minlength=K).tolist() == wanted
    same(dirty, corrupt(clean, {"TALK": corruption}, seed)[0])
    assert f"TALK with {corruption.describe()}" in dirty.edition


@settings(deadline=None, max_examples=40)
@given(CORRUPTIONS, st.integers(0, 5))
def test_missing_labels_stay_missing(corruption, seed):
    """And take no share in what happens to the others, whose fate is theirs alone."""
    clean = suite(names=("REC",))
    splits = {split: examples[0].targets.clone() for split, examples in clean.splits.items()}
    for targets in splits.values():
        targets[np.random.default_rng(seed).random(len(targets)) < 0.3] = -100
    sparse = replace(
        clean, splits={split: (replace(clean.splits[split][0], targets=splits[split]),) for split in SPLITS}
    )
    dirty, reports = corrupt(sparse, {"REC": corruption}, seed)
    for split in CORRUPTED:
        report, truth, labels = reports["REC"][split], splits[split].numpy(), dirty.splits[split][0].targets.numpy()
        assert report.kept[truth == -100].all()
        assert np.array_equal(labels == -100, truth[report.kept] == -100)
        assert report.before.tolist() == np.bincount(truth[truth >= 0], minlength=K).tolist()
        assert report.after.sum() == (labels >= 0).sum()
        assert report.rate == report.changed[labels >= 0].mean()
        if corruption.imbalance is None:
            full = corrupt(clean, {"REC": corruption}, seed)[0].splits[split][0].targets.numpy()
            assert np.array_equal(labels[labels >= 0], full[labels >= 0])


@settings(deadline=None, max_examples=30)
@given(CORRUPTIONS, CORRUPTIONS)
def test_tasks_do_not_depend_on_each_other(one, other):
    names = ("REC", "TALK", "SCI")
    alone, _ = corrupt(suite(), {"REC": one}, 7)
    together, _ = corrupt(suite(names=names[::-1]), {"TALK": other, "REC": one}, 7)
    for split in CORRUPTED:
        assert torch.equal(alone.splits[split][0].targets, together.splits[split][2].targets)


def test_streams_differ_by_task_split_and_seed():
    noisy = {name: Corruption("symmetric", 0.5) for name in ("REC", "TALK")}
    sizes = dict.fromkeys(SPLITS, 400)
    masks = [
        report[split].changed.tobytes()
        for seed in (0, 1)
        for report in corrupt(suite(sizes=sizes), noisy, seed)[1].values()
        for split in CORRUPTED
    ]
    assert len(set(masks)) == 8


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.4, 0.6, 1.0])
@pytest.mark.parametrize("noise", ["symmetric", "pair"])
def test_realised_rate_is_binomial_and_wrong_labels_are_where_they_should_be(noise, rate):
    sizes = {**SIZES, "support": 8000}
    clean = suite(sizes=sizes, names=("REC",))
    dirty, reports = corrupt(clean, {"REC": Corruption(noise, rate)}, 11)
    report = reports["REC"]["support"]
    low, high = binom.interval(1 - 1e-6, 8000, rate)
    assert low <= report.changed.sum() <= high
    shift = (dirty.splits["support"][0].targets - clean.splits["support"][0].targets).numpy()[report.changed] % K
    changed = int(report.changed.sum())
    for step in range(1, K):
        share = (1 / (K - 1)) if noise == "symmetric" else float(step == 1)
        low, high = binom.interval(1 - 1e-6, changed, share) if changed else (0, 0)
        assert low <= (shift == step).sum() <= high


def test_asymmetric_noise_follows_its_transition():
    clean = suite(sizes={**SIZES, "support": 8000}, names=("REC",))
    truth = clean.splits["support"][0].targets.numpy()

    def confusion(corruption: Corruption) -> np.ndarray:
        labels = corrupt(clean, {"REC": corruption}, 0)[0].splits["support"][0].targets.numpy()
        return np.histogram2d(truth, labels, bins=(range(K + 1),) * 2)[0]

    counts = confusion(Corruption("asymmetric", 0.3, flips=(("c0", "c1"), (1, 0), (3, "c0"))))
    matrix = np.array([[0.7, 0.3, 0, 0], [0.3, 0.7, 0, 0], [0, 0, 1, 0], [0.3, 0, 0, 0.7]])
    low, high = binom.interval(1 - 1e-6, 2000, matrix)
    assert ((low <= counts) & (counts <= high)).all()
    counts = confusion(Corruption("asymmetric", matrix=tuple(map(tuple, matrix.tolist()))))
    assert ((low <= counts) & (counts <= high)).all()


def test_lower_rates_and_smaller_shares_nest():
    clean = suite()

    def reports(corruption):
        return corrupt(clean, {"REC": corruption}, 2)[1]["REC"]["support"]

    changed = [reports(Corruption("symmetric", rate)).changed for rate in (0.2, 0.4, 0.6)]
    kept = [reports(Corruption(imbalance=(share,) * K)).kept for share in (0.1, 0.5, 0.9)]
    for smaller, larger in (*pairwise(changed), *pairwise(kept)):
        assert (smaller <= larger).all()
        assert smaller.sum() < larger.sum()


def test_exponential_profile_and_one_row_at_least():
    reports = corrupt(suite(), {"REC": Corruption(imbalance="exponential")}, 0)[1]["REC"]
    assert reports["support"].after.tolist() == [100, 37, 14, 5]
    assert reports["query"].after.tolist() == [25, 9, 3, 1]
    reports = corrupt(suite(), {"REC": Corruption(imbalance="exponential", factor=1e9)}, 0)[1]["REC"]
    assert reports["support"].after.tolist() == [100, 1, 1, 1]


def test_labels_are_frozen_across_machines():
    sizes = dict.fromkeys(SPLITS, 40)
    dirty, _ = corrupt(suite(sizes=sizes), {"REC": Corruption("symmetric", 0.5, imbalance=(1.0, 0.5, 0.5, 0.5))}, 0)
    assert "".join(map(str, dirty.splits["support"][0].targets.tolist())) == FROZEN


def test_noise_on_shared_rows_keeps_them_shared():
    clean = suite(shared=True)
    dirty, _ = corrupt(clean, {"REC": Corruption("pair", 0.3)}, 0)
    assert len({id(examples.inputs) for examples in dirty.splits["support"]}) == 1
    with pytest.raises(ConfigError, match=r"Corruption of REC: the tasks of 'made' share their rows"):
        corrupt(clean, {"REC": Corruption(imbalance="exponential")}, 0)
    lone = suite(shared=True, names=("REC",))
    assert len(corrupt(lone, {"REC": Corruption(imbalance="exponential")}, 0)[0].splits["support"][0]) == 156


def test_digits_and_nothing_to_do():
    digits = load_suite("digits")
    assert corrupt(digits, {}, 0) == (digits, {})
    dirty, _ = corrupt(digits, {"digit": Corruption("symmetric", 0.4)}, 0)
    assert dirty.splits["support"][1] is digits.splits["support"][1]


@pytest.mark.parametrize(
    ("corruption", "message"),
    [
        (Corruption("pair", 0.5, imbalance=(1.0, 0.5)), "2 shares for 4 classes"),
        (Corruption("asymmetric", matrix=((0.5, 0.5), (0.5, 0.5))), "2 rows for 4 classes"),
        (Corruption("asymmetric", 0.5, flips=((4, 0),)), "no class 4: positions go from 0 to 3"),
        (Corruption("asymmetric", 0.5, flips=(("cc0", 1),)), r"unknown class 'cc0': did you mean 'c0'"),
        (Corruption("asymmetric", 0.5, flips=((0, 1), ("c0", 2))), "'c0' comes twice"),
        (Corruption("asymmetric", 0.5, flips=((0, "c0"),)), "leads to itself"),
        (Corruption("asymmetric", 1.0, flips=((0, 1),)), "leaves class 'c0' without a row in the support split"),
    ],
)
def test_corruptions_that_do_not_fit_the_task(corruption, message):
    with pytest.raises(ConfigError, match=rf"^Corruption of REC: .*{message}"):
        corrupt(suite(), {"REC": corruption}, 0)


def test_tasks_that_cannot_be_corrupted():
    noise = Corruption("pair", 0.5)
    with pytest.raises(ConfigError, match=r"'RECC', which is no task of 'made': did you mean 'REC'\?"):
        corrupt(suite(), {"RECC": noise}, 0)
    with pytest.raises(ConfigError, match="from 0 up"):
        corrupt(suite(), {"REC": noise}, -1)
    made = suite(names=("REC",))
    regression = replace(
        made,
        tasks=(Task("REC", "regression", 1),),
        splits={s: (Examples(e[0].inputs, e[0].targets[:, None].float()),) for s, e in made.splits.items()},
    )
    with pytest.raises(ConfigError, match="regression"):
        corrupt(regression, {"REC": noise}, 0)
    lone = replace(
        made,
        tasks=(Task("REC", "classification", 1),),
        splits={s: (Examples(e[0].inputs, e[0].targets * 0),) for s, e in made.splits.items()},
    )
    with pytest.raises(ConfigError, match="one class"):
        corrupt(lone, {"REC": noise}, 0)
    with pytest.raises(DataError, match="cannot be chosen"):
        select([1, 2, 3], torch.tensor([0]))
