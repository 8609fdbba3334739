"""Plain module: what a value from a JSON file must look like, and in words where it does not.

A form is `int`, `float` (any number that is finite), `str`, `bool`, `list`, `dict` or None (a
null); a tuple of forms, one of which must fit; a list with one form for every item; or a dictionary
of forms, in which a key with a ? at its end may be missing and '*' stands for all keys that are not
named. Keys without a form are free. Tests: tests/test_forms.py.
"""
import math

__all__ = ['misfit']

NAMES = {int: 'a whole number', float: 'a number', str: 'a text', bool: 'true or false',
         list: 'a list', dict: 'a dictionary', None: 'null'}


def misfit(value, form, where: str = '') -> str:
    "The first place in `value` that is not of `form`, in words; '' if all is well."
    if isinstance(form, tuple):
        said = [misfit(value, f, where) for f in form]
        return '' if '' in said else said[0]
    if isinstance(form, list):
        if not isinstance(value, list): return _says(where, list)
        return next(
            filter(None, (misfit(v, form[0], f'{where}[{i}]') for i, v in enumerate(value))), '')
    if isinstance(form, dict):
        if not isinstance(value, dict): return _says(where, dict)
        return next(filter(None, _fields(value, form, f'{where}.' if where else '')), '')
    return '' if _is(value, form) else _says(where, form)


def _fields(value, form, before):
    for key, f in form.items():
        name = key.rstrip('?')
        if key == '*':
            for k in value.keys() - {k.rstrip('?') for k in form}:
                yield misfit(value[k], f, f'{before}{k}')
        elif name in value: yield misfit(value[name], f, f'{before}{name}')
        elif name == key: yield f'it lacks {before}{name}'


def _is(value, form) -> bool:
    if form is None: return value is None
    if form is bool or isinstance(value, bool): return form is bool and isinstance(value, bool)
    if form is float:
        return isinstance(value, (int, float)) and abs(value) < 1e300 and math.isfinite(value)
    if form is int: return isinstance(value, int) and abs(value) < 2 ** 63
    return isinstance(value, form)


def _says(where, form) -> str: return f'{where or "it"} is not {NAMES[form]}'
