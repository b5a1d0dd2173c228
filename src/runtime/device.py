"""Choosing the device and the mode of execution."""

from __future__ import annotations

import mindspore

from src.errors import UserError
from src.runtime.gpu_libraries import require_gpu


def start_device(target: str, device_id: int, *, pynative: bool) -> None:
    """Make `target` (CPU, GPU or Ascend) the device of this process and choose graph or pynative mode.

    Raises `UserError` where MindSpore finds no such device.
    """
    require_gpu(target)
    if not mindspore.hal.is_available(target):
        raise UserError(
            f"device_target is {target}, and MindSpore finds none on this machine (no driver, or its libraries are "
            f"not on LD_LIBRARY_PATH): pass --device_target CPU, or set the device up as the README says"
        )
    try:
        mindspore.set_device(target, device_id)
    except (RuntimeError, ValueError) as error:
        # where this process has computed already, MindSpore refuses even the device that it is on
        if tuple(mindspore.get_current_device()) != (target, device_id):
            reason = str(error).splitlines()[0]
            raise UserError(
                f"device_id {device_id} of {target} cannot be used ({reason}): give another --device_id"
            ) from None
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE if pynative else mindspore.GRAPH_MODE)
