"""Recipes: what is accepted, what is refused and how, and what a hash depends on."""

import json
import subprocess
import sys
import tomllib
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep.errors import InputError
from lockstep.recipe import (
    KNOBS,
    OPTIONS,
    SECTIONS,
    Convergence,
    Data,
    Model,
    Optimizer,
    Recipe,
    Schedule,
    Training,
    field_docstrings,
    field_infos,
    load_recipe,
    ready_made_recipes,
    variants_of,
)

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def values_of(annotation, limits):
    """Every value that a field of that type takes, awkward numbers too."""
    if get_origin(annotation) in (UnionType, Union):  # an option
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Annotated:
        annotation, *infos = get_args(annotation)
        limits = [limit for info in infos for limit in info.metadata]
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is tuple:
        return st.lists(values_of(get_args(annotation)[0], ()), max_size=4).map(tuple)
    bounds = {
        name: getattr(limit, name)
        for limit in limits
        for name in ("ge", "gt", "le", "lt")
        if hasattr(limit, name)
    }
    least, most = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if annotation is int:
        return st.integers(least, 2**63 - 1 if most is None else most)
    if annotation is float:
        opened = {"exclude_min": "gt" in bounds, "exclude_max": "lt" in bounds}
        return st.floats(least, most, allow_infinity=False, allow_nan=False, **opened)
    return {bool: st.booleans(), str: text}[annotation]


@st.composite
def contents(draw):
    """Nested dicts with every field over its whole range."""
    content = {}
    for name in SECTIONS:
        drawn = {
            field: draw(values_of(info.annotation, info.metadata))
            for field, info in field_infos(name).items()
        }
        if variants_of(name):
            drawn["name"] = draw(st.sampled_from(list(variants_of(name))))
        knobs, options = KNOBS.get(name, {}), OPTIONS.get(name, {})
        known = {*knobs.get(drawn.get("name"), ()), *options.get(drawn.get("name"), ())}
        absent = set().union(*knobs.values(), *options.values()) - known
        content[name] = {field: value for field, value in drawn.items() if field not in absent}
    if content["average"].get("debias"):
        content["average"]["start"] = "zero"
    optimizer, layers = content["optimizer"], len(content["model"]["hidden"]) + 1
    if optimizer.get("nesterov"):
        needed = {"momentum": 0.5, "dampening": 0.0}
        optimizer |= {knob: value for knob, value in needed.items() if knob in optimizer}
    optimizer["multipliers"] = (optimizer["multipliers"] * layers)[:layers]
    _mend_schedule(content["schedule"], content["training"]["epochs"], "beta2" in optimizer)
    return content


def _mend_schedule(schedule, epochs, has_beta2):
    """Make the lengths of a schedule fit into one another."""
    if schedule["warmup_shape"].startswith("untuned"):
        if has_beta2:
            schedule |= {"warmup": 0, "unit": "update"}
        else:
            schedule["warmup_shape"] = "linear"
    if "factors" in schedule:
        milestones = schedule["milestones"]
        factors = (*schedule["factors"], *milestones)[: len(milestones)]
        schedule["factors"] = tuple(map(float, factors))
    if "end_rate" in schedule:
        schedule["end_rate"] = schedule["peak"] / 2
        if not schedule["end_rate"]:
            del schedule["end_rate"]
    decay = schedule.get("decay_length", 0)
    if schedule["unit"] == "epoch":
        schedule["warmup"] = min(schedule["warmup"], epochs)
    if "length" in schedule:
        is_the_run = schedule["unit"] == "epoch" or "untuned" in schedule["warmup_shape"]
        schedule["length"] = 0 if is_the_run else 2**60
        schedule["warmup"] = min(schedule["warmup"], 2**59)
    if decay and schedule["unit"] == "epoch":
        schedule["decay_length"] = min(decay, epochs)
        schedule["warmup"] = min(schedule["warmup"], epochs - schedule["decay_length"])
    if "timescale" in schedule:
        schedule["timescale"] += 1
    if schedule.get("fall"):
        schedule["rise"] = schedule["fall"] / 2
        schedule["fall"] *= schedule["rise"] < schedule["fall"]
    if schedule.get("fall", 0) > 1 and schedule["decay_end"] == "T":
        schedule["fall"], schedule["rise"] = 1.0, 0.5
    if "cycles" in schedule:
        schedule["cycles"], schedule["cycle"] = 1, schedule["cycle"] + 1
    # a library's way at the edges may be to refuse them
    is_at_an_edge = schedule["warmup"] < 2 or schedule["warmup"] == epochs
    if is_at_an_edge or schedule["name"] == "one_cycle" or decay:
        schedule.pop("edges", None)
    if schedule["warmup_curve"] == "constant":
        schedule["warmup_start"] = 0.5
    if schedule["warmup_shape"] != "linear":
        del schedule["warmup_curve"]
    if schedule["ramp"] != "t/W":
        del schedule["warmup_top"]


