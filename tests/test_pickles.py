"""Pickles of strangers: what is honest reads as Python itself reads it; what is not takes no more
than its share.

The shares are measured in a process of their own, with a limit of time, so that a regression fails
and does not hang.
"""
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_nb.core.errors import InputError
from cifar_nb.data import safe_pickle
from cifar_nb.data.safe_pickle import unpickle

# -- what is honest
# --------------------------------------------------------------------------------------------------

keys = st.one_of(st.text(max_size=9), st.binary(max_size=9), st.integers(-2**40, 2**40),
                 st.booleans(), st.none())
numbers = st.one_of(st.integers(-2**600, 2**600), st.floats(allow_nan=False), st.booleans(),
                    st.none())
plain = st.recursive(st.one_of(keys, numbers), lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.tuples(inner), st.tuples(inner, inner), st.tuples(
        inner, inner, inner, inner),
    st.dictionaries(keys, inner, max_size=4)), max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(plain, st.integers(0, pickle.HIGHEST_PROTOCOL), st.booleans())
def test_it_reads_what_python_writes(value, protocol, optimized):
    raw = pickle.dumps(value, protocol)
    if optimized: raw = pickletools.optimize(raw)
    if protocol < 3 and b'_codecs' not in raw and b'bytes' not in raw:
        assert pickle.loads(raw) == value
    got = unpickle(raw)
    assert got == value and repr(got) == repr(value)  # True is not 1, and 0.0 is not -0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(keys, max_size=8), st.sampled_from([set, frozenset]),
       st.integers(4, pickle.HIGHEST_PROTOCOL))
def test_sets(values, kind, protocol):
    assert unpickle(pickle.dumps(kind(values), protocol)) == kind(values)


def test_one_thing_named_twice_is_one_thing_and_circles_are_circles():
    inner = [1, 'x']
    got = unpickle(pickle.dumps({'a': inner, 'b': (inner, [inner])}))
    assert got['a'] is got['b'][0] is got['b'][1][0]
    inner.append(inner)
    got = unpickle(pickle.dumps(inner))
    assert got[2] is got


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('shape', [(0,), (), (3,), (2, 3), (0, 3072), (2, 3, 4), (500, 7)])
def test_arrays_of_every_shape(protocol, shape):
    a = np.random.default_rng(0).integers(0, 99, shape)
    for b in (a.astype('u1'), a.astype('>i4'), a.astype('<f8'), a.astype('?'),
              np.asfortranarray(a.astype('>u2'))):
        got = unpickle(pickle.dumps(b, protocol))
        assert got.dtype.newbyteorder('=') == b.dtype.newbyteorder('=') and got.shape == b.shape
        np.testing.assert_array_equal(got, b)


# -- what is not
# --------------------------------------------------------------------------------------------------

def text(s): return b'X' + struct.pack('<I', len(s)) + (s if isinstance(s, bytes) else s.encode())
def raw_bytes(n): return b'B' + struct.pack('<I', n) + bytes(n)
def put(i): return b'r' + struct.pack('<I', i)
def get(i): return b'j' + struct.pack('<I', i)
def small(n): return b'J' + struct.pack('<i', n)
DTYPE, RECONSTRUCT, NDARRAY = (
    b'cnumpy\ndtype\n', b'cnumpy.core.multiarray\n_reconstruct\n', b'cnumpy\nndarray\n')
SCALAR, BUFFER, ENCODE = (
    b'cnumpy.core.multiarray\nscalar\n', b'cnumpy._core.numeric\n_frombuffer\n',
    b'c_codecs\nencode\n')
EMPTY = RECONSTRUCT + NDARRAY + b'K\x00\x85C\x01b\x87R'


