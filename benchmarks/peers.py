"""Peers: other libraries that train the same, each written as its own documentation shows it.

Each is given the rows, their order and the learning rates.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lockstep.bench.prepared import Prepared, Unable, common_optimizer, require_common
from lockstep.data_prep import Parameters, PreparedData, layer_sizes
from lockstep.recipe import Recipe
from lockstep.recipe.optimizers.sgd import Sgd
from lockstep.schedules.formulas import learning_rates

if TYPE_CHECKING:
    import torch

__all__ = [
    "keras_fit",
    "keras_stock",
    "lightning_fit",
    "numpy_loop",
    "sklearn_classifier",
    "skorch_fit",
]

Members = Sequence[PreparedData]
Arrays = list[NDArray[Any]]


class _Order:
    """The batches of one epoch after another, as a PyTorch `batch_sampler`."""

    def __init__(self, data: PreparedData) -> None:
        self.epochs: list[list[list[int]]] = []
        for epoch in range(data.epochs):
            batches = data.batches(epoch)
            pairs = zip(batches.rows_TB, batches.count_T)
            self.epochs.append([rows_B[:count].tolist() for rows_B, count in pairs])
        self.begin()

    def begin(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[list[int]]:
        self.epoch += 1
        yield from self.epochs[self.epoch - 1]

    def __len__(self) -> int:
        return len(self.epochs[0])


# --- without a framework


def numpy_loop(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """NumPy: a loop over the batches, with gradients by hand."""
    require_common(recipe)
    _without_gpu(device)
    data = members[0].cast(recipe.dtype)
    names = _parameter_names(data)
    rates_T = learning_rates(recipe, data.updates_per_epoch).astype(recipe.dtype)
    state: dict[str, Arrays] = {}

    def reset() -> None:
        state["p"] = [data.parameters[name].copy() for name in names]
        state["m"] = [np.zeros_like(array) for array in state["p"]]
        state["v"] = [np.zeros_like(array) for array in state["p"]]

    def run() -> None:
        update = 0
        for epoch in range(data.epochs):
            batches = data.batches(epoch)
            for rows_B, count in zip(batches.rows_TB, batches.count_T):
                x_BD = data.train_x_ND[rows_B[:count]]
                y_B = data.train_y_N[rows_B[:count]]
                _step(recipe, state, _gradients(state["p"], x_BD, y_B), rates_T[update], update)
                update += 1

    def exported() -> list[Parameters]:
        return [dict(zip(names, state["p"]))]

    return Prepared(reset, run, exported, {"numpy": np.__version__, "rows": "in memory"})


def _gradients(parameters: Arrays, x_BD: NDArray[Any], y_B: NDArray[Any]) -> Arrays:
    weights = parameters[::2]
    biases = parameters[1::2]
    inputs = [x_BD]
    for weight, bias in zip(weights[:-1], biases):
        inputs.append(np.maximum(inputs[-1] @ weight + bias, 0))
    logits_BK = inputs[-1] @ weights[-1] + biases[-1]
    slope = np.exp(logits_BK - logits_BK.max(axis=1, keepdims=True))
    slope /= slope.sum(axis=1, keepdims=True)
    slope[np.arange(len(y_B)), y_B] -= 1
    slope /= len(y_B)
    gradients: Arrays = []
    for i in reversed(range(len(weights))):
        gradients[:0] = [inputs[i].T @ slope, slope.sum(axis=0)]
        if i:
            slope = (slope @ weights[i].T) * (inputs[i] > 0)
    return gradients


def _step(
    recipe: Recipe, state: dict[str, Arrays], gradients: Arrays, lr: Any, update: int
) -> None:
    optimizer = common_optimizer(recipe)
    for p, m, v, g in zip(state["p"], state["m"], state["v"], gradients):
        if isinstance(optimizer, Sgd):
            if optimizer.weight_decay:
                g = g + optimizer.weight_decay * p
            m *= optimizer.momentum
            m += g
            p -= lr * m
            continue
        m *= optimizer.beta1
        m += (1 - optimizer.beta1) * g
        v *= optimizer.beta2
        v += (1 - optimizer.beta2) * g * g
        p *= 1 - lr * optimizer.weight_decay
        root = np.sqrt(v / (1 - optimizer.beta2 ** (update + 1))) + optimizer.eps
        p -= lr * (m / (1 - optimizer.beta1 ** (update + 1))) / root


def sklearn_classifier(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """scikit-learn's MLPClassifier. Its rate is always the peak, and stands inside the momentum."""
    import sklearn
    from sklearn.neural_network import MLPClassifier

    require_common(recipe)
    _without_gpu(device)
    data = members[0].cast(recipe.dtype)
    optimizer = common_optimizer(recipe)
    layers = [name for name, _, _ in _layers(data)]
    epochs = _epochs(data)
    classes = np.arange(data.outputs)
    last: list[Any] = []

    def reset() -> None:
        network = MLPClassifier(
            hidden_layer_sizes=data.hidden,
            solver="sgd" if optimizer.name == "sgd" else "adam",
            alpha=0.0,
            batch_size=data.batch,
            learning_rate_init=recipe.schedule.peak,
            momentum=optimizer.momentum if isinstance(optimizer, Sgd) else 0.0,
            nesterovs_momentum=False,
            shuffle=False,
        )
        x_ND, y_N = epochs[0]
        network.partial_fit(x_ND[: data.batch], y_N[: data.batch], classes=classes)
        for arrays, kind in ((network.coefs_, "weight"), (network.intercepts_, "bias")):
            for array, layer in zip(arrays, layers):
                start = data.parameters[f"{layer}.{kind}"]
                if array.shape != start.shape:
                    # two classes are one unit here, whose weights are the difference of two
                    start = start[..., 1:] - start[..., :1]
                array[:] = start
        del network._optimizer  # it has the state of the first call
        last[:] = [network]

    def run() -> None:
        for x_ND, y_N in epochs:
            last[0].partial_fit(x_ND, y_N, classes=classes)

    def exported() -> list[Parameters]:
        parameters = {}
        for layer, weight, bias in zip(layers, last[0].coefs_, last[0].intercepts_):
            parameters[f"{layer}.weight"] = weight
            parameters[f"{layer}.bias"] = bias
        return [parameters]

    environment = {"sklearn": sklearn.__version__, "rows": "in memory"}
    return Prepared(reset, run, exported, environment)


