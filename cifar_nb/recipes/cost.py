"""Plain module: what a training costs. Tests: tests/test_count.py."""
from ..augment.ops import Resize
from ..models.count import counts_of
from .spec import Phase, Recipe

__all__ = ['side_of', 'training_cost']


def side_of(phase: Phase, epoch: int) -> int:
    "The side (pixels) of the images of the `epoch`-th of `phase`, counted from 0."
    return next((op.size(epoch) for op in phase.augment if isinstance(op, Resize)), 32)

def training_cost(recipe: Recipe, images: int = 50_000) -> float:
    """PFLOP of a training on `images`: 6 x multiply-adds x images (forward and backward, where a
    multiply-add is two operations), with the images that each epoch takes, at the size that it
    shows."""
    taken = [(p, e, n) for p in recipe.phases for e, n in enumerate(p.taken(images))]
    return 6e-15 * sum(n * counts_of(recipe.net, side_of(p, e)).macs for p, e, n in taken)
