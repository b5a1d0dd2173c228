"""Weight files made to hurt: each ends in one line, in little time and with little memory."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from src.errors import UserError
from src.model.json_text import MAX_JSON_BYTES, parse_json
from src.model.model_info import ModelInfo
from src.weights.arrays import MAX_FILE_BYTES
from src.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from src.weights.class_names import read_class_names
from src.weights.mindspore_ckpt_file import _chunk, _key, _varint, read_ckpt
from src.weights.pickle_machine import MAX_INSTRUCTIONS, MAX_PICKLE_BYTES, UnsafePickle
from src.weights.pretrained import load_pretrained
from src.weights.safetensors_file import read_safetensors
from src.weights.torch_pickle import load_pickle
from tests.networks import model_info
from tests.test_weights_files import entries_of, read_all, safetensors_bytes, zip_file
from tests.tiny_project import ROOT
from tests.weights_golden import ANY_ARCH, one_line, random_weights, refuses

FIELDS = model_info(ANY_ARCH, 32, 2, ("a", "b")).to_dict()


def hub_file(folder: Path) -> Path:
    """Write weights under the name that hubs use."""
    save_file(random_weights(), folder / "model.safetensors")
    return folder / "model.safetensors"


# ---- the description of a network ----


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("arch", "beit_giant"),
        ("arch", ["beit_micro_patch4_32"]),
        ("image_size", 0),
        ("image_size", 30),  # no multiple of the patch, 4
        ("image_size", 2052),
        ("image_size", 32.0),
        ("image_size", True),
        ("num_classes", -1),
        ("num_classes", 10**7),
        ("num_classes", "2"),
        ("num_classes", 3),  # but two names
        ("class_names", "ab"),
        ("class_names", ["a", 1]),
        ("class_names", ["a"]),
        ("approximate_gelu", 1),
        ("rel_pos_bias", "false"),
        ("mean_pooling", None),
        ("layer_norm_eps", 0),
        ("layer_norm_eps", float("nan")),
        ("layer_norm_eps", "1e-6"),
        ("crop_pct", 1e-6),
        ("crop_pct", 0.09),
        ("crop_pct", 1.01),
        ("crop_pct", float("nan")),
        ("crop_pct", [0.9]),
        ("mean", [0.5, 0.5]),
        ("mean", [0.5, 0.5, float("inf")]),
        ("mean", [0.5, 0.5, "0.5"]),
        ("mean", 0.5),
        ("std", [0.5, 0.5, 0]),
        ("std", [0.5, 0.5, -0.5]),
        ("std", [0.5, 0.5, 1e300]),
        ("interpolation", "hamming"),
        ("interpolation", 3),
        ("crop_mode", "border"),
    ],
)
def test_a_description_with_an_impossible_value_names_the_field(field, value):
    with pytest.raises(ValueError, match=field) as raised:
        ModelInfo.from_dict(FIELDS | {field: value})
    one_line(raised.value)


@pytest.mark.parametrize("crop_pct", [0.1, 0.875, 1, 1.0])
def test_the_descriptions_of_published_files_are_accepted(crop_pct):
    assert ModelInfo.from_dict(FIELDS | {"crop_pct": crop_pct, "layer_norm_eps": 1e-12}).crop_pct == crop_pct


def test_a_tiny_crop_is_refused_from_every_kind_of_file(tmp_path):
    """A crop_pct of 1e-6 enlarges images a million times, which never ends."""
    weights = random_weights()
    info = ModelInfo.from_dict(FIELDS | {"num_classes": 10, "class_names": []})
    object.__setattr__(info, "crop_pct", 1e-6)
    for suffix in (".ckpt", ".safetensors"):
        save_checkpoint(tmp_path / f"a{suffix}", Checkpoint(weights, info))
        with refuses(f"a{suffix}", "crop_pct", "1e-06"):
            load_pretrained(tmp_path / f"a{suffix}")
    hub_file(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"crop_pct": 1e-6}}))
    with refuses("model.safetensors", "config.json", "crop_pct", "1e-06"):
        load_pretrained(tmp_path / "model.safetensors")
    processor = {"size": 2**62, "crop_size": 32, "do_center_crop": True}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "beit"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    with refuses("model.safetensors", "crop_pct"):
        load_pretrained(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "beit", "layer_norm_eps": []},
        {"model_type": "beit", "layer_norm_eps": "x"},
        {"pretrained_cfg": {"interpolation": [], "crop_mode": {}, "mean": [1, 2, {}], "std": [1e30] * 3}},
    ],
)
def test_values_of_wrong_types_in_a_hub_config_give_no_traceback(tmp_path, config):
    hub_file(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"resample": [], "size": [[]], "crop_size": "x"}))
    try:
        load_pretrained(tmp_path / "model.safetensors")
    except UserError as error:
        one_line(error)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 30 + "]" * 30,
        '{"a":' * 30 + "1" + "}" * 30,
        "1" + "0" * 400,
        "1" + "0" * 5000,
        "1e400",
        "-1e400",
        "NaN",
        "[Infinity]",
        '{"a": 1, "a": 2}',
        "",
        b"\xff\xfe",
        "[" + " " * MAX_JSON_BYTES + "]",
    ],
)
def test_json_beyond_the_limits_is_a_value_error_of_one_line(text):
    with pytest.raises(ValueError, match=r".+") as raised:
        parse_json(text)
    assert len(one_line(raised.value)) < 200


def test_json_within_the_limits_is_read():
    assert parse_json('{"a": [1, 2.5, "x", null, true]}') == {"a": [1, 2.5, "x", None, True]}
    assert parse_json(str(2**63)) == 2**63
    assert np.isnan(parse_json("NaN", allow_nan=True))


@pytest.mark.parametrize("content", ["[" * 10_000, '{"image_size": 1' + "0" * 5000 + "}", '{"a": NaN}', "[1]"])
def test_a_hub_config_beyond_the_limits_is_refused_by_name(tmp_path, content):
    path = hub_file(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with refuses("config.json"):
        load_pretrained(path)


# ---- files that are none ----


def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "zero.ckpt").symlink_to("/dev/zero")
    (tmp_path / "folder.safetensors").mkdir()
    for name, kind in (("pipe.pth", "pipe"), ("zero.ckpt", "a device"), ("folder.safetensors", "a folder")):
        for read in (load_pretrained, load_checkpoint):
            with refuses(name, kind, "give a regular file"):
                read(tmp_path / name)
    with refuses("pipe.pth"):
        read_class_names(tmp_path / "pipe.pth", 3)
    os.mkfifo(tmp_path / "config.json")
    with refuses("config.json", "pipe"):
        load_pretrained(hub_file(tmp_path))


def test_a_sparse_file_of_8_terabytes_is_refused_by_its_size(tmp_path):
    path = tmp_path / "a.ckpt"
    with open(path, "wb") as file:
        file.write(b"\x0a")
        file.truncate(8 * 2**40)
    with refuses("a.ckpt", f"larger than {MAX_FILE_BYTES / 1e6:g} MB"):
        load_pretrained(path)


# ---- PyTorch's files ----

LIMITED = """
import resource, sys
from pathlib import Path
import src.weights.pretrained as pretrained
from src.errors import UserError
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    pretrained.load_pretrained(Path(sys.argv[1]))
except UserError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def refused_within(path: Path, megabytes: int, *words: object) -> None:
    """Assert that a new process refuses `path` in one line with `words`, in 20 s and with this much memory."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    message, kilobytes = done.stdout.splitlines()
    assert all(str(word) in message for word in (path.name, *words)), message
    assert int(kilobytes) / 1024 <= megabytes


def unicode(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def tensor(storage: int, count: int, shape: bytes, stride: bytes) -> bytes:
    """Return the instructions that push a float32 tensor of storage `storage`, which has `count` numbers."""
    reference = b"(" + unicode("storage") + b"ctorch\nFloatStorage\n" + unicode(str(storage)) + unicode("cpu")
    reference += b"J" + struct.pack("<i", count) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + b"K\x00" + shape + stride + b"\x89}tR"


def integers(*values: int) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def test_a_thousand_views_of_one_storage_take_neither_memory_nor_time(tmp_path):
    count = 50 * 2**18  # 50 MB
    views = b"".join(
        unicode(f"blocks.{n}.mlp.fc1.weight") + tensor(0, count, integers(count), integers(1)) for n in range(1000)
    )
    path = zip_file(tmp_path / "a.pth", {"a/data.pkl": b"\x80\x02}(" + views + b"u.", "a/data/0": bytes(4 * count)})
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    refused_within(path, 200)


def test_the_views_of_a_storage_may_not_multiply_it(tmp_path):
    views = b"".join(unicode(f"v{n}") + tensor(0, 1000, integers(1000), integers(1)) for n in range(50))
    path = zip_file(tmp_path / "a.pth", {"a/data.pkl": b"\x80\x02}(" + views + b"u.", "a/data/0": bytes(4000)})
    with refuses("a.pth", 50 * 4000, "state dict"):
        read_all(path)


def test_small_views_of_two_storages_read_each_once(tmp_path, monkeypatch):
    """A thousand views of one number each, in turn of two storages: linear in the file."""
    views = b"".join(unicode(f"v{n}") + tensor(n % 2, 1000, integers(1), integers(1)) for n in range(1000))
    entries = {"a/data.pkl": b"\x80\x02}(" + views + b"u.", "a/data/0": bytes(4000), "a/data/1": bytes(4000)}
    path = zip_file(tmp_path / "a.pth", entries)
    read, names = zipfile.ZipFile.read, []
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, name: (names.append(name), read(self, name))[1])
    assert len(read_all(path)) == 1000
    assert sorted(names) == ["a/data.pkl", "a/data/0", "a/data/1"]


DOUBLED = b"".join(b"2\x86" for _ in range(100))  # DUP, TUPLE2: (x, x), ((x, x), (x, x)), ...


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02}K\x01" + DOUBLED + b"K\x01s.",  # a key
        b"\x80\x02}(K\x01" + DOUBLED + b"K\x01u.",
        b"\x80\x02(K\x01" + DOUBLED + b"K\x01d.",
        b"\x80\x04\x8f(K\x01" + DOUBLED + b"\x90.",  # an element of a set
        b"\x80\x04(K\x01" + DOUBLED + b"\x91.",
        b"\x80\x02ccollections\nOrderedDict\n)RK\x01" + DOUBLED + b"K\x01s.",
    ],
)
def test_nested_tuples_as_keys_end(tmp_path, program):
    """Hashing the last one takes 2^100 steps."""
    refused_within(zip_file(tmp_path / "a.pth", {"a/data.pkl": program}), 100, "no weights under")


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02ccollections\nOrderedDict\n(](K\x01" + DOUBLED + b"K\x01\x86etR.",
        b"\x80\x02(" + b"}" * MAX_INSTRUCTIONS + b"t.",
        b"\x80\x02" + b"X" + struct.pack("<I", MAX_PICKLE_BYTES) + b"a" * MAX_PICKLE_BYTES + b".",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",  # texts of 2^63 - 1 bytes
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02X\xff\xff\xff\x7f.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # an integer of 2 GB
        b"L" + b"1" * 100_000 + b"L\n.",
        b"\x80\x02h\x01.",  # a memo place that was never written
        b"\x80\x02t.",  # a tuple without a mark
        b"\x80\x02(((.",
        b"\x80\x05\x97.",
    ],
)
def test_pickles_that_ask_for_too_much_are_refused(program):
    with pytest.raises(UnsafePickle) as raised:
        load_pickle(program)
    assert len(one_line(raised.value)) < 300


def test_deep_nesting_and_containers_of_themselves_are_harmless(tmp_path):
    for program in (
        b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        b"\x80\x02K\x01" + b"\x85" * 200_000 + b".",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.",
        b"\x80\x02]q\x00" + b"h\x00a" * 1000 + b".",
    ):
        path = zip_file(tmp_path / "a.pth", {"a/data.pkl": program})
        with refuses("a.pth", "no weights"):
            load_pretrained(path)


def test_keys_other_than_texts_are_kept_apart():
    """The optimizer's state has integers as keys; integers with equal hashes would take quadratic time."""
    found = load_pickle(pickle.dumps({"state": {n * (2**61 - 1): "x" for n in range(1000)}, (1, 2): 3}, 2))
    assert len(found["state"]) == 1000
    assert set(found["state"].values()) == {"x"}
    assert len(found) == 2


