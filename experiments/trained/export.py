"""`lossrag export run=DIR format=safetensors`: the model of a finished run for other programs."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save
from torch import Tensor, nn

from lossrag.checks import check_choice
from lossrag.errors import ConfigError
from lossrag.experiments.record.progress import say
from lossrag.experiments.trained.loaded import LoadedRun
from lossrag.experiments.trained.options import RunOptions, opened, parsed
from lossrag.experiments.trained.predictions import check_suffix, predicted, write_result
from lossrag.extras import load_extra
from lossrag.files import expanded
from lossrag.tasks import Task

FORMATS = {"safetensors": ".safetensors", "torch_export": ".pt2", "onnx": ".onnx"}
"""Suffix of the file by format."""


@dataclass(frozen=True)
class ExportOptions(RunOptions):
    """format: a key of FORMATS. output: the file to write, None for one in the run directory."""

    format: str = "safetensors"
    output: str | None = None

    def __post_init__(self) -> None:
        check_choice(self, "format", tuple(FORMATS))


class Predictor(nn.Module):
    """A model with what makes predictions of its logits: inputs -> per task probabilities (B, K), or values (B, K) in
    the units of the data."""

    def __init__(self, model: nn.Module, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.model = model
        self.tasks = tuple(tasks)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model.forward_shared(inputs)  # type: ignore[operator]
        return tuple(predicted(task, own.logits) for task, own in zip(self.tasks, outputs, strict=True))


def export(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag export` with these arguments; the exit code."""
    options = parsed(ExportOptions, arguments, "export")
    suffix = FORMATS[options.format]
    output = expanded(options.output or f"{options.run}/model{suffix}", "output")
    for module in ("onnx", "onnxscript") if options.format == "onnx" else ():
        load_extra(module, "onnx", "format=onnx")  # before the time that it takes
    run, _ = opened(options, console)
    check_suffix(output, (suffix,))
    described = _described(run)
    if options.format == "safetensors":
        tensors = {name: own.contiguous().clone() for name, own in run.model.state_dict().items()}
        content = save(tensors, metadata=described)
    else:
        content = exported(run, described, options.format)
    write_result(output, content)
    say(console, f"{options.format}   {output} ({len(content) / 2**20:.1f} MiB)")
    return 0


def _described(run: LoadedRun) -> dict[str, str]:
    """What goes with the model, as JSON texts by name."""
    own = run.preprocessing
    return {
        "description": json.dumps(asdict(run.description)),
        "preprocessing": json.dumps(None if own is None else own.plain()),
    }


def exported(run: LoadedRun, described: dict[str, str], form: str = "torch_export") -> bytes:
    """The program that torch.export makes of the model, for any number of rows, and words; as it is, or as ONNX
    (``form``), whose input is ``inputs`` and whose outputs are called like the tasks.

    Raises ConfigError for a model that cannot be traced, or has no ONNX form.
    """
    words = not run.description.input_shape
    # of no size that is special: torch.export takes 0 and 1 for constants
    example = torch.ones(3, 11, dtype=torch.int64) if words else torch.zeros(3, *run.description.input_shape)
    rows = torch.export.Dim("rows")
    own = run.preprocessing
    # an encoder of the BERT family has so many positions
    most = max(own.max_tokens, 12) if own is not None and own.encoder else None
    dynamic = {0: rows, 1: torch.export.Dim("words", min=8, max=most)} if words else {0: rows}
    predictor = Predictor(run.model, run.tasks).eval().requires_grad_(False)
    try:
        # gradients are off in the parameters: without them altogether BERT takes its rows in blocks, of a number
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(predictor, (example,), dynamic_shapes=(dynamic,))
            if form == "onnx":
                return _onnx(program, dynamic, [task.name for task in run.tasks], described)
            buffer = io.BytesIO()
            torch.export.save(program, buffer, extra_files=dict(described))
    except Exception as error:  # torch raises many of its own
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"This model cannot be exported as {form} ({type(error).__name__}: {reason:.200}): use format=safetensors."
        ) from error
    return buffer.getvalue()


def _onnx(
    program: torch.export.ExportedProgram, dynamic: dict[int, Any], names: Sequence[str], described: dict[str, str]
) -> bytes:
    """The program as an ONNX model, with what goes with it as metadata."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of packages that no model of ours needs
    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=["inputs"],
            output_names=list(names),
            verbose=False,
        )
    finally:
        logger.setLevel(level)
    assert made is not None
    made.model.metadata_props.update(described)
    content: bytes = made.model_proto.SerializeToString()
    return content
