"""Plain module: `cifar_nb migrate`: records and run folders from before there were manifests get
one.

What a record tells is checked against today's recipes (parameters, multiply-adds, learning rates,
or the fingerprint that it carries); what does not agree, and what nobody wrote down, is marked as
unknown. Calling it again changes nothing. Tests: tests/test_migrate.py.
"""
import hashlib
import json
import os
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

from ..core.errors import InputError, check_choice
from ..core.files import (LOCK, json_records, locked, read_json, remove, remove_leftovers, slug,
                          there, to_json, write_atomic)
from ..core.manifest import SCHEMA, UNKNOWN, fingerprint, unknown_manifest
from ..core.names import FIELDS, TRANSFORM_NAMES, renamed_log, renamed_result, title
from ..core.places import subfolders
from ..data.cifar import CIFAR10
from ..evaluation.records import file_stem
from ..kernels.dispatch import KERNELS
from ..recipes.spec import trained
from ..teams.zoo import get_recipe
from ..training.runs import (RunFiles, as_before, evaluation_file, legacy_evaluations,
                             legacy_manifest)

__all__ = ['command_migrate', 'migrated']

# fingerprints of CIFAR-10's first images, and of the indices that `split` holds out of them; tests
# compute them again
FIRST = {50_000: CIFAR10['train'], 12_500: '6b87292477cbdb05'}
HELD = {(50_000, 5_000): 'addd3499c15a54fc', (50_000, 2_000): '01d20d06a71cef76',
        (12_500, 2_500): 'a40c2b06d12242f0'}


def _data(images, name='cifar10') -> dict:
    return dict(name=name, images=images,
                fingerprint=FIRST.get(images, UNKNOWN) if name == 'cifar10' else UNKNOWN)


def _validation(images, held, name='cifar10') -> dict:
    return dict(images=held, indices=None if not held else HELD.get((images, held), UNKNOWN)
                if name == 'cifar10' else UNKNOWN)


def _machine(d: dict, kernels) -> dict:
    return dict(device=d.get('device', UNKNOWN), processor=d.get('hardware', UNKNOWN),
                processes=d.get('processes', UNKNOWN), threads=d.get('threads', UNKNOWN),
                kernels=kernels, compile=UNKNOWN,
                versions=dict(cifar_nb=UNKNOWN, commit=UNKNOWN, torch=d.get('torch', UNKNOWN),
                              python=d.get('python', UNKNOWN)))


def _manifest(d: dict, recipe, name, variant, images, held, weights, kernels,
              data='cifar10') -> dict:
    "The manifest of the record `d`; `recipe` is a Recipe, or None if nothing is known of it."
    told = {k: d[k] for k in ('precision', 'memory_format') if k in d}
    return unknown_manifest(run=fingerprint(d), name=name, variant=variant,
                            recipe=trained(as_before(recipe, d['seed'])) if recipe else UNKNOWN,
                            data=_data(images, data), validation=_validation(images, held, data),
                            seed=d['seed'], weights=weights, **told,
                            sittings=[dict(began=UNKNOWN, epoch=0, **_machine(d, kernels))])


# What older records carried as the fingerprint of what was trained

_OLD_NAMES = {new: old for old, new in TRANSFORM_NAMES.items()}
_OLD_FIELDS = {'Recipe': FIELDS['recipe'], 'Phase': FIELDS['phase'], 'Schedule': FIELDS['schedule']}


def _essence(value):
    "`value` in plain JSON types under its old names, without the fields that are at their default."
    if isinstance(value, (tuple, list)): return [_essence(v) for v in value]
    if not hasattr(value, '__dataclass_fields__'): return value
    kind = type(value).__name__
    names = {new: old for old, new in _OLD_FIELDS.get(kind, FIELDS['transform']).items()}
    own = {f.name: getattr(value, f.name) for f in fields(value)}
    return [_OLD_NAMES.get(kind, kind),
            {names.get(f.name, f.name): _essence(own[f.name]) for f in fields(value)
             if own[f.name] != f.default}]


