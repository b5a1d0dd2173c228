"""infer.py as a user runs it: from a checkpoint and from an ONNX file, on images of many kinds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import onnx
import pytest
from mindspore import Tensor
from onnx import TensorProto, helper
from PIL import Image

from src.checkpoint import Checkpoint, save_checkpoint
from src.data.decode import read_rgb
from src.data.transforms import eval_transform
from src.export.onnx_file import write_onnx
from src.export.onnx_graph import beit_graph
from src.model_info import ModelInfo
from src.predictor import Predictor
from src.rebuild import rebuild_network
from src.vit import create_model

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent / "golden"))
from network_recipe import weight  # noqa: E402

# Nothing here is a default: what the scripts know they know from the file.
INFO = ModelInfo(
    "beit_micro_patch8_32",
    image_size=24,
    num_classes=60,
    class_names=tuple(f"class {number}" for number in range(60)),
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
    crop_pct=0.75,
    interpolation="bilinear",
    approximate_gelu=True,
    abs_pos_emb=True,
    mean_pooling=False,
)


def run_infer(*arguments: object, folder: Path, extra_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(extra_path)} if extra_path else None
    command = [sys.executable, str(ROOT / "infer.py"), *map(str, arguments), "--device_target", "CPU"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=120)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    network = create_model(
        INFO.arch, image_size=24, num_classes=60, abs_pos_emb=True, mean_pooling=False, approximate_gelu=True
    )
    return {parameter.name: weight(parameter.name, parameter.shape) for parameter in network.get_parameters()}


@pytest.fixture(scope="module")
def models(weights, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = {"checkpoint": folder / "beit.ckpt", "onnx": folder / "beit.onnx"}
    save_checkpoint(paths["checkpoint"], Checkpoint(weights, INFO))
    write_onnx(beit_graph(weights, image_size=24, num_heads=3, approximate_gelu=True), INFO, paths["onnx"])
    return paths


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Ten readable images of all kinds, three unreadable ones, and files that are not meant."""
    folder = tmp_path_factory.mktemp("images of all kinds")
    rng = np.random.default_rng(0)

    def picture(width: int, height: int) -> Image.Image:
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        return coarse.resize((width, height), Image.Resampling.BICUBIC)

    picture(40, 30).save(folder / "colour.png")
    picture(31, 57).convert("L").save(folder / "grey.jpg")
    transparent = picture(50, 50).convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((50, 50)))
    transparent.save(folder / "transparent.png")
    picture(33, 44).quantize(17).save(folder / "palette.png", transparency=3)
    picture(60, 24).convert("CMYK").save(folder / "printed.jpeg")
    picture(24, 24).save(folder / "CAMERA.JPG")
    picture(5, 7).save(folder / "tiny.PNG")
    picture(40, 40).save(folder / "a png named.jpg", format="PNG")
    Image.fromarray(rng.integers(0, 65536, (30, 30), dtype=np.uint16)).save(folder / "sixteen_bit.png")
    picture(30, 30).convert("1").save(folder / "zwölf Schwäne.png")
    (folder / "corrupt.png").write_bytes((folder / "colour.png").read_bytes()[:200])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "letter.jpeg").write_text("Dear sir or madam")
    (folder / "notes.txt").write_text("not an image")
    (folder / "inside").mkdir()
    picture(24, 24).save(folder / "inside" / "deeper.png")
    return folder


READABLE = [  # in sorted order
    "CAMERA.JPG",
    "a png named.jpg",
    "colour.png",
    "grey.jpg",
    "palette.png",
    "printed.jpeg",
    "sixteen_bit.png",
    "tiny.PNG",
    "transparent.png",
    "zwölf Schwäne.png",
]


@pytest.fixture(scope="module")
def expected(weights, images) -> dict[str, int]:
    """Classes by the network itself, one image after the other."""
    network = rebuild_network(INFO, weights, Path("beit.ckpt"))
    transform = eval_transform(
        image_size=24, crop_pct=0.75, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), interpolation="bilinear"
    )
    batch = np.stack([transform(read_rgb(images / name)) for name in READABLE])
    classes = network(Tensor(batch)).asnumpy().argmax(1)
    assert len(set(classes)) >= 3  # a constant answer would prove nothing
    return {str(images / name): int(number) for name, number in zip(READABLE, classes)}


