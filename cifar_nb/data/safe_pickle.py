"""Plain module: reads the pickles of strangers, executes nothing, and takes what the file is worth.

A pickle is a program for a small machine. This is that machine with the instructions that build
numbers, strings, plain containers and arrays of numbers, and no others. The functions that NumPy's
pickles call have stand-ins (`safe_arrays`). Every instruction pays for the memory that it takes
from a purse that is as large as the file, so that what names one thing a thousand times cannot make
a thousand things of it. Keys of dicts and members of sets are short and flat, for to hash or
compare what is nested in itself can take for ever.
Tests: tests/test_pickles.py.
"""
import codecs
import pickle
import struct
import sys

from ..core.errors import InputError
from .kinds import AGAIN, kind_of
from .safe_arrays import STANDS, Array, Broken, DType, Stand

__all__ = ['unpickle']

ROOM = 6, 16 << 20  # bytes that may be taken: so many times the size of the file, and so many more
STEPS = 1 << 21     # instructions at most; a batch of CIFAR-10 has 30,000
LONGEST, DIGITS = 1000, 300  # letters of a key; digits of a number that is written out
# larger whole numbers have the hashes of smaller ones, which slows a dict
SAFE_NUMBER = (1 << 61) - 1


def _key(k):
    "`k`, if it is flat and short, and so quick to hash and to compare."
    if k is None or type(k) in (bool, float): return k
    if type(k) is int and abs(k) < SAFE_NUMBER: return k
    if type(k) in (str, bytes) and len(k) <= LONGEST: return k
    raise InputError('it has a key or a member of a set that is too long, too large or nested '
                     f'({type(k).__name__})')


