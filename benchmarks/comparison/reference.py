"""The reference's side, run by an interpreter with torch and timm. Tasks and options as in `this_project`."""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

with contextlib.suppress(ImportError):
    import reference_shim  # noqa: F401  (needed if torchvision has no compiled operators)
import timm
import torch
from timm.data import FastCollateMixup, create_dataset, create_loader
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from torch._inductor import config as inductor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.comparison.protocol import answer, serve

ARCH = "beit_base_patch16_224"
MEAN_STD = (0.5, 0.5, 0.5)
COPY_BYTES = 256 * 1024**2
MACHINE_ROUNDS = 20
WARM_STEPS = 3


def main() -> None:
    task, options = sys.argv[1], json.loads(sys.argv[2])
    if options.get("isa") == "avx2":
        inductor.cpp.simdlen = 256  # bits; torch.compile does not follow ATEN_CPU_CAPABILITY
    TASKS[task](options)


def forward(options: dict[str, Any]) -> None:
    """Run a batch in evaluation mode."""
    device, precision = placed(options)
    model = create_network(options).eval().to(device)
    model = torch.compile(model) if options.get("compiled") else model
    image = random_images(options, device)

    def run() -> None:
        with torch.inference_mode(), precision():
            for _ in range(options.get("repeats", 1)):
                logits = model(image)
            logits.float().cpu()

    run()
    serve({**device_facts(device), **versions()}, run)


def step(options: dict[str, Any]) -> None:
    """Run a training step; the loss is copied to the host."""
    device, _ = placed(options)
    run = training_step(options)
    run()
    run()
    serve({**device_facts(device), **versions()}, run)


def rank_steps(options: dict[str, Any]) -> None:
    """Measure the median seconds of a training step of all processes that torchrun started; the first one prints it."""
    torch.distributed.init_process_group("gloo")
    run = training_step(options, DistributedDataParallel)
    seconds = [timed(run) for _ in range(options["steps"])][WARM_STEPS:]
    if torch.distributed.get_rank() == 0:
        answer({"seconds": statistics.median(seconds), **versions()})
    torch.distributed.destroy_process_group()


def training_step(options: dict[str, Any], wrap: Callable[[Any], Any] = lambda model: model) -> Callable[[], None]:
    """Return a function that takes a training step with a random batch; `wrap` makes the network that it runs."""
    device, precision = placed(options)
    model = create_network(options, drop_path_rate=0.1).train().to(device)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.05, layer_decay=0.65)
    parameters = list(model.parameters())
    model = wrap(torch.compile(model) if options.get("compiled") else model)
    image = random_images(options, device)
    target = torch.eye(1000, device=device)[torch.randint(0, 1000, (options["batch_size"],), device=device)]
    criterion = SoftTargetCrossEntropy()
    scaler = torch.amp.GradScaler(device.type, enabled=options.get("amp_level", "O0") != "O0")

    def run() -> None:
        for _ in range(options.get("repeats", 1)):
            with precision():
                loss = criterion(model(image), target)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        loss.item()

    return run


def create_network(options: dict[str, Any], **more: Any) -> Any:
    """Return BEiT-base, or a BEiT of `timm_sizes`."""
    return timm.create_model(ARCH, pretrained=False, **options.get("timm_sizes", {}), **more)


def random_images(options: dict[str, Any], device: torch.device) -> torch.Tensor:
    size = options.get("image_size", 224)
    return torch.randn(options["batch_size"], 3, size, size, device=device)


def train_pipeline(options: dict[str, Any]) -> None:
    """Run an epoch of timm's training loader with its prefetcher and Mixup in the collate function."""
    loader = train_loader(options)
    serve({"images": len(loader) * options["batch_size"]}, lambda: consume(loader))


def first_batch(options: dict[str, Any]) -> None:
    """Measure the seconds to list a folder and to get the first training batch from it."""
    begin = time.perf_counter()
    dataset = list_images(options)
    listed = time.perf_counter()
    batches = iter(train_loader(options, dataset))
    next(batches)
    seconds = {"list_seconds": listed - begin, "seconds": time.perf_counter() - begin}
    serve(seconds, lambda: None)


def list_images(options: dict[str, Any]) -> Any:
    return create_dataset("", root=options["images"], split="train", is_training=True, batch_size=options["batch_size"])


def train_loader(options: dict[str, Any], dataset: Any = None) -> Any:
    """Return timm's training loader of `dataset`, by default that of the images of the options."""
    dataset = list_images(options) if dataset is None else dataset
    batch = options["batch_size"]
    mixup = FastCollateMixup(
        mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=1000
    )
    return create_loader(
        dataset,
        input_size=(3, 224, 224),
        batch_size=batch,
        is_training=True,
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        mean=MEAN_STD,
        std=MEAN_STD,
        num_workers=2,
        collate_fn=mixup,
        persistent_workers=True,
        device=torch.device("cpu"),
    )


def eval_pipeline(options: dict[str, Any]) -> None:
    """Run a pass of timm's evaluation loader."""
    dataset = create_dataset("", root=options["images"], split="val", batch_size=options["batch_size"])
    loader = create_loader(
        dataset,
        input_size=(3, 224, 224),
        batch_size=options["batch_size"],
        is_training=False,
        interpolation="bicubic",
        mean=MEAN_STD,
        std=MEAN_STD,
        num_workers=2,
        crop_pct=0.9,
        persistent_workers=True,
        device=torch.device("cpu"),
    )
    serve({"images": len(dataset)}, lambda: consume(loader))


def machine(options: dict[str, Any]) -> None:
    """Measure the peak rates: a matrix product of the MLP's size, and a copy larger than the caches."""
    rows = options["batch_size"] * 197
    left, right = torch.randn(rows, 768), torch.randn(768, 3072)
    source = torch.randn(COPY_BYTES // 4)
    target = torch.empty_like(source)

    def product() -> torch.Tensor:
        return left @ right

    flops = 2 * rows * 768 * 3072 / min(timed(product) for _ in range(MACHINE_ROUNDS))
    moved = 2 * COPY_BYTES / min(timed(lambda: target.copy_(source)) for _ in range(MACHINE_ROUNDS))
    facts = {"flops": flops, "bytes_per_second": moved, "threads": torch.get_num_threads()}
    serve({**facts, **versions()}, product)


def placed(options: dict[str, Any]) -> tuple[torch.device, Callable[[], AbstractContextManager]]:
    """Return the device, and the autocast context that corresponds to `amp_level`."""
    device = torch.device("cuda" if options.get("device_target") == "GPU" else "cpu")
    half = options.get("amp_level", "O0") != "O0"

    @contextlib.contextmanager
    def precision() -> Iterator[None]:
        with torch.autocast(device.type, torch.float16, enabled=half):
            yield

    return device, precision


def device_facts(device: torch.device) -> dict[str, Any]:
    """Return name and peak memory of a GPU; nothing for a CPU."""
    if device.type == "cpu":
        return {}
    return {"device": torch.cuda.get_device_name(), "device_bytes": torch.cuda.max_memory_allocated()}


def consume(loader: Any) -> None:
    for _ in loader:
        pass


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def versions() -> dict[str, str]:
    return {"version": f"torch {torch.__version__}, timm {timm.__version__}"}


TASKS = {
    "forward": forward,
    "step": step,
    "rank_steps": rank_steps,
    "first_batch": first_batch,
    "train_pipeline": train_pipeline,
    "eval_pipeline": eval_pipeline,
    "machine": machine,
}

if __name__ == "__main__":
    main()
