"""The picture of a pre-trained network at work: masked images, and what it predicts for the masked patches."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mindspore import Tensor

from src.data.masked_images import MaskedBatch, MaskedLoader, TokenBatch
from src.data.masked_sheet import MeanStd, masked_sheet
from src.files.png_file import save_png
from src.mim import MaskedImageModeling
from src.tokenizers.decode import Decode, tokens_of
from src.tokenizers.tokenizer import Tokenizer

IMAGES = 16


def draw_masked_images(
    path: Path,
    network: MaskedImageModeling,
    loader: MaskedLoader,
    mean_std: MeanStd,
    tokenizer: tuple[Tokenizer, Decode] | None,
) -> None:
    """Draw images of the first batch of `loader` into the PNG file `path`, with the predictions of `network`.

    With a `tokenizer` and its decoder the predictions are tokens, else pixels. Raises `UserError` if the file cannot be
    written.
    """
    batch = next(iter(loader.epoch(0)))
    names = [Path(str(loader.folder.paths[index])).name for index in loader.first_images(0)[:IMAGES]]
    training = network.training
    network.set_train(False)
    try:
        arrays = (batch.image, batch.mask, batch.positions)
        logits = network(*(Tensor(array) for array in arrays), Tensor(batch.key))[0].asnumpy()
    finally:
        network.set_train(training)
    if tokenizer is None:
        pictures = {"predicted": predicted_pixels(batch, logits, network.patch_embed.patch_size, mean_std)}
    else:
        assert isinstance(batch, TokenBatch)
        pictures = dict(predicted_tokens(batch, logits, *tokenizer))
    save_png(masked_sheet(batch, mean_std, names, pictures), path)


def predicted_pixels(
    batch: MaskedBatch | TokenBatch, prediction: np.ndarray, patch: int, mean_std: MeanStd
) -> np.ndarray:
    """Put the predicted patches into the images: RGB values in 0..1, float32 [B, 3, S, S].

    `prediction` float32 [B, M, 3 * patch * patch] is normalized in each patch. As in the pictures of MAE, it gets the
    mean and the deviation of the patch that it stands for.
    """
    images = batch.image.copy()
    count, channels, side, _ = images.shape
    grid = side // patch
    for row in range(count):
        for place, number in enumerate(batch.positions[row]):
            if batch.weights[row, place]:
                top, left = patch * (number // grid), patch * (number % grid)
                window = images[row, :, top : top + patch, left : left + patch]
                deviation = window.std(ddof=1)
                pixels = prediction[row, place].reshape(patch, patch, channels).transpose(2, 0, 1)
                window[:] = pixels * deviation + window.mean()
    mean, std = (np.array(values, np.float32)[:, None, None] for values in mean_std)
    return (images * std + mean).clip(0, 1)


def predicted_tokens(
    batch: TokenBatch, logits: np.ndarray, tokenizer: Tokenizer, decode: Decode
) -> Mapping[str, np.ndarray]:
    """Return what the tokens of the images decode to, and the same with the predicted tokens of masked patches."""
    tokens = tokens_of(tokenizer, batch.token_image)
    predicted = tokens.copy()
    rows, places = np.nonzero(batch.weights)
    predicted[rows, batch.positions[rows, places]] = logits.argmax(2)[rows, places]
    return {"decoded tokens": decode(tokens), "predicted": decode(predicted.astype(np.int32))}
