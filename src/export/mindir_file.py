"""MINDIR and AIR files: writing by MindSpore's exporter, and loading of MINDIR."""

import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError, Message
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto, TensorProto

from src.errors import UserError
from src.export.checksum import Metadata, read_metadata, require_checksum, seal
from src.export.metadata import to_metadata
from src.files.protobuf_file import MalformedMessage, ProtobufFile
from src.files.regular_file import check_regular
from src.model.model_info import ModelInfo
from src.weights.arrays import MAX_FILE_BYTES

AIR_BATCH = 1  # AIR has no dynamic shapes


def write_mindir(network: nn.Cell, info: ModelInfo, path: Path) -> None:
    """Write `network` (images float32 [batch, 3, S, S] -> logits) for any batch to `path`, which ends in `.mindir`.

    The metadata of `info` become MindSpore's `user_info`. MindSpore writes weights beyond 1 GB to the folder
    `<name>_variables`, which must stay beside the file. MindSpore can export a network only once.
    """

    def add_metadata(model: ModelProto) -> None:
        for name, text in to_metadata(info).items():
            model.user_info[name] = text

    image = Tensor(shape=[None, 3, info.model.image_size, info.model.image_size], dtype=ms.float32)
    ms.export(network, image, file_name=str(path.with_suffix("")), file_format="MINDIR", custom_func=add_metadata)
    # with weights beside it, MindSpore names the file <name>_graph.mindir; renaming it keeps the reference to them
    split = path.with_name(f"{path.stem}_graph.mindir")
    if split.exists():
        split.rename(path)
    path.chmod(path.stat().st_mode | stat.S_IWUSR)  # MindSpore writes it for reading only
    seal(path, files_beside(path))


def mindir_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a MINDIR file of any program. Raises `UserError` for another kind of file."""
    return _metadata(path).pairs


def load_mindir(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load the MINDIR file `path` to the current device.

    Raises `UserError` for a damaged file, and for one whose weights are in files other than those that exports write.
    """
    require_checksum(path, _metadata(path), files_beside(path))
    try:
        cell = nn.GraphCell(ms.load(str(path)))
    except (RuntimeError, ValueError) as error:
        raise _unusable(path, str(error).splitlines()[0]) from error

    def run(images: np.ndarray) -> np.ndarray:
        return cell(Tensor(images)).asnumpy()

    return run


def files_beside(path: Path) -> list[Path]:
    """Return the files that hold weights of the MINDIR file `path`.

    Raises `UserError` for another kind of file, and unless they are regular files in a folder `*_variables` beside it.
    """
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, ValueError, RecursionError) as error:  # protobuf's own, bytes that are no text, deep nesting
        raise _unusable(path, "it is damaged or of another kind") from error
    names = sorted({external.location for external in _external_data(model)})
    for name in names:
        folder = path.parent / name.split("/")[0]
        plain = re.fullmatch(r"[^/\\\0]+_variables/[^/\\\0]+", name) and not name.endswith(("/.", "/.."))
        if not plain or folder.is_symlink() or (path.parent / name).is_symlink() or not (path.parent / name).is_file():
            raise _unusable(path, f"weights are in {name[:100]!r}, which is not a file that an export writes beside it")
    return [path.parent / name for name in names]


def _external_data(message: Message) -> Iterator[Any]:
    """Yield the descriptions of external data anywhere in a message."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for each in [value] if isinstance(value, Message) else value:
            if isinstance(each, TensorProto.ExternalDataProto):
                yield each
            else:
                yield from _external_data(each)


def _metadata(path: Path) -> Metadata:
    check_regular(path, MAX_FILE_BYTES)
    try:
        with open(path, "rb") as file:
            return read_metadata(ProtobufFile(file))
    except OSError as error:
        raise _unusable(path, str(error.strerror or error)) from error
    except MalformedMessage as error:
        raise _unusable(path, str(error)) from error


def _unusable(path: Path, reason: str) -> UserError:
    return UserError(f"{path} cannot be loaded as a MINDIR file ({reason}): export the checkpoint again")


def write_air(network: nn.Cell, image_size: int, path: Path) -> None:
    """Write `network` for a batch of one image to `path`, which ends in `.air`. Only the Ascend backend can."""
    image = Tensor(np.zeros((AIR_BATCH, 3, image_size, image_size), np.float32))
    ms.export(network, image, file_name=str(path.with_suffix("")), file_format="AIR")
