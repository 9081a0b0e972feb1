"""What programs call the same quantity: train/loss and training_loss are the loss."""

import re
from collections.abc import Iterable, Mapping

__all__ = ["LOSS", "NORM", "RATE", "is_clock", "names_of", "shared_name", "step_rank"]

LOSS, RATE, NORM = "loss", "lr", "grad_norm"

BASES: dict[tuple[str, ...], str] = {
    ("loss",): LOSS,
    ("lm", "loss"): LOSS,
    ("total", "loss"): LOSS,
    ("loss", "total"): LOSS,
    ("lr",): RATE,
    ("learning", "rate"): RATE,
    ("learningrate",): RATE,
    ("grad", "norm"): NORM,
    ("gradnorm",): NORM,
    ("gnorm",): NORM,
    ("gradient", "norm"): NORM,
    ("gradients", "norm"): NORM,
    ("grads", "norm"): NORM,
    ("norm", "grad"): NORM,
    ("norm", "gradient"): NORM,
    ("global", "norm"): NORM,
    ("total", "norm"): NORM,
    ("global", "grad", "norm"): NORM,
    ("total", "grad", "norm"): NORM,
    ("global", "gradient", "norm"): NORM,
    ("grad", "norm", "total"): NORM,
    ("grad", "2", "0", "norm", "total"): NORM,
    ("acc",): "accuracy",
    ("accuracy",): "accuracy",
}
"""Words of a column's name -> the shared name."""
TRAINING = {"train", "training", "trainer", "batch", "metrics", "scalars", "losses", "optimizer"}
TRAINING |= {"opt", "optim", "optimization"}
"""Words that change no meaning at the beginning of a name."""
EVALUATION = {"eval", "evaluation", "val", "valid", "validation", "dev", "test"}
GROUP = re.compile(r"((pg|group|param_group)_?)?\d+")
OPTIMIZER = re.compile(r"\w*(adam|sgd|grad|prop|lamb|lars|lion|muon|adan|delta|factor|shampoo)\w*")
STEP = {
    ("global", "step"): 0,
    ("global", "steps"): 0,
    ("num", "updates"): 0,
    ("step",): 1,
    ("steps",): 1,
    ("update",): 2,
    ("updates",): 2,
    ("iteration",): 2,
    ("iterations",): 2,
    ("iter",): 2,
    ("iters",): 2,
    ("it",): 2,
    ("epoch",): 9,
}
"""Words of the name of a column of steps -> its rank; the least is preferred."""
CLOCKS = {"time", "timestamp", "runtime", "wall", "elapsed", "second", "seconds", "sec", "secs"}
CLOCKS |= {"flos", "flops", "memory", "gpu", "cpu", "hours", "minutes", "ms", "eta", "throughput"}
"""Words of what a clock or the machine says; two right runs differ in it."""


def words_of(column: str) -> tuple[str, ...]:
    """The words of a column's name: ("train", "loss") for "train/loss" and "trainLoss"."""
    split = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", column)
    return tuple(re.findall(r"[^\W_]+", split.lower()))


def is_clock(column: str) -> bool:
    """Whether a column holds times or what else the machine makes of a run."""
    return not CLOCKS.isdisjoint(words_of(column))


def step_rank(column: str) -> tuple[int, int] | None:
    """How well a column suits as the step; the least is preferred. None: not at all."""
    words = words_of(column)
    while words and words[0] in TRAINING:
        words = words[1:]
    rank = STEP.get(words)
    if rank is None:
        return None
    # of Weights & Biases `_step`, which counts its own calls
    return rank, int(column.startswith("_"))


def shared_name(column: str) -> tuple[str, int] | None:
    """The shared name of a column, and how many words were left out; None for its own name.

    Args:
        column: the name in the file.

    Returns:
        ("loss", 1) of "train/loss"; ("eval_loss", 0) of "val_loss".
    """
    words = words_of(column)
    prefix = ""
    left_out = 0
    while words and words[0] in TRAINING | EVALUATION:
        if words[0] in EVALUATION:
            prefix = "eval_"
        else:
            left_out += 1
        words = words[1:]
    if words and words[-1] in EVALUATION | TRAINING | {"step"}:  # Loss/train, train_loss_step
        if words[-1] in EVALUATION:
            prefix = "eval_"
        else:
            left_out += 1
        words = words[:-1]
    name = BASES.get(words)
    if name is None and _is_rate_of_group(words):
        name, left_out = RATE, left_out + len(words)
    return None if name is None else (prefix + name, left_out)


def _is_rate_of_group(words: tuple[str, ...]) -> bool:
    """Whether the words are as of lr-AdamW, lr-Adam/pg1 or learning_rate_0."""
    if words[:1] == ("lr",):
        rest = words[1:]
    elif words[:2] == ("learning", "rate"):
        rest = words[2:]
    else:
        return False
    if rest and OPTIMIZER.fullmatch(rest[0]):
        rest = rest[1:]
        if not rest:
            return True
    return GROUP.fullmatch("_".join(rest)) is not None


def own_name(column: str) -> str:
    """A name for a quantity that is none of the known: its words, whatever joins them."""
    return "_".join(words_of(column)) or column


def names_of(columns: Iterable[str], counts: Mapping[str, int]) -> dict[str, str]:
    """Shared name -> column.

    Of several columns that are one quantity the plainest name counts, and one with a single number
    only where there is no other; the rest keep their own names.

    Args:
        columns: the names in the file, in order.
        counts: column -> its numbers.
    """
    candidates: dict[str, list[tuple[bool, int, int, str]]] = {}
    for place, column in enumerate(columns):
        shared = shared_name(column)
        name, left_out = shared or (own_name(column), 0)
        entry = (counts[column] < 2, left_out, place, column)
        candidates.setdefault(name, []).append(entry)
    names: dict[str, str] = {}
    others: list[str] = []
    for name, entries in candidates.items():
        first, *rest = sorted(entries)
        names[name] = first[-1]
        others += [entry[-1] for entry in rest]
    for column in others:
        names.setdefault(column, column)
    return names
