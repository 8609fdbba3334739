"""Plain module: the course's file of unlabelled test images.

Tests: tests/test_data.py, chapter 01.
"""
from typing import NamedTuple

import numpy as np
import torch

from ..core.errors import InputError
from ..core.places import expanded
from .safe_arrays import as_text
from .safe_pickle import unpickle

__all__ = ['LABELS', 'roughness', 'Competition', 'begins_as_pickle', 'course_trouble',
           'load_competition']


LABELS = {'label', 'labels', 'fine_labels', 'coarse_labels', 'y', 'target', 'targets'}  # keys

_LAYOUTS = {  # the order of the colours -> how to read a row of 3,072 bytes; the shape that says so
    'colours first': (lambda x: x.reshape(-1, 3, 32, 32), (3, 32, 32)),
    'colours last': (lambda x: x.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2), (32, 32, 3)),
}
def roughness(x):
    "Mean step between neighbouring pixels of images uint8 (N, 3, H, W), a thousand at most."
    x = x[::-(-len(x)//1000)].astype(np.int16)
    return float(sum(np.abs(np.diff(x, axis=axis)).mean() for axis in (2, 3)))

def _images(x):
    "Images uint8 (N, 3, 32, 32) from an array in one of `_LAYOUTS`, and the name of the layout."
    if not isinstance(x, np.ndarray): raise InputError("it has no array of images under 'data'")
    if x.dtype != np.uint8: raise InputError(f'its images are {x.dtype} instead of uint8')
    if x.shape[1:] not in ((3072,), *(shape for _, shape in _LAYOUTS.values())) or not len(x):
        raise InputError(f'its images have shape {x.shape} instead of (N, 32, 32, 3) or (N, 3072)')
    rows = np.ascontiguousarray(x).reshape(-1, 3072)
    usual = 'colours last' if x.shape[1:] == _LAYOUTS['colours last'][1] else 'colours first'
    rough = {order: roughness(read(rows)) for order, (read, _) in _LAYOUTS.items()}
    other, = rough.keys() - {usual}
    order = other if rough[other] < .95*rough[usual] else usual
    layout = ' x '.join(map(str, ('N', *x.shape[1:]))) + ', flat'*(x.ndim == 2) + f', {order}'
    layout += ' by the look of them'*(order != usual)
    return torch.from_numpy(np.array(_LAYOUTS[order][0](rows), order='C')), layout


class Competition(NamedTuple):
    "The course's test file: `images` uint8 (N, 3, 32, 32), `ids` int64 (N), `layout` in words."
    images: torch.Tensor
    ids: torch.Tensor
    layout: str

def _ids(ids, n):
    "The ids of `n` images, int64 (n): those of the file, or 0 to n-1 for None."
    if isinstance(ids, (list, tuple)):
        if len(ids) != n: raise InputError(f'its ids have shape ({len(ids)},) for {n:,} images')
        if other := {type(i).__name__ for i in ids} - {'int'}:
            raise InputError(f'its ids are {min(other)} instead of whole numbers')
        if max(map(abs, ids), default=0) >> 63: raise InputError('its ids have more than 63 bits')
    ids = np.arange(n) if ids is None else np.asarray(ids)
    if ids.dtype.kind not in 'iu' or ids.dtype.str[1:] == 'u8':
        raise InputError(f'its ids are {ids.dtype} instead of whole numbers')
    if ids.shape != (n,): raise InputError(f'its ids have shape {ids.shape} for {n:,} images')
    values, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        raise InputError(f'its id {values[counts.argmax()]} occurs {counts.max()} times')
    return torch.from_numpy(ids.astype(np.int64))

def _raw(path, limit=1 << 30):
    "The bytes of the file `path`, if there is one, of at most `limit` bytes."
    try:
        if not path.is_file():
            raise InputError(f'{path} is not a file: name the cifar_test_nolabel.pkl of the course')
        if path.stat().st_size > limit:
            raise InputError(f'{path} has over {limit:,} bytes: name the one of 31 MB')
        return path.read_bytes()
    except OSError as e:
        raise InputError(f'{path} cannot be read ({e.strerror}): look at its permissions') from None


def _unlabelled(entries) -> tuple:
    """Images, their layout and ids from `entries`, what a pickle holds; `InputError` if that is
    anything else than images without labels."""
    if not isinstance(entries, dict):
        raise InputError(f'it holds {type(entries).__name__} instead of a dict')
    entries = {as_text(key): value for key, value in entries.items()}
    if 'fine_labels' in entries: raise InputError('it is a batch of CIFAR-100')
    if known := sorted(k for k in entries if k.lower() in LABELS):
        raise InputError(f'its images have labels (under {known[0]!r})')
    return *_images(entries.get('data')), entries.get('ids')

def _refused(path, why) -> InputError:
    return InputError(f'{path} is not the test file of the course, {why}: download it again from '
                      'Kaggle')


LARGEST = 1 << 28  # bytes of a file that is looked into: 80,000 images

def begins_as_pickle(path) -> bool:
    """Whether the file `path` begins as the pickle of a dictionary does and has room for an image;
    no more than three bytes are read."""
    try:
        if not 3072 < path.stat().st_size < LARGEST: return False
        with path.open('rb') as f: return f.read(3).startswith((b'\x80', b'(d', b'}q'))
    except (OSError, ValueError): return False

def course_trouble(path) -> tuple:
    """('', '') for a pickle of images without labels, under any name. ('damaged', why) for one that
    cannot be read or has ids that are none, ('another', why) for a pickle that is whole and holds
    anything else; `why` is a sentence."""
    try: raw = unpickle(_raw(path, LARGEST), path)
    except InputError as e: return 'damaged', str(e)
    try: x, _, ids = _unlabelled(raw)
    except ValueError as e: return 'another', str(_refused(path, e))
    try: _ids(ids, len(x))
    except ValueError as e: return 'damaged', str(_refused(path, e))
    return '', ''


def load_competition(
    path,  # the course's pickle, cifar_test_nolabel.pkl or a like name
    say=print,  # is told which layout and which ids were found
) -> Competition:
    """Read the unlabelled test images of the course, in any layout; `InputError` for a file that is
    anything else."""
    path = expanded(path)
    raw = unpickle(_raw(path), path)
    try:
        images, layout, given = _unlabelled(raw)
        ids = _ids(given, len(images))
    except ValueError as e: raise _refused(path, e) from None
    whence = 'ids from the file' if given is not None else f'no ids, so 0 to {len(ids) - 1}'
    say(f'{path.name}: {len(images):,} images, {layout}; {whence}')
    return Competition(images, ids, layout)
