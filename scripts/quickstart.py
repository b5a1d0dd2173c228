"""The whole job on a small real data set: train, evaluate, export, predict. What an earlier run has left is reused."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from src.config import Config, read_config  # noqa: E402  the project's folder must be on the path first
from src.errors import RunError, exit_code  # noqa: E402

CONFIG = ROOT / "src" / "configs" / "quickstart_digits.yaml"
DATA = ROOT / "data" / "digits"
OUTPUT = ROOT / "outputs" / "quickstart"
DIGIT_TO_PREDICT = "3"


@dataclass(frozen=True)
class Stage:
    """One row of the closing table: what was done, how long it took (None: reused) and the files it left."""

    name: str
    seconds: float | None
    files: tuple[Path, ...]


def main() -> None:
    """Run or reuse every stage, then print the table."""
    config = read_config(CONFIG)
    run = f"{config.arch}_{config.model_postfix}"
    best = ROOT / config.best_ckpt_root_dir / run
    onnx, mindir = OUTPUT / f"{config.arch}.onnx", OUTPUT / f"{config.arch}.mindir"
    evaluation = OUTPUT / "eval.txt"
    from_checkpoint, from_onnx = OUTPUT / "predictions.json", OUTPUT / "predictions_onnx.json"
    done = OUTPUT / "trained.txt"
    OUTPUT.mkdir(parents=True, exist_ok=True)

    stages = [stage("data", [DATA], [], lambda: script("scripts/make_digits.py", DATA))]
    stages.append(stage("train", [done], [CONFIG, DATA], lambda: train(config, run, best, done)))
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


def stage(name: str, files: list[Path], sources: list[Path], work: Callable[[], object]) -> Stage:
    """Do `work` unless every one of `files` is there and newer than all `sources`."""
    if all(file.exists() and all(file.stat().st_mtime >= s.stat().st_mtime for s in sources) for file in files):
        return Stage(name, None, tuple(files))
    print(f"\n== {name} ==", flush=True)
    begin = time.perf_counter()
    work()
    return Stage(name, time.perf_counter() - begin, tuple(files))


def script(name: str, *arguments: object, folder: Path = ROOT) -> str:
    """Run one of the project's scripts in `folder`, show and give what it prints; `RunError` where it fails."""
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    lines = []
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise RunError(f"{name} ended with exit code {process.returncode}; its message stands above")
    return "".join(lines)


def train(config: Config, run: str, best: Path, done: Path) -> None:
    """Train from scratch, clearing what an unfinished quickstart left, and note the best checkpoint in `done`."""
    for root in ("summary_root_dir", "ckpt_root_dir", "best_ckpt_root_dir", "logs_root_dir"):
        shutil.rmtree(ROOT / getattr(config, root) / run, ignore_errors=True)
    script("train.py", "--config_path", CONFIG)
    done.write_text(f"{best / 'best.ckpt'}\n")


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
    print(f"  {'stage':<22}{'time':>9}  files")
    for row in stages:
        files = [checkpoint] if row.name == "train" else row.files
        duration = "reused" if row.seconds is None else f"{row.seconds:.1f} s"
        print(f"  {row.name:<22}{duration:>9}  {', '.join(str(f.relative_to(ROOT)) for f in files)}")
    print(f"  {'total':<22}{sum(row.seconds or 0 for row in stages):>7.1f} s")
    if agree == "NO":
        raise RunError(f"{from_checkpoint} and {from_onnx} differ: the exported network is not the trained one")


if __name__ == "__main__":
    sys.exit(exit_code(main))
