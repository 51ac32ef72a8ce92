"""Encoders, heads and how tasks share them."""

if __name__ != "lossrag.models":
    raise ImportError("models is imported as lossrag.models: from lossrag.models import ...")

from lossrag.models.adversarial import PENALTIES, TaskDiscriminator, orthogonality, reverse
from lossrag.models.bert import BERT
from lossrag.models.encoders import ENCODERS, BertOptions, EncoderOptions, MLPOptions, TextCNNOptions
from lossrag.models.mlp import MLP
from lossrag.models.multitask import SHARING, MultiTaskModel, Outputs, stack_padded
from lossrag.models.segments import row_lookup
from lossrag.models.textcnn import TextCNN

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
