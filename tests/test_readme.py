"""The README says what is so: its options are the declared ones, and its commands can be typed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import convert
from scripts import write_options
from src.config import SCRIPTS, parse_args
from src.weights.foreign_writer import write_foreign
from tests.networks import variant_network
from tests.tiny_project import ARCH, ROOT, TIMEOUT_SECONDS, write_images

README = (ROOT / "README.md").read_text(encoding="utf-8")


# ---- commands ----

# commands that are not this project's, and files of it that are run by their own tests or by the quickstart
OTHERS = ("source ", "cp ", "printf ", ".venv/bin/pip install -r requirements", "best=$(ls ")
RUN_ELSEWHERE = ("bash scripts/quickstart.sh", "bash scripts/run_tests.sh", "python scripts/check_gpu.py")
SCRIPT_OF_WRAPPER = {"run_infer_gpu.sh": "infer", "run_eval_gpu.sh": "eval"}


def bash_blocks() -> list[str]:
    return [
        textwrap.dedent(block) for block in re.findall(r"^ *```bash\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
    ]


def commands() -> list[str]:
    """Every command of every bash block, a line each, without its comment; and those in the first column of a table."""
    lines = "\n".join(bash_blocks()).replace("\\\n", " ").splitlines()
    tables = re.findall(r"^\|.*\| `((?:python|bash) [^`]*)` \|$", README, re.MULTILINE)
    return [words for line in [*lines, *tables] if (words := re.sub(r"\s+#.*$", "", line).strip())]


def words_of(command: str) -> list[str]:
    """The words, with a checkpoint's name for what the shell puts in."""
    return shlex.split(command.replace("$best", "some.ckpt"))


def test_the_readme_has_commands_to_check():
    assert len(bash_blocks()) >= 5
    assert sum(command.startswith("python ") for command in commands()) >= 10


@pytest.mark.parametrize("command", dict.fromkeys(commands()))
def test_a_command_of_the_readme_can_be_typed(command, tmp_path, monkeypatch):
    """Its options are ones of the script, its config exists, and what a wrapper passes on is taken."""
    shutil.copy(ROOT / "src" / "configs" / "small_data_base_224.yaml", tmp_path / "photos.yaml")
    monkeypatch.chdir(tmp_path)
    if command.startswith(OTHERS) or command in RUN_ELSEWHERE:
        return
    words = words_of(command)
    if words[:2] == ["python", "-m"]:
        words = ["python", words[2].replace(".", "/") + ".py", *words[3:]]
    assert (ROOT / words[1]).is_file(), words[1]
    name = words[1].removesuffix(".py").rsplit("/", 1)[-1]
    if words[1] == "convert.py":
        convert.parse_args(words[2:])
    elif name in SCRIPTS:
        parse_args(words[2:], name)
    elif words[0] == "bash":
        usage = next(line for line in write_options.usages() if line.startswith(words[1].removeprefix("scripts/")))
        own, _, extra = " ".join(words[2:]).partition(" --extra ")
        assert all(flag in usage for flag in re.findall(r"--\w+", own)), usage
        script = SCRIPT_OF_WRAPPER.get(name, "train")
        config = ["--config_path", "photos.yaml", *(["--pretrained", "some.ckpt"] if script == "eval" else [])]
        if extra:
            parse_args([*config, *extra.split()], script)
    else:
        text = "".join(path.read_text() for path in (ROOT / words[1]).parent.rglob("*.py"))
        assert all(f'"{flag}"' in text for flag in words if flag.startswith("--")), words


