"""Device and threads of a run."""

from __future__ import annotations

import os

import torch

from lossrag.errors import ConfigError
from lossrag.experiments.config.schema import MachineConfig


def choose_device(name: str) -> torch.device:
    """The torch device that ``machine.device`` names; ``auto`` takes an accelerator when there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"Unknown machine.device {name!r}: expected auto, cpu, cuda, cuda:N or mps.") from None
    if not _available(device):
        raise ConfigError(f"machine.device={name} is not available on this machine: use machine.device=cpu or auto.")
    return device


def _available(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())


def native_bf16(device: torch.device) -> bool:
    """True where the device computes in bfloat16 rather than emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def require_bf16(device: torch.device) -> None:
    """Raise ConfigError when bfloat16 would only be emulated, which is slower than float32."""
    if not native_bf16(device):
        raise ConfigError(f"train.precision=bf16: {device} has no instructions for it: use train.precision=float32.")


def choose_threads(config: MachineConfig) -> tuple[int, str]:
    """CPU threads and the reason for them. One is the default: spinning threads on shared cores cost more than
    they give, and two processes with a thread each do more work than one with two."""
    if config.threads is not None:
        return config.threads, "machine.threads"
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given), "OMP_NUM_THREADS"
    return 1, "the default: one thread per process, run several processes side by side"


def apply_machine(config: MachineConfig) -> tuple[torch.device, str]:
    """Set the threads; the device and a line that says what was chosen and why."""
    device = choose_device(config.device)
    threads, reason = choose_threads(config)
    torch.set_num_threads(threads)
    return device, f"device {device}, {threads} CPU thread{'s' if threads > 1 else ''} ({reason})"
