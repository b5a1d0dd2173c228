"""Compare the prediction of a folder, from image files to predictions.json, with the network alone.

    python benchmarks/infer_folder.py --checkpoint FILE.onnx [--images 64] [--batch_size 8]

Creates JPEG files of 500 x 375 pixels with the file size of photos. Then it measures in turn: the network on batches in
memory, the prediction of the folder as in infer.py, and decoding and resizing alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx_timing import machine
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.data.image_batches import image_batches, preparation_of
from src.prediction.find_images import find_images
from src.prediction.journal import Journal
from src.prediction.onnx_network import load_onnx
from src.prediction.predict_files import Details, record_predictions
from src.prediction.predictions_file import write_predictions
from src.prediction.predictor import Predictor

WIDTH, HEIGHT, QUALITY = 500, 375, 90
NUM_WORKERS = 8  # infer.py's default


def main() -> None:
    arguments = parse()
    network = load_onnx(arguments.checkpoint, "CPU", 0)
    predictor = Predictor(network, batch_size=arguments.batch_size, num_workers=NUM_WORKERS)
    with tempfile.TemporaryDirectory() as folder:
        size = write_photos(Path(folder), arguments.images)
        preparation = preparation_of(network.info, network.takes_pixels)
        ready = [
            batch.image[: len(batch.sources)]
            for batch in image_batches(find_images(Path(folder)), preparation, arguments.batch_size, NUM_WORKERS)
        ]
        ways = {
            "network alone": lambda: run_all(network.run, ready),
            "folder to predictions.json": lambda: predict_folder(predictor, Path(folder)),
            "decode and resize alone": lambda: decode(Path(folder), preparation, arguments.batch_size),
        }
        print(f"{arguments.checkpoint}, {arguments.images} JPEGs of {size / 1000:.0f} kB, batch {arguments.batch_size}")
        print(machine())
        seconds = in_turn(ways, arguments.rounds)
    for name, taken in seconds.items():
        rate = arguments.images / np.median(taken)
        print(f"{name:28s} {rate:8.2f} images/s   {' '.join(f'{arguments.images / s:.2f}' for s in taken)}")
    alone, whole, _ = seconds.values()
    print(f"folder over network alone, round by round: {np.median(np.array(alone) / np.array(whole)):.1%}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def write_photos(folder: Path, count: int) -> float:
    """Write `count` images with detail at every scale, like photos; return the mean file size in bytes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for scale in (4, 16, 64, 256):
            shape = (-(-HEIGHT // scale), -(-WIDTH // scale), 3)
            coarse = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            picture += np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32) * scale**0.5
        picture *= 255 / picture.max()
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=QUALITY)
    return float(np.mean([file.stat().st_size for file in folder.iterdir()]))


def in_turn(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each way. Every round runs all ways; the first round is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def run_all(run: Callable[[np.ndarray], np.ndarray], batches: list[np.ndarray]) -> None:
    for batch in batches:
        run(batch)


def predict_folder(predictor: Predictor, folder: Path) -> None:
    images = find_images(folder)
    with tempfile.TemporaryDirectory() as place, Journal(Path(place) / "p.json", {}, resume=False) as journal:
        record_predictions(predictor.predict(images), journal, len(images), Details(), quiet=True)
        write_predictions(Path(place) / "p.json", journal.records(), probabilities=False)


def decode(folder: Path, preparation: object, batch_size: int) -> None:
    for _ in image_batches(find_images(folder), preparation, batch_size, NUM_WORKERS):
        pass


if __name__ == "__main__":
    main()
