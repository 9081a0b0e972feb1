"""Faults planted in the libraries from outside: what a library does wrong, on which recipe, and
where `lockstep run` must find it with each engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lockstep.recipe import Recipe
from lockstep.studies.prove.faults import (
    ACCUMULATING,
    ADAM,
    ADAM_L2,
    ADAMW,
    AVERAGING,
    BASE,
    BATCH_NORM,
    BINARY,
    CLIPPING,
    DECAYING,
    DROPOUT,
    GELU,
    HUBER,
    IGNORING,
    LAYER_NORM,
    MSE,
    WEIGHTED,
)

__all__ = ["LIBRARY_FAULTS", "LibraryFault", "Place"]


class Place(NamedTuple):
    """Where a run leaves the oracle."""

    update: int
    """Counted from 0; -1 is before training."""
    stage: str


@dataclass(frozen=True)
class LibraryFault:
    """One function of a library, made wrong before a twin is imported.

    The change stands under the key in the twin's `proof.library_faults`. `plain` and `fast` are
    where the float64 run of that engine first leaves the oracle. They are None where the engine
    does not reach the function in that recipe; its run then has the bits of one without the fault.
    """

    key: str
    twin: str
    """The twin that uses the library."""
    function: str
    """The dotted name of what is changed."""
    text: str
    """What it does wrong."""
    plain: Place | None
    fast: Place | None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Fields that differ from `BASE`, in float32."""

    @property
    def right(self) -> Recipe:
        """The recipe, in its own dtype."""
        return Recipe().with_values(BASE | {"training.dtype": "float32"} | dict(self.recipe))

    @property
    def places(self) -> dict[str, Place | None]:
        """Engine -> where its run leaves the oracle."""
        return {"plain": self.plain, "fast": self.fast}


def _optimizer(name: str, peak: float = 0.01, **knobs: Any) -> dict[str, Any]:
    fields = {f"optimizer.{knob}": value for knob, value in knobs.items()}
    return {"optimizer.name": name, "schedule.peak": peak} | fields


DAMPENING = {"optimizer.dampening": 0.1}
NESTEROV = {"optimizer.nesterov": True}
RATES = {"optimizer.multipliers": (1.0, 0.5)}
CLIPPING_AS_TORCH = CLIPPING | {"gradient.clip_eps": 1e-6}
CLIPPING_VALUES = {"gradient.clip": "value", "gradient.clip_at": 0.01}
ADAMW_ON_WEIGHTS = ADAMW | {"optimizer.decay_on": "weights"}
DECAYING_WEIGHTS = DECAYING | {"optimizer.decay_on": "weights"}
AMSGRAD = ADAM | {"optimizer.amsgrad": "corrected"}
SMOOTHING = {"loss.label_smoothing": 0.1}
WEIGHTED_BINARY = BINARY | {"loss.positive_weight": 2.0}
TANH = {"model.activation": "tanh"}
SIGMOID = {"model.activation": "sigmoid"}
SILU = {"model.activation": "silu"}
ELU = {"model.activation": "elu"}
SOFTPLUS = {"model.activation": "softplus"}
NADAM = _optimizer("nadam", momentum_ramp=True)
RMSPROP = _optimizer("rmsprop")
ADADELTA = _optimizer("adadelta", peak=1.0)

# a fault shows in what an update records, or at the end of the first epoch, which has 3 updates
INIT = Place(-1, "init")
LR = Place(0, "lr")
LOSS = Place(0, "loss")
GRADIENTS = Place(0, "gradients")
UPDATE = Place(0, "update")
SECOND_UPDATE = Place(1, "update")
PARAMETERS = Place(2, "parameters")
AVERAGE = Place(2, "average")
METRICS = Place(2, "metrics")