def run_block(text: str, folder: Path) -> str:
    """Run a block in `folder`, which looks like the project's and has photos; gives what it prints."""
    for entry in ("src", "scripts", *(path.name for path in ROOT.glob("*.py"))):
        (folder / entry).symlink_to(ROOT / entry)
    write_images(folder / "photos")
    done = subprocess.run(
        ["bash", "-euc", text],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stderr == "", "warnings that a user can do nothing about"
    return done.stdout


def test_the_rehearsal_of_the_readme_runs_on_a_folder_of_photos(tmp_path):
    """The whole block as it stands there, but for an epoch in place of all of them."""
    (block,) = (block for block in bash_blocks() if "--config_path small_data_scratch_64_cpu --dry_run" in block)
    lines = [line for line in block.splitlines() if not line.startswith("source ")]
    text = "\n".join(lines).replace("python train.py", "python train.py --epochs 1 --warmup_length 0")
    printed = run_block(text, tmp_path)
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert list(predictions) == [f"photos/val/{name}/{n}.png" for name in ("blue", "green", "red") for n in range(3)]
    run_folder = tmp_path / "outputs" / "logs" / f"{ARCH}_0"
    made = ["preview.png", "sheet.png", "report/report.md", f"{ARCH}.onnx", f"{ARCH}.mindir"]
    assert all((tmp_path / name).is_file() for name in made)
    assert all((run_folder / name).is_file() for name in ("metrics.csv", "curves.png", "report/confusion.png"))
    for said in ("dry run: ", "epoch 1/1 evaluation: ", "eval results: {'Loss': ", "is exported to "):
        assert said in printed


def test_fine_tuning_as_the_readme_has_it_runs_from_a_file_of_the_authors(tmp_path):
    """The whole block, with a small network in place of BEiT-base, and on the CPU; the checkpoint has another head."""
    (block,) = (block for block in bash_blocks() if block.startswith("cp src/configs/small_data_base_224.yaml"))
    weights = {p.name: p.asnumpy() for p in variant_network(ARCH, num_classes=7).get_parameters()}
    write_foreign(tmp_path / f"{ARCH}_pt22k_ft22k.pth", weights, "unilm")
    copy, *rest = block.splitlines()
    changes = {
        "arch": ARCH, "image_size": 32, "layer_scale_init_value": 0.1, "device_target": "CPU", "batch_size": 4,
        "epochs": 1, "warmup_length": 0, "pretrained": f"{ARCH}_pt22k_ft22k.pth",
    }  # fmt: skip
    change = "; ".join(f"s/^{name}:.*/{name}: {value}/" for name, value in changes.items())
    text = "\n".join([copy, f"sed -i '{change}' photos.yaml", *rest]).replace("beit_base_patch16_224", ARCH)
    text = text.replace(
        "photos/val/grass --checkpoint $best", "photos/val/blue --checkpoint $best --extra --device_target CPU"
    )
    printed = run_block(text, tmp_path)
    assert list(json.loads((tmp_path / "predictions.json").read_text())) == [
        f"photos/val/blue/{n}.png" for n in range(3)
    ]
    assert (tmp_path / f"{ARCH}.onnx").is_file()
    for said in (
        "left out              2  head.weight, head.bias: for 7 classes, the network has 3",
        "eval results: {'Loss': ",
    ):
        assert said in printed


# ---- messages, links and figures ----

SAID_BY_OTHERS = {"Killed", "No space left on device"}


def test_the_messages_of_the_troubleshooting_table_are_ones_of_the_code():
    table = README.split("## Troubleshooting, by message")[1].split("\n## ")[0]
    quoted = {text for row in table.splitlines()[5:] for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])}
    assert len(quoted) >= 15
    places = [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*"), *ROOT.glob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in places if path.is_file())
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # a text over two lines
    assert [text for text in quoted - SAID_BY_OTHERS if text not in code] == []


def test_what_the_readme_links_to_is_there():
    titles = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", README, re.M)
    }
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if link.startswith("#"):
            assert link[1:] in titles, link
        elif not link.startswith("https://"):
            assert (ROOT / link).exists(), link


def test_every_config_and_checkpoint_format_of_the_tables_exists():
    shipped = {path.name for path in (ROOT / "src" / "configs").glob("*.yaml")}
    assert set(re.findall(r"^\| `([\w.]+\.yaml)` \|", README, re.MULTILINE)) == shipped
    starting = README.split("## Which checkpoint to start from")[1].split("\n## ")[0]
    for name in re.findall(r"\| `(\w+)` \|$", starting, re.MULTILINE):
        assert f"{name}.yaml" in shipped
