"""The data of a run, from its options. Imports no MindSpore, so the preview of the data runs without it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from src.config import MINDRECORD, Config, NetworkConfig, PretrainConfig, RunConfig, TokenizerConfig
from src.data.augment.mixup import Mixup
from src.data.augment.random_erasing import RandomErasing
from src.data.image_folder import (
    ImageFolder,
    check_class_names,
    read_image_folder,
)
from src.data.shuffled_loader import Division
from src.data.imagenet import EvalLoader, Targets, TrainLoader
from src.data.masked_images import MaskedLoader
from src.data.masking import Masking
from src.data.packed_folder import read_packed_folder
from src.data.tokenizer_images import TokenizerLoader
from src.data.transforms import TrainTransform, eval_transform
from src.data.unlabeled_images import read_unlabeled
from src.data.views import ViewTransform
from src.errors import UserError
from src.model.model_config import ModelConfig
from src.model.model_info import (
    IMAGENET_DEFAULT_MEAN_STD,
    IMAGENET_INCEPTION_MEAN_STD,
    ModelInfo,
)
from src.model.variants import get_variant, patch_grid

AnyConfig = TypeVar("AnyConfig", bound=Config)



def read_data(config: Config) -> tuple[ImageFolder, ImageFolder]:
    """Return the training and validation images. Raises `UserError` unless both have the same `num_classes` classes."""
    train = _read_images(config, config.train_dir, config.train_num_samples)
    validation = read_validation_images(config)
    check_class_names(train.classes, validation, f"the training folder {train.root}")
    if config.num_classes not in (0, len(train.classes)):
        raise UserError(
            f"num_classes is {config.num_classes} but {train.root} has {len(train.classes)} class folders; "
            f"set num_classes to {len(train.classes)} or 0"
        )
    return train, validation


def with_class_count(config: AnyConfig, images: ImageFolder) -> AnyConfig:
    """Return `config` with the number of classes of `images` if its `num_classes` is 0."""
    return config if config.num_classes else dataclasses.replace(config, num_classes=len(images.classes))


def read_validation_images(config: Config) -> ImageFolder:
    """Return the images for evaluation."""
    return _read_images(config, config.val_dir, config.val_num_samples)


def _read_images(config: Config, name: str, num_samples: int) -> ImageFolder:
    root = Path(config.data_url) / name
    if config.dataset != MINDRECORD:
        return read_image_folder(root, num_samples)
    images = read_packed_folder(root, num_samples)
    if not images.classes:
        raise UserError(f"{root} was packed without labels; pack class folders, without --unlabeled")
    return images


def mean_and_std(config: RunConfig) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of RGB values in 0..1."""
    return IMAGENET_DEFAULT_MEAN_STD if config.imagenet_default_mean_and_std else IMAGENET_INCEPTION_MEAN_STD


def build_train_loader(config: Config, folder: ImageFolder, rank: int = 0, ranks: int = 1) -> TrainLoader:
    """Return the loader of this rank's augmented and mixed batches."""
    mean, std = mean_and_std(config)
    transform = TrainTransform(
        image_size=config.image_size,
        min_crop=config.min_crop,
        interpolation=config.aa_interpolation,
        mean=mean,
        std=std,
        auto_augment=config.auto_augment,
        color_jitter=config.color_jitter,
        hflip=config.hflip,
        erasing=RandomErasing(config.re_prob, config.re_mode, config.re_count) if config.re_prob > 0 else None,
    )
    mixup = None
    if config.mixup_prob > 0 and (config.mixup > 0 or config.cutmix > 0):
        alphas, probabilities = (config.mixup, config.cutmix), (config.mixup_prob, config.switch_prob)
        mixup = Mixup(*alphas, *probabilities, config.mixup_mode, config.mixup_off_epoch)
    return TrainLoader(
        folder,
        transform,
        Targets(config.num_classes, config.label_smoothing, mixup),
        **_reading(config, rank, ranks),
    )


def build_eval_loader(
    config: Config, info: ModelInfo, folder: ImageFolder, rank: int = 0, ranks: int = 1
) -> EvalLoader:
    """Return the loader of this rank's share of the images, prepared for the network of `info`."""
    return EvalLoader(
        folder,
        eval_transform(info),
        config.batch_size,
        config.num_parallel_workers,
        rank=rank,
        ranks=ranks,
        decode=config.decode,
    )


