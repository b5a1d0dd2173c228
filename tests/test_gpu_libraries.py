"""What a GPU run lacks is said in one line, before anything slow; the wrappers expose the libraries that it needs."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.errors import UserError
from src.runtime import gpu_libraries
from src.runtime.gpu_libraries import ask_driver, library_folders, missing, require_gpu, unresolved_libraries
from tests.tiny_project import ROOT, error_line, run, script

LINKED = (
    *("libcublas.so.11", "libcudart.so.11.0", "libcudnn.so.8", "libcufft.so.10", "libcurand.so.10"),
    *("libcusolver.so.11", "libcusparse.so.11", "libnvrtc.so.11.2"),
)
READY = {"CUDA_HOME": str(ROOT / "scripts" / "cuda_home")}
BACK_END = library_folders()[-1].parent / "libmindspore_gpu.so.11.6"

try:
    ctypes.CDLL("libcuda.so.1")
    HAS_DRIVER = True
except OSError:
    HAS_DRIVER = False


def told(names: list[str], environment=READY, driver=lambda: None) -> str:
    return "; ".join(missing(BACK_END, environment, lambda back_end: names, driver))


def test_nothing_is_missing_where_all_libraries_are_found_and_the_driver_works():
    assert told([]) == ""


def test_a_missing_driver_is_named():
    expected = "there is no NVIDIA driver (libcuda.so.1): install it, so that nvidia-smi works"
    assert told(["libcuda.so.1"]) == expected


def test_missing_libraries_are_named_with_what_installs_them():
    assert told(["libcublas.so.11", "libcudnn.so.8"]) == (
        "MindSpore's back end does not find libcublas.so.11, libcudnn.so.8: "
        "pip install -r requirements-gpu.txt, then source scripts/gpu_env.sh"
    )


def test_a_missing_driver_and_missing_libraries_are_one_line():
    line = told(["libcuda.so.1", "libcudnn.so.8"])
    assert "libcuda.so.1" in line
    assert "libcudnn.so.8" in line
    assert "\n" not in line


@pytest.mark.parametrize("environment", [{}, {"CUDA_HOME": ""}, {"CUDA_HOME": "/usr"}])
def test_without_cuda_home_mindspore_would_look_for_no_gpu(environment):
    expected = "CUDA_HOME names no CUDA, without which MindSpore looks for no GPU: source scripts/gpu_env.sh"
    assert told([], environment) == expected


def test_a_driver_that_does_not_work_is_told():
    assert told([], driver=lambda: "the driver is ill") == "the driver is ill"


@pytest.mark.parametrize(
    ("result", "version", "expected"),
    [
        (0, 12040, None),
        (0, 11060, None),
        (0, 11040, "the NVIDIA driver is one for CUDA 11.4: update it to 11.6 or later"),
        (100, 0, "the NVIDIA driver finds no device that it can use (cuInit gives 100): nvidia-smi must show one"),
    ],
)
def test_the_driver_is_asked_for_devices_and_its_cuda(monkeypatch, result, version, expected):
    class Driver:
        def cuInit(self, flags):
            return result

        def cuDriverGetVersion(self, pointer):
            pointer._obj.value = version
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert ask_driver() == expected


def test_the_back_end_links_what_requirements_gpu_holds():
    """Read off the library itself; what an environment like this one has already is not missing."""
    assert set(unresolved_libraries(BACK_END)) <= {*LINKED, "libcuda.so.1"}
    packages = re.findall(r"^(nvidia-\S+)-cu11==\S+$", (ROOT / "requirements-gpu.txt").read_text(), re.MULTILINE)
    parts = {name.removeprefix("lib").split(".")[0].removeprefix("cuda") for name in LINKED}
    assert len(packages) == len(LINKED)
    for part in parts:
        assert any(part in package.replace("runtime", "rt") for package in packages), part


def test_a_file_that_is_no_library_is_an_error(tmp_path):
    (tmp_path / "x.so").write_text("no library")
    with pytest.raises(UserError, match=r"x\.so cannot be looked into \(.*\): install MindSpore again"):
        unresolved_libraries(tmp_path / "x.so")


def test_other_targets_need_no_gpu(monkeypatch):
    monkeypatch.setattr(gpu_libraries, "missing", lambda *_: ["all"])
    require_gpu("CPU")
    require_gpu("Ascend")
    with pytest.raises(UserError, match=r"^device_target is GPU, and all; or pass --device_target CPU$"):
        require_gpu("GPU")


@pytest.fixture
def nvidia(tmp_path):
    """A folder of Python packages in which libraries of the right names lie, as pip installs NVIDIA's."""
    source = BACK_END.parents[1] / "libglog.so.2"  # any library will do
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia" / "__init__.py").touch()
    for name in LINKED:
        place = tmp_path / "nvidia" / name.split(".")[0] / "lib"
        place.mkdir(parents=True)
        shutil.copy(source, place / name)
    return tmp_path


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has a driver")
def test_sourcing_gpu_env_leaves_only_the_driver_missing(nvidia):
    command = f"source {ROOT}/scripts/gpu_env.sh; $PYTHON {ROOT}/scripts/check_gpu.py; echo $LD_LIBRARY_PATH"
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(nvidia), "LD_LIBRARY_PATH": "/old"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == (
        "error: device_target is GPU, and there is no NVIDIA driver (libcuda.so.1): install it, so that nvidia-smi "
        "works; or pass --device_target CPU\n"
    )
    folders = done.stdout.strip().split(":")
    assert folders[-1] == "/old"
    assert str(nvidia / "nvidia" / "libcudnn" / "lib") in folders
    assert (Path(folders[-2]) / "libnccl.so.2").exists()


def test_mindspore_looks_for_its_gpu_back_end_with_the_cuda_home_that_gpu_env_sets():
    """It asks nvcc for the version; without CUDA_HOME it says so in its own log and goes on without a GPU."""
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
def test_a_script_says_what_a_gpu_lacks_before_anything_slow(name):
    begin = time.monotonic()
    words = ("--config_path", "quickstart_digits", "--pretrained", "x.ckpt", "--data_url", "/nowhere")
    line = error_line(script(name, *words, "--device_target", "GPU", check=False))
    assert line.startswith("device_target is GPU, and there is no NVIDIA driver (libcuda.so.1): install it, so that")
    assert time.monotonic() - begin < 3  # importing MindSpore alone takes as long


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
def test_wrappers_expose_the_libraries_where_the_run_is_on_a_gpu(tmp_path, monkeypatch, text, extra, exposed):
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
