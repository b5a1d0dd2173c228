"""Compare the speed of reading weights and images with an earlier commit.

    python benchmarks/reading.py --before CHECKOUT [--rounds N]

CHECKOUT is a folder with the earlier commit, such as `git worktree add CHECKOUT COMMIT` makes. Files of BEiT-base with
random weights and JPEG files of 500 x 375 pixels are written to a temporary folder. Each round reads them in a process
of each commit, in turn. The table has the ratio of the processor times, earlier by present, in each round: above 1, the
present commit is faster.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from src.model.model_config import ModelConfig
from src.weights.foreign_writer import write_foreign
from src.weights.mindspore_ckpt_file import write_ckpt
from src.weights.sizes import Sizes, network_shapes

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 100
REPEATS = 3  # in a process; the fastest counts
CHILD = """
import sys, time
from pathlib import Path
from src.data.decode import read_rgb
from src.weights.pretrained import load_pretrained
paths = [Path(word) for word in sys.argv[2:]]
read = load_pretrained if len(paths) == 1 else read_rgb
times = []
for _ in range(int(sys.argv[1])):
    begin = time.process_time()
    for path in paths:
        read(path)
    times.append(time.process_time() - begin)
print(min(times))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="folder with the earlier commit")
    parser.add_argument("--rounds", type=int, default=7)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, files in write_files(Path(folder)).items():
            ratios = [seconds(words.before, files) / seconds(ROOT, files) for _ in range(words.rounds)]
            middle = statistics.median(ratios)
            print(f"{name:12} {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def write_files(folder: Path) -> dict[str, list[Path]]:
    """Write the files to read; return them by kind."""
    rng = np.random.default_rng(0)
    shapes = network_shapes(Sizes(16, 768, 12, 3072, 12, 14, ModelConfig("", 224, 1000)))
    weights = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    pth, safetensors, ckpt = (folder / f"weights{suffix}" for suffix in (".pth", ".safetensors", ".ckpt"))
    write_foreign(pth, weights, "unilm")
    write_foreign(safetensors, weights, "timm")
    with ckpt.open("wb") as file:
        write_ckpt(file, weights.items())
    images = [folder / f"{number}.jpg" for number in range(IMAGES)]
    for path in images:
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        noise = rng.integers(-12, 12, (375, 500, 3))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) + noise
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return {".pth": [pth], ".safetensors": [safetensors], ".ckpt": [ckpt], "JPEG": images}


def seconds(root: Path, files: list[Path]) -> float:
    """Return the processor time in which the commit in `root` reads `files`."""
    command = [sys.executable, "-c", CHILD, str(REPEATS), *map(str, files)]
    return float(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
