"""Compare the prediction of a folder, from image files to predictions.json, with the network alone.

    python benchmarks/infer_folder.py --checkpoint FILE.onnx [--images 64] [--batch_size 8] [--side PIXELS]

Creates JPEG files of 500 x 375 pixels with the file size of photos, or squares of --side pixels. Then it measures in
turn: the network on batches in memory, the prediction of the folder as in infer.py, decoding and resizing alone, and a
plain loop of Pillow and ONNX Runtime, which prepares one image after another and prints and writes the classes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
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
from src.prediction.loaded_network import Network
from src.prediction.onnx_network import load_onnx
from src.prediction.predict_files import Details, record_predictions
from src.prediction.predictions_file import write_predictions
from src.prediction.predictor import Predictor

WIDTH, HEIGHT, QUALITY = 500, 375, 90
NUM_WORKERS = 8  # infer.py's default


def main() -> None:
    arguments = parse()
    network = load_onnx(arguments.checkpoint, "CPU", 0)
    if network.takes_pixels:
        raise SystemExit(
            f"{arguments.checkpoint} normalizes pixels itself; give a file exported without with_preprocess"
        )
    predictor = Predictor(network, batch_size=arguments.batch_size, num_workers=arguments.workers)
    with tempfile.TemporaryDirectory() as folder:
        size = write_photos(Path(folder), arguments.images, arguments.side)
        preparation = preparation_of(network.info, network.takes_pixels)
        ready = [
            batch.image[: len(batch.sources)]
            for batch in image_batches(find_images(Path(folder)), preparation, arguments.batch_size, NUM_WORKERS)
        ]
        ways = {
            "network alone": lambda: run_all(network.run, ready),
            "folder to predictions.json": lambda: predict_folder(predictor, Path(folder)),
            "decode and resize alone": lambda: decode(Path(folder), preparation, arguments.batch_size),
            "plain loop": lambda: plain_loop(network, Path(folder), arguments.batch_size),
        }
        print(f"{arguments.checkpoint}, {arguments.images} JPEGs of {size / 1000:.1f} kB, batch {arguments.batch_size}")
        print(machine())
        seconds = in_turn(ways, arguments.rounds)
    for name, taken in seconds.items():
        rate = arguments.images / np.median(taken)
        print(f"{name:28s} {rate:8.2f} images/s   {' '.join(f'{arguments.images / s:.2f}' for s in taken)}")
    alone, whole, _, plain = (np.array(taken) for taken in seconds.values())
    print(f"folder over network alone, round by round: {np.median(alone / whole):.1%}")
    print(f"folder over plain loop, round by round: {np.median(plain / whole):.2f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, help="side of square images, instead of photos")
    parser.add_argument("--workers", type=int, default=NUM_WORKERS, help="threads that read images for the folder")
    return parser.parse_args()


def write_photos(folder: Path, count: int, side: int | None) -> float:
    """Write `count` images with detail at every scale, like photos; return the mean file size in bytes."""
    rng = np.random.default_rng(0)
    width, height = (WIDTH, HEIGHT) if side is None else (side, side)
    for number in range(count):
        picture = np.zeros((height, width, 3), np.float32)
        for scale in (4, 16, 64, 256):
            shape = (-(-height // scale), -(-width // scale), 3)
            coarse = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            picture += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32) * scale**0.5
        picture *= 255 / picture.max()
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number:06d}.jpg", quality=QUALITY)
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
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            results = predictor.predict(images)
            size = predictor.batch_size
            record_predictions(results, journal, len(images), Details(), quiet=False, batch_size=size)
        write_predictions(Path(place) / "p.json", journal.records(), probabilities=False)


def plain_loop(network: Network, folder: Path, batch_size: int) -> None:
    """Predict a folder as a short script would: one thread, no checks, no journal."""
    info, classes = network.info, {}
    side, names = info.model.image_size, sorted(os.listdir(folder))
    resized = math.floor(side / info.crop_pct)
    offset = round((resized - side) / 2)
    with tempfile.TemporaryDirectory() as place, open(os.devnull, "w") as nowhere:
        for begin in range(0, len(names), batch_size):
            images = []
            for name in names[begin : begin + batch_size]:
                image = Image.open(folder / name).convert("RGB")
                image = image.resize((resized, resized), Image.Resampling.BICUBIC)
                image = image.crop((offset, offset, offset + side, offset + side))
                images.append((np.asarray(image, np.float32) / 255 - np.float32(info.mean)) / np.float32(info.std))
            logits = network.run(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))
            for name, number in zip(names[begin:], logits.argmax(axis=1)):
                classes[name] = int(number)
                print(name, number, file=nowhere)
        (Path(place) / "p.json").write_text(json.dumps(classes))


def decode(folder: Path, preparation: object, batch_size: int) -> None:
    for _ in image_batches(find_images(folder), preparation, batch_size, NUM_WORKERS):
        pass


if __name__ == "__main__":
    main()
