"""The command line. Everything heavy is imported where it is used: `ctr --help` answers in under 0.3 s."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ctr.exits import exit_code
from ctr.options import Alias, ConfigFile, ConfigFiles, EngineName, Inputs, Json, Model, Overrides, RayAddress, Set
from ctr.serve import serve
from features.errors import BadInput, WorkFailed

app = typer.Typer(
    name="ctr",
    help="Click-through-rate prediction: raw click log to a codistilled, registered, served model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def synth(
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")],
    out: Annotated[Path, typer.Option(help="The log to write.")],
    days: Annotated[int, typer.Option(min=1, help="How many days it spans.")] = 7,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    truth: Annotated[Path | None, typer.Option(help="Where to write the true probabilities (Parquet).")] = None,
    as_json: Json = False,
) -> None:
    """Generate a Criteo-shaped click log whose true click probabilities are known."""
    from ctr.console import give, rows_progress
    from features.synthetic import synth as generate

    with rows_progress() as progress:
        result = generate(out, rows=rows, days=days, seed=seed, truth=truth, progress=progress)
    give(result, as_json, title=f"generated {out}")


@app.command()
def fetch(
    dataset: Annotated[str, typer.Argument(help="criteo, criteo-1tb or avazu.")],
    out: Annotated[Path, typer.Option(help="The folder to download into.")],
    url: Annotated[str | None, typer.Option(help="Fetch from this mirror instead.")] = None,
    as_json: Json = False,
) -> None:
    """Download a public click log; an interrupted download goes on where it was."""
    from ctr.console import give, rows_progress
    from ctr.fetch import fetch as download

    with rows_progress() as progress:
        result = download(dataset, out, mirror=url, progress=progress)
    give(result, as_json, title=f"fetched {dataset}")


@app.command()
def prepare(
    inputs: Inputs,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    config: ConfigFile = None,
    spec: Annotated[Path | None, typer.Option(help="Encode with the spec of this prepared folder.")] = None,
    split: Annotated[str | None, typer.Option(help="time, random or none.")] = None,
    settings: Set = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Turn raw click logs into encoded shards."""
    from ctr.config import load_config, schema_of
    from ctr.console import give, moved_text, rows_progress
    from features.engine import open_engine
    from features.prepare import REPORT_PAGE
    from features.prepare import prepare as encode
    from features.spec import load_spec
    from features.split import Split

    chosen = [*(settings or []), *([f"prepare.split={split}"] if split else [])]
    loaded = load_config(config, chosen)
    how = loaded.prepare
    if how.validation + how.test >= 1:
        raise BadInput(f"prepare.validation {how.validation} and prepare.test {how.test} leave no row to train on")
    with open_engine(engine, ray_address) as opened, rows_progress() as progress:
        manifest = encode(
            inputs,
            out,
            schema=schema_of(loaded.features),
            fitted=None if spec is None else load_spec(spec),
            split=Split(how.split, how.validation, how.test, loaded.train.seed),
            shard_rows=how.shard_rows,
            max_reject_rate=how.max_reject_rate,
            seed=loaded.train.seed,
            progress=progress,
            fitted_on=spec,
            engine=opened,
        )
    parts = {name: part["rows"] for name, part in manifest["parts"].items()}
    shards = {name: len(part["shards"]) for name, part in manifest["parts"].items()}
    kept = ("rows", "rows_rejected", "rows_per_second", "peak_rss_mb", "features", "digest", "spec_digest", "moved")
    result = {**{key: manifest[key] for key in kept}, "parts": parts, "shards": shards}
    more = f"{out / REPORT_PAGE} shows what is in the log; {moved_text(manifest['moved'])}"
    give(result, as_json, title=f"prepared {out}", more=[more])


