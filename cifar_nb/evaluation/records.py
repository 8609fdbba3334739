"""Plain module: records of trainings and of studies in a folder of results: written once, found by
what they are, never by file name.

A record is a JSON file with a `manifest` (core.manifest). That of a run has `result`, `log`,
`timing` and `evaluations` besides, that of a trial of a study its figures. Files that are damaged
or foreign are passed over and named. Tests: tests/test_records.py.
"""
import sys
from pathlib import Path
from types import MappingProxyType

from ..core.errors import InputError
from ..core.files import (LOCK, json_records, locked, make_folder, read_json, remove_leftovers,
                          slug, there, to_json, write_atomic)
from ..core.forms import misfit
from ..core.manifest import (SCHEMA, UNKNOWN, comparable, fingerprint, is_known, is_sane,
                             new_manifest, same_experiment, unknown_manifest)
from ..core.names import renamed_log, renamed_result
from ..data.cifar import CIFAR10
from ..recipes.spec import trained, trained_twin
from ..training.runs import EVALUATION, FIGURE, RESULT_FORM

__all__ = ['Results', 'load_results', 'record_run', 'kinds_of', 'largest_kind', 'grouped',
           'last_began', 'one_a_seed', 'test_evaluations', 'with_test_figures', 'counts_as_full',
           'full_record', 'write_record', 'find_trial', 'keep_trial', 'study_records', 'file_stem']


def warn(sentence: str):
    "Print `sentence` to stderr."
    print(f'cifar_nb: {sentence}', file=sys.stderr)


class Results(list):
    """Records of runs, and the `folder` that they come from: what lies in its subfolders is for
    studies."""
    def __init__(self, records=(), folder=None): super().__init__(records); self.folder = folder


# Which evaluations are those of the test set

def _of_the_test_set(e: dict, manifest: dict) -> bool:
    "Whether the evaluation `e` asked about the test set of the data that the run was trained on."
    im, data = e['images'], manifest['data'].get('name')
    if im.get('data') != data: return False
    if data != 'cifar10': return True
    return (im.get('fingerprint') == CIFAR10['test']
            or (im.get('fingerprint') == UNKNOWN and im.get('name') == 'test set'
                and im.get('images') == 10_000))


def test_evaluations(manifest: dict, evaluations: list, weights: str | None = None) -> list:
    """Those of `evaluations` that asked the network of the run `manifest` about its test set,
    fewest views first; with `weights`, of no other weights."""
    own = [e for e in evaluations if _of_the_test_set(e, manifest)
           and (weights is None or e['weights'] in (weights, UNKNOWN))]
    return sorted(own, key=lambda e: len(e['tta']['transforms']))


def with_test_figures(result: dict, manifest: dict, evaluations: list) -> dict:
    """`result` with the figures of the test set, 'test' for a single view and 'test, mean of ...'
    with TTA, taken from `evaluations` and nowhere else."""
    out = {k: v for k, v in result.items() if k != 'test' and not k.startswith('test, ')}
    for e in test_evaluations(manifest, evaluations, result.get('weights')):
        tta = e['tta']['transforms']
        key = 'test' if tta == ['identity'] else f'test, mean of {", ".join(tta)}'
        out.setdefault(
            key, e['metrics'] | dict(
                set=e['images']['name'], views='single view'
                if key == 'test' else key.removeprefix('test, ')))
    return out


# Records of runs

def _opened(r: dict) -> dict:
    """A record of a run as readers want it: today's names, and in its result the manifest and the
    test figures."""
    result, evaluations = renamed_result(r['result']), r.get('evaluations', [])
    if 'manifest' in r:
        if not is_sane(r['manifest']): raise KeyError('manifest')
        manifest = trained_twin(r['manifest'])
    else:  # not migrated: nothing says what was trained
        manifest = unknown_manifest(
            run=fingerprint(r), name=result.get('recipe'), variant=result.get('variant'),
            seed=result.get('seed'),
            data=dict(name=result.get('data', UNKNOWN), images=UNKNOWN, fingerprint=UNKNOWN))
    if (why := misfit(result, RESULT_FORM, 'result')
        or misfit(evaluations, [EVALUATION], 'evaluations')
        or misfit(r.get('log', []), [dict], 'log')):
        raise ValueError(why)
    if evaluations or 'manifest' in r: result = with_test_figures(result, manifest, evaluations)
    return r | dict(manifest=manifest, evaluations=evaluations,
                    result=result | dict(manifest=manifest),
                    log=[renamed_log(line) for line in r.get('log', [])])


