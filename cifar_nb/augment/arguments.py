"""Plain module: arguments of operations, checked when the operation is written down.

Tests: tests/test_augment.py, chapters 07a to 07d.
"""
import math

from ..core.errors import InputError

__all__ = ['require', 'number', 'count', 'one_of', 'fraction', 'pair', 'shade']


def require(ok, op, argument, value, allowed):
    """Raise `InputError` unless `ok`: which argument of which operation, its value, and what is
    `allowed`."""
    if not ok:
        raise InputError(f'{op}: {argument}={value!r} is not possible; {argument} must be '
                         f'{allowed}')


def number(op, argument, v, low=0., high=math.inf):
    "Check that `v` is a number from `low` to `high`."
    allowed = (f'a number from {low:g} to {high:g}'
               if high < math.inf else f'a number, {low:g} or more')
    require(isinstance(v, (int, float)) and low <= v <= high, op, argument, v, allowed)

def count(op, argument, v, low=1, high=math.inf):
    "Check that `v` is a whole number from `low` to `high`."
    allowed = (f'a whole number from {low} to {high}'
               if high < math.inf else f'a whole number, {low} or more')
    require(isinstance(v, int) and low <= v <= high, op, argument, v, allowed)

def one_of(op, argument, v, names):
    "Check that `v` is one of `names`."
    require(v in names, op, argument, v, 'one of ' + ', '.join(map(str, names)))


def fraction(op, p, argument='p'):
    "Check that `p` is a probability or a share."
    number(op, argument, p, 0, 1)

def pair(op, argument, v, low, high):
    "Check that `v` is a tuple (least, most) of numbers between `low` and `high`."
    numbers = isinstance(v, tuple) and len(v) == 2 and all(isinstance(k, (int, float)) for k in v)
    require(numbers and low <= v[0] <= v[1] <= high, op, argument, v,
            f'a pair (least, most) from {low:g} to {high:g}')

def shade(op, v):
    "Check that `v` can be a `fill`: a number from 0 to 1, or a tuple of one for each channel."
    channels = v if isinstance(v, tuple) and len(v) == 3 else (v,)
    require(all(isinstance(k, (int, float)) and 0 <= k <= 1 for k in channels), op, 'fill', v,
            'a number from 0 to 1, or three of them')