@pytest.mark.parametrize("model", ["checkpoint", "onnx"])
def test_a_folder_is_predicted_whatever_its_images_are(model, models, images, expected, tmp_path):
    """Batches of 4 leave the last one short, with an unreadable image in two of them."""
    done = run_infer("--data_path", images, "--checkpoint", models[model], "--batch_size", 4, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [f"{path} (class: {number})" for path, number in expected.items()]
    text = (tmp_path / "predictions.json").read_text(encoding="utf-8")
    lines = ",\n".join(f' "{path}": {number}' for path, number in expected.items())
    assert text == f"{{\n{lines}\n}}\n"
    for name in ("corrupt.png", "empty.jpg", "letter.jpeg"):
        assert f"{images / name} cannot be read: " in done.stderr
    last = "error: 3 of 13 images cannot be read (named above), the others are in predictions.json: repair or remove"
    assert done.stderr.splitlines()[-1].startswith(last)


@pytest.mark.parametrize("model", ["checkpoint", "onnx"])
def test_a_single_image_is_predicted(model, models, images, expected, tmp_path):
    image, output = images / "zwölf Schwäne.png", tmp_path / "new folder" / "p.json"
    done = run_infer(
        *("--data_path", image, "--checkpoint", models[model], "--arch", INFO.arch, "--output", output),
        folder=tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, f"{image} (class: {expected[str(image)]})\n"), done.stderr
    assert json.loads(output.read_text(encoding="utf-8")) == {str(image): expected[str(image)]}


def test_predictors_of_both_kinds_live_in_one_process(models, images):
    """Three of them, since MindSpore refuses to be put on the device that it is on already."""
    sources = [images / name for name in READABLE]
    logits = [
        np.stack([prediction.logits for prediction in Predictor.from_file(path, batch_size=5).predict(sources)])
        for path in (models["checkpoint"], models["onnx"], models["checkpoint"])
    ]
    ms.set_context(mode=ms.PYNATIVE_MODE)
    assert logits[0].shape == (10, 60)
    assert np.array_equal(logits[0], logits[2])
    assert np.abs(logits[1] - logits[0]).max() <= 1e-5 * np.abs(logits[0]).max()


def test_an_onnx_file_needs_no_mindspore(models, images, expected, tmp_path):
    (tmp_path / "mindspore.py").write_text("raise ImportError('MindSpore is imported')\n")
    image = images / "colour.png"
    done = run_infer("--data_path", image, "--checkpoint", models["onnx"], folder=tmp_path, extra_path=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{image} (class: {expected[str(image)]})\n"), done.stderr


@pytest.mark.parametrize("model", ["checkpoint", "onnx"])
def test_an_arch_that_is_not_the_files_is_refused(model, models, images, tmp_path):
    done = run_infer(
        *("--data_path", images, "--checkpoint", models[model], "--arch", "beit_base_patch16_224"), folder=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        f"beit.{'ckpt' if model == 'checkpoint' else 'onnx'} is a beit_micro_patch8_32, not a beit_base" in done.stderr
    )
    assert not (tmp_path / "predictions.json").exists()


def identity_model() -> onnx.ModelProto:
    """A valid ONNX model, such as another program may have written."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_what_cannot_be_predicted_is_told_of_in_one_line(models, images, tmp_path):
    (tmp_path / "void").mkdir()
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(identity_model().SerializeToString())
    cases = [
        (images / "no.png", models["onnx"], "no.png does not exist: give an image or a folder of images"),
        (tmp_path / "void", models["onnx"], "has no .png, .jpg, .jpeg file in its root: give a folder of images"),
        (images, tmp_path / "no.ckpt", "no.ckpt does not exist: give a checkpoint or an ONNX file"),
        (images, foreign, "foreign.onnx was not exported by this project: its metadata lack version, arch, image_size"),
    ]
    for data, model, text in cases:
        done = run_infer("--data_path", data, "--checkpoint", model, folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "predictions.json").exists()


def test_a_device_that_onnx_runtime_lacks_is_refused(models, images, tmp_path):
    command = ["--data_path", str(images), "--checkpoint", str(models["onnx"]), "--device_target", "Ascend"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "infer.py"), *command], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "device_target is Ascend, and the installed ONNX Runtime cannot use it" in done.stderr
    assert "pass --device_target CPU" in done.stderr
