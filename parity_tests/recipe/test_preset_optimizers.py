"""Every preset of an optimizer against the library's own class, on 40 draws of all its knobs. Run
it with `make sweep`.

In float64, over 30 updates with the same gradients, they agree within 1e-12. Where a preset's name
says that it is in full precision, the library keeps a number in float32.
"""

import pytest
import torch

from lockstep.diagnose.compare import SEMANTICS
from lockstep.recipe import Recipe
from parity_tests.shared.optimizers import LIBRARIES, Draw, drawn
from parity_tests.twins.test_other_optimizers import (
    apart,
    drive_optax,
    drive_oracle,
    drive_torch,
    gradients_of,
    start_of,
)

pytestmark = pytest.mark.sweep

DRAWS = 40
UPDATES = 30
# a float32 decay rate is off by 6e-8, and so is a float32 product of momenta
LOOSE = {
    "torch.nadam_full_precision": 1e-7,
    "torch.nadamw_full_precision": 1e-7,
    "optax.adafactor_full_precision": 1e-5,
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_an_optimizer_is_the_library_on_forty_draws(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of Muon, whose name says that bfloat16 is left out
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    worst = 0.0
    for seed in range(DRAWS):
        draw = Draw(seed)
        knobs, make = drawn(name, draw)
        start = start_of(3 + seed % 4, 2 + seed % 3, seed)
        gradients = gradients_of(start, UPDATES, seed)
        optimizer = Recipe.from_dict({"optimizer": {"preset": name, **knobs}}).optimizer
        expected = drive_oracle(optimizer, [draw.rate] * UPDATES, start, gradients)
        drive = drive_torch if name.startswith("torch.") else drive_optax
        difference = apart(drive(make, start, gradients), expected)
        assert difference <= LOOSE.get(name, SEMANTICS), (name, knobs, draw.rate, difference)
        worst = max(worst, difference)
    print(f"{name}: at most {worst:.1e} apart")  # pytest -rP shows it
