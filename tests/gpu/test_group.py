"""A group of processes under NCCL: with one GPU a group of one, through all collectives, beside no group."""

import datetime

import pytest
import torch
from torch import distributed

from lossrag.weighting import Group
from tests.weighting.parallel.loop import METHODS, Net, closures, counts, difference, flat, made
from tests.weighting.parallel.loop import batch as cpu_batch


@pytest.fixture
def processes(device, tmp_path):
    """The backend of this device, with this process alone."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = f"file://{tmp_path}/store"
    timeout = datetime.timedelta(seconds=60)
    distributed.init_process_group(backend, init_method=store, rank=0, world_size=1, timeout=timeout)
    yield backend
    distributed.destroy_process_group()


def trained(name, device, group=None, steps=5):
    torch.manual_seed(0)
    net, step = made(name, group, net=Net().to(device))
    for number in range(steps):
        support, query = ([(x.to(device), y.to(device)) for x, y in cpu_batch(number, side)] for side in (0, 1))
        more = {"epoch": number // 5} if step.needs.epoch else {}
        if group is not None:
            more["rows"] = counts(support)
        if step.needs.hypergradient is None:
            step(closures(net, support), **more)
            continue
        if group is not None:
            more["query_rows"] = counts(query)
        step(closures(net, support), closures(net, query), **more)
    return flat(net)


@pytest.mark.parametrize("split", ["rows", "tasks"])
def test_every_family_beside_no_group(device, processes, split):
    group = Group(split, check_every=2)
    assert group.backend == processes
    for name in METHODS:
        together, alone = trained(name, device, group), trained(name, device)
        assert together.device.type == device.type
        assert difference(together, alone) < 1e-6, name
