"""Contexts that a run records of its tasks, `log.contexts=true`."""

from __future__ import annotations

import pytest
import torch

from lossrag import RunDirectoryError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.record.contexts import load_contexts
from lossrag.experiments.run.build import build_problem, build_suite
from lossrag.experiments.run.contexts import encoder_kind
from lossrag.lossbank import CONTEXT_NAMES, LOSSES, TaskSignals, context_vector
from lossrag.streams import Stream, generator
from lossrag.tensors import load_tensors

RUN = ["weighting=uniform", "train.query_for_baselines=support", "log.contexts=true"]


def test_moments_and_tasks(quick):
    """Two epochs of five steps: 5 % of them is one update at least, as 2 % is, and 15 % are two."""
    run = quick(*RUN, "loss.tasks.parity=mae")
    seen = load_contexts(run)
    assert (seen.run_id, seen.encoder, seen.steps) == (run.name, "mlp", 10)
    assert [(task.name, task.kind, task.outputs) for task in seen.tasks] == [
        ("digit", "classification", 10),
        ("parity", "classification", 2),
        ("loops", "classification", 3),
        ("centre", "regression", 2),
    ]
    assert {task.samples for task in seen.tasks} == {1165}
    assert list(seen.moments) == [0.0, 0.02, 0.15]
    progress = [contexts[:, CONTEXT_NAMES.index("progress")].tolist() for contexts in seen.moments.values()]
    assert progress == [pytest.approx([share] * 4) for share in (0, 0.1, 0.2)]
    fall = [contexts[:, CONTEXT_NAMES.index("query_loss_fall")].tolist() for contexts in seen.moments.values()]
    assert fall[0] == [0.0] * 4
    assert 0.0 not in fall[1] + fall[2]


@pytest.mark.parametrize(
    "losses",
    [["loss.tasks.digit=cross_entropy"], ["loss.tasks.digit=mae"], ["loss.classification=mae"]],
    ids=["reference", "task", "kind"],
)
def test_the_first_context_is_that_of_the_untrained_model(quick, losses):
    """256 rows of each side, drawn by the seed; the losses are the reference's whatever the task is trained with."""
    more = [*RUN, *losses, "seed=5"]
    contexts = load_contexts(quick(*more)).moments[0.0]
    config, _ = load_config(["experiment=digits", *more])
    suite = build_suite(config)
    model = build_problem(config, suite, torch.device("cpu")).model.eval()
    sides = []
    for number, split in enumerate(("support", "query")):
        own = suite.splits[split][0]
        rows = torch.from_numpy(generator(5, Stream.CONTEXT, 0, number, 0).permutation(len(own))[:256])
        with torch.no_grad():
            logits, features = model.outputs(own.inputs.gather(rows), 0)
        losses = LOSSES["cross_entropy"](logits, own.targets[rows]).mean()
        sides.append((logits, own.targets[rows], losses, features))
    counts = torch.bincount(suite.splits["support"][0].targets).float()
    (z, y, support, features), (z_q, y_q, query, others) = sides
    expected = context_vector(
        TaskSignals(z, y, z_q, y_q, "classification", support, query, features, others, None, None, counts, 0.0)
    )
    assert torch.equal(contexts[0], expected)


def test_training_does_not_notice(quick):
    plain, seen = (quick(*RUN, f"log.contexts={on}", "model.dropout=0.5", "seed=2", "run.again=true") for on in "01")
    assert (plain / "metrics.jsonl").read_bytes() == (seen / "metrics.jsonl").read_bytes()
    with pytest.raises(RunDirectoryError, match=r"recorded no contexts .* log\.contexts=true"):
        load_contexts(plain)


def test_resumed_bit_for_bit(tmp_path, sessions):
    arguments = ["train", "experiment=digits", "train.epochs=4", "train.batch_size=128", "log.tensorboard=false", *RUN]
    stops = {"whole": [], "killed": [{"place": "step", "number": number} for number in (1, 2, 2, 2, 3)]}
    for name, kills in stops.items():
        line = {"arguments": [*arguments, f"run.dir={tmp_path}/{name}", "run.checkpoint_seconds=0"]}
        sessions([line | kill for kill in [*kills, {}]])
    (whole, meta), (killed, again) = (load_tensors(tmp_path / name / "contexts.safetensors") for name in stops)
    assert list(whole) == list(killed) == ["0.0", "0.02", "0.05", "0.15"]
    assert all(torch.equal(whole[moment], killed[moment]) for moment in whole)
    assert meta == again


def test_rows_that_are_trained_on_tell_nothing(lossrag, tmp_path):
    error = lossrag(
        "train", "experiment=digits", "weighting=uniform", "log.contexts=true", f"run.root={tmp_path}"
    ).error
    assert "add train.query_for_baselines=support" in error
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_damaged_contexts_are_told(quick):
    run = quick(*RUN)
    (run / "contexts.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunDirectoryError, match=r"cannot be used: it cannot be read .* run\.again=true"):
        load_contexts(run)


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["experiment=digits"], "mlp"),
        (["experiment=topic_quick"], "textcnn"),
        (["experiment=bert_small"], "bert"),
        (["experiment=bert_small", "model.frozen=true"], "bert_frozen"),
    ],
)
def test_encoder_kinds(overrides, kind):
    assert encoder_kind(load_config(overrides)[0]) == kind
