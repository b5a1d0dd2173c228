"""Predict the class of images (one, a folder's or a list's) from a checkpoint or an exported file."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from src.config import InferConfig, parse_args
from src.errors import RunError, UserError, exit_code
from src.prediction.find_images import find_images
from src.prediction.journal import Journal, file_identity
from src.prediction.predictions_file import FORMATS, prepare_output, wanted_details, write_predictions
from src.prediction.stored_paths import StoredPaths
from src.weights.class_names import read_class_names


def main() -> None:
    """Print `PATH (class: N)` for every image and write the file; unreadable images end in exit code 1."""
    config = parse_args(sys.argv[1:], "infer")
    prepare_output("output", Path(config.output), FORMATS)
    for option in ("contact_sheet", "attention"):
        if getattr(config, option) is not None:
            prepare_output(option, Path(getattr(config, option)), [".png"])
    # file names are bytes: one in no valid encoding is printed as it is
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")
    images = find_images(Path(str(config.data_path)), config.recursive)
    if config.attention is not None and len(images) != 1:
        raise UserError(f"attention is drawn for one image, and data_path {config.data_path} has {len(images)}")
    what_decides = {
        "checkpoint": file_identity(Path(str(config.checkpoint))),
        "data_path": config.data_path,
        "recursive": config.recursive,
        "topk": config.topk,
    }
    with Journal(Path(config.output), what_decides, resume=config.resume) as journal:
        try:
            predict(config, images, journal)
        except KeyboardInterrupt:
            print(f"{len(journal)} of {len(images)} images are done: --resume continues the run", file=sys.stderr)
            raise


def predict(config: InferConfig, images: StoredPaths, journal: Journal) -> None:
    """Load the network, predict the images that `journal` lacks, and write and draw what was asked for."""
    # imported only now: a wrong option is told of at once
    from src.prediction.drawing import draw_attention, draw_contact_sheet
    from src.prediction.predict_files import name_unreadable, predict_files
    from src.prediction.predictor import Predictor
    from src.prediction.progress import Progress

    predictor = Predictor.from_file(
        str(config.checkpoint),
        arch=config.arch,
        batch_size=min(config.batch_size, len(images)),
        num_workers=config.num_parallel_workers,
        device_target=config.device_target,
        device_id=config.device_id,
    )
    info = predictor.info
    num_classes = info.model.num_classes
    if config.attention is not None:
        predictor.require_attention()
    if config.topk is not None and config.topk > num_classes:
        raise UserError(f"--topk is {config.topk} and {config.checkpoint} has {num_classes} classes: give fewer")
    names = read_class_names(Path(config.class_names), num_classes) if config.class_names else info.class_names
    details = wanted_details(Path(config.output), config.topk, config.probabilities, names, bool(config.class_names))
    with Progress(len(images), len(journal), quiet=config.quiet) as progress:
        predict_files(predictor, images, journal, progress, details, top=config.topk or 1)
    write_predictions(Path(config.output), journal.records(), details)
    if config.contact_sheet is not None:
        draw_contact_sheet(Path(config.contact_sheet), journal.records, names)
    unreadable = name_unreadable(journal.records())
    journal.remove()
    if unreadable:
        raise RunError(
            f"{unreadable} of {len(images)} images cannot be read (named above), the others are in {config.output}: "
            f"repair or remove them"
        )
    if config.attention is not None:
        draw_attention(Path(config.attention), predictor, next(iter(images)))


if __name__ == "__main__":
    sys.exit(exit_code(main))
