"""Typed configuration of a run, section by section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Generic, TypeVar

from lossrag.checks import check_choice, check_least, require
from lossrag.errors import ConfigError
from lossrag.experiments.config.model import ModelConfig
from lossrag.experiments.config.optimizer import OptimizerConfig, lazy_allows
from lossrag.lossbank import POLICIES, ComposerConfig, LookAheadOptions, OneStepOptions
from lossrag.tasks import METRICS, Corruption
from lossrag.weighting import Weighting

Options = TypeVar("Options", OneStepOptions, LookAheadOptions)
MOST_THREADS = 1024
"""Of more, processes end without a word."""
EVIDENCE = ("none", "look_ahead", "one_step")


@dataclass(frozen=True)
class DataConfig:
    """root: folder with the corpora; None asks LOSSRAG_DATA, the user cache, then the network."""

    root: str | None = None


@dataclass(frozen=True)
class LossConfig(ComposerConfig):
    """Registered loss that each kind of task is trained and evaluated with; with another policy than ``fixed`` it gives
    the scale, and training composes its losses from the library.

    tasks: by task, the loss that it is trained and evaluated with instead of that of its kind.
    bank: what a policy that retrieves asks: ``builtin``, which comes with the package, ``none``, or a file.
    bank_exclude: sources whose cases it is to know nothing of.
    evidence: what moves shares in the run: ``none``, ``look_ahead`` (:class:`LookAheadOptions`) or ``one_step``
        (:class:`OneStepOptions`). These classes explain the other options. None is what suits the policy, and of the
        other options what suits the evidence.
    """

    classification: str = "cross_entropy"
    regression: str = "squared_error"
    tasks: dict[str, str] = field(default_factory=dict)
    policy: str = "fixed"
    evidence: str | None = None
    horizon: int = LookAheadOptions.horizon
    unit: float = LookAheadOptions.unit
    rows: int = LookAheadOptions.rows
    step: float = OneStepOptions.step
    smoothing: float = OneStepOptions.smoothing
    outer: str = OneStepOptions.outer
    decay: float | None = None
    every: int | None = None
    review: int | None = None
    bank: str = "builtin"
    bank_exclude: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", None if self.candidates is None else tuple(self.candidates))
        object.__setattr__(self, "questions", tuple(self.questions))
        super().__post_init__()
        fixed = not self.tasks or self.policy == "fixed"
        text = f"{{tasks}} gives tasks one loss each, but {{policy}}={self.policy} composes the losses of all of them: "
        require(fixed, self, f"{text}leave one of the two out.")
        if self.evidence is not None:
            check_choice(self, "evidence", EVIDENCE)
        self._options(OneStepOptions)
        self._options(LookAheadOptions)
        require(
            self.outer == "mean" or self.evidence == "one_step",
            self,
            "{outer}=lambda weighs what losses do to shared parameters, which only {evidence}=one_step looks at.",
        )

    @property
    def evidence_options(self) -> OneStepOptions | LookAheadOptions | None:
        """Options of what measures contributions, None where nothing does."""
        name = self.evidence or POLICIES[self.policy].usual
        if name == "none":
            return None
        return self._options(OneStepOptions) if name == "one_step" else self._options(LookAheadOptions)

    def _options(self, kind: type[Options]) -> Options:
        given = {option.name: getattr(self, option.name) for option in fields(kind)}
        return kind(**{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class OuterConfig:
    """The outer problem: its losses on the query batch (None: as in training), and that batch's size.

    average: ``sample``, or ``class``: the outer loss of a task is the mean over its classes, rare or not.
    metric: score of the tasks that have such a one and no other of their own, which epochs are chosen by and tables
        show: a name among METRICS, such as ``macro_accuracy``, ``f1``, ``roc_auc``, ``mae``.
    every: steps from one outer problem to the next; between them the task weights stay.
    tasks: those that the outer problem is over, by name; None for all.
    losses: by task, its outer loss instead of that of its kind.
    """

    classification: str | None = None
    regression: str | None = None
    batch_size: int | None = None
    average: str = "sample"
    metric: str = "accuracy"
    every: int = 1
    tasks: list[str] | None = None
    losses: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_least(self, 1, "batch_size", "every")
        check_choice(self, "average", ("sample", "class"))
        check_choice(self, "metric", tuple(METRICS))


@dataclass(frozen=True)
class TrainConfig:
    """epochs; batch_size: samples per step over all tasks (rows, for a shared input).

    query_for_baselines: methods without an outer problem train on ``support`` only, or on ``all`` training
    data (support and query), as they would without a split.
    refit: after the run, train afresh on support and query with the learned weights, for the best epoch's length.
    precision: float32, or bf16: autocast of the encoder where the machine has instructions for it.
    memory: with an outer problem, ``rows`` holds T gradients of the model; ``low`` holds one and computes them again.
    patience: epochs without a better mean validation score after which the run ends; None: never.
    nonfinite: a loss or gradient that is not finite ends the run (``raise``), or its step is left out and counted
        (``skip``); ``trust`` looks at none, which spares reading from the device in every step.
    parent: ``train.from``, the directory of a finished run with whose parameters this one begins; None: fresh ones.
    """

    epochs: int = 10
    batch_size: int = 256
    query_for_baselines: str = "all"
    patience: int | None = None
    refit: bool = False
    precision: str = "float32"
    memory: str = "rows"
    nonfinite: str = "raise"
    parent: str | None = field(default=None, metadata={"key": "from"})

    def __post_init__(self) -> None:
        check_least(self, 1, "epochs", "batch_size", "patience")
        check_choice(self, "nonfinite", ("raise", "skip", "trust"))
        check_choice(self, "query_for_baselines", ("all", "support"))
        check_choice(self, "precision", ("float32", "bf16"))
        check_choice(self, "memory", ("rows", "low"))


@dataclass(frozen=True)
class MachineConfig:
    """device: auto, cpu, cuda, cuda:N or mps. threads: CPU threads, None for OMP_NUM_THREADS or one."""

    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        check_least(self, 1, "threads", most=MOST_THREADS)


@dataclass(frozen=True)
class RunConfig:
    """Folders that a run writes to. dir: an exact folder instead of root/<run id>.

    again: start a new run beside a finished or unfinished one of the same configuration.
    checkpoint_seconds: at least so many between two checkpoints; 0 writes one after every step.
    """

    root: str = "runs"
    dir: str | None = None
    again: bool = False
    checkpoint_seconds: float = 20.0

    def __post_init__(self) -> None:
        check_least(self, 0, "checkpoint_seconds")


@dataclass(frozen=True)
class LogConfig:
    """every_steps: steps between two logged points. figures_every: epochs between two pictures of D.

    contexts: record what a bank remembers tasks by, in contexts.safetensors.
    """

    every_steps: int = 1
    figures_every: int = 5
    tensorboard: bool = True
    contexts: bool = False

    def __post_init__(self) -> None:
        check_least(self, 1, "every_steps", "figures_every")


T = TypeVar("T")


@dataclass(frozen=True)
class Choice(Generic[T]):
    """A registered name and the object its options built."""

    name: str
    options: T


@dataclass(frozen=True)
class Config:
    """Everything that defines a run. The options of the suite are read by its own loader alone."""

    seed: int
    tasks: Choice[object]
    model: ModelConfig
    weighting: Choice[Weighting]
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    outer: OuterConfig = field(default_factory=OuterConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    run: RunConfig = field(default_factory=RunConfig)
    log: LogConfig = field(default_factory=LogConfig)
    corrupt: Mapping[str, Corruption] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.loss.policy != "fixed" and self.train.refit:
            raise ConfigError(
                "train.refit=true trains again with the learned task weights, but a composition is learned as training "
                f"goes on: set train.refit=false, or loss.policy=fixed (got {self.loss.policy})."
            )
        if self.optimizer.vectors != "lazy":
            return
        one_step = isinstance(self.loss.evidence_options, OneStepOptions)
        text = "loss.evidence=one_step measures losses by the gradient of the whole table"
        lazy_allows(not one_step, text, "loss.evidence=look_ahead")
        trainable = getattr(self.model.encoder, "trainable_vectors", False)
        lazy_allows(
            trainable, f"model={self.model.name} trains none here", "model=textcnn model.trainable_vectors=true"
        )
        needs = self.weighting.options.needs
        outer = needs.hypergradient
        lazy_allows(
            outer is None or outer.inner != "adam",
            "weighting.inner=adam differentiates through a preconditioner of the whole table",
            "weighting.inner=sgd",
        )
        lazy_allows(
            outer is None or self.train.memory == "rows",
            "train.memory=low copies the whole table in every step",
            "train.memory=rows",
        )
        lazy_allows(
            not needs.rows or self.model.sharing == "hard",
            f"weighting={self.weighting.name} with model.sharing={self.model.sharing} needs gradients of whole tables",
            "model.sharing=hard",
        )
