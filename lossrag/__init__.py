"""The foundation under all floors: the version, the one exception family, and registries of names."""

from lossrag.errors import (
    BankError,
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
    LossRAGError,
    RunDirectoryError,
    did_you_mean,
)
from lossrag.registry import Registry

__version__ = "0.1.0"

__all__ = [
    "BankError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "LossRAGError",
    "Registry",
    "RunDirectoryError",
    "__version__",
    "did_you_mean",
]
