"""convert.py, as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convert
from src.model.model_info import IMAGENET_DEFAULT_MEAN_STD
from src.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from src.weights.foreign_writer import SUFFIXES, write_foreign
from tests.networks import model_info, variant_network
from tests.weights_golden import ANY_ARCH, FOLDER, assert_same, random_weights, refuses

ROOT = Path(__file__).parent.parent


def run_script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "convert.py", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def run(source: Path, output: Path, *more: str | Path) -> None:
    convert.main(["--input", str(source), "--arch", ANY_ARCH, "--output", str(output), *map(str, more)])


@pytest.fixture(params=SUFFIXES)
def foreign_file(request, tmp_path):
    path = tmp_path / f"{request.param}{SUFFIXES[request.param]}"
    write_foreign(path, random_weights(), request.param)
    return path


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_foreign_file_becomes_a_checkpoint_that_describes_itself(tmp_path, foreign_file, suffix, capsys):
    run(foreign_file, tmp_path / f"ours{suffix}")
    found = load_checkpoint(tmp_path / f"ours{suffix}")
    assert_same(found.weights, random_weights())
    # without a config.json beside the file, transformers' default
    epsilon = 1e-12 if foreign_file.stem.startswith("hf") else 1e-6
    assert found.info == model_info(ANY_ARCH, 32, 10, layer_norm_eps=epsilon)
    printed = capsys.readouterr().out.splitlines()
    assert all(word in printed[0] for word in (ANY_ARCH, "32", "10"))
    (mean,) = (line for line in printed if line.startswith("assumed  mean"))
    assert "(0.5, 0.5, 0.5)" in mean
    assert printed[-1] == f"wrote    {tmp_path / f'ours{suffix}'}"


@pytest.mark.parametrize("target", SUFFIXES)
def test_conversion_between_all_formats_is_bit_identical(tmp_path, foreign_file, target):
    """From every foreign format to a checkpoint, to every foreign format, and to a checkpoint again."""
    run(foreign_file, tmp_path / "a.ckpt")
    run(tmp_path / "a.ckpt", tmp_path / f"b{SUFFIXES[target]}", "--to", target)
    run(tmp_path / f"b{SUFFIXES[target]}", tmp_path / "c.ckpt")
    assert_same(load_checkpoint(tmp_path / "c.ckpt").weights, random_weights())


def test_a_checkpoint_converted_to_another_keeps_its_whole_state(tmp_path):
    whole = Checkpoint(
        random_weights(),
        model_info(ANY_ARCH, 32, 10, crop_pct=1.0, approximate_gelu=True),
        ema=random_weights(1),
        optimizer={"step": np.array(3, np.int32)},
        training={"epoch": 2},
    )
    save_checkpoint(tmp_path / "a.ckpt", whole)
    run(tmp_path / "a.ckpt", tmp_path / "a.safetensors")
    found = load_checkpoint(tmp_path / "a.safetensors")
    assert (found.info, found.training) == (whole.info, whole.training)
    assert_same(found.ema, whole.ema)
    assert_same(found.optimizer, whole.optimizer)
    run(tmp_path / "a.ckpt", tmp_path / "ema.ckpt", "--ema")
    averaged = load_checkpoint(tmp_path / "ema.ckpt")
    assert_same(averaged.weights, whole.ema)
    assert (averaged.ema, averaged.optimizer, averaged.training) == (None, None, None)


def test_fields_from_the_command_line_are_stored_in_the_checkpoint(tmp_path, foreign_file, capsys):
    names = tmp_path / "names.txt"
    names.write_text("".join(f"class {label}\n" for label in range(10)))
    output = tmp_path / "ours.ckpt"
    run(foreign_file, output, "--class_names", names, "--crop_pct", "0.875", "--imagenet_default_mean_and_std", "True")
    info = load_checkpoint(output).info
    assert (info.class_names[9], info.crop_pct, (info.mean, info.std)) == ("class 9", 0.875, IMAGENET_DEFAULT_MEAN_STD)
    assumed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("assumed")]
    assert not any(name in line for line in assumed for name in ("crop_pct", "mean", "std", "class_names"))
    with refuses("crop_pct", "0.875", "1.0"):
        run(output, tmp_path / "again.ckpt", "--crop_pct", "1.0")
    names.write_text("one\n\n")
    with refuses("names.txt", 2, 10):
        run(foreign_file, output, "--class_names", names)
    with refuses("--crop_pct", "timm"):
        run(foreign_file, tmp_path / "a.safetensors", "--to", "timm", "--crop_pct", "1.0")
    with refuses("--crop_pct", "1.5"):
        run(foreign_file, output, "--crop_pct", "1.5")


def test_a_pretraining_checkpoint_keeps_the_parameters_of_pretraining(tmp_path, capsys):
    weights = random_weights(rel_pos_bias=False, shared_rel_pos_bias=True, mean_pooling=False, num_classes=0)
    weights |= {"mask_token": np.ones((1, 1, 96), np.float32), "lm_head.weight": np.ones((16, 96), np.float32),
                "lm_head.bias": np.ones(16, np.float32)}  # fmt: skip
    write_foreign(tmp_path / "pt22k.pth", weights, "unilm")
    run(tmp_path / "pt22k.pth", tmp_path / "pt22k.ckpt")
    assert_same(load_checkpoint(tmp_path / "pt22k.ckpt").weights, weights)
    assert "no classification head" in capsys.readouterr().out
    run(tmp_path / "pt22k.ckpt", tmp_path / "back.pth", "--to", "unilm")
    assert (tmp_path / "back.pth").read_bytes() == (tmp_path / "pt22k.pth").read_bytes()
    capsys.readouterr()
    run(tmp_path / "pt22k.ckpt", tmp_path / "timm.safetensors", "--to", "timm")
    left_out = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert [line.split()[2].rstrip(":") for line in left_out] == ["mask_token", "lm_head.weight", "lm_head.bias"]


def test_help_imports_neither_mindspore_nor_pytorch():
    code = """
