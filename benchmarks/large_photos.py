"""Speed and accuracy of `decode: fast` on JPEG files of 12 megapixels.

    python benchmarks/large_photos.py make FOLDER
    python train.py --config_path small_data_scratch_64_cpu --data_url FOLDER --val_num_samples 6 --epochs 8
    python benchmarks/large_photos.py measure FOLDER --checkpoint best.ckpt

`make` cuts parts out of scikit-learn's two photos: small ones to train on, and others, enlarged to 4000 x 3000 pixels
with the grain of a sensor, to measure on. `measure` runs the training and the evaluation pipeline of BEiT-base, and the
prediction of the checkpoint, in turns with both values of `decode`, and compares the logits of the predictions.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.config import read_config
from src.data.assembly import build_eval_loader, build_train_loader, describe_model
from src.data.image_folder import read_image_folder
from src.data.reduction import EXACT, FAST
from src.options.config_file import find_config
from src.prediction.predictor import Prediction, Predictor

RECIPE = "beit_base_patch16_224_ft1k_authors"
WIDTH, HEIGHT, QUALITY, GRAIN = 4000, 3000, 92, 4.0  # grain: standard deviation, in levels
PART = (200, 150)  # pixels that become a photo
TRAIN_SHARE = 0.7  # of the width of the photos
BANDS = 3  # a class is a third of the height of one of them
TRAINING, VALIDATION = 60, 8  # photos of a class
BATCH, WORKERS = 8, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("make", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.action == "make":
        make(arguments.folder)
    else:
        measure(arguments.folder, arguments.checkpoint, arguments.rounds)


def make(folder: Path) -> None:
    """Write `train` with small photos and `val` with large ones."""
    rng = np.random.default_rng(0)
    for number, photo in enumerate(load_sample_images().images):  # 427 x 640
        border = round(photo.shape[1] * TRAIN_SHARE)
        for band in range(BANDS):
            rows = (band * (photo.shape[0] - PART[1]) // BANDS, (band + 1) * (photo.shape[0] - PART[1]) // BANDS)
            for split, columns, count in (("train", (0, border), TRAINING), ("val", (border - 8, 640), VALIDATION)):
                place = folder / split / f"photo{number}band{band}"
                place.mkdir(parents=True)
                for index in range(count):
                    left = int(rng.integers(columns[0], columns[1] - PART[0] + 1))
                    upper = int(rng.integers(rows[0], rows[1] + 1))
                    part = Image.fromarray(photo[upper : upper + PART[1], left : left + PART[0]])
                    image = part if split == "train" else enlarged(part, rng)
                    image.save(place / f"{index:03}.jpg", quality=QUALITY)


def enlarged(part: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a photo of 12 megapixels."""
    large = np.asarray(part.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
    noise = rng.standard_normal(large.shape, dtype=np.float32) * np.float32(GRAIN)
    return Image.fromarray((large + noise).round().clip(0, 255).astype(np.uint8))


def measure(folder: Path, checkpoint: Path, rounds: int) -> None:
    """Print images/s of both ways, and what the predictions of the fast one differ by."""
    images = read_image_folder(folder / "val")
    config = replace(
        read_config(find_config(RECIPE)),
        num_classes=len(images.classes),
        batch_size=BATCH,
        num_parallel_workers=WORKERS,
    )
    predictors = {
        how: Predictor.from_file(checkpoint, batch_size=BATCH, num_workers=WORKERS, decode=how) for how in (EXACT, FAST)
    }
    paths = [str(images.paths[number]) for number in range(len(images))]
    labels, logits = images.labels, {}

    def train(how: str) -> int:
        loader = build_train_loader(replace(config, decode=how), images)
        return sum(len(batch.image) for batch in loader.epoch(0))

    def evaluate(how: str) -> int:
        info = describe_model(config, images.classes)
        return sum(batch.valid for batch in build_eval_loader(replace(config, decode=how), info, images))

    def predict(how: str) -> int:
        results = [result for result in predictors[how].predict(paths) if isinstance(result, Prediction)]
        logits[how] = np.stack([result.logits for result in results])
        return len(results)

    size = np.mean([Path(path).stat().st_size for path in paths])
    print(f"{len(paths)} JPEGs of {WIDTH} x {HEIGHT} pixels, {size / 1e6:.1f} MB, {WORKERS} threads")
    for name, run in (("train pipeline", train), ("evaluation pipeline", evaluate), ("prediction", predict)):
        rates = {how: [] for how in (EXACT, FAST)}
        run(FAST)  # compiles the network
        for _ in range(rounds):
            for how, found in rates.items():
                found.append(rate(run, how))
        ratio = np.median(np.array(rates[FAST]) / np.array(rates[EXACT]))
        print(
            f"{name:20s} exact {np.median(rates[EXACT]):6.2f}, fast {np.median(rates[FAST]):6.2f} images/s: {ratio:.2f}"
        )
    exact, fast = logits[EXACT], logits[FAST]
    print(f"accuracy: exact {np.mean(exact.argmax(1) == labels):.2%}, fast {np.mean(fast.argmax(1) == labels):.2%}")
    print(
        f"same class: {np.mean(exact.argmax(1) == fast.argmax(1)):.2%}; largest logit difference "
        f"{np.abs(exact - fast).max():.3g}, logits up to {np.abs(exact).max():.3g}"
    )


def rate(run: Callable[[str], int], how: str) -> float:
    """Return images/s."""
    begin = time.perf_counter()
    return run(how) / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
