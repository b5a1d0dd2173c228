"""Unmet requirements of a GPU run are one line, before anything slow; the wrappers set the library path for a GPU."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.errors import UserError
from src.runtime import gpu_libraries
from src.runtime.gpu_libraries import (
    driver_problem,
    find_problems,
    library_folders,
    require_gpu,
    unresolved_libraries,
)
from tests.tiny_project import ROOT, error_line, run

LINKED = (
    *("libcublas.so.11", "libcudart.so.11.0", "libcudnn.so.8", "libcufft.so.10", "libcurand.so.10"),
    *("libcusolver.so.11", "libcusparse.so.11", "libnvrtc.so.11.2"),
)
READY = {"CUDA_HOME": str(ROOT / "scripts" / "cuda_home")}
BACKEND = library_folders()[-1].parent / "libmindspore_gpu.so.11.6"

try:
    ctypes.CDLL("libcuda.so.1")
    HAS_DRIVER = True
except OSError:
    HAS_DRIVER = False


@pytest.fixture
def problems(monkeypatch):
    """A function that returns the problems, in one line, of unresolved libraries, CUDA_HOME and a driver."""

    def find(names: list[str], cuda_home: str | None = READY["CUDA_HOME"], driver: str | None = None) -> str:
        monkeypatch.setattr(gpu_libraries, "unresolved_libraries", lambda backend: names)
        monkeypatch.setattr(gpu_libraries, "driver_problem", lambda: driver)
        monkeypatch.delenv("CUDA_HOME", raising=False)
        if cuda_home is not None:
            monkeypatch.setenv("CUDA_HOME", cuda_home)
        return "; ".join(find_problems(BACKEND))

    return find


def test_no_problem_is_found_if_all_libraries_are_found_and_the_driver_works(problems):
    assert problems([]) == ""


def test_a_missing_driver_is_named_with_the_fix(problems):
    text = problems(["libcuda.so.1"])
    assert "libcuda.so.1" in text
    assert "install it" in text


def test_missing_libraries_are_named_with_the_fix(problems):
    text = problems(["libcublas.so.11", "libcudnn.so.8"])
    assert "libcublas.so.11, libcudnn.so.8" in text
    assert "pip install -r requirements-gpu.txt" in text
    assert "source scripts/gpu_env.sh" in text
    assert "driver" not in text


def test_a_missing_driver_and_missing_libraries_are_one_line(problems):
    line = problems(["libcuda.so.1", "libcudnn.so.8"])
    assert "libcuda.so.1" in line
    assert "libcudnn.so.8" in line
    assert "\n" not in line


@pytest.mark.parametrize("cuda_home", [None, "", "/usr"])
def test_a_cuda_home_without_nvcc_is_a_problem_with_the_fix(problems, cuda_home):
    text = problems([], cuda_home)
    assert text.startswith("CUDA_HOME")
    assert text.endswith("source scripts/gpu_env.sh")


def test_a_driver_that_does_not_work_is_a_problem(problems):
    assert problems([], driver="the driver is broken") == "the driver is broken"


@pytest.mark.parametrize(
    ("result", "version", "expected"),
    [(0, 12040, []), (0, 11060, []), (0, 11040, ["11.4", "update it", "11.6"]), (100, 0, ["100", "nvidia-smi"])],
)
def test_a_driver_without_device_or_of_an_older_cuda_is_a_problem(monkeypatch, result, version, expected):
    class Driver:
        def cuInit(self, flags):
            return result

        def cuDriverGetVersion(self, pointer):
            pointer._obj.value = version
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    text = driver_problem()
    assert (text is None) == (not expected)
    assert all(part in text for part in expected)


def test_the_backend_links_the_libraries_of_requirements_gpu():
    """Libraries that this environment already has are not unresolved, hence the subset."""
    assert set(unresolved_libraries(BACKEND)) <= {*LINKED, "libcuda.so.1"}
    packages = re.findall(r"^(nvidia-\S+)-cu11==\S+$", (ROOT / "requirements-gpu.txt").read_text(), re.MULTILINE)
    parts = {name.removeprefix("lib").split(".")[0].removeprefix("cuda") for name in LINKED}
    assert len(packages) == len(LINKED)
    for part in parts:
        assert any(part in package.replace("runtime", "rt") for package in packages), part


def test_a_file_that_is_not_a_library_is_an_error(tmp_path):
    (tmp_path / "x.so").write_text("text")
    with pytest.raises(UserError, match=r"x\.so .*: install MindSpore again"):
        unresolved_libraries(tmp_path / "x.so")


def test_only_the_target_gpu_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(gpu_libraries, "find_problems", lambda _: ["all is missing"])
    require_gpu("CPU")
    require_gpu("Ascend")
    with pytest.raises(UserError, match=r"^device_target is GPU but all is missing; or pass --device_target CPU$"):
        require_gpu("GPU")


@pytest.fixture
def nvidia(tmp_path):
    """A folder of Python packages with libraries of the right names, laid out as in NVIDIA's packages."""
    source = BACKEND.parents[1] / "libglog.so.2"  # any library that loads
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia" / "__init__.py").touch()
    for name in LINKED:
        place = tmp_path / "nvidia" / name.split(".")[0] / "lib"
        place.mkdir(parents=True)
        shutil.copy(source, place / name)
    return tmp_path


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has a driver")
def test_after_gpu_env_only_the_driver_is_missing(nvidia):
    command = f"source {ROOT}/scripts/gpu_env.sh; $PYTHON {ROOT}/scripts/check_gpu.py; echo $LD_LIBRARY_PATH"
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(nvidia), "LD_LIBRARY_PATH": "/old"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=True)
    (line,) = done.stderr.splitlines()
    assert "libcuda.so.1" in line
    assert not any(name in line for name in (*LINKED, "CUDA_HOME"))
    folders = done.stdout.strip().split(":")
    assert folders[-1] == "/old"
    assert str(nvidia / "nvidia" / "libcudnn" / "lib") in folders
    assert (Path(folders[-2]) / "libnccl.so.2").exists()


