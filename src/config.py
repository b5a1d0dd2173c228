"""The options of every script: one declaration each, values from a YAML file, the command line on top.

A field of `Config` or `InferConfig` is the one place where an option is named, typed, defaulted, limited and
explained; the parser, the checks and `--help` are read off these declarations. Imports no MindSpore, so that `--help`
and a wrong flag answer at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from src.errors import UserError
from src.model.variants import VARIANTS, get_variant, patch_grid

DATASET = "Dataset"
AUGMENTATIONS = "Augmentations"
OPTIMIZER = "Optimizer"
TRAINING = "Network training config"
MODEL = "Model arguments"
HARDWARE = "Hardware setup"
CALLBACKS = "Callbacks setup"
EXPORT = "Export"
PREDICTION = "Prediction"
PREVIEW = "Preview"

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")
NONE_WORDS = ("none", "null", "~", "")


@dataclass(frozen=True)
class Limits:
    """What values an option takes, beside its type. Bounds are inclusive unless they say otherwise."""

    choices: tuple[str, ...] = ()
    at_least: float | None = None
    more_than: float | None = None
    at_most: float | None = None
    less_than: float | None = None
    length: int | None = None

    def text(self) -> str:
        """The limits in words, empty where there are none."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = [f"{self.length} of them"] if self.length is not None else []
        if self.at_least is not None:
            words.append(f"at least {self.at_least:g}")
        if self.more_than is not None:
            words.append(f"more than {self.more_than:g}")
        if self.at_most is not None:
            words.append(f"at most {self.at_most:g}")
        if self.less_than is not None:
            words.append(f"less than {self.less_than:g}")
        return ", ".join(words)

    def admit(self, value: Any) -> bool:
        """Whether `value`, already of the right type, lies within the limits."""
        if value is None:
            return True
        if self.choices:
            return value in self.choices
        if isinstance(value, tuple):
            return (self.length is None or len(value) == self.length) and all(self._admit_number(v) for v in value)
        return self._admit_number(value)

    def _admit_number(self, value: Any) -> bool:
        if isinstance(value, (str, bool)):
            return True
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.more_than is None or value > self.more_than)
            and (self.at_most is None or value <= self.at_most)
            and (self.less_than is None or value < self.less_than)
        )


def option(group: str, default: Any, text: str, *, added: bool = False, **limits: Any) -> Any:
    """Declare an option: its group in `--help`, default, a line of help and its `Limits`.

    `added` marks the options that the BEiT model zoo's document does not have: a YAML file may leave them out.
    """
    return field(default=default, metadata={"group": group, "help": text, "added": added, "limits": Limits(**limits)})


