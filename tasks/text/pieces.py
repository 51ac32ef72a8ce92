"""Word pieces of a pre-trained encoder: texts tokenised once, so that a suite of them is cached like one of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lossrag.errors import ConfigError, DataError
from lossrag.extras import load_extra
from lossrag.tasks.suite import TokenInputs
from lossrag.tasks.text.encoders import EncoderFiles


def encode_pieces(encoder: EncoderFiles, texts: Sequence[str], max_pieces: int) -> TokenInputs:
    """At most ``max_pieces`` pieces of every text, the marks around it included, as ids of the encoder plus 1.

    Id 0 is padding, whatever number the encoder itself gives it: models/bert.py takes the 1 off again.
    Raises ConfigError when the extra is missing or the encoder has fewer positions, DataError for an unfit tokenizer.
    """
    tokenizer = _tokenizer(encoder)
    positions = min(tokenizer.model_max_length, int(encoder.config.get("max_position_embeddings") or 2**31))
    if not 3 <= max_pieces <= positions:
        raise ConfigError(
            f"max_tokens={max_pieces}: a text goes to {encoder.name} as 3 to {positions} word pieces, the marks "
            f"around it included: set max_tokens={min(256, positions)}, say."
        )
    rows: list[list[int]] = []
    if texts:
        rows = tokenizer(list(texts), truncation=True, max_length=max_pieces, padding=False)["input_ids"]
    lengths = torch.tensor([0, *map(len, rows)], dtype=torch.int64)
    return TokenInputs(torch.tensor([i + 1 for row in rows for i in row], dtype=torch.int64), lengths.cumsum(0))


def _tokenizer(encoder: EncoderFiles) -> Any:
    transformers = load_extra("transformers", "bert", f"The tokenizer of {encoder.name}")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            encoder.folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(f"Cannot read the tokenizer of {encoder.folder}: {error}") from error
    if not tokenizer("")["input_ids"]:
        raise DataError(
            f"The tokenizer of {encoder.name} puts no marks around a text, so an empty one has nothing to read: choose "
            "an encoder of the BERT family."
        )
    size = encoder.config.get("vocab_size")
    if size is not None and len(tokenizer) > size:
        raise DataError(
            f"The tokenizer of {encoder.name} knows {len(tokenizer):,} word pieces, its encoder {size:,}: they do not "
            "belong together."
        )
    return tokenizer
