"""Says whether MindSpore could use a GPU here, or what is missing: `python scripts/check_gpu.py`.

With `--folders` it prints what scripts/gpu_env.sh puts onto LD_LIBRARY_PATH.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.errors import exit_code
from src.runtime.gpu_libraries import library_folders, require_gpu


def main() -> None:
    """Print a line, or raise `UserError` with what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folders", action="store_true")
    if parser.parse_args().folders:
        print(":".join(map(str, library_folders())))
        return
    require_gpu("GPU")
    print("GPU: the driver and all libraries are there")


if __name__ == "__main__":
    sys.exit(exit_code(main))