def recipes():
    """Every valid recipe."""
    return contents().map(Recipe.from_dict)


def other_value(annotation, value):
    """Another value that a field of that type takes."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice != value)
    if get_origin(annotation) is tuple:
        return (*value, 1)
    return {
        bool: lambda: not value,
        int: lambda: value + 1,
        float: lambda: value * 0.9 if value else 5e-324,
        str: lambda: value + "y",
    }[annotation]()


def refusal(call, *arguments):
    """The one line in which `call` refuses its arguments."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    (line,) = str(caught.value).splitlines()
    return line


def accepted(call, *arguments):
    """What `call` returns, or None where it refuses its arguments in one line."""
    try:
        return call(*arguments)
    except InputError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1, lines
    return None


# ---- to and from TOML


@given(recipes(), st.booleans())
def test_toml_round_trip_loses_nothing(recipe, documented):
    text = recipe.to_toml(documented=documented)
    again = Recipe.from_dict(tomllib.loads(text))
    assert again == recipe
    assert again.hash == recipe.hash
    assert again.to_toml(documented=documented) == text


@given(recipes())
def test_json_header_round_trip_loses_nothing(recipe):
    # a trace holds the recipe as JSON, which has lists and no tuples
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


@pytest.mark.parametrize("value", [1e-300, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, 1.0])
def test_toml_keeps_each_bit_of_a_float(value):
    recipe = Recipe(schedule=Schedule(peak=value))
    assert Recipe.from_dict(tomllib.loads(recipe.to_toml())).schedule.peak == value


def test_toml_of_softmax_regression_has_an_empty_list():
    recipe = Recipe(model=Model(hidden=()))
    assert "hidden = []" in recipe.to_toml()
    assert Recipe.from_dict(tomllib.loads(recipe.to_toml())).model.hidden == ()


def fields_of(recipe):
    """Section -> its fields without the knobs that the chosen names lack."""
    content = {
        name: {field for field, value in values.items() if value is not None}
        for name, values in asdict(recipe).items()
    }
    for name, knobs in KNOBS.items():
        every = set().union(*knobs.values(), *OPTIONS.get(name, {}).values())
        section = getattr(recipe, name)
        assert set(field_infos(name)) - every | set(knobs[section.name]) == content[name]
    return content


def test_toml_writes_every_field_out():
    content = tomllib.loads(Recipe().to_toml())
    assert {name: set(values) for name, values in content.items()} == fields_of(Recipe())


def test_every_field_is_described():
    documented = Recipe().to_toml(documented=True).splitlines()
    written = fields_of(Recipe())
    for name in SECTIONS:
        for field in field_infos(name):
            description = field_docstrings(name)[field]
            assert description, f"{name}.{field}"
            pairs = pairwise(documented)
            comments = [above for above, line in pairs if line.startswith(f"{field} =")]
            text = " ".join(description.split())
            is_described = any(text in comment for comment in comments)
            assert is_described == (field in written[name]), f"{name}.{field}"


def test_documented_toml_lists_the_choices():
    documented = Recipe().to_toml(documented=True)
    assert '`clip_at`. One of "none", "norm", "value". Default: "none".' in documented
    assert "Default: 0.9." in documented  # of a knob, that of the chosen optimizer


