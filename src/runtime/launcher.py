"""Starting the ranks of a run with mpirun, and ending all of them together. Imports no MindSpore.

Three kinds of processes make up a run: the ranks, mpirun, which starts them on every host and ends all where one fails,
and MindSpore's scheduler, through which the ranks meet (see src/runtime/distributed.py). The launcher is the parent of
the latter two: it asks the ranks to stop where it is asked to, names the rank that failed, and leaves nobody behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from src.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RUN_ID = "BEIT_RUN_ID"
SCHEDULER = (sys.executable, "-m", "src.runtime.distributed")
# mpirun answers SIGINT and SIGTERM by killing the ranks; this one it passes on (see src/trainer/interrupt.py).
STOP = signal.SIGUSR1
# What settings of libraries start with: mpirun hands no others to ranks on other hosts.
FORWARDED = ("MS_", "GLOG_", "NCCL_", "CUDA_", "ASCEND_", "HCCL_", "OMP_", "LD_LIBRARY_PATH", "PYTHON", RUN_ID)
# How long mpirun may outlive the scheduler, which ends by itself after the last rank has left; and how long where the
# scheduler fails: without it the ranks can still save, but not leave.
GRACE_SECONDS = 15.0
SAVE_SECONDS = 120.0


@dataclass(frozen=True)
class Host:
    """A machine and the number of ranks that it may run."""

    name: str
    slots: int


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """The hosts of a file of lines `NAME slots=COUNT`; raises `UserError` for anything else but comments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a hostfile ({error})") from error
    hosts = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        match = re.fullmatch(r"(\S+)\s+slots\s*=\s*([1-9]\d*)", words)
        if match is None:
            raise UserError(f"{path}: line {number} is '{words}', expected NAME slots=COUNT, such as gpu1 slots=4")
        hosts.append(Host(match[1], int(match[2])))
    if not hosts:
        raise UserError(f"{path} names no host: give lines such as gpu1 slots=4")
    return tuple(hosts)


def choose_devices(
    num_devices: str | None, device_ids: str | None, hosts: Sequence[Host], configured: int | None
) -> tuple[int, str]:
    """The number of ranks, and the devices of each host, comma-separated: rank N of a host takes the Nth of them.

    Args:
        num_devices, device_ids: as the user gave them.
        hosts: empty for this machine alone.
        configured: the config's device_num, which is taken on one machine where the user gave neither.

    Raises `UserError` where they contradict each other.
    """
    if num_devices is not None and not re.fullmatch(r"[1-9]\d*", num_devices):
        raise UserError(f"--num_devices is '{num_devices}', expected a whole number of at least 1")
    if device_ids is not None and not re.fullmatch(r"\d+(,\d+)*", device_ids):
        raise UserError(f"--device_ids is '{device_ids}', expected ids such as 0,1,2,3")
    ids = device_ids.split(",") if device_ids is not None else None
    if ids is not None and len({int(i) for i in ids}) != len(ids):
        raise UserError(f"--device_ids is '{device_ids}', which names a device twice")
    if hosts:
        slots, most = sum(host.slots for host in hosts), max(host.slots for host in hosts)
        ranks = int(num_devices or slots)
        if ranks > slots:
            raise UserError(f"--num_devices is {ranks} and the hostfile has {slots} slots: add hosts or slots")
        if ids is not None and len(ids) < most:
            raise UserError(f"--device_ids names {len(ids)} devices and a host of the hostfile has {most} slots")
        return ranks, device_ids or ",".join(map(str, range(most)))
    wanted = int(num_devices) if num_devices is not None else len(ids) if ids is not None else configured
    if wanted is None:
        raise UserError("--num_devices is missing, and the config has no device_num")
    if ids is not None and len(ids) != wanted:
        raise UserError(f"--num_devices is {wanted} and --device_ids names {len(ids)} devices")
    return wanted, device_ids or ",".join(map(str, range(wanted)))


def meeting_host(hosts: Sequence[Host], environment: Mapping[str, str]) -> str:
    """The address of this machine that all `hosts` can reach: the one it talks to the first other host from.

    `MS_SCHED_HOST` in the environment has precedence, for machines with several networks. Raises `UserError` for a
    host whose address is unknown.
    """
    if environment.get("MS_SCHED_HOST"):
        return environment["MS_SCHED_HOST"]
    for host in hosts:
        try:
            address = socket.gethostbyname(host.name)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))  # sends nothing: only the route is looked up
                source = probe.getsockname()[0]
        except OSError as error:
            raise UserError(
                f"host {host.name} has no address or no route ({error.strerror}): correct the hostfile, "
                f"or set MS_SCHED_HOST to an address of this machine that all hosts reach"
            ) from None
        if source != address and not source.startswith("127."):
            return str(source)
    return "127.0.0.1"


