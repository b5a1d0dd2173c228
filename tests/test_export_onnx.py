"""The ONNX graph of a BEiT: its logits, its nodes and its metadata."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
from mindspore import Tensor
from onnx import TensorProto
from PIL import Image

from src.data.transforms import normalize
from src.export import graph_writer
from src.export.compare_logits import TOLERANCES
from src.export.metadata import from_metadata, to_metadata
from src.export.onnx_export import write_onnx
from src.export.onnx_graph import PixelInput
from src.model.model_info import ModelInfo
from src.prediction.onnx_network import load_onnx
from src.vit import VisionTransformer
from tests.golden.network_recipe import CASES, batch, weight
from tests.networks import model_info, small_network
from tests.onnx_graphs import graph_of
from tests.weights_golden import refuses

GOLDEN = Path(__file__).parent / "golden"

# Of the largest logit: float32 sums in another order.
TOLERANCE = 1e-5
INFO = model_info("test_beit_patch8_32", 32, 10, class_names=("zero", "eins", "zwei, drei", '"四"') + ("x",) * 6)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "network.npz")


@pytest.fixture
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def network_of(case: str) -> VisionTransformer:
    network = small_network(**CASES[case])
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weight(name, parameter.shape)))
    return network.set_train(False)


def weights_of(network: VisionTransformer) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in network.parameters_and_names()}


def written(case: str, path: Path, info: ModelInfo = INFO, **limits: int) -> onnxruntime.InferenceSession:
    write_onnx(graph_of(CASES[case], weights_of(network_of(case))), info, path, **limits)
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
def test_onnx_logits_are_those_of_the_network_for_any_batch(case, tmp_path, graph_mode):
    network = network_of(case)
    size = CASES[case]["image_size"]
    images = np.random.default_rng(17).standard_normal((17, 3, size, size), dtype=np.float32)
    expected = network(Tensor(images)).asnumpy()
    write_onnx(graph_of(CASES[case], weights_of(network)), INFO, tmp_path / "beit.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "beit.onnx")
    for count in (1, 3, 17):
        (logits,) = session.run(["logits"], {"image": images[:count]})
        assert_equal_logits(logits, expected[:count])


def test_the_wrong_gelu_would_exceed_the_tolerances(tmp_path):
    """The two kinds differ little; within the tolerances, the tests above and the check of an export would miss it."""
    weights = weights_of(network_of("tanh_gelu"))
    logits = {}
    for approximate in (False, True):
        path = tmp_path / f"{approximate}.onnx"
        info = replace(INFO, model=replace(INFO.model, image_size=16, num_classes=5), class_names=())
        write_onnx(graph_of({**CASES["tanh_gelu"], "approximate_gelu": approximate}, weights), info, path)
        logits[approximate] = load_onnx(path, "CPU", 0).run(batch("tanh_gelu")[0])
    difference = np.abs(logits[True] - logits[False]).max() / np.abs(logits[True]).max()
    assert difference > 2 * max(TOLERANCE, TOLERANCES["fp32"])


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
    # no lookup, split or shape query at run time, and no separate multiplication by a scale
    assert not {"Gather", "GatherND", "Shape", "Expand", "Concat", "Split", "Mul", "Constant", "Conv"} & set(nodes)
    tokens = 4 * 4 + 1
    biases = [t for t in model.graph.initializer if t.name.endswith("relative_position_bias")]
    assert [tuple(bias.dims) for bias in biases] == [(1, 4, tokens, tokens)] * depth
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape, image.type) == ("image", ["batch", 3, 32, 32], "tensor(float)")
    assert (logits.name, logits.shape, logits.type) == ("logits", ["batch", 10], "tensor(float)")


def test_shared_bias_is_stored_once():
    model = graph_of(CASES["shared_bias"], weights_of(network_of("shared_bias")))
    (bias,) = (t for t in model.graph.initializer if t.name.endswith("relative_position_bias"))
    users = [node for node in model.graph.node if bias.name in node.input]
    assert len(users) == CASES["shared_bias"]["depth"]


def test_the_graph_has_the_kind_of_gelu_of_the_model():
    weights = weights_of(network_of("base"))
    for approximate, word in ((False, b"none"), (True, b"tanh")):
        model = graph_of({**CASES["base"], "approximate_gelu": approximate}, weights)
        kinds = {a.s for node in model.graph.node if node.op_type == "Gelu" for a in node.attribute}
        assert kinds == {word}


def test_the_metadata_describe_the_input_and_the_classes(tmp_path):
    info = replace(INFO, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=0.875)
    pairs = written("base", tmp_path / "beit.onnx", info).get_modelmeta().custom_metadata_map
    assert pairs["version"] == "2"
    assert pairs["arch"] == "test_beit_patch8_32"
    assert pairs["image_size"] == "32"
    assert pairs["num_classes"] == "10"
    assert pairs["class_names"].startswith('["zero", "eins", "zwei, drei", ')
    assert pairs["mean"] == "[0.485, 0.456, 0.406]"
    assert pairs["std"] == "[0.229, 0.224, 0.225]"
    assert pairs["crop_pct"] == "0.875"
    assert pairs["interpolation"] == "bicubic"
    assert load_onnx(tmp_path / "beit.onnx", "CPU", 0).info == info


def test_metadata_of_another_program_are_refused_by_the_missing_fields():
    with refuses("x.onnx", "version", "arch", "export.py"):
        from_metadata({"author": "torch"}, "x.onnx")
    pairs = to_metadata(INFO)
    del pairs["num_classes"]
    with refuses("x.onnx", "num_classes"):
        from_metadata(pairs, "x.onnx")


def test_metadata_of_another_version_or_damaged_are_refused():
    with refuses("x.onnx", 3, 2):
        from_metadata({**to_metadata(INFO), "version": "3"}, "x.onnx")
    with refuses("x.onnx", "mean", "0.5, 0.5"):
        from_metadata({**to_metadata(INFO), "mean": "0.5, 0.5"}, "x.onnx")


def test_the_epsilon_of_the_layer_norms_is_that_of_the_model():
    model = graph_of({**CASES["base"], "layer_norm_eps": 1e-3}, weights_of(network_of("base")))
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert {a.f for node in norms for a in node.attribute if a.name == "epsilon"} == {np.float32(1e-3)}


def test_the_constants_of_a_large_model_are_in_a_file_beside_it(tmp_path, golden):
    """With the limit lowered from 2 GB to 1000 bytes; both files are then moved together."""
    (tmp_path / "first").mkdir()
    written("base", tmp_path / "first" / "beit.onnx", largest_inline_bytes=1000)
    assert (tmp_path / "first" / "beit.onnx.data").stat().st_size > (tmp_path / "first" / "beit.onnx").stat().st_size
    (tmp_path / "first").rename(tmp_path / "second")
    network = load_onnx(tmp_path / "second" / "beit.onnx", "CPU", 0)
    assert_equal_logits(network.run(batch("base")[0]), golden["base/logits"])
    assert network.info == INFO
    (tmp_path / "second" / "beit.onnx.data").unlink()
    with refuses("beit.onnx", "export"):
        load_onnx(tmp_path / "second" / "beit.onnx", "CPU", 0)


def test_a_small_model_is_one_file(tmp_path):
    written("base", tmp_path / "beit.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["beit.onnx"]


def pixels_of(case: str) -> np.ndarray:
    size = CASES[case]["image_size"]
    return np.random.default_rng(4).integers(0, 256, (3, size, size, 3), np.uint8)


def test_raw_pixels_give_the_logits_of_normalized_ones_bit_for_bit(tmp_path):
    """Normalized by the project's transform, which agrees with torchvision's."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    weights = weights_of(network_of("base"))
    write_onnx(graph_of(CASES["base"], weights), INFO, tmp_path / "normalized.onnx")
    with_pixels = graph_of(CASES["base"], weights, pixel_input=PixelInput(mean, std))
    write_onnx(with_pixels, INFO, tmp_path / "pixels.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "pixels.onnx")
    (image,) = session.get_inputs()
    assert (image.name, image.shape, image.type) == ("image", ["batch", 32, 32, 3], "tensor(uint8)")
    pixels = pixels_of("base")
    images = np.stack([normalize(Image.fromarray(picture), mean, std) for picture in pixels])
    expected = onnxruntime.InferenceSession(tmp_path / "normalized.onnx").run(["logits"], {"image": images})[0]
    assert np.array_equal(session.run(["logits"], {"image": pixels})[0], expected)
    assert load_onnx(tmp_path / "pixels.onnx", "CPU", 0).takes_pixels
    assert not load_onnx(tmp_path / "normalized.onnx", "CPU", 0).takes_pixels


def run_model(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(["logits"], {"image": images})[0]


# Float16 has 11 bits: one rounding costs up to 5e-4, and six in a row stay below this.
HALF_TOLERANCE = 3e-3


@pytest.mark.parametrize("case", CASES)
def test_half_logits_are_those_of_the_authors_to_float16(case, golden):
    logits = run_model(graph_of(CASES[case], weights_of(network_of(case)), half=True), batch(case)[0])
    difference = np.abs(logits - golden[f"{case}/logits"]).max() / np.abs(golden[f"{case}/logits"]).max()
    assert logits.dtype == np.float32
    assert 1e-5 < difference <= HALF_TOLERANCE  # not float32


def test_half_graph_keeps_softmax_norms_and_the_residual_sum_in_float32():
    model = onnx.shape_inference.infer_shapes(graph_of(CASES["base"], weights_of(network_of("base")), half=True))
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    operators = [(node.op_type, kinds.get(node.output[0], TensorProto.FLOAT)) for node in model.graph.node]
    assert {kind for operator, kind in operators if operator in ("Softmax", "LayerNormalization")} == {
        TensorProto.FLOAT
    }
    assert {kind for operator, kind in operators if operator in ("MatMul", "Gelu")} == {TensorProto.FLOAT16}
    residual = [node for node in model.graph.node if node.name.endswith(("with_attention", "with_mlp"))]
    assert {kinds[node.output[0]] for node in residual} == {TensorProto.FLOAT}
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert stored["blocks.0.mlp.fc1.weight"] == stored["patch_embed.proj.weight"] == TensorProto.FLOAT16
    assert stored["head.weight"] == stored["fc_norm.weight"] == TensorProto.FLOAT


def test_half_graph_survives_a_residual_sum_beyond_float16():
    """With values of 1e5, above float16's maximum of 65504; trained vision transformers have such tokens."""
    weights = weights_of(network_of("base"))
    weights["cls_token"] = 1e5 * weights["cls_token"]
    weights["patch_embed.proj.bias"] = 1e5 * weights["patch_embed.proj.bias"]
    images = batch("base")[0]
    exact = run_model(graph_of(CASES["base"], weights), images)
    logits = run_model(graph_of(CASES["base"], weights, half=True), images)
    assert np.abs(logits - exact).max() <= HALF_TOLERANCE * np.abs(exact).max()


def test_a_layer_scale_that_float16_would_lose_is_not_folded(monkeypatch):
    """A layer scale of 1e-5 with large activations: folded into the matrix, its values would keep 3 bits."""
    weights = weights_of(network_of("base"))
    for name in weights:
        if "gamma_" in name:
            weights[name] = np.full_like(weights[name], 1e-5)
        elif name.endswith("fc1.bias"):
            weights[name] = np.full_like(weights[name], 2e4)
    images = batch("base")[0]
    exact = run_model(graph_of(CASES["base"], weights), images)

    def difference(model: onnx.ModelProto) -> float:
        return float(np.abs(run_model(model, images) - exact).max() / np.abs(exact).max())

    def scaled(model: onnx.ModelProto) -> list[str]:
        return [node.name for node in model.graph.node if node.name.endswith("/scaled")]

    model = graph_of(CASES["base"], weights, half=True)
    assert scaled(model) == [f"blocks.{n}.{part}/scaled" for n in (0, 1) for part in ("attn.proj", "mlp.fc2")]
    assert difference(model) <= HALF_TOLERANCE
    monkeypatch.setattr(graph_writer, "ROUNDING_TOLERANCE", np.inf)
    folded = graph_of(CASES["base"], weights, half=True)
    assert scaled(folded) == []
    assert difference(folded) > 2 * HALF_TOLERANCE


def test_a_layer_scale_of_ordinary_size_is_folded():
    model = graph_of(CASES["base"], weights_of(network_of("base")), half=True)
    assert not [node.name for node in model.graph.node if node.op_type == "Mul"]
