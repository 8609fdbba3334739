"""Plain module: which cifar_nb this is: its version, and the commit where that is known.

A clone is asked with git; in what `git archive` packs (the ZIP of a hosting site, too) and in what
setup.py builds the file COMMIT beside this module has the commit. Tests: tests/test_main.py,
tests/test_release.py.
"""
import platform
import re
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .manifest import UNKNOWN

__all__ = ['package_version', 'commit', 'packed_commit', 'versions']

ROOT = Path(__file__).resolve().parents[2]


def package_version() -> str:
    "The version of the package as it is installed; 'unknown' where it is not."
    try: return version('cifar_nb')
    except PackageNotFoundError: return UNKNOWN


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit of the clone that this package lies in, with + where files of the package were
    changed since; of a packed copy the commit that it was packed from; else 'unknown'."""
    if not (ROOT / '.git').exists(): return packed_commit(Path(__file__).with_name('COMMIT'))
    def git(*argv):
        return subprocess.run(['git', '-C', str(ROOT), *argv], capture_output=True, text=True,
                              encoding='utf-8', timeout=20)
    try:
        head, changed = (git('rev-parse', 'HEAD'),
                         git('status', '--porcelain', '-uno', '--', 'cifar_nb'))
    except (OSError, subprocess.SubprocessError): return UNKNOWN
    return (UNKNOWN if head.returncode
            else head.stdout.strip()[:12] + '+' * bool(changed.stdout.strip()))


def packed_commit(file: Path) -> str:
    "The commit in `file`, its first 12 digits, with a + that stands after it."
    try: text = file.read_text(encoding='utf-8').strip()
    except (OSError, UnicodeDecodeError): return UNKNOWN
    return text[:12] + text[40:] if re.fullmatch(r'[0-9a-f]{40}\+?', text) else UNKNOWN


def versions() -> dict:
    "Of this package, PyTorch and Python."
    return dict(cifar_nb=package_version(), commit=commit(), torch=version('torch'),
                python=platform.python_version())
