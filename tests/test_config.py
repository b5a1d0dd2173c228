"""The options: what a YAML file and a command line may say, and what they are told where they err."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config import Config, InferConfig, find_config, parse_args, read_config
from src.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted((ROOT / "src" / "configs").glob("*.yaml"))
BASE = ROOT / "src" / "configs" / "beit_base_patch16_224_ft1k.yaml"

# The block of the user's document, as its text stands there.
USERS_YAML = """
# ===== Dataset ===== #
dataset: ImageNet
data_url: /data/imagenet/ILSVRC/Data/CLS-LOC/
train_dir: train
val_dir: validation_preprocess
train_num_samples: -1
val_num_samples: -1
imagenet_default_mean_and_std: False

# ===== Augmentations ==== #
auto_augment: rand-m9-mstd0.5-inc1
aa_interpolation: bicubic
re_mode: pixel
re_prob: 0.25
re_count: 1
cutmix: 1.0
mixup: 0.8
mixup_prob: 1.0
mixup_mode: batch
mixup_off_epoch: 0.0
switch_prob: 0.5
label_smoothing: 0.1
min_crop: 0.08
crop_pct: 0.9

# ===== Optimizer ======== #
optimizer: adamw
beta: [ 0.9, 0.999 ]
eps: 1.0e-8
base_lr: 2.0e-3  # 2e-3, 3e-3, 4e-3, 5e-3  # Increased if layer decay is used
min_lr: 1.0e-6
lr_scheduler: cosine_lr
lr_adjust: 30
lr_gamma: 0.97
momentum: 0.9
weight_decay: 0.05
layer_decay: 0.9


# ===== Network training config ===== #
epochs: 100
batch_size: 64
is_dynamic_loss_scale: True
loss_scale: 1024
num_parallel_workers: 8
start_epoch: 0
warmup_length: 20
warmup_lr: 0.000007
# Gradient clipping
use_clip_grad_norm: False
clip_grad_norm: 1.0
# Load pretrained setup
exclude_epoch_state: True
seed: 0
# EMA
with_ema: False
ema_decay: 0.9999

pynative_mode: False
dataset_sink_mode: True

# ==== Model arguments ==== #
arch: beit_base_patch16_224
amp_level: O0
file_format: ONNX
pretrained: ''
image_size: 224
num_classes: 1000
drop: 0.0
drop_block: 0.0
drop_path: 0.1  # Stochasitc depth
disable_approximate_gelu: False
use_pytorch_maxpool: False
layer_scale_init_value: 0.1  # 0.1 for base, 1e-5 for large. set 0 to disable layer scale
rel_pos_bias: True
abs_pos_emb: False


# ===== Hardware setup ===== #
device_id: 0
device_num: 1
device_target: GPU

