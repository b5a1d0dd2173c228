"""The golden weight files of `tests/golden/make_weights.py`, and networks of their sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.weights import pretrained
from src.weights.sizes import Sizes, measure

FOLDER = Path(__file__).parent / "golden" / "weights"
GOLDEN = np.load(Path(__file__).parent / "golden" / "weights.npz")

# a variant's name for networks that no variant has the sizes of
ANY_ARCH = "beit_micro_patch4_32"


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict of the network that wrote the golden file `name`."""
    return {key: tuple(shape) for key, shape in json.loads(str(GOLDEN[f"shapes/{name}"])).items()}


def load(monkeypatch, name: str | Path, **options):
    """`load_pretrained` of a golden file, whose depth and width no variant has."""
    monkeypatch.setattr(pretrained, "find_arch", lambda sizes, arch, path: ANY_ARCH)
    return pretrained.load_pretrained(FOLDER / name, **options)


def make_network(sizes: Sizes, *, num_classes: int, grid: int, fine_tuning: bool = False):
    """A network of these sizes; for fine-tuning with the options that the authors fine-tune with."""
    from tests.networks import small_network

    return small_network(
        image_size=grid * sizes.patch_size,
        patch_size=sizes.patch_size,
        embed_dim=sizes.embed_dim,
        depth=sizes.depth,
        num_heads=sizes.num_heads or 2,
        num_classes=num_classes,
        layer_scale_init_value=0.1 if sizes.layer_scale else 0.0,
        rel_pos_bias=not sizes.abs_pos_emb if fine_tuning else sizes.rel_pos_bias,
        shared_rel_pos_bias=sizes.shared_rel_pos_bias and not fine_tuning,
        abs_pos_emb=sizes.abs_pos_emb,
        mean_pooling=sizes.mean_pooling or fine_tuning,
    ).set_train(False)


def random_weights(
    seed: int = 0,
    *,
    patch_size: int = 4,
    embed_dim: int = 96,
    depth: int = 4,
    num_heads: int = 3,
    grid: int = 8,
    num_classes: int = 10,
    **flags: bool,
) -> dict[str, np.ndarray]:
    """Weights of a network, of the variant `beit_micro_patch4_32` unless told otherwise."""
    from src.weights.sizes import network_shapes

    options = {
        "rel_pos_bias": True,
        "shared_rel_pos_bias": False,
        "abs_pos_emb": False,
        "layer_scale": True,
        "mean_pooling": True,
    }
    sizes = Sizes(patch_size, embed_dim, depth, 4 * embed_dim, num_heads, grid, num_classes, **(options | flags))
    generator = np.random.default_rng(seed)
    return {
        name: (generator.standard_normal(shape) / max(shape) ** 0.5).astype(np.float32)
        for name, shape in network_shapes(sizes).items()
    }


def small_weights(**changes) -> dict[str, np.ndarray]:
    """A few thousand numbers: depth 2, width 8, 3 x 3 patches of 2 pixels."""
    sizes = {"patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2, "grid": 3, "num_classes": 3}
    return random_weights(**(sizes | changes))


def assert_same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """The same names, types, shapes and bits."""
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


def one_line(error: Exception) -> None:
    """What a user reads must be one line."""
    assert "\n" not in str(error)


def measured(weights: Mapping[str, np.ndarray]) -> Sizes:
    return measure(weights, Path("weights"))
