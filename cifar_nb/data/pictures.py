"""Plain module: picture files in folders named like their classes, or with a table of labels.

A file is asked for its size before a pixel of it is decoded, and only common formats are opened.
Tests: tests/test_pictures.py.
"""
import csv
import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.files import read_text
from ..core.places import folders, subfolders
from .kinds import kind_of

__all__ = ['read_pictures', 'complaint', 'training_pictures', 'test_pictures']

SIDE, MOST_PICTURES = 32, 1 << 20  # pixels; bytes of a file, which needs 3,000
ENDINGS = ('.png', '.jpg', '.jpeg', '.bmp', '.webp', '.ppm')
FORMATS = ('PNG', 'JPEG', 'BMP', 'WEBP', 'PPM')
TABLE = 'trainLabels.csv'
ADD_AGAIN = 'add the dataset again.'


def _rgb(picture, path) -> np.ndarray:
    "The opened `picture` as uint8 `32,32,3`."
    if picture.mode.startswith('I'):  # 16 bits of grey: the upper 8, as Pillow does with colours
        grey = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, 2)
    if 'transparency' in picture.info or picture.mode[-1:] in 'Aa':
        a = np.asarray(picture.convert('RGBA'))
        if (a[..., 3] == 255).all(): return a[..., :3]
        raise InputError(f'{path} is transparent in places, so its colours are not known: '
                         'save it without transparency.')
    return np.asarray(picture.convert('RGB'))


def _not_a_picture(raw) -> str:
    "What the bytes `raw` are, which Pillow does not read."
    what = kind_of(raw)[0]
    return 'damaged' if what.startswith('a picture') else what or 'damaged, or no picture'


def _read(path) -> np.ndarray:
    from PIL import Image
    try:
        with open(path, 'rb') as f: raw = f.read(MOST_PICTURES + 1)
        if len(raw) > MOST_PICTURES:
            raise InputError(f'{path} has over {MOST_PICTURES:,} bytes, and a picture of 32 x 32 '
                             'pixels needs 3,000: add another dataset.')
        with Image.open(io.BytesIO(raw), formats=FORMATS) as picture:
            if picture.size == (SIDE, SIDE): return _rgb(picture, path)
            w, h = picture.size
        raise InputError(f'{path} has {w} x {h} pixels, and pictures of CIFAR-10 have 32 x 32: '
                         'add another dataset.')
    except InputError: raise
    except OSError as e: why = e.strerror or f'it is {_not_a_picture(raw)}'
    except Exception: why = 'it is damaged, or far larger than 32 x 32'  # whatever Pillow raises
    raise InputError(f'{path} cannot be read as a picture ({why}): remove it or {ADD_AGAIN}')


def _quietly(call, *args):
    "`call(*args)` without the warnings of Pillow, which come once for each of many files."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return call(*args)


def read_pictures(paths) -> np.ndarray:
    "The picture files `paths` as uint8 `N,3,32,32`; sixteen at a time, for that is mostly waiting."
    out = np.empty((len(paths), 3, SIDE, SIDE), np.uint8)
    def fill(start):
        for i in range(start, min(start + 256, len(paths))):
            out[i] = _read(paths[i]).transpose(2, 0, 1)
    def all_of_them():
        with ThreadPoolExecutor(16) as pool:
            try:
                for _ in pool.map(fill, range(0, len(paths), 256)): pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    _quietly(all_of_them)
    return out


def _pictures_in(folder):
    "Yield the names of the picture files in `folder`, in no order; hidden ones (._x.png) are none."
    try:
        with os.scandir(folder) as entries:
            for e in entries:
                if e.name[:1] != '.' and e.name.lower().endswith(ENDINGS) and not e.is_dir():
                    yield e.name
    except OSError: return


def _homes(folder, classes) -> dict:
    "class number -> the folder in `folder` that is named like it."
    return {classes.index(d.name): d for d in subfolders(folder) if d.name in classes}


def _classified(folder, classes) -> list:
    "(path, class) of the pictures in class folders, the first of each before the second of any."
    homes = _homes(folder, classes)
    files = sorted((name, k) for k, home in homes.items() for name in _pictures_in(home))
    return [(homes[k] / name, k) for name, k in files]


def _rows(folder, classes) -> list:
    "(id, class) of the rows of trainLabels.csv."
    path = folder / TABLE
    text, wrong, rows = read_text(path, ADD_AGAIN), f'{path} is not a table of id and label', {}
    try:
        for row in csv.DictReader(io.StringIO(text), restkey='more'):
            name, label = (row['id'] or '').strip(), (row['label'] or '').strip()
            if label not in classes:
                raise InputError(f'{wrong} of CIFAR-10, it says {label[:40]!r} of {name[:40]!r}: '
                                 'add another dataset.')
            if not name or any(c in name for c in '/\\\0'):
                raise InputError(f'{wrong}, it has an id {name[:40]!r}: {ADD_AGAIN}')
            if name in rows: raise InputError(f'{wrong}, it lists {name[:40]!r} twice: {ADD_AGAIN}')
            rows[name] = classes.index(label)
    except (KeyError, csv.Error): raise InputError(f'{wrong}: {ADD_AGAIN}') from None
    if rows: return list(rows.items())
    raise InputError(f'{wrong}, it is empty: {ADD_AGAIN}')


def _tabled(folder, classes) -> list:
    "(path, class) of the pictures that `folder`/trainLabels.csv lists, in its order."
    rows = _rows(folder, classes)
    for home in folders(folder / 'train', 2):
        known = [e for e in (*ENDINGS, '') if os.path.isfile(home / f'{rows[0][0]}{e}')]
        if known: break
    else:
        raise InputError(f'{folder} has {TABLE} but no pictures for it: '
                         'add a dataset in which train.7z is unpacked.')
    files = [(f'{name}{known[0]}', k) for name, k in rows]
    there = set(_pictures_in(home))
    if lacking := [name for name, _ in files if name not in there]:
        raise InputError(f'{home} lacks {len(lacking):,} of the {len(rows):,} pictures that '
                         f'{TABLE} lists, {lacking[0]} for one: {ADD_AGAIN}')
    return [(home / name, k) for name, k in files]


def training_pictures(folder, classes) -> list:
    "(path, class number) of the training pictures of a set; `InputError` if a class has none."
    folder, classes = Path(folder), list(classes)
    if os.path.isfile(folder / TABLE): return _tabled(folder, classes)
    if why := complaint(folder, classes): raise InputError(why)
    return _classified(folder / 'train', classes)


def test_pictures(folder, classes) -> list:
    "(path, class number) of the test pictures of a set; none where they are not in class folders."
    return _classified(Path(folder) / 'test', list(classes))


def complaint(folder, classes):
    """What is wrong with the picture set in `folder`, in a sentence: '' if nothing is.

    None if there is no set. One is `train/CLASS/*.png`, or `trainLabels.csv` and `train/*.png`,
    with `test/CLASS/*.png` or without."""
    folder, classes = Path(folder), list(classes)
    if os.path.isfile(folder / TABLE):
        try: _tabled(folder, classes)
        except InputError as e: return str(e)
        return ''
    homes = _homes(folder / 'train', classes)
    if len(homes) < len(classes): return None
    empty = [c for k, c in enumerate(classes) if next(_pictures_in(homes[k]), None) is None]
    if not empty: return ''
    return (f'{folder / "train"} has no pictures ({", ".join(ENDINGS)}) '
            f'of {", ".join(empty)}: {ADD_AGAIN}')
