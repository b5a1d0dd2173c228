"""What is compared: network, images, compute and options of every run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import compute

from src.config import Config, PretrainConfig, TokenizerConfig
from src.model.variants import Variant, get_variant, patch_grid
from src.tokenizers.dvae import DvaeSizes

SCRATCH, PIXELS, TOKENS = "random weights", "pixel targets", "dVAE tokens"
ARMS = (SCRATCH, PIXELS, TOKENS)
SHARES = (0.01, 0.1, 1.0)  # of the labels
RATES = (5e-4, 1.5e-3, 4e-3)  # of fine-tuning
NUM_CLASSES = 10

ON_CPU = {"device_target": "CPU", "dataset_sink_mode": False, "is_dynamic_loss_scale": False, "loss_scale": 1.0}
IMAGES = {"hflip": 0.0, "color_jitter": 0.0, "max_bad_images": 0.0, "num_parallel_workers": 2}
STEPS = {"use_clip_grad_norm": True, "clip_grad_norm": 3.0, "weight_decay": 0.05}
SHARED: dict[str, Any] = ON_CPU | IMAGES | STEPS
# Random weights need residual branches at full strength, and a network this small needs no stochastic depth.
NETWORK: dict[str, Any] = {
    "layer_scale_init_value": 1.0,
    "drop_path": 0.0,
    "disable_approximate_gelu": True,
    "rel_pos_bias": False,
    "shared_rel_pos_bias": True,
}
DVAE = DvaeSizes(num_tokens=64, codebook_dim=32, num_layers=2, hidden_dim=16)


@dataclass(frozen=True)
class Setting:
    """Sizes of the comparison; epochs are passes over as many images as the training set has."""

    arch: str = "test_beit_patch8_32"
    image_size: int = 32
    batch_size: int = 64
    min_crop: float = 0.7
    mask_ratio: float = 0.6
    pretraining_lr: float = 4e-3
    pretraining_epochs: int = 60  # with pixel targets
    fine_tuning_epochs: int = 10
    tokenizer_epochs: int = 4
    evaluations: int = 5  # in a run of fine-tuning
    dvae: DvaeSizes = DVAE

    @property
    def variant(self) -> Variant:
        return get_variant(self.arch)

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return patch_grid(self.variant, self.image_size)

    @property
    def masked(self) -> int:
        """Masked patches of an image."""
        return round(self.mask_ratio * self.grid**2)

    def costs(self) -> dict[str, int]:
        """Return the multiplications for one image in each kind of training."""
        return {
            SCRATCH: compute.fine_tuning(self.variant, self.grid, NUM_CLASSES),
            PIXELS: compute.pixels(self.variant, self.grid, self.masked),
            TOKENS: compute.tokens(self.variant, self.grid, self.masked, self.dvae),
            "dVAE": compute.tokenizer(self.dvae, self.grid),
        }

    def epochs(self) -> dict[str, int]:
        """Return the epochs of pre-training for each arm, and for random weights the further ones of fine-tuning.

        The compute is that of pixel targets: rounded up for random weights, down for tokens, less the tokenizer's.
        """
        costs = self.costs()
        budget = self.pretraining_epochs * costs[PIXELS]
        left = budget - self.tokenizer_epochs * costs["dVAE"]
        return {
            SCRATCH: -(-budget // costs[SCRATCH]),
            PIXELS: self.pretraining_epochs,
            TOKENS: left // costs[TOKENS],
        }

    def tokenizer_config(self, seed: int) -> TokenizerConfig:
        """Return the options of training the dVAE."""
        return TokenizerConfig(
            **SHARED,
            image_size=self.grid * self.dvae.patch,
            num_tokens=self.dvae.num_tokens,
            codebook_dim=self.dvae.codebook_dim,
            num_layers=self.dvae.num_layers,
            hidden_dim=self.dvae.hidden_dim,
            epochs=self.tokenizer_epochs,
            batch_size=self.batch_size,
            min_crop=self.min_crop,
            warmup_length=0,
            seed=seed,
        )

    def pretraining_config(self, arm: str, seed: int) -> PretrainConfig:
        """Return the options of pre-training."""
        return PretrainConfig(
            **SHARED,
            **NETWORK,
            arch=self.arch,
            image_size=self.image_size,
            batch_size=self.batch_size,
            min_crop=self.min_crop,
            target="pixels" if arm == PIXELS else "tokens",
            tokenizer=None if arm == PIXELS else "trained in this process",
            mask="random",
            num_mask_patches=self.masked,
            epochs=self.epochs()[arm],
            base_lr=self.pretraining_lr,
            warmup_length=1,
            warmup_lr=0.0,
            beta=(0.9, 0.98),
            seed=seed,
        )

    def fine_tuning_config(self, arm: str, rate: float, seed: int) -> Config:
        """Return the options of training with labels."""
        scratch = arm == SCRATCH
        return Config(
            **SHARED,
            **NETWORK,
            arch=self.arch,
            image_size=self.image_size,
            batch_size=self.batch_size,
            min_crop=self.min_crop,
            num_classes=NUM_CLASSES,
            auto_augment=None,
            re_prob=0.0,
            mixup=0.0,
            cutmix=0.0,
            crop_pct=1.0,
            layer_decay=1.0,
            init_scale=1.0 if scratch else 0.001,  # a large head would disturb trained weights
            epochs=self.fine_tuning_epochs + (self.epochs()[SCRATCH] if scratch else 0),
            base_lr=rate,
            warmup_length=1,
            seed=seed,
        )
