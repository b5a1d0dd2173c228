"""Evaluate a checkpoint: `python eval.py --config_path FILE --pretrained CHECKPOINT [--OPTION VALUE ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

from src.config import parse_args
from src.data import assembly as data
from src.runtime.gpu_libraries import require_gpu
from src.runtime.rank import run_script


def main() -> None:
    """Print the loss and the accuracies, in percent, over the validation images."""
    config = parse_args(sys.argv[1:], "eval")
    require_gpu(config.device_target)
    images = data.read_validation_images(config)

    # MindSpore takes seconds to import: --help, a wrong option and a wrong folder answer before that
    from src.report.report import report_on
    from src.runtime.distributed import wait_for_all
    from src.tools.fine_tuning import check_labels, evaluate_network
    from src.tools.get_misc import start
    from src.tools.starting_point import read_checkpoint
    from src.weights.rebuild import rebuild_network

    checkpoint, info = read_checkpoint(config)
    check_labels(config, info, images)
    ranks = start(config)
    path = Path(str(config.pretrained))
    network = rebuild_network(info, checkpoint.weights, path, config.amp_level)
    loader = data.build_eval_loader(config, info, images, ranks.rank, ranks.size)
    if config.report is None:
        result = evaluate_network(network, loader, ranks)
    else:
        result = report_on(network, loader, path, config, Path(config.report))
    if ranks.is_first:
        print(f"eval results: {result.as_printed()}")
    wait_for_all(ranks)


if __name__ == "__main__":
    run_script(main)
