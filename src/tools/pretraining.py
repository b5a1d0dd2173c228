"""The task of pre-training: predict the visual tokens, or the pixels, of masked patches of images without labels."""

import logging
import zlib
from collections.abc import Callable, Mapping

from src.config import PretrainConfig
from src.data.assembly import build_masked_loader, describe_pretraining, mean_and_std
from src.data.image_folder import ImageFolder
from src.errors import UserError
from src.mim import MaskedImageModeling
from src.model.model_config import ModelConfig, TrainingOptions
from src.model.variants import get_variant, patch_grid
from src.report.masked_images import draw_masked_images
from src.runtime.distributed import Ranks
from src.tokenizers.decode import decoder_of
from src.tokenizers.load import build_tokenizer
from src.tokenizers.tokenizer import Tokenizer
from src.tokenizers.tokenizer_file import TokenizerFile
from src.tools.codes import CODES, CodesInUse
from src.tools.masked_modeling import PixelRegression, TokenPrediction
from src.tools.run_folder import Folders
from src.trainer.task import Metric, Objective, Task

logger = logging.getLogger("beit")

CHARTS = {
    "loss": {"training": "train_loss"},
    "accuracy on masked tokens": {"patches": "train_accuracy", "class token": "train_cls_pt_accuracy"},
    "visual tokens in use": {"of the images": "codes"},
    "norm of the gradients": {"before clipping": "train_grad_norm"},
    "learning rate": {"learning rate": "learning_rate"},
}


def pretraining(config: PretrainConfig, images: ImageFolder, file: TokenizerFile | None, ranks: Ranks) -> Task:
    """Return the task of the options; its network has its initial weights and is in training mode.

    The tokenizer of `file` gives the tokens to predict; without one, the target is the pixels.
    """
    grid = patch_grid(get_variant(config.arch), config.image_size)
    tokenizer = None if file is None else build_tokenizer(file, grid)
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
    return MaskedImageModeling.create(model, training, config.amp_level).set_train(True)


def pixels_of_patch(config: PretrainConfig) -> int:
    """Return the pixel values of a patch, of all three colors."""
    return 3 * get_variant(config.arch).patch_size ** 2


def report_masked_images(
    config: PretrainConfig, images: ImageFolder, file: TokenizerFile | None, task: Task, folders: Folders
) -> None:
    """Draw masked images and what the network predicts for them, as masked.png beside the logs.

    A picture that cannot be drawn is a warning: the run has its result.
    """
    path, objective = folders.logs / "masked.png", task.objective
    try:
        tokenizer = None
        if isinstance(objective, TokenPrediction) and file is not None:
            decode = decoder_of(file, objective.tokenizer)
            if decode is None:
                logger.info("no picture of predictions: the tokenizer %s has no decoder for pixels", file.path)
                return
            tokenizer = objective.tokenizer, decode
        loader = build_masked_loader(config, images, tokenizer[0].image_size if tokenizer else 0)
        draw_masked_images(path, task.network, loader, mean_and_std(config), tokenizer)
    except (UserError, OSError) as error:
        logger.warning("no picture of predictions: %s", error)
    else:
        logger.info("masked images and predictions: %s", path)


def tokenizer_identity(file: TokenizerFile | None) -> dict[str, int]:
    """Return the CRC-32 of the weights of the tokenizer: a run with another one is another run."""
    if file is None:
        return {}
    crc = 0
    for name in sorted(file.weights):
        crc = zlib.crc32(file.weights[name].tobytes(), crc)
    return {"tokenizer's weights": crc}
