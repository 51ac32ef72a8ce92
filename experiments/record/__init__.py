"""Record of a run: its directory, checkpoints, logs, summary and pictures."""
