"""`lockstep curve`: what it computes, prints, writes and refuses."""

import io
import json
import sys

import numpy as np
import pytest

import jax_impl.schedule
import pt_impl.schedule
from lockstep.cli import main
from lockstep.errors import InputError
from lockstep.recipe import Recipe, Schedule, Training, load_recipe
from lockstep.report.console import make_console
from lockstep.report.schedule_curve import print_curves, render
from lockstep.schedules.curve import Curve, gap, knobs_of, marked_updates, preset_curve
from lockstep.schedules.formulas import learning_rates

TWINS = {"torch": pt_impl.schedule, "jax": jax_impl.schedule}


def curve(written, *, peak=1.0, warmup=4, updates=22, length=20):
    return preset_curve(written, peak=peak, warmup=warmup, updates=updates, length=length)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


# ---- curves


def test_a_preset_takes_the_common_knobs_that_it_has_and_its_own():
    cosine = curve("nanogpt.cosine,floor=0.25")
    assert (cosine.rates_T[3], cosine.rates_T[20]) == (0.8, 0.25)
    assert knobs_of(cosine)["length"] == 20
    assert curve("torch.one_cycle").warmup == 0
    assert curve("torch.multistep, milestones=[2,5] , factor=0.5").rates_T[-1] == 0.25
    assert curve("hf.cosine", length=None).rates_T[21] > 0  # T is the run's


def test_a_curve_counts_the_warmup_in_updates():
    recipe = Recipe(schedule=Schedule(name="cosine", warmup=2), training=Training(epochs=6))
    mine = Curve.of("mine", recipe, 5)
    assert mine.warmup == 10
    assert knobs_of(mine)["length"] == 6
    np.testing.assert_array_equal(mine.rates_T, learning_rates(recipe, 5))


def test_gap_names_where_two_curves_part_and_where_they_are_furthest_apart():
    hf = curve("hf.cosine")
    assert gap(hf, hf).first is None
    # one climbs back at T+1, the other stays
    apart = gap(hf, curve("optax.cosine"))
    assert (apart.same, apart.first, apart.largest) == (21, 21, 21)
    # they are 1/W apart all through the warmup, and the first update of it is named
    apart = gap(curve("hf.linear"), curve("torchtitan.linear"))
    assert (apart.first, apart.largest) == (0, 0)
    apart = gap(hf, curve("timm.cosine"))
    assert apart.first == 4
    assert 4 < apart.largest < 20


def test_marked_updates_name_what_happens_there():
    marks = marked_updates([curve("hf.cosine"), curve("optax.cosine")])
    assert marks[0] == "first"
    assert (marks[3], marks[4], marks[5]) == ("W-1", "W", "W+1")
    assert marks[20] == "T"
    assert marks[21] == "T+1, last, first apart, furthest apart"


# ---- the twins' side


@pytest.mark.parametrize("backend", TWINS)
def test_twins_apply_the_bits_of_the_table(backend):
    table_T = curve("hf.cosine", peak=0.01, warmup=50, updates=500, length=400).rounded_T
    rates_T = TWINS[backend].applied_rates(table_T)
    assert rates_T.dtype == np.float32
    np.testing.assert_array_equal(rates_T.view(np.int32), table_T.view(np.int32))


@pytest.mark.slow
def test_npz_has_the_closed_form_and_what_each_twin_applied(tmp_path, capsys):
    out = tmp_path / "x.npz"
    presets = ("--preset", "hf.cosine", "--preset", "nanogpt.cosine,floor=0")
    values = ("--peak", 3e-4, "--warmup", 100, "--updates", 1000)
    assert run("curve", *presets, *values, "--out", out) == 0
    with np.load(out) as arrays:
        assert set(arrays) == {"oracle", "torch", "jax", "names"}
        assert arrays["names"].tolist() == ["hf.cosine", "nanogpt.cosine,floor=0"]
        assert arrays["oracle"].dtype == np.float64
        assert arrays["oracle"].shape == (2, 1000)
        for backend in TWINS:
            assert arrays[backend].dtype == np.float32
            np.testing.assert_array_equal(arrays[backend], arrays["oracle"].astype(np.float32))
        assert arrays["oracle"][0, 0] == 0
    assert f"wrote {out}" in capsys.readouterr().out


def test_arrays_of_one_curve_have_one_axis(tmp_path):
    one = curve("noam")
    content = render(tmp_path / "x.npz", [one], dict.fromkeys(TWINS, one.rounded_T[None]))
    with np.load(io.BytesIO(content)) as arrays:
        assert [arrays[name].shape for name in ("oracle", "torch", "jax")] == [(22,)] * 3


