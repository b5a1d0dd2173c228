"""A checkpoint and exported files of an early version, which every later version must read.

Run in the root of that version (commit 41b9906, the last one before `src/model/`), with its environment:

    python THIS_FILE OUTPUT_FOLDER

`tests/golden/old/` holds its output: a tiny network as `.ckpt`, `.safetensors`, ONNX and MINDIR, and in `expected.npz`
the images, the logits and the averaged weights' logits. `tests/test_old_files.py` reads them.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path.cwd()))

from mindspore import Tensor
from src.checkpoint import Checkpoint, save_checkpoint
from src.export.mindspore_file import write_mindir
from src.model_info import ModelInfo
from src.rebuild import rebuild_network
from src.variants import VARIANTS, Variant

from src.export.onnx_export import OnnxOptions, export_onnx
from src.tools.resume import training_state
from src.trainer.loop import RunState
from src.vit import create_model

ARCH = "beit_fixture"  # not a published architecture: the files stay below 60 kB
VARIANTS[ARCH] = Variant(16, 4, 8, 1, 2)
INFO = ModelInfo(
    arch=ARCH,
    image_size=16,
    num_classes=3,
    class_names=("tench", "goldfish", "größer"),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    crop_pct=0.875,
    interpolation="bilinear",
    approximate_gelu=True,
)


def random_like(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return a float32 array that follows from name and seed, with the spread that trained weights have."""
    values = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    if len(shape) > 1 and "table" not in name:
        values /= np.prod(shape[1:]) ** 0.5
    elif "gamma" in name or ("norm" in name and name.endswith("weight")):
        values = 1 + 0.2 * np.tanh(values)
    return values.astype(np.float32)


def main(folder: Path) -> None:
    """Write all files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = create_model(ARCH, image_size=16, num_classes=3).get_parameters()
    shapes = {parameter.name: tuple(parameter.shape) for parameter in parameters}
    weights, ema, m, v = ({name: random_like(name, shape, seed) for name, shape in shapes.items()} for seed in range(4))
    optimizer = {"iteration": np.int32(13)}
    optimizer |= {f"m.{name}": array for name, array in m.items()}
    optimizer |= {f"v.{name}": array**2 for name, array in v.items()}
    state = RunState(9, 5, 8, np.zeros(45), epoch=2, step=3)
    training = training_state(state, {"base_lr": 0.1, "seed": 7})
    for suffix in (".ckpt", ".safetensors"):
        save_checkpoint(folder / f"checkpoint{suffix}", Checkpoint(weights, INFO, ema, optimizer, training))
    images = np.random.default_rng(5).standard_normal((2, 3, 16, 16), dtype=np.float32)
    logits = {}
    for name, values in (("logits", weights), ("ema_logits", ema)):
        network = rebuild_network(INFO, values, folder)
        logits[name] = network(Tensor(images)).asnumpy()
    export_onnx(INFO, weights, folder / "model.onnx", OnnxOptions())
    write_mindir(rebuild_network(INFO, weights, folder), INFO, folder / "model.mindir")
    (folder / "model.mindir").chmod(0o644)
    np.savez_compressed(folder / "expected.npz", images=images, **logits)
    for path in sorted(folder.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
