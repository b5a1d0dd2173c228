"""Foreign files: PyTorch's zip format, read without PyTorch and without executing anything, and safetensors."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.weights.arrays import as_weights, bfloat16_to_float32
from src.weights.pickle_machine import Namespace, Opaque, UnsafePickle
from src.weights.safetensors_file import read_safetensors, write_safetensors
from src.weights.state_dict import find_state_dict
from src.weights.torch_file import open_torch_file
from src.weights.torch_pickle import LazyTensor, Storage, load_pickle
from src.weights.unilm_file import write_unilm_file
from tests.weights_golden import FOLDER, GOLDEN, assert_same, load, one_line, refuses, small_weights

# ---- PyTorch's files ----


def read_all(path: Path) -> dict[str, np.ndarray]:
    """Return every tensor at the top level of a PyTorch file."""
    with open_torch_file(path) as (content, read_tensors):
        return dict(read_tensors(find_state_dict(content, False, path)))


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


def test_a_file_written_for_the_authors_code_reads_back(tmp_path):
    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalar": np.array(2.5, np.float32),
        "index": np.array([[2**40, -3]]),
    }
    path = tmp_path / "a.pth"
    with open(path, "wb") as file:
        write_unilm_file(file, arrays)
    assert_same(read_all(path), arrays)
    with open_torch_file(path) as (content, _):
        assert list(content) == ["model"]


def test_the_error_for_the_format_before_1_6_says_how_to_save_it_again():
    with refuses("legacy.pth", "before 1.6", "torch.save("):
        read_all(FOLDER / "legacy.pth")


def test_a_whole_pickled_network_is_refused_and_its_class_named():
    with refuses("whole_module.pth", "'torch.nn.modules.linear.Linear'", "nothing was executed"):
        read_all(FOLDER / "whole_module.pth")


class Shell:
    """An object of a hostile file: Python's unpickler runs its command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_hostile_pickle_executes_nothing(tmp_path, protocol):
    mark = tmp_path / "executed"
    hostile = pickle.dumps({"model": Shell(f"touch {mark}")}, protocol)
    path = zip_file(tmp_path / "a.pth", {"archive/data.pkl": hostile})
    with refuses("a.pth", "refused", "'posix.system'"):
        read_all(path)
    assert not mark.exists()
    pickle.loads(hostile)
    assert mark.exists()  # the same bytes, unpickled by Python


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
def test_names_outside_the_list_are_refused(code):
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


def test_a_memo_index_of_4_billion_takes_no_memory():
    assert load_pickle(b"\x80\x02}r\xff\xff\xff\xff.") == {}


def test_reading_a_hostile_pickle_leaves_the_reader_as_it_was():
    before = read_all(FOLDER / "views.pth")
    for code in (b"ccollections\nOrderedDict\n(N}V__setitem__\nK\x01stb.", b"cargparse\nNamespace\n}Vupdate\nK\x01sb."):
        with pytest.raises(UnsafePickle):
            load_pickle(code)
    assert_same(read_all(FOLDER / "views.pth"), before)


PLAIN = (str, bytes, bytearray, int, float, complex, bool, type(None))
CONTAINERS = (list, tuple, set, frozenset)
STAND_INS = ("Function", "_StorageType")


def assert_plain(value: Any, seen: set[int] | None = None) -> None:
    """Assert that an unpickled object has only plain containers, numbers, texts, `LazyTensor` and inert stand-ins.

    A pickle may contain a name without calling it: then the object is the stand-in's function.
    """
    seen = set() if seen is None else seen
    if id(value) in seen:  # a container can contain itself
        return
    seen.add(id(value))
    kind = type(value)
    if isinstance(value, dict):
        assert kind in (dict, Namespace)
        for item in (*value.keys(), *value.values()):
            assert_plain(item, seen)
    elif kind in CONTAINERS:
        for item in value:
            assert_plain(item, seen)
    elif kind is LazyTensor:
        assert type(value.storage) is Storage
        assert_plain((value.storage.key, value.storage.dtype, value.storage.numel), seen)
        assert all(type(number) is int for number in (value.offset, *value.shape, *value.stride))
    else:
        assert kind in (*PLAIN, Storage, Opaque) or (
            kind.__module__.startswith("src.weights.") and kind.__name__ in STAND_INS
        ), kind


@pytest.mark.parametrize("value", [os.system, Path("a"), np.float64(1.0), {"a": [np.zeros(1)]}, ({1: (print,)},), json])
def test_the_check_of_plain_objects_finds_others(value):
    with pytest.raises(AssertionError):
        assert_plain(value)


