"""The task of training a discrete VAE on images without labels, as a tokenizer for pre-training."""

import math
from functools import partial

from src.config import TokenizerConfig
from src.data.assembly import build_tokenizer_loader
from src.data.image_folder import ImageFolder
from src.data.tokenizer_images import TokenizerBatch
from src.model.tokenizer_info import TokenizerInfo
from src.runtime.distributed import Ranks
from src.tokenizers.dvae import DiscreteVAE, DvaeSizes
from src.tools.codes import CODES, CodesInUse
from src.tools.tokenizer_modeling import Reconstruction
from src.trainer.task import Task

CHARTS = {
    "reconstruction error": {"training": "train_reconstruction"},
    "visual tokens in use": {"of the images": "codes"},
    "norm of the gradients": {"before clipping": "train_grad_norm"},
    "learning rate": {"learning rate": "learning_rate"},
}


def tokenizer_training(config: TokenizerConfig, images: ImageFolder, ranks: Ranks) -> Task:
    """Return the task of the options; its network has its initial weights and is in training mode."""
    sizes = DvaeSizes(config.num_tokens, config.codebook_dim, config.num_layers, config.hidden_dim)
    network = DiscreteVAE(sizes, config.image_size, config.seed).set_train(True)
    objective = Reconstruction(
        network, config.kl_loss_weight, straight_through=config.straight_through, smooth_l1=config.smooth_l1_loss
    )

    loader = build_tokenizer_loader(config, images, partial(temperature, config), ranks.rank, ranks.size)
    return Task(
        network=network,
        objective=objective,
        info=TokenizerInfo(config.image_size),
        train_loader=loader,
        batch_fields=TokenizerBatch._fields,
        charts=CHARTS,
        evaluate=CodesInUse(objective.codes_used, ranks),
        metrics=(CODES,),
        reports_norm=True,
    )


def temperature(config: TokenizerConfig, progress: float) -> float:
    """Return the temperature of the Gumbel softmax at `progress` in 0..1 of the run, on half a cosine."""
    start, end = config.temperature, config.temperature_end
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))
