"""The launcher of ranks, tested with ranks that are plain Python: output, signals, the end of a run, no leftovers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import pytest

from src.errors import UserError
from src.runtime.hosts import Host, choose_devices, meeting_host, read_hostfile, reserved_port
from src.runtime.rank import RELEASE_SECONDS
from tests.tiny_project import ROOT, error_line

TWO_HOSTS = (Host("gpu1", 4), Host("gpu2", 2))
SECONDS = 60
MARK = "BEIT_TEST_RUN"  # in the environment of all processes of a run


def test_a_hostfile_lists_hosts_and_their_slots(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# two machines\n\ngpu1 slots=4\ngpu2   slots = 2 # the old one\n")
    assert read_hostfile(path) == TWO_HOSTS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu1\n", "line 1 is 'gpu1'"),
        ("gpu1 slots=4\ngpu2 slots=0\n", "line 2 is 'gpu2 slots=0'"),
        ("gpu1 slots=4 max_slots=8\n", "line 1 is 'gpu1 slots=4 max_slots=8'"),
        ("gpu1 slots=4097\n", "line 1 is 'gpu1 slots=4097'"),
        (f"gpu1 slots={'9' * 5000}\n", "line 1 is 'gpu1 slots=999"),
        ("gpu1 slots=\u0664\n", "line 1 is 'gpu1 slots=\u0664'"),
        ("--host slots=4\n", "line 1 is '--host slots=4'"),
        ("g\u00fcnther slots=4\n", "line 1 is 'g\u00fcnther slots=4'"),
        ("gpu1\x0bslots=4\n", r"line 1 is ''gpu1\x0bslots=4''"),
        ("# nothing\n", "no hosts"),
    ],
)
def test_a_malformed_hostfile_is_refused_with_its_line_and_an_example(tmp_path, text, expected):
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_hostfile(path)
    assert str(error.value).startswith(str(path))
    assert expected in str(error.value)
    assert "gpu1 slots=4" in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu1 slots=4\r\ngpu2 slots=4\r\n", " has Windows line ends, .* remove them: sed -i "),
        ("gpu1 slots=4\ngpu2 slots=1\ngpu1 slots=4\n", ": line 3 repeats host gpu1; give each host once"),
        ("gpu1 slots=4\n" + "#" * 100_000, " is larger than 0.1 MB; give a smaller file"),
    ],
)
def test_a_hostfile_that_mpirun_would_read_otherwise_is_refused(tmp_path, text, expected):
    path = tmp_path / "hosts"
    path.write_bytes(text.encode())
    with pytest.raises(UserError, match=f"^{path}{expected}"):
        read_hostfile(path)


def test_a_hostfile_that_is_not_a_regular_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^/dev/zero is a device; give a regular file$"):
        read_hostfile(Path("/dev/zero"))


def test_a_missing_hostfile_is_refused_with_its_path(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path / "missing")):
        read_hostfile(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("device_num: &a [1]\nseed: *a\ndevice_num: 2\n", "line 1: device_num is [1], expected a whole number"),
        ("seed: &a [x]\ndevice_num: *a\n", "line 2: the alias *a is not supported"),
        ("device_num: !!int abc\n", "line 1: the tag "),
        ("device_num: 1000000000\n", "line 1: device_num is 1000000000, expected a whole number, at least 1, at most"),
    ],
)
def test_a_hostile_config_ends_the_launcher_with_one_line(tmp_path, text, expected):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    command = [sys.executable, "scripts/launch_ranks.py", "--config", str(path), "--", "true"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert expected in error_line(done)


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
def test_the_options_and_the_hostfile_determine_ranks_and_devices(num_devices, device_ids, hosts, configured, expected):
    assert choose_devices(num_devices, device_ids, hosts, configured) == expected


@pytest.mark.parametrize(
    ("num_devices", "device_ids", "hosts", "expected"),
    [
        (None, None, (), ("--num_devices", "missing", "device_num")),
        ("x", None, (), ("--num_devices is 'x'", "whole number")),
        ("0", None, (), ("--num_devices is '0'", "at least 1")),
        ("4097", None, (), ("--num_devices is '4097'", "at most 4096")),
        ("9" * 5000, None, (), ("--num_devices is '999", "at most 4096")),
        (None, "9" * 5000, (), ("--device_ids is '999", "0,1,2,3")),
        (None, None, (Host("gpu1", 4096), Host("gpu2", 1)), ("4097 slots", "--num_devices", "at most 4096")),
        (None, "0;1", (), ("--device_ids is '0;1'", "0,1,2,3")),
        (None, "0,1,0", (), ("--device_ids is '0,1,0'", "once")),
        ("3", "0,1", (), ("--num_devices is 3", "2 devices", "equal")),
        ("7", None, TWO_HOSTS, ("--num_devices is 7", "6 slots", "add")),
        (None, "0,1", TWO_HOSTS, ("--device_ids has 2 devices", "4 slots", "give 4")),
    ],
)
def test_contradicting_devices_are_refused_with_both_values_and_the_fix(num_devices, device_ids, hosts, expected):
    with pytest.raises(UserError) as error:
        choose_devices(num_devices, device_ids, hosts, None)
    assert len(str(error.value)) < 300
    for part in expected:
        assert part in str(error.value)


def test_ranks_of_one_machine_meet_at_its_loopback_address():
    assert meeting_host((), {}) == "127.0.0.1"
    assert meeting_host((Host("localhost", 2), Host(socket.gethostname(), 1)), {}) == "127.0.0.1"


def test_ranks_of_several_machines_meet_at_the_source_address_of_the_route_to_the_others(monkeypatch):
    """192.0.2.1 is reserved for documentation: no machine has it, but a route to it exists."""
    monkeypatch.setattr(socket, "gethostbyname", {"here": "127.0.0.1", "there": "192.0.2.1"}.__getitem__)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        expected = probe.getsockname()[0]
    assert meeting_host((Host("here", 1), Host("there", 1)), {}) == expected
    assert meeting_host((Host("there", 1),), {"MS_SCHED_HOST": "10.0.0.5"}) == "10.0.0.5"


def test_a_host_without_an_address_is_named_with_both_fixes():
    with pytest.raises(UserError, match=r"host gpu.invalid .*hostfile.*MS_SCHED_HOST"):
        meeting_host((Host("gpu.invalid", 1),), {})


def test_a_reserved_port_belongs_to_one_run_and_its_scheduler_can_listen_on_it():
    with reserved_port("127.0.0.1") as port, reserved_port("127.0.0.1") as other:
        assert port != other
        with socket.socket() as scheduler:
            scheduler.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            scheduler.bind(("127.0.0.1", port))
            scheduler.listen()
            socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(UserError, match=r"192\.0\.2\.1"), reserved_port("192.0.2.1"):
        pass


class Run:
    """A launched run whose ranks execute a program; `R` is the rank in it. Its scheduler only waits."""

    def __init__(self, tmp_path: Path, text: str, ranks: int = 2, scheduler: str = "sleep 600", options: str = ""):
        rank = tmp_path / "rank.py"
        head = (
            f"import os, signal, sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"
            "from src.errors import RunError\nfrom src.runtime.rank import run_script\n"
            "R = int(os.environ['OMPI_COMM_WORLD_RANK'])\n"
        )
        rank.write_text(head + textwrap.dedent(text))
        launch = (
            "import sys; from pathlib import Path; from src.runtime.hosts import Host; "
            "from src.runtime.launcher import launch; "
            f"sys.exit(launch([sys.executable, '-u', {str(rank)!r}], {ranks}, '0,1'{options}, "
            f"scheduler_command={scheduler.split()!r}))"
        )
        self.begin = time.monotonic()
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-c", launch],
            cwd=ROOT,
            env={**os.environ, MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, *lines: str) -> None:
        """Read standard output until all `lines` have appeared."""
        missing = set(lines)
        while missing:
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            missing.discard(line.rstrip("\n"))

    def end(self, code: int) -> tuple[list[str], list[str]]:
        """Wait for the end, which must be with `code` and leave no process; return the lines of both streams."""
        out, err = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == code, (out, err)
        assert time.monotonic() - self.begin < SECONDS
        assert not self.processes()
        return out.splitlines(), err.splitlines()

    def processes(self) -> dict[int, str]:
        """Living processes of the run, and the names of their programs."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"{MARK}={self.mark}".encode() in environment and int(folder.name) != self.process.pid:
                found[int(folder.name)] = Path(command[0].decode()).name
        return found

    def kill(self, name: str) -> None:
        """Send SIGKILL to the process of the run whose program is `name`."""
        (pid,) = (pid for pid, program in self.processes().items() if program == name)
        os.kill(pid, signal.SIGKILL)