@app.command()
def drift(
    first: Annotated[str, typer.Argument(help="A raw log, a glob, or a prepared folder.")],
    second: Annotated[str, typer.Argument(help="What to compare it with.")],
    out: Annotated[Path | None, typer.Option(help="Also write the comparison as an HTML page.")] = None,
    config: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Say how far each field has moved from one log to another."""
    from ctr.config import load_config, schema_of
    from ctr.console import give, rows_progress, show_drift
    from features.compare_logs import compare_logs

    loaded = load_config(config, settings or [])
    schema = schema_of(loaded.features)
    with rows_progress() as progress:
        result = compare_logs(
            first, second, schema=schema, max_reject_rate=loaded.prepare.max_reject_rate, page=out, progress=progress
        )
    if as_json:
        give(result, as_json, title="")
    else:
        show_drift(first, second, result)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A folder that `ctr prepare` made.")],
    out: Annotated[Path, typer.Option(help="The run to make, or to go on with.")],
    settings: Overrides = None,
    config: ConfigFile = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Train codistilled models; the same command resumes a run that was stopped."""
    from ctr.config import load_config
    from ctr.console import give, groups_progress, say
    from ctr.data import open_data
    from ctr.launch import interrupt_on_sigterm, train_run
    from ctr.seats import open_seats

    loaded = load_config(config, settings or [])
    opened = open_data(data)
    with open_seats(engine, ray_address, data=data, run=out, cores=loaded.train.threads, say=say) as seats:
        interrupt_on_sigterm()
        say(f"starting {loaded.codistillation.groups} groups (TensorFlow takes some seconds to start)")
        with groups_progress() as bars, bars.run("training") as follow:
            result = train_run(opened, out, loaded, follow=follow, seats=seats)
    give(result, as_json, title=f"trained {out}")


@app.command()
def worker(
    data: Annotated[Path, typer.Argument(help="A folder that `ctr prepare` made, which every worker sees.")],
    out: Annotated[Path, typer.Option(help="The run, a folder that every worker sees.")],
    settings: Overrides = None,
    config: ConfigFile = None,
    score: Annotated[list[str] | None, typer.Option(help="Also write the predictions on this part.")] = None,
    keep_model: Annotated[bool, typer.Option(help="Whether there is to be a SavedModel.")] = True,
) -> None:
    """Train as one process of a run, as a cluster starts it.

    TF_CONFIG, CTR_GROUP, CTR_GROUPS and CTR_EXCHANGE say which."""
    from ctr.config import load_config
    from ctr.data import open_data
    from ctr.worker import work

    given = load_config(config, settings or []) if config or settings else None
    work(open_data(data), out, given, score=score or [], keep_model=keep_model)


@app.command()
def evaluate(
    model: Model,
    inputs: Inputs,
    part: Annotated[str, typer.Option(help="Of prepared data: train, validation or test.")] = "test",
    as_json: Json = False,
) -> None:
    """Measure a model on labelled rows (raw logs, a prepared folder), or a server's sample on clicks (id, click)."""
    from ctr.console import give, rows_progress
    from ctr.sampled import evaluate_sample, is_sample, sentences

    if is_sample(model):
        result = evaluate_sample(model, inputs)
        give(result, as_json, title=f"{model} on {', '.join(inputs)}", more=sentences(result))
        return
    from ctr.scoring import evaluate_model

    with rows_progress() as progress:
        result = evaluate_model(model, inputs, part, progress)
    give(result, as_json, title=f"{model} on {', '.join(inputs)}")


@app.command()
def compare(
    data: Annotated[Path, typer.Argument(help="A folder that `ctr prepare` made.")],
    out: Annotated[Path, typer.Option(help="The folder to make, or to go on with.")],
    settings: Overrides = None,
    config: ConfigFile = None,
    retrainings: Annotated[int | None, typer.Option(min=1, help="How often each arm is trained.")] = None,
    truth: Annotated[Path | None, typer.Option(help="True probabilities from `ctr synth`, to compare with.")] = None,
    as_json: Json = False,
) -> None:
    """Search the settings of arms, train them several times and compare them; the same command resumes."""
    from ctr.compare import compare as run_comparison
    from ctr.comparison_tables import comparison_rows
    from ctr.config import load_config
    from ctr.console import give, groups_progress, say, table
    from ctr.data import open_data

    more = [f"compare.retrainings={retrainings}"] if retrainings else []
    loaded = load_config(config, [*(settings or []), *more])
    with groups_progress() as bars:
        result = run_comparison(open_data(data), out, loaded, truth=truth, bars=bars, say=say)
    columns, rows = comparison_rows(result)
    table(f"comparison {out}, {result['rows']:,} test rows", columns, rows)
    for sentence in result["sentences"]:
        say(sentence)
    say(f"report: {result['report']}")
    if as_json:
        give(result, as_json, title="")


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run that `ctr train` finished.")],
    out: Annotated[Path, typer.Option(help="The SavedModel folder to make.")],
    tables: Annotated[str | None, typer.Option(help="What tables are kept in: float32, bfloat16 or float16.")] = None,
    data: Annotated[Path | None, typer.Option(help="Prepared data to measure the cost of 16 bits on.")] = None,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="The average of all groups instead of one.")] = False,
    as_json: Json = False,
) -> None:
    """Write the served model of a run as a SavedModel that takes raw rows."""
    from ctr.console import give, rows_progress
    from ctr.exporting import export_model

    with rows_progress() as progress:
        result = export_model(run, out, tables=tables, data=data, ensemble=ensemble, progress=progress)
    give(result, as_json, title=f"exported {run}", more=[f"signatures: {', '.join(result['signatures'])}"])


