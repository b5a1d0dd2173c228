"""The task of fine-tuning: classify the images of labeled folders. The trainer knows nothing of classification."""

import logging

from src.config import Config
from src.data.assembly import build_eval_loader, build_train_loader, describe_model, model_config
from src.data.image_folder import ImageFolder, check_class_names
from src.data.imagenet import TrainBatch
from src.errors import UserError
from src.evaluation.classification import evaluate_network
from src.model.model_config import TrainingOptions
from src.model.model_info import ModelInfo
from src.report.report import report_on
from src.runtime.distributed import Ranks
from src.tools.criterion import Classification, SoftTargetCrossEntropy
from src.tools.run_folder import Folders
from src.tools.saving import BEST_FILE
from src.trainer.task import LOSS, Metric, Task
from src.vit import VisionTransformer, create_model
from src.weights.checkpoint import load_checkpoint
from src.weights.network_parameters import set_weights

logger = logging.getLogger("beit")

TOP1, TOP5 = Metric("top1", "top-1"), Metric("top5", "top-5")

CHARTS = {
    "loss": {"training": "train_loss", "validation": "loss", "validation, EMA": "ema_loss"},
    "top-1 accuracy, %": {"validation": "top1", "validation, EMA": "ema_top1"},
    "learning rate": {"learning rate": "learning_rate"},
}


def fine_tuning(config: Config, train_images: ImageFolder, val_images: ImageFolder, ranks: Ranks) -> Task:
    """Return the task of the options; its network has its initial weights and is in training mode."""
    info = describe_model(config, train_images.classes)
    network = build_network(config)
    val_loader = build_eval_loader(config, info, val_images, ranks.rank, ranks.size)

    def evaluate(batches: int | None) -> dict[str, float]:
        result = evaluate_network(network, val_loader, ranks, batches)
        return {"loss": result.loss, "top1": result.top1, "top5": result.top5}

    return Task(
        network=network,
        objective=Classification(network, SoftTargetCrossEntropy()),
        info=info,
        train_loader=build_train_loader(config, train_images, ranks.rank, ranks.size),
        batch_fields=TrainBatch._fields,
        charts=CHARTS,
        evaluate=evaluate,
        metrics=(LOSS, TOP1, TOP5),
        ema_decay=config.ema_decay if config.with_ema else None,
        ranked_by=TOP1,
        val_images=len(val_images),
        val_batches=len(val_loader),
    )


def build_network(config: Config) -> VisionTransformer:
    """Build the network with its initial weights, in training mode."""
    training = TrainingOptions(
        config.drop, config.drop_path, config.layer_scale_init_value, config.init_scale, config.seed
    )
    return create_model(model_config(config), training, config.amp_level).set_train(True)


def check_labels(config: Config, info: ModelInfo, images: ImageFolder) -> None:
    """Raise `UserError` unless the class folders of `images` are the classes of the checkpoint `pretrained`."""
    if info.class_names:
        check_class_names(info.class_names, images, f"the checkpoint {config.pretrained}")
    elif len(images.classes) != info.model.num_classes:
        raise UserError(
            f"{config.pretrained} has {info.model.num_classes} classes but {images.root} has {len(images.classes)} "
            f"class folders: give one folder for each class"
        )


def report_best(config: Config, images: ImageFolder, task: Task, folders: Folders) -> None:
    """Write the report on the best weights of a finished run, which the network then has.

    A report that cannot be written is a warning: the run has its result.
    """
    path = folders.best / BEST_FILE
    if not path.exists():
        logger.info("no report: %s does not exist", path)
        return
    folder = folders.logs / "report"
    try:
        set_weights(task.network, load_checkpoint(path).weights)
        report_on(
            task.network,
            build_eval_loader(config, describe_model(config, images.classes), images),
            path,
            config,
            folder,
        )
    except (UserError, OSError) as error:
        logger.warning("no report: %s", error)
    else:
        logger.info("report on %s: %s", path, folder / "report.md")
