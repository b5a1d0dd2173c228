"""Coverage-guided fuzzing of one reader: `python -m tests.soak.fuzz pth --seconds 3600`.

Needs atheris (`pip install atheris`). A reader may return or raise `UserError`; anything else is a defect, and so is
an input that takes more than 10 s or 2 GB. The seeds are the golden files and the files in `tests/soak/corpus`, where
inputs that showed a defect are kept; `tests/test_corpus.py` reads them again. New inputs go to `--corpus`.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["src"]):
    from tests.soak.readers import READERS, seeds

SECONDS, MEGABYTES = 10, 2000  # of one input


def main() -> None:
    """Fuzz until the time is over; libFuzzer prints its counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--corpus", type=Path)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        corpus = words.corpus or folder / "corpus"
        corpus.mkdir(exist_ok=True)
        for number, content in enumerate(seeds(words.reader)):
            (corpus / f"seed{number}").write_bytes(content)
        limits = [f"-max_total_time={words.seconds}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}"]
        target = fuzzed(READERS[words.reader], folder)
        atheris.Setup([sys.argv[0], str(corpus), "-max_len=262144", f"-artifact_prefix={corpus}/", *limits], target)
        atheris.Fuzz()


def fuzzed(read: Callable[[bytes, Path], object], folder: Path) -> Callable[[bytes], None]:
    """Return the function that libFuzzer calls with an input."""

    def target(content: bytes) -> None:
        read(content, folder)

    return target


if __name__ == "__main__":
    main()
