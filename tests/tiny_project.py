"""Helpers of the end-to-end tests: a tiny data set, a config for it, and running scripts as a user does."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "src" / "configs" / "quickstart_digits.yaml"
ARCH, IMAGE_SIZE = "test_beit_patch8_32", 32
COLORS = {"blue": (20, 30, 220), "green": (30, 200, 40), "red": (210, 30, 30)}
TIMEOUT_SECONDS = 400  # a compilation takes 10 s here and several times that on a busy machine


def write_images(folder: Path, train: int = 8, val: int = 3) -> Path:
    """Write three classes of noisy plain colors, in train and val."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name, color in COLORS.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(-20, 20, (12, 14, 3))
                pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def deep_image(folder: Path) -> Path:
    """Write an image below more folders than Python allows recursive calls; only `rm -r` can remove them."""
    for _ in range(1500):
        folder = folder / "a"
        folder.mkdir()
    image = folder / "image.png"
    image.touch()
    return image


def write_config(folder: Path, data: Path, **changes: object) -> Path:
    """Write the quickstart's config for these images and a run of a few seconds with all outputs below `folder`."""
    values = yaml.safe_load(QUICKSTART.read_text())
    values |= {
        "data_url": str(data),
        "arch": ARCH,
        "image_size": IMAGE_SIZE,
        "num_classes": len(COLORS),
        "batch_size": 8,
        "epochs": 2,
        "warmup_length": 0,
        "print_loss_every": 2,
        "summary_loss_collect_freq": 1,
        "model_postfix": "test",
        "summary_root_dir": str(folder / "summaries"),
        "ckpt_root_dir": str(folder / "checkpoints"),
        "best_ckpt_root_dir": str(folder / "best"),
        "logs_root_dir": str(folder / "logs"),
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values | changes, sort_keys=False))
    return path


def run(*command: object, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command; with `check`, its exit code must be 0."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
        env={**os.environ, "PYTHON_BIN": sys.executable},
    )
    if check:
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def script(name: str, *arguments: object, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts at the top with this interpreter."""
    return run(sys.executable, ROOT / name, *arguments, cwd=cwd, check=check)


def wrapper(name: str, *arguments: object, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of the shell wrappers."""
    return run("bash", ROOT / "scripts" / name, *arguments, cwd=cwd, check=check)


def error_line(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """Return the one error line of a script that ended with `code` and no traceback."""
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0].removeprefix("error: ")


def metrics(folder: Path) -> list[dict[str, str]]:
    """Return the rows of the run's metrics.csv."""
    with (folder / "logs" / f"{ARCH}_test" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))
