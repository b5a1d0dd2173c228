"""Damaged exports, and ONNX and MINDIR files made to read other files: each ends in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import mindspore.train.serialization
import numpy as np
import onnx
import pytest
from mindspore.train.mind_ir_pb2 import ModelProto
from onnx import TensorProto, helper

from src.errors import UserError
from src.export.metadata import CHECKSUM
from src.export.mindir_file import load_mindir, write_mindir
from src.export.onnx_export import OnnxOptions, export_onnx, write_onnx
from src.export.onnx_graph import beit_graph
from src.files import protobuf_file
from src.layers.cpu import CPU
from src.model.variants import get_variant
from src.prediction import onnx_file
from src.prediction.onnx_network import load_onnx
from src.prediction.predictor import Predictor
from tests.networks import model_info, variant_network
from tests.weights_golden import one_line, refuses

ARCH = "beit_micro_patch8_32"
INFO = model_info(ARCH, 32, 10, class_names=tuple("0123456789"))
OLD = Path(__file__).parent / "golden" / "old"


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy() for p in variant_network(ARCH, num_classes=10, seed=1).get_parameters()}


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory) -> dict[str, Path]:
    """Return an ONNX file of every kind; `split` has its constants in a file beside it."""
    folder = tmp_path_factory.mktemp("exports")
    kinds = {
        "fp32": OnnxOptions(),
        "fp16": OnnxOptions("fp16"),
        "int8": OnnxOptions("int8"),
        "pixels": OnnxOptions(with_preprocess=True),
    }
    paths = {kind: folder / f"{kind}.onnx" for kind in (*kinds, "split")}
    for kind, options in kinds.items():
        export_onnx(INFO, weights, paths[kind], options)
    graph = beit_graph(weights, INFO.model, get_variant(ARCH))
    write_onnx(graph, INFO, paths["split"], largest_inline_bytes=1000)
    return paths


def copied(path: Path, folder: Path) -> Path:
    """Copy an export and the file beside it."""
    for each in path.parent.glob(f"{path.name}*"):
        shutil.copy(each, folder)
    return folder / path.name


# ---- damage ----


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "pixels", "split"])
def test_an_undamaged_export_is_loaded_without_a_warning(kind, exported, caplog):
    load_onnx(exported[kind], "CPU", 0)
    assert not caplog.records


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "pixels", "split"])
def test_every_changed_byte_of_an_onnx_file_is_detected(kind, exported, tmp_path, capfd):
    path = copied(exported[kind], tmp_path)
    rng = np.random.default_rng(0)
    for file in sorted(tmp_path.iterdir()):
        content = file.read_bytes()
        metadata = content.find(CHECKSUM.encode())
        positions = [*rng.integers(len(content), size=8), *rng.integers(max(metadata - 30, 0), len(content), size=8)]
        for position in map(int, positions):
            damaged = bytearray(content)
            damaged[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            with pytest.raises(UserError, match=r"\.onnx") as raised:
                Predictor.from_file(path)
            one_line(raised.value)
        at, part = len(content) // 2, bytes(64)  # in the weights
        if kind == "split" and file == path:  # the weights are beside this file: another name of a node
            at, part = content.index(b"blocks."), b"xlocks."
        file.write_bytes(content[:at] + part + content[at + len(part) :])
        with refuses(path.name, "checksum", "export"):
            load_onnx(path, "CPU", 0)
        file.write_bytes(content[:-1])
        with refuses(path.name, "export"):
            load_onnx(path, "CPU", 0)
        file.write_bytes(content)
    load_onnx(path, "CPU", 0)
    assert capfd.readouterr().out == ""


def without_checksum(path: Path, version: str) -> None:
    model = onnx.load(path)
    pairs = {entry.key: entry.value for entry in model.metadata_props if entry.key != CHECKSUM}
    helper.set_model_props(model, {**pairs, "version": version})
    onnx.save(model, path)


def test_a_file_without_a_checksum_is_read_with_a_warning_if_its_version_had_none(exported, tmp_path, caplog):
    path = copied(exported["fp32"], tmp_path)
    without_checksum(path, "1")
    load_onnx(path, "CPU", 0)
    (record,) = caplog.records
    assert "fp32.onnx is not verified" in record.getMessage()
    assert "export it again" in record.getMessage()
    without_checksum(path, "2")
    with refuses("fp32.onnx", "checksum", "missing"):
        load_onnx(path, "CPU", 0)


def test_an_export_of_the_first_version_is_still_read(caplog, monkeypatch):
    from src.model.variants import VARIANTS, Variant

    monkeypatch.setitem(VARIANTS, "beit_fixture", Variant(16, 4, 8, 1, 2))
    load_onnx(next(OLD.glob("*.onnx")), "CPU", 0)
    assert "is not verified" in caplog.text


@pytest.mark.parametrize("apart", [False, True])
def test_every_changed_byte_of_a_mindir_file_is_detected(apart, tmp_path, monkeypatch):
    """`apart` lowers the 1 GB above which MindSpore stores the weights in a folder beside the graph."""
    monkeypatch.setattr(mindspore.train.serialization, "TOTAL_SAVE", 1 if apart else 1 << 20)
    ms.set_context(mode=ms.GRAPH_MODE)
    path = tmp_path / "beit.mindir"
    write_mindir(variant_network(ARCH, num_classes=10, layers=CPU).set_train(False), INFO, path)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    load_mindir(path)
    rng = np.random.default_rng(0)
    files = [file for file in sorted(tmp_path.rglob("*")) if file.is_file()]
    assert len(files) == 1 + apart
    for file in files:
        content = file.read_bytes()
        file.chmod(0o600)
        for position in map(int, rng.integers(len(content), size=6)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            with pytest.raises(UserError, match=r"beit\.mindir") as raised:
                load_mindir(path)
            one_line(raised.value)
        file.write_bytes(content)
    if apart:
        model = ModelProto()
        model.ParseFromString(path.read_bytes())
        for location in (
            "/etc/passwd",
            "../data_0",
            "beit_variables/../x_variables/a",
            "beit_variables/link",
            "data_0",
        ):
            model.graph.parameter[0].external_data.location = location
            path.write_bytes(model.SerializeToString())
            (tmp_path / "beit_variables" / "link").unlink(missing_ok=True)
            (tmp_path / "beit_variables" / "link").symlink_to("/etc/passwd")
            with refuses("beit.mindir", location, "export"):
                load_mindir(path)


# ---- ONNX files that read others ----


def changed(exported: dict[str, Path], folder: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    """Write the file of version 1, which no checksum protects, after a change."""
    path = copied(exported["split"], folder)
    model = onnx.load(path, load_external_data=False)
    pairs = {entry.key: entry.value for entry in model.metadata_props if entry.key != CHECKSUM}
    helper.set_model_props(model, {**pairs, "version": "1"})
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def first_external(model: onnx.ModelProto) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.external_data)


def set_entry(tensor: TensorProto, key: str, value: str) -> None:
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value


@pytest.mark.parametrize(
    "location",
    [
        *("/etc/passwd", "../split.onnx.data", "./split.onnx.data", "", ".", "..", "a\\b", "link", "folder", "none"),
        *("*/_ORT_MEM_ADDR_/*", "split.onnx.data\0"),
    ],
)
def test_external_data_is_read_from_plain_files_beside_the_model_only(location, exported, tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder").mkdir()
    path = changed(exported, tmp_path, lambda model: set_entry(first_external(model), "location", location))
    with refuses("split.onnx", "export"):
        load_onnx(path, "CPU", 0)


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("length", "8", "a tensor of"),
        ("length", "-1", "the length of external data"),
        ("offset", str(10**12), "a tensor of"),
        ("offset", "1_0", "the offset of external data"),
        ("offset", "9" * 5000, "the offset of external data"),
    ],
)
def test_external_data_has_the_size_of_its_tensor_and_lies_inside_its_file(key, value, word, exported, tmp_path):
    path = changed(exported, tmp_path, lambda model: set_entry(first_external(model), key, value))
    with refuses("split.onnx", "export", word):
        load_onnx(path, "CPU", 0)


def test_a_tensor_of_an_attribute_is_examined_too(exported, tmp_path):
    def change(model: onnx.ModelProto) -> None:
        tensor = TensorProto(name="x", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="/etc/passwd")
        model.graph.node.insert(0, helper.make_node("Constant", [], ["x"], value=tensor))

    with refuses("split.onnx", "/etc/passwd"):
        load_onnx(changed(exported, tmp_path, change), "CPU", 0)


def nested_graph(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["y"], body=body))


def function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("local", "f", [], [], [], []))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Print", [], ["y"], domain="example.com"))


def context(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("EPContext", [], ["y"], domain="com.microsoft"))


@pytest.mark.parametrize("change", [nested_graph, function, sparse, foreign_operator, context])
def test_parts_that_no_export_has_are_refused(change, exported, tmp_path):
    with refuses("split.onnx", "which no export has"):
        load_onnx(changed(exported, tmp_path, change), "CPU", 0)


def test_metadata_with_an_impossible_value_are_refused_before_the_network_is_loaded(exported, tmp_path):
    def change(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == "crop_pct").value = "1e-6"

    with refuses("split.onnx", "crop_pct", "1e-06"):
        load_onnx(changed(exported, tmp_path, change), "CPU", 0)


@pytest.mark.parametrize(("field", "value"), [("image_size", "64"), ("num_classes", "5")])
def test_metadata_that_contradict_the_graph_are_refused(field, value, exported, tmp_path):
    def change(model: onnx.ModelProto) -> None:
        pairs = {entry.key: entry.value for entry in model.metadata_props}
        helper.set_model_props(model, pairs | {field: value, "class_names": "[]"})

    with refuses("split.onnx", value):
        load_onnx(changed(exported, tmp_path, change), "CPU", 0)


def test_an_onnx_file_that_is_a_link_or_a_pipe_is_examined_as_one(exported, tmp_path):
    """The weights beside a link are not those beside its target."""
    (tmp_path / "link.onnx").symlink_to(exported["split"])
    with refuses("link.onnx", "regular file"):
        load_onnx(tmp_path / "link.onnx", "CPU", 0)
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    with refuses("zero.onnx"):
        load_onnx(tmp_path / "zero.onnx", "CPU", 0)


@pytest.mark.parametrize(
    "content", [b"", b"\x3a\xff\xff\xff\xff\x0f", b"\x80" * 50, b"\x0b", b"\x72\x02\x0a\x00", b"q" * 99]
)
def test_bytes_that_are_no_message_are_refused(content, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with refuses("a.onnx"):
        load_onnx(path, "CPU", 0)


def test_a_file_of_endless_fields_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(protobuf_file, "MAX_FIELDS", 1000)
    path = tmp_path / "a.onnx"
    path.write_bytes(b"\x08\x01" * 1001)
    with refuses("a.onnx", 1000):
        load_onnx(path, "CPU", 0)


def test_the_field_numbers_are_those_of_onnx():
    """Every way from a model to a tensor leads through fields that are examined or refused."""
    graph, node, attribute, tensor = (
        kind.DESCRIPTOR.fields_by_name
        for kind in (onnx.GraphProto, onnx.NodeProto, onnx.AttributeProto, onnx.TensorProto)
    )
    model = onnx.ModelProto.DESCRIPTOR.fields_by_name
    found = [model[n].number for n in ("graph", "training_info", "functions", "metadata_props")]
    assert found == [onnx_file.GRAPH, onnx_file.TRAINING, onnx_file.FUNCTIONS, 14]
    found = [graph[n].number for n in ("node", "initializer", "sparse_initializer")]
    assert found == [onnx_file.NODE, onnx_file.INITIALIZER, onnx_file.SPARSE_INITIALIZER]
    found = [node[n].number for n in ("op_type", "attribute", "domain")]
    assert found == [onnx_file.OPERATOR, onnx_file.ATTRIBUTE, onnx_file.DOMAIN]
    found = [attribute[n].number for n in ("t", "tensors", "g", "graphs", "sparse_tensor", "sparse_tensors")]
    assert found[:2] == [onnx_file.TENSOR, onnx_file.TENSORS]
    assert found[2:] == [onnx_file.SUBGRAPH, onnx_file.SUBGRAPHS, onnx_file.SPARSE, onnx_file.SPARSES]
    found = [tensor[n].number for n in ("dims", "data_type", "external_data", "data_location")]
    assert found == [onnx_file.DIMS, onnx_file.TYPE, onnx_file.EXTERNAL, onnx_file.LOCATION]
