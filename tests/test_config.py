"""The options of this project, their values in the shipped configs, and errors for values that do not fit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config import Config, InferConfig, PretrainConfig, RunConfig, TokenizerConfig, parse_args, read_config
from src.errors import UserError
from src.options.config_file import find_config
from src.options.declaration import declared

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted((ROOT / "src" / "configs").glob("*.yaml"))
BASE = ROOT / "src" / "configs" / "beit_base_patch16_224_ft1k.yaml"

DOCUMENT = ROOT / "tests" / "golden" / "model_zoo_ft1k.yaml"  # the YAML block of the model zoo's document


def train_args(*words: str, path: Path = BASE) -> Config:
    return parse_args(["--config_path", str(path), *words], "train")


def edited(tmp_path: Path, **changes: object) -> Path:
    """Write the document's config with some values changed; a value of `...` removes the option."""
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


def test_the_block_of_the_document_is_a_valid_config():
    config = read_config(DOCUMENT)
    assert config.ckpt_root_dir == "/experiments/checkpoints/"
    assert config.loss_scale == 1024.0
    assert isinstance(config.loss_scale, float)
    assert config.warmup_lr == 7e-6
    assert config.model_postfix == "0"
    assert config.pretrained is None


def test_the_config_of_the_document_holds_its_values_in_its_order_and_then_our_options():
    names = list(yaml.safe_load(DOCUMENT.read_text()))
    ours = list(yaml.safe_load(BASE.read_text()))
    assert ours[: len(names)] == names
    assert ours[len(names) :] == [name for name, option in declared(Config).items() if option.added]
    assert read_config(BASE) == read_config(DOCUMENT)


def test_the_defaults_are_the_values_of_the_document():
    document, ours = read_config(DOCUMENT), Config()
    names = [name for name, option in declared(Config).items() if not option.added]
    assert sorted(names) == sorted(yaml.safe_load(DOCUMENT.read_text()))
    differing = {name for name in names if getattr(document, name) != getattr(ours, name)}
    # without root, /experiments cannot be created
    assert differing == {"summary_root_dir", "ckpt_root_dir", "best_ckpt_root_dir", "logs_root_dir"}


def script_of(name: str) -> str:
    """The script whose options the shipped config `name` sets."""
    return "pretrain" if "pretrain" in name else "train_tokenizer" if name.startswith("tokenizer") else "train"


