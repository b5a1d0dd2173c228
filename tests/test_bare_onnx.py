"""Tests of an exported file in an environment with ONNX Runtime, NumPy and Pillow, without this project."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.export.onnx_export import OnnxOptions, export_onnx
from src.prediction.predictor import Predictor
from tests.golden.network_recipe import weight
from tests.networks import model_info, variant_network
from tests.tiny_project import ARCH, ROOT

SCRIPT = Path(__file__).parent / "predict_with_onnx_alone.py"

PACKAGES = ("onnxruntime", "numpy", "numpy.libs", "PIL", "pillow.libs")


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """Return the interpreter of a new environment that contains only `PACKAGES`."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    target = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    for name in PACKAGES:
        place = Path(sysconfig.get_paths()["platlib"]) / name
        if place.exists():  # some builds of NumPy and Pillow have no separate library folder
            (target / name).symlink_to(place)
    return python


def run_bare(python: Path, *arguments: object, folder: Path) -> str:
    command = [str(python), "-I", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """Images of several shapes; Pillow 13 resizes the height of the tall ones first, which changes their pixels."""
    rng = np.random.default_rng(3)  # with 0, a probability is 38.450002 %, which float32 rounds down
    paths = []
    sizes = [(60, 40), (33, 71), (32, 32), (200, 50), *[(60, 300)] * 8]
    for number, (width, height) in enumerate(sizes):
        cells = (height // 2, width // 2, 3) if height > 2 * width else (5, 5, 3)
        coarse = Image.fromarray(rng.integers(0, 256, cells, dtype=np.uint8))
        paths.append(tmp_path / f"{number}.png")
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(paths[-1])
    Image.open(paths[0]).convert("L").save(tmp_path / "gray.jpg")
    return [*paths, tmp_path / "gray.jpg"]


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_20_line_program_predicts_the_same_classes_and_probabilities(
    precision, crop_mode, bare_python, images, tmp_path
):
    """Mean, std, crop, interpolation and names are not the defaults, so the program must read them from the file."""
    names = tuple(f"Name {number}" for number in range(10))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preparation = {"crop_pct": 0.8, "interpolation": "bilinear", "crop_mode": crop_mode}
    info = model_info(ARCH, 32, 10, class_names=names, mean=mean, std=std, **preparation)
    weights = {p.name: weight(p.name, p.shape) for p in variant_network(ARCH, num_classes=10).get_parameters()}
    export_onnx(info, weights, tmp_path / "beit.onnx", OnnxOptions(precision))
    printed = run_bare(bare_python, SCRIPT, tmp_path / "beit.onnx", *images, folder=tmp_path)
    expected = [
        f"{result.image}: Name {result.class_number} ({result.probabilities[result.class_number]:.1%})"
        for result in Predictor.from_file(tmp_path / "beit.onnx", batch_size=1).predict(images)
    ]
    assert printed.splitlines() == expected
    assert len({line.split(": ")[1].split(" (")[0] for line in expected}) > 1


def test_the_bare_environment_has_no_other_packages(bare_python, tmp_path):
    """Guards the test above, which would prove nothing in a full environment."""
    code = (
        "import importlib.util, onnxruntime, numpy, PIL\n"
        "others = ('mindspore', 'onnx', 'torch', 'google.protobuf', 'yaml', 'tqdm', 'scipy', 'src')\n"
        "for name in others:\n"
        "    try:\n        found = importlib.util.find_spec(name)\n"
        "    except ModuleNotFoundError:\n        found = None\n"
        "    assert found is None, name"
    )
    run_bare(bare_python, "-c", code, folder=tmp_path)


def test_the_export_page_contains_the_program():
    assert f"```python\n{SCRIPT.read_text()}```\n" in (ROOT / "docs" / "export.md").read_text()


def test_the_program_has_at_most_20_lines_besides_imports():
    lines = [line for line in SCRIPT.read_text().splitlines() if line.strip() and not line.startswith("import ")]
    assert len(lines) <= 20
