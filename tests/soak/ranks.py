"""Short evaluations and trainings of two and three ranks on a loaded machine: `python -m tests.soak.ranks --runs 200`.

Each run must end with exit code 0, an empty standard error and the results of the first run of its kind. `--together`
runs compete for the cores, so that every thread of a rank is sometimes delayed, also at the end of the rank.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.tiny_project import ARCH, ROOT, script, write_config, write_images

RUN = f"{ARCH}_test"
CPU = ("--extra", "--device_target", "CPU")
# A training takes three times as long as an evaluation, and both end in the same way.
KINDS = [(kind, ranks) for kind in ("evaluation", "evaluation", "evaluation", "training") for ranks in (2, 3)]
TIMEOUT = 1800  # seconds; a training of three ranks takes 60 s of CPU time
OPTIONS = {"epochs": 1, "batch_size": 4, "num_parallel_workers": 2, "print_loss_every": 1}


def main() -> int:
    """Make the runs, print the counts and each run that failed; return 1 if any did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--together", type=int, default=3)
    words = parser.parse_args()
    counts: Counter[str] = Counter()
    ended = 0
    expected: dict[tuple[str, int], list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_images(folder / "data", train=8, val=7)
        script("train.py", "--config", write_config(folder, data, **OPTIONS))
        (checkpoint,) = (folder / "best" / RUN).glob(f"{ARCH}-best-*.ckpt")

        def run(number: int) -> tuple[int, subprocess.CompletedProcess[str]]:
            place = folder / f"run{number}"
            place.mkdir()
            kind, ranks = KINDS[number % len(KINDS)]
            config = write_config(place, data, **OPTIONS)
            name = "run_distribute_train.sh" if kind == "training" else "run_eval_gpu.sh"
            options = [] if kind == "training" else ["--checkpoint", checkpoint]
            command = [
                "timeout",
                TIMEOUT,
                "bash",
                ROOT / "scripts" / name,
                config,
                "--num_devices",
                ranks,
                *options,
                *CPU,
            ]
            environment = {**os.environ, "PYTHON_BIN": sys.executable}
            words = [str(word) for word in command]
            done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
            shutil.rmtree(place)
            return number, done

        with ThreadPoolExecutor(words.together) as pool:
            for future in as_completed([pool.submit(run, number) for number in range(words.runs)]):
                number, done = future.result()
                kind = KINDS[number % len(KINDS)]
                counts["{}s of {} ranks".format(*kind)] += 1
                signal = re.search(r"was ended by (signal \d+ \([^)]*\))", done.stderr)
                results = re.findall(r"'Top1-Acc': [\d.]+|weights [0-9a-f]{8}", done.stdout)
                if signal:
                    outcome = signal[1]
                elif done.returncode:
                    outcome = f"exit code {done.returncode}"
                elif done.stderr:
                    outcome = "messages on standard error"
                elif not results or results != expected.setdefault(kind, results):
                    outcome = "other results"
                else:
                    outcome = "as expected"
                counts[outcome] += 1
                ended += 1
                if ended % 10 == 0:
                    print(f"{ended} runs: {counts['as expected']} as expected", flush=True)
                if outcome != "as expected":
                    print(
                        f"run {number} ({kind[0]} of {kind[1]} ranks): {outcome}\n{done.stdout}{done.stderr}",
                        flush=True,
                    )
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return int(counts["as expected"] != words.runs)


if __name__ == "__main__":
    raise SystemExit(main())
