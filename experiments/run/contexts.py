"""Recording of the contexts of a run's tasks at set moments of its steps, for a bank to remember them by."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.experiments.config.schema import Config
from lossrag.experiments.record.contexts import RunContexts, SeenTask
from lossrag.experiments.run.build import trains_on_query
from lossrag.experiments.run.problem import Problem
from lossrag.labels import labelled
from lossrag.lossbank import CONTEXT_NAMES, LOSSES, LossInputs
from lossrag.lossbank.experience.snapshots import REFERENCES, ROWS, known, moments_of, snapshot
from lossrag.models import BertOptions
from lossrag.streams import Stream, generator

SIDES = ("support", "query")


def encoder_kind(config: Config) -> str:
    """The kind of encoder that experience is told apart by: the name of the model; ``bert_frozen`` where the heads
    alone are trained."""
    options = config.model.encoder
    return "bert_frozen" if isinstance(options, BertOptions) and options.frozen else config.model.name


@dataclass
class ContextRecorder:
    """Contexts (T, C) of the tasks of a run of so many ``steps``, by moment, told by the reference loss of
    their kind, whatever they are trained with."""

    config: Config
    problem: Problem
    steps: int
    moments: dict[float, Tensor] = field(default_factory=dict)
    losses: Tensor | None = None
    """(T, 2) mean losses at the last moment."""

    def __post_init__(self) -> None:
        if trains_on_query(self.config):
            raise ConfigError(
                "log.contexts=true looks at query rows that are held out, but this run trains on them: add "
                "train.query_for_baselines=support, or leave log.contexts out."
            )
        self.due = moments_of(self.steps)

    def observe(self, done: int) -> None:
        """Look at the tasks, if it is time to, ``done`` updates being behind them; training goes on as if nothing had
        happened."""
        if done not in self.due:
            return
        model = self.problem.model
        model.eval()
        seen = []
        for t, task in enumerate(self.problem.suite.tasks):
            support, query = (self._rows(split, t, done) for split in SIDES)
            reference = LOSSES[REFERENCES[task.kind]]
            before = None if self.losses is None else self.losses[t]
            seen.append(snapshot(reference, support, query, done / self.steps, before))
        model.train()
        self.moments[self.due[done]] = torch.stack([known(one.context) for one in seen]).cpu()
        self.losses = torch.stack([known(one.losses) for one in seen])

    @torch.no_grad()
    def _rows(self, split: str, t: int, done: int) -> LossInputs:
        """Up to :data:`ROWS` labelled rows of a task, drawn by (seed, moment)."""
        suite, device = self.problem.suite, self.problem.device
        examples = suite.splits[split][t]
        place = (done, SIDES.index(split), 0 if suite.shared_input else t)
        chance = generator(self.config.seed, Stream.CONTEXT, *place)
        rows = self.problem.labelled_rows(split, t)
        index = torch.from_numpy(chance.permutation(len(examples) if rows is None else len(rows))[:ROWS])
        index = index if rows is None else rows[index]
        outputs = self.problem.model.outputs(examples.inputs.gather(index).to(device), t)
        targets = examples.targets[index].to(device)
        return LossInputs(outputs.logits, targets, outputs.features, self.problem.inner[t].class_counts)

    def recorded(self, run_id: str) -> RunContexts:
        """What was seen, for the run's directory."""
        suite = self.problem.suite
        tasks = [
            SeenTask(task.name, task.kind, task.outputs, int(labelled(own.targets).sum()))
            for task, own in zip(suite.tasks, suite.splits["support"], strict=True)
        ]
        return RunContexts(run_id, encoder_kind(self.config), self.steps, tasks, self.moments)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything seen so far."""
        seen = {str(moment): contexts for moment, contexts in self.moments.items()}
        return seen if self.losses is None else {**seen, "losses": self.losses}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`; raises ConfigError for one of other tasks or moments."""
        tasks = len(self.problem.suite.tasks)
        shapes = {str(moment): (tasks, len(CONTEXT_NAMES)) for moment in self.due.values()} | {"losses": (tasks, 2)}
        if any(shapes.get(name) != tuple(tensor.shape) for name, tensor in state.items()):
            raise ConfigError("these contexts are of other tasks, or of other moments of a run.")
        self.moments = {float(moment): contexts for moment, contexts in state.items() if moment != "losses"}
        if "losses" in state:
            self.losses = state["losses"].to(self.problem.device)