def test_lines_are_passed_on_with_the_rank_and_equal_errors_once(tmp_path):
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


def test_a_killed_rank_ends_all_and_is_named(tmp_path):
    run = Run(tmp_path, "print('here', flush=True); time.sleep(1 if R == 1 else 600); os.kill(os.getpid(), 9)", ranks=3)
    _, err = run.end(128 + signal.SIGKILL)
    (line,) = err
    for part in ("error: ", "rank 1 ", socket.gethostname(), "signal 9", "Killed"):
        assert part in line


@pytest.mark.parametrize("end", ["sys.exit(2)", "os._exit(2)"])
def test_a_failed_rank_ends_all_with_its_exit_code_and_is_named(tmp_path, end):
    run = Run(
        tmp_path, f"time.sleep(0.5 if R == 1 else 600); print('error: no disk', file=sys.stderr, flush=True); {end}"
    )
    _, err = run.end(2)
    assert err[0] == "error: no disk"
    assert "rank 1 " in err[1]
    assert "exit code 2" in err[1]
    assert len(err) == 2


def test_a_partial_line_before_the_end_of_a_rank_is_passed_on(tmp_path):
    run = Run(
        tmp_path, "time.sleep(0.5 if R == 1 else 600); print('half a line', end='', file=sys.stderr); sys.exit(3)"
    )
    _, err = run.end(3)
    assert err[0] == "rank 1: half a line"
    assert "exit code 3" in err[1]


