"""Runs with an encoder of the BERT family: a tiny one with random weights, on texts of a dozen words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import lossrag.experiments.benchmark.bert as benchmark
from lossrag import ConfigError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.experiments.run.build import build_problem, build_suite, trained_tables
from lossrag.experiments.run.step import BatchStep
from lossrag.models import BERT
from lossrag.tasks import SPLITS, SUITES, EncoderFiles, Examples, Suite, SuiteEntry, Task
from lossrag.tasks.text.pieces import encode_pieces

SIZES = {"support": 24, "query": 9, "validation": 9, "test": 9}
TASKS = (Task("two", "classification", 2), Task("three", "classification", 3), Task("other", "classification", 2))


@dataclass(frozen=True)
class TextsConfig:
    rho: float = 0.2
    seed: int = 0
    root: str | None = None
    max_tokens: int = 12


def load_texts(config: TextsConfig, encoder: EncoderFiles) -> Suite:
    """One word of every text tells its class."""

    def examples(task: Task, rows: int) -> Examples:
        classes = torch.arange(rows) % task.outputs
        texts = [f"it {' the' * (i % 7)} {('car', 'ball', 'gun')[c]} works" for i, c in enumerate(classes.tolist())]
        return Examples(encode_pieces(encoder, texts, config.max_tokens), classes)

    splits = {name: tuple(examples(task, rows) for task in TASKS) for name, rows in SIZES.items()}
    return Suite("texts", f"texts for {encoder.digest[:12]}", TASKS, False, splits, encoder=encoder.folder)


@pytest.fixture
def bert(tiny_bert, monkeypatch) -> list[str]:
    """Overrides of a run of one epoch of four steps on ``tasks=texts``."""
    monkeypatch.setitem(SUITES._entries, "texts", SuiteEntry(TextsConfig, lambda _: pytest.fail("words"), load_texts))
    sizes = ["train.batch_size=18", "outer.batch_size=9", "train.epochs=1", "optimizer.lr=0.01"]
    return ["tasks=texts", "model=bert", f"model.encoder={tiny_bert}", "log.tensorboard=false", *sizes]


@pytest.fixture
def run_bert(lossrag, bert, tmp_path) -> Callable[..., Path]:
    """A run with further overrides; its directory."""

    def call(*overrides: str, root: Path = tmp_path / "runs") -> Path:
        result = lossrag("train", *bert, f"run.root={root}", *overrides)
        assert result.code == 0, result
        (directory,) = root.iterdir()
        return directory

    return call


def test_fine_tuning_moves_the_encoder(run_bert, tiny_bert):
    tensors, _ = load_checkpoint(run_bert() / "checkpoints" / "last.safetensors")
    fresh = BERT(tiny_bert)
    moved = [not torch.equal(tensors[f"model/encoders.0.{name}"], value) for name, value in fresh.named_parameters()]
    assert all(moved)
    assert not tensors["model/encoders.0.embedding.weight"][0].any()


def test_another_content_of_the_folder_is_another_run(lossrag, bert, tiny_bert, tmp_path, monkeypatch):
    folder, root = tmp_path / "mine", tmp_path / "runs"
    shutil.copytree(tiny_bert, folder)
    line = ["train", *bert, f"model.encoder={folder}", f"run.root={root}", "run.checkpoint_seconds=0"]
    with monkeypatch.context() as patched:
        patched.setattr(
            "lossrag.experiments.train.Training._finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert lossrag(*line).code == 130
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("gun", "gnu"))
    assert "was trained on other data" in lossrag(*line).error


def test_a_frozen_encoder_reads_every_text_once(run_bert, tmp_path, monkeypatch):
    first = run_bert("model.frozen=true", root=tmp_path / "first")
    tensors, _ = load_checkpoint(first / "checkpoints" / "last.safetensors")
    assert {name.partition("/")[2].partition(".")[0] for name in tensors if name.startswith("model/")} == {"heads"}
    monkeypatch.setattr("lossrag.experiments.run.encoded_suites.BERT", lambda *_, **__: pytest.fail("read again"))
    second = run_bert("model.frozen=true", root=tmp_path / "second")
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()


def test_frozen_features_are_those_of_the_encoder(bert, tiny_bert):
    words, _ = load_config(bert)
    frozen, _ = load_config([*bert, "model.frozen=true", "model.pooling=mean"])
    pieces, features = build_suite(words), build_suite(frozen)
    encoder = BERT(tiny_bert, "mean", frozen=True).eval()
    assert features.input_shape == (16,)
    for split in SPLITS:
        for a, b in zip(pieces.splits[split], features.splits[split], strict=True):
            expected = encoder(a.inputs.gather(torch.arange(len(a))))
            torch.testing.assert_close(b.inputs.gather(torch.arange(len(b))), expected)
            assert torch.equal(a.targets, b.targets)


@pytest.mark.parametrize("method", ["uniform", "mgda", "mgda_ub", "metaweighting", "metaweighting train.memory=low"])
def test_every_route(run_bert, method):
    run_bert(*f"weighting={method}".split())


@pytest.mark.parametrize("choice", ["model.sharing=none weighting=single_task", "optimizer.vectors=lazy"])
def test_every_sharing(run_bert, choice):
    run_bert(*choice.split())


@pytest.mark.parametrize("evidence", ["one_step", "look_ahead"])
def test_losses_are_learned(run_bert, evidence):
    """In forward mode through the encoder, and by a look ahead of its head."""
    run_bert(
        "loss.policy=gradient",
        "loss.every=2",
        f"loss.evidence={evidence}",
        "loss.horizon=2",
        "loss.candidates=[mae,cross_entropy]",
    )


def test_a_step_holds_one_row_of_pieces_in_use_per_task(bert):
    """Only the rows of the table that the batch reads; the same D as from dense gradients in single passes."""
    found = []
    for memory in ("rows", "low"):
        config, _ = load_config([*bert, f"train.memory={memory}", "weighting=metaweighting"])
        problem = build_problem(config, build_suite(config), torch.device("cpu"))
        problem.model.eval()  # no dropout, whose numbers the two would draw in another order
        batch_step = BatchStep.of(config, problem, 1)
        (index, *_) = batch_step.plan(0)
        found.append((batch_step(index, 0).record, batch_step.step.nbytes, problem.trained_rows(index), problem))
    (held, nbytes, rows, problem), (low, *_) = found
    torch.testing.assert_close(held.hypergradient, low.hypergradient)
    (table,) = trained_tables(problem.model)
    assert 0 < len(rows) < len(table.weight) / 2
    body = sum(p.numel() for p in problem.model.encoders[0].body.parameters())
    heads = sum(p.numel() for head in problem.model.heads for p in head.parameters())
    assert nbytes == 4 * (3 * (body + 16 * len(rows)) + heads)


def test_a_suite_without_texts(lossrag, tiny_bert):
    result = lossrag("train", "experiment=digits", "model=bert", f"model.encoder={tiny_bert}")
    assert "model=bert reads texts, but tasks=digits has none: use tasks=newsgroups or tasks=sentiment" in result.error


def test_nothing_to_share(bert):
    config, _ = load_config([*bert, "model.frozen=true", "model.sharing=shared_private"])
    with pytest.raises(ConfigError, match=r"model\.frozen=true leaves nothing to be shared"):
        build_suite(config)


def test_a_text_longer_than_the_encoder(lossrag, bert):
    assert "max_tokens=25: " in lossrag("train", *bert, "tasks.max_tokens=25").error


def test_a_misspelt_option(lossrag, bert):
    assert "did you mean 'mean'?" in lossrag("train", *bert, "model.pooling=maen").error
    assert "did you mean 'model.frozen'" in lossrag("train", *bert, "model.frozn=true").error


def test_the_presets():
    for corpus, alpha in (("topic", 0.5), ("sentiment", 0.1)):
        config, _ = load_config([f"experiment=paper/{corpus}_bert"])
        assert config.model.encoder.encoder == "bert-base-uncased"
        assert (config.tasks.options.max_tokens, config.train.batch_size, config.train.epochs) == (256, 32, 50)
        assert (config.optimizer.name, config.optimizer.lr, config.weighting.options.alpha) == ("adam", 2e-5, alpha)
    assert load_config(["experiment=bert_small"])[0].model.encoder.encoder == "minilm"


def test_the_benchmark_tells_the_memory_of_a_step(bert, tiny_bert, monkeypatch):
    monkeypatch.setitem(benchmark.SUITES, 4, "texts")
    options = benchmark.BertBenchmark(encoder=str(tiny_bert), batch=9, length=10, tasks=(4,))
    found = benchmark.measure(options, 4, "MetaWeighting")
    assert found.case == "T=4, MetaWeighting"
    assert found.more["peak_mb"] >= found.more["before_mb"] > 0
    assert 9 * 5 <= found.more["pieces"] <= 9 * 10


@pytest.mark.parametrize("options", [{"tasks": (5,)}, {"steps": 1}])
def test_impossible_options_of_the_benchmark(options):
    with pytest.raises(ConfigError, match=r"BertBenchmark: (tasks|steps)"):
        benchmark.BertBenchmark(**options)