# ===== Callbacks setup ===== #
summary_root_dir: /experiments/summary_dir/
ckpt_root_dir: /experiments/checkpoints/
best_ckpt_root_dir: /experiments/best_checkpoints/
logs_root_dir: /experiments/logs/
ckpt_keep_num: 10
best_ckpt_num: 5
ckpt_save_every_step: 0
ckpt_save_every_seconds: 1800
print_loss_every: 100
summary_loss_collect_freq: 20
model_postfix: 0
collect_input_data: False
dump_graph: False
"""


def train_args(*words: str, path: Path = BASE) -> Config:
    return parse_args(["--config_path", str(path), *words], "train")


def edited(tmp_path: Path, **changes: object) -> Path:
    """The base config with some values changed; a value of `...` removes the option."""
    values = yaml.safe_load(BASE.read_text())
    for name, value in changes.items():
        if value is ...:
            values.pop(name)
        else:
            values[name] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def message(*words: str, path: Path = BASE) -> str:
    with pytest.raises(UserError) as error:
        train_args(*words, path=path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_users_yaml_block_is_a_valid_config_as_it_stands(tmp_path):
    path = tmp_path / "users.yaml"
    path.write_text(USERS_YAML)
    config = read_config(path)
    assert config.ckpt_root_dir == "/experiments/checkpoints/"
    assert config.loss_scale == 1024.0
    assert isinstance(config.loss_scale, float)
    assert config.warmup_lr == 7e-6
    assert config.model_postfix == "0"
    assert config.pretrained is None


def test_every_option_of_the_users_document_has_its_default(tmp_path):
    path = tmp_path / "users.yaml"
    path.write_text(USERS_YAML)
    users, ours = read_config(path), Config()
    names = [name for name, f in declared().items() if not f.metadata["added"]]
    assert names == list(yaml.safe_load(USERS_YAML))
    differing = {name for name in names if getattr(users, name) != getattr(ours, name)}
    # the defaults of these must be writable by an ordinary user
    assert differing == {"summary_root_dir", "ckpt_root_dir", "best_ckpt_root_dir", "logs_root_dir"}


def declared() -> dict[str, dataclasses.Field]:
    return {f.name: f for f in dataclasses.fields(Config)}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_is_valid_and_spells_out_every_option(path):
    read_config(path)
    assert list(yaml.safe_load(path.read_text())) == list(declared())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("beit_base_patch16_224_ft1k", (4e-3, 100, 20, 0.65, 0.1, 0.05, 0.8, 1.0, 0.1, 128 * 8)),
        ("beit_large_patch16_224_ft1k", (1e-3, 50, 5, 0.75, 0.2, 0.05, 0.8, 1.0, 1e-5, 64 * 8 * 2)),
        ("beit_base_patch16_384_pt22k_ft1k", (2e-5, 30, 5, 0.85, 0.1, 1e-8, 0.0, 0.0, 0.1, 64 * 8)),
    ],
)
def test_the_shipped_configs_hold_the_authors_values(name, values):
    """Paper, appendix, fine-tuning table, and the commands of the authors' get-started page (8 devices)."""
    c = read_config(ROOT / "src" / "configs" / f"{name}.yaml")
    batch = c.batch_size * 8 * c.accumulation_steps
    assert values == (
        c.base_lr,
        c.epochs,
        c.warmup_length,
        c.layer_decay,
        c.drop_path,
        c.weight_decay,
        c.mixup,
        c.cutmix,
        c.layer_scale_init_value,
        batch,
    )
    assert c.disable_approximate_gelu
    assert (c.beta, c.eps, c.label_smoothing, c.re_prob, c.auto_augment) == (
        (0.9, 0.999),
        1e-8,
        0.1,
        0.25,
        "rand-m9-mstd0.5-inc1",
    )


