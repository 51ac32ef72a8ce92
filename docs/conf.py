"""Site of the docs, `make docs`: the Markdown pages as they are, a page for every public name, made as it is built."""

import importlib
import sys
from pathlib import Path

import lossrag

sys.path.insert(0, str(Path(__file__).parent))

FLOORS = ("weighting", "lossbank", "tasks", "models")
_floors = {f"lossrag.{floor}": importlib.import_module(f"lossrag.{floor}").__all__ for floor in FLOORS}
_face = sorted(set(lossrag.__all__) - {name for names in _floors.values() for name in names} - {*FLOORS})

project = "LossRAG"
author = "The LossRAG authors"
release = lossrag.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "docstrings"]
exclude_patterns = ["_build", "_templates", "results"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"LossRAG {release}"
html_copy_source = False
html_show_copyright = False
myst_heading_anchors = 4
autosummary_context = {"public": {"lossrag": _face, **_floors}}
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
# A name that is nowhere is a warning, and `make docs` makes errors of warnings. Other packages' names are no links.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(torch|numpy|collections|pathlib|pandas|datasets)\..*")]
