"""Plain module: what a file really is, by its first bytes, and what lies in place of CIFAR-10.

Tests: tests/test_data.py.
"""
import os
import re
from pathlib import Path

from ..core.places import folders, subfolders

__all__ = ['kind_of', 'kind_of_file', 'instead']

AGAIN, UNPACK = 'get it again from where it came', 'unpack it and name what is in it'
PICKLE = 'name the pickle of the course'
SIGNED_IN = 'a server sent it in place of the file, so get the file again, signed in if need be'
_MAGIC = (
    (b'PK\5\6', 'an empty zip archive', AGAIN),
    (b'PK\3\4', 'a zip archive', UNPACK),
    (b'\x1f\x8b', 'packed by gzip', UNPACK),
    (b'BZh', 'packed by bzip2', UNPACK),
    (b'\xfd7zXZ\0', 'packed by xz', UNPACK),
    (b'\x28\xb5\x2f\xfd', 'packed by zstd', UNPACK),
    (b'7z\xbc\xaf\x27\x1c', 'a 7z archive', UNPACK),
    (b'Rar!', 'a rar archive', UNPACK),
    (b'\x93NUMPY', 'an array of numpy.save', PICKLE),
    (b'\x89HDF', 'a file of HDF5', PICKLE),
    (b'PAR1', 'a table of Parquet', PICKLE),
    (b'SQLite format 3', 'a database', AGAIN),
    (b'\x89PNG', 'a picture (PNG)', PICKLE),
    (b'\xff\xd8\xff', 'a picture (JPEG)', PICKLE),
    (b'GIF8', 'a picture (GIF)', PICKLE),
    (b'%PDF', 'a document (PDF)', AGAIN),
    (b'\0\5\x16\7', "a Mac's companion of another file", 'name the file without ._ in front'),
    (b'version https://git-lfs', 'a pointer of Git LFS in place of the file',
     'get the file itself with `git lfs pull`'),
    (b'/annex/objects/', 'a pointer of git-annex in place of the file',
     'get the file itself with `git annex get`'),
    (b'\xff\xfe', 'text in UTF-16', AGAIN),
    (b'\xfe\xff', 'text in UTF-16', AGAIN),
)


def _zip(raw: bytes) -> tuple:
    "What a zip archive is by the name of its first file."
    name = raw[30:30 + int.from_bytes(raw[26:28], 'little')]
    if name.endswith(b'.npy'): return 'an archive of numpy.savez', PICKLE
    if name.endswith((b'/data.pkl', b'/version', b'/byteorder')):
        return 'a file of torch.save', PICKLE
    return 'a zip archive', UNPACK


def kind_of(raw: bytes) -> tuple:
    "(what it is, what to do) for a file with these first bytes (1,000 do); ('', '') if unknown."
    if not raw: return 'empty', AGAIN
    for magic, what, todo in _MAGIC:
        if raw.startswith(magic): return _zip(raw) if what == 'a zip archive' else (what, todo)
    if raw[257:262] == b'ustar': return 'a tar archive', UNPACK
    if not raw[:1000].strip(b'\0'): return 'nothing but zeros', AGAIN
    return _kind_of_text(raw[:1000])


def _kind_of_text(raw: bytes) -> tuple:
    head = raw.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
    if head.startswith(b'<!doctype html') or head[:1] == b'<' and b'<html' in head:
        return 'a web page', SIGNED_IN
    if head.startswith((b'<?xml', b'<error')): return 'a page of XML', SIGNED_IN
    if head.startswith((b'{', b'[')) and b'"' in head: return 'text (JSON)', AGAIN
    return ('plain text', AGAIN) if _is_text(raw) else ('', '')


def _is_text(raw: bytes) -> bool:
    "Is this the beginning of a text in UTF-8 with words in it?"
    try: text = raw.decode('utf-8')
    except UnicodeDecodeError as e:
        if e.end < len(raw): return False  # else only the last letter was cut in two
        text = raw[:e.start].decode('utf-8')
    plain = all(c.isprintable() or c in '\t\r\n\f' for c in text)
    return plain and bool(re.search('[A-Za-z]{3}', text))