@dataclass(frozen=True)
class Config:
    """The options of train.py, eval.py and export.py, in the order of the user's YAML."""

    dataset: str = option(
        DATASET,
        "ImageNet",
        "layout of the data: folders of classes, under either name",
        choices=("ImageNet", "ImageFolder"),
    )
    data_url: str = option(DATASET, "/data/imagenet/ILSVRC/Data/CLS-LOC/", "folder that holds train_dir and val_dir")
    train_dir: str = option(DATASET, "train", "folder of the training images, inside data_url")
    val_dir: str = option(DATASET, "validation_preprocess", "folder of the validation images, inside data_url")
    train_num_samples: int = option(DATASET, -1, "how many training images to use, -1 for all", at_least=-1)
    val_num_samples: int = option(DATASET, -1, "how many validation images to use, -1 for all", at_least=-1)
    imagenet_default_mean_and_std: bool = option(
        DATASET, False, "normalize by ImageNet's mean and std instead of 0.5 and 0.5"
    )

    auto_augment: str | None = option(
        AUGMENTATIONS, "rand-m9-mstd0.5-inc1", "policy in timm's grammar (rand-..., augmix-..., original, v0), or none"
    )
    aa_interpolation: str = option(
        AUGMENTATIONS,
        "bicubic",
        "resampling of the random resized crop and of the policy's warps",
        choices=("nearest", "bilinear", "bicubic", "lanczos", "random"),
    )
    re_mode: str = option(AUGMENTATIONS, "pixel", "what RandomErasing fills with", choices=("const", "rand", "pixel"))
    re_prob: float = option(AUGMENTATIONS, 0.25, "probability of RandomErasing", at_least=0, at_most=1)
    re_count: int = option(AUGMENTATIONS, 1, "most boxes that RandomErasing erases in an image", at_least=1)
    cutmix: float = option(AUGMENTATIONS, 1.0, "alpha of CutMix, 0 for none", at_least=0)
    mixup: float = option(AUGMENTATIONS, 0.8, "alpha of Mixup, 0 for none", at_least=0)
    mixup_prob: float = option(AUGMENTATIONS, 1.0, "probability of Mixup or CutMix", at_least=0, at_most=1)
    mixup_mode: str = option(
        AUGMENTATIONS, "batch", "what shares one Mixup or CutMix draw", choices=("batch", "pair", "elem")
    )
    mixup_off_epoch: float = option(
        AUGMENTATIONS, 0.0, "epoch from which Mixup and CutMix are off, 0 for never", at_least=0
    )
    switch_prob: float = option(
        AUGMENTATIONS, 0.5, "probability of CutMix where both Mixup and CutMix are on", at_least=0, at_most=1
    )
    label_smoothing: float = option(
        AUGMENTATIONS, 0.1, "share of the target spread over all classes", at_least=0, at_most=1
    )
    min_crop: float = option(
        AUGMENTATIONS, 0.08, "smallest area of the random resized crop, as a share of the image", more_than=0, at_most=1
    )
    crop_pct: float = option(
        AUGMENTATIONS,
        0.9,
        "side of evaluation's center crop over the side of the resized image",
        more_than=0,
        at_most=1,
    )
    hflip: float = option(AUGMENTATIONS, 0.5, "probability of a horizontal flip", added=True, at_least=0, at_most=1)
    color_jitter: float = option(
        AUGMENTATIONS,
        0.4,
        "strength of the color jitter that stands in where auto_augment is none",
        added=True,
        at_least=0,
    )

    optimizer: str = option(OPTIMIZER, "adamw", "optimizer", choices=("adamw", "momentum"))
    beta: tuple[float, ...] = option(
        OPTIMIZER, (0.9, 0.999), "decay rates of AdamW's moments", length=2, at_least=0, less_than=1
    )
    eps: float = option(OPTIMIZER, 1e-8, "AdamW's epsilon", more_than=0)
    base_lr: float = option(OPTIMIZER, 2e-3, "peak learning rate, used as given: no scaling by batch size", more_than=0)
    min_lr: float = option(OPTIMIZER, 1e-6, "learning rate at the end of cosine_lr", at_least=0)
    lr_scheduler: str = option(
        OPTIMIZER, "cosine_lr", "schedule", choices=("cosine_lr", "constant_lr", "multistep_lr", "exp_lr")
    )
    lr_adjust: int = option(OPTIMIZER, 30, "epochs between two steps of multistep_lr", at_least=1)
    lr_gamma: float = option(
        OPTIMIZER, 0.97, "factor of a step of multistep_lr, of an epoch of exp_lr", more_than=0, at_most=1
    )
    momentum: float = option(OPTIMIZER, 0.9, "momentum of the momentum optimizer", at_least=0, less_than=1)
    weight_decay: float = option(OPTIMIZER, 0.05, "weight decay; none on one-dimensional parameters", at_least=0)
    layer_decay: float = option(
        OPTIMIZER, 0.9, "factor of the learning rate from a block to the one before it", more_than=0, at_most=1
    )

    epochs: int = option(TRAINING, 100, "epochs to train", at_least=1)
    batch_size: int = option(TRAINING, 64, "images per device and micro-batch", at_least=1)
    is_dynamic_loss_scale: bool = option(TRAINING, True, "whether the loss scale follows overflows")
    loss_scale: float = option(TRAINING, 1024.0, "loss scale, the first one where it is dynamic", at_least=1)
    num_parallel_workers: int = option(TRAINING, 8, "threads that read and augment images", at_least=1, at_most=1024)
    start_epoch: int = option(TRAINING, 0, "epoch to start from", at_least=0)
    warmup_length: int = option(TRAINING, 20, "epochs of linear warm-up", at_least=0)
    warmup_lr: float = option(TRAINING, 7e-6, "learning rate at the start of the warm-up", at_least=0)
    use_clip_grad_norm: bool = option(TRAINING, False, "whether to clip gradients by their global norm")
    clip_grad_norm: float = option(TRAINING, 1.0, "largest global norm of the gradients", more_than=0)
    exclude_epoch_state: bool = option(
        TRAINING, True, "take only the weights of the pretrained file, not its epoch and optimizer state"
    )
    resume: str | None = option(
        TRAINING,
        None,
        "checkpoint to take up a stopped run from, with its whole state; auto: the newest good one of this run",
        added=True,
    )
    seed: int = option(TRAINING, 0, "seed of the weights, of the order of images and of all augmentation", at_least=0)
    with_ema: bool = option(TRAINING, False, "whether to keep an exponential moving average of the weights")
    ema_decay: float = option(TRAINING, 0.9999, "decay of the moving average", at_least=0, at_most=1)
    pynative_mode: bool = option(TRAINING, False, "run operator by operator instead of compiling a graph")
    dataset_sink_mode: bool = option(TRAINING, True, "feed data through the device's queue (GPU and Ascend)")
    accumulation_steps: int = option(
        TRAINING, 1, "micro-batches whose gradients are averaged into one step", added=True, at_least=1
    )
    max_nonfinite_steps: int = option(
        TRAINING, 10, "steps in a row without a finite loss that end the run", added=True, at_least=1
    )
    max_bad_images: float = option(
        TRAINING,
        0.01,
        "share of the training images that may be unreadable, and are replaced by others; more end the run",
        added=True,
        at_least=0,
        at_most=1,
    )

    arch: str = option(MODEL, "beit_base_patch16_224", "architecture", choices=tuple(VARIANTS))
    amp_level: str = option(
        MODEL,
        "O0",
        "O0 float32, O1 float16 multiplications, O2 float16 activations, O3 float16 weights too",
        choices=("O0", "O1", "O2", "O3"),
    )
    file_format: str = option(MODEL, "ONNX", "format that export.py writes", choices=("ONNX", "MINDIR", "AIR"))
    pretrained: str | None = option(MODEL, None, "checkpoint to start from, to evaluate or to export")
    image_size: int = option(MODEL, 224, "side of the input image in pixels", at_least=1)
    num_classes: int = option(
        MODEL, 1000, "number of classes; 0 for as many as the training folder or the checkpoint has", at_least=0
    )
    drop: float = option(MODEL, 0.0, "dropout of the embeddings and after each projection", at_least=0, less_than=1)
    drop_block: float = option(MODEL, 0.0, "BEiT has no such layer: 0 only")
    drop_path: float = option(MODEL, 0.1, "stochastic depth of the last block", at_least=0, less_than=1)
    disable_approximate_gelu: bool = option(
        MODEL, False, "exact GELU, which the published weights were trained with, instead of the tanh form"
    )
    use_pytorch_maxpool: bool = option(MODEL, False, "BEiT has no such layer: False only")
    layer_scale_init_value: float = option(
        MODEL, 0.1, "first value of the layer scale: 0.1 for base, 1e-5 for large, 0 for no layer scale", at_least=0
    )
    rel_pos_bias: bool = option(MODEL, True, "relative position bias in every block")
    abs_pos_emb: bool = option(MODEL, False, "absolute position embedding")
    shared_rel_pos_bias: bool = option(MODEL, False, "one relative position bias for all blocks", added=True)
    mean_pooling: bool = option(
        MODEL, True, "classify the mean of the patch tokens instead of the class token", added=True
    )
    init_scale: float = option(MODEL, 0.001, "factor of the head's first weights", added=True, at_least=0)

    onnx_precision: str = option(
        EXPORT,
        "fp32",
        "numbers of an ONNX file: fp16 halves it, int8 quarters it and is faster on a CPU",
        added=True,
        choices=("fp32", "fp16", "int8"),
    )
    with_preprocess: bool = option(
        EXPORT, False, "an ONNX file that takes raw pixels, uint8 NHWC, and normalizes them inside", added=True
    )
    calibration_folder: str | None = option(
        EXPORT, None, "images over which int8 measures its ranges; without them anew for every batch", added=True
    )
    agreement_folder: str | None = option(
        EXPORT, None, "images on which to compare the file with the network: top-1 agreement", added=True
    )

    device_id: int = option(HARDWARE, 0, "device of a run on one device", at_least=0)
    device_num: int = option(HARDWARE, 1, "devices of the run; above 1, start it with mpirun", at_least=1)
    device_target: str = option(HARDWARE, "GPU", "kind of device", choices=("CPU", "GPU", "Ascend"))
    compile_cache: str | None = option(
        HARDWARE, None, "folder to keep compiled training graphs in, so that the same run starts faster", added=True
    )

    summary_root_dir: str = option(CALLBACKS, "outputs/summary_dir/", "folder of the MindInsight summaries")
    ckpt_root_dir: str = option(CALLBACKS, "outputs/checkpoints/", "folder of the current checkpoints")
    best_ckpt_root_dir: str = option(CALLBACKS, "outputs/best_checkpoints/", "folder of the best checkpoints")
    logs_root_dir: str = option(CALLBACKS, "outputs/logs/", "folder of the text logs and of metrics.csv")
    ckpt_keep_num: int = option(CALLBACKS, 10, "current checkpoints to keep", at_least=1)
    best_ckpt_num: int = option(CALLBACKS, 5, "best checkpoints to keep, by top-1", at_least=1)
    ckpt_save_every_step: int = option(
        CALLBACKS, 0, "steps between two checkpoints, 0 for none between epochs", at_least=0
    )
    ckpt_save_every_seconds: int = option(
        CALLBACKS, 1800, "seconds between two checkpoints, 0 for none between epochs", at_least=0
    )
    print_loss_every: int = option(CALLBACKS, 100, "steps between two lines of progress", at_least=1)
    summary_loss_collect_freq: int = option(CALLBACKS, 20, "steps between two points of the summaries", at_least=1)
    model_postfix: str = option(CALLBACKS, "0", "end of the run's name, ARCH_POSTFIX, which its folders carry")
    collect_input_data: bool = option(CALLBACKS, False, "put input images into the summaries")
    dump_graph: bool = option(CALLBACKS, False, "put the compiled graph into the summaries")
    tensorboard: bool = option(
        CALLBACKS, False, "write the summaries' curves for TensorBoard too, into their folder", added=True
    )


