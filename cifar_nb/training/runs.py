"""Plain module: the folder of a training: who may write into it, in which order, and how it is read
again.

    manifest.json      what the run is (core.manifest), written first
    recipe.json        the recipe with its title, notes and claims
    log.jsonl          a line an epoch; timing.jsonl: its seconds; test.jsonl: the test figures, if
    they were asked for, for drawing
    checkpoint.pt      all that is needed to go on; gone when the run is finished
    model.safetensors  the network
    result.json        what people want to know; written last: where it is, the run is finished
    evaluations/       one file for each evaluation: which weights, which images, how, and the
    figures
    .lock              held by the process that trains here, freed when it ends, however it ends

Tests: tests/test_runs.py, tests/test_faults.py.
"""
import os
import zipfile
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from ..augment.ops import AlternatingFlip
from ..core.errors import InputError, lacks_memory
from ..core.files import (LOCK, entries, is_empty, locked, make_folder, read_json, read_lines,
                          read_text, remove, remove_leftovers, slug, there, to_json, write_atomic)
from ..core.forms import misfit
from ..core.manifest import (TRAINING, UNKNOWN, differing, fingerprint, known, read_manifest,
                             unknown_manifest, with_sitting)
from ..core.names import renamed_log, renamed_result
from ..recipes.spec import recipe_from_json, trained, trained_twin

__all__ = ['RunFiles', 'claimed', 'as_before', 'legacy_manifest', 'legacy_evaluations',
           'read_checkpoint', 'agreement', 'refuse_other', 'told', 'drop_checkpoint', 'writing',
           'evaluation_file', 'unfinished_runs']


class RunFiles:
    "A training's folder `path`, opened for reading."
    def __init__(self, path):
        self.path = Path(path)
        if not there(self.path / 'recipe.json'):
            raise InputError(f'{path} is not a run (there is no recipe.json in it): give the '
                             'folder that `cifar_nb train` wrote.')
        try: self.recipe = recipe_from_json(read_text(self.path / 'recipe.json'))
        except InputError as e:
            raise InputError(f'{self.path / "recipe.json"} cannot be used: {e}') from None

    def lines(self, name: str) -> list:
        "The records of `name`.jsonl, one a line; empty before the first epoch ends."
        file = self.path / f'{name}.jsonl'
        return [renamed_log(line) for line in read_lines(file, GET_AGAIN)] if there(file) else []

    @property
    def log(self) -> list:
        "A dict an epoch."
        lines = self.lines('log')
        if why := misfit(lines, [LOG_FORM], 'line '):
            raise InputError(f'{self.path / "log.jsonl"} is not the log of a run ({why}): '
                             f'{GET_AGAIN}')
        if self.finished and len(lines) != self.recipe.epochs:
            raise InputError(f'{self.path / "log.jsonl"} does not have the {self.recipe.epochs} '
                             f'epochs of this finished run: {GET_AGAIN}')
        return lines

    @property
    def trained_on(self) -> str: return self.manifest['data']['name']

    @staticmethod
    def weights_of(folder) -> str:
        """The fingerprint of the weights in `folder`: the sha256 of model.safetensors, 16 digits of
        it."""
        try: return sha256((Path(folder) / 'model.safetensors').read_bytes()).hexdigest()[:16]
        except OSError as e:
            raise InputError(f'{Path(folder) / "model.safetensors"} cannot be read ({e.strerror}): '
                             'train again.') from None

    @property
    def weights(self) -> str: return self.weights_of(self.path)

    def check_weights(self):
        "Raise `InputError` unless model.safetensors is the file that the training wrote."
        if (told := self.result.get('weights')) and told != self.weights:
            raise InputError(f'{self.path / "model.safetensors"} is not the file that this '
                             'training wrote: it is damaged, or of another run; train again.')

    @property
    def finished(self) -> bool: return there(self.path / 'result.json')

    @property
    def result(self) -> dict:
        "What `result.json` holds; an unfinished run raises `InputError`."
        file = self.path / 'result.json'
        if not self.finished:
            raise InputError(f'{self.path} is not finished ({len(self.log)} of '
                             f'{self.recipe.epochs} epochs): go on with --resume.')
        r = renamed_result(read_json(file, GET_AGAIN))
        if why := misfit(r, RESULT_FORM):
            raise InputError(f'{file} is not the result of a run ({why}): {GET_AGAIN}')
        m = (read_manifest(self.path / 'manifest.json')
             if there(self.path / 'manifest.json') else None)
        if m and (m['seed'] not in (r['seed'], UNKNOWN)
                  or m['data'].get('name') not in (r.get('data'), UNKNOWN)
                  or r.get('run', m['run']) != m['run']):
            raise InputError(f'{file} is not the result of the run that '
                             f'{self.path / "manifest.json"} describes: one of them was changed, '
                             'or is from another run.')
        return r

    @property
    def manifest(self) -> dict:
        """The run's manifest; of a run from before there were manifests what its files tell, with
        the rest unknown."""
        file = self.path / 'manifest.json'
        m = trained_twin(read_manifest(file)) if there(file) else legacy_manifest(self)
        if (there(file) and m['recipe'] not
            in (trained(self.recipe), trained(as_before(self.recipe, m['seed'])))):
            raise InputError(f'{self.path} holds a recipe.json that is not that of its '
                             'manifest.json: one of them is from another run.')
        return m

    @property
    def evaluations(self) -> list:
        """The records of all evaluations of this run, those that `result.json` of older runs holds
        included."""
        out = [checked_evaluation(read_json(p, 'delete it and evaluate again.'), p)
               for p in entries(self.path / 'evaluations') if p.suffix == '.json'
               and not p.name.startswith('.')]
        if not self.finished or there(self.path / 'manifest.json'): return out
        known = [e['tta']['transforms'] for e in out if e['images']['data'] == self.trained_on]
        return out + [e for e in legacy_evaluations(self.result, self.manifest)
                      if e['tta']['transforms'] not in known]


