"""The page of a comparison and its plots: that they say what the result says, and need nothing but themselves."""

import copy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from pages import Element, check_picture, read, tables

from ctr import plots
from ctr.comparison_page import Figures, against, draw_figures, write_comparison_page
from ctr.comparison_tables import nats, size
from ctr.figures import score

DASH = "\N{EN DASH}"
HOSTILE = "\"><script>alert('&amp;{{ 7*7 }}')</script>"
ROWS = 3000

Array = np.ndarray[Any, np.dtype[np.float64]]


def arm(mean: float, **more: Any) -> dict[str, Any]:
    """An arm's part of a result; every figure differs, so that none can stand for another."""
    return {
        "log_loss": {"mean": mean, "low": mean - 0.00611, "high": mean + 0.00723, "spread": mean / 300},
        "normalized_entropy": mean * 1.75,
        "auc": 1 - mean / 2,
        "ece": mean / 50,
        "mean_prediction": mean / 2,
        "click_rate": 0.25,
        "churn": mean / 10,
        "relative_churn": mean / 3,
        "logit_churn": mean / 2.3,
        "gauc": 1 - mean / 1.9,
        "models_served": 1,
        "costs": {
            "rows_per_second": mean * 50_000,
            "seconds": mean * 100,
            "core_seconds": mean * 171,
            "table_bytes": int(mean * 5e6),
            "microseconds_per_row": mean * 9,
        },
        "calibration": {
            "isotonic": {"log_loss": mean + 0.00131, "ece": mean / 70},
            "platt": {"log_loss": mean + 0.00217, "ece": mean / 80},
        },
        "search": {
            "settings": {"optimizer.learning_rate": mean / 7, "model.hidden": [8, 4]},
            "log_loss": mean + 0.0141,
            "trials": 5,
        },
        "segments": {
            "C9 missing": {"rows": 1234, "log_loss": mean + 0.021, "normalized_entropy": 1.0, "auc": None},
            "time 1 of 5": {"rows": 600, "log_loss": mean + 0.037, "normalized_entropy": 1.0, "auc": 0.6},
        },
        **more,
    }


@pytest.fixture
def result() -> dict[str, Any]:
    """What `ctr compare` writes of three arms and the truth."""
    gains = [
        ("codistilled", "single", 0.00312, [0.00101, 0.00523], [0.00021, 0.00603]),
        ("codistilled", "logistic", 0.02127, [0.01811, 0.02444], [-0.00317, 0.04571]),
        ("single", "logistic", 0.01815, [0.01502, 0.02129], [0.01001, 0.02629]),
    ]
    differences = [
        {
            "better": better,
            "worse": worse,
            "mean": mean,
            "rows": rows,
            "retrainings": retrainings,
            "sentence": f"{better} is better than {worse} by {mean:.5f} nats",
        }
        for better, worse, mean, rows, retrainings in gains
    ]
    useless = "logistic is not surely better than predicting the click rate for every row"
    nothing = dict.fromkeys(("spread", "churn", "relative_churn", "logit_churn", "costs", "search", "calibration"))
    no_costs = dict.fromkeys(("rows_per_second", "seconds", "core_seconds", "table_bytes", "microseconds_per_row"))
    truth = arm(0.38171, **{key: value for key, value in nothing.items() if key != "spread"})
    for key in ("gauc", "segments", "models_served"):
        del truth[key]
    return {
        "arms": {
            "logistic": arm(0.46551, costs=no_costs, search=None),
            "single": arm(0.44736),
            "codistilled": arm(0.44424, models_served=2),
            "truth": truth,
        },
        "winner": "codistilled",
        "differences": differences,
        "sentences": [*(each["sentence"] for each in differences), useless],
        "rows": 25_431,
        "retrainings": 3,
        "data_digest": "9f" * 32,
        "data": "some/data",
        "path": "some/evening comparison",
        "at": "2026-03-04T05:06:07+00:00",
    }


def made_up(seed: int = 0) -> tuple[Array, dict[str, Array]]:
    """Labels, and each arm's predictions of them."""
    random = np.random.default_rng(seed)
    odds = random.normal(-1.5, 1.0, ROWS)
    labels = (random.random(ROWS) < 1 / (1 + np.exp(-odds))).astype(np.float64)
    noise = {"logistic": 0.8, "single": 0.3, "codistilled": 0.2}
    return labels, {name: 1 / (1 + np.exp(-odds - random.normal(0, by, ROWS))) for name, by in noise.items()}


