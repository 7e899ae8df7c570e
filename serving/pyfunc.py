"""The model as MLflow's pyfunc: models from code, no pickle. MLflow copies this file into the logged model.

It stands alone on purpose: whoever serves the logged model has TensorFlow, and need not have this project.
"""

from typing import Any

import mlflow.models
import mlflow.pyfunc
import numpy as np
import pandas as pd


class CtrModel(mlflow.pyfunc.PythonModel):  # pyright: ignore[reportPrivateImportUsage]
    """Raw fields in a data frame to click probabilities; absent columns and nulls are missing values."""

    def load_context(self, context: Any) -> None:
        """Loads the SavedModel from the logged artifacts."""
        import tensorflow as tf

        self.loaded = tf.saved_model.load(context.artifacts["saved_model"])
        self.score = self.loaded.signatures["serving_default"]
        self.inputs = self.score.structured_input_signature[1]

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """`probability` for each row."""
        import tensorflow as tf

        unknown = sorted(set(model_input.columns) - set(self.inputs))
        if unknown:
            raise ValueError(f"unknown field '{unknown[0]}'; known: {', '.join(self.inputs)}")
        tensors = {name: tf.constant(self._column(model_input, name, spec.dtype)) for name, spec in self.inputs.items()}
        return pd.DataFrame({"probability": self.score(**tensors)["probability"].numpy()}, index=model_input.index)

    def _column(self, frame: pd.DataFrame, name: str, dtype: Any) -> Any:
        text = dtype.name == "string"
        if name not in frame.columns:
            return np.full(len(frame), "" if text else np.nan, dtype=object if text else np.float64)
        if text:
            return frame[name].astype(object).where(frame[name].notna(), "").to_numpy(dtype=object)
        return frame[name].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)


mlflow.models.set_model(CtrModel())