GET_AGAIN = 'take a copy from where it came, or train again.'
FIGURE = (float, None)  # null: it was nan or inf
LOG_FORM = {'epoch': int, 'lr': float, 'train_loss': FIGURE, 'train_accuracy': float,
            'val_loss?': FIGURE, 'val_accuracy?': float}
METRICS = {'accuracy': float, 'loss?': FIGURE, 'ece?': FIGURE, 'images?': int,
           'classes?': {'*': {'*': float}}, 'confusion?': [[int]]}
RESULT_FORM = {
    **dict.fromkeys(
        ('seed', 'epochs', 'train_images', 'val_images', 'parameters', 'macs', 'threads'), int),
    'seconds': float, 'images_per_second': float,
    **dict.fromkeys(('recipe', 'variant', 'checkpoint', 'device', 'hardware', 'precision', 'torch'),
                    str), 'last': LOG_FORM, 'best_val_accuracy?': FIGURE}
EVALUATION = dict(weights=str, metrics=METRICS, tta=dict(transforms=[str]),
                  images=dict(name=str, data=str, images=(int, str), fingerprint=str))


def checked_evaluation(e: dict, path) -> dict:
    "The evaluation `e` from the file `path`, if it is whole; anything else is an `InputError`."
    if why := misfit(e, EVALUATION):
        raise InputError(f'{path} is not the record of an evaluation ({why}): delete it and '
                         'evaluate again.')
    return e


def as_before(recipe, seed: int):
    """`recipe` in today's words as a release without manifests trained it: flips that took no
    notice of the run's `seed`, and an average without warm-up."""
    if seed == UNKNOWN: return recipe
    def flip(op): return replace(op, seed=op.seed - seed) if isinstance(op, AlternatingFlip) else op
    phases = tuple(replace(p, augment=tuple(map(flip, p.augment))) for p in recipe.phases)
    return replace(recipe, phases=phases, ema_warmup=recipe.ema_warmup and not recipe.ema)


