"""Pre-train BEiT: `python pretrain.py --config_path FILE --data_url FOLDER [--OPTION VALUE ...]`."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, so that Ctrl-C during them ends in one line
    from src.runtime.signals import watch_signals

    watch_signals()

import sys
from functools import partial
from pathlib import Path

from src.config import PretrainScriptConfig, parse_args
from src.data import assembly as data
from src.runtime.gpu_libraries import require_gpu
from src.runtime.rank import run_script
from src.tokenizers.tokenizer_file import read_tokenizer_file


def main() -> int:
    """Pre-train with the given options; return 0, or 128 plus the signal's number if the run was asked to stop."""
    config: PretrainScriptConfig = parse_args(sys.argv[1:], "pretrain")
    require_gpu(config.device_target)
    data.build_masking(config)  # its numbers must fit
    tokenizer = None if config.tokenizer is None else read_tokenizer_file(Path(config.tokenizer))
    images = data.read_unlabeled_images(config)

    # MindSpore takes seconds to import: --help, a wrong option and a wrong file answer before that
    from src.tools.memory_need import training_need
    from src.tools.pretraining import pretraining, report_masked_images, tokenizer_identity
    from src.tools.training_run import run_training

    return run_training(
        config,
        images,
        partial(pretraining, config, images, tokenizer),
        identity=tokenizer_identity(tokenizer),
        report=partial(report_masked_images, config, images, tokenizer),
        need=training_need(config, data.pretraining_model(config, lm_head_outputs=0), average=False),
    )


if __name__ == "__main__":
    run_script(main)
