"""The description of a network: architecture, input size, classes and the options that decide its parameters."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a network and to know its parameters.

    `arch` names a row of `src.model.variants.VARIANTS`, `image_size` is in pixels. `num_classes` is 0 for a checkpoint
    without a classification head. Checkpoints store these fields under these names.

    Attributes:
        approximate_gelu: the tanh form of GELU instead of the exact one.
        rel_pos_bias: a relative position bias table in every block.
        shared_rel_pos_bias: one table for all blocks, added to theirs.
        abs_pos_emb: a learned absolute position embedding.
        layer_scale: `gamma_1` and `gamma_2` in every block.
        mean_pooling: classify the mean of the patch tokens (`fc_norm`) instead of the class token (`norm`).
        layer_norm_eps: epsilon of every layer norm; 1e-6 in the authors' code and timm.
        lm_head_outputs: numbers that `lm_head` gives for a masked patch in pre-training: the size of the vocabulary
            of visual tokens, or the pixel values of a patch; 0 without that head.
        early_layers, head_layers: in BEiT v2, `head_layers` further blocks `cls_pt_layers` see the patch tokens after
            block `early_layers` and the final class token; 0 without them.
    """

    arch: str
    image_size: int
    num_classes: int
    approximate_gelu: bool = False
    rel_pos_bias: bool = True
    shared_rel_pos_bias: bool = False
    abs_pos_emb: bool = False
    layer_scale: bool = True
    mean_pooling: bool = True
    layer_norm_eps: float = 1e-6
    lm_head_outputs: int = 0
    early_layers: int = 0
    head_layers: int = 0


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of a network that matter only while it is trained.

    Attributes:
        drop: dropout after the embeddings and at the end of both branches of a block.
        drop_path: stochastic depth of the last block; it grows linearly from 0 in the first.
        layer_scale_init_value: first value of `gamma_1` and `gamma_2`.
        init_scale: factor on the initial head.
        seed: the initial value of a parameter follows from the seed, its name and its shape. None skips the drawing of
            initial values, for a network whose weights are set afterwards.
    """

    drop: float = 0.0
    drop_path: float = 0.0
    layer_scale_init_value: float = 0.1
    init_scale: float = 0.001
    seed: int | None = 0