TORCH = (
    ("sgd-momentum", "torch.optim.sgd.sgd", "momentum 0.89", SECOND_UPDATE, None),
    ("sgd-nesterov", "torch.optim.sgd.sgd", "nesterov ignored", UPDATE, None, NESTEROV),
    ("sgd-dampening", "torch.optim.sgd.sgd", "dampening 0.1", SECOND_UPDATE, None),
    (
        "sgd-first-momentum",
        "torch.optim.sgd.sgd",
        "the first gradient dampened too",
        UPDATE,
        None,
        DAMPENING,
    ),
    ("sgd-rate", "torch.optim.sgd.sgd", "steps 1e-6 too long", UPDATE, None),
    ("sgd-decay", "torch.optim.sgd.sgd", "weight decay ignored", UPDATE, None, DECAYING),
    ("sgd-skips", "torch.optim.SGD.step", "every sixth update left out", Place(5, "update"), None),
    ("adam-eps", "torch.optim.adam.adam", "eps 1e-7", UPDATE, None, ADAM),
    ("adam-beta1", "torch.optim.adam.adam", "beta1 0.95", SECOND_UPDATE, None, ADAM),
    ("adam-beta2", "torch.optim.adam.adam", "beta2 0.99", SECOND_UPDATE, None, ADAM),
    ("adam-bias", "torch.optim.adam.adam", "no bias correction", UPDATE, None, ADAM),
    (
        "adam-late-bias",
        "torch.optim.adam.adam",
        "bias correction of the next update",
        UPDATE,
        None,
        ADAM,
    ),
    ("adam-amsgrad", "torch.optim.Adam.__init__", "AMSGrad", Place(3, "update"), None, ADAM),
    ("adam-decoupled", "torch.optim.adam.adam", "decoupled decay for L2", UPDATE, None, ADAM_L2),
    ("adamw-l2", "torch.optim.adam.adam", "L2 for decoupled decay", UPDATE, None, ADAMW),
    ("adamw-decay", "torch.optim.adam.adam", "weight decay ignored", UPDATE, None, ADAMW),
    (
        "groups-decay",
        "torch.optim.Optimizer.add_param_group",
        "all groups decay as the first",
        UPDATE,
        None,
        ADAMW_ON_WEIGHTS,
    ),
    ("nadam-decay", "torch.optim.nadam.nadam", "momentum decay 0.0041", UPDATE, None, NADAM),
    (
        "radam-late",
        "torch.optim.radam.radam",
        "counts one update too many",
        UPDATE,
        None,
        _optimizer("radam"),
    ),
    ("adamax-eps", "torch.optim.adamax.adamax", "eps 1e-6", UPDATE, None, _optimizer("adamax")),
    ("adagrad-eps", "torch.optim.adagrad.adagrad", "eps 1e-8", UPDATE, None, _optimizer("adagrad")),
    ("rmsprop-alpha", "torch.optim.rmsprop.rmsprop", "alpha 0.9", UPDATE, None, RMSPROP),
    ("adadelta-eps", "torch.optim.adadelta.adadelta", "eps 1e-7", UPDATE, None, ADADELTA),
    (
        "rprop-factor",
        "torch.optim.rprop.rprop",
        "grows by 1.25",
        SECOND_UPDATE,
        None,
        _optimizer("rprop"),
    ),
    ("zero-grad", "torch.optim.Optimizer.zero_grad", "does nothing", Place(1, "gradients"), None),
    (
        "lambda-late",
        "torch.optim.lr_scheduler.LambdaLR.get_lr",
        "one update late",
        Place(3, "lr"),
        None,
    ),
    (
        "lambda-early",
        "torch.optim.lr_scheduler.LambdaLR.get_lr",
        "one update early",
        Place(2, "lr"),
        None,
    ),
    ("lambda-scaled", "torch.optim.lr_scheduler.LambdaLR.get_lr", "rates 1e-6 too high", LR, None),
    (
        "lambda-groups",
        "torch.optim.lr_scheduler.LambdaLR.get_lr",
        "all groups at the first one's rate",
        UPDATE,
        None,
        RATES,
    ),
    ("clip-eps", "torch.nn.utils.clip_grad_norm_", "no eps", UPDATE, None, CLIPPING_AS_TORCH),
    (
        "clip-norm-type",
        "torch.nn.utils.clip_grad_norm_",
        "the 1-norm",
        UPDATE,
        None,
        CLIPPING_AS_TORCH,
    ),
    (
        "clip-per-tensor",
        "torch.nn.utils.clip_grad_norm_",
        "each tensor by itself",
        UPDATE,
        None,
        CLIPPING_AS_TORCH,
    ),
    (
        "clip-value",
        "torch.nn.utils.clip_grad_value_",
        "clips 1e-6 too high",
        UPDATE,
        None,
        CLIPPING_VALUES,
    ),
    ("backward", "torch.Tensor.backward", "gradients 1e-6 too large", GRADIENTS, None),
    (
        "vector-norm",
        "torch.linalg.vector_norm",
        "1e-6 too large",
        UPDATE,
        GRADIENTS,
        CLIPPING_AS_TORCH,
    ),
    ("linear-bias", "torch.nn.functional.linear", "no bias added", LOSS, METRICS),
    (
        "linear-gradient",
        "torch.nn.functional.linear",
        "weight's gradient 1e-6 too large",
        GRADIENTS,
        None,
    ),
    ("linear-float32", "torch.nn.functional.linear", "computed in float32", LOSS, METRICS),
    ("relu-leaky", "torch.relu", "slope 1e-6 below 0", LOSS, METRICS),
    ("gelu-tanh", "torch.nn.functional.gelu", "the tanh formula", LOSS, METRICS, GELU),
    ("tanh-float32", "torch.tanh", "computed in float32", LOSS, METRICS, TANH),
    ("softplus-threshold", "torch.nn.functional.softplus", "threshold 2", LOSS, METRICS, SOFTPLUS),
    ("layer-norm-eps", "torch.nn.functional.layer_norm", "eps 1e-6", LOSS, METRICS, LAYER_NORM),
    (
        "layer-norm-unbiased",
        "torch.nn.functional.layer_norm",
        "variance over n - 1",
        LOSS,
        METRICS,
        LAYER_NORM,
    ),
    (
        "batch-norm-momentum",
        "torch.nn.functional.batch_norm",
        "momentum 0.9",
        PARAMETERS,
        None,
        BATCH_NORM,
    ),
    (
        "batch-norm-training",
        "torch.nn.functional.batch_norm",
        "evaluates as in training",
        METRICS,
        METRICS,
        BATCH_NORM,
    ),
    (
        "module-train",
        "torch.nn.Module.train",
        "stays in evaluation",
        Place(3, "loss"),
        None,
        BATCH_NORM,
    ),
    ("where-float32", "torch.where", "rounded to float32", LOSS, None, DROPOUT),
    ("cross-entropy-sum", "torch.nn.functional.cross_entropy", "the sum over rows", LOSS, METRICS),
    (
        "cross-entropy-smoothed",
        "torch.nn.functional.cross_entropy",
        "label smoothing 1e-6",
        LOSS,
        METRICS,
    ),
    (
        "cross-entropy-ignored",
        "torch.nn.functional.cross_entropy",
        "ignored rows count as the last class",
        LOSS,
        METRICS,
        IGNORING,
    ),
    (
        "cross-entropy-weights",
        "torch.nn.functional.cross_entropy",
        "a mean over rows, not weights",
        LOSS,
        METRICS,
        WEIGHTED,
    ),
    (
        "binary-weight",
        "torch.nn.functional.binary_cross_entropy_with_logits",
        "pos_weight ignored",
        LOSS,
        LOSS,
        WEIGHTED_BINARY,
    ),
    ("mse-half", "torch.nn.functional.mse_loss", "half of it", LOSS, LOSS, MSE),
    ("huber-delta", "torch.nn.functional.huber_loss", "delta 0.9", LOSS, LOSS, HUBER),
    (
        "average-decay",
        "torch.optim.swa_utils.get_ema_multi_avg_fn",
        "keeps 0.99",
        AVERAGE,
        None,
        AVERAGING,
    ),
    (
        "average-skips",
        "torch.optim.swa_utils.AveragedModel.update_parameters",
        "every second left out",
        AVERAGE,
        None,
        AVERAGING,
    ),
    ("argmax", "torch.Tensor.argmax", "always the first class", METRICS, METRICS),
    ("copy-float32", "torch.Tensor.copy_", "rounds to float32", INIT, INIT),
    ("from-numpy", "torch.from_numpy", "rounds to float32", LOSS, INIT),
    ("mm", "torch.mm", "products 1e-6 too large", None, LOSS),
    ("mm-float32", "torch.mm", "rounded to float32", None, LOSS),
    ("relu-in-place", "torch.relu_", "1e-6 too large", None, LOSS),
    (
        "threshold-backward",
        "torch.ops.aten.threshold_backward.grad_input",
        "1e-6 too large",
        None,
        GRADIENTS,
    ),
    ("gelu-out", "torch.ops.aten.gelu.out", "the tanh formula", None, LOSS, GELU),
    (
        "gelu-backward",
        "torch.ops.aten.gelu_backward.grad_input",
        "the tanh formula",
        None,
        GRADIENTS,
        GELU,
    ),
    (
        "tanh-backward",
        "torch.ops.aten.tanh_backward.grad_input",
        "rounded to float32",
        None,
        GRADIENTS,
        TANH,
    ),
    ("softmax", "torch.softmax", "rounded to float32", None, GRADIENTS),
    ("sigmoid-out", "torch.sigmoid", "rounded to float32", None, GRADIENTS, BINARY),
    ("log-softmax", "torch.log_softmax", "computed in float32", None, LOSS),
    ("sub", "torch.sub", "rounded to float32", None, GRADIENTS, MSE),
    ("add-alpha", "torch.add", "alpha 0.89 for 0.9", None, SECOND_UPDATE),
    ("addcdiv", "torch.addcdiv", "1e-6 too large", None, UPDATE, NADAM),
    ("addcmul", "torch.addcmul", "1e-6 too large", None, GRADIENTS),
    ("fused-adam-eps", "torch._fused_adamw_", "eps 1e-7", None, UPDATE, ADAM),
    ("fused-adam-beta2", "torch._fused_adamw_", "beta2 0.99", None, SECOND_UPDATE, ADAM),
    ("fused-adam-decay", "torch._fused_adamw_", "weight decay ignored", None, UPDATE, ADAMW),
    ("lerp", "torch.Tensor.lerp_", "a tenth of the weight", None, AVERAGE, AVERAGING),
    ("var-mean", "torch.var_mean", "variance over n - 1", None, LOSS, LAYER_NORM),
    ("rsqrt", "torch.Tensor.rsqrt_", "1e-6 too large", None, LOSS, LAYER_NORM),
    ("clamp", "torch.clamp", "1e-6 too large", None, UPDATE, CLIPPING_VALUES),
    ("sign", "torch.Tensor.sign_", "1e-6 too large", None, UPDATE, _optimizer("lion")),
    ("mul", "torch.mul", "1e-6 too large", None, LOSS, DROPOUT),
)

