"""Runs killed again and again, wherever it hits them: the same bits in the end as of a run that nobody disturbed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket

import pytest

from lossrag.weighting import MultiTaskStep
from tests.experiments.tables import people
from tests.experiments.test_ranks import command
from tests.experiments.test_signals import SUITES
from tests.processes import forked

KINDS = [*SUITES, "refit", "composed by look ahead", "data-parallel"]
CHAINS = int(os.environ.get("LOSSRAG_TEST_CHAINS", "100"))
KILLS = 4
PLACES = ("step", "line", "save", "rename", "test", "refit", "figure", "summary")
KILLED = -9


def line(kind, directory, table):
    options = {
        **SUITES,
        "refit": ["experiment=digits", "train.batch_size=512", "train.refit=true", "weighting.inner=adam"],
        "composed by look ahead": [*SUITES["composed"][:-2], "loss.evidence=look_ahead", SUITES["composed"][-1]],
        "data-parallel": ["experiment=digits", "train.batch_size=512"],
    }[kind]
    data = [f"tasks.data={table}"] if kind == "table" else []
    return ["train", *options, *data, "train.epochs=3", "log.tensorboard=false", f"run.dir={directory}"]


def dying(rank, size, arguments, environment, port, victim, number):
    """As ``command``; one process is killed before its step of this number."""
    original, calls = MultiTaskStep.__call__, [0]

    def counted(*given, **options):
        calls[0] += 1
        if rank == victim and calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given, **options)

    MultiTaskStep.__call__ = counted
    return command(rank, size, arguments, environment, port)


def together(arguments, victim=-1, number=0):
    """The exit codes of two processes that train together, None of a killed one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = forked(dying, 2, arguments, dict(os.environ), port, victim, number, seconds=180)
    return [None if answer is None else answer[0] for answer in told]


@pytest.mark.slow
def test_chains(tmp_path, sessions, assert_same_run, capsys):
    table = tmp_path / "people.csv"
    people(table, 250, 0)
    whole, wrong, kills = {}, {}, 0
    for number in range(CHAINS):
        kind, chance = KINDS[number % len(KINDS)], random.Random(number)
        if kind not in whole:
            whole[kind] = tmp_path / f"whole {kind}"
            arguments = line(kind, whole[kind], table)
            codes = together(arguments) if kind == "data-parallel" else sessions([{"arguments": arguments}])
            assert set(codes) == {0}
        directory = tmp_path / str(number)
        arguments = [*line(kind, directory, table), f"run.checkpoint_seconds={chance.choice(('0', '0.05', '1e9'))}"]
        try:
            if kind == "data-parallel":
                for _ in range(2):
                    codes = together(arguments, chance.randrange(2), chance.randint(1, 4))
                    kills += codes.count(None)
                assert together(arguments) == [0, 0]
            else:
                stops = [{"place": chance.choice(PLACES), "number": chance.randint(1, 4)} for _ in range(KILLS)]
                codes = sessions([{"arguments": arguments, **stop} for stop in [*stops, {}]])
                kills += codes.count(KILLED)
                assert codes[-1] == 0
                assert set(codes) <= {0, KILLED}
            assert_same_run(whole[kind], directory)
        except AssertionError as error:
            wrong[number, kind] = str(error)[:500]
        shutil.rmtree(directory)
    with capsys.disabled():
        print(f"\nkilled and resumed, bit for bit: {CHAINS - len(wrong)} of {CHAINS} chains, {kills} kills")
    assert not wrong
