"""Plain module: published networks in a folder: a file of weights and a card each, and
registry.json, which never names a file that is not whole.

Tests: tests/test_pretrained.py, tests/test_faults.py.
"""
import re
from hashlib import sha256
from pathlib import Path

from ..core.errors import InputError
from ..core.files import (LOCK, entries, locked, make_folder, read_json, remove, remove_leftovers,
                          there, to_json, write_atomic)
from ..core.forms import misfit

__all__ = ['read_registry', 'shelve']

PUBLISH_AGAIN = 'install the package again, or publish the networks again.'
ENTRY = {'file': str, 'sha256': str, 'kind': str, 'bytes': int, 'parameters': int,
         'accuracy': float, 'images': int, 'set': str, 'manifest?': dict, 'tta_accuracy?': float,
         'run': {'recipe': str, 'data?': str, 'accuracy': float, 'hardware': str, 'seconds': float}}


def read_registry(folder) -> dict:
    "Name to entry of the networks that are published in `folder`."
    file = Path(folder) / 'registry.json'
    found = read_json(file, PUBLISH_AGAIN) if there(file) else {}
    for name, e in found.items():
        why = misfit(e, ENTRY) or ('' if Path(e['file']).name == e['file'] else 'file is a path')
        if why: raise InputError(f'{file} has no proper entry for {name} ({why}): {PUBLISH_AGAIN}')
    return found


def shelve(folder, name: str, data: bytes, entry: dict, card, overwrite: bool = False) -> dict:
    """Put the weights `data` with `entry` and `card(entry)` into `folder`, over a network of the
    same `name`; the entry, with the name of its file.

    A network of another run keeps its name (`InputError`), unless it may be overwritten.

    Another network of that name is replaced by the writing of the registry, at once; until then it
    stays as it is, and its file goes afterwards."""
    folder = make_folder(folder)
    with locked(folder / f'.write{LOCK}',
                f'{folder} is in use by another process for too long: try again.', wait=60):
        remove_leftovers(folder)
        known, mark = read_registry(folder), sha256(data).hexdigest()
        taken, old = {e['file'] for e in known.values()}, known.get(name)
        if old and not overwrite and old['sha256'] != mark and _run_of(old) != _run_of(entry):
            raise InputError(f'{folder} has a network {name} of another run: choose another '
                             '--name, or say --overwrite.')
        file = (f'{name}.safetensors'
                if f'{name}.safetensors' not in taken else f'{name}-{mark[:8]}.safetensors')
        entry = dict(file=old['file'] if old and old['sha256'] == mark else file, sha256=mark,
                     bytes=len(data)) | entry
        write_atomic(folder / entry['file'], data)
        write_atomic(folder / 'registry.json',
                     to_json(dict(sorted({**known, name: entry}.items()))) + '\n')
        write_atomic(folder / f'{name}.md', card(entry))
        own = re.compile(re.escape(name) + r'(-[0-9a-f]{8})?\.safetensors')
        used = {e['file'] for e in {**known, name: entry}.values()}
        for p in entries(folder):
            if own.fullmatch(p.name) and p.name not in used: remove(p)
    return entry


def _run_of(entry):
    "The run whose network this is, None where nobody wrote it down."
    return entry.get('manifest', {}).get('run')
