"""From a configuration to the objects of a run: suite, model, optimiser, step."""

from __future__ import annotations

import torch

from experiments.config.schema import Config, OptimizerConfig
from experiments.machine import require_bf16
from experiments.problem import Problem
from models import MultiTaskModel, TextCNN
from tasks import SUITES, Suite, pool_query
from weighting import MultiTaskStep


def trains_on_query(config: Config) -> bool:
    """Methods without an outer problem hold nothing out, unless told to."""
    return config.weighting.options.hypergradient is None and config.train.query_for_baselines == "all"


def build_suite(config: Config) -> Suite:
    """The suite of a run, its query split added to the support split for methods that have no use for one."""
    suite = SUITES[config.tasks.name].load(config.tasks.options)
    return pool_query(suite) if trains_on_query(config) else suite


def build_model(config: Config, suite: Suite) -> MultiTaskModel:
    """A freshly initialised model; depends on the seed only."""
    torch.manual_seed(config.seed)
    return MultiTaskModel(
        lambda: config.model.encoder.build(suite.vectors, suite.input_shape),
        [task.outputs for task in suite.tasks],
        config.model.sharing,
        torch.bfloat16 if config.train.precision == "bf16" else None,
    )


def build_problem(config: Config, suite: Suite, device: torch.device) -> Problem:
    """Model and losses on the device; raises ConfigError when it lacks the precision that was asked for."""
    if config.train.precision == "bf16":
        require_bf16(device)
    return Problem.create(suite, build_model(config, suite), config.loss, config.outer, device)


def build_optimizer(config: OptimizerConfig, model: MultiTaskModel) -> torch.optim.Optimizer:
    """The optimiser; trainable word vectors form a group with a learning rate of their own."""
    vectors = [
        m.embedding.weight for m in model.modules() if isinstance(m, TextCNN) and m.embedding.weight.requires_grad
    ]
    known = set(map(id, vectors))
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [{"params": rest}]
    # one call for all parameters: with many heads, launching their updates one by one costs more than the updates
    fused = all(p.device.type in ("cpu", "cuda") and p.dtype.is_floating_point for p in rest)
    if vectors:
        groups.append({"params": vectors, "lr": config.lr * config.vectors_lr_factor})  # type: ignore[dict-item]
    if config.name == "sgd":
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused
        )
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def build_step(config: Config, problem: Problem) -> MultiTaskStep:
    """The training step with the configured weighting."""
    model = problem.model
    optimizer = build_optimizer(config.optimizer, model)
    method = config.weighting.options
    names, memory = problem.suite.task_names, config.train.memory
    return MultiTaskStep(model.parameters(), optimizer, method, names, memory, model)


def passes_route(config: Config) -> str:
    """How tasks with their own inputs go through the model (:meth:`Problem.batch_losses`)."""
    method = config.weighting.options
    if method.needs_gramian:
        return "groups"
    if method.hypergradient is None:
        return "joint"
    return "single" if config.train.memory == "low" else "groups"