def read_checkpoint(folder: Path) -> dict:
    """What checkpoint.pt in `folder` holds, in the CPU's memory; `InputError` where it cannot be
    read, or is damaged, which its checksums tell."""
    import torch
    file = Path(folder) / 'checkpoint.pt'
    try:
        with zipfile.ZipFile(file) as z: bad = z.testzip()  # torch does not ask for them
        if bad: raise ValueError(f'{bad} is damaged')
        s = torch.load(file, map_location='cpu', weights_only=True)
        if lacking := {'recipe', 'seed', 'images', 'precision', 'epoch', 'step', 'net',
                       'log'} - set(s):
            raise KeyError(min(lacking))
        return s
    except OSError as e:
        raise InputError(f'{file} cannot be read ({e.strerror or e}): look at its permissions and '
                         'at the disk.') from None
    except Exception as e:
        if lacks_memory(e):
            raise InputError(f'{file} cannot be read, there is too little memory: free some, then '
                             'resume.') from None
        raise InputError(f'{file} cannot be read ({type(e).__name__}), it may be cut off or '
                         'damaged: start again with another --out.') from None


def checkpoint_facts(folder: Path) -> dict:
    """Seed, number of training images, precision and log from the checkpoint in `folder`; nothing
    where there is none that can be read."""
    try: s = read_checkpoint(folder)
    except InputError: return {}
    return dict(seed=s['seed'], train_images=s['images'], precision=s['precision'], log=s['log'])


def legacy_manifest(run: RunFiles) -> dict:
    """What can be known of a run that has no manifest.json, from its result, or else from its
    checkpoint and its log."""
    r = run.result if run.finished else checkpoint_facts(run.path)
    log = run.log
    held = r.get('val_images', UNKNOWN if not log or 'val_accuracy' in log[0] else 0)
    images = r['train_images'] + held if 'train_images' in r and held != UNKNOWN else UNKNOWN
    recipe = as_before(run.recipe, r['seed']) if 'seed' in r else run.recipe
    def stated(*keys): return {k: r.get(k, UNKNOWN) for k in keys}
    data = dict(name=r.get('data', UNKNOWN), images=images, fingerprint=UNKNOWN)
    if images == UNKNOWN and r: data['train_images'] = r['train_images']
    validation = (UNKNOWN if held == UNKNOWN and not log else
                  dict(images=held, indices=UNKNOWN if held else None))
    weights = (UNKNOWN if held == UNKNOWN else 'best on validation' if held else 'last')
    versions = dict(cifar_nb=UNKNOWN, commit=UNKNOWN, **stated('torch', 'python'))
    sitting = dict(began=UNKNOWN, epoch=0, device=r.get('device', UNKNOWN),
                   processor=r.get('hardware', UNKNOWN), **stated('processes', 'threads'),
                   kernels=UNKNOWN, compile=UNKNOWN, versions=versions)
    return unknown_manifest(
        run=fingerprint([r, log]), name=run.recipe.name, variant=run.recipe.variant,
        recipe=trained(recipe), data=data, validation=validation, weights=weights,
        **stated('seed', 'precision', 'memory_format'), sittings=[sitting])


def legacy_evaluations(result: dict, manifest: dict) -> list:
    """The evaluations that an older result.json holds under 'test' and 'test, mean of ...'; its
    images are known by the data only."""
    out = []
    for key, m in result.items():
        if (key != 'test' and not key.startswith('test, ') or not isinstance(m, dict)
            or 'accuracy' not in m):
            continue
        tta = ['identity'] if key == 'test' else key.removeprefix('test, mean of ').split(', ')
        data = 'toy' if 'toy' in str(m.get('set', '')) else manifest['data']['name']
        out.append(
            dict(schema=1, weights=UNKNOWN, tta=dict(transforms=tta, weights=None, mean='logits'),
                 images=dict(name=m.get('set', UNKNOWN), data=data, images=m.get('images', UNKNOWN),
                             fingerprint=UNKNOWN),
                 precision=UNKNOWN, memory_format=UNKNOWN, kernels=UNKNOWN, device=UNKNOWN,
                 processor=UNKNOWN, versions=UNKNOWN,
                 metrics={k: v for k, v in m.items() if k not in ('views', 'set')}))
    return out