def test_the_pickles_of_all_golden_files_give_plain_objects():
    paths = [path for path in FOLDER.iterdir() if path.suffix in (".pth", ".bin")]
    for path in paths:
        if path.name not in ("legacy.pth", "whole_module.pth"):
            with open_torch_file(path) as (content, _):
                assert_plain(content)


@settings(max_examples=400, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.floats(0.5, 1))
def test_a_mutated_pickle_gives_plain_objects_or_is_refused(position, byte, cut):
    """The mutation is behind the checksum of the zip archive, where a hostile writer would place it."""
    data = bytearray(entries_of("views.pth")["views/data.pkl"])
    data[int(position * len(data))] = byte
    try:
        content = load_pickle(bytes(data[: int(cut * len(data))]))
    except UnsafePickle:
        return
    assert_plain(content)


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    entries = entries_of("views.pth")
    broken = entries["views/data.pkl"].replace(b"K\x04K\x06\x86", b"K\x05K\x06\x86", 1)  # shape (4, 6) becomes (5, 6)
    assert broken != entries["views/data.pkl"]
    path = zip_file(tmp_path / "a.pth", entries | {"views/data.pkl": broken})
    with refuses("a.pth", "'whole'", "(5, 6)", 24):
        read_all(path)
    path = zip_file(tmp_path / "a.pth", entries | {"views/data/0": entries["views/data/0"][:-4]})
    with refuses("a.pth", "'whole'", 24, 92):
        read_all(path)


def test_zip_archives_other_than_pytorch_files_are_refused(tmp_path):
    with refuses("a.pth", "zip archive"):
        read_all(zip_file(tmp_path / "a.pth", {"word/document.xml": b"<x/>"}))
    compressed = zip_file(tmp_path / "b.pth", entries_of("views.pth"), zipfile.ZIP_DEFLATED)
    with refuses("b.pth", "compressed"):
        read_all(compressed)
    entries = entries_of("views.pth")
    entries.pop("views/data/1")
    with refuses("c.pth", "views/data/1"):
        read_all(zip_file(tmp_path / "c.pth", entries))


def test_numbers_that_contradict_their_checksum_are_refused_by_parameter(tmp_path):
    content = (FOLDER / "views.pth").read_bytes()
    scalar = np.float32(2.5).tobytes()  # the parameter 'scalar'
    assert content.count(scalar) == 1
    (tmp_path / "a.pth").write_bytes(content.replace(scalar, np.float32(2.25).tobytes()))
    with refuses("a.pth", "'scalar'", "CRC-32"):
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
def test_a_changed_byte_of_a_pytorch_file_is_detected_or_irrelevant(tmp_path, monkeypatch, share, bits):
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
def test_the_weights_are_found_inside_the_wrappers_of_training_scripts(wrap):
    with open_torch_file(FOLDER / "views.pth") as (content, _):
        wanted = dict(content)
        for inner in (content, {f"module.{name}": tensor for name, tensor in content.items()}, {"state_dict": content}):
            assert find_state_dict(wrap(inner), False, Path("a.pth")) == wanted


def test_raw_weights_are_preferred_and_averaged_ones_on_request(monkeypatch):
    raw, averaged = load(monkeypatch, "timm_384.pth"), load(monkeypatch, "timm_384.pth", ema=True)
    assert not np.array_equal(raw.weights["head.bias"], averaged.weights["head.bias"])
    with open_torch_file(FOLDER / "timm_384.pth") as (content, read_tensors):
        bias = dict(read_tensors({"x": content["state_dict_ema"]["head.bias"]}))
        assert_same({"x": averaged.weights["head.bias"]}, bias)
    with refuses("unilm_base.pth", "averaged weights", "--ema"):
        load(monkeypatch, "unilm_base.pth", ema=True)


def test_files_without_weights_are_refused():
    for content, words in (
        ({}, ("a.pth", "model", "module", "state_dict")),
        ([], ("a.pth",)),
        ({"model_ema": {}}, ("a.pth", "averaged", "--ema")),
    ):
        with refuses(*words):
            find_state_dict(content, False, Path("a.pth"))
    endless: dict = {}
    endless["model"] = endless
    with refuses("a.pth"):
        find_state_dict(endless, False, Path("a.pth"))
    with open_torch_file(FOLDER / "views.pth") as (content, _):
        mixed = {"model": {**content, "lr": 0.1}}
    with refuses("a.pth", "'lr'"):
        find_state_dict(mixed, False, Path("a.pth"))


# ---- safetensors ----


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def read_bytes(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    path = folder / "a.safetensors"
    path.write_bytes(content)
    return dict(read_safetensors(path)[1])


ARRAYS = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "a": np.array([1.5, -2], np.float16),
    "scalar": np.array(3.5),
    "integers": np.array([[1], [2]]),
    "flags": np.array([True]),
    "bytes": np.arange(3, dtype=np.uint8),
    "empty": np.zeros((0, 3), np.float32),
}