# --- Keras


def keras_fit(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """Keras's `fit`, an epoch at a time, with an optimizer that follows the recipe's formula."""
    import keras
    from keras import ops

    rule = common_optimizer(recipe)

    class RecipeOptimizer(keras.optimizers.Optimizer):
        """The recipe's formula, which Keras does not have.

        The learning rate of Keras's SGD stands inside the momentum, and the eps of its AdamW beside
        an uncorrected root.
        """

        def build(self, variables: Any) -> None:
            super().build(variables)
            self.first = [self.add_variable_from_reference(each, "m") for each in variables]
            self.second = [self.add_variable_from_reference(each, "v") for each in variables]

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            index = self._get_variable_index(variable)
            m = self.first[index]
            v = self.second[index]
            lr = ops.cast(learning_rate, variable.dtype)
            number = ops.cast(self.iterations + 1, variable.dtype)
            if isinstance(rule, Sgd):
                self.assign(m, rule.momentum * m + gradient + rule.weight_decay * variable)
                self.assign_sub(variable, lr * m)
                return
            self.assign(m, rule.beta1 * m + (1 - rule.beta1) * gradient)
            self.assign(v, rule.beta2 * v + (1 - rule.beta2) * ops.square(gradient))
            beta1 = ops.cast(rule.beta1, variable.dtype)
            beta2 = ops.cast(rule.beta2, variable.dtype)
            root = ops.sqrt(v / (1 - ops.power(beta2, number))) + rule.eps
            decayed = variable * (1 - lr * rule.weight_decay)
            self.assign(variable, decayed - lr * (m / (1 - ops.power(beta1, number))) / root)

    return _keras(recipe, members, RecipeOptimizer)


def keras_stock(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """Keras with its own SGD or AdamW."""
    import keras

    rule = common_optimizer(recipe)

    def stock(learning_rate: Any) -> Any:
        if isinstance(rule, Sgd):
            return keras.optimizers.SGD(learning_rate, momentum=rule.momentum)
        return keras.optimizers.AdamW(
            learning_rate,
            weight_decay=rule.weight_decay,
            beta_1=rule.beta1,
            beta_2=rule.beta2,
            epsilon=rule.eps,
        )

    return _keras(recipe, members, stock)


def _keras(recipe: Recipe, members: Members, make_optimizer: Callable[[Any], Any]) -> Prepared:
    import keras
    from keras import ops

    require_common(recipe)
    data = members[0].cast(recipe.dtype)
    epochs = _epochs(data)
    names = _parameter_names(data)
    units = [outputs for _, _, outputs in _layers(data)]
    rates_T = learning_rates(recipe, data.updates_per_epoch).astype(recipe.dtype)

    class Table(keras.optimizers.schedules.LearningRateSchedule):
        """The learning rate of every update."""

        def __call__(self, step: Any) -> Any:
            return ops.take(ops.convert_to_tensor(rates_T), ops.cast(step, "int32"))

    with _keras_precision(recipe):
        hidden = [keras.layers.Dense(count, "relu") for count in units[:-1]]
        last = keras.layers.Dense(units[-1])
        network = keras.Sequential([keras.Input((len(data.columns),)), *hidden, last])
        optimizer = make_optimizer(Table())
        network.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        optimizer.build(network.trainable_variables)
        start = [np.array(ops.convert_to_numpy(variable)) for variable in optimizer.variables]
    weights = [data.parameters[name] for name in names]

    def reset() -> None:
        with _keras_precision(recipe):
            network.set_weights(weights)
            for variable, array in zip(optimizer.variables, start):
                variable.assign(array)

    def run() -> None:
        with _keras_precision(recipe):
            for x_ND, y_N in epochs:
                network.fit(x_ND, y_N, batch_size=data.batch, epochs=1, shuffle=False, verbose=0)

    def exported() -> list[Parameters]:
        return [dict(zip(names, network.get_weights()))]

    environment = {"keras": keras.__version__, "backend": keras.config.backend()}
    return Prepared(reset, run, exported, environment | {"rows": "given to fit as arrays"})


@contextmanager
def _keras_precision(recipe: Recipe) -> Iterator[None]:
    """Set Keras's types to the recipe's. Keras casts each value to the types then set."""
    import keras

    keras.config.set_floatx(recipe.training.dtype)
    keras.config.set_dtype_policy(recipe.training.dtype)
    if keras.config.backend() != "jax":
        yield
        return
    import jax

    with jax.enable_x64(recipe.dtype == "float64"):
        yield


# --- around PyTorch


def lightning_fit(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """Lightning's Trainer over a DataLoader, without logging, checkpoints or progress bar."""
    import lightning
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    _quiet()
    data, order, build = _torch_parts(recipe, members)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = build()

        def training_step(self, batch: Any, number: int) -> Any:
            x_BD, y_B = batch
            return torch.nn.functional.cross_entropy(self.network(x_BD), y_B)

        def configure_optimizers(self) -> Any:
            optimizer = _torch_optimizer(recipe)(
                self.parameters(), lr=1.0, **_torch_options(recipe)
            )
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(recipe, data))
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
            }

    loader = DataLoader(TensorDataset(*_torch_rows(data)), batch_sampler=order)
    last: list[Any] = []

    def reset() -> None:
        order.begin()
        trainer = lightning.Trainer(
            max_epochs=data.epochs,
            accelerator=device,
            devices=1,
            precision="64-true" if recipe.dtype == "float64" else "32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        last[:] = [trainer, Module()]

    def run() -> None:
        last[0].fit(last[1], loader)

    environment = {"lightning": lightning.__version__, "torch": torch.__version__}
    return Prepared(
        reset,
        run,
        lambda: [_exported(last[1].network, data)],
        environment | {"rows": "through a DataLoader"},
    )


def skorch_fit(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """skorch's NeuralNet over a DataLoader, without its validation split or printing."""
    import skorch
    import torch
    from skorch.callbacks import LRScheduler
    from torch.utils.data import DataLoader

    _quiet()
    data, order, build = _torch_parts(recipe, members)
    last: list[Any] = []

    def loader(dataset: Any, **options: Any) -> Any:
        return DataLoader(dataset, batch_sampler=order)

    def reset() -> None:
        order.begin()
        network = skorch.NeuralNet(
            build(),
            torch.nn.CrossEntropyLoss,
            optimizer=_torch_optimizer(recipe),
            lr=1.0,
            max_epochs=data.epochs,
            iterator_train=loader,
            train_split=None,
            verbose=0,
            device="cuda" if device == "gpu" else "cpu",
            callbacks=[
                LRScheduler(
                    torch.optim.lr_scheduler.LambdaLR,
                    step_every="batch",
                    lr_lambda=_rate(recipe, data),
                )
            ],
            **{f"optimizer__{name}": value for name, value in _torch_options(recipe).items()},
        )
        last[:] = [network.initialize()]

    def run() -> None:
        last[0].partial_fit(data.train_x_ND, data.train_y_N)

    environment = {"skorch": skorch.__version__, "torch": torch.__version__}
    return Prepared(
        reset,
        run,
        lambda: [_exported(last[0].module_, data)],
        environment | {"rows": "through a DataLoader"},
    )


def _torch_parts(
    recipe: Recipe, members: Members
) -> "tuple[PreparedData, _Order, Callable[[], torch.nn.Sequential]]":
    """The data, the order of its batches, and a function that builds the network at its start."""
    import torch

    require_common(recipe)
    data = members[0].cast(recipe.dtype)

    def build() -> torch.nn.Sequential:
        modules: list[torch.nn.Module] = []
        for name, inputs, outputs in _layers(data):
            linear = torch.nn.Linear(inputs, outputs, dtype=getattr(torch, recipe.training.dtype))
            # (in, out) -> (out, in)
            linear.weight.data = torch.tensor(data.parameters[f"{name}.weight"].T)
            linear.bias.data = torch.tensor(data.parameters[f"{name}.bias"])
            modules += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*modules[:-1])

    return data, _Order(data), build


def _torch_optimizer(recipe: Recipe) -> "Callable[..., torch.optim.Optimizer]":
    import torch

    return torch.optim.SGD if recipe.optimizer.name == "sgd" else torch.optim.AdamW


def _torch_options(recipe: Recipe) -> dict[str, Any]:
    optimizer = common_optimizer(recipe)
    if isinstance(optimizer, Sgd):
        return {"momentum": optimizer.momentum, "weight_decay": optimizer.weight_decay}
    return {
        "betas": (optimizer.beta1, optimizer.beta2),
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
    }


def _torch_rows(data: PreparedData) -> "tuple[torch.Tensor, torch.Tensor]":
    import torch

    return torch.from_numpy(data.train_x_ND), torch.from_numpy(data.train_y_N)


def _rate(recipe: Recipe, data: PreparedData) -> Callable[[int], float]:
    rates = learning_rates(recipe, data.updates_per_epoch).astype(recipe.dtype).tolist()
    return lambda update: rates[min(update, len(rates) - 1)]


def _exported(network: Any, data: PreparedData) -> Parameters:
    parameters = {}
    for (name, *_), linear in zip(_layers(data), list(network)[::2]):
        parameters[f"{name}.weight"] = linear.weight.detach().cpu().numpy().T
        parameters[f"{name}.bias"] = linear.bias.detach().cpu().numpy()
    return parameters


def _epochs(data: PreparedData) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """The rows and labels of each epoch, in its order."""
    used = int(data.batches(0).count_T.sum())
    orders = (data.batches(epoch).rows_TB.ravel()[:used] for epoch in range(data.epochs))
    return [(data.train_x_ND[order_N], data.train_y_N[order_N]) for order_N in orders]


def _parameter_names(data: PreparedData) -> list[str]:
    """Each layer's weight and bias, from the first layer to the last."""
    return [f"{name}.{kind}" for name, _, _ in _layers(data) for kind in ("weight", "bias")]


def _layers(data: PreparedData) -> list[tuple[str, int, int]]:
    return layer_sizes(len(data.columns), data.hidden, data.outputs)


def _without_gpu(device: str) -> None:
    if device == "gpu":
        raise Unable("has no GPU")


def _quiet() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
