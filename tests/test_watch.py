"""A server that is watched: its metrics, drift from what was recorded, and a sample that is joined with clicks."""

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Project
from prometheus_client.parser import text_string_to_metric_families
from servers import Server, serving, wait_for
from sklearn.metrics import log_loss, roc_auc_score

pytestmark = pytest.mark.processes

METRICS, DRIFT = "/monitoring/prometheus/metrics", "/monitoring/drift"
NUMBERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]

Samples = dict[tuple[str, ...], float]


@dataclass(frozen=True)
class Watched:
    """A server, and where it writes."""

    server: Server
    access: Path
    sample: Path


@pytest.fixture(scope="module")
def model(project: Project) -> Path:
    """The SavedModel that is served."""
    return project.folder / "run" / f"group-{project.trained['served_group']}" / "model"


@pytest.fixture(scope="module")
def rows(project: Project) -> list[dict[str, Any]]:
    """The log's last 400 rows, which are its test rows, with their labels, as a client sends them."""
    names = ["label", *NUMBERS, *CATEGORIES]
    found: list[dict[str, Any]] = []
    for line in (project.folder / "log.tsv").read_text().splitlines()[-400:]:
        values = zip(names, line.split("\t"), strict=True)
        found.append({name: value if name in CATEGORIES else int(value) for name, value in values if value})
    return found


