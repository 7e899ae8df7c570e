"""All settings: typed, frozen, read from YAML and `key=value`, with the default of each."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field

from features.errors import BadInput
from features.strict import Strict, parse, parse_yaml, read_yaml

if TYPE_CHECKING:
    from features.schema import Schema

Arm = Literal[
    "logistic",
    "single",
    "single_wide",
    "single_ema",
    "label_smoothing",
    "ensemble",
    "ensemble_ema",
    "distilled",
    "codistilled",
]
Share = Annotated[float, Field(ge=0, lt=1)]


class Features(Strict):
    """Which fields a log has and how they are hashed."""

    layout: str = "criteo"  # "criteo", "criteo-1tb", "avazu", or the path of a schema in YAML
    buckets: int | None = Field(default=None, ge=2, le=2**30)  # of every categorical field and cross
    min_count: int | None = Field(default=None, ge=1)  # training rows below which a bucket is rare
    crosses: tuple[tuple[str, ...], ...] = ()  # fields whose joined values the wide part sees


class Prepare(Strict):
    """How rows are divided and written."""

    split: Literal["time", "random", "none"] = "time"
    validation: Share = 0.1  # share of the rows
    test: Share = 0.1
    shard_rows: int = Field(default=131_072, ge=1)  # about this many rows a shard
    max_reject_rate: float = Field(default=0.01, ge=0, le=1)  # share of unreadable rows above which the work fails


class Model(Strict):
    """The shape of the network."""

    embedding_dim: int = Field(default=16, ge=1)
    deep: Literal["mlp", "dcn"] = "mlp"  # dcn: DCN-V2's cross layers before the ReLU layers
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (256, 128)  # units of the deep part's ReLU layers
    cross_layers: int = Field(default=2, ge=1)  # of DCN-V2
    cross_rank: int | None = Field(default=None, ge=1)  # of DCN-V2's matrices; null: whole ones
    dropout: Share = 0.0  # of the ReLU layers' outputs
    compute: Literal["float32", "bfloat16"] = "float32"  # what matrix products are worked out in


class Optimizer(Strict):
    """AdaGrad for embeddings, a choice for dense layers, FTRL for the wide part."""

    learning_rate: float = Field(default=0.025, gt=0)
    initial_accumulator_value: float = Field(default=1e-7, gt=0)  # Keras's 0.1 all but freezes rare ids
    dense: Literal["adagrad", "clippy_adagrad", "adam"] = "adagrad"  # of the dense layers
    dense_learning_rate: float | None = Field(default=None, gt=0)  # null: learning_rate
    schedule: Literal["linear", "cosine", "constant", "plateau"] = "linear"
    warm_up_steps: int = Field(default=0, ge=0)  # over which the rate rises evenly
    final_rate: float = Field(default=0.05, ge=0, le=1)  # share of the rate that is left at the last step
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)  # what the rate is multiplied by on a plateau
    plateau_patience: int = Field(default=2, ge=1)  # evaluations without a better log loss that make a plateau
    embedding_l2: float = Field(default=1e-4, ge=0)  # on the embeddings of the batch's rows
    wide_learning_rate: float = Field(default=0.05, gt=0)
    wide_l1: float = Field(default=0.0, ge=0)
    wide_l2: float = Field(default=0.0, ge=0)


class SecondPhase(Strict):
    """After `train.epochs`: groups learn mostly from snapshots of the first phase's end."""

    epochs: float = Field(default=0.0, ge=0)  # 0: there is none
    label_weight: float = Field(default=0.05, ge=0)  # of the labels' loss
    weight: float = Field(default=1.0, gt=0)  # of the distillation term
    learning_rate: float = Field(default=0.1, gt=0)  # constant
    teacher: Literal["peers", "everyone"] = "everyone"
    snapshots: Literal["frozen", "refreshed"] = "frozen"


class Codistillation(Strict):
    """How groups learn from one another."""

    groups: int = Field(default=2, ge=1, le=16)  # 1: a single model
    peers: Literal["all", "ring"] = "all"  # ring: each group learns from the one before it
    teacher: Literal["peers", "everyone"] = "peers"  # everyone: the mean takes in the group's own last snapshot
    term: Literal["cross_entropy", "squared_logits"] = "cross_entropy"
    weight: float = Field(default=3.0, ge=0)  # of the distillation term, once it has ramped up
    final_weight: float | None = Field(default=None, ge=0)  # moved to evenly until the last step; null: stays
    teacher_share: float = Field(default=1.0, gt=0, le=1)  # of a batch's rows that peers are asked about
    burn_in_epochs: float = Field(default=0.75, ge=0)  # learning from labels alone
    ramp_steps: int = Field(default=50, ge=0)
    overlap: float = Field(default=1.0, ge=0, le=1)  # share of training rows that all groups read; 0: disjoint parts
    champion: str | tuple[str, ...] | None = None  # a model, or several, that stay as they are and are more peers
    exchange_every: int = Field(default=100, ge=1)  # steps from one snapshot to the next
    exchange: Literal["lockstep", "async"] = "lockstep"
    peer_timeout: float = Field(default=600.0, gt=0)  # seconds that lockstep waits for a peer's snapshot
    drop_after: int = Field(default=1000, ge=1)  # steps behind at which a peer's snapshot is no longer used
    snapshot_dtype: Literal["int8", "float16", "float32"] = "int8"  # int8: embeddings, float16 for the rest
    full_every: int = Field(default=10, ge=1)  # snapshots from one with all embedding rows to the next
    second_phase: SecondPhase = SecondPhase()


