"""`ctr export`: a model's SavedModel as training wrote it, or one made anew of its weights."""

from pathlib import Path
from typing import Any

from ctr.data import open_data
from ctr.runs import find_model, is_run, member_model, read_run
from ctr.scoring import check_same_spec, held_out, trained_on
from features.errors import BadInput, did_you_mean
from features.output import copy_whole
from features.progress import Progress
from serving.card import read_card
from serving.quiet import start_tensorflow

FLOAT32, SHORT = "float32", ("bfloat16", "float16")


def export_model(
    name: str, out: Path, *, tables: str | None, data: Path | None, ensemble: bool, progress: Progress
) -> dict[str, Any]:
    """Writes the SavedModel folder `out`; returns its path, signatures and bytes on disk.

    With `tables` in 16 bits also what that costs on the held-out part of `data`, by default of what MODEL was trained
    on; see `ctr.rebuild.rebuild`. `ensemble`: the average of all groups of the run `name` instead of the one that is
    served. Raises BadInput if `out` exists, and for what does not go together.
    """
    if tables not in (None, FLOAT32, *SHORT):
        raise BadInput(f"--tables is '{tables}': {did_you_mean(str(tables), [FLOAT32, *SHORT])}")
    if data is not None and tables not in SHORT:
        raise BadInput(
            f"--data {data} would not be used: it is what the cost of tables in 16 bits is measured on; leave it out "
            f"or add --tables {SHORT[0]}"
        )
    members = _groups(name) if ensemble else [find_model(name)]
    card = read_card(members[0])
    had = card.get("tables", FLOAT32)
    if tables is not None and had not in (FLOAT32, tables):
        raise BadInput(f"{name} has its tables in {had} already; export the run that it comes from")
    cost: dict[str, Any] = {}
    if ensemble or (tables or had) != had:
        judged_on = None
        if tables in SHORT:
            judged_on = open_data(data or trained_on(name, card, "score"))
            check_same_spec(card["spec_digest"], judged_on)
            held_out(judged_on, "score")
        start_tensorflow()
        from ctr.rebuild import rebuild

        cost = rebuild(members, out, tables=tables or had, data=judged_on, progress=progress)
    else:
        copy_whole(members[0], out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"path": str(out), "signatures": read_card(out)["signatures"], "bytes": size, **cost}


def _groups(name: str) -> list[Path]:
    """The SavedModels of all groups of a run."""
    find_model(name)
    if not is_run(Path(name)):
        raise BadInput(f"--ensemble takes the groups of a run, and {name} is one model; give a RUN folder")
    groups = read_run(Path(name))["result"]["groups"]
    if groups < 2:
        raise BadInput(f"run {name} has one group, so that there is nothing to average; leave --ensemble out")
    return [member_model(Path(name), group) for group in range(groups)]
