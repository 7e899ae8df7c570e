"""What others may want to know of each request: plain callables, told of it when its answer has gone out."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from serving.rows import Inputs
from serving.versions import Version


@dataclass(slots=True)
class Call:
    """One request, filled in as it is answered.

    Attributes:
        kind: `v1:predict`, `v2:infer`, `grpc:Predict`, `v1:status`, ... or `other`.
        id: what the client calls it (`x-request-id`), or what it was given.
        asked: rows that the request has, as far as it could be read, whether they were scored or not.
        began, expires: times of the event loop's clock; a request that expires before it is scored is refused.
        status: HTTP's, of gRPC requests too.
        seconds: from the request's head to its answer's end.
        queue_seconds, model_seconds: how long it waited for the model, and how long its batch took.
        version: that scored it.
        inputs: what was scored, checked, by column; `inputs.rows` of them.
        scores: `[rows]`, probabilities as the client got them.
        challenger_version, challenger_scores: the same of the challenger, if it scored the request in its shadow.
    """

    began: float
    kind: str = "other"
    id: str = ""
    asked: int = 0
    expires: float = 0.0
    status: int = 0
    seconds: float = 0.0
    queue_seconds: float = 0.0
    model_seconds: float = 0.0
    version: Version[Any] | None = None
    inputs: Inputs | None = None
    scores: list[float] = field(default_factory=list)
    challenger_version: Version[Any] | None = None
    challenger_scores: list[float] | None = None


Hook = Callable[[Call], None]


def tell(listeners: Iterable[Hook], call: Call) -> None:
    """Tells each of a call; one that fails is reported and harms nobody."""
    for listener in listeners:
        try:
            listener(call)
        except Exception:
            logging.getLogger("ctr").exception("a listener failed")
