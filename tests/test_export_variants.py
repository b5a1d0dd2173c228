"""ONNX files of every variant, at full width and reduced depth: the logits of the libraries and of the network."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import onnxruntime
import pytest
from mindspore import Tensor

from src.export.onnx_export import write_onnx
from src.model.variants import VARIANTS, get_variant
from src.vit import VisionTransformer
from tests.golden.network_recipe import weight
from tests.golden.variants_recipe import VARIANT_CASES, image
from tests.networks import model_info, small_network
from tests.onnx_graphs import graph_of

GOLDEN = np.load(Path(__file__).parent / "golden" / "variants.npz")
TOLERANCE = 1e-5  # of the largest logit: float32 sums in another order
BATCHES = (1, 3, 17)
LARGEST_TOKENS = 17 * (24 * 24 + 1)  # the attention of 17 images of 512 pixels would need 6 GB


@pytest.fixture(autouse=True)
def pynative():
    """Each case has another network, whose compilation would take longer than its run."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def network_of(sizes: dict[str, int]) -> VisionTransformer:
    network = small_network(**sizes).set_train(False)
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weight(name, parameter.shape)))
    return network


def session_of(network: VisionTransformer, sizes: dict[str, int], path: Path) -> onnxruntime.InferenceSession:
    weights = {name: parameter.asnumpy() for name, parameter in network.parameters_and_names()}
    graph = graph_of(sizes, weights)
    # the file stores the arch, and nothing here depends on it
    write_onnx(graph, model_info("beit_base_patch16_224", sizes["image_size"], sizes["num_classes"]), path)
    return onnxruntime.InferenceSession(path)


def assert_equal_logits(logits: np.ndarray, expected: np.ndarray) -> None:
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("case", VARIANT_CASES)
def test_a_published_variant_gives_the_logits_of_all_three_libraries(case, tmp_path):
    sizes = VARIANT_CASES[case]
    session = session_of(network_of(sizes), sizes, tmp_path / "beit.onnx")
    (logits,) = session.run(["logits"], {"image": image(case)})
    for library in ("unilm", "timm", "transformers"):
        assert_equal_logits(logits, GOLDEN[f"{case}/{library}"])


@pytest.mark.parametrize("arch", VARIANTS)
def test_every_variant_gives_the_logits_of_the_network_for_any_batch(arch, tmp_path):
    """One block of each variant; batches of 17, except at 512 pixels, repeat the three images of the network."""
    variant = get_variant(arch)
    sizes = {
        **{name: getattr(variant, name) for name in ("image_size", "patch_size", "embed_dim", "num_heads")},
        "depth": 1,
        "num_classes": 10,
    }
    network = network_of(sizes)
    session = session_of(network, sizes, tmp_path / "beit.onnx")
    shape = (3, 3, variant.image_size, variant.image_size)
    images = np.random.default_rng(17).standard_normal(shape, dtype=np.float32)
    expected = network(Tensor(images)).asnumpy()
    tokens = network.patch_embed.num_patches + 1
    for count in (count for count in BATCHES if count * tokens <= LARGEST_TOKENS):
        rows = np.arange(count) % len(images)
        (logits,) = session.run(["logits"], {"image": images[rows]})
        assert_equal_logits(logits, expected[rows])
