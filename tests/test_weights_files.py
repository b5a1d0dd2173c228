"""Foreign files: PyTorch's zip form and safetensors, read without PyTorch and without running anything."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.files.atomic_file import write_atomically
from src.weights.arrays import as_weights, bfloat16_to_float32
from src.weights.safetensors_file import read_safetensors, write_safetensors
from src.weights.state_dict import find_state_dict
from src.weights.torch_file import open_torch_file, write_torch_file
from src.weights.torch_pickle import UnsafePickle, load_pickle
from tests.weights_golden import FOLDER, GOLDEN, assert_same, load, one_line, small_weights

# ---- PyTorch's files ----


def read_all(path: Path) -> dict[str, np.ndarray]:
    """Every tensor at the top of a PyTorch file."""
    with open_torch_file(path) as (content, read_tensor):
        return {name: read_tensor(tensor, name) for name, tensor in find_state_dict(content, False, path).items()}


def zip_file(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def entries_of(name: str) -> dict[str, bytes]:
    with zipfile.ZipFile(FOLDER / name) as archive:
        return {entry: archive.read(entry) for entry in archive.namelist()}


def test_views_of_shared_storages_are_read_by_their_strides():
    found = read_all(FOLDER / "views.pth")
    wanted = {name.removeprefix("views/"): GOLDEN[name] for name in GOLDEN.files if name.startswith("views/")}
    assert len(wanted) == 8
    assert_same(found, wanted)


def test_a_file_of_a_big_endian_machine_is_read(tmp_path):
    entries = entries_of("views.pth")
    swapped = {
        name: np.frombuffer(data, np.float32).byteswap().tobytes() if name == "views/data/0" else data
        for name, data in entries.items()
    }
    path = zip_file(tmp_path / "a.pth", swapped | {"views/byteorder": b"big"})
    assert_same({"whole": read_all(path)["whole"]}, {"whole": GOLDEN["views/whole"]})


def test_what_is_written_for_pytorch_reads_back(tmp_path):
    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalar": np.array(2.5, np.float32),
        "index": np.array([[2**40, -3]]),
    }
    for wrapper in ("model", None):
        path = tmp_path / "a.pth"
        write_atomically(path, lambda file, wrapper=wrapper: write_torch_file(file, arrays, wrapper))
        assert_same(read_all(path), arrays)
        with open_torch_file(path) as (content, _):
            assert list(content) == ([wrapper] if wrapper else list(arrays))


def test_the_form_before_1_6_says_how_to_save_it_again():
    with pytest.raises(UserError, match=r"legacy\.pth is of the form .* before 1\.6: save it again .*torch\.save\("):
        read_all(FOLDER / "legacy.pth")


def test_a_whole_pickled_network_is_refused_and_its_class_named():
    with pytest.raises(UserError, match=r"asks for 'torch\.nn\.modules\.linear\.Linear', .* nothing was executed"):
        read_all(FOLDER / "whole_module.pth")


class Shell:
    """What a hostile file makes: unpickled by Python, it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_hostile_pickle_executes_nothing(tmp_path, protocol):
    mark = tmp_path / "executed"
    hostile = pickle.dumps({"model": Shell(f"touch {mark}")}, protocol)
    path = zip_file(tmp_path / "a.pth", {"archive/data.pkl": hostile})
    with pytest.raises(UserError, match=r"a\.pth is refused: it asks for 'posix\.system'"):
        read_all(path)
    assert not mark.exists()
    pickle.loads(hostile)
    assert mark.exists()  # the same bytes, read by Python


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(Vprint(1)\ntR.",
        b"c__builtin__\ngetattr\n(Vx\nVy\ntR.",
        b"cos\nsystem\n(Vtrue\ntR.",
        b"(Vtrue\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"cnumpy\nload\n.",
        b"ctorch\nload\n.",
        b"ctorch.hub\nload\n.",
        b"ccollections\nOrderedDict.__reduce__\n.",
        b"ctypes\nFunctionType\n.",
        b"csrc.weights.torch_pickle\nload_pickle\n.",
    ],
)
def test_names_off_the_list_are_refused(code):
    with pytest.raises(UnsafePickle, match="asks for '"):
        load_pickle(code)


