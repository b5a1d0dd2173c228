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
from src.runtime.rank import run_script


def main() -> int:
    """Train with the given options; return 0, or 128 plus the signal's number if the run was asked to stop."""
    config: TrainConfig = parse_args(sys.argv[1:], "train")
    require_gpu(config.device_target)
    train_images, val_images = data.read_data(config)
    config = data.with_class_count(config, train_images)

    # MindSpore takes seconds to import: --help, a wrong option and a wrong folder answer before that
    from src.tools.fine_tuning import fine_tuning, report_best
    from src.tools.memory_need import training_need
    from src.tools.training_run import run_training

    return run_training(
        config,
        train_images,
        partial(fine_tuning, config, train_images, val_images),
        identity={"validation images": len(val_images)},
        report=partial(report_best, config, val_images),
        need=training_need(config, data.model_config(config), average=config.with_ema),
    )


if __name__ == "__main__":
    run_script(main)
