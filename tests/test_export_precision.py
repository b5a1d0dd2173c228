"""int8 and fp16 files: their logits, their nodes, and the comparison that export.py prints."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from src.data.image_batches import preparation_of
from src.errors import RunError
from src.export import compare_logits as comparing
from src.export import onnx_export
from src.export.compare_logits import TOLERANCES, compare_logits
from src.export.folder_images import folder_batches
from src.export.onnx_export import OnnxOptions, export_onnx, write_onnx
from src.model.variants import get_variant
from src.prediction.loaded_network import Network
from src.prediction.predictor import Predictor
from tests.golden.network_recipe import weight
from tests.networks import model_info, variant_network
from tests.tiny_project import ARCH
from tests.weights_golden import refuses

SIZE = get_variant(ARCH).image_size
DEPTH = get_variant(ARCH).depth
INFO = model_info(ARCH, SIZE, 10, class_names=tuple("0123456789"), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
# 8-bit integers round to 4e-3 of a range, which adds up to 1e-2 over the blocks of this network.
INT8_TOLERANCE = 4e-2


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return {p.name: weight(p.name, p.shape) for p in variant_network(ARCH, num_classes=10).get_parameters()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Return a tree of twelve images of 4 x 4 color patches."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(12):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        (folder / str(number % 3)).mkdir(exist_ok=True)
        coarse.resize((50, 40), Image.Resampling.BICUBIC).save(folder / str(number % 3) / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def files(weights, photos, tmp_path_factory) -> dict[str, Network]:
    """Return the networks of a file of each kind, and their `folder`."""
    folder = tmp_path_factory.mktemp("files")
    kinds = {
        "fp32": OnnxOptions(),
        "fp16": OnnxOptions("fp16"),
        "dynamic": OnnxOptions("int8"),
        "static": OnnxOptions("int8", calibration=photos),
        "static pixels": OnnxOptions("int8", with_preprocess=True, calibration=photos),
    }
    networks = {kind: export_onnx(INFO, weights, folder / f"{kind}.onnx", options) for kind, options in kinds.items()}
    return {"folder": folder, **networks}


def model_of(files: dict[str, object], kind: str) -> onnx.ModelProto:
    return onnx.load(files["folder"] / f"{kind}.onnx")


def images_of(photos: Path, takes_pixels: bool = False) -> np.ndarray:
    return np.concatenate(list(folder_batches(photos, preparation_of(INFO, takes_pixels), 5)))


@pytest.mark.parametrize("kind", ["dynamic", "static", "static pixels"])
def test_int8_logits_are_near_those_of_float32(kind, files, photos):
    """In one batch and one by one."""
    network = files[kind]
    expected = files["fp32"].run(images_of(photos))
    images = images_of(photos, network.takes_pixels)
    for logits in (network.run(images), np.concatenate([network.run(image[None]) for image in images])):
        difference = np.abs(logits - expected).max() / np.abs(expected).max()
        assert 1e-3 < difference <= INT8_TOLERANCE  # not float32


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_every_stored_matrix_is_quantized_and_attention_stays_float(files):
    """Six matrices per block, the patch embedding and the head are quantized, two products per block are not."""
    matrices = 6 * DEPTH + 2
    for kind in ("dynamic", "static"):
        model = model_of(files, kind)
        kinds = {tensor.name: tensor for tensor in model.graph.initializer}
        stored = [t for t in kinds.values() if t.data_type == onnx.TensorProto.UINT8 and len(t.dims) == 2]
        assert len(stored) == matrices
        assert all(t.data_type != onnx.TensorProto.FLOAT for t in kinds.values() if t.name.endswith("fc1.weight"))
        nodes = operators(model)
        if kind == "dynamic":
            assert (nodes.count("MatMulInteger"), nodes.count("MatMul")) == (matrices, 2 * DEPTH)
            # query, key and value share one measured range
            assert nodes.count("DynamicQuantizeLinear") == matrices - 2 * DEPTH
        else:
            assert "DynamicQuantizeLinear" not in nodes
            scores = [
                n for n in model.graph.node if n.op_type == "MatMul" and n.name.endswith((".scores", ".weighted"))
            ]
            produced = {output: n.op_type for n in model.graph.node for output in n.output}
            assert len(scores) == 2 * DEPTH
            assert not {produced[name] for n in scores for name in n.input} & {"DequantizeLinear"}


def test_the_files_are_smaller_and_store_their_precision(files):
    sizes = {kind: (files["folder"] / f"{kind}.onnx").stat().st_size for kind in ("fp32", "fp16", "dynamic", "static")}
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
    assert sizes["dynamic"] < 0.35 * sizes["fp32"]
    assert sizes["static"] < 0.35 * sizes["fp32"]
    for kind, precision in {"fp32": "fp32", "fp16": "fp16", "dynamic": "int8", "static pixels": "int8"}.items():
        session = onnxruntime.InferenceSession(files["folder"] / f"{kind}.onnx")
        assert session.get_modelmeta().custom_metadata_map["precision"] == precision
        assert files[kind].info == INFO
        assert (session.get_inputs()[0].name, session.get_outputs()[0].name) == ("image", "logits")
        assert session.get_outputs()[0].shape == ["batch", 10]
    assert sorted(os.listdir(files["folder"])) == sorted(f"{kind}.onnx" for kind in files if kind != "folder")


def test_the_integers_of_a_model_beyond_2_gb_are_in_a_file_beside_it(weights, photos, tmp_path, monkeypatch):
    """With the limit lowered to 1000 bytes."""
    monkeypatch.setattr(onnx_export, "write_onnx", functools.partial(write_onnx, largest_inline_bytes=1000))
    network = export_onnx(INFO, weights, tmp_path / "beit.onnx", OnnxOptions("int8"))
    assert sorted(os.listdir(tmp_path)) == ["beit.onnx", "beit.onnx.data"]
    plain = export_onnx(INFO, weights, tmp_path / "beit.onnx", OnnxOptions("int8", calibration=photos))
    images = images_of(photos)
    assert np.abs(network.run(images) - plain.run(images)).max() <= INT8_TOLERANCE * np.abs(network.run(images)).max()


def test_folder_batches_yields_all_images_or_evenly_spread_ones(photos):
    preparation = preparation_of(INFO, takes_pixels=True)
    every = list(folder_batches(photos, preparation, 5))
    assert [batch.shape for batch in every] == [(5, SIZE, SIZE, 3)] * 2 + [(2, SIZE, SIZE, 3)]
    some = np.concatenate(list(folder_batches(photos, preparation, 5, most=4)))
    assert np.array_equal(some, np.concatenate(every)[[0, 3, 6, 9]])
    (photos / "0" / "broken.png").write_bytes(b"")
    with refuses("broken.png", "empty"):
        list(folder_batches(photos, preparation, 5))
    (photos / "0" / "broken.png").unlink()


def lines_of(exported: Network, network, options: OnnxOptions, folder: Path | None = None) -> list[str]:
    return list(compare_logits(exported, network, options, folder, "beit.onnx"))


def test_the_agreement_on_the_images_of_a_folder_is_printed(files, photos):
    exact = files["fp32"].run
    first, second = lines_of(files["dynamic"], exact, OnnxOptions("int8"), photos)
    assert first.startswith("largest difference")
    images = images_of(photos)
    # compared in batches of three, each of which has its own ranges
    logits = np.concatenate([files["dynamic"].run(images[n : n + 3]) for n in range(0, 12, 3)])
    largest = np.abs(logits - exact(images)).max()
    same = (logits.argmax(1) == exact(images).argmax(1)).mean()
    share = largest / np.abs(exact(images)).max()
    for word in ("12", str(photos), f"{same:.2%}", f"{largest:.2e}", f"{share:.1e}"):
        assert word in second


def test_fp32_is_compared_on_random_images_alone_and_fp16_also_by_class(files):
    exact = files["fp32"].run
    (line,) = lines_of(files["fp32"], exact, OnnxOptions())
    assert float(line.split()[6]) <= 1e-5
    _, line = lines_of(files["fp16"], exact, OnnxOptions("fp16"))
    assert all(word in line for word in ("3 random images", "--agreement_folder", "100.00%"))


def test_a_file_of_pixels_is_compared_with_the_network_on_normalized_images(files, photos, weights, tmp_path):
    exact = files["fp32"].run
    options = OnnxOptions(with_preprocess=True)
    exported = export_onnx(INFO, weights, tmp_path / "beit.onnx", options)
    first, second = lines_of(exported, exact, options, photos)
    assert float(first.split()[6]) <= 2e-6 * 10
    assert "on 12 images" in second
    assert "top-1 100.00%" in second
    paths = sorted(photos.rglob("*.png"))
    logits = [
        np.stack([result.logits for result in Predictor(network, batch_size=4, num_workers=2).predict(paths)])
        for network in (exported, files["fp32"])
    ]
    assert np.array_equal(*logits)
    static = OnnxOptions("int8", with_preprocess=True, calibration=photos)
    assert len(lines_of(files["static pixels"], exact, static, photos)) == 2


@pytest.mark.parametrize(("kind", "precision"), [("fp32", "fp32"), ("fp16", "fp16"), ("dynamic", "int8")])
def test_a_difference_above_the_tolerance_is_an_error(kind, precision, files):
    exact = files["fp32"].run
    wrong = 1.5 * TOLERANCES[precision]
    with pytest.raises(RunError, match=r"beit\.onnx"):
        lines_of(files[kind], lambda images: exact(images) * (1 + wrong), OnnxOptions(precision))


def test_static_ranges_are_checked_with_mixtures_of_their_images(files, photos, monkeypatch):
    """Noise is outside the ranges, so a good file would be refused."""
    options = OnnxOptions("int8", calibration=photos)
    lines_of(files["static"], files["fp32"].run, options)
    monkeypatch.setattr(comparing, "random_blends", lambda images: 10 * np.ones_like(images[:3]))
    with pytest.raises(RunError, match="--onnx_precision fp32"):
        lines_of(files["static"], files["fp32"].run, options)
