"""What a user reads where the system refuses something or a file is not what it seems; the other messages are tested
where what they are about is."""

from __future__ import annotations

import builtins
import json
import os

import numpy as np
import pytest

import convert
from src.config import parse_args
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
from tests.weights_golden import ANY_ARCH, random_weights

QUICKSTART = ["--config_path", "quickstart_digits"]


def refused(call, *arguments, **named) -> str:
    """The message of the `UserError` that a call ends in; it is one line."""
    with pytest.raises(UserError) as raised:
        call(*arguments, **named)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def not_permitted(*arguments, **named):
    raise PermissionError(13, "Permission denied")


def read_all(path) -> list:
    return list(read_ckpt(path))


# ---- options that do not fit together ----


@pytest.mark.parametrize(
    ("script", "words", "text"),
    [
        (
            "train",
            ["--collect_input_data", "--dataset_sink_mode", "True", "--device_target", "GPU"],
            "collect_input_data needs dataset_sink_mode False: in sink mode the host never sees the images",
        ),
        (
            "train",
            ["--dump_graph", "--pynative_mode"],
            "dump_graph needs pynative_mode False: without a graph there is nothing to draw",
        ),
        (
            "train",
            ["--shared_rel_pos_bias"],
            "rel_pos_bias and shared_rel_pos_bias are both True: the bias is per block or shared",
        ),
        ("train", ["--epochs", "three"], "--epochs is three, expected a whole number, at least 1"),
        ("train", ["--re_prob", "1.5"], "--re_prob is 1.5, expected a number, at least 0, at most 1"),
    ],
)
def test_options_that_do_not_fit(script, words, text):
    assert refused(parse_args, [*QUICKSTART, *words], script) == text


def test_an_option_that_convert_does_not_know():
    assert refused(convert.main, ["--input", "a"]) == (
        "the following arguments are required: --arch, --output; see --help"
    )


# ---- files and folders that the system does not give ----


def test_a_folder_of_images_that_may_not_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "scandir", not_permitted)
    where = f"cannot read image folder {tmp_path}: Permission denied"
    assert refused(read_image_folder, tmp_path) == f"{where}; check the path and its permissions"
    assert refused(find_images, tmp_path) == f"{tmp_path} cannot be read (Permission denied): check its permissions"


def test_a_list_of_images_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "images.txt"
    path.write_text("a.png\n")
    monkeypatch.setattr(builtins, "open", not_permitted)
    assert refused(find_images, path) == f"{path} cannot be read (Permission denied): check its permissions"


def test_predictions_that_cannot_be_written(tmp_path):
    path = tmp_path / "missing" / "predictions.json"
    assert refused(Journal, path, {}, resume=False) == (
        f"{path}.partial cannot be written (No such file or directory): choose another place"
    )


@pytest.mark.parametrize("read", [read_all, read_safetensors])
def test_weights_that_may_not_be_read(tmp_path, monkeypatch, read):
    path = tmp_path / "a"
    path.write_bytes(bytes(64))
    monkeypatch.setattr(builtins, "open", not_permitted)
    assert refused(read, path) == (
        f"{path} cannot be read (Permission denied): copy it again, or check its permissions"
    )


def test_class_names_that_are_no_text(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xff\xfe\x00")
    message = refused(read_class_names, path, 3)
    assert message.startswith(f"{path} cannot be read as a list of class names ('utf-8' codec can't decode byte 0xff")
    assert message.endswith("): give a text file with one name a line")


def test_a_device_that_mindspore_refuses(monkeypatch):
    import mindspore

    from src.runtime import device

    def refuse(*arguments):
        raise RuntimeError("there are 2 devices\nand a call stack")

    monkeypatch.setattr(mindspore, "set_device", refuse)
    monkeypatch.setattr(mindspore, "get_current_device", lambda: ("CPU", 0))
    assert refused(device.start_device, "CPU", 7, pynative=True) == (
        "device_id 7 of CPU cannot be used (there are 2 devices): give another --device_id"
    )


# ---- weights that are not what they seem ----


def entries(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """What a whole checkpoint holds, with some of it changed and its checksums right."""
    arrays = {**small_weights(), MODEL_INFO: as_bytes(INFO.to_json())} | changes
    return arrays | {CHECKSUMS: as_bytes(json.dumps({name: checksum(array) for name, array in arrays.items()}))}


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def without(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (without(entries(), CHECKSUMS), "is damaged (its checksums are missing): use an earlier one"),
        (
            entries() | {CHECKSUMS: as_bytes("[1]")},
            "is damaged (its checksums are unreadable): use an earlier one",
        ),
        (entries() | {CHECKSUMS: as_bytes("{")}, "is damaged (its checksums are unreadable): use an earlier one"),
        (
            entries(**{MODEL_INFO: as_bytes('{"arch": "beit"}')}),
            "holds model information that this version cannot read (model information must hold exactly the fields ",
        ),
        (
            entries(cls_token=np.zeros((1, 1, 8), np.int32)),
            "holds a parameter 'cls_token' of type int32, it is damaged: use an earlier one",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole(tmp_path, arrays, text):
    path = tmp_path / "a.ckpt"
    with path.open("wb") as file:
        write_ckpt(file, arrays.items())
    message = refused(load_checkpoint, path)
    assert message.startswith(f"{path} {text}")
    if "version" in text:
        assert message.endswith("): use the version that wrote it")


def test_a_checkpoint_with_a_parameter_twice(tmp_path):
    path = tmp_path / "a.ckpt"
    with path.open("wb") as file:
        write_ckpt(file, [*entries().items(), *small_weights().items()])
    name = next(iter(small_weights()))
    assert refused(load_checkpoint, path) == f"{path} holds '{name}' twice, it is damaged: use an earlier one"


def test_a_foreign_file_has_no_averaged_weights(tmp_path):
    path = tmp_path / "a.safetensors"
    write_foreign(path, random_weights(), "timm")
    assert refused(load_pretrained, path, arch=ANY_ARCH, ema=True) == (
        f"{path} holds no averaged weights: leave out --ema"
    )


def test_a_config_beside_weights_that_is_no_object(tmp_path):
    path = tmp_path / "model.safetensors"
    write_foreign(path, random_weights(), "hf")
    (tmp_path / "config.json").write_text("[]")
    assert refused(load_pretrained, path, arch=ANY_ARCH) == (
        f"{tmp_path / 'config.json'} is not a JSON object: mend it or move the weights to another folder"
    )


def test_a_checkpoint_of_another_architecture(tmp_path):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, Checkpoint(small_weights(), INFO))
    assert refused(load_pretrained, path, arch="beit_base_patch16_224") == (
        f"{path} is a {INFO.arch}, not a beit_base_patch16_224: give its own arch"
    )
