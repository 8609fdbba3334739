"""Plain module: whether the values of a recipe are of the kinds that its fields declare.

What the values mean is checked where the fields stand (`recipes.spec`, `models`), and by torch; of
a schedule it is checked here. Tests: tests/test_change.py, tests/test_recipes.py.
"""
import math
from dataclasses import fields

from ..core.errors import InputError, check_choice
from ..core.forms import misfit

__all__ = ['shown', 'check_fields', 'check_schedule']

# what the tuples hold, and how many where that is fixed
ITEMS = dict(widths=int, depths=int, strides=int, milestones=float, keep_fraction=float,
             betas=float, mean=float, std=float, tta_transforms=str, notes=str)
LENGTHS = dict(betas=2, mean=3, std=3)
PLAIN = (int, float, str, bool)


def shown(value, most: int = 60) -> str:
    "`value` as code, cut off after `most` characters."
    text = repr(value)
    return text if len(text) <= most else f'{text[:most - 3]}...'


def _form(field):
    "What the value of `field` must look like, as in `core.forms`; None where anything goes."
    if field.name in ITEMS: return [ITEMS[field.name]]
    return field.type if field.type in PLAIN else None


def check_fields(of, values: dict):
    """Raise `InputError` unless each of `values` (names to plain values) is of the kind that the
    field of its name in the dataclass `of` declares; names that `of` lacks are passed over."""
    for f in fields(of):
        form = _form(f)
        if form is None or f.name not in values: continue
        v = values[f.name]
        v = list(v) if isinstance(v, tuple) else v
        why = misfit(v, form, f.name)
        if not why and f.name in LENGTHS and len(v) != LENGTHS[f.name]:
            why = f'{f.name} does not have {LENGTHS[f.name]} numbers'
        if why: raise InputError(f'{of.__name__}: {why}; it is {shown(values[f.name])}.')


def check_schedule(s):
    "Raise `InputError` for a `Schedule` of a known shape that cannot be run."
    check_choice('unit', s.unit, ('epoch', 'step'))
    if s.shape in ('cosine', 'linear') and s.t_max <= 0:
        raise InputError(f'Schedule: t_max={s.t_max}; {s.shape} needs a length above 0.')
    counts = (s.warmup_epochs, s.t_max, *s.milestones)
    if s.unit == 'epoch' and any(v != int(v) for v in counts):
        raise InputError(f'Schedule: {counts} are not whole epochs; give whole numbers, or '
                         'unit=\'step\'.')
    if min(counts) < 0 or not 0 < s.warmup_start_factor <= 1:
        raise InputError(f'Schedule: epochs {counts}, warmup_start_factor='
                         f'{s.warmup_start_factor}; give epochs of 0 or more, and a share '
                         'above 0 and up to 1.')
    if s.shape == 'plateau' and not 0 < s.gamma < 1:
        raise InputError(f'Schedule: gamma={s.gamma}; a plateau needs a factor above 0 and '
                         'below 1.')
    if s.shape == 'plateau' and (s.warmup_epochs or s.unit == 'step'):
        raise InputError('Schedule: plateau goes by epochs and has no warm-up.')
    if s.shape == 'plateau' and s.patience < 0:
        raise InputError(f'Schedule: patience={s.patience}; give 0 epochs or more.')
    if s.shape == 'multistep' and not 0 < s.gamma <= 1:
        raise InputError(f'Schedule: gamma={s.gamma}; give a factor above 0 and up to 1.')
    if s.shape == 'multistep' and min(s.milestones, default=math.inf) <= s.warmup_epochs:
        raise InputError(f'Schedule: milestones={s.milestones}; the first must come after the '
                         f'warm-up of {s.warmup_epochs:g} epochs.')
