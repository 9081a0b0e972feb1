"""Recipe hashes stay what they were. A change here leaves no old trace comparable."""

import pytest

from lockstep.recipe import Recipe, load_recipe, ready_made_recipes, variants_of

READY_MADE = {
    "breast_cancer": "4030cb935dfa0549129466def10e2ab37dd9fbfd8f238b301b4ec364184e5386",
    "diabetes": "51e9346899e91246361d90a8f9fcf9b54f4b4fac0d8b24258c42304318d84eda",
    "digits": "6303829e6f40866f9d549b43ba7bc7b832928a10d4e2c6ae3854ab09984fe34b",
    "seed": "f08065765a584216c3aa821d0eb6ed8f6f9db5169f28463edb153304418dee37",
}

# changes to the default recipe, and the first 16 digits of its hash
SAMPLE = [
    ({"schedule.name": "constant"}, "f08065765a584216"),
    ({"schedule.name": "linear"}, "66205678c76228f1"),
    ({"schedule.name": "polynomial"}, "d6a65354dc7b075b"),
    ({"schedule.name": "cosine"}, "5c6621be3e7f840e"),
    ({"schedule.name": "inverse_sqrt"}, "24c9069774dd104e"),
    ({"schedule.name": "exponential"}, "fc113b2c4e3358df"),
    ({"schedule.name": "step"}, "01598be3853c1964"),
    ({"schedule.name": "multistep"}, "0be57e4513eb9ffe"),
    ({"schedule.name": "wsd"}, "b1920f4018f279d6"),
    ({"schedule.name": "one_cycle"}, "464352661c0a256c"),
    ({"schedule.name": "cosine_restarts"}, "d7ad5fcd4556f1c1"),
    ({"schedule.name": "inverse_time"}, "43cda7ffab6e0d5d"),
    ({"loss.name": "cross_entropy"}, "f08065765a584216"),
    ({"loss.name": "binary_cross_entropy"}, "d5bc0564f2272a80"),
    ({"loss.name": "mse"}, "9ac1f2c3efe7a28b"),
    ({"loss.name": "huber"}, "871abb652243966a"),
    ({"model.activation": "relu"}, "f08065765a584216"),
    ({"model.activation": "leaky_relu"}, "a100ce725cfb6ee7"),
    ({"model.activation": "tanh"}, "26847037e2b372e7"),
    ({"model.activation": "sigmoid"}, "ab7af4c41ab87932"),
    ({"model.activation": "silu"}, "296efce8a8a71001"),
    ({"model.activation": "gelu"}, "12bc30f99892ad85"),
    ({"model.activation": "gelu_tanh"}, "183e40a70605d91c"),
    ({"model.activation": "elu"}, "63dc54cddf089e1a"),
    ({"model.activation": "softplus"}, "cb092ad00f353f31"),
    ({"model.activation": "mish"}, "dc6812304720611f"),
    (
        {"loss.label_smoothing": 0.1, "loss.class_weights": [1.0, 2.0],
         "loss.ignored_class": 3},
        "0acc1a09f753bbcc",
    ),
    ({"loss.name": "binary_cross_entropy", "loss.positive_weight": 3.0}, "b2f93be722443930"),
    ({"loss.name": "huber", "loss.delta": 0.3, "schedule.peak": 1}, "f7d449275341c52d"),
    (
        {"schedule.warmup": 3, "schedule.ramp": "t/W", "schedule.warmup_start": 0.5,
         "schedule.unit": "update", "schedule.warmup_top": "W-1"},
        "af055add0f610ba0",
    ),
    ({"schedule.warmup_curve": "log"}, "bea2304ba8769d0a"),
    (
        {"schedule.warmup_shape": "untuned_linear", "schedule.warmup": 0,
         "schedule.unit": "update", "optimizer.name": "adamw"},
        "3a375bbe9d479155",
    ),
    (
        {"schedule.name": "polynomial", "schedule.power": 2.0, "schedule.k_decay": 1.5,
         "schedule.end_rate": 1e-07},
        "cfbb84ca3fc1ce2c",
    ),
    (
        {"schedule.name": "cosine", "schedule.power": 2.0, "schedule.waves": 0.7,
         "schedule.k_decay": 1.5, "schedule.least_rate": 1e-08},
        "05555838bfc58472",
    ),
    (
        {"schedule.name": "inverse_sqrt", "schedule.timescale": 7, "schedule.length": 9,
         "schedule.floor": 0.1},
        "0211ed6fa975ce73",
    ),
    (
        {"schedule.name": "exponential", "schedule.delay": 0, "schedule.factor": 1.01,
         "schedule.edges": "optax"},
        "59156e8ba0b1a94c",
    ),
    (
        {"schedule.name": "step", "schedule.delay": 2, "schedule.every": 4,
         "schedule.decay_start": "0", "schedule.warmup_of": "schedule"},
        "ab6c1827f76f874f",
    ),
    (
        {"schedule.name": "multistep", "schedule.milestones": [1, 3],
         "schedule.factors": [0.5, 0.2]},
        "17e106dcdaeb37f3",
    ),
    (
        {"schedule.name": "wsd", "schedule.decay_shape": "power", "schedule.power": 0.3,
         "schedule.decay_length": 3},
        "5805125a9650dec3",
    ),
    (
        {"schedule.name": "wsd", "schedule.decay_shape": "exponential",
         "schedule.decay_ratio": 0.1},
        "c9ffdc12edf3ebea",
    ),
    (
        {"schedule.name": "one_cycle", "schedule.rise": 0.2, "schedule.fall": 0.5,
         "schedule.anneal": "linear", "schedule.first": 0.1},
        "ba86207fda3f1032",
    ),
    (
        {"schedule.name": "cosine_restarts", "schedule.cycle": 3, "schedule.cycles": 2,
         "schedule.cycle_growth": 2, "schedule.cycle_decay": 0.5},
        "a2ca04f877105cf1",
    ),
    (
        {"schedule.name": "cosine", "schedule.warmup": 10, "schedule.length": 10,
         "schedule.edges": "hf"},
        "20a7f6ba68f97806",
    ),
    ({"schedule.warmup": 0, "schedule.edges": "torch"}, "625bc3c7626bf50f"),
    ({"schedule.preset": "torch.constant"}, "f08065765a584216"),
    ({"schedule.preset": "torch.constant_lr"}, "b829a74f2885e4a6"),
    ({"schedule.preset": "torch.linear"}, "66205678c76228f1"),
    ({"schedule.preset": "torch.polynomial"}, "d6a65354dc7b075b"),
    ({"schedule.preset": "torch.cosine"}, "a7c9c88d1bfe7883"),
    ({"schedule.preset": "torch.exponential"}, "fc113b2c4e3358df"),
    ({"schedule.preset": "torch.step"}, "01598be3853c1964"),
    ({"schedule.preset": "torch.multistep"}, "0be57e4513eb9ffe"),
    ({"schedule.preset": "torch.one_cycle"}, "6900c47c983b1970"),
    ({"schedule.preset": "torch.one_cycle_three_phase"}, "fab2b1a394db3414"),
    ({"schedule.preset": "torch.cosine_restarts"}, "b82992a7b4db7706"),
    ({"schedule.preset": "optax.constant"}, "a916c7b86e057c1f"),
    ({"schedule.preset": "optax.linear"}, "59487e29cd1f73af"),
    ({"schedule.preset": "optax.polynomial"}, "dbfe96cfdb949aac"),
    ({"schedule.preset": "optax.cosine"}, "dfc295e265b9cfbf"),
    ({"schedule.preset": "optax.exponential"}, "ae944b83e42e3891"),
    ({"schedule.preset": "optax.step"}, "330b799fa301e032"),
    ({"schedule.preset": "optax.multistep"}, "2b577e606ffc037d"),
    ({"schedule.preset": "optax.one_cycle"}, "464352661c0a256c"),
    ({"schedule.preset": "optax.one_cycle_linear"}, "2bc34902c522280d"),
    ({"schedule.preset": "optax.cosine_restarts"}, "0e0a5a404fbb5aa9"),
    ({"schedule.preset": "hf.constant"}, "3fc91081687bb407"),
    ({"schedule.preset": "hf.constant_with_warmup"}, "a916c7b86e057c1f"),
    ({"schedule.preset": "hf.linear"}, "59487e29cd1f73af"),
    ({"schedule.preset": "hf.cosine"}, "e5ac51ea7b6125cf"),
    ({"schedule.preset": "hf.cosine_with_min_lr"}, "e5ac51ea7b6125cf"),
    ({"schedule.preset": "hf.cosine_warmup_with_min_lr"}, "3bb047b8f7d48e7b"),
    ({"schedule.preset": "hf.cosine_warmup_from_lr_rate"}, "5dc55ac454711639"),
    ({"schedule.preset": "hf.cosine_with_restarts"}, "5eb3c63c1c076d63"),
    ({"schedule.preset": "hf.polynomial"}, "b2ee7e8a33e17b8b"),
    ({"schedule.preset": "hf.inverse_sqrt"}, "d005d1a0c7cb9058"),
    ({"schedule.preset": "hf.warmup_stable_decay"}, "949d2127f975d4a7"),
    ({"schedule.preset": "timm.cosine"}, "b298d04f01079171"),
    ({"schedule.preset": "timm.cosine_prefix"}, "dfc295e265b9cfbf"),
    ({"schedule.preset": "timm.cosine_restarts"}, "5eb3c63c1c076d63"),
    ({"schedule.preset": "timm.polynomial"}, "5af578a6de6e84e4"),
    ({"schedule.preset": "timm.polynomial_prefix"}, "908e605a5c6f64ee"),
    ({"schedule.preset": "timm.step"}, "2feb27f99af5bfbb"),
    ({"schedule.preset": "timm.step_without_prefix"}, "2546170248212f03"),
    ({"schedule.preset": "timm.multistep_prefix"}, "85b05509734f5efd"),
    ({"schedule.preset": "timm.wsd"}, "5f52cfcf7e46e173"),
    ({"schedule.preset": "nanogpt.cosine"}, "fffb66302caf5e04"),
    ({"schedule.preset": "torchtitan.linear"}, "a76c6eb75b699897"),
    ({"schedule.preset": "torchtitan.cosine"}, "a7c9c88d1bfe7883"),
    ({"schedule.preset": "torchtitan.wsd"}, "95731aa2cc26c68b"),
    ({"schedule.preset": "megatron.constant"}, "a916c7b86e057c1f"),
    ({"schedule.preset": "megatron.linear"}, "59487e29cd1f73af"),
    ({"schedule.preset": "megatron.cosine"}, "dfc295e265b9cfbf"),
    ({"schedule.preset": "megatron.inverse_sqrt"}, "d005d1a0c7cb9058"),
    ({"schedule.preset": "megatron.wsd"}, "93502e6393e3b6b3"),
    ({"schedule.preset": "t5.inverse_sqrt"}, "6553a396888aa15e"),
    ({"schedule.preset": "t5.linear_warmup"}, "845fb57acc9dfec2"),
    ({"schedule.preset": "t5.decay_every"}, "699f6d8f3347576f"),
    ({"schedule.preset": "t5.cosine_decay"}, "7d3c9aa17739ba49"),
    ({"schedule.preset": "noam"}, "b9d7916b7aa50390"),
    ({"schedule.preset": "pytorch_warmup.linear"}, "f08065765a584216"),
    ({"schedule.preset": "pytorch_warmup.exponential"}, "97507d7a2aa3b9a9"),
    ({"schedule.preset": "bolts.cosine"}, "1f7dd5b63699d454"),
]  # fmt: skip


@pytest.mark.parametrize("name", READY_MADE)
def test_ready_made_recipes_keep_their_hashes(name: str) -> None:
    assert load_recipe(name).hash == READY_MADE[name]


def test_every_ready_made_recipe_has_a_pinned_hash() -> None:
    assert READY_MADE.keys() == ready_made_recipes().keys()


@pytest.mark.parametrize(("values", "pinned"), SAMPLE)
def test_recipes_keep_their_hashes(values: dict[str, object], pinned: str) -> None:
    assert Recipe().with_values(values).hash[:16] == pinned


@pytest.mark.parametrize("section", ["loss", "schedule"])
def test_every_variant_has_a_pinned_hash(section: str) -> None:
    pinned = {values[f"{section}.name"] for values, _ in SAMPLE if f"{section}.name" in values}
    assert pinned >= variants_of(section).keys()