# ---- what is shown


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_says_where_two_libraries_part(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    presets = [f"--preset={name}" for name in ("hf.cosine", "torch.cosine", "timm.cosine")]
    assert run("curve", *presets, "--peak", 3e-4, "--warmup", 1000, "--updates", 100_000) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert max(map(len, lines)) <= width
    (ramp,) = [line.split() for line in lines if line.strip().startswith("ramp ")]
    assert ramp == ["ramp", "t/W", "(t+1)/W", "t/W"]
    assert not any(line.strip().startswith("peak ") for line in lines)  # it is the same in all
    text = " ".join(printed.split())
    sentence = (
        "a and b: the same float32 value at 99000 of 100000 updates (99.0 %); "
        "first apart at update 0: 0 and 3e-07, 0.1 % of the peak; "
        "furthest apart at update 0: 0 and 3e-07, 0.1 % of the peak."
    )
    assert sentence in text
    assert "first apart at update 1000: 0.0003 and 0.000299926, 0.0247 % of the peak" in text
    place = "furthest apart at update 35748: 0.000217683 and 0.000214939"
    assert f"{place}, 0.914 % of the peak." in text


def test_one_curve_is_shown_with_all_its_knobs(capsys):
    assert run("curve", "--preset", "hf.cosine", "--warmup", 10, "--updates", 100) == 0
    printed = capsys.readouterr().out
    assert "Learning rate: hf.cosine" in printed
    rows = {tuple(line.split()) for line in printed.splitlines()}
    assert {("ramp", "t/W"), ("after_end", "continue"), ("length", "100")} <= rows
    assert ("10", "W", "0.01") in rows


def test_a_recipe_beside_a_preset_gives_it_peak_warmup_and_length(capsys):
    assert run("curve", "digits", "--preset", "torch.cosine") == 0
    printed = capsys.readouterr().out
    assert "a  digits" in printed
    assert ["warmup", "3", "135"] in [line.split() for line in printed.splitlines()]
    assert "of 900 updates" in printed


def test_the_default_recipe_with_a_field_changed(capsys):
    assert run("curve", "--set", "schedule.unit=update", "--updates", 50) == 0
    assert "Learning rate: seed" in capsys.readouterr().out


def test_all_presets_are_listed(capsys):
    assert run("curve", "--preset", "list") == 0
    printed = capsys.readouterr().out
    assert "hf.cosine " in printed
    assert "transformers 5.23 get_cosine_schedule_with_warmup" in printed
    assert "peak, unit, warmup, length" in printed


def test_same_curves_are_said_to_be_the_same(capsys):
    print_curves([curve("megatron.cosine"), curve("optax.cosine")], make_console())
    printed = capsys.readouterr().out
    assert "all the same" in printed
    assert "a and b: the same float32 value at every one of 22 updates." in printed


# ---- plots


def test_png_is_a_picture(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for curves in ([curve("hf.cosine")], [curve("hf.cosine"), curve("noam"), curve("hf.linear")]):
        picture = image.open(io.BytesIO(render(tmp_path / "x.png", curves, {})))
        assert picture.size[0] > 1000
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
        blue = np.abs(pixels - [0x44, 0x77, 0xAA]).max(axis=1) < 8
        assert blue.sum() > 200  # the first curve is drawn


def test_html_opens_offline_and_holds_the_curves(tmp_path):
    hostile = curve("hf.cosine")
    hostile = Curve("</script><b>", hostile.recipe, 1, hostile.rates_T)
    page = render(tmp_path / "x.html", [hostile, curve("noam")], {}).decode()
    assert "</script><b>" not in page
    assert 'src="http' not in page
    line = next(line for line in page.splitlines() if line.startswith("const curves = "))
    drawn = json.loads(line.removeprefix("const curves = ").removesuffix(";"))
    np.testing.assert_array_equal(drawn[1]["rate"], curve("noam").rates_T)
    assert drawn[1]["apart"][0] == 25.0
    assert "first apart at update 0: 0 and 0.25, 25 % of the peak" in page


def test_png_without_matplotlib_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    line = r"a \.png needs the package matplotlib\S*, which is not installed"
    with pytest.raises(InputError, match=line):
        render(tmp_path / "x.png", [curve("noam")], {})


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("--preset", "hf.cosin"),
            "schedule.preset: no preset 'hf.cosin'; did you mean hf.cosine?",
        ),
        (
            ("--preset", "hf.cosine,floor=0.1"),
            "schedule.floor: hf.cosine has no such knob; it has peak, unit, warmup, length, waves",
        ),
        (
            ("--preset", "nanogpt.cosine,floor=2"),
            "nanogpt.cosine: schedule.floor: input should be less than or equal",
        ),
        (
            ("--preset", "nanogpt.cosine,floor"),
            "--preset nanogpt.cosine,floor: 'floor' must be knob=value",
        ),
        (
            ("--preset", "torch.one_cycle", "--warmup", "3"),
            "--warmup 3: none of these presets has a warmup",
        ),
        (("--preset", "noam", "--length", "3"), "--length 3: none of these presets has a length"),
        (
            ("--preset", "hf.cosine", "--warmup", "11", "--updates", "10"),
            "hf.cosine: schedule.warmup: 11 updates of warmup are longer than the run of "
            "10 updates",
        ),
        (("--preset", "hf.cosine", "--peak", "0"), "Invalid value for '--peak'"),
        (("--preset", "hf.cosine", "--updates", "0"), "Invalid value for '--updates'"),
        (("--preset", "noam", "--out", "x.pdf"), "--out x.pdf: must end in .npz, .png, .html"),
        (("--preset", "noam", "--out", "nowhere/x.png"), "--out nowhere/x.png: no folder nowhere"),
        (("nothing",), "nothing: no such recipe file"),
        (("seed", "--updates", "50"), "--updates 50: the schedule of seed counts epochs"),
        (("--preset", "noam") * 27, "--preset: at most 26 curves at a time, got 27"),
    ],
)
def test_bad_input_is_one_line(arguments, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("curve", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (error,) = printed.err.splitlines()
    assert line in error
    assert not list(tmp_path.iterdir())


def test_a_seed_recipe_is_the_curve_of_its_own_data():
    seed = Curve.of("seed", load_recipe("seed"), 32)
    assert len(seed.rates_T) == 320
