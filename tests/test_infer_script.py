"""infer.py as a user runs it: from a checkpoint and from an ONNX file, on images of many kinds."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import mindspore as ms
import numpy as np
import onnx
import pytest
from mindspore import Tensor
from onnx import TensorProto, helper
from PIL import Image

import infer
from src.data.decode import read_rgb
from src.data.transforms import EvalTransform
from src.errors import exit_code
from src.export.mindir_file import write_mindir
from src.export.onnx_export import write_onnx
from src.export.onnx_graph import beit_graph
from src.layers.cpu import CPU
from src.model.variants import get_variant
from src.prediction.journal import Journal
from src.prediction.predictor import Predictor
from src.runtime import signals
from src.weights.checkpoint import Checkpoint, save_checkpoint
from src.weights.rebuild import rebuild_network
from tests.golden.network_recipe import weight
from tests.networks import model_info, variant_network

ROOT = Path(__file__).parent.parent

KINDS = ["ckpt", "onnx", "mindir"]
# No value is a default: the scripts must read all of them from the file.
INFO = model_info(
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
    network = variant_network(
        INFO.model.arch, image_size=24, num_classes=60, abs_pos_emb=True, mean_pooling=False, approximate_gelu=True
    )
    return {parameter.name: weight(parameter.name, parameter.shape) for parameter in network.get_parameters()}


@pytest.fixture(scope="module")
def models(weights, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = {kind: folder / f"beit.{kind}" for kind in KINDS}
    save_checkpoint(paths["ckpt"], Checkpoint(weights, INFO))
    write_onnx(beit_graph(weights, INFO.model, get_variant(INFO.model.arch)), INFO, paths["onnx"])
    write_mindir(rebuild_network(INFO, weights, paths["ckpt"], layers=CPU), INFO, paths["mindir"])
    return paths


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Ten readable images of all kinds, three unreadable ones, and files that are no images."""
    folder = tmp_path_factory.mktemp("images of all kinds")
    rng = np.random.default_rng(0)

    def picture(width: int, height: int) -> Image.Image:
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        return coarse.resize((width, height), Image.Resampling.BICUBIC)

    picture(40, 30).save(folder / "color.png")
    picture(31, 57).convert("L").save(folder / "gray.jpg")
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
    (folder / "corrupt.png").write_bytes((folder / "color.png").read_bytes()[:200])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "letter.jpeg").write_text("Dear sir or madam")
    (folder / "notes.txt").write_text("not an image")
    (folder / "inside").mkdir()
    picture(24, 24).save(folder / "inside" / "deeper.png")
    return folder


READABLE = [  # in sorted order
    "CAMERA.JPG",
    "a png named.jpg",
    "color.png",
    "gray.jpg",
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
    transform = EvalTransform(
        image_size=24, crop_pct=0.75, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), interpolation="bilinear"
    )
    batch = np.stack([transform(read_rgb(images / name)) for name in READABLE])
    classes = network(Tensor(batch)).asnumpy().argmax(1)
    assert len(set(classes)) >= 3  # a constant answer would prove nothing
    return {str(images / name): int(number) for name, number in zip(READABLE, classes)}