@pytest.mark.parametrize("name", ["small_data_base_224", "small_data_base_112_cpu"])
def test_the_configs_for_small_data_start_from_published_weights_and_suit_a_few_hundred_images(name):
    c = read_config(ROOT / "src" / "configs" / f"{name}.yaml")
    assert c.pretrained == "beit_base_patch16_224_pt22k_ft22k.pth"
    assert c.disable_approximate_gelu, "the published weights were trained with the exact GELU"
    assert (c.num_classes, c.arch, c.layer_scale_init_value) == (0, "beit_base_patch16_224", 0.1)
    assert (c.mixup, c.cutmix, c.label_smoothing, c.drop_path) == (0, 0, 0.1, 0.1)  # the authors', for these weights
    batch = c.batch_size * c.accumulation_steps
    steps = c.epochs * (300 // batch)
    assert 1 / (1 - c.ema_decay) < steps, "an average over more steps than there are is mostly the first weights"
    assert c.warmup_length <= c.epochs / 5
    # the authors' 2e-5 is for 512 images a step, 5e-6 for 32 by the square-root rule, and over 30 epochs of a million
    # images: a new head that must be learnt in a hundredth of the steps wants more, the body below it not
    assert 2e-5 * (batch / 512) ** 0.5 < c.base_lr <= 1e-4
    assert c.base_lr * c.layer_decay**12 < 5e-6, "the lower blocks hardly move"


@pytest.mark.parametrize("name", ["small_data_base_224", "small_data_base_112_cpu", "small_data_scratch_64_cpu"])
def test_the_configs_for_small_data_mark_what_to_change(name):
    lines = (ROOT / "src" / "configs" / f"{name}.yaml").read_text().splitlines()
    marked = {line.split(":")[0] for line in lines if "CHANGE" in line and not line.startswith("#")}
    assert marked >= {"data_url", "hflip", "base_lr", "num_parallel_workers"}
    assert name.startswith("small_data_scratch") or marked >= {"pretrained", "epochs"}
    assert any(line.startswith("#") and "marked CHANGE" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--eps", "1e-8"], "eps", 1e-8),
        (["--with_ema", "true"], "with_ema", True),
        (["--with_ema", "True"], "with_ema", True),
        (["--with_ema"], "with_ema", True),
        (["--rel_pos_bias", "no"], "rel_pos_bias", False),
        (["--beta", "0.8,0.99"], "beta", (0.8, 0.99)),
        (["--beta", "[0.8, 0.99]"], "beta", (0.8, 0.99)),
        (["--beta", "[0.8,", "0.99]"], "beta", (0.8, 0.99)),
        (["--beta", "0.8", "0.99"], "beta", (0.8, 0.99)),
        (["--auto_augment", "none"], "auto_augment", None),
        (["--auto_augment", ""], "auto_augment", None),
        (["--auto_augment=augmix-m3-w3"], "auto_augment", "augmix-m3-w3"),
        (["--val_num_samples", "-1"], "val_num_samples", -1),
        (["--base_lr", "3"], "base_lr", 3.0),
        (["--batch_size", "100"], "batch_size", 100),
    ],
)
def test_the_command_line_overrides_the_file(words, name, value):
    got = getattr(train_args(*words), name)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("1e-8", "eps", 1e-8),  # PyYAML reads this as text: YAML 1.1 wants a dot
        ("true", "with_ema", True),
        ("'True'", "with_ema", True),
        ("0.8,0.99", "beta", (0.8, 0.99)),
        ("[0.8, 0.99]", "beta", (0.8, 0.99)),
        ("[8e-1, 0.99]", "beta", (0.8, 0.99)),
        ("none", "auto_augment", None),
        ("", "pretrained", None),
        ("~", "pretrained", None),
    ],
)
def test_yaml_values_mean_what_a_person_expects(tmp_path, text, name, value):
    path = tmp_path / "config.yaml"
    path.write_text(re.sub(rf"^{name}:.*$", f"{name}: {text}", BASE.read_text(), flags=re.M))
    got = getattr(read_config(path), name)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--batch_sise", "3"], "--batch_sise is not an option: did you mean --batch_size?"),
        (["--batch_size", "many"], "--batch_size is many, expected a whole number, at least 1"),
        (["--batch_size", "8.5"], "--batch_size is 8.5, expected a whole number, at least 1"),
        (["--batch_size", "0"], "--batch_size is 0, expected a whole number, at least 1"),
        (["--drop_path", "1"], "--drop_path is 1, expected a number, at least 0, less than 1"),
        (["--base_lr", "nan"], "--base_lr is nan, expected a number, more than 0"),
        (["--beta", "0.9"], "--beta is 0.9, expected numbers, 2 of them, at least 0, less than 1"),
        (["--with_ema", "perhaps"], "--with_ema is perhaps, expected True or False"),
        (["--amp_level", "O4"], "--amp_level is O4, expected one of O0, O1, O2, O3"),
        (["--start_epoch", "100"], "start_epoch is 100, expected less than epochs, which is 100"),
        (["--warmup_length", "101"], "warmup_length is 101, expected at most epochs, which is 100"),
        (["--image_size", "230"], "image_size 230 is not a multiple of the patch size 16: use 224"),
        (["--drop_block", "0.1"], "drop_block is 0.1: BEiT has no DropBlock layer, leave it at 0"),
        (["--use_pytorch_maxpool"], "use_pytorch_maxpool is True: BEiT has no max pooling, leave it at False"),
        (["--train_num_samples", "0"], "train_num_samples is 0: give a number of images, or -1 for all"),
        (["--model_postfix", "a/b"], "model_postfix is 'a/b', expected letters, digits, '.', '_' and '-'"),
        (["--epochs"], "argument --epochs: expected one argument (see --help)"),
        (["stray"], "'stray' is not expected here: options are given as --name value (see --help)"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_given_and_what_is_allowed(words, expected):
    assert message(*words) == expected


def test_an_unknown_architecture_is_refused_with_the_nearest_name():
    text = message("--arch", "beit_base_patch16_244")
    assert text.startswith("--arch is beit_base_patch16_244, expected one of beit_base_patch16_224, ")
    assert text.endswith(": did you mean beit_base_patch16_224?")


def test_missing_options_are_listed(tmp_path):
    path = edited(tmp_path, seed=..., beta=...)
    assert message(path=path) == f"{path}: every option must be in the file, these are missing: beta, seed"


def test_added_options_may_be_left_out(tmp_path):
    added = [name for name, f in declared().items() if f.metadata["added"]]
    assert added
    config = read_config(edited(tmp_path, **dict.fromkeys(added, ...)))
    assert all(getattr(config, name) == declared()[name].default for name in added)


def test_an_unknown_key_is_refused_with_the_nearest_name(tmp_path):
    path = edited(tmp_path, layer_decai=0.5)
    assert message(path=path) == f"{path}: layer_decai is not an option: did you mean layer_decay?"


def test_a_wrong_type_in_the_file_names_the_file(tmp_path):
    path = edited(tmp_path, epochs=[1, 2])
    assert message(path=path) == f"{path}: epochs is [1, 2], expected a whole number, at least 1"
    path = edited(tmp_path, epochs=True)
    assert message(path=path) == f"{path}: epochs is True, expected a whole number, at least 1"
    path = edited(tmp_path, base_lr=None)
    assert message(path=path) == f"{path}: base_lr is none, expected a number, more than 0"


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(BASE.read_text() + "seed: 3\n")
    assert re.fullmatch(rf"{re.escape(str(path))}: not valid YAML at line \d+: seed is given twice", message(path=path))


def test_files_that_are_no_config_are_refused(tmp_path):
    missing = tmp_path / "missing.yaml"
    assert message(path=missing) == f"{missing}: no such config file: check the path"
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,\nb: 2\n")
    assert message(path=broken).startswith(f"{broken}: not valid YAML at line 3: expected ")
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    assert message(path=empty) == f"{empty}: a config file holds 'option: value' lines"
    image = tmp_path / "image.yaml"
    image.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    assert "cannot be read as a config file" in message(path=image)


def test_what_a_script_needs_is_asked_for():
    with pytest.raises(UserError, match=r"^--config_path is required: give a YAML file or the name of one "):
        parse_args([], "train")
    with pytest.raises(UserError, match=r"^--pretrained is required: the checkpoint to evaluate$"):
        parse_args(["--config", str(BASE)], "eval")
    with pytest.raises(UserError, match=r"^--checkpoint is required: a checkpoint or an ONNX file$"):
        parse_args(["--data_path", "x"], "infer")


def test_infer_needs_no_config_and_takes_what_it_uses_from_one():
    alone = parse_args(["--data_path", "x", "--checkpoint", "y"], "infer")
    assert alone == InferConfig(data_path="x", checkpoint="y")
    assert alone.arch is None
    with_file = parse_args(["--data_path", "x", "--checkpoint", "y", "--config", str(BASE)], "infer")
    assert (with_file.arch, with_file.batch_size) == ("beit_base_patch16_224", 128)


@pytest.mark.parametrize("script", ["train", "eval", "export", "infer"])
def test_help_names_every_option_and_imports_no_mindspore(script):
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try:\n    runpy.run_path('{script}.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert 'mindspore' not in sys.modules"
    )
    begin = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert time.perf_counter() - begin < 10  # seconds; importing MindSpore on a busy machine takes longer
    for f in dataclasses.fields(InferConfig if script == "infer" else Config):
        assert f"--{f.name} " in run.stdout
    if script != "infer":
        titles = [
            "Dataset",
            "Augmentations",
            "Optimizer",
            "Network training config",
            "Model arguments",
            "Hardware setup",
        ]
        places = [run.stdout.index(f"\n{title}:") for title in titles]
        assert places == sorted(places)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(declared())), st.text(max_size=12))
