"""The shell wrappers, from another folder and with relative paths, and what they say of wrong arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny_project import ARCH, ROOT, error_line, run, wrapper, write_config, write_images

RUN = f"{ARCH}_test"
CPU = ("--extra", "--device_target", "CPU")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the standalone wrapper has trained, given paths relative to it."""
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


def test_the_links_of_the_users_examples_exist():
    for name in ("standalone", "distribute"):
        link = ROOT / "scripts" / f"run_{name}_train.sh"
        assert link.resolve() == ROOT / "scripts" / f"run_{name}_train_gpu.sh"


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("run_standalone_train_gpu.sh", [], "the first argument is missing"),
        ("run_standalone_train_gpu.sh", ["a.yaml", "b.yaml"], "'b.yaml' is one argument too many"),
        ("run_eval_gpu.sh", ["a.yaml", "--device"], "--device needs a value"),
        ("run_eval_gpu.sh", ["a.yaml", "--device", "x"], "--device is 'x', expected a whole number"),
        (
            "run_infer_gpu.sh",
            ["d", "--epochs", "3"],
            "--epochs is not an argument of this script; options of the Python",
        ),
        ("run_distribute_train_gpu.sh", ["a.yaml", "--device", "0"], "--device is not an argument of this script"),
        (
            "run_eval_gpu.sh",
            ["a.yaml", "--device", "0", "--num_devices", "2"],
            "--device is for one device, --device_ids for several: give one of them",
        ),
        ("run_mindinsight.sh", [], "the folder of the summaries is missing"),
        ("run_mindinsight.sh", ["a", "b"], "'b' is one argument too many"),
        (
            "run_mindinsight.sh",
            ["src"],
            "src holds no summaries: give the config's summary_root_dir, or the folder of a",
        ),
        ("run_mindinsight.sh", ["--port", "x"], "--port is 'x', expected a whole number"),
        ("run_mindinsight.sh", ["--stop", "src"], "--stop takes no folder"),
        ("run_mindinsight.sh", ["--host", "0"], "--host is not an argument of this script"),
    ],
)
def test_wrong_arguments_are_told_with_the_usage(name, words, expected):
    done = wrapper(name, *words, check=False)
    assert done.returncode == 2
    message, usage = done.stderr.splitlines()
    assert message.startswith(f"error: {expected}")
    assert usage.startswith(f"usage: {name} ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["missing.yaml"], "missing.yaml cannot be read as a config file: "),
        (["config.yaml", "--device_ids", "0;1"], "--device_ids is '0;1', expected ids such as 0,1,2,3"),
        (["config.yaml", "--hostfile", "hosts"], "hosts cannot be read as a hostfile ("),
    ],
)
def test_devices_that_cannot_be_are_one_line(trained, words, expected):
    done = wrapper("run_distribute_train_gpu.sh", *words, cwd=trained[0], check=False)
    assert error_line(done).startswith(expected)


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
