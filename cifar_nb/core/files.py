"""Plain module: files that are written whole or not at all, locks that die with their process, and
readers that say what is wrong.

Every text is UTF-8, whatever the system's own encoding is. Tests: tests/test_files.py.
"""
import errno
import glob
import json
import math
import os
import re
import secrets
import time
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

__all__ = ['write_atomic', 'check_writable', 'make_folder', 'writable_folder', 'remove', 'there',
           'entries', 'remove_leftovers', 'is_empty', 'slug', 'free_name', 'locked', 'to_json',
           'read_text', 'read_json', 'read_lines', 'json_records']

# what systems and notebooks leave in any folder
CLUTTER = ('.DS_Store', 'Thumbs.db', 'desktop.ini', '.ipynb_checkpoints')
LOCK = '.lock'
WINDOWS = os.name == 'nt'


def write_atomic(path, data):
    """Write `data` (bytes or str) to `path` whole or not at all; what goes wrong becomes an
    `InputError`."""
    path = Path(path)
    tmp = _beside(path)
    try:
        with open(tmp, 'xb') as f:
            f.write(data if isinstance(data, bytes) else data.encode('utf-8', 'backslashreplace'))
            f.flush()
            os.fsync(f.fileno())
        _remove_older(path, tmp)
        _replace(tmp, path)
    except OSError as e: raise _unwritable(path, e) from None
    finally: remove(tmp)


def _beside(path: Path) -> Path:
    "A temporary name beside `path`."
    # not the process's number: threads share it, and machines that share a disk
    return path.parent / f'.{path.name}.{secrets.randbelow(10 ** 12)}'


def _unwritable(path, e: OSError) -> InputError:
    "What to say where `e` kept `path` from being written."
    return InputError(f'{path} cannot be written ({e.strerror}): free some space or choose another '
                      'place; nothing was changed.')


def check_writable(path):
    """Raise the `InputError` of `write_atomic` now, before the work whose outcome would be lost if
    `path` could not be written; None says nothing."""
    if path is None: return
    path = Path(path)
    probe = _beside(path)
    try:
        if path.is_dir(): raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        open(probe, 'xb').close()
    except OSError as e: raise _unwritable(path, e) from None
    finally: remove(probe)


def remove(path):
    "Delete the file `path` if it is there and can be deleted: what stays does no harm."
    try: Path(path).unlink(missing_ok=True)
    except OSError: pass


def _remove_older(path: Path, tmp: Path):
    """Delete what killed writers of `path` have left: temporary files that are ten minutes older
    than `tmp`, by the clock of their disk."""
    try:
        now = tmp.stat().st_mtime
        for p in path.parent.glob(f'.{glob.escape(path.name)}.*'):
            if p.suffix[1:].isdigit() and p.stat().st_mtime < now - 600: remove(p)
    except OSError: pass


def _replace(tmp, path):
    """Rename `tmp` to `path`; on Windows again and again for a second, while a reader has the file
    open."""
    for left in reversed(range(20)):
        try: return os.replace(tmp, path)
        except PermissionError:
            if not WINDOWS or not left: raise
            time.sleep(.05)


def make_folder(path) -> Path:
    "The folder `path`, made where it is missing."
    path = Path(path)
    try: path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f'The folder {path} cannot be made ({e.strerror}): choose another '
                         'place.') from None
    return path


def writable_folder(path) -> Path:
    """The folder `path`, made where it is missing; `InputError` now, before the work whose outcome
    would be lost, if no file could be written there."""
    path = make_folder(path)
    check_writable(path / 'one.json')
    return path


def there(path) -> bool:
    """Whether something has the name `path`, be it a link to nowhere; `InputError` where we may not
    look."""
    try: os.lstat(path)
    except (FileNotFoundError, NotADirectoryError): return False
    except OSError as e:
        raise InputError(f'{path} cannot be reached ({e.strerror}): look at its permissions, or '
                         'name another place.') from None
    return True


def entries(folder) -> list:
    """What lies in `folder`, sorted; nothing where there is no such folder, `InputError` where we
    may not look."""
    try: return sorted(Path(folder).iterdir())
    except FileNotFoundError: return []
    except OSError as e:
        raise InputError(f'The folder {folder} cannot be opened ({e.strerror}): name another, or '
                         'look at its permissions.') from None


def _is_leftover(path: Path) -> bool:
    "Whether `path` is a temporary file of `write_atomic`: .NAME.ENDING.DIGITS."
    return bool(re.fullmatch(r'\..+\.\w+\.\d+', path.name))


def remove_leftovers(folder):
    "Delete what a killed `write_atomic` left in `folder`; call it only while `folder` is `locked`."
    for p in entries(folder):
        if _is_leftover(p): remove(p)


def is_empty(folder) -> bool:
    """Whether the folder holds nothing but what systems, locks and killed writers leave: as good as
    new."""
    def counts_not(p):
        return (_is_leftover(p) or p.name in CLUTTER or p.name.startswith('._')
                or (p.name.startswith('.') and p.name.endswith(LOCK)))
    return all(map(counts_not, entries(folder)))


