"""Worker: a `lossrag` command in a process that another one started (jobs.py).

It leaves Ctrl-C to its parent, which answers it with SIGTERM, and goes with its parent: when that is gone, the end of
the pipe that is its standard input says so, and the run stops as after SIGTERM, with a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from lossrag.experiments import cli, exits

STDIN = 0


def main() -> None:
    """Run the subcommand of the command line and exit with its code."""
    if len(sys.argv) < 2:
        print(
            "error: workers are started by lossrag compare, ablate and sweep; one run: lossrag train", file=sys.stderr
        )
        sys.exit(exits.MISTAKE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    cli.main()


def _follow_parent() -> None:
    # not through sys.stdin, whose lock a thread must not hold when the interpreter ends
    while os.read(STDIN, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
