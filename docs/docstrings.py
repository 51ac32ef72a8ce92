"""Docstrings on the site: plain text, as this project writes it, as reStructuredText; and every public name is there.

Options are written "name: text" with lines that go on indented; formulas hold | and * that mean what they say.
"""

from __future__ import annotations

import functools
import operator
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.logging import getLogger

LITERAL = re.compile(r"(``.+?``|:\w+:`[^`]+`|`[^`]+`_)")
TERM = re.compile(r"(``)?\w[\w*., ]*(``)?(, (``)?\w+(``)?)*( \(.*?\))?: ")


def restructured(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText: options become a list, and what is marked up by accident is text."""
    result: list[str] = []
    for number, block in enumerate("\n".join(lines).strip("\n").split("\n\n")):
        rows = [row for row in block.split("\n") if row.strip()]
        if not rows or rows[0].lstrip().startswith(">>>") or all(row.startswith(" ") for row in rows):
            result += [*rows, ""]
            continue
        hanging = any(row.startswith(" ") for row in rows)
        if rows[0].startswith("- "):  # a list already
            pass
        elif hanging or (number and all(TERM.match(row) for row in rows)):  # the first paragraph says what it is
            rows = list(_items(rows))
        result += [*(_escaped(row) for row in rows), ""]
    return result


def _items(rows: list[str]) -> Iterator[str]:
    for row in rows:
        starts = not row.startswith(" ") and (TERM.match(row) or row is rows[0])
        yield ("* " if starts else "  ") + row.strip()


def _escaped(row: str) -> str:
    parts = LITERAL.split(row)
    bullet = "* " if parts[0].startswith("* ") else ""
    parts[0] = parts[0].removeprefix(bullet)
    parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    return bullet + "".join(parts)


def _process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    if what == "data":
        lines[:] = described(name.rpartition(".")[2], obj) or lines
    lines[:] = restructured(lines)


def described(name: str, value: object) -> list[str]:
    """Lines below the assignment of a constant, in whichever module of the package that stands."""
    for module in _modules().values():
        if vars(module).get(name) is value:
            try:
                found = ModuleAnalyzer.for_module(module.__name__).find_attr_docs().get(("", name))
            except PycodeError:  # a stand-in of a module that is loaded later
                continue
            if found:
                return list(found)
    return []


def _modules() -> Mapping[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "lossrag"}


def _unlinked(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement) -> nodes.Node | None:
    """A name of the package that is not public is no link; one that is nowhere stays a warning."""
    target = node["reftarget"].removeprefix("~")
    owners = [*_modules().values(), *filter(None, [_value(node.get("py:module"), node.get("py:class"))])]
    return text if target in sys.modules or any(_has(owner, target) for owner in owners) else None


def _value(module: str | None, name: str | None) -> object:
    return functools.reduce(getattr, name.split("."), sys.modules[module]) if module and name else None


def _has(owner: object, target: str) -> bool:
    path = target.removeprefix(f"{getattr(owner, '__name__', '')}.")
    try:
        operator.attrgetter(path)(owner)
    except AttributeError:
        return False
    return True


def _complete(app: Sphinx, env: BuildEnvironment) -> None:
    """A warning for each public name without a page."""
    objects = env.domains.python_domain.objects
    for package, names in app.config.autosummary_context["public"].items():
        for name in names:
            if f"{package}.{name}" not in objects:
                getLogger(__name__).warning("%s.%s has no page in the reference", package, name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    app.connect("missing-reference", _unlinked)
    app.connect("env-check-consistency", _complete)
    return {"parallel_read_safe": True}
