"""The machines of a run: hostfile, number of ranks, devices, and the address where the ranks meet."""

import contextlib
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError
from src.files.regular_file import read_regular
from src.options.declaration import shown

MOST_RANKS = 4096  # the limit of device_num
HOSTFILE_LIMIT = 100_000  # bytes
# No leading hyphen, which mpirun and ssh take for an option.
HOST_LINE = re.compile(r"([A-Za-z0-9][\w.:@%-]*)[ \t]+slots[ \t]*=[ \t]*([1-9][0-9]{0,3})", re.ASCII)


@dataclass(frozen=True)
class Host:
    """A machine and the number of ranks that it may run."""

    name: str
    slots: int


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """Read a file of lines `NAME slots=COUNT` and comments; raise `UserError` for any other line and repeated names."""
    try:
        text = read_regular(path, HOSTFILE_LIMIT).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a hostfile ({error}); give lines such as gpu1 slots=4") from error
    if "\r" in text:
        raise UserError(f"{path} has Windows line ends, which mpirun cannot read; remove them: sed -i 's/\\r//' {path}")
    hosts: dict[str, Host] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.partition("#")[0].strip(" \t")
        if not words:
            continue
        match = HOST_LINE.fullmatch(words)
        if match is None or int(match[2]) > MOST_RANKS:
            raise UserError(
                f"{path}: line {number} is '{shown(words)}'; write NAME slots=COUNT, such as gpu1 slots=4, with "
                f"at most {MOST_RANKS} slots"
            )
        if match[1] in hosts:
            raise UserError(f"{path}: line {number} repeats host {match[1]}; give each host once, with all its slots")
        hosts[match[1]] = Host(match[1], int(match[2]))
    if not hosts:
        raise UserError(f"{path} lists no hosts; give lines such as gpu1 slots=4")
    return tuple(hosts.values())


def choose_devices(
    num_devices: str | None, device_ids: str | None, hosts: Sequence[Host], configured: int | None
) -> tuple[int, str]:
    """Return the number of ranks and the devices of each host, comma-separated; rank N of a host takes the Nth.

    `hosts` is empty for this machine alone, where the config's device_num, `configured`, is the default. Raises
    `UserError` if the values are malformed or contradict each other.
    """
    count = f"a whole number of at least 1, at most {MOST_RANKS}"
    if num_devices is not None and not (
        re.fullmatch("[0-9]{1,4}", num_devices) and 1 <= int(num_devices) <= MOST_RANKS
    ):
        raise UserError(f"--num_devices is '{shown(num_devices)}'; give {count}")
    if device_ids is not None and not re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})*", device_ids):
        raise UserError(f"--device_ids is '{shown(device_ids)}'; give ids such as 0,1,2,3")
    ids = device_ids.split(",") if device_ids is not None else None
    if ids is not None and len({int(i) for i in ids}) != len(ids):
        raise UserError(f"--device_ids is '{shown(device_ids)}', which repeats a device; give each id once")
    if hosts:
        slots, most = sum(host.slots for host in hosts), max(host.slots for host in hosts)
        ranks = int(num_devices or slots)
        if ranks > slots:
            raise UserError(f"--num_devices is {ranks} but the hostfile has {slots} slots; add hosts or slots")
        if ranks > MOST_RANKS:
            raise UserError(f"the hostfile has {slots} slots; pass --num_devices with at most {MOST_RANKS}")
        if ids is not None and len(ids) < most:
            raise UserError(
                f"--device_ids has {len(ids)} devices but a host of the hostfile has {most} slots; give {most} ids"
            )
        return ranks, device_ids or ",".join(map(str, range(most)))
    wanted = int(num_devices) if num_devices is not None else len(ids) if ids is not None else configured
    if wanted is None:
        raise UserError("--num_devices is missing, and the config has no device_num; give one of them")
    if ids is not None and len(ids) != wanted:
        raise UserError(f"--num_devices is {wanted} but --device_ids has {len(ids)} devices; make them equal")
    return wanted, device_ids or ",".join(map(str, range(wanted)))


def meeting_host(hosts: Sequence[Host], environment: Mapping[str, str]) -> str:
    """Return the address of this machine that all `hosts` can reach: the source address of its route to another host.

    `MS_SCHED_HOST` in the environment has precedence, for machines with several networks. Raises `UserError` for a
    host that has no address.
    """
    if environment.get("MS_SCHED_HOST"):
        return environment["MS_SCHED_HOST"]
    for host in hosts:
        try:
            address = socket.gethostbyname(host.name)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))  # looks up the route and sends no packet
                source = probe.getsockname()[0]
        except OSError as error:
            raise UserError(
                f"host {host.name} has no address or no route ({error.strerror}); correct the hostfile, "
                f"or set MS_SCHED_HOST to an address of this machine that all hosts reach"
            ) from None
        if source != address and not source.startswith("127."):
            return str(source)
    return "127.0.0.1"


@contextlib.contextmanager
def reserved_port(host: str) -> Iterator[int]:
    """Hold a free port of `host`, an address of this machine: no other program gets it, and the scheduler can bind it.

    Raises `UserError` if the address belongs to another machine.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((host, 0))
        except OSError as error:
            raise UserError(
                f"MS_SCHED_HOST is {host}, which is not an address of this machine ({error.strerror}); set one that is"
            ) from None
        yield holder.getsockname()[1]
