"""A made-up world of clicks: who is shown what where, what they are like, and how likely a click is.

Every row is a user who is shown an ad on a page. All three have hidden traits, which decide the click and what the log
says (`readings.py`). Everything about a row is worked out of its number by hashing and nothing is remembered, so there
may be any number of rows and of values, and a row is the same whichever rows are asked for beside it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.draws import mix, normal, stream, uniform

Keys = NDArray[np.uint64]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class _Kind:
    """How users, ads or pages are drawn, and what they add to the logit by themselves.

    Attributes:
        places: ranks by popularity; Zipf's law (exponent 1) holds among them from about rank `head` on.
        days: how long a rank far from the head is held until somebody new takes it.
        kin: families (a user's household, an ad's campaign, a page's site); Zipf's law from the first fiftieth on.
        kinship: share of the variance of the open traits that a family has in common.
        pull: weight of each open trait in the logit.
        family_appeal, own_appeal: standard deviation of what a family, and one alone, adds besides its traits.
    """

    places: float
    head: float
    days: float
    kin: float
    kinship: float
    pull: tuple[float, float, float, float]
    family_appeal: float
    own_appeal: float


KINDS = {
    "user": _Kind(
        places=1e7, head=1, days=15, kin=300_000, kinship=0.3,
        pull=(0.63, 0.42, 0.35, 0.49), family_appeal=0.35, own_appeal=0.21,
    ),
    "ad": _Kind(
        places=300_000, head=1, days=8, kin=12_000, kinship=0.8,
        pull=(0.56, 0.42, 0.35, 0.0), family_appeal=0.49, own_appeal=0.28,
    ),
    "page": _Kind(
        places=200_000, head=2, days=60, kin=5_000, kinship=0.8,
        pull=(0.49, 0.35, 0.0, 0.28), family_appeal=0.35, own_appeal=0.21,
    ),
}  # fmt: skip

# Traits 0 to 3 are open: fields of the log read them. Traits 4 to 7 are secret: they are the family's, and only its ids
# betray them, so that a model has to learn every campaign's and site's from the clicks themselves.
_OPEN = 4

_CLICK_RATE = 0.25  # of the first week; .22 over a month and more, as the season turns

# Weight, and the two traits whose product adds to the logit. A product of two independent traits has mean 0 given
# either of them, so nothing of it can be had without looking at both.
_PRODUCTS = (
    (0.30, ("user", 0), ("ad", 0)),
    (0.30, ("user", 1), ("ad", 1)),
    (0.30, ("page", 0), ("ad", 0)),
    (0.20, ("page", 3), ("ad", 3)),
    (0.30, ("user", 2), ("page", 2)),
    (0.35, ("ad", 4), ("page", 4)),
    (0.35, ("ad", 5), ("page", 5)),
    (0.30, ("user", 0), ("ad", 6)),
    (0.30, ("user", 1), ("ad", 7)),
    (0.30, ("user", 2), ("page", 6)),
    (0.30, ("user", 3), ("page", 7)),
)


@dataclass(frozen=True)
class Drawn:
    """The users, the ads or the pages of some rows.

    Attributes:
        id: whose row it is, `[rows]`; of all 64 bits.
        kin: their families, numbered from 0.
        traits: `[8, rows]`, standard normal: 4 open ones, 4 secret ones.
        age: days since they first could be seen.
    """

    id: Keys
    kin: Keys
    traits: Floats
    age: NDArray[np.float64]


def draw(kind: str, rows: Keys, time: NDArray[np.float64], seed: int) -> Drawn:
    """Who is in each of the rows, given their numbers and their time in days."""
    about = KINDS[kind]
    rank = ladder(uniform(rows, stream(seed, f"{kind} of a row")), about.places, about.head)
    # The few at the head stay long, the first of them 31 times as long: nothing with 5 % of the rows goes in a day.
    days = about.days * (1 + 30 / (1 + rank))
    turns = time / days + uniform(rank, stream(seed, f"{kind} turn"))
    turn = np.floor(turns)
    ids = mix(rank + (turn.astype(np.uint64) << np.uint64(32)), stream(seed, kind))
    kin = ladder(uniform(ids, stream(seed, f"{kind} kin")), about.kin, about.kin / 50)
    shared, own = normal(kin, stream(seed, f"{kind} kin traits")), normal(ids, stream(seed, f"{kind} traits"))
    secret = normal(kin, stream(seed, f"{kind} secret traits"))
    return Drawn(ids, kin, np.concatenate([blend(shared, own, about.kinship), secret]), (turns - turn) * days)


def draw_all(rows: Keys, time: NDArray[np.float64], seed: int) -> dict[str, Drawn]:
    """Users, ads and pages of the rows."""
    return {kind: draw(kind, rows, time, seed) for kind in KINDS}


def logit(drawn: dict[str, Drawn], time: NDArray[np.float64], seed: int, *, interactions: float) -> NDArray[np.float64]:
    """The log-odds of a click `[rows]`, but for the intercept.

    `interactions` scales all that takes two of user, ad and page to know.
    """
    return _drift(drawn, time) + _main(drawn, seed) + interactions * _interactions(drawn)


def intercept(seed: int, *, interactions: float) -> float:
    """What to add to the logit so that a quarter of the rows of the first week are clicks.

    It differs from seed to seed, since the most shown ad, with 5 % of the rows, has the traits that it happens to have.
    """
    rows = np.arange(20_000, dtype=np.uint64)
    time = rows / len(rows) * 7.0
    sample = logit(draw_all(rows, time, seed), time, seed, interactions=interactions)
    low, high = -10.0, 10.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if float(sigmoid(sample + middle).mean()) > _CLICK_RATE else (middle, high)
    # Rounded, so that another processor's last bits do not make another log.
    return round(low, 3)


def sigmoid(logits: Floats) -> Floats:
    """The probability that has these log-odds."""
    return 1 / (1 + np.exp(-logits))


def _main(drawn: dict[str, Drawn], seed: int) -> NDArray[np.float64]:
    total = np.zeros(len(drawn["user"].id))
    for kind, about in KINDS.items():
        one = drawn[kind]
        for weight, trait in zip(about.pull, one.traits[:_OPEN], strict=True):
            total += weight * trait
        total += about.family_appeal * normal(one.kin, stream(seed, f"{kind} kin appeal"))[0]
        total += about.own_appeal * normal(one.id, stream(seed, f"{kind} appeal"))[0]
    return total


def _interactions(drawn: dict[str, Drawn]) -> NDArray[np.float64]:
    total = np.zeros(len(drawn["user"].id))
    for weight, (one, trait), (other, others) in _PRODUCTS:
        total += weight * drawn[one].traits[trait] * drawn[other].traits[others]
    user, ad = drawn["user"].traits, drawn["ad"].traits
    # Not bilinear: an effect that only changes sign, and a liking for what is near (less its mean, 2 / sqrt(pi)).
    total += 0.3 * np.tanh(2 * user[2] * ad[1])
    total -= 0.2 * (np.abs(user[3] - ad[2]) - 1.128)
    return total


def _drift(drawn: dict[str, Drawn], time: NDArray[np.float64]) -> NDArray[np.float64]:
    hours = 0.10 * np.sin(2 * np.pi * time)
    season = 0.25 * np.sin(2 * np.pi * time / 28)  # up by a quarter in the first week
    fashion = 0.15 * np.sin(2 * np.pi * time / 14) * drawn["page"].traits[1]
    worn_out = -0.02 * np.minimum(drawn["ad"].age, 10)
    return hours + season + fashion + worn_out


def ladder(place: Floats, values: float, head: float) -> Keys:
    """Ranks below `values` of places in [0, 1): log-uniform, the first with log(1 + 1/head) / log(1 + values/head)."""
    return (head * np.expm1(place * np.log1p(values / head))).astype(np.uint64)


def blend(signal: Floats, noise: Floats, share: float) -> Floats:
    """A standard normal variable of two, `share` being the signal's part of its variance."""
    return np.float32(share**0.5) * signal + np.float32((1 - share) ** 0.5) * noise