@contextlib.contextmanager
def reserved_port(host: str) -> Iterator[int]:
    """A free port of `host`, an address of this machine; nobody else is given it meanwhile, but it can be bound."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((host, 0))
        except OSError as error:
            raise UserError(f"MS_SCHED_HOST is {host}: not an address of this machine ({error.strerror})") from None
        yield holder.getsockname()[1]


def find_mpirun(interpreter: str) -> str:
    """mpirun beside the interpreter, where the openmpi package puts it, or on the PATH."""
    beside = Path(interpreter).parent / "mpirun"
    candidates = [beside, *(Path(folder) / "mpirun" for folder in os.get_exec_path())]
    found = next((path for path in candidates if os.access(path, os.X_OK)), None)
    if found is None:
        raise UserError("mpirun was not found: pip install -r requirements.txt brings it")
    return str(found)


def launch(
    command: Sequence[str],
    ranks: int,
    device_ids: str,
    hosts: Sequence[Host] = (),
    hostfile: Path | None = None,
    scheduler_command: Sequence[str] = SCHEDULER,
) -> int:
    """Run `command` as `ranks` ranks and give the exit code; 128 and the signal's number where it was asked to stop."""
    address = meeting_host(hosts, os.environ)
    with reserved_port(address) as port, tempfile.TemporaryFile("w+") as scheduler_output:
        environment = {
            **os.environ,
            RUN_ID: f"{os.getpid()}-{uuid.uuid4().hex}",
            "MS_SCHED_HOST": address,
            "MS_SCHED_PORT": str(port),
            # A rank takes the device of its own number on its host among the visible ones.
            "CUDA_VISIBLE_DEVICES": device_ids,
            "ASCEND_RT_VISIBLE_DEVICES": device_ids,
        }
        mpirun = [find_mpirun(sys.executable), *_mpirun_options(ranks, hostfile, environment), *command]
        scheduler = subprocess.Popen(
            scheduler_command,
            cwd=ROOT,
            env={**environment, "MS_ROLE": "MS_SCHED", "MS_WORKER_NUM": str(ranks)},
            stdin=subprocess.DEVNULL,
            stdout=scheduler_output,
            stderr=scheduler_output,
            start_new_session=True,  # Ctrl-C is for the ranks, which still need the scheduler while they save
            preexec_fn=_end_with_launcher,
        )
        try:
            return _Ranks(mpirun, environment).run(scheduler, scheduler_output)
        finally:
            _end(scheduler)
            _kill_those_left(environment[RUN_ID])


def _mpirun_options(ranks: int, hostfile: Path | None, environment: Mapping[str, str]) -> list[str]:
    options = ["--allow-run-as-root"]  # containers often run as root, and mpirun wants to be told that this is meant
    options += ["--bind-to", "none"]  # a rank's threads read images on all cores
    options += ["--output", "tag", "-n", str(ranks)]
    # mpirun counts cores, and ranks compute on devices
    options += ["--oversubscribe"] if hostfile is None else ["--hostfile", str(hostfile), "--map-by", "slot"]
    for name in sorted(environment):
        if name.startswith(FORWARDED):
            options += ["-x", name]
    return options


