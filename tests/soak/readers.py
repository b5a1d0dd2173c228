"""The readers of files from strangers, each as a function of the content of a file."""

import contextlib
import zipfile
from collections.abc import Callable
from pathlib import Path

from src.config import Config
from src.errors import UserError
from src.export.metadata import from_metadata
from src.options.config_file import read_values
from src.prediction.onnx_file import examine
from src.weights.pickle_machine import UnsafePickle
from src.weights.pretrained import load_pretrained
from src.weights.torch_pickle import load_pickle
from tests.tiny_project import ROOT

GOLDEN = ROOT / "tests" / "golden" / "weights"
CORPUS = ROOT / "tests" / "soak" / "corpus"
SEED_BYTES = 2**18  # of larger seeds only the start is used, which holds the descriptions


def read_weights(content: bytes, folder: Path) -> None:
    """Read a file of any kind as `--pretrained` does."""
    _refused_or_read(content, folder / "a", load_pretrained)


def read_pickle(content: bytes, folder: Path) -> None:
    """Read the pickle inside a .pth file; the checksum of the zip archive around it would stop almost every change."""
    with contextlib.suppress(UnsafePickle):
        load_pickle(content)


def read_config(content: bytes, folder: Path) -> None:
    """Read a config file."""
    _refused_or_read(content, folder / "a.yaml", lambda path: read_values(path, Config))


def read_onnx(content: bytes, folder: Path) -> None:
    """Examine an ONNX file and read its metadata, without the library that would run it."""
    _refused_or_read(content, folder / "a.onnx", lambda path: from_metadata(examine(path).metadata.pairs, str(path)))


READERS: dict[str, Callable[[bytes, Path], None]] = {
    "pickle": read_pickle,
    "pth": read_weights,
    "safetensors": read_weights,
    "ckpt": read_weights,
    "yaml": read_config,
    "onnx": read_onnx,
}
SEED_FILES = {
    "pth": sorted(GOLDEN.glob("*.pth")),
    "safetensors": sorted(GOLDEN.glob("*.safetensors")),
    "ckpt": sorted((ROOT / "tests" / "golden").rglob("*.ckpt")),
    "yaml": sorted((ROOT / "src" / "configs").glob("*.yaml")),
    "onnx": sorted((ROOT / "tests" / "golden").rglob("*.onnx")),
}


def seeds(reader: str) -> list[bytes]:
    """Return the contents that fuzzing of a reader begins with."""
    kept = [file.read_bytes() for file in sorted((CORPUS / reader).glob("*"))]
    if reader == "pickle":
        archives = [zipfile.ZipFile(file) for file in SEED_FILES["pth"] if zipfile.is_zipfile(file)]
        pickles = [(archive, name) for archive in archives for name in archive.namelist() if name.endswith("/data.pkl")]
        return kept + [archive.read(name) for archive, name in pickles]
    return kept + [file.read_bytes()[:SEED_BYTES] for file in SEED_FILES[reader]]


def _refused_or_read(content: bytes, path: Path, read: Callable[[Path], object]) -> None:
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        read(path)
