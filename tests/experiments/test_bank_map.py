"""bank.png: cases in the plane by the loss that won, a run's tasks among them; drawn again, and after a resume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.image import imread

from lossrag.experiments.record.bank_map import COLOURED, asked_tasks, bank_figure, drawn_cases, winners_looks
from lossrag.experiments.record.composition_plot import LOOKS, loss_looks
from lossrag.experiments.record.jsonl import iter_points
from lossrag.experiments.record.share_series import ShareSeries
from lossrag.lossbank import CONTEXT_NAMES, LossBank
from lossrag.lossbank.experience.trials import Case, CaseRecord, Experience, Outcome
from tests.experiments.banks import CLASS_GAINS, VALUE_GAINS, records, write_bank

pytestmark = pytest.mark.pictures

SOME = {"mae": 0.04, "brier": 0.02}


def case(gains, number, moments=(0.0, 0.05), kind="classification", trouble="clean"):
    """A case whose context is its number, and a hundredth of the progress more, in every entry."""
    contexts = {}
    for progress in moments:
        context = np.full(len(CONTEXT_NAMES), number + progress / 100, np.float32)
        context[: CONTEXT_NAMES.index("progress") + 1] = kind == "classification", kind == "regression", progress
        contexts[progress] = context
    told = Case("source", f"task {number}", "mlp", kind, 2, 100, 100, "accuracy", 0.5, trouble)
    return CaseRecord(told, contexts, {name: Outcome(gain) for name, gain in gains.items()})


def bank_of(*cases):
    return LossBank(Experience.of(cases))


def stars(axes):
    """Where the tasks are."""
    return [drawn.get_offsets() for drawn in axes.collections if len(drawn.get_sizes()) and drawn.get_sizes()[0] == 190]


def drawn_points(axes, colour):
    """How many cases have a colour."""
    groups = [drawn for drawn in axes.collections if isinstance(drawn, PathCollection) and drawn.get_sizes()[0] == 26]
    return sum(
        len(group.get_offsets())
        for group in groups
        if len(group.get_offsets()) and to_hex(group.get_facecolor()[0]).upper() == colour
    )


def test_the_nearest_moment_and_the_winner_of_every_case():
    bank = bank_of(
        case({"mae": 0.04, "brier": 0.02}, 1),
        case({"mae": 0.009, "brier": -0.5}, 2),  # less than a point: nothing beats the reference
        case({"brier": 0.03}, 3, moments=(0.02, 0.15)),
    )
    moments = bank.moments("classification")
    cases = drawn_cases(bank, moments, 0.05)
    assert cases.winners.tolist() == ["mae", "cross_entropy", "brier"]
    # of case 3 the moment .02 is nearer to .05 than .15
    expected = [moments.points[row] for row in (1, 3, 4)]
    assert np.array_equal(cases.points, np.array(expected, np.float64))
    assert cases.losses == ("brier", "mae")
    assert np.allclose(cases.gains, [[0.02, 0.04], [-0.5, 0.009], [0.03, 0.0]])


def test_a_loss_keeps_the_look_it_has_and_no_other_gets_it():
    looks = {"mae": LOOKS[3], "brier": LOOKS[-1]}  # brier is hatched as no point can be
    winners = np.array(["mae"] * 3 + ["brier"] * 3 + ["focal_2"] * 2 + [f"loss {n:02}" for n in range(12)])
    found = winners_looks(winners, looks)
    assert found["mae"] == LOOKS[3]
    assert "brier" not in found
    assert found["focal_2"] == LOOKS[0]
    assert len(found) == len(set(found.values())) == COLOURED
    taken = {f"run {number}": look for number, look in enumerate(LOOKS)}
    assert winners_looks(winners, taken) == {}, "the run has all of them: its winners are among the others"


def test_tasks_are_where_they_last_asked():
    """A task that asks as a case looked lies on it; its trail begins where another one lies."""
    bank = bank_of(*(case(SOME, number) for number in (1, 2, 3)), case({"brier": 0.03}, 9))
    contexts = [torch.from_numpy(bank.experience.contexts[row]) for row in (1, 7)]
    nothing = torch.full_like(contexts[0], float("nan"))
    tasks = asked_tasks(["A", "never"], "mlp", torch.stack([torch.stack([own, nothing]) for own in contexts]))
    assert [task.name for task in tasks] == ["A"]
    assert tasks[0].target_kind == "classification"
    figure = bank_figure(bank, tasks, {"mae": LOOKS[4]})
    (axes,) = figure.axes
    ((star,),) = stars(axes)
    cases = np.concatenate([g.get_offsets() for g in axes.collections if g.get_sizes()[:1].tolist() == [26]])
    assert np.abs(cases - star).sum(axis=1).min() == pytest.approx(0, abs=1e-5)
    trail = next(line for line in axes.lines if line.get_color() == "black" and len(line.get_xdata()) == 2)
    assert (trail.get_xdata()[-1], trail.get_ydata()[-1]) == pytest.approx(tuple(star))
    assert {text.get_text() for text in axes.texts} >= {"A", "clean"}
    assert drawn_points(axes, LOOKS[4][0]) == 3
    far = asked_tasks(["B"], "mlp", contexts[1][None, None] + 5 * torch.arange(2)[:, None, None])
    far_axes = bank_figure(bank, far).axes[0]
    ((x, y),) = stars(far_axes)[0]
    assert far_axes.get_xlim()[0] < x < far_axes.get_xlim()[1], "in the picture, wherever it is"
    assert far_axes.get_ylim()[0] < y < far_axes.get_ylim()[1]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend[:2] == ["mae  3", "brier  1"]
    assert legend[3] == "mlp"


def test_a_panel_for_each_kind_of_target_that_is_there():
    values = [case({"l1": 0.03}, number, kind="regression") for number in (1, 2)]
    assert len(bank_figure(bank_of(case(SOME, 1), *values)).axes) == 2
    assert len(bank_figure(bank_of(case(SOME, 1))).axes) == 1, "a single case is a picture, too"
    assert bank_figure(LossBank(Experience())) is None
    task = asked_tasks(["A"], "mlp", torch.from_numpy(bank_of(*values).experience.contexts[:1, None]))
    assert bank_figure(bank_of(case(SOME, 1)), task) is None, "the bank knows nothing of such targets"


def test_a_run_leaves_the_picture_and_a_resumed_one_too(lossrag, tmp_path):
    bank = write_bank(tmp_path / "bank.safetensors")
    run = tmp_path / "run"
    line = ["train", "experiment=digits", "train.epochs=2", "train.batch_size=64", "log.tensorboard=false"]
    line += ["loss.policy=retrieval", f"loss.bank={bank}", f"run.dir={run}"]
    first = lossrag(*line)
    assert first.code == 0, first
    assert "bank.png" in first.out
    picture = imread(run / "bank.png")
    assert picture.shape[0] > 1000, "two panels"
    again = lossrag("bank", "picture", f"run={run}", "output=again.png")
    assert again.code == 0, again
    assert np.array_equal(imread("again.png"), picture)
    # the same as after a kill at the very end: the checkpoint is all that is left
    (run / "summary.json").unlink()
    (run / "bank.png").unlink()
    assert lossrag(*line).code == 0
    assert np.array_equal(imread(run / "bank.png"), picture)
    assert json.loads((run / "summary.json").read_text())["bank_sources"] == ["made up"]
    looks = loss_looks(ShareSeries.of(iter_points(run / "metrics.jsonl")))
    known = LossBank.load(bank)
    own = winners_looks(drawn_cases(known, known.moments("classification"), 0.15).winners, looks)
    assert own["mae"] == looks["mae"], "as in compositions.png"


def test_no_picture_without_a_bank(train):
    run = train("loss.policy=uniform", "train.epochs=1", "log.tensorboard=false")
    assert (run / "compositions.png").exists()
    assert not (run / "bank.png").exists()


def test_no_picture_where_every_task_kept_its_reference_but_the_way_to_it(lossrag, tmp_path):
    bank, run = write_bank(tmp_path / "bank.safetensors"), tmp_path / "run"
    line = ["train", "experiment=digits", "train.epochs=1", "train.batch_size=64", "loss.policy=retrieval"]
    done = lossrag(*line, f"loss.bank={bank}", "loss.risk=1000", f"run.dir={run}")
    assert done.code == 0, done
    assert [path.name for path in run.glob("*.png")] == ["trajectories.png"]
    assert f"lossrag bank picture run={run}" in " ".join(done.out.split())
    assert lossrag("bank", "picture", f"run={run}").code == 0


def test_a_bank_alone(lossrag, tmp_path):
    bank = write_bank(tmp_path / "bank.safetensors")
    shown = lossrag("bank", "picture", f"bank={bank}", "at=0.15", "output=own.png")
    assert (shown.code, shown.out) == (0, "picture     own.png\n")
    assert imread("own.png").shape[0] > 1000
    empty = tmp_path / "empty.safetensors"
    LossBank(Experience()).save(empty)
    assert "nothing to draw" in lossrag("bank", "picture", f"bank={empty}").error
    for arguments, part in (
        (["at=2"], "at must be in [0, 1)"),
        (["run=nowhere"], "no run directory"),
        (["output=nowhere/a.png"], "Cannot write"),
        (["output=a.xyz"], "Cannot write"),
        (["bank=none"], "knows nothing"),
        (["otuput=a.png"], "did you mean 'output'"),
    ):
        given = arguments if arguments[0].startswith("bank=") else [f"bank={bank}", *arguments]
        assert part in lossrag("bank", "picture", *given).error


def test_many_cases(tmp_path):
    """Two encoders, all winners told apart in the legend, not a name outside the figure."""
    made = [r for encoder in ("mlp", "textcnn") for r in records(encoder, "made up", CLASS_GAINS, "classification")]
    made += records("mlp", "made up", VALUE_GAINS, "regression")
    figure = bank_figure(LossBank(Experience.of(made)))
    figure.draw_without_rendering()
    for axes in figure.axes:
        legend = axes.get_legend().get_window_extent()
        assert legend.x1 <= figure.bbox.x1
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["mae  48", " ", "mlp", "textcnn"]
