"""Stands in for ``python -m diamond_fast.train``: the same folder, exit codes and last words, in milliseconds.

A run of ``--epochs`` adds up numbers that the seed decides. ``--fate EPOCH WHAT`` strikes once an epoch is done: a
signal's number as -9, or an exit code as 1. ``always`` strikes at each attempt, after an epoch; ``begin`` before one.
``--until FILE`` trains once that is there, or 60 seconds later.
"""

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path)
parser.add_argument("--resume", type=Path)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--fate", nargs=2)
parser.add_argument("--seconds", type=float, default=0.0)
parser.add_argument("--until")
args = parser.parse_args()
folder = args.resume or args.out
if args.out:
    folder.mkdir(parents=True)
    settings = {k: v for k, v in vars(args).items() if k not in ("out", "resume")}
    (folder / "config.json").write_text(json.dumps({"game": "Boxing", **settings}))
settings = json.loads((folder / "config.json").read_text())
lock = open(folder / "lock", "w")  # noqa: SIM115 (held to the end)
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def leave(number, frame):
    print("Stopped.", flush=True)
    sys.exit(128 + number)


signal.signal(signal.SIGTERM, leave)
print(f"GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}, threads {os.environ.get('OMP_NUM_THREADS')}", flush=True)
metrics = folder / "metrics.jsonl"
lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
total = lines[-1]["total"] if lines else settings["seed"]


def strike():
    code = int(what)
    if code < 0:
        signal.raise_signal(-code)
    print("out of memory on cpu: lower the batch", file=sys.stderr)
    sys.exit(code)


when, what = settings["fate"] or (None, "")
if when == "begin":
    strike()
deadline = time.monotonic() + 60
while settings["until"] and not os.path.exists(settings["until"]) and time.monotonic() < deadline:
    time.sleep(0.02)
for epoch in range(len(lines) + 1, settings["epochs"] + 1):
    time.sleep(settings["seconds"])
    total = (31 * total + epoch) % 1009
    line = {"epoch": epoch, "env_steps": 10 * epoch, "seconds": epoch, "total": total, "test/return_mean": total}
    if epoch == settings["epochs"]:
        line["final_test/returns"] = [total]
    with metrics.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"epoch {epoch}/{settings['epochs']}: total {total}", flush=True)
    if when == "always" or (when == str(epoch) and args.out):
        strike()
