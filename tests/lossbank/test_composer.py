"""Decisions of a composer in situations whose right answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lossrag import ConfigError
from lossrag.lossbank import (
    LOSSES,
    Composer,
    ComposerConfig,
    LookAheadOptions,
    LossInputs,
    Moment,
    OneStepOptions,
    Tangent,
    TaskMoment,
    TaskSpec,
    contributions,
    cosines,
    gradient_sizes,
)
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from tests.lossbank.advisers import Adviser
from tests.lossbank.oracles import built_in

REFERENCE = "cross_entropy"
COUNTS = (10.0, 5.0, 2.0)
FOUR = ("cross_entropy", "mae", "brier", "logit_adjusted_1")
EVIDENCE = {"decay", "review"}
"""Options of the evidence; the others are the composer's."""
CONTEXT = torch.zeros(len(CONTEXT_NAMES))
ROBUST = {"mae": (0.04, 0.01, 9), "brier": (0.02, 0.01, 9), "logit_adjusted_1": (-0.05, 0.01, 9)}


def seen(rows=32):
    """One task at a moment."""
    generator = torch.Generator().manual_seed(0)
    logits, features = torch.randn(rows, 3, generator=generator), torch.randn(rows, 4, generator=generator)
    targets = torch.randint(3, (rows,), generator=generator)
    inputs = LossInputs(logits, targets, features, torch.tensor(COUNTS))
    return TaskMoment(inputs, inputs, torch.tensor(1.0))


def moment(name):
    """One task, whose logits the outer objective wants to move along the gradient of a loss."""
    task = seen()
    inputs = task.support
    z = inputs.logits.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(LOSSES[name](z, inputs.targets, class_counts=inputs.class_counts).mean(), z)
    tangent = Tangent(inputs, wanted, torch.zeros_like(inputs.features))

    def measured(losses, sizes):
        return [cosines(tangent, contributions(tangent, losses[0]), sizes[0])]

    return Moment([task], measured)


def told(learner, name, steps):
    """The composer, told after each of these steps that the gradient of a loss is wanted."""
    for step in steps:
        learner.observe(moment(name), step)
    return learner


def spec(counts=COUNTS, reference=REFERENCE):
    return TaskSpec("only", "classification", reference, None if counts is None else torch.tensor(counts))


def composer(policy, counts=COUNTS, seed=0, **options):
    """With evidence one step ahead."""
    evidence = OneStepOptions(**{key: options.pop(key) for key in EVIDENCE & options.keys()})
    return Composer([spec(counts)], ComposerConfig(policy=policy, **options), evidence, seed=seed)


def asking(bank, reference=REFERENCE, evidence=None, **options):
    """One that asks a bank, without evidence, and counts one error below a gain."""
    options = {"risk": 1.0, **options}
    return Composer([spec(reference=reference)], ComposerConfig(**options), evidence, bank, encoder="textcnn")


def kinds(learner):
    return [event.what for event in learner.events]


@pytest.mark.parametrize("name", FOUR[1:])
def test_the_loss_whose_gradient_is_wanted_wins(name):
    learner = told(composer("gradient", candidates=FOUR, review=5, decay=0.0), name, range(1, 60))
    (shares,) = learner.compositions().values()
    assert next(iter(shares)) == name
    assert shares[name] > 0.9
    assert any(event.what == "off" and "mixture" in event.reason for event in learner.events)


def test_reviews_come_early_at_first():
    learner = composer("gradient", review=20)
    reviews = [0, *(told(learner, "mae", [step]).reviews for step in range(1, 42))]
    assert [step for step in range(1, 42) if reviews[step] > reviews[step - 1]] == [4, 8, 16, 20, 40]


def test_what_is_off_is_tried_again_at_its_own_score():
    learner = told(composer("gradient", candidates=FOUR, review=2, retry=1), "mae", range(1, 41))
    back = next(event for event in learner.events if event.what == "retry")
    off = next(event for event in learner.events if event.what == "off" and event.loss == back.loss)
    assert back.step > off.step
    assert "off for 1 reviews" in back.reason