def agreement(found: dict, asked: dict) -> tuple:
    """May the training `asked` for go on as the one `found`? (what differs, in words; the facts of
    `found` that nobody wrote down).

    This is `same_training`, but for runs from before there were manifests, where what nobody wrote
    down cannot speak against it."""
    unknown = [k for k in TRAINING if k != 'recipe' and not known(found.get(k))]
    taken = {**found, **{k: asked[k] for k in unknown if _agrees(found[k], asked[k])}}
    other = differing(taken, asked, ('kernels',))
    trained_on = found['data'].get('train_images')  # of a run whose total nobody wrote down
    if (trained_on is not None
        and trained_on != asked['data']['images'] - asked['validation']['images']):
        other.append(f'the number of images to learn from, {trained_on}')
    return other, unknown


def refuse_other(found: dict, asked: dict, out) -> list:
    """Raise `InputError` unless the training `asked` for may go on as the one `found` in the folder
    `out`; the facts that nobody wrote down."""
    other, unknown = agreement(found, asked)
    if other:
        raise InputError(f'{out} belongs to another training ({", ".join(other)} '
                         f'differ{"s" * (len(other) == 1)}): resume with the settings with which '
                         f'it began (recipe {found["name"]}, {told(found)}), or choose another '
                         '--out.')
    return unknown


def _agrees(known, asked) -> bool:
    "Whether what is known of a fact speaks for what is asked for."
    if known == UNKNOWN: return True
    # some were held out
    if (not isinstance(known, dict) or 'indices' in known and known['images'] == UNKNOWN
        and not asked['images']):
        return False
    return all(v in (UNKNOWN, None) or v == asked.get(k) for k, v in known.items()
               if k != 'train_images')


def _of(d, key): return d.get(key, '?') if isinstance(d, dict) else '?'


def told(m: dict) -> str:
    "The run of the manifest `m` in words: its length, seed, images and precision."
    epochs = (sum(p['epochs'] for p in m['recipe']['phases'])
              if isinstance(m['recipe'], dict) else '?')
    return (f'{epochs} epochs, seed {m["seed"]}, {_of(m["data"], "images")} images, '
            f'{_of(m["validation"], "images")} of them held out, {m["precision"]}')


def claimed(stack: ExitStack, out: Path, recipe, manifest: dict, resume: bool, say=print) -> Path:
    """Make `out` the folder of the training that `manifest` describes, and hold its lock until
    `stack` closes.

    A folder that another process trains in, that holds anything else, or another training, is an
    `InputError`; nothing is written then."""
    out = Path(out)
    known = ('manifest.json', 'recipe.json')
    def begun(): return any(there(out / f) for f in known)
    if there(out) and not begun() and not (os.path.isdir(out) and is_empty(out)):
        raise InputError(f'{out} exists and is not a run: choose an empty or a new folder with '
                         '--out.')
    if begun() and not resume:
        raise InputError(f'{out} already holds a run: go on with --resume, or choose another place '
                         'with --out.')
    if resume and not begun(): say(f'There is nothing to resume in {out}, so it begins anew.')
    make_folder(out)
    stack.enter_context(locked(out / LOCK, f'{out} is being trained by another process: wait until '
                               'it ends, or choose another place with --out.'))
    remove_leftovers(out)
    if begun():
        if not resume:
            raise InputError(f'{out} already holds a run: go on with --resume, or choose another '
                             'place with --out.')
        if there(out / 'result.json'):
            drop_checkpoint(out)
            held = (manifest.get('validation') or {}).get('images')
            more = (', which reads the test images (log.jsonl has the accuracy on those held out)'
                    if isinstance(held, int) and held else '')
            raise InputError(f'{out} is already finished: evaluate it with `cifar_nb evaluate '
                             f'{out}`{more}, or choose another place with --out.')
        manifest = _going_on(out, recipe, manifest, say)
    write_atomic(out / 'manifest.json', to_json(manifest))
    if not there(out / 'recipe.json'): write_atomic(out / 'recipe.json', recipe.to_json())
    return out


