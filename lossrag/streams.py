"""Random streams by name: one seed, as many independent streams as there are purposes, no two of them alike."""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np

from lossrag.errors import ConfigError


@unique
class Stream(IntEnum):
    """Purposes that draw random numbers. The values are part of every result: never change or reuse one."""

    SUPPORT_SPLIT = 0
    LIMIT = 0x11
    RANDOM_WEIGHTS = 0x51
    LOOK_AHEAD = 0x71
    QUERY_BATCH = 0x9E
    CORRUPTION = 0xC0
    CONTEXT = 0xC7
    COLLECT = 0xCC
    TEST_SPLIT = 0xD1
    EPOCH = 0xE0
    RANDOM_VECTORS = 0x7EC


def check_seed(seed: int) -> None:
    """Raise ConfigError when ``seed`` is negative."""
    if seed < 0:
        raise ConfigError(f"A seed is a whole number from 0 up, not {seed!r}.")


def generator(seed: int, stream: Stream, *place: int) -> np.random.Generator:
    """Random numbers of one purpose at one place (an epoch, a task), independent of any other purpose, place or seed.

    A purpose has places of one length: numpy takes no notice of zeros at the end, so (1,) and (1, 0) are the same.
    Raises ConfigError for a negative seed.

    >>> float(generator(0, Stream.EPOCH, 1).random()) == float(generator(0, Stream.QUERY_BATCH, 1).random())
    False
    """
    check_seed(seed)
    return np.random.default_rng(np.random.SeedSequence([seed, stream, *place]))


def step_seed(seed: int, step: int) -> int:
    """Seed of torch's generators (dropout, say) at a step. All of its bits depend on both arguments: the generator of
    the CPU reads the lower 32 alone.

    >>> len({step_seed(seed, step) % 2**32 for seed in range(20) for step in range(20)})
    400
    """
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0])
