"""Processes together against one process on the joined batches: parameters, weights, bytes."""

import os
import time

import pytest
import torch

from lossrag.errors import GroupError
from lossrag.weighting import Group
from lossrag.weighting.parallel.cost import traffic
from tests.weighting.parallel.loop import METHODS, Net, T, difference, flat, made, take
from tests.weighting.parallel.processes import together

STEPS = 20


def trained(name, group=None, rank=0, size=1, joint=False, steps=STEPS):
    net, step = made(name, group)
    for number in range(steps):
        record = take(step, net, number, rank, size, joint)
    return flat(net), step.task_weights, record.support_losses


def each(rank, size, names, split, joint):
    group = Group(split, check_every=5)
    mine = (rank, size) if split == "rows" else (0, 1)
    return {name: trained(name, group, *mine, joint) for name in names}


def sent():
    """Bytes that this process has written to sockets and files."""
    with open("/proc/self/io") as lines:
        return int(next(line.split()[1] for line in lines if line.startswith("wchar")))


def counted(rank, size, split):
    found = {}
    for name in ("uniform", "mgda", "meta unit"):
        net, step = made(name, Group(split, check_every=0), net=Net(width=6000))
        mine = (rank, size) if split == "rows" else (0, 1)
        take(step, net, 0, *mine)  # the first step draws up what the next ones have
        before = sent()
        take(step, net, 1, *mine)
        d = sum(parameter.numel() for parameter in net.parameters())
        model = traffic(step.needs, T, d, size, split)
        found[name] = (sent() - before, model.sent, step.nbytes, model.held)
    return found


def both(rank, size, names, split, joint=False):
    return each(rank, size, names, split, joint), counted(rank, size, split)


def and_one_ends(rank, size, *arguments):
    """The same, after which process 1 ends without a word: what the others say, after how many seconds."""
    answer = both(rank, size, *arguments)
    net, step = made("meta unit", Group())
    take(step, net, 0)
    if rank == 1:
        os._exit(9)
    before, started = flat(net), time.monotonic()
    try:
        take(step, net, 1)
    except GroupError as error:
        return (*answer, str(error), time.monotonic() - started, torch.equal(before, flat(net)), step.count)


def check(answers, names, joint=False):
    assert all(isinstance(answer, tuple) for answer in answers), answers
    for name in names:
        whole, found = trained(name, joint=joint), [answer[0][name] for answer in answers]
        assert all(torch.equal(a, b) for other in found for a, b in zip(found[0], other, strict=True)), name
        assert difference(found[0][0], whole[0]) < 1e-6, name
        assert difference(found[0][1], whole[1]) < 1e-5, name
        assert difference(found[0][2], whole[2]) < 1e-5, name
    for answer in answers:
        for name, (told, expected, held, most) in answer[1].items():
            assert told == pytest.approx(expected, rel=0.05), name
            assert not most or held == pytest.approx(most, rel=0.05), name


def test_shares_of_rows_give_what_one_process_gives():
    names = list(METHODS)
    check(together(both, 2, names, "rows", seconds=300, timeout=60), names)


def test_three_processes_that_divide_tasks_and_one_that_ends():
    names = ["uniform", "mgda", "meta unit"]
    one, gone, other = together(and_one_ends, 3, names, "tasks", seconds=120, timeout=60)
    assert gone is None
    check([one, other], names)
    for *_, message, took, unchanged, count in (one, other):
        assert "lost the others" in message
        assert "last checkpoint" in message
        assert took < 10
        assert unchanged
        assert count == 1


@pytest.mark.slow
@pytest.mark.parametrize("split", ["rows", "tasks"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_method_for_every_number_of_processes(size, split):
    names = list(METHODS)
    check(together(both, size, names, split, seconds=600, timeout=60), names)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
def test_tasks_on_one_closure(size):
    names = list(METHODS)
    check(together(both, size, names, "rows", True, seconds=600, timeout=60), names, joint=True)
