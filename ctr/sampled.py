"""`ctr evaluate SAMPLE CLICKS...`: how good the scores were that a server gave, once it is known who clicked."""

from pathlib import Path
from typing import Any

import polars as pl

from ctr.console import figure
from ctr.metrics import evaluate
from features.errors import BadInput

# Of the files that `serving.sampling` writes; importing that would import the server's libraries.
_FILES = "sample-*.parquet"
_LABEL = "ctr_label"
_CLICK = "click"


def is_sample(name: str) -> bool:
    """Whether `name` is a folder that `ctr serve --sample-dir` filled."""
    return not name.startswith("models:") and next(Path(name).glob(_FILES), None) is not None


def evaluate_sample(name: str, inputs: list[str]) -> dict[str, Any]:
    """The figures of a sample's rows whose click is known, and the same by version.

    `rows_unknown`: rows of the sample without a click, or with one of null. `ids_ignored`: ids that the sample does not
    have. `clicks_repeated`: entries for an id that has one already; a click in any of them counts. `rows_ambiguous`:
    rows of the sample that share their id with others, as when a client sent one `x-request-id` twice; they are left
    out. Raises BadInput for files that cannot be read, values other than 0 and 1, and if no row's click is known.
    """
    paths = sorted(Path(name).glob(_FILES))
    label = pl.read_parquet_metadata(paths[0]).get(_LABEL, _CLICK)
    scores = pl.concat([pl.read_parquet(path, columns=["id", "version", "probability"]) for path in paths])
    single = scores.filter(pl.col("id").is_unique())
    read = pl.concat([_read(path, label) for path in inputs])
    clicks = read.group_by("id").agg(pl.col(_CLICK).max())
    joined = single.join(clicks, on="id", how="left").sort("id")
    known = joined.drop_nulls(_CLICK)
    if known.is_empty():
        raise BadInput(f"none of the {scores.height} rows of {name} has its id and a click in {', '.join(inputs)}")
    versions = known.partition_by("version", as_dict=True)
    return {
        **_figures(known),
        "rows_unknown": joined.height - known.height,
        "ids_ignored": clicks.join(scores, on="id", how="anti").height,
        "clicks_repeated": read.height - clicks.height,
        "rows_ambiguous": scores.height - single.height,
        "versions": {str(key[0]): _figures(versions[key]) for key in sorted(versions)},
    }


def sentences(result: dict[str, Any]) -> list[str]:
    """What people are told below the table: a line a version."""
    wanted = ("rows", "log_loss", "auc", "ece", "mean_prediction", "click_rate")
    lines: list[str] = []
    for version, of in result["versions"].items():
        told = [f"{key.replace('_', ' ')} {figure(of[key])}" for key in wanted]
        lines.append(f"version {version}: {', '.join(told)}")
    return lines


def _figures(rows: pl.DataFrame) -> dict[str, float | None]:
    return evaluate(rows[_CLICK].to_numpy(), rows["probability"].to_numpy()).as_dict()


def _read(path: str, label: str) -> pl.DataFrame:
    """Ids as text and clicks as numbers of 0 or 1, null where not known."""
    try:
        if path.endswith((".parquet", ".pq")):
            found = pl.read_parquet(path)
        elif path.endswith((".ndjson", ".jsonl")):
            found = pl.read_ndjson(path, infer_schema_length=None, schema_overrides={"id": pl.String})
        elif path.endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz")):
            found = pl.read_csv(path, separator="\t" if ".tsv" in path else ",", infer_schema=False)
        else:
            raise BadInput(f"clicks {path} have an unknown ending; known: .parquet, .csv, .tsv, .ndjson")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadInput(f"clicks {path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    column = next((each for each in (_CLICK, label) if each in found.columns), None)
    if "id" not in found.columns or column is None:
        named = _CLICK if label == _CLICK else f"{_CLICK} (or {label})"
        raise BadInput(f"{path} has columns {', '.join(found.columns)}; it needs `id` and {named}")
    try:
        clicks = found.select(pl.col("id").cast(pl.String), pl.col(column).cast(pl.Float64).alias(_CLICK))
    except pl.exceptions.PolarsError:
        raise BadInput(f"{path}: `{column}` is no number; it must be 0 or 1, or empty where it is not known") from None
    odd = clicks.filter(~pl.col(_CLICK).is_in([0.0, 1.0]))
    if odd.height:
        raise BadInput(f"{path}: {odd.height} values of `{column}` are neither 0 nor 1, such as {odd[_CLICK][0]}")
    return clicks.drop_nulls("id")
