"""What `GET /monitoring/...` answers: Prometheus metrics at TensorFlow Serving's address, and drift for people."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.figures import Figures, Key
from serving.http import HttpApp, Page
from serving.live_drift import live_drift
from serving.versions import Versions
from serving.watch import ROWS, SCORES, SECONDS, Watch
from serving.window import window_name

# What each figure is, and its labels.
_COUNTERS = {
    "ctr_requests": ("Requests by what they asked and HTTP's status of the answer", ["kind", "status"]),
    "ctr_rows": ("Rows that were scored for an answer", ["kind"]),
    "ctr_rows_rejected": ("Rows of requests that were not scored, as far as they could be read", ["kind", "status"]),
    "ctr_rows_looked_at": ("Scored rows in which missing and unseen values were counted", []),
    "ctr_field_missing": ("Of the rows looked at, those without a value", ["field"]),
    "ctr_field_unseen": ("Of the rows looked at, those with a value that is rare or new to the model", ["field"]),
}
_HISTOGRAMS = {
    "ctr_request_seconds": ("From a request's head to its answer's end", ["kind"], SECONDS),
    "ctr_queue_seconds": ("How long a request waited for the model", [], SECONDS),
    "ctr_model_seconds": ("How long the model took for the batch that a request was in", [], SECONDS),
    "ctr_request_rows": ("Rows of a request that was scored", [], ROWS),
    "ctr_score": ("Probabilities that the model gave", ["role", "version"], SCORES),
}


def add_monitoring(app: HttpApp, watch: Watch, served: Iterable[tuple[str, Versions[Any]]]) -> None:
    """Adds the addresses to an application. `served`: the versions of each role, the champion's first."""
    roles = dict(served)

    def metrics() -> tuple[int, Page]:
        figures = watch.whole()
        families = [*_sums(figures), *_models(roles), *_drift(_against_recorded(roles["champion"], figures))]
        return 200, (CONTENT_TYPE_LATEST.encode(), generate_latest(_Families(families)))

    def drift() -> tuple[int, dict[str, Any]]:
        figures = watch.whole()
        scored = sum(value for key, value in figures.counters.items() if key[0] == "ctr_rows")
        looked = figures.counters.get(("ctr_rows_looked_at",), 0)
        share = {"share_looked_at": min(looked / scored, 1.0) if scored else None}
        return 200, {**_against_recorded(roles["champion"], figures), **share}

    pages: dict[str, Callable[[], tuple[int, Any]]] = {
        "/monitoring/prometheus/metrics": metrics,
        "/monitoring/drift": drift,
    }
    app.pages.update(pages)


class _Families:
    """What prometheus_client writes out: metrics that are there already."""

    def __init__(self, families: list[Metric]):
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _sums(figures: Figures) -> Iterator[Metric]:
    for name, (text, labels) in _COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=labels)
        for key, value in _of(figures.counters, name):
            counter.add_metric(key[1:], value)
        yield counter
    for name, (text, labels, edges) in _HISTOGRAMS.items():
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for key, found in _of(figures.histograms, name):
            below, buckets = 0, []
            for edge, count in zip([*map(str, map(float, edges)), "+Inf"], found.counts, strict=True):
                below += count
                buckets.append((edge, below))
            histogram.add_metric(key[1:], buckets, found.total)
        yield histogram


def _of(figures: dict[Key, Any], name: str) -> list[tuple[Key, Any]]:
    return sorted((key, value) for key, value in figures.items() if key[0] == name)


def _models(roles: dict[str, Versions[Any]]) -> Iterator[Metric]:
    """The versions that this process has, and how long each took to load."""
    labels = ["role", "version"]
    info = GaugeMetricFamily("ctr_model_info", "A version that answers", labels=[*labels, "spec_digest", "run_id"])
    seconds = GaugeMetricFamily("ctr_model_load_seconds", "How long a version took to load", labels=labels)
    for role, versions in roles.items():
        for number in versions.numbers:
            with versions.using(number) as version:
                card = version.loaded.model.card
                info.add_metric([role, str(number), card["spec_digest"], str(card.get("run_id", ""))], 1)
                seconds.add_metric([role, str(number)], version.load_seconds)
    return iter([info, seconds])


def _against_recorded(champion: Versions[Any], figures: Figures) -> dict[str, Any]:
    """The drift of the newest version, which is the one that answers where none is named."""
    with champion.using() as version:
        model = version.loaded.model
        sums = figures.windows.get(window_name(version.number, model.card))
        return {"version": str(version.number), **live_drift(sums, model.spec, model.card)}


def _drift(found: dict[str, Any]) -> Iterator[Metric]:
    score, of = found["score"], f"over the last rows looked at of version {found['version']}"
    rows = GaugeMetricFamily("ctr_drift_rows", f"Rows that the gauges of drift rest on, {of}")
    rows.add_metric([], found["rows"])
    yield rows
    for name, text, value in (
        ("ctr_score_mean", f"Mean score {of}", score["mean"]["mean"]),
        ("ctr_score_mean_difference", f"Mean score {of} minus the recorded one", score["mean"]["difference"]),
        (
            "ctr_score_stability_index",
            f"Population stability index of scores {of} against the recorded tenths",
            score["distribution"]["stability_index"],
        ),
    ):
        gauge = GaugeMetricFamily(name, text)
        if value is not None:
            gauge.add_metric([], value)
        yield gauge
    for what in ("missing", "unseen"):
        share = GaugeMetricFamily(f"ctr_field_{what}_share", f"Share of {what} values {of}", labels=["field"])
        difference = GaugeMetricFamily(
            f"ctr_field_{what}_difference", f"Share of {what} values {of} minus the recorded one", labels=["field"]
        )
        beyond = GaugeMetricFamily(
            f"ctr_field_{what}_moved", f"1 if the share of {what} values {of} differs beyond chance", labels=["field"]
        )
        for field in found["fields"]:
            if (about := field[what]) is not None and about["live"] is not None:
                share.add_metric([field["field"]], about["live"])
                beyond.add_metric([field["field"]], float(about["moved"]))
                if about["difference"] is not None:
                    difference.add_metric([field["field"]], about["difference"])
        yield from (share, difference, beyond)
