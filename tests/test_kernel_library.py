"""The compiled kernels: where the library comes from, who may write it, and what happens without a compiler."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.layers import compiled
from src.layers.compiled_update import SquareSum, adamw
from src.runtime import kernel_library as library
from tests.networks import LIBRARY

ROOT = Path(__file__).resolve().parents[1]
needs_compiler = pytest.mark.skipif(LIBRARY is None, reason="the kernels are not compiled")
COUNTER = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in
  *-dM*) echo "#define __VERSION__ {version}" ;;
  *) while [ "$1" != -o ]; do shift; done; echo library > "$2"; sleep {seconds} ;;
esac
"""


def fake_compiler(folder: Path, version: str = "1", seconds: float = 0.0) -> list[str]:
    """A compiler that notes its calls in `calls` and takes `seconds` to write a library."""
    path = folder / f"compiler-{version}"
    path.write_text(COUNTER.format(calls=folder / "calls", version=version, seconds=seconds))
    path.chmod(0o755)
    return [str(path)]


def test_a_library_is_compiled_once_and_again_for_another_compiler(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    first = library.compiled(cache, fake_compiler(tmp_path))
    assert first.read_text() == "library\n"
    assert first.stat().st_mode & 0o777 == 0o700
    assert library.compiled(cache, fake_compiler(tmp_path)) == first
    # the macros twice, the library once
    assert len((tmp_path / "calls").read_text().splitlines()) == 3
    assert library.compiled(cache, fake_compiler(tmp_path, "2")) != first
    assert {path.suffix for path in cache.iterdir()} == {".so"}


def test_a_change_of_the_source_makes_a_new_library(tmp_path, monkeypatch):
    first = library.compiled(tmp_path, fake_compiler(tmp_path))
    source = tmp_path / "kernels.cpp"
    source.write_bytes(library.SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(library, "SOURCE", source)
    assert library.compiled(tmp_path, fake_compiler(tmp_path)) != first


def unavailable(function, *arguments) -> str:
    with pytest.raises(library.Unavailable) as error:
        function(*arguments)
    return str(error.value)


@needs_compiler
def test_a_source_that_does_not_compile_leaves_no_file_and_names_the_error(tmp_path, monkeypatch):
    source = tmp_path / "kernels.cpp"
    source.write_text("not C++")
    monkeypatch.setattr(library, "SOURCE", source)
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    text = unavailable(library.compiled, cache, library.compiler())
    assert "kernels.cpp:1" in text
    assert "CXX" in text
    assert not list(cache.iterdir())


def test_without_a_compiler_the_fix_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert "install g++" in unavailable(library.compiler)
    monkeypatch.setenv("CXX", "/nowhere/c++ -O1")
    assert "/nowhere/c++, is not found: correct CXX" in unavailable(library.compiler)


def test_a_folder_or_a_library_that_others_may_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = library.cache_folder()
    assert folder == tmp_path / "beit-mindspore"
    assert folder.stat().st_mode & 0o777 == 0o700
    for mode in (0o770, 0o707):
        folder.chmod(mode)
        assert "changed by another user" in unavailable(library.cache_folder)
    folder.chmod(0o700)
    path = library.compiled(folder, fake_compiler(tmp_path))
    path.chmod(0o702)
    assert str(path) in unavailable(library.compiled, folder, fake_compiler(tmp_path))
    path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "changed by another user" in unavailable(library.cache_folder)


def test_a_symbolic_link_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "beit-mindspore").symlink_to(tmp_path / "elsewhere")
    assert "changed by another user" in unavailable(library.cache_folder)


def test_a_damaged_library_is_named(tmp_path):
    damaged = tmp_path / "kernels.so"
    damaged.write_bytes(b"\x7fELF")
    assert f"{damaged} cannot be loaded" in unavailable(library.load, damaged)


def test_a_missing_compiler_is_logged_once_and_the_switch_logs_nothing(monkeypatch, caplog):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    library.kernel_library.cache_clear()
    try:
        with caplog.at_level("INFO", "beit"):
            assert library.kernel_library() is None
            assert library.kernel_library() is None
        (record,) = caplog.records
        assert "install g++" in record.getMessage()
        assert "\n" not in record.getMessage()
        caplog.clear()
        library.kernel_library.cache_clear()
        monkeypatch.setenv(library.SWITCH, "0")
        assert library.kernel_library() is None
        assert not caplog.records
    finally:
        monkeypatch.undo()
        library.kernel_library.cache_clear()


@pytest.mark.parametrize(("setting", "expected"), [("3", 3), ("2,1", 2), ("", None), ("0", None), ("many", None)])
def test_threads_follow_omp_num_threads_and_then_the_processors_of_the_process(setting, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert library.thread_count() == (expected or len(os.sched_getaffinity(0)))


def test_processes_that_compile_at_once_end_with_one_library(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    compiler = fake_compiler(tmp_path, seconds=0.5)
    code = (
        "from pathlib import Path; from src.runtime.kernel_library import compiled; "
        f"compiled(Path({str(cache)!r}), {compiler})"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert [path.suffix for path in cache.iterdir()] == [".so"]
    assert sum("-o" in line.split() for line in (tmp_path / "calls").read_text().splitlines()) == 2


# The kernels


@pytest.fixture
def threads():
    """Return a function that sets the number of threads of a kernel."""
    loaded = ctypes.CDLL(str(LIBRARY))
    yield loaded.set_threads
    loaded.set_threads(library.thread_count())


def numbers(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32))


B, N, H, W = 3, 70, 2, 64
# Each cell with its inputs: more than one block of work, and a last block that is not full.
CELLS = {
    "gelu": (lambda: compiled.BiasedGELU(), (numbers(301, 130), numbers(130))),
    "tanh gelu": (lambda: compiled.BiasedGELU(True), (numbers(301, 130), numbers(130))),
    "add row": (compiled.AddRow, (numbers(700, 130), numbers(130))),
    "layer norm": (lambda: compiled.Normalize(1e-6), (numbers(700, 130), numbers(130), numbers(130))),
    "softmax": (compiled.Softmax, (numbers(B, H, N, N),)),
    "biased softmax": (
        compiled.BiasedSoftmax,
        (numbers(B, H, N, N), numbers(9, H), Tensor((np.arange(N * N) % 9).astype(np.int32))),
    ),
    "split heads": (compiled.SplitHeads, (numbers(B, N, 3, H, W), numbers(H * W), numbers(H * W))),
    "swap axes": (compiled.SwapAxes, (numbers(B, N, H, W),)),
    "drop path": (
        compiled.DropRows,
        (numbers(B, N, 130), *(Tensor(np.array(x, np.int32)) for x in ([1, 2, 3], [5, 2**24])), numbers(1)),
    ),
    "residual": (compiled.Residual, (numbers(B, N, 130), numbers(B, N, 130), *[numbers(130)] * 2, numbers(B))),
}


def outputs_and_gradients(cell: nn.Cell, inputs: tuple[Tensor, ...]) -> list[np.ndarray]:
    outputs = cell(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    # their own values as gradients: every element has another one
    weights = outputs if len(outputs) > 1 else outputs[0]
    gradients = ops.GradOperation(get_all=True, sens_param=True)(cell)(*inputs, weights)
    return [tensor.asnumpy() for tensor in (*outputs, *gradients)]


@needs_compiler
@pytest.mark.parametrize("name", CELLS)
def test_a_kernel_gives_the_same_bits_with_any_number_of_threads(name, threads):
    make, inputs = CELLS[name]
    cell = make()
    threads(1)
    alone = outputs_and_gradients(cell, inputs)
    for count in (2, 5):
        threads(count)
        for one, many in zip(alone, outputs_and_gradients(cell, inputs)):
            np.testing.assert_array_equal(one, many)


@needs_compiler
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", CELLS)
def test_a_number_that_is_not_finite_is_never_lost(name, bad):
    make, inputs = CELLS[name]
    cell = make()
    for position, tensor in enumerate(inputs):
        if tensor.dtype == ms.float32:
            values = tensor.asnumpy().copy()
            values.flat[values.size // 2] = bad
            changed = (*inputs[:position], Tensor(values), *inputs[position + 1 :])
            outputs = cell(*changed)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            assert not all(np.isfinite(output.asnumpy()).all() for output in outputs), position


@needs_compiler
def test_a_gradient_that_is_not_finite_is_never_lost():
    for name, (make, inputs) in CELLS.items():
        if name == "split heads":  # it has several outputs
            continue
        cell = make()
        dout = cell(*inputs).asnumpy().copy()
        dout.flat[dout.size // 2] = np.nan
        gradients = ops.GradOperation(get_all=True, sens_param=True)(cell)(*inputs, Tensor(dout))
        assert not np.isfinite(gradients[0].asnumpy()).all(), name


@needs_compiler
def test_the_position_bias_of_the_softmax_has_the_gradient_of_a_table():
    rng = np.random.default_rng(4)
    scores, dp = rng.standard_normal((2, 3, 18, 18)), rng.standard_normal((2, 3, 18, 18))
    table, index = rng.standard_normal((7, 3)), rng.integers(0, 7, 18 * 18)
    bias = table[index].reshape(18, 18, 3).transpose(2, 0, 1)
    p = np.exp(scores + bias)
    p /= p.sum(-1, keepdims=True)
    dscores = p * (dp - (p * dp).sum(-1, keepdims=True))
    dtable = np.zeros((7, 3))
    np.add.at(dtable, index, dscores.sum(0).transpose(1, 2, 0).reshape(-1, 3))
    inputs = [Tensor(x.astype(np.float32)) for x in (scores, table)] + [Tensor(index.astype(np.int32))]
    cell = compiled.BiasedSoftmax()
    np.testing.assert_allclose(cell(*inputs).asnumpy(), p, rtol=1e-6, atol=1e-7)
    gradient = ops.GradOperation(get_all=True, sens_param=True)(cell)(*inputs, Tensor(dp.astype(np.float32)))
    np.testing.assert_allclose(gradient[0].asnumpy(), dscores, atol=1e-6)
    np.testing.assert_allclose(gradient[1].asnumpy(), dtable, atol=1e-5)


@needs_compiler
def test_a_score_far_below_the_largest_has_a_probability_of_zero():
    scores = np.zeros((1, 1, 2, 2), np.float32)
    scores[..., 1] = [-200.0, -np.inf]
    np.testing.assert_array_equal(compiled.Softmax()(Tensor(scores)).asnumpy()[0, 0], [[1.0, 0.0], [1.0, 0.0]])


@needs_compiler
def test_float16_is_refused():
    with pytest.raises(TypeError, match="computes in float32"):
        compiled.Softmax()(Tensor(np.ones((1, 1, 3, 3), np.float16)))


@needs_compiler
def test_a_forked_process_has_threads_of_its_own():
    code = f"""
import ctypes, os, signal
import numpy as np
loaded = ctypes.CDLL({str(LIBRARY)!r})
loaded.set_threads(3)
x, row = np.ones(100_000, np.float32), np.zeros(100, np.float32)
def call():
    data = (ctypes.c_void_p * 3)(x.ctypes.data, row.ctypes.data, y.ctypes.data)
    shape = (ctypes.c_int64 * 2)(len(x) // len(row), len(row))
    shapes = (ctypes.POINTER(ctypes.c_int64) * 3)(shape, shape, shape)
    loaded.exact_gelu(3, data, (ctypes.c_int * 3)(2, 1, 2), shapes, None, None, None)
    return y[-1] == y[0] != 0
y = np.zeros_like(x)
assert call()
child = os.fork()
y = np.zeros_like(x)
if child == 0:
    signal.alarm(20)
    os._exit(0 if call() else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class Update(nn.Cell):
    """A step of AdamW for three weights, the sum of squares of their gradients, and a weight before and after it."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (70_000, 3, 40_001)
        kinds = ("weight", "first", "second")
        self.state = [
            ms.ParameterTuple([ms.Parameter(numbers(size).abs(), name=f"{kind}{size}") for size in sizes])
            for kind in kinds
        ]
        self.weights, self.first, self.second = self.state
        self.update = adamw(len(sizes))
        self.square_sum = SquareSum()
        self.scales = (
            Tensor(np.float32([0.9, 0.999, 1e-8])),
            Tensor(np.float32([1, 2, 3])),
            Tensor(np.ones(3, np.float32)),
        )

    def construct(self, factor: Tensor, step: Tensor, applied: Tensor) -> tuple[Tensor, ...]:
        gradients = (self.second[0] * 2.0, self.second[1] * 2.0, self.second[2] * 2.0)
        before = self.weights[2] * 1.0
        settings, rates, decays = self.scales
        numbers = (factor, factor, factor, step, applied)
        self.update(settings, rates, decays, *numbers, *self.weights, *self.first, *self.second, *gradients)
        return before, self.weights[2] * 1.0, self.square_sum(gradients)


@needs_compiler
def test_an_update_has_its_place_among_what_reads_the_weights_and_the_same_bits_with_any_number_of_threads(threads):
    ms.set_context(mode=ms.GRAPH_MODE)
    found = []
    for count in (1, 2, 5):
        threads(count)
        cell = Update()
        at_first = cell.weights[2].asnumpy().copy()
        results = cell(Tensor(0.1, ms.float32), Tensor(2, ms.int32), Tensor(True))
        before, after, squares = (result.asnumpy() for result in results)
        np.testing.assert_array_equal(before, at_first)
        np.testing.assert_array_equal(after, cell.weights[2].asnumpy())
        assert (after != before).all()
        found.append([squares, *(parameter.asnumpy() for parameter in cell.get_parameters())])
    for other in found[1:]:
        for one, many in zip(found[0], other):
            np.testing.assert_array_equal(one, many)
