"""Table of a collection: a line a case, for people and for whoever asks what the experience was made of."""

from __future__ import annotations

import math
from dataclasses import asdict, fields

import numpy as np

from lossrag.experiments.studies.results import csv_text
from lossrag.lossbank.experience.trials import Case, Experience

COLUMNS = (*(field.name for field in fields(Case)), "moments", "trials", "best", "gain", "error")


def cases_csv(experience: Experience) -> str:
    """What every case was, how many moments and trials it has, and its best loss with what that gained."""
    rows = []
    for number in range(len(experience)):
        own = np.flatnonzero(experience.outcome_case == number)
        best = own[experience.gain[own].argmax()]
        values = [_text(value) for value in asdict(experience.case(number)).values()]
        moments = int((experience.moment_case == number).sum())
        loss = experience.names["loss"][experience.outcome_loss[best]]
        rows.append(
            [*values, moments, len(own), loss, *(_text(float(x[best])) for x in (experience.gain, experience.error))]
        )
    return csv_text(COLUMNS, rows)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}"
    return str(value)