import sys, convert
try:
    convert.main(["--help"])
except SystemExit:
    print([name for name in ("mindspore", "torch", "scipy") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.splitlines()[-1] == "[]"
    assert "--output" in result.stdout


def test_the_script_converts_from_any_folder(tmp_path):
    write_foreign(tmp_path / "a.pth", random_weights(), "unilm")
    command = [sys.executable, ROOT / "convert.py", "--input", "a.pth", "--arch", ANY_ARCH, "--output", "a.ckpt"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert_same(load_checkpoint(tmp_path / "a.ckpt").weights, random_weights())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--input", "nowhere.pth"], "nowhere.pth cannot be read (No such file or directory)"),
        (["--input", FOLDER / "whole_module.pth"], "'torch.nn.modules.linear.Linear'"),
        (["--input", FOLDER / "legacy.pth"], "before 1.6"),
        (["--input", FOLDER / "unilm_base.pth"], "patch size is 8, not 4"),
        (["--input", ROOT / "pyproject.toml"], "pyproject.toml is not a checkpoint"),
        (["--input", ROOT], "is a folder"),
        (["--inputs", "a.pth"], "--input"),
    ],
)
def test_an_invalid_input_gives_one_line_and_exit_code_2_and_no_output(tmp_path, arguments, text):
    result = run_script(*arguments, "--arch", ANY_ARCH, "--output", tmp_path / "a.ckpt")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert text in result.stderr
    assert os.listdir(tmp_path) == []


def test_files_load_strictly_in_the_libraries_themselves(tmp_path):
    """Needs REFERENCE_PYTHON, an interpreter with torch, timm and transformers, and UNILM, the authors' code."""
    if not {"REFERENCE_PYTHON", "UNILM"} <= set(os.environ):
        pytest.skip("REFERENCE_PYTHON and UNILM are not set")
    import mindspore as ms

    from src.weights.network_parameters import set_weights

    weights, image = random_weights(), np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype(np.float32)
    network = variant_network(ANY_ARCH, num_classes=10).set_train(False)
    set_weights(network, weights)
    save_checkpoint(tmp_path / "a.ckpt", Checkpoint(weights, model_info(ANY_ARCH, 32, 10)))
    folder = tmp_path / "foreign"
    folder.mkdir()
    np.save(folder / "images.npy", image)
    np.save(folder / "logits.npy", network(ms.Tensor(image)).asnumpy())
    names = [f"{target}{suffix}" for target, suffix in SUFFIXES.items()]
    for target, suffix in SUFFIXES.items():
        run(tmp_path / "a.ckpt", folder / f"{target}{suffix}", "--to", target)
    script = ROOT / "tests" / "golden" / "make_weights.py"
    command = [os.environ["REFERENCE_PYTHON"], script, "--unilm", os.environ["UNILM"], "--check", folder]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    differences = dict(json.loads(line) for line in result.stdout.splitlines() if line.startswith("["))
    assert sorted(differences) == sorted(names)
    assert max(differences.values()) < 1e-5
