"""Pre-training on a small real data set: does it help when few images have labels? Finished stages are reused."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.make_digits import write_digits, write_few_labels
from scripts.stages import Stage, print_stages, stage, train_anew
from src.config import RunConfig, parse_args
from src.errors import exit_code

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "src" / "configs"
TOKENIZER = CONFIGS / "tokenizer_quickstart.yaml"
PRETRAIN = CONFIGS / "quickstart_pretrain.yaml"
FINE_TUNE = CONFIGS / "quickstart_digits.yaml"
DATA = ROOT / "data" / "digits"
LABELS = 5  # images of each digit whose labels are used
FEW = ROOT / "data" / f"digits_{LABELS}_labels"
OUTPUT = ROOT / "outputs" / "quickstart_pretrain"
FINE_TUNING_EPOCHS = 15


def main() -> None:
    """Run or reuse every stage, then print the table."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    tokenizer, pretraining = read("train_tokenizer", TOKENIZER), read("pretrain", PRETRAIN)
    stages = [
        stage("data", [DATA], [], partial(write_digits, DATA)),
        stage("few labels", [FEW], [DATA], partial(write_few_labels, FEW, DATA, LABELS)),
        train("tokenizer", "train_tokenizer.py", tokenizer, ["--config_path", TOKENIZER], [TOKENIZER, DATA]),
        train("pretrain", "pretrain.py", pretraining, ["--config_path", PRETRAIN], [PRETRAIN, done("tokenizer")]),
    ]
    # the compute of tokenizer and pre-training becomes further epochs with labels: it is about that of as many epochs
    epochs = FINE_TUNING_EPOCHS + pretraining.epochs + tokenizer.epochs
    stages += [
        fine_tune("with pre-training", FINE_TUNING_EPOCHS, checkpoint("pretrain"), [done("pretrain")]),
        fine_tune("random weights", epochs, None, []),
    ]
    pictures = ROOT / pretraining.logs_root_dir / run_name(pretraining) / "masked.png"
    print("\nquickstart: BEiT pre-trained on 1,437 scanned digits without labels, then trained with "
          f"{LABELS} labels a digit")  # fmt: skip
    for name, text in (("with pre-training", FINE_TUNING_EPOCHS), ("random weights", epochs)):
        print(f"  {name:<18} {text:>3} epochs with labels   top-1 {top1(name):.2f} %")
    if pictures.exists():
        print(f"  masked and reconstructed images: {pictures.relative_to(ROOT)}")
    print_stages(stages)


def read(script: str, path: Path) -> RunConfig:
    """Return the options of a config file of `script`."""
    config: RunConfig = parse_args(["--config_path", str(path)], script)
    return config


def train(name: str, script: str, config: RunConfig, arguments: Sequence[object], sources: list[Path]) -> Stage:
    """Return the stage of a training run, which writes the path of its checkpoint to `done(name)`."""
    work = partial(train_anew, script, config, run_name(config), arguments, done(name))
    return stage(name, [done(name)], sources, work)


def fine_tune(name: str, epochs: int, start: Path | None, sources: list[Path]) -> Stage:
    """Return the stage of a run with few labels, from the checkpoint `start` or from random weights."""
    network = read("pretrain", PRETRAIN)
    words: list[object] = ["--config_path", FINE_TUNE, "--data_url", FEW, "--epochs", epochs]
    words += ["--arch", network.arch, "--image_size", network.image_size]
    words += ["--model_postfix", name.replace(" ", "_")]
    for root in ("summary", "ckpt", "best_ckpt", "logs"):
        words += [f"--{root}_root_dir", OUTPUT / root]
    if start is not None:
        words += ["--pretrained", start]
    config: RunConfig = parse_args([str(word) for word in words], "train")
    return train(name, "train.py", config, words, [FINE_TUNE, PRETRAIN, FEW, *sources])


def top1(name: str) -> float:
    """Return the accuracy in percent after the last epoch of a run with few labels."""
    config = read("pretrain", PRETRAIN)
    rows = (OUTPUT / "logs" / f"{config.arch}_{name.replace(' ', '_')}" / "metrics.csv").read_text().splitlines()
    return float(dict(zip(rows[0].split(","), rows[-1].split(",")))["top1"])


def run_name(config: RunConfig) -> str:
    """Return the name of a run's folders."""
    return f"{config.arch}_{config.model_postfix}"


def done(name: str) -> Path:
    """Return the file that contains the path of a run's checkpoint."""
    return OUTPUT / f"{name.replace(' ', '_')}.txt"


def checkpoint(name: str) -> Path:
    """Return the checkpoint of a finished run."""
    return Path(done(name).read_text().strip())


if __name__ == "__main__":
    sys.exit(exit_code(main))
