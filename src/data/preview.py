"""Look at the data before training: `python -m src.data.preview --config_path FILE [--output preview.png]`.

Draws images of the first training batch as the network receives them (cropped, augmented, erased, mixed) with their
target classes, and beside each the same image as evaluation prepares it.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.config import PreviewConfig, parse_args
from src.data.assembly import build_train_loader, describe_model, read_data, with_class_count
from src.data.decode import rgb_image
from src.data.image_batches import preparation_of
from src.data.image_folder import ImageFolder
from src.errors import UserError, exit_code
from src.files.png_file import save_png
from src.files.regular_file import require_regular
from src.pictures.tiles import Tile, as_picture, tile_sheet

IMAGES = 16
COLUMNS = 8  # four images in a row, each in both views
LEAST_SHARE = 0.005  # a class with a smaller share of a mixed image would read 0.00 and is left out


def main() -> None:
    """Print the number of images and classes of both folders and write the picture."""
    config: PreviewConfig = parse_args(sys.argv[1:], "preview")
    output = Path(config.output)
    if output.suffix.lower() != ".png":
        raise UserError(f"output is {output} but the preview is a PNG file; give a name that ends in .png")
    with contextlib.suppress(OSError):  # a new name; another error is reported where the file is written
        require_regular(output, output.stat())
    train, validation = read_data(config)
    for folder in (train, validation):
        print(describe_folder(folder))
    shown = draw_preview(config, train, output)
    batch = f"{shown} of the {config.batch_size} images of the first training batch"
    print(f"{output} shows {batch}, each beside its evaluation view")


def describe_folder(folder: ImageFolder) -> str:
    """Return a line with the number of images and classes, and the smallest and the largest class."""
    counts = np.bincount(folder.labels, minlength=len(folder.classes))
    few, many = int(counts.argmin()), int(counts.argmax())
    spread = str(counts[few])
    if counts[few] < counts[many]:
        spread = f"from {counts[few]} ({folder.classes[few]}) to {counts[many]} ({folder.classes[many]})"
    return f"{folder.root}: {len(folder)} images of {len(folder.classes)} classes, {spread} a class"


def draw_preview(config: PreviewConfig, train: ImageFolder, output: Path) -> int:
    """Draw the first batch of `start_epoch` into `output` and return the number of images shown."""
    config_used = with_class_count(config, train)
    info = describe_model(config_used, train.classes)
    loader = build_train_loader(config_used, train, ranks=config.device_num)
    evaluated = preparation_of(info, takes_pixels=False, decode=config.decode)
    indices = loader.first_images(config.start_epoch)[:IMAGES]
    batch = next(iter(loader.epoch(config.start_epoch)))
    tiles = []
    for index, image, target in zip(indices, batch.image, batch.target):
        path = train.paths[index]
        view = np.empty(evaluated.shape, evaluated.dtype)
        with rgb_image(path, evaluated.reduce) as decoded:
            evaluated.fill(decoded, out=view)
        named = classes_of(target, config.label_smoothing, train.classes)
        tiles.append(Tile(as_picture(image, info.mean, info.std), named))
        tiles.append(Tile(as_picture(view, info.mean, info.std), (train.classes[train.labels[index]], Path(str(path)).name)))
    side = tiles[0].picture.width
    sheet = tile_sheet(tiles, COLUMNS, lines=2, side=side, headings=("training", "evaluation") * (COLUMNS // 2))
    save_png(sheet, output)
    return len(indices)


def classes_of(target: np.ndarray, label_smoothing: float, classes: Sequence[str]) -> list[str]:
    """Return a line per class in the target of an image, with its share if there are several.

    `target` float32 [C] is the input of the loss; the share that label smoothing gives to every class is removed.
    """
    if label_smoothing == 1:
        return ["all classes equally"]
    share = (target - label_smoothing / len(target)) / (1 - label_smoothing)
    named = [int(number) for number in np.argsort(-share, kind="stable") if share[number] >= LEAST_SHARE]
    return [classes[named[0]]] if len(named) == 1 else [f"{classes[number]}: {share[number]:.2f}" for number in named]


if __name__ == "__main__":
    sys.exit(exit_code(main))
