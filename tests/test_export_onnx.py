"""The ONNX graph that is written from a BEiT's weights: its numbers, its nodes, and what the file says of itself."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
from mindspore import Tensor

from src.errors import UserError
from src.export.check import TOLERANCE as EXPORT_TOLERANCE
from src.export.metadata import from_metadata, to_metadata
from src.export.onnx_file import write_onnx
from src.export.onnx_graph import beit_graph
from src.model_info import ModelInfo
from src.prediction.onnx_network import load_onnx
from src.vit import VisionTransformer

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
from network_recipe import CASES, batch, weight  # noqa: E402

# Float32 sums in another order; the reference table of the project allows this much against other implementations.
TOLERANCE = 1e-5
INFO = ModelInfo("beit_micro_patch8_32", 32, 10, class_names=("zero", "eins", "zwei, drei", '"四"') + ("x",) * 6)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "network.npz")


@pytest.fixture
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def network_of(case: str) -> VisionTransformer:
    network = VisionTransformer(**CASES[case])
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weight(name, parameter.shape)))
    return network.set_train(False)


def weights_of(network: VisionTransformer) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in network.parameters_and_names()}


def graph_of(case: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    options = CASES[case]
    return beit_graph(
        weights,
        image_size=options["image_size"],
        num_heads=options["num_heads"],
        approximate_gelu=options.get("approximate_gelu", False),
    )


def written(case: str, path: Path, info: ModelInfo = INFO, **limits: int) -> onnxruntime.InferenceSession:
    write_onnx(graph_of(case, weights_of(network_of(case))), info, path, **limits)
    return onnxruntime.InferenceSession(path)


def assert_equal_logits(logits: np.ndarray, expected: np.ndarray) -> None:
    assert logits.dtype == np.float32
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("case", CASES)
def test_onnx_logits_are_those_of_the_authors_and_of_timm(case, golden, tmp_path):
    session = written(case, tmp_path / "beit.onnx")
    images, _ = batch(case)
    (logits,) = session.run(["logits"], {"image": images})
    assert_equal_logits(logits, golden[f"{case}/logits"])
    assert_equal_logits(logits, golden[f"{case}/timm_logits"])


@pytest.mark.parametrize("case", ["base", "tanh_gelu", "shared_and_own_bias", "abs_pos_emb", "class_token"])
def test_onnx_logits_are_the_networks_at_any_batch(case, tmp_path, graph_mode):
    network = network_of(case)
    size = CASES[case]["image_size"]
    images = np.random.default_rng(17).standard_normal((17, 3, size, size), dtype=np.float32)
    expected = network(Tensor(images)).asnumpy()
    write_onnx(graph_of(case, weights_of(network)), INFO, tmp_path / "beit.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "beit.onnx")
    for count in (1, 3, 17):
        (logits,) = session.run(["logits"], {"image": images[:count]})
        assert_equal_logits(logits, expected[:count])


def test_the_wrong_gelu_kind_would_be_seen(tmp_path):
    """The kinds differ by little: below the tolerances, the tests above and the check of an export would miss it."""
    weights = weights_of(network_of("tanh_gelu"))
    logits = {}
    for approximate in (False, True):
        path = tmp_path / f"{approximate}.onnx"
        write_onnx(beit_graph(weights, image_size=16, num_heads=2, approximate_gelu=approximate), INFO, path)
        logits[approximate] = load_onnx(path, "CPU", 0).run(batch("tanh_gelu")[0])
    difference = np.abs(logits[True] - logits[False]).max() / np.abs(logits[True]).max()
    assert difference > 2 * max(TOLERANCE, EXPORT_TOLERANCE)


def test_graph_is_modern_and_folded(tmp_path):
    session = written("base", tmp_path / "beit.onnx")
    model = onnx.load(tmp_path / "beit.onnx")
    onnx.checker.check_model(tmp_path / "beit.onnx", full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    nodes = Counter(node.op_type for node in model.graph.node)
    depth = CASES["base"]["depth"]
    assert nodes["LayerNormalization"] == 2 * depth + 1
    assert nodes["Gelu"] == depth
    assert nodes["Softmax"] == depth
    # nothing is looked up, sliced apart or asked for its shape at run time, and no scale is multiplied separately
    assert not {"Gather", "GatherND", "Shape", "Expand", "Concat", "Split", "Mul", "Constant", "Conv"} & set(nodes)
    tokens = 4 * 4 + 1
    biases = [t for t in model.graph.initializer if t.name.endswith("relative_position_bias")]
    assert [tuple(bias.dims) for bias in biases] == [(1, 4, tokens, tokens)] * depth
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape, image.type) == ("image", ["batch", 3, 32, 32], "tensor(float)")
    assert (logits.name, logits.shape, logits.type) == ("logits", ["batch", 10], "tensor(float)")


def test_shared_bias_is_stored_once():
    model = graph_of("shared_bias", weights_of(network_of("shared_bias")))
    (bias,) = (t for t in model.graph.initializer if t.name.endswith("relative_position_bias"))
    users = [node for node in model.graph.node if bias.name in node.input]
    assert len(users) == CASES["shared_bias"]["depth"]


def test_gelu_kind_stands_in_the_graph():
    weights = weights_of(network_of("base"))
    for approximate, word in ((False, b"none"), (True, b"tanh")):
        model = beit_graph(weights, image_size=32, num_heads=4, approximate_gelu=approximate)
        kinds = {a.s for node in model.graph.node if node.op_type == "Gelu" for a in node.attribute}
        assert kinds == {word}


def test_metadata_say_all_that_a_caller_needs(tmp_path):
    info = ModelInfo(**{**vars(INFO), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop_pct": 0.875})
    pairs = written("base", tmp_path / "beit.onnx", info).get_modelmeta().custom_metadata_map
    assert pairs["version"] == "1"
    assert pairs["arch"] == "beit_micro_patch8_32"
    assert pairs["image_size"] == "32"
    assert pairs["num_classes"] == "10"
    assert pairs["class_names"].startswith('["zero", "eins", "zwei, drei", ')
    assert pairs["mean"] == "[0.485, 0.456, 0.406]"
    assert pairs["std"] == "[0.229, 0.224, 0.225]"
    assert pairs["crop_pct"] == "0.875"
    assert pairs["interpolation"] == "bicubic"
    assert load_onnx(tmp_path / "beit.onnx", "CPU", 0).info == info


def test_metadata_of_another_program_are_refused_by_what_is_missing():
    with pytest.raises(UserError, match=r"x\.onnx was not exported by this project: its metadata lack version, arch,"):
        from_metadata({"author": "torch"}, "x.onnx")
    pairs = to_metadata(INFO)
    del pairs["crop_pct"]
    with pytest.raises(UserError, match=r"its metadata lack crop_pct; export the checkpoint with export\.py"):
        from_metadata(pairs, "x.onnx")


def test_metadata_of_another_version_or_damaged_are_refused():
    with pytest.raises(UserError, match="metadata of version 2, this project reads version 1"):
        from_metadata({**to_metadata(INFO), "version": "2"}, "x.onnx")
    with pytest.raises(UserError, match=r"damaged metadata: mean is '0\.5, 0\.5'"):
        from_metadata({**to_metadata(INFO), "mean": "0.5, 0.5"}, "x.onnx")


def test_constants_of_a_large_model_lie_beside_it(tmp_path, golden):
    """The limit is lowered from 2 GB to 1000 bytes; the files are then moved together, as a user would."""
    (tmp_path / "first").mkdir()
    written("base", tmp_path / "first" / "beit.onnx", largest_inline_bytes=1000)
    assert (tmp_path / "first" / "beit.onnx.data").stat().st_size > (tmp_path / "first" / "beit.onnx").stat().st_size
    (tmp_path / "first").rename(tmp_path / "second")
    network = load_onnx(tmp_path / "second" / "beit.onnx", "CPU", 0)
    assert_equal_logits(network.run(batch("base")[0]), golden["base/logits"])
    assert network.info == INFO
    (tmp_path / "second" / "beit.onnx.data").unlink()
    with pytest.raises(UserError, match=r"beit\.onnx cannot be loaded as an ONNX file .*: export the checkpoint again"):
        load_onnx(tmp_path / "second" / "beit.onnx", "CPU", 0)


def test_small_model_is_one_file(tmp_path):
    written("base", tmp_path / "beit.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["beit.onnx"]
