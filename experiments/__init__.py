"""The `lossrag` command: configuration, training, checkpoints, logs, benchmarks."""
