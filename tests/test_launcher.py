"""The launcher of ranks, with ranks that are plain Python: who is told what, how a run ends, that nobody is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from src.errors import UserError
from src.runtime.launcher import RUN_ID, Host, choose_devices, meeting_host, read_hostfile, reserved_port
from tests.tiny_project import ROOT

TWO_HOSTS = (Host("gpu1", 4), Host("gpu2", 2))
SECONDS = 60


def test_a_hostfile_names_hosts_and_their_slots(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# two machines\n\ngpu1 slots=4\ngpu2   slots = 2 # the old one\n")
    assert read_hostfile(path) == TWO_HOSTS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu1\n", "line 1 is 'gpu1', expected NAME slots=COUNT, such as gpu1 slots=4"),
        ("gpu1 slots=4\ngpu2 slots=0\n", "line 2 is 'gpu2 slots=0', expected NAME slots=COUNT"),
        ("gpu1 slots=4 max_slots=8\n", "line 1 is 'gpu1 slots=4 max_slots=8', expected NAME"),
        ("# nothing\n", "names no host: give lines such as gpu1 slots=4"),
    ],
)
def test_a_wrong_hostfile_is_told_by_its_line(tmp_path, text, expected):
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_hostfile(path)
    assert expected in str(error.value)


def test_a_missing_hostfile_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read as a hostfile"):
        read_hostfile(tmp_path / "missing")


@pytest.mark.parametrize(
    ("num_devices", "device_ids", "hosts", "configured", "expected"),
    [
        (None, None, (), 3, (3, "0,1,2")),
        ("2", None, (), 8, (2, "0,1")),
        (None, "4,7", (), 8, (2, "4,7")),
        ("2", "4,7", (), None, (2, "4,7")),
        (None, None, TWO_HOSTS, 1, (6, "0,1,2,3")),
        ("5", "1,3,5,7", TWO_HOSTS, 1, (5, "1,3,5,7")),
    ],
)
def test_ranks_and_devices_follow_from_what_was_given(num_devices, device_ids, hosts, configured, expected):
    assert choose_devices(num_devices, device_ids, hosts, configured) == expected


@pytest.mark.parametrize(
    ("num_devices", "device_ids", "hosts", "expected"),
    [
        (None, None, (), "--num_devices is missing, and the config has no device_num"),
        ("x", None, (), "--num_devices is 'x', expected a whole number of at least 1"),
        ("0", None, (), "--num_devices is '0', expected a whole number of at least 1"),
        (None, "0;1", (), "--device_ids is '0;1', expected ids such as 0,1,2,3"),
        (None, "0,1,0", (), "--device_ids is '0,1,0', which names a device twice"),
        ("3", "0,1", (), "--num_devices is 3 and --device_ids names 2 devices"),
        ("7", None, TWO_HOSTS, "--num_devices is 7 and the hostfile has 6 slots: add hosts or slots"),
        (None, "0,1", TWO_HOSTS, "--device_ids names 2 devices and a host of the hostfile has 4 slots"),
    ],
)
def test_devices_that_contradict_each_other_are_refused(num_devices, device_ids, hosts, expected):
    with pytest.raises(UserError) as error:
        choose_devices(num_devices, device_ids, hosts, None)
    assert str(error.value) == expected


def test_ranks_of_one_machine_meet_on_it():
    assert meeting_host((), {}) == "127.0.0.1"
    assert meeting_host((Host("localhost", 2), Host(socket.gethostname(), 1)), {}) == "127.0.0.1"


def test_ranks_of_several_machines_meet_at_the_address_that_the_others_are_reached_from(monkeypatch):
    """192.0.2.1 is an address of documentation: nobody is there, but there is a route."""
    monkeypatch.setattr(socket, "gethostbyname", {"here": "127.0.0.1", "there": "192.0.2.1"}.__getitem__)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")  # then there are no other machines to be reached
        expected = probe.getsockname()[0]
    assert meeting_host((Host("here", 1), Host("there", 1)), {}) == expected
    assert meeting_host((Host("there", 1),), {"MS_SCHED_HOST": "10.0.0.5"}) == "10.0.0.5"


def test_a_host_without_an_address_is_named():
    with pytest.raises(UserError, match=r"^host gpu.invalid has no address or no route \(.*\): correct the hostfile"):
        meeting_host((Host("gpu.invalid", 1),), {})


def test_a_reserved_port_is_given_to_nobody_else_and_can_be_listened_on():
    with reserved_port("127.0.0.1") as port, reserved_port("127.0.0.1") as other:
        assert port != other
        with socket.socket() as scheduler:
            scheduler.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            scheduler.bind(("127.0.0.1", port))
            scheduler.listen()
            socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(UserError, match="not an address of this machine"), reserved_port("192.0.2.1"):
        pass


class Run:
    """A launched run, whose ranks execute a text; `R` is the rank in it. The scheduler only waits."""

    def __init__(self, tmp_path: Path, text: str, ranks: int = 2, scheduler: str = "sleep 600", options: str = ""):
        rank = tmp_path / "rank.py"
        head = (
            f"import os, signal, sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"
            # as src.runtime.distributed.join does
            "from src.runtime.launcher import end_with_parent\nend_with_parent()\n"
            "R = int(os.environ['OMPI_COMM_WORLD_RANK'])\n"
        )
        rank.write_text(head + textwrap.dedent(text))
        launch = (
            "import sys; from pathlib import Path; from src.runtime.launcher import *; "
            f"sys.exit(launch([sys.executable, '-u', {str(rank)!r}], {ranks}, '0,1'{options}, "
            f"scheduler_command={scheduler.split()!r}))"
        )
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-c", launch],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, *lines: str) -> None:
        """Read standard output until all `lines` have come."""
        missing = set(lines)
        while missing:
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            missing.discard(line.rstrip("\n"))

    def end(self, code: int) -> tuple[list[str], list[str]]:
        """The lines of standard output and of standard error of a run that must end with `code` and leave nobody."""
        out, err = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == code, (out, err)
        assert time.monotonic() - self.begin < SECONDS
        assert not processes_of_runs_below(self.process.pid)
        return out.splitlines(), err.splitlines()

    def kill(self, name: str) -> None:
        """SIGKILL for the process of the run whose program is `name`."""
        (pid,) = (pid for pid, program in processes_of_runs_below(self.process.pid).items() if program == name)
        os.kill(pid, signal.SIGKILL)


def processes_of_runs_below(launcher: int) -> dict[int, str]:
    """Living processes that the launcher has started, and their programs' names."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"{RUN_ID}={launcher}-".encode() in environment:
            found[int(folder.name)] = Path(command[0].decode()).name
    return found


