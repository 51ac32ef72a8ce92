"""The losses that come with the library, by what they look at. Importing a file registers its losses."""

# Messages list the losses in this order: cross-entropy first.
from lossbank.losses import likelihood

# isort: split
from lossbank.losses import (
    bounded,
    contrastive,
    distances,
    errors,
    focal,
    imbalance,
    margins,
    outliers,
    scores,
    two_sided,
)

__all__ = [
    "bounded",
    "contrastive",
    "distances",
    "errors",
    "focal",
    "imbalance",
    "likelihood",
    "margins",
    "outliers",
    "scores",
    "two_sided",
]
