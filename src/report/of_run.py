"""The report on a checkpoint: evaluate its network image by image, and write down what came out."""

from __future__ import annotations

from pathlib import Path

from mindspore import nn

from src.config import Config
from src.data.imagenet import EvalLoader
from src.evaluation.classification import EvalResult
from src.report.files import write_report
from src.report.outcomes import evaluate_with_outcomes
from src.report.provenance import versions


def report_on(network: nn.Cell, loader: EvalLoader, weights: Path, config: Config, folder: Path) -> EvalResult:
    """Evaluate `network`, which has the weights of the file `weights`, and write the report into `folder`.

    `loader` gives all images of the validation folder to this one process. Raises `UserError` where `folder` cannot be
    written.
    """
    training = network.training
    network.set_train(False)
    try:
        result, outcomes = evaluate_with_outcomes(network, loader)
    finally:
        network.set_train(training)
    write_report(
        folder,
        title=f"{config.arch}, run {config.model_postfix}",
        weights=weights,
        config=config,
        images=loader.folder,
        result=result,
        outcomes=outcomes,
        versions=versions(),
    )
    return result