def _same(name: str, **changes: Any) -> Any:
    """The declaration of `Config`'s option `name` for another script, with the given entries changed."""
    source = next(f for f in dataclasses.fields(Config) if f.name == name)
    return field(
        default=changes.pop("default", source.default),
        metadata={**source.metadata, "group": PREDICTION, "shared": True, **changes},
    )


@dataclass(frozen=True)
class InferConfig:
    """The options of infer.py. What the network is and how its input is prepared comes from the checkpoint."""

    data_path: str | None = option(
        PREDICTION, None, "an image, a folder of png and jpeg files, or a .txt file with a path a line"
    )
    checkpoint: str | None = option(PREDICTION, None, "checkpoint, ONNX file or MINDIR file")
    output: str = option(
        PREDICTION, "predictions.json", "file to write the predictions to; its ending decides: .json, .jsonl or .csv"
    )
    recursive: bool = option(PREDICTION, False, "take the images of the folders inside data_path too")
    topk: int | None = option(PREDICTION, None, "give the K most probable classes of each image", at_least=1)
    probabilities: bool = option(PREDICTION, False, "give probabilities with the classes")
    class_names: str | None = option(
        PREDICTION, None, "text file with a name a line, in place of the names stored in the model"
    )
    resume: bool = option(PREDICTION, False, "continue the interrupted run that left OUTPUT.partial")
    quiet: bool = option(PREDICTION, False, "print no line per image and no progress bar")
    contact_sheet: str | None = option(
        PREDICTION, None, "PNG file to draw thumbnails with their classes and probabilities into"
    )
    attention: str | None = option(
        PREDICTION, None, "PNG file to draw the attention of the last block into: one image, from a checkpoint"
    )
    arch: str | None = _same("arch", default=None, help="architecture; an error where the file is of another")
    batch_size: int = _same("batch_size", default=8, help="images per batch")
    num_parallel_workers: int = _same("num_parallel_workers", help="threads that read images")
    device_id: int = _same("device_id", help="device to run on")
    device_target: str = _same("device_target")