@pytest.mark.parametrize(
    "code",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n}Vx\nK\x01sb.",  # sets an attribute of a function
        b"ccollections\nOrderedDict\n}Vupdate\nK\x01sb.",  # ... of a class
        b"ctorch\nFloatStorage\n}Vdtype\nVobject\nsb.",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",  # a tensor of nothing
        b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01)))tR.",
        b"Vx\nQ.",  # a reference to no storage
        b"(Vstorage\nNV0\nVcpu\nK\x01tQ.",
        b"\x80\x02}",
        b"",
        b"hello",
        b"\x82\x01.",  # an extension code
    ],
)
def test_malformed_pickles_are_refused(code):
    with pytest.raises(UnsafePickle):
        load_pickle(code)


def test_a_pickle_that_asks_for_gigabytes_is_refused_before_it_gets_them():
    with pytest.raises(UnsafePickle, match="it asks for too much memory"):
        load_pickle(b"\x80\x02}r\xff\xff\xff\xff.")  # a memo of 4 billion places


def test_reading_a_hostile_pickle_leaves_the_reader_as_it_was():
    before = read_all(FOLDER / "views.pth")
    for code in (b"ccollections\nOrderedDict\n(N}V__setitem__\nK\x01stb.", b"cargparse\nNamespace\n}Vupdate\nK\x01sb."):
        with pytest.raises(UnsafePickle):
            load_pickle(code)
    assert_same(read_all(FOLDER / "views.pth"), before)


@settings(max_examples=400, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.floats(0.5, 1))
def test_a_mutated_pickle_gives_plain_objects_or_is_refused(position, byte, cut):
    """Behind the zip archive's checksum, as a hostile writer would place it."""
    data = bytearray(entries_of("views.pth")["views/data.pkl"])
    data[int(position * len(data))] = byte
    with contextlib.suppress(UnsafePickle):
        load_pickle(bytes(data[: int(cut * len(data))]))


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    entries = entries_of("views.pth")
    broken = entries["views/data.pkl"].replace(b"K\x04K\x06\x86", b"K\x05K\x06\x86", 1)  # shape (4, 6) becomes (5, 6)
    assert broken != entries["views/data.pkl"]
    path = zip_file(tmp_path / "a.pth", entries | {"views/data.pkl": broken})
    with pytest.raises(UserError, match=r"parameter 'whole' of shape \(5, 6\) does not fit into the 24 numbers"):
        read_all(path)
    path = zip_file(tmp_path / "a.pth", entries | {"views/data/0": entries["views/data/0"][:-4]})
    with pytest.raises(UserError, match=r"parameter 'whole' .* belongs to 24 numbers, of which 92 bytes are stored"):
        read_all(path)


def test_zip_archives_that_are_no_pytorch_file_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.pth is a zip archive, but no PyTorch file"):
        read_all(zip_file(tmp_path / "a.pth", {"word/document.xml": b"<x/>"}))
    compressed = zip_file(tmp_path / "b.pth", entries_of("views.pth"), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"b\.pth is cut short or damaged .*is compressed"):
        read_all(compressed)
    entries = entries_of("views.pth")
    entries.pop("views/data/1")
    with pytest.raises(UserError, match=r"c\.pth is cut short or damaged .*views/data/1"):
        read_all(zip_file(tmp_path / "c.pth", entries))


def test_numbers_that_their_checksum_contradicts_are_refused_by_the_parameters_name(tmp_path):
    content = (FOLDER / "views.pth").read_bytes()
    two = np.float32(2.5).tobytes()  # the parameter 'scalar'
    assert content.count(two) == 1
    (tmp_path / "a.pth").write_bytes(content.replace(two, np.float32(2.25).tobytes()))
    with pytest.raises(UserError, match=r"a\.pth is cut short or damaged \(parameter 'scalar': Bad CRC-32"):
        read_all(tmp_path / "a.pth")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_every_shorter_pytorch_file_is_refused(tmp_path, monkeypatch, share):
    content = (FOLDER / "timm_float16.pth").read_bytes()
    path = tmp_path / "short.pth"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"short\.pth") as raised:
        load(monkeypatch, path)
    assert "\n" not in str(raised.value)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_changed_byte_of_a_pytorch_file_is_found_or_means_nothing(tmp_path, monkeypatch, share, bits):
    content = bytearray((FOLDER / "timm_float16.pth").read_bytes())
    content[int(share * len(content))] ^= bits
    path = tmp_path / "changed.pth"
    path.write_bytes(content)
    try:
        found = load(monkeypatch, path)
    except UserError as error:
        one_line(error)
    else:
        assert_same(found.weights, load(monkeypatch, "timm_float16.pth").weights)