# ---- the hash


def test_hash_of_the_seed_recipe():
    # a change here makes every old trace incomparable: raise the schema version with it
    assert Recipe().hash == "f08065765a584216c3aa821d0eb6ed8f6f9db5169f28463edb153304418dee37"


def test_hash_does_not_depend_on_where_the_file_lies():
    assert Recipe(data=Data(path="/a/b.csv")).hash == Recipe().hash
    assert Recipe(data=Data(path="c.csv")).hash == Recipe().hash


@given(st.randoms(use_true_random=False))
def test_hash_does_not_depend_on_the_order_of_the_fields(random):
    content = asdict(Recipe())
    shuffled = {}
    for name in random.sample(sorted(content), len(content)):
        fields = random.sample(sorted(content[name]), len(content[name]))
        shuffled[name] = {field: content[name][field] for field in fields}
    assert Recipe.from_dict(shuffled).hash == Recipe().hash


UNSET = {
    "length": 7,
    "power": 2.0,
    "waves": 0.7,
    "k_decay": 1.5,
    "end_rate": 1e-7,
    "least_rate": 1e-8,
    "delay": 0,
    "factors": (0.5, 0.3),
    "decay_ratio": 0.1,
    "warmup_curve": "log",
    "warmup_top": "W-1",
}


@pytest.mark.parametrize(
    ("section", "name"), [(part, name) for part, having in OPTIONS.items() for name in having]
)
def test_an_option_that_is_not_set_counts_in_no_hash_and_one_that_is_does(section, name):
    base = Recipe().with_values({f"{section}.name": name})
    for option in OPTIONS[section][name]:
        assert getattr(getattr(base, section), option) is None
        assert option not in tomllib.loads(base.to_toml())[section]
        if option != "edges":  # counts where it changes a rate
            needed = {"schedule.ramp": "t/W"} if option == "warmup_top" else {}
            changed = base.with_values(needed | {f"{section}.{option}": UNSET[option]})
            assert changed.hash != base.with_values(needed).hash


def test_the_way_at_the_edges_counts_in_the_hash_where_it_changes_a_rate():
    def hashed(**schedule):
        return Recipe(schedule=Schedule(**schedule)).hash

    for without in (
        {"name": "cosine"},
        {"name": "cosine", "warmup": 9, "length": 10},
        {"warmup": 0},
    ):
        assert hashed(**without, edges="hf") == hashed(**without)
    for without in (
        {"name": "cosine", "warmup": 9, "length": 9},
        {"name": "linear", "warmup": 9, "length": 9},
    ):
        assert hashed(**without, edges="hf") != hashed(**without)
    assert hashed(warmup=0, edges="optax") != hashed(warmup=0)
    assert hashed(warmup=1, edges="optax") == hashed(warmup=1)


def test_another_schedule_keeps_no_way_at_the_edges():
    recipe = Recipe().with_values({"schedule.preset": "hf.cosine", "schedule.waves": 1.0})
    assert (recipe.schedule.edges, recipe.schedule.waves) == ("hf", 1.0)
    other = recipe.with_values({"schedule.name": "linear"}).schedule
    assert other.edges is None
    assert not hasattr(other, "waves")


CHOSEN = [("", "")] + [(section, name) for section, knobs in KNOBS.items() for name in knobs]


@pytest.mark.parametrize(("section", "name"), CHOSEN)
def test_hash_changes_with_each_field(section, name):
    one_layer = Recipe(model=Model(hidden=()))
    base = one_layer.with_values({f"{section}.name": name} if section else {})
    hashes = {base.hash}
    names = [
        (part, field)
        for part, written in fields_of(base).items()
        for field in written
        if section in ("", part)
    ]
    for part, field in names:
        info = field_infos(part)[field]
        if field == "name" and variants_of(part):
            continue
        other = other_value(info.annotation, getattr(getattr(base, part), field))
        needed = {"average.start": "zero"} if field == "debias" else {}
        if field == "nesterov" and getattr(base, part).get("momentum") == 0:
            continue
        other = {"length": 7, "fall": 0.5}.get(field, other)  # not shorter than warmup and rise
        changed = base.with_values({f"{part}.{field}": other} | needed)
        counts_not = field == "path" or part == "convergence"
        assert (changed.hash in hashes) == counts_not, f"{part}.{field}"
        hashes.add(changed.hash)