def figures_of(result: dict[str, Any]) -> Figures:
    labels, predictions = made_up()
    scored = {name: score(labels, each, None) for name, each in predictions.items()}
    curves = {"logistic": [], "single": [(50, 0.52), (100, 0.47)], "codistilled": [(50, 0.51), (100, 0.46)]}
    return draw_figures(result, labels, None, predictions, scored, curves)


def written(result: dict[str, Any], path: Path, figures: Figures | None = None) -> Element:
    write_comparison_page(result, figures or figures_of(result), path)
    return read(path)


def section(page: Element, heading: str) -> list[list[str]]:
    """The table after a heading: a list of cells a row."""
    (body,) = page.every("body")
    parts = [child for child in body.children if isinstance(child, Element)]
    at = next(i for i, part in enumerate(parts) if part.tag == "h2" and part.text == heading)
    following = next(part for part in parts[at:] if "scroll" in part.attributes.get("class", ""))
    return tables(following)[0]


def headings(page: Element) -> list[str]:
    return [heading.text for heading in page.every("h2")]


def test_every_figure_of_an_arm_is_in_its_row(result: dict[str, Any], tmp_path: Path) -> None:
    rows = section(written(result, tmp_path / "report.html"), "Arms")
    found = {row[0]: row[1:] for row in rows[2:]}
    assert list(found) == list(result["arms"])
    for name, about in result["arms"].items():
        loss, costs = about["log_loss"], about["costs"] or {}

        def shown(value: float | None, form: str) -> str:
            return DASH if value is None else f"{value:{form}}"

        assert found[name] == [
            f"{loss['mean']:.5f}",
            f"{loss['low']:.5f} to {loss['high']:.5f}",
            f"{loss['spread']:.5f}",
            f"{about['normalized_entropy']:.4f}",
            f"{about['auc']:.4f}",
            shown(about.get("gauc"), ".4f"),
            f"{about['ece']:.4f}",
            f"{about['mean_prediction'] / 0.25:.3f}",
            shown(about["churn"], ".4f"),
            shown(about["relative_churn"], ".4f"),
            shown(about["logit_churn"], ".4f"),
            shown(costs.get("seconds"), ".1f"),
            shown(costs.get("core_seconds"), ".1f"),
            shown(costs.get("rows_per_second"), ",.0f"),
            shown(about.get("models_served"), "d"),
            DASH if costs.get("table_bytes") is None else f"{costs['table_bytes'] / 1e6:.1f} MB",
            shown(costs.get("microseconds_per_row"), ".2f"),
        ]


def test_title_says_what_was_compared_on_what_and_when(result: dict[str, Any], tmp_path: Path) -> None:
    page = written(result, tmp_path / "report.html")
    assert next(page.every("title")).text == "Comparison: evening comparison"
    assert next(page.every("h1")).text == "evening comparison"
    assert {code.text for code in page.every("code")} >= {"some/data", "9f" * 32, "2026-03-04T05:06:07+00:00"}
    tiles = [tile.text for tile in page.of_class("tile")]
    assert any("25,431" in tile for tile in tiles)
    assert "arms3trained 3 times each" in tiles
    assert any(tile.startswith("best arm") and "codistilled" in tile and "0.44424" in tile for tile in tiles)


def test_what_is_said_of_the_best_arm_comes_first_and_nothing_is_unsaid(result: dict[str, Any], tmp_path: Path) -> None:
    page = written(result, tmp_path / "report.html")
    assert headings(page)[0] == "Verdict"
    folded = [said.text for details in page.every("details") for said in details.every("p")]
    said = [one.text for one in page.every("p")]
    assert folded == [result["sentences"][2] + "."]
    open_ones = [result["sentences"][at] + "." for at in (0, 1, 3)]
    at = said.index(open_ones[0])
    assert said[at : at + 4] == [*open_ones, *folded]


def test_each_arm_is_set_against_the_single_with_the_sign_of_a_difference(
    result: dict[str, Any], tmp_path: Path
) -> None:
    page = written(result, tmp_path / "report.html")
    assert section(page, "Against single")[1:] == [
        ["codistilled", "-0.00312", "-0.00523 to -0.00101", "-0.00603 to -0.00021", "better"],
        ["logistic", "+0.01815", "+0.01502 to +0.02129", "+0.01001 to +0.02629", "worse"],
    ]
    # Without a single the best arm takes its place; here the interval over retrainings leaves doubt.
    del result["arms"]["single"]
    result["differences"] = [each for each in result["differences"] if "single" not in (each["better"], each["worse"])]
    without = written(result, tmp_path / "without.html")
    assert section(without, "Against codistilled")[1:] == [
        ["logistic", "+0.02127", "+0.01811 to +0.02444", "-0.00317 to +0.04571", "may be chance"],
    ]