# ---- wrappers ----


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"model": x}, lambda x: {"module": x, "epoch": 3}])
def test_the_weights_are_found_in_what_training_scripts_wrap_around_them(wrap):
    with open_torch_file(FOLDER / "views.pth") as (content, _):
        wanted = dict(content)
        for inner in (content, {f"module.{name}": tensor for name, tensor in content.items()}, {"state_dict": content}):
            assert find_state_dict(wrap(inner), False, Path("a.pth")) == wanted


def test_raw_weights_are_preferred_and_averaged_ones_on_request(monkeypatch):
    raw, averaged = load(monkeypatch, "timm_384.pth"), load(monkeypatch, "timm_384.pth", ema=True)
    assert not np.array_equal(raw.weights["head.bias"], averaged.weights["head.bias"])
    with open_torch_file(FOLDER / "timm_384.pth") as (content, read_tensor):
        assert_same(
            {"x": averaged.weights["head.bias"]}, {"x": read_tensor(content["state_dict_ema"]["head.bias"], "")}
        )
    with pytest.raises(UserError, match=r"unilm_base\.pth holds no averaged weights .*: leave out --ema"):
        load(monkeypatch, "unilm_base.pth", ema=True)


def test_files_without_weights_are_refused(tmp_path):
    for content, text in (
        ({}, "a.pth holds no weights under model, module, state_dict or at its top: give a checkpoint"),
        ([], "holds no weights"),
        ({"model_ema": {}}, "it holds averaged ones: use --ema"),
    ):
        with pytest.raises(UserError, match=text):
            find_state_dict(content, False, Path("a.pth"))
    endless: dict = {}
    endless["model"] = endless
    with pytest.raises(UserError, match="holds no weights"):
        find_state_dict(endless, False, Path("a.pth"))
    with open_torch_file(FOLDER / "views.pth") as (content, _):
        mixed = {"model": {**content, "lr": 0.1}}
    with pytest.raises(UserError, match="'lr' stands among the weights and is no tensor"):
        find_state_dict(mixed, False, Path("a.pth"))


