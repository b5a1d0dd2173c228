"""The project's checkpoint files: this project and MindSpore read them, and damage is detected."""

from __future__ import annotations

import errno
import os
import resource

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.files import atomic_file
from src.model.model_info import ModelInfo
from src.weights import mindspore_ckpt_file
from src.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from src.weights.mindspore_ckpt_file import read_ckpt, write_ckpt
from src.weights.pretrained import load_pretrained
from tests.networks import model_info
from tests.weights_golden import ANY_ARCH, assert_same, one_line, refuses, small_weights

SUFFIXES = (".ckpt", ".safetensors")
INFO = model_info(ANY_ARCH, 12, 3, ("tench", "goldfish", "größer"), crop_pct=0.875)


def a_checkpoint(seed: int = 0) -> Checkpoint:
    weights = small_weights(patch_size=4, seed=seed)
    return Checkpoint(
        weights=weights,
        info=INFO,
        ema=small_weights(patch_size=4, seed=seed + 1),
        optimizer={
            "moment1.head.weight": np.full((3, 8), 0.25, np.float32),
            "step": np.array(7, np.int32),
            "overflow": np.array([True, False]),
        },
        training={"epoch": 3, "step": 41, "best": [[0.5, "a.ckpt"]]},
    )


def assert_same_checkpoint(found: Checkpoint, wanted: Checkpoint) -> None:
    assert_same(found.weights, wanted.weights)
    assert_same(found.ema or {}, wanted.ema or {})
    assert_same(found.optimizer or {}, wanted.optimizer or {})
    assert (found.info, found.training) == (wanted.info, wanted.training)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_checkpoint_reads_back_bit_for_bit(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_checkpoint(path, a_checkpoint())
    found = load_checkpoint(path)
    assert_same_checkpoint(found, a_checkpoint())
    assert (found.format, found.guessed) == ("mindspore", frozenset())
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_checkpoint_of_weights_alone_has_no_other_state(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    half = {name: array.astype(np.float16) for name, array in small_weights(patch_size=4).items()}
    save_checkpoint(path, Checkpoint(half, INFO))
    found = load_checkpoint(path)
    assert_same(found.weights, half)
    assert (found.ema, found.optimizer, found.training) == (None, None, None)


def test_load_pretrained_returns_the_averaged_weights_on_request(tmp_path):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, a_checkpoint())
    assert_same(load_pretrained(path).weights, a_checkpoint().weights)
    averaged = load_pretrained(path, ema=True)
    assert_same(averaged.weights, a_checkpoint().ema)
    assert (averaged.ema, averaged.optimizer, averaged.training) == (None, None, None)
    save_checkpoint(path, Checkpoint(small_weights(patch_size=4), INFO))
    with refuses("a.ckpt", "averaged", "--ema"):
        load_pretrained(path, ema=True)


def test_load_pretrained_refuses_another_arch_and_contradictory_information(tmp_path):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, a_checkpoint())
    with refuses("a.ckpt", ANY_ARCH, "beit_base_patch16_224"):
        load_pretrained(path, arch="beit_base_patch16_224")
    save_checkpoint(path, Checkpoint(small_weights(patch_size=4), model_info(ANY_ARCH, 12, 4)))
    with refuses("a.ckpt", "num_classes", 4, 3):
        load_pretrained(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_checkpoints_give_equal_files(tmp_path, suffix):
    paths = [tmp_path / f"{number}{suffix}" for number in range(4)]
    for path in paths:
        save_checkpoint(path, a_checkpoint())
    assert len({path.read_bytes() for path in paths}) == 1


# ---- exchange with MindSpore ----


def test_mindspore_loads_the_weights_of_a_checkpoint_strictly(tmp_path):
    import mindspore as ms

    class Net(ms.nn.Cell):
        def __init__(self, weights):
            super().__init__()
            self.all = ms.ParameterTuple(
                [ms.Parameter(ms.Tensor(np.zeros_like(array)), name=name) for name, array in weights.items()]
            )

    path = tmp_path / "a.ckpt"
    save_checkpoint(path, a_checkpoint())
    loaded = ms.load_checkpoint(str(path))
    net = Net(a_checkpoint().weights)
    assert ms.load_param_into_net(net, loaded, strict_load=True)[0] == []
    assert_same({p.name: p.asnumpy() for p in net.get_parameters()}, a_checkpoint().weights)
    assert ModelInfo.from_json(loaded["model_info"].asnumpy().tobytes().decode()) == INFO
    assert_same({k[4:]: v.asnumpy() for k, v in loaded.items() if k.startswith("ema.")}, a_checkpoint().ema)


def test_a_checkpoint_that_mindspore_saves_again_or_converts_is_still_a_checkpoint(tmp_path):
    import mindspore as ms

    path = tmp_path / "a.ckpt"
    save_checkpoint(path, a_checkpoint())
    ms.save_checkpoint(ms.load_checkpoint(str(path)), str(tmp_path / "b.ckpt"), crc_check=True)
    assert_same_checkpoint(load_checkpoint(tmp_path / "b.ckpt"), a_checkpoint())
    ms.ckpt_to_safetensors(str(path), save_path=str(tmp_path / "c"))
    assert_same_checkpoint(load_checkpoint(tmp_path / "c" / "a.safetensors"), a_checkpoint())
    save_checkpoint(tmp_path / "d.safetensors", a_checkpoint())
    loaded = ms.load_checkpoint(str(tmp_path / "d.safetensors"), format="safetensors")
    assert_same({name: loaded[name].asnumpy() for name in small_weights(patch_size=4)}, small_weights(patch_size=4))


def test_every_type_that_mindspore_writes_is_read(tmp_path):
    import mindspore as ms

    arrays = {
        "float32": np.array([[1.5, -2.0]], np.float32),
        "float16": np.array([0.1], np.float16),
        "float64": np.array([0.1]),
        "scalar": np.array(2.5, np.float32),
        "int64": np.array([-(2**40), 3]),
        "int32": np.array(-5, np.int32),
        "uint8": np.arange(3, dtype=np.uint8),
        "bool": np.array([True, False]),
    }
    entries = [{"name": name, "data": ms.Tensor(array)} for name, array in arrays.items()]
    entries.append({"name": "bfloat16", "data": ms.Tensor([1.0, -2.5, 3.140625], ms.bfloat16)})
    path = str(tmp_path / "a.ckpt")
    for crc_check in (False, True):
        ms.save_checkpoint(entries, path, append_dict={"note": "text", "epoch_num": 3}, crc_check=crc_check)
        found = dict(read_ckpt(path))
        assert found.pop("epoch_num") == 3
        # bfloat16 represents these three numbers exactly
        assert_same(found, arrays | {"bfloat16": np.array([1.0, -2.5, 3.140625], np.float32)})
        os.chmod(path, 0o644)


def test_a_shape_of_one_zero_is_a_scalar_as_in_mindspore(tmp_path):
    import mindspore as ms

    tensor = b"\x08\x00" + b"\x12\x07Float32" + b"\x1a\x04" + np.float32(2.5).tobytes()
    value = b"\x0a\x01a" + b"\x12" + bytes([len(tensor)]) + tensor
    (tmp_path / "a.ckpt").write_bytes(b"\x0a" + bytes([len(value)]) + value)
    wanted = {"a": np.array(2.5, np.float32)}
    assert_same(dict(read_ckpt(tmp_path / "a.ckpt")), wanted)
    assert_same({"a": ms.load_checkpoint(str(tmp_path / "a.ckpt"))["a"].asnumpy()}, wanted)


def test_a_checkpoint_saved_by_mindspore_is_recognized_by_its_names(tmp_path):
    import mindspore as ms

    weights = small_weights(patch_size=4, embed_dim=96, depth=4, num_heads=3, grid=8)
    entries = [{"name": name, "data": ms.Tensor(array)} for name, array in weights.items()]
    ms.save_checkpoint(entries, str(tmp_path / "a.ckpt"), append_dict={"epoch_num": 3, "step_num": 9})
    found = load_pretrained(tmp_path / "a.ckpt")
    assert_same(found.weights, weights)
    assert (found.format, found.info.model.arch, found.info.model.num_classes) == ("mindspore", ANY_ARCH, 3)
    assert {"mean", "std", "crop_pct"} <= found.guessed
    with refuses("a.ckpt", "convert.py"):
        load_checkpoint(tmp_path / "a.ckpt")


def test_arrays_beyond_protobufs_limit_are_split_as_by_mindspore(tmp_path, monkeypatch):
    import mindspore as ms

    monkeypatch.setattr(mindspore_ckpt_file, "MAX_CONTENT_BYTES", 16)
    arrays = {"a": np.arange(21, dtype=np.float32).reshape(3, 7), "b": np.arange(4, dtype=np.float32)}
    with open(tmp_path / "a.ckpt", "wb") as file:
        write_ckpt(file, arrays.items())
    assert (tmp_path / "a.ckpt").read_bytes().count(b"Float32") == 7  # 84 and 16 bytes in pieces of 16
    assert_same(dict(read_ckpt(tmp_path / "a.ckpt")), arrays)
    assert_same({k: v.asnumpy() for k, v in ms.load_checkpoint(str(tmp_path / "a.ckpt")).items()}, arrays)


# ---- atomic writing ----


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_the_older_checkpoint_and_no_temporary_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    save_checkpoint(path, a_checkpoint())
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_file.os, "fsync", full)
    with refuses(path, "No space left on device"):
        save_checkpoint(path, a_checkpoint(5))
    assert (os.listdir(tmp_path), path.read_bytes()) == ([path.name], before)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_write_that_fails_halfway_leaves_no_file(tmp_path, suffix):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with refuses(f"a{suffix}", "File too large"):
            save_checkpoint(tmp_path / f"a{suffix}", a_checkpoint())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_an_interrupted_write_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, a_checkpoint())

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic_file.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, a_checkpoint(5))
    assert os.listdir(tmp_path) == ["a.ckpt"]
    assert_same_checkpoint(load_checkpoint(path), a_checkpoint())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_the_disk_changed_does_not_get_the_name(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    save_checkpoint(path, a_checkpoint())
    real = os.fsync

    def losing_a_bit(descriptor):
        size = os.fstat(descriptor).st_size
        if size > 1000:  # the file, not its folder
            os.lseek(descriptor, size - 3, os.SEEK_SET)
            os.write(descriptor, b"\xff")
        real(descriptor)

    monkeypatch.setattr(atomic_file.os, "fsync", losing_a_bit)
    with refuses(path, "not written", "disk"):
        save_checkpoint(path, a_checkpoint(5))
    assert os.listdir(tmp_path) == [path.name]
    assert_same_checkpoint(load_checkpoint(path), a_checkpoint())


def test_a_symbolic_link_stays_a_link(tmp_path):
    (tmp_path / "real.ckpt").write_bytes(b"old")
    (tmp_path / "link.ckpt").symlink_to(tmp_path / "real.ckpt")
    save_checkpoint(tmp_path / "link.ckpt", a_checkpoint())
    assert (tmp_path / "link.ckpt").is_symlink()
    assert_same_checkpoint(load_checkpoint(tmp_path / "real.ckpt"), a_checkpoint())


def test_unusable_output_names_are_refused(tmp_path):
    with refuses("a.pth", ".ckpt", ".safetensors"):
        save_checkpoint(tmp_path / "a.pth", a_checkpoint())
    with refuses("a.ckpt", "No such file or directory", "another folder"):
        save_checkpoint(tmp_path / "no" / "a.ckpt", a_checkpoint())
    (tmp_path / "folder.ckpt").mkdir()
    with refuses("folder.ckpt"):
        save_checkpoint(tmp_path / "folder.ckpt", a_checkpoint())
    assert os.listdir(tmp_path) == ["folder.ckpt"]


# ---- damaged files ----


@pytest.fixture(scope="module", params=SUFFIXES)
def whole_file(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / f"a{request.param}"
    save_checkpoint(path, a_checkpoint())
    return path


def load_bytes(folder, name: str, content: bytes) -> Checkpoint:
    path = folder / name
    path.write_bytes(content)
    return load_checkpoint(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_every_shorter_file_is_refused(whole_file, tmp_path, share):
    content = whole_file.read_bytes()
    with pytest.raises(UserError, match=whole_file.name) as raised:
        load_bytes(tmp_path, whole_file.name, content[: int(share * len(content))])
    assert "\n" not in str(raised.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_changed_byte_is_detected_or_irrelevant(whole_file, tmp_path, share, bits):
    content = bytearray(whole_file.read_bytes())
    content[int(share * len(content))] ^= bits
    try:
        found = load_bytes(tmp_path, whole_file.name, bytes(content))
    except UserError as error:
        one_line(error)
    else:
        assert_same_checkpoint(found, a_checkpoint())


def test_a_changed_bit_at_the_start_is_detected_or_irrelevant(whole_file, tmp_path):
    """Every bit of the first 64 bytes, which have lengths, names, shapes and checksums."""
    whole = whole_file.read_bytes()
    refused = 0
    for position in range(64):
        for bit in range(8):
            content = bytearray(whole)
            content[position] ^= 1 << bit
            try:
                assert_same_checkpoint(load_bytes(tmp_path, whole_file.name, bytes(content)), a_checkpoint())
            except UserError:
                refused += 1
    assert refused >= 64 * 8 - 8 * len("formatms")  # only this entry of a safetensors file is irrelevant


def test_a_ckpt_truncated_between_two_arrays_misses_one(tmp_path):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, a_checkpoint())
    content = path.read_bytes()
    start = content.rindex(b"optimizer.overflow") - 4  # two keys and two lengths before the name
    assert content[start : start + 1] == b"\x0a"
    path.write_bytes(content[:start])
    with refuses(path, "'optimizer.overflow'", "missing"):
        load_checkpoint(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_parameter_is_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_checkpoint(path, a_checkpoint())
    bits = a_checkpoint().weights["blocks.1.mlp.fc2.weight"].tobytes()
    path.write_bytes(path.read_bytes().replace(bits, bits[:-1] + bytes([bits[-1] ^ 1])))
    with refuses(path, "checksum", "'blocks.1.mlp.fc2.weight'"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"hello, this is a text", ["MindSpore", "safetensors"]),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", ["integer", "truncated"]),
        (b"\x0a\xff\xff\xff\x7f", ["truncated"]),
    ],
)
def test_foreign_files_are_refused(tmp_path, content, words):
    with refuses(tmp_path / "a.ckpt", *words):
        load_bytes(tmp_path, "a.ckpt", content)


def test_a_missing_file_is_an_error(tmp_path):
    with refuses("no.ckpt", "No such file or directory"):
        load_checkpoint(tmp_path / "no.ckpt")
    with refuses(tmp_path, "a folder"):
        load_checkpoint(tmp_path)
