"""Pack images into MindRecord shards: `python -m src.data.pack --config_path FILE --output FOLDER [--shorter_side N]`.

Packs train_dir and val_dir, or, with --unlabeled, all images below train_dir. Training and evaluation then read FOLDER
with `--dataset MindRecord --data_url FOLDER`. FOLDER appears when it is complete: until then the shards are in
FOLDER.partial, and the same command continues an interrupted run there.
"""

import sys
from pathlib import Path

from src.config import PackConfig, parse_args
from src.data.assembly import read_data
from src.data.image_folder import ImageFolder, read_image_tree
from src.errors import exit_code


def main() -> None:
    """Write the shards and print what they hold."""
    config: PackConfig = parse_args(sys.argv[1:], "pack")
    output = Path(str(config.output))

    # imported late, so that invalid options are reported at once: MindSpore takes seconds
    from src.data.pack_folder import Packing, appears_complete, pack_folder

    with appears_complete(output) as partial:
        for name, images in folders_to_pack(config).items():
            packed = pack_folder(images, partial / name, Packing(config.shorter_side, config.num_parallel_workers))
            print(f"{images.root}: {packed}")
    print(f"{output} is complete: train and evaluate with --dataset MindRecord --data_url {output}")


def folders_to_pack(config: PackConfig) -> dict[str, ImageFolder]:
    """Return the images by the name of the packed folder inside the output."""
    if config.unlabeled:
        return {config.train_dir: read_image_tree(Path(config.data_url) / config.train_dir)}
    train, validation = read_data(config)
    return {config.train_dir: train, config.val_dir: validation}


if __name__ == "__main__":
    sys.exit(exit_code(main))
