"""Bank: questions and answers, what is excluded, added and saved."""

import math
from pathlib import Path

import numpy as np
import pytest

from lossrag.errors import BankError, ConfigError, OptionError
from lossrag.lossbank.experience import bank as bank_module
from lossrag.lossbank.experience.bank import LossBank, Retrieval
from lossrag.lossbank.experience.files import load_experience, save_experience
from lossrag.lossbank.experience.outcomes import Outcomes
from lossrag.lossbank.experience.questions import Answer, Neighbour, Question
from lossrag.lossbank.experience.trials import CaseRecord, Experience, Outcome
from tests.lossbank.experiences import SIZE, case, context, random_experience, record, same

LOSSES = ["mae", "logit_adjusted_1", "brier"]


def question(progress: float = 0.05, encoder: str = "mlp", losses=LOSSES, kind: str = "classification", **entries):
    return Question(context(**entries), progress, encoder, kind, losses)


def world(sources=("news", "mail"), encoder="mlp") -> Experience:
    """Noisy cases, where mae gains, and imbalanced ones, where logit adjustment does; the context tells which."""
    records = []
    for source in sources:
        for n in range(12):
            noisy = n % 2 == 0
            entries = {"query_disagreement": 0.4 * noisy + 0.01 * n, "balance_entropy": 0.5 + 0.5 * noisy}
            gains = {"mae": 0.08, "logit_adjusted_1": -0.02} if noisy else {"mae": -0.1, "logit_adjusted_1": 0.06}
            trouble = "symmetric" if noisy else "imbalance"
            moments = {0.05: context(**entries)}
            records.append(record(gains, moments, source=source, trouble=trouble, seed=n, encoder=encoder))
    return Experience.of(records)


NOISY = {"query_disagreement": 0.42, "balance_entropy": 1.0}


def test_the_answer_is_the_mean_over_the_nearest_cases():
    bank = LossBank(world(), retrieval=Retrieval(neighbours=5, trainings=1))
    answer = bank.ask(question(**NOISY))
    cases = [near.case for near in answer.neighbours]
    assert len(cases) == 5
    assert {near.trouble for near in cases} == {"symmetric"}
    distances = [near.distance for near in answer.neighbours]
    assert distances == sorted(distances)
    space = bank.moments("classification")
    nearest = space.nearest(space.point(context(**NOISY), 0.05, "mlp"), 5)
    expected = Outcomes(bank.experience).expected(nearest.cases, LOSSES, "classification")
    assert answer.mean.tolist() == expected.mean.tolist()
    assert answer.error.tolist() == expected.error.tolist()
    assert answer.trials.tolist() == [5, 5, 0]
    assert answer.best(2)[0] == "mae"
    assert answer.known
    assert answer.sources == ("mail", "news")


def test_the_same_question_has_the_same_answer_in_whatever_order_the_losses_are():
    bank = LossBank(world())
    one, two = bank.ask(question(**NOISY)), bank.ask(question(losses=LOSSES[::-1], **NOISY))
    assert one.mean == pytest.approx(two.mean[::-1], abs=1e-15)


def test_the_story_of_an_answer():
    answer = LossBank(world(), retrieval=Retrieval(neighbours=12, trainings=1)).ask(question(**NOISY))
    place = LOSSES.index("mae")
    worth = f"{100 * answer.mean[place]:+.1f} ± {196 * answer.error[place]:.1f}"
    assert answer.story() == f"12 of 12 like it had symmetric noise; mae was worth {worth} points there."
    told = answer.story(["brier"])
    assert "brier was worth" in told
    assert "as losses like it show" in told


def test_the_story_of_troubles_and_doubts():
    def told(*troubles: str, encoder: str = "mlp", novelty: float = 0.5) -> str:
        near = tuple(Neighbour(case(trouble=trouble), 0.1) for trouble in troubles)
        ones = np.array([0.043, 0.0, 0.0])
        return Answer(question(encoder=encoder), ones, ones / 14, np.array([3, 0, 0]), near, novelty, ("mlp",)).story()

    assert told("symmetric", "clean", "symmetric") == (
        "2 of 3 like it had symmetric noise; mae was worth +4.3 ± 0.6 points there."
    )
    assert told("clean").startswith("1 of 1 like it were clean;")
    assert told("unknown").startswith("1 of 1 like it had troubles that nobody knows;")
    assert told("outliers").startswith("1 of 1 like it had outliers;")
    assert told("clean", encoder="bert").endswith(" No case had the encoder bert, only mlp.")
    assert told("clean", novelty=2.34).endswith(
        " It is unlike anything known: 2.3 times as far as the bank's own cases lie from each other."
    )
    for novelty in (1.04, math.inf):
        assert told("clean", novelty=novelty).endswith(
            "unlike anything known: farther than the bank's own cases lie from each other."
        )


