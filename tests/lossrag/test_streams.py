"""Random streams: their first draws are part of every result."""

from __future__ import annotations

import pytest

from lossrag import ConfigError
from lossrag.streams import Stream, check_seed, generator, step_seed

FIRST = {
    Stream.SUPPORT_SPLIT: (3653403231, 2964430570),
    Stream.LIMIT: (12457460, 4224566433),
    Stream.RANDOM_WEIGHTS: (1996633234, 1314491405),
    Stream.LOOK_AHEAD: (1986411883, 3358061984),
    Stream.QUERY_BATCH: (820235829, 2525170201),
    Stream.CORRUPTION: (1090438097, 723056611),
    Stream.CONTEXT: (1911421744, 2567854057),
    Stream.COLLECT: (2385311927, 1903933037),
    Stream.TEST_SPLIT: (47907197, 3731316328),
    Stream.EPOCH: (1753945072, 2504876741),
    Stream.RANDOM_VECTORS: (96848903, 3264794616),
}
"""The first 32 bits for seed 0, and for seed 1 at the place (2, 3)."""
SEEDS = {
    (0, 0): 15793235383387715774,
    (0, 1): 5836529245451711556,
    (1, 0): 7434755675892716031,
    (2**31, 10**9): 13156252409734809121,
}


def test_no_stream_has_changed():
    """A new purpose gets a line of its own here; another number in an old line is another result of every run."""
    draws = {
        stream: tuple(int(rng.integers(2**32)) for rng in (generator(0, stream), generator(1, stream, 2, 3)))
        for stream in Stream
    }
    assert draws == FIRST
    assert {place: step_seed(*place) for place in SEEDS} == SEEDS


def test_no_two_streams_are_alike():
    places = [(0, 0), (0, 1), (1, 0), (2, 9), (9, 2)]
    draws = [generator(seed, stream, *place).bytes(8) for seed in (0, 1) for stream in Stream for place in places]
    assert len(set(draws)) == len(draws) == 2 * len(Stream) * len(places)
    assert generator(3, Stream.EPOCH, 1).bytes(8) == generator(3, Stream.EPOCH, 1).bytes(8)


def test_negative_seeds_are_refused():
    for refuse in (check_seed, lambda seed: generator(seed, Stream.EPOCH)):
        with pytest.raises(ConfigError, match=r"from 0 up, not -1"):
            refuse(-1)
