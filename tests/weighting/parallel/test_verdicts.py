"""What one process meets alone: absent tasks, values that are no numbers, errors, its end; all act alike."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossrag.errors import ConfigError, DivergedError, GroupError
from lossrag.weighting import MGDA, Group, MultiTaskStep, TaskGroup
from tests.weighting.parallel.loop import ROWS, Net, batch, closures, counts, difference, flat, made, share, take
from tests.weighting.parallel.processes import together

NAMES = ("uniform", "mgda", "meta unit", "gradnorm")
NOWHERE = (24, 0, 9, 1)
"""Rows of a batch: task b has none, task d has its only one in the last process."""


def mixed(step, net, rank=0, size=1):
    """Steps in which tasks are absent from one process or from all, or unlabelled in one."""
    more = {"epoch": 0} if step.needs.epoch else {}
    for number in range(6):
        support, query = (share(batch(number, side, NOWHERE if number % 2 else ROWS), rank, size) for side in (0, 1))
        told = {} if step.group is None else {"rows": counts(support)}
        if number == 2 and rank < size - 1:  # what this process has of task c is unlabelled: a mean over no rows
            support[2] = (support[2][0], torch.full_like(support[2][1], -100))
        elif number == 2 and size == 1:  # as it is for the joined batch of two
            kept = len(share(batch(number, 0), 1, 2)[2][0])
            support[2] = tuple(part[-kept:] for part in support[2])
        if step.needs.hypergradient is None:
            record = step(closures(net, support), **told, **more)
            continue
        told |= {} if step.group is None else {"query_rows": counts(query)}
        record = step(closures(net, support), closures(net, query), **told, **more)
    return flat(net), step.task_weights, record.present


def absent(rank, size):
    return {name: mixed(*reversed(made(name, Group(check_every=2))), rank, size) for name in NAMES}


def spoiled(rank, size, policy, side):
    """What a process says where the losses of task b are no number in process 1 alone, and how it goes on."""
    said = []
    for name in ("uniform", "meta unit"):
        net, step = made(name, Group(check_every=1), nonfinite=policy)
        take(step, net, 0, rank, size)
        before = flat(net)
        support, query = (share(batch(1, i), rank, size) for i in (0, 1))
        (support if side == "support" else query)[1][0].mul_(float("inf") if rank else 1.0)
        told = {"rows": counts(support), "query_rows": counts(query)}
        try:
            if step.needs.hypergradient is None:
                step(closures(net, support), rows=counts(support))
            else:
                step(closures(net, support), closures(net, query), **told)
            said.append(f"skipped {step.skipped}")
        except DivergedError as error:
            said.append(str(error))
        said.append(torch.equal(before, flat(net)))
        take(step, net, 2, rank, size)
        said.append(flat(net))
    return said


def failing(rank, size):
    """Errors of one process in its losses, after which all go on; and mistakes that all make."""
    said = {}
    for name in ("uniform", "meta unit"):
        net, step = made(name, Group(check_every=1))
        support, query = (share(batch(1, i), rank, size) for i in (0, 1))
        first = closures(net, support)
        if rank == 1:
            first[2] = partial(net, torch.ones(3, 7), 2)
        told = {"query_rows": counts(query)} if step.needs.hypergradient else {}
        second = {"query": closures(net, query)} if step.needs.hypergradient else {}
        before = flat(net)
        try:
            step(first, rows=counts(support), **told, **second)
        except (RuntimeError, GroupError) as error:
            said[name] = f"{type(error).__name__}: {error}"
        assert torch.equal(before, flat(net))
        assert step.count == 0
        take(step, net, 2, rank, size)
        said[name + " parameters"] = flat(net)
    net, step = made("mgda", Group())
    mistakes = {
        "rows": lambda: step(closures(net, batch(0, 0))),
        "count": lambda: step(closures(net, batch(0, 0)), rows=[1, 2]),
        "low": lambda: made("metaweighting", Group(), memory="low"),
        "features": lambda: made("mgda_ub", Group()),
        "wrapped": lambda: MultiTaskStep(
            nn.parallel.DistributedDataParallel(net), torch.optim.SGD(net.parameters(), 0.1), MGDA(), 4, group=Group()
        ),
        "joint": lambda: made("mgda", Group("tasks"))[1](lambda: [None] * 4),
        "crossing": lambda: made("mgda", Group("tasks"))[1]([TaskGroup(range(4), [], [], lambda copies, stacks: [])]),
        "sparse": lambda: MultiTaskStep(
            net, torch.optim.SGD([{"params": list(net.parameters()), "sparse": True}], 0.1), MGDA(), 4, group=Group()
        ),
    }
    for what, mistake in mistakes.items():
        try:
            mistake()
        except ConfigError as error:
            said[what] = str(error)
    _, step = made("mgda", Group(), seed=rank)
    try:
        take(step, net, 0, rank, size)
    except GroupError as error:
        said["seed"] = str(error)
    net, step = made("mgda", Group(check_every=3))
    for number in range(4):
        if rank == 1 and number == 1:
            net.heads[0].bias.data[0] += 1e-6
        try:
            take(step, net, number, rank, size)
        except GroupError as error:
            said["drift"] = f"{number}: {error}"
    return said


def normed(rank, size):
    """Running statistics and dropout masks of two steps, and micro-batches against a whole batch."""
    torch.manual_seed(0)
    net, step = made("mgda", Group(check_every=1), net=Net(dropout=0.5, norm=True))
    torch.manual_seed(rank)
    for number in range(2):
        take(step, net, number, rank, size)
    found = {"mean": net.trunk[1].running_mean.clone(), "parameters": flat(net)}
    torch.manual_seed(0)
    unknown = Net(norm=True)
    step = MultiTaskStep(
        list(unknown.parameters()), torch.optim.SGD(unknown.parameters(), 0.1), MGDA(), [*"abcd"], group=Group()
    )
    try:
        take(step, unknown, 0, rank, size)
    except ConfigError as error:
        found["unknown"] = str(error)
    for micro in (False, True):
        net, step = made("meta unit", Group(check_every=1))
        optimizer = step.optimizer
        for number in range(3):
            drawn = share(batch(number, 0), rank, size)
            query = share(batch(number, 1), rank, size)
            if micro:
                halves = [[(x[i::2], y[i::2]) for x, y in drawn] for i in (0, 1)]
                step.accumulate(closures(net, halves[0]), rows=counts(halves[0]))
                drawn = halves[1]
            optimizer.zero_grad()
            step.backward(closures(net, drawn), rows=counts(drawn))
            optimizer.step()
            step.learn(closures(net, query), query_rows=counts(query))
        found[f"micro {micro}"] = flat(net)
    return found


def in_groups(net, drawn):
    """The same losses as task groups of two tasks."""

    def group(tasks):
        def compute(copies, stacks):
            found = []
            for place, task in enumerate(tasks):
                x, y = drawn[task]
                features = torch.tanh(F.linear(x, copies[0][place], copies[1][place]))
                weight, bias = (stack.chunk(len(tasks))[place] for stack in stacks)
                found.append(F.cross_entropy(F.linear(features, weight, bias), y))
            return found

        own = [[net.heads[t].weight for t in tasks], [net.heads[t].bias for t in tasks]]
        return TaskGroup(tasks, [net.trunk[0].weight, net.trunk[0].bias], own, compute)

    return [group(range(2)), group(range(2, 4))]


def grouped(group=None, rank=0, size=1):
    found = []
    for name in ("meta unit", "dtp", "uncertainty"):
        net, step = made(name, group)
        for number in range(4):
            support, query = (share(batch(number, side), rank, size) for side in (0, 1))
            told = {} if group is None else {"rows": dict(zip("abcd", counts(support), strict=True))}
            if step.needs.scores:
                told["scores"] = partial(accuracies, net, support)
            if step.needs.hypergradient is None:
                step(in_groups(net, support), **told)
                continue
            told |= {} if group is None else {"query_rows": counts(query)}
            step(in_groups(net, support), in_groups(net, query), **told)
        found += [flat(net), step.task_weights]
    return found


def further(group=None, rank=0, size=1):
    """An outer problem over two tasks every other step, its query gradient kept; and losses of a gradient scaler."""
    net, step = made("meta unit", group, outer=["a", "c"], every=2)
    step.keep_query_gradient = True
    for number in range(4):
        support, query = (share(batch(number, side), rank, size) for side in (0, 1))
        told = {} if group is None else {"rows": counts(support), "query_rows": [counts(query)[t] for t in (0, 2)]}
        second = closures(net, query)
        record = step(closures(net, support), {"a": second[0], "c": second[2]}, **told)
    found = [
        flat(net),
        step.task_weights,
        torch.cat([g.flatten() for g in record.query_gradient]),
        record.hypergradient,
    ]
    for name in ("meta unit", "gradnorm", "uniform"):
        net, step = made(name, group)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
        more = {"epoch": 0} if step.needs.epoch else {}
        for number in range(4):
            support, query = (share(batch(number, side), rank, size) for side in (0, 1))
            first, second = ([partial(_scaled, scaler, one) for one in closures(net, own)] for own in (support, query))
            step.optimizer.zero_grad()
            step.backward(first, **({} if group is None else {"rows": counts(support)}), **more)
            scaler.step(step.optimizer)
            scaler.update()
            if step.needs.hypergradient is not None:
                step.learn(second, **({} if group is None else {"query_rows": counts(query)}))
        found += [flat(net), step.task_weights, torch.tensor(scaler.get_scale())]
    return found


def _scaled(scaler, closure):
    return scaler.scale(closure())


@torch.no_grad()
def accuracies(net, drawn):
    return torch.stack([(net(x, t).argmax(1) == y).float().mean() for t, (x, y) in enumerate(drawn)])


def everything(rank, size):
    told = {"absent": absent(rank, size), "failing": failing(rank, size), "normed": normed(rank, size)}
    told["further", "rows"] = further(Group(check_every=1), rank, size)
    told["further", "tasks"] = further(Group("tasks", check_every=1))
    told["grouped", "rows"] = grouped(Group(check_every=1), rank, size)
    told["grouped", "tasks"] = grouped(Group("tasks", check_every=1))
    for policy in ("raise", "skip"):
        for side in ("support", "query"):
            told[policy, side] = spoiled(rank, size, policy, side)
    return told


@pytest.fixture(scope="module")
def answers():
    found = together(everything, 2, seconds=120, timeout=30)
    assert all(isinstance(answer, dict) for answer in found), found
    return found


def test_tasks_absent_from_one_process_or_from_all(answers):
    for name in NAMES:
        whole, found = mixed(*reversed(made(name))), [answer["absent"][name] for answer in answers]
        assert all(torch.equal(found[0][0], other[0]) and torch.equal(found[0][1], other[1]) for other in found)
        assert difference(found[0][0], whole[0]) < 1e-6, name
        assert difference(found[0][1], whole[1]) < 1e-5, name
        assert found[0][2] == whole[2] == (True, False, True, True)


@pytest.mark.parametrize("policy", ["raise", "skip"])
@pytest.mark.parametrize("side", ["support", "query"])
def test_values_that_are_no_numbers_in_one_process(answers, policy, side):
    one, other = (answer[policy, side] for answer in answers)
    for said, told in zip(one, other, strict=True):
        if isinstance(said, torch.Tensor):
            assert torch.equal(said, told)
            assert bool(said.isfinite().all())
    by_method = {"uniform": one[:2], "meta": one[3:5]}
    if policy == "raise" and side == "support":
        assert all("not finite for b (nan)" in said[0] and said[1] for said in by_method.values())
        assert "an input of the model is not finite" in other[0]
    if policy == "raise" and side == "query":
        assert "query loss is not finite for b" in by_method["meta"][0]
    if policy == "skip" and side == "support":
        assert all(said == ["skipped 1", True] for said in by_method.values())


def test_an_error_of_one_process_stops_all_and_names_it(answers):
    one, other = (answer["failing"] for answer in answers)
    for name in ("uniform", "meta unit"):
        assert one[name].startswith("GroupError: Process 1 of 2 failed in its support losses")
        assert "mat1 and mat2" in one[name]
        assert other[name].startswith("RuntimeError")
        assert torch.equal(one[name + " parameters"], other[name + " parameters"])


def test_mistakes_have_words(answers):
    said = answers[0]["failing"]
    assert "pass rows=..." in said["rows"]
    assert "one for each of a, b, c, d" in said["count"]
    assert "T d / R" in said["low"]
    assert "such as MGDA" in said["features"]
    assert "group=Group()" in said["wrapped"]
    assert "Group(split='rows')" in said["joint"]
    assert "crosses" in said["crossing"]
    assert "sparse=True" in said["sparse"]


def test_processes_that_differ_are_named(answers):
    for answer in answers:
        assert "parameters of process 1 of 2 differ" in answer["failing"]["seed"]
        assert answer["failing"]["drift"].startswith("3: The parameters of process 1 of 2 differ")


def test_running_statistics_are_the_same_everywhere(answers):
    one, other = (answer["normed"] for answer in answers)
    assert torch.equal(one["mean"], other["mean"])
    assert torch.equal(one["parameters"], other["parameters"])
    assert "give it the model" in one["unknown"]


@pytest.mark.parametrize("split", ["rows", "tasks"])
def test_groups_of_tasks_and_scores(answers, split):
    whole, one, other = grouped(), *(answer["grouped", split] for answer in answers)
    for told, found, same in zip(whole, one, other, strict=True):
        assert torch.equal(found, same)
        assert difference(found, told) < 1e-6


@pytest.mark.parametrize("split", ["rows", "tasks"])
def test_some_outer_tasks_kept_gradients_and_scaled_losses(answers, split):
    whole, one, other = further(), *(answer["further", split] for answer in answers)
    for told, found, same in zip(whole, one, other, strict=True):
        assert torch.equal(found, same)
        assert difference(found, told) < 2e-6


def test_micro_batches_weigh_by_their_rows(answers):
    found = answers[0]["normed"]
    assert difference(found["micro True"], found["micro False"]) < 1e-6


def test_a_group_needs_processes():
    with pytest.raises(ConfigError, match="init_process_group"):
        Group()
