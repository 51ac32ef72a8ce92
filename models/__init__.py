"""Encoders, heads and how tasks share them."""

from models.bert import BERT
from models.discriminator import TaskDiscriminator
from models.mlp import MLP
from models.multitask import SHARING, MultiTaskModel, Outputs, stack_padded
from models.orthogonality import PENALTIES, orthogonality
from models.registry import ENCODERS, BertOptions, EncoderOptions, MLPOptions, TextCNNOptions
from models.reversal import reverse
from models.segments import row_lookup
from models.textcnn import TextCNN

__all__ = [
    "BERT",
    "ENCODERS",
    "MLP",
    "PENALTIES",
    "SHARING",
    "BertOptions",
    "EncoderOptions",
    "MLPOptions",
    "MultiTaskModel",
    "Outputs",
    "TaskDiscriminator",
    "TextCNN",
    "TextCNNOptions",
    "orthogonality",
    "reverse",
    "row_lookup",
    "stack_padded",
]
