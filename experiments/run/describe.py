"""Description of the model that a run was tested with, from the objects of the run."""

from __future__ import annotations

from lossrag.experiments.config.identity import Settings, section
from lossrag.experiments.config.schema import Config
from lossrag.experiments.record.description import WEIGHTS, ModelDescription
from lossrag.experiments.run.problem import Problem


def description_of(config: Config, settings: Settings, problem: Problem, run_id: str, epoch: int) -> ModelDescription:
    """What :func:`lossrag.load_run` builds the model of ``problem`` from."""
    suite = problem.suite
    counts = [mixture.class_counts for mixture in problem.inner]
    return ModelDescription(
        run_id=run_id,
        epoch=epoch,
        tasks=suite.tasks,
        losses=tuple(mixture.losses[0].name for mixture in problem.inner),
        class_counts=tuple(None if own is None else tuple(own.long().tolist()) for own in counts),
        shared_input=suite.shared_input,
        model=section(settings, "model"),
        precision=config.train.precision,
        input_shape=suite.input_shape,
        vectors=() if suite.vectors is None else tuple(suite.vectors.shape),
        weights=WEIGHTS[int(config.train.refit)],
        library={path: str(digest) for path, digest in section({"library": {}, **settings}, "library").items()},
    )
