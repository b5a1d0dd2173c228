"""The compiled graph of a network in evaluation mode, kept on disk: compiling takes ten times as long as loading it.

A graph is one archive, named after a hash of everything that the graph may depend on. An archive appears whole or not
at all, and its checksums are verified, so a graph of another network or a damaged one is never used. Archives can be
deleted at any time.
"""

import functools
import hashlib
import json
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import mindspore
from mindspore import Tensor, nn

from src.errors import UserError
from src.files.atomic_file import write_atomically
from src.runtime.kernel_library import Unavailable, cache_folder, kernel_library

logger = logging.getLogger("beit")

SOURCES = Path(__file__).resolve().parents[1]
MAX_BYTES = 2**28  # of an unpacked archive; BEiT-base has 0.4 MB


def compile_network(network: nn.Cell, images: Tensor, facts: Sequence[object], folder: Path | None) -> None:
    """Compile `network` in graph mode for inputs like `images`, or take its graph from the cache.

    Args:
        network: in evaluation mode. Its parameters may change later.
        images: of the shape and type of every later input.
        facts: JSON values that, with the inputs, the device, and the code of the project, determine the graph.
        folder: of the archives. None: on a CPU the user's cache folder; on other devices no cache.

    Raises `UserError` if `folder` cannot be written. The user's cache folder is not used if it cannot be written.
    """
    archive = _archive(images, facts, folder)
    if archive is None:
        network.compile(images)
        return
    with tempfile.TemporaryDirectory(prefix="beit-graph-") as temporary:
        _unpack(archive, Path(temporary))
        before = _content(Path(temporary))
        with compile_cache_in(Path(temporary)):
            network.compile(images)
        if _content(Path(temporary)) != before:  # MindSpore has compiled it anew
            try:
                write_atomically(archive, functools.partial(_pack, Path(temporary)))
            except UserError as error:
                if folder is not None:
                    raise
                logger.info(f"the compiled network is not kept for the next start: {error}")


@contextmanager
def compile_cache_in(folder: Path) -> Iterator[None]:
    """Let MindSpore read and write compiled graphs in `folder` inside the block.

    MindSpore numbers its files in the order of compilation and does not check that a graph is the right one: with
    another drop path rate it silently reuses the stale graph. So each graph needs a folder of its own, and the cache is
    off while anything else is compiled.
    """
    values = {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": str(folder)}
    before = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
        os.environ.update(before)


def graph_key(facts: Sequence[object], *, compiled_kernels: bool) -> str:
    """Return a name for a graph that changes with `facts`, the code of this project, and the version of MindSpore.

    With `compiled_kernels` also with their library: its path, which the graph contains, is a hash of its content.
    """
    library = kernel_library() if compiled_kernels else None
    rest = [mindspore.__version__, str(library)]
    digest = hashlib.sha256(json.dumps([facts, rest], sort_keys=True).encode())
    for path in sorted(SOURCES.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _archive(images: Tensor, facts: Sequence[object], folder: Path | None) -> Path | None:
    """Return the path of the archive, or None where there is no cache."""
    device = mindspore.get_context("device_target")
    try:
        if folder is None:
            if device != "CPU":
                return None
            folder = cache_folder()
        else:
            folder.mkdir(parents=True, exist_ok=True)
    except Unavailable as error:
        logger.info(f"the compiled network is not kept for the next start: {error}")
        return None
    except OSError as error:
        raise UserError(f"compile_cache {folder} cannot be made ({error.strerror}); choose another folder") from error
    every = [*facts, device, list(images.shape), str(images.dtype)]
    return folder / f"graph-{graph_key(every, compiled_kernels=device == 'CPU')}.zip"


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack `archive`, if there is a whole one; otherwise leave `folder` empty."""
    unpacked: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(archive) as content:
            if sum(entry.file_size for entry in content.infolist()) > MAX_BYTES:
                return
            for name in content.namelist():
                unpacked[name] = content.read(name)  # compares the checksum
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError):
        return
    for name, data in unpacked.items():
        path = folder / name
        if path.resolve().is_relative_to(folder.resolve()):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _pack(folder: Path, file: BinaryIO) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _content(folder):
            archive.write(path, path.relative_to(folder))


def _content(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the files in `folder` with their sizes and times."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path: ((status := path.stat()).st_size, status.st_mtime_ns) for path in files}
