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
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import mindspore
import numpy as np
from mindspore import Tensor, nn

from src.errors import UserError
from src.files.atomic_file import write_atomically
from src.model.model_config import ModelConfig
from src.runtime.kernel_library import Unavailable, cache_folder, kernel_library

logger = logging.getLogger("beit")

_cached: list[Path] = []  # the archive of this process: MindSpore looks for every graph in the folder of the first

SOURCES = Path(__file__).resolve().parents[1]
MAX_BYTES = 2**28  # of an unpacked archive; BEiT-base has 0.4 MB


def compile_network(
    network: nn.Cell,
    model: ModelConfig,
    batch_size: int,
    *,
    amp_level: str = "O0",
    rank: int = 0,
    folder: Path | None = None,
) -> None:
    """Compile a classification network in graph mode, or take its graph from the cache.

    Only the first network of a process uses the cache.

    Args:
        network: built from `model` with `amp_level`, in evaluation mode. Its weights are not part of the graph.
        model: the description of the network.
        batch_size: images in each later batch, float32 [batch_size, 3, S, S].
        amp_level: the precision.
        rank: number of this process in a run of several.
        folder: of the archives. None: on a CPU the user's cache folder; on other devices no cache.

    Raises `UserError` if `folder` cannot be written. The user's cache folder is not used if it cannot be written.
    """
    shape = (batch_size, 3, model.image_size, model.image_size)
    images = Tensor(np.zeros(shape, np.float32))
    archive = _archive([asdict(model), shape, amp_level, rank], folder)
    # MindSpore's cache reads the script that was started; an interactive session and python -c have none
    if archive is None or _cached or not Path(sys.argv[0]).is_file():
        network.compile(images)
        return
    _cached.append(archive)
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


def _archive(facts: Sequence[object], folder: Path | None) -> Path | None:
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
    return folder / f"graph-{graph_key([*facts, device], compiled_kernels=device == 'CPU')}.zip"


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
