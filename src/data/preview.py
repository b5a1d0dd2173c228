"""Look at the data before training: `python -m src.data.preview --config_path FILE [--output preview.png]`.

Draws images of the first training batch as the network receives them (cropped, augmented, erased, mixed) with their
target classes, and beside each the same image as evaluation prepares it. For a config of pre-training it draws the views
of an image, its mask and, if the tokenizer has a decoder, what the tokens decode to.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.config import PretrainPreviewConfig, PreviewConfig, is_for_pretraining, parse_args
from src.data.assembly import (
    build_masked_loader,
    build_masking,
    build_train_loader,
    describe_model,
    mean_and_std,
    read_data,
    read_unlabeled_images,
    with_class_count,
)
from src.data.decode import rgb_image
from src.data.image_batches import preparation_of
from src.data.image_folder import ImageFolder
from src.data.masked_images import TokenBatch
from src.data.masked_sheet import masked_sheet
from src.errors import UserError, exit_code
from src.files.png_file import save_png
from src.files.regular_file import require_regular
from src.pictures.tiles import Tile, as_picture, tile_sheet
from src.tokenizers.tokenizer_file import TokenizerFile, read_tokenizer_file

IMAGES = 16
COLUMNS = 8  # four images in a row, each in both views
LEAST_SHARE = 0.005  # a class with a smaller share of a mixed image would read 0.00 and is left out


def main() -> None:
    """Print what the folders hold and write the picture."""
    if is_for_pretraining(sys.argv[1:]):
        preview_pretraining(parse_args(sys.argv[1:], "pretrain_preview"))
    else:
        preview_fine_tuning(parse_args(sys.argv[1:], "preview"))


def preview_fine_tuning(config: PreviewConfig) -> None:
    """Print the number of images and classes of both folders and write the picture."""
    output = picture_path(config.output)
    train, validation = read_data(config)
    for folder in (train, validation):
        print(describe_folder(folder))
    shown = draw_preview(config, train, output)
    batch = f"{shown} of the {config.batch_size} images of the first training batch"
    print(f"{output} shows {batch}, each beside its evaluation view")


def preview_pretraining(config: PretrainPreviewConfig) -> None:
    """Print the number of images and write the picture."""
    output = picture_path(config.output)
    build_masking(config)  # its numbers must fit
    tokenizer = None if config.tokenizer is None else read_tokenizer_file(Path(config.tokenizer))
    images = read_unlabeled_images(config)
    print(f"{images.root}: {len(images)} images")
    shown = draw_pretraining(config, images, tokenizer, output)
    print(f"{output} shows {shown} of the {config.batch_size} images of the first batch")


def draw_pretraining(
    config: PretrainPreviewConfig, images: ImageFolder, file: TokenizerFile | None, output: Path
) -> int:
    """Draw the first batch of `start_epoch` into `output` and return the number of images shown."""
    token_size, decoded = 0, {}
    if file is not None:  # imported here because it imports MindSpore, which takes seconds
        from src.tokenizers.decode import decoder_of, tokens_of
        from src.tokenizers.load import build_tokenizer

        tokenizer = build_tokenizer(file, build_masking(config).grid)
        token_size = tokenizer.image_size
    loader = build_masked_loader(config, images, token_size, ranks=config.device_num)
    batch = next(iter(loader.epoch(config.start_epoch)))
    names = [Path(str(images.paths[n])).name for n in loader.first_images(config.start_epoch)[:IMAGES]]
    if isinstance(batch, TokenBatch) and file is not None and (decode := decoder_of(file, tokenizer)) is not None:
        decoded = {"decoded tokens": decode(tokens_of(tokenizer, batch.token_image))}
    save_png(masked_sheet(batch, mean_and_std(config), names, decoded), output)
    return len(names)


def picture_path(output: str) -> Path:
    """Return the path of the picture; raises `UserError` for another kind of file."""
    path = Path(output)
    if path.suffix.lower() != ".png":
        raise UserError(f"output is {path} but the preview is a PNG file; give a name that ends in .png")
    with contextlib.suppress(OSError):  # a new name; another error is reported where the file is written
        require_regular(path, path.stat())
    return path


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