@pytest.fixture(scope="module")
def watched(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Generator[Watched]:
    """A server of one process, with an access log and a sample of all requests."""
    folder = tmp_path_factory.mktemp("watched")
    access, sample = folder / "access.ndjson", folder / "sample"
    options = ["--access-log", access, "--sample", 1, "--sample-dir", sample, "--sample-rows", 150]
    with serving(project.folder, "run", *options, log=folder / "stderr") as server:
        yield Watched(server, access, sample)


def bare(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "label"}


def metrics(server: Server) -> Samples:
    """Every sample by its name and the values of its labels, in the order of their names."""
    answer = server.get(METRICS)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def looked_at(server: Server, count: int) -> None:
    """Waits until the server has counted the fields of so many rows, and those of no more."""
    wait_for(lambda: metrics(server).get(("ctr_rows_looked_at_total",), 0) >= count)
    assert metrics(server)["ctr_rows_looked_at_total",] == count


def send(server: Server, rows: list[dict[str, Any]], size: int, name: str) -> list[float]:
    """Sends rows as requests NAME-0, NAME-1, ... of `size` rows; returns their scores."""
    found: list[float] = []
    for number, first in enumerate(range(0, len(rows), size)):
        body = {"instances": [bare(row) for row in rows[first : first + size]]}
        answer = server.post(body, x_request_id=f"{name}-{number}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-request-id"] == f"{name}-{number}"
        found += answer.json()["predictions"]
    return found


@pytest.fixture(scope="module")
def scores(watched: Watched, rows: list[dict[str, Any]]) -> list[float]:
    """What the server says of the 400 rows, in 40 requests `plain-N`; they are the first that it scores."""
    return send(watched.server, rows, 10, "plain")


def test_metrics_agree_with_the_requests_that_were_sent(watched: Watched, scores: list[float]) -> None:
    server, before = watched.server, metrics(watched.server)
    looked_at(server, 400)
    assert server.post({"instances": [{"C1": 7}, {}, {}]}).status_code == 400
    assert server.post(b"[").status_code == 400
    assert server.get("/v1/models/other").status_code == 404
    found = metrics(server)
    assert before["ctr_requests_total", "v1:predict", "200"] == found["ctr_requests_total", "v1:predict", "200"] == 40
    assert found["ctr_requests_total", "v1:predict", "400"] == 2
    assert found["ctr_requests_total", "v1:status", "404"] == 1
    assert found["ctr_rows_total", "v1:predict"] == 400
    assert found["ctr_rows_rejected_total", "v1:predict", "400"] == 3
    assert found["ctr_request_seconds_count", "v1:predict"] == 42
    assert found["ctr_request_rows_count",] == 40
    assert found["ctr_request_rows_sum",] == 400
    assert found["ctr_request_rows_bucket", "5.0"] == 0
    assert found["ctr_request_rows_bucket", "10.0"] == found["ctr_request_rows_bucket", "+Inf"] == 40
    assert 0 < found["ctr_model_seconds_sum",] < found["ctr_request_seconds_sum", "v1:predict"]
    assert found["ctr_queue_seconds_count",] == 40
    assert found["ctr_score_sum", "champion", "1"] == pytest.approx(sum(scores))
    for edge in (0.05, 0.1, 0.25, 0.5, 1.0):
        assert found["ctr_score_bucket", str(edge), "champion", "1"] == sum(score <= edge for score in scores)
    assert found["ctr_score_mean",] == pytest.approx(sum(scores) / 400)
    assert found["ctr_model_load_seconds", "champion", "1"] > 0.01
    assert [key[1] for key in found if key[0] == "ctr_model_info"] == ["champion"]


def test_missing_and_unseen_values_are_those_that_the_pipeline_counts(
    watched: Watched, scores: list[float], rows: list[dict[str, Any]], project: Project
) -> None:
    assert len(scores) == 400
    looked_at(watched.server, 400)
    found = metrics(watched.server)
    encoded = pl.concat([pl.read_parquet(path) for path in sorted((project.folder / "data" / "test").glob("*"))])
    assert encoded.height == 400
    for name in NUMBERS + CATEGORIES:
        assert found["ctr_field_missing_total", name] == sum(name not in row for row in rows)
        ids = encoded[f"id_{name}"]
        assert found["ctr_field_missing_total", name] == (ids == 0).sum()
        assert found["ctr_field_unseen_total", name] == (ids == 1).sum()
        assert found["ctr_field_unseen_share", name] == (ids == 1).sum() / 400
    assert sum(found["ctr_field_unseen_total", name] for name in CATEGORIES) > 400


def test_drift_says_what_moved_and_nothing_of_rows_like_those_recorded(
    watched: Watched, scores: list[float], rows: list[dict[str, Any]], model: Path
) -> None:
    assert len(scores) == 400
    looked_at(watched.server, 400)
    recorded = json.loads((model / "assets" / "model.json").read_text())["recorded"]
    calm = watched.server.get(DRIFT).json()
    assert (calm["version"], calm["rows"], calm["share_looked_at"]) == ("1", 400, 1.0)
    assert calm["moved"] == []
    assert not calm["score"]["mean"]["moved"]
    assert not calm["score"]["distribution"]["moved"]
    assert calm["score"]["distribution"]["stability_index"] < calm["score"]["distribution"]["by_chance"]
    assert {each["field"] for each in calm["fields"]} == {*NUMBERS, *CATEGORIES}
    odd = [{**row, "C9": f"odd-{i}", "I2": None, "C17": None} for i, row in enumerate(rows)]
    send(watched.server, odd, 50, "odd")
    looked_at(watched.server, 800)
    moved = watched.server.get(DRIFT).json()
    assert moved["rows"] == 800
    assert set(moved["moved"]) == {"C9", "I2", "C17"}
    assert [each["field"] for each in moved["fields"][:3]] == moved["moved"]
    found = {each["field"]: each for each in moved["fields"]}
    assert found["C9"]["unseen"]["moved"]
    assert found["C9"]["unseen"]["recorded"] == recorded["unseen_held_out"]["C9"]
    assert found["I2"]["missing"] == {
        "live": 0.5,
        "recorded": recorded["missing"]["I2"],
        "difference": 0.5 - recorded["missing"]["I2"],
        "by_chance": pytest.approx(found["I2"]["missing"]["by_chance"]),
        "moved": True,
    }
    assert metrics(watched.server)["ctr_field_missing_moved", "I2"] == 1
    assert metrics(watched.server)["ctr_field_missing_moved", "I3"] == 0


def test_a_sample_joined_with_clicks_gives_the_figures_of_its_rows(
    watched: Watched, scores: list[float], rows: list[dict[str, Any]], project: Project, tmp_path: Path
) -> None:
    labels = [row["label"] for row in rows]
    wait_for(lambda: len(list(watched.sample.glob("sample-*.parquet"))) >= 2)
    kept = pl.concat(pl.read_parquet(path) for path in watched.sample.glob("sample-*.parquet"))
    assert kept.columns == ["id", "time", "version", "probability", *NUMBERS, *CATEGORIES]
    mine = kept.filter(pl.col("id").str.starts_with("plain-"))
    count = mine.height
    assert 150 <= count <= 400
    place = {f"plain-{i // 10}/{i % 10}": i for i in range(400)}
    for row in mine.iter_rows(named=True):
        source = rows[place[row["id"]]]
        assert {name: row[name] for name in CATEGORIES + NUMBERS if row[name] is not None} == bare(source)
        assert row["probability"] == scores[place[row["id"]]]
        assert row["version"] == 1
    # The click of one row is not known, one is there twice, one is nobody's.
    known = [key for key in mine["id"].to_list() if key != mine["id"][0]]
    clicks = [{"id": key, "click": labels[place[key]]} for key in known]
    clicks += [clicks[0], {"id": "nobody/0", "click": 1}]
    frame = pl.DataFrame(clicks)
    frame.write_parquet(tmp_path / "clicks.parquet")
    frame.rename({"click": "label"}).write_csv(tmp_path / "clicks.csv")
    frame.write_ndjson(tmp_path / "clicks.ndjson")
    results = [
        project.ctr("evaluate", watched.sample, tmp_path / f"clicks.{kind}", "--json").result
        for kind in ("parquet", "csv", "ndjson")
    ]
    assert results[0] == results[1] == results[2]
    found, truth, said = results[0], [labels[place[key]] for key in known], [scores[place[key]] for key in known]
    assert found["rows"] == count - 1
    assert found["log_loss"] == pytest.approx(log_loss(truth, said), abs=1e-9)
    assert found["auc"] == pytest.approx(roc_auc_score(truth, said), abs=1e-9)
    assert found["click_rate"] == pytest.approx(sum(truth) / len(truth))
    assert found["mean_prediction"] == pytest.approx(sum(said) / len(said))
    assert (found["ids_ignored"], found["clicks_repeated"], found["rows_ambiguous"]) == (1, 1, 0)
    assert found["rows_unknown"] >= 1
    assert found["versions"] == {"1": {key: found[key] for key in found["versions"]["1"]}}
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("id,clicked\nplain-0/0,1\n")
    refused = project.ctr("evaluate", watched.sample, wrong)
    assert refused.code == 2
    assert "it needs `id` and click (or label)" in refused.error


def test_the_access_log_and_the_answer_have_the_request_id(watched: Watched, scores: list[float]) -> None:
    assert len(scores) == 400
    made = watched.server.post({"instances": [{}]})
    unfit = watched.server.post({"instances": [{}]}, x_request_id="a/b")
    refused = watched.server.post(b"[", x_request_id="mine")
    names = [answer.headers["x-request-id"] for answer in (made, unfit, refused)]
    assert len(names[0]) == len(names[1]) == 16
    assert names[2] == "mine"
    wait_for(lambda: "mine" in watched.access.read_text())
    lines = [json.loads(line) for line in watched.access.read_text().splitlines()]
    by_id = {line["id"]: line for line in lines}
    assert set(names) <= set(by_id)
    assert (by_id["mine"]["status"], by_id[names[0]]["rows"]) == (400, 1)
    assert by_id["plain-3"]["scores"] == scores[30:40]


def test_two_workers_sum_up_and_a_stop_leaves_the_whole_sample(
    project: Project, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    share = ["--sample", 0.5, "--sample-dir", tmp_path / "sample"]
    with serving(project.folder, "run", "--workers", 2, *share, log=tmp_path / "stderr") as server:
        send(server, rows, 5, "request")
        looked_at(server, 400)
        # Each request and each look has a connection of its own, which the kernel gives to either.
        for _ in range(10):
            found = metrics(server)
            assert found["ctr_requests_total", "v1:predict", "200"] == 80
            assert found["ctr_rows_total", "v1:predict"] == found["ctr_drift_rows",] == 400
            assert found["ctr_request_rows_sum",] == 400
            assert server.get(DRIFT).json()["rows"] == 400
    files = sorted((tmp_path / "sample").iterdir())
    assert len(files) == 2, "each process has written one"
    kept = pl.concat(pl.read_parquet(path) for path in files)
    requests = set(kept["id"].str.split("/").list.first().to_list())
    assert kept.height == 5 * len(requests)
    assert 20 < len(requests) < 60
    from serving.sampling import chosen

    assert requests == {f"request-{i}" for i in range(80) if chosen(f"request-{i}", 0.5)}
