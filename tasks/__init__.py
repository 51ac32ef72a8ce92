"""Tasks and their data: suites, splits, the text pipeline, batch plans."""

from tasks.batches import epoch_plan, ordered_batches, query_index
from tasks.corruption import Corruption, CorruptionReport, corrupt, parse_corruption
from tasks.digits import DigitsConfig
from tasks.encoders import EncoderFiles, encoder_files
from tasks.newsgroups import NewsgroupsConfig
from tasks.sentiment import SentimentConfig
from tasks.suite import SPLITS, DenseInputs, Examples, Inputs, Suite, Task, TokenInputs, pool_query
from tasks.suites import SUITES, SuiteEntry, load_suite

__all__ = [
    "SPLITS",
    "SUITES",
    "Corruption",
    "CorruptionReport",
    "DenseInputs",
    "DigitsConfig",
    "EncoderFiles",
    "Examples",
    "Inputs",
    "NewsgroupsConfig",
    "SentimentConfig",
    "Suite",
    "SuiteEntry",
    "Task",
    "TokenInputs",
    "corrupt",
    "encoder_files",
    "epoch_plan",
    "load_suite",
    "ordered_batches",
    "parse_corruption",
    "pool_query",
    "query_index",
]
