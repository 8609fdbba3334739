"""Plain module: what a training costs. Tests: tests/test_count.py."""
from ..augment.ops import Resize
from ..models.count import counts_of
from .spec import Recipe

__all__ = ['training_cost']


def training_cost(recipe: Recipe, images: int = 50_000) -> float:
    """PFLOP of a training on `images`: 6 x multiply-adds x images (forward and backward, where a
    multiply-add is two operations), with the images that each epoch takes, at the size that it
    shows."""
    def side(p, epoch):
        return next((op.size(epoch) for op in p.augment if isinstance(op, Resize)), 32)
    taken = [(p, e, n) for p in recipe.phases for e, n in enumerate(p.taken(images))]
    return 6e-15 * sum(n * counts_of(recipe.net, side(p, e)).macs for p, e, n in taken)
