"""TensorBoard's pages of real runs, as a browser shows them: which cards, whose colours and names, which columns."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest

from lossrag.experiments.cli import run
from tests.browser.board import tensorboard
from tests.browser.chromium import console_errors
from tests.browser.pages import elements, texts, wait
from tests.experiments.banks import SMALL_VALUE_GAINS, write_bank

TASKS = ("digit", "parity", "loops", "centre")
CLASSES, REGRESSIONS = ("digit", "parity", "loops"), ("centre",)
NAMES = {task: f"retrieval risk=1.0 bank=bank epochs=2 batch_size=256 {task}" for task in ("all_tasks", *TASKS)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One that composes its losses, and one of another method."""
    root = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(root)
        line = ["train", "experiment=digits", "train.epochs=2", "train.batch_size=256", "log.figures_every=1"]
        bank = write_bank(root / "bank.safetensors", values=SMALL_VALUE_GAINS)
        composing = ["loss.policy=retrieval", f"loss.bank={bank}", "loss.risk=1.0"]
        assert run([*line, *composing, f"run.dir={root / 'runs' / 'learned'}"]) == 0
        assert run([*line, "weighting=uniform", "seed=1", f"run.dir={root / 'runs' / 'uniform'}"]) == 0
    return root / "runs"


@pytest.fixture(scope="module")
def one(runs):
    """The address of a TensorBoard of the first run, as its summary says."""
    with tensorboard(runs / "learned" / "tensorboard") as address:
        yield address


@pytest.fixture(scope="module")
def several(runs):
    """The address of one of both."""
    with tensorboard(runs) as address:
        yield address


CARDS = """
const text = element => element.textContent.trim().replace(/\\s+/g, ' ');
return [...document.querySelectorAll('scalar-card')].map(card => [
  card.querySelector('tb-truncated-path').title,
  [...card.querySelectorAll('scalar-card-data-table tb-data-table-content-row')].map(text),
]);
"""
COLOURS = """
return [...document.querySelectorAll('runs-data-table tb-data-table-content-row')].map(row => [
  row.innerText.trim().replace(/\\s+/g, ' '),
  [...row.querySelectorAll('*')].flatMap(e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]),
]);
"""


def cards(browser):
    """Titles of the cards in their order, and the lines of the list below each."""
    return dict(browser.execute_script(CARDS))


def listed_on(browser, title, number):
    """The list of a card, once it has so many rows."""
    rows = cards(browser).get(title, ())
    return rows if len(rows) == number else None


def at_least(browser, number, selector, pattern=".*"):
    """The texts that match, once there are so many."""
    found = [text for text in texts(browser, selector) if re.fullmatch(pattern, text)]
    return found if len(found) >= number else None


def named(rows, task):
    return [row for row in rows if NAMES[task] in row]


def test_time_series_open_on_scores_weights_and_compositions(browser, one):
    browser.get(f"{one}/#timeseries")
    wait(browser, lambda: len(elements(browser, "line-chart")) >= 4)
    expected = {
        "1_overview/1_validation_mean": ["all_tasks"],
        "1_overview/2_validation_accuracy": CLASSES,
        "1_overview/2_validation_r2": REGRESSIONS,
        "1_overview/3_task_weight": TASKS,
    }
    for place, (title, tasks) in enumerate(expected.items()):
        rows = wait(browser, partial(listed_on, browser, title, len(tasks)))
        assert list(cards(browser))[place] == title
        assert all(len(named(rows, task)) == 1 for task in tasks)
    groups = texts(browser, "metrics-card-group-toolbar")
    assert groups[0].startswith("1_overview")
    assert "7 cards" in groups[0]
    # every task has a colour and a name of its own
    colours = wait(browser, lambda: len(every := dict(browser.execute_script(COLOURS))) == len(NAMES) and every)
    assert set(colours) == set(NAMES.values())
    common = set.intersection(*map(set, colours.values()))
    own = {name: set(every) - common for name, every in colours.items()}
    assert all(own.values())
    assert len(set(map(frozenset, own.values()))) == len(NAMES)
    assert console_errors(browser) == []


def test_custom_scalars_have_a_line_per_task(browser, one):
    browser.get(f"{one}/#custom_scalars")
    titles = wait(browser, partial(at_least, browser, 6, "tf-card-heading"))
    assert any("task weights" in title for title in titles)
    assert any("lambda, running mean" in title for title in titles)
    matches = wait(browser, partial(at_least, browser, 6, "*", r"Matches \(\d+\)"))
    assert {"Matches (1)", "Matches (3)", "Matches (4)"} <= set(matches)
    assert console_errors(browser) == []


def test_texts_begin_with_the_result(browser, one, runs):
    browser.get(f"{one}/#text")
    tables = wait(browser, lambda: texts(browser, "table"))
    summary = json.loads((runs / "learned" / "summary.json").read_text())
    for task in TASKS:
        score = {**summary["test_accuracy"], **summary["test_r2"]}[task]
        assert f"{task} {score:.4f} {summary['metric'][task]}" in tables[0]
    said = " ".join(texts(browser, "li"))
    for task in TASKS:
        assert f"{task}: " in said
    assert console_errors(browser) == []


def test_images_show_compositions_and_the_pictures_of_the_run(browser, one):
    browser.get(f"{one}/#images")
    groups = wait(browser, partial(at_least, browser, 3, ".category-name"))
    assert groups == ["1_overview", "4_hypergradient", "8_result"]
    shown = wait(browser, partial(at_least, browser, 2, "tf-card-heading", r"\d_\w+/.*"))
    assert [text.split()[0] for text in shown][:2] == ["1_overview/6_composition", "4_hypergradient/D"]
    assert console_errors(browser) == []


def test_hyperparameters_show_what_was_chosen_and_both_means(browser, several, runs):
    browser.get(f"{several}/#hparams")
    first = ["method, losses", "suite", "alpha", "learning rate", "seed"]
    means = ["validation mean (best epoch)", "test mean (best epoch)"]
    summaries = {name: json.loads((runs / name / "summary.json").read_text()) for name in ("learned", "uniform")}
    cells = wait(browser, partial(cells_of, browser, 3 * 9))
    assert cells[:9] == ["Trial ID", "Show Metrics", *first, *means]
    rows = {cells[at + 2]: cells[at : at + 9] for at in (9, 18)}
    learned, uniform = rows["MetaWeighting, retrieval losses"], rows["Uniform"]
    assert learned[3:7] == ["digits", "0.050000", "0.0010000", "0"]
    assert uniform[3:7] == ["digits", "", "0.0010000", "1"]
    assert learned[0] == NAMES["all_tasks"].replace("all_tasks", "learned")
    for row, name in ((learned, "learned"), (uniform, "uniform")):
        shown = [float(cell) for cell in row[7:]]
        wanted = [summaries[name]["validation_score_mean"], summaries[name]["test_score_mean"]]
        assert shown == pytest.approx(wanted, abs=1e-4)
    assert console_errors(browser) == []


def cells_of(browser, number):
    """The cells of the table, its head first, once there are so many; some lie beyond the right edge."""
    cells = texts(browser, "vaadin-grid-cell-content")
    return cells if len(cells) >= number else None


def test_several_runs_are_told_apart_by_name(browser, several):
    browser.get(f"{several}/?runFilter=all_tasks%24#timeseries")
    names = wait(browser, lambda: texts(browser, "runs-data-table tb-data-table-content-row"))
    uniform = "uniform/tensorboard/epochs=2 batch_size=256 all_tasks"
    assert sorted(names) == [f"learned/tensorboard/{NAMES['all_tasks']}", uniform]
