"""TextCNN step beside the same step with PyTorch's dense convolution and pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from unittest.mock import patch

import torch

from lossrag.experiments.benchmark.paired import Result, paired_ratio
from lossrag.models import TextCNN
from lossrag.models import max_over_time as fast_path


@dataclass(frozen=True)
class TextCNNBenchmark:
    """Options of `lossrag benchmark textcnn`: each of ``sizes`` is a vector width with its number of filters."""

    sizes: list[list[int]] = field(default_factory=lambda: [[50, 64], [300, 100]])
    batch: int = 256
    length: int = 150
    words: int = 30_000
    pairs: int = 9
    threads: int = 1


def run_textcnn(options: TextCNNBenchmark) -> list[Result]:
    """Training steps with frozen and trained vectors, in float32 and bf16, over PyTorch's dense step in float32."""
    results = []
    for width, filters in options.sizes:
        for trainable in (False, True):
            for precision in (None, torch.bfloat16):
                dense = _step(options, width, filters, trainable, None, dense=True)
                fast = _step(options, width, filters, trainable, precision, dense=False)
                timed = paired_ratio(fast, dense, options.pairs)
                name = f"{width}-d, {filters} filters, {'trained' if trainable else 'frozen'} vectors"
                kind, names = "float32" if precision is None else "bf16", ("fast_ms", "dense_ms")
                results.append(timed.result("textcnn", name, "x dense step", names, precision=kind))
    return results


def _step(
    options: TextCNNBenchmark, width: int, filters: int, trainable: bool, precision: torch.dtype | None, dense: bool
) -> Callable[[], object]:
    """Forward, loss, backward and Adam on one batch; ``dense`` switches the fast path off."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    vectors = torch.randn(options.words, width, generator=generator)
    encoder = TextCNN(vectors, filters=filters, trainable=trainable)
    head = torch.nn.Linear(encoder.features, 4)
    parameters = [p for p in [*encoder.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    words = torch.randint(1, options.words, (options.batch, options.length), generator=generator)
    labels = torch.randint(4, (options.batch,), generator=generator)
    covers = (lambda *_: False) if dense else fast_path.covers

    def run() -> None:
        autocast = torch.autocast("cpu", dtype=precision, enabled=precision is not None)
        with patch.object(fast_path, "covers", covers), autocast:
            features = encoder(words)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(features.float()), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run
