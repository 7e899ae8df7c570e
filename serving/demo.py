"""The demo page, for people to try a model in a browser: edit a row, see its score and what each field does to it.

The page is one file that fetches nothing but `/demo/model.json` and scores of `:predict`, from the server it came from.
"""

import base64
import hashlib
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from features.schema import Schema
from serving.http import HttpApp, Page
from serving.rows import known_in
from serving.versions import Version
from serving.warmup import made_up_columns

PAGE, MODEL = "/demo", "/demo/model.json"

_EXAMPLES = 6
# What of a card is nobody's business: a path of the machine that trained. And names of variables, which say nothing.
_LEFT_OUT = ("data", "weights")


def add_demo(app: HttpApp, *, token: bool) -> None:
    """Adds the page to a server; it needs no token to be seen. `token`: whether scoring needs one."""
    page = _page()

    def model() -> tuple[int, dict[str, Any]]:
        with app.engine.versions.using() as version:
            return 200, {"name": app.engine.versions.name, "token": token, **describe(version)}

    app.pages |= {PAGE: lambda: (200, page), MODEL: model}
    app.free |= {PAGE, MODEL}


def describe(version: Version[Any]) -> dict[str, Any]:
    """What the page shows of a version: its fields, how a line of its log is read, made-up rows, its card.

    `dated` is when the version's files were written here, in UTC.
    """
    model = version.loaded.model
    schema: Schema = model.spec.schema
    kinds = {field.name: field.kind for field in schema.numeric}
    written = (model.folder / "saved_model.pb").stat().st_mtime
    return {
        "version": version.number,
        "fields": [{"name": name, "kind": kinds.get(name, "text")} for name in known_in(schema)],
        "layout": {
            "columns": schema.columns,
            "label": schema.label,
            "separator": schema.separator,
            "quote": schema.quote,
            "header": schema.header,
        },
        "time": schema.time and {"name": schema.time.name, "format": schema.time.format},
        "examples": _examples(schema),
        "card": {key: value for key, value in model.card.items() if key not in _LEFT_OUT},
        "dated": datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds"),
    }


def _examples(schema: Schema) -> list[dict[str, Any]]:
    """Made-up rows as requests have them; null is missing."""
    columns = made_up_columns(schema, _EXAMPLES)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{name: None if _is_nan(value) or value == "" else value for name, value in row.items()} for row in rows]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _page() -> Page:
    """The page with its headers: a browser runs what is in it, by digest, and loads nothing from elsewhere."""
    source = Path(__file__).with_name("demo.html").read_text(encoding="utf-8")
    (style,), (script,) = (re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL) for tag in ("style", "script"))
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; connect-src 'self'; "
        # The page's icon is an empty one of its own, so that browsers do not ask for /favicon.ico.
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return (
        b"text/html; charset=utf-8",
        source.encode(),
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-cache"),
    )


def _digest(text: str) -> str:
    """How a Content-Security-Policy names a text (CSP Level 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
