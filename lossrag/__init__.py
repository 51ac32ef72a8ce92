"""LossRAG: learn how much each task's loss counts, and which loss each task should use.

Every public name of the floors stands here as well, and is loaded when it is first asked for: ``import lossrag`` costs
no torch. The list of them is ``__init__.pyi``, which type checkers and editors read too.
"""

import sys
from pathlib import Path

import lazy_loader

__version__ = "0.1.0"

# A wheel holds the floors inside this folder; a checkout keeps them beside it.
if not (Path(__file__).parent / "weighting").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

_COMMANDS = ("lossrag.__main__", "lossrag.experiments.cli", "lossrag.experiments.studies.worker")
"""Modules that do something when they are run; Python runs the others with -m, imports them and ends without a word."""

if sys.argv[:1] == ["-m"]:  # only while Python looks for the module to run
    for _module in sys.orig_argv:
        if _module.removeprefix("-m").startswith("lossrag.") and _module.removeprefix("-m") not in _COMMANDS:
            sys.exit(f"{_module} is no command: python -m lossrag COMMAND ..., e.g. python -m lossrag train")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
