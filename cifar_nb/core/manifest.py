"""Plain module: what a run is, and the three questions that one asks about two of them.

A manifest is a plain dictionary, `manifest.json` in the folder of a run and `manifest` in a record.
It holds

    schema              1
    run                 a name of its own for each run that was begun, random
    name, variant       of the recipe, for people; nobody compares them
    recipe              what is trained, every default spelled out, without title, notes, source,
    claims and TTA
    differs             for people, nobody compares it: of which named recipe this is a change (of,
    variant), and its lines; absent where there is none, and in older runs
    data                name, number and fingerprint of the images and labels given to the training
    validation          number of images held out for validation, fingerprint of their indices
    seed
    weights             which are kept: 'last', or 'best on validation'
    precision, memory_format
    sittings            one entry for each sitting in which the machine changed: began (UTC), epoch
    (those done before), device,
                        processor, processes, threads, kernels (names of compiled kernels), compile,
                        versions

What is not known is `UNKNOWN`, and that equals only itself. Comparisons see recipes as
`recipes.trained` spells them out today, so a field that was added since then has its default.
Tests: tests/test_manifest.py.
"""
import hashlib
import json
import time
import uuid
from pathlib import Path

from .errors import InputError
from .files import read_json
from .forms import misfit

__all__ = ['SCHEMA', 'UNKNOWN', 'fingerprint', 'tensors_fingerprint', 'unknown_manifest',
           'new_manifest', 'kernels_of', 'experiment', 'differing', 'known',
           'same_training', 'same_experiment', 'comparable', 'machines', 'in_turn', 'with_sitting',
           'read_manifest', 'checked_manifest', 'is_known', 'is_sane']

SCHEMA = 1
UNKNOWN = 'unknown'
# what a training must share to go on
TRAINING = ('recipe', 'data', 'validation', 'seed', 'weights', 'precision', 'memory_format')
SAYS = dict(recipe='the recipe', data='the images', validation='the images held out for validation',
            seed='the seed',
            weights='which weights are kept', precision='the precision',
            memory_format='the order in memory', kernels='the compiled kernels')


def _canonical(v):
    """`v` in plain types, tuples as lists and whole floats as integers, so that equal things have
    equal JSON."""
    if isinstance(v, dict): return {str(k): _canonical(w) for k, w in v.items()}
    if isinstance(v, (list, tuple)): return [_canonical(w) for w in v]
    if isinstance(v, float) and v.is_integer() and abs(v) < 2 ** 53: return int(v)
    return v


def fingerprint(value, digits: int = 16) -> str:
    "`digits` hexadecimal digits that stand for `value` (plain JSON types)."
    return hashlib.sha256(json.dumps(_canonical(value), sort_keys=True).encode()).hexdigest(
        )[:digits]


def tensors_fingerprint(*tensors, digits: int = 16) -> str:
    "`digits` hexadecimal digits that stand for kind, shape and every value of `tensors`."
    import torch
    h = hashlib.sha256()
    for t in tensors:
        t = t.detach().cpu().contiguous()
        h.update(f'{t.dtype} {tuple(t.shape)};'.encode())
        h.update(t.flatten().view(torch.uint8).numpy())
    return h.hexdigest()[:digits]


def unknown_manifest(**facts) -> dict:
    """A manifest that knows the `facts` and nothing else; its sittings are `facts` too, or one of
    which nobody knows anything."""
    nothing = dict.fromkeys(('run', 'name', 'variant', *TRAINING), UNKNOWN) | dict(
        data=dict.fromkeys(('name', 'images', 'fingerprint'), UNKNOWN))
    return (dict(schema=SCHEMA) | nothing
            | dict(sittings=[dict(began=UNKNOWN, epoch=0, kernels=UNKNOWN)]) | facts)


def new_manifest(recipe: dict, name: str, variant: str, data: dict, validation: dict, seed: int,
                 weights: str, precision: str, memory_format: str, differs: dict | None = None,
                 **machine) -> dict:
    """A manifest of a run that begins now; `machine` becomes its first sitting. `differs` says what
    its recipe is a change of."""
    return dict(schema=SCHEMA, run=uuid.uuid4().hex[:12], name=name, variant=variant, recipe=recipe,
                **(dict(differs=differs) if differs else {}), data=data, validation=validation,
                seed=seed,
                weights=weights, precision=precision, memory_format=memory_format,
                sittings=[sitting(0, **machine)])


def sitting(epoch: int, **machine) -> dict:
    "What a manifest says of a sitting that begins now, after `epoch` epochs."
    return dict(began=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()), epoch=epoch, **machine)


