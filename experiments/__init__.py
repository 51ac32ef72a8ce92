"""The `lossrag` command: configuration, training, checkpoints, logs, benchmarks."""

if __name__ != "lossrag.experiments":
    raise ImportError("experiments is imported as lossrag.experiments: from lossrag.experiments import ...")
