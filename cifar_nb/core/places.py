"""Plain module: the home folder if there is one, the folder of the book, and what lies below one.

Tests: tests/test_data.py, tests/test_root.py.
"""
import os
import tempfile
from pathlib import Path

from .errors import InputError

__all__ = ['DEPTH', 'home_folder', 'expanded', 'tilde', 'cache_folder', 'input_folder', 'book_root',
           'subfolders', 'folders', 'nearest_folder']

DEPTH = 10  # levels of folders below a place that are looked through


def home_folder():
    "The home folder of whoever runs this, or None: a container may give a number without a home."
    if os.environ.get('HOME') == '' and os.name == 'posix':  # set to nothing is as good as not set
        import pwd
        try: return Path(pwd.getpwuid(os.getuid()).pw_dir)
        except KeyError: return None
    try: return Path('~').expanduser()
    except RuntimeError: return None


def expanded(path) -> Path:
    "`path` with ~ written out; `InputError` for what is no path, or where there is no home folder."
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f'a path was given as {type(path).__name__}: give a string or a Path.')
    path = Path(path)
    if path.parts[:1] == ('~',):
        if home := home_folder(): return home.joinpath(*path.parts[1:])
        raise InputError(f'{path} cannot be found, for there is no home folder here: '
                         'write the whole path.')
    try: return path.expanduser()
    except RuntimeError:
        raise InputError(f'{path} cannot be found, for there is no such user: '
                         'write the whole path.') from None


def tilde(path) -> str:
    "`path` as one would write it, with ~ for the home folder."
    home = f'{home_folder()}{os.sep}'
    return str(path).replace(home, f'~{os.sep}', 1) if str(path).startswith(home) else str(path)


def cache_folder() -> Path:
    """The folder for downloads: `$CIFAR_NB_CACHE`, or cifar_nb in `$XDG_CACHE_HOME` or ~/.cache.

    Without a home it is one of this user's own in the folder for temporary files."""
    if named := os.environ.get('CIFAR_NB_CACHE'): return expanded(named).absolute()
    if base := os.environ.get('XDG_CACHE_HOME'): return (expanded(base) / 'cifar_nb').absolute()
    if home := home_folder(): return (home / '.cache' / 'cifar_nb').absolute()
    owner = os.getuid() if hasattr(os, 'getuid') else 'cache'
    return Path(tempfile.gettempdir(), f'cifar_nb-{owner}').absolute()


def input_folder() -> Path:
    "Where Kaggle mounts what was added to a notebook: `$KAGGLE_INPUT`, or /kaggle/input."
    return Path(os.environ.get('KAGGLE_INPUT') or '/kaggle/input')


def book_root() -> Path:
    """The folder of the book, with nbs/ and results/: the working folder or the nearest above it,
    written from there ('..'), or else where this package lies; `InputError` if neither holds it."""
    here, package = Path.cwd(), Path(__file__).resolve().parents[2]
    above = (Path(*['..'] * i) for i in range(len(here.parts)))
    for folder in (*above, package):
        if (folder / 'nbs' / 'chapters.csv').is_file(): return folder
    raise InputError(f'the book is not here: neither {here} nor a folder above it holds '
                     f'nbs/chapters.csv, nor does {package}. Run this in a clone of the book.')


def _is_folder(entry) -> bool:
    try: return entry.is_dir()
    except OSError: return False


def subfolders(folder) -> list:
    "The folders in `folder`, sorted, hidden ones left out; none where we may not look."
    folder = Path(folder)
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / e.name for e in entries if e.name[:1] != '.' and _is_folder(e))
    except (OSError, ValueError): return []


def _identity(folder):
    "What two paths to one folder have in common; None where we may not look."
    try: s = os.stat(folder)
    except (OSError, ValueError): return None
    return (s.st_dev, s.st_ino) if s.st_ino else os.path.realpath(folder)


def folders(root, depth: int = DEPTH):
    """`root` and the folders below it, the nearest first, down to `depth` levels.

    None comes twice, so that circles of links end."""
    level, seen = [Path(root)], set()
    for _ in range(depth + 1):
        fresh = []
        for folder in level:
            mark = _identity(folder)
            if mark is None or mark in seen: continue
            seen.add(mark)
            fresh.append(folder)
            yield folder
        level = [d for folder in fresh for d in subfolders(folder)]


def nearest_folder(root, *tests, depth: int = DEPTH):
    """(i, folder): the nearest folder at or below `root` that passes the first of `tests` (i = 0).

    If none does it is one that passes the second (i = 1), and so on; None if none passes any."""
    found = {}
    for folder in folders(root, depth):
        for i, test in enumerate(tests):
            if i not in found and test(folder):
                found[i] = folder
                break
        if 0 in found: break
    return min(found.items()) if found else None