class Machine:
    "What runs a pickle; `run()` gives what it builds."

    def __init__(self, raw: bytes):
        self.raw, self.at = raw, 0
        self.stack: list = []
        self.below: list = []  # the stacks that wait under a mark
        self.memo: dict = {}
        self.room, self.steps = ROOM[0] * len(raw) + ROOM[1], STEPS

    def run(self):
        while True:
            op = self.take(1)[0]
            if op == pickle.STOP[0]: return self.stack.pop()
            instruction = INSTRUCTIONS.get(op)
            if instruction is None: raise Broken
            self.steps -= 1
            if self.steps < 0:
                raise InputError(f'it has over {STEPS:,} parts, and a file of images has few')
            self.pay(16)
            instruction(self)

    def pay(self, n: int):
        "Take `n` bytes of memory."
        self.room -= n
        if self.room < 0:
            raise InputError(f'it has {len(self.raw):,} bytes and would fill far more memory')

    # what is read

    def take(self, n: int) -> bytes:
        "The next `n` bytes."
        if n < 0: raise Broken
        if n > len(self.raw) - self.at: raise EOFError
        self.at += n
        return self.raw[self.at - n:self.at]

    def line(self, most: int | None = None) -> bytes:
        "The next bytes up to a line's end, `most` at most."
        limit = len(self.raw) if most is None else min(len(self.raw), self.at + most + 1)
        end = self.raw.find(b'\n', self.at, limit)
        if end < 0: raise EOFError if limit == len(self.raw) else Broken
        return self.take(end + 1 - self.at)[:-1]

    def number(self, form: str) -> int:
        return struct.unpack('<' + form, self.take(struct.calcsize('<' + form)))[0]

    def sized(self, form: str) -> bytes:
        "Bytes, whose number is written before them."
        n = self.number(form)
        if 0 <= n <= len(self.raw) - self.at: self.pay(n + 40)
        return self.take(n)

    # what is done with the stack

    def push(self, value): self.stack.append(value)

    def since_mark(self) -> list:
        "What was pushed since the last mark, which is taken away."
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind):
        "What is uppermost, if it is a `kind`."
        if type(self.stack[-1]) is kind: return self.stack[-1]
        raise Broken

    # the instructions: the machine itself

    def proto(self):
        if self.number('B') > pickle.HIGHEST_PROTOCOL: raise Broken

    def mark(self):
        self.pay(64)
        self.below.append(self.stack)
        self.stack = []

    def pop(self):
        if self.stack: self.stack.pop()
        else: self.since_mark()

    def get(self, i: int):
        if i not in self.memo: raise Broken
        self.push(self.memo[i])

    def put(self, i: int):
        if not 0 <= i < 1 << 32: raise Broken
        self.pay(120)
        self.memo[i] = self.stack[-1]

    # numbers and strings

    def int_(self):
        text = self.line(DIGITS)
        self.push(text == b'01' if text in (b'00', b'01') else int(text.decode('ascii'), 0))

    def long_(self):
        self.push(int(self.line(DIGITS).removesuffix(b'L').decode('ascii'), 0))

    def long4(self):
        raw = self.sized('i')
        if len(raw) > 255: raise InputError('it holds a whole number of over 255 bytes')
        self.push(pickle.decode_long(raw))

    def string(self):
        text = self.line()
        if len(text) < 2 or text[0] != text[-1] or text[0] not in b'"\'': raise Broken
        self.pay(len(text))
        self.push(codecs.escape_decode(text[1:-1])[0])

    def letters(self, raw: bytes, code: str = 'utf-8', errors: str = 'surrogatepass'):
        text = str(raw, code, errors)
        self.pay(sys.getsizeof(text))
        self.push(text)

    # containers

    def new(self, kind, cost):
        self.pay(cost)
        self.push(kind())

    def collect(self, kind):
        items = self.since_mark()
        self.pay(56 + 16 * len(items))
        self.push(kind(items))

    def few(self, n: int):
        if len(self.stack) < n: raise Broken
        self.pay(56)
        self.stack[-n:] = [tuple(self.stack[-n:])]

    def append(self):
        value = self.stack.pop()
        self.top(list).append(value)

    def appends(self):
        items = self.since_mark()
        self.top(list).extend(items)

    def fill(self, d: dict, items: list):
        if len(items) % 2: raise Broken
        self.pay(60 * len(items))
        for k, v in zip(items[::2], items[1::2]): d[_key(k)] = v

    def dict_(self):
        items, d = self.since_mark(), {}
        self.pay(64)
        self.fill(d, items)
        self.push(d)

    def setitem(self):
        if len(self.stack) < 3: raise Broken
        items = self.stack[-2:]
        del self.stack[-2:]
        self.fill(self.top(dict), items)

    def setitems(self):
        items = self.since_mark()
        self.fill(self.top(dict), items)

    def additems(self):
        items = self.since_mark()
        self.pay(120 * len(items))
        self.top(set).update(map(_key, items))

    def frozen(self):
        items = self.since_mark()
        self.pay(216 + 120 * len(items))
        self.push(frozenset(map(_key, items)))

    # functions

    def refuse(self, module: str, name: str):
        raise InputError(f'it asks to call {module[:60]}.{name[:60]}, which was not done')

    def name(self, module: str, name: str):
        if (module, name) not in STANDS: self.refuse(module, name)
        self.push(STANDS[module, name])

    def stack_name(self):
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str: raise Broken
        self.name(module, name)

    def extension(self, code: int): self.refuse('copyreg', f'extension {code}')

    def reduce(self):
        args = self.stack.pop()
        if type(args) is not tuple or len(args) > 8: raise Broken
        self.pay(300 + sum(len(a) for a in args if type(a) in (str, bytes, bytearray)))
        self.stack[-1] = self.top(Stand).call(*args)

    def build(self):
        state, it = self.stack.pop(), self.stack[-1]
        if type(it) is Stand: raise InputError('it tries to change a function')
        if type(it) not in (DType, Array): raise Broken
        it.build(state, self.pay)


def _word(m): return m.line(LONGEST).decode('ascii')


