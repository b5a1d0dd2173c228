"""Convert BEiT weights: files of the authors, timm, Hugging Face and this project into one another."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from src.errors import UserError, exit_code
from src.model.model_info import IMAGENET_DEFAULT_MEAN_STD, IMAGENET_INCEPTION_MEAN_STD
from src.model.variants import VARIANTS
from src.weights.checkpoint import Checkpoint, save_checkpoint
from src.weights.class_names import read_class_names
from src.weights.foreign_writer import SUFFIXES, write_foreign
from src.weights.pretrained import load_pretrained


def main(argv: Sequence[str]) -> None:
    options = parse_args(argv)
    checkpoint = load_pretrained(options.input, arch=options.arch, ema=options.ema)
    model = checkpoint.info.model
    classes = f"{model.num_classes} classes" if model.num_classes else "no classification head (pre-training)"
    print(
        f"read     {options.input}: {checkpoint.format}, {model.arch}, images of {model.image_size} pixels, {classes}"
    )
    if options.to is None:
        checkpoint = state(checkpoint, stated(options, model.num_classes))
        save_checkpoint(options.output, checkpoint)
        for name in sorted(checkpoint.guessed - {"class_names", "interpolation", "crop_mode"}):
            print(f"assumed  {name}: {getattr(checkpoint.info, name)} (the file does not say)")
    else:
        left_out = write_foreign(options.output, checkpoint.weights, options.to)
        for name in left_out:
            print(f"left out {name}: {options.to} has no place for it")
    print(f"wrote    {options.output}")


def build_parser() -> argparse.ArgumentParser:
    """Every option of the command line."""
    parser = Parser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--input", type=Path, required=True, help="the file; its format is recognized by its content")
    parser.add_argument("--arch", choices=VARIANTS, required=True, help="the architecture that the file is of")
    parser.add_argument("--output", type=Path, required=True, help="a .ckpt or .safetensors file; with --to, theirs")
    parser.add_argument("--to", choices=SUFFIXES, help="write a file for this library (hf4: transformers before 5)")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights in place of the raw ones")
    parser.add_argument("--class_names", type=Path, help="a text file with the name of each class, one a line")
    parser.add_argument("--crop_pct", type=float, help="side of the center crop over the resized image's, evaluating")
    parser.add_argument(
        "--imagenet_default_mean_and_std", choices=("True", "False"), help="images are normalized with ImageNet's"
    )
    return parser


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The options; `UserError` for those that do not fit together."""
    options = build_parser().parse_args(argv)
    for name in ("class_names", "crop_pct", "imagenet_default_mean_and_std"):
        if options.to is not None and getattr(options, name) is not None:
            raise UserError(f"--{name} has no place in a file for {options.to}: leave it out")
    if options.crop_pct is not None and not 0 < options.crop_pct <= 1:
        raise UserError(f"--crop_pct {options.crop_pct} is not above 0 and at most 1")
    return options


def stated(options: argparse.Namespace, num_classes: int) -> dict[str, Any]:
    """The fields of the model information that the command line gives."""
    fields: dict[str, Any] = {}
    if options.class_names is not None:
        fields["class_names"] = read_class_names(options.class_names, num_classes)
    if options.crop_pct is not None:
        fields["crop_pct"] = options.crop_pct
    if options.imagenet_default_mean_and_std is not None:
        imagenet = options.imagenet_default_mean_and_std == "True"
        fields["mean"], fields["std"] = IMAGENET_DEFAULT_MEAN_STD if imagenet else IMAGENET_INCEPTION_MEAN_STD
    return fields


def state(checkpoint: Checkpoint, fields: dict[str, Any]) -> Checkpoint:
    """`checkpoint` with these fields in place of guessed ones; `UserError` where the file itself says otherwise."""
    for name, value in fields.items():
        said = getattr(checkpoint.info, name)
        if name not in checkpoint.guessed and said and said != value:
            raise UserError(f"the file says {name} {said}, the command line {value}: leave the option out")
    return replace(checkpoint, info=replace(checkpoint.info, **fields), guessed=checkpoint.guessed - set(fields))


class Parser(argparse.ArgumentParser):
    """Ends on a wrong option with one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
