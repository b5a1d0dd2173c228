"""A training run of any kind: fine-tuning, pre-training, or a tokenizer for it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from src.config import PretrainScriptConfig, TokenizerScriptConfig, TrainConfig
from src.data.image_folder import ImageFolder
from src.runtime.distributed import Ranks, StopVote, wait_for_all
from src.runtime.rank import STOP
from src.tools import get_misc as build
from src.tools.dry_run import dry_run
from src.tools.memory_need import Need
from src.tools.resume import find_resumed, run_options
from src.tools.run_folder import Folders, make_folders, require_new_folders
from src.tools.same_weights import require_same_start
from src.trainer.ema import evaluate_with_average
from src.trainer.interrupt import stop_on_signal
from src.trainer.loop import train
from src.trainer.task import Task


def run_training(
    config: TrainConfig | PretrainScriptConfig | TokenizerScriptConfig,
    images: ImageFolder,
    make_task: Callable[[Ranks], Task],
    *,
    identity: Mapping[str, Any],
    report: Callable[[Task, Folders], None] = lambda task, folders: None,
    need: Need | None = None,
) -> int:
    """Train a task on `images`; return 0, or 128 plus the signal's number if the run was asked to stop.

    Args:
        make_task: return the task of this rank.
        identity: values that identify the run beside its options and images; a run with others cannot resume it.
        report: called on the first rank after the last step of a run that was not stopped.
        need: the memory that the network takes at least.
    """
    ranks = build.start(config, need)
    folders = make_folders(config, ranks)
    build.start_logs(config, ranks)
    options = run_options(config, len(images), ranks.size) | dict(identity)
    resumed = find_resumed(config, options, images)
    if resumed is None:
        require_new_folders(config, folders)

    task = make_task(ranks)
    state, step = build.build_training(config, task, ranks, folders, resumed)
    require_same_start(ranks, task.network, options, images)
    steps = build.build_feed(config, task, step, ranks)
    if config.dry_run:
        dry_run(steps, task, state, config.device_target)
        wait_for_all(ranks)
        return 0

    callbacks = build.build_callbacks(config, task, step, state, options, ranks, folders)
    evaluate = partial(evaluate_with_average, partial(task.evaluate, None), step.ema)
    with stop_on_signal(state, ranks.size):
        train(steps, evaluate, callbacks, state, StopVote() if ranks.size > 1 else bool)
        if folders is not None and not state.stopping:
            report(task, folders)
        wait_for_all(ranks)
    # another rank may have received the signal
    return 128 + (state.stop_signal or STOP) if state.stopping else 0
