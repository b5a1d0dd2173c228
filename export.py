"""Export a checkpoint to ONNX, MINDIR or AIR: ARCH.onnx, ARCH.mindir or ARCH.air in the current directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from src.config import parse_args
from src.errors import UserError, exit_code
from src.prediction.find_images import find_images

if TYPE_CHECKING:
    import numpy as np


def main() -> None:
    """Rebuild the network, write it, compare the file with the network, and only then let it appear."""
    config = parse_args(sys.argv[1:], "export")
    refuse_air_elsewhere(config.file_format, config.device_target)
    calibration, agreement = (folder_of_images(name) for name in (config.calibration_folder, config.agreement_folder))

    # MindSpore takes seconds to import: --help and a wrong flag do not wait
    from mindspore import Tensor

    from src.export.compare import compare
    from src.export.formats import write_model
    from src.export.onnx_export import OnnxOptions
    from src.export.publish import appears_whole
    from src.runtime.device import start_device
    from src.tools.starting_point import read_checkpoint
    from src.weights.rebuild import rebuild_network

    checkpoint, info = read_checkpoint(config)
    start_device(config.device_target, config.device_id, pynative=False)
    network = rebuild_network(info, checkpoint.weights, Path(str(config.pretrained)))

    def run(images: np.ndarray) -> np.ndarray:
        return network(Tensor(images)).asnumpy()

    target = Path(f"{info.model.arch}.{config.file_format.lower()}")
    options = OnnxOptions(config.onnx_precision, config.with_preprocess, calibration)
    with appears_whole(target) as path:
        exported = write_model(config.file_format, network, info, checkpoint.weights, path, options)
        if exported is None:
            print(f"{target} is not compared with the network: MindSpore writes AIR files and cannot load them")
        else:
            for line in compare(exported, run, options, agreement, target.name):
                print(line, flush=True)
    print(f"{config.pretrained} is exported to {target}")


def folder_of_images(name: str | None) -> Path | None:
    """`name` as a path; `UserError` where it has no images, before any work is done."""
    if name is None:
        return None
    path = Path(name)
    find_images(path, recursive=path.is_dir())
    return path


def refuse_air_elsewhere(file_format: str, device_target: str) -> None:
    """`UserError` for AIR on any other device than Ascend."""
    if file_format == "AIR" and device_target != "Ascend":
        raise UserError(
            f"file_format is AIR and device_target is {device_target}: MindSpore writes AIR on Ascend hardware only, "
            f"so export there with --device_target Ascend, or choose ONNX or MINDIR"
        )


if __name__ == "__main__":
    sys.exit(exit_code(main))
