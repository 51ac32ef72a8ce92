"""Bounded losses of a model on whole splits, and models of the same class trained on random signs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.experiments.config.schema import Config
from lossrag.experiments.run.build import build_optimizer, build_problem
from lossrag.experiments.run.evaluation import EVALUATION_ROWS
from lossrag.experiments.run.objective import hits
from lossrag.experiments.run.problem import Problem
from lossrag.experiments.theory.rademacher import draw_signs, fit_signs, sign_loss
from lossrag.labels import labelled
from lossrag.tasks import Suite, epoch_plan, ordered_batches

BOUNDED = ("one_minus_p", "zero_one")
"""Losses in [0, 1]: 1 - p_y, and 1 where the largest logit is another class's."""


def classifications(suite: Suite) -> list[int]:
    """The tasks that the theorems speak of, as positions; raises ConfigError when there are none."""
    tasks = [t for t, task in enumerate(suite.tasks) if task.kind == "classification"]
    if not tasks:
        raise ConfigError(f"The theorems need a loss in [0, 1], but {suite.name} has regressions only.")
    return tasks


def bounded_losses(problem: Problem, split: str, loss: str) -> list[Tensor]:
    """The loss (n_t,) in [0, 1] of every labelled sample of the classification tasks, in evaluation mode, in float64 on
    the CPU; ``loss`` is one of :data:`BOUNDED`."""
    problem.model.eval()
    with torch.no_grad():
        losses = [_task_losses(problem, split, t, loss) for t in classifications(problem.suite)]
    problem.model.train()
    return losses


def _task_losses(problem: Problem, split: str, t: int, loss: str) -> Tensor:
    examples = problem.suite.splits[split][t]
    values = torch.empty(len(examples), dtype=torch.float64)
    for rows in ordered_batches(examples.inputs, EVALUATION_ROWS):
        logits = problem.model(examples.inputs.gather(rows).to(problem.device), t).cpu()
        targets = examples.targets[rows].clamp(min=0)  # rows without a label are left out in the end
        p = torch.softmax(logits.double(), dim=1).gather(1, targets[:, None]).squeeze(1)
        values[rows] = 1 - (hits(logits, targets) if loss == "zero_one" else p)
    return values[labelled(examples.targets)]


def estimate_complexity(
    config: Config, suite: Suite, device: torch.device, loss: str, draws: int, epochs: int
) -> list[float]:
    """R of the run's model class on its training split, whose estimate from below is the mean: for each draw of the
    signs what a fresh model reached, trained on them with the run's optimiser and batch size."""
    return [_one_draw(config, suite, device, loss, draw, epochs) for draw in range(draws)]


def _one_draw(config: Config, suite: Suite, device: torch.device, loss: str, draw: int, epochs: int) -> float:
    config = replace(config, seed=config.seed + draw)
    problem = build_problem(config, suite, device)
    optimizer = build_optimizer(config.optimizer, problem.model)
    tasks = classifications(suite)
    signs = draw_signs([len(suite.splits["support"][t]) for t in tasks], config.seed)
    told = [labelled(suite.splits["support"][t].targets) for t in tasks]

    def epoch(number: int) -> None:
        for index in epoch_plan(suite, "support", config.train.batch_size, config.seed, number):
            inputs, batch = problem.batch("support", index)
            model = problem.model
            outputs = model.forward_shared(inputs[0]) if suite.shared_input else model.forward_joint(inputs)
            losses = []
            for t, own, rows in zip(tasks, signs, told, strict=True):
                known = rows[index[t]].to(device)
                if known.any():
                    chosen = own[index[t]].to(device)[known]
                    losses.append(sign_loss(outputs[t].logits[known], batch.targets[t][known], chosen))
            if not losses:
                continue
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    signs_of_labels = [own[rows] for own, rows in zip(signs, told, strict=True)]
    return fit_signs(signs_of_labels, lambda: bounded_losses(problem, "support", loss), epoch, epochs)
