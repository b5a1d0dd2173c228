"""Options of every script: name, type, default, limits and help text of each, declared once.

The command line, the YAML files, `--help`, docs/options.md and the error messages follow these declarations. Imports no
MindSpore, which takes seconds, so that `--help` and wrong input are answered at once.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.model.variants import VARIANTS, get_variant, patch_grid
from src.options.command_line import Script, given_config, parse
from src.options.config_file import names_in, read_values, write_values
from src.options.declaration import Group, borrowed, declared, option, shown

DATASET = Group(0, "Dataset")
AUGMENT = Group(1, "Augmentations")
MASKING = Group(2, "Masked image modeling")
OPTIMIZER = Group(3, "Optimizer")
TRAINING = Group(4, "Network training config")
MODEL = Group(5, "Model arguments")
EXPORT = Group(6, "Export")
HARDWARE = Group(7, "Hardware setup")
CALLBACKS = Group(8, "Callbacks setup")
PREDICTION = Group(9, "Prediction")
PREVIEW = Group(10, "Preview")
PACKING = Group(11, "Packing")

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "random")
MINDRECORD = "MindRecord"
POSTFIX_BYTES = 200  # with the name of the architecture, a file name of at most 255
SCHEDULES = ("cosine_lr", "constant_lr", "multistep_lr", "exp_lr")


@dataclass(frozen=True)
class RunConfig:
    """Options that training of every kind shares. Those that the model zoo's document does not have are `added`."""

    dataset: str = option(
        DATASET, "ImageNet", "data layout: a folder per class, or MindRecord: shards that src/data/pack.py wrote",
        choices=("ImageNet", "ImageFolder", MINDRECORD),
    )  # fmt: skip
    data_url: str = option(DATASET, "/data/imagenet/ILSVRC/Data/CLS-LOC/", "folder that contains train_dir and val_dir")
    train_dir: str = option(DATASET, "train", "folder of the training images inside data_url")
    train_num_samples: int = option(DATASET, -1, "number of training images to use, -1 for all", at_least=-1)
    imagenet_default_mean_and_std: bool = option(DATASET, False, "normalize with ImageNet's mean and std, not with 0.5")
    decode: str = option(
        DATASET, "exact", "fast decodes a JPEG at 1/2, 1/4 or 1/8 of its size where crop and resize need no more",
        added=True, choices=("exact", "fast"),
    )  # fmt: skip

    min_crop: float = option(AUGMENT, 0.08, "smallest share of the area in a random crop", more_than=0, at_most=1)
    hflip: float = option(AUGMENT, 0.5, "probability of a horizontal flip", added=True, at_least=0, at_most=1)
    color_jitter: float = option(AUGMENT, 0.4, "color jitter strength without auto_augment", added=True, at_least=0)

    optimizer: str = option(OPTIMIZER, "adamw", "optimizer", choices=("adamw", "momentum"))
    beta: tuple[float, ...] = option(
        OPTIMIZER, (0.9, 0.999), "decay rates of AdamW's moments", length=2, at_least=0, less_than=1
    )
    eps: float = option(OPTIMIZER, 1e-8, "epsilon of AdamW", more_than=0)
    base_lr: float = option(OPTIMIZER, 2e-3, "peak learning rate, not scaled by the batch size", more_than=0)
    min_lr: float = option(OPTIMIZER, 1e-6, "learning rate at the end of cosine_lr", at_least=0)
    lr_scheduler: str = option(OPTIMIZER, "cosine_lr", "learning rate schedule", choices=SCHEDULES)
    lr_adjust: int = option(OPTIMIZER, 30, "epochs between two steps of multistep_lr", at_least=1, at_most=1_000_000)
    lr_gamma: float = option(OPTIMIZER, 0.97, "factor per multistep_lr step or exp_lr epoch", more_than=0, at_most=1)
    momentum: float = option(OPTIMIZER, 0.9, "momentum of the momentum optimizer", at_least=0, less_than=1)
    weight_decay: float = option(OPTIMIZER, 0.05, "weight decay, 0 on one-dimensional parameters", at_least=0)
    weight_decay_end: float | None = option(
        OPTIMIZER, None, "weight decay at the end of a cosine that begins at weight_decay, or none: constant",
        added=True, at_least=0,
    )  # fmt: skip

    epochs: int = option(TRAINING, 100, "number of training epochs", at_least=1, at_most=1_000_000)
    batch_size: int = option(TRAINING, 64, "images per device and micro-batch", at_least=1, at_most=1_000_000)
    is_dynamic_loss_scale: bool = option(TRAINING, True, "adapt the loss scale to overflows")
    loss_scale: float = option(TRAINING, 1024.0, "loss scale, the initial one if it is dynamic", at_least=1)
    num_parallel_workers: int = option(TRAINING, 8, "threads that read and augment images", at_least=1, at_most=1024)
    start_epoch: int = option(TRAINING, 0, "first epoch", at_least=0)
    warmup_length: int = option(TRAINING, 20, "epochs of linear warm-up", at_least=0)
    warmup_steps: int = option(TRAINING, 0, "steps of linear warm-up instead of warmup_length", added=True, at_least=0)
    warmup_lr: float = option(TRAINING, 7e-6, "learning rate at the start of the warm-up", at_least=0)
    use_clip_grad_norm: bool = option(TRAINING, False, "clip the gradients by their global norm")
    clip_grad_norm: float = option(TRAINING, 1.0, "largest global norm of the gradients", more_than=0)
    exclude_epoch_state: bool = option(TRAINING, True, "load the weights of pretrained, not its training state")
    resume: str | None = option(TRAINING, None, "checkpoint to resume, or auto for this run's newest", added=True)
    seed: int = option(TRAINING, 0, "seed of the initial weights, the image order and the augmentation", at_least=0)
    pynative_mode: bool = option(TRAINING, False, "run operator by operator instead of compiling a graph")
    dataset_sink_mode: bool = option(TRAINING, True, "feed data through the device's queue (GPU and Ascend)")
    accumulation_steps: int = option(
        TRAINING, 1, "micro-batches averaged into one step", added=True, at_least=1, at_most=1_000_000
    )
    max_nonfinite_steps: int = option(
        TRAINING, 10, "consecutive non-finite losses that end the run", added=True, at_least=1
    )
    max_bad_images: float = option(
        TRAINING, 0.01, "largest accepted share of unreadable training images; other images replace them",
        added=True, at_least=0, at_most=1,
    )  # fmt: skip

    arch: str = option(MODEL, "beit_base_patch16_224", "architecture", choices=tuple(VARIANTS))
    pretrained: str | None = option(MODEL, None, "checkpoint to start from, to evaluate or to export")
    image_size: int = option(MODEL, 224, "side of the input image in pixels", at_least=1, at_most=2048)

    device_id: int = option(HARDWARE, 0, "device of a run on one device", at_least=0, at_most=1023)
    device_num: int = option(
        HARDWARE, 1, "number of devices; above 1, start the run with mpirun", at_least=1, at_most=4096
    )
    device_target: str = option(HARDWARE, "GPU", "type of device", choices=("CPU", "GPU", "Ascend"))
    compile_cache: str | None = option(
        HARDWARE, None,
        "folder of compiled graphs, for a faster start; without it, eval.py keeps its graph in the user's cache folder",
        added=True,
    )  # fmt: skip

    summary_root_dir: str = option(CALLBACKS, "outputs/summary_dir/", "folder of the MindInsight summaries")
    ckpt_root_dir: str = option(CALLBACKS, "outputs/checkpoints/", "folder of the current checkpoints")
    best_ckpt_root_dir: str = option(CALLBACKS, "outputs/best_checkpoints/", "folder of the best checkpoints")
    logs_root_dir: str = option(CALLBACKS, "outputs/logs/", "folder of the text logs and of metrics.csv")
    ckpt_keep_num: int = option(CALLBACKS, 10, "number of current checkpoints to keep", at_least=1, at_most=1_000_000)
    best_ckpt_num: int = option(
        CALLBACKS, 5, "number of best checkpoints to keep, by top-1", at_least=1, at_most=1_000_000
    )
    ckpt_save_every_step: int = option(CALLBACKS, 0, "steps between checkpoints, 0: one per epoch", at_least=0)
    ckpt_save_every_seconds: int = option(CALLBACKS, 1800, "seconds between checkpoints, 0: one per epoch", at_least=0)
    print_loss_every: int = option(CALLBACKS, 100, "steps between two lines of progress", at_least=1)
    summary_loss_collect_freq: int = option(CALLBACKS, 20, "steps between two points of the summaries", at_least=1)
    model_postfix: str = option(CALLBACKS, "0", "end of the run's name, ARCH_POSTFIX, in the names of its folders")
    collect_input_data: bool = option(CALLBACKS, False, "add input images to the summaries")
    dump_graph: bool = option(CALLBACKS, False, "add the compiled graph to the summaries")
    tensorboard: bool = option(CALLBACKS, False, "also write the curves of the summaries for TensorBoard", added=True)

    def __post_init__(self) -> None:
        """Raise `UserError` for values that contradict each other or need a layer that BEiT does not have."""
        for text in self.conflicts():
            raise UserError(text)

    def conflicts(self) -> Iterator[str]:
        """Yield an error message for each conflict between values."""
        if self.start_epoch >= self.epochs:
            yield f"start_epoch is {self.start_epoch} but epochs is {self.epochs}; set start_epoch below epochs"
        if self.warmup_length > self.epochs:
            yield f"warmup_length is {self.warmup_length} but epochs is {self.epochs}; set at most epochs"
        if self.train_num_samples == 0:
            yield "train_num_samples is 0; set a number of images, or -1 for all"
        if not re.fullmatch(r"[\w.-]+", self.model_postfix) or len(self.model_postfix.encode()) > POSTFIX_BYTES:
            letters = f"at most {POSTFIX_BYTES} letters, digits, '.', '_' and '-'"
            yield f"model_postfix is {shown(self.model_postfix)!r}, expected {letters}"
        if self.collect_input_data and self.dataset_sink_mode and self.device_target != "CPU":
            yield "collect_input_data is True but the host sees no images in sink mode; set dataset_sink_mode to False"
        if self.dump_graph and self.pynative_mode:
            yield "dump_graph is True but pynative_mode compiles no graph; set one of them to False"
        if self.weight_decay_end is not None and self.optimizer != "adamw":
            yield f"weight_decay_end is set but optimizer is {self.optimizer}; set optimizer to adamw"


