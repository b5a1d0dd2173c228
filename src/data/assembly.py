"""The data of a run, from its options. Imports no MindSpore, so the preview of the data runs without it."""

import dataclasses
from pathlib import Path
from typing import TypeVar

from src.config import MINDRECORD, Config
from src.data.augment.mixup import Mixup
from src.data.augment.random_erasing import RandomErasing
from src.data.image_folder import ImageFolder, check_class_names, read_image_folder
from src.data.shuffled_images import Division
from src.data.imagenet import EvalLoader, Targets, TrainLoader
from src.data.packed_folder import read_packed_folder
from src.data.transforms import TrainTransform, eval_transform
from src.errors import UserError
from src.model.model_config import ModelConfig
from src.model.model_info import (
    IMAGENET_DEFAULT_MEAN_STD,
    IMAGENET_INCEPTION_MEAN_STD,
    MODEL_FIELDS,
    ModelInfo,
)

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


def mean_and_std(config: Config) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
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
        Division(config.batch_size, rank, ranks, config.accumulation_steps),
        seed=config.seed,
        num_workers=config.num_parallel_workers,
        max_bad_images=config.max_bad_images,
        decode=config.decode,
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


def model_config(config: Config) -> ModelConfig:
    """Return the network that the options describe."""
    same = {name: getattr(config, name) for name in MODEL_FIELDS if hasattr(config, name)}
    return ModelConfig(
        **same,
        approximate_gelu=not config.disable_approximate_gelu,
        layer_scale=config.layer_scale_init_value > 0,
    )


def describe_model(config: Config, class_names: tuple[str, ...]) -> ModelInfo:
    """Return the information that the checkpoints of this run store."""
    mean, std = mean_and_std(config)
    return ModelInfo(model_config(config), class_names, mean, std, config.crop_pct)
