"""Evaluate a checkpoint: `python eval.py --config_path FILE --pretrained CHECKPOINT [--OPTION VALUE ...]`."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, so that Ctrl-C during them ends in one line
    from src.runtime.signals import watch_signals

    watch_signals()

import sys
from pathlib import Path

from src.config import EvalConfig, parse_args
from src.data.assembly import build_eval_loader, model_config, read_validation_images
from src.files.writable_folder import make_folder
from src.runtime.gpu_libraries import require_gpu
from src.runtime.rank import run_script


def main() -> None:
    """Print the loss and the accuracies, in percent, over the validation images."""
    config: EvalConfig = parse_args(sys.argv[1:], "eval")
    require_gpu(config.device_target)
    if config.report is not None:
        make_folder(Path(config.report))  # before the evaluation, which may take hours
    images = read_validation_images(config)

    # MindSpore takes seconds to import: --help, a wrong option and a wrong folder answer before that
    from src.evaluation.classification import evaluate_network
    from src.report.report import report_on
    from src.runtime.distributed import wait_for_all
    from src.runtime.graph_cache import compile_network
    from src.tools.fine_tuning import check_labels
    from src.tools.get_misc import start
    from src.tools.memory_need import need_of
    from src.tools.starting_point import read_checkpoint
    from src.weights.rebuild import rebuild_network

    checkpoint, info = read_checkpoint(config)
    check_labels(config, info, images)
    ranks = start(config, need_of(config, model_config(config)))
    path = Path(str(config.pretrained))
    network = rebuild_network(info, checkpoint.weights, path, config.amp_level)
    loader = build_eval_loader(config, info, images, ranks.rank, ranks.size)
    if not config.pynative_mode:
        folder = None if config.compile_cache is None else Path(config.compile_cache)
        compile_network(
            network, info.model, config.batch_size, amp_level=config.amp_level, rank=ranks.rank, folder=folder
        )
    if config.report is None:
        result = evaluate_network(network, loader, ranks)
    else:
        result = report_on(network, loader, path, config, Path(config.report))
    if ranks.is_first:
        print(f"eval results: {result.as_printed()}")
    wait_for_all(ranks)


if __name__ == "__main__":
    run_script(main)
