"""Presets with the settings of the paper: how long they take, and what a command changes about them."""

from __future__ import annotations

from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.identity import Settings, differing_keys, section

DURATION = {
    "paper/topic": "2.5 days on one CPU core",
    "paper/sentiment": "4 to 6 days on one CPU core",
    "paper/topic_bert": "for a GPU",
    "paper/sentiment_bert": "for a GPU",
}
"""By preset, measured as docs/metaweighting.md says."""


def paper_notes(settings: Settings) -> list[str]:
    """Lines to begin a run of such a preset with; none of another one."""
    preset = str(settings["preset"])
    if preset not in DURATION:
        return []
    _, paper = load_config([f"experiment={preset}", f"seed={settings['seed']}"])
    epochs = section(paper, "train")["epochs"]
    notes = [f"{preset}: the settings of the paper. Its {epochs} epochs: {DURATION[preset]}."]
    if changed := differing_keys(paper, settings):
        notes.append(f"another experiment than the paper's: {'; '.join(changed)}")
    return notes
