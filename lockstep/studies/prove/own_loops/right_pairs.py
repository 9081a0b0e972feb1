"""Pairs of loops that mean the same and are written in two ways."""

from dataclasses import dataclass, replace
from typing import Any

from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["RIGHT_PAIRS", "Pair"]


@dataclass(frozen=True)
class Pair:
    """Two loops, and the seeds of perturbed reruns of each side."""

    a: Loop
    b: Loop
    seeds: tuple[int, ...] = ()


GPT = Loop()
MIXED_GPT = Loop(compute="bfloat16")
MLP = Loop(model="mlp", optimizer="adam", weight_decay=0.0)
MIXED_MLP = replace(MLP, compute="bfloat16", optimizer="adamw", weight_decay=0.1)
CONVNET = Loop(model="convnet", norm="batch", optimizer="sgd", lr=0.05, weight_decay=0.0)
GROUPED = replace(CONVNET, norm="group", optimizer="adamw", lr=3e-3, weight_decay=0.1)
LSTM = Loop(model="lstm", optimizer="adam", weight_decay=0.0, clip=0.5)
GRU = Loop(model="gru", optimizer="sgd", lr=0.1, weight_decay=0.0, updates=8)


def _ways(loop: Loop, **ways: Any) -> Pair:
    return Pair(loop, replace(loop, **ways))


def _port(loop: Loop, **ways: Any) -> Pair:
    return Pair(loop, replace(loop, framework="jax", **ways))


def _rerun(pair: Pair) -> Pair:
    return replace(pair, seeds=(1, 2))


FLOAT32 = {
    "gpt-attention-written": _ways(GPT, attention="written"),
    "gpt-attention-written-reruns": _rerun(_ways(GPT, attention="written")),
    "gpt-attention-packed-written": _ways(replace(GPT, is_packed=True), attention="written"),
    "gpt-layers-written": _ways(GPT, layers="written", loss_code="written"),
    "gpt-gelu-as-function": _ways(GPT, activation="function"),
    "gpt-optimizer-foreach": _ways(GPT, optimizer_code="foreach"),
    "gpt-optimizer-written": _ways(replace(GPT, clip=0.5), optimizer_code="written"),
    "gpt-two-groups-untied": _ways(
        replace(GPT, groups=2, is_tied=False), attention="written", optimizer_code="foreach"
    ),
    "gpt-accumulated": _ways(GPT, micro=2),
    "mlp-layers-written": _ways(MLP, layers="written"),
    "mlp-adam-written": _ways(MLP, optimizer_code="written", loss_code="written"),
    "mlp-sgd-foreach": _ways(
        replace(MLP, optimizer="sgd", lr=0.1), optimizer_code="foreach", layers="written"
    ),
    "convnet-channels-last": _ways(CONVNET, memory="nhwc"),
    "convnet-layers-written": _ways(CONVNET, layers="written"),
    "convnet-layers-written-reruns": _rerun(_ways(CONVNET, layers="written")),
    "convnet-accumulated": _ways(GROUPED, micro=4),
    "lstm-written": _ways(LSTM, layers="written"),
    "gru-written": _ways(GRU, layers="written"),
    "gru-written-reruns": _rerun(_ways(GRU, layers="written")),
}
FLOAT64 = {
    "gpt-float64": _ways(replace(GPT, dtype="float64"), attention="written", layers="written"),
    "gpt-packed-float64": _ways(
        replace(GPT, dtype="float64", is_packed=True), attention="written", micro=2
    ),
    "mlp-float64": _ways(replace(MLP, dtype="float64"), layers="written", optimizer_code="written"),
    "convnet-float64": _ways(replace(CONVNET, dtype="float64"), layers="written"),
    "lstm-float64": _ways(replace(LSTM, dtype="float64"), layers="written"),
    "gru-float64-reruns": _rerun(_ways(replace(GRU, dtype="float64"), layers="written")),
}
MIXED = {
    "gpt-mixed-attention-written": _ways(MIXED_GPT, attention="written"),
    "gpt-mixed-attention-written-reruns": _rerun(_ways(MIXED_GPT, attention="written")),
    "gpt-mixed-layers-written": _ways(MIXED_GPT, layers="written", loss_code="written"),
    "gpt-mixed-layers-coarse": _ways(MIXED_GPT, layers="coarse"),
    "gpt-mixed-packed": _ways(
        replace(MIXED_GPT, is_packed=True), attention="written", optimizer_code="foreach"
    ),
    "gpt-mixed-accumulated": _ways(replace(MIXED_GPT, clip=0.5), micro=2),
    "gpt-mixed-on-one-side": _ways(GPT, compute="bfloat16"),
    "gpt-mixed-on-one-side-reruns": _rerun(_ways(GPT, compute="bfloat16")),
    "gpt-mixed-two-groups": _ways(
        replace(MIXED_GPT, groups=2), optimizer_code="written", activation="function"
    ),
    "mlp-mixed-layers-written": _ways(MIXED_MLP, layers="written"),
    "mlp-mixed-on-one-side": _ways(replace(MIXED_MLP, compute=""), compute="bfloat16"),
    "mlp-mixed-sgd": _ways(
        replace(MIXED_MLP, optimizer="sgd", lr=0.1, weight_decay=1e-3),
        optimizer_code="foreach",
        layers="written",
    ),
    "mlp-all-in-bfloat16": _ways(
        replace(MLP, dtype="bfloat16"), layers="written", optimizer_code="written"
    ),
    "convnet-mixed-channels-last": _ways(
        replace(CONVNET, compute="bfloat16"), memory="nhwc", layers="written"
    ),
    "convnet-mixed-on-one-side": _ways(CONVNET, compute="bfloat16"),
    "lstm-mixed-on-one-side": _ways(LSTM, compute="bfloat16"),
    "gru-mixed-written": _ways(replace(GRU, compute="bfloat16"), layers="written"),
}
PORTED = {
    "gpt-port": _port(GPT, attention="written"),
    "gpt-port-reruns": _rerun(_port(GPT)),
    "gpt-port-float64": _port(replace(GPT, dtype="float64"), attention="written"),
    "gpt-port-mixed": _port(MIXED_GPT),
    "gpt-port-mixed-residual": _port(MIXED_GPT, residual="bfloat16"),
    "gpt-port-mixed-on-one-side": _port(GPT, compute="bfloat16"),
    "mlp-port": _port(MLP),
    "mlp-port-mixed": _port(MIXED_MLP),
    "mlp-port-mixed-reruns": _rerun(_port(MIXED_MLP)),
    "convnet-port": _port(GROUPED),
    "convnet-port-mixed": _port(replace(GROUPED, compute="bfloat16")),
    "lstm-port": _port(LSTM),
    "lstm-port-mixed": _port(replace(LSTM, compute="bfloat16")),
    "gru-port-float64": _port(replace(GRU, dtype="float64")),
    "gpt-jax-attention-written": _ways(
        replace(GPT, framework="jax"), attention="written", layers="written"
    ),
    "gpt-jax-mixed-attention-written": _ways(
        replace(MIXED_GPT, framework="jax"), attention="written", layers="written"
    ),
    "mlp-jax-mixed-on-one-side": _ways(
        replace(MIXED_MLP, framework="jax", compute=""), compute="bfloat16"
    ),
}
RIGHT_PAIRS: dict[str, Pair] = FLOAT32 | FLOAT64 | MIXED | PORTED
