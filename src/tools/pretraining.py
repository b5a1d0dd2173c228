"""The task of pre-training: predict the visual tokens, or the pixels, of masked patches of images without labels."""

import logging
from collections.abc import Callable, Mapping

import numpy as np
from mindspore import Parameter, Tensor

from src.config import PretrainConfig
from src.data.assembly import build_masked_loader, describe_pretraining
from src.data.image_folder import ImageFolder
from src.mim import MaskedImageModeling, create_masked_image_modeling
from src.model.model_config import ModelConfig, TrainingOptions
from src.model.variants import get_variant
from src.runtime.distributed import Ranks, SumOverRanks
from src.tokenizers.tokenizer import Tokenizer
from src.tools.masked_modeling import PixelRegression, TokenPrediction
from src.trainer.task import Metric, Objective, Task

logger = logging.getLogger("beit")

CODES = Metric("codes", "codes in use", csv_format=".0f", line_format=".0f")
COLLAPSED = 0.01  # share of the vocabulary below which a line warns

CHARTS = {
    "loss": {"training": "train_loss"},
    "accuracy on masked tokens": {"patches": "train_accuracy", "class token": "train_cls_pt_accuracy"},
    "visual tokens in use": {"of the images": "codes"},
    "norm of the gradients": {"before clipping": "train_grad_norm"},
    "learning rate": {"learning rate": "learning_rate"},
}


def pretraining(config: PretrainConfig, images: ImageFolder, tokenizer: Tokenizer | None, ranks: Ranks) -> Task:
    """Return the task of the options; its network has its initial weights and is in training mode.

    `tokenizer` gives the tokens to predict; without one, the target is the pixels.
    """
    info = describe_pretraining(config, pixels_of_patch(config) if tokenizer is None else tokenizer.vocab_size)
    network = build_network(config, info.model)
    loader = build_masked_loader(
        config, images, 0 if tokenizer is None else tokenizer.image_size, ranks.rank, ranks.size
    )
    objective, evaluate, metrics = build_objective(network, tokenizer, ranks)
    return Task(
        network=network,
        objective=objective,
        info=info,
        train_loader=loader,
        batch_fields=loader.batch_fields,
        charts=CHARTS,
        evaluate=evaluate,
        metrics=metrics,
        reports_norm=True,
    )


def build_objective(
    network: MaskedImageModeling, tokenizer: Tokenizer | None, ranks: Ranks
) -> tuple[Objective, Callable[[int | None], Mapping[str, float]], tuple[Metric, ...]]:
    """Return the objective, and what is measured after each epoch: a function and its metrics."""
    if tokenizer is None:
        return PixelRegression(network), lambda batches: {}, ()
    objective = TokenPrediction(network, tokenizer)
    return objective, CodesInUse(objective.codes_used, ranks), (CODES,)


def build_network(config: PretrainConfig, model: ModelConfig) -> MaskedImageModeling:
    """Build the network with its initial weights, in training mode."""
    training = TrainingOptions(config.drop, config.drop_path, config.layer_scale_init_value, seed=config.seed)
    return create_masked_image_modeling(model, training, config.amp_level).set_train(True)


def pixels_of_patch(config: PretrainConfig) -> int:
    """Return the pixel values of a patch, of all three colors."""
    return 3 * get_variant(config.arch).patch_size ** 2


class CodesInUse:
    """How many visual tokens the images of an epoch had, over all ranks; starts anew with each call."""

    def __init__(self, used: Parameter, ranks: Ranks) -> None:
        self._used = used  # float32 [vocab_size]; see TokenPrediction
        self._sum = SumOverRanks() if ranks.size > 1 else None

    def __call__(self, batches: int | None) -> dict[str, float]:
        """Return the number under the name of `CODES`, and warn if it is small; `batches` changes nothing."""
        used = self._used if self._sum is None else self._sum(self._used)
        count, vocabulary = int(np.count_nonzero(used.asnumpy())), self._used.size
        self._used.set_data(Tensor(np.zeros(vocabulary, np.float32)))
        if count < COLLAPSED * vocabulary:
            logger.warning(
                f"the images have only {count} of {vocabulary} visual tokens: if they are not all alike, the tokenizer "
                "has collapsed; train another, or set target to pixels"
            )
        return {CODES.name: count}