def write_file(path: Path, metadata: dict[str, str]) -> None:
    with open(path, "wb") as file:
        write_safetensors(file, ARRAYS, metadata)


def test_every_type_and_shape_is_written_and_read(tmp_path):
    metadata = {"format": "ms", "text": 'größer "\\ \n\t\x01', "a": ""}
    write_file(tmp_path / "a.safetensors", metadata)
    found_metadata, found = read_safetensors(tmp_path / "a.safetensors")
    assert found_metadata == metadata
    assert_same(dict(found), ARRAYS)


def test_other_programs_read_the_files(tmp_path):
    write_file(tmp_path / "a.safetensors", {"format": "pt", "text": "größer", "a": "1"})
    assert_same(safetensors.numpy.load_file(tmp_path / "a.safetensors"), ARRAYS)
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt", "text": "größer", "a": "1"}


def test_equal_contents_give_equal_files(tmp_path):
    """The package writes the metadata in random order: 5 entries have 120 orders."""
    metadata = {name: name * 3 for name in "abcde"}
    contents = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        write_file(path, dict(sorted(metadata.items(), reverse=number % 2 == 1)))
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_bfloat16_is_read_as_float32(tmp_path):
    import ml_dtypes

    values = np.array([1.0, -2.5, 3.3895314e38, 1e-40, 0.0, -0.0, np.inf], np.float32).astype(ml_dtypes.bfloat16)
    wanted = {"x": values.astype(np.float32)}
    assert_same({"x": bfloat16_to_float32(values.view(np.uint16))}, wanted)
    header = {"x": {"dtype": "BF16", "shape": [7], "data_offsets": [0, 14]}}
    assert_same(read_bytes(tmp_path, safetensors_bytes(header, values.tobytes())), wanted)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
REPEATED = (
    b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
)


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"w": ENTRY}, b"\0" * 7, ["it ends within parameter 'w'"]),
        ({"v": ENTRY, "w": {**ENTRY, "data_offsets": [8, 16]}}, b"\0" * 9, ["it ends within parameter 'w'"]),
        ({"w": ENTRY}, b"\0" * 9, []),
        ({"w": {**ENTRY, "shape": [3]}}, b"\0" * 8, ["'w'", "8 bytes", "12"]),
        ({"w": {**ENTRY, "shape": [-2]}}, b"\0" * 8, ["-2"]),
        ({"w": {**ENTRY, "shape": [2**40, 2**40]}}, b"\0" * 8, ["'w'", str(2**82)]),
        ({"w": {**ENTRY, "shape": "2"}}, b"\0" * 8, []),
        ({"w": {**ENTRY, "dtype": "F8_E4M3", "shape": [8]}}, b"\0" * 8, ["'w'", "F8_E4M3", "F16"]),
        ({"w": {**ENTRY, "dtype": "Q7"}}, b"\0" * 8, ["Q7"]),
        ({"w": {**ENTRY, "data_offsets": [4, 12]}}, b"\0" * 12, ["w"]),
        ({"w": ENTRY, "v": ENTRY}, b"\0" * 8, ["offset for tensor"]),
        ({"w": {"dtype": "F32", "shape": [2]}}, b"", ["data_offsets"]),
        ({"w": 3}, b"", []),
        ([ENTRY], b"", []),
        ({"__metadata__": {"a": 1}, "w": ENTRY}, b"\0" * 8, []),
        (b'{"__metadata__":{"a":"1","a":"2"}}', b"", ["'a'", "twice"]),
        (REPEATED, b"\0" * 8, ["'w'", "twice"]),
        (b'{"', b"", []),
        (b"\xff\xfe", b"", []),
        (b"[" * 100_000, b"", []),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, header, data, words):
    with refuses("a.safetensors", *words):
        read_bytes(tmp_path, safetensors_bytes(header, data))


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 8 + b"{", b"\x02" + bytes(7)])
def test_a_file_shorter_than_its_header_is_refused(tmp_path, content):
    with refuses("a.safetensors", "damaged"):
        read_bytes(tmp_path, content)


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
def test_a_changed_byte_of_a_safetensors_file_gives_no_traceback(tmp_path, monkeypatch, position, bits):
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
    with refuses("a.pth", "'blocks.1.norm1.bias'", "NaN"):
        as_weights(weights, Path("a.pth"))


def test_integers_and_numbers_beyond_float32_are_refused_by_name():
    with refuses("a", "'quantized'", "int8"):
        as_weights({"good": np.ones(2, np.float32), "quantized": np.ones(2, np.int8)}, Path("a"))
    with refuses("a", "'large'", "infinite"):
        as_weights({"large": np.array([1e300])}, Path("a"))
