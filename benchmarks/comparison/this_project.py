"""This project's side: `python -m benchmarks.comparison.this_project TASK OPTIONS`, driven through standard input.

Network, step and loaders are built from a shipped config by the functions that train.py calls.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.comparison.protocol import answer, serve
from src.config import Config, parse_args
from src.data import assembly as data
from src.data.decode import read_rgb
from src.data.freed_memory import keep_freed_memory
from src.data.image_folder import read_image_folder
from src.data.transforms import EvalTransform, random_crop_box, resize

CONFIG = "beit_base_patch16_224_ft1k_authors"
MACHINE_ROUNDS = 20
PILLOW_ROUNDS, PILLOW_IMAGES = 5, 128
WARM_STEPS = 3  # the first one compiles
STEPS = 1000  # in the schedule; more than any benchmark takes
COMMON = [
    "--config_path", CONFIG, "--num_parallel_workers", "2", "--use_clip_grad_norm", "--with_ema", "False",
    "--dataset_sink_mode", "False",
]  # fmt: skip


def main() -> None:
    task, options = sys.argv[1], json.loads(sys.argv[2])
    TASKS[task](options)


def configure(options: dict[str, Any]) -> Config:
    """Return the shipped config with the batch size, device and, if given, network of the comparison."""
    words = [*COMMON, "--batch_size", str(options["batch_size"])]
    for name in ("arch", "image_size", "device_num"):
        words += [f"--{name}", str(options[name])] if name in options else []
    words += ["--device_target", options.get("device_target", "CPU"), "--amp_level", options.get("amp_level", "O0")]
    words += ["--compile_cache", options["compile_cache"]] if options.get("compile_cache") else []
    return parse_args(words, "train")


def forward(options: dict[str, Any]) -> None:
    """Run a batch in evaluation mode with exact GELU, in graph mode."""
    serve_compiled(forward_pass(options), options)


def step(options: dict[str, Any]) -> None:
    """Run a training step on arrays in memory; the loss is copied to the host."""
    serve_compiled(training_step(options), options)


def serve_compiled(work: Callable[[], Any], options: dict[str, Any]) -> None:
    """Serve `work`, which returns a tensor and compiles its graph in its first call."""
    first = timed(lambda: work().asnumpy())
    later = timed(lambda: work().asnumpy())
    facts = {"compile_seconds": first - later, **device_memory(options.get("device_target", "CPU"))}
    serve({**facts, **versions()}, lambda: last(work, options).asnumpy())


def forward_pass(options: dict[str, Any]) -> Callable[[], Any]:
    """Return a function that gives the logits of a batch of random images."""
    from mindspore import Tensor

    from src.tools import get_misc as build
    from src.tools.fine_tuning import build_network
    from src.tools.memory_need import need_of

    config = configure(options)
    build.start(config, need_of(config, data.model_config(config)))
    network = build_network(config)
    network.set_train(False)
    image = Tensor(random_batch(config.batch_size, config.image_size)[0])
    return lambda: network(image)


def training_step(options: dict[str, Any]) -> Callable[[], Any]:
    """Return a function that takes a training step with a random batch and gives its loss, float32 [1]."""
    from mindspore import Tensor

    from src.tools import get_misc as build
    from src.tools.compile_cache import cached_step
    from src.tools.criterion import Classification, SoftTargetCrossEntropy
    from src.tools.fine_tuning import build_network
    from src.tools.memory_need import training_need
    from src.trainer.train_one_step_with_scale_and_clip_global_norm import Schedules

    config = configure(options)
    ranks = build.start(config, training_need(config, data.model_config(config), average=False))
    network = build_network(config)
    objective = Classification(network, SoftTargetCrossEntropy())
    schedules = Schedules(np.full(STEPS, 1e-4), np.full(STEPS, config.weight_decay))
    train_step = build.build_train_step(config, network, objective, schedules, ranks)
    train_step = cached_step(train_step, config, STEPS, ranks.size)
    batch = [Tensor(array) for array in random_batch(config.batch_size, config.image_size)]
    return lambda: train_step(*batch)[0]


def rank_steps(options: dict[str, Any]) -> None:
    """Measure the median seconds of a training step on `device_num` ranks; the first rank prints it."""
    from src.runtime.distributed import launched_ranks
    from src.runtime.rank import run_script

    def steps() -> None:
        work = training_step(options)
        seconds = [timed(lambda: work().asnumpy()) for _ in range(options["steps"])][WARM_STEPS:]
        if launched_ranks(os.environ, options["device_num"]).is_first:
            answer({"seconds": float(np.median(seconds)), **versions()})

    run_script(steps)


def first_batch(options: dict[str, Any]) -> None:
    """Measure the seconds to list a folder and to get the first training batch from it."""
    config = configure(options)
    begin = time.perf_counter()
    folder = read_image_folder(Path(options["images"]))
    listed = time.perf_counter()
    batches = iter(data.build_train_loader(config, folder).epoch(0))
    next(batches)
    seconds = {"list_seconds": listed - begin, "seconds": time.perf_counter() - begin}
    serve(seconds, lambda: None)


def train_pipeline(options: dict[str, Any]) -> None:
    """Run an epoch of augmented and mixed batches."""
    config = configure(options)
    folder = read_image_folder(Path(options["images"]))
    loader = data.build_train_loader(config, folder)
    epochs = iter(range(STEPS))

    def epoch() -> None:
        for _ in loader.epoch(next(epochs)):
            pass

    serve({"images": loader.steps_per_epoch * loader.global_batch}, epoch)


def eval_pipeline(options: dict[str, Any]) -> None:
    """Run a pass of the evaluation loader."""
    config = configure(options)
    folder = read_image_folder(Path(options["images"]))
    loader = data.build_eval_loader(config, data.describe_model(config, folder.classes), folder)

    def one_pass() -> None:
        for _ in loader:
            pass

    serve({"images": len(folder)}, one_pass)


def pillow(options: dict[str, Any]) -> None:
    """Measure Pillow's seconds per image on one thread: decoding, and resizing for training and evaluation."""
    keep_freed_memory()
    paths = sorted(Path(options["images"]).rglob("*.jpg"))[:PILLOW_IMAGES]
    rng = np.random.default_rng(0)
    evaluation = EvalTransform(224, 0.9, (0.5,) * 3, (0.5,) * 3)
    seconds = dict.fromkeys(("decode", "train", "eval"), float("inf"))
    for _ in range(PILLOW_ROUNDS):
        taken = dict.fromkeys(seconds, 0.0)
        for path in paths:
            begin = time.perf_counter()
            image = read_rgb(path)
            decoded = time.perf_counter()
            box = random_crop_box(rng, image.width, image.height, 0.08)
            resize(image.crop(box), (224, 224), Image.Resampling.BICUBIC)
            cropped = time.perf_counter()
            evaluation.resize_and_crop(image)
            taken["decode"] += decoded - begin
            taken["train"] += cropped - decoded
            taken["eval"] += time.perf_counter() - cropped
        seconds = {name: min(least, taken[name] / len(paths)) for name, least in seconds.items()}
    serve(seconds, lambda: None)


