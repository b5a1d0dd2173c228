"""Running an exported MINDIR file by MindSpore."""

from __future__ import annotations

from pathlib import Path

from src.export.metadata import from_metadata
from src.export.mindir_file import load_mindir, mindir_metadata
from src.prediction.loaded_network import Network
from src.runtime.device import start_device


def load_mindir_network(path: Path, device_target: str, device_id: int) -> Network:
    """Load `path` onto a device, which becomes the process's own.

    Raises `UserError` for a damaged file, one that export.py did not write, and a device that is not there.
    """
    info = from_metadata(mindir_metadata(path), str(path))
    start_device(device_target, device_id, pynative=False)
    return Network(load_mindir(path), info, fixed_batch=True)
