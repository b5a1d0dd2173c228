"""Fine-tune BEiT: `python train.py --config_path src/configs/NAME.yaml [--OPTION VALUE ...]`."""

from __future__ import annotations

import sys

from src.config import parse_args
from src.data import assembly as data
from src.runtime.gpu_libraries import require_gpu
from src.runtime.rank import run_script


def main() -> int:
    """Train as the options say; 0, or 128 and the signal's number where the run was asked to stop."""
    config = parse_args(sys.argv[1:], "train")
    require_gpu(config.device_target)
    train_images, val_images = data.read_data(config)
    config = data.with_class_count(config, train_images)

    # MindSpore takes seconds to import: --help, a wrong flag and a wrong folder do not wait
    from src.runtime.distributed import wait_for_all
    from src.tools import get_misc as build
    from src.tools.dry_run import dry_run
    from src.trainer.interrupt import stop_on_signal, stopped_exit_code
    from src.trainer.loop import train

    ranks = build.start(config)
    build.start_logs(config, ranks)
    resumed = build.find_resumed(config, train_images, val_images, ranks)
    folders = build.make_folders(config, ranks, resumed)

    info = data.describe_model(config, train_images.classes)
    train_loader = data.build_train_loader(config, train_images, ranks.rank, ranks.size)
    val_loader = data.build_eval_loader(config, info, val_images, ranks.rank, ranks.size)
    rates = build.build_learning_rates(config, train_loader.steps_per_epoch)
    state = build.new_state(config, train_loader, rates)

    network = build.build_network(config)
    loaded = build.load_starting_weights(config, network, resumed)
    step = build.build_train_step(config, network, rates, ranks)
    build.check_space(config, folders, network, step)
    build.set_starting_point(config, step, state, loaded, resumed)
    options = build.run_options(config, len(train_images), len(val_images), ranks.size)
    build.check_ranks_agree(ranks, network, options, train_images)
    validate = build.build_validation(step, build.build_evaluation(network, val_loader, ranks))
    feed = build.build_feed(config, step, train_loader)
    if config.dry_run:
        dry_run(feed, train_loader, network, val_loader, state, config.device_target)
        wait_for_all(ranks)
        return 0
    callbacks = build.build_callbacks(config, folders, network, step, info, state, options, train_loader, ranks)

    signals, stop_vote = build.stop_signals(ranks), build.build_stop_vote(ranks)
    with stop_on_signal(state, signals):
        train(feed, validate, callbacks, state, stop_vote)
        if not state.stopping:
            build.report_best(config, folders, network, info, val_images)
        wait_for_all(ranks)
    return stopped_exit_code(state, signals)


if __name__ == "__main__":
    run_script(main)
