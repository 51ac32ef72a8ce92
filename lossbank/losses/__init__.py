"""The losses that come with the library, a file per family. Importing a file registers its losses."""

# Messages list the losses in this order: cross-entropy first.
from lossrag.lossbank.losses import probabilistic

# isort: split
from lossrag.lossbank.losses import euclidean, imbalance, margin, noise_robust, regression, relational

__all__ = ["euclidean", "imbalance", "margin", "noise_robust", "probabilistic", "regression", "relational"]
