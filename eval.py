"""Evaluate a checkpoint: `python eval.py --config_path FILE --pretrained CHECKPOINT [--OPTION VALUE ...]`."""

from __future__ import annotations

import sys

from src.config import parse_args
from src.data import assembly as data
from src.errors import exit_code


def main() -> None:
    """Print the loss and the accuracies, in percent, over the validation images."""
    config = parse_args(sys.argv[1:], "eval")
    images = data.read_validation_images(config)

    from src.tools import get_misc as build  # MindSpore takes seconds to import: --help and a wrong flag do not wait

    checkpoint, info = build.read_checkpoint(config)
    build.check_labels(config, info, images)
    ranks = build.start(config)
    network = build.rebuild(config, checkpoint, info)
    loader = data.build_eval_loader(config, info, images, ranks.rank, ranks.size)
    result = build.build_evaluation(network, loader, ranks)()
    if ranks.is_first:
        print(f"eval results: {result.as_printed()}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