@pytest.mark.parametrize("shape", [(1,) * 65, (0,) * 8, (0, 2**31 - 1, 2**31 - 1, 2**31 - 1)])
def test_tensors_of_many_dimensions_or_without_numbers_are_refused(tmp_path, shape):
    program = b"\x80\x02}" + unicode("cls_token") + tensor(0, 1, integers(*shape), integers(*shape)) + b"s."
    with refuses("a.pth"):
        load_pretrained(zip_file(tmp_path / "a.pth", {"a/data.pkl": program, "a/data/0": bytes(4)}))


def test_an_archive_with_a_repeated_entry_or_stated_sizes_beyond_the_file_is_refused(tmp_path):
    path = zip_file(tmp_path / "a.pth", entries_of("views.pth"))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("views/data/0", bytes(96))
    with refuses("a.pth", "twice"):
        read_all(path)
    path = zip_file(tmp_path / "b.pth", entries_of("views.pth"))
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    huge = content[: directory + 20] + struct.pack("<II", 2**31, 2**31) + content[directory + 28 :]
    path.write_bytes(huge)
    with refuses("b.pth", "entries"):
        read_all(path)


# ---- MindSpore's files and safetensors ----


def ckpt_message(name: bytes, dims: list[int], content: bytes, kind: bytes = b"Float32") -> bytes:
    array = b"".join(_key(1, 0) + _varint(size) for size in dims) + _chunk(2, kind) + _chunk(3, content)
    return _chunk(1, _chunk(1, name) + _chunk(2, array))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ckpt_message(b"w", [1] * 65, bytes(4)), ["an array has more than 8 dimensions"]),
        (ckpt_message(b"w", [2**63] * 8, bytes(4)), ["w"]),
        (ckpt_message(b"w", [0, 2**69], b""), ["w"]),
        (ckpt_message(b"w", [0, 2**62, 2**62], b""), ["w"]),
        (ckpt_message(b"w", [2**40], bytes(4)), ["w", 2**40]),
        (ckpt_message(b"w", [1], bytes(4)) * 100, ["parts"]),
        (_chunk(1, _chunk(1, b"a") * 100_000), ["twice"]),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", ["truncated"]),
    ],
)
def test_ckpt_files_with_impossible_arrays_are_refused(tmp_path, content, words):
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with refuses("a.ckpt", *words):
        list(read_ckpt(path))


def test_a_ckpt_file_of_endless_entries_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"".join(ckpt_message(b"%d" % number, [], bytes(4)) for number in range(10_001)))
    with refuses("a.ckpt", 10_000):
        load_pretrained(path)


@pytest.mark.parametrize("shape", [[1] * 9, [1] * 65, [0] * 40, [0, 2**63], [0, 2**62, 2**62], [0, 10**30]])
def test_safetensors_files_with_impossible_arrays_are_refused(tmp_path, shape):
    size = 0 if 0 in shape else 4
    header = {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes(header, bytes(size)))
    with refuses("a.safetensors"):
        list(read_safetensors(path)[1])


def test_a_position_table_without_numbers_cannot_pretend_an_image_size(tmp_path):
    rows = (2 * 2**15 - 1) ** 2 + 3
    table = "blocks.0.attn.relative_position_bias_table"
    weights = random_weights() | {table: np.zeros((rows, 0), np.float32)}
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(weights, model_info(ANY_ARCH, 32, 10)))
    with refuses("a.safetensors", table, rows):
        load_pretrained(tmp_path / "a.safetensors")