def test_cases_with_another_encoder_answer_only_where_there_are_too_few():
    """24 cases with an MLP; what mae gains there, a TextCNN loses: 8 cases with one are no 10, but 6."""

    def cnn(number: int) -> Experience:
        gains = {"mae": -0.3}
        return Experience.of(record(gains, {0.05: context(**NOISY)}, encoder="textcnn", seed=n) for n in range(number))

    for number, neighbours, encoders in ((8, 6, {"textcnn"}), (8, 10, {"textcnn", "mlp"})):
        bank = LossBank(world().joined(cnn(number)), retrieval=Retrieval(neighbours=neighbours, trainings=1))
        answer = bank.ask(question(encoder="textcnn", losses=["mae"], **NOISY))
        assert {near.case.encoder for near in answer.neighbours} == encoders
        assert answer.encoders == ("mlp", "textcnn")
        assert answer.known
    assert len(bank.ask(question(**NOISY)).neighbours) == 10
    bank.add(record({"mae": -0.3}, {0.05: context(**NOISY)}, encoder="textcnn", seed=n) for n in (8, 9))
    answer = bank.ask(question(encoder="textcnn", losses=["mae"], **NOISY))
    assert {near.case.encoder for near in answer.neighbours} == {"textcnn"}


def test_an_answer_is_a_guess_where_the_encoder_or_the_context_is_unheard_of():
    bank = LossBank(world(), retrieval=Retrieval(neighbours=5, trainings=1))
    assert bank.ask(question(**NOISY)).known
    strange = bank.ask(question(encoder="bert", **NOISY))
    assert not strange.known
    assert strange.best() == ["mae"]
    far = bank.ask(Question(np.full(SIZE, 30.0), 0.05, "mlp", "classification", LOSSES))
    assert far.novelty > 1
    assert not far.known


def test_a_bank_that_knows_nothing_of_such_tasks():
    for bank, kind, losses in (
        (LossBank(Experience()), "classification", LOSSES),
        (LossBank(world()), "regression", ["l1"]),
    ):
        answer = bank.ask(question(kind=kind, losses=losses))
        assert answer.mean.tolist() == [0] * len(losses)
        assert answer.error.tolist() == [1] * len(losses)
        assert answer.trials.tolist() == [0] * len(losses)
        assert answer.neighbours == ()
        assert not answer.known
        assert math.isinf(answer.novelty)
        assert answer.story() == f"The bank has no trials of losses for {kind} that are registered here."


def test_cases_of_losses_that_are_not_registered_do_not_answer():
    """Nobody here knows what they tried, so nothing may be concluded from them, nor told of them."""
    strange = Experience.of(record({"my_loss": 0.2}, task=f"mine {n}", source="mine") for n in range(30))
    asked = Question(np.zeros(SIZE), 0.05, "mlp", "classification", ["mae", "brier"])
    alone = LossBank(strange).ask(asked)
    assert (alone.neighbours, alone.mean.tolist(), alone.known) == ((), [0, 0], False)
    both = LossBank(world().joined(strange)).ask(asked)
    assert "mine" not in both.sources
    assert both.mean.tolist() == LossBank(world()).ask(asked).mean.tolist()
    bank = LossBank(strange)
    bank.ask(asked)
    bank.add([record({"mae": 0.1}, task="mine 3", source="mine")])
    (near,) = bank.ask(asked).neighbours
    assert near.case.task == "mine 3", "it answers from its first trial of a loss that is known on"


def test_no_losses_on_offer():
    answer = LossBank(world()).ask(question(losses=[]))
    assert answer.mean.shape == (0,)
    assert answer.best() == []


def test_excluded_sources_know_nothing_and_lend_nothing():
    both = world()
    bank = LossBank(both, exclude=["news"])
    assert bank.sources == ("mail",)
    assert bank.ask(question(**NOISY)).sources == ("mail",)
    alone = LossBank(both.without(["news"]))
    assert bank.ask(question(**NOISY)).mean.tolist() == alone.ask(question(**NOISY)).mean.tolist()


def test_excluding_the_only_source_leaves_a_bank_that_says_so():
    bank = LossBank(world(["news"]), exclude=["news"])
    assert bank.sources == ()
    told = bank.ask(question(**NOISY)).story()
    assert told == "The bank has no trials of losses for classification that are registered here."


