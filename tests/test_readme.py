"""Tests of the prose: commands can be run as printed, messages exist in the code, and links lead to a file."""

from __future__ import annotations

import json
import math
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
from src.config import SCRIPTS, Config, is_for_pretraining, parse_args, read_config
from src.weights.foreign_writer import write_foreign
from tests.networks import variant_network
from tests.tiny_project import ROOT, TIMEOUT_SECONDS, write_images

README = ROOT / "README.md"
ARCH = "beit_micro_patch8_32"  # of the rehearsal
DOCS = ROOT / "docs"
PAGES = [
    page
    for pattern in ("*.md", "docs/*.md", "benchmarks/**/*.md", "tests/*/*.md")
    for page in sorted(ROOT.glob(pattern))
]
CONFIGS = sorted((ROOT / "src" / "configs").glob("*.yaml"))
FINE_TUNING = [path for path in CONFIGS if isinstance(read_config(path), Config)]
PRETRAINING = [path for path in CONFIGS if path not in FINE_TUNING]
MAX_README_LINES = 300  # the README introduces and shows; reference material belongs in docs/


def test_the_readme_stays_an_introduction():
    assert len(README.read_text().splitlines()) <= MAX_README_LINES


def test_every_reference_page_is_linked_from_the_readme():
    linked = set(links(README))
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= {link.split("#")[0] for link in linked}


# ---- commands ----

# Commands of other programs, and scripts that have their own tests or are run by the quickstart.
OTHERS = ("source ", "cp ", "printf ", ".venv/bin/", "best=outputs/")
RUN_ELSEWHERE = ("bash scripts/quickstart.sh", "bash scripts/run_tests.sh", "python scripts/check_gpu.py")
SCRIPT_OF_WRAPPER = {"run_infer_gpu.sh": "infer", "run_eval_gpu.sh": "eval"}
SCRIPT_OF_WRAPPER |= {f"run_{kind}_pretrain_gpu.sh": "pretrain" for kind in ("standalone", "distribute")}
PLACEHOLDERS = {"$best": "some.ckpt", "CKPT": "some.ckpt", "FILE": "photos.yaml", "FOLDER": "folder"}


def bash_blocks(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [textwrap.dedent(block) for block in re.findall(r"^ *```bash\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)]


def commands(page: Path) -> list[str]:
    """Every command in a bash block, without its comment, and every command with options in the text of the page."""
    lines = "\n".join(bash_blocks(page)).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`((?:python|bash) [^`]* -[^`]*)`", page.read_text(encoding="utf-8"))
    lines += [" ".join(span.split()) for span in inline if "..." not in span and "[" not in span]
    return [command for line in lines if (command := re.sub(r"\s+#.*$", "", line).strip())]


COMMANDS = sorted({(page.relative_to(ROOT).as_posix(), command) for page in PAGES for command in commands(page)})


def test_the_pages_have_commands_to_check():
    assert len(bash_blocks(README)) >= 5
    assert sum("python " in command or "bash " in command for _, command in COMMANDS) >= 40


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_printed_command_can_be_run(page, command, tmp_path, monkeypatch):
    """Script and config exist, and the script accepts the options, also those that a shell script passes to it."""
    shutil.copy(ROOT / "src" / "configs" / "small_data_base_224.yaml", tmp_path / "photos.yaml")
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    if command.startswith(OTHERS) or command in RUN_ELSEWHERE:
        return
    words = shlex.split(re.sub("|".join(map(re.escape, PLACEHOLDERS)), lambda name: PLACEHOLDERS[name[0]], command))
    if words[:2] == ["python", "-m"]:
        words = ["python", words[2].replace(".", "/") + ".py", *words[3:]]
    assert (ROOT / words[1]).is_file(), words[1]
    name = words[1].removesuffix(".py").rsplit("/", 1)[-1]
    if words[1] == "convert.py":
        convert.parse_args(words[2:])
    elif name in SCRIPTS:
        parse_args(words[2:], "pretrain_preview" if name == "preview" and is_for_pretraining(words[2:]) else name)
    elif words[0] == "bash":
        usage = next(line for line in write_options.usages() if line.startswith(words[1].removeprefix("scripts/")))
        own, _, extra = " ".join(words[2:]).partition(" --extra ")
        assert all(flag in usage for flag in re.findall(r"--\w+", own)), usage
        if "CONFIG" in usage:
            script = SCRIPT_OF_WRAPPER.get(name, "train")
            pretrained = ["--pretrained", "some.ckpt"] if script == "eval" else []
            parse_args(["--config_path", words[2], *pretrained, *extra.split()], script)
    else:
        text = "".join(path.read_text() for path in (ROOT / words[1]).parent.rglob("*.py"))
        assert all(f'"{flag}"' in text for flag in words if flag.startswith("--")), words


def run_block(text: str, folder: Path) -> str:
    """Run a block in `folder`, which links to the project and contains photos; return its output."""
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
    assert done.stderr == "", "a user cannot act on these warnings"
    return done.stdout


def shape(line: str) -> str:
    """The words of a line of output, without numbers, durations and the bottleneck, which depend on the machine."""
    line = re.sub(r"bottleneck: .*", "bottleneck", line)
    line = re.sub(r"\d+:\d\d:\d\d|\d[\d.e-]* s\b", "#", line)  # a minute or more, less than a minute
    return re.sub(r"\d[\d.,:e+-]*", "#", line).strip()


def test_the_rehearsal_runs_and_prints_what_the_readme_shows(tmp_path):
    """Runs the whole block with one epoch instead of 40."""
    (block,) = (block for block in bash_blocks(README) if "--config_path small_data_scratch_64_cpu --dry_run" in block)
    lines = [line for line in block.splitlines() if not line.startswith("source ")]
    text = "\n".join(lines).replace("python train.py", "python train.py --epochs 1 --warmup_length 0")
    printed = run_block(text, tmp_path)
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert list(predictions) == [f"photos/val/{name}/{n}.png" for name in ("blue", "green", "red") for n in range(3)]
    run_folder = tmp_path / "outputs" / "logs" / f"{ARCH}_0"
    created = ["preview.png", "sheet.png", "report/report.md", f"{ARCH}.onnx", f"{ARCH}.mindir"]
    assert all((tmp_path / name).is_file() for name in created)
    assert all((run_folder / name).is_file() for name in ("metrics.csv", "curves.png", "report/confusion.png"))
    (shown,) = re.findall(r"<!-- rehearsal output -->\n```text\n(.*?)```", README.read_text(), re.DOTALL)
    shown_lines = [line for line in shown.splitlines() if line and line != "..." and "(class: " not in line]
    assert len(shown_lines) >= 10
    printed_shapes = {shape(line) for line in printed.splitlines()}
    assert [line for line in shown_lines if shape(line) not in printed_shapes] == [], printed


def test_fine_tuning_from_an_authors_file_runs_as_printed(tmp_path):
    """Runs the whole block on the CPU with a small network, from a file whose head has another number of classes."""
    (block,) = (block for block in bash_blocks(README) if block.startswith("cp src/configs/small_data_base_224.yaml"))
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
    assert re.search(r"head\.weight, head\.bias.*\b7\b.*\b3\b", printed), printed
    assert "eval results: {'Loss': " in printed


# ---- messages, links and names ----

PRINTED_BY_OTHERS = {"Killed", "No space left on device"}


def source_text() -> str:
    """The code of the project, with string literals over two lines joined."""
    places = [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*"), *ROOT.glob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in places if path.is_file())
    return re.sub(r'"\s*\n\s*f?"', "", code)


def test_the_messages_in_the_troubleshooting_table_are_in_the_code():
    table = (DOCS / "troubleshooting.md").read_text().split("\nWithout a message")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    quoted = {text for row in rows for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])}
    assert len(quoted) >= 15
    code = source_text()
    assert [text for text in quoted - PRINTED_BY_OTHERS if text not in code] == []


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))


