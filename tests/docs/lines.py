"""Command lines that pages and help texts show, as lists of words, with what stands for something else filled in."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from lossrag.experiments.multirun.flags import read_flags

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not {"_build", "_api", "results"} & {*page.parts}]

BLOCK = re.compile(r"^```(?:console|sh|bash)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
COMMAND = re.compile(r"(?:^|\s)lossrag (?!is\b|-)")
STAND_INS = {
    r"(?<![\w/])RUN_DIR\b|(?<![\w/])DIR\b": "runs/RUN",
    r"\bPATH\b": "runs/RUN",
    r"\bTASK\b": "parity",
    r"\bLOSS\b": "mae",
    r"\bPLAN\b": "builtin",
    r"\bPART\b": "mlp",
    r"\[ROW,ROW\]": "[fixed,lossrag]",
    r"<run id>": "RUN",
    r"\bKEY=VALUE\b": "classes=4",
    r"\bKEY\b": "tasks.rho",
    r"\[A,B\]": "[0.1,0.2]",
    r"\bNAME\b": "smoke",
    r"\$seed\b|\$\{seed\}": "0",
    r"\$\(which lossrag\)": "lossrag",
}
"""What a word in capitals stands for; files and folders of the other names are there (conftest.py)."""


def console_lines(text: str) -> list[str]:
    """Lines of a page's console blocks, continued ones joined, without prompts and comments."""
    lines = []
    for block in BLOCK.findall(text):
        whole = block.replace("\\\n", " ").splitlines()
        lines += [re.sub(r"(^|\s+)# .*$", "", line.removeprefix("$ ")).strip() for line in whole]
    return [line for line in lines if line]


def command_lines(text: str) -> list[str]:
    """All that a page tells to run: in console blocks, and in the text between backticks."""
    without_blocks = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    inline = [" ".join(code.split()) for code in INLINE.findall(without_blocks)]
    return [*console_lines(text), *(code for code in inline if COMMAND.match(code))]


def words_of(line: str) -> list[list[str]]:
    """The arguments of each ``lossrag`` in a line of a shell; a loop or torchrun around it is left away."""
    found = []
    filled = line
    for pattern, meaning in STAND_INS.items():
        filled = re.sub(pattern, meaning, filled)
    for part in re.split(r";\s|&&", filled):
        match = COMMAND.search(part)
        if match:
            words = shlex.split(part[match.end() :])
            found.append([word for word in words if word not in ("...", "[key=value", "|")])
    return found


def one_run(words: list[str]) -> list[str]:
    """The overrides of these words; with Hydra's -m those of the first of its runs, without those of its launcher.

    >>> one_run(["-m", "seed=range(2,5)", "weighting=uniform,dwa", "loss.candidates=[mae,l1]", "hydra/launcher=ray"])
    ['seed=2', 'weighting=uniform', 'loss.candidates=[mae,l1]']
    """
    flags = read_flags(words)
    if flags.command != "--multirun":
        return flags.overrides
    own = [word for word in flags.overrides if not word.startswith("hydra") and "glob(" not in word]
    own = [re.sub(r"=(?:range|choice)\(([^,)]*).*\)$", r"=\1", word) for word in own]
    return [word if re.search(r"[\[{'\"]", word) else word.partition(",")[0] for word in own]


def without_brackets(usage: str) -> str:
    """A usage line with all that may be left out: ``[k=5]`` is ``k=5``, ``[seeds=[0,1]]`` is ``seeds=[0,1]``, ``[-m]``
    is ``-m``.

    >>> without_brackets("bank neighbours LOSS [k=5] [key=value ...]")
    'bank neighbours LOSS k=5'
    """
    return re.sub(r"(?:(?<=\s)|^)\[(-\w|\S+?=\S+?)\](?=\s|$)", r"\1", re.sub(r" ?\[key=value \.\.\.\]", "", usage))
