"""The pages: links lead somewhere, each is in the index, prose is wrapped alike, and every public name is on one."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

import lossrag
from tests.docs.lines import PAGES, ROOT

WIDTH = 120
FLOORS = ("weighting", "lossbank", "tasks", "models")
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def prose(page: Path) -> list[tuple[int, str]]:
    """Lines of a page that are neither code nor a table, with their numbers."""
    lines, code = [], False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.startswith("|"):
            lines.append((number, line))
    return lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)]+)\)", page.read_text())
    for target in targets:
        path, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    """Of the headings, as code hosts and the site make them."""
    headings = [line.lstrip("#").strip() for _, line in prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index():
    """`make docs` says so, too, but later."""
    index = (ROOT / "docs" / "index.md").read_text()
    listed = {line for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", index, re.M | re.S) for line in tree.split()}
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in PAGES if page.name != "README.md"}
    assert pages - listed == {"index"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_prose_is_wrapped(page):
    wide = {number: len(line) for number, line in prose(page) if len(line) > WIDTH and " " in line.strip()}
    assert not wide


def public_names() -> list[tuple[str, str]]:
    """Package and name of everything public, each once: in its floor, or on the face alone."""
    floors = [importlib.import_module(f"lossrag.{floor}") for floor in FLOORS]
    names = [(package.__name__, name) for package in floors for name in package.__all__]
    below = {name for _, name in names} | {*FLOORS}
    return [*names, *(("lossrag", name) for name in lossrag.__all__ if name not in below)]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def described(package: str, name: str) -> str:
    """The docstring of a public name; of a constant the string below its assignment, wherever that is."""
    value = getattr(importlib.import_module(package), name)
    if inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value):
        text = vars(value).get("__doc__") if not inspect.isroutine(value) else value.__doc__
        # a dataclass without one is given its signature
        return "" if text is None or text.startswith(f"{name}(") else text
    for path in sorted((ROOT / package.removeprefix("lossrag.")).rglob("*.py")):
        for statement, following in itertools.pairwise(parsed(path).body):
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            here = any(isinstance(target, ast.Name) and target.id == name for target in targets)
            if here and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                return str(following.value.value)
    return ""


def test_every_public_name_is_documented():
    names = public_names()
    assert len(names) > 100
    assert not [f"{package}.{name}" for package, name in names if not described(package, name).strip()]


def test_every_public_package_is_in_the_reference():
    """The site makes a page for each of its names, and `make docs` fails where one has none."""
    packages = {package for package, _ in public_names()}
    assert packages <= set(re.findall(r"^   (lossrag\S*)$", REFERENCE, flags=re.MULTILINE))


def test_citation_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == lossrag.__version__
    assert citation["authors"] == [{"name": "The LossRAG authors"}]
    (paper,) = citation["references"]
    bibtex = (ROOT / "docs" / "citing.md").read_text()
    assert f"version = {{{lossrag.__version__}}}" in bibtex
    assert paper["url"] in bibtex
    assert all(author["family-names"] in bibtex for author in paper["authors"])