def test_lines_are_passed_on_once_with_the_rank_where_it_is_not_the_first(tmp_path):
    run = Run(
        tmp_path,
        """
        print("hello from", R)
        print("[INFO] DISTRIBUTED(1): Event base dispatch success!", file=sys.stderr)
        print("error: both say this", file=sys.stderr)
        print("Traceback of", R, file=sys.stderr)
        """,
    )
    out, err = run.end(0)
    assert sorted(out) == ["hello from 0", "rank 1: hello from 1"]
    assert sorted(err) == ["Traceback of 0", "error: both say this", "rank 1: Traceback of 1"]


def test_a_rank_that_is_killed_ends_all_and_is_named(tmp_path):
    run = Run(tmp_path, "print('here', flush=True); time.sleep(1 if R == 1 else 600); os.kill(os.getpid(), 9)", ranks=3)
    _, err = run.end(128 + signal.SIGKILL)
    assert err == [f"error: rank 1 on {socket.gethostname()} was ended by signal 9 (Killed), and with it all others"]


def test_a_rank_that_fails_ends_all_with_its_exit_code_and_is_named(tmp_path):
    run = Run(tmp_path, "time.sleep(0.5 if R == 1 else 600); print('error: no disk', file=sys.stderr); sys.exit(2)")
    _, err = run.end(2)
    assert err == ["error: no disk", "rank 1 ended with exit code 2, and with it all others"]


