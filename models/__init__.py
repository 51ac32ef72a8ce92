"""Encoders, heads and how tasks share them."""

from models.mlp import MLP
from models.multitask import MultiTaskModel, Outputs, stack_padded
from models.registry import ENCODERS, EncoderOptions, MLPOptions, TextCNNOptions
from models.segments import row_lookup
from models.textcnn import TextCNN

__all__ = [
    "ENCODERS",
    "MLP",
    "EncoderOptions",
    "MLPOptions",
    "MultiTaskModel",
    "Outputs",
    "TextCNN",
    "TextCNNOptions",
    "row_lookup",
    "stack_padded",
]
