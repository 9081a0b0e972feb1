"""Presets: the knobs that they stand for, and the libraries that they stand for."""

import pytest

from lockstep.errors import InputError
from lockstep.presets import PRESETS
from lockstep.recipe import KNOBS, SCHEDULE_KNOBS, SECTIONS, Recipe, load_recipe
from lockstep.schedules import learning_rates

EVERY = [(section, name) for section, presets in PRESETS.items() for name in presets]
NEEDED = {"factor": 0.5, "every": 3, "milestones": (2, 5), "timescale": 4, "cycle": 8, "cycles": 2, "decay_length": 5,
          "floor": 0.1}  # fmt: skip


def preset_recipe(name, *, epochs=100, **knobs):
    return Recipe.from_dict({"schedule": {"preset": name, **knobs}, "training": {"epochs": epochs}})


def rates(name, *, T=22, **knobs):
    return learning_rates(preset_recipe(name, epochs=T, **knobs), 1)


def refusal(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    (line,) = str(caught.value).splitlines()
    return line


# ---- the mechanism


@pytest.mark.parametrize(("section", "name"), EVERY)
def test_a_preset_fixes_or_leaves_free_every_knob_that_there_is(section, name):
    preset = PRESETS[section][name]
    assert preset.source
    assert not preset.fixed.keys() & preset.free.keys()
    knobs = KNOBS[section].get(preset.fixed.get("name"), {}) if section in KNOBS else {}
    fields = SECTIONS[section].__pydantic_fields__.keys()
    assert preset.fixed.keys() | preset.free.keys() | preset.ties.keys() <= fields
    written = preset.fixed.keys() | preset.free.keys() | preset.ties.keys()
    if preset.fixed.get("warmup") == 0 and "untuned" not in preset.fixed.get("warmup_shape", ""):
        written |= {"ramp", "warmup_shape", "warmup_start"}  # without a warmup they mean nothing
    assert knobs.keys() <= written


@pytest.mark.parametrize("name", PRESETS["schedule"])
def test_a_recipe_stores_the_knobs_alone(name):
    preset = PRESETS["schedule"][name]
    needed = {knob: NEEDED[knob] for knob, value in preset.free.items() if value is None and knob in NEEDED}
    adamw = {"name": "adamw", "beta2": 0.9}
    recipe = Recipe.from_dict({"schedule": {"preset": name, **needed}, "optimizer": adamw})
    assert recipe.schedule.name in SCHEDULE_KNOBS
    assert "preset" not in recipe.to_toml()
    for knob, value in preset.fixed.items():
        assert getattr(recipe.schedule, knob) == value


def test_a_preset_in_a_file_and_on_the_command_line(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[schedule]\npreset = "hf.cosine"\npeak = 3e-4\nunit = "update"\nwarmup = 9\n')
    recipe = load_recipe(str(path))
    assert recipe == load_recipe(
        "seed",
        ["schedule.preset=hf.cosine", "schedule.peak=3e-4", "schedule.unit=update", "schedule.warmup=9"],
    )
    assert (recipe.schedule.ramp, recipe.schedule.after_end) == ("t/W", "continue")


def test_of_the_recipe_before_stays_what_was_changed_and_is_left_free():
    recipe = load_recipe("digits", ["schedule.floor=0.3"]).with_overrides(["schedule.preset=hf.cosine"])
    assert (recipe.schedule.peak, recipe.schedule.warmup) == (0.05, 3)
    assert recipe.schedule.floor == 0.0
    assert recipe.with_overrides(["schedule.preset=nanogpt.cosine"]).schedule.floor == 0.1


def test_what_a_preset_lacks_is_refused_with_what_it_has():
    line = refusal(Recipe.from_dict, {"schedule": {"preset": "hf.cosine", "floor": 0.1}})
    assert line == "schedule.floor: hf.cosine has no such knob; it has peak, unit, warmup, length"
    line = refusal(load_recipe, "seed", ["schedule.preset=torch.one_cycle", "schedule.warmup=3"])
    assert line.startswith("schedule.warmup: torch.one_cycle has no such knob; it has peak, unit, length, anneal")


def test_an_unknown_preset_names_the_nearest_and_those_of_its_library():
    line = refusal(Recipe.from_dict, {"schedule": {"preset": "nanogpt.cosin"}})
    assert line == ("schedule.preset: no preset 'nanogpt.cosin'; did you mean nanogpt.cosine? There are nanogpt.cosine")
    assert "there are torch.constant," in refusal(Recipe.from_dict, {"schedule": {"preset": "x"}})
    assert "no preset 3" in refusal(Recipe.from_dict, {"schedule": {"preset": 3}})
    assert refusal(Recipe.from_dict, {"data": {"preset": "x"}}).startswith("data.preset: no such field")
    assert refusal(load_recipe, "seed", ["schedule.preset=hf.cosin"]).startswith("schedule.preset: no preset")


def test_a_wrong_value_beside_a_preset_is_refused_by_its_field():
    line = refusal(Recipe.from_dict, {"schedule": {"preset": "hf.cosine", "warmup": -1}})
    assert line == "schedule.warmup: input should be greater than or equal to 0, got -1"
