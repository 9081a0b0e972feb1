"""What two rules of a step differ in, in words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lockstep.diagnose.between.steps.step_rules import StepRule
from lockstep.numbers import number, written
from lockstep.recipe import Optimizer

__all__ = ["RuleGap", "named", "rule_gaps"]

UNLIKE_IN_ROUNDING = ("decay_form", "name", "multipliers", "decay_on", "weight_decay")
DECOUPLED = {"adam": "adamw", "nadam": "nadamw"}
WORDS = {
    "eps_in_root": ("adds eps inside the root", "outside it"),
    "nesterov": ("takes Nesterov's step", "does not"),
    "centered": (
        "divides by the root of the variance of the gradient (centered)",
        "by that of its mean square",
    ),
    "proximal": ("divides by 1 + rate x decay", "takes the decay off with its step"),
    "momentum_ramp": ("lets its momentum grow (PyTorch's NAdam)", "keeps it (Optax's)"),
    "eps_corrected": ("adds eps to the corrected root (Optax)", "to the raw one (PyTorch)"),
    "rate_in_momentum": (
        "sums steps that are times their rate",
        "multiplies their sum by the rate",
    ),
}
"""Flag -> what the side that has it does, and the other."""
TITLES = {
    "nadam": "nadam (adam with Nesterov's look ahead)",
    "nadamw": "nadamw (adamw with Nesterov's look ahead)",
    "lamb": "lamb (adam with a trust ratio)",
}
KEYS = {"eps_in_root": "eps-in-the-root", "eps": "eps"}
PAGES = {
    "weight_decay": "adamw-default-weight-decay",
    "decay": "rmsprop-decay",
    "dampening": "dampening-spares-the-first-step",
    "nesterov": "nesterov-needs-its-flag",
    "amsgrad": "amsgrad-of-which-moment",
    "eps_in_root": "rmsprop-eps-in-the-root",
    "initial_accumulator": "adagrad-initial-accumulator",
}
MASK_PAGE = "decay-mask-forgotten"
FORMS_PAGE = "l2-is-not-decoupled-decay"
MOST_NAMES = 3
LARGE = 0.5
"""A weight decay beyond which nobody writes one."""
NEAR = 1e-4
"""Relative distance of two decays that are one."""


class RuleGap(NamedTuple):
    """One thing in which two rules differ.

    Attributes:
        key: of the cause.
        text: a clause about "a" and "b".
        page: the atlas page, or "".
        without: the first rule with the other's setting; None where it has none such.
    """

    key: str
    text: str
    page: str
    without: StepRule | None


def named(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def rule_gaps(
    rules: Mapping[str, StepRule], mine: str, ndims: Mapping[str, int]
) -> Iterator[RuleGap]:
    """All in which two rules differ.

    Args:
        rules: "a" and "b" -> the side's rule, of the same parameters.
        mine: the side whose rule `RuleGap.without` is of.
        ndims: parameter -> its axes of more than one element.
    """
    a, b = rules["a"], rules["b"]
    names = [name for name in a.optimizers if name in b.optimizers]
    yield from _of_rates(a, b, names, rules[mine], rules["b" if mine == "a" else "a"])
    kinds = {side: _kind(rule, names) for side, rule in rules.items()}
    if kinds["a"] != kinds["b"]:
        plain = {side: _undecoupled(kind) for side, kind in kinds.items()}
        if plain["a"] != plain["b"]:
            text = f"a updates by {_title(a, names)}, b by {_title(b, names)}"
            yield RuleGap("optimizer", text, "", None)
            return
        yield from _of_forms(rules, names)
    yield from _of_decays(rules, mine, names, ndims)
    yield from _of_knobs(rules, mine, names)


def _kind(rule: StepRule, names: Sequence[str]) -> str:
    return " and ".join(sorted({rule.optimizers[name].name for name in names}))


def _undecoupled(kind: str) -> str:
    return next((plain for plain, other in DECOUPLED.items() if kind == other), kind)


def _title(rule: StepRule, names: Sequence[str]) -> str:
    optimizer = rule.optimizers[names[0]]
    if optimizer.name == "sgd" and optimizer.get("momentum"):
        return f"sgd with a momentum of {written(optimizer.get('momentum'))}"
    return TITLES.get(optimizer.name) or _kind(rule, names)


def _of_rates(
    a: StepRule, b: StepRule, names: Sequence[str], mine: StepRule, other: StepRule
) -> Iterator[RuleGap]:
    """Learning rates of some parameters."""
    apart = [name for name in names if a.rates[name] != b.rates[name]]
    pairs = {(a.rates[name], b.rates[name]) for name in apart}
    for rate_a, rate_b in sorted(pairs):
        own = [name for name in apart if (a.rates[name], b.rates[name]) == (rate_a, rate_b)]
        of = "" if len(own) == len(names) else f" of {named(own)}"
        text = f"b's learning rate{of} is {written(rate_b)}, a's {written(rate_a)}"
        rates = dict(mine.rates) | {name: other.rates[name] for name in own}
        yield RuleGap("learning-rate", text, "", StepRule(mine.optimizers, rates, mine.clip_norm))


def _of_forms(rules: Mapping[str, StepRule], names: Sequence[str]) -> Iterator[RuleGap]:
    """That one decays in the gradient (L2), and the other apart from it."""
    decays = {
        side: {rule.optimizers[name].decay_rate for name in names} - {0.0}
        for side, rule in rules.items()
    }
    outer = next(side for side, rule in rules.items() if rule.optimizers[names[0]].spec.decoupled)
    inner = "a" if outer == "b" else "b"
    if not decays[inner]:
        return
    text = f"{inner} adds a weight decay of {written(max(decays[inner]))} to the gradient (L2), "
    if decays[outer]:
        text += (
            f"{outer} decays the parameters themselves by {written(max(decays[outer]))} (decoupled)"
        )
    else:
        text += f"{outer} does not decay"
    yield RuleGap("weight-decay-in-the-gradient", text, FORMS_PAGE, None)


def _of_decays(
    rules: Mapping[str, StepRule], mine: str, names: Sequence[str], ndims: Mapping[str, int]
) -> Iterator[RuleGap]:
    """Weight decays, put together where both values are the same."""
    pairs: dict[tuple[float, float], list[str]] = {}
    for name in names:
        of_a, of_b = (rules[side].optimizers[name].decay_rate for side in ("a", "b"))
        if of_a != of_b:
            pairs.setdefault((of_a, of_b), []).append(name)
    alike = [name for name in names if not any(name in own for own in pairs.values())]
    is_decoupled = rules[mine].optimizers[names[0]].spec.decoupled
    key = "weight-decay" if is_decoupled else "weight-decay-in-the-gradient"
    for (of_a, of_b), own in pairs.items():
        without = _with_decays(rules, mine, own)
        unrated = _without_rate(rules, own[0], of_a, of_b)
        if unrated:
            text = (
                f"{unrated[0]} takes weight decay ({written(unrated[1])}) x parameter off without "
                "the learning rate, the other times it"
            )
            yield RuleGap("decay-without-rate", text, FORMS_PAGE, without)
            continue
        if of_a and of_b:
            of = f" ({whose(own, names, ndims)})" if len(own) < len(names) else ""
            text = f"b decays by {written(of_b)}, a by {written(of_a)}{of}"
            yield RuleGap(key, text, PAGES["weight_decay"], without)
            continue
        decaying, bare = ("a", "b") if of_a else ("b", "a")
        others = [name for name in alike if rules["a"].optimizers[name].decay_rate]
        also = " as well" if others else ""
        text = f"{decaying} decays {whose(own, names, ndims)}{also} by {written(of_a or of_b)}, "
        text += (
            f"{bare} leaves them out"
            if others or len(own) < len(names)
            else f"{bare} does not decay"
        )
        page = MASK_PAGE if others or len(pairs) > 1 else PAGES["weight_decay"]
        yield RuleGap(key, text, page, without)


def _without_rate(
    rules: Mapping[str, StepRule], name: str, of_a: float, of_b: float
) -> tuple[str, float] | None:
    """The side whose decay is the other's without the learning rate, and that decay."""
    for side, rate, mine, other in (
        ("a", rules["a"].rates[name], of_a, of_b),
        ("b", rules["b"].rates[name], of_b, of_a),
    ):
        # a decay that somebody may have written, or has stated, is just that
        is_odd = mine > LARGE and not rules[side].is_stated
        if other and is_odd and abs(mine * rate / other - 1) < NEAR:
            return side, other
    return None


