"""Convert weights of the authors, timm, Hugging Face and this project into one another."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, so that Ctrl-C during them ends in one line
    from src.runtime.signals import watch_signals

    watch_signals()

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.errors import UserError, exit_code
from src.model.model_info import IMAGENET_DEFAULT_MEAN_STD, IMAGENET_INCEPTION_MEAN_STD, MIN_CROP_PCT
from src.model.variants import VARIANTS
from src.options.command_line import Parser
from src.weights.checkpoint import Checkpoint, save_checkpoint
from src.weights.class_names import read_class_names
from src.weights.foreign_writer import SUFFIXES, write_foreign
from src.weights.pretrained import load_pretrained


def main(argv: Sequence[str]) -> None:
    """Read the input, write the output, and print the assumptions and the omitted parameters."""
    options = parse_args(argv)
    checkpoint = load_pretrained(options.input, arch=options.arch, ema=options.ema)
    model = checkpoint.info.model
    classes = f"{model.num_classes} classes" if model.num_classes else "no classification head (pre-training)"
    print(
        f"read     {options.input}: {checkpoint.format}, {model.arch}, images of {model.image_size} pixels, {classes}"
    )
    if options.to is None:
        checkpoint = add_fields(checkpoint, given_fields(options, model.num_classes))
        save_checkpoint(options.output, checkpoint)
        for name in sorted(checkpoint.guessed - {"class_names", "interpolation", "crop_mode"}):
            print(f"assumed  {name}: {checkpoint.info.to_dict()[name]} (not stored in the file)")
    else:
        for name in write_foreign(options.output, checkpoint.weights, options.to):
            print(f"left out {name}: {options.to} has no such parameter")
    print(f"wrote    {options.output}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every option."""
    parser = Parser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--input", type=Path, required=True, help="the file; its content determines its format")
    parser.add_argument("--arch", choices=VARIANTS, required=True, help="the architecture of the file")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="a .ckpt or .safetensors file; with --to .safetensors, except .pth for unilm (their code reads no other)",
    )
    parser.add_argument(
        "--to",
        choices=SUFFIXES,
        help="write a file for the authors' code (unilm), timm, or transformers since version 5 (hf) or before (hf4)",
    )
    parser.add_argument("--ema", action="store_true", help="convert the averaged weights instead of the raw ones")
    parser.add_argument("--class_names", type=Path, help="a text file with one class name per line")
    parser.add_argument(
        "--crop_pct", type=float, help="side of the center crop over the side of the resized image, for evaluation"
    )
    parser.add_argument(
        "--imagenet_default_mean_and_std",
        choices=("True", "False"),
        help="whether images are normalized with ImageNet's mean and std, or with 0.5",
    )
    return parser


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; `UserError` for invalid or contradictory options."""
    options = build_parser().parse_args(argv)
    for name in ("class_names", "crop_pct", "imagenet_default_mean_and_std"):
        if options.to is not None and getattr(options, name) is not None:
            raise UserError(f"a file for {options.to} cannot store --{name}: leave it out")
    if options.crop_pct is not None and not MIN_CROP_PCT <= options.crop_pct <= 1:
        raise UserError(f"--crop_pct is {options.crop_pct}, but must be {MIN_CROP_PCT} to 1")
    return options


def given_fields(options: argparse.Namespace, num_classes: int) -> dict[str, Any]:
    """Return the fields of `ModelInfo` from the command line."""
    fields: dict[str, Any] = {}
    if options.class_names is not None:
        fields["class_names"] = read_class_names(options.class_names, num_classes)
    if options.crop_pct is not None:
        fields["crop_pct"] = options.crop_pct
    if options.imagenet_default_mean_and_std is not None:
        imagenet = options.imagenet_default_mean_and_std == "True"
        fields["mean"], fields["std"] = IMAGENET_DEFAULT_MEAN_STD if imagenet else IMAGENET_INCEPTION_MEAN_STD
    return fields


def add_fields(checkpoint: Checkpoint, fields: dict[str, Any]) -> Checkpoint:
    """Set `fields` in place of guessed ones; `UserError` where the file stores another value."""
    for name, value in fields.items():
        stored = getattr(checkpoint.info, name)
        if name not in checkpoint.guessed and stored and stored != value:
            raise UserError(f"{name} is {value} on the command line and {stored} in the file: leave the option out")
    return replace(checkpoint, info=replace(checkpoint.info, **fields), guessed=checkpoint.guessed - set(fields))


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
