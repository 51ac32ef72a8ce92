"""Trained models in use: a finished run loaded from its directory, predictions, evaluation on other data, export."""