ASKED = """
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
print("ready", flush=True)
while not asked:
    time.sleep(0.05)
time.sleep(1)  # mpirun would have killed this by now if it had been told to end
print("saved", flush=True)
time.sleep(0.5)  # mpirun ends the others when the first has ended
sys.exit(128 + signal.SIGUSR1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_launcher_has_every_rank_save_before_it_ends(tmp_path, number):
    run = Run(tmp_path, ASKED)
    run.wait_for("ready", "rank 1: ready")
    run.process.send_signal(number)
    out, err = run.end(128 + number)
    assert sorted(out) == ["rank 1: saved", "saved"]
    assert err == []


def test_a_second_signal_ends_the_ranks_at_once(tmp_path):
    run = Run(tmp_path, "signal.signal(signal.SIGUSR1, lambda *_: print('asked'))\nprint('ready')\ntime.sleep(600)")
    run.wait_for("ready", "rank 1: ready")
    run.process.send_signal(signal.SIGINT)
    run.wait_for("asked")
    run.process.send_signal(signal.SIGINT)
    _, err = run.end(128 + signal.SIGINT)
    assert err == []


@pytest.mark.parametrize(
    ("program", "code", "expected"),
    [
        ("prterun", 128 + signal.SIGKILL, "error: mpirun was ended by signal 9, and with it all ranks"),
        ("sleep", 1, "error: the scheduler ended before the ranks (exit code -9: no message), which were stopped"),
    ],
)
def test_nobody_outlives_mpirun_and_ranks_save_where_the_scheduler_fails(tmp_path, program, code, expected):
    run = Run(tmp_path, ASKED)
    run.wait_for("ready", "rank 1: ready")
    run.kill(program)
    out, err = run.end(code)
    assert err == [expected]
    assert ("saved" in out) == (program == "sleep")


def test_nobody_outlives_a_launcher_that_is_killed(tmp_path):
    run = Run(tmp_path, "print('ready')\ntime.sleep(600)")
    run.wait_for("ready", "rank 1: ready")
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + 30
    while processes_of_runs_below(run.process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_runs_at_once_meet_in_places_of_their_own(tmp_path):
    text = "print(os.environ['MS_SCHED_PORT'], flush=True)\ntime.sleep(2)"
    runs = [Run(tmp_path, text), Run(tmp_path, text)]
    ports = [{line.split()[-1] for line in run.end(0)[0]} for run in runs]
    assert [len(each) for each in ports] == [1, 1]
    assert ports[0] != ports[1]


def test_ranks_of_several_hosts_know_their_place_on_their_own(tmp_path, monkeypatch):
    """A stand-in for ssh starts both hosts' daemons here: what is sent to a host, and not that it arrives."""
    (tmp_path / "hosts").write_text("gpu1 slots=2\ngpu2 slots=1\n")
    agent = tmp_path / "agent"
    agent.write_text(f'#!/bin/bash\necho $1 >>{tmp_path}/called\nshift\nexec bash -c "$*"\n')
    agent.chmod(0o755)
    monkeypatch.setenv("PRTE_MCA_plm_ssh_agent", str(agent))
    monkeypatch.setenv("MS_SCHED_HOST", "127.0.0.1")
    hosts = f"hosts=(Host('gpu1', 2), Host('gpu2', 1)), hostfile=Path({str(tmp_path / 'hosts')!r})"
    run = Run(
        tmp_path,
        """
        names = "OMPI_COMM_WORLD_LOCAL_RANK", "MS_SCHED_HOST", "CUDA_VISIBLE_DEVICES"
        print(R, *(os.environ[name] for name in names))
        """,
        ranks=3,
        options=f", {hosts}",
    )
    out, _ = run.end(0)
    assert sorted(line.removeprefix(f"rank {line[5]}: ") for line in out) == [
        "0 0 127.0.0.1 0,1",
        "1 1 127.0.0.1 0,1",
        "2 0 127.0.0.1 0,1",
    ]
    assert sorted((tmp_path / "called").read_text().split()) == ["gpu1", "gpu2"]
