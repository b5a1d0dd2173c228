"""Error messages for files that the system refuses and for damaged or mismatched weights.

Other messages are tested beside the code that raises them.
"""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convert
from src.data.image_folder import read_image_folder
from src.errors import UserError
from src.prediction.find_images import find_images
from src.prediction.journal import Journal
from src.weights.checkpoint import CHECKSUMS, MODEL_INFO, Checkpoint, checksum, load_checkpoint, save_checkpoint
from src.weights.class_names import read_class_names
from src.weights.foreign_writer import write_foreign
from src.weights.mindspore_ckpt_file import read_ckpt, write_ckpt
from src.weights.pretrained import load_pretrained
from src.weights.safetensors_file import read_safetensors
from tests.test_checkpoint import INFO, small_weights
from tests.tiny_project import ROOT, error_line
from tests.weights_golden import ANY_ARCH, random_weights

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2  # linux/prctl.h, linux/capability.h


def refused(call, *arguments, **named) -> str:
    """Return the message of the `UserError` that a call raises, which is one line."""
    with pytest.raises(UserError) as raised:
        call(*arguments, **named)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def not_permitted(*arguments, **named):
    raise PermissionError(13, "Permission denied")


def read_all(path) -> list:
    return list(read_ckpt(path))


def test_a_missing_option_of_convert_is_named():
    message = refused(convert.main, ["--input", "a"])
    assert "--arch" in message
    assert "--output" in message


# ---- files and folders that the system refuses ----


def test_an_unreadable_folder_of_images_is_named_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "scandir", not_permitted)
    for read in (read_image_folder, find_images):
        message = refused(read, tmp_path)
        assert all(part in message for part in (str(tmp_path), "Permission denied", "permissions"))


