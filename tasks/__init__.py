"""Tasks and their data: suites, splits, the text pipeline, batch plans."""

if __name__ != "lossrag.tasks":
    raise ImportError("tasks is imported as lossrag.tasks: from lossrag.tasks import ...")

from lossrag.tasks.batches import epoch_plan, ordered_batches, query_index
from lossrag.tasks.corruption.corrupt import CorruptionReport, corrupt
from lossrag.tasks.corruption.settings import Corruption, parse_corruption
from lossrag.tasks.digits import DigitsConfig
from lossrag.tasks.metrics import METRICS, Metric, register_metric
from lossrag.tasks.splits import split_train
from lossrag.tasks.suite import SPLITS, DenseInputs, Examples, Inputs, Suite, Task, TokenInputs, pool_query
from lossrag.tasks.suites import SUITES, SuiteEntry, load_suite, register_suite
from lossrag.tasks.table.in_memory import FrameSuite, suite_from
from lossrag.tasks.table.settings import TableConfig
from lossrag.tasks.text.encoders import EncoderFiles, encoder_files
from lossrag.tasks.text.newsgroups import NewsgroupsConfig
from lossrag.tasks.text.sentiment import SentimentConfig

__all__ = [
    "METRICS",
    "SPLITS",
    "SUITES",
    "Corruption",
    "CorruptionReport",
    "DenseInputs",
    "DigitsConfig",
    "EncoderFiles",
    "Examples",
    "FrameSuite",
    "Inputs",
    "Metric",
    "NewsgroupsConfig",
    "SentimentConfig",
    "Suite",
    "SuiteEntry",
    "TableConfig",
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
    "register_metric",
    "register_suite",
    "split_train",
    "suite_from",
]
