"""A model and an optimizer as settings ask for them."""

from typing import Any

from ctr.config import Config
from ctr.model import WideAndDeep
from ctr.optimizers import make_optimizer
from features.spec import FeatureSpec


def build_model(
    spec: FeatureSpec, config: Config, *, seed: int = 0, click_rate: float | None = None, tables: str = "float32"
) -> WideAndDeep:
    """A model for rows that `spec` encoded, which at first predicts about `click_rate`; its tables are of this type."""
    model: Any = WideAndDeep  # which Keras's __new__ is said to return something else than
    return model(
        sizes=spec.sizes,
        cross_count=spec.cross_count,
        dense_count=len(spec.dense_fields),
        embedding_dim=config.model.embedding_dim,
        deep=config.model.deep,
        hidden=config.model.hidden,
        cross_layers=config.model.cross_layers,
        cross_rank=config.model.cross_rank,
        dropout=config.model.dropout,
        compute=config.model.compute,
        embedding_l2=config.optimizer.embedding_l2,
        label_smoothing=config.train.label_smoothing,
        seed=seed,
        tables=tables,
        click_rate=min(max(click_rate or 0.0, 1e-4), 1 - 1e-4),
    )


def build_optimizer(model: WideAndDeep, config: Config, rate: Any) -> Any:
    """The optimizer of a model, which takes its learning rate from the variable `rate`."""
    how = config.optimizer
    return make_optimizer(
        model,
        rate=rate,
        dense=how.dense,
        dense_ratio=(how.dense_learning_rate or how.learning_rate) / how.learning_rate,
        initial_accumulator_value=how.initial_accumulator_value,
        wide_learning_rate=how.wide_learning_rate,
        wide_l1=how.wide_l1,
        wide_l2=how.wide_l2,
    )
