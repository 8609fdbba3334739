"""Plain module: what a training costs. Tests: tests/test_count.py."""
from ..augment.ops import Resize
from ..models.count import counts_of
from .spec import Phase, Recipe

__all__ = ['side_of', 'epoch_costs', 'training_cost']


def side_of(phase: Phase, epoch: int) -> int:
    "The side (pixels) of the images of the `epoch`-th of `phase`, counted from 0."
    return next((op.size(epoch) for op in phase.augment if isinstance(op, Resize)), 32)

def epoch_costs(recipe: Recipe, images: int = 50_000) -> list:
    """PFLOP of each epoch of a training on `images`: 6 x multiply-adds x images (forward and
    backward, where a multiply-add is two operations), with the images that the epoch takes, at the
    size that it shows."""
    return [6e-15 * n * counts_of(recipe.net, side_of(p, e)).macs
            for p in recipe.phases for e, n in enumerate(p.taken(images))]

def training_cost(recipe: Recipe, images: int = 50_000) -> float:
    "PFLOP of a training on `images`, all its epochs."
    return sum(epoch_costs(recipe, images))
