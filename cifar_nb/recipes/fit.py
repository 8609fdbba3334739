"""Plain module: how long a training will take at a measured pace, and the longest one that fits
into a given time. Tests: tests/test_fit.py, chapter 00_start.

A pace is a dictionary: side of the images in pixels -> seconds that one image takes in training.
"""
from typing import NamedTuple

from ..core.errors import InputError
from .cost import side_of
from .spec import Recipe

__all__ = ['FORWARD', 'images_by_side', 'all_sides', 'expected_seconds', 'FittedPlan',
           'plan_within']

FORWARD = 1 / 3  # of the time of a training step: the backward pass is about two forward passes


def images_by_side(recipe: Recipe, images: int) -> list:
    """(side, number) of the images that each epoch of `recipe` takes, of `images` training
    images."""
    return [(side_of(p, e), n) for p in recipe.phases for e, n in enumerate(p.taken(images))]


def all_sides(recipe: Recipe) -> list:
    "The sides (pixels) at which `recipe` shows images or is evaluated, each once, the least first."
    return sorted({side for side, _ in images_by_side(recipe, 1)} | {32})


def expected_seconds(recipe: Recipe, images: int, pace: dict, held: int = 0) -> float:
    """Seconds of training `recipe` on `images` images at `pace`, with `held` validation images
    evaluated after each epoch."""
    training = sum(n * pace[side] for side, n in images_by_side(recipe, images))
    return training + recipe.epochs * held * pace[32] * FORWARD


class FittedPlan(NamedTuple):
    "A training that fits into some time: how long it is, on how many images, and its seconds."
    epochs: int
    images: int
    seconds: float


def plan_within(
    recipe: Recipe,
    seconds: float,
    images: int,       # training images that there are
    pace: dict,        # side: seconds an image
    lengths=None,      # numbers of epochs to choose from; default: all up to the recipe's own
    held: int = 0,     # validation images, evaluated after each epoch
) -> FittedPlan:
    """The longest training of `recipe` that fits into `seconds`; where not even the shortest does,
    that on fewer images, a batch at least."""
    lengths = sorted(lengths or range(len(recipe.phases), recipe.epochs + 1), reverse=True)
    if seconds <= 0: raise InputError(f'plan_within: {seconds} seconds; give more than 0.')
    def cost(epochs, n): return expected_seconds(recipe.with_epochs(epochs), n, pace, held)
    for epochs in lengths:
        if (took := cost(epochs, images)) <= seconds: return FittedPlan(epochs, images, took)
    shortest, batch = lengths[-1], max(p.batch_size for p in recipe.phases)
    least, each = cost(shortest, 0), cost(shortest, images) - cost(shortest, 0)
    n = min(images, max(batch, int(images * (seconds - least) / each) // batch * batch))
    return FittedPlan(shortest, n, cost(shortest, n))