def with_sitting(m: dict, epoch: int, **machine) -> dict:
    "The manifest `m` with one more sitting, if the machine is not that of the last one."
    last = {k: v for k, v in m['sittings'][-1].items() if k not in ('began', 'epoch')}
    return m if last == machine else {**m, 'sittings': [*m['sittings'], sitting(epoch, **machine)]}


def kernels_of(m: dict):
    """The compiled kernels of the run, a list of names; where sittings had different ones, what
    each had, in their order."""
    each = [UNKNOWN if (k := s.get('kernels', UNKNOWN)) == UNKNOWN else sorted(k)
            for s in m.get('sittings') or [{}]]
    return each[0] if all(k == each[0] for k in each) else each


def experiment(m: dict) -> dict:
    "What the outcome of the run depends on, the machine aside."
    return {k: m.get(k, UNKNOWN) for k in TRAINING} | dict(kernels=kernels_of(m))


def _key(m: dict, leave=()) -> dict:
    e = {k: v for k, v in experiment(m).items() if k not in leave}
    # its name is for people
    if isinstance(e['data'], dict):
        e['data'] = {k: e['data'].get(k, UNKNOWN) for k in ('images', 'fingerprint')}
    return _canonical(e)


def differing(a: dict, b: dict, leave=()) -> list:
    "In words, what of the two experiments differs; `leave` names what does not count."
    ka, kb = _key(a, leave), _key(b, leave)
    return [SAYS[k] for k in ka if ka[k] != kb[k]]


def same_training(a: dict, b: dict) -> bool:
    """May a training with the manifest `a` go on as `b`? Kernels and machine may change; each
    sitting says which it had."""
    return not differing(a, b, ('kernels',))


def same_experiment(a: dict, b: dict) -> bool:
    "Are these the same recipe, data, hold-out, seed, precision and kernels, on whatever machine?"
    return not differing(a, b)


def _divided(m: dict) -> set:
    "Among how many processes the sittings of the run divided their batches; unknown counts as one."
    return {n if isinstance(n := s.get('processes'), int) else 1 for s in m.get('sittings') or [{}]}


def comparable(a: dict, b: dict) -> bool:
    """May their figures be averaged: do they differ by the seed only (and by machine and versions,
    which `machines` lists), and were their batches divided among as many processes? (Batch norm
    sees the part of one.)

    Two of which nobody knows what was trained, or on what, are not."""
    return (not differing(a, b, ('seed',)) and is_known(a, ('kernels', 'seed'))
            and _divided(a) == _divided(b))


def machines(manifests) -> list:
    "The processors on which these runs were trained, each once."
    return sorted(
        {s.get('processor', UNKNOWN) for m in manifests for s in m.get('sittings') or [{}]})


def in_turn(m: dict, key: str = 'processor') -> str:
    "What the sittings of the run had under `key`, one after the other: 'A', or 'A, then B'."
    found = [str(s.get(key, UNKNOWN)) for s in m.get('sittings') or [{}]]
    return ', then '.join(v for i, v in enumerate(found) if i == 0 or v != found[i - 1])


def known(v) -> bool:
    "Whether nothing in the value `v` (plain JSON types) is unknown."
    if isinstance(v, dict): return all(map(known, v.values()))
    return all(map(known, v)) if isinstance(v, list) else v != UNKNOWN


def is_known(m: dict, leave=()) -> bool:
    "Whether nothing that decides about the experiment is unknown; `leave` names what may be."
    return known(_key(m, leave))


SITTING = {'kernels?': ([str], str), **{f'{k}?': str for k in ('began', 'device', 'processor')}}
MANIFEST = dict(schema=int, run=str, name=str, variant=str, recipe=(dict, str),
                **{'differs?': dict(of=str, variant=str, lines=[str])},
                data=dict(name=str, images=(int, str), fingerprint=str),
                validation=(dict(images=(int, str), indices=(str, None)), str), seed=(int, str),
                weights=str, precision=str, memory_format=str, sittings=[SITTING])


def is_sane(m) -> bool:
    "Whether `m` has the shape of a manifest, so that it can be compared; a foreign file has not."
    return not misfit(m, MANIFEST) and len(m['sittings']) > 0


def checked_manifest(m: dict, path) -> dict:
    "The manifest `m` from the file `path`, if it is whole; anything else is an `InputError`."
    if not is_sane(m):
        raise InputError(f'{path} is not the manifest of a run '
                         f'({misfit(m, MANIFEST) or "it has no sittings"}): train again, or get it '
                         'again from where it came.')
    if m['schema'] > SCHEMA:
        raise InputError(f'{path} was written by a later cifar_nb (schema {m["schema"]}): install '
                         'that one.')
    return m


def read_manifest(path) -> dict:
    "The manifest in the file `path`; one of a later release is an `InputError`."
    return checked_manifest(read_json(Path(path), 'this folder cannot be used as a run: train '
                                      'again, or get it again from where it came.'), path)
