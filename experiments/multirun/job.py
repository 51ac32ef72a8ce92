"""Job of a multirun: a run of `lossrag train` in whatever process a launcher has for it, and a report of its end."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from lossrag.errors import LossRAGError, RunDirectoryError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.multirun.loader import kept
from lossrag.experiments.train import train_run
from lossrag.files import write_atomic


@dataclass(frozen=True)
class JobReport:
    """How a job ended: ``why`` it failed, None when it finished. where: the machine it ran on."""

    run_id: str
    overrides: list[str]
    directory: str
    where: str
    why: str | None = None


@dataclass(frozen=True)
class TrainJob:
    """Hydra's task function: trains the run of a job, or shows the finished one. folder: for reports."""

    folder: Path

    def __call__(self, config: DictConfig) -> float:
        """The mean validation score of the best epoch, which a sweeper that searches may maximise.

        Raises the run's error, after it was reported.
        """
        hydra = HydraConfig.get()
        if not hydra.job.chdir and os.getcwd() != hydra.runtime.cwd:
            os.chdir(hydra.runtime.cwd)
        given = [kept(str(text)) for text in hydra.overrides.task]
        directory = Path(hydra.runtime.output_dir)
        report = JobReport(directory.name, given, str(directory), platform.node())
        try:
            # Hydra's own composition may read overrides otherwise: the run is that of its command line
            settings: dict[str, Any] = dict(load_config(given)[1])
            settings["run"] = {**settings["run"], "root": str(directory.parent)}
            summary = train_run(settings, Console())
        except Exception as error:
            known = isinstance(error, (LossRAGError, OSError))
            why = str(error) if known else f"{type(error).__name__}: {error}"
            _write(self.folder, {**asdict(report), "why": why})
            if not known:
                raise
            print(f"error: {why}", file=sys.stderr)
            raise RunDirectoryError(why) from None
        _write(self.folder, asdict(report))
        return float(summary["validation_score_mean"])


def _write(folder: Path, report: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{report['run_id']}.json", json.dumps(report).encode() + b"\n")


def read_reports(folder: Path) -> dict[str, JobReport]:
    """The reports of a folder by run id."""
    read = [JobReport(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]
    return {report.run_id: report for report in read}
