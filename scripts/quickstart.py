"""The whole job on a small real data set: train, evaluate, export, predict. What an earlier run has left is reused."""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.stages import Stage, print_stages, script, stage, train_anew
from src.config import read_config
from src.errors import RunError, exit_code

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "src" / "configs" / "quickstart_digits.yaml"
DATA = ROOT / "data" / "digits"
OUTPUT = ROOT / "outputs" / "quickstart"
DIGIT_TO_PREDICT = "3"


def main() -> None:
    """Run or reuse every stage, then print the table."""
    config = read_config(CONFIG)
    run = f"{config.arch}_{config.model_postfix}"
    onnx, mindir = OUTPUT / f"{config.arch}.onnx", OUTPUT / f"{config.arch}.mindir"
    evaluation = OUTPUT / "eval.txt"
    from_checkpoint, from_onnx = OUTPUT / "predictions.json", OUTPUT / "predictions_onnx.json"
    done = OUTPUT / "trained.txt"
    OUTPUT.mkdir(parents=True, exist_ok=True)

    stages = [stage("data", [DATA], [], lambda: script("scripts/make_digits.py", DATA))]
    stages.append(
        stage(
            "train",
            [done],
            [CONFIG, DATA],
            lambda: train_anew("train.py", config, run, ["--config_path", CONFIG], done),
        )
    )
    checkpoint = Path(done.read_text().strip())
    given = ["--config_path", CONFIG, "--pretrained", checkpoint]
    stages.append(
        stage("evaluate", [evaluation], [checkpoint], lambda: evaluation.write_text(script("eval.py", *given)))
    )
    for name, file in (("ONNX", onnx), ("MINDIR", mindir)):
        stages.append(
            stage(
                f"export {name}",
                [file],
                [checkpoint],
                partial(script, "export.py", *given, "--file_format", name, folder=OUTPUT),
            )
        )
    images = DATA / "val" / DIGIT_TO_PREDICT
    for name, model, output in (("checkpoint", checkpoint, from_checkpoint), ("ONNX", onnx, from_onnx)):
        stages.append(
            stage(
                f"predict ({name})",
                [output],
                [model],
                partial(predict, images, model, output),
            )
        )
    print_table(stages, checkpoint, evaluation, from_checkpoint, from_onnx)


def predict(images: Path, model: Path, output: Path) -> None:
    """Predict the images of a folder on the CPU."""
    script("infer.py", "--data_path", images, "--checkpoint", model, "--output", output, "--device_target", "CPU")


def print_table(
    stages: list[Stage], checkpoint: Path, evaluation: Path, from_checkpoint: Path, from_onnx: Path
) -> None:
    """The closing table: accuracy, times, files; `RunError` where checkpoint and ONNX file do not agree."""
    results = ast.literal_eval(evaluation.read_text().strip().splitlines()[-1].removeprefix("eval results: "))
    by_checkpoint, by_onnx = (json.loads(path.read_text()) for path in (from_checkpoint, from_onnx))
    equal = sum(by_checkpoint[path] == by_onnx.get(path) for path in by_checkpoint)
    right = sum(str(label) == DIGIT_TO_PREDICT for label in by_checkpoint.values())
    agree = "yes" if equal == len(by_checkpoint) == len(by_onnx) else "NO"
    print("\nquickstart: a small BEiT on 1,797 scanned digits, one fifth held out")
    print(f"  top-1 {results['Top1-Acc']:.2f} %   top-5 {results['Top5-Acc']:.2f} %")
    print(f"  checkpoint and ONNX agree: {agree} ({equal} of {len(by_checkpoint)} predictions equal)")
    print(f"  scans of '{DIGIT_TO_PREDICT}' recognized: {right} of {len(by_checkpoint)}")
    print_stages([replace(row, files=(checkpoint,)) if row.name == "train" else row for row in stages])
    if agree == "NO":
        raise RunError(f"{from_checkpoint} and {from_onnx} differ: the exported network is not the trained one")


if __name__ == "__main__":
    sys.exit(exit_code(main))
