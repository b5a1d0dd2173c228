"""Predict the class of an image or of a folder's images, from a checkpoint or an exported ONNX file."""

from __future__ import annotations

import sys
from pathlib import Path

from src.config import parse_args
from src.errors import RunError, exit_code
from src.prediction.find_images import find_images
from src.prediction.predictions_file import prepare_folder, write_predictions


def main() -> None:
    """Print `PATH (class: N)` for every image and write the JSON file; unreadable images end in exit code 1."""
    config = parse_args(sys.argv[1:], "infer")
    images = find_images(Path(config.data_path))
    output = Path(config.output)
    prepare_folder(output)

    # imported only now: a wrong option is told of at once
    from src.predictor import Predictor, Unreadable

    predictor = Predictor.from_file(
        config.checkpoint,
        arch=config.arch,
        batch_size=min(config.batch_size, len(images)),
        num_workers=config.num_parallel_workers,
        device_target=config.device_target,
        device_id=config.device_id,
    )
    # file names are bytes: one in no valid encoding is printed as it is
    sys.stdout.reconfigure(errors="surrogateescape")
    sys.stderr.reconfigure(errors="surrogateescape")
    predictions: dict[str, int] = {}
    unreadable: list[Unreadable] = []
    for result in predictor.predict(images):
        if isinstance(result, Unreadable):
            unreadable.append(result)
            continue
        predictions[str(result.image)] = result.class_number
        print(f"{result.image} (class: {result.class_number})", flush=True)
    write_predictions(output, predictions)
    for image in unreadable:
        print(f"{image.image} cannot be read: {image.reason}", file=sys.stderr)
    if unreadable:
        raise RunError(
            f"{len(unreadable)} of {len(images)} images cannot be read (named above), the others are in {output}: "
            f"repair or remove them"
        )


if __name__ == "__main__":
    sys.exit(exit_code(main))
