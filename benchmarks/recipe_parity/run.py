"""Train the same BEiT with the same recipe in MindSpore and in PyTorch, and compare the results.

    python benchmarks/recipe_parity/run.py --reference PYTHON [--unilm DIR] [--seeds 0 1 2] [--epochs N] [--output DIR]

PYTHON is an interpreter with torch, torchvision, timm and PyYAML. With `--unilm DIR`, a checkout of microsoft/unilm,
the PyTorch side uses the authors' network, schedule and parameter groups. The output folder gets curves.csv, curves.png
and a log of each run. The exit code is 1 if the means differ by more than the seeds.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from chart import draw_curves
from compare import OURS, THEIRS, Curves, compare, table, write_curves

from scripts.make_digits import write_digits
from src.config import read_config
from src.errors import RunError, UserError, exit_code

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RECIPE = HERE / "recipe.yaml"
DATA = ROOT / "data" / "digits"


def main() -> int:
    """Train all runs in sequence, then compare them."""
    options = parse_args()
    recipe = read_config(RECIPE)
    epochs = options.epochs or recipe.epochs
    if epochs < recipe.warmup_length:
        raise UserError(f"--epochs {epochs} is shorter than the warm-up; give at least {recipe.warmup_length:g}")
    if len(set(options.seeds)) < 2:
        raise UserError(f"--seeds {' '.join(map(str, options.seeds))} has fewer than two seeds; give two or more")
    output = options.output.resolve()
    if output.exists() and any(output.iterdir()):
        raise UserError(f"--output {options.output} is not empty; give a new folder")
    output.mkdir(parents=True, exist_ok=True)
    if not DATA.exists():
        DATA.parent.mkdir(exist_ok=True)
        write_digits(DATA)

    curves: Curves = {}
    for seed in options.seeds:  # the sides alternate, so that other load affects both
        curves[OURS, seed] = train_here(seed, epochs, f"{recipe.arch}_seed{seed}", output)
        curves[THEIRS, seed] = train_there(options.reference, options.unilm, seed, epochs, output)
    write_curves(output / "curves.csv", curves)
    draw_curves(output / "curves.png", curves)
    comparisons = compare(curves)
    print(f"\n{table(comparisons)}\n\ncurves: {output / 'curves.csv'}, {output / 'curves.png'}")
    return 0 if all(comparison.equal for comparison in comparisons) else 1


def parse_args() -> argparse.Namespace:
    """Return the command line options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="interpreter with torch and timm")
    parser.add_argument("--unilm", type=Path, help="checkout of microsoft/unilm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="epochs, instead of the recipe's")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "recipe_parity")
    return parser.parse_args()


def train_here(seed: int, epochs: int, run: str, output: Path) -> list[dict[str, float]]:
    """Train with train.py and return one row per epoch."""
    folders = ("summary_root_dir", "ckpt_root_dir", "best_ckpt_root_dir", "logs_root_dir")
    command: list[object] = [sys.executable, ROOT / "train.py", "--config_path", RECIPE]
    command += ["--seed", seed, "--epochs", epochs, "--data_url", DATA, "--model_postfix", f"seed{seed}"]
    for folder in folders:
        command += [f"--{folder}", output / "runs" / folder.removesuffix("_root_dir")]
    run_logged(command, f"{OURS} seed {seed}", output / f"mindspore_seed{seed}.log")
    return read_curve(output / "runs" / "logs" / run / "metrics.csv")


def train_there(reference: Path, unilm: Path | None, seed: int, epochs: int, output: Path) -> list[dict[str, float]]:
    """Train with the reference interpreter and return one row per epoch."""
    curve = output / f"pytorch_seed{seed}.csv"
    command: list[object] = [reference, HERE / "reference_train.py", "--recipe", RECIPE, "--data", DATA]
    command += ["--seed", seed, "--epochs", epochs, "--output", curve]
    if unilm is not None:
        command += ["--unilm", unilm]
    run_logged(command, f"{THEIRS} seed {seed}", output / f"pytorch_seed{seed}.log")
    return read_curve(curve)


def run_logged(command: list[object], title: str, log: Path) -> None:
    """Run `command` with one thread per library, because the matrices are small, and print its duration."""
    print(f"{title} ...", end=" ", flush=True)
    begin = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.run(
            [str(word) for word in command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    if process.returncode:
        raise RunError(f"{title} ended with exit code {process.returncode}; see {log}")
    print(f"{time.perf_counter() - begin:.0f} s", flush=True)


def read_curve(path: Path) -> list[dict[str, float]]:
    """Return the rows of a run's CSV file."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


if __name__ == "__main__":
    sys.exit(exit_code(main))
