"""Settings of many command lines without Hydra, which takes a fifth of a second for each."""

from __future__ import annotations

from omegaconf import OmegaConf

from lossrag.experiments.config.compose import build_config, load_config
from lossrag.experiments.config.groups import GROUPS, defaults_of


def check_commands(commands):
    """Build the configuration of every command line of a plan, Hydra's part once for each experiment: raises for an
    unknown name, an unknown key or an impossible value."""
    presets = {}
    for experiment, *overrides in commands:
        if experiment not in presets:
            presets[experiment] = load_config([experiment])[1]
        settings = OmegaConf.create(presets[experiment])
        OmegaConf.set_struct(settings, True)
        OmegaConf.set_struct(settings.loss.tasks, False)  # by the names of the tasks
        for override in overrides:
            key, _, value = override.partition("=")
            if key in GROUPS:
                settings[key] = defaults_of(key, value)
            else:
                settings.merge_with_dotlist([override])  # in place: a merge copies all there is
        build_config(OmegaConf.to_container(settings, resolve=True))
