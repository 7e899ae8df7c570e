"""Which fields a click log has: label, numbers, categories, crosses, time and weight, and what becomes of each."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from features.errors import BadInput
from features.strict import Strict, parse, read_yaml
from features.times import UNIX, problem_of

DEFAULT_BUCKETS = 2**18
DEFAULT_MIN_COUNT = 2


class Numeric(Strict):
    """A field of numbers: what becomes of it as a dense value and as a token that is embedded.

    Dense: `log_standard` is sign(x) ln(1 + |x|), standardised; `min_max` is 0 at the least training value and 1 at the
    largest. Token: `log_square` is floor(ln(x)^2); `quantile` is which of `quantiles` equally filled parts of the
    training values it falls into. `min_count` does not hold for quantiles, which are filled anyway.
    """

    name: str
    kind: Literal["integer", "float"] = "integer"
    dense: Literal["log_standard", "min_max", "none"] = "log_standard"
    token: Literal["log_square", "quantile", "none"] = "log_square"
    quantiles: int = Field(default=32, ge=2, le=4096)
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


class Time(Strict):
    """When a row was written: rows are divided by it, and it may give fields of its own.

    `format` is `unix` (seconds), `unix_ms`, or text of fixed width such as `%Y-%m-%d %H:%M:%S`, taken as it is written,
    without a time zone.
    """

    name: str
    format: str = UNIX
    derive: tuple[Literal["hour_of_day", "day_of_week"], ...] = ()

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, value: str) -> str:
        if problem := problem_of(value):
            raise ValueError(problem)
        return value


class Schema(Strict):
    """The layout of a click log.

    Attributes:
        weight: the field that says how much a row counts, a number of 0 or more.
        order: columns of a file without a header; those that are no field are passed over. Without it they are label,
            weight, time, numeric, categorical. A file may lack the label.
        quoted: whether values may stand in double quotes; without it, those of comma- and semicolon-separated logs may.
    """

    label: str = "label"
    weight: str | None = None
    time: Time | None = None
    numeric: tuple[Numeric, ...] = ()
    categorical: tuple[Categorical, ...] = ()
    crosses: tuple[Cross, ...] = ()
    separator: str = Field(default="\t", min_length=1, max_length=1)
    header: bool = False
    quoted: bool | None = None
    order: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_are_distinct_and_known(self) -> "Schema":
        if not self.categorical and not self.derived and all(field.token == "none" for field in self.numeric):
            raise ValueError("a schema needs at least one categorical field or numeric field with a token")
        names = [self.label, *self.inputs, *self.derived, *(cross.name for cross in self.crosses)]
        _refuse_twice(names)
        _refuse_twice(self.order)
        for name in (self.label, *self.inputs):
            if self.order and name not in self.order:
                raise ValueError(f"order lacks the field '{name}'")
        for cross in self.crosses:
            for name in cross.fields:
                if name not in {field.name for field in self.categorical}:
                    raise ValueError(f"cross {cross.name} names '{name}', which is no categorical field")
        if not self.separator.isascii():
            raise ValueError(f"separator is '{self.separator}'; give one ASCII character")
        return self

    @property
    def inputs(self) -> list[str]:
        """The fields that a row is read from, without the label: weight, time, numbers, categories."""
        first = [name for name in (self.weight, self.time.name if self.time else None) if name]
        return [*first, *(f.name for f in self.numeric), *(f.name for f in self.categorical)]

    @property
    def columns(self) -> list[str]:
        """All columns of a labelled file without a header, in order."""
        return list(self.order) or [self.label, *self.inputs]

    @property
    def number_fields(self) -> list[str]:
        """Fields that a request gives as numbers."""
        return [field.name for field in self.numeric]

    @property
    def text_fields(self) -> list[str]:
        """Fields that a request gives as strings: the time, if fields come from it, and the categories."""
        times = [self.time.name] if self.time and self.time.derive else []
        return [*times, *(field.name for field in self.categorical)]

    @property
    def derived(self) -> tuple[str, ...]:
        """Fields that the time gives."""
        return self.time.derive if self.time else ()

    @property
    def quote(self) -> str | None:
        """The character that values may stand in."""
        quoted = self.separator in ",;" if self.quoted is None else self.quoted
        return '"' if quoted else None


def dense_fields(schema: Schema) -> list[str]:
    """Numeric fields that have a dense value, in order."""
    return [field.name for field in schema.numeric if field.dense != "none"]


def _refuse_twice(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"field '{name}' is named twice; every field needs a name of its own")
        seen.add(name)


def criteo() -> Schema:
    """Criteo's layout (Display Advertising Challenge and 1TB Click Logs): label, I1-I13, C1-C26, tab-separated."""
    return Schema(
        numeric=tuple(Numeric(name=f"I{i}") for i in range(1, 14)),
        categorical=tuple(Categorical(name=f"C{i}") for i in range(1, 27)),
    )


def avazu() -> Schema:
    """Avazu's layout (Click-Through Rate Prediction challenge): CSV with a header, all fields categories but `hour`."""
    places = [f"{kind}_{what}" for kind in ("site", "app") for what in ("id", "domain", "category")]
    devices = [f"device_{what}" for what in ("id", "ip", "model", "type", "conn_type")]
    names = ["C1", "banner_pos", *places, *devices, *(f"C{i}" for i in range(14, 22))]
    return Schema(
        label="click",
        time=Time(name="hour", format="%y%m%d%H", derive=("hour_of_day", "day_of_week")),
        categorical=tuple(Categorical(name=name) for name in names),
        separator=",",
        header=True,
    )


LAYOUTS = {"criteo": criteo, "criteo-1tb": criteo, "avazu": avazu}


def load_schema(
    name: str, *, buckets: int | None, min_count: int | None, crosses: tuple[tuple[str, ...], ...]
) -> Schema:
    """The schema called `name` (of LAYOUTS, or a path to YAML), with the given settings where they are not None.

    `buckets` holds for categorical fields and crosses, `min_count` for every field; `crosses` are added to the
    schema's own. Raises BadInput for an unknown name, key or value.
    """
    if name in LAYOUTS:
        values: dict[str, Any] = LAYOUTS[name]().model_dump(mode="json")
    elif name.endswith((".yaml", ".yml")):
        values = _named(read_yaml(Path(name)))
    else:
        raise BadInput(f"features.layout is '{name}': give {', '.join(LAYOUTS)}, or the path of a .yaml file")
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
    """`categorical: [C1, C2]` is short for `[{name: C1}, {name: C2}]`, and so for numeric fields and the time."""
    expanded = dict(values)
    for kind in ("numeric", "categorical"):
        if isinstance(values.get(kind), list):
            expanded[kind] = [{"name": entry} if isinstance(entry, str) else entry for entry in values[kind]]
    if isinstance(values.get("time"), str):
        expanded["time"] = {"name": values["time"]}
    return expanded
