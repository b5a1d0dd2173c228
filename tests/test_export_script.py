"""export.py, as users run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto
from PIL import Image

import export
from src.errors import exit_code
from src.export import compare_logits, onnx_export
from src.prediction.predictor import Predictor
from src.weights.checkpoint import Checkpoint, save_checkpoint
from src.weights.rebuild import rebuild_network
from tests.golden.network_recipe import weight
from tests.networks import model_info, variant_network

ROOT = Path(__file__).parent.parent

CONFIG = ROOT / "src" / "configs" / "quickstart_digits.yaml"
ARCH = "test_beit_patch8_32"
NETWORK = ("--arch", ARCH, "--image_size", "32")
INFO = model_info(ARCH, 32, 10, class_names=tuple("0123456789"), crop_pct=1.0)
DIFFERENCE = re.compile(r"largest difference to the network's logits: (\S+) \((\S+) of the largest logit\)")


def run_export(checkpoint: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(ROOT / "export.py"),
        "--config",
        str(CONFIG),
        *NETWORK,
        "--pretrained",
        str(checkpoint),
    ]
    command += ["--arch", ARCH, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    network = variant_network(ARCH, num_classes=10)
    return {parameter.name: weight(parameter.name, parameter.shape) for parameter in network.get_parameters()}


@pytest.fixture(scope="module")
def checkpoint(weights, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    save_checkpoint(path, Checkpoint(weights, INFO))
    return path


@pytest.mark.parametrize("file_format", ["ONNX", "MINDIR"])
def test_an_export_is_in_the_current_folder_and_agrees(file_format, checkpoint, weights, tmp_path):
    done = run_export(checkpoint, "--file_format", file_format, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    name = f"{ARCH}.{file_format.lower()}"
    entries = [entry for entry in os.listdir(tmp_path) if not entry.startswith("rank_")]  # MindSpore's logs
    assert entries == [name]
    difference, relative = map(float, DIFFERENCE.search(done.stdout).groups())
    assert 0 <= relative <= 2e-6
    assert difference <= 2e-6 * 10
    assert done.stdout.splitlines()[-1] == f"{checkpoint} is exported to {name}"
    images = np.random.default_rng(5).standard_normal((2, 3, 32, 32), dtype=np.float32)
    expected = rebuild_network(INFO, weights, checkpoint)(Tensor(images)).asnumpy()
    if file_format == "ONNX":
        logits = onnxruntime.InferenceSession(tmp_path / name).run(["logits"], {"image": images})[0]
    else:
        model = ModelProto.FromString((tmp_path / name).read_bytes())
        graphs = [model.graph, *model.functions]
        # a compiled kernel would be a file of this machine
        assert not [node.op_type for graph in graphs for node in graph.node if "Custom" in node.op_type]
        ms.set_context(mode=ms.GRAPH_MODE)
        logits = nn.GraphCell(ms.load(str(tmp_path / name)))(Tensor(images)).asnumpy()
        ms.set_context(mode=ms.PYNATIVE_MODE)
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.fixture
def export_here(tmp_path, monkeypatch, capsys):
    """Return a function that runs export.py's main in this process: exit code, standard output, standard error."""

    def run(checkpoint: Path, *arguments: str) -> tuple[int, str, str]:
        command = ["export.py", "--config", str(CONFIG), *NETWORK, "--pretrained", str(checkpoint), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        return exit_code(export.main), *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    yield run
    ms.set_context(mode=ms.PYNATIVE_MODE)


def test_the_tanh_gelu_of_the_checkpoint_is_exported(weights, export_here, tmp_path):
    path = tmp_path / "tanh.ckpt"
    save_checkpoint(path, Checkpoint(weights, replace(INFO, model=replace(INFO.model, approximate_gelu=True))))
    code, printed, _ = export_here(path, "--disable_approximate_gelu", "False")
    assert code == 0
    session = onnxruntime.InferenceSession(tmp_path / f"{ARCH}.onnx")
    assert session.get_modelmeta().custom_metadata_map["approximate_gelu"] == "true"
    assert float(DIFFERENCE.search(printed)[2]) <= 2e-6


def test_a_config_that_contradicts_the_checkpoint_exports_nothing(checkpoint, export_here, tmp_path):
    arguments = ["--num_classes", "1000", "--crop_pct", "0.9", "--disable_approximate_gelu", "False"]
    code, printed, error = export_here(checkpoint, *arguments)
    assert (code, printed) == (2, "")
    (line,) = error.splitlines()
    for words in (str(checkpoint), "num_classes is 1000", "10", "crop_pct is 0.9", "1.0", "disable_approximate_gelu"):
        assert words in line
    assert os.listdir(tmp_path) == []


def test_a_wrong_arch_a_missing_file_and_air_without_ascend_are_errors(checkpoint, export_here, tmp_path):
    cases = [
        (checkpoint, ["--arch", "beit_base_patch16_224", "--image_size", "224"], [str(checkpoint), ARCH]),
        (tmp_path / "no.ckpt", [], ["no.ckpt"]),
        (checkpoint, ["--file_format", "AIR"], ["AIR", "CPU", "Ascend", "ONNX"]),
    ]
    for path, arguments, words in cases:
        code, printed, error = export_here(path, *arguments)
        assert (code, printed) == (2, "")
        (line,) = error.splitlines()
        assert line.startswith("error: ")
        assert all(word in line for word in words), line
    assert os.listdir(tmp_path) == []


def test_a_file_that_differs_from_the_network_is_removed(checkpoint, weights, export_here, tmp_path, monkeypatch):
    """With a wrong bias in the graph; an older export of the same name stays."""

    def wrong_graph(weights, *arguments, **options):
        return original({**weights, "head.bias": weights["head.bias"] + np.float32(1e-3)}, *arguments, **options)

    original = onnx_export.beit_graph
    monkeypatch.setattr(onnx_export, "beit_graph", wrong_graph)
    (tmp_path / f"{ARCH}.onnx").write_text("older")
    code, printed, error = export_here(checkpoint)
    assert (code, printed) == (1, "")
    assert all(word in error for word in (f"error: {ARCH}.onnx was not written", "1.00e-03", "2e-05"))
    assert (tmp_path / f"{ARCH}.onnx").read_text() == "older"
    assert [entry for entry in os.listdir(tmp_path) if not entry.startswith("rank_")] == [f"{ARCH}.onnx"]


def test_a_bias_per_block_and_a_shared_bias_are_exported_together(export_here, tmp_path):
    """The authors' network accepts both options; their biases are added."""
    options = {"rel_pos_bias": True, "shared_rel_pos_bias": True}
    network = variant_network(ARCH, num_classes=10, **options)
    weights = {parameter.name: weight(parameter.name, parameter.shape) for parameter in network.get_parameters()}
    info = model_info(ARCH, 32, 10, class_names=tuple("0123456789"), crop_pct=1.0, **options)
    path = tmp_path / "both.ckpt"
    save_checkpoint(path, Checkpoint(weights, info))
    code, printed, error = export_here(path, "--shared_rel_pos_bias", "True")
    assert (code, error) == (0, "")
    assert float(DIFFERENCE.search(printed)[2]) <= 2e-6
    stored = {tensor.name for tensor in onnx.load(tmp_path / f"{ARCH}.onnx").graph.initializer}
    assert {"rel_pos_bias.relative_position_bias", "blocks.0.attn.relative_position_bias"} <= stored


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


AGREEMENT = re.compile(r"agreement with the network on 4 images of \S+: top-1 (\S+)%, largest logit difference")


@pytest.mark.parametrize(
    ("precision", "extra", "share"), [("fp16", [], 5e-3), ("int8", ["--with_preprocess"], 5e-2), ("int8", [], 5e-2)]
)
def test_a_precision_is_exported_with_its_agreement(precision, extra, share, checkpoint, photos, export_here, tmp_path):
    arguments = ["--onnx_precision", precision, "--agreement_folder", str(photos), *extra]
    if precision == "int8" and not extra:
        arguments += ["--calibration_folder", str(photos)]
    code, printed, _ = export_here(checkpoint, *arguments)
    assert code == 0
    assert float(DIFFERENCE.search(printed)[2]) <= share
    speed = re.search(r"int8 is .*times as fast.*\(3 images in \S+ s as fp32, in \S+ s as int8\)", printed)
    assert (speed is not None) == (precision == "int8")
    assert [path.name for path in tmp_path.glob("*.onnx*")] == [f"{ARCH}.onnx"]
    assert float(AGREEMENT.search(printed)[1]) >= 75
    session = onnxruntime.InferenceSession(tmp_path / f"{ARCH}.onnx")
    assert session.get_modelmeta().custom_metadata_map["precision"] == precision
    assert session.get_inputs()[0].type == ("tensor(uint8)" if extra else "tensor(float)")
    results = list(Predictor.from_file(tmp_path / f"{ARCH}.onnx", batch_size=3).predict(sorted(photos.iterdir())))
    assert len({result.class_number for result in results}) >= 1
    assert all(np.isfinite(result.logits).all() for result in results)


def test_options_that_contradict_the_format_or_the_folders_are_refused(checkpoint, photos, export_here, tmp_path):
    cases = [
        (["--file_format", "MINDIR", "--onnx_precision", "int8"], ["onnx_precision", "int8", "MINDIR", "ONNX"]),
        (["--file_format", "MINDIR", "--with_preprocess"], ["with_preprocess", "MINDIR", "ONNX"]),
        (["--calibration_folder", str(photos)], ["calibration_folder", "fp32", "int8"]),
        (["--file_format", "AIR", "--agreement_folder", str(photos)], ["agreement_folder"]),
        (["--agreement_folder", "nowhere"], ["nowhere"]),
        (["--onnx_precision", "fp8"], ["onnx_precision", "fp8", "fp32", "fp16", "int8"]),
    ]
    for arguments, words in cases:
        code, printed, error = export_here(checkpoint, *arguments)
        assert (code, printed) == (2, "")
        (line,) = error.splitlines()
        assert all(word in line for word in words), line
    assert os.listdir(tmp_path) == []


def test_an_int8_file_that_differs_too_much_is_removed(checkpoint, export_here, tmp_path, monkeypatch):
    monkeypatch.setitem(compare_logits.TOLERANCES, "int8", 1e-4)
    code, printed, error = export_here(checkpoint, "--onnx_precision", "int8")
    assert (code, printed) == (1, "")
    assert all(word in error for word in ("0.0001", "--onnx_precision fp32"))
    assert [entry for entry in os.listdir(tmp_path) if not entry.startswith("rank_")] == []