def load_results(folder='results', say=warn, **wanted) -> Results:
    """The records of runs in `folder` whose results have the `wanted` values, say `device='cpu'`;
    sorted by file name. `say` is told of files that are passed over."""
    out = []
    for path, r in json_records(folder, say):
        try: r, why = _opened(r), ''
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as e:
            why = f'{e}' if isinstance(e, ValueError) else 'it lacks its parts'
        if why: say(f'{path} is not the record of a run ({why}): it is passed over.')
        elif all(r['result'].get(k) == v for k, v in wanted.items()): out.append(r)
    return Results(out, Path(folder))


def last_began(r: dict) -> str:
    "When the last sitting of the record `r` began, in words that sort; '' where that is unknown."
    began = r['manifest']['sittings'][-1].get('began')
    return began if isinstance(began, str) and began != UNKNOWN else ''


def one_a_seed(records: list) -> list:
    "Of records that are `comparable`, one for each seed: that which began last."
    newest = {r['manifest']['seed']: r for r in sorted(records, key=last_began)}
    return [newest[seed] for seed in dict.fromkeys(r['manifest']['seed'] for r in records)]


def kinds_of(records, also=lambda r: None) -> list:
    """`records` in lists of those that are comparable (they differ by seed and machine only) and
    agree in what `also` says of each."""
    kinds = []
    for r in records:
        home = next((k for k in kinds if comparable(k[0]['manifest'], r['manifest'])
                     and also(k[0]) == also(r)), None)
        if home is None: kinds.append([r])
        else: home.append(r)
    return kinds


def largest_kind(records, also=lambda r: None) -> list:
    "Of the `kinds_of` the `records` the one with most seeds, one record for each; [] without any."
    return max(map(one_a_seed, kinds_of(records, also)), key=len, default=[])


def grouped(records: list) -> list:
    """The results of `records` in lists: comparable ones from one machine lie together, one for
    each seed."""
    def place(r): return [r['result'].get(k) for k in ('hardware', 'threads', 'together')]
    return [[r['result'] for r in one_a_seed(g)] for g in kinds_of(records, place)]


def counts_as_full(r: dict) -> bool:
    """Whether the record `r` is of a training on all of CIFAR-10's training images, none held out,
    that was asked about the test set."""
    data, validation = r['manifest']['data'], r['manifest']['validation']
    known = isinstance(data, dict) and data.get('fingerprint') == CIFAR10['train']
    return (known and isinstance(validation, dict) and validation.get('images') == 0
            and 'test' in r['result'])


def full_record(recipe, result: dict = MappingProxyType({}), log=(), seed: int = 0,
                images: int = 50_000, kernels=()) -> dict:
    """A record in memory, as `load_results` gives it, of a run of `recipe` with the figures
    `result`: for examples and tests."""
    data = dict(name='cifar10', images=images,
                fingerprint=CIFAR10['train'] if images == 50_000 else f'the first {images}')
    m = new_manifest(trained(recipe), recipe.name, recipe.variant, data,
                     dict(images=0, indices=None), seed, 'last', 'fp32', 'contiguous',
                     kernels=list(kernels))
    own = dict(recipe=recipe.name, variant=recipe.variant, epochs=recipe.epochs, seed=seed,
               train_images=images, val_images=0, manifest=m)
    return dict(manifest=m, result=own | dict(result), log=list(log), evaluations=[])


def file_stem(m: dict) -> str:
    "What the file of a run's record is called, for people."
    recipe, data, held = m['recipe'], m['data'], m['validation']
    epochs = sum(p['epochs'] for p in recipe['phases']) if isinstance(recipe, dict) else 'x'
    out = slug(m['name'], m['variant'], f'{epochs}epochs', f'seed{m["seed"]}',
               m['sittings'][-1].get('device', 'x'))
    out += '' if data.get('name') == 'cifar10' else '-' + slug(data.get('name'))
    images = data.get('images')
    out += (f'-{images}images' * (images not in (50_000, UNKNOWN)) + f'-{held["images"]}val'
            * (isinstance(held, dict) and held.get('images') not in (0, UNKNOWN)))
    return out


def _same_machine(a: dict, b: dict) -> bool:
    "Whether the sittings of both were on the same kind of machine, with the same torch."
    def of(s):
        return [s.get(k) for k in ('device', 'processor', 'processes', 'threads', 'compile')] + [
            (s.get('versions') or {}).get('torch') if isinstance(s.get('versions'), dict) else None]
    return list(map(of, a['sittings'])) == list(map(of, b['sittings']))


