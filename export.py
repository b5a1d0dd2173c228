"""Export a checkpoint to ONNX, MINDIR or AIR: ARCH.onnx, ARCH.mindir or ARCH.air in the current directory."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, so that Ctrl-C during them ends in one line
    from src.runtime.signals import watch_signals

    watch_signals()

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from src.config import Config, parse_args
from src.errors import UserError
from src.prediction.find_images import find_images
from src.runtime.rank import run_script

if TYPE_CHECKING:
    import numpy as np


def main() -> None:
    """Rebuild the network, write the file, compare both, and only then publish the file."""
    config: Config = parse_args(sys.argv[1:], "export")
    require_ascend_for_air(config.file_format, config.device_target)
    calibration, agreement = (folder_of_images(name) for name in (config.calibration_folder, config.agreement_folder))

    # imported after parsing: MindSpore takes seconds, which --help and an invalid option should not
    from mindspore import Tensor

    from src.encoder import portable_layers
    from src.export.compare_logits import compare_logits
    from src.export.int8_speed import int8_speed
    from src.export.mindir_file import load_mindir, write_air, write_mindir
    from src.export.onnx_export import OnnxOptions, export_onnx
    from src.export.publish import appears_whole
    from src.prediction.loaded_network import Network
    from src.runtime.device import start_device
    from src.tools.memory_need import Need, require_memory
    from src.tools.starting_point import read_checkpoint
    from src.weights.rebuild import rebuild_network

    checkpoint, info = read_checkpoint(config)
    require_memory(Need(info.model), batch_size=1)
    start_device(config.device_target, config.device_id, pynative=False)
    network = rebuild_network(info, checkpoint.weights, Path(str(config.pretrained)), layers=portable_layers())

    def run(images: np.ndarray) -> np.ndarray:
        return network(Tensor(images)).asnumpy()

    target = Path(f"{info.model.arch}.{config.file_format.lower()}")
    options = OnnxOptions(config.onnx_precision, config.with_preprocess, calibration, config.decode)
    with appears_whole(target) as path:
        if config.file_format == "AIR":
            write_air(network, info.model.image_size, path)
            print(f"{target} is not compared with the network: MindSpore writes AIR files but cannot load them")
        else:
            if config.file_format == "ONNX":
                exported = export_onnx(info, checkpoint.weights, path, options)
            else:
                write_mindir(network, info, path)
                exported = Network(load_mindir(path), info, fixed_batch=True)
            for line in compare_logits(exported, run, options, agreement, target.name):
                print(line, flush=True)
            if options.precision == "int8":
                print(int8_speed(exported, info, checkpoint.weights, options, path.parent), flush=True)
    print(f"{config.pretrained} is exported to {target}")


def folder_of_images(name: str | None) -> Path | None:
    """Return `name` as a path; `UserError` for a folder without images."""
    if name is None:
        return None
    path = Path(name)
    find_images(path, recursive=path.is_dir())
    return path


def require_ascend_for_air(file_format: str, device_target: str) -> None:
    """Raise `UserError` for AIR on another device than Ascend."""
    if file_format == "AIR" and device_target != "Ascend":
        raise UserError(
            f"file_format is AIR, which MindSpore writes on Ascend only, but device_target is {device_target}: run "
            "there with --device_target Ascend, or choose ONNX or MINDIR"
        )


if __name__ == "__main__":
    run_script(main)
