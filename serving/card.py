"""What a SavedModel says of itself: card, feature spec and calibration in its assets. It needs no TensorFlow."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from features.errors import BadInput
from features.spec import FeatureSpec, load_spec

CARD_FILE = "model.json"
CALIBRATION_FILE = "calibration.json"


def is_saved_model(folder: Path) -> bool:
    """Whether `folder` is a SavedModel that this project exported."""
    return (folder / "saved_model.pb").is_file() and (folder / "assets" / CARD_FILE).is_file()


def read_card(folder: Path) -> dict[str, Any]:
    """Run, metrics, digests and signatures of the SavedModel in `folder`. Raises BadInput if it is none of ours."""
    if not is_saved_model(folder):
        what = "does not exist" if not folder.exists() else "holds no SavedModel of this project"
        raise BadInput(f"{folder} {what}; give a folder that `ctr export` made, a run, or models:/ctr@champion")
    path = folder / "assets" / CARD_FILE
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise BadInput(f"{path} cannot be read: {error}; export the model again") from None


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Writes the card of the SavedModel in `folder`."""
    (folder / "assets" / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def write_calibration(folder: Path, x: Iterable[float], y: Iterable[float]) -> None:
    """Writes the table of a SavedModel's calibration, logits and calibrated logits `[knots]`, which is in its graph."""
    table = {"x": [float(value) for value in x], "y": [float(value) for value in y]}
    (folder / "assets" / CALIBRATION_FILE).write_text(json.dumps(table) + "\n", encoding="utf-8")


def read_calibration(folder: Path) -> tuple[list[float], list[float]] | None:
    """The same to the bit; None where the model has no calibration."""
    path = folder / "assets" / CALIBRATION_FILE
    if not path.is_file():
        return None
    table = json.loads(path.read_text(encoding="utf-8"))
    return table["x"], table["y"]


def read_spec(folder: Path) -> FeatureSpec:
    """The feature spec of the SavedModel in `folder`."""
    return load_spec(folder / "assets")