@app.command()
def promote(
    model: Model,
    data: Annotated[
        Path | None, typer.Option(help="Prepared data to judge on; default: what it was trained on.")
    ] = None,
    alias: Alias = "champion",
    force: Annotated[bool, typer.Option("--force", help="Promote it though it does not pass.")] = False,
    as_json: Json = False,
) -> None:
    """Register a model in MLflow and point the alias to it, if it passes the gate: better, calibrated, served alike."""
    from ctr.console import give, rows_progress, say
    from ctr.promote import promote as pass_gate

    with rows_progress() as progress:
        result = pass_gate(model, data, alias, force, progress)
    title = f"{model}: {'promoted' if result['version'] else 'not promoted'}"
    give(result, as_json, title=title, more=[f"- {reason}" for reason in result["reasons"]])
    against = "; ".join(result["failed"])
    if result["forced"]:
        say(f"warning: {model} was made {alias} by --force, though it did not pass the gate: {against}")
    elif not result["passed"]:
        raise WorkFailed(f"{model} did not pass the gate and was not made {alias}: {against}")


@app.command()
def rollback(alias: Alias = "champion", as_json: Json = False) -> None:
    """Point the alias back to the version before; a second rollback undoes the first."""
    from ctr.console import give
    from ctr.registry import roll_back

    result = roll_back(alias)
    give(result, as_json, title="rolled back")


@app.command()
def predict(
    model: Model,
    inputs: Inputs,
    out: Annotated[Path, typer.Option(help="The Parquet file to write: row, label, probability.")],
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Score raw click logs on all cores.

    The same command resumes a stopped run: with the same model and inputs, what is in OUT.parts is not scored again."""
    from ctr.console import give, rows_progress, say
    from ctr.scoring import predict_with
    from features.engine import open_engine

    with open_engine(engine, ray_address) as opened, rows_progress() as progress:
        result = predict_with(model, inputs, out, progress, say, opened)
    give(result, as_json, title=f"scores in {out}")


app.command()(serve)


@app.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Open MLflow's UI on the project's store."""
    from ctr.ui import serve_ui

    serve_ui(port)


@app.command()
def validate(configs: ConfigFiles, as_json: Json = False) -> None:
    """Check configuration files, and the schemas that they name."""
    from ctr.config import load_config, schema_of
    from ctr.console import give

    for path in configs:
        schema_of(load_config(path, []).features)
    give({"valid": True, "configs": [str(path) for path in configs]}, as_json, title="valid")


def main() -> None:
    """The `ctr` command."""
    sys.exit(exit_code(app))
