"""The golden weight files of `tests/golden/make_weights.py`, and networks of their sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.errors import UserError
from src.model.model_config import ModelConfig
from src.weights import pretrained
from src.weights.sizes import Sizes, measure, network_shapes

FOLDER = Path(__file__).parent / "golden" / "weights"
GOLDEN = np.load(Path(__file__).parent / "golden" / "weights.npz")

ANY_ARCH = "beit_micro_patch4_32"  # the name given to networks whose sizes are no variant's


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the state dict of the network that wrote the golden file `name`."""
    return {key: tuple(shape) for key, shape in json.loads(str(GOLDEN[f"shapes/{name}"])).items()}


def load(monkeypatch, name: str | Path, **options):
    """Call `load_pretrained` for a golden file, whose depth and width no variant has."""
    monkeypatch.setattr(pretrained, "find_model", lambda sizes, arch, path: replace(sizes.model, arch=ANY_ARCH))
    return pretrained.load_pretrained(FOLDER / name, **options)


def make_network(sizes: Sizes, *, num_classes: int, grid: int, fine_tuning: bool = False):
    """Build a network of these sizes; with `fine_tuning`, with the authors' options for fine-tuning."""
    from tests.networks import small_network

    model = sizes.model
    return small_network(
        image_size=grid * sizes.patch_size,
        patch_size=sizes.patch_size,
        embed_dim=sizes.embed_dim,
        depth=sizes.depth,
        num_heads=sizes.num_heads or 2,
        num_classes=num_classes,
        layer_scale_init_value=0.1 if model.layer_scale else 0.0,
        rel_pos_bias=not model.abs_pos_emb if fine_tuning else model.rel_pos_bias,
        shared_rel_pos_bias=model.shared_rel_pos_bias and not fine_tuning,
        abs_pos_emb=model.abs_pos_emb,
        mean_pooling=model.mean_pooling or fine_tuning,
    ).set_train(False)


def get_weights(network) -> dict[str, np.ndarray]:
    """Return a copy of every parameter of `network` by name."""
    return {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}


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
    """Return weights of a network, by default of the variant `beit_micro_patch4_32`."""
    model = ModelConfig("", grid * patch_size, num_classes, **flags)
    sizes = Sizes(patch_size, embed_dim, depth, 4 * embed_dim, num_heads, grid, model)
    generator = np.random.default_rng(seed)
    return {
        name: (generator.standard_normal(shape) / max(shape) ** 0.5).astype(np.float32)
        for name, shape in network_shapes(sizes).items()
    }


def small_weights(**changes) -> dict[str, np.ndarray]:
    """Return a few thousand weights: depth 2, width 8, 3 x 3 patches of 2 pixels."""
    sizes = {"patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2, "grid": 3, "num_classes": 3}
    return random_weights(**(sizes | changes))


def assert_same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Assert equal names, types, shapes and bits."""
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


def one_line(error: Exception) -> str:
    """Return the text of an error, which must be one line."""
    assert "\n" not in str(error)
    return str(error)


@contextmanager
def refuses(*words: object) -> Iterator[None]:
    """Expect a `UserError` of one line with all `words`: the offending name, the value and the fix."""
    with pytest.raises(UserError) as raised:
        yield
    text = one_line(raised.value)
    for word in map(str, words):
        assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)" if word.isalnum() else re.escape(word), text), (word, text)


def measured(weights: Mapping[str, np.ndarray]) -> Sizes:
    return measure(weights, Path("weights"))
