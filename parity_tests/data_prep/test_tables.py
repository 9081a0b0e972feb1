"""People's tables: what is read, what is refused in one line, and what becomes of missing values
and categories.
"""

import bz2
import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from lockstep.cli import main
from lockstep.data_prep import load_table, prepare, split_table
from lockstep.errors import InputError
from lockstep.recipe import Data, Loss, Recipe, Schedule, Training, load_recipe

Check = Callable[..., tuple[int, str, str]]
GENERATOR = random.Random(7)
ROWS = 60
WIDTH = [f"{number / 100:.2f}" for number in GENERATOR.sample(range(900), ROWS)]
DEPTH = [f"{number / 100:.2f}" for number in GENERATOR.sample(range(1000, 9900), ROWS)]
SORT = ["ripe" if i % 3 else "raw" for i in range(ROWS)]
COLOUR = [GENERATOR.choice(["red", "green", "blue"]) for _ in range(ROWS)]


def table(separator: str = ",", end: str = "\n", **columns: list[Any]) -> str:
    """The text of a table. Without columns it has two numbers and two classes."""
    columns = columns or {"width": WIDTH, "depth": DEPTH, "sort": SORT}
    lines = [columns.keys(), *zip(*columns.values(), strict=True)]
    return "".join(separator.join(map(str, line)) + end for line in lines)


def with_marks(values: list[str], mark: str, every: int = 5) -> list[str]:
    """The values, some of them missing."""
    return [mark if i % every == 2 else value for i, value in enumerate(values)]


def recipe_of(path: Path, target: str = "sort", loss: str = "cross_entropy", **data: Any) -> Recipe:
    return Recipe(
        data=Data(source="file", path=str(path), target=target, **data),
        loss=Loss(name=loss),
        schedule=Schedule(warmup=0),
        training=Training(batch=4, epochs=2),
    )


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """A function that runs `lockstep recipe check` on a table and gives its exit status, standard
    output and standard error.
    """

    def run(
        content: Any, *changes: str, name: str = "t.csv", target: str = "sort"
    ) -> tuple[int, str, str]:
        path = tmp_path / name
        if isinstance(content, polars.DataFrame):
            content.write_parquet(path)
        elif isinstance(content, dict):
            np.savez(path, **content)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        options = [f"--set={change}" for change in changes]
        with pytest.raises(SystemExit) as end:
            main(["recipe", "check", "--data", str(path), "--target", target, *options])
        out, err = [text.replace(f"{tmp_path}/", "") for text in capsys.readouterr()]
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def data_hash(check: Check) -> Callable[..., str]:
    """A function that gives the hash of the data of a table."""

    def run(*arguments: Any, **named: Any) -> str:
        status, out, err = check(*arguments, **named)
        assert (status, err) == (0, ""), err
        return out.split()[-1]

    return run


@pytest.fixture
def refusal(check: Check) -> Callable[..., str]:
    """A function that gives the one line in which a table is refused."""

    def run(*arguments: Any, **named: Any) -> str:
        status, out, err = check(*arguments, **named)
        (line,) = err.splitlines()
        assert (status, out) == (2, "")
        return line.removeprefix("lockstep: ")

    return run


# ---- text: separators, encodings, compression


@pytest.mark.parametrize(
    ("separator", "name", "called"),
    [
        (";", "t.csv", "semicolon"),
        ("\t", "t.csv", "tab"),
        ("|", "t.csv", "pipe"),
        (" ", "t.csv", "space"),
        (",", "t.tsv", "comma"),
    ],
)
def test_another_separator_is_named_and_read_where_it_is_given(
    separator: str,
    name: str,
    called: str,
    refusal: Callable[..., str],
    data_hash: Callable[..., str],
) -> None:
    line = refusal(table(separator), name=name)
    expected = "\t" if name == "t.tsv" else ","
    fault = f"the separator is {separator!r}, not {expected!r}"
    assert line == f"{name}: {fault}: data.separator = {called} reads it"
    assert data_hash(table(separator), f"data.separator={called}", name=name) == data_hash(table())


def test_a_separator_that_does_not_fit_is_refused_too(refusal: Callable[..., str]) -> None:
    line = refusal(table(), "data.separator=pipe")
    assert line == "t.csv: the separator is ',', not '|': data.separator = comma reads it"


def test_the_separator_is_named_beside_a_misspelt_target(refusal: Callable[..., str]) -> None:
    assert "the separator is ';'" in refusal(table(";"), target="Sort")


def test_a_tsv_has_tabs(data_hash: Callable[..., str]) -> None:
    assert data_hash(table("\t"), name="t.tsv") == data_hash(table())