# ---- safetensors ----


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def read_bytes(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    path = folder / "a.safetensors"
    path.write_bytes(content)
    return dict(read_safetensors(path)[1])


def test_safetensors_agree_with_the_safetensors_package(tmp_path):
    arrays = {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array([1.5, -2], np.float16),
        "scalar": np.array(3.5),
        "integers": np.array([[1], [2]]),
        "flags": np.array([True]),
        "bytes": np.arange(3, dtype=np.uint8),
    }
    safetensors.numpy.save_file(arrays, tmp_path / "theirs.safetensors", metadata={"format": "np"})
    metadata, found = read_safetensors(tmp_path / "theirs.safetensors")
    assert metadata == {"format": "np"}
    assert_same(dict(found), arrays)
    write_atomically(tmp_path / "ours.safetensors", lambda file: write_safetensors(file, arrays, {"format": "pt"}))
    assert_same(safetensors.numpy.load_file(tmp_path / "ours.safetensors"), arrays)


def test_bfloat16_is_the_upper_half_of_float32():
    import ml_dtypes

    values = np.array([1.0, -2.5, 3.3895314e38, 1e-40, 0.0, -0.0, np.inf], np.float32).astype(ml_dtypes.bfloat16)
    assert_same({"x": bfloat16_to_float32(values.view(np.uint16))}, {"x": values.astype(np.float32)})


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "text"),
    [
        ({"w": ENTRY}, b"\0" * 7, "it ends within parameter 'w'"),
        ({"w": ENTRY}, b"\0" * 9, "1 bytes too many follow the last parameter"),
        ({"w": {**ENTRY, "shape": [3]}}, b"\0" * 8, r"'w' of type F32 and shape \(3,\) needs 12 bytes from 0 on"),
        ({"w": {**ENTRY, "shape": [-2]}}, b"\0" * 8, "parameter 'w' has an impossible shape"),
        ({"w": {**ENTRY, "shape": "2"}}, b"\0" * 8, "parameter 'w' has an impossible shape"),
        ({"w": {**ENTRY, "dtype": "F8_E4M3"}}, b"\0" * 8, "'w' is of type F8_E4M3: convert it to F32, F16 or BF16"),
        ({"w": {**ENTRY, "data_offsets": [4, 12]}}, b"\0" * 12, "'w' .* needs 8 bytes from 0 on, the header says 4 to"),
        ({"w": ENTRY, "v": ENTRY}, b"\0" * 8, "'v' of type F32 .* needs 8 bytes from 8 on, the header says 0 to 8"),
        ({"w": {"dtype": "F32", "shape": [2]}}, b"", "an entry of the header lacks its offsets"),
        ({"w": 3}, b"", "an entry of the header lacks its offsets"),
        ([ENTRY], b"", "the header is not a JSON object"),
        ({"__metadata__": {"a": 1}, "w": ENTRY}, b"\0" * 8, "its metadata are not texts"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path, header, data, text):
    with pytest.raises(UserError, match=text) as raised:
        read_bytes(tmp_path, safetensors_bytes(header, data))
    assert str(tmp_path / "a.safetensors") in str(raised.value)


@pytest.mark.parametrize("text", [b'{"w":1,"w":2}', b'{"', b"\xff\xfe", b"[" * 100_000])
def test_a_header_that_is_no_json_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="the header is not valid JSON"):
        read_bytes(tmp_path, len(text).to_bytes(8, "little") + text)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_every_shorter_safetensors_file_is_refused(tmp_path, monkeypatch, share):
    content = (FOLDER / "hf_base.safetensors").read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"short\.safetensors") as raised:
        load(monkeypatch, path)
    assert "\n" not in str(raised.value)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 5000), bits=st.integers(1, 255))
def test_a_changed_byte_of_a_safetensors_header_is_no_traceback(tmp_path, monkeypatch, position, bits):
    content = bytearray((FOLDER / "timm_float16.safetensors").read_bytes())
    content[position] ^= bits
    path = tmp_path / "changed.safetensors"
    path.write_bytes(content)
    try:
        found = load(monkeypatch, path)
    except UserError as error:
        one_line(error)
    else:  # the format has no checksum: a changed number is another number, of the same shape
        wanted = load(monkeypatch, "timm_float16.safetensors").weights
        assert {k: v.shape for k, v in found.weights.items()} == {k: v.shape for k, v in wanted.items()}


# ---- number types ----


def test_floating_types_become_float32_bit_for_bit():
    arrays = {
        "half": np.array([0.1, 65504], np.float16),
        "double": np.array([0.1, 1 / 3]),
        "single": np.array([[0.1]], np.float32),
    }
    assert_same(as_weights(arrays, Path("a")), {name: array.astype(np.float32) for name, array in arrays.items()})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad):
    weights = small_weights()
    weights["blocks.1.norm1.bias"] = weights["blocks.1.norm1.bias"].copy()
    weights["blocks.1.norm1.bias"][3] = bad
    with pytest.raises(UserError, match=r"a\.pth: parameter 'blocks\.1\.norm1\.bias' holds NaN or infinite values"):
        as_weights(weights, Path("a.pth"))


def test_integers_and_numbers_beyond_float32_are_refused_by_name():
    ordered = collections.OrderedDict(good=np.ones(2, np.float32), quantized=np.ones(2, np.int8))
    with pytest.raises(UserError, match="a: parameter 'quantized' holds int8 where weights are floating-point"):
        as_weights(ordered, Path("a"))
    with pytest.raises(UserError, match="parameter 'large' holds NaN or infinite"):
        as_weights({"large": np.array([1e300])}, Path("a"))