def test_calibration_settings_and_segments_are_those_of_the_result(result: dict[str, Any], tmp_path: Path) -> None:
    page = written(result, tmp_path / "report.html")
    calibrated = section(page, "Calibration")
    assert [row[0] for row in calibrated[2:]] == ["logistic", "single", "codistilled"]
    assert calibrated[3][1:] == ["0.44736", "0.0089", "0.44867", "0.0064", "0.44953", "0.0056"]
    settings = section(page, "Best settings")
    assert settings[1] == ["Arm", "optimizer.learning_rate", "model.hidden", "tried", "log loss"]
    assert settings[2] == ["single", "0.06391", "[8, 4]", "5", "0.46146"]
    assert [row[0] for row in settings[2:]] == ["single", "codistilled"]
    assert section(page, "Segments") == [
        ["Segment", "Rows", "logistic", "single", "codistilled"],
        ["C9 missing", "1,234", "0.48651", "0.46836", "0.46524"],
        ["time 1 of 5", "600", "0.50251", "0.48436", "0.48124"],
    ]


def test_what_a_result_does_not_tell_is_left_out(result: dict[str, Any], tmp_path: Path) -> None:
    whole = written(result, tmp_path / "whole.html")
    everything = ["Verdict", "Arms", "Against single", "Calibration", "Best settings", "Segments", "Plots"]
    assert headings(whole) == [*everything, "How to read this"]
    gone = {"calibration": "Calibration", "search": "Best settings", "segments": "Segments"}
    for key, heading in gone.items():
        less = copy.deepcopy(result)
        for about in less["arms"].values():
            about.pop(key, None)
        assert headings(written(less, tmp_path / "less.html")) == [h for h in headings(whole) if h != heading]
    alone = {key: result[key] for key in ("winner", "rows")} | {"arms": {"codistilled": arm(0.44424)}}
    for key in ("calibration", "search", "segments", "costs", "churn", "relative_churn", "logit_churn", "gauc"):
        del alone["arms"]["codistilled"][key]
    alone["arms"]["codistilled"]["log_loss"]["spread"] = None
    page = written(alone, tmp_path / "alone.html", Figures())
    assert headings(page) == ["Arms", "How to read this"]
    assert not list(page.every("svg"))
    names = [cell.text for cell in next(page.every("thead")).every("th")]
    assert names[:5] == ["", "Log loss", "", "Calibration", "Serving"]
    assert names[5:] == ["Arm", "mean", "95 %", "NE", "AUC", "ECE", "pred / rate", "models"]
    assert DASH not in "".join(row.text for row in next(page.every("tbody")).every("td"))


def test_intervals_over_retrainings_are_left_out_where_each_arm_was_trained_once(
    result: dict[str, Any], tmp_path: Path
) -> None:
    for each in result["differences"]:
        each["retrainings"] = None
    page = written(result, tmp_path / "report.html")
    assert section(page, "Against single")[:2] == [
        ["Arm", "Difference", "95 % over rows", ""],
        ["codistilled", "-0.00312", "-0.00523 to -0.00101", "better"],
    ]
    plot = next(page.every("svg"))
    assert len(plot.of_class("dot")) == 2
    assert "over retrainings" not in plot.text


def test_names_are_escaped_and_run_nothing(result: dict[str, Any], tmp_path: Path) -> None:
    labels, predictions = made_up()
    result["arms"] = {HOSTILE + name: about for name, about in result["arms"].items()}
    for each in result["differences"]:
        each |= {key: HOSTILE + each[key] for key in ("better", "worse", "sentence")}
    result |= {"winner": f"{HOSTILE}codistilled", "data": HOSTILE, "data_digest": HOSTILE}
    result["path"] = HOSTILE.replace("/", "|")
    result["sentences"] = [each["sentence"] for each in result["differences"]]
    about = result["arms"][f"{HOSTILE}single"]
    about["segments"][HOSTILE] = {"rows": 1, "log_loss": 0.5}
    about["search"]["settings"][HOSTILE] = HOSTILE
    about["calibration"][HOSTILE] = {"log_loss": 0.5, "ece": 0.1}
    shown = {HOSTILE + name: each for name, each in predictions.items()}
    scored = {name: score(labels, each, None) for name, each in shown.items()}
    figures = draw_figures(result, labels, None, shown, scored, {name: [(1, 0.5), (2, 0.4)] for name in shown})
    page = written(result, tmp_path / "report.html", figures)
    assert "<script" not in (tmp_path / "report.html").read_text()
    assert next(page.every("h1")).text == result["path"]
    assert [said.text for said in page.every("p") if said.text[:-1] in result["sentences"]] == [
        f"{sentence}." for sentence in result["sentences"]
    ]
    names = [code.attributes.get("title") for head in page.every("th") for code in head.every("code")]
    assert set(result["arms"]) <= set(names)
    for plot in (figures.differences, *figures.shared):
        assert plot is not None
        # Cut, but to the letter.
        assert any((text.text or "").startswith(HOSTILE[:20]) for text in ElementTree.fromstring(plot).iter())


