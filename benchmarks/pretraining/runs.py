"""The runs of the comparison: tokenizer, pre-training, training with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from images import labeled
from mindspore import nn
from results import Results
from reused_step import Trained, Trainer
from setting import RATES, SCRATCH, TOKENS, Setting

from src.data.assembly import build_eval_loader, describe_model
from src.data.image_folder import ImageFolder, read_image_folder
from src.evaluation.classification import evaluate_network
from src.runtime.distributed import Ranks
from src.tokenizers.tokenizer_file import DVAE, TokenizerFile
from src.tools.fine_tuning import fine_tuning
from src.tools.pretraining import pretraining
from src.tools.tokenizer_training import tokenizer_training
from src.weights.fit import fit_weights
from src.weights.network_parameters import parameter_shapes, set_weights


class Images(NamedTuple):
    """The three splits."""

    train: ImageFolder
    val: ImageFolder
    test: ImageFolder


def read_images(folder: Path) -> Images:
    """Return the splits in `folder`."""
    return Images(*(read_image_folder(folder / split) for split in Images._fields))


class Comparison:
    """Runs by arm, share of the labels, learning rate and seed; each is done once, and stored in `results`.

    Labeled images depend on the seed alone, so all arms have the same ones. The `choosing_seed` selects the learning
    rate of each arm and share, on the validation split.
    """

    def __init__(self, setting: Setting, images: Images, results: Results, choosing_seed: int) -> None:
        self.setting, self.images, self.results, self.choosing_seed = setting, images, results, choosing_seed
        self._trainer = Trainer()

    def accuracies(self, arm: str, share: float, seeds: Sequence[int]) -> list[dict[str, float]]:
        """Return the result of each seed at the best learning rate; see `accuracy`."""
        return [self.accuracy(arm, share, self.best_rate(arm, share), seed) for seed in seeds]

    def best_rate(self, arm: str, share: float) -> float:
        """Return the learning rate with the best accuracy on the validation split."""
        return max(RATES, key=lambda rate: self.accuracy(arm, share, rate, self.choosing_seed)["val"])

    def accuracy(self, arm: str, share: float, rate: float, seed: int) -> dict[str, float]:
        """Return top-1 in percent as `val`, the best of the run, and as `test` with the same weights, and `seconds`."""
        name = f"{arm}, {share:.0%} of the labels, learning rate {rate:g}, seed {seed}"
        return self.results.run(name, partial(self._train_with_labels, arm, share, rate, seed))

    def tokenizer(self, seed: int) -> Mapping[str, np.ndarray]:
        """Return the weights of the dVAE."""
        return self.results.weights(f"dVAE, seed {seed}", partial(self._train_tokenizer, seed))

    def pretrained(self, arm: str, seed: int) -> Mapping[str, np.ndarray]:
        """Return the weights after pre-training."""
        return self.results.weights(f"{arm}, seed {seed}", partial(self._pretrain, arm, seed))

    def _train_tokenizer(self, seed: int) -> Trained:
        config = self.setting.tokenizer_config(seed)
        return self._trainer("dVAE", config, tokenizer_training(config, self.images.train, Ranks()))

    def _pretrain(self, arm: str, seed: int) -> Trained:
        config = self.setting.pretraining_config(arm, seed)
        file = TokenizerFile(Path("dVAE"), DVAE, self.tokenizer(seed)) if arm == TOKENS else None
        return self._trainer(arm, config, pretraining(config, self.images.train, file, Ranks()))

    def _train_with_labels(self, arm: str, share: float, rate: float, seed: int) -> dict[str, float]:
        config = self.setting.fine_tuning_config(arm, rate, seed)
        task = fine_tuning(config, labeled(self.images.train, share, seed), self.images.val, Ranks())
        if arm != SCRATCH:
            fitted, _ = fit_weights(self.pretrained(arm, seed), parameter_shapes(task.network), Path(arm))
            set_weights(task.network, fitted)
        info = describe_model(config, self.images.train.classes)
        splits = {"val": self.images.val, "test": self.images.test}
        loaders = {name: build_eval_loader(config, info, images) for name, images in splits.items()}
        evaluated = np.linspace(0, config.epochs, self.setting.evaluations + 1).round()[1:]

        def evaluate(network: nn.Cell, epoch: int) -> dict[str, float]:
            if epoch not in evaluated:
                return {}
            return {split: evaluate_network(network, loader).top1 for split, loader in loaders.items()}

        trained = self._trainer("fine-tuning", config, task, evaluate)
        best = max((row for row in trained.history if "val" in row), key=lambda row: (row["val"], row["epoch"]))
        return {"val": best["val"], "test": best["test"], "seconds": trained.seconds}
