"""pretrain.py and train_tokenizer.py as a user runs them: tokenizer, pre-training, resume, fine-tuning, pictures."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.config import PretrainConfig, TokenizerConfig, as_yaml
from src.tokenizers.tokenizer_file import DVAE, read_tokenizer_file
from src.weights.checkpoint import load_checkpoint
from tests.tiny_project import ARCH, error_line, script, write_config, write_images
from tests.tokenizer_files import write_state_dict

RUN = {"dataset": "ImageFolder", "batch_size": 8, "epochs": 2, "warmup_length": 0, "device_target": "CPU"}
RUN |= {"num_parallel_workers": 2, "print_loss_every": 2, "model_postfix": "test", "base_lr": 1e-3}
TOKENIZER = {"image_size": 16, "num_tokens": 32, "codebook_dim": 16, "num_layers": 2, "hidden_dim": 16}
NETWORK = {"arch": ARCH, "image_size": 32, "num_mask_patches": 8, "min_mask_patches_per_block": 2}
NETWORK |= {"use_clip_grad_norm": True, "clip_grad_norm": 3.0, "early_layers": 1, "head_layers": 1}


def outputs(folder: Path) -> dict[str, str]:
    roots = {"summary_root_dir": "summaries", "ckpt_root_dir": "checkpoints", "best_ckpt_root_dir": "best"}
    return {option: str(folder / name) for option, name in (roots | {"logs_root_dir": "logs"}).items()}


def write(folder: Path, config: PretrainConfig | TokenizerConfig) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(as_yaml(replace(config, **outputs(folder))))
    return path


def rows(folder: Path, run: str) -> list[dict[str, str]]:
    with (folder / "logs" / run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, data) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    config = write(folder, TokenizerConfig(data_url=str(data), **TOKENIZER, **RUN))
    script("train_tokenizer.py", "--config_path", config, "--epochs", 8, "--base_lr", 5e-3)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, data, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    file = tokenizer / "best" / "dvae_test" / "best.ckpt"
    config = write(folder, PretrainConfig(data_url=str(data), tokenizer=str(file), **NETWORK, **RUN))
    script("pretrain.py", "--config_path", config)
    return folder


def test_a_tokenizer_learns_and_reports_the_codes_in_use(tokenizer):
    found = rows(tokenizer, "dvae_test")
    errors = [float(row["train_reconstruction"]) for row in found]
    assert len(errors) == 8
    assert errors[-1] < 0.8 * errors[0]
    assert all(1 <= int(row["codes"]) <= TOKENIZER["num_tokens"] for row in found)
    file = read_tokenizer_file(tokenizer / "best" / "dvae_test" / "best.ckpt")
    assert (file.kind, file.weights["codebook.weight"].shape) == (DVAE, (32, 16))


def test_pretraining_reports_its_metrics_and_leaves_a_checkpoint_and_a_picture(pretrained):
    found = rows(pretrained, f"{ARCH}_test")
    for row in found:
        assert 0 <= float(row["train_accuracy"]) <= 1
        assert 0 <= float(row["train_cls_pt_accuracy"]) <= 1
        assert float(row["train_grad_norm"]) > 0
        assert 1 <= int(row["codes"]) <= TOKENIZER["num_tokens"]
    assert float(found[1]["train_loss"]) < float(found[0]["train_loss"])
    checkpoint = load_checkpoint(pretrained / "best" / f"{ARCH}_test" / "best.ckpt")
    model = checkpoint.info.model
    assert (model.num_classes, model.lm_head_outputs, model.early_layers, model.head_layers) == (0, 32, 1, 1)
    assert {"mask_token", "lm_head.weight", "cls_pt_layers.0.attn.qkv.weight"} <= set(checkpoint.weights)
    assert not any(name.startswith("tokenizer") for name in checkpoint.weights)
    with Image.open(pretrained / "logs" / f"{ARCH}_test" / "masked.png") as picture:
        assert picture.width > 5 * 160  # five tiles a row


def test_a_resumed_run_ends_with_the_same_weights_and_counts(pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints" / f"{ARCH}_test" / f"{ARCH}-2_4.ckpt").unlink()
    script("pretrain.py", "--config_path", pretrained / "config.yaml", "--resume", "auto", *flags(tmp_path))
    name = f"checkpoints/{ARCH}_test/{ARCH}-2_4.ckpt"
    whole, resumed = load_checkpoint(pretrained / name), load_checkpoint(tmp_path / name)
    for part in ("weights", "optimizer"):
        expected, found = getattr(whole, part), getattr(resumed, part)
        assert set(expected) == set(found)
        assert all(np.array_equal(expected[key], found[key]) for key in expected)
    untimed = [[{k: v for k, v in row.items() if "second" not in k} for row in rows(f, f"{ARCH}_test")]
               for f in (pretrained, tmp_path)]  # fmt: skip
    assert untimed[0] == untimed[1]


def flags(folder: Path) -> list[str]:
    return [word for option, value in outputs(folder).items() for word in (f"--{option}", value)]


def test_the_result_is_fine_tuned_and_does_not_fit_another_network(pretrained, data, tmp_path):
    best = pretrained / "best" / f"{ARCH}_test" / "best.ckpt"
    config = write_config(tmp_path, data)
    done = script("train.py", "--config_path", config, "--pretrained", best, "--epochs", 1)
    lines = done.stdout.splitlines()
    assert any("for pre-training only" in line for line in lines)
    assert any("copies of the table shared by all blocks" in line for line in lines)
    # masked pixels instead of tokens, without the further blocks: another head, and an error that names the option
    options = ("--target", "pixels", "--tokenizer", "none", "--pretrained", best, *flags(tmp_path / "pixels"))
    message = error_line(script("pretrain.py", "--config_path", pretrained / "config.yaml", "--head_layers", 0,
                                "--early_layers", 0, *options, check=False))  # fmt: skip
    assert "cls_pt_layers" in message
    assert "head_layers" in message


def test_the_preview_shows_views_mask_and_decoded_tokens(pretrained, tmp_path):
    output = tmp_path / "preview.png"
    command = ("-m", "src.data.preview")
    import sys

    from tests.tiny_project import ROOT, run  # the preview is a module, not a script at the top

    done = run(sys.executable, *command, "--config_path", pretrained / "config.yaml", "--output", output, cwd=ROOT)
    assert "8 of the 8 images" in done.stdout
    with Image.open(output) as picture:
        assert picture.width > 4 * 160


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--tokenizer", "none"), ("target is tokens", "tokenizer")),
        (("--target", "pixels"), ("target is pixels", "tokenizer")),
        (("--num_mask_patches", 16), ("num_mask_patches is 16", "4 x 4", "15")),
        (("--image_size", 30), ("image_size 30", "patch size 8", "32")),
        (("--data_url", "{tmp}/empty"), ("{tmp}/empty", "no images")),
        (("--tokenizer", "{tmp}/other.pth"), ("{tmp}/other.pth", "known tokenizer")),
        (("--early_layers", 9), ("early_layers is 9", "head_layers")),
        (("--pretrained", "{tmp}/tuned.pth"), ("{tmp}/tuned.pth", "mask_token")),
        (("--image_size", 40, "--num_mask_patches", 8, "--tokenizer", "{tmp}/vqkd.pth"), ("4 x 4 tokens", "5 x 5")),
    ],
    ids=["no_tokenizer", "pixels", "too_many", "size", "no_images", "kind", "early", "fine_tuned", "grid"],
)
def test_wrong_input_gives_one_line(pretrained, tmp_path, options, named):
    from tests.test_tokenizers import GOLDEN
    from tests.tokenizer_files import vqkd_weights
    from tests.weights_golden import random_weights

    (tmp_path / "empty").mkdir()
    write_state_dict(tmp_path / "other.pth", {"cls_token": np.ones((1, 1, 4), np.float32)})
    write_state_dict(tmp_path / "vqkd.pth", vqkd_weights(GOLDEN))
    write_state_dict(tmp_path / "tuned.pth", random_weights())
    words = [str(word).format(tmp=tmp_path) for word in options]
    done = script(
        "pretrain.py", "--config_path", pretrained / "config.yaml", *flags(tmp_path / "out"), *words, check=False
    )
    message = error_line(done)
    assert all(part.format(tmp=tmp_path) in message for part in named), message