def old_mark(recipe, images: int, held: int) -> str:
    "Ten hexadecimal digits that stood for a trial in its file before there were manifests."
    told = [_essence(v) for v in (recipe.net, recipe.phases, recipe.ema, recipe.clip)] + [
        images, held]
    return hashlib.sha1(json.dumps(told).encode()).hexdigest()[:10]


# One function a kind of record: (record with manifest, words for its file's name), or None if it is
# of another kind

def _recipe_of_run(r: dict, log: list):
    """The recipe of the run with the result `r`, if a registered one of that name and length agrees
    with all that the record tells."""
    from ..models.resnet import count_macs, count_parameters
    try: recipe = get_recipe(r['recipe'], r['variant'])
    except InputError: return None
    if r['epochs'] != recipe.epochs:
        patience = [p.schedule.patience for p in recipe.phases]  # as plans were stretched then
        recipe = recipe.with_epochs(r['epochs'])
        recipe = replace(
            recipe,
            phases=tuple(replace(p, schedule=replace(p.schedule, patience=k))
                         for p, k in zip(recipe.phases, patience)))
    net = recipe.net.build()
    if (count_parameters(net), count_macs(net)) != (r['parameters'], r['macs']): return None
    rates = recipe.learning_rates(r['train_images'])
    waits = any(p.schedule.shape == 'plateau' for p in recipe.phases)
    if not waits and any(abs(line['lr'] - lr) > 1e-9 + 1e-6 * lr for line, lr in zip(log, rates)):
        return None
    return recipe


def _of_run(d, kernels):
    if not isinstance(d.get('result'), dict) or 'recipe' not in d['result']: return None
    r, log = renamed_result(d['result']), [renamed_log(line) for line in d.get('log', [])]
    data, images = r.get('data',
                         'cifar10' if r['train_images'] + r['val_images'] == 50_000
                         else UNKNOWN), r['train_images'] + r['val_images']
    m = _manifest(r, _recipe_of_run(r, log), r['recipe'], r['variant'], images, r['val_images'],
                  'best on validation' if r['val_images'] else 'last', kernels, data)
    evaluations = legacy_evaluations(r, m)
    for e in evaluations:
        if (e['images']['data'], e['images']['name'], e['images']['images']) == (
            'cifar10', 'test set', 10_000):
            e['images']['fingerprint'] = CIFAR10['test']
    result = {k: v for k, v in r.items() if k != 'test' and not k.startswith('test, ')}
    more = {k: v for k, v in d.items() if k not in ('result', 'log', 'timing', 'long_run')}
    if 'long_run' in d: more |= _of_sittings(d['long_run'], m, r, kernels)
    return dict(schema=SCHEMA, manifest=m, result=result, log=log, timing=d.get('timing', []),
                evaluations=evaluations) | more, file_stem(m)


def _of_sittings(told: dict, m: dict, r: dict, kernels) -> dict:
    """Puts the sittings that a record tells of (commit, processor and epochs done at the begin of
    each) into the manifest `m`; what else it tells comes back."""
    name, sittings = f"{r['recipe']}:{r['variant']}", []
    for s in told['sittings']:
        done = s['epochs_done'].get(name, 0)
        machine = _machine(r | dict(hardware=s['cpu'], threads=s['threads'], torch=s['torch']),
                           kernels)
        machine['versions']['commit'] = told['commit'][:12]
        if done < r['epochs'] and not (sittings and sittings[-1]['epoch'] == done):
            sittings.append(dict(began=s['began'], epoch=done, **machine))
    m['sittings'] = sittings or m['sittings']
    return dict(test_curve=told['test_curve'],
                beside_other_work=any(s.get('beside_other_work') for s in told['sittings']))


