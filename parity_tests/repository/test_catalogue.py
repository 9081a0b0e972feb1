"""docs/catalogue.md lists all that a recipe can name."""

import re
import tomllib

from lockstep.recipe import KNOBS, SECTIONS, Recipe
from lockstep.recipe.presets import PRESETS, UNSAID
from tools.catalogue import INTRODUCTION, PAGE, TITLES, page


def rows(text: str) -> set[str]:
    return {line for line in text.splitlines() if line.startswith("| `")}


def test_no_row_of_the_page_is_out_of_date() -> None:
    """`make docs` asks for the rows of what was added since it was written."""
    assert rows(PAGE.read_text())
    assert rows(PAGE.read_text()) <= rows(page()), "run `make pages`"


def test_the_page_says_what_no_preset_can_be() -> None:
    for having in UNSAID.values():
        for name, line in having.items():
            assert f"| `{name}` | {line} |" in rows(page())


def test_every_section_that_is_trained_with_is_on_it() -> None:
    assert set(TITLES) == set(SECTIONS) - {"data", "convergence"}
    assert set(KNOBS) | set(PRESETS) <= set(TITLES)


def test_its_example_is_a_recipe() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", INTRODUCTION, re.DOTALL)
    recipe = Recipe.from_dict(tomllib.loads(example))
    assert (recipe.optimizer.decay_form, recipe.optimizer.weight_decay) == ("step", 0.05)
    assert (recipe.schedule.ramp, recipe.schedule.warmup) == ("t/W", 1000)
