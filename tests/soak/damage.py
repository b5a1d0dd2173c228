"""Damaged checkpoints, none of which may be loaded: `python -m tests.soak.damage --files 500`.

Half of them are .ckpt files, half .safetensors; a third is truncated, a third has some bytes changed, a third a block
of bytes. Each is read as by `--resume FILE`, by `--resume auto` beside a good older file, and by `--pretrained`, in
this process, through the functions that the scripts call. Damage is harmless if all arrays and texts are the same bit
for bit.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from src.errors import UserError
from src.tools.cell import restore
from src.tools.resume import ResumePoint, given_checkpoint, newest_checkpoint, training_state
from src.tools.starting_point import load_weights
from src.trainer.loop import RunState
from src.vit import VisionTransformer
from src.weights.checkpoint import Checkpoint, save_checkpoint
from tests.networks import model_info, variant_network

ARCH = "beit_micro_patch8_32"


def main() -> int:
    """Damage and read files, print the counts; return 1 if a damaged file was loaded or an error was not one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    logging.getLogger("beit").setLevel(logging.CRITICAL)
    rng = random.Random(words.seed)
    counts: Counter[str] = Counter()
    network = variant_network(ARCH, num_classes=3, seed=1)
    untouched = values(network)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        good = whole_checkpoint()
        older = folder / f"{ARCH}-1_5.ckpt"
        save_checkpoint(older, good)
        for number in range(words.files):
            path = folder / f"{ARCH}-2_1{'.ckpt' if number % 2 else '.safetensors'}"
            save_checkpoint(path, good)
            content = path.read_bytes()
            kind, damaged = damage(content, number // 2 % 3, rng)
            path.write_bytes(damaged)
            outcomes = {
                "--resume FILE": resume_file(path, network, good),
                "--resume auto": resume_auto(path, older, folder / "auto"),
                "--pretrained": pretrained(path, network, good),
            }
            for how, outcome in outcomes.items():
                counts[f"{kind}, {how}: {outcome}"] += 1
            if not same(values(network), untouched):
                counts["LOADED IN PART"] += 1
                network = variant_network(ARCH, num_classes=3, seed=1)
            path.unlink()
    print(f"{words.files} damaged checkpoints")
    for line, count in sorted(counts.items()):
        print(f"  {count:4} {line}")
    return int(any(bad in line for line in counts for bad in ("LOADED", "CRASHED", "REFUSED")))


def whole_checkpoint() -> Checkpoint:
    """Return a checkpoint in the middle of a run, with every kind of content."""
    weights = values(variant_network(ARCH, num_classes=3, seed=0))
    state = RunState(9, 5, 8, np.zeros(45), epoch=1, step=1)
    return Checkpoint(
        weights=weights,
        info=model_info(ARCH, 32, 3, class_names=("a", "b", "c")),
        ema={name: array / 2 for name, array in weights.items()},
        optimizer={"iteration": np.int32(6), **{f"m.{name}": array * 3 for name, array in weights.items()}},
        training=training_state(state, {"base_lr": 0.1, "seed": 0}),
    )


def damage(content: bytes, kind: int, rng: random.Random) -> tuple[str, bytes]:
    """Return the name of a damage, and `content` with it: half of the time at the start, where the names are."""
    if kind == 0:
        return "truncated", content[: rng.randrange(len(content))]
    changed = bytearray(content)
    end = len(content) if rng.random() < 0.5 else min(len(content), 5000)
    if kind == 1:
        for _ in range(rng.choice((1, 1, 2, 10, 100))):
            changed[rng.randrange(end)] ^= rng.randrange(1, 256)
        if bytes(changed) == content:
            changed[rng.randrange(end)] ^= 1
        return "bytes changed", bytes(changed)
    begin = rng.randrange(end)
    size = rng.choice((16, 512, 4096))
    block = changed[begin : begin + size]
    changed[begin : begin + size] = bytes(len(block)) if any(block) else b"\xff" * len(block)
    return "a block lost", bytes(changed)


def resume_file(path: Path, network: VisionTransformer, good: Checkpoint) -> str:
    """Return the outcome of `--resume FILE`, including the loading of the weights."""

    def resume() -> Checkpoint | None:
        point = given_checkpoint(path, ARCH)
        if equal(point, good):
            return good
        restore({p.name: p for p in network.get_parameters()}, point.checkpoint.weights, path)
        return point.checkpoint

    return outcome(resume, good)


def resume_auto(path: Path, older: Path, folder: Path) -> str:
    """Return the outcome of `--resume auto` with the file as the newest of a run whose older one is good."""
    if path.suffix != ".ckpt":
        return "not a file of a run"
    folder.mkdir()
    try:
        for each in (path, older):
            shutil.copy(each, folder)
        point = newest_checkpoint(folder, ARCH)
        if point.path.name == older.name:
            return "skipped"
        return "harmless" if equal(point, whole_checkpoint()) else "LOADED A DAMAGED FILE"
    except UserError as error:
        return f"REFUSED WITH THE GOOD ONE: {error}"
    except Exception as error:
        return f"CRASHED: {error!r}"
    finally:
        shutil.rmtree(folder)


def pretrained(path: Path, network: VisionTransformer, good: Checkpoint) -> str:
    """Return the outcome of `--pretrained`."""

    def start() -> Checkpoint:
        before = values(network)
        loaded = load_weights(network, path, approximate_gelu=True)
        if same(values(network), good.weights):
            for parameter in network.get_parameters():  # restored for the next file
                parameter.set_data(type(parameter.data)(before[parameter.name]))
            return good
        return loaded

    return outcome(start, good)


def outcome(load: object, good: Checkpoint) -> str:
    """Return the outcome of `load`, which returns `good` itself if its content was the same."""
    try:
        return "harmless" if load() is good else "LOADED A DAMAGED FILE"
    except UserError as error:
        return "refused" if "\n" not in str(error) else "REFUSED IN SEVERAL LINES"
    except Exception as error:
        return f"CRASHED: {error!r}"


def equal(point: ResumePoint, good: Checkpoint) -> bool:
    """Return whether the file has exactly the content from before the damage."""
    found = point.checkpoint
    return (
        (found.info, found.training) == (good.info, good.training)
        and same(found.weights, good.weights)
        and same(found.ema, good.ema)
        and same(found.optimizer, good.optimizer)
    )


def same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    """Return whether two sets of arrays are equal bit for bit."""
    return set(ours) == set(theirs) and all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def values(network: VisionTransformer) -> dict[str, np.ndarray]:
    """Return a copy of the weights of the network."""
    return {p.name: p.asnumpy().copy() for p in network.get_parameters()}


if __name__ == "__main__":
    sys.exit(main())
