"""Plain module: whether two classes are written alike, as a chapter's and the one that it exports.

Tests: tests/test_augment.py.
"""
import ast
import dataclasses
import inspect
import textwrap
from types import CodeType, FunctionType

__all__ = ['written_alike']


def _source(f: FunctionType) -> str:
    "What `f` says, without layout and comments; '' where there is no text of it."
    try: return ast.dump(ast.parse(textwrap.dedent(inspect.getsource(f))))
    except (OSError, SyntaxError, TypeError): return ''


def _code(c: CodeType) -> tuple:
    "The names and constants of `c`; its bytes depend on what was imported around it."
    consts = tuple(_code(k) if isinstance(k, CodeType) else (type(k).__name__, repr(k))
                   for k in c.co_consts)
    return c.co_names, c.co_varnames, consts


def _functions(cls: type) -> dict:
    "Those that were written in `cls`, and not made by `dataclass`."
    return {k: f for k, f in vars(cls).items()
            if isinstance(f, FunctionType) and f.__code__.co_filename != '<string>'}


def _fields(cls: type) -> list:
    return ([(f.name, repr(f.default)) for f in dataclasses.fields(cls)]
            if dataclasses.is_dataclass(cls) else [])


def _alike(f: FunctionType, g: FunctionType) -> bool:
    a, b = _source(f), _source(g)
    return a == b if a and b else _code(f.__code__) == _code(g.__code__)


def written_alike(a: type, b: type) -> bool:
    """Whether `a` and `b` have the same fields with the same defaults, and functions that say the
    same."""
    if a is b: return True
    f, g = _functions(a), _functions(b)
    return _fields(a) == _fields(b) and f.keys() == g.keys() and all(_alike(f[k], g[k]) for k in f)
