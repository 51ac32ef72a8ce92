"""Random sequences of what happens to several processes that take steps together, beside a plain step on all rows.

Every process draws the same sequences. The first one takes the plain steps, and is told after each event what came of
it in the others: all hold what the plain step holds, or all were refused with an error of ours and hold what they had.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from torch import distributed

from lossrag.errors import ConfigError, LossRAGError
from lossrag.weighting import MGDA, Group, MetaWeighting, MultiTaskStep, Uniform
from tests.weighting.loops import Net, batch, flat
from tests.weighting.plain_step import PlainStep

NAMES, ROWS = ("a", "b", "c"), 12
METHODS = {"uniform": Uniform(), "mgda": MGDA(), "metaweighting": MetaWeighting(alpha=0.1, scale="unit")}
BEFORE = ("nothing", "nothing", "parts", "micro", "moved", "moved", "reordered", "copied", "pickled")
MISTAKES = (
    *("support fails", "query fails", "micro fails"),
    *("no rows", "one function", "frozen here", "other parameters"),
)


def drawn(seed):
    """A sequence: what is kept through it, and its events."""
    r = random.Random(seed)
    kept = {
        "method": r.choice(["uniform", "mgda", "metaweighting", "metaweighting"]),
        "split": r.choice(["rows", "tasks"]),
        "nonfinite": r.choice(["raise", "skip"]),
        "outer": r.choice([None, None, ("a", "c"), ("b",)]),
        "every": r.choice([1, 1, 2, 3]),
        "size": r.choice([2, 3]),
    }
    return kept, [_event(r) for _ in range(r.randint(1, 6))]


def _event(r):
    def side():
        return {
            "absent": {name for name in NAMES if r.random() < 0.2},
            "how": r.choice(["none", "unlabelled"]),
            "unlabelled": r.choice([0.0, 0.0, 0.5, 0.9]),
            "cuts": sorted(r.choice([0, ROWS, r.randint(0, ROWS), r.randint(0, ROWS)]) for _ in range(2)),
            "spoiled": r.choice(NAMES) if r.random() < 0.15 else None,
            "by": r.choice(["loss", "loss", "gradient"]),
            "with": r.choice([float("inf"), float("nan")]),
            "row": r.random(),
            "missing": r.randrange(2**31),
        }

    return {
        "support": side(),
        "query": side(),
        "frozen": r.choice(["nothing", "nothing", "trunk", "first head"]),
        "replaced": r.random() < 0.15,
        "form": r.choice(["joint", "dict", "closures"]),
        "before": r.choice(BEFORE),
        "size": r.choice([1, 2, 3]),
        "mistake": r.choice(MISTAKES) if r.random() < 0.15 else None,
        "by": r.randrange(2),
    }


class Side:
    """A batch of one side of a step, its labels and who has which rows of it."""

    def __init__(self, told, number, size, split, rank):
        self.told = told
        self.x, self.y = batch(number, len(NAMES), ROWS)
        g = torch.Generator().manual_seed(told["missing"])
        self.y[torch.rand(self.y.shape, generator=g) < told["unlabelled"]] = -100
        self.factor = torch.ones(ROWS, len(NAMES), dtype=torch.float64)
        self.kink = torch.zeros(ROWS, len(NAMES), dtype=torch.float64)
        for t, name in enumerate(NAMES):
            self.y[:, t] = -100 if name in told["absent"] else self.y[:, t]
            labelled = (self.y[:, t] != -100).nonzero().flatten()
            if name == told["spoiled"] and len(labelled):
                row = labelled[int(told["row"] * len(labelled))]
                if told["by"] == "loss":
                    self.factor[row, t] = told["with"]
                else:
                    self.kink[row, t] = 1.0
        ends = [0, *told["cuts"][: size - 1], ROWS, ROWS, ROWS]
        self.rows = slice(ends[rank], ends[rank + 1]) if split == "rows" else slice(0, ROWS)

    def loss(self, net, name, rows, how):
        """The mean over the labelled ones of these rows."""
        t = NAMES.index(name)
        y = self.y[rows, t]
        if how == "none" and not bool((y != -100).any()):
            return None
        z = net(self.x[rows])[t] * self.factor[rows, t, None]
        loss = F.cross_entropy(z, y, ignore_index=-100)
        # finite itself, but no number is its slope
        return loss + (0 * z.sum()).sqrt() if bool(self.kink[rows, t].any()) else loss

    def counts(self, names, rows):
        """Rows that have a label; without one of a task, whose loss is the mean over none, any number will do."""
        found = [float((self.y[rows, NAMES.index(name)] != -100).sum()) for name in names]
        return [count or float(len(self.x[rows])) for count in found]

    def whole(self, net):
        """By name the losses on all rows, of tasks that have some."""
        every = {name: self.loss(net, name, slice(0, ROWS), "none") for name in NAMES}
        return {name: loss for name, loss in every.items() if loss is not None}

    def given(self, net, names, form, rows, fails=False):
        """The losses of this process, as a loop gives them."""
        how = self.told["how"]

        def one(name):
            if fails:
                raise ArithmeticError("a closure of the user's")
            return self.loss(net, name, rows, how)

        if form == "joint":
            return lambda: [one(name) for name in names]
        if form == "dict":
            return lambda: {name: one(name) for name in names}
        return {name: (lambda name=name: one(name)) for name in names}


class Player:
    """One process of a sequence."""

    def __init__(self, kept, groups, harness):
        self.kept, self.groups, self.harness = kept, groups, harness
        self.rank = distributed.get_rank()
        self.net, self.names, self.size = Net(len(NAMES)), NAMES, kept["size"]
        self.step = self.made()
        other = Net(len(NAMES))
        self.plain = PlainStep(other, NAMES, kept["method"], outer=kept["outer"], every=kept["every"])

    def made(self):
        """A step of as many processes as there are now, None in others."""
        if self.rank >= self.size:
            return None
        kept = self.kept
        group = Group(kept["split"], 1, self.groups[self.size]) if self.size > 1 else None
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        options = {"nonfinite": kept["nonfinite"], "every": kept["every"], "group": group}
        return MultiTaskStep(self.net, optimizer, METHODS[kept["method"]], self.names, outer=kept["outer"], **options)

    def move(self, event):
        """The loop is stopped and goes on: with another number of processes, in another order, or from a copy."""
        how = event["before"]
        if how in ("moved", "reordered"):
            saved = [None]
            if self.rank == 0:
                file = io.BytesIO()
                torch.save({"net": self.net.state_dict(), "step": self.step.state_dict()}, file)
                saved = [file.getvalue()]
            distributed.broadcast_object_list(saved, 0, group=self.harness)
            state = torch.load(io.BytesIO(saved[0]), weights_only=True)
            self.size = event["size"] if how == "moved" else self.size
            self.names = ("c", "a", "b") if how == "reordered" else self.names
            self.net = Net(len(NAMES), seed=1)
            self.net.load_state_dict(state["net"])
            self.step = self.made()
            if self.step is not None:
                self.step.load_state_dict(state["step"])
        elif self.step is not None and how == "copied":
            self.net, self.step = copy.deepcopy((self.net, self.step))
        elif self.step is not None and how == "pickled":
            if self.size == 2:
                with pytest.raises(ConfigError, match="state_dict"):
                    pickle.dumps(self.step)
                return
            self.net, self.step = pickle.loads(pickle.dumps((self.net, self.step)))

    def culprit(self, event):
        """The number of the process that a mistake is made by."""
        own = [0] if self.step.group is None else self.step.group.own(len(NAMES))
        if event["mistake"] == "query fails" and self.kept["split"] == "tasks" and self.size > 1:
            return next(rank for rank, tasks in enumerate(own) if self.step.outer[0] in tasks)
        return event["by"] % self.size

    def mistaken(self, event, support):
        """What a process says to a mistake of one of them, or of all; nothing may come of it."""
        step, net, mistake = self.step, self.net, event["mistake"]
        here = self.rank == self.culprit(event)
        rows, counts = support.rows, support.counts(self.names, support.rows)
        losses = support.given(net, self.names, "closures", rows, here and mistake.endswith("fails"))
        told = {} if step.group is None or mistake == "no rows" else {"rows": counts}
        if mistake == "one function":
            losses = support.given(net, self.names, "joint", rows)
        if mistake == "micro fails":
            step.accumulate(support.given(net, self.names, "closures", rows), **told)
            return _said(lambda: step.accumulate(losses, **told))
        layer, held = net.heads[1], net.heads[1].bias.detach().clone()
        if here and mistake == "frozen here":
            layer.requires_grad_(False)
        if here and mistake == "other parameters":
            layer.bias.data += 1e-9
        said = _said(lambda: step.backward(losses, **told))
        layer.requires_grad_(True)
        layer.bias.data.copy_(held)
        return said

    def take(self, event, support, query):
        """What a process says to the step of an event, where it is refused."""
        step, net, split = self.step, self.net, self.kept["split"]
        alone, learns = step.group is None, step.needs.hypergradient is not None
        form = event["form"] if split == "rows" or alone else "closures"
        outer = [self.names[t] for t in step.outer]
        fails = event["mistake"] == "query fails" and self.rank == self.culprit(event)
        middle = (support.rows.start + support.rows.stop) // 2
        parts = [support.rows]
        if event["before"] == "micro" and not alone:
            parts = [slice(support.rows.start, middle), slice(middle, support.rows.stop)]
        *micro, last = [
            (
                support.given(net, self.names, form, rows),
                {} if alone else {"rows": support.counts(self.names, rows)},
            )
            for rows in parts
        ]
        held_out = query.given(net, outer, form, query.rows, fails)
        counts = {} if alone else {"query_rows": query.counts(outer, query.rows)}

        def run():
            step.optimizer.zero_grad()
            for losses, rows in micro:
                step.accumulate(losses, **rows)
            if micro or event["before"] == "parts":
                record = step.backward(last[0], **last[1])
                if record.skipped is None:
                    step.optimizer.step()
                if learns:
                    record = step.learn(held_out, **counts)
            elif learns:
                record = step(last[0], held_out if step.learns_next else None, **last[1], **counts)
            else:
                record = step(last[0], **last[1])
            for told, losses in ((record.support_losses, self.seen[0]), (record.query_losses, self.seen[1])):
                if told is not None and record.skipped is None:
                    by_name = dict(zip(self.names, told.tolist(), strict=True))
                    losses.update({name: value for name, value in by_name.items() if not math.isnan(value)})

        return _said(run)

    def play(self, number, event):
        """An event; the first process returns what is wrong with it, the others None."""
        self.move(event)
        for net in (self.net, self.plain.net):
            net.trunk.requires_grad_(event["frozen"] != "trunk")
            net.heads[0].requires_grad_(event["frozen"] != "first head")
        if event["replaced"]:
            self.replace(number)
        sides = (event["support"], 2 * number), (event["query"], 2 * number + 1)
        self.seen = {}, {}
        support, query = (Side(told, k, self.size, self.kept["split"], self.rank) for told, k in sides)
        mistake = event["mistake"]
        vain = {"one function", "no rows"} - {"one function" if self.kept["split"] == "tasks" else "no rows"}
        if mistake in vain or (self.size == 1 and not str(mistake).endswith("fails")):
            mistake = None
        event = {**event, "mistake": mistake}
        if mistake not in (None, "query fails"):
            said = self.step and self.mistaken(event, support)
            wrong = self.told(event, said, "refused")
            if wrong:
                return f"{mistake}: {wrong}"
        said = self.step and self.take(event, support, query)
        expected = self.expected(event, support, query) if self.rank == 0 else None
        return self.told(event, said, expected)

    def replace(self, number):
        """The last head is replaced by a new one, which the optimiser is told of."""
        for net in (self.net, self.plain.net):
            net.heads[2] = Net(len(NAMES), seed=number).heads[2]
        if self.step is not None:
            self.step.optimizer.add_param_group({"params": list(self.net.heads[2].parameters())})

    def expected(self, event, support, query):
        """What the step is to say, after the plain one."""
        plain, asked = self.plain, []

        def held_out():
            asked.append(True)
            return {} if event["mistake"] == "query fails" else query.whole(plain.net)

        lost = plain(support.whole(plain.net), held_out)
        if event["mistake"] == "query fails" and asked:
            return "refused"
        if lost is None or self.kept["nonfinite"] == "skip":
            return None
        plain.count -= lost == "support"
        return "DivergedError"

    def told(self, event, said, expected):
        """What is wrong with what the processes hold and say, if anything is: the first one looks at all of them."""
        held = None
        if self.step is not None:
            weights = dict(zip(self.names, self.step.task_weights.tolist(), strict=True))
            held = said, flat(self.net), weights, self.step.count, self.seen
        every = [None] * distributed.get_world_size() if self.rank == 0 else None
        distributed.gather_object(held, every, 0, group=self.harness)
        if every is None:
            return None
        for rank, answer in enumerate(every[: self.size]):
            mine = rank == self.culprit(event) and str(event["mistake"]).endswith("fails")
            fault = next(self.faults(answer, every[0], "ArithmeticError" if mine else "", expected), None)
            if fault is not None:
                return f"rank {rank} of {self.size} said {answer[0]!r}: {fault}"
        return None

    def faults(self, answer, first, own, expected):
        """What is wrong with what a process holds and says."""
        (word, parameters, weights, count, seen), plain = answer, self.plain
        if expected is None or word is None:
            if word != expected:
                yield f"expected {expected}"
        elif not word.startswith({"refused": own}.get(expected, expected)):
            yield f"expected {expected} {own}"
        elif expected == "refused" and not own and word.startswith(("ArithmeticError", "DivergedError")):
            yield "that is not of this mistake"
        if not torch.equal(parameters, first[1]) or weights != first[2]:
            yield "differs from rank 0"
        if not torch.allclose(parameters, flat(plain.net), rtol=1e-6, atol=1e-9):
            yield f"parameters differ by {float((parameters - flat(plain.net)).abs().max())}"
        if any(abs(weights[name] - plain.weights[name]) > 1e-6 * abs(plain.weights[name]) for name in NAMES):
            yield f"weights {weights}, not {plain.weights}"
        if count != plain.count:
            yield f"at step {count}, not {plain.count}"
        for told, known in zip(seen, (plain.losses, plain.query_losses), strict=True):
            if told and told != pytest.approx(known, rel=1e-6):
                yield f"losses {told}, not {known}"


def _said(run):
    """The error of ours, or of the user's, that a process raises."""
    try:
        run()
    except (LossRAGError, ArithmeticError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def played(rank, size, seeds):
    """How many of the sequences went as they should, and what was wrong with the first that did not."""
    groups = {2: distributed.new_group([0, 1]), 3: None}
    harness = distributed.new_group(list(range(size)))
    for done, seed in enumerate(seeds):
        kept, events = drawn(seed)
        player = Player(kept, groups, harness)
        for number, event in enumerate(events):
            wrong = [player.play(number, event)]
            distributed.broadcast_object_list(wrong, 0, group=harness)
            if wrong[0]:
                return done, f"seed {seed}, event {number}: {wrong[0]}\n{kept}\n{event}"
    return len(seeds), ""
