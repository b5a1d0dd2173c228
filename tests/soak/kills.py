"""Kill runs with SIGKILL at random moments and resume them to the end: `python -m tests.soak.kills --kills 20`.

All state of a run is in use: dropout, drop path, mixup, a moving average, a dynamic loss scale that overflows at the
start, checkpoints every few steps. Each resumed run must end with the weights, averages, moments, best files and
metrics of an unkilled run, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from src.weights.checkpoint import load_checkpoint
from tests.tiny_project import ARCH, ROOT, metrics, script, write_config, write_images

RUN = f"{ARCH}_test"
EPOCHS = 40
STEPS = 6
OPTIONS = {
    "epochs": EPOCHS,
    "drop": 0.2,
    "drop_path": 0.3,
    "mixup": 0.8,
    "cutmix": 1.0,
    "with_ema": True,
    "ema_decay": 0.9,
    "is_dynamic_loss_scale": True,
    "loss_scale": 2.0**66,  # the sum of the squared gradients overflows in the first steps
    "ckpt_save_every_step": 4,
    "ckpt_keep_num": 3,
    "best_ckpt_num": 3,
    "num_parallel_workers": 2,
    "print_loss_every": 1,
}
TIMING = ("seconds", "images_per_second")


def main() -> int:
    """Kill until there are enough kills and print the counts; return 1 if a run differs from the unkilled one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    rng = random.Random(words.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = write_images(place / "data", train=STEPS * 8 // 3, val=3)
        reference, seconds = run_unkilled(place / "reference", data)
        counts: Counter[str] = Counter()
        while counts["kills"] < words.kills:
            counts["runs"] += 1
            run = place / f"run{counts['runs']}"
            run_killed(run, data, rng, seconds, words.kills, counts)
            differing = differences(run, reference)
            counts["runs equal to the unkilled one"] += not differing
            if differing:
                print(f"run {counts['runs']} differs in {', '.join(differing)}")
        print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return int(counts["runs"] != counts["runs equal to the unkilled one"])


def run_unkilled(folder: Path, data: Path) -> tuple[Path, float]:
    """Run from beginning to end; return the folder and the seconds."""
    folder.mkdir()
    begin = time.monotonic()
    script("train.py", "--config", write_config(folder, data, **OPTIONS))
    return folder, time.monotonic() - begin


def run_killed(folder: Path, data: Path, rng: random.Random, seconds: float, most: int, counts: Counter[str]) -> None:
    """Kill a run at moments drawn from the duration of a whole run, and resume it until it has ended."""
    folder.mkdir()
    config = write_config(folder, data, **OPTIONS)
    while True:
        with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
            command = [sys.executable, "-u", str(ROOT / "train.py"), "--config", str(config), "--resume", "auto"]
            process = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT)
            limit = rng.uniform(0, seconds) if counts["kills"] < most else None
            try:
                code = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                counts["kills"] += 1
                out.seek(0)
                counts[f"of them {moment(folder, out.read())}"] += 1
                continue
            err.seek(0)
            assert code == 0, err.read()
            return


def moment(folder: Path, printed: str) -> str:
    """Return the phase in which the process was killed."""
    if any(folder.rglob("*.partial")):
        return "while it wrote a file"
    return "in the middle of training" if re.search(r"step \d+/\d+ loss", printed) else "before its first step"


def differences(run: Path, reference: Path) -> list[str]:
    """Return the differences of two finished runs; empty if they are equal bit for bit."""
    final = Path("checkpoints") / RUN / f"{ARCH}-{EPOCHS}_{STEPS}.ckpt"
    ours, theirs = load_checkpoint(run / final), load_checkpoint(reference / final)
    found = [
        f"{kind} {name}"
        for kind in ("weights", "ema", "optimizer")
        for name, array in getattr(theirs, kind).items()
        if not np.array_equal(getattr(ours, kind)[name], array)
    ]
    for each in ("checkpoints", "best"):
        names = [sorted(path.name for path in (folder / each / RUN).iterdir()) for folder in (run, reference)]
        if names[0] != names[1]:
            found.append(f"files of {each}")
    for path in (run / "best" / RUN).glob("*.ckpt"):
        other = reference / path.relative_to(run)
        if other.exists():
            best, expected = load_checkpoint(path).weights, load_checkpoint(other).weights
            found += [f"{path.name} {name}" for name in expected if not np.array_equal(best[name], expected[name])]
    rows = [[{**row, **dict.fromkeys(TIMING)} for row in metrics(folder)] for folder in (run, reference)]
    if rows[0] != rows[1]:
        found.append("metrics.csv")
    shutil.rmtree(run)
    return found


if __name__ == "__main__":
    sys.exit(main())