@dataclass(frozen=True)
class TrainConfig(Config):
    """The options of train.py: those of the run, which a YAML file holds, and one of the call."""

    dry_run: bool = option(
        TRAINING,
        False,
        "only build everything, take two steps, and tell how long the run would take and in what memory",
    )


@dataclass(frozen=True)
class EvalConfig(Config):
    """The options of eval.py: those of the run, which a YAML file holds, and one of the call."""

    report: str | None = option(
        TRAINING, None, "folder to write a report into: accuracy by class, confusion matrix, the surest mistakes"
    )


@dataclass(frozen=True)
class PreviewConfig(Config):
    """The options of src/data/preview.py: those of the run to look at, which a YAML file holds, and its own."""

    output: str = option(PREVIEW, "preview.png", "PNG file to draw into")


@dataclass(frozen=True)
class Script:
    """What one script accepts: its options, the ones it cannot do without, and what it is, for `--help`.

    `command` is how it is called, where it is not the Python file of its name.
    """

    text: str
    options: type
    required: dict[str, str]
    command: str | None = None


SHIPPED_CONFIGS = Path(__file__).parent / "configs"
CONFIG_PATH = {"config_path": "give a YAML file or the name of one of those in src/configs"}
SCRIPTS: dict[str, Script] = {
    "train": Script("Fine-tune BEiT on folders of images.", TrainConfig, CONFIG_PATH),
    "eval": Script(
        "Evaluate a checkpoint on the validation images.",
        EvalConfig,
        CONFIG_PATH | {"pretrained": "the checkpoint to evaluate"},
    ),
    "export": Script(
        "Export a checkpoint to ONNX, MINDIR or AIR.", Config, CONFIG_PATH | {"pretrained": "the checkpoint to export"}
    ),
    "infer": Script(
        "Predict the class of images.",
        InferConfig,
        {"data_path": "an image or a folder of images", "checkpoint": "a checkpoint or an ONNX file"},
    ),
    "preview": Script(
        "Draw a training batch as the network sees it, and the evaluation view of its images beside it.",
        PreviewConfig,
        CONFIG_PATH,
        command="python -m src.data.preview",
    ),
}


