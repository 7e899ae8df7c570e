"""The pages that people open: that they say what the JSON says, of any log, and need nothing but themselves."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers import prepare_small, small_log, small_rows, write_tsv
from pages import Element, read, tables

from features.html import count, cut, index, percent, write_drift_html, write_html
from features.plots import scale, tick_label
from features.prepare import Split
from features.spec import load_spec

DASH = "\N{EN DASH}"
HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "'&amp;{{ 7*7 }}", "a\nb", "x" * 10_000]


def overview_of(page: Element) -> list[list[str]]:
    """The table with a row a field, from its lower heading on."""
    return next(table[1:] for table in tables(page) if table[1][:2] == ["Field", "Kind"])


def says(cell: str, number: float | None) -> bool:
    """Whether a cell says this number, as exactly as it has digits."""
    cell = cell.removeprefix("▲ ")
    if cell == DASH or number is None:
        return cell == DASH and number is None
    unit = 0.01 if cell.endswith("%") else 1.0
    digits = cell.removesuffix("%").replace(",", "")
    if digits[0] in "<>":
        low, high = sorted((float(digits[1:]) * unit, 0.0 if digits[0] == "<" else 1.0))
        return low < number < high
    decimals = len(digits.partition(".")[2])
    return abs(float(digits) * unit - number) <= 0.5001 * unit * 10**-decimals


def written(described: dict[str, Any], path: Path, title: str = "log.tsv") -> Element:
    write_html(described, path, title=title)
    return read(path)


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a log whose last tenth has other values of `a`."""
    folder = tmp_path_factory.mktemp("moved")
    moved = small_rows(200, 1800).with_columns(a=pl.lit("new"))
    path = write_tsv(pl.concat([small_rows(1800), moved]), folder / "log.tsv")
    prepare_small([path], folder / "data")
    found = report_of(folder / "data")
    assert "a" in found["moved"]
    return found


def test_every_figure_of_the_json_is_on_the_page(described: dict[str, Any], tmp_path: Path) -> None:
    page = written(described, tmp_path / "report.html")
    tiles = [tile.text for tile in page.of_class("tile")]
    for part, rows in described["rows"].items():
        tile = next(tile for tile in tiles if tile.startswith(part))
        assert f"{rows:,}" in tile
        assert says(tile.rpartition(" ")[2], described["click_rate"][part])
    moves, overview, *rest = tables(page)
    parts, compared = list(described["rows"]), ["validation", "test"]
    for row, (name, about) in zip(overview[2:], described["fields"].items(), strict=True):
        assert row[:2] == [name, about["kind"]]
        expected = [about["stability"][part]["stability_index"] for part in compared]
        expected += [about[key][part] for key in ("missing", "rare", "unseen") for part in parts]
        expected += [about[key] for key in ("distinct", "kept", "collision_rate")]
        assert [cell for cell, number in zip(row[2:], expected, strict=True) if not says(cell, number)] == []
        by_part, values = rest.pop(0), rest.pop(0)
        chance = by_part[-1][1:]
        assert says(chance[2], about["stability"]["test"]["by_chance"])
        assert len(values) - 1 == len(about["values"])
        for cells, value in zip(values[1:], about["values"], strict=True):
            assert cells[0] == value["value"]
            assert says(cells[1], value["share"] * sum(described["rows"].values()))
            assert says(cells[2], value["share"])
            assert says(cells[3], value["click_rate"])
    assert not rest
    assert {row[0] for row in moves[1:]} == set(described["moved"])
    assert all(row[2].startswith("▲ ") for row in moves[1:])