def titles(page: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in titles(target), link


def test_the_config_tables_name_the_shipped_configs():
    shipped = {path.stem for path in FINE_TUNING}
    assert set(re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE)) == shipped
    page = (DOCS / "pretraining.md").read_text().split("\n## Configs")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {path.stem for path in PRETRAINING}
    page = (DOCS / "training.md").read_text()
    assert set(re.findall(r"^\| `(\w+)\.yaml` \|", page, re.MULTILINE)) == shipped
    table = (DOCS / "weights.md").read_text().split("\n## Formats")[0]
    for name in re.findall(r"\| `(\w+)`[^|]*\|$", table, re.MULTILINE):
        assert name in shipped


def table_row(page: Path, name: str) -> list[str]:
    (line,) = re.findall(rf"^\| `{re.escape(name)}` \| (.*) \|$", page.read_text(), re.MULTILINE)
    return line.split(" | ")


def number_of_images(cell: str, devices: int) -> int:
    """The product in a cell such as `8 x 64 x 2`."""
    return math.prod(int(factor) for factor in cell.replace("devices", str(devices)).split(" x "))


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda path: path.stem)
def test_the_table_of_pretraining_shows_the_values_of_the_files(path):
    config = read_config(path)
    _, images, epochs, base_lr = table_row(DOCS / "pretraining.md", path.stem)
    factors = [factor for factor in images.split(" x ") if factor != "devices"]
    assert number_of_images(" x ".join(factors), 1) == config.batch_size * config.accumulation_steps
    assert (int(epochs), float(base_lr)) == (config.epochs, config.base_lr)


@pytest.mark.parametrize("path", FINE_TUNING, ids=lambda path: path.stem)
def test_the_config_tables_show_the_values_of_the_files(path):
    config = read_config(path)
    layer_decay = "none" if config.layer_decay == 1 else f"{config.layer_decay:g}"
    _, images, epochs, base_lr, decay, drop_path = table_row(DOCS / "training.md", path.name)
    assert number_of_images(images, 8) % (config.batch_size * config.accumulation_steps) == 0
    assert str(config.batch_size) in images.split(" x ")
    assert (int(epochs), float(base_lr)) == (config.epochs, config.base_lr)
    assert (decay, float(drop_path)) == (layer_decay, config.drop_path)
    assert table_row(README, path.stem)[1:3] == [images, epochs]
