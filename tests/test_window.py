"""What a server counts of live rows, however they were sent, and of those that a challenger scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from asking import example, fields_of
from conftest import Project, run_ctr
from servers import serving, wait_for

from features.encode import encode_dense, encode_ids
from features.sources import open_sources, read_batches
from features.spec import FeatureSpec, load_spec
from serving.rows import EXAMPLES, PACKED, Inputs, examples_of, packed_of_arrays, raw_of_rows

from serving.window import Window, fields_of as watched_fields  # isort: skip

ROWS = 300


def looked(spec: FeatureSpec, requests: list[Inputs]) -> list[list[float]]:
    """Rows, sum of scores, missing and unseen values by field of one look at requests whose scores are all .25."""
    window = Window(1, spec, {}, 10_000)
    missing, unseen = window.look([(inputs, [0.25] * inputs.rows) for inputs in requests])
    return [window.sums[:2].tolist(), missing.tolist(), unseen.tolist()]


def test_rows_are_counted_alike_in_every_form(prepared: Path) -> None:
    spec = load_spec(prepared / "data")
    log = prepared / "log.tsv"
    lines = log.read_text().splitlines()[:ROWS]
    rows = [fields_of(line.split("\t")[1:]) for line in lines]
    # Values that no training row had.
    for row in rows[:7]:
        row["C3"] = "never seen"
    batches = read_batches(open_sources([str(log)], spec.schema), spec.schema)
    frame = pl.concat([batch.frame for batch in batches])[:ROWS]
    changed = pl.when(pl.int_range(pl.len()) < 7).then(pl.lit("never seen")).otherwise("C3")
    frame = frame.with_columns(changed.alias("C3"))
    raw = raw_of_rows(rows, spec.schema)
    examples = examples_of([example(row).SerializeToString() for row in rows])
    packed = packed_of_arrays(encode_ids(frame, spec), encode_dense(frame, spec), spec)
    assert [examples.signature, packed.signature] == [EXAMPLES, PACKED]
    expected = looked(spec, [raw])
    names = watched_fields(spec)
    assert expected[0] == [ROWS, ROWS / 4]
    for name, missing in zip(names, expected[1], strict=True):
        assert missing == sum(name not in row for row in rows)
    assert expected[2][names.index("C3")] >= 7
    parts = [raw_of_rows(rows[:100], spec.schema), raw_of_rows(rows[100:], spec.schema)]
    for requests in ([examples], [packed], parts):
        assert looked(spec, requests) == expected
    twice = looked(spec, [raw, examples, packed])
    assert twice == [[3 * value for value in values] for values in expected]


def test_fields_of_the_time_are_counted_too(tmp_path: Path) -> None:
    hours = [f"1410{21 + day}{hour:02d}" for day in range(4) for hour in range(24)]
    lines = [f"{row % 3 == 0:d},{hours[row % 96]},{'ab'[row % 2]}" for row in range(960)]
    (tmp_path / "log.csv").write_text("click,hour,site\n" + "".join(line + "\n" for line in lines))
    time = "{name: hour, format: '%y%m%d%H', derive: [hour_of_day, day_of_week]}"
    fields = 'categorical: [site]\nseparator: ","\nheader: true\n'
    (tmp_path / "schema.yaml").write_text(f"label: click\ntime: {time}\nnumeric: []\n{fields}")
    settings = ["--set", "features.layout=schema.yaml", "--set", "features.min_count=1"]
    done = run_ctr("prepare", "log.csv", "--out", "data", *settings, "--json", cwd=tmp_path)
    assert done.result["rows"] == 960
    spec = load_spec(tmp_path / "data")
    rows: list[dict[str, Any]] = [{"hour": 14102105, "site": "a"}, {"hour": "14102105"}, {"site": "z"}]
    fields = watched_fields(spec)
    _, missing, unseen = looked(spec, [raw_of_rows(rows, spec.schema)])
    assert dict(zip(fields, missing, strict=True)) == {"site": 1, "hour_of_day": 1, "day_of_week": 1}
    assert dict(zip(fields, unseen, strict=True)) == {"site": 1, "hour_of_day": 0, "day_of_week": 0}


@pytest.mark.processes
def test_challengers_scores_are_counted_and_logged(project: Project, tmp_path: Path) -> None:
    lines = (project.folder / "log.tsv").read_text().splitlines()[:20]
    rows = [fields_of(line.split("\t")[1:]) for line in lines]
    other = project.folder / "run" / f"group-{1 - project.trained['served_group']}" / "model"
    access = tmp_path / "access.ndjson"
    with serving(project.folder, "run", "--challenger", other, "--access-log", access, log=tmp_path / "log") as server:
        for row in rows:
            assert server.post({"instances": [row]}).status_code == 200
        wait_for(lambda: len(access.read_text().splitlines()) >= len(rows))
        text = server.get("/monitoring/prometheus/metrics").text
    said = [each for each in map(json.loads, access.read_text().splitlines()) if each["kind"] == "v1:predict"]
    challenger = [score for each in said for score in each["challenger_scores"]]
    champion = [score for each in said for score in each["scores"]]
    (tmp_path / "asked.tsv").write_text("".join(line.split("\t", 1)[1] + "\n" for line in lines))
    asked = ["predict", other, tmp_path / "asked.tsv", "--out", tmp_path / "other.parquet", "--json"]
    run_ctr(*asked, cwd=tmp_path).result
    expected = pl.read_parquet(tmp_path / "other.parquet")["probability"].to_numpy()
    np.testing.assert_allclose(sorted(challenger), np.sort(expected), atol=1e-6, rtol=0)
    assert np.abs(np.array(challenger) - champion).max() > 1e-4
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(found['ctr_score_count{role="challenger",version="1"}']) == len(rows)
    total = float(found['ctr_score_sum{role="challenger",version="1"}'])
    assert total == pytest.approx(sum(challenger))