def _going_on(out: Path, recipe, asked: dict, say) -> dict:
    "The manifest of the run in `out` with a sitting for the machine that `asked` has."
    # stopped between its first two files: nothing is trained yet
    if not there(out / 'recipe.json'):
        found = trained_twin(read_manifest(out / 'manifest.json'))
        log = []
    else:
        run = RunFiles(out)
        found, log = run.manifest, _log_so_far(run, say)
        if not there(out / 'checkpoint.pt') and not log:  # nothing is trained yet
            if trained(run.recipe) != trained(recipe):
                raise InputError(f'{out} belongs to another training (the recipe differs): choose '
                                 'another --out.')
            return (asked if found['seed'] == UNKNOWN
                    or not there(out / 'manifest.json')
                    else _with_machine(found, asked, out, 0, say))
        if not there(out / 'manifest.json') and not checkpoint_facts(out):
            raise InputError(f'{out / "checkpoint.pt"} cannot be read, it may be cut off: start '
                             'again with another --out.')
        before = trained(as_before(recipe, asked['seed']))
        # begun by a release without manifests
        if not there(out / 'manifest.json') or found['recipe'] == before:
            asked = {**asked, 'recipe': before}
    return _with_machine(found, asked, out, len(log), say)


def _log_so_far(run: RunFiles, say) -> list:
    """The log of an unfinished run; a damaged one is no loss where there is a checkpoint, from
    which it is written anew."""
    try: return run.log
    except InputError as e:
        if not (log := checkpoint_facts(run.path).get('log')): raise
        say(f'{e} It is written anew from the checkpoint.')
        return log


def _with_machine(found: dict, asked: dict, out, epoch: int, say) -> dict:
    "The manifest `found` with a sitting for the machine of `asked`, if they are the same training."
    if unknown := refuse_other(found, asked, out):
        say(f'{out} is from before runs wrote down {", ".join(unknown)}: going on with those of '
            'this call, and they stay marked as unknown')
    machine = {k: v for k, v in asked['sittings'][0].items() if k not in ('began', 'epoch')}
    return with_sitting(found, epoch, **machine)


def drop_checkpoint(folder: Path):
    "Delete what a finished run does not need any more."
    for name in ('checkpoint.pt', 'best.safetensors'): remove(Path(folder) / name)


@contextmanager
def writing(run: RunFiles):
    """In this block no other process writes into the folder of the finished `run`; what a killed
    one has left there is deleted first."""
    busy = f'{run.path} is being written to by another process for too long: try again.'
    with locked(run.path / f'.write{LOCK}', busy, wait=60):
        for folder in (run.path, run.path / 'evaluations'): remove_leftovers(folder)
        if run.finished: drop_checkpoint(run.path)
        yield


def evaluation_file(run: RunFiles, e: dict) -> Path:
    """Where the evaluation `e` lies in the folder of `run`: the same evaluation in the same place,
    any other beside it."""
    keys = ('weights', 'tta', 'precision', 'memory_format', 'kernels')
    mark = fingerprint([{k: e[k] for k in keys}, e['images']['fingerprint']])
    name = f'{slug(e["images"]["data"])}-{len(e["tta"]["transforms"])}-{mark[:8]}.json'
    return make_folder(run.path / 'evaluations') / name


def unfinished_runs(root, manifest: dict) -> list:
    """The folders in `root` of unfinished runs of the training `manifest`, the one that was written
    to last at the end."""
    out = []
    for folder in sorted(Path(root).glob('*/')):
        try:
            run = RunFiles(folder)
            if not run.finished and not agreement(run.manifest, manifest)[0]: out.append(folder)
        except InputError: continue
    return sorted(out, key=_last_written)


def _last_written(folder: Path) -> float:
    "When a file in `folder` was last written (s); 0 without one."
    def written(path):
        try: return os.lstat(path).st_mtime
        except FileNotFoundError: return 0.  # renamed since it was listed
    return max((written(p) for p in entries(folder) if p.name[:1] != '.'), default=0.)
