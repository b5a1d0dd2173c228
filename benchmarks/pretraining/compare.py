"""Does pre-training without labels help? Compare it with random weights at equal compute.

    python benchmarks/pretraining/compare.py [--seeds 0 1 2] [--data FOLDER] [--output DIR]

Each run is recorded in DIR/results.json, and an interrupted comparison resumes there. A finished one prints its table
and writes table.md and chart.png.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from images import write_mnist
from results import Results
from runs import Comparison, read_images
from setting import ARMS, RATES, SHARES, Setting
from tables import draw, table, top1_of

from src.config import Config
from src.errors import exit_code
from src.files.atomic_file import write_atomically
from src.tools.get_misc import start

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Do all runs in sequence, then print the table."""
    options = parse_args()
    if not options.data.exists():
        options.data.parent.mkdir(parents=True, exist_ok=True)
        write_mnist(options.data)
    setting = Setting()
    results = Results.open(options.output, {**asdict(setting), "rates": RATES})
    start(Config(device_target="CPU", dataset_sink_mode=False))
    comparison = Comparison(setting, read_images(options.data), results, options.seeds[0])

    chosen = {(arm, share): comparison.accuracies(arm, share, options.seeds) for arm in ARMS for share in SHARES}
    text = table(chosen, {key: comparison.best_rate(*key) for key in chosen})
    print(f"\n{text}")
    write_atomically(options.output / "table.md", lambda file: file.write(f"{text}\n".encode()))
    draw(options.output / "chart.png", top1_of(chosen))


def parse_args() -> argparse.Namespace:
    """Return the command line options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="the first one chooses learning rates")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "mnist_5k", help="folder of the images")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "pretraining_benchmark")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code(main))
