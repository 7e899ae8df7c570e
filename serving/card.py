"""What a SavedModel says of itself: the card in its assets. Reading it needs no TensorFlow."""

import json
from pathlib import Path
from typing import Any, cast

from features.errors import BadInput
from features.spec import FeatureSpec, load_spec

CARD_FILE = "model.json"


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


def read_spec(folder: Path) -> FeatureSpec:
    """The feature spec of the SavedModel in `folder`."""
    return load_spec(folder / "assets")