def test_any_text_for_any_option_is_a_value_of_its_type_or_one_line(name, text):
    try:
        config = train_args(f"--{name}={text}")
    except UserError as refusal:
        config, lines = None, str(refusal).splitlines()
        assert len(lines) == 1
    if config is not None:
        default = getattr(Config(), name)
        assert isinstance(getattr(config, name), (str, type(None)) if default is None else (type(default), type(None)))


def test_a_shipped_config_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        find_config("quickstart_digits")
        == find_config("quickstart_digits.yaml")
        == ROOT / "src/configs" / ("quickstart_digits.yaml")
    )
    assert parse_args(["--config_path", "quickstart_digits"], "train").model_postfix == "digits"
    Path("quickstart_digits").write_text("mine: 1\n")  # a file of one's own goes first
    assert find_config("quickstart_digits") == Path("quickstart_digits")


def test_an_unknown_configs_name_is_refused_with_the_nearest_of_the_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ", ".join(path.stem for path in SHIPPED)
    with pytest.raises(UserError) as refusal:
        parse_args(["--config_path", "quickstart_digit"], "train")
    assert str(refusal.value) == (
        f"quickstart_digit: no such config file, nor one of those that are shipped ({names}): "
        "did you mean quickstart_digits?"
    )
    with pytest.raises(UserError, match=r"^configs/quickstart_digits: no such config file: check the path$"):
        parse_args(["--config_path", "configs/quickstart_digits"], "train")
