"""Selection of the device and of graph or pynative mode."""

import mindspore

from src.errors import UserError
from src.runtime.gpu_libraries import require_gpu


def start_device(target: str, device_id: int, *, pynative: bool) -> None:
    """Select `target` (CPU, GPU or Ascend), device `device_id` and the mode; `UserError` if it is not available."""
    require_gpu(target)
    if not mindspore.hal.is_available(target):
        raise UserError(
            f"device_target is {target} but MindSpore finds none: install its driver and libraries, "
            f"or pass --device_target CPU"
        )
    try:
        mindspore.set_device(target, device_id)
    except (RuntimeError, ValueError) as error:
        # After the first computation MindSpore refuses even the device that is already selected.
        if tuple(mindspore.get_current_device()) != (target, device_id):
            reason = str(error).splitlines()[0]
            raise UserError(
                f"device_id is {device_id} but {target} refuses it ({reason}): pass another --device_id"
            ) from None
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE if pynative else mindspore.GRAPH_MODE)
