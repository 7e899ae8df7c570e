"""Which fields a click log has. Criteo's is built in; any other is a YAML file."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from features.errors import BadInput
from features.strict import Strict, parse, read_yaml

DEFAULT_BUCKETS = 2**18
DEFAULT_MIN_COUNT = 2


class Numeric(Strict):
    """A field of numbers: what becomes of it as a dense value and as a token that is embedded."""

    name: str
    kind: Literal["integer", "float"] = "integer"
    dense: Literal["log_standard", "none"] = "log_standard"
    token: Literal["log_square", "none"] = "log_square"
    min_count: int = Field(default=DEFAULT_MIN_COUNT, ge=1)


class Categorical(Strict):
    """A field of strings, hashed into `buckets`; a bucket seen in fewer than `min_count` training rows is rare."""

    name: str
    buckets: int = Field(default=DEFAULT_BUCKETS, ge=2, le=2**30)
    min_count: int = Field(default=DEFAULT_MIN_COUNT, ge=1)


class Cross(Strict):
    """The joined values of several categorical fields, hashed as one; seen by the wide part alone."""

    fields: tuple[str, ...] = Field(min_length=2)
    buckets: int = Field(default=DEFAULT_BUCKETS, ge=2, le=2**30)
    min_count: int = Field(default=DEFAULT_MIN_COUNT, ge=1)

    @property
    def name(self) -> str:
        return "_x_".join(self.fields)


class Schema(Strict):
    """The layout of a click log.

    Without a header line the columns stand in this order: label, numeric, categorical. A file may lack the label.
    """

    label: str = "label"
    numeric: tuple[Numeric, ...] = ()
    categorical: tuple[Categorical, ...] = ()
    crosses: tuple[Cross, ...] = ()
    separator: str = Field(default="\t", min_length=1, max_length=1)
    header: bool = False

    @model_validator(mode="after")
    def _names_are_distinct_and_known(self) -> "Schema":
        if not self.categorical and all(field.token == "none" for field in self.numeric):
            raise ValueError("a schema needs at least one categorical field or numeric field with a token")
        names = [*self.columns, *(cross.name for cross in self.crosses)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"field '{twice[0]}' is named twice; every field needs a name of its own")
        for cross in self.crosses:
            for name in cross.fields:
                if name not in {field.name for field in self.categorical}:
                    raise ValueError(f"cross {cross.name} names '{name}', which is no categorical field")
        return self

    @property
    def columns(self) -> list[str]:
        """All columns of a labelled file, in order."""
        return [self.label, *(f.name for f in self.numeric), *(f.name for f in self.categorical)]


def criteo() -> Schema:
    """Criteo's layout (Display Advertising Challenge and 1TB Click Logs): label, I1-I13, C1-C26, tab-separated."""
    return Schema(
        numeric=tuple(Numeric(name=f"I{i}") for i in range(1, 14)),
        categorical=tuple(Categorical(name=f"C{i}") for i in range(1, 27)),
    )


def load_schema(
    name: str, *, buckets: int | None, min_count: int | None, crosses: tuple[tuple[str, ...], ...]
) -> Schema:
    """The schema called `name` ("criteo", or a path to YAML), with the given settings where they are not None.

    `buckets` holds for categorical fields and crosses, `min_count` for every field; `crosses` are added to the
    schema's own. Raises BadInput for an unknown name, key or value.
    """
    if name == "criteo":
        values: dict[str, Any] = criteo().model_dump(mode="json")
    elif name.endswith((".yaml", ".yml")):
        values = _named(read_yaml(Path(name)))
    else:
        raise BadInput(f"features.schema is '{name}': give 'criteo' or the path of a .yaml file")
    base = parse(Schema, values, name)
    hashed = {k: v for k, v in {"buckets": buckets, "min_count": min_count}.items() if v is not None}
    counted = {} if min_count is None else {"min_count": min_count}
    joined = (*base.crosses, *(parse(Cross, {"fields": list(fields)}, "features.crosses") for fields in crosses))
    changed: dict[str, Any] = {
        "numeric": [{**f.model_dump(mode="json"), **counted} for f in base.numeric],
        "categorical": [{**f.model_dump(mode="json"), **hashed} for f in base.categorical],
        "crosses": [{**f.model_dump(mode="json"), **hashed} for f in joined],
    }
    return parse(Schema, {**base.model_dump(mode="json"), **changed}, name)


def _named(values: dict[str, Any]) -> dict[str, Any]:
    """`categorical: [C1, C2]` is short for `[{name: C1}, {name: C2}]`, and so for numeric fields."""
    expanded = dict(values)
    for kind in ("numeric", "categorical"):
        if isinstance(values.get(kind), list):
            expanded[kind] = [{"name": entry} if isinstance(entry, str) else entry for entry in values[kind]]
    return expanded
