"""Export a checkpoint to ONNX, MINDIR or AIR: ARCH.onnx, ARCH.mindir or ARCH.air in the current directory."""

from __future__ import annotations

import sys
from pathlib import Path

from src.config import parse_args
from src.errors import UserError, exit_code


def main() -> None:
    """Rebuild the network, write it, compare the file with the network, and only then let it appear."""
    config = parse_args(sys.argv[1:], "export")
    source = existing_file(config.pretrained)
    refuse_air_elsewhere(config.file_format, config.device_target)

    # MindSpore is imported only now: a wrong option is told of at once
    from mindspore import Tensor

    from src.agreement import agreed_info
    from src.device import start_device
    from src.export.check import largest_difference, random_images, require_agreement
    from src.export.formats import write_model
    from src.export.publish import appears_whole
    from src.rebuild import rebuild_network
    from src.tools.get_misc import describe_model
    from src.weights.pretrained import load_pretrained

    checkpoint = load_pretrained(source, arch=config.arch)
    info = agreed_info(checkpoint.info, checkpoint.guessed, describe_model(config, class_names=()), source)
    start_device(config.device_target, config.device_id, pynative=False)
    network = rebuild_network(info, checkpoint.weights, source)
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
    print(f"{source} is exported to {target}")


def existing_file(pretrained: str) -> Path:
    """The checkpoint's path; `UserError` where there is no such file."""
    if not Path(pretrained).is_file():
        raise UserError(f"{pretrained} does not exist: give the checkpoint to export by --pretrained")
    return Path(pretrained)


def refuse_air_elsewhere(file_format: str, device_target: str) -> None:
    """`UserError` for AIR on any other device than Ascend."""
    if file_format == "AIR" and device_target != "Ascend":
        raise UserError(
            f"file_format is AIR and device_target is {device_target}: MindSpore writes AIR on Ascend hardware only, "
            f"so export there with --device_target Ascend, or choose ONNX or MINDIR"
        )


if __name__ == "__main__":
    sys.exit(exit_code(main))
