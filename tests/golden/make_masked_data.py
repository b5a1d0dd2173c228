"""Write masked_data.npz: masks and views of the authors' pre-training for given random numbers.

    PYTHON tests/golden/make_masked_data.py --unilm DIR

PYTHON and DIR as for make_network.py; `attrs` is needed too. Masks of `MASK_CASES` by seed, as packed bits: `<case>/v1`
and `<case>/v2`. Of 10,000 masks of both versions: `count/<version>`, how many masks have how many patches, and
`position/<version>`, how often each patch is masked. Views of `VIEWS`: `view<number>/<kind>`, float32, for the network
(both normalizations) and the three tokenizers.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import reference_shim  # noqa: F401 (must come before torchvision)
import torch
from data_inputs import example_image
from masked_data_inputs import MASK_CASES, SAMPLED, SAMPLES, SEEDS, SIDE, TOKEN_SIDE, VIEWS, View

np.int = int  # an alias that NumPy has removed
sys.modules["requests"] = types.ModuleType("requests")  # imported for downloads


def load(folder: Path, name: str) -> types.ModuleType:
    """A module of the authors under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def masks(generators: dict[str, type]) -> dict[str, np.ndarray]:
    arrays = {}
    for case, (grid, count, least, most) in MASK_CASES.items():
        for version, generator in generators.items():
            draw = generator(grid, count, min_num_patches=least, max_num_patches=most)
            found = []
            for seed in SEEDS:
                random.seed(seed)
                np.random.seed(seed)
                found.append(np.packbits(draw().astype(bool).ravel()))
            arrays[f"{case}/{version}"] = np.stack(found)
    return arrays


def statistics(generators: dict[str, type]) -> dict[str, np.ndarray]:
    grid, count, least, most = MASK_CASES[SAMPLED]
    arrays = {}
    for version, generator in generators.items():
        random.seed(0)
        np.random.seed(0)
        draw = generator(grid, count, min_num_patches=least, max_num_patches=most)
        found = np.stack([draw().ravel() for _ in range(SAMPLES)])
        arrays[f"count/{version}"] = np.bincount(found.sum(1), minlength=grid**2 + 1)
        arrays[f"position/{version}"] = found.sum(0)
    return arrays


def view(datasets: types.ModuleType, case: View, **options: object) -> tuple[np.ndarray, np.ndarray]:
    """Both views of an image, with the random numbers of `case`."""
    arguments = types.SimpleNamespace(
        input_size=SIDE,
        second_input_size=TOKEN_SIDE,
        train_interpolation=case.interpolation,
        second_interpolation=case.second_interpolation,
        window_size=(14, 14),
        num_mask_patches=75,
        max_mask_patches_per_block=None,
        min_mask_patches_per_block=16,
        min_crop_scale=0.2,
        **options,
    )
    transform = datasets.DataAugmentationForBEiT(arguments)
    left, upper, right, lower = case.box
    crop = (upper, left, lower - upper, right - left)
    jitter = (torch.tensor([*case.order, 3]), *case.factors, None)
    with (
        mock.patch.object(transform.common_transform.transforms[0], "get_params", return_value=jitter),
        mock.patch.object(transform.common_transform.transforms[2], "get_params", return_value=crop),
        mock.patch("torch.rand", return_value=torch.tensor([0.0 if case.flipped else 0.9])),
    ):
        patches, tokens, _ = transform(example_image(*case.size, case.seed))
    return patches.numpy(), tokens.numpy()


def views(modules: dict[str, types.ModuleType]) -> dict[str, np.ndarray]:
    arrays = {}
    for number, case in enumerate(VIEWS):
        for kind, version, options in (
            ("dall-e", "beit", {"imagenet_default_mean_and_std": False, "discrete_vae_type": "dall-e"}),
            ("customized", "beit", {"imagenet_default_mean_and_std": True, "discrete_vae_type": "customized"}),
            ("vqkd", "beit2", {"imagenet_default_mean_and_std": True}),
        ):
            patches, tokens = view(modules[version], case, **options)
            arrays[f"view{number}/{kind}"] = tokens
            imagenet = options["imagenet_default_mean_and_std"]
            arrays[f"view{number}/patches_{'imagenet' if imagenet else 'half'}"] = patches
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unilm", type=Path, required=True, help="a checkout of microsoft/unilm")
    args = parser.parse_args()
    generators, modules = {}, {}
    for version, folder in (("v1", "beit"), ("v2", "beit2")):
        path = args.unilm / folder
        for name in ("masking_generator", "transforms", "dataset_folder"):
            sys.modules[name] = load(path, name)
        sys.path.insert(0, str(args.unilm / "beit"))  # dall_e
        generators[version] = sys.modules["masking_generator"].MaskingGenerator
        modules[folder] = load(path, "datasets")
    arrays = masks(generators) | statistics(generators) | views(modules)
    path = Path(__file__).with_name("masked_data.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {np.nonzero(arrays['count/v1'])[0]}")


if __name__ == "__main__":
    main()
