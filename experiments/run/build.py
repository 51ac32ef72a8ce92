"""Objects of a run from its configuration: suite, model, optimiser, step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lossrag.errors import ConfigError, OptionError, did_you_mean
from lossrag.experiments.config.model import ModelConfig
from lossrag.experiments.config.optimizer import OptimizerConfig
from lossrag.experiments.config.schema import Config
from lossrag.experiments.optim.hypergradient_lr import SGDHD, AdamHD
from lossrag.experiments.optim.lazy_adam import LazyAdam
from lossrag.experiments.run.adversarial import build_adversary
from lossrag.experiments.run.encoded_suites import load_pieces
from lossrag.experiments.run.machine import require_bf16
from lossrag.experiments.run.problem import Problem
from lossrag.models import BERT, BertOptions, EncoderOptions, MultiTaskModel, TextCNN
from lossrag.tasks import METRICS, SUITES, Suite, Task, corrupt, pool_query
from lossrag.tasks.metrics import check_metric
from lossrag.weighting import Group, MultiTaskStep


def trains_on_query(config: Config) -> bool:
    """Runs without an outer problem, be it for task weights or for losses, hold nothing out, unless told to."""
    outer = config.weighting.options.needs.hypergradient is not None or config.loss.policy != "fixed"
    return not outer and config.train.query_for_baselines == "all"


def build_suite(config: Config) -> Suite:
    """The suite of a run, its query split added to the support split for methods that have no use for one."""
    options = config.model.encoder
    if isinstance(options, BertOptions):
        suite = load_pieces(config, options)
    else:
        suite = SUITES[config.tasks.name].load(config.tasks.options)
    if config.corrupt:
        suite, _ = corrupt(suite, config.corrupt, config.seed)
    suite = replace(suite, tasks=tuple(_scored(task, config.outer.metric) for task in suite.tasks))
    return pool_query(suite) if trains_on_query(config) else suite


def _scored(task: Task, metric: str) -> Task:
    """The task with this score, if it is one of its kind; one that has a score of its own keeps it."""
    if task.score:
        check_metric("its suite", task.score, task)
    fits = not task.score and metric != task.metric and METRICS[metric].fits(task)
    return replace(task, score=metric) if fits else task


def build_model(config: Config, suite: Suite) -> MultiTaskModel:
    """A freshly initialised model; depends on the seed only."""
    torch.manual_seed(config.seed)
    outputs = [task.outputs for task in suite.tasks]
    model = assembled(config.model, config.train.precision, outputs, suite.vectors, suite.input_shape, suite.encoder)
    for table in trained_tables(model):
        table.sparse = config.optimizer.vectors == "lazy"
    if not type(config.model.encoder).__module__.startswith("lossrag."):
        _check_features(config.model.name, model.encoders[0], suite)
    return model


def _check_features(name: str, encoder: nn.Module, suite: Suite) -> None:
    """Raise ConfigError unless an encoder of the user's own makes of two rows what it says."""
    rows = suite.splits["support"][0].inputs.gather(torch.arange(2))
    encoder.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        found = encoder(rows)
    encoder.train()
    shape: object = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if shape != (2, encoder.features):
        raise ConfigError(
            f"model={name}: its encoder must make features (rows, {encoder.features}), but of 2 rows of shape "
            f"{tuple(rows.shape[1:])} it makes {shape}."
        )


def assembled(
    config: ModelConfig,
    precision: str,
    outputs: Sequence[int],
    vectors: Tensor | None,
    input_shape: tuple[int, ...],
    folder: Path | None,
) -> MultiTaskModel:
    """A model for tasks with so many ``outputs`` each, and inputs of this kind: :class:`Suite` says what they are."""
    options: EncoderOptions = config.encoder

    def encoder() -> nn.Module:
        if isinstance(options, BertOptions) and folder is not None:
            return options.load(folder)
        try:
            module = options.build(vectors, input_shape)
        except ConfigError as error:
            raise ConfigError(f"model={config.name}: {error}") from None
        if not isinstance(module, nn.Module) or not isinstance(getattr(module, "features", None), int):
            raise ConfigError(
                f"model={config.name}: build() must return a torch module with the number of its features in "
                f"`features`, got {type(module).__name__}."
            )
        return module

    return MultiTaskModel(
        encoder,
        outputs,
        config.sharing,
        torch.bfloat16 if precision == "bf16" else None,
        discriminated=config.adversarial > 0,
    )


