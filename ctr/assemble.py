"""A group's training put together from the settings: where their values become plain arguments."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ctr.average import Average
from ctr.build import build_model, build_optimizer
from ctr.config import Config
from ctr.data import Data, Part, divided
from ctr.exchange import Exchange, fingerprint
from ctr.learner import Learner
from ctr.peers import Peers, peer_groups
from ctr.phases import Phase
from ctr.place import Place
from ctr.rates import Plateau, rate_at
from ctr.runs import group_folder
from ctr.train import Report, Rhythm, Seat, Training
from ctr.warm import champion_model, warm_start
from features.errors import BadInput

# Steps between evaluations where nothing is said of them: fewer tell of noise.
_LEAST = 50


def assemble(
    data: Data,
    run: Path,
    config: Config,
    place: Place,
    strategy: Any,
    *,
    seed: int,
    report: Report,
    alive: Callable[[], None],
) -> Training:
    """The training of this process's group, ready to run."""
    import tensorflow as tf

    how = config.codistillation
    groups = peer_groups(place.group, place.groups, ring=how.peers == "ring") if how.weight > 0 else []
    part = divided(
        data.parts["train"], group=place.group, groups=place.groups, overlap=how.overlap, seed=config.train.seed
    )
    if not part.rows:
        raise BadInput(
            f"group {place.group} of {place.groups} has no training rows with codistillation.overlap={how.overlap:g}; "
            "raise it or train fewer groups"
        )
    phases = plan(data.parts["train"], config, place.groups, taught=bool(groups or how.champion))
    champions = (how.champion,) if isinstance(how.champion, str) else how.champion or ()
    everyone = bool(groups) and any(phase.everyone for phase in phases)
    build = partial(build_model, data.spec, config, seed=seed, click_rate=data.parts["train"].click_rate)
    rate = tf.Variable(tf.zeros([]), trainable=False, name="rate")
    with strategy.scope():
        model = build()
        optimizer = build_optimizer(model, config, rate)
    average = Average(model, build(), config.train.ema) if config.train.ema else None
    teachers = [build() for _ in range(len(groups) + everyone)]
    teachers += [champion_model(name, data.spec) for name in champions]
    learner = Learner(
        strategy,
        model,
        optimizer,
        rate,
        teachers,
        batch_size=config.train.batch_size,
        worker=place.worker,
        average=average,
        of_logits=how.term == "squared_logits",
        teacher_share=how.teacher_share,
    )
    for place_of in range(len(teachers) - len(champions), len(teachers)):
        learner.set_present(place_of, True)
    checkpoints = group_folder(run, place.group) / "checkpoint"
    if config.train.warm_start and not tf.train.latest_checkpoint(str(checkpoints)):
        taken = warm_start(Path(config.train.warm_start), model, optimizer, data.spec, config)
        if average:
            average.start()
        report("note", {"text": f"warm start from {config.train.warm_start}: {taken}"})
    peers = None
    if groups:
        weights = model.named_weights()
        exchange = Exchange(
            place.exchange,
            group=place.group,
            fingerprint=fingerprint(weights, data.spec.digest),
            shapes={name: tuple(weight.shape) for name, weight in weights.items()},
            dtype=how.snapshot_dtype,
            embeddings=model.embedding_names,
            # A peer may restart from its last checkpoint and wants what it read then, a boundary behind this group.
            keep=-(-config.train.checkpoint_every // how.exchange_every) + 3,
            full_every=how.full_every,
        )
        peers = Peers(
            exchange,
            groups,
            lockstep=how.exchange == "lockstep",
            timeout=how.peer_timeout,
            drop_after=how.drop_after,
            chief=place.chief,
            own=len(groups) if everyone else None,
        )
    return Training(
        learner,
        part,
        data.parts["validation"],
        phases=phases,
        rates=_rates(config, phases),
        rhythm=Rhythm(
            evaluate_every=config.train.evaluate_every or max(_LEAST, part.rows // config.train.batch_size // 4),
            checkpoint_every=config.train.checkpoint_every,
            patience=config.train.early_stopping if data.parts["validation"].rows else 0,
            look_every=how.exchange_every,
            max_loss=config.train.max_loss,
        ),
        peers=peers,
        plateau=Plateau(config.optimizer.plateau_patience, config.optimizer.plateau_factor)
        if config.optimizer.schedule == "plateau"
        else None,
        seat=Seat(
            worker=place.worker,
            workers=place.workers,
            seed=seed,
            # Saving takes all workers of a group, restoring reads the chief's.
            checkpoints=checkpoints
            if place.chief
            else group_folder(run, place.group) / f"worker-{place.worker}-checkpoint",
            restore_from=checkpoints,
        ),
        report=report,
        alive=alive,
    )


def plan(training: Part, config: Config, groups: int, *, taught: bool) -> list[Phase]:
    """The phases of a run, with as many steps for every group. `taught`: whether groups learn from anyone at all."""
    how, batch = config.codistillation, config.train.batch_size
    rows = training.rows * (how.overlap + (1 - how.overlap) / groups)
    steps = max(1, int(config.train.epochs * rows / batch))
    start = min(int(how.burn_in_epochs * rows / batch), steps)
    weight = how.weight if taught else 0.0
    phases = [
        Phase(
            number=1,
            steps=steps,
            start=start,
            ramp_steps=how.ramp_steps,
            weight=weight,
            final_weight=weight if how.final_weight is None or not taught else how.final_weight,
            label_weight=1.0,
            exchange_every=how.exchange_every,
            everyone=how.teacher == "everyone",
        )
    ]
    second = how.second_phase
    more = int(second.epochs * rows / batch)
    if taught and more:
        phases.append(
            Phase(
                number=2,
                steps=more,
                start=0,
                ramp_steps=0,
                weight=second.weight,
                final_weight=second.weight,
                label_weight=second.label_weight,
                exchange_every=how.exchange_every if second.snapshots == "refreshed" else 0,
                everyone=second.teacher == "everyone",
            )
        )
    return phases


def _rates(config: Config, phases: list[Phase]) -> list[Callable[[int], float]]:
    how = config.optimizer
    first = partial(
        rate_at,
        rate=how.learning_rate,
        schedule=how.schedule,
        warm_up_steps=how.warm_up_steps,
        steps=phases[0].steps,
        final_rate=how.final_rate,
    )
    return [first, lambda step: config.codistillation.second_phase.learning_rate]