def read_unlabeled_images(config: PretrainConfig | TokenizerConfig) -> ImageFolder:
    """Return the images to pre-train on: all below a folder, those that a text file lists, or packed ones."""
    packed = config.dataset == MINDRECORD
    return read_unlabeled(Path(config.data_url) / config.train_dir, packed, config.train_num_samples)


def build_masked_loader(
    config: PretrainConfig, images: ImageFolder, token_size: int, rank: int = 0, ranks: int = 1
) -> MaskedLoader:
    """Return the loader of this rank's masked batches; `token_size` is the side of the tokenizer's view, 0 for none."""
    transform = build_views(config, token_size, config.second_interpolation)
    return MaskedLoader(
        images,
        transform,
        build_masking(config),
        **_reading(config, rank, ranks),
    )


def build_tokenizer_loader(
    config: TokenizerConfig,
    images: ImageFolder,
    temperature: Callable[[float], float],
    rank: int = 0,
    ranks: int = 1,
) -> TokenizerLoader:
    """Return the loader of this rank's batches; `temperature` is that at a share in 0..1 of the run."""
    transform = build_views(config, config.image_size, config.train_interpolation)
    return TokenizerLoader(
        images,
        transform,
        epochs=config.epochs,
        temperature=temperature,
        **_reading(config, rank, ranks),
    )


def build_views(
    config: PretrainConfig | TokenizerConfig, token_size: int, second_interpolation: str
) -> ViewTransform:
    """Return the views of an image; `token_size` is the side of the tokenizer's, 0 for none, with a filter of its own."""
    mean, std = mean_and_std(config)
    return ViewTransform(
        image_size=config.image_size,
        token_size=token_size,
        interpolation=config.train_interpolation,
        second_interpolation=second_interpolation,
        min_crop=config.min_crop,
        color_jitter=config.color_jitter,
        hflip=config.hflip,
        mean=mean,
        std=std,
    )


def _reading(config: RunConfig, rank: int, ranks: int) -> dict[str, Any]:
    """Return what every training loader takes from the options."""
    return {
        "division": Division(config.batch_size, rank, ranks, config.accumulation_steps),
        "seed": config.seed,
        "num_workers": config.num_parallel_workers,
        "max_bad_images": config.max_bad_images,
        "decode": config.decode,
    }


def build_masking(config: PretrainConfig) -> Masking:
    """Return the masks of the options."""
    return Masking(
        grid=patch_grid(get_variant(config.arch), config.image_size),
        count=config.num_mask_patches,
        kind=config.mask,
        least=config.min_mask_patches_per_block,
        most=config.max_mask_patches_per_block,
    )


def model_config(config: Config) -> ModelConfig:
    """Return the network that the options of fine-tuning describe."""
    same = {name: getattr(config, name) for name in ("num_classes", "mean_pooling")}
    return ModelConfig(**_shared_options(config), **same)


def pretraining_model(config: PretrainConfig, lm_head_outputs: int) -> ModelConfig:
    """Return the network that the options of pre-training describe."""
    same = {name: getattr(config, name) for name in ("early_layers", "head_layers")}
    options = _shared_options(config)
    return ModelConfig(**options, **same, num_classes=0, mean_pooling=False, lm_head_outputs=lm_head_outputs)


def _shared_options(config: NetworkConfig) -> dict[str, Any]:
    names = ("arch", "image_size", "rel_pos_bias", "shared_rel_pos_bias", "abs_pos_emb")
    same = {name: getattr(config, name) for name in names}
    gelu = not config.disable_approximate_gelu
    return {**same, "approximate_gelu": gelu, "layer_scale": config.layer_scale_init_value > 0}


def describe_model(config: Config, class_names: tuple[str, ...]) -> ModelInfo:
    """Return the information that the checkpoints of a fine-tuning run store."""
    mean, std = mean_and_std(config)
    return ModelInfo(model_config(config), class_names, mean, std, config.crop_pct)


def describe_pretraining(config: PretrainConfig, lm_head_outputs: int) -> ModelInfo:
    """Return the information that the checkpoints of a pre-training run store."""
    mean, std = mean_and_std(config)
    return ModelInfo(pretraining_model(config, lm_head_outputs), mean=mean, std=std)
