"""Trains PyTorch's defaults against those of Flax and Optax, and writes docs/library_defaults.md.

`python -m tools.library_defaults`, or `make pages` for every such page.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import torch
from flax import nnx
from numpy.typing import NDArray
from torch.nn import functional
from torch.optim import lr_scheduler

from lockstep.data_prep import prepare
from lockstep.recipe import Recipe

PAGE = Path(__file__).parent.parent / "docs" / "library_defaults.md"
UPDATES = 200
RATE = 0.02
HIDDEN = 8
ROWS = 30
"""Rows of a batch; there are three batches."""
APART = 1e-9
"""The relative difference from which two trainings are called different."""
SAMPLES = 400_000
ALIKE = 0.006
"""The Kolmogorov-Smirnov distance from which two distributions are called different. Two samples of
one distribution are up to 0.004 apart."""

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Torch:
    """A training in PyTorch: Linear, layer, Linear."""

    layer: Callable[[], Any] = torch.nn.Tanh
    loss: Callable[..., Any] = functional.cross_entropy
    optimizer: Callable[..., Any] = torch.optim.SGD
    schedule: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Flax:
    """The same training in Flax and Optax."""

    layer: Callable[[], Any] = lambda: jnp.tanh
    loss: Callable[..., Any] = lambda outputs, y: optax.softmax_cross_entropy_with_integer_labels(
        outputs, y
    ).mean()
    optimizer: Callable[..., Any] = optax.sgd
    schedule: optax.ScalarOrSchedule = RATE


@dataclass(frozen=True)
class Pair:
    """Two trainings that people take for each other."""

    group: str
    torch: str
    flax: str
    parts: str
    """Why the two part; "" where they are known to agree."""
    in_torch: Torch = field(default_factory=Torch)
    in_flax: Flax = field(default_factory=Flax)


def optimizer(
    torch_name: str,
    flax_name: str,
    parts: str,
    in_torch: Callable[..., Any],
    in_flax: Callable[..., Any],
) -> Pair:
    return Pair(
        "Optimizers",
        torch_name,
        flax_name,
        parts,
        Torch(optimizer=in_torch),
        Flax(optimizer=in_flax),
    )


def loss(
    torch_name: str,
    flax_name: str,
    parts: str,
    in_torch: Callable[..., Any],
    in_flax: Callable[..., Any],
) -> Pair:
    return Pair("Losses", torch_name, flax_name, parts, Torch(loss=in_torch), Flax(loss=in_flax))


def layer(
    torch_name: str,
    flax_name: str,
    parts: str,
    in_torch: Callable[..., Any],
    in_flax: Callable[..., Any],
) -> Pair:
    return Pair("Layers", torch_name, flax_name, parts, Torch(layer=in_torch), Flax(layer=in_flax))


def schedule(
    torch_name: str,
    flax_name: str,
    parts: str,
    in_torch: Callable[..., Any],
    in_flax: optax.Schedule,
) -> Pair:
    return Pair(
        "Schedules", torch_name, flax_name, parts, Torch(schedule=in_torch), Flax(schedule=in_flax)
    )


def muon(
    parameters: list[torch.nn.Parameter], lr: float
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """PyTorch's Muon, which takes the weights alone, and AdamW for the biases."""
    weights = [parameter for parameter in parameters if parameter.ndim == 2]
    rest = [parameter for parameter in parameters if parameter.ndim != 2]
    return torch.optim.Muon(weights, lr=lr), torch.optim.AdamW(rest, lr=lr)