def test_priors_are_corrected_where_they_are_uneven():
    def offered(counts, **options):
        return {loss.name for loss in composer("gradient", counts, **options).mixtures()[0].losses}

    assert "logit_adjusted_1" in offered((10.0, 5.0, 2.0))
    even = offered((10.0, 9.0, 8.0))
    assert {"logit_adjusted_1", "class_balanced_ce_0.99"} & even == set()
    assert {"cross_entropy", "mae", "multiclass_hinge"} <= even
    assert "logit_adjusted_1" in offered((10.0, 9.0, 8.0), candidates=("cross_entropy", "logit_adjusted_1"))


def test_priors_are_left_alone_where_rows_count_alike():
    by_rows = replace(spec((10.0, 5.0, 2.0)), by_class=False)
    config = ComposerConfig(policy="uniform")
    offered = {loss.name for loss in Composer([by_rows], config).mixtures()[0].losses}
    assert {"logit_adjusted_1", "class_balanced_ce_0.99"} & offered == set()
    assert {"cross_entropy", "mae"} <= offered


def test_pairs_of_samples_are_taken_where_they_are_named():
    assert not any(loss.relational for loss in composer("gradient").mixtures()[0].losses)
    named = composer("gradient", candidates=("cross_entropy", "triplet_0.2"))
    assert [loss.name for loss in named.mixtures()[0].losses] == ["cross_entropy", "triplet_0.2"]


def test_uniform_is_brought_to_one_size():
    learner = Composer([spec()], ComposerConfig(policy="uniform", candidates=("cross_entropy", "mae")))
    learner.measure([seen()], 1)
    assert learner.compositions() == {"only": {"cross_entropy": 0.5, "mae": 0.5}}
    task, (mixture,) = seen(), learner.mixtures()
    sizes, _ = gradient_sizes(task.support, mixture.losses, task.per_feature)
    assert (mixture.coefficients.double() * sizes).tolist() == pytest.approx([0.5 * float(sizes[0])] * 2)


def test_random_draws_by_the_seed():
    chosen = [composer("random", None, seed=seed).state.active for seed in (0, 0, 1)]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])
    assert int(chosen[0].sum()) == 8


def test_k_larger_than_the_library_takes_all():
    assert int(composer("random", candidates=("cross_entropy", "mae"), k=50).state.active.sum()) == 2


def test_a_bank_is_asked_with_what_is_on_offer():
    bank = Adviser()
    asking(bank).ask([CONTEXT], 15, 0.05)
    (question,) = bank.asked
    assert (question.progress, question.encoder, question.target_kind) == (0.05, "textcnn", "classification")
    assert {"mae", "logit_adjusted_1", "triplet_0.2"} <= set(question.losses)
    assert {"squared_error", "cross_entropy"} & set(question.losses) == set(), "gains are counted from cross-entropy"


def test_what_is_surely_better_is_mixed_with_the_reference():
    learner = asking(Adviser(ROBUST), temperature=0.01)
    learner.ask([CONTEXT], 15, 0.05)
    (shares,) = learner.compositions().values()
    total = math.e**3 + math.e + 1
    expected = {"mae": math.e**3 / total, "brier": math.e / total, "cross_entropy": 1 / total}
    assert shares == pytest.approx(expected)
    ranks, composed = learner.events
    assert ranks.reason.splitlines()[0] == "1. mae +4.0 ± 2.0, 9 trials"
    assert (composed.what, composed.loss) == ("composed", "mae")
    assert composed.reason == (
        "1 of 2 like it had symmetric noise; mae was worth +4.0 ± 2.0 points there; brier was worth +2.0 ± 2.0 points "
        "there."
    )
    assert composed.neighbours[0]["distance"] == 0.5
    assert [case["trouble"] for case in composed.neighbours] == ["symmetric", "pair"]


