"""Neighbours: distances by the formula, the nearest cases by brute force, and how new a moment is."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from lossrag.errors import OptionError
from lossrag.lossbank.experience import neighbours
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.coordinates import REACH, Coordinates, Likeness, lateness
from lossrag.lossbank.experience.neighbours import Moments
from lossrag.lossbank.experience.trials import Experience
from tests.lossbank.experiences import SIZE, context, random_experience, record

GAINS = {"mae": 0.1}


def experience(*moments, **changes) -> Experience:
    """A case for each of these moments, by progress and context, of unknown trouble."""
    given = {"trouble": "unknown", **changes}
    return Experience.of(record(GAINS, {progress: c}, seed=n, **given) for n, (progress, c) in enumerate(moments))


def distance(space: Moments, known: Experience, first: int, second: int) -> float:
    points = [space.points[n].astype(np.float64) for n in (first, second)]
    return float(np.linalg.norm(points[0] - points[1]))


def test_distance_of_contexts_is_the_root_mean_square_in_standard_deviations():
    known = experience(*((0.1, context(query_loss=a, outputs=b)) for a, b in ((0, 0), (1, 0.5), (2, 0), (5, 0.3))))
    space = Moments(known, "classification")
    columns = known.contexts[:, [CONTEXT_NAMES.index("query_loss"), CONTEXT_NAMES.index("outputs")]].astype(float)
    standard = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    for one in range(4):
        for two in range(4):
            expected = np.sqrt(((standard[one] - standard[two]) ** 2).mean())
            assert distance(space, known, one, two) == pytest.approx(expected, abs=1e-5)


def test_no_entry_reaches_beyond_four_deviations():
    known = experience(*((0.1, context(query_loss=float(n % 2))) for n in range(20)))
    space = Moments(known, "classification")
    far, farther = (space.point(context(query_loss=value), 0.1, "mlp") for value in (1e3, 1e6))
    assert np.array_equal(far, farther)
    assert far[0] == REACH


def test_encoders_and_progress_add_their_weights():
    likeness = Likeness(encoder=0.7, progress=0.4)
    same = context(query_loss=1.0)
    records = [
        record(GAINS, {progress: same}, trouble="unknown", encoder=encoder, seed=n)
        for n, (encoder, progress) in enumerate([("mlp", 0.01), ("textcnn", 0.01), ("mlp", 0.1), ("textcnn", 1e-9)])
    ]
    known = Experience.of(records)
    space = Moments(known, "classification", likeness)
    assert distance(space, known, 0, 1) == pytest.approx(0.7, abs=1e-5)
    assert distance(space, known, 0, 2) == pytest.approx(0.4, abs=1e-5)
    assert distance(space, known, 0, 3) == pytest.approx(np.hypot(0.7, 0.4), abs=1e-5)  # 1e-9 counts as 1e-3
    strange = space.point(same, 0.01, "bert").astype(float)
    apart = [np.linalg.norm(strange - space.points[n]) for n in (0, 1)]
    assert apart == pytest.approx([0.7 / np.sqrt(2)] * 2, abs=1e-5)


def test_an_encoder_without_a_case_left_is_as_strange_as_an_unheard_one():
    known = Experience.of([record(GAINS, encoder="mlp"), record(GAINS, encoder="bert", source="mail")])
    space = Moments(known.without(["mail"]), "classification")
    assert space.encoders == ("mlp",)
    assert np.array_equal(space.point(context(), 0.05, "bert"), space.point(context(), 0.05, "textcnn"))


def test_the_context_s_own_progress_does_not_count():
    known = experience((0.1, context(progress=0.1)), (0.1, context(progress=0.9)))
    assert distance(Moments(known, "classification"), known, 0, 1) == 0


def troubled(count: int, seed: int = 0) -> Experience:
    """Cases whose trouble shows in two entries, late ones more clearly; every fifth trouble is not known."""
    rng = np.random.default_rng(seed)
    records = []
    for n in range(count):
        trouble = ("clean", "symmetric", "imbalance")[n % 3]
        moments = {}
        for progress in (0.01, 0.1):
            values = rng.normal(size=SIZE).astype(np.float32)
            values[20] += 30 * progress * (trouble == "symmetric")
            values[30] += 2 * (trouble == "imbalance")
            moments[progress] = values
        told = trouble if n % 5 else "unknown"
        records.append(record(GAINS, moments, trouble=told, seed=n, source=f"source {n % 2}"))
    return Experience.of(records)


def test_trouble_is_read_by_a_ridge_regression_with_products_of_the_progress():
    known = troubled(60)
    coordinates = Coordinates(known, np.arange(120), Likeness(trouble=1.0, ridge=0.3))
    contexts = np.delete(known.contexts.astype(float), CONTEXT_NAMES.index("progress"), axis=1)
    standard = ((contexts - contexts.mean(axis=0)) / contexts.std(axis=0)).clip(-REACH, REACH)
    late = lateness(known.progress)
    inputs = np.concatenate([standard, standard * ((late - late.mean()) / late.std())[:, None]], axis=1)
    troubles = known.texts("trouble")[known.moment_case]
    told = troubles != "unknown"
    truth = np.stack([troubles[told] == name for name in ("clean", "imbalance", "symmetric")], axis=1).astype(float)
    ridge = Ridge(alpha=0.3 * told.sum(), fit_intercept=False).fit(inputs[told], truth - truth.mean(axis=0))
    points = coordinates.rows(known.contexts, known.progress, np.zeros(120, np.int32))
    assert np.allclose(points[:, SIZE - 1 : SIZE + 2], inputs @ ridge.coef_.T, atol=1e-5)


def test_cases_of_like_trouble_are_nearer_with_it():
    known, asked = troubled(240), troubled(60, seed=1)
    troubles = known.texts("trouble")
    hits = {}
    for weight in (0.0, 3.0):
        space = Moments(known, "classification", Likeness(trouble=weight))
        hits[weight] = 0
        for case in range(60):
            truth = ("clean", "symmetric", "imbalance")[case % 3]
            moment = 2 * case + 1
            near = space.nearest(space.point(asked.contexts[moment], 0.1, "mlp"), 10)
            hits[weight] += int((troubles[near.cases] == truth).sum())
    assert hits[3.0] > 1.3 * hits[0.0]


def test_without_two_known_troubles_there_is_nothing_to_read():
    known = experience((0.1, context(query_loss=1.0)), (0.1, context(query_loss=2.0)), trouble="clean")
    assert Moments(known, "classification").points.shape[1] == 1 + 1 + 1  # entry, encoder, progress


def brute_force(space: Moments, known: Experience, point, count: int) -> list[tuple[int, float]]:
    """The nearest cases in a plain loop."""
    best: dict[int, float] = {}
    for number, row in zip(space.numbers, space.points, strict=True):
        apart = round(float(np.sqrt(((row.astype(float) - point.astype(float)) ** 2).sum())), 9)
        case = int(known.moment_case[number])
        best[case] = min(apart, best.get(case, np.inf))
    return sorted(best.items(), key=lambda item: (item[1], item[0]))[:count]


@pytest.mark.parametrize("count", [1, 7, 39, 40, 100])
def test_nearest_cases_are_those_of_a_plain_loop(count):
    known = random_experience(40)
    space = Moments(known, "classification")
    rng = np.random.default_rng(5)
    for _ in range(10):
        point = space.point(rng.normal(size=SIZE).astype(np.float32), 0.02, "mlp")
        near = space.nearest(point, count)
        assert list(zip(near.cases.tolist(), near.distances.tolist(), strict=True)) == brute_force(
            space, known, point, count
        )
        assert np.array_equal(known.moment_case[near.moments], near.cases)


def test_a_case_counts_once_however_many_moments_it_has():
    crowd = {0.01 + n / 1000: context(query_loss=1.0) for n in range(600)}
    known = Experience.of(
        [record(GAINS, crowd), *(record(GAINS, {0.5: context(query_loss=9.0)}, seed=n) for n in (1, 2))]
    )
    space = Moments(known, "classification")
    near = space.nearest(space.point(context(query_loss=1.0), 0.05, "mlp"), 3)
    assert near.cases.tolist() == [0, 1, 2]
    assert near.distances[0] < near.distances[1] == near.distances[2]


def test_equally_near_cases_come_in_their_order():
    known = experience(*[(0.1, context(query_loss=1.0))] * 50, (0.1, context(query_loss=2.0)))
    space = Moments(known, "classification")
    near = space.nearest(space.point(context(query_loss=1.0), 0.1, "mlp"), 5)
    assert near.cases.tolist() == [0, 1, 2, 3, 4]


def test_target_kinds_are_apart():
    known = Experience.of([record(GAINS), record(GAINS, target_kind="regression", outputs=1, seed=1)])
    space = Moments(known, "regression")
    assert space.nearest(space.point(context(), 0.05, "mlp"), 5).cases.tolist() == [1]
    assert len(Moments(known.where(np.array([True, False])), "regression")) == 0


def limit_of(space: Moments, known: Experience, others, count: int) -> float:
    """The limit of what is known in a plain loop; others (M, M): the moments that count as others for each."""
    means = []
    for point, counts in zip(space.points, others, strict=True):
        cases = known.moment_case[counts]
        apart = np.linalg.norm(space.points[counts].astype(float) - point, axis=1)
        nearest = sorted(apart[cases == case].min() for case in np.unique(cases))[:count]
        means.append(np.mean(nearest))
    return float(np.quantile(means, neighbours.REACHED))


def test_novelty_is_the_distance_beside_that_to_other_sources():
    known = troubled(90)
    space = Moments(known, "classification")
    sources = known.texts("source")[known.moment_case]
    limit = limit_of(space, known, sources[:, None] != sources, 8)
    near = space.nearest(space.points[0], 8)
    assert space.novelty(near) == pytest.approx(near.distances.mean() / limit, rel=1e-3)
    far = space.nearest(space.point(np.full(SIZE, 50, np.float32), 1.0, "bert"), 8)
    assert space.novelty(far) > 1 > space.novelty(near)


def spread(pairs):
    """90 cases with one moment each, of these sources and encoders in turn."""
    records = []
    for n, (a, b) in enumerate(np.random.default_rng(0).uniform(size=(90, 2)).tolist()):
        source, encoder = pairs[n % len(pairs)]
        moments = {0.1: context(query_loss=a, outputs=b)}
        records.append(record(GAINS, moments, source=source, encoder=encoder, trouble="unknown", seed=n))
    return Experience.of(records)


def test_cases_of_an_encoder_that_one_source_alone_has_are_compared_with_each_other():
    """Those of other sources all lie farther than the weight of the encoder."""
    known = spread([("news", "mlp"), ("digits", "mlp"), ("mail", "bert")])
    likeness = Likeness(encoder=1.0)
    space = Moments(known, "classification", likeness)
    sources, berts = known.texts("source"), known.texts("encoder") == "bert"
    others = np.where(berts[:, None], ~np.eye(90, dtype=bool), sources[:, None] != sources)
    limit = limit_of(space, known, others, 8)
    assert limit < likeness.encoder < limit_of(space, known, sources[:, None] != sources, 8)
    for place in (1, 2):
        near = space.nearest(space.points[place], 8)
        assert space.novelty(near) == pytest.approx(near.distances.mean() / limit, rel=1e-3)


def test_a_source_that_shares_one_encoder_and_has_another_to_itself():
    """Its cases with the shared encoder are apart from those of other sources alone, whatever else it has."""
    known = spread([("news", "bert")] * 3 + [("news", "mlp")] * 2 + [("digits", "mlp")])
    likeness = Likeness(encoder=1.0)
    space = Moments(known, "classification", likeness)
    sources, berts = known.texts("source"), known.texts("encoder") == "bert"
    others = np.where(berts[:, None], ~np.eye(90, dtype=bool), sources[:, None] != sources)
    limit = limit_of(space, known, others, 8)
    mixed_up = limit_of(space, known, (sources[:, None] != sources) | (berts & ~np.eye(90, dtype=bool)), 8)
    assert limit != pytest.approx(mixed_up, rel=1e-2)
    for place in (0, 3, 5):
        near = space.nearest(space.points[place], 8)
        assert space.novelty(near) == pytest.approx(near.distances.mean() / limit, rel=1e-3)


def test_novelty_in_a_bank_of_one_source_or_one_case():
    one = experience(*((0.1, context(query_loss=float(n))) for n in range(30)))
    space = Moments(one, "classification")
    assert space.novelty(space.nearest(space.point(context(query_loss=14.5), 0.1, "mlp"), 2)) <= 1
    assert space.novelty(space.nearest(space.point(context(query_loss=1e6), 0.1, "mlp"), 2)) > 1
    single = Moments(experience((0.1, context())), "classification")
    assert single.novelty(single.nearest(single.point(context(), 0.1, "mlp"), 5)) == 0
    assert single.novelty(single.nearest(single.point(context(), 1.0, "mlp"), 5)) > 1


@pytest.mark.parametrize("changes", [{"trouble": -1.0}, {"encoder": np.nan}, {"progress": -0.1}, {"ridge": 0.0}])
def test_weights_out_of_range_are_refused(changes):
    with pytest.raises(OptionError, match="Likeness"):
        Likeness(**changes)


def test_cells_find_nearly_all_of_the_nearest(monkeypatch):
    known = random_experience(1500)
    exact = Moments(known, "classification")
    monkeypatch.setattr(neighbours, "EXACT", 100)
    cells = Moments(known, "classification")
    rng = np.random.default_rng(0)
    found = []
    for number in rng.integers(3000, size=30):
        point = exact.points[number] + rng.normal(scale=0.01, size=exact.points.shape[1]).astype(np.float32)
        best = exact.nearest(point, 15).cases.tolist()
        found.append(len(set(best) & set(cells.nearest(point, 15).cases.tolist())))
    assert np.mean(found) > 0.8 * 15  # of random points, which have no cells
    assert cells.nearest(point, 1500).cases.tolist() == exact.nearest(point, 1500).cases.tolist()


@pytest.mark.parametrize("limit", [100, neighbours.EXACT])
def test_a_space_grows_without_being_built_anew(monkeypatch, limit):
    monkeypatch.setattr(neighbours, "EXACT", limit)
    known = random_experience(300)
    space = Moments(known, "classification")
    index, before = space.index, space.points.copy()
    grown = known.joined(Experience.of([record(GAINS, {0.2: context(query_loss=3.0)}, task="new", source="fresh")]))
    assert space.grown(grown)
    assert space.index is index
    assert np.array_equal(space.points[:600], before)
    near = space.nearest(space.point(context(query_loss=3.0), 0.2, "mlp"), 2)
    assert near.cases[0] == 300
    assert near.moments[0] == 600
    assert near.distances[0] == 0
    assert near.distances[1] > 0


def test_a_space_does_not_grow_beyond_what_it_was_fitted_to():
    known = random_experience(20)
    space = Moments(known, "classification")
    assert not space.grown(known.joined(random_experience(20, seed=1)))
    assert not space.grown(known.joined(Experience.of([record(GAINS, encoder="bert", task="new")])))
    assert space.grown(known.joined(Experience.of([record(GAINS, target_kind="regression", task="new")])))
    assert len(space) == 40
