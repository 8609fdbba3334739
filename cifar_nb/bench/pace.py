"""Plain module: the pace of a recipe on this machine, measured over a few steps. Tests:
tests/test_fit.py, chapter 00_start.
"""
import torch

from ..augment.ops import Resize
from ..core.timing import once
from ..recipes.fit import all_sides
from ..recipes.spec import Recipe
from ..recipes.vary import vary
from ..training.precision import choose_device
from .training import OurWay

__all__ = ['at_side', 'seconds_per_image', 'measure_pace']


def at_side(recipe: Recipe, side: int) -> Recipe:
    "`recipe` with all images resized to `side` pixels in every epoch."
    def augment(p): return (*(o for o in p.augment if not isinstance(o, Resize)), Resize((side,)))
    return vary(recipe, augment=augment)


def seconds_per_image(recipe: Recipe, x, y, device=None) -> float:
    """Seconds that an image of the uint8 images `x` with labels `y` takes in training: an epoch to
    warm up, and one that counts."""
    way = OurWay(recipe, x, y, choose_device(device))
    way.epoch()
    return once(way.epoch) / len(x)


def measure_pace(recipe: Recipe, x, y, steps: int = 2, device=None) -> dict:
    """Side in pixels to `seconds_per_image`, for each side of `recipe`, over `steps` batches of the
    images `x` with labels `y`."""
    n = min(len(x), steps * max(p.batch_size for p in recipe.phases))
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        return {side: seconds_per_image(at_side(recipe, side), x[:n], y[:n], device)
                for side in all_sides(recipe)}
