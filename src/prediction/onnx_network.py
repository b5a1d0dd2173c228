"""Exported ONNX files, run by ONNX Runtime. Imports no MindSpore: a machine that only predicts does not need it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import onnxruntime

from src.errors import UserError
from src.export.checksum import require_checksum
from src.export.metadata import from_metadata
from src.model.model_info import ModelInfo
from src.prediction.loaded_network import Network
from src.prediction.onnx_file import OnnxFile, examine

PROVIDERS = {"CPU": "CPUExecutionProvider", "GPU": "CUDAExecutionProvider", "Ascend": "CANNExecutionProvider"}
ERRORS_ONLY = 3  # log level of ONNX Runtime
PIXELS, NORMALIZED = "tensor(uint8)", "tensor(float)"


def load_onnx(path: Path, device_target: str, device_id: int) -> Network:
    """Load `path` onto a device (CPU, GPU or Ascend).

    Raises `UserError` for a damaged file, a file of another program, and a device that this ONNX Runtime cannot use.
    """
    examined = examine(path)
    info = from_metadata(examined.metadata.pairs, str(path))
    # the checksum takes a quarter of the time in which ONNX Runtime loads the file, so both are done at once
    with ThreadPoolExecutor(1) as pool:
        started = Event()
        checked = pool.submit(_check, started, path, examined)
        started.wait()  # ONNX Runtime holds Python's lock while it loads, so the checksum must be under way
        try:
            session = _session(path, device_target, device_id)
        finally:
            checked.result()
    image, logits = _input_and_output(session, info, path)

    def run(images: np.ndarray) -> np.ndarray:
        try:
            return session.run([logits], {image.name: images})[0]
        except Exception as error:  # the exceptions of ONNX Runtime have no common base class
            raise _unusable(path, error) from error

    return Network(run, info, takes_pixels=image.type == PIXELS)


def _check(started: Event, path: Path, examined: OnnxFile) -> None:
    try:
        require_checksum(path, examined.metadata, examined.beside, started.set)
    finally:
        started.set()


def _input_and_output(session: onnxruntime.InferenceSession, info: ModelInfo, path: Path) -> tuple[Any, str]:
    """Return the input and the name of the output. Raises `UserError` if their shapes contradict `info`."""
    images, logits = session.get_inputs(), session.get_outputs()
    size = info.model.image_size
    shapes = {NORMALIZED: [3, size, size], PIXELS: [size, size, 3]}
    if len(images) != 1 or images[0].shape[1:] != shapes.get(images[0].type):
        found = ", ".join(f"{image.name} {image.type} {image.shape}" for image in images)
        raise UserError(f"{path} takes {found}, not images of {size} pixels: export the checkpoint again")
    if logits[0].shape[1:] not in ([], [info.model.num_classes]):
        raise UserError(
            f"{path} returns {logits[0].shape}, not {info.model.num_classes} logits: export the checkpoint again"
        )
    return images[0], logits[0].name


def _unusable(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0]
    return UserError(f"{path} cannot be loaded as an ONNX file ({reason}); export the checkpoint again")


def _session(path: Path, device_target: str, device_id: int) -> onnxruntime.InferenceSession:
    provider = PROVIDERS[device_target]
    if provider not in onnxruntime.get_available_providers():
        raise UserError(
            f"device_target is {device_target} but the installed ONNX Runtime has no {provider}; set --device_target "
            f"CPU, or install the ONNX Runtime for {device_target}"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    device = {} if device_target == "CPU" else {"device_id": device_id}
    try:
        # its fallback would print a banner to stdout and load the file a second time
        return onnxruntime.InferenceSession(path, options, providers=[(provider, device)], enable_fallback=0)
    except Exception as error:  # the exceptions of ONNX Runtime have no common base class
        raise _unusable(path, error) from error
