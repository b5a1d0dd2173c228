"""Write the pixels of Pillow's own `Image.resize` under this Pillow version into resize.json, as hashes.

Run it under Pillow 11 and 13, from this folder, with NumPy only:  python make_resize.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import PIL
from data_inputs import RESIZE_CASES, digest, example_image
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("resize.json"))
    output = parser.parse_args().output
    golden = json.loads(output.read_text()) if output.exists() else {}
    golden[PIL.__version__] = {
        f"{source} to {size} {name}": digest(
            np.asarray(example_image(*source, 2).resize(size, Image.Resampling[name.upper()]))
        )
        for source, size, name in RESIZE_CASES
    }
    output.write_text(json.dumps(golden, indent=1) + "\n")
    print(f"{output}: {len(RESIZE_CASES)} cases of each of Pillow {', '.join(golden)}")


if __name__ == "__main__":
    main()