def machine(options: dict[str, Any]) -> None:
    """Measure the operations per second of a matrix product of the MLP's size."""
    from mindspore import Tensor, ops

    from src.tools import get_misc as build
    from src.tools.memory_need import need_of

    config = configure(options)
    build.start(config, need_of(config, data.model_config(config)))
    rng = np.random.default_rng(0)
    rows = options["batch_size"] * 197
    left, right = (Tensor(rng.standard_normal(shape, dtype=np.float32)) for shape in ((rows, 768), (3072, 768)))
    product = ops.MatMul(transpose_b=True)
    seconds = min(timed(lambda: product(left, right).asnumpy()[0, 0]) for _ in range(MACHINE_ROUNDS))
    serve({"flops": 2 * rows * 768 * 3072 / seconds, **versions()}, lambda: None)


def random_batch(size: int, image_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, one-hot targets and drop path keys."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((size, 3, image_size, image_size), dtype=np.float32)
    target = np.eye(1000, dtype=np.float32)[rng.integers(0, 1000, size)]
    return image, target, rng.integers(0, 2**31 - 1, size).astype(np.int32)


def last(work: Callable[[], Any], options: dict[str, Any]) -> Any:
    """Start all runs of a repetition and return the last result; a GPU queues them without waiting for the host."""
    for _ in range(options.get("repeats", 1) - 1):
        work()
    return work()


def timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def versions() -> dict[str, str]:
    import mindspore

    return {"version": f"MindSpore {mindspore.__version__}"}


def device_memory(target: str) -> dict[str, int]:
    """Return the peak memory of a GPU; nothing for a CPU."""
    import mindspore

    return {} if target == "CPU" else {"device_bytes": int(mindspore.runtime.max_memory_allocated())}


TASKS = {
    "forward": forward,
    "step": step,
    "rank_steps": rank_steps,
    "first_batch": first_batch,
    "train_pipeline": train_pipeline,
    "eval_pipeline": eval_pipeline,
    "pillow": pillow,
    "machine": machine,
}

if __name__ == "__main__":
    main()
