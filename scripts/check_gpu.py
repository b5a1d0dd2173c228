"""Checks whether MindSpore can use a GPU on this machine: `python scripts/check_gpu.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.errors import exit_code
from src.runtime.gpu_libraries import library_folders, require_gpu


def main() -> None:
    """Print a line, or raise `UserError` with the unmet requirements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folders", action="store_true", help="print the folders that gpu_env.sh adds to LD_LIBRARY_PATH"
    )
    if parser.parse_args().folders:
        print(":".join(map(str, library_folders())))
        return
    require_gpu("GPU")
    print("GPU: driver and libraries found")


if __name__ == "__main__":
    sys.exit(exit_code(main))