@pytest.mark.parametrize(("section", "name"), CHOSEN[1:])
def test_a_knob_that_the_chosen_one_lacks_is_refused_with_those_it_has(section, name):
    knobs = KNOBS[section]
    known = [*knobs[name], *OPTIONS.get(section, {}).get(name, ())]
    every = {knob: default for having in knobs.values() for knob, default in having.items()}
    for knob, value in every.items():
        if knob in known:
            continue
        line = refusal(Recipe.from_dict, {section: {"name": name, knob: value}})
        has = f"it has {', '.join(known)}" if known else "it has none"
        assert line == f"{section}.{knob}: {name} has no such knob; {has}"


def test_another_optimizer_brings_its_own_defaults_and_keeps_what_was_changed():
    recipe = Recipe().with_values({"optimizer.weight_decay": 0.3, "optimizer.momentum": 0.8})
    adamw = recipe.with_values({"optimizer.name": "adamw"}).optimizer
    assert adamw == Optimizer(name="adamw", weight_decay=0.3)
    assert recipe.with_values({"optimizer.name": "rmsprop"}).optimizer.momentum == 0.8
    assert Recipe().with_values({"optimizer.name": "rmsprop"}).optimizer.momentum == 0.0


def test_hash_tells_a_hidden_layer_apart_from_none():
    hashes = {
        Recipe(model=Model(hidden=hidden)).hash
        for hidden in [(), (5,), (50,), (5, 0 + 50), (55, 0 + 50)]
    }
    assert len(hashes) == 5


# ---- defaults, ready-made recipes, where they are found


def test_the_seed_recipe_is_the_default():
    declared = load_recipe("seed")
    assert replace(declared, convergence=Convergence()) == Recipe()
    assert declared.hash == Recipe().hash


@pytest.mark.parametrize("name", ["seed", "digits", "breast_cancer"])
@pytest.mark.parametrize("form", ["{}", "{}.toml", "recipes/{}.toml", "./recipes/{}.toml"])
def test_ready_made_recipes_are_found_from_any_folder(name, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = Recipe.from_dict(tomllib.loads(ready_made_recipes()[name].read_text()))
    assert load_recipe(form.format(name)) == expected


def test_a_file_of_that_name_comes_before_the_ready_made_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "digits.toml").write_text("[training]\nepochs = 77")
    assert load_recipe("recipes/digits.toml").training.epochs == 77


@pytest.mark.parametrize(
    "path", ["/nowhere/recipes/digits.toml", "project/recipes/digits.toml", "other/digits.toml"]
)
def test_a_wrong_folder_is_not_taken_for_the_ready_made_one(path):
    assert refusal(load_recipe, path).startswith(f"{path}: no such recipe file")


@pytest.mark.parametrize("name", ["digit", "digit.toml", "recipes/digit.toml"])
def test_an_unknown_recipe_names_the_nearest(name):
    line = refusal(load_recipe, name)
    assert line.startswith(f"{name}: no such recipe file")
    assert "did you mean digits?" in line
    assert "(ready-made: breast_cancer, diabetes, digits, seed)" in line


@pytest.mark.parametrize("name", ["", ".", "/", "x" * 5000, "nul\0"])
def test_an_impossible_path_is_no_recipe(name):
    assert "no such recipe file" in refusal(load_recipe, name)


