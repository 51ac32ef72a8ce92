"""Cost model of a step over several devices: from what it sends and computes, and the figures of common hardware.

Nothing is timed. What is sent is what the tests count in the real collectives (weighting/parallel/cost.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lossrag.checks import check_positive, require
from lossrag.experiments.benchmark.paired import Result
from lossrag.experiments.benchmark.problems import check_numbers
from lossrag.weighting import MetaWeighting
from lossrag.weighting.parallel.cost import traffic


@dataclass(frozen=True)
class Hardware:
    """FLOP/s that a device reaches, about 40 % of its dense bf16 peak; bytes/s that it sends within a node of ``node``
    devices, and between nodes."""

    name: str
    flops: float
    within: float
    between: float
    node: int


HARDWARE = (
    Hardware("H100, NVLink, 400 Gb/s each", 0.4 * 989e12, 450e9, 50e9, 8),
    Hardware("A100, NVLink, 25 Gb/s each", 0.4 * 312e12, 300e9, 3.1e9, 8),
    Hardware("A100, PCIe 4", 0.4 * 312e12, 25e9, 3.1e9, 4),
    Hardware("A100, 10 Gb/s each", 0.4 * 312e12, 1.25e9, 1.25e9, 1),
)
"""One-way figures of the makers: NVLink 4 and 3, PCIe 4 x16 less its overhead, and network cards."""


@dataclass(frozen=True)
class DevicesBenchmark:
    """Options of `lossrag benchmark devices`, BERT-base by default. parameters: all, sent; body: those that every token
    passes, the word table left out. rows: of a support batch over all tasks, of ``length`` tokens; the query batch has
    as many."""

    tasks: tuple[int, ...] = (4, 14, 64)
    devices: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    parameters: float = 109.5e6
    body: float = 85.1e6
    rows: int = 512
    length: int = 128
    threads: int = 1

    def __post_init__(self) -> None:
        check_numbers(self, "tasks", self.tasks)
        check_numbers(self, "devices", self.devices)
        check_positive(self, "parameters", "body")
        require(min(self.rows, self.length) >= 1, self, "{rows} and {length} must be 1 or more.")


def run_devices(options: DevicesBenchmark) -> list[Result]:
    """The time of a MetaWeighting step on R devices over that on one."""
    return [
        _cost(options, hardware, tasks, devices, split)
        for hardware in HARDWARE
        for tasks, devices, split in _points(options)
    ]


def _points(options: DevicesBenchmark) -> Iterator[tuple[int, int, str]]:
    for tasks in options.tasks:
        for devices in options.devices:
            for split in ("rows", "tasks"):
                yield tasks, devices, split


def _cost(options: DevicesBenchmark, hardware: Hardware, tasks: int, devices: int, split: str) -> Result:
    sent = traffic(MetaWeighting().needs, tasks, round(options.parameters), devices, split)
    # forward and backward, 6 operations for a parameter and token, of support and query
    passes = 2 * 6 * options.body * options.rows * options.length / hardware.flops
    products = 2 * tasks * tasks * options.parameters / hardware.flops
    share = 1 / devices if split == "rows" else -(-tasks // devices) / tasks
    bandwidth = hardware.within if devices <= hardware.node else hardware.between
    alone, computed, told = passes + products, passes * share + products / devices, sent.sent / bandwidth
    return Result(
        "devices",
        f"T={tasks}, R={devices}, {split}, {hardware.name}",
        (computed + told) / alone,
        None,
        "x one device, by the model",
        {
            "sent_GB": round(sent.sent / 1e9, 3),
            "held_GB": round(sent.held / 1e9, 3),
            "computed_ms": round(computed * 1e3, 1),
            "sent_ms": round(told * 1e3, 1),
            "alone_ms": round(alone * 1e3, 1),
        },
    )
