"""Time a training step of pre-training beside that of fine-tuning: `python benchmarks/pretraining_step.py`.

BEiT-base at 224 pixels with random weights and data, on the CPU. The tokenizer is DALL-E's encoder in its published
size, with random weights, which cost as much as trained ones. Steps are timed in turn; the table has the minimum of
each, and the ratio of a step of pre-training to that of fine-tuning plus the tokenizer's forward pass.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mindspore
import numpy as np
from mindspore import Tensor, nn

from src.config import Config, NetworkConfig, PretrainConfig
from src.data.assembly import model_config, pretraining_model
from src.data.masking import Masking, masked_positions
from src.model.model_config import TrainingOptions
from src.runtime.distributed import Ranks
from src.tokenizers.dalle import DalleEncoder, DalleSizes
from src.tokenizers.load import PREFIX
from src.tools.criterion import Classification, SoftTargetCrossEntropy
from src.tools.get_misc import build_train_step
from src.tools.masked_modeling import PixelRegression, TokenPrediction
from src.tools.pretraining import build_network, pixels_of_patch
from src.trainer.task import Objective
from src.trainer.train_one_step_with_scale_and_clip_global_norm import Schedules
from src.vit import create_model

STEPS = 1000  # of the schedules; fewer are taken
GRID, PATCHES = 14, 75
CLASSES = 1000


def main() -> None:
    """Print a table of seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")
    arrays = random_arrays(words.batch_size)
    fine, pre = (
        Config(device_target="CPU", disable_approximate_gelu=True),
        PretrainConfig(device_target="CPU", target="pixels", disable_approximate_gelu=True),
    )
    tokenizer = dalle()
    works: dict[str, Callable[[], Tensor]] = {}
    options = TrainingOptions(drop_path=fine.drop_path)
    classifier = create_model(model_config(fine), options).set_train(True)
    objective: Objective = Classification(classifier, SoftTargetCrossEntropy())
    add_step(works, "fine-tuning", fine, classifier, objective, (arrays["image"], arrays["target"], arrays["key"]))
    masked = tuple(arrays[name] for name in ("image", "mask", "positions", "weights", "key"))
    network = build_network(pre, pretraining_model(pre, pixels_of_patch(pre)))
    add_step(works, "pre-training, pixels", pre, network, PixelRegression(network), masked)
    network = build_network(pre, pretraining_model(pre, tokenizer.vocab_size))
    inputs = (*masked, arrays["token_image"])
    add_step(works, "pre-training, tokens", pre, network, TokenPrediction(network, tokenizer), inputs)
    works["tokenizer alone"] = lambda: tokenizer(Tensor(arrays["token_image"]))
    seconds = {name: min(times) for name, times in timed_in_turn(works, words.rounds).items()}
    for name, value in seconds.items():
        print(f"{name:22} {value:7.2f} s")
    print(f"pixels / fine-tuning                {seconds['pre-training, pixels'] / seconds['fine-tuning']:.2f}")
    whole = seconds["fine-tuning"] + seconds["tokenizer alone"]
    print(f"tokens / (fine-tuning + tokenizer)  {seconds['pre-training, tokens'] / whole:.2f}")


def random_arrays(batch: int) -> dict[str, np.ndarray]:
    """Return the inputs of all steps."""
    rng = np.random.default_rng(0)
    masks = [Masking(GRID, PATCHES).draw(rng).ravel() for _ in range(batch)]
    positions, weights = zip(*(masked_positions(mask, PATCHES) for mask in masks))
    return {
        "image": rng.standard_normal((batch, 3, 224, 224), dtype=np.float32),
        "target": np.eye(batch, CLASSES, dtype=np.float32),
        "mask": np.stack(masks).astype(np.float32),
        "positions": np.stack(positions),
        "weights": np.stack(weights),
        "key": np.arange(batch, dtype=np.int32),
        "token_image": rng.integers(0, 256, (batch, 3, 112, 112), dtype=np.uint8),
    }


def dalle() -> DalleEncoder:
    """Return DALL-E's encoder in its published size, with random weights."""
    rng, tokenizer = np.random.default_rng(1), DalleEncoder(DalleSizes(), 112)
    for parameter in tokenizer.get_parameters():
        deviation = 1 / np.sqrt(np.prod(parameter.shape[1:]))
        parameter.set_data(Tensor(rng.standard_normal(parameter.shape, dtype=np.float32) * np.float32(deviation)))
        parameter.name, parameter.requires_grad = PREFIX + parameter.name, False
    return tokenizer.set_train(False)


def add_step(
    works: dict[str, Callable[[], Tensor]],
    name: str,
    config: NetworkConfig,
    network: nn.Cell,
    objective: Objective,
    arrays: tuple[np.ndarray, ...],
) -> None:
    """Add a function that takes a training step and returns its values."""
    schedules = Schedules(np.full(STEPS, 1e-4), np.full(STEPS, 0.05))
    config = replace(config, use_clip_grad_norm=True, clip_grad_norm=3.0)
    step = build_train_step(config, network, objective, schedules, Ranks())
    works[name] = lambda: step(*map(Tensor, arrays))[0]


def timed_in_turn(works: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each function, called in turn, after a call that compiles."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            work().asnumpy()
            if number:
                times[name].append(time.perf_counter() - begin)
    return times


if __name__ == "__main__":
    main()