@pytest.mark.parametrize("model", KINDS)
def test_a_folder_with_images_of_all_kinds_is_predicted(model, models, images, expected, tmp_path):
    """In batches of 4 the last one is short, and two have unreadable images."""
    done = run_infer("--data_path", images, "--checkpoint", models[model], "--batch_size", 4, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [f"{path} (class: {number})" for path, number in expected.items()]
    text = (tmp_path / "predictions.json").read_text(encoding="utf-8")
    lines = ",\n".join(f' "{path}": {number}' for path, number in expected.items())
    assert text == f"{{\n{lines}\n}}\n"
    for name in ("corrupt.png", "empty.jpg", "letter.jpeg"):
        assert f"{images / name} cannot be read: " in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: 3 of 13 images cannot be read")
    assert "predictions.json" in last


@pytest.mark.parametrize("model", KINDS)
def test_a_single_image_is_predicted(model, models, images, expected, tmp_path):
    image, output = images / "zwölf Schwäne.png", tmp_path / "new folder" / "p.json"
    done = run_infer(
        *("--data_path", image, "--checkpoint", models[model], "--arch", INFO.model.arch, "--output", output),
        folder=tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, f"{image} (class: {expected[str(image)]})\n"), done.stderr
    assert json.loads(output.read_text(encoding="utf-8")) == {str(image): expected[str(image)]}


def test_predictors_of_all_kinds_work_in_one_process(models, images):
    """Two of them load a checkpoint: MindSpore refuses to set the current device again."""
    sources = [images / name for name in READABLE]
    logits = [
        np.stack([prediction.logits for prediction in Predictor.from_file(path, batch_size=5).predict(sources)])
        for path in (models["ckpt"], models["onnx"], models["ckpt"], models["mindir"])
    ]
    ms.set_context(mode=ms.PYNATIVE_MODE)
    assert logits[0].shape == (10, 60)
    assert np.array_equal(logits[0], logits[2])
    for other in (logits[1], logits[3]):
        assert np.abs(other - logits[0]).max() <= 1e-5 * np.abs(logits[0]).max()


def test_an_onnx_file_needs_no_mindspore(models, images, expected, tmp_path):
    (tmp_path / "mindspore.py").write_text("raise ImportError('MindSpore is imported')\n")
    image = images / "color.png"
    done = run_infer("--data_path", image, "--checkpoint", models["onnx"], folder=tmp_path, extra_path=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{image} (class: {expected[str(image)]})\n"), done.stderr


@pytest.mark.parametrize("model", KINDS)
def test_another_arch_than_that_of_the_file_is_refused(model, models, images, tmp_path):
    done = run_infer(
        *("--data_path", images, "--checkpoint", models[model], "--arch", "beit_base_patch16_224"), folder=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    for word in (f"beit.{model}", "beit_micro_patch8_32", "beit_base_patch16_224"):
        assert word in done.stderr
    assert not (tmp_path / "predictions.json").exists()


def identity_model() -> onnx.ModelProto:
    """A valid ONNX model, such as another program may have written."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_unusable_input_gives_a_one_line_error(models, images, tmp_path):
    (tmp_path / "void").mkdir()
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(identity_model().SerializeToString())
    (tmp_path / "bad.mindir").write_bytes(b"\xff garbage")
    cases = [
        (images / "no.png", models["onnx"], "no.png does not exist"),
        (tmp_path / "void", models["onnx"], "void has no .png, .jpg, .jpeg file"),
        (images, tmp_path / "no.ckpt", "no.ckpt does not exist"),
        (images, tmp_path / "bad.mindir", "bad.mindir cannot be loaded as a MINDIR file"),
        (images, foreign, "foreign.onnx was not exported by this project"),
    ]
    for data, model, text in cases:
        done = run_infer("--data_path", data, "--checkpoint", model, folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not list(tmp_path.glob("predictions*"))


def test_a_device_that_onnx_runtime_does_not_support_is_refused(models, images, tmp_path):
    command = ["--data_path", str(images), "--checkpoint", str(models["onnx"]), "--device_target", "Ascend"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "infer.py"), *command], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    for word in ("device_target is Ascend", "CANNExecutionProvider", "--device_target CPU"):
        assert word in done.stderr


@pytest.fixture
def infer_here(tmp_path, monkeypatch, capsys):
    """Runs infer.py's main in this process, which is quicker: gives exit code, standard output and standard error."""

    def run(data: Path, model: Path, *arguments: object) -> tuple[int, str, str]:
        command = ["infer.py", "--data_path", data, "--checkpoint", model, "--device_target", "CPU", *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        return exit_code(infer.main), *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    yield run
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture
def readable(images, tmp_path) -> Path:
    """A list of the readable images."""
    path = tmp_path / "readable.txt"
    path.write_text("".join(f"{images / name}\n" for name in READABLE))
    return path


def test_topk_and_probabilities_have_the_class_names_of_the_checkpoint(readable, models, expected, infer_here):
    code, printed, error = infer_here(readable, models["onnx"], "--topk", 3, "--probabilities")
    assert (code, error) == (0, "")
    predictions = json.loads(Path("predictions.json").read_text(encoding="utf-8"))
    assert list(predictions) == list(expected)
    network = Predictor.from_file(models["onnx"])
    for result, (path, predicted), line in zip(network.predict(expected), predictions.items(), printed.splitlines()):
        powers = np.exp(result.logits.astype(np.float64))
        order = np.argsort(-powers)[:3]
        assert predicted["class"] == expected[path] == order[0]
        assert predicted["label"] == f"class {order[0]}"
        assert predicted["probability"] == pytest.approx(powers[order[0]] / powers.sum(), rel=1e-5)
        assert [entry["class"] for entry in predicted["top"]] == list(order)
        shares = [entry["probability"] for entry in predicted["top"]]
        assert shares == pytest.approx(powers[order] / powers.sum(), rel=1e-5)
        assert line == f"{path} (class: {order[0]}, label: class {order[0]}, probability: {predicted['probability']})"


def test_class_names_of_a_file_replace_those_of_the_checkpoint(readable, models, expected, infer_here):
    Path("names.txt").write_text("".join(f"Nr. {number}\n" for number in range(60)))
    code, *_ = infer_here(readable, models["onnx"], "--class_names", "names.txt", "--output", "p.csv")
    assert code == 0
    rows = [f"{path},{number},Nr. {number}" for path, number in expected.items()]
    assert Path("p.csv").read_text(encoding="utf-8").splitlines() == ["image,class,label", *rows]
    Path("names.txt").write_text("one\ntwo\n")
    code, _, error = infer_here(readable, models["onnx"], "--class_names", "names.txt")
    assert code == 2
    for word in ("names.txt", "2 lines", "60 classes"):
        assert word in error
    assert not list(Path().glob("predictions*"))


def test_recursive_predicts_a_tree_of_folders(images, models, infer_here):
    code, printed, error = infer_here(images, models["onnx"], "--recursive", "--output", "p.jsonl")
    assert code == 1
    found = [json.loads(line) for line in Path("p.jsonl").read_text(encoding="utf-8").splitlines()]
    names = sorted([str(images / name) for name in READABLE] + [str(images / "inside" / "deeper.png")])
    assert [entry["image"] for entry in found] == names
    assert "3 of 14 images cannot be read" in error
    assert len(printed.splitlines()) == 11


def test_quiet_prints_errors_only(images, readable, models, infer_here):
    assert infer_here(readable, models["onnx"], "--quiet") == (0, "", "")
    code, printed, error = infer_here(images, models["onnx"], "--quiet")
    assert (code, printed, len(error.splitlines())) == (1, "", 4)


def test_a_stopped_run_resumes_to_the_same_file(images, models, infer_here, monkeypatch):
    """Stopped after 5 of 13 images; an unreadable one among them is reported at the end."""
    whole = infer_here(images, models["onnx"], "--output", "whole.json")
    append = Journal.append

    def stop(journal, *records):
        if len(journal) == 5:  # what the thread that receives signals would do, and end the process
            assert not signals._answers[-1](signal.SIGINT)
            raise KeyboardInterrupt
        append(journal, *records)

    monkeypatch.setattr(Journal, "append", stop)
    code, printed, error = infer_here(images, models["onnx"], "--batch_size", 5)
    assert code == 130
    assert "5 of 13 images" in error
    assert "--resume" in error
    assert not Path("predictions.json").exists()
    monkeypatch.setattr(Journal, "append", append)
    code, _, error = infer_here(images, models["onnx"])
    assert code == 2
    assert "predictions.json.partial" in error
    assert "--resume" in error
    code, _, error = infer_here(images, models["onnx"], "--resume", "--topk", 2)
    assert code == 2
    assert "topk is 2" in error
    assert "predictions.json.partial" in error
    resumed = infer_here(images, models["onnx"], "--resume")
    assert (resumed[0], printed + resumed[1]) == whole[:2]
    assert resumed[2] == whole[2].replace("whole.json", "predictions.json")
    assert Path("predictions.json").read_bytes() == Path("whole.json").read_bytes()
    assert not list(Path().glob("*.partial"))


def test_a_killed_run_resumes_to_the_same_file(readable, models, expected, infer_here, tmp_path):
    code = (
        "import os, signal, sys; import infer; from src.prediction.journal import Journal; append = Journal.append\n"
        "def kill(journal, *records):\n    append(journal, *records)\n"
        "    if len(journal) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Journal.append = kill; infer.main()"
    )
    command = [sys.executable, "-c", code, "--data_path", str(readable), "--checkpoint", str(models["onnx"])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command += ["--device_target", "CPU", "--batch_size", "3"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == -9
    assert not Path("predictions.json").exists()
    code, printed, _ = infer_here(readable, models["onnx"], "--resume")
    assert (code, len(printed.splitlines())) == (0, len(READABLE) - 3)
    assert json.loads(Path("predictions.json").read_text(encoding="utf-8")) == expected


def test_a_terminal_shows_images_per_second_and_the_remaining_time(images, models, tmp_path):
    terminal, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 25, 100, 0, 0))  # 25 lines of 100 columns
    command = [sys.executable, str(ROOT / "infer.py"), "--data_path", str(images), "--checkpoint", str(models["onnx"])]
    process = subprocess.Popen(
        [*command, "--device_target", "CPU", "--batch_size", "1"], cwd=tmp_path, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while part := os.read(terminal, 65536):
            shown += part
    os.close(terminal)
    assert process.wait(60) == 1
    text = shown.decode()
    assert re.search(r"\d+/13 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ images/s\]", text), text
    # the lines stay readable between two states of the bar
    for name in READABLE:
        assert re.search(rf"[\r\n]{re.escape(str(images / name))} \(class: \d+\)\r\n", text)


def test_the_contact_sheet_shows_the_readable_images(images, models, infer_here):
    code, *_ = infer_here(images, models["onnx"], "--contact_sheet", "new/sheet.png")
    assert code == 1
    assert Image.open("new/sheet.png").size == (8 * 168 + 8, 2 * 208 + 8)  # ten readable images
    code, _, error = infer_here(images, models["onnx"], "--contact_sheet", "sheet.jpg")
    assert code == 2
    assert "contact_sheet is sheet.jpg" in error
    assert ".png" in error


def test_attention_is_drawn_for_one_image_from_a_checkpoint(images, models, expected, infer_here):
    image = images / "color.png"
    code, printed, error = infer_here(image, models["ckpt"], "--attention", "attention.png")
    assert (code, printed) == (0, f"{image} (class: {expected[str(image)]})\n"), error
    assert Image.open("attention.png").size == (2 * 384, 384)
    for data, model, word in [(images, models["ckpt"], f"{images} has 13"), (image, models["onnx"], "exported file")]:
        code, printed, error = infer_here(data, model, "--attention", "other.png")
        assert (code, printed) == (2, "")
        assert "attention" in error
        assert word in error
        assert not Path("other.png").exists()


def test_topk_above_the_number_of_classes_is_refused(readable, models, infer_here):
    code, _, error = infer_here(readable, models["onnx"], "--topk", 61)
    assert code == 2
    assert f"--topk is 61 but {models['onnx']} has 60 classes" in error