@typing.overload
def parse_args(argv: Sequence[str], script: typing.Literal["train"]) -> TrainConfig: ...
@typing.overload
def parse_args(argv: Sequence[str], script: typing.Literal["eval"]) -> EvalConfig: ...
@typing.overload
def parse_args(argv: Sequence[str], script: typing.Literal["export"]) -> Config: ...
@typing.overload
def parse_args(argv: Sequence[str], script: typing.Literal["infer"]) -> InferConfig: ...
@typing.overload
def parse_args(argv: Sequence[str], script: typing.Literal["preview"]) -> PreviewConfig: ...
def parse_args(argv: Sequence[str], script: str) -> Config | InferConfig:
    """The options of `script` (a key of `SCRIPTS`): defaults, then the YAML file, then the command line `argv`.

    Raises `UserError` for anything that is not as declared; `--help` prints and ends the process as argparse does.
    """
    row = SCRIPTS[script]
    words = vars(_parser(script).parse_args(list(argv)))
    config_path = words.pop("config_path")
    given = {name: value for name, value in words.items() if value is not None}
    if "config_path" in row.required and config_path is None:
        raise UserError(f"--config_path is required: {row.required['config_path']}")
    values = _from_file(find_config(config_path), row.options) if config_path is not None else {}
    values.update(_typed(row.options, given, source="--{}"))
    config = row.options(**values)
    for name, why in row.required.items():
        if name != "config_path" and getattr(config, name) is None:
            raise UserError(f"--{name} is required: {why}")
    if isinstance(config, Config):
        _check_together(config)
    if isinstance(config, EvalConfig) and config.report is not None and config.device_num > 1:
        raise UserError(f"report is written by one device and device_num is {config.device_num}: evaluate on one")
    return config


def find_config(word: str) -> Path:
    """The config file that `word` means: a path, or the name of a shipped one, with or without its ending.

    A file in the current folder goes before a shipped one of the same name. Raises `UserError` for a name that is
    neither; a path that leads nowhere is left to the reader.
    """
    path = Path(word)
    if path.exists() or path.name != word:
        return path
    shipped = SHIPPED_CONFIGS / f"{word.removesuffix('.yaml')}.yaml"
    if shipped.exists():
        return shipped
    names = sorted(file.stem for file in SHIPPED_CONFIGS.glob("*.yaml"))
    raise UserError(
        f"{word}: no such config file, nor one of those that are shipped ({', '.join(names)})"
        f"{_nearest(word.removesuffix('.yaml'), names)}"
    )


def read_config(path: Path) -> Config:
    """The `Config` of a YAML file; raises `UserError` as `parse_args` does."""
    config = Config(**_from_file(path, Config))
    _check_together(config)
    return config


