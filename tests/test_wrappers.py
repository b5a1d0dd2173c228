"""The shell wrappers: called from another folder, with relative paths, and with invalid arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny_project import ARCH, ROOT, error_line, run, wrapper, write_config, write_images

RUN = f"{ARCH}_test"
CPU = ("--extra", "--device_target", "CPU")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the standalone wrapper has trained, called with paths relative to it."""
    folder = tmp_path_factory.mktemp("wrapped")
    write_images(folder / "data")
    write_config(folder, "data", **{f"{name}_root_dir": name for name in ("ckpt", "best_ckpt", "logs", "summary")})
    done = wrapper("run_standalone_train.sh", "config.yaml", "--device", 0, *CPU, "--epochs", 1, cwd=folder)
    assert "epoch 1/1 evaluation: " in done.stdout
    return folder, Path("best_ckpt") / RUN / "best.ckpt"


def test_standalone_training_writes_relative_to_the_caller(trained):
    folder, checkpoint = trained
    assert (folder / checkpoint).is_file()
    assert (folder / "logs" / RUN / "metrics.csv").is_file()


def test_eval_wrapper(trained):
    folder, checkpoint = trained
    done = wrapper(
        "run_eval_gpu.sh", "config.yaml", "--checkpoint", checkpoint, *CPU, "--val_num_samples", 6, cwd=folder
    )
    assert done.stdout.splitlines()[-1].startswith("eval results: {'Loss': ")


def test_infer_wrapper_writes_predictions_json(trained):
    folder, checkpoint = trained
    images = "data/val/red"
    done = wrapper("run_infer_gpu.sh", images, "--checkpoint", checkpoint, "--arch", ARCH, *CPU, cwd=folder)
    predictions = json.loads((folder / "predictions.json").read_text())
    assert list(predictions) == [f"{images}/{number}.png" for number in range(3)]
    assert done.stdout.splitlines() == [f"{path} (class: {label})" for path, label in predictions.items()]


def test_distributed_training_takes_a_shipped_config_by_its_name(trained):
    """The quickstart's config has device_num 1, so the wrapper needs no --num_devices."""
    folder, _ = trained
    write_images(folder / "digits", train=6)
    roots = [
        word for name in ("ckpt", "best_ckpt", "logs", "summary") for word in (f"--{name}_root_dir", f"own/{name}")
    ]
    options = ["--data_url", "digits", "--num_classes", 3, "--batch_size", 8, *roots]
    done = wrapper("run_distribute_train.sh", "quickstart_digits", *CPU, "--dry_run", *options, cwd=folder)
    assert "a step" in done.stdout
    assert (folder / "own" / "logs").is_dir()


def test_distributed_pretraining_takes_a_shipped_config_by_its_name(trained):
    folder, _ = trained
    write_images(folder / "photos", train=6)
    roots = [
        word for name in ("ckpt", "best_ckpt", "logs", "summary") for word in (f"--{name}_root_dir", f"pre/{name}")
    ]
    options = ["--data_url", "photos", "--arch", ARCH, "--image_size", 32, "--num_mask_patches", 8, "--batch_size", 8]
    words = ["small_data_pretrain_cpu", *CPU, "--dry_run", *options, *roots]
    done = wrapper("run_distribute_pretrain_gpu.sh", *words, cwd=folder)
    assert "a step" in done.stdout
    assert (folder / "pre" / "logs").is_dir()


def test_standalone_pretraining_passes_checkpoint_and_extra_to_pretrain():
    words = ["small_data_pretrain_cpu", "--checkpoint", "a.ckpt", *CPU, "--target", "tokens"]
    done = wrapper("run_standalone_pretrain_gpu.sh", *words, check=False)
    assert error_line(done).startswith("target is tokens but tokenizer is empty")


def test_the_script_names_of_the_users_document_link_to_the_gpu_scripts():
    for name in ("standalone", "distribute"):
        link = ROOT / "scripts" / f"run_{name}_train.sh"
        assert link.resolve() == ROOT / "scripts" / f"run_{name}_train_gpu.sh"


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("run_standalone_train_gpu.sh", [], ("first argument",)),
        ("run_standalone_train_gpu.sh", ["a.yaml", "b.yaml"], ("'b.yaml'",)),
        ("run_standalone_pretrain_gpu.sh", [], ("first argument",)),
        ("run_distribute_pretrain_gpu.sh", ["a.yaml", "--device", "0"], ("--device", "--extra")),
        ("run_eval_gpu.sh", ["a.yaml", "--device"], ("--device", "value")),
        ("run_eval_gpu.sh", ["a.yaml", "--device", "x"], ("--device", "'x'", "whole number")),
        ("run_infer_gpu.sh", ["d", "--epochs", "3"], ("--epochs", "--extra")),
        ("run_distribute_train_gpu.sh", ["a.yaml", "--device", "0"], ("--device", "--extra")),
        ("run_eval_gpu.sh", ["a.yaml", "--device", "0", "--num_devices", "2"], ("--device", "--device_ids")),
        ("run_mindinsight.sh", [], ("SUMMARY_DIR", "summary_root_dir")),
        ("run_mindinsight.sh", ["a", "b"], ("'b'",)),
        ("run_mindinsight.sh", ["src"], ("src", "summary_root_dir")),
        ("run_mindinsight.sh", ["--port", "x"], ("--port", "'x'", "whole number")),
        ("run_mindinsight.sh", ["--stop", "src"], ("--stop", "folder")),
        ("run_mindinsight.sh", ["--host", "0"], ("--host",)),
    ],
)
def test_invalid_arguments_fail_with_one_line_and_the_usage(name, words, expected):
    done = wrapper(name, *words, check=False)
    assert done.returncode == 2
    message, usage = done.stderr.splitlines()
    assert message.startswith("error: ")
    assert all(part in message for part in expected)
    assert usage.startswith(f"usage: {name} ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["missing.yaml"], ("missing.yaml", "quickstart_digits")),
        (["quickstart_digit"], ("quickstart_digit", "quickstart_digits")),
        (["other/missing.yaml"], ("other/missing.yaml",)),
        (["config.yaml", "--device_ids", "0;1"], ("--device_ids", "'0;1'", "0,1,2,3")),
        (["config.yaml", "--hostfile", "hosts"], ("hosts", "gpu1 slots=4")),
    ],
)
def test_an_invalid_config_or_device_is_one_line(trained, words, expected):
    done = wrapper("run_distribute_train_gpu.sh", *words, cwd=trained[0], check=False)
    assert all(part in error_line(done) for part in expected)


def test_a_wrapper_passes_on_the_exit_code_of_its_script():
    assert wrapper("run_eval_gpu.sh", "missing.yaml", check=False).returncode == 2


def test_help_prints_the_usage_of_the_users_document():
    done = wrapper("run_distribute_train_gpu.sh", "--help")
    assert done.stdout == (
        "usage: run_distribute_train_gpu.sh CONFIG [--num_devices NUM_DEVICES] "
        "[--device_ids DEVICE_IDS (e.g. '0,1,2,3')] [--hostfile HOSTFILE] [--checkpoint CHECKPOINT] "
        "[--extra *EXTRA_ARGS]\n"
    )


def test_the_scripts_are_valid_bash():
    for path in sorted((ROOT / "scripts").glob("*.sh")):
        run("bash", "-n", path)