SAME = {
    "gzip": ("t.csv.gz", gzip.compress(table().encode())),
    "bzip2": ("t.csv.bz2", bz2.compress(table().encode())),
    "xz": ("t.csv.xz", lzma.compress(table().encode())),
    "gzip of tabs": ("t.tsv.gz", gzip.compress(table("\t").encode())),
    "gzip by its content": ("t.csv", gzip.compress(table().encode())),
    "UTF-16": ("t.csv", table().encode("utf-16")),
    "UTF-16, the other order": ("t.csv", b"\xfe\xff" + table().encode("utf-16-be")),
    "UTF-8 with a mark": ("t.csv", b"\xef\xbb\xbf" + table().encode()),
    "CRLF": ("t.csv", table(end="\r\n").encode()),
    "quotes": (
        "t.csv",
        table(**{'"width"': WIDTH, '"depth"': DEPTH, '"sort"': [f'"{x}"' for x in SORT]}).encode(),
    ),
    "a declared separator": ("t.csv", b"sep=;\n" + table(";").encode()),
    "comments above": ("t.csv", b"# of 2021, in mm\n# by hand\n" + table().encode()),
    "comments between": ("t.csv", table().replace("\n", '\n# "a, quote\n', 9).encode()),
    "blank lines at the end": ("t.csv", table().encode() + b"\n\n"),
    "blanks at the end": ("t.csv", table().encode() + b"   \n \n"),
    "empty cells at the end": ("t.csv", table().encode() + b",,\n,,\n"),
    "a separator that ends each row": ("t.csv", table(end=",\n").encode()),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_table_in_other_clothes_gives_the_same_bits(
    case: str, data_hash: Callable[..., str]
) -> None:
    name, content = SAME[case]
    assert data_hash(content, name=name) == data_hash(table())


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (table() + "1,2,ripe,9\n", "row 61 has 4 cells for 3"),
        (table() + "1,2\n1,2,raw\n", "row 61 has 2 cells for 3"),
        ("# above\n" + table() + "# below\n1,2\n", "row 61 has 2 cells for 3"),
        (table() + '"1,2,raw\n', "row 61: a quote is not closed"),
        (
            table(a=WIDTH, sort=["süß"] * ROWS).encode("latin-1"),
            "line 2 is not UTF-8 (byte 0xfc); of Latin-1 or "
            "Windows-1252? convert it: iconv -f WINDOWS-1252 -t UTF-8",
        ),
        (
            table(süß=WIDTH, sort=SORT).encode("latin-1"),
            "line 1 is not UTF-8 (byte 0xfc); of Latin-1 or "
            "Windows-1252? convert it: iconv -f WINDOWS-1252 -t UTF-8",
        ),
        (
            table().encode("utf-16-le"),
            "zero bytes in every other place: UTF-16 without a byte-order mark? UTF-8 is read",
        ),
        (
            b"\xff\xfe" + table().encode("utf-16-le")[:-1],
            "its byte-order mark says UTF-16, but: truncated data",
        ),
        (
            table(end="\r"),
            "its lines end in a carriage return alone; those that end in a line feed are read",
        ),
        (
            gzip.compress(table().encode())[:-9],
            "not a readable gzip file: Compressed file ended before the "
            "end-of-stream marker was reached",
        ),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_by_what_was_seen(
    content: Any, line: str, refusal: Callable[..., str]
) -> None:
    assert refusal(content) == f"t.csv: {line}"


def test_what_its_name_calls_compressed_must_be(refusal: Callable[..., str]) -> None:
    assert refusal(table(), name="t.csv.gz") == "t.csv.gz: not compressed, in spite of its name"


def test_a_small_file_that_expands_without_end_is_refused(refusal: Callable[..., str]) -> None:
    bomb = gzip.compress(b"a,sort\n" + b"1,2\n" * 20_000_000, compresslevel=1)
    assert len(bomb) < 2**19
    assert "expands to more than 100 times its size and 64 MiB" in refusal(bomb, name="t.csv.gz")


@pytest.mark.parametrize(
    ("names", "target"),
    [
        (["0.31", "4.25", "1"], "1"),  # by its place, as it were
        (["0.31", "0.31", "raw"], "raw"),  # a class of the column
        (["0.31", "4.25", "raw"], "kind"),
        (["1,5", "2,5", "3"], "3"),
    ],
)
def test_a_first_row_of_numbers_is_no_header(
    names: list[str], target: str, refusal: Callable[..., str]
) -> None:
    first, *rest = table(";").splitlines(keepends=True)
    text = ";".join(names) + "\n" + "".join(rest)
    line = refusal(text, "data.separator=semicolon", target=target)
    fault = f"the first row holds numbers ({', '.join(names)})"
    assert line == f"t.csv: {fault}; it must hold the columns' names"
    assert first == "width;depth;sort\n"


@pytest.mark.parametrize("names", [("0", "1", "2"), ("410.5", "420.5", "class"), ("1", "2", "3")])
def test_names_that_are_numbers_may_count_or_stand_beside_a_name(
    names: tuple[str, ...], check: Check
) -> None:
    columns = dict(zip(names, (WIDTH, DEPTH, SORT)))
    status, out, _ = check(table(**columns), target=names[-1])
    assert status == 0
    assert "2 features, 2 classes" in out


# ---- numbers


def commas(values: list[str]) -> list[str]:
    return [value.replace(".", ",") for value in values]


def test_decimal_commas_are_read_where_the_cells_leave_no_doubt(
    check: Check, data_hash: Callable[..., str]
) -> None:
    text = table(";", width=commas(WIDTH), depth=commas(DEPTH), sort=SORT)
    status, out, err = check(text, "data.separator=semicolon")
    assert (status, err) == (0, "")
    assert "decimal comma: 'width', 'depth'" in out
    assert out.split()[-1] == data_hash(table())


def test_a_comma_before_three_digits_must_be_declared(
    refusal: Callable[..., str], data_hash: Callable[..., str]
) -> None:
    thousandths = [f"{i % 9 + 1},{100 + 7 * i}" for i in range(ROWS)]
    text = table(";", width=thousandths, sort=SORT)
    assert refusal(text, "data.separator=semicolon") == (
        "t.csv: row 1, column 'width' holds '1,100': a comma before the fraction, or between "
        "thousands? data.decimal = comma says the former; for the latter leave the commas out"
    )
    points = table(width=[value.replace(",", ".") for value in thousandths], sort=SORT)
    assert data_hash(text, "data.separator=semicolon", "data.decimal=comma") == data_hash(points)


@pytest.mark.parametrize("cell", ["1,234.5", "1.234,5", "12,345,678", "1'234", "1 234"])
def test_thousands_are_refused_as_what_they_are(cell: str, refusal: Callable[..., str]) -> None:
    line = refusal(table(";", width=[*WIDTH[:-1], cell], sort=SORT), "data.separator=semicolon")
    fault = f"column 'width' holds {cell!r}, a number with separators between its thousands"
    assert line == f"t.csv: row 60, {fault}; write it without"


def test_commas_in_one_column_and_points_in_another_are_refused(
    refusal: Callable[..., str],
) -> None:
    text = table(";", width=WIDTH, depth=commas(DEPTH), sort=SORT)
    assert refusal(text, "data.separator=semicolon") == (
        "t.csv: numbers of column 'depth' have a comma before their fraction, those of 'width' a "
        "point; it must be the same in both"
    )


def test_true_and_false_are_1_and_0_however_written(data_hash: Callable[..., str]) -> None:
    truth = [i % 4 == 1 for i in range(ROWS)]
    hashes = set()
    for words in (["false", "true"], ["False", "True"], ["FALSE", "TRUE"], ["0", "1"]):
        dry = [words[value] for value in truth]
        hashes.add(data_hash(table(width=WIDTH, dry=dry, sort=SORT)))
    assert len(hashes) == 1


# ---- missing values

MARKS = ["", "NA", "NaN", "nan", "null", "N/A", "None", "?", "-", " "]


@pytest.mark.parametrize("mark", MARKS)
def test_missing_values_are_refused_by_name(mark: str, refusal: Callable[..., str]) -> None:
    line = refusal(table(width=WIDTH, depth=with_marks(DEPTH, mark), sort=SORT))
    assert line.startswith("t.csv: row 3, column 'depth' ")
    assert line.endswith("; must be a finite number (data.missing = drop, mean or median)")


@pytest.mark.parametrize("strategy", ["mean", "median"])
def test_missing_values_are_filled_in_from_the_training_rows(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    hashes = set()
    for mark in MARKS:
        path.write_text(table(width=WIDTH, depth=with_marks(DEPTH, mark), sort=SORT))
        recipe = recipe_of(path, missing=strategy)
        loaded = load_table(recipe)
        data = prepare(recipe, loaded)
        hashes.add(data.hash)
    assert len(hashes) == 1
    # scikit-learn does the same from the rows that were split
    back_ND = data.train_x_ND * data.scale_D + data.mean_D
    known = set(map(float, WIDTH))
    assert set(back_ND[:, 0].round(2)) <= known
    present = [float(DEPTH[WIDTH.index(f"{width:.2f}")]) for width in back_ND[:, 0]]
    absent = [float(depth) for i, depth in enumerate(DEPTH) if i % 5 == 2]
    absent_N = np.isin(present, absent)
    column_N = np.where(absent_N, np.nan, present)[:, None]
    filled = SimpleImputer(strategy=strategy).fit_transform(column_N)
    np.testing.assert_allclose(back_ND[:, 1], filled[:, 0], rtol=1e-12)
    value = f"{filled[absent_N][0, 0]:.4g}"
    note = f"filled in by the training rows' {strategy}: depth in 12 rows by {value}"
    assert data.notes == (("missing values", note),)


def test_rows_with_missing_values_are_left_out(check: Check, data_hash: Callable[..., str]) -> None:
    text = table(width=WIDTH, depth=with_marks(DEPTH, "NA"), sort=SORT)
    status, out, err = check(text, "data.missing=drop")
    assert (status, err) == (0, "")
    assert "missing values: 12 of 60 rows left out" in out
    complete = [i for i in range(ROWS) if i % 5 != 2]
    shorter = table(
        width=[WIDTH[i] for i in complete],
        depth=[DEPTH[i] for i in complete],
        sort=[SORT[i] for i in complete],
    )
    assert out.split()[-1] == data_hash(shorter)


@pytest.mark.parametrize("column", ["depth", "sort"])
def test_drop_that_leaves_nothing_is_refused(column: str, refusal: Callable[..., str]) -> None:
    columns = {"width": WIDTH, "depth": DEPTH, "sort": SORT} | {column: ["NA"] * ROWS}
    line = refusal(table(**columns), "data.missing=drop")
    fault = "data.missing = drop leaves no row to train on"
    assert line == f"t.csv: {fault}; column {column!r} has 60 missing values"


def test_a_column_without_a_value_cannot_be_filled_in(refusal: Callable[..., str]) -> None:
    line = refusal(table(width=WIDTH, depth=["?"] * ROWS, sort=SORT), "data.missing=mean")
    assert line == "t.csv: column 'depth' has no value in any row; data.drop leaves it out"


def test_a_mark_of_ones_own(
    check: Check, refusal: Callable[..., str], data_hash: Callable[..., str]
) -> None:
    text = table(width=WIDTH, depth=with_marks(DEPTH, "-999"), sort=SORT)
    status, _, err = check(text)
    assert (status, err) == (
        0,
        "warning: column 'depth' holds -999 in 12 rows, far from all else: a missing value? "
        'data.missing_marks = ["-999"] says so\n',
    )
    assert "row 3, column 'depth' holds -999.0" in refusal(text, "data.missing_marks=-999")
    marked = data_hash(text, "data.missing=mean", 'data.missing_marks=["-999"]')
    text = table(width=WIDTH, depth=with_marks(DEPTH, "NA"), sort=SORT)
    assert marked == data_hash(text, "data.missing=mean")


def test_missing_in_a_text_target_is_a_class_with_a_warning_or_left_out(
    check: Check, refusal: Callable[..., str]
) -> None:
    text = table(width=WIDTH, sort=with_marks(SORT, "NA"))
    status, out, err = check(text)
    assert (status, err) == (
        0,
        "warning: target column 'sort': 'NA' is a class of its own, not a missing value "
        "(data.missing = drop)\n",
    )
    assert "3 classes" in out
    assert "2 classes" in check(text, "data.missing=drop")[1]
    assert refusal(text, "data.missing=mean") == (
        "t.csv: row 3, target column 'sort' holds 'NA', a missing value (data.missing = "
        "drop leaves such rows out)"
    )


def test_integer_classes_stay_integers_without_their_missing_ones(
    data_hash: Callable[..., str],
) -> None:
    classes = [str(i % 3 * 9) for i in range(ROWS)]  # as text 18 comes before 9
    complete = [i for i in range(ROWS) if i % 5 != 2]
    shorter = table(width=[WIDTH[i] for i in complete], sort=[classes[i] for i in complete])
    text = table(width=WIDTH, sort=with_marks(classes, "NA"))
    assert data_hash(text, "data.missing=drop") == data_hash(shorter)


def test_plus_and_minus_are_classes(check: Check) -> None:
    text = table(width=WIDTH, sort=["+-"[i % 2] for i in range(ROWS)])
    status, out, err = check(text, "data.missing=drop")
    assert (status, err) == (0, "")
    assert "45 rows to train on, 15 held out, 1 features, 2 classes" in out


def test_a_number_to_predict_is_never_filled_in(refusal: Callable[..., str], check: Check) -> None:
    text = table(width=WIDTH, sort=with_marks(DEPTH, ""))
    for missing in ("refuse", "mean"):
        line = refusal(text, "loss.name=mse", f"data.missing={missing}")
        assert line == (
            "t.csv: row 3, target column 'sort' is empty; must be a finite number "
            "(data.missing = drop leaves such rows out)"
        )
    assert "12 of 60 rows left out" in check(text, "loss.name=mse", "data.missing=drop")[1]


# ---- categories, dates, columns to leave out


def test_text_is_refused_with_the_way_to_take_it(refusal: Callable[..., str]) -> None:
    assert refusal(table(width=WIDTH, colour=COLOUR, sort=SORT)) == (
        f"t.csv: row 1, column 'colour' holds {COLOUR[0]!r}, text where a number is due; "
        "must be a finite number (data.categories = one-hot takes text)"
    )


def test_categories_become_columns_as_scikit_learn_makes_them(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(table(colour=COLOUR, width=WIDTH, sort=SORT))
    recipe = recipe_of(path, categories="one-hot")
    loaded = load_table(recipe)
    split = split_table(recipe, loaded)
    data = prepare(recipe, loaded)
    assert loaded.columns == ("colour", "width")
    assert data.columns == ("colour=blue", "colour=green", "colour=red", "width")
    assert data.notes == (("categories of colour", "3 columns: 'blue', 'green', 'red'"),)
    width_N = split.train_x_ND[:, 3] * split.scale_D[3] + split.mean_D[3]
    train_N = [WIDTH.index(f"{width:.2f}") for width in width_N]
    colours_N = np.array(COLOUR)[train_N][:, None]
    ones_ND = OneHotEncoder(sparse_output=False).fit_transform(colours_N)
    expected_ND = StandardScaler().fit_transform(ones_ND)
    np.testing.assert_allclose(data.train_x_ND[:, :3], expected_ND, atol=1e-14)
    assert loaded.row(data.first_row)[0] == COLOUR[train_N[0]]


def test_a_missing_category_is_one_of_its_own_or_refused(
    check: Check, refusal: Callable[..., str]
) -> None:
    text = table(width=WIDTH, colour=with_marks(COLOUR, "?"), sort=SORT)
    assert refusal(text, "data.categories=one-hot") == (
        "t.csv: row 3, column 'colour' holds '?'; must be a category (data.missing = drop, "
        "mean or median)"
    )
    status, out, err = check(text, "data.categories=one-hot", "data.missing=median")
    assert (status, err) == (0, "")
    assert "categories of colour: 4 columns: 'blue', 'green', 'red', '(missing)'" in out
    assert "3 columns" in check(text, "data.categories=one-hot", "data.missing=drop")[1]


def test_one_category_alone_is_a_constant_column(check: Check) -> None:
    text = table(width=WIDTH, colour=["red"] * ROWS, sort=SORT)
    status, out, err = check(text, "data.categories=one-hot")
    assert status == 0
    assert "categories of colour: 1 column: 'red'" in out
    assert err == "warning: column 'colour=red' is constant in the training rows: scaled by 1\n"


def test_a_category_that_only_held_out_rows_have_is_0_everywhere(tmp_path: Path) -> None:
    path, other = tmp_path / "t.csv", tmp_path / "held_out.csv"
    path.write_text(table(width=WIDTH, colour=COLOUR, sort=SORT))
    other.write_text(table(sort=["raw", "ripe"], colour=["black", "red"], width=["1.5", "2.5"]))
    recipe = recipe_of(path, categories="one-hot", holdout=str(other))
    data = prepare(recipe)
    assert data.warnings == (
        "column 'colour': 'black' in 1 held-out row and no training row: 0 in all its columns",
    )
    ones_ND = data.held_out_x_ND * data.scale_D + data.mean_D
    np.testing.assert_allclose(ones_ND, [[1.5, 0, 0, 0], [2.5, 0, 0, 1]], atol=1e-12)


def test_numbers_with_a_slip_are_no_categories(refusal: Callable[..., str], check: Check) -> None:
    line = refusal(table(width=[*WIDTH[:-1], "4.1O"], sort=SORT), "data.categories=one-hot")
    assert line == (
        "t.csv: row 60, column 'width' holds '4.1O', text where a number is due; must be a "
        "finite number"
    )
    few = [("0", "1", "2", "3+")[i % 4] for i in range(ROWS)]
    _, out, _ = check(table(children=few, sort=SORT), "data.categories=one-hot")
    assert "4 columns: '0', '1', '2', '3+'" in out


def test_too_many_categories_are_refused(refusal: Callable[..., str]) -> None:
    names = [f"name {i}" for i in range(1001)]
    line = refusal(table(name=names, sort=[i % 2 for i in range(1001)]), "data.categories=one-hot")
    rule = "must have at most 1000, or be left out (data.drop)"
    assert line == f"t.csv: column 'name' has 1001 categories; {rule}"


@pytest.mark.parametrize("categories", ["refuse", "one-hot"])
@pytest.mark.parametrize(
    "date",
    [
        "2021-03-{:02}",
        "{}/3/2021",
        "{:02}.03.21",
        "2021-03-{:02}T09:30:00Z",
        "{} Mar 2021",
        "9:{:02}",
        "2021/3/{}",
    ],
)
def test_dates_are_refused_by_name(
    date: str, categories: str, refusal: Callable[..., str], check: Check
) -> None:
    dates = [date.format(i % 28 + 1) for i in range(ROWS)]
    text = table(width=WIDTH, when=dates, sort=SORT)
    assert refusal(text, f"data.categories={categories}") == (
        f"t.csv: row 1, column 'when' holds dates ({dates[0]!r}); write them as numbers, or "
        "leave the column out (data.drop)"
    )
    status, out, err = check(text, "data.drop=when")
    assert (status, err) == (0, "")
    assert "columns left out: 'when'" in out


def test_dates_are_no_classes(refusal: Callable[..., str]) -> None:
    dates = [f"2021-03-{i % 2 + 1:02}" for i in range(ROWS)]
    assert refusal(table(width=WIDTH, sort=dates)) == (
        "t.csv: row 1, target column 'sort' holds dates ('2021-03-01'); must hold integers or text"
    )


def test_columns_are_left_out_by_name(
    data_hash: Callable[..., str], check: Check, refusal: Callable[..., str]
) -> None:
    text = table(width=WIDTH, note=COLOUR, depth=DEPTH, day=["2021-01-01"] * ROWS, sort=SORT)
    assert data_hash(text, 'data.drop=["note", "day"]') == data_hash(table())
    line = "data.drop: t.csv has no column 'Note'; did you mean 'note'?"
    assert refusal(text, "data.drop=Note") == line
    assert refusal(text, "data.drop=sort") == "data.drop: 'sort' is the target"


def test_categories_of_a_parquet_file(check: Check, refusal: Callable[..., str]) -> None:
    frame = polars.DataFrame({"width": list(map(float, WIDTH)), "colour": COLOUR, "sort": SORT})
    frame = frame.with_columns(polars.col("colour", "sort").cast(polars.Categorical))
    assert "text where a number is due" in refusal(frame, name="t.parquet")
    status, out, err = check(frame, "data.categories=one-hot", name="t.parquet")
    assert (status, err) == (0, "")
    assert "45 rows to train on, 15 held out, 4 features, 2 classes" in out


# ---- a hold-out file


def test_a_hold_out_file_is_held_out_and_fits_nothing(tmp_path: Path) -> None:
    path, other = tmp_path / "t.csv", tmp_path / "held_out.csv"
    path.write_text(table(width=WIDTH, depth=with_marks(DEPTH, ""), sort=SORT))
    outcomes = []
    for far in ("1.5", "1000000"):
        depth, width = [far, "", "2"], ["1.5", "2.5", "NA"]
        other.write_text(table(sort=["raw", "ripe", "raw"], depth=depth, width=width))
        outcomes.append(prepare(recipe_of(path, missing="mean", holdout=str(other))))
    first, second = outcomes
    assert first.train_x_ND.shape == (ROWS, 2)
    assert first.held_out_x_ND.shape == (3, 2)
    np.testing.assert_array_equal(first.train_x_ND, second.train_x_ND)
    np.testing.assert_array_equal(first.mean_D, second.mean_D)
    assert first.hash != second.hash
    filled = first.held_out_x_ND * first.scale_D + first.mean_D
    mean_width = np.mean([float(width) for width in WIDTH])
    mean_depth = np.mean([float(depth) for i, depth in enumerate(DEPTH) if i % 5 != 2])
    np.testing.assert_allclose(filled[:, 1], [1.5, mean_depth, 2], rtol=1e-12)
    np.testing.assert_allclose(filled[:, 0], [1.5, 2.5, mean_width], rtol=1e-12)


@pytest.mark.parametrize(
    ("columns", "changes", "line"),
    [
        ({"width": ["1"], "sort": ["raw"]}, [], "h.csv: no column 'depth', which t.csv has"),
        (
            {"width": ["1"], "depth": ["1"], "more": ["1"], "sort": ["raw"]},
            [],
            "h.csv: column 'more' is not in t.csv",
        ),
        (
            {"width": ["1"], "depth": ["1"]},
            [],
            "h.csv: no column 'sort' for the target; columns: 'width', 'depth'",
        ),
        (
            {"width": ["1", "x"], "depth": ["1", "2"], "sort": ["raw", "raw"]},
            [],
            "h.csv: row 2, column 'width' holds 'x', text where a number is due; must be a "
            "finite number",
        ),
        (
            {"width": ["1"], "depth": ["1"], "sort": ["rotten"]},
            [],
            "h.csv: class 'rotten' does not occur in t.csv",
        ),
        (
            {"width": ["1"], "depth": [""], "sort": ["raw"]},
            ["data.missing=drop"],
            "h.csv: data.missing = drop leaves no row of it",
        ),
    ],
)
def test_a_hold_out_file_must_fit(
    columns: dict[str, list[Any]],
    changes: list[str],
    line: str,
    tmp_path: Path,
    refusal: Callable[..., str],
) -> None:
    (tmp_path / "h.csv").write_text(table(**columns))
    assert refusal(table(), f"data.holdout={tmp_path}/h.csv", *changes) == line


def test_a_hold_out_file_lies_beside_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(table())
    (tmp_path / "h.csv").write_text(table())
    content = '[data]\nsource = "file"\npath = "t.csv"\nholdout = "h.csv"\ntarget = "sort"\n'
    (tmp_path / "mine.toml").write_text(content)
    data = prepare(load_recipe(str(tmp_path / "mine.toml")))
    np.testing.assert_allclose(data.train_x_ND, data.held_out_x_ND)


@pytest.mark.parametrize(
    "change", ["data.drop=x1", "data.missing=mean", "data.holdout=h.csv", "data.separator=tab"]
)
def test_what_a_file_alone_has_is_refused_of_other_rows(
    change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["recipe", "check", "digits", "--set", change])
    field = change.partition("=")[0]
    assert end.value.code == 2
    line = f'lockstep: {field}: for source = "file" only, and the source is "digits"\n'
    assert capsys.readouterr().err == line


# ---- what is odd


@pytest.mark.parametrize(
    ("name", "values", "what"),
    [
        ("", list(range(ROWS)), "counts the rows, from 0"),
        ("Unnamed: 0", list(range(1, ROWS + 1)), "counts the rows, from 1"),
        ("key", [i * 3 // 2 for i in range(ROWS)], "rises with every row, from 0 to 88"),
        (
            "customerId",
            [7919 * i % 1009 for i in range(ROWS)],
            "has another whole number in every row",
        ),
        ("k", [i * 7 % ROWS for i in range(ROWS)], "has another whole number in every row"),
    ],
)
def test_an_index_is_named(name: str, values: list[int], what: str, check: Check) -> None:
    status, _, err = check(table(**{name: values, "width": WIDTH, "sort": SORT}))
    assert (status, err) == (
        0,
        f"warning: column {name!r} {what}: an index is no feature; data.drop leaves it out\n",
    )


def test_text_that_differs_in_every_row_is_named(check: Check) -> None:
    names = [f"name {i}" for i in range(ROWS)]
    _, _, err = check(table(width=WIDTH, name=names, sort=SORT), "data.categories=one-hot")
    expected = (
        "column 'name' has 60 categories in 60 rows: an identifier, or free text? data.drop "
        "leaves it out"
    )
    assert f"warning: {expected}\n" in err


def test_ordinary_whole_numbers_are_no_index(check: Check) -> None:
    ages = [20 + 13 * i % 47 for i in range(ROWS)]
    years = [1990 + i // 4 for i in range(ROWS)]
    assert check(table(age=ages, year=years, width=WIDTH, sort=SORT))[2] == ""


def test_equal_columns_and_rounded_integers_are_named(check: Check) -> None:
    large = [2**53 + 2 * (i * i % 31) + 1 for i in range(ROWS)]
    status, _, err = check(table(width=WIDTH, copy=WIDTH, large=large, sort=SORT))
    assert (status, err.splitlines()) == (
        0,
        [
            "warning: column 'large' has integers beyond 2^53, which are rounded: float64 "
            "cannot tell neighbours apart",
            "warning: columns 'width' and 'copy' are equal",
        ],
    )


# ---- arrays


def test_a_target_of_one_column_is_a_column(data_hash: Callable[..., str]) -> None:
    x_ND, y_N = np.random.default_rng(0).random((ROWS, 2)), np.arange(ROWS) % 2
    column = data_hash({"x": x_ND, "sort": y_N[:, None]}, name="t.npz")
    assert column == data_hash({"x": x_ND, "sort": y_N}, name="t.npz")
    assert column == data_hash({"x": x_ND, "z": y_N[:, None]}, name="t.npz", target="z[0]")


# ---- large tables, hashes, the report


def test_types_follow_from_all_rows_and_not_from_the_first(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = 10_500  # more than are looked at first
    late = np.where(np.arange(rows) < 10_200, "", "2.5")
    width = np.where(np.arange(rows) < 10_200, generator.integers(0, 9, rows).astype("U4"), "0.25")
    text = table(width=width.tolist(), late=late.tolist(), sort=[i % 2 for i in range(rows)])
    (tmp_path / "t.csv").write_text(text)
    loaded = load_table(recipe_of(tmp_path / "t.csv", missing="mean"))
    assert loaded.categories == ()
    np.testing.assert_array_equal(loaded.x_ND[:, 0], width.astype(float))
    np.testing.assert_array_equal(loaded.x_ND[10_200:, 1], 2.5)
    assert np.isnan(loaded.x_ND[:10_200, 1]).all()


def test_recipes_without_the_new_fields_keep_their_hash() -> None:
    known = {
        "seed": "f08065765a584216c3aa821d0eb6ed8f6f9db5169f28463edb153304418dee37",
        "digits": "6303829e6f40866f9d549b43ba7bc7b832928a10d4e2c6ae3854ab09984fe34b",
        "breast_cancer": "4030cb935dfa0549129466def10e2ab37dd9fbfd8f238b301b4ec364184e5386",
        "diabetes": "51e9346899e91246361d90a8f9fcf9b54f4b4fac0d8b24258c42304318d84eda",
    }
    assert {name: load_recipe(name).hash for name in known} == known


def test_the_new_fields_count_in_the_hash_where_they_are_set() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"separator": "tab"},
        {"decimal": "comma"},
        {"drop": ("a",)},
        {"missing": "mean"},
        {"missing_marks": ("-1",)},
        {"categories": "one-hot"},
        {"holdout": "h.csv"},
    ]
    assert len({Recipe(data=Data(**change)).hash for change in changes}) == len(changes)
    # where the file lies does not count
    assert Recipe(data=Data(holdout="a.csv")).hash == Recipe(data=Data(holdout="b.csv")).hash


@pytest.mark.slow
def test_a_run_tells_in_its_second_stage_what_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    width = commas(with_marks(WIDTH, "NA"))
    path.write_text(table(";", width=width, colour=COLOUR, id=range(ROWS), sort=SORT))
    changes = ["separator=semicolon", "missing=median", "categories=one-hot", "drop=id"]
    options = [f"--set=data.{change}" for change in changes]
    options += ["--set=training.epochs=2", "--set=schedule.warmup=1"]
    command = ["run", "--data", str(path), "--target", "sort", "--out", str(tmp_path / "R")]
    with pytest.raises(SystemExit) as end:
        main([*command, *options])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert "ROUNDING" in out
    stage = " ".join(out.partition("2. Preprocessing")[2].partition("3. Model")[0].split())
    for line in (
        "separator ';'",
        "columns left out 'id'",
        "decimal comma 'width'",
        "missing values filled in by the training rows' median: width in 12 rows by",
        "categories of colour 3 columns: 'blue', 'green', 'red'",
        "shape in, out (45, 2) -> (45, 4)",
    ):
        assert line in stage
    page = (tmp_path / "R" / "report.html").read_text()
    assert "categories of colour" in page
    summary = json.loads((tmp_path / "R" / "summary.json").read_text())
    assert summary["verdict"] == "rounding"


CELLS = ["1", "2.5", "", "NA", "x", "y", "1,5", "-999", "true", "2021-01-01", "#", '"']
CELL_ROWS = st.lists(st.sampled_from(CELLS), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(CELL_ROWS, min_size=8, max_size=30),
    missing=st.sampled_from(["refuse", "drop", "mean", "median"]),
    categories=st.sampled_from(["refuse", "one-hot"]),
    separator=st.sampled_from([("comma", ","), ("semicolon", ";")]),
)
def test_any_table_is_prepared_or_refused_in_one_line(
    cells: list[list[str]],
    missing: str,
    categories: str,
    separator: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    name, character = separator
    lines = [character.join(row) for row in [["a", "b", "sort"], *cells]]
    path = tmp_path_factory.getbasetemp() / "any_table.csv"
    path.write_text("\n".join(lines) + "\n")
    recipe = recipe_of(path, missing=missing, categories=categories, separator=name)
    try:
        data = prepare(recipe)
    except InputError as error:
        lines = str(error).splitlines()
    else:
        lines = ["prepared"]
        assert np.isfinite(data.train_x_ND).all()
        assert np.isfinite(data.held_out_x_ND).all()
        assert len(data.columns) == data.train_x_ND.shape[1] == data.held_out_x_ND.shape[1]
    assert len(lines) == 1
