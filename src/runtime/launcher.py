"""The launcher of ranks: starts them with mpirun and ends all of them together. Imports no MindSpore.

A run has four kinds of processes: the ranks, their parents (src/runtime/rank.py), mpirun, which starts these on every
host and ends all ranks when one fails, and MindSpore's scheduler, through which the ranks meet
(src/runtime/distributed.py). The launcher is the parent of mpirun and of the scheduler. It asks the ranks to stop,
names the rank that failed first, and leaves no process behind.
"""

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO

from src.errors import UserError
from src.runtime.hosts import Host, meeting_host, reserved_port
from src.runtime.rank import DONE, ENDED, RELEASE, REPORT, STOP, end_with_parent

ROOT = Path(__file__).resolve().parents[2]
SCHEDULER = (sys.executable, "-m", "src.runtime.distributed")
RANK = (sys.executable, str(ROOT / "src" / "runtime" / "rank.py"))
# Prefixes of the settings of libraries: mpirun forwards no other variables to ranks on other hosts.
FORWARDED = ("MS_", "GLOG_", "NCCL_", "CUDA_", "ASCEND_", "HCCL_", "OMP_", "LD_LIBRARY_PATH", "PYTHON")
# Time to save for the ranks of a scheduler that has failed: they can still compute, but not meet.
SAVE_SECONDS = 120.0


def launch(
    command: Sequence[str],
    ranks: int,
    device_ids: str,
    hosts: Sequence[Host] = (),
    hostfile: Path | None = None,
    scheduler_command: Sequence[str] = SCHEDULER,
) -> int:
    """Run `command` as `ranks` ranks and return the exit code, 128 + N after a stop by signal N.

    `device_ids` are the devices of each host, comma-separated; `hosts` and the `hostfile` that lists them are this
    machine by default.
    """
    address = meeting_host(hosts, os.environ)
    with reserved_port(address) as port, tempfile.TemporaryFile("w+") as scheduler_output:
        environment = {
            **os.environ,
            "MS_SCHED_HOST": address,
            "MS_SCHED_PORT": str(port),
            # Rank N of a host takes the Nth visible device.
            "CUDA_VISIBLE_DEVICES": device_ids,
            "ASCEND_RT_VISIBLE_DEVICES": device_ids,
        }
        scheduler = subprocess.Popen(
            scheduler_command,
            cwd=ROOT,
            env={**environment, "MS_ROLE": "MS_SCHED", "MS_WORKER_NUM": str(ranks)},
            stdin=subprocess.DEVNULL,
            stdout=scheduler_output,
            stderr=scheduler_output,
            start_new_session=True,  # Ctrl-C is for the ranks, which need the scheduler until they have saved
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        )
        try:
            mpirun = [*_mpirun_command(ranks, hostfile, environment), *RANK, *command]
            return _Run(mpirun, environment, ranks).wait(scheduler, scheduler_output)
        finally:
            _end(scheduler)


def _mpirun_command(ranks: int, hostfile: Path | None, environment: Mapping[str, str]) -> list[str]:
    # The openmpi package installs mpirun beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
    mpirun = shutil.which("mpirun", path=path)
    if mpirun is None:
        raise UserError("mpirun was not found: pip install -r requirements.txt installs it")
    options = ["--allow-run-as-root"]  # containers often run as root, which mpirun refuses by default
    options += ["--bind-to", "none"]  # a rank's threads read images on all cores
    options += ["--output", "tag", "-n", str(ranks)]
    # mpirun counts cores, and ranks compute on devices
    options += ["--oversubscribe"] if hostfile is None else ["--hostfile", str(hostfile), "--map-by", "slot"]
    for name in sorted(environment):
        if name.startswith(FORWARDED):
            options += ["-x", name]
    return [mpirun, *options]