def as_yaml(config: Config) -> str:
    """The options of a run as a config file, which `read_config` reads back to the same; without those of a call."""
    lines: list[str] = []
    group = None
    for entry in dataclasses.fields(Config):
        if entry.metadata["group"] != group:
            group = entry.metadata["group"]
            lines += ["", f"# ===== {group} ===== #"]
        value = getattr(config, entry.name)
        plain = list(value) if isinstance(value, tuple) else "" if value is None else value
        text = yaml.safe_dump(plain, default_flow_style=True, width=math.inf, allow_unicode=True)
        lines.append(f"{entry.name}: {text.splitlines()[0]}")  # a scalar is followed by a line of dots
    return "\n".join(lines[1:]) + "\n"


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are `UserError`s and name the nearest flag."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            word = unknown[0].split("=")[0]
            if not word.startswith("-"):
                raise UserError(f"'{word}' is not expected here: options are given as --name value (see --help)")
            raise UserError(f"{word} is not an option{_nearest(word, flags)}")
        return known


def _parser(script: str) -> _Parser:
    row = SCRIPTS[script]
    parser = _Parser(
        prog=row.command or f"{script}.py",
        usage=" ".join(
            [row.command or f"{script}.py", *(f"--{n} {n.upper()}" for n in row.required), "[--OPTION VALUE ...]"]
        ),
        description=row.text,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config_path",
        "--config",
        metavar="FILE",
        help="YAML file with the options, or the name of a shipped one; options given here have precedence",
    )
    groups: dict[str, Any] = {}
    hints = typing.get_type_hints(row.options)
    for entry in dataclasses.fields(row.options):
        title = entry.metadata["group"]
        group = groups.setdefault(title, None) or parser.add_argument_group(title)
        groups[title] = group
        kind = hints[entry.name]
        limits = entry.metadata["limits"].text()
        default = shown(entry.default)
        notes = f"{limits}; default: {default}" if limits else f"default: {default}"
        arguments: dict[str, Any] = {"help": f"{entry.metadata['help']} ({notes})".replace("%", "%%")}
        if kind is bool:
            arguments.update(nargs="?", const="true", metavar="BOOL")
        elif kind == tuple[float, ...]:
            arguments.update(nargs="+", metavar="NUMBER")
        else:
            arguments.update(metavar=kind_name(kind).split()[-1].upper())
        group.add_argument(f"--{entry.name}", **arguments)
    return parser


def _from_file(path: Path, options: type) -> dict[str, Any]:
    """Typed values of the options that `options` declares, from a YAML file that must be a whole `Config`."""
    raw = _read_yaml(path)
    declared = {f.name: f for f in dataclasses.fields(Config)}
    for name in raw:
        if name not in declared:
            raise UserError(f"{path}: {name} is not an option{_nearest(str(name), declared)}")
    missing = [name for name, f in declared.items() if not f.metadata["added"] and name not in raw]
    if missing:
        raise UserError(f"{path}: every option must be in the file, these are missing: {', '.join(missing)}")
    values = _typed(Config, raw, source=f"{path}: {{}}")
    if not issubclass(options, InferConfig):
        return values
    # `resume` is an option of both and means different things: only what one took over from the other is shared
    shared = {f.name for f in dataclasses.fields(options) if f.metadata.get("shared")}
    return {name: value for name, value in values.items() if name in shared}


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice, which PyYAML would let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # a SafeLoader
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config file ({error}): give a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}: not valid YAML{where}: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config file holds 'option: value' lines")
    return values


