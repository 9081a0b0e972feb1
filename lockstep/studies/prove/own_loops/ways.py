"""What one side of a pair is: its model, its dtypes, its optimizer, and how each is written."""

from dataclasses import dataclass

__all__ = ["SIZES", "TINY", "Loop", "Sizes"]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model: rows of a batch, width, classes or vocabulary, the shape of a row, and how
    many blocks and heads a transformer has.
    """

    rows: int
    width: int
    classes: int
    row: tuple[int, ...]
    blocks: int = 2
    heads: int = 2


SIZES = {
    "gpt": Sizes(rows=8, width=32, classes=50, row=(16,)),
    "mlp": Sizes(rows=32, width=48, classes=5, row=(12,)),
    "convnet": Sizes(rows=16, width=8, classes=5, row=(3, 8, 8)),
    "lstm": Sizes(rows=16, width=24, classes=5, row=(10, 6)),
    "gru": Sizes(rows=16, width=24, classes=5, row=(10, 6)),
}


TINY = SIZES | {
    "gpt": Sizes(rows=4, width=16, classes=23, row=(8,), blocks=1),
    "mlp": Sizes(rows=16, width=24, classes=5, row=(12,)),
    "llama": Sizes(rows=4, width=24, classes=23, row=(8,), blocks=1, heads=4),
    "upsampler": Sizes(rows=8, width=4, classes=5, row=(3, 8, 8)),
    "lstm": Sizes(rows=8, width=12, classes=5, row=(6, 5)),
    "gru": Sizes(rows=8, width=12, classes=5, row=(6, 5)),
}
"""The smallest whose settings can still be measured in float32."""


@dataclass(frozen=True)
class Loop:
    """One side of a pair.

    The fields below `updates` say how the loop is written; every value of these means the same.
    The fields below `eps` are what a fault changes.

    Attributes:
        model: a key of `SIZES`.
        framework: "torch" or "jax".
        dtype: of the parameters: "float32", "float64" or, of PyTorch, "bfloat16".
        compute: "bfloat16" for autocast, or for JAX its like; "" for `dtype`.
        updates: the updates to train.
        micro: the micro-batches that make up a batch.
        attention: "library" for PyTorch's own function, "written" for softmax(q k') v.
        is_packed: whether q, k and v are one layer.
        is_tied: whether the token embedding is the output's weight too.
        norm: "layer" for a transformer or MLP; "batch" or "group" for a convnet.
        layers: "library" for the framework's norm, GELU, convolution or recurrent layer, "written"
            for its formula in float32 at least, "coarse" for its formula in the dtype that comes.
        activation: "module" or "function", as PyTorch has both.
        memory: "nchw" or "nhwc", the order in memory of PyTorch's images.
        residual: the dtype of JAX's residual stream under `compute`: "float32" as autocast has it,
            or "bfloat16" as Flax's `dtype` has it.
        loss_code: "library" or "written".
        loss: "cross-entropy", or "squares" of targets that are numbers.
        ignored: the label that the loss leaves out; -100 for none.
        is_whole_text: whether a transformer's batch is recorded as one text, of which the loop
            takes its tokens and labels.
        optimizer_code: "foreach", "loop" or "written".
        optimizer: "adamw", "adam" or "sgd"; of PyTorch "rmsprop" and "adamax" too.
        lr: its peak.
        schedule: a key of `rates.SCHEDULES`.
        warmup: updates of the linear climb of the schedule "climb".
        clip: largest 2-norm of the gradient; 0 for any.
        groups: 2 for matrices and embeddings apart from biases and norms.
        eps: of every norm.
        feed: key of what is wrong with the batches, in `feeds.FEEDS`; "" for nothing.
        start: key of what is wrong with the initial parameters, in `feeds.STARTS`.
        rates: key of what is wrong with the learning rates, in `rates.RATES`.
        twist: what a layer does otherwise, by a word that its code asks for; "" for nothing.
        loss_scale: what multiplies the loss before its gradients are taken.
        wrong: key of what is wrong in the code of the loop, in the twin's `hooks.HOOKS`.
        odd: seed of a fault without a name; it picks what the fault falls on.
        seed: draws other parameters and batches.
        is_detailed: whether more is recorded than the series.
        is_tiny: whether the model has the sizes of `TINY`.
    """

    model: str = "gpt"
    framework: str = "torch"
    dtype: str = "float32"
    compute: str = ""
    updates: int = 6
    micro: int = 1
    attention: str = "library"
    is_packed: bool = False
    is_tied: bool = True
    norm: str = "layer"
    layers: str = "library"
    activation: str = "module"
    memory: str = "nchw"
    residual: str = "float32"
    loss_code: str = "library"
    loss: str = "cross-entropy"
    ignored: int = -100
    is_whole_text: bool = False
    optimizer_code: str = "loop"
    optimizer: str = "adamw"
    lr: float = 3e-3
    schedule: str = "climb"
    warmup: int = 3
    clip: float = 0.0
    groups: int = 1
    eps: float = 1e-5
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    adam_eps: float = 1e-8
    momentum: float = 0.9
    smoothing: float = 0.0
    dropout: float = 0.0
    gelu: str = "erf"
    attention_scale: float = 1.0
    is_causal: bool = True
    is_divided: bool = True
    is_bias_corrected: bool = True
    is_zeroed: bool = True
    is_nesterov: bool = False
    is_amsgrad: bool = False
    dampening: float = 0.0
    decay: float = 0.99
    decays_norms: bool = False
    without_bias: str = ""
    lr_offset: int = 0
    feed: str = ""
    start: str = ""
    rates: str = ""
    twist: str = ""
    wrong: str = ""
    loss_scale: float = 1.0
    odd: int = 0
    seed: int = 0
    is_detailed: bool = True
    is_tiny: bool = False

    @property
    def sizes(self) -> Sizes:
        """The sizes of the model."""
        return (TINY if self.is_tiny else SIZES)[self.model]
