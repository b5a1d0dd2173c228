"""Export a checkpoint to ONNX, MINDIR or AIR: ARCH.onnx, ARCH.mindir or ARCH.air in the current directory."""

from __future__ import annotations

import sys
from pathlib import Path

from src.config import parse_args
from src.errors import UserError, exit_code


def main() -> None:
    """Rebuild the network, write it, compare the file with the network, and only then let it appear."""
    config = parse_args(sys.argv[1:], "export")
    refuse_air_elsewhere(config.file_format, config.device_target)

    # MindSpore takes seconds to import: --help and a wrong flag do not wait
    from mindspore import Tensor

    from src.device import start_device
    from src.export.check import largest_difference, random_images, require_agreement
    from src.export.formats import write_model
    from src.export.publish import appears_whole
    from src.rebuild import rebuild_network
    from src.tools.get_misc import read_checkpoint

    checkpoint, info = read_checkpoint(config)
    start_device(config.device_target, config.device_id, pynative=False)
    network = rebuild_network(info, checkpoint.weights, Path(config.pretrained))
    images = random_images(info.image_size)
    expected = network(Tensor(images)).asnumpy()

    target = Path(f"{info.arch}.{config.file_format.lower()}")
    with appears_whole(target) as path:
        run = write_model(config.file_format, network, info, checkpoint.weights, path)
        if run is None:
            print(f"{target} is not compared with the network: MindSpore writes AIR files and cannot load them")
        else:
            difference = largest_difference(run, images, expected)
            require_agreement(difference, target.name)
            print(
                f"largest difference to the network's logits: {difference.absolute:.2e} "
                f"({difference.relative:.1e} of the largest logit)"
            )
    print(f"{config.pretrained} is exported to {target}")


def refuse_air_elsewhere(file_format: str, device_target: str) -> None:
    """`UserError` for AIR on any other device than Ascend."""
    if file_format == "AIR" and device_target != "Ascend":
        raise UserError(
            f"file_format is AIR and device_target is {device_target}: MindSpore writes AIR on Ascend hardware only, "
            f"so export there with --device_target Ascend, or choose ONNX or MINDIR"
        )


if __name__ == "__main__":
    sys.exit(exit_code(main))