def test_where_nothing_is_surely_better_the_reference_stays_as_it_is():
    learner = asking(Adviser({"mae": (0.01, 0.02, 9), "brier": (-0.02, 0.01, 9)}))
    learner.ask([CONTEXT], 15, 0.05)
    (mixture,) = learner.mixtures()
    assert ([loss.name for loss in mixture.losses], mixture.coefficients) == (["cross_entropy"], None)
    assert kinds(learner) == ["kept"]
    assert learner.events[0].reason.endswith("Not surely better than cross_entropy, which stays alone.")


@pytest.mark.parametrize(
    ("bank", "why"),
    [
        (None, "There is no bank."),
        (Adviser(ROBUST, known=False), "1 of 2 like it had symmetric noise. It is unlike anything known: 3.0 times"),
    ],
)
def test_silence_leaves_the_reference_alone_and_says_so(bank, why):
    learner = asking(bank)
    learner.ask([CONTEXT], 0, 0.0)
    assert learner.compositions() == {"only": {"cross_entropy": 1.0}}
    (event,) = learner.events
    assert event.what == "silent"
    assert event.reason.startswith(why)
    assert event.reason.endswith(" cross_entropy stays alone.")


def test_numbers_that_are_none_are_not_asked_about():
    bank = Adviser(ROBUST)
    learner = asking(bank)
    learner.ask([CONTEXT + float("nan")], 15, 0.05)
    assert bank.asked == []
    assert learner.compositions() == {"only": {"cross_entropy": 1.0}}


def test_a_reference_that_the_bank_does_not_know():
    learner = asking(Adviser(ROBUST), reference="focal_2")
    learner.ask([CONTEXT], 15, 0.05)
    assert learner.compositions() == {"only": {"focal_2": 1.0}}
    assert "no trials of focal_2" in learner.events[0].reason


def test_before_the_first_step_what_differs_between_tasks_counts():
    """Two neighbours with a standard error of a point are 1.4 points apart: .04 is enough, .012 is not."""
    early, later = (asking(Adviser({**ROBUST, "brier": (0.012, 0.01, 9)}), temperature=0.02) for _ in range(2))
    early.ask([CONTEXT], 0, 0.0)
    assert set(early.compositions()["only"]) == {"mae", "cross_entropy"}
    later.ask([CONTEXT], 15, 0.05)
    assert set(later.compositions()["only"]) == {"mae", "brier", "cross_entropy"}


def test_a_task_that_is_composed_is_not_asked_about_again():
    """MAE is better than cross-entropy before the first step, and brier than MAE from 5 % on; at 15 % nothing asks."""
    bank = Adviser(ROBUST, by_progress={at: {**ROBUST, "brier": (0.2, 0.01, 9)} for at in (0.05, 0.15)})
    tasks = [replace(spec(reference=name), name=f"from {name}") for name in (REFERENCE, "mae")]
    learner = Composer(tasks, ComposerConfig(), None, bank, encoder="textcnn")
    contexts = [CONTEXT, CONTEXT + 1]
    learner.ask(contexts, 0, 0.0)
    first = learner.compositions()
    assert next(iter(first["from cross_entropy"])) == "mae"
    assert first["from mae"] == {"mae": 1.0}
    learner.ask(contexts, 15, 0.05)
    second = learner.compositions()
    assert second["from cross_entropy"] == first["from cross_entropy"]
    assert next(iter(second["from mae"])) == "brier"
    learner.ask(contexts, 45, 0.15)
    assert learner.compositions() == second
    assert [(question.progress, float(question.context[0])) for question in bank.asked] == [(0, 0), (0, 1), (0.05, 1)]
    assert [(event.step, event.task, event.what) for event in learner.events if event.what != "ranked"] == [
        (0, "from cross_entropy", "composed"),
        (0, "from mae", "kept"),
        (15, "from mae", "composed"),
    ]


