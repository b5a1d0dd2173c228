"""Pre-train BEiT: `python pretrain.py --config_path FILE --data_url FOLDER [--OPTION VALUE ...]`."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, so that Ctrl-C during them ends in one line
    from src.runtime.signals import watch_signals

    watch_signals()

import sys
from functools import partial

from src.config import PretrainScriptConfig, parse_args
from src.data import assembly as data
from src.runtime.gpu_libraries import require_gpu
from src.runtime.rank import STOP, run_script


def main() -> int:
    """Pre-train with the given options; return 0, or 128 plus the signal's number if the run was asked to stop."""
    config: PretrainScriptConfig = parse_args(sys.argv[1:], "pretrain")
    require_gpu(config.device_target)
    data.build_masking(config)  # its numbers must fit
    images = data.read_unlabeled_images(config)

    # MindSpore takes seconds to import: --help, a wrong option and a wrong folder answer before that
    from src.runtime.distributed import StopVote, wait_for_all
    from src.tools import get_misc as build
    from src.tools.dry_run import dry_run
    from src.tools.memory_need import training_need
    from src.tools.pretraining import pretraining, read_tokenizer
    from src.tools.resume import find_resumed, run_options
    from src.tools.run_folder import make_folders, require_new_folders
    from src.tools.same_weights import require_same_start
    from src.trainer.interrupt import stop_on_signal
    from src.trainer.loop import train

    ranks = build.start(config, training_need(config, data.pretraining_model(config, 0), average=False))
    folders = make_folders(config, ranks)
    build.start_logs(config, ranks)
    tokenizer = read_tokenizer(config)
    options = run_options(config, len(images), 0, ranks.size)
    resumed = find_resumed(config, options, images)
    if resumed is None:
        require_new_folders(config, folders)

    task = pretraining(config, images, tokenizer, ranks)
    state, step = build.build_training(config, task, ranks, folders, resumed)
    require_same_start(ranks, task.network, options, images)
    steps = build.build_feed(config, task, step, ranks)
    if config.dry_run:
        dry_run(steps, task, state, config.device_target)
        wait_for_all(ranks)
        return 0

    callbacks = build.build_callbacks(config, task, step, state, options, ranks, folders)
    with stop_on_signal(state, ranks.size):
        train(steps, partial(task.evaluate, None), callbacks, state, StopVote() if ranks.size > 1 else bool)
        wait_for_all(ranks)
    # another rank may have received the signal
    return 128 + (state.stop_signal or STOP) if state.stopping else 0


if __name__ == "__main__":
    run_script(main)
