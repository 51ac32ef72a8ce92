"""Configuration of a run: schema, composition, identity."""

from experiments.config.compose import build_config, load_config
from experiments.config.groups import experiment_names
from experiments.config.identity import differing_keys, run_id
from experiments.config.schema import Config

__all__ = ["Config", "build_config", "differing_keys", "experiment_names", "load_config", "run_id"]