JAX = (
    ("trace-decay", "optax.trace", "decay 0.89", SECOND_UPDATE, SECOND_UPDATE),
    ("trace-nesterov", "optax.trace", "nesterov ignored", UPDATE, UPDATE, NESTEROV),
    ("trace-scaled", "optax.trace", "steps 1e-6 too long", UPDATE, UPDATE),
    ("sgd-momentum", "optax.sgd", "momentum ignored", SECOND_UPDATE, SECOND_UPDATE),
    ("adam-b1", "optax.scale_by_adam", "b1 0.95", SECOND_UPDATE, SECOND_UPDATE, ADAM),
    ("adam-b2", "optax.scale_by_adam", "b2 0.99", SECOND_UPDATE, SECOND_UPDATE, ADAM),
    ("adam-eps", "optax.scale_by_adam", "eps 1e-7", UPDATE, UPDATE, ADAM),
    ("adam-eps-root", "optax.scale_by_adam", "eps inside the root", UPDATE, UPDATE, ADAM),
    ("adam-nesterov", "optax.scale_by_adam", "looks ahead", UPDATE, UPDATE, ADAM),
    ("bias-correction", "optax.tree.bias_correction", "does nothing", UPDATE, UPDATE, ADAM),
    (
        "late-bias-correction",
        "optax.tree.bias_correction",
        "that of the next update",
        UPDATE,
        UPDATE,
        ADAM,
    ),
    ("moment", "optax.tree.update_moment", "1e-6 too large", UPDATE, UPDATE, ADAM),
    ("amsgrad-b2", "optax.scale_by_amsgrad", "b2 0.99", SECOND_UPDATE, SECOND_UPDATE, AMSGRAD),
    ("adamax-eps", "optax.scale_by_adamax", "eps 1e-6", UPDATE, UPDATE, _optimizer("adamax")),
    ("lion-b1", "optax.scale_by_lion", "b1 0.95", SECOND_UPDATE, SECOND_UPDATE, _optimizer("lion")),
    (
        "trust-ratio",
        "optax.scale_by_trust_ratio",
        "1e-6 too large",
        UPDATE,
        UPDATE,
        _optimizer("lamb"),
    ),
    (
        "rss-eps",
        "optax.scale_by_rss",
        "eps 1e-7",
        UPDATE,
        UPDATE,
        _optimizer("adagrad", eps_in_root=True),
    ),
    ("rms-decay", "optax.scale_by_rms", "decay 0.98", UPDATE, UPDATE, RMSPROP),
    ("rms-eps", "optax.scale_by_rms", "eps inside the root", UPDATE, UPDATE, RMSPROP),
    ("adadelta-rho", "optax.scale_by_adadelta", "rho 0.95", UPDATE, UPDATE, ADADELTA),
    ("decay", "optax.add_decayed_weights", "1e-6 too much", UPDATE, UPDATE, DECAYING),
    (
        "decay-mask",
        "optax.add_decayed_weights",
        "the mask ignored",
        UPDATE,
        UPDATE,
        DECAYING_WEIGHTS,
    ),
    (
        "schedule-late",
        "optax.scale_by_schedule",
        "one update late",
        Place(3, "update"),
        Place(3, "update"),
    ),
    (
        "schedule-early",
        "optax.scale_by_schedule",
        "one update early",
        Place(2, "update"),
        Place(2, "update"),
    ),
    ("schedule-scaled", "optax.scale_by_schedule", "rates 1e-6 too high", UPDATE, UPDATE),
    ("partition", "optax.partition", "all at the first one's rate", UPDATE, UPDATE, RATES),
    ("apply", "optax.apply_updates", "steps 1e-6 too long", UPDATE, UPDATE),
    ("apply-float32", "optax.apply_updates", "computed in float32", UPDATE, UPDATE),
    ("clip-norm", "optax.tree.norm", "1e-6 too large", UPDATE, UPDATE, CLIPPING),
    (
        "clip-per-tensor",
        "optax.clip_by_global_norm",
        "each tensor by itself",
        UPDATE,
        UPDATE,
        CLIPPING,
    ),
    ("clip-value", "optax.clip", "clips 1e-6 too high", UPDATE, UPDATE, CLIPPING_VALUES),
    (
        "average",
        "optax.incremental_update",
        "the share of the new 1e-6 too large",
        AVERAGE,
        AVERAGE,
        AVERAGING,
    ),
    (
        "cross-entropy-smoothed",
        "optax.softmax_cross_entropy_with_integer_labels",
        "label smoothing 1e-6",
        LOSS,
        METRICS,
    ),
    (
        "cross-entropy-soft",
        "optax.softmax_cross_entropy",
        "1e-6 too large",
        LOSS,
        METRICS,
        SMOOTHING,
    ),
    ("smooth-labels", "optax.smooth_labels", "smoothed 1e-6 too much", LOSS, LOSS, SMOOTHING),
    (
        "binary-float32",
        "optax.sigmoid_binary_cross_entropy",
        "computed in float32",
        LOSS,
        LOSS,
        BINARY,
    ),
    ("squared-error", "optax.squared_error", "half of it", LOSS, LOSS, MSE),
    ("huber-delta", "optax.huber_loss", "delta 0.9", LOSS, LOSS, HUBER),
    ("linear-bias", "flax.nnx.Linear.__call__", "no bias added", LOSS, None),
    ("linear-float32", "flax.nnx.Linear.__call__", "rows rounded to float32", LOSS, None),
    ("layer-norm-eps", "flax.nnx.LayerNorm.__init__", "eps 1e-6", LOSS, None, LAYER_NORM),
    (
        "layer-norm-float32",
        "flax.nnx.LayerNorm.__call__",
        "rows rounded to float32",
        LOSS,
        None,
        LAYER_NORM,
    ),
    (
        "batch-norm-momentum",
        "flax.nnx.BatchNorm.__init__",
        "momentum 0.1",
        PARAMETERS,
        None,
        BATCH_NORM,
    ),
    ("batch-norm-eps", "flax.nnx.BatchNorm.__init__", "eps 1e-6", LOSS, None, BATCH_NORM),
    ("module-eval", "flax.nnx.Module.eval", "does nothing", METRICS, None, BATCH_NORM),
    ("value-and-grad", "jax.value_and_grad", "gradients 1e-6 too large", GRADIENTS, GRADIENTS),
    (
        "gradients-float32",
        "jax.value_and_grad",
        "gradients rounded to float32",
        GRADIENTS,
        GRADIENTS,
    ),
    ("relu-leaky", "jax.nn.relu", "slope 1e-6 below 0", LOSS, LOSS),
    ("gelu-tanh", "jax.nn.gelu", "the tanh formula", LOSS, LOSS, GELU),
    ("tanh-float32", "jax.numpy.tanh", "computed in float32", LOSS, LOSS, TANH),
    ("sigmoid-float32", "jax.nn.sigmoid", "computed in float32", LOSS, LOSS, SIGMOID),
    ("silu", "jax.nn.silu", "1e-6 too large", LOSS, LOSS, SILU),
    ("elu-alpha", "jax.nn.elu", "alpha 1.000001", LOSS, LOSS, ELU),
    ("log-softmax", "jax.nn.log_softmax", "computed in float32", None, LOSS),
    ("one-hot", "jax.nn.one_hot", "1e-6 too large", LOSS, LOSS, SMOOTHING),
    ("rsqrt-float32", "jax.lax.rsqrt", "computed in float32", LOSS, LOSS, LAYER_NORM),
    ("dot-general", "jax.lax.dot_general", "computed in float32", GRADIENTS, LOSS),
    ("vdot", "jax.numpy.vdot", "1e-6 too large", None, GRADIENTS),
    ("where-float32", "jax.numpy.where", "rounded to float32", LOSS, LOSS, DROPOUT),
    ("device-put", "jax.device_put", "rounds to float32", INIT, INIT),
    ("scan", "jax.lax.scan", "begins with the last", LOSS, None),
    ("fori-loop", "jax.lax.fori_loop", "one turn too few", None, Place(2, "loss")),
    ("concatenate", "jax.numpy.concatenate", "rounded to float32", None, LOSS),
    ("cond", "jax.lax.cond", "the other branch", LOSS, LOSS, ACCUMULATING),
)


def _by_key(twin: str, rows: Sequence[tuple[Any, ...]]) -> dict[str, LibraryFault]:
    faults = [LibraryFault(f"{twin}-{key}", twin, *rest) for key, *rest in rows]
    return {fault.key: fault for fault in faults}


LIBRARY_FAULTS: dict[str, LibraryFault] = _by_key("torch", TORCH) | _by_key("jax", JAX)
"""Every fault of a library by its key, PyTorch's first."""
