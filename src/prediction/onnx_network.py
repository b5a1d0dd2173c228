"""Exported ONNX files, run by ONNX Runtime. Imports no MindSpore: a machine that only predicts does not need it."""

from pathlib import Path

import numpy as np
import onnxruntime

from src.errors import UserError
from src.export.metadata import from_metadata
from src.prediction.loaded_network import Network

PROVIDERS = {"CPU": "CPUExecutionProvider", "GPU": "CUDAExecutionProvider", "Ascend": "CANNExecutionProvider"}
ERRORS_ONLY = 3  # log level of ONNX Runtime
PIXELS = "tensor(uint8)"


def load_onnx(path: Path, device_target: str, device_id: int) -> Network:
    """Load `path` onto a device (CPU, GPU or Ascend).

    Raises `UserError` for a damaged file, a file of another program, and a device that this ONNX Runtime cannot use.
    """
    session = _session(path, device_target, device_id)
    info = from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
    image, logits = session.get_inputs()[0], session.get_outputs()[0].name

    def run(images: np.ndarray) -> np.ndarray:
        return session.run([logits], {image.name: images})[0]

    return Network(run, info, takes_pixels=image.type == PIXELS)


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
        return onnxruntime.InferenceSession(path, options, providers=[(provider, device)])
    except Exception as error:  # the exceptions of ONNX Runtime have no common base class
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be loaded as an ONNX file ({reason}); export the checkpoint again") from error
