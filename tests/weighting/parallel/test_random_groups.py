"""Random loops of several processes, whose number changes on the way: equal to a plain step, or refused by all."""

import pytest

from tests.processes import together
from tests.weighting.parallel.sequences import played


def all_go_well(seeds):
    answers = together(played, 3, seeds, seconds=60 + 2 * len(seeds), timeout=30)
    print(f"{answers[0][0]} of {len(seeds)} sequences of several processes equal the plain step")
    assert answers == [(len(seeds), "")] * 3, answers


def test_random_loops_of_processes():
    all_go_well(range(40))


@pytest.mark.slow
def test_five_hundred_random_loops_of_processes():
    all_go_well(range(1000, 1500))
