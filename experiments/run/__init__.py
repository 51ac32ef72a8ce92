"""Objects of a run: suite, model, losses, step."""