def test_the_messages_of_mpirun_are_shown_if_no_rank_explains_the_failure(tmp_path):
    run = Run(tmp_path, "pass", options=", hosts=(Host('localhost', 1),), hostfile=Path('/missing/hosts')")
    out, err = run.end(250)
    assert out == []
    assert "/missing/hosts" in "".join(err)


def test_no_rank_leaves_before_all_are_done(tmp_path):
    """A child of each rank outlives it and writes down when it has ended."""
    run = Run(
        tmp_path,
        f"""
        import atexit, pathlib
        if os.fork() == 0:
            rank = os.getppid()
            os.setsid()  # mpirun ends the process group of a rank with it
            while os.getppid() == rank:
                time.sleep(0.01)
            pathlib.Path({str(tmp_path)!r}, f"gone{{R}}").write_text(str(time.time()))
            os._exit(0)
        def main():
            time.sleep(3 * R)
            print("done", time.time(), flush=True)
        atexit.register(print, "teardown")
        run_script(main)
        """,
    )
    out, err = run.end(0)
    assert err == []
    assert len(out) == 2  # and no teardown
    done = [float(line.split()[-1]) for line in out]
    gone = [float((tmp_path / f"gone{rank}").read_text()) for rank in range(2)]
    assert min(gone) > max(done)
    assert max(gone) < max(done) + RELEASE_SECONDS  # the launcher has released them


def test_a_release_at_any_moment_is_seen(tmp_path):
    """500 processes wait; each is released when 0 to 0.8 ms have passed since the start of the releasing process."""
    code = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from src.runtime import rank

def report(text):
    waiting = os.getpid()
    if os.fork() == 0:
        os.kill(waiting, rank.RELEASE)
        os._exit(0)
    end = time.perf_counter() + number % 400 * 2e-6
    while time.perf_counter() < end:
        pass

rank._report = report
for number in range(500):
    if (child := os.fork()) == 0:
        rank._wait_for_release()
        os._exit(0)
    os.waitpid(child, 0)
"""
    subprocess.run([sys.executable, "-c", code], timeout=RELEASE_SECONDS, check=True)


@pytest.mark.parametrize(
    ("end", "code", "line"),
    [("raise RunError('the disk is full')", 1, "error: the disk is full"), ("raise KeyError('x')", 70, "KeyError")],
)
def test_a_rank_reports_its_failure_and_ends_without_the_others(tmp_path, end, code, line):
    run = Run(tmp_path, f"def main():\n    time.sleep(600 * R)\n    {end}\nrun_script(main)")
    _, err = run.end(code)
    assert any(line in each for each in err)
    assert "rank 0 " in err[-1]
    assert f"exit code {code}" in err[-1]


ASKED = """
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
print("ready", flush=True)
while not asked:
    time.sleep(0.05)
time.sleep(1)  # at SIGTERM, mpirun would have killed this rank by now
print("saved", flush=True)
time.sleep(0.5)  # mpirun ends the others when the first has ended
sys.exit(128 + signal.SIGUSR1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_at_a_signal_to_the_launcher_all_ranks_save_before_they_end(tmp_path, number):
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
        ("prterun", 128 + signal.SIGKILL, ("mpirun", "signal 9")),
        ("sleep", 1, ("scheduler", "exit code -9")),
    ],
)
def test_no_process_outlives_mpirun_and_ranks_save_when_the_scheduler_fails(tmp_path, program, code, expected):
    run = Run(tmp_path, ASKED)
    run.wait_for("ready", "rank 1: ready")
    run.kill(program)
    out, err = run.end(code)
    (line,) = err
    assert line.startswith("error: ")
    assert all(part in line for part in expected)
    assert ("saved" in out) == (program == "sleep")


def test_no_process_outlives_a_killed_launcher(tmp_path):
    run = Run(tmp_path, "print('ready')\ntime.sleep(600)")
    run.wait_for("ready", "rank 1: ready")
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + 30
    while run.processes():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_runs_at_once_meet_at_two_ports(tmp_path):
    text = "print(os.environ['MS_SCHED_PORT'], flush=True)\ntime.sleep(2)"
    runs = [Run(tmp_path, text), Run(tmp_path, text)]
    ports = [{line.split()[-1] for line in run.end(0)[0]} for run in runs]
    assert [len(each) for each in ports] == [1, 1]
    assert ports[0] != ports[1]


def test_ranks_of_several_hosts_get_their_local_rank_and_the_address(tmp_path, monkeypatch):
    """A stand-in for ssh starts the daemons of both hosts here: it shows the commands for a host, not the network."""
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
