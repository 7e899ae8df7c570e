from pathlib import Path
from typing import Any


def write_html(described: dict[str, Any], path: Path, *, title: str) -> None:
    path.write_text("todo")


def write_drift_html(found: dict[str, Any], path: Path, *, title: str) -> None:
    path.write_text("todo")
