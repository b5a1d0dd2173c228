"""Fine-tune BEiT: `python train.py --config_path src/configs/NAME.yaml [--OPTION VALUE ...]`."""

from __future__ import annotations

import sys

from src.config import parse_args
from src.data import assembly as data
from src.runtime.gpu_libraries import require_gpu
from src.runtime.rank import run_script


def main() -> int:
    """Train with the given options; return 0, or 128 plus the signal's number if the run was asked to stop."""
    config = parse_args(sys.argv[1:], "train")
    require_gpu(config.device_target)
    train_images, val_images = data.read_data(config)
    config = data.with_class_count(config, train_images)

    # MindSpore takes seconds to import: --help, a wrong option and a wrong folder answer before that
    from src.runtime.distributed import StopVote, wait_for_all
    from src.tools import get_misc as build
    from src.tools.dry_run import dry_run
    from src.tools.fine_tuning import fine_tuning, report_best
    from src.tools.resume import find_resumed, run_options
    from src.tools.run_folder import make_folders
    from src.tools.same_weights import require_same_start
    from src.trainer.interrupt import stop_on_signal, stop_signals, stopped_exit_code
    from src.trainer.loop import train

    ranks = build.start(config)
    build.start_logs(config, ranks)
    options = run_options(config, len(train_images), len(val_images), ranks.size)
    resumed = find_resumed(config, options, train_images)
    folders = make_folders(config, ranks, resumed=resumed is not None)

    task = fine_tuning(config, train_images, val_images, ranks)
    state, step = build.build_training(config, task, ranks, folders, resumed)
    require_same_start(ranks, task.network, options, train_images)
    steps = build.build_feed(config, task, step, ranks)
    if config.dry_run:
        dry_run(steps, task, state, config.device_target)
        wait_for_all(ranks)
        return 0

    callbacks = build.build_callbacks(config, task, step, state, options, ranks, folders)
    signals = stop_signals(ranks.size)
    with stop_on_signal(state, signals):
        train(steps, build.build_evaluation(task, step), callbacks, state, StopVote() if ranks.size > 1 else bool)
        if not state.stopping:
            report_best(config, task, folders, val_images)
        wait_for_all(ranks)
    return stopped_exit_code(state, signals)


if __name__ == "__main__":
    run_script(main)
