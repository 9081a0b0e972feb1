"""PyTorch models and their optimizers record themselves, by the hooks that PyTorch offers."""

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lockstep.errors import InputError, RecorderWarning
from lockstep.own_loops.arrays import Tensor, dense, rates_of
from lockstep.own_loops.present_update import PresentUpdate
from lockstep.own_loops.torch_names import (
    Models,
    Optimizers,
    inside,
    module_names,
    wrappers,
)
from lockstep.own_loops.torch_passes import Passes
from lockstep.own_loops.torch_settings import (
    module_settings,
    objects_around,
    optimizer_settings,
    scaler_settings,
    scheduler_settings,
    tied_parameters,
)
from lockstep.own_loops.watchable import (
    checked_optimizer,
    refuse_foreign_optimizer,
    refuse_what_is_no_model,
)

__all__ = ["TorchWatch"]

HOLDERS = ("ModuleDict", "ModuleList")
"""Modules that are never called themselves."""
Wrap = Callable[[Any], Any]


class TorchWatch:
    """Hooks that record models and optimizers into the present update, and read their settings.

    Args:
        present: where the hooks record.

    Attributes:
        models: all models as one.
        optimizers: all optimizers as one.
    """

    def __init__(self, present: PresentUpdate) -> None:
        self.present = present
        self.models = Models([])
        self.optimizers = Optimizers([])
        self.passes: Passes | None = None
        self._hooks: list[Any] = []
        self._names: dict[int, str] = {}
        self._parameters: dict[str, Any] = {}
        self._hooked: set[str] = set()  # parameters whose gradients are heard
        self._groups: dict[int, int] = {}
        self._hears_every_step = False
        self._has_warned = False
        self._layers: list[dict[str, str]] = []
        self._stepped: set[int] = set()
        self._depths: dict[int, int] = {}  # optimizer -> its steps that are under way
        self._before: dict[int, dict[str, Tensor]] = {}  # optimizer -> gradients before its step
        self._unscaled: set[str] = set()  # parameters whose gradients the loop has given
        self._used_up: set[str] = set()  # parameters whose gradients a step has used
        self._given: dict[str, Tensor] = {}
        self._schedulers: list[Any] = []
        self._scalers: list[Any] = []
        self._has_looked_around = False
        self._settings: list[dict[str, Any]] = []
        self._skipped: list[int] = []
        self._scaler_settings: dict[str, Any] = {}

    def add(
        self, model: Any, optimizers: Sequence[Any], schedulers: Sequence[Any], scaler: Any
    ) -> None:
        """Watch a model, and optimizers of its parameters.

        Args:
            model: a `torch.nn.Module`.
            optimizers: each a `torch.optim.Optimizer`, or a wrapper with one as `optimizer`.
            schedulers: schedulers that cannot be found by themselves.
            scaler: a gradient scaler, likewise; None for none.

        Raises:
            InputError: an object of another kind; a model or an optimizer that is watched already;
                an optimizer of another model's parameters. Nothing is watched then.
        """
        refuse_what_is_no_model(model)
        optimizers = [checked_optimizer(optimizer) for optimizer in optimizers]
        models = Models([*self.models.models, model])
        parameters = {
            name: one for name, one in models.named_parameters() if one.is_floating_point()
        }
        names = {id(parameter): name for name, parameter in parameters.items()}
        for optimizer in optimizers:
            refuse_foreign_optimizer(optimizer, names, self.optimizers.optimizers)
        self.models = models
        self.optimizers = Optimizers([*self.optimizers.optimizers, *optimizers])
        self._names = names
        self._parameters = parameters
        self._schedulers += schedulers
        if scaler is not None and getattr(scaler, "is_enabled", _always)():
            self._scalers.append(scaler)
        self._hook_layers(model)
        self._hook_gradients()
        if optimizers:
            self._hear_every_step()
        for optimizer in optimizers:
            self._groups[id(optimizer)] = len(optimizer.param_groups)
            self._hooks.append(optimizer.register_step_pre_hook(self._before_step))
            self._hooks.append(optimizer.register_step_post_hook(self._after_step))

    def close(self) -> None:
        """Remove every hook."""
        while self._hooks:
            self._hooks.pop().remove()

    @property
    def hint(self) -> str:
        """What to add where no update was closed; "" where the loop has not run either."""
        has_passed = self.passes is not None and self.passes.is_used
        if not has_passed and not self._stepped:
            return ""
        return "; call recorder.update(loss=loss) in the loop, after optimizer.step()"

    @property
    def has_unclosed_step(self) -> bool:
        """Whether an optimizer has stepped since the latest update was closed."""
        return bool(self._stepped)

    def note_batch(self, arrays: Mapping[str, Tensor]) -> None:
        """Remember the tensors that the loop gives as its batch, until the update is closed."""
        self._given |= arrays

    def note_gradients(self, names: Iterable[str]) -> None:
        """Remember whose gradients the loop gives itself, so that no scale is in them."""
        self._unscaled.update(names)

    def close_update(self) -> None:
        """Put what the hooks know of the present update into it."""
        self._look_around()
        for optimizer in self.optimizers.optimizers:
            if id(optimizer) not in self._stepped:
                self._note_no_step(optimizer)
        if self.passes is not None:
            self.passes.close(self._given)
            self._warn_of_silence(self.passes)
        self._stepped = set()
        self._depths = {}
        self._before = {}
        self._used_up = set()
        self._unscaled = set()
        self._given = {}

    def _warn_of_silence(self, passes: Passes) -> None:
        """Warn once where a model is trained, and none of its layers is called in Python."""
        present = self.present
        if present.number == 0 and present.squares and not passes.modes:
            warnings.warn(
                "no layer is recorded: none is called, or in functions alone that torch.compile "
                "has compiled",
                RecorderWarning,
                stacklevel=4,
            )

    # --- what is in the header

    def header(self) -> dict[str, Any]:
        """The fields of a trace's header that tell what was read off the loop."""
        read: dict[str, Any] = {
            "optimizers": self._settings or self._read_optimizers(),
            "schedulers": [scheduler_settings(one) for one in self._schedulers],
            "modules": self._read_modules(),
            "wrappers": [title for model in self.models.models for title in wrappers(model)],
            "tied": [
                names
                for model in self.models.models
                for names in tied_parameters(model, self._names)
            ],
        }
        scaler = self._scaler_settings
        if self._skipped and not scaler:  # there was no step
            scaler = scaler_settings(self._scalers[0])
        if scaler:
            read["grad_scaler"] = scaler | {"skipped": self._skipped}
        fields: dict[str, Any] = {"read": read}
        passes = self.passes
        if passes is None:
            return fields
        if passes.autocast:
            read["autocast"] = passes.autocast
        if passes.trains_in_evaluation is not None:
            read["trains_in_evaluation"] = sorted(passes.trains_in_evaluation)
        if passes.without_rows:
            read["without_rows"] = sorted(passes.without_rows)
        if passes.unread:
            read["unread"] = sorted(passes.unread)
        return fields | {"inputs": passes.inputs}

    def _read_optimizers(self) -> list[dict[str, Any]]:
        return [optimizer_settings(one, self._names) for one in self.optimizers.optimizers]

    def _read_modules(self) -> dict[str, Any]:
        modules: dict[str, Any] = {}
        for model, layers in zip(self.models.models, self._layers):
            modules |= module_settings(model, layers)
        for layer, is_training in (self.passes.modes if self.passes else {}).items():
            modules.setdefault(layer, {})["training"] = is_training
        return modules

    # --- hooks

    def _hook_layers(self, model: Any) -> None:
        roots = list(model.children()) if type(model).__name__ in HOLDERS else [model]
        if self.passes is None:
            is_alone = len(roots) == 1
            self.passes = Passes(self.present, self._hook_gradients, names_inputs=is_alone)
        else:
            self.passes.names_inputs = False
        layers = _layers_of(model)
        wrap = _wraps(model)
        for path, module in model.named_modules():
            if path in layers:
                self._hooks += self.passes.hook_layer(layers[path], module, wrap[path])
        for root in roots:
            self._hooks += self.passes.hook_model(root)
        self._layers.append(layers)

    def _hook_gradients(self) -> None:
        """Hear the gradients of the parameters that are trained, from now on perhaps."""
        for name, parameter in self._parameters.items():
            if name not in self._hooked and parameter.requires_grad:
                self._hooked.add(name)
                hook = self._gradient_hook(name)
                self._hooks.append(parameter.register_post_accumulate_grad_hook(hook))

    def _hear_every_step(self) -> None:
        """Hear the steps of all optimizers of the process, where this PyTorch can tell them."""
        module = sys.modules.get("torch.optim.optimizer")
        register = getattr(module, "register_optimizer_step_post_hook", None)
        if register is not None and not self._hears_every_step:
            self._hears_every_step = True
            self._hooks.append(register(self._after_any_step))

    def _gradient_hook(self, name: str) -> Callable[[Any], None]:
        def hook(parameter: Any) -> None:
            if name not in self._used_up:
                self.present.add("gradients", {name: dense(parameter.grad)})
                self._unscaled.discard(name)

        return hook

    def _names_of(self, optimizer: Any) -> dict[str, Any]:
        """Name -> parameter, of those that an optimizer trains and a model has."""
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        return {self._names[id(one)]: one for one in parameters if id(one) in self._names}

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        """Count the steps that are under way: one may call that of the class it is derived from.
        Keep the gradients that the step writes over, as that of Nesterov over all tensors does.
        """
        key = id(optimizer)
        self._depths[key] = self._depths.get(key, 0) + 1
        writes_over = any(group.get("nesterov") for group in optimizer.param_groups)
        if self._depths[key] == 1 and writes_over and self.present.is_due():
            named = self._names_of(optimizer).items()
            self._before[key] = {
                name: dense(one.grad).clone() for name, one in named if one.grad is not None
            }

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        depth = self._depths.pop(id(optimizer), 1) - 1
        if depth > 0:
            self._depths[id(optimizer)] = depth
            return
        present = self.present
        if id(optimizer) in self._stepped:
            raise InputError(
                f"update {present.number}: the optimizer steps twice in it; call update() after "
                "each step"
            )
        self._look_around()
        if _is_skipped_inside(optimizer):
            return
        self._stepped.add(id(optimizer))
        self._note_settings()
        self._set_rates(optimizer)
        named = self._names_of(optimizer)
        self._used_up |= named.keys()
        gradients = {name: dense(one.grad) for name, one in named.items() if one.grad is not None}
        gradients |= self._before.pop(id(optimizer), {})
        scale = self._scale_of(optimizer)
        has_recorded = any(name in present.squares for name in named)
        if has_recorded:
            present.scale("gradients", named.keys() - self._unscaled, 1 / scale)
        family = "clip" if has_recorded else "gradients"
        if not has_recorded or present.is_due():
            present.add(family, gradients)

    def _after_any_step(self, optimizer: Any, *_: Any) -> None:
        """Warn once of an optimizer that trains parameters of a model, and is not watched."""
        watched = self.optimizers.optimizers
        parts = [part for one in watched for part in (one, *vars(one).values())]
        if self._has_warned or not watched or any(optimizer is part for part in parts):
            return
        count = len(self._names_of(optimizer))
        if count:
            self._has_warned = True
            warnings.warn(
                f"another optimizer, {type(optimizer).__name__}, steps {count} parameters of the "
                "model: watch(model, [first, second]) records both",
                RecorderWarning,
                stacklevel=2,
            )

    def _note_no_step(self, optimizer: Any) -> None:
        """Record an update in which an optimizer takes no step."""
        present = self.present
        if "lr" not in present.scalars or len(self.optimizers.optimizers) > 1:
            self._set_rates(optimizer)
        names = self._names_of(optimizer)
        recorded = [name for name in names if name in present.squares]
        is_finite = all(math.isfinite(present.squares[name]) for name in recorded)
        if not self._scalers or is_finite:
            return
        present.drop("gradients", recorded)  # the scaler has thrown them away
        present.scalars["grad_norm"] = np.float64(0)
        if present.number not in self._skipped:
            self._skipped.append(present.number)

    def _set_rates(self, optimizer: Any) -> None:
        first = 0
        for other in self.optimizers.optimizers:
            if other is optimizer:
                break
            first += self._groups[id(other)]
        # a group that is added later has no rate before
        rates = rates_of(optimizer)[: self._groups[id(optimizer)]]
        self.present.set_rates(rates, first)

    # --- settings

    def _look_around(self) -> None:
        """Find schedulers and scalers, when the loop runs and all of it is there."""
        if self._has_looked_around or not self.optimizers.optimizers:
            return
        self._has_looked_around = True
        schedulers, scalers = objects_around(self.optimizers.optimizers, sys.modules["torch"])
        known = {id(one) for one in (*self._schedulers, *self._scalers)}
        self._schedulers += [one for one in schedulers if id(one) not in known]
        self._scalers += [one for one in scalers if id(one) not in known]

    def _note_settings(self) -> None:
        """Read the optimizers at the first step, and note which settings change later."""
        settings = self._read_optimizers()
        if not self._settings:
            self._settings = settings
            return
        for known, present in zip(self._settings, settings):
            for group, now in zip(known["groups"], present["groups"]):
                changed = [key for key in group if group[key] != now.get(key, group[key])]
                varies = {*group.get("varies", []), *changed} - {"lr", "parameters"}
                if varies:
                    group["varies"] = sorted(varies)

    def _scale_of(self, optimizer: Any) -> float:
        """The factor on the gradients that a scaler has put there; 1 without one."""
        for scaler in self._scalers:
            if id(optimizer) in getattr(scaler, "_per_optimizer_states", {id(optimizer): None}):
                if not self._scaler_settings:
                    self._scaler_settings = scaler_settings(scaler)
                return float(scaler.get_scale())
        return 1.0


