"""The name map of two loops: proposals from values and shapes, refusals where these leave a choice,
and the use of a map.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep.cli import main
from lockstep.diagnose.names import (
    Join,
    Layout,
    NameMap,
    Sum,
    apply,
    load_names,
    save_names,
    split_name,
)
from lockstep.diagnose.naming.layouts import Source
from lockstep.diagnose.propose import propose
from lockstep.errors import InputError
from lockstep.own_loops.recorder import Recorder
from lockstep.records.trace import Trace

DRAW = np.random.Generator(np.random.PCG64(0))


def trace_of(
    parameters: dict[str, Any], changes: dict[str, Any] | None = None, **families: Any
) -> Trace:
    """A trace of one update, which changes the parameters by `changes`."""
    path = Path("not written")
    recorder = Recorder(path, backend="loop")
    recorder.start(parameters)
    after = {name: value + (changes or {}).get(name, 0) for name, value in parameters.items()}
    recorder.update(loss=1.0, parameters=after, **families)
    header = recorder._header("")
    arrays = {f"parameters/0/{name}": value for name, value in parameters.items()}
    arrays |= {f"parameters/1/{name}": value for name, value in after.items()}
    arrays |= {f"detail/0/{name}": value for name, value in recorder._detail.updates[0].items()}
    return Trace(header, arrays)


def draw(*shape: int) -> np.ndarray:
    return DRAW.normal(size=shape).astype(np.float32)


def names_of(a: Trace, b: Trace, settled: NameMap | None = None) -> dict[str, tuple[Any, ...]]:
    names = propose(a, b, settled).names
    turned = apply(names, b)
    for name, array in a.parameters(0).items():
        if name not in names.only_a:
            assert turned.parameters(0)[name].shape == array.shape, name
    return {
        name: (layout.name, layout.axes, layout.reshape) for name, layout in names.names.items()
    }


# --- proposals


def test_every_layout_of_the_frameworks_is_found() -> None:
    linear, square, conv, embedding = draw(4, 3), draw(5, 5), draw(8, 3, 5, 5), draw(7, 6)
    heads, out, bias = draw(6, 12), draw(12, 6), draw(12)
    a = trace_of(
        {
            "fc.weight": linear,
            "fc.bias": np.zeros(4, np.float32),
            "square.weight": square,
            "conv.weight": conv,
            "embed.weight": embedding,
            "query.weight": heads,
            "query.bias": bias,
            "out.weight": out,
        }
    )
    b = trace_of(
        {
            "Dense_0.kernel": linear.T.copy(),
            "Dense_0.bias": np.zeros(4, np.float32),
            "Dense_1.kernel": square.T.copy(),
            "Conv_0.kernel": conv.transpose(2, 3, 1, 0).copy(),
            "Embed_0.embedding": embedding,
            "query.kernel": heads.T.reshape(12, 2, 3).copy(),
            "query.bias": bias.reshape(3, 4),
            "out.kernel": out.T.reshape(2, 3, 12).copy(),
        }
    )
    assert names_of(a, b) == {
        "fc.weight": ("Dense_0.kernel", (1, 0), ()),
        "fc.bias": ("Dense_0.bias", (), ()),
        "square.weight": ("Dense_1.kernel", (1, 0), ()),
        "conv.weight": ("Conv_0.kernel", (3, 2, 0, 1), ()),
        "embed.weight": ("Embed_0.embedding", (), ()),
        "query.weight": ("query.kernel", (1, 0), (12, 6)),
        "query.bias": ("query.bias", (), (12,)),
        "out.weight": ("out.kernel", (1, 0), (6, 12)),
    }


def test_values_decide_between_kernels_of_one_shape_and_closeness_where_none_is_equal() -> None:
    first, second = draw(4, 4), draw(4, 4)
    a = trace_of({"x": first, "y": second})
    rounded = {"p": second.astype(np.float16), "q": first.T.astype(np.float16)}
    for b in (trace_of({"p": second, "q": first.T.copy()}), trace_of(rounded)):
        assert names_of(a, b) == {"x": ("q", (1, 0), ()), "y": ("p", (), ())}
    # the one that is equal wins over the one that is only close
    b = trace_of({"p": first * np.float32(1.001), "q": first})
    a = trace_of({"x": first, "y": first * np.float32(1.002)})
    assert names_of(a, b) == {"x": ("q", (), ()), "y": ("p", (), ())}


def test_biases_follow_their_kernels_and_constants_their_changes() -> None:
    kernels = draw(4, 4), draw(4, 4)
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    one = {"one.weight": kernels[0], "one.bias": zeros}
    two = {"two.weight": kernels[1], "two.bias": zeros}
    of_b = {"B.kernel": kernels[0].T, "B.bias": zeros, "A.kernel": kernels[1].T, "A.bias": zeros}
    names = names_of(trace_of(one | two), trace_of(of_b))
    assert (names["one.bias"][0], names["two.bias"][0]) == ("B.bias", "A.bias")
    # constants are told apart by their first changes, even where a fault has scaled all of these
    moves = [draw(4) for _ in range(4)]
    norm = {"n.weight": ones, "n.bias": zeros, "n.running_mean": zeros, "n.running_var": ones}
    other = {"N.var": ones, "N.mean": zeros, "N.scale": ones, "N.bias": zeros}
    a = trace_of(norm, dict(zip(norm, moves)))
    for scale in (1, 3):
        b = trace_of(other, {name: scale * moves[i] for name, i in zip(other, (3, 2, 0, 1))})
        assert {name: layout[0] for name, layout in names_of(a, b).items()} == {
            "n.weight": "N.scale",
            "n.bias": "N.bias",
            "n.running_mean": "N.mean",
            "n.running_var": "N.var",
        }


def test_alike_names_settle_what_nothing_else_does() -> None:
    zeros = np.zeros(3, np.float32)
    same = trace_of({"a": zeros, "b": zeros})
    assert names_of(same, same) == {"a": ("a", (), ()), "b": ("b", (), ())}


def test_a_block_around_the_whole_model_speaks_against_nothing() -> None:
    embedding, first, second = draw(7, 6), draw(6, 6), draw(6, 6)
    a = trace_of({
        "model.wte.weight": embedding,
        "model.h.0.up.weight": first,
        "model.h.1.up.weight": second,
    })  # fmt: skip
    b = trace_of({
        "head.embedding": embedding,  # a copy, where the weights should be tied
        "h.0.up.kernel": first.T,
        "h.1.up.kernel": second.T,
        "wte.embedding": embedding,
    })  # fmt: skip
    assert names_of(a, b)["model.wte.weight"][0] == "wte.embedding"


def test_shape_alone_is_said_and_never_turns_a_square() -> None:
    a, b = trace_of({"x": draw(3, 2), "y": draw(5)}), trace_of({"p": draw(2, 3), "q": draw(5)})
    proposal = propose(a, b)
    assert proposal.names.names == {"x": Layout("p", (1, 0)), "y": Layout("q")}
    assert set(proposal.reasons.values()) == {"shape alone, as the values differ"}
    for square, turned in ((draw(3, 3), draw(3, 3)), (draw(8, 3, 5, 5), draw(5, 5, 3, 8))):
        proposal = propose(
            trace_of({"x": square, "y": draw(7)}), trace_of({"p": turned, "q": draw(7)})
        )
        assert proposal.names.names == {"y": Layout("q")}
        assert (proposal.open_a, proposal.open_b) == ({"x": ("p",)}, ("p",))


def test_what_is_open_stands_in_the_file_and_may_be_given(tmp_path: Path) -> None:
    zeros, drawn = np.zeros(3, np.float32), draw(2)
    a = trace_of({"y": zeros, "x": zeros, "lost": draw(4), "sure": drawn})
    b = trace_of({"q": zeros, "p": zeros, "new": draw(7), "own": drawn})
    proposal = propose(a, b)
    assert proposal.names == NameMap({"sure": Layout("own")})
    save_names(tmp_path / "names.toml", proposal.names, proposal.reasons, proposal.remarks)
    text = (tmp_path / "names.toml").read_text()
    assert text.startswith(
        "# Open: add a line for each under [names], or its name under [only].\n"
        '# "y" = "p" or "q"\n# "x" = "p" or "q"\n# "lost" of A: nothing in B is like it\n'
        '# "q" of B\n# "p" of B\n# "new" of B\n'
    )
    assert load_names(tmp_path / "names.toml") == proposal.names
    settled = NameMap({"x": Layout("q")}, only_a=frozenset({"lost"}), only_b=frozenset({"new"}))
    assert names_of(a, b, settled) == {
        "x": ("q", (), ()),
        "y": ("p", (), ()),
        "sure": ("own", (), ()),
    }
    square = trace_of({"x": np.zeros((3, 3), np.float32), "y": drawn})
    assert propose(square, trace_of({"p": square.parameters(0)["x"], "q": drawn})).open_a == {
        "x": ("p",)
    }
    with pytest.raises(InputError, match="settled already, but not in trace B: r"):
        propose(a, b, NameMap({"x": Layout("r")}))


def test_what_one_side_lacks_is_only_in_the_other(tmp_path: Path) -> None:
    drawn = draw(2)
    names = propose(trace_of({"w": drawn, "lost": draw(4)}), trace_of({"w": drawn})).names
    assert (names.only_a, names.only_b) == ({"lost"}, frozenset())


def test_a_square_of_zeros_is_laid_out_by_its_first_gradient() -> None:
    zeros, gradient = np.zeros((3, 3), np.float32), draw(3, 3)
    a = trace_of({"x": zeros}, gradients={"x": gradient})
    b = trace_of({"p": zeros}, gradients={"p": gradient.T.copy()})
    assert names_of(a, b) == {"x": ("p", (1, 0), ())}


def test_layers_and_batches_are_found_by_their_numbers() -> None:
    image, output = draw(2, 3, 8, 8), draw(2, 4, 6, 6)
    a = trace_of(
        {"w": draw(1)},
        batch={"x": image, "y": np.arange(2)},
        forward={"conv1": output, "same": image},
    )
    b = trace_of(
        a.parameters(0),
        batch={"image": image.transpose(0, 2, 3, 1), "y": np.arange(2)},
        forward={
            "Conv_0": output.transpose(0, 2, 3, 1) * np.float32(1 + 1e-6),
            "same": image,
            "more": draw(2, 9),
        },
    )
    names = propose(a, b).names
    assert names.forward == {"conv1": Layout("Conv_0", (0, 3, 1, 2))}
    assert names.batch == {"x": Layout("image", (0, 3, 1, 2))}
    turned = apply(names, b)
    assert turned.header["layers"] == ["conv1", "same", "more"]
    np.testing.assert_array_equal(turned.arrays["detail/0/batch/x"], image)


def test_an_output_that_differs_is_laid_out_as_the_others() -> None:
    images = {
        "cube": draw(2, 5, 5, 5),
        "conv1": draw(2, 4, 6, 6),
        "conv2": draw(2, 3, 6, 6),
        "gone": draw(2, 3, 6),
    }
    a = trace_of({"w": draw(1)}, forward=images | {"dense": draw(2, 4)})
    turned = {
        name: array.transpose(0, 2, 3, 1) for name, array in images.items() if array.ndim == 4
    }
    other = {"conv2": turned["conv2"] + 1, "gone": images["gone"] + 1, "dense": draw(2, 4)}
    names = propose(a, trace_of(a.parameters(0), forward=turned | other)).names
    # (2, 5, 5, 5) has the same shape either way, so the numbers tell
    turned_layers = ("cube", "conv1", "conv2")
    assert names.forward == {name: Layout(name, (0, 3, 1, 2)) for name in turned_layers}


# --- the file


def names_each_once(table: dict[str, Source]) -> bool:
    """Whether no array of B is in two entries."""
    names = [name for source in table.values() for name in set(source.names)]
    return len(set(names)) == len(names)


axes = st.permutations(range(3)).map(tuple) | st.just((1, 0)) | st.just(())
shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
spans = st.sampled_from([(), (0, 3), (4, 5)])
layouts = st.builds(
    Layout,
    st.text(min_size=1, max_size=8),
    axes,
    shapes,
    span=spans,
    gates=axes,
    axis=st.integers(0, 3),
    flip=shapes,
    shape=shapes,
)
joins = st.builds(Join, st.lists(layouts, min_size=1, max_size=3).map(tuple), st.integers(0, 2))
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
tables = st.dictionaries(texts, layouts, max_size=4).filter(names_each_once)
sources = layouts | joins.filter(lambda join: len(set(join.names)) == len(join.parts))
parameters = st.dictionaries(texts, sources, max_size=4).filter(names_each_once)
terms = st.lists(sources, min_size=1, max_size=2).map(tuple)
sums = st.dictionaries(texts, st.builds(Sum, terms, terms), max_size=2)
missing = st.frozensets(texts, max_size=2)


@given(st.builds(NameMap, parameters, tables, tables, missing, missing, sums, tables, tables))
def test_a_map_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, names: NameMap
) -> None:
    path = tmp_path_factory.mktemp("names") / "names.toml"
    save_names(path, names, dict.fromkeys(names.names, "values"))
    assert load_names(path) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[names", "not TOML"),
        ("[parameters]", r"unknown table \[parameters\]; there are"),
        ("names = 3", "names: must be a table"),
        ('[names]\na = "x"\nb = "x"', r"\[names\]: a and b are both x"),
        ('[names]\na = "x"\na = "y"', "not TOML"),
        ("[names]\na = 3", "names.a: must be a name"),
        ('[names]\na = { layout = "transpose" }', "names.a: must be a name"),
        ('[names]\na = { name = "x", permute = [1, 0] }', "names.a: unknown key permute"),
        (
            '[names]\na = { name = "x", axes = [1, 1] }',
            r"names.a: axes: \[1, 1\] must name each axis once",
        ),
        (
            '[names]\na = { name = "x", axes = ["1"] }',
            "names.a: axes: must be a list of whole numbers",
        ),
        (
            '[names]\na = { name = "x", reshape = 3 }',
            "names.a: reshape: must be a list of whole numbers",
        ),
        (
            '[names]\na = { name = "x", layout = "turned" }',
            'names.a: layout: there is "transpose" alone',
        ),
        ('[names]\na = { name = "x", slice = [3, 3] }', "names.a: slice: .* a later end"),
        ('[names]\na = { name = "x", axis = -1 }', "names.a: axis: must be a whole number"),
        ('[names]\na = { name = "x", gates = [0, 2] }', "names.a: gates: .* each block once"),
        ('[names]\na = { join = "x" }', "names.a: join: must be a list of names"),
        ('[names]\na = { join = ["x"], slice = [0, 1] }', "names.a: unknown key slice; a join"),
        ('[names]\na = { join = ["x", "y"] }\nb = "y"', r"\[names\]: a and b are both y"),
        ('[names]\na = { name = "x", slice = [0, 1] }\nb = "x"', "a and b are both x"),
        ('[forward]\na = { join = ["x", "y"] }', "forward.a: an output or a batch is one array"),
        ('[sums]\na = ["x"]', r"sums.a: must be \{ a = \[...\], b = \[...\] \}"),
        ('[sums]\na = { a = [], b = ["x"] }', "sums.a.a: must be a list"),
        ('[same]\na = "x"', "same.a: must be a table of names"),
        ('[same.c]\na = "x"', r"\[same\]: has tables of names, a and b"),
        ('[only]\na = "x"', "only.a: must be a list of names"),
        ("[only]\nc = []", r"\[only\]: has lists of names, a and b"),
    ],
)
def test_a_bad_file_is_refused_by_its_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "names.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_names(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_names(tmp_path / "none.toml")


# --- its use


def test_apply_turns_every_family() -> None:
    arrays = {
        f"{family}{name}": np.arange(6.0).reshape(2, 3)
        for name in ("w.kernel", "other")
        for family in ("parameters/0/", "average/3/", "detail/1/gradients/", "detail/1/clip/",
                       "detail/1/moments/first/")
    }  # fmt: skip
    arrays |= {"statistics/gradients/w.kernel": np.zeros((4, 3)), "updates/loss": np.zeros(4)}
    trace = Trace({"backend": "jax", "layers": ["w"], "buffers": ["w.kernel"]}, arrays)
    turned = apply(NameMap({"w.weight": Layout("w.kernel", (1, 0))}), trace)
    assert turned.header["buffers"] == ["w.weight"]
    assert set(turned.arrays) == {name.replace("w.kernel", "w.weight") for name in arrays}
    for name, array in turned.arrays.items():
        if name.endswith("w.weight") and not name.startswith("statistics"):
            np.testing.assert_array_equal(array, np.arange(6.0).reshape(2, 3).T, err_msg=name)
        elif name.endswith("other"):
            np.testing.assert_array_equal(array, np.arange(6.0).reshape(2, 3), err_msg=name)
    assert turned.arrays["statistics/gradients/w.weight"].shape == (4, 3)


def test_a_map_that_does_not_fit_its_trace_is_refused() -> None:
    trace = trace_of({"w": draw(2, 3), "v": draw(2)})
    with pytest.raises(InputError, match=r"\[names\]: not in the trace of loop: u, x"):
        apply(NameMap({"a": Layout("x"), "b": Layout("u")}), trace)
    with pytest.raises(InputError, match="v: two arrays of loop would have this name"):
        apply(NameMap({"v": Layout("w")}), trace)
    line = r"w: shape \(2, 3\) cannot be laid out by axes \[0, 2, 1\]"
    with pytest.raises(InputError, match=line):
        apply(NameMap({"a": Layout("w", (0, 2, 1))}), trace)


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("updates/loss", ("updates/", "updates", "loss")),
        ("parameters/0/a/b.c", ("parameters/0/", "parameters", "a/b.c")),
        ("detail/12/forward/conv1", ("detail/12/forward/", "forward", "conv1")),
        ("detail/12/moments/first/fc.weight", ("detail/12/moments/first/", "moments", "fc.weight")),
        (
            "statistics/moments/first/fc.weight",
            ("statistics/moments/first/", "moments", "fc.weight"),
        ),
        ("statistics/parameters/w", ("statistics/parameters/", "parameters", "w")),
    ],
)
def test_names_of_arrays_are_taken_apart(key: str, parts: tuple[str, str, str]) -> None:
    assert split_name(key) == parts


def test_the_command_writes_the_map_or_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = draw(3, 2)
    trace_of({"fc.weight": weight}).save(tmp_path / "a")
    trace_of({"fc.kernel": weight.T.copy()}).save(tmp_path / "b")
    trace_of({f"fc{i}.kernel": draw(9) for i in range(9)}).save(tmp_path / "c")
    out = tmp_path / "names.toml"

    def names(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["names", *words])
        return int(end.value.code or 0), *capsys.readouterr()

    status, _, err = names(str(tmp_path / "a"), str(tmp_path / "c"), "--out", str(out))
    assert (status, err.count("\n")) == (2, 1)
    assert "no parameter of loop is one of loop: fc.weight against fc0.kernel, fc1.kernel" in err
    assert err.endswith("fc4.kernel and 4 more\n")
    assert not out.exists()
    status, text, err = names(str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out))
    assert (status, err) == (0, "")
    assert "1 parameters are sure, 1 of them called or laid out otherwise" in text
    assert load_names(out).names == {"fc.weight": Layout("fc.kernel", (1, 0))}
    assert names(str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out))[0] == 2
