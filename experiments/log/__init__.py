"""Where the series of a run go: metrics.jsonl, TensorBoard, the terminal."""

from experiments.log.composition import CompositionLog
from experiments.log.jsonl import JsonLines, read_points
from experiments.log.progress import RunProgress
from experiments.log.tensorboard import TensorBoard, matrix_figure

__all__ = ["CompositionLog", "JsonLines", "RunProgress", "TensorBoard", "matrix_figure", "read_points"]
