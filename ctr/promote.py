"""The gate before a model becomes champion: better than the present one, calibrated, and the same online as offline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr import registry, tracking
from ctr.data import Data, in_order, open_data, weights_of
from ctr.intervals import paired_interval
from ctr.metrics import chance_calibration_error, evaluate, weighed_log_loss
from ctr.runs import find_model
from ctr.scoring import check_same_spec, held_out, score_part, trained_on
from features.encode import encode_dense, encode_ids
from features.errors import BadInput, WorkFailed
from features.progress import Progress
from features.sources import open_sources, read_batches
from serving.batch import score_logs
from serving.card import read_card
from serving.model import ServedModel

_PARITY_ROWS = 1000
_PARITY_TOLERANCE = 1e-6


def promote(name: str, data_folder: Path | None, alias: str, force: bool, progress: Progress) -> dict[str, Any]:
    """Judges a model on held-out rows and, if it passes, registers it and moves the alias.

    With `force` it does so even if the model fails, in whatever: the tags of the version then say why it would have
    been refused. Returns the registered name, the version (None if there is no new one) and the one before, whether it
    passed, whether it was forced, the reasons, and those of them that speak against it. Raises BadInput if there are
    no rows to judge on, and WorkFailed if, without `force`, the present version cannot be loaded.
    """
    registry.check_alias(alias)
    folder = find_model(name)
    card = read_card(folder)
    data = open_data(data_folder or trained_on(name, card, "judge"))
    check_same_spec(card["spec_digest"], data)
    part = held_out(data, "judge")
    was = registry.aliases().get(alias)
    model = ServedModel(folder)
    labels, scores = score_part(model, data, part, progress)
    found = evaluate(labels, scores, weights_of(data.parts[part]))
    sample = _sample(data)
    better, comparison = _better(alias, was, force, data, part, labels, scores, progress)
    checks = [
        (better, comparison + _caution("the model", card, data, part)),
        _calibrated(scores, found.ece, card["config"]["gate"]["max_ece"]),
        _same_online(model, sample),
    ]
    reasons, failed = [text for _, text in checks], [text for ok, text in checks if not ok]
    figures = {key: found.as_dict()[key] for key in ("log_loss", "auc", "ece", "rows")}
    forced = force and bool(failed)
    version = None
    if forced or not failed:
        tags = {"spec_digest": card["spec_digest"], "data_digest": card["data_digest"]}
        tags |= {"judged_on": part, "judged_data": data.digest, "champion_before": was or "none"}
        tags |= {key: str(value) for key, value in figures.items() if value is not None}
        tags |= {"promoted_at": registry.now_utc(), **_reason_tags(reasons, failed)}
        title = "Forced, though the gate refused it:" if forced else "Passed the gate:"
        description = "\n".join([title, *(f"- {reason}" for reason in reasons)])
        run_id = card["run_id"] if tracking.has_run(card["run_id"]) else _run_for(folder, card)
        version = registry.register(folder, run_id, model.number_fields, model.text_fields, tags, description)
        registry.move_alias(alias, version, was)
    return {
        "name": registry.MODEL_NAME,
        "version": version,
        "alias": alias,
        "was": was,
        "passed": not failed,
        "forced": forced,
        "reasons": reasons,
        "failed": failed,
        "judged_on": part,
        **figures,
    }


def _reason_tags(reasons: Sequence[str], failed: Sequence[str]) -> dict[str, str]:
    """All reasons, and those for which a version that was forced would have been refused."""
    tags = {f"reason_{index}": reason for index, reason in enumerate(reasons)}
    if failed:
        tags |= {"forced": "true"} | {f"would_have_refused_{index}": reason for index, reason in enumerate(failed)}
    return tags


def _caution(who: str, card: dict[str, Any], data: Data, part: str) -> str:
    """Why the rows judged on may not be new to a model, if so."""
    if card["data_digest"] != data.digest:
        return f"; {who} was trained on other data, {card['data_digest']}; whether it has seen these rows is not known"
    if part == "test":
        return ""
    train = card["config"]["train"]
    uses = {
        "early stopping": train["early_stopping"] > 0,
        "the choice of the group that is served": card["groups"] > 1,
        "calibration": train.get("calibration", "none") != "none",
    }
    used = " and ".join(what for what, so in uses.items() if so)
    return f"; {who} is not new to these {part} rows: {used} went by them" if used else ""


def _better(
    alias: str,
    version: str | None,
    force: bool,
    data: Data,
    part: str,
    labels: NDArray[np.float64],
    scores: NDArray[np.float64],
    progress: Progress,
) -> tuple[bool, str]:
    """Compares with the version that the alias points to; one that cannot be loaded is an error without `force`."""
    if version is None:
        return True, f"there is no {alias} yet"
    try:
        champion = ServedModel(registry.model_files(f"models:/{registry.MODEL_NAME}/{version}"))
    except BadInput as error:
        text = f"{alias} version {version} cannot be loaded: {error}"
        if force:
            return False, f"not compared with the present model: {text}"
        raise WorkFailed(
            f"{text}; bring its files back, return to the version before with `ctr rollback --alias {alias}`, or "
            "replace it unseen with --force"
        ) from None
    if champion.card["spec_digest"] == data.spec.digest:
        _, theirs = score_part(champion, data, part, progress)
    else:
        theirs = _score_raw(champion, data, part, progress)
    caution = _caution(f"the {alias}", champion.card, data, part)
    weights = weights_of(data.parts[part])
    differences = weighed_log_loss(labels, scores, weights) - weighed_log_loss(labels, theirs, weights)
    if not differences.any():
        return False, f"not better than {alias} version {version}: it scores every row alike{caution}"
    mean, low, high = paired_interval(differences, seed=0)
    worse = "better" if mean < 0 else "worse"
    interval = f"by {abs(mean):.5f} nats (95 % of {low:+.5f} to {high:+.5f}, {len(labels):,} {part} rows){caution}"
    if high < 0:
        return True, f"better than {alias} version {version} {interval}"
    return False, f"not surely better than {alias} version {version}: {worse} {interval}"


def _score_raw(champion: ServedModel, data: Data, part: str, progress: Progress) -> NDArray[np.float64]:
    """The champion's scores on the rows of a part, from the raw log: its feature spec is another one."""
    wanted = np.concatenate([rows.row for rows in in_order(data.parts[part], 65536)])
    mine = pl.col("row").is_in(pl.Series(wanted).implode())
    scores = pl.concat(each.scores.filter(mine) for each in score_logs(champion.folder, _raw_logs(data), progress))
    order = pl.DataFrame({"row": wanted}).join(scores, on="row", how="left", maintain_order="left")
    if order["probability"].null_count():
        raise BadInput(f"the raw logs of {data.folder} changed since it was prepared; prepare it again")
    return order["probability"].to_numpy().astype(np.float64)