def _typed(options: type, raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """`raw` with every value converted to its option's type and checked; `source` formats a name for messages."""
    hints = typing.get_type_hints(options)
    limits = {f.name: f.metadata["limits"] for f in dataclasses.fields(options)}
    typed = {}
    for name, value in raw.items():
        kind, limit = hints[name], limits[name]
        expected = limit.text() if limit.choices else ", ".join(filter(None, (kind_name(kind), limit.text())))
        try:
            typed[name] = _convert(value, kind)
        except (ValueError, OverflowError):
            raise UserError(f"{source.format(name)} is {shown(value)}, expected {expected}") from None
        if not limit.admit(typed[name]):
            nearest = _nearest(str(value), limit.choices) if limit.choices else ""
            raise UserError(f"{source.format(name)} is {shown(value)}, expected {expected}{nearest}")
    return typed


def _convert(value: Any, kind: Any) -> Any:
    """`value`, of YAML or of the command line, as an instance of `kind`. Raises `ValueError`."""
    if kind == tuple[float, ...]:
        return _numbers(value)
    optional = type(None) in typing.get_args(kind)
    if optional:
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if value is None or (optional and isinstance(value, str) and value.strip().lower() in NONE_WORDS):
        if optional:
            return None
        raise ValueError
    if isinstance(value, (list, dict)):
        raise ValueError
    if kind is bool:
        return _boolean(value)
    if isinstance(value, bool):
        raise ValueError
    if kind is int:
        return value if isinstance(value, int) else _integer(value)
    if kind is float:
        number = float(value)
        if number != number or number in (float("inf"), float("-inf")):
            raise ValueError
        return number
    return str(value)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError


def _integer(value: Any) -> int:
    """A whole number from text; `8.0` and `1e3` are refused, since who writes them may mean something else."""
    if isinstance(value, str):
        return int(value)
    raise ValueError


def _numbers(value: Any) -> tuple[float, ...]:
    """`[0.9, 0.999]`, `0.9,0.999`, `0.9 0.999` or their split words as a tuple of floats."""
    if isinstance(value, (list, tuple)):
        items = list(value)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        items = [value]
    else:
        raise ValueError
    words = " ".join(str(item) for item in items if not isinstance(item, bool)).strip()
    return tuple(float(word) for word in words.strip("[]()").replace(",", " ").split())


def _check_together(config: Config) -> None:
    """Refuse values that are each fine and do not fit together, or that BEiT has no layer for."""
    if config.drop_block != 0:
        raise UserError(f"drop_block is {config.drop_block:g}: BEiT has no DropBlock layer, leave it at 0")
    if config.use_pytorch_maxpool:
        raise UserError("use_pytorch_maxpool is True: BEiT has no max pooling, leave it at False")
    if config.start_epoch >= config.epochs:
        raise UserError(f"start_epoch is {config.start_epoch}, expected less than epochs, which is {config.epochs}")
    if config.warmup_length > config.epochs:
        raise UserError(f"warmup_length is {config.warmup_length}, expected at most epochs, which is {config.epochs}")
    for name in ("train_num_samples", "val_num_samples"):
        if getattr(config, name) == 0:
            raise UserError(f"{name} is 0: give a number of images, or -1 for all")
    if not re.fullmatch(r"[\w.-]+", config.model_postfix):
        raise UserError(f"model_postfix is {config.model_postfix!r}, expected letters, digits, '.', '_' and '-'")
    if config.collect_input_data and config.dataset_sink_mode and config.device_target != "CPU":
        raise UserError("collect_input_data needs dataset_sink_mode False: in sink mode the host never sees the images")
    if config.dump_graph and config.pynative_mode:
        raise UserError("dump_graph needs pynative_mode False: without a graph there is nothing to draw")
    if config.rel_pos_bias and config.shared_rel_pos_bias:
        raise UserError("rel_pos_bias and shared_rel_pos_bias are both True: the bias is per block or shared")
    _check_export(config)
    patch_grid(get_variant(config.arch), config.image_size)


def _check_export(config: Config) -> None:
    """Refuse options of an export that its format cannot have."""
    if config.file_format != "ONNX":
        chosen = {"onnx_precision": config.onnx_precision != "fp32", "with_preprocess": config.with_preprocess}
        for name in (name for name, is_chosen in chosen.items() if is_chosen):
            raise UserError(
                f"{name} is {getattr(config, name)} and file_format is {config.file_format}: only ONNX files have it"
            )
    if config.calibration_folder is not None and config.onnx_precision != "int8":
        raise UserError(
            f"calibration_folder is for onnx_precision int8, which is {config.onnx_precision}: leave it out"
        )
    if config.agreement_folder is not None and config.file_format == "AIR":
        raise UserError("agreement_folder needs a file that can be run, and MindSpore cannot load AIR: leave it out")


def kind_name(kind: Any) -> str:
    """An option's type in words."""
    if kind == tuple[float, ...]:
        return "numbers"
    kind = next((k for k in typing.get_args(kind) if k is not type(None)), kind)
    return {bool: "True or False", int: "a whole number", float: "a number", str: "text"}[kind]


def shown(value: Any) -> str:
    """An option's value as one types it."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(f"{number:g}" for number in value)
    if isinstance(value, float):
        return f"{value:g}"
    text = " ".join(value) if isinstance(value, list) and all(isinstance(word, str) for word in value) else str(value)
    return text if text and text.isprintable() else repr(text)


def _nearest(word: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else ""
