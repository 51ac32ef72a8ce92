"""Digests of eight small runs: what a change of shape must leave bit for bit alone on one machine.

python tests/digests.py record FILE     before the change (LOSSRAG_DATA must name the corpora)
python tests/digests.py compare FILE    after it; exit code 1 names the runs that differ

A digest covers the final parameters, the best model, the logged values and the test scores. It is not the same on
another processor or with another number of threads, so no digest is committed.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.numpy import load_file

DIGITS = ["experiment=digits", "train.epochs=2"]
TEXT = ["experiment=sentiment_quick", "train.epochs=1", "train.batch_size=1024", "model.filters=16"]
META = "weighting=metaweighting"
RUNS = {
    "digits, uniform": [*DIGITS, "weighting=uniform"],
    "digits, MetaWeighting as in the paper": [*DIGITS, META, "weighting.scale=paper"],
    "digits, MetaWeighting through Adam": [*DIGITS, META, "weighting.inner=adam", "weighting.constraint=simplex"],
    "text, MetaWeighting": TEXT,
    "text, MGDA": [*TEXT, "weighting=mgda"],
    "digits, GradNorm": [*DIGITS, "weighting=gradnorm"],
    "digits, composed one step ahead": [*DIGITS, "loss.policy=gradient", "loss.evidence=one_step", "train.epochs=4"],
    "text, composed by a look ahead": [*TEXT, "loss.policy=gradient", "loss.every=4"],
}


def digests(name: str, overrides: list[str], folder: Path) -> dict[str, str]:
    """Run `lossrag train` with these overrides in an empty folder; sha256 by what it is of."""
    run = folder / name.replace(" ", "_").replace(",", "")
    script = str(Path(sys.executable).with_name("lossrag"))
    line = [script, "train", *overrides, f"run.dir={run}", "log.tensorboard=false", "machine.device=cpu"]
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stderr}")
    found = {}
    for part in ("last", "best"):
        tensors = load_file(run / "checkpoints" / f"{part}.safetensors")
        digest = hashlib.sha256()
        for key in sorted(tensors):
            digest.update(f"{key} {tensors[key].shape} {tensors[key].dtype}".encode())
            digest.update(tensors[key].tobytes())
        found[part] = digest.hexdigest()
    found["metrics"] = hashlib.sha256((run / "metrics.jsonl").read_bytes()).hexdigest()
    summary = json.loads((run / "summary.json").read_text())
    told = [summary[key] for key in ("test_accuracy", "test_accuracy_mean", "task_weights")]
    found["summary"] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return found


def main(mode: str, file: str) -> int:
    """Record or compare; the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        now = {name: digests(name, overrides, Path(folder)) for name, overrides in RUNS.items()}
    if mode == "record":
        Path(file).write_text(json.dumps(now, indent=1) + "\n")
        return 0
    before = json.loads(Path(file).read_text())
    differing = {name: [k for k in now[name] if now[name][k] != before[name].get(k)] for name in now}
    for name, parts in differing.items():
        print(f"{name}: {'differs in ' + ', '.join(parts) if parts else 'equal'}")
    return int(any(differing.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