def test_a_source_to_exclude_that_is_not_there_is_an_error():
    with pytest.raises(ConfigError, match="no source 'newz' to exclude: did you mean 'news'"):
        LossBank(world(), exclude=["newz"])
    with pytest.raises(ConfigError, match="a list of names, not the string 'news'"):
        LossBank(world(), exclude="news")
    assert LossBank(Experience(), exclude=["news"]).sources == ()


def test_trials_of_losses_that_are_not_registered_stay_but_are_not_offered(tmp_path):
    foreign = Experience.of([record({"mae": 0.1, "somebody_s_own": 0.9}), record({"mae": 0.1}, source="mail")])
    path = tmp_path / "bank.safetensors"
    save_experience(path, foreign)
    bank = LossBank.load(path)
    answer = bank.ask(question())
    assert answer.best() == ["mae"]
    assert answer.mean[0] < 0.11
    assert "somebody_s_own" in bank.experience.names["loss"]


def test_adding_cases_counts_from_the_next_question_on():
    bank = LossBank(world(), exclude=["mail"])
    before = bank.ask(question(losses=["brier"], **NOISY))
    more = [
        record({"brier": 0.5}, {0.05: context(**NOISY)}, source=source, seed=99, trouble="pair")
        for source in ("news", "mail")
    ]
    bank.add(more)
    after = bank.ask(question(losses=["brier"], **NOISY))
    assert (before.trials.tolist(), after.trials.tolist()) == ([0], [1])
    assert "pair" in [near.case.trouble for near in after.neighbours]
    assert bank.sources == ("news",)


def test_saving_and_loading(tmp_path):
    path = tmp_path / "bank.safetensors"
    bank = LossBank(random_experience(9))
    bank.save(path)
    assert same(LossBank.load(path).experience, bank.experience)
    part = LossBank.load(path, exclude=["source 1"])
    before = path.read_bytes()
    with pytest.raises(BankError, match="made without source 1: saved, it would lose them"):
        part.save(path)
    assert path.read_bytes() == before
    assert len(load_experience(path)) == 9


def test_a_package_without_a_bank_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(bank_module, "BUILTIN", tmp_path / "builtin.safetensors")
    with pytest.raises(BankError, match=r"comes without a bank .* 'lossrag bank collect builtin'"):
        LossBank.builtin()
    save_experience(tmp_path / "builtin.safetensors", world())
    assert LossBank.builtin(exclude=["news"]).sources == ("mail",)


def test_the_builtin_bank_lies_in_the_package():
    assert Path(bank_module.__file__).parent == bank_module.BUILTIN.parent


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": np.zeros(SIZE - 1)}, f"context has {SIZE} entries"),
        ({"context": np.full(SIZE, math.nan)}, "context has entries that are not finite"),
        ({"progress": 1.5}, "progress must be from 0 to 1"),
        ({"progress": math.nan}, "progress must be"),
        ({"target_kind": "ranking"}, "target_kind='ranking' is unknown"),
        ({"losses": ["l1", "mae"]}, "losses must be for classification, got l1"),
    ],
)
def test_questions_that_make_no_sense_are_refused(changes, message):
    given = {"context": context(), "progress": 0.1, "encoder": "mlp", "target_kind": "classification", "losses": LOSSES}
    with pytest.raises(OptionError, match=f"Question: {message}"):
        Question(**{**given, **changes})


def test_questions_about_unheard_losses_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'mae'"):
        question(losses=["maee"])


def test_neighbours_are_asked_until_there_are_trainings_enough():
    """Cases of one training are asked up to 50, half of those there are at most; twenty of three trainings make 60."""
    for number, repeats, expected in ((200, 1, 50), (200, 2, 25), (200, 3, 20), (60, 1, 30), (30, 1, 20), (12, 1, 12)):
        moments = {0.05: context(query_disagreement=0.4)}
        records = [CaseRecord(case(seed=n), moments, {"mae": Outcome(0.01, 0.01, repeats)}) for n in range(number)]
        answer = LossBank(Experience.of(records)).ask(question(losses=["mae"]))
        assert len(answer.neighbours) == expected, (number, repeats)


def test_no_neighbours_are_no_retrieval():
    with pytest.raises(OptionError, match="Retrieval: neighbours must be 1 or more"):
        Retrieval(neighbours=0)
    with pytest.raises(OptionError, match="Retrieval: trainings must be 1 or more"):
        Retrieval(trainings=0)