class _Ranks:
    """mpirun with the ranks below it: passes their lines on, and signals to them."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._stop_signal: int | None = None
        self._killed = False
        self._lock = threading.Lock()
        self._errors: set[str] = set()
        self._failure: str | None = None
        self._scheduler_failed = False
        self._mpirun = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C would have it kill the ranks before they have saved
            preexec_fn=_end_with_launcher,
        )

    def run(self, scheduler: subprocess.Popen[bytes], scheduler_output: IO[str]) -> int:
        """Wait for the end; gives the exit code."""
        readers = [
            threading.Thread(target=self._pass_on, args=(self._mpirun.stdout, sys.stdout), daemon=True),
            threading.Thread(
                target=self._pass_on, args=(_without_boxes(self._mpirun.stderr, self._explain), sys.stderr), daemon=True
            ),
        ]
        for reader in readers:
            reader.start()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        code = self._wait(scheduler, scheduler_output)
        for reader in readers:
            reader.join(timeout=5)  # a process that a rank has left may hold the pipe open
        if self._stop_signal is not None and (self._killed or code == 128 + STOP):
            return 128 + self._stop_signal
        if code < 0 and self._failure is None:
            self._failure = f"error: mpirun was ended by signal {-code}, and with it all ranks"
        if self._failure is not None:
            print(self._failure, file=sys.stderr, flush=True)
        if self._scheduler_failed:
            return 1
        return code if code >= 0 else 128 - code

    def _wait(self, scheduler: subprocess.Popen[bytes], scheduler_output: IO[str]) -> int:
        deadline = math.inf
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._mpirun.wait(timeout=0.5)
            if deadline == math.inf and scheduler.poll() is not None:
                deadline = time.monotonic() + (SAVE_SECONDS if scheduler.returncode else GRACE_SECONDS)
                if scheduler.returncode:
                    self._blame(scheduler.returncode, scheduler_output)
            if time.monotonic() > deadline:
                _end(self._mpirun)

    def _blame(self, code: int, output: IO[str]) -> None:
        """The scheduler has failed: have the ranks save and end."""
        self._scheduler_failed = True
        output.seek(0)
        last = (output.read().strip().splitlines() or ["no message"])[-1]
        self._failure = f"error: the scheduler ended before the ranks (exit code {code}: {last}), which were stopped"
        self._mpirun.send_signal(STOP)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """The first one asks the ranks to stop after their step, a second one ends them at once."""
        self._killed = self._stop_signal is not None
        self._stop_signal = number
        with contextlib.suppress(ProcessLookupError):
            self._mpirun.send_signal(signal.SIGTERM if self._killed else STOP)

    def _pass_on(self, lines: Iterator[str] | IO[str] | None, target: IO[str]) -> None:
        for line in lines or ():
            match = re.match(r"\[\d+,(\d+)\]<std(?:out|err)>: ?", line)
            rank, text = (int(match[1]), line[match.end() :]) if match else (0, line)
            if text.startswith("[INFO] "):
                continue  # MindSpore's tcp code prints these whatever its log level
            if text.startswith("error: "):  # of what all ranks say, once is enough
                with self._lock:
                    if text in self._errors:
                        continue
                    self._errors.add(text)
            elif rank:
                text = f"rank {rank}: {text}"
            with self._lock, contextlib.suppress(OSError):  # a terminal that was closed must not keep ranks from saving
                target.write(text)
                target.flush()

    def _explain(self, box: str) -> str | None:
        """Take note of the failure that mpirun's `box` tells of; gives other boxes back."""
        words = " ".join(box.split())
        if self._failure is not None:
            return None  # what follows from the first
        killed = re.search(r"rank (\d+) with PID \d+ on node (\S+) exited on signal (\d+) \(([^)]*)\)", words)
        if killed:
            self._failure = (
                f"error: rank {killed[1]} on {killed[2]} was ended by signal {killed[3]} ({killed[4]}), "
                f"and with it all others"
            )
            return None
        failed = re.search(r"Process name: \[[^\]]*,(\d+)\] Exit code: (\d+)", words)
        if failed:
            self._failure = f"rank {failed[1]} ended with exit code {failed[2]}, and with it all others"
            return None
        return box


def _without_boxes(lines: IO[str] | None, explain: Callable[[str], str | None]) -> Iterator[str]:
    """The lines outside the boxes that mpirun draws around its own messages, and what `explain` leaves of these."""
    box: list[str] | None = None
    for line in lines or ():
        is_border = line.startswith("-" * 70) and not line.strip("-\n")
        if box is None and not is_border:
            yield line
        elif box is None:
            box = [line]
        else:
            box.append(line)
            if is_border:
                yield from filter(None, [explain("".join(box))])
                box = None
    yield from box or ()


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the system send this process a signal when its parent ends: for a rank, the mpirun of its host."""
    ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


def _end_with_launcher() -> None:
    """In a child, before it becomes another program."""
    end_with_parent(signal.SIGTERM)


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _kill_those_left(run_id: str) -> None:
    """End the run's processes on this machine that mpirun has left, having been killed itself."""
    mark = f"{RUN_ID}={run_id}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