def test_mindspore_looks_for_its_gpu_backend_with_the_cuda_home_that_gpu_env_sets():
    """MindSpore runs nvcc for the version; without CUDA_HOME it logs that and continues without a GPU."""
    done = run(
        "bash", "-c", f"PYTHON={sys.executable}; source {ROOT}/scripts/gpu_env.sh; $CUDA_HOME/bin/nvcc --version"
    )
    assert "release 11.6," in done.stdout
    code = "import mindspore; mindspore.hal.is_available('GPU')"
    environment = {**os.environ, **READY, "GLOG_v": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "libmindspore_gpu.so.11.6" in done.stderr + done.stdout


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has a driver")
@pytest.mark.parametrize("name", ["train.py", "eval.py"])
def test_a_script_names_the_missing_driver_before_it_imports_mindspore(name):
    words = ["--config_path", "quickstart_digits", "--pretrained", "x.ckpt", "--data_url", "/nowhere"]
    code = (
        f"import runpy, sys; sys.argv = {[name, *words, '--device_target', 'GPU']}\n"
        f"try:\n    runpy.run_path('{name}', run_name='__main__')\n"
        "except SystemExit as end:\n    assert 'mindspore' not in sys.modules\n    raise"
    )
    line = error_line(run(sys.executable, "-c", code, check=False))
    assert line.startswith("device_target is GPU but ")
    assert "libcuda.so.1" in line
    assert "--device_target CPU" in line


@pytest.mark.parametrize(
    ("text", "extra", "exposed"),
    [
        ("device_target: CPU\n", [], False),
        ("device_target: 'GPU'  # the default\n", [], True),
        ("device_target: CPU\n", ["--device_target", "GPU"], True),
        ("device_target: GPU\n", ["--device_target=CPU"], False),
        ("epochs: 3\n", [], True),
    ],
)
def test_wrappers_set_the_library_path_if_the_run_is_on_a_gpu(tmp_path, monkeypatch, text, extra, exposed):
    config = tmp_path / "config.yaml"
    config.write_text(text)
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *--folders*) exec {sys.executable} "$@";; esac\necho "$CUDA_HOME:$LD_LIBRARY_PATH"\n'
    )
    python.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    command = ["bash", ROOT / "scripts" / "run_standalone_train.sh", config, "--extra", *extra]
    environment = {**os.environ, "PYTHON_BIN": str(python)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert (("cuda_home" in done.stdout), ("gpu11.6" in done.stdout)) == (exposed, exposed)