def shipped(name: str) -> RunConfig:
    return parse_args(["--config_path", name], script_of(name))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_is_valid_and_sets_every_option(path):
    config = shipped(path.stem)
    kind = next(kind for kind in (Config, PretrainConfig, TokenizerConfig) if isinstance(config, kind))
    assert sorted(yaml.safe_load(path.read_text())) == sorted(declared(kind))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("beit_base_patch16_224_ft1k_authors", (4e-3, 100, 20, 0.65, 0.1, 0.05, 0.8, 1.0, 0.1, 128 * 8)),
        ("beit_large_patch16_224_ft1k", (1e-3, 50, 5, 0.75, 0.2, 0.05, 0.8, 1.0, 1e-5, 64 * 8 * 2)),
        ("beit_base_patch16_384_pt22k_ft1k", (2e-5, 30, 5, 0.85, 0.1, 1e-8, 0.0, 0.0, 0.1, 64 * 8)),
    ],
)
def test_the_recipes_of_the_authors_hold_their_values(name, values):
    """Fine-tuning table in the paper's appendix, and commands of the authors' get-started page, for 8 devices."""
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
def test_configs_for_small_data_start_from_published_weights_and_suit_300_images(name):
    c = read_config(ROOT / "src" / "configs" / f"{name}.yaml")
    assert c.pretrained == "beit_base_patch16_224_pt22k_ft22k.pth"
    assert c.disable_approximate_gelu, "the published weights were trained with the exact GELU"
    assert (c.num_classes, c.arch, c.layer_scale_init_value) == (0, "beit_base_patch16_224", 0.1)
    assert (c.mixup, c.cutmix, c.label_smoothing, c.drop_path) == (
        0,
        0,
        0.1,
        0.1,
    )  # the authors' values for these weights
    batch = c.batch_size * c.accumulation_steps
    steps = c.epochs * (300 // batch)
    assert 1 / (1 - c.ema_decay) < steps, "an average over more steps than the run has is mostly the initial weights"
    assert c.warmup_length <= c.epochs / 5
    # The authors' 2e-5 is for 512 images per step, or 5e-6 for 32 by the square-root rule, and for 30 epochs of a
    # million images. A new head trained in a hundredth of the steps needs more, the pretrained body does not.
    assert 2e-5 * (batch / 512) ** 0.5 < c.base_lr <= 1e-4
    assert c.base_lr * c.layer_decay**12 < 5e-6, "the learning rate of the first block is too high"


@pytest.mark.parametrize("name", ["small_data_base_224", "small_data_base_112_cpu", "small_data_scratch_64_cpu"])
def test_configs_for_small_data_mark_the_values_to_change(name):
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
        ("1e-8", "eps", 1e-8),  # text for PyYAML's default loader: YAML 1.1 requires a dot
        ("no", "model_postfix", "no"),  # False for PyYAML's default loader
        ("0.10", "model_postfix", "0.10"),
        ("2024-01-01", "model_postfix", "2024-01-01"),
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
def test_yaml_values_are_read_as_on_the_command_line(tmp_path, text, name, value):
    path = tmp_path / "config.yaml"
    path.write_text(re.sub(rf"^{name}:.*$", f"{name}: {text}", BASE.read_text(), flags=re.M))
    got = getattr(read_config(path), name)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--batch_sise", "3"], ["--batch_sise", "did you mean --batch_size?"]),
        (["--batch_size", "many"], ["--batch_size is many", "a whole number, at least 1"]),
        (["--batch_size", "8.5"], ["--batch_size is 8.5", "a whole number, at least 1"]),
        (["--batch_size", "0"], ["--batch_size is 0", "a whole number, at least 1"]),
        (["--drop_path", "1"], ["--drop_path is 1", "a number, at least 0, less than 1"]),
        (["--base_lr", "nan"], ["--base_lr is nan", "a number, more than 0"]),
        (["--beta", "0.9"], ["--beta is 0.9", "numbers, 2 of them, at least 0, less than 1"]),
        (["--with_ema", "perhaps"], ["--with_ema is perhaps", "True or False"]),
        (["--amp_level", "O4"], ["--amp_level is O4", "one of O0, O1, O2, O3"]),
        (["--num_parallel_workers", "0"], ["--num_parallel_workers is 0", "at least 1"]),
        (["--aa_interpolation", "cubic"], ["--aa_interpolation is cubic", "nearest, bilinear, bicubic, lanczos"]),
        (["--re_mode", "noise"], ["--re_mode is noise", "const, rand, pixel"]),
        (["--re_count", "0"], ["--re_count is 0", "at least 1"]),
        (["--mixup_mode", "half"], ["--mixup_mode is half", "batch, pair, elem"]),
        (["--mixup", "-1"], ["--mixup is -1", "at least 0"]),
        (["--cutmix", "-1"], ["--cutmix is -1", "at least 0"]),
        (
            ["--arch", "beit_base_patch16_244"],
            ["--arch is beit_base_patch16_244", "did you mean beit_base_patch16_224?"],
        ),
        (["--start_epoch", "100"], ["start_epoch is 100", "epochs is 100", "set start_epoch below"]),
        (["--warmup_length", "101"], ["warmup_length is 101", "epochs is 100", "set at most"]),
        (["--image_size", "230"], ["image_size 230", "16", "224"]),
        (["--drop_block", "0.1"], ["drop_block is 0.1", "set it to 0"]),
        (["--use_pytorch_maxpool"], ["use_pytorch_maxpool is True", "set it to False"]),
        (["--train_num_samples", "0"], ["train_num_samples is 0", "-1 for all"]),
        (["--model_postfix", "a/b"], ["model_postfix is 'a/b'", "letters, digits"]),
        (["--dump_graph", "--pynative_mode"], ["dump_graph", "pynative_mode", "set one of them to False"]),
        (["--collect_input_data"], ["collect_input_data is True", "set dataset_sink_mode to False"]),
        (["--batch_size", "1000000000"], ["--batch_size is 1000000000", "at most 1000000"]),
        (["--epochs", "1000000000"], ["--epochs is 1000000000", "at most 1000000"]),
        (["--image_size", "8000"], ["--image_size is 8000", "at most 2048"]),
        (["--device_num", "4097"], ["--device_num is 4097", "at most 4096"]),
        (["--ckpt_keep_num", "1000000000"], ["--ckpt_keep_num is 1000000000", "at most 1000000"]),
        (["--num_parallel_workers", "9999"], ["--num_parallel_workers is 9999", "at most 1024"]),
        (["--seed", "9223372036854775808"], ["--seed is 9223372036854775808", "a whole number, at least 0"]),
        (["--seed", "9" * 5000], ["--seed is 999", "a whole number, at least 0"]),
        (["--ckpt_save_every_step", "9" * 400], ["--ckpt_save_every_step is 999", "a whole number, at least 0"]),
        (["--loss_scale", f"1{'0' * 400}"], ["--loss_scale is 1000", "a number, at least 1"]),
        (["--data_url", f"/data/{'a' * 256}/x"], ["--data_url has a name of 256 bytes", "shorten it to 255"]),
        (["--model_postfix", "ä" * 101], ["model_postfix is 'äää", "at most 200"]),
        (["--epochs"], ["--epochs", "--help"]),
        (["stray"], ["'stray'", "--name value"]),
    ],
)
def test_an_invalid_value_gives_its_name_its_value_and_the_fix(words, expected):
    text = message(*words)
    assert all(part in text for part in expected), text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--onnx_precision", "int8"], ["onnx_precision is int8", "MINDIR", "set file_format to ONNX"]),
        (["--with_preprocess"], ["with_preprocess is True", "MINDIR", "set file_format to ONNX"]),
        (["--calibration_folder", "x"], ["calibration_folder", "onnx_precision is fp32", "set int8"]),
        (["--agreement_folder", "x", "--file_format", "AIR"], ["agreement_folder", "AIR", "remove"]),
    ],
)
def test_options_of_an_export_that_its_format_does_not_support_are_an_error(words, expected):
    with pytest.raises(UserError) as error:
        parse_args(["--config", str(BASE), "--pretrained", "x", "--file_format", "MINDIR", *words], "export")
    assert all(part in str(error.value) for part in expected), error.value


