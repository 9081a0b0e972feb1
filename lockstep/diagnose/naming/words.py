"""Names of tensors as people write them: what a name's parts stand for, and how alike two are.

Hugging Face writes `h.0.attn.c_attn.weight`, torchvision `layer1.0.bn1.running_var`, Flax
`Dense_0.kernel`, NNX `layers.0.kernel`, Haiku `mlp/~/linear_0.w`, PyTorch's cells `weight_ih_l0`.
"""

import re
from functools import lru_cache
from typing import NamedTuple

__all__ = ["Name", "likeness", "read_name"]

ROLES = {
    "weight": "weight",
    "weights": "weight",
    "kernel": "weight",
    "scale": "weight",
    "gamma": "weight",
    "embedding": "weight",
    "embeddings": "weight",
    "bias": "bias",
    "biases": "bias",
    "beta": "bias",
    "offset": "bias",
    "mean": "mean",
    "running_mean": "mean",
    "moving_mean": "mean",
    "mean_ema": "mean",
    "var": "var",
    "running_var": "var",
    "moving_var": "var",
    "moving_variance": "var",
    "variance": "var",
    "var_ema": "var",
}
"""Last part of a name -> the tensor's role in its module."""
SHORT_ROLES = {"w": "weight", "b": "bias", "g": "weight"}
"""Roles by one letter, as the whole last part, or with a number behind it: W1, b1."""
ROLE_WORDS = {"weight": "weight", "bias": "bias", "kernel": "weight"}
"""Roles as the first or last word of a part: in_proj_weight, weight_ih_l0, q_kernel."""
IN_OUT = {"kernel", "w"}
"""Last parts of kernels that are laid out (in, out), convolutions with the channels last."""
OUT_IN = {"weight"}
"""Last parts of kernels that are laid out (out, in), convolutions with the channels first."""

SYNONYMS = {
    word: canonical
    for canonical, words in {
        "attn": "attn attention att mha multihead multiheadattention selfattention",
        "q": "q query queries wq",
        "k": "k key keys wk",
        "v": "v value values wv",
        "qkv": "qkv wqkv",
        "out": "out output o wo",
        "mlp": "mlp ffn ff ffw feedforward",
        "norm": "norm ln layernorm rmsnorm bn batchnorm gn groupnorm norms",
        "conv": "conv convolution convs",
        "embed": "embed embedding embeddings emb embedder",
        "position": "position pos positional positions",
        "token": "token tok word tokens words",
        "segment": "segment type types segments",
        "head": "head classifier lm logits heads",
        "linear": "linear dense fc lin proj projection",
        "shortcut": "shortcut downsample skip residual",
        "layer": "layer layers block blocks h stage stages module model",
        "encoder": "encoder enc",
        "decoder": "decoder dec",
        "final": "final last f",
        "input": "ih input i2h xh",
        "recurrent": "hh recurrent h2h hidden",
        "act": "act activation relu gelu tanh sigmoid silu swish elu celu selu softplus mish",
        "drop": "drop dropout",
        "pool": "pool pooling maxpool avgpool",
    }.items()
    for word in words.split()
}
COMPOUND = {"wte": ("token", "embed"), "wpe": ("position", "embed")}
GENERIC = {"linear", "layer", "c", "self", "0"}
"""Words that say little: two names that share them alone are hardly alike."""
GENERIC_WEIGHT = 0.25


class Name(NamedTuple):
    """A tensor's name, taken apart.

    Attributes:
        role: weight, bias, mean, var, or "" where the name does not say.
        last: the word that says the role, as it is written.
        module: what stands before the role: the parts of one module share it.
        path: the parts of the module's name.
        words: the words of the module's name, in one spelling.
        numbers: the numbers in the module's name, in order.
        template: the whole name with # for each number.
    """

    role: str
    last: str
    module: str
    path: tuple[str, ...]
    words: tuple[str, ...]
    numbers: tuple[int, ...]
    template: str

    @property
    def is_embedding(self) -> bool:
        """Whether the tensor is a table of embeddings, which no framework transposes."""
        return self.last.startswith("embedding") or "embed" in self.words


@lru_cache(maxsize=100_000)
def read_name(name: str) -> Name:
    """A tensor's name, taken apart."""
    parts = [part for part in re.split(r"[./]", name) if part and part != "~"]
    role, last, subject = _role(parts)
    module = ".".join(subject)
    words: list[str] = []
    for word in _words(module):
        if not word.isdigit():
            words += COMPOUND.get(word, (SYNONYMS.get(word, word),))
    return Name(
        role=role,
        last=last,
        module=module,
        path=tuple(subject),
        words=tuple(words),
        numbers=tuple(int(number) for number in re.findall(r"\d+", module)),
        template=re.sub(r"\d+", "#", name),
    )


def _role(parts: list[str]) -> tuple[str, str, list[str]]:
    """The role, the word that says it, and the parts of the module's name."""
    if not parts:
        return "", "", []
    *before, last = parts
    low = last.lower()
    if low == "average" and before and before[-1].lower() in ROLES:  # Haiku's running statistics
        return ROLES[before[-1].lower()], before[-1].lower(), before[:-1]
    if low in ROLES:
        return ROLES[low], low, before
    short = re.fullmatch(r"([wbg])(\d*)", low)
    if short:
        return SHORT_ROLES[short[1]], short[1], [*before, short[2]] if short[2] else before
    words = low.split("_")
    for place, rest in ((0, words[1:]), (-1, words[:-1])):
        if words[place] in ROLE_WORDS and rest:
            return ROLE_WORDS[words[place]], words[place], [*before, "_".join(rest)]
    return "", low, parts


def _words(text: str) -> list[str]:
    """The words and numbers of a text: at dots, underscores, digits and capitals."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", text)
    return re.findall(r"[a-z]+|\d+", apart.lower())


@lru_cache(maxsize=1_000_000)
def likeness(a: str, b: str) -> float:
    """How alike the modules of two tensors are called: 0 to 1; words that say little count
    less.
    """
    words_a = set(read_name(a).words)
    words_b = set(read_name(b).words)
    total = _weight(words_a) + _weight(words_b)
    return 2 * _weight(words_a & words_b) / total if total else 0.0


def _weight(words: set[str]) -> float:
    return sum(GENERIC_WEIGHT if word in GENERIC else 1.0 for word in words)