def _calibrated(scores: NDArray[np.float64], ece: float, most: float) -> tuple[bool, str]:
    chance = chance_calibration_error(scores)
    ok = ece <= most + chance
    text = f"calibration error {ece:.4f}, at most {most:g} and the {chance:.4f} that chance alone gives on these rows"
    return ok, f"{'calibrated' if ok else 'not calibrated'}: {text}"


def _sample(data: Data) -> pl.DataFrame:
    """The first rows of the raw log."""
    sources = open_sources(_raw_logs(data)[:1], data.spec.schema)
    return next(read_batches(sources, data.spec.schema)).frame.head(_PARITY_ROWS)


def _same_online(model: ServedModel, frame: pl.DataFrame) -> tuple[bool, str]:
    """Raw rows through the serving signature against the same rows as the pipeline encodes them."""
    offline = model.from_packed(encode_ids(frame, model.spec), encode_dense(frame, model.spec))
    online = model.from_columns(_raw_columns(model, frame), frame.height)
    gap = float(np.abs(offline - online).max())
    text = f"largest difference of serving and pipeline {gap:.1e} on {frame.height} raw rows"
    return (
        gap <= _PARITY_TOLERANCE,
        f"{'same' if gap <= _PARITY_TOLERANCE else 'NOT the same'} online as offline: {text}",
    )


def _raw_columns(model: ServedModel, frame: pl.DataFrame) -> dict[str, Any]:
    numbers = {name: frame[name].fill_null(float("nan")).to_list() for name in model.number_fields}
    return {**numbers, **{name: frame[name].fill_null("").to_list() for name in model.text_fields}}


def _raw_logs(data: Data) -> list[str]:
    logs = [str(source) for source in data.manifest["sources"]]
    gone = [log for log in logs if "://" not in log and not Path(log).exists()]
    if gone:
        raise BadInput(
            f"{data.folder} was prepared from {gone[0]}, which is gone; the gate needs raw rows to check parity"
        )
    return logs


def _run_for(folder: Path, card: dict[str, Any]) -> str:
    """A run for a model whose own is in another store."""
    tags = {"kind": "import", "group": str(card["group"]), "origin_run_id": card["run_id"]}
    experiment = card["config"]["tracking"]["experiment"]
    run_id = tracking.start_run(experiment, f"import/{folder.name}", tags=tags, params={"path": str(folder)})
    for part, figures in card["metrics"].items():
        tracking.log_metrics(run_id, {f"{part}_{key}": value for key, value in figures.items()}, 0)
    tracking.end_run(run_id, "FINISHED")
    return run_id