@dataclass(frozen=True)
class NetworkConfig(RunConfig):
    """Options of training that all BEiT networks share."""

    layer_decay: float = option(OPTIMIZER, 0.9, "learning rate factor to the previous block", more_than=0, at_most=1)

    amp_level: str = option(
        MODEL, "O0", "precision: O0 float32, O1 float16 products, O2 float16 activations, O3 float16 weights too",
        choices=("O0", "O1", "O2", "O3"),
    )  # fmt: skip
    drop: float = option(MODEL, 0.0, "dropout of the embeddings and after each projection", at_least=0, less_than=1)
    drop_path: float = option(MODEL, 0.1, "stochastic depth of the last block", at_least=0, less_than=1)
    disable_approximate_gelu: bool = option(MODEL, False, "exact GELU of the published weights, not its tanh form")
    layer_scale_init_value: float = option(MODEL, 0.1, "layer scale: 0.1 for base, 1e-5 for large, 0: none", at_least=0)
    rel_pos_bias: bool = option(MODEL, True, "relative position bias in every block")
    abs_pos_emb: bool = option(MODEL, False, "absolute position embedding")
    shared_rel_pos_bias: bool = option(MODEL, False, "one relative position bias for all blocks", added=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        patch_grid(get_variant(self.arch), self.image_size)


@dataclass(frozen=True)
class Config(NetworkConfig):
    """Options of fine-tuning, evaluation and export."""

    val_dir: str = option(DATASET, "validation_preprocess", "folder of the validation images inside data_url")
    val_num_samples: int = option(DATASET, -1, "number of validation images to use, -1 for all", at_least=-1)

    auto_augment: str | None = option(
        AUGMENT, "rand-m9-mstd0.5-inc1", "policy in timm's grammar (rand-..., augmix-..., original, v0), or none"
    )
    aa_interpolation: str = option(AUGMENT, "bicubic", "resampling of the crop and the warps", choices=INTERPOLATIONS)
    re_mode: str = option(AUGMENT, "pixel", "fill of RandomErasing", choices=("const", "rand", "pixel"))
    re_prob: float = option(AUGMENT, 0.25, "probability of RandomErasing", at_least=0, at_most=1)
    re_count: int = option(
        AUGMENT, 1, "largest number of boxes that RandomErasing erases per image", at_least=1, at_most=1000
    )
    cutmix: float = option(AUGMENT, 1.0, "alpha of CutMix, 0 to disable it", at_least=0)
    mixup: float = option(AUGMENT, 0.8, "alpha of Mixup, 0 to disable it", at_least=0)
    mixup_prob: float = option(AUGMENT, 1.0, "probability of Mixup or CutMix", at_least=0, at_most=1)
    mixup_mode: str = option(AUGMENT, "batch", "scope of a Mixup draw", choices=("batch", "pair", "elem"))
    mixup_off_epoch: float = option(AUGMENT, 0.0, "epoch that disables Mixup and CutMix, 0 for none", at_least=0)
    switch_prob: float = option(AUGMENT, 0.5, "probability of CutMix instead of Mixup", at_least=0, at_most=1)
    label_smoothing: float = option(AUGMENT, 0.1, "share of the target spread over all classes", at_least=0, at_most=1)
    crop_pct: float = option(AUGMENT, 0.9, "share of the resized side that evaluation crops", at_least=0.1, at_most=1)

    with_ema: bool = option(TRAINING, False, "keep an exponential moving average of the weights")
    ema_decay: float = option(TRAINING, 0.9999, "decay of the moving average", at_least=0, at_most=1)

    file_format: str = option(MODEL, "ONNX", "format that export.py writes", choices=("ONNX", "MINDIR", "AIR"))
    num_classes: int = option(
        MODEL, 1000, "classes, 0 to take them from the data or the checkpoint", at_least=0, at_most=1_000_000
    )
    drop_block: float = option(MODEL, 0.0, "only 0: BEiT has no DropBlock layer")
    use_pytorch_maxpool: bool = option(MODEL, False, "only False: BEiT has no max pooling")
    mean_pooling: bool = option(MODEL, True, "classify the mean of the patch tokens, not the class token", added=True)
    init_scale: float = option(MODEL, 0.001, "factor of the head's initial weights", added=True, at_least=0)

    onnx_precision: str = option(
        EXPORT, "fp32", "precision of an ONNX file: fp16 halves its size, int8 quarters it and is faster on a CPU",
        added=True, choices=("fp32", "fp16", "int8"),
    )  # fmt: skip
    with_preprocess: bool = option(EXPORT, False, "let the ONNX file normalize uint8 NHWC pixels", added=True)
    calibration_folder: str | None = option(EXPORT, None, "images that fix the ranges of int8", added=True)
    agreement_folder: str | None = option(EXPORT, None, "images on which to compare file and network", added=True)

    def conflicts(self) -> Iterator[str]:
        """Yield an error message for each conflict between values."""
        yield from super().conflicts()
        if self.drop_block != 0:
            yield f"drop_block is {self.drop_block:g} but BEiT has no DropBlock layer; set it to 0"
        if self.use_pytorch_maxpool:
            yield "use_pytorch_maxpool is True but BEiT has no max pooling; set it to False"
        if self.val_num_samples == 0:
            yield "val_num_samples is 0; set a number of images, or -1 for all"
        for name, default in (("onnx_precision", "fp32"), ("with_preprocess", False)):
            if getattr(self, name) != default and self.file_format != "ONNX":
                yield f"{name} is {getattr(self, name)} but file_format is {self.file_format}; set file_format to ONNX"
        if self.calibration_folder is not None and self.onnx_precision != "int8":
            yield f"calibration_folder is set but onnx_precision is {self.onnx_precision}; remove it or set int8"
        if self.agreement_folder is not None and self.file_format == "AIR":
            yield "agreement_folder is set but MindSpore cannot load file_format AIR; remove agreement_folder"


@dataclass(frozen=True)
class DryRunConfig:
    """Options of the command line alone that training of every kind shares."""

    dry_run: bool = option(TRAINING, False, "build everything, take two steps and estimate the run's time and memory")


@dataclass(frozen=True)
class TrainConfig(DryRunConfig, Config):
    """Options of train.py."""


@dataclass(frozen=True)
class PretrainConfig(NetworkConfig):
    """Options of pre-training."""

    train_dir: str = option(
        DATASET, ".", "what to train on inside data_url: a tree of images, a text file of paths, or packed images"
    )
    color_jitter: float = option(
        AUGMENT, 0.4, "strength of the jitter of brightness, contrast and saturation", at_least=0
    )
    train_interpolation: str = option(AUGMENT, "bicubic", "resampling of the crop", choices=INTERPOLATIONS)
    second_interpolation: str = option(
        AUGMENT, "lanczos", "resampling of the crop for the tokenizer", choices=INTERPOLATIONS[:-1]
    )
    target: str = option(
        MASKING, "tokens", "what is predicted: visual tokens, or pixels, normalized in each patch",
        choices=("tokens", "pixels"),
    )  # fmt: skip
    tokenizer: str | None = option(
        MASKING, None, "file of the tokenizer: DALL-E's encoder.pkl, a VQ-KD of BEiT v2, or one of train_tokenizer.py"
    )
    mask: str = option(
        MASKING, "block", "blocks of patches (BEiT), blocks completed to the exact number (BEiT v2), or random patches",
        choices=("block", "block_exact", "random"),
    )  # fmt: skip
    num_mask_patches: int = option(MASKING, 75, "patches to mask in an image, at most", at_least=1)
    min_mask_patches_per_block: int = option(MASKING, 16, "least patches of a block", at_least=1)
    max_mask_patches_per_block: int | None = option(MASKING, None, "most patches of a block", at_least=1)
    layer_decay: float = option(
        OPTIMIZER, 1.0, "learning rate factor to the previous block, 1 in the authors' recipes", more_than=0, at_most=1
    )
    rel_pos_bias: bool = option(MODEL, False, "relative position bias in every block")
    shared_rel_pos_bias: bool = option(MODEL, True, "one relative position bias for all blocks")
    early_layers: int = option(
        MODEL, 0, "block whose patch tokens the further blocks of BEiT v2 see", at_least=0, at_most=1000
    )
    head_layers: int = option(MODEL, 0, "further blocks of BEiT v2, 0 for BEiT", at_least=0, at_most=1000)

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.target == "tokens" and self.tokenizer is None:
            yield "target is tokens but tokenizer is empty; set tokenizer to a file, or target to pixels"
        if self.target == "pixels" and self.tokenizer is not None:
            yield f"target is pixels but tokenizer is {self.tokenizer}; remove tokenizer, or set target to tokens"
        depth = get_variant(self.arch).depth
        if self.head_layers and not 1 <= self.early_layers <= depth:
            yield f"early_layers is {self.early_layers} but head_layers is {self.head_layers}; set it to 1..{depth}"
        if self.head_layers > depth:
            yield f"head_layers is {self.head_layers} but {self.arch} has {depth} blocks; set at most {depth}"


@dataclass(frozen=True)
class PretrainScriptConfig(DryRunConfig, PretrainConfig):
    """Options of pretrain.py."""


@dataclass(frozen=True)
class TokenizerConfig(RunConfig):
    """Options of training an image tokenizer."""

    train_dir: str = borrowed(PretrainConfig, "train_dir", DATASET)
    color_jitter: float = borrowed(PretrainConfig, "color_jitter", AUGMENT, default=0.0)
    min_crop: float = borrowed(RunConfig, "min_crop", AUGMENT, default=0.2)
    train_interpolation: str = borrowed(PretrainConfig, "train_interpolation", AUGMENT)
    arch: str = option(MODEL, "dvae", "kind of tokenizer: the discrete VAE of BEiT's authors", choices=("dvae",))
    image_size: int = option(MODEL, 112, "side of the images in pixels", at_least=8, at_most=2048)
    num_tokens: int = option(MODEL, 8192, "size of the vocabulary", at_least=2, at_most=1_000_000)
    codebook_dim: int = option(MODEL, 512, "numbers that stand for a token", at_least=1, at_most=65_536)
    num_layers: int = option(
        MODEL, 3, "halvings of the image: one token for 2^num_layers pixels along a side", at_least=1, at_most=8
    )
    hidden_dim: int = option(MODEL, 256, "channels of the convolutions", at_least=1, at_most=65_536)
    temperature: float = option(MODEL, 1.0, "temperature of the Gumbel softmax at the start", more_than=0)
    temperature_end: float = option(MODEL, 0.0625, "temperature at the end, after half a cosine", more_than=0)
    straight_through: bool = option(MODEL, False, "decode the drawn token alone, not a mean of the codebook")
    kl_loss_weight: float = option(MODEL, 0.0, "weight of the divergence from equally frequent tokens", at_least=0)
    smooth_l1_loss: bool = option(MODEL, False, "smooth L1 as the reconstruction error, not the square")

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        patch = 2**self.num_layers
        if self.image_size % patch:
            size = max(round(self.image_size / patch), 1) * patch
            yield f"image_size {self.image_size} is not a multiple of {patch} (2^num_layers): use {size}"


@dataclass(frozen=True)
class TokenizerScriptConfig(DryRunConfig, TokenizerConfig):
    """Options of train_tokenizer.py."""


@dataclass(frozen=True)
class EvalConfig(Config):
    """Options of eval.py."""

    report: str | None = option(TRAINING, None, "folder for a report: accuracy by class, confusions, worst errors")

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.report is not None and self.device_num > 1:
            yield f"report is {self.report} but device_num is {self.device_num}; set device_num to 1"


@dataclass(frozen=True)
class PreviewConfig(Config):
    """Options of src/data/preview.py."""

    output: str = option(PREVIEW, "preview.png", "PNG file to draw")


@dataclass(frozen=True)
class PretrainPreviewConfig(PretrainConfig):
    """Options of src/data/preview.py for a config of pre-training."""

    output: str = borrowed(PreviewConfig, "output", PREVIEW)


@dataclass(frozen=True)
class PackConfig(Config):
    """Options of src/data/pack.py."""

    output: str | None = option(PACKING, None, "folder to write, which does not exist yet: the data_url of later runs")
    shorter_side: int | None = option(
        PACKING, None, "shorter side in pixels of larger images, stored as JPEG; none keeps all files as they are",
        at_least=1, at_most=65_535,
    )  # fmt: skip
    unlabeled: bool = option(PACKING, False, "pack all images below train_dir, without labels")

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.dataset == MINDRECORD:
            yield f"dataset is {MINDRECORD} but a folder of images is packed; set it to ImageFolder"
        for name in ("train_dir", "val_dir"):
            parts = Path(getattr(self, name)).parts
            if not parts or parts[0] == "/" or ".." in parts:
                yield f"{name} is {shown(getattr(self, name))}; name a folder inside data_url"


@dataclass(frozen=True)
class InferConfig:
    """Options of infer.py. Its network and preprocessing come from the checkpoint."""

    data_path: str | None = option(PREDICTION, None, "image, folder of png and jpeg files, or .txt file of paths")
    checkpoint: str | None = option(PREDICTION, None, "checkpoint, ONNX file or MINDIR file")
    output: str = option(PREDICTION, "predictions.json", "file for the predictions: .json, .jsonl or .csv")
    recursive: bool = option(PREDICTION, False, "include the images of the folders inside data_path")
    topk: int | None = option(PREDICTION, None, "report the K most probable classes of each image", at_least=1)
    probabilities: bool = option(PREDICTION, False, "report the probabilities of the classes")
    class_names: str | None = option(PREDICTION, None, "text file of class names, one a line, instead of the model's")
    resume: bool = option(PREDICTION, False, "resume the interrupted run that left OUTPUT.partial")
    quiet: bool = option(PREDICTION, False, "print no line per image and no progress bar")
    contact_sheet: str | None = option(PREDICTION, None, "PNG file to draw: thumbnails, classes and probabilities")
    attention: str | None = option(PREDICTION, None, "PNG file of a checkpoint's last attention, for one image")
    arch: str | None = borrowed(Config, "arch", PREDICTION, default=None, help="architecture, checked against the file")
    batch_size: int = borrowed(Config, "batch_size", PREDICTION, default=8, help="images per batch")
    num_parallel_workers: int = borrowed(Config, "num_parallel_workers", PREDICTION, help="threads that read images")
    decode: str = borrowed(Config, "decode", PREDICTION)
    device_id: int = borrowed(Config, "device_id", PREDICTION, help="device to run on")
    device_target: str = borrowed(Config, "device_target", PREDICTION)


# A script with options of its own, such as pre-training, is another dataclass above and a row here.
CONFIG_PATH = {"config_path": "a YAML file or the name of one in src/configs"}
PRETRAINED = CONFIG_PATH | {"pretrained": "a checkpoint"}
OUTPUT = CONFIG_PATH | {"output": "a folder to write"}
DATA_PATH = {"data_path": "an image or a folder of images", "checkpoint": "a checkpoint, an ONNX file or a MINDIR file"}
PRETRAIN_TEXT = "Pre-train BEiT on images without labels."
TOKENIZER_TEXT = "Train an image tokenizer for pre-training on images without labels."
PREVIEW_TEXT = "Draw a training batch as the network sees it beside the evaluation view of the same images."
PRETRAIN_PREVIEW_TEXT = "Draw a batch of pre-training: the views, the mask, and what the tokens decode to."
PACK_TEXT = "Pack folders of images into MindRecord shards."
SCRIPTS = {
    "train": Script("python train.py", "Fine-tune BEiT on folders of images.", TrainConfig, CONFIG_PATH, Config),
    "pretrain": Script(
        "python pretrain.py",
        PRETRAIN_TEXT,
        PretrainScriptConfig,
        CONFIG_PATH,
        PretrainConfig,
    ),
    "train_tokenizer": Script(
        "python train_tokenizer.py", TOKENIZER_TEXT, TokenizerScriptConfig, CONFIG_PATH, TokenizerConfig
    ),
    "eval": Script("python eval.py", "Evaluate a checkpoint on the validation images.", EvalConfig, PRETRAINED, Config),
    "export": Script("python export.py", "Export a checkpoint to ONNX, MINDIR or AIR.", Config, PRETRAINED, Config),
    "infer": Script("python infer.py", "Predict the classes of images.", InferConfig, DATA_PATH, Config),
    "pack": Script("python -m src.data.pack", PACK_TEXT, PackConfig, OUTPUT, Config),
    "preview": Script("python -m src.data.preview", PREVIEW_TEXT, PreviewConfig, CONFIG_PATH, Config),
    "pretrain_preview": Script(
        "python -m src.data.preview",
        PRETRAIN_PREVIEW_TEXT,
        PretrainPreviewConfig,
        CONFIG_PATH,
        PretrainConfig,
        " with a config of pre-training",
    ),
}

FILES = (Config, PretrainConfig, TokenizerConfig)  # the kinds of config files


def parse_args(argv: Sequence[str], script: str) -> Any:
    """Return the options of `script`, a key of `SCRIPTS`: see `src.options.command_line.parse`."""
    return parse(argv, SCRIPTS[script])


def is_for_pretraining(argv: Sequence[str]) -> bool:
    """Return whether the command line names a config of pre-training; False without a readable config."""
    try:
        return set(names_in(given_config(argv))) >= {"mask", "num_mask_patches"}
    except UserError:
        return False


def read_config(path: Path) -> Any:
    """Return the values of a YAML file, of the kind in `FILES` that has its options; `UserError` as `parse_args`."""
    names = set(names_in(path))
    kind = next((kind for kind in FILES if names <= set(declared(kind))), Config)
    return kind(**read_values(path, kind))


def as_yaml(config: RunConfig) -> str:
    """Return a config file of the values of `config`, without the options of one script."""
    return write_values(config, next(kind for kind in FILES if isinstance(config, kind)))
