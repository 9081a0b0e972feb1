"""docs/catalogue.md lists all that a recipe can name."""

import re
import tomllib

from lockstep.recipe import KNOBS, SECTIONS, Recipe
from lockstep.recipe.presets import PRESETS, UNSAID
from tools.catalogue import INTRODUCTION, PAGE, TITLES, page


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run `make pages`"


def test_the_page_says_what_no_preset_can_be() -> None:
    for having in UNSAID.values():
        for name, line in having.items():
            assert f"| `{name}` | {line} |" in PAGE.read_text()


def test_every_section_that_is_trained_with_is_on_it() -> None:
    assert set(TITLES) == set(SECTIONS) - {"data", "convergence"}
    assert set(KNOBS) | set(PRESETS) <= set(TITLES)


def test_its_example_is_a_recipe() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", INTRODUCTION, re.DOTALL)
    recipe = Recipe.from_dict(tomllib.loads(example))
    assert (recipe.optimizer.decay_form, recipe.optimizer.weight_decay) == ("step", 0.05)
    assert (recipe.schedule.ramp, recipe.schedule.warmup) == ("t/W", 1000)