def _of_trial(d, kernels):
    if not {'study', 'variation', 'measures', 'base'} <= set(d): return None
    from .ablations import SCALES, STUDIES, plan_trials
    images, held = d['train_images'] + d['held_out'], d['held_out']
    name = title(d['variation'])
    scale = SCALES[d['scale']] if d['data'] == 'cifar10' else None
    trial = next(
        (t for t in plan_trials(STUDIES, scale, 1) if (t.study, t.variation) == (d['study'], name)),
        None) if scale else None
    known = (trial and old_mark(trial.recipe, images, held) == d['recipe']
             and old_mark(trial.base, images, held) == d['base'])
    m = _manifest(d, trial.recipe if known else None, trial.recipe.name if trial else name,
                  'report', images, held, 'last', kernels, d['data'])
    base = fingerprint(trained(trial.base)) if known else f'old {d["base"]}'
    changes = [[title(c) if isinstance(c, str) else c for c in row] for row in d.get('changes', [])]
    kept = {k: v for k, v in renamed_result(d).items() if k not in ('recipe', 'data')}
    words = (d['scale'] if d['data'] == 'cifar10' else f'{d["scale"]}-{d["data"]}',
             d['study'] or 'base', name)
    return (dict(schema=SCHEMA, manifest=m) | kept | dict(base=base, changes=changes),
            slug(*words, f'seed{d["seed"]}'))


def _of_rung(d, kernels):
    if not {'rung', 'recipe', 'curve'} <= set(d): return None
    from .ladder import asides, ladder
    from .record import choices
    images, held, name = d['train_images'] + d['held_out'], d['held_out'], title(d['rung'])
    rungs = ladder() | asides() | choices()
    known = name in rungs and old_mark(rungs[name], images, held) == d['recipe']
    m = _manifest(d, rungs[name] if known else None, rungs[name].name if name in rungs else name,
                  'report', images, held, 'last', kernels)
    kept = {k: v for k, v in renamed_result(d).items() if k not in ('recipe', 'views')}
    several = dict(tta_transforms=list(rungs[name].tta_transforms)) if known else {}
    order = next(
        (f'{i:02}' for names in (ladder() | asides(), choices()) for i, n in enumerate(names)
         if n == name), 'xx')
    return dict(schema=SCHEMA, manifest=m) | kept | several, slug(order, name, f'seed{d["seed"]}')


def _of_training(d, kernels):
    if not {'training', 'survey', 'mark'} <= set(d): return None
    from .shift import TRAININGS, trained_with, what_of
    held, name = d['survey']['images'], d['training']
    images = d['train_images'] + held
    recipe = trained_with(TRAININGS[name]) if name in TRAININGS else None
    known = recipe and old_mark(recipe, images, held) == d['mark']
    m = _manifest(d, recipe if known else None, d['recipe'], 'report', images, held, 'last',
                  kernels)
    severities = list(
        range(1, 1 + max(len(v) for k, v in d['survey'].items() if isinstance(v, list))))
    asked = what_of(
        dict(names=[k for k in d['survey'] if k not in ('images', 'clean')], severities=severities))
    kept = {k: v for k, v in renamed_result(d).items() if k not in ('recipe', 'mark')}
    return (dict(schema=SCHEMA, manifest=m, asked=asked) | kept,
            slug('training', name, f'seed{d["seed"]}'))


def _of_survey(d, kernels):
    if not {'network', 'survey'} <= set(d): return None
    images = d['survey']['images']
    asked = dict(weights=(d.get('weights') or UNKNOWN)[:16],
                 corruptions=sorted(k for k in d['survey'] if k not in ('images', 'clean')),
                 images=dict(name='cifar10', images=images,
                             fingerprint=CIFAR10['test'] if images == 10_000 else UNKNOWN))
    return dict(schema=SCHEMA, network=d['network'], asked=asked, survey=d['survey']), None


