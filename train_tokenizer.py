"""Train an image tokenizer: `python train_tokenizer.py --config_path FILE --data_url FOLDER [--OPTION VALUE ...]`."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, so that Ctrl-C during them ends in one line
    from src.runtime.signals import watch_signals

    watch_signals()

import sys
from functools import partial

from src.config import TokenizerScriptConfig, parse_args
from src.data.assembly import read_unlabeled_images
from src.runtime.gpu_libraries import require_gpu
from src.runtime.rank import run_script


def main() -> int:
    """Train with the given options; return 0, or 128 plus the signal's number if the run was asked to stop."""
    config: TokenizerScriptConfig = parse_args(sys.argv[1:], "train_tokenizer")
    require_gpu(config.device_target)
    images = read_unlabeled_images(config)

    # MindSpore takes seconds to import: --help, a wrong option and a wrong folder answer before that
    from src.tools.tokenizer_training import tokenizer_training
    from src.tools.training_run import run_training

    return run_training(config, images, partial(tokenizer_training, config, images), identity={})


if __name__ == "__main__":
    run_script(main)