def test_a_report_of_several_devices_is_an_error():
    with pytest.raises(UserError, match=r"report is y .*device_num is 2.*set device_num to 1"):
        parse_args(["--config", str(BASE), "--pretrained", "x", "--report", "y", "--device_num", "2"], "eval")


def test_options_that_the_document_has_are_required_in_a_file(tmp_path):
    text = message(path=edited(tmp_path, seed=..., beta=...))
    assert text.startswith(f"{tmp_path / 'config.yaml'} does not set beta, seed;")


def test_added_options_may_be_omitted(tmp_path):
    added = {name: option for name, option in declared(Config).items() if option.added}
    assert added
    config = read_config(edited(tmp_path, **dict.fromkeys(added, ...)))
    assert all(getattr(config, name) == option.default for name, option in added.items())


def test_required_options_are_named_with_the_value_to_give():
    with pytest.raises(UserError, match=r"--config_path is required; give a YAML file"):
        parse_args([], "train")
    with pytest.raises(UserError, match=r"--pretrained is required; give a checkpoint"):
        parse_args(["--config", str(BASE)], "eval")
    with pytest.raises(UserError, match=r"--checkpoint is required; give a checkpoint"):
        parse_args(["--data_path", "x"], "infer")


def test_infer_runs_without_a_config_and_takes_shared_options_from_one():
    alone = parse_args(["--data_path", "x", "--checkpoint", "y"], "infer")
    assert alone == InferConfig(data_path="x", checkpoint="y")
    assert alone.arch is None
    with_file = parse_args(["--data_path", "x", "--checkpoint", "y", "--config", str(BASE)], "infer")
    assert (with_file.arch, with_file.batch_size) == ("beit_base_patch16_224", 64)
    assert with_file.resume is False, "resume of a training run is another option"


@pytest.mark.parametrize("script", ["train", "eval", "export", "infer"])
def test_help_names_every_option_and_imports_no_mindspore(script):
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try:\n    runpy.run_path('{script}.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert 'mindspore' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for name in declared(InferConfig if script == "infer" else Config):
        assert f"--{name} " in run.stdout
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
@given(st.sampled_from(sorted(declared(Config))), st.text(max_size=12))
def test_any_text_gives_a_value_of_the_options_type_or_a_one_line_error(name, text):
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
    path = ROOT / "src" / "configs" / "quickstart_digits.yaml"
    assert find_config("quickstart_digits") == find_config("quickstart_digits.yaml") == path
    assert parse_args(["--config_path", "quickstart_digits"], "train").model_postfix == "digits"
    Path("quickstart_digits").write_text("mine: 1\n")
    assert find_config("quickstart_digits") == Path("quickstart_digits"), "a file in the current folder precedes it"


def test_an_unknown_config_gives_the_closest_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        parse_args(["--config_path", "quickstart_digit"], "train")
    assert str(error.value).startswith("quickstart_digit is neither ")
    assert all(path.stem in str(error.value) for path in SHIPPED)
    assert str(error.value).endswith("did you mean quickstart_digits?")
    with pytest.raises(UserError, match=r"^configs/quickstart_digits: no such config file; check the path$"):
        parse_args(["--config_path", "configs/quickstart_digits"], "train")
