"""Predict the class of images (one file, a folder or a list) from a checkpoint or an exported file."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, so that Ctrl-C during them ends in one line
    from src.runtime.signals import watch_signals

    watch_signals()

import io
import sys
from pathlib import Path

from src.config import InferConfig, parse_args
from src.errors import RunError, UserError
from src.prediction.find_images import find_images
from src.prediction.journal import Journal, file_identity
from src.prediction.predictions_file import FORMATS, prepare_output, write_predictions
from src.runtime.rank import run_script
from src.runtime.signals import answered_by
from src.weights.class_names import read_class_names

# On a CPU, compiling BEiT-base takes as long as it saves in 4 to 8 images.
FEW_IMAGES = 4


def main() -> None:
    """Print `PATH (class: N)` for every image and write the file; unreadable images end in exit code 1."""
    config: InferConfig = parse_args(sys.argv[1:], "infer")
    prepare_output("output", Path(config.output), FORMATS)
    for option in ("contact_sheet", "attention"):
        if getattr(config, option) is not None:
            prepare_output(option, Path(getattr(config, option)), [".png"])
    # a name that the terminal's encoding cannot represent must not end the run
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    images = find_images(Path(str(config.data_path)), config.recursive)
    if config.attention is not None and len(images) != 1:
        raise UserError(
            f"attention is drawn for one image but data_path {config.data_path} has {len(images)}; give one"
        )
    run = {
        "checkpoint": file_identity(Path(str(config.checkpoint))),
        "data_path": config.data_path,
        "recursive": config.recursive,
        "topk": config.topk,
        "probabilities": config.probabilities,
        "decode": config.decode,
        "class_names": file_identity(Path(config.class_names)) if config.class_names else None,
    }
    with Journal(Path(config.output), run, resume=config.resume) as journal:

        def leave(signal_number: int) -> bool:
            """End at once, in the middle of a batch: its records are in the journal as soon as they exist."""
            if len(journal):
                print(f"{len(journal)} of {len(images)} images are done; --resume continues the run", file=sys.stderr)
            else:
                journal.remove()
            return False

        with answered_by(leave):
            predict(config, images, journal)


def predict(config: InferConfig, images: list[str], journal: Journal) -> None:
    """Load the network, predict the images that are not in the journal, write the file and draw the pictures."""
    # imported late, so that invalid options are reported at once
    from src.data.decode import read_rgb
    from src.files.png_file import save_png
    from src.prediction.pictures import attention_picture, contact_sheet
    from src.prediction.predict_files import Details, print_unreadable, record_predictions
    from src.prediction.predictor import Predictor
    from src.tools.memory_need import Need, require_memory

    batch_size = min(config.batch_size, len(images))
    predictor = Predictor.from_file(
        str(config.checkpoint),
        arch=config.arch,
        batch_size=batch_size,
        num_workers=config.num_parallel_workers,
        decode=config.decode,
        device_target=config.device_target,
        device_id=config.device_id,
        compiled=config.device_target != "CPU" or len(images) - len(journal) > FEW_IMAGES,
    )
    info, output = predictor.info, Path(config.output)
    classes = info.model.num_classes
    # an int8 file has one byte per value
    require_memory(Need(info.model, width=1, network=config.device_target == "CPU"), batch_size)
    if config.attention is not None:
        predictor.require_attention()
    if config.topk is not None and config.topk > classes:
        raise UserError(f"--topk is {config.topk} but {config.checkpoint} has {classes} classes; give fewer")
    names = read_class_names(Path(config.class_names), classes) if config.class_names else info.class_names
    # predictions.json of the model zoo: class numbers only, unless an option asks for more
    plain = output.suffix.lower() == ".json" and not (config.topk or config.probabilities or config.class_names)
    details = Details(config.topk, config.probabilities, labels=() if plain else names)
    results = predictor.predict(journal.remaining(images))
    record_predictions(results, journal, len(images), details, quiet=config.quiet, batch_size=batch_size)
    write_predictions(output, journal.records(), probabilities=config.probabilities)
    if config.contact_sheet is not None:
        save_png(contact_sheet(journal.records, names), Path(config.contact_sheet))
    unreadable = print_unreadable(journal.records()) if journal.unreadable else 0
    journal.remove()
    if unreadable:
        raise RunError(
            f"{unreadable} of {len(images)} images cannot be read (listed above), the others are in {output}; repair "
            f"or remove them"
        )
    if config.attention is not None:
        picture = attention_picture(read_rgb(images[0]), predictor.attention(images[0]), info)
        save_png(picture, Path(config.attention))


if __name__ == "__main__":
    run_script(main)
