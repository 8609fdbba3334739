"""Plain module: a dictionary in a JSON file that several processes read and change, and none
spoils.

What cannot be read is kept aside, never thrown away. Tests: tests/test_memory.py.
"""
import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import InputError
from ..core.files import locked, to_json, write_atomic

__all__ = ['recall', 'change']


def recall(path) -> dict:
    "The dictionary in the file `path`, empty where there is none; what is none is put aside first."
    path = Path(path)
    with _told(path):
        try: return _read(path)
        except ValueError: pass
        with _alone(path): return _read_or_put_aside(path)


def change(path, new):
    "Write `new(dictionary)` to the file `path` if it differs; other processes wait meanwhile."
    path = Path(path)
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            old = _read_or_put_aside(path)
            if (fresh := new(dict(old))) == old: return
            _tidy(path)
            write_atomic(path, to_json(dict(sorted(fresh.items()))) + '\n')


@contextmanager
def _told(path: Path):
    "What the system refuses becomes an `InputError`."
    try: yield
    except OSError as e: raise InputError(f'{path} cannot be used ({e.strerror or e}).') from None


def _alone(path: Path):
    lock = path.with_name(f'.{path.name}.lock')
    return locked(lock, f'{path} is in use by another process for too long.', wait=30)


def _read(path: Path) -> dict:
    "The dictionary in `path`; ValueError if there is something else."
    try: data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError): return {}
    try: value = json.loads(data.decode('utf-8-sig'))
    except RecursionError: value = None
    if not isinstance(value, dict): raise ValueError(f'{path} holds no dictionary')
    return value


def _read_or_put_aside(path: Path) -> dict:
    try: return _read(path)
    except ValueError: pass
    name, i = f'{path.name}.damaged', 1
    while os.path.lexists(path.with_name(name)): i, name = i + 1, f'{path.name}.damaged-{i + 1}'
    os.replace(path, path.with_name(name))
    return {}


def _tidy(path: Path):
    """Remove what killed writers of this file have left: .NAME.PID, and NAME.PID of earlier
    versions."""
    name = re.compile(r'\.?' + re.escape(path.name) + r'\.\d+')
    for p in path.parent.iterdir():
        if name.fullmatch(p.name):
            try: p.unlink()
            except OSError: pass
