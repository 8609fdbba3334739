"""Plain module: an archive that is brought from the internet once, whole, by one process at a time.

What has come stays in a file that ends in .part, and the next call goes on from there. The lock is
held until everything is unpacked, so that a second process waits and then finds the files there.
Tests: tests/test_data.py.
"""
import errno
import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from http.client import HTTPException
from pathlib import Path

from ..core.errors import InputError
from ..core.files import locked
from ..core.places import tilde

__all__ = ['md5_of', 'transfer', 'unpack_archive', 'bring']

DOWNLOAD_LOCK, WAIT = '.download.lock', 3 * 3600  # seconds
PATIENCE, SLOWEST = 60, 60 * 1024        # in so many seconds so many bytes have to come
MEMBER = 64 << 20                        # bytes of one file of the archive, at most


def md5_of(path) -> str:
    "The md5 of the file `path`; '' if it cannot be read."
    total = hashlib.md5(usedforsecurity=False)
    try:
        with open(path, 'rb') as f:
            while block := f.read(1 << 20): total.update(block)
    except OSError: return ''
    return total.hexdigest()


def _whole_number(text: str):
    "`text` as a number of bytes; None if it is none."
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _length(response) -> int:
    "The bytes that are announced, or 0."
    return _whole_number((response.headers.get('Content-Length') or '').strip()) or 0


def _begins(response):
    "The place in the file of the first byte that comes; None if the answer does not say."
    unit, _, span = (response.headers.get('Content-Range') or '').strip().partition(' ')
    return _whole_number(span.partition('-')[0].strip()) if unit == 'bytes' else None


def _open(connect, part):
    "(response, start): the answer to a call for what `part` lacks, or for all, if that comes."
    have = part.stat().st_size if part.exists() else 0
    response = connect(have)
    if not have or response.status != 206: return response, 0
    if _begins(response) in (have, None): return response, have
    response.close()  # a part, and not the one that was asked for
    return connect(0), 0


def _blocks(response):
    "Yield what arrives until the connection ends, for whatever reason, or is too slow to wait for."
    read = getattr(response, 'read1', response.read)  # does not wait until all of a block is there
    since, came = time.monotonic(), 0
    try:
        while block := read(1 << 18):
            yield block
            came += len(block)
            if time.monotonic() - since > PATIENCE:
                if came < SLOWEST: return
                since, came = time.monotonic(), 0
    except (OSError, HTTPException, ValueError): return


def transfer(url, part, connect, size: int | None = None, most: int = 1 << 30):
    """Bring the file `part` to its full length, from where an earlier call stopped.

    `connect(start)` opens the address from byte `start` on. `size` is the length if it is known,
    and never are more than `most` bytes written."""
    from tqdm.auto import tqdm
    response, start = _open(connect, part)
    with response:
        announced = start + _length(response) if _length(response) else 0
        total, limit, have = size or announced, size or most, start
        if announced > limit or size and announced not in (0, size):
            raise _another(url, f'{announced:,}', limit)
        bar = tqdm(total=total or None, initial=start, unit='B', unit_scale=True,
                   disable=total < 1 << 20)
        with part.open('ab' if start else 'wb') as f, bar:
            for block in _blocks(response):
                have += len(block)
                if have > limit: break
                bar.update(f.write(block))
    if have > limit:
        part.unlink()
        raise _another(url, f'over {limit:,}', limit)
    if have < total:
        raise InputError(f'{url} broke off after {have:,} of {total:,} bytes: '
                         'run it again, it goes on from there')


def _another(url, bytes_in_words, limit):
    return InputError(f'{url} gives a file of {bytes_in_words} bytes, and the archive has '
                      f'{limit:,}, so it was not kept: run it again later, or get the archive in a '
                      'browser')


def unpack_archive(archive, home, names: dict, needed):
    """Move the files of `archive` (`names`: path in it -> name) to the folder `home`.

    All are moved, or none if one that is `needed` lacks."""
    try:
        with tempfile.TemporaryDirectory(dir=home.parent, prefix='.unpack') as tmp, \
                tarfile.open(archive, 'r:gz') as tar:
            for m in tar:
                if not m.isfile() or m.name not in names or m.size > MEMBER: continue
                with Path(tmp, names[m.name]).open('wb') as f:
                    if held := tar.extractfile(m): shutil.copyfileobj(held, f)
            if lacking := set(needed) - set(os.listdir(tmp)):
                raise InputError(f'{archive} lacks {", ".join(sorted(lacking))}: '
                                 'delete it and run again')
            home.mkdir(exist_ok=True)
            for name in os.listdir(tmp): os.replace(Path(tmp, name), home / name)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f'{archive} cannot be unpacked, it is damaged or no archive: '
                         'delete it and run again') from None


def _sweep(folder):
    """Remove what a killed `unpack_archive` left an hour ago or more; where no lock is, another may
    work."""
    for left in folder.glob('.unpack*'):
        try: old = time.time() - left.stat().st_mtime > 3600
        except OSError: continue
        if old: shutil.rmtree(left, ignore_errors=True)


def _have(archive, home, url, md5, connect, size, most, names, needed):
    "Have the file `archive` and unpack it to `home`."
    if md5_of(archive) == md5:  # somebody has put it there by hand
        return unpack_archive(archive, home, names, needed)
    part = archive.with_name(f'{archive.name}.part')
    if not (part.exists() and md5_of(part) == md5):
        transfer(url, part, connect, size, most)
        if md5_of(part) != md5:
            part.unlink()
            raise InputError(f'{url} gave a file whose md5 is not {md5}, and it was thrown away: '
                             'run it again')
    unpack_archive(part, home, names, needed)
    part.unlink()


def bring(
    archive, home,           # the file that comes, and goes again; the folder for what is in it
    url, md5, connect,       # `connect(start)` opens the address from byte `start` on
    names, needed,           # path in the archive -> name; the names that it must have
    ready=lambda: False,     # are the files there? asked when it is our turn
    size=None, most=1 << 30, # bytes of the archive, if they are known, and at most
    what='the files', say=print,
):
    "Download an archive and unpack it, or go on with it, or wait until another process has."
    folder, place, waited = archive.parent, tilde(archive.parent), []
    def wait():
        waited.append(True)
        say(f'Data: another process is downloading {what} to {place}; waiting for it')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        busy = (f'another process has been downloading {what} to {folder} for hours: '
                'end it, or run this again later')
        with locked(folder / DOWNLOAD_LOCK, busy, WAIT, wait):
            if ready():
                return say(f'Data: {what} in {tilde(home)}'
                           + ', which another process has brought' * bool(waited))
            say(f'Data: downloading {url} to {place}')
            _sweep(folder)
            _have(archive, home, url, md5, connect, size, most, names, needed)
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, 'EDQUOT', None))
        todo = 'make room there' if full else 'make it a folder that can be written to'
        raise InputError(f'{folder} cannot take the 350 MB of {what} ({e.strerror or e}): {todo}, '
                         'or set CIFAR_NB_CACHE to another folder') from None
