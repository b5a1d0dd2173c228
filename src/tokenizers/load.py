"""Building the network of a tokenizer file."""

import numpy as np
from mindspore import Tensor, nn

from src.errors import UserError
from src.model.variants import Variant
from src.tokenizers.dalle import PATCH, DalleDecoder, DalleEncoder, DalleSizes
from src.tokenizers.dvae import DiscreteVAE, DvaeSizes
from src.tokenizers.tokenizer import Tokenizer
from src.tokenizers.tokenizer_file import DALLE, DVAE, TokenizerFile
from src.tokenizers.vqkd import VQKD

PREFIX = "tokenizer."  # of the names of its parameters, which would be those of the pre-trained network otherwise
HEAD_DIM = 64  # of all published VQ-KD encoders


def build_tokenizer(file: TokenizerFile, grid: int) -> Tokenizer:
    """Build the tokenizer of `file` for a network of `grid` x `grid` patches, with its weights.

    Raises `UserError` for incomplete or damaged weights, and for a VQ-KD of another grid.
    """
    builders = {DALLE: build_dalle, DVAE: build_dvae}
    tokenizer = builders.get(file.kind, build_vqkd)(file, grid)
    for parameter in tokenizer.get_parameters():
        parameter.name, parameter.requires_grad = PREFIX + parameter.name, False
    return tokenizer.set_train(False)


def build_dalle(file: TokenizerFile, grid: int) -> Tokenizer:
    """Build DALL-E's encoder."""
    return with_weights(DalleEncoder(dalle_sizes(file), grid * PATCH), file)


def build_dalle_decoder(file: TokenizerFile) -> DalleDecoder:
    """Build DALL-E's decoder, from its own file."""
    return with_weights(DalleDecoder(dalle_sizes(file)), file).set_train(False)


def build_dvae(file: TokenizerFile, grid: int) -> DiscreteVAE:
    """Build a discrete VAE."""
    sizes = dvae_sizes(file)
    return with_weights(DiscreteVAE(sizes, grid * sizes.patch), file)


def build_vqkd(file: TokenizerFile, grid: int) -> VQKD:
    """Build the tokenizer of BEiT v2; its position embedding decides for how many patches it is."""
    weights, path = file.weights, file.path
    _, tokens, dim = array(file, "encoder.pos_embed", 3).shape
    own = round((tokens - 1) ** 0.5)
    if own != grid:
        raise UserError(
            f"{path} gives {own} x {own} tokens, but the network has {grid} x {grid} patches: set arch and "
            "image_size so that the numbers are equal"
        )
    if dim % HEAD_DIM:
        raise UserError(f"{path} has vectors of {dim} numbers, not a multiple of {HEAD_DIM}: give a published VQ-KD")
    patch = array(file, "encoder.patch_embed.proj.weight", 4).shape[-1]
    depth = len({name.split(".")[2] for name in weights if name.startswith("encoder.blocks.")})
    hidden = len(array(file, "encoder.blocks.0.mlp.fc1.weight", 2))
    vocab_size, code_dim = array(file, "quantize.embedding.weight", 2).shape
    require_shape(file, "encoder.patch_embed.proj.weight", dim, 3, patch, patch)
    require_shape(file, "encode_task_layer.0.weight", dim, dim)
    for block in range(depth):
        require_shape(file, f"encoder.blocks.{block}.attn.qkv.weight", 3 * dim, dim)
        require_shape(file, f"encoder.blocks.{block}.mlp.fc1.weight", hidden, dim)
    variant = Variant(grid * patch, patch, dim, depth, dim // HEAD_DIM, hidden / dim)
    return with_weights(VQKD(variant, vocab_size, code_dim), file)


def dalle_sizes(file: TokenizerFile) -> DalleSizes:
    """Return the sizes of DALL-E's encoder or decoder."""
    first, output = array(file, "blocks.input.w", 4).shape, array(file, "blocks.output.conv.w", 4).shape
    blocks = len({name.split(".")[2] for name in file.weights if name.startswith("blocks.group_1.block_")})
    encodes = first[1] == 3
    hidden = first[0] if encodes else output[1]
    for group, factor in enumerate((1, 2, 4, 8) if encodes else (8, 4, 2, 1), 1):
        width = factor * hidden // 4
        for block in range(1, blocks + 1):
            require_shape(file, f"blocks.group_{group}.block_{block}.res_path.conv_2.w", width, width, 3, 3)
    if encodes:
        require_shape(file, "blocks.output.conv.w", output[0], 8 * hidden, 1, 1)
        return DalleSizes(output[0], hidden, blocks)
    return DalleSizes(first[1], hidden, blocks, first[0])


def dvae_sizes(file: TokenizerFile) -> DvaeSizes:
    """Return the sizes of a discrete VAE."""
    num_tokens, codebook_dim = array(file, "codebook.weight", 2).shape
    # of each layer, the encoder has a convolution with a ReLU, encoder.<n>.0, and a residual block, encoder.<n>.net
    layers = len({name.split(".")[1] for name in file.weights if name.startswith("encoder.") and ".net." in name})
    hidden = len(array(file, "encoder.0.0.weight", 4))
    for layer in range(layers):
        require_shape(file, f"encoder.{2 * layer + 1}.net.0.weight", hidden, hidden, 3, 3)
    require_shape(file, f"encoder.{2 * layers}.weight", num_tokens, hidden, 1, 1)
    require_shape(file, "decoder.0.0.weight", codebook_dim, hidden, 4, 4)
    return DvaeSizes(num_tokens, codebook_dim, layers, hidden)


def array(file: TokenizerFile, name: str, dimensions: int) -> np.ndarray:
    """Return a parameter of `file`; raises `UserError` if it is missing or has another number of dimensions."""
    found = file.weights.get(name)
    if found is None or found.ndim != dimensions:
        problem = "misses" if found is None else "has a damaged"
        raise UserError(f"{file.path} {problem} parameter '{name}' of a {file.kind} tokenizer: download it again")
    return found


def require_shape(file: TokenizerFile, name: str, *shape: int) -> None:
    """Raise `UserError` unless the parameter `name` has this shape.

    The largest parameters are checked before the network is built, so that a small file cannot ask for a large one.
    """
    found = array(file, name, len(shape)).shape
    if found != shape:
        raise UserError(
            f"{file.path} is not a known {file.kind} tokenizer: parameter '{name}' has shape {found}, but the others "
            f"need {shape}; give a published file"
        )


def with_weights(network: nn.Cell, file: TokenizerFile) -> nn.Cell:
    """Give every parameter of `network` its array of `file`; raises `UserError` if names or shapes differ."""
    parameters = {parameter.name: parameter for parameter in network.get_parameters()}
    for name in parameters:
        array(file, name, parameters[name].ndim)
    for name, weight in file.weights.items():
        if name not in parameters or parameters[name].shape != weight.shape:
            raise UserError(
                f"{file.path} is not a known {file.kind} tokenizer: parameter '{name}' of shape "
                f"{weight.shape} does not fit; give a published file"
            )
        parameters[name].set_data(Tensor(weight))
    return network