def _of_search(d, kernels):
    if not {'space', 'trials', 'importance', 'recipe'} <= set(d): return None
    from .ablations import FAST
    _, images, held = d['scale'][:3]
    known = _essence(FAST) == d['recipe']
    return (dict(schema=SCHEMA) | d
            | dict(recipe=trained(FAST) if known else UNKNOWN, data=_data(images),
                   validation=_validation(images, held),
                   precision=d['machine'].get('precision', UNKNOWN), kernels=kernels), None)


RECORD_KINDS = (_of_run, _of_trial, _of_rung, _of_training, _of_survey, _of_search)


def migrated(d: dict, kernels=UNKNOWN):
    """(record with a manifest, words for its file's name or None to keep it) for the older record
    `d`; None where it has one, or is no record."""
    if 'schema' in d: return None
    return next(filter(None, (kind(d, kernels) for kind in RECORD_KINDS)), None)


def migrated_run(folder: Path, kernels=UNKNOWN) -> tuple:
    "(manifest, evaluations) for the run in `folder`; None where it has a manifest."
    if there(folder / 'manifest.json'): return None
    run = RunFiles(folder)
    m = legacy_manifest(run)
    m['sittings'][0]['kernels'] = kernels
    return m, legacy_evaluations(run.result, m) if run.finished else []


def migrate_run(folder: Path, m: dict, evaluations: list) -> bool:
    "Write the manifest `m` and the `evaluations` of the run in `folder`."
    for e in evaluations: write_atomic(evaluation_file(RunFiles(folder), e), to_json(e))
    write_atomic(folder / 'manifest.json', to_json(m))
    return True




def _is_record_of(path: Path, r: dict) -> bool:
    """Whether the file `path` holds the record `r`, written by a migration that was stopped before
    it could delete the older file."""
    try: m = read_json(path).get('manifest')
    except InputError: return False
    return isinstance(m, dict) and m.get('run') == r['manifest']['run']


def _written(path: Path, r: dict, stem, say) -> bool:
    """Write the record `r` in place of the file `path`, under the name `stem` unless another record
    has it."""
    out = path if stem is None else path.with_name(f'{stem}.json')
    # never over another record
    if out != path and there(out) and not _is_record_of(out, r): out = path
    write_atomic(out, to_json(r))
    if out != path: remove(path)
    if isinstance(r.get('manifest'), dict) and r['manifest']['recipe'] == UNKNOWN:
        say(f'{out}: what was trained is not known; today no recipe of that name agrees with it')
    return True


def command_migrate(folder, kernels: str | None = None, say=print):
    """What `cifar_nb migrate` does: every record in `folder` and one folder below, and every run
    folder there, gets a manifest. `kernels` says which compiled kernels ran ('none', or names with
    commas), if somebody knows; else that stays unknown."""
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise InputError(f'There is no folder {folder}: name one with records or runs.')
    known = (UNKNOWN if kernels is None else []
             if kernels == 'none' else sorted(k.strip() for k in kernels.split(',')))
    for k in known if known != UNKNOWN else (): check_choice('compiled kernel', k, KERNELS)
    done, left = 0, False
    for home in [folder, *subfolders(folder)]:
        with ExitStack() as stack:
            busy = 'another process works there, migrate again when it has ended.'
            try:
                for name, wait in (LOCK, 0), (f'.write{LOCK}', 60):
                    stack.enter_context(locked(home / name, busy, wait))
                is_run = there(home / 'recipe.json')
                run, records = ((migrated_run(home, known), [])
                                if is_run else (None, list(json_records(home, say))))
            except InputError as e:
                say(f'{home} is left as it is: {e}')
                left = True
                continue
            remove_leftovers(home)
            if run: done += migrate_run(home, *run)
            for path, d in records:
                try: new = migrated(d, known)
                except (KeyError, TypeError, ValueError, AttributeError) as e:
                    say(f'{path} is left as it is: it looks like a record and is none '
                        f'({type(e).__name__}: {e})')
                    continue
                if new: done += _written(path, *new, say)
    say(f'{done} records and runs in {folder} were given a manifest'
        if done else f'everything{" else" * left} in {folder} has a manifest')
