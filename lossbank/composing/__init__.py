"""Composition: which losses a task is trained with, and the evidence that moves their shares."""
