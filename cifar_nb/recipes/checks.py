"""Plain module: whether the values of a recipe are of the kinds that its fields declare.

What the values mean is checked where the fields stand (`recipes.spec`, `models`), and by torch.
Tests: tests/test_change.py.
"""
from dataclasses import fields

from ..core.errors import InputError
from ..core.forms import misfit

__all__ = ['shown', 'check_fields']

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
