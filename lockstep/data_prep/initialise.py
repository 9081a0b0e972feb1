"""The distributions of initial weights, drawn in NumPy and in float64.

| init | distribution |
|---|---|
| torch | U(+-1/sqrt(in)) |
| flax | N(0, 1/in), cut off at 2 deviations and widened to that variance |
| xavier_uniform | U(+-sqrt(6/(in+out))) |
| xavier_normal | N(0, 2/(in+out)) |
| kaiming_uniform | U(+-sqrt(6/in)) |
| kaiming_normal | N(0, 2/in) |
| orthogonal | uniform over the matrices with orthonormal rows or columns |
| zeros | 0 |

| init | the same in PyTorch | the same in JAX (`jax.nn.initializers`) |
|---|---|---|
| torch | default of `nn.Linear` | `variance_scaling(1/3, "fan_in", "uniform")` |
| flax | | `lecun_normal`, default of `Linear` |
| xavier_uniform | `xavier_uniform_` | `glorot_uniform` |
| xavier_normal | `xavier_normal_` | `variance_scaling(1, "fan_avg", "normal")` |
| kaiming_uniform | `kaiming_uniform_` | `he_uniform` |
| kaiming_normal | `kaiming_normal_` | `variance_scaling(2, "fan_in", "normal")` |
| orthogonal | `orthogonal_` | `orthogonal` |
| zeros | `zeros_` | `zeros` |

JAX's `glorot_normal` and `he_normal` are cut off at 2 deviations and widened, as `lecun_normal`
is. Kaiming has ReLU's gain, sqrt(2), whatever the activation: `nonlinearity="relu"` in PyTorch.

Sources: Glorot & Bengio, 2010; He et al., arXiv:1502.01852; Saxe et al., arXiv:1312.6120;
`torch.nn.init` of torch 2.13.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_bias", "draw_weight"]

TRUNCATED = 0.87962566103423978
"""Standard deviation of the standard normal distribution cut off at -2 and 2."""


def draw_weight(
    init: str, generator: np.random.Generator, fan_in: int, fan_out: int
) -> NDArray[np.float64]:
    """A weight (fan_in, fan_out), float64, from the distribution of `init` in the table above.

    Raises:
        ValueError: no such init.
    """
    shape = (fan_in, fan_out)
    bounds = {
        "torch": fan_in**-0.5,
        "xavier_uniform": (6 / sum(shape)) ** 0.5,
        "kaiming_uniform": (6 / fan_in) ** 0.5,
    }
    deviations = {
        "xavier_normal": (2 / sum(shape)) ** 0.5,
        "kaiming_normal": (2 / fan_in) ** 0.5,
    }
    if init in bounds:
        return generator.uniform(-bounds[init], bounds[init], shape)
    if init in deviations:
        return generator.normal(0.0, deviations[init], shape)
    if init == "flax":
        from scipy import special

        # a uniform share through the inverse of the distribution function
        share = generator.uniform(special.ndtr(-2.0), special.ndtr(2.0), shape)
        return np.asarray(special.ndtri(share) * fan_in**-0.5 / TRUNCATED)
    if init == "orthogonal":
        # the signs of R's diagonal make Q uniform (Mezzadri, arXiv:math-ph/0609050)
        tall = generator.standard_normal((max(shape), min(shape)))
        q, r = np.linalg.qr(tall)
        q = q * np.sign(np.diag(r))
        return np.ascontiguousarray(q if fan_in >= fan_out else q.T)
    if init == "zeros":
        return np.zeros(shape)
    raise ValueError(init)


def draw_bias(
    init: str, generator: np.random.Generator, fan_in: int, fan_out: int
) -> NDArray[np.float64]:
    """A bias (fan_out,), float64: U(+-1/sqrt(in)) for "torch", as `nn.Linear` has it; else 0."""
    if init != "torch":
        return np.zeros(fan_out)
    bound = fan_in**-0.5
    return generator.uniform(-bound, bound, fan_out)