class Train(Strict):
    """How long and with what."""

    epochs: float = Field(default=3.0, gt=0)
    batch_size: int = Field(default=1024, ge=1)  # of a group, over all its workers
    workers_per_group: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1)  # TensorFlow threads a process
    seed: int = Field(default=0, ge=0)
    evaluate_every: int | None = Field(default=None, ge=1)  # steps between evaluations; null: a quarter of an epoch
    checkpoint_every: int = Field(default=200, ge=1)  # steps
    early_stopping: int = Field(default=2, ge=0)  # evaluations without a better log loss that end a phase at its best
    label_smoothing: Share = 0.0  # how far labels are moved towards the training click rate
    ema: float = Field(default=0.995, ge=0, lt=1)  # decay a step of the average of the weights that is served; 0: none
    calibration: Literal["none", "isotonic", "platt"] = "none"  # fitted on the validation part, in the served graph
    warm_start: str | None = None  # a run whose weights this one begins with
    restarts: int = Field(default=3, ge=0)  # of a group that died
    max_loss: float = Field(default=10.0, gt=0)  # nats; a step's loss above it ends the run


class Compare(Strict):
    """Which arms are compared."""

    arms: tuple[Arm, ...] = Field(default=("logistic", "single", "ensemble", "codistilled"), min_length=1)
    retrainings: int = Field(default=3, ge=1)
    trials: int = Field(default=8, ge=0)  # of each arm's search of its own settings; 0: all have those given
    ensemble: int = Field(default=2, ge=2, le=16)  # models in it, and teachers of the distilled one
    label_smoothing: float = Field(default=0.05, gt=0, lt=1)  # train.label_smoothing of label_smoothing
    segments: tuple[str, ...] = ()  # fields, or "time", by whose values figures are given too
    gauc: str | None = None  # the field within whose values clicks are ranked for GAUC


class Gate(Strict):
    """What a model must show before it is promoted."""

    max_ece: float = Field(default=0.02, gt=0)  # expected calibration error


class Tracking(Strict):
    """Where runs are filed in MLflow."""

    experiment: str = "ctr"


class Config(Strict):
    """All settings of the project, by group."""

    features: Features = Features()
    prepare: Prepare = Prepare()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    codistillation: Codistillation = Codistillation()
    train: Train = Train()
    compare: Compare = Compare()
    gate: Gate = Gate()
    tracking: Tracking = Tracking()


def load_config(path: Path | None, overrides: list[str]) -> Config:
    """The configuration in `path` (all defaults without one), with `key=value` changes such as `train.epochs=3`.

    Raises BadInput for unknown keys, naming the nearest known one, and for values of the wrong type.
    """
    values = {} if path is None else read_yaml(path)
    where = "defaults" if path is None else str(path)
    if not overrides:
        return parse(Config, values, where)
    parse(Config, values, where)  # so that a fault in the file is not blamed on the command line
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key:
            raise BadInput(f"'{override}' is no key=value; write it as train.epochs=3")
        _set(values, key.split("."), _value(text, override), override)
    return parse(Config, values, "command line" if path is None else f"{path} and command line")


def with_settings(config: Config, changes: Mapping[str, Any]) -> Config:
    """The configuration with other values of keys such as `train.epochs`. Raises BadInput as `load_config` does."""
    values = config.model_dump(mode="json")
    for key, value in changes.items():
        _set(values, key.split("."), value, key)
    return parse(Config, values, "settings")


def schema_of(wanted: Features) -> "Schema":
    """The schema that these settings ask for. Raises BadInput as `features.schema.load_schema` does."""
    from features.schema import load_schema

    return load_schema(wanted.layout, buckets=wanted.buckets, min_count=wanted.min_count, crosses=wanted.crosses)


def dump_config(config: Config) -> str:
    """The whole configuration as YAML, defaults and all."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"train": {"epochs": 3}}` as `{"train.epochs": 3}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def _value(text: str, override: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        raise BadInput(f"the value of '{override}' is not valid YAML; quote it") from None


def _set(values: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise BadInput(f"'{override}' goes into '{name}', which is a value and not a group of keys")
    values[path[-1]] = value