def kind_of_file(path) -> tuple:
    "As `kind_of`, of the file `path`; ('', '') if it cannot be read."
    try:
        with open(path, 'rb') as f: return kind_of(f.read(1000))
    except (OSError, ValueError): return '', ''


_ARCHIVE = 'tar tgz tbz tbz2 txz zip 7z rar gz bz2 xz'.split()  # endings
_HALF = 'part crdownload download partial'.split()
_FOR_PYTHON, _NOT_100 = 'get the one for Python, cifar-10-python.tar.gz', 'get CIFAR-10'
_OTHERS = {  # what else CIFAR comes as: a name that tells -> what it is, and what to do
    'data_batch_1.bin': ('the binary version of CIFAR-10', _FOR_PYTHON),
    'data_batch_1.mat': ('the MATLAB version of CIFAR-10', _FOR_PYTHON),
    'train.bin': ('CIFAR-100', _NOT_100),
    'train.mat': ('CIFAR-100', _NOT_100),
}


def _ending(name: str) -> str: return name.rpartition('.')[2].lower()


def _names(folder) -> list:
    "The files in `folder`, sorted, without hidden ones."
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not e.name.startswith('.') and not e.is_dir())
    except (OSError, ValueError): return []


def _is_picture_table(path) -> bool:
    "Does a line of this CSV have room for 32 x 32 pixels in three colours?"
    if _ending(path.name) != 'csv': return False
    try:
        with open(path, 'rb') as f: return f.readline(100_000).count(b',') >= 3 * 32 * 32 - 1
    except OSError: return False


def _in_files(folder, names) -> tuple:
    "What the files `names` in `folder` are in place of the batches, and what to do."
    for name, (what, todo) in _OTHERS.items():
        if name in names: return f'{what} ({folder / name})', todo
    if {'train', 'test', 'meta'} <= set(names) or 'cifar-100' in folder.name.lower():
        return f'CIFAR-100 in {folder}', _NOT_100
    table = next((folder / n for n in names if _is_picture_table(folder / n)), None)
    if table: return f'a table of pixels ({table})', _FOR_PYTHON
    known = [n for n in names if _ending(n) in (*_ARCHIVE, *_HALF, 'parquet')]  # often few of many
    if not known: return '', ''
    name = min(known, key=lambda n: 'cifar' not in n.lower())
    path, ending = folder / name, _ending(name)
    if 'cifar-100' in name.lower(): return f'CIFAR-100 ({path})', _NOT_100
    if ending in _ARCHIVE: return f'{path}, which is not unpacked', 'unpack it there'
    if ending == 'parquet': return f'tables of Parquet ({path})', _FOR_PYTHON
    return f'{path}, a download that has not come to its end', 'wait, or get it again'


def _in_folders(folder, classes) -> tuple:
    "What the folders in `folder` are in place of a picture set, and what to do."
    names = {d.name.lower() for d in subfolders(folder)}
    lacking = [c for c in classes if c not in names]
    if {'apple', 'aquarium_fish'} <= names: return f'CIFAR-100 as pictures ({folder})', _NOT_100
    if 2 * len(lacking) > len(classes): return '', ''
    if lacking:
        return (f'pictures in {folder}, where the folders {", ".join(lacking)} are lacking',
                'add them')
    if folder.name.lower() == 'train': return '', ''
    return (f'folders of pictures in {folder} itself',
            'put them into a folder called train, and name the one above it')


def instead(root, classes, depth: int = 2) -> tuple:
    "(what, what to do) of what lies at or below `root` in place of CIFAR-10; ('', '') if unknown."
    if not os.path.isdir(root):
        what, todo = kind_of_file(root)
        return (what, todo) if todo == UNPACK else ('', '')
    for folder in folders(Path(root), depth):
        for what, todo in (_in_files(folder, _names(folder)), _in_folders(folder, classes)):
            if what: return what, todo
    return '', ''
