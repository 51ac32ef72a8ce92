"""Screenshots of every TensorBoard page for docs/tensorboard.md: ``python -m tests.browser.screenshots [FOLDER]``.

Trains what they show into FOLDER (finished runs there are not trained again), which takes some minutes; the one of
fourteen tasks needs the corpora of LOSSRAG_DATA and is left as it is without them.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome

from lossrag.experiments.cli import run
from tests.browser.board import tensorboard
from tests.browser.chromium import console_errors, open_browser
from tests.browser.pages import elements, wait

IMAGES = Path(__file__).parents[2] / "docs" / "images"
BY_TASK = "runColorGroup=regex%3A(%5B%5E%2F%20%5D%2B)%24"
"""A colour per task over several runs: the last word of a run's name."""
MIXED = ["experiment=mixed_digits", "loss.policy=retrieval"]
DIGITS = [
    ["experiment=digits", f"seed={seed}", *policy] for seed in (0, 1) for policy in ([], ["loss.policy=retrieval"])
]
SENTIMENT = ["experiment=sentiment_quick", "loss.policy=retrieval", "train.epochs=4"]


@dataclass(frozen=True)
class Shot:
    """A picture: the folder of runs that it shows, what follows the address, and what must be there first."""

    name: str
    runs: str
    page: str
    awaited: str


SHOTS = (
    Shot("time-series", "mixed", "#timeseries", "line-chart"),
    Shot("scalars", "mixed", "#scalars", "tf-scalar-card"),
    Shot("custom-scalars", "mixed", "#custom_scalars", "vz-line-chart2"),
    Shot("images", "mixed", "#images", "tf-card-heading"),
    Shot("text", "mixed", "#text", "table"),
    Shot("projector", "mixed", "#projector", "tf-projector-dashboard, iframe"),
    Shot("hparams", "digits", "#hparams", "vaadin-grid-cell-content"),
    Shot("several-runs", "digits", f"?tagFilter=task_weight%7C4_lambda&{BY_TASK}#timeseries", "line-chart"),
    Shot("fourteen-tasks", "sentiment", "?tagFilter=task_weight%7C4_lambda#timeseries", "line-chart"),
)


def train(folder: Path) -> None:
    """The runs, as far as they are not there."""
    lines = {"mixed": [MIXED], "digits": DIGITS}
    if "LOSSRAG_DATA" in os.environ:
        lines["sentiment"] = [SENTIMENT]
    for name, every in lines.items():
        for line in every:
            if run(["train", *line, f"run.root={folder / name}"]) != 0:
                raise SystemExit(f"lossrag train {' '.join(line)} failed")


def board_of(folder: Path) -> Path:
    """What to serve of a folder of runs: the only one alone, as its summary says."""
    runs = list(folder.iterdir())
    return runs[0] / "tensorboard" if len(runs) == 1 else folder


def shoot(browser: Chrome, address: str, shot: Shot) -> bytes:
    """The PNG of a page."""
    browser.get("about:blank")
    browser.get(f"{address}/{shot.page}")
    wait(browser, lambda: elements(browser, shot.awaited))
    if shot.name == "hparams":
        # both means fit beside the settings without the suite, which is one for all of them
        _tick(browser, "suite")
    if shot.name == "images":
        _tick(browser, "Show actual image size")
    time.sleep(6)  # charts draw when they have come to rest
    errors = console_errors(browser)
    if errors:
        raise SystemExit(f"{shot.name}: {errors}")
    return browser.get_screenshot_as_png()


def _tick(browser: Chrome, name: str) -> None:
    next(box for box in elements(browser, "paper-checkbox") if box.text.strip() == name).click()


def small(png: bytes) -> bytes:
    """The same in 128 colours, a third of the bytes."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    target = io.BytesIO()
    image.save(target, "png", optimize=True)
    return target.getvalue()


def main(folder: Path) -> None:
    """Train, serve, shoot and write."""
    train(folder)
    with open_browser() as browser:
        for name in sorted({shot.runs for shot in SHOTS}):
            if not (folder / name).exists():
                print(f"no {name}: its pictures stay as they are")
                continue
            with tensorboard(board_of(folder / name)) as address:
                for shot in SHOTS:
                    if shot.runs == name:
                        path = IMAGES / f"tensorboard-{shot.name}.png"
                        path.write_bytes(small(shoot(browser, address, shot)))
                        print(f"{path} {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