class _Run:
    """A started mpirun and its ranks: passes their lines on, and signals to them."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], ranks: int) -> None:
        self._ranks = ranks
        self._done: set[int] = set()
        self._stop_signal: int | None = None
        self._killed = False
        self._scheduler_failed = False
        self._failure: str | None = None  # the first one; the others follow from it
        self._errors: set[str] = set()
        self._messages_of_mpirun: list[str] = []
        self._lock = threading.Lock()
        self._mpirun = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # at Ctrl-C, mpirun would kill the ranks before they have saved
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        )

    def wait(self, scheduler: subprocess.Popen[bytes], scheduler_output: IO[str]) -> int:
        """Pass lines and signals on until the run has ended; return its exit code."""
        streams = ((self._mpirun.stdout, sys.stdout), (self._mpirun.stderr, sys.stderr))
        readers = [threading.Thread(target=self._pass_on, args=pair, daemon=True) for pair in streams]
        for reader in readers:
            reader.start()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        deadline = math.inf
        while (code := self._mpirun.poll()) is None:
            time.sleep(0.1)
            if not self._scheduler_failed and scheduler.poll():
                self._blame(scheduler.returncode, scheduler_output)
                deadline = time.monotonic() + SAVE_SECONDS
            if time.monotonic() > deadline:
                _end(self._mpirun)
        for reader in readers:
            reader.join(timeout=5)  # a process that a rank has left may hold the pipe open
        if self._stop_signal is not None and (self._killed or code == 128 + STOP):
            return 128 + self._stop_signal
        if code < 0 and self._failure is None:
            self._failure = f"error: mpirun was ended by signal {-code}, and with it all ranks"
        if self._failure is None:
            self._failure = "".join(self._messages_of_mpirun).strip("\0\n")
        if self._failure:
            print(self._failure, file=sys.stderr, flush=True)
        if self._scheduler_failed:
            return 1
        return code if code >= 0 else 128 - code

    def _blame(self, code: int, output: IO[str]) -> None:
        """Name the scheduler as the cause, unless a rank has failed before, and have the ranks save and end."""
        self._scheduler_failed = True
        output.seek(0)
        last = (output.read().strip().splitlines() or ["no message"])[-1]
        if self._failure is None:
            self._failure = f"error: the scheduler ended before the ranks (exit code {code}: {last}) and stopped them"
        self._mpirun.send_signal(STOP)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Ask the ranks to stop after their step; at the second signal, end them at once."""
        self._killed = self._stop_signal is not None
        self._stop_signal = number
        self._mpirun.send_signal(signal.SIGTERM if self._killed else STOP)

    def _pass_on(self, lines: IO[str], target: IO[str]) -> None:
        for line in lines:
            match = re.match(r"\[\d+,(\d+)\]<std(?:out|err)>: ?", line)
            if match is None:  # mpirun's own message: shown at the end if no rank has explained it
                self._messages_of_mpirun.append(line)
                continue
            rank, text = int(match[1]), line[match.end() :]
            text, _, report = text.partition(REPORT)
            if report:
                self._on_report(rank, report.split())
                text += "\n" if text else ""
            if not text or text.startswith("[INFO] "):  # MindSpore's TCP code prints these at every log level
                continue
            with self._lock, contextlib.suppress(OSError):  # a closed terminal must not keep ranks from saving
                if text.startswith("error: "):  # all ranks print the same errors
                    if text in self._errors:
                        continue
                    self._errors.add(text)
                elif rank:
                    text = f"rank {rank}: {text}"
                target.write(text)
                target.flush()

    def _on_report(self, rank: int, words: Sequence[str]) -> None:
        """Release the ranks when all are done; note the first one that ended otherwise."""
        if words[0] == DONE:
            self._done.add(rank)
            if len(self._done) == self._ranks:
                self._mpirun.send_signal(RELEASE)
        elif words[0] == ENDED and self._failure is None:
            code, host = int(words[1]), words[2]
            cause = f"rank {rank} on {host} ended with exit code {code}"
            if code < 0:
                cause = f"error: rank {rank} on {host} was ended by signal {-code} ({signal.strsignal(-code)})"
            self._failure = f"{cause}, and with it all others"


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