def trained_tables(model: MultiTaskModel) -> list[nn.Embedding]:
    """The embeddings of trainable word vectors or word pieces: one, or one per task when nothing is shared."""
    encoders = [module for module in model.modules() if isinstance(module, (TextCNN, BERT))]
    return [encoder.embedding for encoder in encoders if encoder.embedding.weight.requires_grad]


def build_problem(config: Config, suite: Suite, device: torch.device) -> Problem:
    """Model and losses on the device; raises ConfigError when it lacks the precision that was asked for."""
    if config.train.precision == "bf16":
        require_bf16(device)
    model = build_model(config, suite)
    adversary = build_adversary(config.model, suite, model)
    return Problem.create(suite, model, config.loss, config.outer, device, adversary)


def build_optimizer(config: OptimizerConfig, model: MultiTaskModel) -> torch.optim.Optimizer:
    """The optimiser; trainable word vectors form a group with a learning rate of their own, and heads do if it differs.

    ``vectors=lazy`` asks the step for their gradient as a sparse tensor (``sparse=True`` in their group). For SGD the
    rows that it leaves out are those that would not have moved; for Adam see :class:`LazyAdam`.
    """
    vectors = [table.weight for table in trained_tables(model)]
    lazy = config.vectors == "lazy"
    heads = list(model.heads.parameters()) if config.heads_lr_factor != 1 else []
    known = set(map(id, [*vectors, *heads]))
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups: list[dict[str, Any]] = [{"params": rest}]
    # one call for all parameters: with many heads, launching their updates one by one costs more than the updates
    fused = all(p.device.type in ("cpu", "cuda") and p.dtype.is_floating_point for p in rest)
    if heads:
        groups.append({"params": heads, "lr": config.lr * config.heads_lr_factor})
    if vectors:
        group = {"params": vectors, "lr": config.lr * config.vectors_lr_factor}
        # torch's fused updates take no sparse gradients
        groups.append(group | {"fused": False, "sparse": True} if lazy else group)
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": fused}
    beta = config.hypergradient_lr
    if config.name == "sgd":
        options["momentum"] = config.momentum
        return SGDHD(groups, beta=beta, **options) if beta else torch.optim.SGD(groups, **options)
    if beta:
        return AdamHD(groups, beta=beta, **options)
    if lazy:  # without weight decay AdamW is Adam
        return LazyAdam(groups, lr=config.lr, fused=fused)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, **options)


def build_step(config: Config, problem: Problem, group: Group | None = None) -> MultiTaskStep:
    """The training step with the configured weighting, of one process or of a ``group``."""
    model = problem.model
    optimizer = build_optimizer(config.optimizer, model)
    if problem.adversary is not None:
        problem.adversary.attach(optimizer)
    method = config.weighting.options
    names, train = problem.suite.task_names, config.train
    unknown = [name for name in config.outer.tasks or () if name not in names]
    if unknown:
        raise ConfigError(f"outer.tasks names {unknown[0]!r}, which is no task: {did_you_mean(unknown[0], names)}")
    try:
        return MultiTaskStep(
            model.parameters(),
            optimizer,
            method,
            names,
            train.memory,
            model,
            outer=config.outer.tasks,
            every=config.outer.every,
            nonfinite=train.nonfinite,
            group=group,
        )
    except OptionError as error:  # of lists that must have an entry for each task
        raise ConfigError(error.by_key("weighting.")) from None


def passes_route(config: Config, learns: bool) -> str:
    """Route of tasks with their own inputs through the model (:meth:`Problem.batch_losses`) in a step whose outer
    problem, if any, runs or not."""
    needs = config.weighting.options.needs
    if needs.hypergradient is not None and config.train.memory == "low":
        return "single"
    return "groups" if (needs if learns else replace(needs, hypergradient=None)).rows else "joint"