def test_data_path_is_relative_to_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text('[data]\nsource = "file"\npath = "rows.csv"\ntarget = "y"')
    monkeypatch.chdir("/")
    assert load_recipe(str(tmp_path / "mine.toml")).data.path == str(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    "content",
    [
        b"epochs = ",
        b"\xff\xfe",
        b"[data]\nrows = 1\n[data]\nrows = 2",
        b"\0",
        b"rows = " + b"1" * 5000,
        b"a = " + b"[" * 100_000,
        b"a = 1979-99-99",
    ],
    ids=["no value", "not UTF-8", "twice", "NUL", "5000 digits", "nested", "no such day"],
)
def test_what_is_not_toml_is_refused(content, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    assert refusal(load_recipe, str(path)).startswith(f"{path}: not a readable TOML file: ")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_recipe_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    assert isinstance(accepted(load_recipe, str(path)), Recipe | None)


def test_an_error_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nepoch = 3")
    line = f"{path}: training.epoch: no such field; did you mean training.epochs?"
    assert refusal(load_recipe, str(path)) == line


# ---- from nested dicts


def test_missing_fields_take_their_defaults():
    assert Recipe.from_dict({}) == Recipe()
    assert Recipe.from_dict({"training": {"epochs": 7}}) == Recipe(training=Training(epochs=7))
    assert Recipe.from_dict({"data": {}, "model": {}}) == Recipe()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"trainin": {}}, "trainin: no such section; did you mean training?"),
        ({"training": 3}, "training: must be a table, [training]"),
        (
            {"training": {"epoch": 3}},
            "training.epoch: no such field; did you mean training.epochs?",
        ),
        (
            {"optimizer": {"weightdecay": 0.1}},
            "optimizer.weightdecay: no such field; did you mean optimizer.weight_decay?",
        ),
        ({"a\nb": {}}, "'a\\nb': no such section"),
        (
            {"training": {"bat\nch": 3}},
            "'training.bat\\nch': no such field; did you mean training.batch?",
        ),
        (
            {"training": {"batch": True}},
            "training.batch: input should be a valid integer, got True",
        ),
        (
            {"training": {"batch": 32.0}},
            "training.batch: input should be a valid integer, got 32.0",
        ),
        (
            {"training": {"batch": "32"}},
            "training.batch: input should be a valid integer, got '32'",
        ),
        (
            {"training": {"drop_last": 1}},
            "training.drop_last: input should be a valid boolean, got 1",
        ),
        (
            {"training": {"dtype": "float16"}},
            "training.dtype: input should be 'float32' or 'float64', got 'float16'",
        ),
        (
            {"training": {"batch": 0}},
            "training.batch: input should be greater than or equal to 1, got 0",
        ),
        (
            {"training": {"epochs": -1}},
            "training.epochs: input should be greater than or equal to 1, got -1",
        ),
        (
            {"training": {"seed": -1}},
            "training.seed: input should be greater than or equal to 0, got -1",
        ),
        (
            {"training": {"seed": 2**32}},
            "training.seed: input should be less than or equal to 4294967295, got 4294967296",
        ),
        ({"data": {"rows": 0}}, "data.rows: input should be greater than or equal to 1, got 0"),
        (
            {"data": {"features": -3}},
            "data.features: input should be greater than or equal to 1, got -3",
        ),
        (
            {"data": {"classes": 1}},
            "data.classes: input should be greater than or equal to 2, got 1",
        ),
        ({"data": {"held_out": 0.0}}, "data.held_out: input should be greater than 0, got 0.0"),
        ({"data": {"held_out": 1.0}}, "data.held_out: input should be less than 1, got 1.0"),
        (
            {"data": {"class_separation": 0.0}},
            "data.class_separation: input should be greater than 0, got 0.0",
        ),
        ({"data": {"path": 3}}, "data.path: input should be a valid string, got 3"),
        ({"model": {"hidden": 50}}, "model.hidden: input should be a list, got 50"),
        (
            {"model": {"hidden": [50, 0]}},
            "model.hidden.1: input should be greater than or equal to 1, got 0",
        ),
        (
            {"model": {"hidden": [-1]}},
            "model.hidden.0: input should be greater than or equal to 1, got -1",
        ),
        (
            {"model": {"hidden": [True]}},
            "model.hidden.0: input should be a valid integer, got True",
        ),
        ({"model": {"hidden": [5.0]}}, "model.hidden.0: input should be a valid integer, got 5.0"),
        ({"schedule": {"peak": True}}, "schedule.peak: input should be a valid number, got True"),
        ({"schedule": {"peak": "0.1"}}, "schedule.peak: input should be a valid number, got '0.1'"),
        ({"schedule": {"peak": 0.0}}, "schedule.peak: input should be greater than 0, got 0.0"),
        (
            {"schedule": {"peak": float("nan")}},
            "schedule.peak: input should be a finite number, got nan",
        ),
        (
            {"schedule": {"peak": float("inf")}},
            "schedule.peak: input should be a finite number, got inf",
        ),
        (
            {"schedule": {"warmup": -1}},
            "schedule.warmup: input should be greater than or equal to 0, got -1",
        ),
        (
            {"schedule": {"name": "cosine", "floor": 1.1}},
            "schedule.floor: input should be less than or equal to 1, got 1.1",
        ),
        (
            {"optimizer": {"momentum": 1.0}},
            "optimizer.momentum: input should be less than 1, got 1.0",
        ),
        (
            {"optimizer": {"weight_decay": -0.1}},
            "optimizer.weight_decay: input should be greater than or equal to 0, got -0.1",
        ),
        (
            {"optimizer": {"name": "adam", "eps": 0.0}},
            "optimizer.eps: input should be greater than 0, got 0.0",
        ),
        (
            {"optimizer": {"nesterov": True, "momentum": 0.0}},
            "optimizer.nesterov: true needs a momentum above 0 and a dampening of 0",
        ),
        (
            {"schedule": {"name": "cosine", "factor": 0.1}},
            "schedule.factor: cosine has no such knob; it has warmup, warmup_shape, ramp, "
            "warmup_start, warmup_of, length, decay_start, decay_end, floor, after_end, power, "
            "waves, k_decay, warmup_curve, warmup_top, least_rate, edges",
        ),
        (
            {"schedule": {"warmup_shape": "untuned_linear"}},
            "schedule.warmup: must be 0 with warmup_shape = untuned_linear, got 5",
        ),
        (
            {"schedule": {"warmup_shape": "untuned_linear", "warmup": 0}},
            'schedule.unit: must be "update" with warmup_shape = untuned_linear, got epoch',
        ),
        (
            {"schedule": {"warmup_shape": "untuned_linear", "warmup": 0, "unit": "update"}},
            "schedule.warmup_shape: untuned_linear takes its length from optimizer.beta2, "
            "which sgd does not have",
        ),
        (
            {"schedule": {"name": "inverse_sqrt", "warmup": 0}},
            "schedule.timescale: must be above 0 where there is no warmup",
        ),
        (
            {"schedule": {"name": "one_cycle", "fall": 0.3}},
            "schedule.fall: must be 0 or above rise = 0.3, got 0.3",
        ),
        (
            {"schedule": {"name": "linear", "length": 4}},
            "schedule.warmup: 5 epochs of warmup are longer than schedule.length = 4",
        ),
        (
            {"schedule": {"name": "wsd", "decay_length": 6}},
            "schedule.decay_length: 5 + 6 epochs of warmup and decay are longer than the run of "
            "10 epochs (training.epochs)",
        ),
        (
            {"schedule": {"name": "cosine_restarts", "cycles": 3, "cycle_growth": 2}},
            "schedule.cycles: the first of 3 cycles would be shorter than one epoch in the run of "
            "10 epochs (training.epochs)",
        ),
        (
            {"schedule": {"warmup": 11}},
            "schedule.warmup: 11 epochs of warmup are longer than the run of 10 epochs "
            "(training.epochs)",
        ),
        (
            {"training": {"epochs": 0, "batch": 0}},
            "training.epochs: input should be greater than or equal to 1, got 0; "
            "training.batch: input should be greater than or equal to 1, got 0",
        ),
    ],
)
def test_wrong_content_is_refused_by_name(content, line):
    assert refusal(Recipe.from_dict, content) == line