def slug(*words) -> str:
    "`words` as one name for a file: letters, digits, _, - and dots; never a path, hidden or empty."
    return '-'.join(re.sub('[^0-9A-Za-z_.-]+', '_', str(w)).strip('._-') or 'x' for w in words)


def free_name(path) -> Path:
    """Make the folder `path`, or `path`-2, `path`-3, ...: the first that is not there; no other
    process gets the same."""
    path, i = Path(path), 1
    make_folder(path.parent)
    while True:
        chosen = path if i == 1 else path.with_name(f'{path.name}-{i}')
        try:
            chosen.mkdir()
            return chosen
        except FileExistsError: i += 1
        except OSError as e:
            raise InputError(f'The folder {chosen} cannot be made ({e.strerror}): choose another '
                             'place.') from None


NO_LOCKS = {getattr(errno, name, None)
            for name in ('EROFS', 'EACCES', 'EPERM', 'ENOLCK', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP',
                         'EINVAL')}


def _others_lock(path) -> bool:
    """Whether we may write into the folder of the lock file `path` and yet not into this file,
    which is somebody else's."""
    return (os.path.exists(path) and not os.access(path, os.W_OK)
            and os.access(os.path.dirname(path) or '.', os.W_OK))


@contextmanager
def locked(path, busy: str, wait: float = 0, waiting=None):
    """Hold the lock file `path` for the block; the system frees it when the process ends, however
    it ends.

    Where another process has it, `waiting()` is called once and up to `wait` seconds pass; then
    `busy` is an `InputError`.
    In a folder that cannot be written to there is nothing to guard, and on some disks nothing can
    be locked: the block runs without a lock."""
    from filelock import BaseFileLock, FileLock, Timeout
    lock: BaseFileLock | None = None
    begun = FileLock(str(path))
    try:
        try: begun.acquire(timeout=0)
        except Timeout:
            if not wait: raise
            if waiting: waiting()
            begun.acquire(timeout=wait, poll_interval=.2)
        lock = begun
    except Timeout: raise InputError(busy) from None
    except NotImplementedError: pass
    except OSError as e:
        if e.errno not in NO_LOCKS or _others_lock(path):
            raise InputError(f'{path} cannot be written ({e.strerror}): free some space, look at '
                             'its permissions, or choose another place.') from None
    try: yield
    finally:
        if lock is not None: lock.release()


def to_json(value, indent=1) -> str:
    "`value` as JSON that every reader takes: numbers that are none (nan, inf) become null."
    def clean(v):
        if isinstance(v, float): return v if math.isfinite(v) else None
        if isinstance(v, dict): return {k: clean(w) for k, w in v.items()}
        return [clean(w) for w in v] if isinstance(v, (list, tuple)) else v
    return json.dumps(clean(value), indent=indent, allow_nan=False)


def read_text(path, what: str = '') -> str:
    "The UTF-8 text of `path`, a byte-order mark dropped; `InputError` where it cannot be read."
    try: return Path(path).read_text(encoding='utf-8-sig')
    except OSError as e: why = f'cannot be read ({e.strerror})'
    except UnicodeDecodeError: why = 'is not text in UTF-8'
    raise InputError(
        f'{path} {why}: {what or "get it again from where it came, or delete it."}') from None


def _parsed(text, path, what, kind):
    try: value = json.loads(text)
    except (ValueError, RecursionError) as e:
        why = ('is empty' if not text.strip() else 'is not JSON '
               f'({e.msg if isinstance(e, json.JSONDecodeError) else type(e).__name__})')
    else:
        if isinstance(value, kind): return value
        why = f'holds a {type(value).__name__} where a {kind.__name__} belongs'
    raise InputError(f'{path} {why}, it may be damaged: '
                     f'{what or "get it again from where it came, or delete it."}')


def read_json(path, what: str = '', kind: type = dict):
    """The JSON in `path`, a `kind`; anything else is an `InputError` that ends with `what` to do
    about it."""
    return _parsed(read_text(path, what), path, what, kind)


def read_lines(path, what: str = '') -> list:
    "The JSON objects in `path`, one a line."
    return [_parsed(line, f'{path}, line {i},', what, dict)
            for i, line in enumerate(read_text(path, what).splitlines(), 1)]


def json_records(folder, say=print):
    """Pairs (path, dict) of the .json files in `folder`, by name; `say` is told of each that is
    damaged or foreign.

    Hidden files (`._x.json` of a Mac, a half-written `.x.json.DIGITS`) and folders are no
    records."""
    folder = Path(folder)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f'{folder} is a file, and a folder of records is asked for: name another.')
    for path in [p for p in entries(folder) if p.suffix == '.json' and not p.name.startswith('.')
                 and not os.path.isdir(p)]:
        try: yield path, read_json(path, 'it is passed over.')
        except InputError as e: say(f'{e}')
