"""A comparison as a page that people open: its verdict, tables and plots in one file that needs nothing else."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctr import comparison_tables as tables
from ctr import plots
from ctr.figures import Scored
from ctr.metrics import Array
from features.html import write_page
from features.output import file_appears_whole

_TEMPLATE = Path(__file__).parent / "comparison.html.jinja"
# What stands below the title, and the words for it.
_FACTS = (("data", "data"), ("data_digest", "digest"), ("at", "compared at"))


@dataclass(frozen=True)
class Figures:
    """The plots of a page, as SVG text; None for one that there is nothing to draw of.

    Attributes:
        shared: those with all arms in them.
        scores: how an arm's predictions are spread, by arm.
    """

    differences: str | None = None
    shared: Sequence[str] = ()
    scores: Mapping[str, str] = field(default_factory=dict[str, str])


def write_comparison_page(result: Mapping[str, Any], figures: Figures, path: Path) -> None:
    """Writes the page of `ctr compare`'s result, whole or not at all; what the result does not tell is left out."""
    arms: Mapping[str, Mapping[str, Any]] = result["arms"]
    base, differences = against(result)
    verdicts, others = _sentences(result)
    with file_appears_whole(path) as aside:
        write_page(
            aside,
            _TEMPLATE,
            title=Path(result["path"]).name if "path" in result else "comparison",
            facts=[(word, result[key]) for key, word in _FACTS if result.get(key)],
            rows=result["rows"],
            # The truth is an arm of its own, which nobody trained.
            trained=sum(arm != "truth" for arm in arms),
            retrainings=result.get("retrainings"),
            winner=result["winner"],
            # Without a winner, any: the click rate is the same for all.
            best=arms[result["winner"] or next(iter(arms))],
            verdicts=verdicts,
            others=others,
            arms=tables.figures(arms),
            base=base,
            differences=[_difference_cells(each) for each in differences],
            over_retrainings=any(each["retrainings"] is not None for each in differences),
            calibration=tables.calibration(arms),
            settings=tables.settings(arms),
            segments=tables.segments(arms),
            segment_arms=[arm for arm, about in arms.items() if about.get("segments")],
            figures=figures,
            colours=plots.COLOURS,
            nats=tables.nats,
        )


def draw_figures(
    result: Mapping[str, Any],
    labels: Array,
    weights: Array | None,
    predictions: Mapping[str, Array],
    scored: Mapping[str, Scored],
    curves: Mapping[str, Sequence[tuple[int, float]]],
) -> Figures:
    """The plots of a comparison.

    Args:
        labels: of the test rows, `[rows]`, like their `weights`, if any, and each arm's `predictions` to show.
        scored: the figures of those predictions.
        curves: each arm's validation log loss (nats) by step; empty for one that has none.
    """
    base, differences = against(result)
    finite = {arm: [point for point in each if math.isfinite(point[1])] for arm, each in curves.items()}
    rocs = {arm: one.roc for arm, one in scored.items() if one.roc is not None}
    shared = [plots.reliability_plot({arm: one.reliability for arm, one in scored.items()})]
    shared += [plots.roc_plot(rocs, {arm: scored[arm].evaluation.auc for arm in rocs})] if rocs else []
    shared += [plots.learning_curves(finite)] if any(finite.values()) else []
    return Figures(
        plots.differences_plot(base, differences) if differences else None,
        shared,
        {arm: plots.score_histogram(labels, each, weights) for arm, each in predictions.items()},
    )


def against(result: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Every other arm's log loss minus `single`'s, or the best arm's where there is no single.

    Returns that arm and, of each other one, its name as `arm`, `mean` (nats), and low and high of the 95 % intervals
    over `rows` and `retrainings`, None where there is none.
    """
    base = "single" if "single" in result["arms"] else result["winner"] or next(iter(result["arms"]))
    found: list[dict[str, Any]] = []
    for each in result.get("differences") or []:
        # They say by how much the better arm is better: the worse one minus it.
        if each["better"] == base:
            arm, sign = each["worse"], 1
        elif each["worse"] == base:
            arm, sign = each["better"], -1
        else:
            continue
        ends = {
            name: None if each[name] is None else sorted(sign * end for end in each[name])
            for name in ("rows", "retrainings")
        }
        found.append({"arm": arm, "mean": sign * each["mean"], **ends})
    return base, sorted(found, key=lambda each: each["mean"])


def _sentences(result: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What is said of the best arm and of arms that are of no use, and all else."""
    others = [each["sentence"] for each in result.get("differences") or [] if each["better"] != result["winner"]]
    return [one for one in result.get("sentences") or [] if one not in others], others


def _difference_cells(each: Mapping[str, Any]) -> dict[str, str]:
    known = [each[name] for name in ("rows", "retrainings") if each[name] is not None]
    better, worse = (all(sign * low > 0 and sign * high > 0 for low, high in known) for sign in (-1, 1))
    ends = {
        name: tables.DASH if each[name] is None else " to ".join(tables.nats(end, "+") for end in each[name])
        for name in ("rows", "retrainings")
    }
    says = "better" if better else "worse" if worse else "may be chance"
    return {"arm": each["arm"], "mean": tables.nats(each["mean"], "+"), **ends, "says": says}