def whose(own: Sequence[str], names: Sequence[str], ndims: Mapping[str, int]) -> str:
    """Which of the parameters these are: "biases and norms", "the weights", or their names."""
    vectors = {name for name in names if ndims[name] < 2}
    if len(own) == len(names):
        return "all parameters"
    if set(own) == vectors:
        return "biases and norms"
    if set(own) == set(names) - vectors:
        return "the weights"
    return named(own)


def _with_decays(rules: Mapping[str, StepRule], mine: str, own: Sequence[str]) -> StepRule | None:
    rule, other = rules[mine], rules["b" if mine == "a" else "a"]
    optimizers = dict(rule.optimizers)
    for name in own:
        decay = other.optimizers[name].decay_rate
        if optimizers[name].get("weight_decay") is None:
            return None
        optimizers[name] = optimizers[name].with_knobs(weight_decay=decay)
    return StepRule(optimizers, rule.rates, rule.clip_norm, rule.is_stated)


def _of_knobs(rules: Mapping[str, StepRule], mine: str, names: Sequence[str]) -> Iterator[RuleGap]:
    """The other knobs of the optimizers."""
    knobs = rules["a"].optimizers[names[0]].knobs()
    for knob in knobs:
        if knob in UNLIKE_IN_ROUNDING:
            continue
        values = {
            side: {_hashable(rule.optimizers[name].get(knob)) for name in names}
            for side, rule in rules.items()
        }
        if values["a"] == values["b"] or any(len(one) > 1 for one in values.values()):
            continue
        (of_a,), (of_b,) = values["a"], values["b"]
        other = of_b if mine == "a" else of_a
        key = KEYS.get(knob, knob.replace("_", "-"))
        if knob == "amsgrad" and "off" in (of_a, of_b):
            key = "optimizer"
        text = _text(knob, of_a, of_b)
        yield RuleGap(key, text, PAGES.get(knob, ""), rules[mine].changed(**{knob: other}))


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _text(knob: str, a: Any, b: Any) -> str:
    if knob in WORDS:
        has, has_not = WORDS[knob]
        side, other = ("b", "a") if b else ("a", "b")
        return f"{side} {has}, {other} {has_not}"
    if knob == "amsgrad" and "off" in (a, b):
        side, other = ("b", "a") if a == "off" else ("a", "b")
        return f"{side} divides by the largest second moment so far (amsgrad), {other} does not"
    if knob == "amsgrad":
        raw, corrected = ("b", "a") if b == "raw" else ("a", "b")
        return (
            f"{raw} keeps the largest second moment as it is, {corrected} the largest corrected one"
        )
    if knob == "initial_accumulator":
        return f"b's sum of squares starts at {number(b)}, a's at {number(a)} (initial accumulator)"
    name = knob.replace("_", " ")
    values = (f"{written(one)}" if isinstance(one, float) else f"{one}" for one in (a, b))
    of_a, of_b = values
    return f"{name} {of_a} in a and {of_b} in b"


def optimizer_of(rule: StepRule) -> Optimizer:
    """The optimizer of the first parameter."""
    return next(iter(rule.optimizers.values()))
