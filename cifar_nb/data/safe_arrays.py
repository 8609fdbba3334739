"""Plain module: what stands in for the functions that a pickle of arrays may call.

NumPy's pickles name a few functions of NumPy. Each has a stand-in here, which makes numbers and
arrays of numbers only, and only of bytes that fill their shape. Tests: tests/test_pickles.py.
"""
import math

import numpy as np

from ..core.errors import InputError

__all__ = ['Broken', 'as_text', 'DType', 'Array', 'Stand', 'STANDS']

UNFILLED = 'it holds an array whose bytes do not fill its shape'


class Broken(Exception):
    "This is no pickle, or only a part of one."

def as_text(s):
    "`s`, or the text where Python 2 wrote bytes for it; anything else is an `InputError`."
    if type(s) is bytes: s = s.decode('latin1')
    if type(s) is str: return s
    raise InputError(f'it has a {type(s).__name__} where text belongs')


def _sizes(shape, most=32) -> tuple:
    "`shape` if it is one: up to `most` whole numbers that are not negative."
    shape = (shape,) if type(shape) is int else shape
    if type(shape) in (tuple, list) and len(shape) <= most:
        if all(type(n) is int and 0 <= n < 1 << 62 for n in shape): return tuple(shape)
    raise InputError('it holds an array of a shape that cannot be')


class DType:
    "Stands in for `numpy.dtype`: numbers only, so no objects and no records."
    codes = 'b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8'.split()

    def __init__(self, code, *_):
        self.code, self.order = as_text(code)[:20], '='

    def build(self, state, pay):
        if type(state) is not tuple or len(state) < 2: raise Broken
        self.order = as_text(state[1])[:2]

    def plain(self):
        if self.code in self.codes and self.order in ('<', '>', '=', '|'):
            return np.dtype(self.order + self.code)
        raise InputError(f'it holds an array of type {self.code!r}, which is not a number')


def _plain(dtype):
    if type(dtype) is DType: return dtype.plain()
    raise InputError('it holds an array without a type')


def _check_filled(raw, shape, dtype):
    "Raise `InputError` unless the bytes `raw` are what an array of this shape and type needs."
    right_kind = type(raw) in (bytes, bytearray)
    if not right_kind or math.prod(shape) * dtype.itemsize != len(raw): raise InputError(UNFILLED)


class Array(np.ndarray):
    "Stands in for the empty array that a pickle makes first and fills afterwards, once."
    def __new__(cls, *_): return super().__new__(cls, (0,), np.uint8)

    def build(self, state, pay):
        if type(state) is not tuple or len(state) != 5 or getattr(self, 'full', False): raise Broken
        shape, dtype, fortran, raw = _sizes(state[1]), _plain(state[2]), state[3], state[4]
        if type(raw) is not bytes or type(fortran) not in (bool, int): raise InputError(UNFILLED)
        _check_filled(raw, shape, dtype)
        pay(len(raw))  # for a copy, which NumPy makes of few bytes and of bytes in the other order
        self.__setstate__((1, shape, dtype, bool(fortran), raw))
        self.full = True


def _scalar(dtype, raw):
    if type(raw) is not bytes: raise Broken
    return np.frombuffer(raw, _plain(dtype), 1)[0].item()


def _buffer(raw, dtype, shape, order, axes=None):
    shape, dtype, order = _sizes(shape), _plain(dtype), as_text(order)
    _check_filled(raw, shape, dtype)
    a = np.frombuffer(raw, dtype)
    if order == 'K' and axes is not None: return a.reshape(shape).transpose(_sizes(axes))
    return a.reshape(shape, order=order)


def _encode(text, code):
    if type(text) is str and as_text(code) in ('latin1', 'latin-1'): return text.encode('latin1')
    raise Broken


def _no_bytes(): return b''  # how the old protocols write them


class Stand:
    "A function that a pickle may call, and can neither change nor look into."
    __slots__ = ('call',)
    def __init__(self, call): self.call = call


STANDS = {
    ('numpy', 'ndarray'): None,
    ('numpy', 'dtype'): Stand(DType),
    ('_codecs', 'encode'): Stand(_encode),
    ('__builtin__', 'bytes'): Stand(_no_bytes),
    ('builtins', 'bytes'): Stand(_no_bytes),
}
for _core in 'numpy.core', 'numpy._core':
    STANDS[f'{_core}.multiarray', '_reconstruct'] = Stand(Array)
    STANDS[f'{_core}.multiarray', 'scalar'] = Stand(_scalar)
    STANDS[f'{_core}.numeric', '_frombuffer'] = Stand(_buffer)
