"""Words: the tokeniser, the vocabulary of a suite, and texts as sequences of word ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lossrag.tasks.suite import TokenInputs

# Words of letters, with the clitics of the Penn treebank apart ("do n't", "it 's") as in GloVe's vocabulary;
# numbers; the punctuation that carries tone. In the normalised edition there are letters only.
_TOKEN = re.compile(r"[^\W\d_]+(?=n't\b)|n't\b|'(?:s|m|d|re|ve|ll)\b|[^\W\d_]+|\d+(?:[.,]\d+)*|[!?.,;:()\"$%]")


def tokenise(text: str) -> list[str]:
    """Lower-cased words, numbers and marks of a text.

    >>> tokenise("I don't think it's $3.50!")
    ['i', 'do', "n't", 'think', 'it', "'s", '$', '3.50', '!']
    """
    text = text.lower()
    if text.isascii() and text.replace(" ", "").isalpha():  # the normalised edition: the same, but fast
        return text.split()
    return _TOKEN.findall(text)


def split_at_space(text: str) -> list[str]:
    """Lower-cased words of a text that comes tokenised: what white space parts."""
    return text.lower().split()


TOKENISERS: Mapping[str, Callable[[str], list[str]]] = {"words": tokenise, "white_space": split_at_space}
"""Words of a text, by the name that a preprocessing stores."""


def document_frequency(documents: Iterable[Iterable[str]]) -> Counter[str]:
    """The number of documents that every word occurs in."""
    return Counter(word for words in documents for word in set(words))


def ranked(counts: Mapping[str, int], min_df: int) -> list[str]:
    """Words in at least ``min_df`` documents, the most frequent first, ties in alphabetical order.

    >>> ranked({"b": 2, "a": 2, "c": 3, "d": 1}, min_df=2)
    ['c', 'a', 'b']
    """
    frequent = (word for word, count in counts.items() if count >= min_df)
    return sorted(frequent, key=lambda word: (-counts[word], word))


def encode_words(vocabulary: Sequence[str], documents: Sequence[Sequence[str]], max_tokens: int) -> TokenInputs:
    """The first ``max_tokens`` known words of every document, by their place in ``vocabulary`` from 1 on: id 0 is
    padding. Unknown words are left out.

    >>> encode_words(("a", "b"), [["b", "x", "a"], ["b", "b", "b"]], max_tokens=2).ids
    tensor([2, 1, 2, 2])
    """
    ids = {word: i for i, word in enumerate(vocabulary, start=1)}
    rows = [[ids[word] for word in words if word in ids][:max_tokens] for words in documents]
    lengths = torch.tensor([0, *map(len, rows)], dtype=torch.int64)
    return TokenInputs(torch.tensor([i for row in rows for i in row], dtype=torch.int64), lengths.cumsum(0))


def packed(words: Sequence[str]) -> Tensor:
    """Words, none of which holds a line feed, as bytes (n,) uint8, for a file of tensors.

    >>> unpacked(packed(["on", "été"])), unpacked(packed([]))
    (('on', 'été'), ())
    """
    return torch.tensor(list("\n".join(words).encode()), dtype=torch.uint8)


def unpacked(content: Tensor) -> tuple[str, ...]:
    """The words that :func:`packed` made bytes of."""
    text = bytes(content.tolist()).decode()
    return tuple(text.split("\n")) if text else ()