def test_same_result_gives_the_same_bytes(result: dict[str, Any], tmp_path: Path) -> None:
    pages = []
    for name in ("first", "second"):
        write_comparison_page(copy.deepcopy(result), figures_of(result), tmp_path / name)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]
    result["arms"]["single"]["log_loss"]["mean"] += 0.001
    write_comparison_page(result, figures_of(result), tmp_path / "third")
    assert (tmp_path / "third").read_bytes() != pages[0]


def test_page_that_cannot_be_made_leaves_the_one_that_was_there(result: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    written(result, path)
    before = path.read_bytes()
    with pytest.raises(KeyError, match="rows"):
        write_comparison_page({key: result[key] for key in ("arms", "winner")}, Figures(), path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def picture(plot: str) -> Element:
    """A plot as a picture of its own: well-formed, with a namespace, and all of it inside its frame."""
    root = ElementTree.fromstring(plot)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not [one for one in root.iter() if any("href" in name for name in one.attrib)]
    return as_page(root)


def as_page(node: ElementTree.Element) -> Element:
    """The same as elements of a page, checked as pictures on pages are."""
    made = Element(node.tag.rpartition("}")[2], {name.lower(): value for name, value in node.attrib.items()})
    made.children = [node.text or "", *map(as_page, node)]
    if made.tag == "svg":
        check_picture(made)
    return made


def points(line: Element) -> list[tuple[float, float]]:
    pairs = [point.split(",") for point in line.attributes["points"].split()]
    return [(float(x), float(y)) for x, y in pairs]


def lines(plot: Element, of_class: str) -> list[list[tuple[float, float]]]:
    """The lines of a group of marks; the first of a group's are the legend's."""
    return [points(line) for group in plot.of_class(of_class) for line in group.of_class("line")][1:]


def test_reliability_on_the_diagonal_is_drawn_on_the_diagonal() -> None:
    labels, predictions = made_up()
    scored = {name: score(labels, each, None) for name, each in predictions.items()}
    plot = picture(plots.reliability_plot({name: one.reliability for name, one in scored.items()}))
    (diagonal,) = [points(line) for line in plot.of_class("reference")]
    (left, bottom), (right, top) = diagonal
    for at, one in enumerate(scored.values()):
        drawn = lines(plot, f"arm-{at}")
        assert [len(line) for line in drawn] == [20]
        across = [(x - left) / (right - left) for x, _ in drawn[0]]
        up = [(bottom - y) / (bottom - top) for _, y in drawn[0]]
        ends = one.reliability.mean_prediction[-1] / across[-1]
        assert np.array(across) * ends == pytest.approx(one.reliability.mean_prediction, abs=0.004)
        assert np.array(up) * ends == pytest.approx(one.reliability.click_rate, abs=0.004)
    assert [text.text for text in plot.every("text")][1:4] == list(scored)


def test_roc_curve_runs_from_corner_to_corner_and_covers_its_area() -> None:
    labels, predictions = made_up()
    scored = score(labels, predictions["single"], None)
    assert scored.roc is not None
    plot = picture(plots.roc_plot({"single": scored.roc}, {"single": scored.evaluation.auc}))
    (curve,) = lines(plot, "arm-0")
    ((left, bottom), (right, top)) = points(plot.of_class("reference")[0])
    assert (curve[0], curve[-1]) == ((left, bottom), (right, top))
    x, y = np.array(curve).T
    area = np.trapezoid((bottom - y) / (bottom - top), (x - left) / (right - left))
    assert area == pytest.approx(scored.evaluation.auc, abs=0.002)
    assert f"AUC {scored.evaluation.auc:.4f}" in "".join(text.text for text in plot.every("text"))


def test_scores_of_clicks_and_of_other_rows_are_shares_that_add_up() -> None:
    labels, predictions = made_up()
    weights = np.where(labels == 1, 2.0, 0.5) * np.random.default_rng(3).uniform(0.5, 1.5, ROWS)
    p = predictions["single"]
    plot = picture(plots.score_histogram(labels, p, weights))
    ticks = {text.text: float(text.attributes["y"]) - 4 for text in plot.of_class("y")[0].every("text")}
    top = max(ticks, key=lambda label: float(label.rstrip("%")))
    for name, label in (("share", 0), ("click", 1)):
        (steps,) = lines(plot, name)
        heights = np.array([(ticks["0%"] - y) / (ticks["0%"] - ticks[top]) for _, y in steps[1:-1:2]])
        shares = heights * float(top.rstrip("%")) / 100
        assert shares.sum() == pytest.approx(1, abs=0.01)
        own = labels == label
        odds = np.log(p / (1 - p))
        expected = np.histogram(odds[own], np.linspace(odds.min(), odds.max(), 41), weights=weights[own])[0]
        assert shares == pytest.approx(expected / weights[own].sum(), abs=0.001)


@pytest.mark.parametrize(
    "predictions",
    [np.full(50, 0.2), np.array([0.0, 1.0] * 25), np.linspace(0.201, 0.202, 50), np.array([1e-9] * 49 + [0.99])],
    ids=["all alike", "0 and 1", "close together", "far apart"],
)
@pytest.mark.parametrize("labels", [np.arange(50) % 2.0, np.zeros(50), np.ones(50)], ids=["both", "no click", "clicks"])
def test_any_predictions_can_be_drawn(predictions: Array, labels: Array) -> None:
    plot = picture(plots.score_histogram(labels, predictions))
    assert [bool(plot.of_class(name)) for name in ("share", "click")] == [(labels == 0).any(), (labels == 1).any()]
    scored = score(labels, predictions, None)
    assert (scored.roc is None) == (len(set(labels)) == 1)
    picture(plots.reliability_plot({"one": scored.reliability}))


def test_arm_keeps_its_colour_from_plot_to_plot(result: dict[str, Any]) -> None:
    figures = figures_of(result)
    for plot in map(picture, figures.shared):
        # Logistic regression has no learning curve; the others are drawn as elsewhere.
        names = {group.text.strip(): group.attributes["class"] for group in plot.every("g") if group.text.strip()}
        shown = {name.partition(",")[0]: style for name, style in names.items()}
        assert shown["single"] == "arm-1"
        assert shown["codistilled"] == "arm-2"


def test_learning_curves_without_a_point_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the 2 learning curves has a point"):
        plots.learning_curves({"single": [], "ensemble": []})
    (only,) = picture(plots.learning_curves({"single": [(10, 0.5)], "ensemble": []})).of_class("dot")
    assert float(only.attributes["cx"]) > 0


def test_eight_arms_are_told_apart_by_colour_and_dashes() -> None:
    curve = {f"arm number {at} with a name that is long": [(0, 0.5), (10, 0.4 + at / 100)] for at in range(8)}
    plot = picture(plots.learning_curves(curve))
    drawn = {(line.attributes["stroke"], line.attributes.get("stroke-dasharray", "")) for line in plot.of_class("line")}
    assert len(drawn) == 8


def test_intervals_of_differences_stand_on_their_side_of_zero(result: dict[str, Any]) -> None:
    base, differences = against(result)
    plot = picture(plots.differences_plot(base, differences))
    zero = points(plot.of_class("reference")[0])[0][0]
    over_rows = lines(plot, "share")
    assert [max(x for x, _ in line) < zero for line in over_rows] == [False, True]
    assert [text.text for text in plot.of_class("y")[0].every("text")] == ["logistic", "codistilled"]
    ticks = [(float(t.text), float(t.attributes["x"])) for t in list(plot.of_class("x")[0].every("text"))[:-1]]
    (low, x_low), (high, x_high) = ticks[0], ticks[-1]
    expected = [0.01502, 0.02129, -0.00523, -0.00101]
    found = [low + (x - x_low) / (x_high - x_low) * (high - low) for line in over_rows for x, _ in line]
    assert found == pytest.approx(expected, abs=1e-4)


def test_sizes_and_nats_are_readable() -> None:
    shown = [size(number) for number in (None, 0, 999, 1000, 154_560, 12_345_678, 3.2e9)]
    assert shown == [DASH, "0 B", "999 B", "1.0 kB", "154.6 kB", "12.3 MB", "3.2 GB"]
    assert [nats(0.123456), nats(0.1, "+"), nats(-0.1, "+"), nats(None), nats(float("nan"))] == [
        "0.12346",
        "+0.10000",
        "-0.10000",
        DASH,
        DASH,
    ]