@pytest.mark.parametrize(
    "schedule",
    [Schedule(warmup=10), Schedule(warmup=0), Schedule(unit="update", warmup=11)],
    ids=["as long as the run", "none", "updates are counted later"],
)
def test_warmup_that_fits_is_accepted(schedule):
    assert Recipe(schedule=schedule).schedule == schedule


def test_a_whole_number_does_for_a_float():
    whole = Recipe.from_dict({"schedule": {"peak": 1}})
    assert whole.hash == Recipe(schedule=Schedule(peak=1.0)).hash


def test_length_of_the_warmup():
    assert Recipe().warmup == 5
    for shape, warmup in (("untuned_linear", 2000), ("untuned_exponential", 1000)):
        schedule = Schedule(warmup=0, warmup_shape=shape, unit="update")
        assert Recipe(optimizer=Optimizer(name="adamw"), schedule=schedule).warmup == warmup


def test_with_dtype_changes_nothing_else():
    other = Recipe().with_dtype("float64")
    assert other.dtype == "float64"
    assert replace(other, training=Training()) == Recipe()


# ---- overrides


@pytest.mark.parametrize(
    ("item", "name", "value"),
    [
        ("training.epochs=7", "training.epochs", 7),
        ("training.epochs = 7 ", "training.epochs", 7),
        ("training.epochs=1_000", "training.epochs", 1000),
        ("schedule.peak=1e-300", "schedule.peak", 1e-300),
        ("optimizer.name=adam", "optimizer.name", "adam"),
        ('optimizer.name="adam"', "optimizer.name", "adam"),
        ("optimizer.nesterov=true", "optimizer.nesterov", True),
        ("model.hidden=[]", "model.hidden", ()),
        ("model.hidden=[64, 32]", "model.hidden", (64, 32)),
        ("schedule.ramp=t/W", "schedule.ramp", "t/W"),
        ("data.target=a = b", "data.target", "a = b"),
        ("data.target=two words", "data.target", "two words"),
        ("data.target=", "data.target", ""),
        ("data.target=1\nx = 2", "data.target", "1\nx = 2"),
    ],
)
def test_overrides_are_toml_or_bare_words(item, name, value):
    assert load_recipe("seed", [item]) == load_recipe("seed").with_values({name: value})