def without_the_rights_of_root() -> None:
    """Let this process and its children obey the permissions of files, also as root."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("from src.prediction.find_images import find_images as f; f(p)", "cannot be read (Permission denied)"),
        ("from src.data.image_folder import read_image_folder as f; f(p)", "cannot read image folder"),
        (
            "from src.prediction.predictions_file import prepare_output as f; f('output', p, ['.x'])",
            "cannot be written",
        ),
        ("from src.files.writable_folder import make_folder as f; f(p)", "cannot be written (Permission denied)"),
        ("from src.options.config_file import find_config, read_entries as f; list(f(find_config(str(p))))", "read"),
        ("from src.weights.class_names import read_class_names as f; f(p, 1)", "cannot be read as a list of class"),
        ("from src.runtime.hosts import read_hostfile as f; f(p)", "cannot be read as a hostfile"),
    ],
)
def test_a_path_in_a_folder_that_nobody_may_enter_is_an_error(tmp_path, call, expected):
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "a.x").mkdir()
    closed.chmod(0)
    code = f"from pathlib import Path; from src.errors import exit_code; p = Path({str(closed / 'a.x')!r})\n"
    code += f"def main():\n    {call}\nraise SystemExit(exit_code(main))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        preexec_fn=without_the_rights_of_root,
    )
    closed.chmod(0o700)
    line = error_line(done)
    assert all(part in line for part in (str(closed), "Permission denied", expected))


def test_an_unreadable_list_of_images_is_named_with_the_reason(tmp_path, monkeypatch):
    path = tmp_path / "images.txt"
    path.write_text("a.png\n")
    monkeypatch.setattr(os, "open", not_permitted)
    message = refused(find_images, path)
    assert all(part in message for part in (str(path), "Permission denied", "permissions"))


def test_predictions_that_cannot_be_written_are_named_with_the_reason(tmp_path):
    path = tmp_path / "missing" / "predictions.json"
    message = refused(Journal, path, {}, resume=False)
    assert all(part in message for part in (f"{path}.partial", "No such file or directory", "--output"))


@pytest.mark.parametrize("read", [read_all, read_safetensors])
def test_unreadable_weights_are_named_with_the_reason(tmp_path, monkeypatch, read):
    path = tmp_path / "a"
    path.write_bytes(bytes(64))
    monkeypatch.setattr(builtins, "open", not_permitted)
    message = refused(read, path)
    assert all(part in message for part in (str(path), "Permission denied", "permissions"))


def test_class_names_that_are_not_text_are_an_error(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xff\xfe\x00")
    message = refused(read_class_names, path, 3)
    assert all(part in message for part in (str(path), "0xff", "one name"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat\n\x1b[2Jdog\nowl\n", r", line 2: '\x1b[2Jdog' has a control character; remove it"),
        ("cat\ndog\n\0\n", r", line 3: '\x00' has a control character; remove it"),
        ("x" * 10_000_001, " is larger than 10 MB; give a smaller file"),
    ],
)
def test_class_names_that_no_terminal_should_show_are_an_error(tmp_path, text, expected):
    path = tmp_path / "names.txt"
    path.write_text(text)
    assert refused(read_class_names, path, 3) == f"{path}{expected}"


def test_class_names_that_are_not_in_a_regular_file_are_an_error(tmp_path):
    assert refused(read_class_names, Path("/dev/zero"), 3) == "/dev/zero is a device; give a regular file"
    os.mkfifo(tmp_path / "fifo")
    assert "fifo is a named pipe" in refused(read_class_names, tmp_path / "fifo", 3)


def test_a_device_number_that_mindspore_refuses_is_named_with_the_reason(monkeypatch):
    import mindspore

    from src.runtime import device

    def refuse(*arguments):
        raise RuntimeError("there are 2 devices\nand a call stack")

    monkeypatch.setattr(mindspore, "set_device", refuse)
    monkeypatch.setattr(mindspore, "get_current_device", lambda: ("CPU", 0))
    message = refused(device.start_device, "CPU", 7, pynative=True)
    assert all(part in message for part in ("device_id is 7", "CPU", "(there are 2 devices)", "--device_id"))


# ---- damaged and mismatched weights ----


def entries(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of a complete checkpoint with some of them changed and correct checksums."""
    arrays = {**small_weights(), MODEL_INFO: as_bytes(INFO.to_json())} | changes
    return arrays | {CHECKSUMS: as_bytes(json.dumps({name: checksum(array) for name, array in arrays.items()}))}


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def without(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (without(entries(), CHECKSUMS), ["damaged", "checksums", "missing"]),
        (entries() | {CHECKSUMS: as_bytes("[1]")}, ["damaged", "checksums"]),
        (entries() | {CHECKSUMS: as_bytes("{")}, ["damaged", "checksums"]),
        (entries(**{MODEL_INFO: as_bytes('{"arch": "beit"}')}), ["model information", "version"]),
        (entries(cls_token=np.zeros((1, 1, 8), np.int32)), ["damaged", "'cls_token'", "int32"]),
    ],
)
def test_an_incomplete_checkpoint_is_an_error(tmp_path, arrays, expected):
    path = tmp_path / "a.ckpt"
    with path.open("wb") as file:
        write_ckpt(file, arrays.items())
    message = refused(load_checkpoint, path)
    assert message.startswith(str(path))
    assert all(part in message for part in expected), message


def test_a_checkpoint_with_a_parameter_twice_is_an_error(tmp_path):
    path = tmp_path / "a.ckpt"
    with path.open("wb") as file:
        write_ckpt(file, [*entries().items(), *small_weights().items()])
    message = refused(load_checkpoint, path)
    assert all(part in message for part in (str(path), f"'{next(iter(small_weights()))}'", "twice"))


def test_a_foreign_file_has_no_averaged_weights(tmp_path):
    path = tmp_path / "a.safetensors"
    write_foreign(path, random_weights(), "timm")
    message = refused(load_pretrained, path, arch=ANY_ARCH, ema=True)
    assert all(part in message for part in (str(path), "averaged", "--ema"))


def test_a_config_beside_the_weights_must_be_a_json_object(tmp_path):
    path = tmp_path / "model.safetensors"
    write_foreign(path, random_weights(), "hf")
    (tmp_path / "config.json").write_text("[]")
    message = refused(load_pretrained, path, arch=ANY_ARCH)
    assert all(part in message for part in (str(tmp_path / "config.json"), "JSON object"))


def test_a_checkpoint_of_another_architecture_is_an_error(tmp_path):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, Checkpoint(small_weights(), INFO))
    message = refused(load_pretrained, path, arch="beit_base_patch16_224")
    assert all(part in message for part in (str(path), ANY_ARCH, "beit_base_patch16_224"))