def kind_of_number(code='u1', order='|'):
    return (DTYPE + text(code) + b'K\x00K\x01\x87R(K\x03'
            + text(order) + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb')


def tower(first, step, depth):
    """`first`, and then `depth` times the thing that `step` makes of two references to the one
    before."""
    out = first + put(0)
    for i in range(depth): out += b'0' + step(get(i)) + put(i + 1)
    return out


def pair(ref): return ref + ref + b'\x86'
def pair_list(ref): return b'](' + ref + ref + b'e'
def pair_set(ref): return b'(' + ref + b'K\x01' + b'\x91'


def program(*parts): return b'\x80\x04' + b''.join(parts) + b'.'


def many(what, n=100_000): return b'](' + what * n + b'e'


def integer(n):
    return b'\x8a' + bytes([(n.bit_length() + 8) // 8]) + n.to_bytes(
        (n.bit_length() + 8) // 8, 'little')


def array(raw, n, dtype):
    return EMPTY + b'(K\x01' + small(n) + b'\x85' + dtype + b'\x89' + raw + b'tb'


def hostile():
    "name -> a pickle that a careless reader takes seconds or gigabytes for."
    deep, half = tower(b')', pair, 60), 200_000
    yield 'key: nested pairs', program(b'}' + deep + b'K\x01s')
    yield 'keys: nested pairs, SETITEMS', program(b'}(' + deep + b'K\x01u')
    yield 'keys: nested pairs, DICT', program(b'(' + deep + b'K\x01d')
    yield 'set: nested pairs', program(b'\x8f(' + deep + b'\x90')
    yield 'frozenset: nested pairs', program(b'(' + deep + b'\x91')
    yield 'frozensets in frozensets', program(tower(b'(\x91', pair_set, 60))
    yield 'key: an array', program(b'}' + array(raw_bytes(9), 9, kind_of_number()) + b'K\x01s')
    yield ('code of encode: nested pairs',
           program(deep + put(99) + b'0' + ENCODE + text('x') + get(99) + b'\x86R'))
    yield ('type: nested lists',
           program(tower(b']', pair_list, 60) + put(99) + b'0' + DTYPE + get(99) + b'\x85R'
                   + put(98)
                   + b'0' + array(raw_bytes(1), 1, get(98))))
    yield ('order of bytes: nested lists',
           program(tower(b']', pair_list, 60) + put(99) + b'0' + DTYPE + text('u1')
                   + b'\x85R(K\x03' + get(99) + b'tb'))
    two = deep + put(97) + b'0' + tower(b')', pair, 60) + put(98) + b'0'
    yield ('shape: nested pairs, compared',
           program(two + EMPTY + b'(K\x01' + get(97) + get(98) + b'\x86'
                   + kind_of_number() + b'\x89C\x00tb'))
    shape = b'(' + b'K\x01' * half + b't' + put(9) + b'0' + kind_of_number() + put(8) + b'0'
    yield ('shape: many sides',
           program(shape + many(EMPTY + b'(K\x01' + get(9) + get(8) + b'\x89C\x01atb', 2000)))
    yield ('sides of many digits',
           program(EMPTY + b'(K\x01(' + integer(1 << 2000) * 30 + b't'
                   + kind_of_number() + b'\x89C\x00tb'))
    yield 'many arguments', program(
        b'(' + b'K\x01' * half + b't' + put(9) + b'0' + many(DTYPE + get(9) + b'R', 2000))
    yield ('a name of a megabyte for a type',
           program(raw_bytes(1 << 20) + put(9) + b'0' + many(DTYPE + get(9) + b'\x85R', 20_000)))
    same = (1 << 61) - 1
    yield ('whole numbers of one hash',
           program(b'}(' + b''.join(integer(k * same) + b'N' for k in range(1, 30_000)) + b'u'))
    yield ('whole numbers of one hash in a set',
           program(b'\x8f(' + b''.join(integer(k * same) for k in range(1, 30_000)) + b'\x90'))
    yield ('memo numbers of one hash',
           program(b''.join(b'Np%d\n0' % (k * same) for k in range(1, 30_000)) + b'N'))
    long = b'a' * 300_000
    yield ('long keys that are equal',
           program(text(long) + put(1) + b'0' + text(long) + put(2) + b'0}' + get(1) + b'Ns('
                   + (get(2) + b'N') * 100_000 + b'u'))
    yield 'a number of two million digits', program(b'I' + b'9' * 2_000_000 + b'\n')
    yield 'a long of two million digits', program(b'L' + b'9' * 2_000_000 + b'L\n')
    yield ('a number of a megabyte, as bytes',
           program(b'\x8b' + struct.pack('<i', 1 << 20) + b'\x7f' * (1 << 20)))
    yield ('numbers of a kilobyte',
           program(b'](' + (b'\x8b' + struct.pack('<i', 1000) + b'\x7f' * 1000) * 500 + b'e'))
    yield 'a memo index of many digits', program(b'Np' + b'9' * 1_000_000 + b'\n')
    once = raw_bytes(1 << 20) + put(7) + b'0'
    for order in '>', '<':
        kind = kind_of_number('u2', order) + put(8) + b'0'
        yield (f'one megabyte as 2,000 arrays, {order}',
               program(once + kind + many(array(get(7), 1 << 19, get(8)), 2000)))
    yield ('one megabyte encoded 6,000 times',
           program(text(b'a' * (1 << 20)) + put(7) + b'0' + ENCODE + put(9) + b'0' + text('latin1')
                   + put(8) + b'0' + many(get(9) + get(7) + get(8) + b'\x86R', 6000)))
    kind = kind_of_number('u2', '>') + put(8) + b'0'
    yield ('one array filled again and again',
           program(once + kind + EMPTY + (b'(K\x01' + small(1 << 19) + b'\x85' + get(8) + b'\x89'
                                          + get(7) + b'tb') * 2000))
    kilo = b'C\xff' + bytes(255) + put(7) + b'0' + kind_of_number() + put(8) + b'0'
    state = b'(K\x01' + small(255) + b'\x85' + get(8) + b'\x89' + get(7) + b't' + put(6) + b'0'
    empty = RECONSTRUCT + put(5) + b'0' + NDARRAY + b'K\x00\x85C\x01b\x87' + put(4) + b'0'
    yield 'small arrays', program(
        kilo + state + empty + many(get(5) + get(4) + b'R' + get(6) + b'b', 60_000))
    yield 'views', program(once + kind_of_number() + put(8) + b'0' + BUFFER + put(9) + b'0('
                           + get(7) + get(8) + small(1 << 20) + b'\x85'
                           + text('C') + b't' + put(6) + b'0'
                           + many(get(9) + get(6) + b'R', 60_000))
    yield 'scalars', program(
        once + kind_of_number('f8', '<') + put(8) + b'0' + SCALAR + put(9) + b'0'
        + get(8) + get(7) + b'\x86' + put(6)
        + b'0' + many(get(9) + get(6) + b'R', 100_000))
    yield 'empty sets', program(b'](' + b'\x8f' * 400_000 + b'e')
    yield 'empty dicts', program(b'](' + b'}' * 400_000 + b'e')
    yield 'empty lists in lists', program(b']' * 400_000 + b'a' * 399_999)
    yield 'tuples in tuples', program(b')' + b'\x85' * 400_000)
    yield 'marks', program(b'(' * 400_000)
    yield 'notes', program(b'N' + b'\x94' * 400_000)
    yield 'copies of a reference', program(b'](N' + b'2' * 2_200_000 + b'e')
    yield 'bytearrays', program(many(b'\x96' + struct.pack('<Q', 0), 100_000))
    yield 'a long bytearray that is not there', b'\x80\x05\x96' + struct.pack('<Q', 1 << 60) + b'.'
    big = array(raw_bytes(1 << 20), 1 << 20, kind_of_number())
    yield 'all of an array set, 100,000 times', program(big + (b')K\x05s') * 100_000)
    yield 'text of four bytes a letter', program(text(('a' * 500_000 + '\U0001f600').encode()) * 2)
    yield 'a code that is no text', program(b'cnumpy\ndtype\n' + b']\x85R')


def shares():
    "For each hostile pickle, what it took: a line of JSON. Runs in a process of its own."
    import time
    import tracemalloc
    tracemalloc.start()
    for name, raw in hostile():
        tracemalloc.reset_peak()
        before, start = tracemalloc.get_traced_memory()[0], time.process_time()
        try: said = f'read: {type(unpickle(raw)).__name__}'
        except InputError as e: said = str(e)
        took = time.process_time() - start
        print(json.dumps([name, len(raw), tracemalloc.get_traced_memory()[1] - before, took, said]),
              flush=True)


@pytest.fixture(scope='module')
def measured():
    here, package = Path(__file__).parent, Path(safe_pickle.__file__).parents[2]
    env = os.environ | dict(PYTHONPATH=os.pathsep.join(map(str, (package, here))),
                            PYTHONIOENCODING='utf-8')
    child = subprocess.Popen([sys.executable, '-c', 'import test_pickles; test_pickles.shares()'],
                             stdout=subprocess.PIPE, text=True, encoding='utf-8', env=env)
    try: out, _ = child.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        child.kill()
        out, _ = child.communicate()
    return {name: rest for name, *rest in map(json.loads, out.splitlines())}


NAMES = [name for name, _ in hostile()]


@pytest.mark.parametrize('name', NAMES)
def test_a_hostile_pickle_takes_no_more_than_its_share(name, measured):
    assert name in measured, f'it took for ever, or killed the process: {NAMES[len(measured)]}'
    size, memory, seconds, said = measured[name]
    assert memory < 7 * size + (20 << 20), f'{memory / 1e6:.0f} MB for {size:,} bytes'
    assert seconds < 2 + 20 * size / 1e6, f'{seconds:.1f} s for {size:,} bytes'
    assert len(said) < 300 and '\n' not in said


def test_without_the_purse_the_same_files_take_more():
    "The limits are what holds them: with a larger purse the very same file does fill memory."
    raw = dict(hostile())['one megabyte encoded 6,000 times']
    machine = safe_pickle.Machine(raw)
    machine.room = 100 << 20
    with pytest.raises(InputError, match='far more memory'): machine.run()
    assert sum(len(v) for v in machine.stack if type(v) is bytes) > 40 << 20


@pytest.mark.parametrize('op', [b'\x81', b'\x92', b'o', b'Q', b'\x97', b'\x98'])
def test_instructions_that_build_objects_are_unknown(op):
    with pytest.raises(InputError, match='does not read as a pickle'):
        unpickle(b'\x80\x05' + DTYPE + b')' + op + b'.')


def test_an_array_that_others_look_into_cannot_be_filled_anew():
    """NumPy frees the bytes of an array that is filled a second time; a view of them would look
    into nothing."""
    fill = b'(K\x01' + small(4) + b'\x85' + kind_of_number() + b'\x89C\x04abcdtb'
    assert unpickle(program(EMPTY + fill)).tolist() == list(b'abcd')
    with pytest.raises(InputError): unpickle(program(EMPTY + fill + fill))
    with pytest.raises(InputError):
        unpickle(
            program(EMPTY + fill + put(1) + b'0' + BUFFER + b'('
                    + get(1) + kind_of_number() + small(4) + b'\x85' + text('C') + b'tR'))


@pytest.mark.parametrize('raw, why', [
    (b'', 'it is empty'), (pickle.dumps(list(range(900)))[:-9], 'breaks off'),
    (b'\x80\x04\x95', 'breaks off'),
    (b'\x80\x09N.', 'does not read'), (b'\x80\x04}K\x01.', None), (b'(lp0\n', 'breaks off'),
    (b'\x80\x02]e.', 'does not read'),
])
def test_what_is_cut_off_says_so(raw, why):
    if why is None: assert unpickle(raw) == 1
    else:
        with pytest.raises(InputError, match=why): unpickle(raw)