@pytest.mark.parametrize(("known", "what"), [(False, "silent"), (True, "kept")])
def test_a_task_that_keeps_its_reference_is_asked_about_again(known, what):
    bank = Adviser({"mae": (0.01, 0.02, 9)}, known, by_progress={0.15: ROBUST})
    learner = asking(bank)
    for step, progress in ((0, 0.0), (15, 0.05), (45, 0.15)):
        assert learner.alone(0)
        bank.known = known or progress == 0.15
        learner.ask([CONTEXT], step, progress)
    assert not learner.alone(0)
    assert [question.progress for question in bank.asked] == [0, 0.05, 0.15]
    assert kinds(learner) == [what, what, "ranked", "composed"]
    assert learner.events[-1].step == 45


def test_what_waits_to_be_tried_again_is_no_reference_alone():
    """Evidence has switched off all but the reference: there is no question, and what was off comes back."""
    two = (REFERENCE, "mae")
    learner = asking(Adviser(ROBUST), evidence=OneStepOptions(review=2), candidates=two, temperature=1.0)
    learner.ask([CONTEXT], 15, 0.05)
    step = 15
    while len(learner.compositions()["only"]) > 1:
        step += 1
        assert step < 200
        told(learner, REFERENCE, [step])
    assert not learner.alone(0)
    events = len(learner.events)
    learner.ask([CONTEXT], step, 0.5)
    assert len(learner.events) == events
    assert len(learner.bank.asked) == 1


def test_evidence_moves_the_shares_of_what_was_retrieved():
    learner = asking(Adviser(ROBUST), evidence=OneStepOptions(review=4), temperature=0.01)
    learner.ask([CONTEXT], 15, 0.05)
    before = learner.compositions()["only"]
    told(learner, "brier", range(16, 24))
    after = learner.compositions()["only"]
    assert set(after) <= set(before)
    assert "cross_entropy" in after
    assert after["brier"] > before["brier"]
    assert not learner.state.count[0, learner.names.index("focal_2")], "nothing else was measured"


def test_where_the_bank_is_silent_evidence_chooses_beside_the_reference():
    learner = asking(Adviser(known=False), evidence=OneStepOptions(), k=3)
    learner.ask([CONTEXT], 0, 0.0, last=False)
    assert learner.compositions() == {"only": {"cross_entropy": 1.0}}, "another question follows"
    learner.ask([CONTEXT], 15, 0.05)
    shares = learner.compositions()["only"]
    assert shares.pop("cross_entropy") == pytest.approx(0.5)
    assert list(shares.values()) == pytest.approx([1 / 6] * 3)
    assert "Evidence chooses among 3" in learner.events[1].reason
    learner.ask([CONTEXT], 45, 0.15)
    assert len(learner.bank.asked) == len(learner.events) == 2, "it is made of more than its reference"


def test_state_round_trip():
    first, second = (composer("gradient", review=2) for _ in range(2))
    told(first, "mae", range(1, 4))
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    for each in (first, second):
        told(each, "mae", [4])
    assert torch.equal(first.state.scores, second.state.scores)
    assert [m.losses for m in first.mixtures()] == [m.losses for m in second.mixtures()]
    with pytest.raises(ConfigError, match="another library"):
        composer("gradient", candidates=("mae",)).load_state_dict(first.state_dict())


NEEDY = {name for name in built_in() if "class_counts" in LOSSES[name].needs}


@pytest.mark.parametrize("policy", ["uniform", "random", "gradient"])
def test_what_a_task_cannot_give_is_not_offered(policy):
    """Losses on class counts, in a library of which nothing was named."""
    evidence = OneStepOptions() if policy == "gradient" else None
    learner = Composer([spec(None)], ComposerConfig(policy=policy, k=99), evidence)
    (mixture,) = learner.mixtures()
    names = {loss.name for loss in mixture.losses}
    assert {"cross_entropy", "mae", "multiclass_hinge"} <= names
    assert not names & NEEDY
    inputs = seen().support
    assert mixture(inputs.logits, inputs.targets, inputs.features).isfinite().all()