def _layers_of(model: Any) -> dict[str, str]:
    """Path in PyTorch -> name, of the modules whose outputs are recorded.

    These are leaves, modules with parameters of their own, such as attention, and compiled modules,
    whose parts cannot be listened to without changing what is compiled.
    """
    names = module_names(model)
    layers = {}
    closed: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(prefix) for prefix in closed):
            continue
        is_leaf = not list(module.children())
        is_closed = _is_closed(module)
        if is_closed:
            closed.append(f"{path}." if path else "")
        if is_leaf or is_closed or list(module.parameters(recurse=False)):
            layers[path] = names[path] or type(_innermost(module)).__name__.lower()
    return layers


def _innermost(module: Any) -> Any:
    """The module in wrappers."""
    while inside(module):
        module = module._modules[inside(module)]
    return module


def _is_closed(module: Any) -> bool:
    """Whether a module is compiled so that a hook inside would change its numbers."""
    if getattr(module, "_compiled_call_impl", None) is not None:
        return True
    context = getattr(module, "dynamo_ctx", None)
    if context is None:
        return False
    return bool(
        getattr(context, "fullgraph", True)
        or getattr(context, "compiler_config", True) is not None  # as Inductor has
    )


def _wraps(model: Any) -> dict[str, Wrap]:
    """Path -> what to do with a hook of that module: those in a compiled one are not traced."""
    dynamo = sys.modules.get("torch._dynamo")
    wraps: dict[str, Wrap] = {}
    for path, module in model.named_modules():
        parent = path.rpartition(".")[0]
        is_compiled = hasattr(module, "dynamo_ctx") and dynamo is not None
        above = wraps.get(parent, _as_it_is)
        wraps[path] = dynamo.disable if is_compiled and dynamo is not None else above
    return wraps


def _always() -> bool:
    return True


def _as_it_is(hook: Any) -> Any:
    return hook


def _is_skipped_inside(optimizer: Any) -> bool:
    """Whether a fused step has left everything as it was, since a gradient is not finite."""
    is_infinite = getattr(optimizer, "found_inf", None)
    return is_infinite is not None and bool(float(is_infinite))
