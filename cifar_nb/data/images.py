"""Plain module: where images may lie on a machine (on Kaggle: mounted anywhere), and both parts of
what is found. Tests: tests/test_pictures.py, tests/test_kaggle.py, chapter 64.
"""
import fnmatch
import os
from pathlib import Path
from typing import NamedTuple

import torch

from ..core.errors import InputError
from ..core.places import DEPTH, folders, input_folder, nearest_folder
from .cifar import CLASSES, MD5, SHAPES, find, load_set, search_places
from .competition import begins_as_pickle, course_trouble
from .kinds import instead
from .pictures import complaint, test_pictures

__all__ = ['working_folder', 'mounted', 'Images', 'load_both', 'load_images', 'look_for_course',
           'course_files', 'find_competition']


def working_folder() -> Path:
    """Where files are kept: `$KAGGLE_WORKING`, or /kaggle/working where there is one, or the
    current folder."""
    named = Path(os.environ.get('KAGGLE_WORKING') or '/kaggle/working')
    return named if os.path.isdir(named) else Path.cwd()


def _files(folder) -> int:
    "How many files lie in `folder`; 0 where we may not look."
    try:
        with os.scandir(folder) as entries: return sum(not e.is_dir() for e in entries)
    except OSError: return 0

def mounted(root=None, most: int = 6) -> str:
    """In words, the folders under `root` (default: the input folder) that hold files, `most` of
    them by name."""
    root = Path(root or input_folder())
    counts = [('' if f == root else f'{f.relative_to(root)}', _files(f))
              for f in folders(root)]
    found = [f'{name}/ ({n:,} file{"s" * (n > 1)})' for name, n in counts if n]
    return ', '.join(found[:most]) + (
        f' and {len(found) - most} more' if len(found) > most else '') or 'nothing'


class Images(NamedTuple):
    "What to train on and to test with: `x`, `xt` uint8 `N,3,32,32`, `y`, `yt` int64 `N`."
    x: torch.Tensor
    y: torch.Tensor
    xt: torch.Tensor
    yt: torch.Tensor
    name: str  # as `load_set` tells it
    test: str  # what the test images are, in words

    @property
    def classes(self): return tuple(SHAPES) if self.name == 'toy' else CLASSES

    def first(self, n: int | None = None) -> 'Images':
        "The first `n` of each part, or all for None."
        if n is None: return self
        if not 1 <= n <= len(self.x):
            raise InputError(f'IMAGES = {n!r}: choose a number from 1 to {len(self.x):,}, or None '
                             'for all.')
        return self._replace(x=self.x[:n], y=self.y[:n], xt=self.xt[:n], yt=self.yt[:n])

def load_both(root=None, say=print) -> Images:
    "Both parts of what `load_set` finds."
    (x, y, name), (xt, yt, _) = load_set('train', root, say), load_set('test', root, say=str)
    if name == 'toy': return Images(x, y, xt, yt, name, 'toy test set')
    aside = name.startswith('pictures') and not test_pictures(find(root, say=str), CLASSES)
    return Images(x, y, xt, yt, name, 'training images, set aside' if aside else 'test set')


def load_images(root=None, say=print) -> Images:
    """CIFAR-10 from `root`, or from anywhere on this machine, or from the internet; 'toy' is the
    toy set."""
    named = root or os.environ.get('CIFAR_NB_DATA')
    try: named or search_places(None) or find(say=say)
    except InputError:
        bad = nearest_folder(input_folder(), lambda folder: complaint(folder, CLASSES))
        if bad: raise InputError(complaint(bad[1], CLASSES)) from None
        what, todo = instead(input_folder(), CLASSES, DEPTH)
        raise InputError(f'There is no CIFAR-10 here: {input_folder()} holds {mounted()}, and the '
                         'internet gave none; '
                         + f'{what} cannot be used ({todo}); ' * bool(what) +
                         "choose Add Input and add the dataset pankrzysiu/cifar10-python or the "
                         "course's competition, or set DATA = 'toy' for a first try.") from None
    return load_both(root, say)


def _files_below(root):
    "The files under `root`, the nearest first, but for the batches of CIFAR-10."
    for folder in folders(root):
        try: names = sorted(os.listdir(folder))
        except OSError: continue
        yield from (p for n in names if n not in MD5 and os.path.isfile(p := folder / n))

def look_for_course(root=None) -> tuple:
    """Three lists about what lies under `root` (default: the input folder): the course's files, as
    `course_files` gives them; a sentence for each damaged file of the usual name; a sentence for
    each other file of that name, and one for the damaged pickles of other names."""
    usual: list = []
    others: list = []
    damaged: list = []
    passed: list = []
    strange: list = []
    for path in _files_below(root or input_folder()):
        named = fnmatch.fnmatch(path.name, 'cifar_test*.pkl')
        if not named and not begins_as_pickle(path): continue
        trouble, why = course_trouble(path)
        if not trouble: (usual if named else others).append(path)
        elif named: (damaged if trouble == 'damaged' else passed).append(why)
        elif trouble == 'damaged': strange.append(why)
    more = f' (and {len(strange) - 1:,} more like it)' * (len(strange) > 1)
    return usual + others, damaged, passed + [why + more for why in strange[:1]]

def course_files(root=None, say=print) -> list:
    """The course's files under `root` (default: the input folder), known by what they hold: pickles
    of images without labels. Those named like cifar_test_nolabel.pkl come first, then the nearest;
    `say` is told what is passed over."""
    files, damaged, passed = look_for_course(root)
    for why in damaged + passed: say(f'passed over: {why}')
    return files


def find_competition(root=None, say=print):
    "The first of `course_files`, or None."
    return next(iter(course_files(root, say)), None)