def test_plots_draw_the_figures_of_the_json(described: dict[str, Any], tmp_path: Path) -> None:
    page = written(described, tmp_path / "report.html")
    rows, rates = list(page.every("svg"))[:2]
    assert len(rows.of_class("bar")) == len(described["over_time"]["rows"])
    assert len(rates.of_class("dot")) == len(described["over_time"]["click_rate"])
    for about, details in zip(described["fields"].values(), page.every("details"), strict=True):
        by_value, *over_time = details.every("svg")
        heights = [float(bar.attributes["height"]) for bar in by_value.of_class("bar")]
        assert len(list(by_value.of_class("slanted")[0].every("text"))) <= 20, "more labels than fit below the axis"
        shares = [value["share"] for value in about["values"]]
        for height, share in zip(heights, shares, strict=True):
            assert height / max(heights) == pytest.approx(share / max(shares), abs=0.01)
        followed = [value for value in about["over_time"] if any(value["share"])]
        captions = [caption.text for caption in details.every("figcaption")]
        assert captions == [value["value"] or "missing" for value in followed]
        for svg, value in zip(over_time, followed, strict=True):
            line = next(svg.every("polyline")).attributes["points"].split()
            low = max(range(len(line)), key=lambda at: float(line[at].split(",")[1]))
            assert len(line) == len(value["share"])
            assert value["share"][low] == pytest.approx(min(value["share"]), abs=0.002)


def test_times_are_readable(described: dict[str, Any], tmp_path: Path) -> None:
    """An hour a slice, from a Monday on; and times so far away that no calendar has them."""
    seconds = [1_700_000_000 + 3600 * at for at in range(1, 25)]
    timed = described | {"over_time": described["over_time"] | {"last": seconds}}
    labels = [label.text for label in next(written(timed, tmp_path / "a.html").every("svg")).every("text")]
    assert "11-15 02:13" in labels
    assert "time, 2023-11-14 and on" in labels
    far = described | {"over_time": described["over_time"] | {"last": [10**17 + at for at in range(24)]}}
    written(far, tmp_path / "b.html")


def test_hostile_names_and_values_are_only_text(described: dict[str, Any], tmp_path: Path) -> None:
    about = described["fields"]["a"]
    values = [value | {"value": text} for value, text in zip(about["values"], HOSTILE, strict=False)]
    over_time = [one | {"value": text} for one, text in zip(about["over_time"], HOSTILE, strict=False)]
    fields = dict.fromkeys(HOSTILE, about | {"values": values, "over_time": over_time})
    for title in HOSTILE:
        page = written(described | {"fields": fields, "moved": HOSTILE}, tmp_path / "report.html", title)
        shown = [code.text for code in page.every("code")]
        assert HOSTILE[0] in shown
        assert "'&amp;{{ 7*7 }}" in shown
        assert "a␊b" in shown
        assert "x" * 31 + "…" in shown
        assert "x" * 501 not in (tmp_path / "report.html").read_text()
        found = {"rows": [1, 2], "click_rate": [None, 0.5], "moved": HOSTILE}
        stability = about["stability"]["test"]
        write_drift_html(found | {"fields": dict.fromkeys(HOSTILE, stability)}, tmp_path / "drift.html", title=title)
        assert HOSTILE[0] in [code.text for code in read(tmp_path / "drift.html").every("code")]


def test_hostile_values_of_a_real_log(tmp_path: Path) -> None:
    rows = small_rows(200).with_columns(a=pl.Series([HOSTILE[i % 3].replace('"', "") for i in range(200)]))
    prepare_small([write_tsv(rows, tmp_path / "<b>.tsv")], tmp_path / "data")
    page = read(tmp_path / "data" / "report.html")
    assert HOSTILE[0] in [code.text for code in page.every("code")]
    assert next(page.every("h1")).text == "<b>.tsv"


def test_file_names_that_are_no_text_do_not_stop_the_page(described: dict[str, Any], tmp_path: Path) -> None:
    written(described, tmp_path / "report.html", title=b"\xff.tsv".decode("utf-8", "surrogateescape"))


def test_log_without_labels_has_no_click_rates(tmp_path: Path) -> None:
    prepare_small([small_log(tmp_path / "log.tsv", 300)], tmp_path / "a")
    bare = write_tsv(small_rows(300).drop("label"), tmp_path / "bare.tsv")
    changes = {"fitted": load_spec(tmp_path / "a"), "split": Split("none", 0, 0, 0), "fitted_on": tmp_path / "a"}
    prepare_small([bare], tmp_path / "b", **changes)
    page = read(tmp_path / "b" / "report.html")
    assert not page.of_class("click")
    assert "Click rate" not in [cell for table in tables(page) for row in table for cell in row]
    assert "no labels" in page.text
    # Compared with the log that the spec is from, training rows have an index as well.
    heading, first, *_ = overview_of(page)
    assert heading[2] == "train"
    assert says(first[2], report_of(tmp_path / "b")["fields"]["n1"]["stability"]["train"]["stability_index"])


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_tiny_logs(tmp_path: Path, rows: int) -> None:
    prepare_small([small_log(tmp_path / "log.tsv", rows)], tmp_path / "data")
    page = read(tmp_path / "data" / "report.html")
    assert DASH in [cell for table in tables(page) for row in table for cell in row] or rows > 2


