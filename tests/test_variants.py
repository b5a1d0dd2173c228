"""The published variants at their own widths: logits of the authors' code, timm and transformers."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.model.variants import get_variant
from tests.golden.network_recipe import weight
from tests.golden.variants_recipe import VARIANT_CASES, image
from tests.networks import small_network

GOLDEN = np.load(Path(__file__).parent / "golden" / "variants.npz")


@pytest.fixture(autouse=True)
def pynative():
    """Each case is another network: compiling it would take longer than running it."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize("case", VARIANT_CASES)
def test_a_variants_logits_are_those_of_all_three_libraries(case):
    network = small_network(**VARIANT_CASES[case]).set_train(False)
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weight(name, parameter.shape)))
    logits = network(Tensor(image(case))).asnumpy()
    for library in ("unilm", "timm", "transformers"):
        expected = GOLDEN[f"{case}/{library}"]
        # 1e-5 of the largest logit, float32; readings are about 1e-6
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max(), library


@pytest.mark.parametrize(
    ("case", "arch"),
    [
        ("base_224", "beit_base_patch16_224"),
        ("base_384", "beit_base_patch16_384"),
        ("large_224", "beit_large_patch16_224"),
        ("large_384", "beit_large_patch16_384"),
    ],
)
def test_the_variants_rows_have_these_sizes(case, arch):
    variant = get_variant(arch)
    for name in ("image_size", "patch_size", "embed_dim", "num_heads"):
        assert getattr(variant, name) == VARIANT_CASES[case][name], name
    assert variant.mlp_ratio == 4
    assert variant.depth == (24 if "large" in case else 12)