def write_record(folder, stem: str, r: dict, replaces) -> Path:
    """Write `r` over the first record in `folder` that it `replaces` (a question about a record),
    else beside all others."""
    folder = make_folder(folder)
    with locked(folder / f'.write{LOCK}',
                f'{folder} is in use by another process for too long: try again.', wait=60):
        remove_leftovers(folder)
        old = next((p for p, o in json_records(folder, lambda s: None) if replaces(o)), None)
        path, i = old or folder / f'{stem}.json', 1
        while old is None and there(path): i += 1; path = folder / f'{stem}-{i}.json'
        write_atomic(path, to_json(r))
    return path


def record_run(run, folder='results') -> Path:
    """Copy manifest, result, log and evaluations of a finished, evaluated run into `folder` as one
    JSON file; its path.

    It replaces the record of the same run with the same weights, or of the same experiment on the
    same machine, where that is known; any other
    record stays."""
    manifest, evaluations = run.manifest, run.evaluations
    result = {k: v for k, v in run.result.items() if k != 'test' and not k.startswith('test, ')}
    if not test_evaluations(manifest, evaluations, result.get('weights')):
        raise InputError(f'{run.path} has not been evaluated on its test set '
                         f'({manifest["data"]["name"]}): run `cifar_nb evaluate {run.path}` first.')
    r = dict(schema=SCHEMA, manifest=manifest, result=result, log=run.log,
             timing=run.lines('timing'), evaluations=evaluations)
    if curve := run.lines('test'): r['test_curve'] = curve
    def replaces(o):
        if not is_sane(o.get('manifest')): return False
        m = trained_twin(o['manifest'])
        if not same_experiment(m, manifest): return False
        same_run = (m.get('run') == manifest['run']
                    and o.get('result', {}).get('weights') == result.get('weights'))
        return same_run or (is_known(m) and _same_machine(m, manifest))
    return write_record(folder, file_stem(manifest), r, replaces)


# Records of the trials of a study

OF_ALL = {'variation': str, 'seconds': float, 'curve?': [float], 'losses?': [FIGURE]}
TRIALS = {  # a key that tells the kind of a trial, and what all of that kind have
          'measures': OF_ALL | dict(study=str, base=str, scale=str, measures={'*': float}),
          'budget': OF_ALL | dict(
              budget=float, accuracy=float, loss=float, train_accuracy=float, pflop=float,
              epochs=int, images=int, parameters=int, macs=int, seed=int,
              validated=dict(images=int, fingerprint=str)),
          'accuracy': OF_ALL | dict(
              accuracy=float, tta_accuracy=float, tta_transforms=[str], pflop=float),
          'survey': OF_ALL | dict(asked=dict, survey={'images': int, 'clean': float, '*': [float]})}


def _trial(r: dict) -> dict: return renamed_result(r) | dict(manifest=trained_twin(r['manifest']))


def study_records(folder, say=warn) -> list:
    """The records of trials in `folder` (a subfolder of the results), today's names; files that are
    damaged or foreign are named and passed over."""
    out = []
    for path, r in json_records(folder, say):
        if 'network' in r: continue  # chapter 50's surveys lie there too
        if 'manifest' not in r:
            say(f'{path} has no manifest: run `cifar_nb migrate {Path(folder).parent}`; it is '
                'passed over.')
            continue
        if not is_sane(r['manifest']):
            say(f'{path} is not the record of a trial: it is passed over.')
            continue
        form = next((f for key, f in TRIALS.items() if key in r), dict(measures=dict))
        if why := misfit(r := _trial(r), form):
            say(f'{path} is not the record of a trial ({why}): it is passed over.')
        else: out.append(r)
    return out


def find_trial(records: list, wanted: dict, **also):
    """The first of `records` that is of the experiment `wanted` (a manifest) and has the values of
    `also`; None without one."""
    return next(
        (r for r in records if same_experiment(r['manifest'], wanted)
         and all(r.get(k) == v for k, v in also.items())), None)


def keep_trial(folder, r: dict, *title, also=()) -> dict:
    """Write the record `r` of a trial (with its manifest) into `folder`, over one of the same
    experiment and the same values of `also` (keys) only; `title` are words for the file's name. The
    record as it will be read."""
    stem = slug(*title, f'seed{r["manifest"]["seed"]}')
    def replaces(o):
        return (is_sane(o.get('manifest'))
                and same_experiment(trained_twin(o['manifest']), r['manifest'])
                and all(o.get(k) == r.get(k) for k in also))
    return _trial(read_json(write_record(folder, stem, dict(schema=SCHEMA) | r, replaces)))
