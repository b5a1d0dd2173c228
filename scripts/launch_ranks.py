"""Start a script as several ranks: `launch_ranks.py --config CONFIG [--num_devices N] ... -- PYTHON SCRIPT ...`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.config import Config
from src.errors import exit_code
from src.options.config_file import find_config, read_entries
from src.options.declaration import declared
from src.runtime.hosts import choose_devices, read_hostfile
from src.runtime.launcher import launch


def main() -> int:
    """Launch COMMAND with `--device_num` set to the number of ranks; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="a file, or the name of a file of src/configs")
    parser.add_argument("--num_devices")
    parser.add_argument("--device_ids")
    parser.add_argument("--hostfile", type=Path)
    parser.add_argument("command", nargs="+")
    words = parser.parse_args()
    hosts = read_hostfile(words.hostfile) if words.hostfile is not None else ()
    configured = configured_devices(find_config(words.config))
    ranks, ids = choose_devices(words.num_devices, words.device_ids, hosts, configured)
    return launch([*words.command, "--device_num", str(ranks)], ranks, ids, hosts, words.hostfile)


def configured_devices(path: Path) -> int | None:
    """Return the device_num of a config file, or None; the script itself reports other errors in the file."""
    for name, value, line in read_entries(path):
        if name == "device_num":
            return cast("int", declared(Config)[name].parse(value, f"{path}, line {line}: {name}"))
    return None


if __name__ == "__main__":
    sys.exit(exit_code(main))
