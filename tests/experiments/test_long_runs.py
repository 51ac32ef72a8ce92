"""Memory of a run that is long: it does not grow with the steps."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

STEPS = int(os.environ.get("LOSSRAG_TEST_STEPS", "20000"))
PROGRAM = """
import os, sys
from lossrag.experiments.cli import run
from lossrag.weighting import MultiTaskStep

original, calls, page = MultiTaskStep.__call__, [0], os.sysconf("SC_PAGE_SIZE")

def counted(*arguments, **options):
    calls[0] += 1
    if calls[0] % 50 == 0:
        with open("/proc/self/statm") as file:
            print(calls[0], int(file.read().split()[1]) * page, file=sys.stderr)
    return original(*arguments, **options)

MultiTaskStep.__call__ = counted
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="resident memory is read from /proc")
def test_resident_memory_of_a_composed_run(tmp_path, capsys):
    """With curves, pictures, contexts and evidence in the run; pictures come and go, so means are compared."""
    epochs = -(-STEPS // 18)  # of 64 rows
    line = ["train", "experiment=digits", "tasks.corrupt={digit: {noise: symmetric, rate: 0.4}}", "run.dir=run"]
    line += ["loss.policy=gradient", "loss.evidence=one_step", "loss.every=8", "log.contexts=true"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *line, f"train.epochs={epochs}", "train.batch_size=64"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pairs = (pair.split() for pair in done.stderr.splitlines())
    seen = {int(pair[0]): int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0].isdigit()}
    assert max(seen) >= STEPS - 50

    def mean(after, until):
        values = [value for step, value in seen.items() if after < step <= until]
        return sum(values) / len(values)

    early, late = mean(1000, 1000 + STEPS // 5), mean(STEPS - STEPS // 5, STEPS)
    with capsys.disabled():
        print(f"\nresident memory: {early / 1e6:.0f} MB after 1,000 steps, {late / early:.3f} of it after {STEPS:,}")
    assert late <= 1.02 * early