def kl_div(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        # PyTorch warns that "mean" divides by the elements, which is what this row shows
        warnings.filterwarnings("ignore", "reduction: 'mean'")
        return functional.kl_div(outputs.log_softmax(-1), one_hot(y) * 0.7 + 0.1)


def one_hot(y: Any) -> Any:
    if isinstance(y, torch.Tensor):
        return functional.one_hot(y, 3).double()
    return jax.nn.one_hot(y, 3)


WEIGHTS = (0.5, 1.0, 3.0)
TORCH_WEIGHTS = torch.tensor(WEIGHTS, dtype=torch.float64)

ROUNDED = "Optax computes it in float32"

OPTIMIZERS = [
    optimizer("SGD", "sgd", "", torch.optim.SGD, optax.sgd),
    optimizer(
        "SGD(momentum=0.9)",
        "sgd(momentum=0.9)",
        "",
        partial(torch.optim.SGD, momentum=0.9),
        partial(optax.sgd, momentum=0.9),
    ),
    optimizer(
        "SGD(momentum=0.9, nesterov=True)",
        "sgd(momentum=0.9, nesterov=True)",
        "",
        partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        partial(optax.sgd, momentum=0.9, nesterov=True),
    ),
    optimizer("Adam", "adam", "", torch.optim.Adam, optax.adam),
    optimizer(
        "Adam(weight_decay=0.01)",
        "adamw(weight_decay=0.01)",
        "PyTorch adds it to the gradient",
        partial(torch.optim.Adam, weight_decay=0.01),
        partial(optax.adamw, weight_decay=0.01),
    ),
    optimizer("AdamW", "adamw", "weight decay 0.01 and 1e-4", torch.optim.AdamW, optax.adamw),
    optimizer(
        "AdamW(weight_decay=0.01)",
        "adamw(weight_decay=0.01)",
        "",
        partial(torch.optim.AdamW, weight_decay=0.01),
        partial(optax.adamw, weight_decay=0.01),
    ),
    optimizer(
        "Adam(amsgrad=True)",
        "amsgrad",
        "largest of the raw and of the corrected second moment",
        partial(torch.optim.Adam, amsgrad=True),
        optax.amsgrad,
    ),
    optimizer("NAdam", "nadam", "PyTorch ramps beta1 up", torch.optim.NAdam, optax.nadam),
    optimizer(
        "NAdam(decoupled_weight_decay=True)",
        "nadamw",
        "PyTorch ramps beta1 up; weight decay 0 and 1e-4",
        partial(torch.optim.NAdam, decoupled_weight_decay=True),
        optax.nadamw,
    ),
    optimizer(
        "RAdam",
        "radam",
        "eps is scaled by the bias of the second moment",
        torch.optim.RAdam,
        optax.radam,
    ),
    optimizer("Adamax", "adamax", "", torch.optim.Adamax, optax.adamax),
    optimizer(
        "Adagrad",
        "adagrad",
        "accumulator from 0 and from 0.1; eps outside and inside the root",
        torch.optim.Adagrad,
        optax.adagrad,
    ),
    optimizer(
        "RMSprop",
        "rmsprop",
        "decay 0.99 and 0.9; eps outside and inside the root",
        torch.optim.RMSprop,
        optax.rmsprop,
    ),
    optimizer("Adadelta", "adadelta", "", torch.optim.Adadelta, optax.adadelta),
    optimizer(
        "Rprop", "rprop", "Optax takes each step one update late", torch.optim.Rprop, optax.rprop
    ),
    optimizer(
        "Adafactor",
        "adafactor",
        "Optax factors from 128 rows and columns on; place of eps; cap on the rate",
        torch.optim.Adafactor,
        optax.adafactor,
    ),
    optimizer(
        "Muon, AdamW for biases",
        "contrib.muon",
        "bfloat16; bias correction; weight decay 0.1 and 0",
        muon,
        optax.contrib.muon,
    ),
]
LOSSES = [
    loss(
        "cross_entropy",
        "softmax_cross_entropy_with_integer_labels, mean",
        "",
        functional.cross_entropy,
        lambda outputs, y: optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean(),
    ),
    loss(
        "cross_entropy(label_smoothing=0.1)",
        "smooth_labels(0.1), softmax_cross_entropy, mean",
        "",
        partial(functional.cross_entropy, label_smoothing=0.1),
        lambda outputs, y: optax.softmax_cross_entropy(
            outputs, optax.smooth_labels(one_hot(y), 0.1)
        ).mean(),
    ),
    loss(
        "cross_entropy(weight=w)",
        "w[y] times the loss of each row, mean",
        "PyTorch divides by the sum of the weights",
        lambda outputs, y: functional.cross_entropy(outputs, y, weight=TORCH_WEIGHTS),
        lambda outputs, y: jnp.mean(
            jnp.asarray(WEIGHTS)[y] * optax.softmax_cross_entropy_with_integer_labels(outputs, y)
        ),
    ),
    loss(
        "binary_cross_entropy_with_logits",
        "sigmoid_binary_cross_entropy, mean",
        "",
        lambda outputs, y: functional.binary_cross_entropy_with_logits(outputs, one_hot(y)),
        lambda outputs, y: optax.sigmoid_binary_cross_entropy(outputs, one_hot(y)).mean(),
    ),
    loss(
        "mse_loss",
        "l2_loss, mean",
        "l2_loss is half the square",
        lambda outputs, y: functional.mse_loss(outputs, one_hot(y)),
        lambda outputs, y: optax.l2_loss(outputs, one_hot(y)).mean(),
    ),
    loss(
        "mse_loss",
        "squared_error, mean",
        "",
        lambda outputs, y: functional.mse_loss(outputs, one_hot(y)),
        lambda outputs, y: optax.squared_error(outputs, one_hot(y)).mean(),
    ),
    loss(
        "huber_loss",
        "huber_loss, mean",
        "",
        lambda outputs, y: functional.huber_loss(outputs, 2 * one_hot(y)),
        lambda outputs, y: optax.huber_loss(outputs, 2 * one_hot(y)).mean(),
    ),
    loss(
        "smooth_l1_loss",
        "huber_loss, mean",
        "",
        lambda outputs, y: functional.smooth_l1_loss(outputs, 2 * one_hot(y)),
        lambda outputs, y: optax.huber_loss(outputs, 2 * one_hot(y)).mean(),
    ),
    loss(
        "kl_div",
        "kl_divergence, mean",
        "PyTorch divides by the elements, not by the rows",
        kl_div,
        lambda outputs, y: optax.losses.kl_divergence(
            jax.nn.log_softmax(outputs), one_hot(y) * 0.7 + 0.1
        ).mean(),
    ),
    loss(
        'kl_div(reduction="batchmean")',
        "kl_divergence, mean",
        "",
        lambda outputs, y: functional.kl_div(
            outputs.log_softmax(-1), one_hot(y) * 0.7 + 0.1, reduction="batchmean"
        ),
        lambda outputs, y: optax.losses.kl_divergence(
            jax.nn.log_softmax(outputs), one_hot(y) * 0.7 + 0.1
        ).mean(),
    ),
    loss(
        "cosine_embedding_loss",
        "cosine_distance, mean",
        "",
        lambda outputs, y: functional.cosine_embedding_loss(
            outputs, one_hot(y), torch.ones(len(y))
        ),
        lambda outputs, y: optax.cosine_distance(outputs, one_hot(y)).mean(),
    ),
    loss(
        "multi_margin_loss",
        "multiclass_hinge_loss, mean",
        "the sum over the classes divided by their number, and the worst class",
        functional.multi_margin_loss,
        lambda outputs, y: optax.losses.multiclass_hinge_loss(outputs, y).mean(),
    ),
]
ACTIVATIONS: list[tuple[str, Callable[..., Any], str, Callable[..., Any], str]] = [
    ("ReLU", torch.nn.ReLU, "relu", jax.nn.relu, ""),
    ("LeakyReLU", torch.nn.LeakyReLU, "leaky_relu", jax.nn.leaky_relu, ""),
    ("Tanh", torch.nn.Tanh, "tanh", jnp.tanh, ""),
    ("Sigmoid", torch.nn.Sigmoid, "sigmoid", jax.nn.sigmoid, ""),
    ("SiLU", torch.nn.SiLU, "silu", jax.nn.silu, ""),
    (
        "GELU",
        torch.nn.GELU,
        "gelu",
        jax.nn.gelu,
        "the error function, and an approximation by tanh",
    ),
    ("ELU", torch.nn.ELU, "elu", jax.nn.elu, ""),
    ("CELU", torch.nn.CELU, "celu", jax.nn.celu, ""),
    ("SELU", torch.nn.SELU, "selu", jax.nn.selu, ""),
    ("Softplus", torch.nn.Softplus, "softplus", jax.nn.softplus, ""),
    ("Mish", torch.nn.Mish, "mish", jax.nn.mish, ""),
    ("ReLU6", torch.nn.ReLU6, "relu6", jax.nn.relu6, ""),
    ("Hardtanh", torch.nn.Hardtanh, "hard_tanh", jax.nn.hard_tanh, ""),
    ("Hardswish", torch.nn.Hardswish, "hard_swish", jax.nn.hard_swish, ""),
    (
        "Hardsigmoid",
        torch.nn.Hardsigmoid,
        "hard_sigmoid",
        jax.nn.hard_sigmoid,
        "in PyTorch's gradient 1/6 is rounded to float32",
    ),
    ("LogSigmoid", torch.nn.LogSigmoid, "log_sigmoid", jax.nn.log_sigmoid, ""),
    ("Softsign", torch.nn.Softsign, "soft_sign", jax.nn.soft_sign, ""),
]


def torch_layer(kind: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: kind(*arguments).double()


def nnx_layer(kind: Callable[..., Any], *arguments: Any, **knobs: Any) -> Callable[[], Any]:
    return lambda: kind(*arguments, **knobs, param_dtype=jnp.float64)


LAYERS = [
    *(
        layer(torch_name, flax_name, parts, in_torch, lambda activation=activation: activation)
        for torch_name, in_torch, flax_name, activation, parts in ACTIVATIONS
    ),
    layer(
        "PReLU",
        "nnx.PReLU",
        "slope 0.25 and 0.01 at the start",
        torch_layer(torch.nn.PReLU),
        nnx_layer(nnx.PReLU),
    ),
    layer(
        "LayerNorm",
        "nnx.LayerNorm",
        "eps 1e-5 and 1e-6",
        torch_layer(torch.nn.LayerNorm, HIDDEN),
        nnx_layer(nnx.LayerNorm, HIDDEN, rngs=nnx.Rngs(0)),
    ),
    layer(
        "RMSNorm",
        "nnx.RMSNorm",
        "eps of the dtype and 1e-6",
        torch_layer(torch.nn.RMSNorm, HIDDEN),
        nnx_layer(nnx.RMSNorm, HIDDEN, rngs=nnx.Rngs(0)),
    ),
    layer(
        "GroupNorm(2)",
        "nnx.GroupNorm(num_groups=2)",
        "eps 1e-5 and 1e-6",
        torch_layer(torch.nn.GroupNorm, 2, HIDDEN),
        nnx_layer(nnx.GroupNorm, HIDDEN, num_groups=2, rngs=nnx.Rngs(0)),
    ),
    layer(
        "BatchNorm1d",
        "nnx.BatchNorm",
        "running statistics: 0.1 new and 0.01 new; unbiased and biased variance",
        torch_layer(torch.nn.BatchNorm1d, HIDDEN),
        nnx_layer(nnx.BatchNorm, HIDDEN, rngs=nnx.Rngs(0)),
    ),
    layer(
        "Dropout(0.1)",
        "nnx.Dropout(0.1)",
        "no seed gives both the same masks",
        lambda: torch.nn.Dropout(0.1),
        lambda: nnx.Dropout(0.1, rngs=nnx.Rngs(0)),
    ),
]
SCHEDULES = [
    schedule(
        "CosineAnnealingLR(200)",
        "cosine_decay_schedule(200)",
        "",
        lambda o: lr_scheduler.CosineAnnealingLR(o, UPDATES),
        optax.cosine_decay_schedule(RATE, UPDATES),
    ),
    schedule(
        "PolynomialLR(200)",
        "polynomial_schedule(0, 1, 200)",
        ROUNDED,
        lambda o: lr_scheduler.PolynomialLR(o, UPDATES),
        optax.polynomial_schedule(RATE, 0.0, 1, UPDATES),
    ),
    schedule(
        "ExponentialLR(0.99)",
        "exponential_decay(1, 0.99)",
        ROUNDED,
        lambda o: lr_scheduler.ExponentialLR(o, 0.99),
        optax.exponential_decay(RATE, 1, 0.99),
    ),
    schedule(
        "StepLR(50)",
        "exponential_decay(50, 0.1, staircase=True)",
        ROUNDED,
        lambda o: lr_scheduler.StepLR(o, 50),
        optax.exponential_decay(RATE, 50, 0.1, staircase=True),
    ),
    schedule(
        "MultiStepLR([50, 150])",
        "piecewise_constant_schedule({50: 0.1, 150: 0.1})",
        "",
        lambda o: lr_scheduler.MultiStepLR(o, [50, 150]),
        optax.piecewise_constant_schedule(RATE, {50: 0.1, 150: 0.1}),
    ),
    schedule(
        "ConstantLR",
        "constant_schedule",
        "PyTorch takes a third of the rate for 5 updates",
        lr_scheduler.ConstantLR,
        optax.constant_schedule(RATE),
    ),
    schedule(
        "LinearLR(total_iters=20)",
        "linear_schedule(0, peak, 20)",
        "PyTorch starts from a third of the rate",
        lambda o: lr_scheduler.LinearLR(o, total_iters=20),
        optax.linear_schedule(0.0, RATE, 20),
    ),
    schedule(
        "SequentialLR of LinearLR(1/20, total_iters=19), CosineAnnealingLR(180)",
        "warmup_cosine_decay_schedule(0, peak, 20, 200)",
        "(t+1)/W and t/W",
        lambda o: lr_scheduler.SequentialLR(
            o,
            [
                lr_scheduler.LinearLR(o, 1 / 20, total_iters=19),
                lr_scheduler.CosineAnnealingLR(o, UPDATES - 20),
            ],
            [20],
        ),
        optax.warmup_cosine_decay_schedule(0.0, RATE, 20, UPDATES),
    ),
    schedule(
        "OneCycleLR(total_steps=200)",
        "cosine_onecycle_schedule(200)",
        "the last update has the last rate in PyTorch, the update after it in Optax",
        lambda o: lr_scheduler.OneCycleLR(o, RATE, total_steps=UPDATES, cycle_momentum=False),
        optax.cosine_onecycle_schedule(UPDATES, RATE),
    ),
    schedule(
        "CosineAnnealingWarmRestarts(50)",
        "sgdr_schedule, 4 cycles of 50 without warmup",
        "",
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 50),
        optax.sgdr_schedule(
            [{"init_value": 0.0, "peak_value": RATE, "decay_steps": 50, "warmup_steps": 0}] * 4
        ),
    ),
]
PAIRS = [*OPTIMIZERS, *LOSSES, *LAYERS, *SCHEDULES]


@cache
def data() -> tuple[NDArray[np.float64], NDArray[np.int64], Tensors]:
    """Rows (N, D), their classes (N,), and the start of all trainings, with weights (in, out)."""
    rows = prepare(
        Recipe().with_values({"data.rows": 3 * ROWS, "data.features": 6, "data.classes": 3})
    )
    generator = np.random.default_rng(0)
    shapes = {"weight1": (6, HIDDEN), "bias1": (HIDDEN,), "weight2": (HIDDEN, 3), "bias2": (3,)}
    start = {
        name: generator.normal(size=shape) / np.sqrt(shape[0]) for name, shape in shapes.items()
    }
    return rows.train_x_ND, rows.train_y_N, start


def train_torch(recipe: Torch) -> Tensors:
    """Every parameter and running statistic after the last update, weights as (in, out)."""
    torch.manual_seed(0)
    x_ND, y_N, start = data()
    linears = []
    for i in (1, 2):
        linear = torch.nn.Linear(*start[f"weight{i}"].shape, dtype=torch.float64)
        linear.weight.data = torch.from_numpy(start[f"weight{i}"].T.copy())
        linear.bias.data = torch.from_numpy(start[f"bias{i}"].copy())
        linears.append(linear)
    net = torch.nn.Sequential(linears[0], recipe.layer(), linears[1])
    one_or_two = recipe.optimizer(list(net.parameters()), lr=RATE)
    optimizers = list(one_or_two) if isinstance(one_or_two, tuple) else [one_or_two]
    scheduler = recipe.schedule(optimizers[0]) if recipe.schedule else None
    for update in range(UPDATES):
        rows = slice(update % 3 * ROWS, (update % 3 + 1) * ROWS)
        net.zero_grad()
        recipe.loss(net(torch.from_numpy(x_ND[rows])), torch.from_numpy(y_N[rows])).backward()
        for each in optimizers:
            each.step()
        if scheduler is not None and update < UPDATES - 1:
            scheduler.step()
    tensors: Tensors = {}
    for i, linear in enumerate(linears, start=1):
        tensors[f"weight{i}"] = linear.weight.detach().numpy().T
        tensors[f"bias{i}"] = linear.bias.detach().numpy()
    if isinstance(net[1], torch.nn.BatchNorm1d):
        tensors |= {"mean": net[1].running_mean.numpy(), "var": net[1].running_var.numpy()}
    return tensors


class Net(nnx.Module):
    """Linear, layer, Linear."""

    def __init__(self, between: Callable[[jax.Array], jax.Array], start: Tensors) -> None:
        self.linear1 = nnx.Linear(6, HIDDEN, rngs=nnx.Rngs(0))
        self.linear2 = nnx.Linear(HIDDEN, 3, rngs=nnx.Rngs(0))
        for i, linear in enumerate((self.linear1, self.linear2), start=1):
            linear.kernel = nnx.Param(jnp.asarray(start[f"weight{i}"]))
            linear.bias = nnx.Param(jnp.asarray(start[f"bias{i}"]))
        self.layer = between

    def __call__(self, x_BD: jax.Array) -> jax.Array:
        return self.linear2(self.layer(self.linear1(x_BD)))


def train_flax(recipe: Flax) -> Tensors:
    """Every parameter and running statistic after the last update, weights as (in, out)."""
    with jax.enable_x64(True):
        x_ND, y_N, start = data()
        graph, parameters, rest = nnx.split(Net(recipe.layer(), start), nnx.Param, ...)
        # running statistics start in float32, whatever the parameters are
        rest = jax.tree.map(
            lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, rest
        )
        transformation = recipe.optimizer(recipe.schedule)
        x_TBD = jnp.asarray(x_ND).reshape(3, ROWS, -1)
        y_TB = jnp.asarray(y_N).reshape(3, ROWS)

        def update(carry: Any, number: Any) -> Any:
            parameters, rest, state = carry

            def loss_of(parameters: Any) -> Any:
                net = nnx.merge(graph, parameters, rest, copy=True)
                value = recipe.loss(net(x_TBD[number % 3]), y_TB[number % 3])
                return value, nnx.split(net, nnx.Param, ...)[2]

            gradients, rest = jax.grad(loss_of, has_aux=True)(parameters)
            steps, state = transformation.update(gradients, state, parameters)
            return (optax.apply_updates(parameters, steps), rest, state), None

        carry = parameters, rest, transformation.init(parameters)
        (parameters, rest, _), _ = jax.jit(
            lambda carry: jax.lax.scan(update, carry, jnp.arange(UPDATES))
        )(carry)
        net = nnx.merge(graph, parameters, rest)
        tensors = {"weight1": net.linear1.kernel, "bias1": net.linear1.bias}
        tensors |= {"weight2": net.linear2.kernel, "bias2": net.linear2.bias}
        if isinstance(net.layer, nnx.BatchNorm):
            tensors |= {"mean": net.layer.mean, "var": net.layer.var}
        return {name: np.asarray(tensor[...]) for name, tensor in tensors.items()}


@cache
def apart(number: int) -> float:
    """The largest difference of any tensor after 200 updates, over its largest value."""
    pair = PAIRS[number]
    a = train_torch(pair.in_torch)
    b = train_flax(pair.in_flax)
    assert a.keys() == b.keys()
    assert all(array.dtype == np.float64 for array in (*a.values(), *b.values()))
    _, _, start = data()
    for name in ("weight1", "weight2"):
        assert np.abs(a[name] - start[name]).max() > 1e-3, "it has not trained"
    return max(float(np.abs(a[name] - b[name]).max() / np.abs(b[name]).max()) for name in a)


# --- initialisation: two samples of what each library draws


@dataclass(frozen=True)
class Init:
    """Two initialisers that people take for each other."""

    torch: str
    flax: str
    parts: str
    """Why the distributions differ; "" where they are one."""
    in_torch: Callable[[torch.Tensor], torch.Tensor]
    in_flax: Callable[..., Any]


def default_weight(weight: torch.Tensor) -> torch.Tensor:
    return torch.nn.Linear(weight.shape[1], weight.shape[0]).weight.detach()


def default_bias(weight: torch.Tensor) -> torch.Tensor:
    return torch.nn.Linear(50, weight.numel()).bias.detach()


INIT = torch.nn.init
JAX_INIT = jax.nn.initializers
CUT = "Flax cuts at two deviations"
INITS = [
    Init(
        "Linear, weight",
        "nnx.Linear, kernel",
        "uniform of variance 1 / (3 in), and truncated normal of variance 1 / in",
        default_weight,
        JAX_INIT.lecun_normal(),
    ),
    Init("Linear, bias", "nnx.Linear, bias", "uniform, and 0", default_bias, JAX_INIT.zeros),
    Init("xavier_uniform_", "glorot_uniform", "", INIT.xavier_uniform_, JAX_INIT.glorot_uniform()),
    Init(
        "xavier_normal_",
        "glorot_normal",
        CUT,
        INIT.xavier_normal_,
        JAX_INIT.glorot_normal(),
    ),
    Init("kaiming_uniform_", "he_uniform", "", INIT.kaiming_uniform_, JAX_INIT.he_uniform()),
    Init("kaiming_normal_", "he_normal", CUT, INIT.kaiming_normal_, JAX_INIT.he_normal()),
    Init("orthogonal_", "orthogonal", "", INIT.orthogonal_, JAX_INIT.orthogonal()),
    Init("normal_", "normal", "deviation 1 and 0.01", INIT.normal_, JAX_INIT.normal()),
    Init("uniform_", "uniform", "up to 1 and up to 0.01", INIT.uniform_, JAX_INIT.uniform()),
    Init(
        "trunc_normal_",
        "truncated_normal",
        "deviation 1 and 0.01",
        INIT.trunc_normal_,
        JAX_INIT.truncated_normal(),
    ),
]


@cache
def distance(number: int) -> float:
    """Kolmogorov-Smirnov distance: the largest difference of the two distribution functions."""
    init = INITS[number]
    inputs = 200
    outputs = SAMPLES // inputs
    torch.manual_seed(0)
    with torch.no_grad():
        a = np.sort(init.in_torch(torch.empty(outputs, inputs)).numpy().ravel())
    b = np.sort(np.asarray(init.in_flax(jax.random.key(0), (inputs, outputs), jnp.float32)).ravel())
    points = np.concatenate([a, b])
    share_a = np.searchsorted(a, points, side="right") / len(a)
    share_b = np.searchsorted(b, points, side="right") / len(b)
    return float(np.abs(share_a - share_b).max())


# --- the page


INTRODUCTION = f"""# Library defaults against each other

Each row of the first tables stands for two trainings of one network (Linear, layer, Linear) in
float64: once as PyTorch has it, and once as Flax and Optax have it. Both have the same start, the
same {3 * ROWS} rows in batches of {ROWS}, and {UPDATES} updates. Every setting that is not named
is left to the library. The last column is the largest difference of any parameter (or running
statistic) after the last update, over the largest value of its tensor. *agree* is below 1e-9;
`lockstep compare` calls two float64 runs apart from 1e-12 on.

The optimizers train with cross entropy and tanh at a learning rate of {RATE}. The losses, layers
and schedules train with plain SGD.

`make pages` writes this page, and the tests check it.
"""
INITIALISATION = f"""
## Initialisation

The last column is the Kolmogorov-Smirnov distance of {SAMPLES} values that each library draws for a
layer of 200 inputs. *agree* is below {ALIKE}.
"""
END = """
This page leaves out what only one of the two has (LAMB, Lion and SM3 in Optax, ASGD in PyTorch),
L-BFGS, which takes a closure in PyTorch and a line search in Optax, and losses and layers for
pairs, triples, sequences and images.
"""


def page() -> str:
    """The text of the page, from trainings and draws."""
    text = INTRODUCTION
    for group in ("Optimizers", "Losses", "Layers", "Schedules"):
        rows = [
            f"| {pair.torch} | {pair.flax} | {pair.parts} | {_cell(apart(number), APART)} |"
            for number, pair in enumerate(PAIRS)
            if pair.group == group
        ]
        text += f"\n## {group}\n" + _table("Flax, Optax", rows)
    rows = [
        f"| {init.torch} | {init.flax} | {init.parts} | {_cell(distance(number), ALIKE)} |"
        for number, init in enumerate(INITS)
    ]
    return text + INITIALISATION + _table("Flax", rows) + END


def _table(other: str, rows: list[str]) -> str:
    lines = ["", f"| PyTorch | {other} | what differs | apart |", "|---|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _cell(value: float, agreement: float) -> str:
    return f"{value:.1e}" if value > agreement else "agree"


if __name__ == "__main__":
    PAGE.write_text(page())
