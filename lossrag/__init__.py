"""LossRAG: learn how much each task's loss counts, and which loss each task should use.

Every public name of the floors stands here as well, and is loaded when it is first asked for: ``import lossrag`` costs
no torch. The list of them is ``__init__.pyi``, which type checkers and editors read too.
"""

from pathlib import Path

import lazy_loader

__version__ = "0.1.0"

# A wheel holds the floors inside this folder; a checkout keeps them beside it.
if not (Path(__file__).parent / "weighting").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
