"""Fine-tune BEiT: `python train.py --config_path src/configs/NAME.yaml [--OPTION VALUE ...]`."""

from __future__ import annotations

import sys

from src.config import parse_args
from src.errors import exit_code


def main() -> int:
    """Train as the options say; 0, or 128 and the signal's number where the run was asked to stop."""
    config = parse_args(sys.argv[1:], "train")
    from src.tools import get_misc as build  # MindSpore takes seconds to import: --help and a wrong flag do not wait
    from src.trainer.interrupt import stop_on_signal
    from src.trainer.loop import RunState, train

    train_images, val_images = build.read_data(config)
    ranks = build.start(config)
    folders = build.make_folders(config, ranks)
    build.start_logs(folders, ranks)

    info = build.describe_model(config, train_images.classes)
    train_loader = build.build_train_loader(config, train_images, ranks)
    val_loader = build.build_eval_loader(config, info, val_images, ranks)
    rates = build.build_learning_rates(config, train_loader.steps_per_epoch)
    state = RunState(config.epochs, train_loader.steps_per_epoch, train_loader.global_batch, rates)

    network = build.build_network(config)
    pretrained = build.load_pretrained_weights(config, network)
    step = build.build_train_step(config, network, rates, ranks)
    build.set_starting_point(config, step, state, pretrained)
    validate = build.build_validation(step, build.build_evaluation(network, val_loader, ranks))
    callbacks = build.build_callbacks(config, folders, network, step, info, state)

    with stop_on_signal(state):
        train(build.build_feed(config, step, train_loader), validate, callbacks, state)
    return 128 + state.stop_signal if state.stop_signal else 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