def test_field_without_any_value(tmp_path: Path) -> None:
    rows = small_rows(200).with_columns(a=pl.lit(None, pl.String), n1=pl.lit(None, pl.Int64))
    prepare_small([write_tsv(rows, tmp_path / "log.tsv")], tmp_path / "data")
    page = read(tmp_path / "data" / "report.html")
    assert page.text.count("Every row lacks this field.") == 2
    assert [row[4:7] for row in overview_of(page) if row[0] in {"n1", "a"}] == [["100%"] * 3] * 2


def test_page_of_a_log_with_no_field_or_no_slice(described: dict[str, Any], tmp_path: Path) -> None:
    nothing = {"slices": 24, "slice": [], "last": [], "rows": [], "click_rate": []}
    fields = {"a": described["fields"]["a"] | {"over_time": []}}
    write_html(described | {"fields": {}, "moved": []}, tmp_path / "report.html", title="log")
    assert "no part to compare" in (tmp_path / "report.html").read_text()
    page = written(described | {"over_time": nothing, "fields": fields}, tmp_path / "report.html")
    assert not [svg for svg in page.every("svg") if "over the log" in svg.attributes["aria-label"].lower()]


def test_drift_page_shows_every_field_the_farthest_first(tmp_path: Path) -> None:
    fields = {
        "same": {"stability_index": 0.0001, "by_chance": 0.02, "moved": False},
        "empty": {"stability_index": None, "by_chance": None, "moved": False},
        "far": {"stability_index": 1.5, "by_chance": 0.02, "moved": True},
        "few": {"stability_index": 0.4, "by_chance": 9.0, "moved": False},
    }
    found = {"rows": [1000, 20], "click_rate": [0.123, None], "fields": fields, "moved": ["far"]}
    write_drift_html(found, tmp_path / "drift.html", title="a and b")
    page = read(tmp_path / "drift.html")
    table = [row[:3] for row in tables(page)[0][1:]]
    assert table == [
        ["far", "▲ 1.500", "0.020"],
        ["few", "0.400", "9.000"],
        ["same", "<0.001", "0.020"],
        ["empty", DASH, DASH],
    ]
    widths = [float(bar.attributes["width"]) for svg in page.every("svg") for bar in svg.of_class("bar")]
    assert widths == pytest.approx([198, 198 * 0.4 / 1.5, 0], abs=0.05)
    tiles = [tile.text for tile in page.of_class("tile")]
    assert "1,000" in tiles[0]
    assert "12.3%" in tiles[0]
    assert tiles[1].endswith(DASH)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, DASH),
        (math.nan, DASH),
        (0.0, "0%"),
        (1e-9, "<0.001%"),
        (0.00123, "0.123%"),
        (0.0123, "1.23%"),
        (0.5, "50.0%"),
        (0.99999, ">99.9%"),
        (1.0, "100%"),
    ],
)
def test_shares_for_people(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_numbers_for_people() -> None:
    assert [count(None), count(0), count(1234567.4)] == [DASH, "0", "1,234,567"]
    assert [index(None), index(0.0), index(1e-5), index(0.25)] == [DASH, "0.000", "<0.001", "0.250"]
    assert [cut("short", 5), cut("longer", 5), cut("a\tb")] == ["short", "long…", "a␉b"]


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1), (0, 1e-7), (0.19, 0.23), (0, 41_667), (3, 3), (0, 7e9)])
def test_scales_are_of_few_round_numbers_around_all(low: float, high: float) -> None:
    marks = scale(low, high, 4)
    assert marks[0] <= low * (1 + 1e-9)
    assert marks[-1] >= high * (1 - 1e-9)
    assert 2 <= len(marks) <= 7
    labels = [tick_label(mark, marks[1] - marks[0], percent=False) for mark in marks]
    assert len(set(labels)) == len(labels)
