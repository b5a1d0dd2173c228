"""Fine-tune BEiT: `python train.py --config_path src/configs/NAME.yaml [--OPTION VALUE ...]`."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, so that Ctrl-C during them ends in one line
    from src.runtime.signals import watch_signals

    watch_signals()

import sys
from functools import partial

from src.config import TrainConfig, parse_args
from src.data import assembly as data
from src.runtime.gpu_libraries import require_gpu
from src.runtime.rank import STOP, run_script


def main() -> int:
    """Train with the given options; return 0, or 128 plus the signal's number if the run was asked to stop."""
    config: TrainConfig = parse_args(sys.argv[1:], "train")
    require_gpu(config.device_target)
    train_images, val_images = data.read_data(config)
    config = data.with_class_count(config, train_images)

    # MindSpore takes seconds to import: --help, a wrong option and a wrong folder answer before that
    from src.runtime.distributed import StopVote, wait_for_all
    from src.tools import get_misc as build
    from src.tools.dry_run import dry_run
    from src.tools.fine_tuning import fine_tuning, report_best
    from src.tools.memory_need import training_need
    from src.tools.resume import find_resumed, run_options
    from src.tools.run_folder import make_folders, require_new_folders
    from src.tools.same_weights import require_same_start
    from src.trainer.ema import evaluate_with_average
    from src.trainer.interrupt import stop_on_signal
    from src.trainer.loop import train

    ranks = build.start(config, training_need(config, data.model_config(config), average=config.with_ema))
    folders = make_folders(config, ranks)
    build.start_logs(config, ranks)
    options = run_options(config, len(train_images), len(val_images), ranks.size)
    resumed = find_resumed(config, options, train_images)
    if resumed is None:
        require_new_folders(config, folders)

    task = fine_tuning(config, train_images, val_images, ranks)
    state, step = build.build_training(config, task, ranks, folders, resumed)
    require_same_start(ranks, task.network, options, train_images)
    steps = build.build_feed(config, task, step, ranks)
    if config.dry_run:
        dry_run(steps, task, state, config.device_target)
        wait_for_all(ranks)
        return 0

    callbacks = build.build_callbacks(config, task, step, state, options, ranks, folders)
    evaluate = partial(evaluate_with_average, partial(task.evaluate, None), step.ema)
    with stop_on_signal(state, ranks.size):
        train(steps, evaluate, callbacks, state, StopVote() if ranks.size > 1 else bool)
        if not state.stopping:
            report_best(config, task, folders, val_images)
        wait_for_all(ranks)
    # another rank may have received the signal
    return 128 + (state.stop_signal or STOP) if state.stopping else 0


if __name__ == "__main__":
    run_script(main)
