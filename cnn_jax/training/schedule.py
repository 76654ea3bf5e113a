"""Learning-rate schedules: factors of the learning rate over the steps of a training.

A schedule is a function of the number of steps; it returns a function from a step, counted from 0, to the factor. A fork's
`package.module:attribute` has the same form: `def mine(total_steps, *, power=1.0): return lambda step: ...`
"""

from collections.abc import Callable

import jax.numpy as jnp
import optax

Schedule = Callable[[int], optax.Schedule]


def constant(total_steps: int) -> optax.Schedule:
    """1 at every step."""
    return optax.constant_schedule(1.0)


def cosine(total_steps: int, *, alpha: float = 0.0) -> optax.Schedule:
    """Half a cosine from 1 to `alpha` (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts)."""
    return optax.cosine_decay_schedule(1.0, max(1, total_steps), alpha)


def linear(total_steps: int, *, end: float = 0.0) -> optax.Schedule:
    """From 1 to `end` in a straight line."""
    return optax.linear_schedule(1.0, end, max(1, total_steps))


def exponential(total_steps: int, *, end: float = 0.01) -> optax.Schedule:
    """From 1 to `end` by a constant factor per step."""
    return optax.exponential_decay(1.0, max(1, total_steps), end)


def step(total_steps: int, *, gamma: float = 0.1, first: float = 0.5, second: float = 0.75) -> optax.Schedule:
    """Times `gamma` after the shares `first` and `second` of the steps, as He et al. 2016 for CIFAR-10 (arXiv 1512.03385)."""
    return optax.piecewise_constant_schedule(1.0, {round(first * total_steps): gamma, round(second * total_steps): gamma})


def one_cycle(total_steps: int, *, peak: float = 0.3, start_factor: float = 0.04, final_factor: float = 4e-6) -> optax.Schedule:
    """Cosine from `start_factor` to 1 at the share `peak` of the steps, then to `final_factor`.

    The one-cycle policy of Smith and Topin 2019 (arXiv 1708.07120); the defaults are those of PyTorch's OneCycleLR.
    """
    rise = max(1, round(peak * total_steps))
    fall = max(1, total_steps - rise)

    def wave(begin: float, end: float, share: jnp.ndarray) -> jnp.ndarray:
        return end + (begin - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0, 1)))

    return lambda step: jnp.where(
        step < rise, wave(start_factor, 1.0, step / rise), wave(1.0, final_factor, (step - rise) / fall)
    )


BY_NAME: dict[str, Schedule] = {
    "constant": constant, "cosine": cosine, "linear": linear, "exponential": exponential, "step": step, "one_cycle": one_cycle,
}  # fmt: skip


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Steps of the warmup: `warmup` itself, or as a share of all steps where it is below 1."""
    return round(warmup * total_steps) if warmup < 1 else round(warmup)


def with_warmup(schedule: Schedule, total_steps: int, warmup: float) -> optax.Schedule:
    """A linear rise to 1 over the warmup, whose first factor is 1 / (steps + 1), then the schedule over the other steps."""
    rise = warmup_steps(warmup, total_steps)
    if not rise:
        return schedule(total_steps)
    after = schedule(total_steps - rise)
    return lambda step: jnp.where(step < rise, (step + 1) / (rise + 1), after(jnp.maximum(step - rise, 0)))
