import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1])
about = session.get_modelmeta().custom_metadata_map
size, names = int(about["image_size"]), json.loads(about["class_names"])
mean, std = (np.float32(json.loads(about[name])) for name in ("mean", "std"))

for path in sys.argv[2:]:
    image = Image.open(path).convert("RGB")
    shorter = int(size / float(about["crop_pct"]))
    sides = (1, 1) if about["crop_mode"] == "squash" else image.size
    width, height = (int(shorter * side / min(sides)) for side in sides)
    resample = Image.Resampling[about["interpolation"].upper()]
    image = image.resize((width, image.height), resample).resize((width, height), resample)
    left, top = round((width - size) / 2), round((height - size) / 2)
    pixels = np.float32(image.crop((left, top, left + size, top + size))) / 255
    batch = ((pixels - mean) / std).transpose(2, 0, 1)[None]
    logits = session.run(["logits"], {"image": batch})[0][0]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = int(logits.argmax())
    print(f"{path}: {names[best] if names else best} ({probabilities[best]:.1%})")