def test_overrides_are_checked_together():
    # each alone would be refused: 5 epochs of warmup in 3
    recipe = load_recipe("seed", ["training.epochs=3", "schedule.warmup=2"])
    assert (recipe.training.epochs, recipe.schedule.warmup) == (3, 2)


@pytest.mark.parametrize(
    ("item", "line"),
    [
        ("training.epochs", "--set training.epochs: must be section.field=value"),
        (
            "training.epochs=3",
            "schedule.warmup: 5 epochs of warmup are longer than the run of 3 epochs "
            "(training.epochs)",
        ),
        ("epochs=3", "epochs: no such field; did you mean training.epochs?"),
        ("training.bach=3", "training.bach: no such field; did you mean training.batch?"),
        ("training.epochs.x=3", "training.epochs.x: no such field; did you mean training.epochs?"),
        ("=3", ": no such field"),
        ("a\nb=3", "'a\\nb': no such field"),
        ("training.epochs=many", "training.epochs: input should be a valid integer, got 'many'"),
        (
            "data.path=2020-01-01",
            "data.path: input should be a valid string, got datetime.date(2020, 1, 1)",
        ),
    ],
)
def test_wrong_overrides_are_refused_by_name(item, line):
    assert refusal(load_recipe, "seed", [item]) == line


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 100_000], ids=["5000 digits", "nested"])
def test_absurd_overrides_are_one_line(value):
    line = refusal(load_recipe, "seed", [f"training.epochs={value}"])
    assert line.startswith("training.epochs: ")


@given(st.text(max_size=30))
def test_any_override_is_applied_or_one_line(item):
    assert isinstance(accepted(load_recipe, "seed", [item]), Recipe | None)


# ---- the room


def test_the_core_imports_neither_framework():
    code = """
import sys
import lockstep.recipe, lockstep.data_prep, lockstep.schedules.formulas, lockstep.records.trace
print({"torch", "jax", "sklearn", "polars"} & set(sys.modules))
"""
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path("/"))
    assert process.stdout.strip() == "set()"
