"""Plain module: one way to change a recipe. Tests: tests/test_vary.py."""
from dataclasses import fields, replace

from ..core.errors import InputError, check_choice
from ..models.count import deeper, scaled
from ..models.resnet import NetSpec
from .spec import Optimizer, Phase, Recipe

__all__ = ['vary']

_OF_RECIPE = ('ema', 'ema_warmup', 'clip', 'tta_transforms')


def _names(of) -> set: return {f.name for f in fields(of)}


def vary(recipe: Recipe, width_factor: float = 1, depth_factor: int = 1, without: str = '',
         **changes) -> Recipe:
    """`recipe` with `changes`: values for the fields of its network, its phases or their
    optimizers,
    whichever have them, or for `ema`, `ema_warmup`, `clip` and `tta_transforms`. Every phase takes
    them; a function is asked with the phase (`Phase`) what its value is.

    `width_factor` multiplies the channels of a `NetSpec`, `depth_factor` its blocks, at equal
    parameters; `without` leaves the operations of that name out. `InputError` for unknown names."""
    homes = {'network': _names(recipe.net), 'phase': _names(Phase),
             'optimizer': _names(Optimizer) - {'name'}, 'recipe': {*_OF_RECIPE}}
    for name in changes: check_choice('field of a recipe', name, sorted(set.union(*homes.values())))
    def of(home): return {k: v for k, v in changes.items() if k in homes[home]}
    net = recipe.net
    if (width_factor, depth_factor) != (1, 1):
        if not isinstance(net, NetSpec):
            raise InputError(f'{recipe.name}: only a NetSpec is made wider or deeper by a factor; '
                             'give widths.')
        net = scaled(deeper(net, depth_factor) if depth_factor > 1 else net, width_factor)

    def phase(p: Phase) -> Phase:
        own = {k: v(p) if callable(v) else v for k, v in of('phase').items()}
        if without:
            own['augment'] = tuple(op for op in own.get('augment', p.augment)
                                   if type(op).__name__ != without)
        p = replace(p, **own)
        return replace(p, optimizer=replace(p.optimizer, **of('optimizer')))
    return replace(recipe, net=replace(net, **of('network')),
                   phases=tuple(map(phase, recipe.phases)), **of('recipe'))
