"""Disturb runs and resume them to the end: `python -m tests.soak.disturbances --signals 60`.

The runs are those of `tests.soak.kills`. Signals fall into the first ten seconds, where the libraries are imported and
the graph is compiled. Then each of the other disturbances comes once: a closed pipe, a full disk under each output, a
folder that is removed. A disturbed run must end in one line or go on, and end with the weights of an undisturbed run.
"""

import argparse
import contextlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.soak.kills import EPOCHS, OPTIONS, STEPS, differences, run_unkilled
from tests.tiny_project import ROOT, write_config, write_images

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PYTHON_STARTS = 0.3  # seconds in which no line of the script has run yet
FIRST_SECONDS = 10.0
MIDDLE = f"epoch {EPOCHS // 4}/"  # the disturbance comes at this line of the log
DISK = 24 * 2**20  # bytes; holds all outputs of the run
OUTPUTS = ("checkpoints", "best", "logs", "summaries")


class Counts(Counter[str]):
    """Counts of outcomes, each printed when it changes."""

    def __setitem__(self, outcome: str, count: int) -> None:
        super().__setitem__(outcome, count)
        print(f"  {count:4} {outcome}", flush=True)


@dataclass(frozen=True)
class Ended:
    """The exit code and the lines on standard error of a process."""

    code: int
    lines: list[str]


def main() -> int:
    """Disturb runs and print the counts as they grow; return 1 after any defect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--signals", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    rng = random.Random(words.seed)
    counts = Counts()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        data = write_images(place / "data", train=STEPS * 8 // 3, val=3)
        reference, _ = run_unkilled(place / "reference", data)

        def compare(run: Path, kind: str, ignored: tuple[str, ...] = ()) -> None:
            found = [each for each in differences(run, reference) if not each.startswith(ignored or ("\0",))]
            counts[f"{kind}: {'EQUAL RESULTS MISSING' if found else 'equal results'}"] += 1
            if found:
                print(f"{kind}: differs in {found[:5]}", flush=True)

        interrupt_starts(place, data, rng, words.signals, counts)
        compare(place / "signals", "resumed after all signals")
        run = new_run(place, data, "pipe")
        counts[f"closed pipe: {outcome(close_pipe(run), (0,))}"] += 1
        compare(run, "closed pipe")
        for output in OUTPUTS:
            run = new_run(place, data, f"full_{output}")
            with full_disk(run, output):
                ended = started(run).wait_and_disturb(run, lambda run=run, output=output: fill(run / output))
                counts[f"full disk under {output}: {outcome(ended, (0, 2))}"] += 1
                (run / output / "filler").unlink()
                counts[f"full disk under {output}, resumed: {outcome(started(run).wait(), (0,))}"] += 1
                shutil.copytree(run / output, run / "copy")
            shutil.copytree(run / "copy", run / output, dirs_exist_ok=True)
            compare(run, f"full disk under {output}")
        for output in OUTPUTS:
            run = new_run(place, data, f"removed_{output}")
            ended = started(run).wait_and_disturb(run, lambda run=run, output=output: shutil.rmtree(run / output))
            counts[f"removed {output}: {outcome(ended, (0,))}"] += 1
            # files that were removed for good cannot be equal, and the best epoch of those that are left is another
            compare(run, f"removed {output}", ignored=(f"files of {output}", f"{output}.ckpt"))
    return int(any(line.split(": ")[1].isupper() for line in counts))


def interrupt_starts(place: Path, data: Path, rng: random.Random, signals: int, counts: Counter[str]) -> None:
    """Send `signals` signals in the first seconds of a run, each time resuming it, and let it end at last."""
    ignored = [number.name for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
    if ignored:  # as in a background job of a shell; the runs would ignore them too
        raise SystemExit(f"error: this process ignores {', '.join(ignored)}: start it in the foreground")
    run = new_run(place, data, "signals")
    received = 0
    while received < signals:
        process = started(run)
        time.sleep(rng.uniform(PYTHON_STARTS, FIRST_SECONDS))
        number = rng.choice(SIGNALS)
        process.process.send_signal(number)
        ended = process.wait()
        if ended.code == 0:  # the run had ended before: begin anew
            counts["signal: after the end of the run"] += 1
            shutil.rmtree(run)
            run = new_run(place, data, "signals")
            continue
        received += 1
        quiet = ended.lines in ([], ["interrupted"])  # a run that saves says so on standard output
        right = ended.code == 128 + number and quiet
        counts[f"signal: {'one line' if right else f'{number.name}, OTHER END {ended}'.upper()}"] += 1
    counts[f"after all signals: {outcome(started(run).wait(), (0,))}"] += 1


def new_run(place: Path, data: Path, name: str) -> Path:
    """Make the folder of a run and its config."""
    run = place / name
    run.mkdir()
    write_config(run, data, **OPTIONS)
    return run


class Process:
    """A process of train.py whose standard error is kept."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process, self._errors = process, errors

    def wait(self) -> Ended:
        code = self.process.wait(timeout=900)
        return Ended(code, self._errors.read_text().splitlines())

    def wait_and_disturb(self, run: Path, disturb: Callable[[], object]) -> Ended:
        """Disturb the run in its middle, and wait for its end."""
        while self.process.poll() is None and MIDDLE not in (run / "out").read_text():
            time.sleep(0.1)
        disturb()
        return self.wait()


def started(run: Path) -> Process:
    """Start or resume the run."""
    errors = run / "err"
    command = [sys.executable, "-u", str(ROOT / "train.py"), "--config", str(run / "config.yaml"), "--resume", "auto"]
    with (run / "out").open("w") as out, errors.open("w") as err:
        return Process(subprocess.Popen(command, stdout=out, stderr=err, text=True), errors)


def close_pipe(run: Path) -> Ended:
    """Run `train.py | head -n 1`."""
    words = f"'{sys.executable}' -u '{ROOT}/train.py' --config '{run}/config.yaml' 2>'{run}/err' | head -n 1"
    code = subprocess.run(["bash", "-o", "pipefail", "-c", words], stdout=subprocess.DEVNULL, check=False).returncode
    return Ended(code, (run / "err").read_text().splitlines())


@contextlib.contextmanager
def full_disk(run: Path, output: str) -> Iterator[None]:
    """Mount a small disk as the folder of an output; needs root."""
    folder = run / output
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Fill the disk of `folder`."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def outcome(ended: Ended, codes: tuple[int, ...]) -> str:
    """Return how a process ended, in capitals if it is a defect."""
    errors = [line for line in ended.lines if line.startswith("error: ")]
    if ended.code not in codes or len(errors) != (ended.code != 0) or any("Traceback" in line for line in ended.lines):
        return f"EXIT CODE {ended.code}, {' / '.join(ended.lines)[-300:]}".upper()
    return "went on" if ended.code == 0 else "one line"


if __name__ == "__main__":
    raise SystemExit(main())
