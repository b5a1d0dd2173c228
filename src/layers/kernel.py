"""The functions of the library of compiled kernels, as operators of MindSpore."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import ops
from mindspore.ops import signature

_library: list[Path] = []  # the library of this process


def use_library(library: Path) -> None:
    """Take the operators from `library`, which must stay the same in a process."""
    _library.append(library)


def kernel(function: str, shapes: Callable[..., Any], outputs: int = 1) -> ops.Custom:
    """Return a function of the library as an operator.

    `shapes` takes the shapes of the inputs and returns that of the output, or one for each of several `outputs`. It
    must depend on nothing else: MindSpore calls it once for all operators of a function with inputs of these shapes.
    """

    def types(*inputs: ms.Type) -> Any:
        for kind in inputs:
            if "Float16" in str(kind) or "Float64" in str(kind):
                raise TypeError(f"the kernel {function} computes in float32, but an input is {kind}")
        return ms.float32 if outputs == 1 else (ms.float32,) * outputs

    return ops.Custom(f"{_library[-1]}:{function}", shapes, types, "aot")


def kernel_in_place(function: str, read: int, written: int, read_after: int) -> ops.Custom:
    """Return a function of the library that changes Parameters, as an operator.

    Its inputs are `read` tensors, `written` Parameters and `read_after` tensors. It returns a float32 [1], because an
    operator needs an output.
    """
    operator = kernel(function, lambda *shapes: (1,))
    operator.add_prim_attr("side_effect_mem", True)  # MindSpore keeps its place among what reads the Parameters
    kinds = [signature.sig_rw.RW_READ] * read + [signature.sig_rw.RW_WRITE] * written
    kinds += [signature.sig_rw.RW_READ] * read_after
    operator.set_signatures([signature.make_sig(f"input{number}", kind) for number, kind in enumerate(kinds)])
    return operator