def test_a_bank_offers_it_neither():
    bank = Adviser({"ldam_1": (0.1, 0.01, 9), **ROBUST})
    learner = Composer([spec(None)], ComposerConfig(temperature=0.01), None, bank, encoder="textcnn")
    learner.ask([CONTEXT], 15, 0.05)
    assert not set(bank.asked[0].losses) & NEEDY
    assert set(learner.compositions()["only"]) == {"mae", "brier", "cross_entropy"}


@pytest.mark.parametrize("name", ["ldam_30", "logit_adjusted_1"])
def test_named_it_is_refused_by_class_and_field(name):
    config = ComposerConfig(policy="uniform", candidates=("cross_entropy", name))
    message = (
        f"ComposerConfig: candidates names {name}, which needs class counts, and the task 'only' has none: give its"
    )
    with pytest.raises(ConfigError, match=message):
        Composer([replace(spec(), name="other"), spec(None)], config)
    regression = TaskSpec("values", "regression", "l1")
    assert Composer([spec(), regression], config).names == sorted(["cross_entropy", name, "l1"])
    Composer([spec(None)], replace(config, policy="fixed"))


def test_specs():
    with pytest.raises(ConfigError, match="TaskSpec: reference=ldam_1 needs class_counts"):
        spec(None, "ldam_1")
    with pytest.raises(ConfigError, match=r"TaskSpec: class_counts are \(K,\), a number for each class, got \(1, 3\)"):
        spec((COUNTS,))
    for wrong in ((1.0, -1.0), (1.0, float("nan")), (1.0, float("inf"))):
        with pytest.raises(ConfigError, match="TaskSpec: class_counts are numbers of samples, 0 or more, got"):
            spec(wrong)
    assert spec((4.0, 0.0)).class_counts.tolist() == [4.0, 0.0]


def test_mistakes():
    with pytest.raises(ConfigError, match="ComposerConfig: policy=gradient learns shares from evidence"):
        Composer([spec()], ComposerConfig(policy="gradient"))
    with pytest.raises(ConfigError, match="ComposerConfig: policy=uniform learns no shares"):
        composer("uniform")
    with pytest.raises(ConfigError, match="did you mean 'cross_entropy'"):
        composer("gradient", candidates=("cross_entropi",))
    with pytest.raises(ConfigError, match="is for regression, not classification"):
        Composer([TaskSpec("only", "classification", "huber")], ComposerConfig(policy="uniform"))
    pairs = [spec(reference="triplet_0.2")]
    Composer(pairs, ComposerConfig(policy="gradient"), OneStepOptions())
    for tasks, names in ((pairs, None), ([spec()], ("cross_entropy", "triplet_0.2"))):
        with pytest.raises(ConfigError, match=r"'triplet_0.2' works on pairs of samples.*look one step ahead"):
            Composer(tasks, ComposerConfig(policy="gradient", candidates=names), LookAheadOptions())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ComposerConfig, {"policy": "retreival"}, "ComposerConfig: policy='retreival' is unknown: did you mean"),
        (ComposerConfig, {"k": 0}, "ComposerConfig: k must be 1 or more"),
        (ComposerConfig, {"risk": -1.0}, "ComposerConfig: risk must be 0 or more"),
        (ComposerConfig, {"temperature": 0.0}, "ComposerConfig: temperature must be a positive number"),
        (ComposerConfig, {"questions": (0.4, 0.1)}, "questions must be ascending shares"),
        (ComposerConfig, {"questions": ()}, "one at least"),
        (ComposerConfig, {"questions": (0.0, 1.0)}, r"in \[0, 1\)"),
        (ComposerConfig, {"candidates": ()}, "candidates is empty"),
        (OneStepOptions, {"decay": 1.0}, r"OneStepOptions: decay must be in \[0, 1\)"),
        (OneStepOptions, {"outer": "max"}, "choose from: lambda, mean"),
        (LookAheadOptions, {"unit": 0.0}, "LookAheadOptions: unit must be a positive number"),
        (LookAheadOptions, {"horizon": 1}, "horizon must be 2 or more"),
    ],
)
def test_options_out_of_range_are_named_by_class_and_field(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(**options)