INSTRUCTIONS = {getattr(pickle, name)[0]: instruction for name, instruction in dict(
    PROTO=Machine.proto,
    FRAME=lambda m: m.take(8),
    MARK=Machine.mark,
    POP=Machine.pop,
    POP_MARK=Machine.since_mark,
    DUP=lambda m: m.push(m.stack[-1]),
    GET=lambda m: m.get(int(m.line(20))),
    BINGET=lambda m: m.get(m.number('B')),
    LONG_BINGET=lambda m: m.get(m.number('I')),
    PUT=lambda m: m.put(int(m.line(20))),
    BINPUT=lambda m: m.put(m.number('B')),
    LONG_BINPUT=lambda m: m.put(m.number('I')),
    MEMOIZE=lambda m: m.put(len(m.memo)),

    NONE=lambda m: m.push(None),
    NEWTRUE=lambda m: m.push(True),
    NEWFALSE=lambda m: m.push(False),
    INT=Machine.int_,
    LONG=Machine.long_,
    BININT=lambda m: m.push(m.number('i')),
    BININT1=lambda m: m.push(m.number('B')),
    BININT2=lambda m: m.push(m.number('H')),
    LONG1=lambda m: m.push(pickle.decode_long(m.sized('B'))),
    LONG4=Machine.long4,
    FLOAT=lambda m: m.push(float(m.line(DIGITS))),
    BINFLOAT=lambda m: m.push(struct.unpack('>d', m.take(8))[0]),

    STRING=Machine.string,
    BINSTRING=lambda m: m.push(m.sized('i')),
    SHORT_BINSTRING=lambda m: m.push(m.sized('B')),
    BINBYTES=lambda m: m.push(m.sized('I')),
    SHORT_BINBYTES=lambda m: m.push(m.sized('B')),
    BINBYTES8=lambda m: m.push(m.sized('Q')),
    BYTEARRAY8=lambda m: m.push(bytearray(m.sized('Q'))),
    UNICODE=lambda m: m.letters(m.line(), 'raw-unicode-escape', 'strict'),
    BINUNICODE=lambda m: m.letters(m.sized('I')),
    SHORT_BINUNICODE=lambda m: m.letters(m.sized('B')),
    BINUNICODE8=lambda m: m.letters(m.sized('Q')),

    EMPTY_TUPLE=lambda m: m.push(()),
    TUPLE=lambda m: m.collect(tuple),
    TUPLE1=lambda m: m.few(1),
    TUPLE2=lambda m: m.few(2),
    TUPLE3=lambda m: m.few(3),
    EMPTY_LIST=lambda m: m.new(list, 56),
    LIST=lambda m: m.collect(list),
    APPEND=Machine.append,
    APPENDS=Machine.appends,
    EMPTY_DICT=lambda m: m.new(dict, 64),
    DICT=Machine.dict_,
    SETITEM=Machine.setitem,
    SETITEMS=Machine.setitems,
    EMPTY_SET=lambda m: m.new(set, 216),
    ADDITEMS=Machine.additems,
    FROZENSET=Machine.frozen,

    GLOBAL=lambda m: m.name(_word(m), _word(m)),
    STACK_GLOBAL=Machine.stack_name,
    INST=lambda m: m.refuse(_word(m), _word(m)),
    REDUCE=Machine.reduce,
    BUILD=Machine.build,
    EXT1=lambda m: m.extension(m.number('B')),
    EXT2=lambda m: m.extension(m.number('H')),
    EXT4=lambda m: m.extension(m.number('i')),
).items()}


def _why(e: Exception, raw: bytes) -> tuple:
    "What is wrong with the pickle `raw`, which gave `e`, and what to do about it."
    if isinstance(e, InputError): return str(e), AGAIN
    what, todo = kind_of(raw)
    if what: return f'it is {what}', todo
    if isinstance(e, EOFError): return 'it breaks off in the middle', AGAIN
    return 'it does not read as a pickle', AGAIN


def unpickle(
    raw,  # the bytes of a pickle, from Python 2 or 3
    name='the pickle',  # what to call it in an error: its path
):
    """Read numbers, strings, plain containers and arrays of numbers, executing nothing.

    Anything else is an `InputError`."""
    try: return Machine(bytes(raw)).run()
    except Exception as e:
        why, todo = _why(e, raw)
        raise InputError(f'{name} is not a file of images: {why}; {todo}') from None
