"""Mutated configs and command lines, each accepted or refused in one line: `python -m tests.soak.mutations`.

Half of the cases are a mutated config file, half a mutated command line with a valid file, for train.py, eval.py,
export.py and infer.py in turn. This process runs the steps of the scripts before the network is built: the parser, the
image folders, the first batch of each loader, the learning rates. `--processes N` adds N processes of
`train.py --dry_run`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from src.config import Config, parse_args
from src.data import assembly as data
from src.errors import exit_code
from src.options.declaration import declared
from src.tools.schedulers import learning_rates
from tests.tiny_project import ROOT, write_config, write_images

DECLARED = declared(Config)
SCRIPTS = ("train", "eval", "export", "infer")
SECONDS = 60
NASTY = (
    *("", "~", "none", "null", "-1", "0", "1", "-0.0", "1e-320", "1e400", "nan", "inf", "-inf", "0x10", "1_000"),
    *("99999999999999999999999", "3.0", "1e3", "yes", "True", "maybe", "0.5", "2", "7", "1000000", "[]", "[1, 2]"),
    *("[0.9, 0.999, 0.5]", "{}", "{a: 1}", "2024-01-01", "!!python/object:os.system x", "!!binary aGVsbG8=", "&a [*a]"),
    *("'", '"', "[", "{", "- a", ": :", "#", "%TAG", "|", "\t", "a\nb", "a\x00b", "\x1b[31m", "\u202e", "é" * 300),
    *("x" * 5000, "../..", "/", "/dev/null", "/proc/self/mem", "missing.ckpt", "rand-m9", "rand-m99-n200", "augmix-m5"),
    *("rand-m9-mstd101-inc1", "original-mstd-5", "v0", "CPU", "Ascend", "adamw", "momentum", "multistep_lr", "exp_lr"),
    *("auto", "AIR", "MINDIR", "int8", "fp16", "beit_large_patch16_512", "elem", "pair", "const", "random", "nearest"),
)


def main() -> int:
    """Run the cases and print the counts; return 1 after a traceback, several error lines or another exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    signal.signal(signal.SIGALRM, too_slow)
    rng = random.Random(words.seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        folder = Path(place)
        good = write_config(
            folder, write_images(folder / "data"), auto_augment="rand-m9-mstd0.5-inc1", device_target="CPU"
        )
        for number in range(words.cases + words.processes):
            script = SCRIPTS[number // 2 % 4] if number < words.cases else "train"
            argv = mutated(good, number % 2 == 0, script, rng)
            if number < words.cases:
                code, out = tried_here(lambda argv=argv, script=script: prepare(argv, script))
            else:
                code, out = tried_as_process([*argv, "--dry_run"])
            verdict = judged(code, out)
            kind = "config" if number % 2 == 0 else "command line"
            counts[f"{'' if number < words.cases else 'process, '}{kind}: {verdict}"] += 1
            if verdict.isupper():
                print(number, script, [word[:200] for word in argv], out, sep="\n", flush=True)
    print(f"{words.cases} mutated configs and command lines, {words.processes} more as processes")
    for line, count in sorted(counts.items()):
        print(f"  {count:4} {line}")
    return int(any(line.split(": ")[1].isupper() for line in counts))


def mutated(good: Path, file: bool, script: str, rng: random.Random) -> list[str]:
    """Return a command line whose config file, if `file`, or whose options are mutated."""
    more = {"train": [], "infer": ["--data_path", "data/val", "--checkpoint", "x.ckpt"]}
    needed = more.get(script, ["--pretrained", "x.ckpt"])
    if not file:
        return ["--config", str(good), *mutated_words(needed, rng)]
    path = good.with_name("mutated.yaml")
    path.write_bytes(mutated_file(good.read_text(), rng))
    return ["--config", str(path), *needed]


def plausible(name: str, rng: random.Random) -> str:
    """Return a value of the option's type, possibly an extreme one."""
    entry = DECLARED.get(name)
    if entry is None:
        return other_value(rng)
    default = entry.default
    if entry.choices:
        return rng.choice(entry.choices)
    if isinstance(default, bool):
        return rng.choice(("True", "False"))
    if isinstance(default, int):
        return str(rng.choice((0, 1, 2, 3, 5, 8, 16, 24, 100, 1000, 10**6, 10**10, 2**63, 10**30)))
    if isinstance(default, float):
        return rng.choice(("0", "1e-30", "1e-8", "0.001", "0.3", "0.999", "1", "1.5", "40", "1e6", "1e20", "1e300"))
    return other_value(rng)


def mutated_file(text: str, rng: random.Random) -> bytes:
    """Return a config file with one to three mutations."""
    content = text
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        lines = content.splitlines()
        at = rng.randrange(len(lines))
        name, colon, _ = lines[at].partition(":")
        match rng.randrange(14):
            case 9 | 10 | 11 | 12 | 13:
                lines[at] = f"{name}{colon} {plausible(name, rng)}"
            case 0 | 1 | 2 | 3:
                lines[at] = f"{name}{colon} {rng.choice(NASTY)}"
            case 4:
                del lines[at]
            case 5:
                lines.insert(at, rng.choice([lines[at], f"{name}s: 1", rng.choice(NASTY), "  indented: 1"]))
            case 6:
                lines[at] = misspelt(lines[at], rng)
            case 7:
                lines = lines[:at]
            case 8:
                lines[at] = f"{name}{colon} {other_value(rng)}"
        content = "\n".join(lines) + "\n" if lines else "\n"
    raw = bytearray(content.encode("utf-8", "surrogatepass"))
    if rng.random() < 0.1:
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)


def mutated_words(needed: list[str], rng: random.Random) -> list[str]:
    """Return the options of a command line with one to four mutations."""
    words = list(needed)
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice([*DECLARED, "dry_run", "report", "topk"])
        value = rng.choice((rng.choice(NASTY), other_value(rng), plausible(name, rng), plausible(name, rng))).replace(
            "\x00", "\\0"
        )
        match rng.randrange(12):
            case 8 | 9 | 10 | 11:
                words += [f"--{name}", plausible(name, rng)]
            case 0 | 1 | 2:
                words += [f"--{name}", value]
            case 3:
                words += [f"--{name}={value}"]
            case 4:
                words += [f"--{name}"]
            case 5:
                words += [f"--{misspelt(name, rng)}", value]
            case 6:
                words.insert(rng.randrange(len(words) + 1), value)
            case 7:
                words += [rng.choice(("--", "-", "-h2", "--config", "--config_path", "---", "-9", "--=1"))]
    return [word.replace("\x00", "") for word in words]  # arguments of a process cannot contain NUL


def misspelt(text: str, rng: random.Random) -> str:
    """Return `text` with a letter added, removed or changed."""
    at = rng.randrange(len(text) + 1)
    letter = rng.choice("abz_-:. \t'\"[]{}#0é\u2028")
    return text[:at] + rng.choice((letter, letter + text[at : at + 1], "")) + text[at + 1 :]


def other_value(rng: random.Random) -> str:
    """Return a number of any size."""
    return rng.choice((str(rng.randrange(-3, 300)), f"{rng.uniform(-1, 2):.3f}", f"{10 ** rng.uniform(-12, 12):.3e}"))


def prepare(argv: list[str], script: str) -> None:
    """Run the steps of a script before the network is built."""
    config = parse_args(argv, script)
    if script == "infer":
        return
    if script != "train":
        data.read_validation_images(config)
        return
    train, validation = data.read_data(config)
    config = data.with_class_count(config, train)
    info = data.describe_model(config, train.classes)
    loaders = data.build_train_loader(config, train), data.build_eval_loader(config, info, validation)
    learning_rates(config, loaders[0].steps_per_epoch)
    next(iter(loaders[0].epoch(0)))
    next(iter(loaders[1]))


def tried_here(work: Callable[[], None]) -> tuple[int | None, str]:
    """Return the exit code of `work`, None after a traceback, and its standard error."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            signal.alarm(SECONDS)
            return exit_code(work), err.getvalue()
        except SystemExit as end:  # --help
            return int(end.code or 0), err.getvalue()
        except BaseException:
            return None, traceback.format_exc()
        finally:
            signal.alarm(0)


def tried_as_process(argv: list[str]) -> tuple[int | None, str]:
    """Return the exit code of a process of train.py, None after a traceback, and its standard error."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *argv], capture_output=True, text=True, errors="replace", timeout=600
    )
    return None if "Traceback" in done.stderr else done.returncode, done.stderr


def too_slow(number: int, frame: object) -> None:
    """Raise `TimeoutError`: the handler of the alarm."""
    raise TimeoutError(f"not finished after {SECONDS} s")


def judged(code: int | None, err: str) -> str:
    """Return the name of an outcome, in capitals if it is a failure of the test."""
    if code is None:
        return "TRACEBACK"
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    if code == 0:
        return "accepted" if not lines else "ACCEPTED WITH AN ERROR"
    if code == 2 and err.splitlines() == lines and len(lines) == 1:
        return "refused in a line with exit code 2"
    return f"EXIT CODE {code} WITH {len(err.splitlines())} LINES"


if __name__ == "__main__":
    sys.exit(main())
