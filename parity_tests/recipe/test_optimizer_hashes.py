"""The hash of a recipe stays what it was, as a trace is compared only with another of its hash."""

from typing import Any

import pytest

from lockstep.recipe import Recipe, load_recipe, ready_made_recipes

READY_MADE = {
    "breast_cancer": "4030cb935dfa0549129466def10e2ab37dd9fbfd8f238b301b4ec364184e5386",
    "diabetes": "51e9346899e91246361d90a8f9fcf9b54f4b4fac0d8b24258c42304318d84eda",
    "digits": "6303829e6f40866f9d549b43ba7bc7b832928a10d4e2c6ae3854ab09984fe34b",
    "seed": "f08065765a584216c3aa821d0eb6ed8f6f9db5169f28463edb153304418dee37",
}

# written when all optimizers were one class; an entry may be added, and none may change
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "f08065765a584216c3aa821d0eb6ed8f6f9db5169f28463edb153304418dee37": {"optimizer.name": "sgd"},
    "e3d38a4ac2cc4656f5ea8ec050ec99b08d57ead2084c99ef810a3c55029afc8e": {
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.0,
        "optimizer.weight_decay": 0.1,
    },
    "77311e7a6dc59ee9735d9875c5fc5a3f7dd79366ce082a943a291a888cdde27c": {
        "optimizer.name": "sgd",
        "optimizer.nesterov": True,
        "optimizer.multipliers": (0.5, 2.0),
    },
    "36daa734187eb95c3852c9a695a283eefe2a7f8cae6a8060217ef9e2326fb2c7": {
        "optimizer.name": "sgd",
        "optimizer.dampening": 0.3,
        "optimizer.decay_on": "weights",
    },
    "2fff4313b895499241bfb916965e0561fca2d341984c62ba1d1654b72d1707cf": {"optimizer.name": "adam"},
    "bd3a38a64bcaf3ed40eeb78b1faa0fcd35b3b503396091e0323b2c89ce7f2a54": {
        "optimizer.name": "adam",
        "optimizer.eps_in_root": True,
        "optimizer.eps": 1e-06,
    },
    "cb555efdaa4ff601fcdbff8aea33ad9e17094b2a300b72be9712834eeccf7a5c": {
        "optimizer.name": "adam",
        "optimizer.amsgrad": "raw",
        "optimizer.weight_decay": 0.05,
    },
    "f11c48cb1e37a8f0606882cc3ed077448ce4f9f8e341004dcfe08a69f1bc48a0": {"optimizer.name": "adamw"},
    "53fe642a6fdb5d413411b445cd3ebb40e1a8a08e9da1e58bc4743e51ac38154f": {
        "optimizer.name": "adamw",
        "optimizer.decay_form": "step",
        "optimizer.amsgrad": "corrected",
    },
    "1db302468bd9dc894eb24a3af1d81966c631dbba391d60b12491cba2a040ac2f": {"optimizer.name": "nadam"},
    "1d5517691ea545ed5d1927c8706da2fb4b4507cd77bbb2d1c334e63baf39fc6d": {
        "optimizer.name": "nadam",
        "optimizer.momentum_ramp": False,
    },
    "6f50f6d5411339a4b58607ae97c7d7b9b5cbedaa5cf061e7c574814ca5a24537": {
        "optimizer.name": "nadamw"
    },
    "dea1aebe2ac20be33565b90feb6c0f693e2a3c957653079d863ffbf39da832ee": {
        "optimizer.name": "nadamw",
        "optimizer.decay_form": "step",
        "optimizer.momentum_decay": 0.5,
    },
    "e5803848e373984c8cf3dc59325b4139259663df2051cac104209935e86af047": {"optimizer.name": "radam"},
    "86725a7ac5542ded3a43d2a1f9d9e4a5a18b8c80b01b080596ea51d0aaf368ba": {
        "optimizer.name": "radam",
        "optimizer.eps_corrected": True,
    },
    "1e23ed4ba27f7891cb68b3f1edabd22bad0da630341f1970347f00826d6a70ff": {
        "optimizer.name": "adamax"
    },
    "97ded3029ee291bfd6189b5aa052089e9b324f195868ebe0dec0576862fdb11e": {"optimizer.name": "lamb"},
    "2d08f715d29adbb511335b6ce42639a393029cca64449a52e45eae9dfa3d5c13": {"optimizer.name": "lion"},
    "4e6bf1cf87b66774e72c43c5be623e50c64b7de07960d30e76311bbdc116bacc": {
        "optimizer.name": "lion",
        "optimizer.beta1": 0.95,
        "optimizer.beta2": 0.98,
    },
    "ae01c7f17a82d177565edbc9d8637996148a08dfcb8fffae644d1415564e54a1": {
        "optimizer.name": "adagrad"
    },
    "a72a6eb08acbd160ebc83a351c930998e02b465cc16d8b83fb26cb85bd65c37a": {
        "optimizer.name": "adagrad",
        "optimizer.eps_in_root": True,
        "optimizer.initial_accumulator": 0.1,
        "optimizer.lr_decay": 0.01,
    },
    "d00cd48520f20e9f0562928a4da5a6ad9fa028b1d5da3d5c13ad0d02aea2f041": {
        "optimizer.name": "rmsprop"
    },
    "4b82ffefb40db4fa724f1b8412b22f7c672d0e9fe0d056431d33ee79a4c4437b": {
        "optimizer.name": "rmsprop",
        "optimizer.rate_in_momentum": True,
        "optimizer.centered": True,
        "optimizer.momentum": 0.8,
    },
    "ec100d9914c55ef840fd51a7653a0c5f2ae248f075cd5889249441c645e0c9ee": {
        "optimizer.name": "adadelta"
    },
    "5378e6af13c21197836aaecaafaceee8c70aeb8ce21ae22b3ac6908667229edd": {"optimizer.name": "rprop"},
    "5af2462cc42306c669402e7f475a13e1c8ce7718e3b949707bbfcfbe8ae44dee": {
        "optimizer.name": "rprop",
        "optimizer.shrink": 0.4,
        "optimizer.grow": 1.3,
        "optimizer.step_min": 0.001,
        "optimizer.step_max": 0.02,
    },
    "47e2435af6bda26ddec73b2c914e65503e45336e920ae883ce707ac08717acb5": {
        "optimizer.name": "adafactor"
    },
    "a100430a42a211a47cf8f3d9cd80cd20d07f5b84f63459bdd57d30ac4b50ca55": {
        "optimizer.name": "adafactor",
        "optimizer.eps": 1e-30,
        "optimizer.eps_in_root": True,
        "optimizer.rate_cap": False,
        "optimizer.min_factored": 128,
    },
    "580606d421adde2e3221d70d8ab936894cb0ccc0a06e282e043fb4e03785bda0": {"optimizer.name": "muon"},
    "17c73eda98e545d84ff4b04884e451062553cffdebadd3cb468c5a7deaab7214": {
        "optimizer.name": "muon",
        "optimizer.momentum_correction": True,
        "optimizer.nesterov_rest": True,
        "optimizer.eps_norm": 1e-08,
        "optimizer.eps_norm_added": True,
    },
    "f1f85d36d37c201fb512d48640c7ec9753836d29caefc0ee28ec8d6b9f469e3d": {
        "optimizer.name": "signum"
    },
    "8d2d1345d8c40ee6706f6699a36f31d322610b946bd8a52a544f4e7834f78c21": {
        "optimizer.name": "signum",
        "optimizer.momentum": 0.0,
        "optimizer.weight_decay": 0.05,
    },
    "68953283cdfa53847007254de30b86b66d5b70b5019a8ea0545140d0978551e8": {
        "optimizer.name": "adabelief"
    },
    "ba98411a7905af12a74b8cd64613eb67c4aa07c7a186935fb66070eb6f6e931b": {
        "optimizer.name": "adabelief",
        "optimizer.eps_root": 1e-06,
        "optimizer.nesterov": True,
    },
    "63ce71a73ee2eef9aaf28d41d36233aca302e43834f38babafb158296b0e4a4a": {"optimizer.name": "adan"},
    "c874261949170fa3bf683472c9446c93d935d59c7988aed6defc54c1c9584a61": {
        "optimizer.name": "adan",
        "optimizer.proximal": False,
        "optimizer.difference_weight": "1 - beta2",
    },
}


def test_no_ready_made_recipe_has_another_hash() -> None:
    assert {name: load_recipe(name).hash for name in ready_made_recipes()} == READY_MADE


@pytest.mark.parametrize("pinned", OPTIMIZERS)
def test_no_optimizer_changes_the_hash_of_a_recipe(pinned: str) -> None:
    assert Recipe().with_values(OPTIMIZERS[pinned]).hash == pinned
