"""Compare tokens of tokenizers of full size with the authors': `python tests/checks/tokenizers.py FOLDER`.

FOLDER holds encoder.pkl and vqkd.pth, which `tests/golden/make_tokenizers.py --full --save FOLDER` writes. It takes
about five minutes on two cores. Ends with exit code 1 if one of the 12,544 tokens of 64 images differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mindspore
import numpy as np
from mindspore import Tensor

from src.tokenizers.load import build_tokenizer
from src.tokenizers.tokenizer_file import read_tokenizer_file
from tests.golden.tokenizer_recipe import IMAGES, pixels

ROOT = Path(__file__).resolve().parents[2]

GRID = 14
BATCH = 2


def main() -> int:
    """Print the number of equal tokens of each tokenizer."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    golden = np.load(ROOT / "tests" / "golden" / "tokenizers.npz")
    different = 0
    for name, kind in (("encoder.pkl", "dalle"), ("vqkd.pth", "vqkd")):
        tokenizer = build_tokenizer(read_tokenizer_file(Path(sys.argv[1]) / name), GRID)
        images = pixels(tokenizer.image_size, IMAGES["full"])
        parts = [tokenizer(Tensor(images[n : n + BATCH])).asnumpy() for n in range(0, len(images), BATCH)]
        equal = np.concatenate(parts) == golden[f"{kind}/full"].reshape(len(images), -1)
        print(f"{name}: {equal.sum()} of {equal.size} tokens are the authors'", flush=True)
        different += int((~equal).sum())
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
