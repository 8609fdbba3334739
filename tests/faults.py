"""What becomes of the work when disks fill up, processes are killed and files are damaged: every
file operation of every command that writes.

    python tests/faults.py                 everything, as a table (some hours on one core)
    python tests/faults.py NAME ...        only the parts whose names begin so, say `sweep:train` or
    `damage` (--list names them)
    --every K                              of the file operations each K-th only
    --shots N                              random kills for each signal
    --json FILE                            the rows of the table also as JSON, added to those that
    are in it

`tests/test_faults.py` is the part of it that every change must pass.

A part works in children that are forked after the imports (POSIX only). In a child every operation
on a file below a folder is counted, and at the n-th something happens (`Disk`). Afterwards the same
command, or `--resume`, must lead to what it leads to undisturbed; what may be seen in between is
one sentence. A row that lost anything says what, and the command ends with status 1.
"""
import argparse
import errno
import importlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
# of the children alone
SURROUNDINGS = dict(OMP_NUM_THREADS='1', MPLBACKEND='Agg', CIFAR_NB_DATA='toy',
                    CIFAR_NB_KERNEL='off', CUDA_VISIBLE_DEVICES='')
sys.path.insert(0, str(HERE.parent))


# The disk that fails

MODES = {  # what happens at the n-th operation
         'kill': 'SIGKILL before it', 'after': 'SIGKILL after it',
         'half': 'half a write, then SIGKILL',
         'enospc': 'no space, once', 'eio': 'EIO, once', 'full': 'no space from there on',
         'erofs': 'read-only from there on', 'eacces': 'forbidden from there on'}
KILLS = ('kill', 'after', 'half')
ERRORS = dict(enospc=errno.ENOSPC, eio=errno.EIO, full=errno.ENOSPC, erofs=errno.EROFS,
              eacces=errno.EACCES)
TAKES_SPACE = ('open', 'write', 'fsync', 'mkdir', 'link')  # a full disk can still rename and delete
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def die(): os.kill(os.getpid(), signal.SIGKILL)


class Disk:
    """Counts what is done to files below `folder`, and does harm of the kind `mode` at the
    operation `at` (from 1)."""
    def __init__(self, folder, at: int = 0, mode: str = 'kill', trace=None):
        self.folder, self.at, self.mode, self.n = os.path.realpath(folder), at, mode, 0
        # open files by their number; where to note each operation
        self.names, self.trace = {}, trace

    def ours(self, path):
        "The whole name of `path` (or of an open file) if it lies below the folder, else None."
        if isinstance(path, int): return self.names.get(path)
        try: name = os.path.abspath(os.fspath(path))
        except TypeError: return None
        if isinstance(name, bytes): name = os.fsdecode(name)
        name = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        return name if name.startswith(self.folder + os.sep) else None

    def do(self, what: str, name: str, act, half=None):
        """Do `act` to the file `name`, counted; or what is to happen instead. `half` does half of
        it."""
        self.n += 1
        if self.trace is not None: self.trace.append(f'{what} {os.path.relpath(name, self.folder)}')
        hit = self.n == self.at
        if hit and self.mode == 'kill': die()
        if hit and self.mode == 'half':
            if half: half()
            die()
        if self.mode in ERRORS and (
            hit or self.at and self.n > self.at and self.mode not in ('enospc', 'eio')):
            if self.mode not in ('enospc', 'full') or what in TAKES_SPACE:
                # a disk fills up in the middle of a write
                if hit and half and self.mode in ('enospc', 'full'): half()
                raise OSError(ERRORS[self.mode], os.strerror(ERRORS[self.mode]), name)
        out = act()
        if hit and self.mode == 'after': die()
        return out

    def install(self):
        "Let all of this process go through here; only for a child that ends soon."
        real = {k: getattr(os, k)
                for k in ('open', 'write', 'pwrite', 'fsync', 'replace', 'rename', 'unlink',
                          'remove', 'mkdir', 'rmdir', 'link', 'symlink',
                          'truncate', 'ftruncate', 'close', 'sendfile') if hasattr(os, k)}
        disk, real_open = self, io.open

        class Raw(io.FileIO):
            def write(self, data):
                name = disk.names.get(self.fileno())
                if name is None: return super().write(data)
                return disk.do('write', name, lambda: io.FileIO.write(self, data),
                               lambda: io.FileIO.write(self, bytes(data)[:len(bytes(data)) // 2]))

            def close(self):
                if not self.closed: disk.names.pop(self.fileno(), None)
                super().close()

        def opened(file, mode='r', buffering=-1, encoding=None, errors=None, newline=None,
                   closefd=True, opener=None):
            name = None if not set(mode) & set('wax+') else self.ours(file)
            if name is None or isinstance(file, int):
                return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = self.do('open', name,
                          lambda: Raw(file, mode.replace('b', '').replace('t', ''), closefd,
                                      opener))
            self.names[raw.fileno()] = name
            if 'b' in mode:
                return (raw if buffering == 0 else io.BufferedRandom(raw)
                        if '+' in mode else io.BufferedWriter(raw))
            return io.TextIOWrapper(io.BufferedRandom(raw)
                                    if '+' in mode else io.BufferedWriter(raw), encoding, errors,
                                    newline)

        def os_open(path, flags, *a, **k):
            name = self.ours(path) if flags & WRITES else None
            if name is None: return real['open'](path, flags, *a, **k)
            # it will be refused
            if flags & os.O_CREAT and flags & os.O_EXCL and os.path.lexists(path):
                return real['open'](path, flags, *a, **k)
            fd = self.do('open', name, lambda: real['open'](path, flags, *a, **k))
            self.names[fd] = name
            return fd

        def on_fd(what):
            def f(fd, *a, **k):
                name = self.names.get(fd)
                half = ((lambda: real[what](fd, bytes(a[0])[:len(a[0]) // 2], *a[1:]))
                        if 'write' in what else None)
                return real[what](fd, *a, **k) if name is None else self.do(
                    what.lstrip('pf') if what != 'fsync' else what, name,
                    lambda: real[what](fd, *a, **k), half)
            return f

        def on_path(what, which=0):
            def f(*a, **k):
                name = self.ours(a[which]) if len(a) > which else None
                # it will be refused
                if name and os.path.lexists(name) == (what == 'mkdir'):
                    name = name if what in ('replace', 'rename') else None
                return real[what](*a, **k) if name is None else self.do(
                    dict(replace='rename', remove='unlink', symlink='link').get(what, what), name,
                    lambda: real[what](*a, **k))
            return f

        def os_close(fd):
            self.names.pop(fd, None)
            return real['close'](fd)

        new = dict(open=os_open, close=os_close) | {
            k: on_fd(k) for k in ('write', 'pwrite', 'fsync', 'ftruncate', 'sendfile') if k in real}
        new |= {k: on_path(k, 1 if k in ('replace', 'rename', 'link', 'symlink') else 0)
                for k in ('replace', 'rename', 'unlink', 'remove', 'mkdir', 'rmdir', 'link',
                          'symlink', 'truncate')
                if k in real}
        import builtins
        import pathlib
        builtins.open = io.open = opened
        for k, f in new.items(): setattr(os, k, f)
        old = getattr(pathlib, '_NormalAccessor', None)  # Python 3.10 keeps its own references
        for k, f in new.items():
            if old is not None and hasattr(old, k): setattr(old, k, staticmethod(f))
        if old is not None: old.open = staticmethod(opened)


def told(row): print(row, flush=True)


# Children

@dataclass
class Outcome:
    """How a child ended: its status (minus the signal that killed it), what it printed, and its
    seconds."""
    status: int
    text: str
    seconds: float

    @property
    def complaint(self) -> str:
        """What is wrong with the way in which it ended by itself: a traceback, or a mistake that is
        not told in one sentence."""
        if self.traced: return 'traceback: ' + self.last
        if self.status not in (0, 2): return f'status {self.status}: {self.last}'
        said = [line for line in self.text.splitlines() if line.startswith('cifar_nb: ')]
        return ('' if self.status == 0
                or len(said) == 1 else f'{len(said)} sentences: {self.text[-300:]}')

    @property
    def traced(self) -> bool:
        """Whether there is a traceback, other than Python's own note that an interrupt came in a
        place where it can only be ignored."""
        return self.text.count('Traceback') > self.text.count('Exception ignored in')

    @property
    def last(self) -> str: return (self.text.strip().splitlines() or [''])[-1][:300]


def begin(do, text: Path, disk: Disk = None) -> int:
    """Fork a child that does `do()` as the command would, with what it prints in the file `text`;
    its number."""
    sys.stdout.flush()
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the child is ready
    pid = os.fork()
    if pid:
        signal.signal(signal.SIGINT, handler)
        return pid
    status = 70
    try:
        fd = os.open(text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(k, 'w', closefd=False), encoding='utf-8', write_through=True)
            for k in (1, 2))
        for s in (signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_DFL)
        settle()
        if disk: disk.install()
        status = as_command(do)
    except BaseException: traceback.print_exc()
    finally:
        if disk and disk.trace is not None:
            os.write(2, ('\n@' + '\n@'.join(disk.trace) + '\n').encode())
        os._exit(status)


def settle():
    "The surroundings of a child."
    import matplotlib
    import torch
    os.environ.update(SURROUNDINGS)
    matplotlib.use('Agg')
    torch.set_num_threads(1)


def as_command(do) -> int:
    "What `cifar_nb.cli.main` makes of the outcome of `do()`."
    from cifar_nb.core.errors import InputError
    from cifar_nb.training.signals import Interrupted
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return do() or 0
    except InputError as e: status, message = 2, str(e)
    except Interrupted as e: status, message = 128 + e.signum, str(e)
    except KeyboardInterrupt: status, message = 130, 'interrupted'
    print(f'cifar_nb: {" ".join(message.split())}', file=sys.stderr)
    return status


def ended(pid: int, text: Path, kills=(), limit: float = 120, aim=None) -> Outcome:
    """Wait for a child; `kills` are pairs (after so many seconds, signal), and `aim` finds the
    process they are for (default: the child)."""
    start, kills = time.time(), sorted(kills)
    while True:
        got, status = os.waitpid(pid, os.WNOHANG)
        now = time.time() - start
        if got: break
        if kills and now >= kills[0][0]: hit(aim or (lambda: pid), kills)
        elif now > limit:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Outcome(-99, f'it took more than {limit:.0f} s\n'
                           + text.read_text(encoding='utf-8', errors='replace'), now)
        else: time.sleep(.002)
    return Outcome(os.waitstatus_to_exitcode(status),
                   text.read_text(encoding='utf-8', errors='replace') if text.exists() else '',
                   time.time() - start)


def hit(aim, kills: list):
    "Send the first of `kills`, if there is a process to send it to yet."
    target = aim()
    if target is None: return
    try: os.kill(target, kills.pop(0)[1])
    except ProcessLookupError: pass


def child(do, here: Path, disk: Disk = None, kills=(), limit: float = 120, aim=None) -> Outcome:
    text = here.with_name(f'{here.name}.out')
    return ended(begin(do, text, disk), text, kills, limit, aim)


def must(o: Outcome):
    "Stop unless the child ended well: what is tried here must work undisturbed."
    if o.status: raise SystemExit(f'status {o.status}:\n{o.text}')


# What is tried: small things of every kind

TIMES = ('seconds', 'images_per_second', 'began', 'run', 'timing', 'warmup')


def timeless(v):
    "The JSON value `v` without what differs from one time to the next."
    if isinstance(v, dict): return {k: timeless(w) for k, w in v.items() if k not in TIMES}
    return [timeless(w) for w in v] if isinstance(v, list) else v


def contents(folder: Path, texts: bool = True) -> dict:
    """What lies in `folder`: JSON without times, other files as they are; locks aside. Files that
    nobody asked for show here."""
    out = {}
    for p in sorted(folder.rglob('*')):
        name = p.relative_to(folder).as_posix()
        if p.is_dir() or p.name.endswith('.lock') or p.name == 'timing.jsonl': continue
        if p.suffix == '.json': out[name] = timeless(json.loads(p.read_text(encoding='utf-8')))
        elif p.suffix == '.md':
            out[name] = [line for line in p.read_text(encoding='utf-8').splitlines()
                         if ' s' not in line]
        else: out[name] = p.read_bytes()
    return out


def difference(a: dict, b: dict) -> str:
    "In a few words, what of `b` (the outcome) is not as in `a` (the undisturbed one)."
    words = [f'lacks {k}' for k in a if k not in b] + [f'has {k}' for k in b if k not in a]
    for k in a:
        if k in b and a[k] != b[k]:
            keys = ([f for f in {**a[k], **b[k]} if a[k].get(f) != b[k].get(f)]
                    if isinstance(a[k], dict) and isinstance(b[k], dict) else [])
            words.append(f'{k} differs' + (f' in {", ".join(map(str, keys[:4]))}' if keys else ''))
    return '; '.join(words[:4])


class World:
    "Images, recipes and finished things to begin with, made once in the folder `here`."
    def __init__(self, here: Path):
        from cifar_nb.augment.ops import RandomHorizontalFlip
        from cifar_nb.data.cifar import toy
        from cifar_nb.models.resnet import NetSpec
        from cifar_nb.recipes.spec import SMALL, Optimizer, Schedule
        from cifar_nb.teams.zoo import register
        from cifar_nb.training.train import train
        for module in ('studies.ablations', 'cli.commands', 'delivery.kaggle', 'delivery.publish',
                       'studies.migrate', 'studies.reproduce'):
            importlib.import_module(f'cifar_nb.{module}')  # all that the children need
        for module in ('encodings.idna', 'encodings.latin_1', 'encodings.utf_8_sig', 'filelock',
                       'matplotlib.pyplot', 'safetensors.torch', 'sklearn.metrics', 'tqdm.auto',
                       'torch._dynamo', 'torch.distributed'):
            importlib.import_module(module)
        self.here, (self.x, self.y), (self.xt, self.yt) = here, toy(240), toy(100, seed=1)
        phase = replace(SMALL.phases[0], epochs=3, batch_size=40, augment=(RandomHorizontalFlip(),),
                        optimizer=Optimizer('SGD', lr=.5, momentum=.9),
                        schedule=Schedule('constant'))
        self.recipe = replace(SMALL, name='tiny', title='Tiny',
                              net=NetSpec((8, 16), (1, 1), (2, 2)), phases=(phase,), ema=.5,
                              tta_transforms=('identity', 'flip'))
        register(self.recipe)

        def log(seed):
            return [line['val_accuracy']
                    for line in train(self.recipe, self.x, self.y, seed=seed, holdout=60,
                                      kernels=False, progress=False, say=str).log]

        def choose():
            # the best epoch is the second of three
            seed = next(s for s in range(40) if log(s).index(max(log(s))) == 1)
            (here / 'seed').write_text(str(seed), encoding='utf-8')
        must(child(choose, here / 'world'))
        self.seed = int((here / 'seed').read_text(encoding='utf-8'))

    def train(self, out, seed=None, resume=False, holdout=60, **more):
        from cifar_nb.training.train import train
        return train(self.recipe, self.x, self.y, out, seed=self.seed if seed is None else seed,
                     holdout=holdout, kernels=False, resume=resume,
                     progress=False, say=str, info=dict(data='toy'), **more)

    def judge(self, out, **more):
        from cifar_nb.data.cifar import SHAPES
        from cifar_nb.evaluation.tta import examine
        return examine(out, self.xt, self.yt, 'cpu', name='toy test set', classes=list(SHAPES),
                       data='toy', **more)


class Target:
    """A command that writes. `act` is what is disturbed, `again` what its user does then; `state`
    is what there must be at the end, `look` yields what a reader stumbles over in between."""
    def __init__(self, world: World): self.w = world
    def prepare(self, here: Path): here.mkdir()
    def again(self, here): return self.act(here)
    def done(self, here) -> bool: return False
    def state(self, here) -> dict: return contents(here)
    def look(self, here): return ()
    def aim(self, here, random_): return None  # whom a signal hits, other than the child


class Training(Target):
    "A training with validation that keeps its best weights, then --resume."
    name = 'train'
    def act(self, here): self.w.train(here / 'run')
    def done(self, here): return (here / 'run/result.json').exists()

    def again(self, here):
        run = here / 'run'
        self.w.train(run, resume=any((run / f).exists() for f in ('manifest.json', 'recipe.json')))

    def look(self, here):
        from cifar_nb.core.errors import InputError
        from cifar_nb.training.checkpoints import Run
        run = here / 'run'
        if not (run / 'recipe.json').exists(): return
        try: Run(run).log, Run(run).manifest
        except InputError as e: yield f'an unfinished run cannot be read: {e}'
        if not self.done(here): return
        try: Run(run).load_net('cpu')
        except InputError as e: yield f'a finished run cannot be read: {e}'


class Resumed(Training):
    "As `Training`, from a checkpoint on."
    name = 'resume'
    def prepare(self, here):
        half = self.w.here / 'half'
        if not half.exists():
            def stop(line):
                if line.startswith('epoch 2'): os.kill(os.getpid(), signal.SIGTERM)
            from cifar_nb.training.signals import Interrupted
            from cifar_nb.training.train import train
            try:
                train(self.w.recipe, self.w.x, self.w.y, half / 'run', seed=self.w.seed, holdout=60,
                      kernels=False, progress=False, say=stop, info=dict(data='toy'))
            except Interrupted: pass
            assert (half / 'run/checkpoint.pt').exists() and not (half / 'run/result.json').exists()
        shutil.copytree(half, here)

    def act(self, here): self.w.train(here / 'run', resume=True)


def finished(world: World, seed=None) -> Path:
    "The folder of a finished run that nobody has evaluated."
    out = world.here / f'finished{seed}'
    if not out.exists(): world.train(out, seed)
    return out


class Records(Target):
    "`evaluate` with --results beside an older record of another experiment."
    name = 'evaluate'
    def prepare(self, here):
        from cifar_nb.evaluation.records import record_run
        from cifar_nb.training.checkpoints import Run
        other = self.w.here / 'other'
        if not other.exists():
            self.w.train(other, self.w.seed + 1)
            self.w.judge(other)
        here.mkdir()
        shutil.copytree(finished(self.w), here / 'run')
        record_run(Run(other), here / 'results')

    def act(self, here):
        from cifar_nb.evaluation.records import record_run
        from cifar_nb.training.checkpoints import Run
        self.w.judge(here / 'run')
        record_run(Run(here / 'run'), here / 'results')

    def look(self, here):
        from cifar_nb.evaluation.records import load_results
        said = []
        seeds = {r['manifest']['seed'] for r in load_results(here / 'results', said.append)}
        if said: yield said[0]
        if self.w.seed + 1 not in seeds: yield 'an older record is lost'


class RecordsAgain(Records):
    "The same once more, over its own record."
    name = 'evaluate again'
    def prepare(self, here):
        super().prepare(here)
        Records.act(self, here)

    def look(self, here):
        from cifar_nb.evaluation.records import load_results
        yield from super().look(here)
        if len(load_results(here / 'results', str)) != 2:
            yield 'the record of this run is lost or there twice'


class Progress(Target):
    "`workbook.remember` of an exercise."
    name = 'progress'
    def prepare(self, here):
        here.mkdir()
        (here / 'progress.json').write_text('{\n "01.1": "solved"\n}\n', encoding='utf-8')

    def act(self, here):
        from cifar_nb.exercises.checker import Verdict, remember_verdict
        os.environ['CIFAR_NB_PROGRESS'] = str(here / 'progress.json')
        remember_verdict(Verdict('02.1', '', 'solved', ''))

    def look(self, here):
        from cifar_nb.exercises.memory import recall
        known = recall(here / 'progress.json')  # '01.1' becomes 'data.1'
        if 'solved' not in (known.get('01.1'), known.get('data.1')): yield 'an answer is lost'


class Study(Target):
    "`run_study` of a base and a variation, beside the record of another study."
    name = 'study'
    def study(self, name, **changes):
        from cifar_nb.studies.ablations import Study
        return Study(name, 'Does it matter?', changes, small=self.w.recipe)

    def run(self, here, study):
        from cifar_nb.studies.ablations import Scale, run_study
        return run_study(study, self.w.x, self.w.y, here, Scale('tiny', 200, 40, 'toy'), 1, say=str)

    def prepare(self, here):
        older = self.w.here / 'older_study'
        if not older.exists(): self.run(older, self.study('older', momentum=dict(bn_momentum=.5)))
        here.mkdir()
        shutil.copytree(older / 'ablations', here / 'ablations')

    def act(self, here): self.run(here, self.study('kernel', **{'3x3': dict(shortcut_kernel=3)}))

    def look(self, here):
        from cifar_nb.evaluation.records import study_records
        said = []
        names = [r['variation'] for r in study_records(here / 'ablations', said.append)]
        if said: yield said[0]
        if not {'tiny', 'momentum'} <= set(names): yield 'an older record is lost'
        if len(set(names)) < len(names): yield 'a trial is recorded twice'


class Ladder(Target):
    "`run_ladder` of two rungs."
    name = 'ladder'
    def act(self, here):
        from cifar_nb.studies.ladder import run_ladder
        w = self.w
        rungs = {'the plain loop': w.recipe, 'no average': replace(w.recipe, ema=0)}
        run_ladder(w.x, w.y, here, 1, 40, say=str, rungs=rungs)

    def look(self, here):
        from cifar_nb.evaluation.records import study_records
        said = []
        study_records(here / 'ladder', said.append)
        yield from said


class Publish(Target):
    "`publish` over a network of the same name, beside another."
    name = 'publish'
    def publish(self, out, folder, name, overwrite=False):
        from cifar_nb.delivery.publish import publish
        publish(out, self.w.xt, self.w.yt, name, 'fp16', folder, overwrite)

    def prepare(self, here):
        old, new = (finished(self.w, s) for s in (self.w.seed + 2, self.w.seed))
        for run in (old, new):
            if not (run / 'evaluations').exists(): self.w.judge(run)
        here.mkdir()
        for name in ('net', 'other'): self.publish(old, here, name)

    def act(self, here): self.publish(finished(self.w, self.w.seed), here, 'net', True)

    def look(self, here):
        from cifar_nb.core.errors import InputError
        from cifar_nb.evaluation.pretrained import Pretrained
        for name in ('net', 'other'):
            try: Pretrained(name, here).load_net('cpu')
            except InputError as e: yield f'a published network is lost: {e}'


class Migrate(Target):
    "`migrate` of older records and of an older run."
    name = 'migrate'
    def prepare(self, here):
        from cifar_nb.models.resnet import count_macs, count_parameters
        from cifar_nb.teams.zoo import get_recipe
        recipe, here = get_recipe('small'), here
        net = recipe.net.build()
        run = here / 'results/run'
        shutil.copytree(finished(self.w), run)
        result = json.loads((run / 'result.json').read_text(encoding='utf-8'))
        test = dict(loss=2.3, accuracy=11., images=100, views='single view', set='toy test set',
                    classes={}, confusion=[])
        (run / 'result.json').write_text(json.dumps(result | dict(test=test)), encoding='utf-8')
        (run / 'manifest.json').unlink()
        for seed in range(2):
            d = result | dict(recipe='small', variant='report', seed=seed, epochs=recipe.epochs,
                              train_images=50_000, val_images=0, parameters=count_parameters(net),
                              macs=count_macs(net), data='cifar10',
                              test=test | dict(set='test set', images=10_000))
            log = [dict(epoch=i + 1, lr=lr, train_loss=2., train_accuracy=20.)
                   for i, lr in enumerate(recipe.learning_rates(50_000))]
            (here / f'results/small-{seed}.json').write_text(
                json.dumps(dict(result=d, log=log)), encoding='utf-8')

    def act(self, here):
        from cifar_nb.studies.migrate import command_migrate
        command_migrate(here / 'results', say=str)

    def look(self, here):
        from cifar_nb.evaluation.records import load_results
        from cifar_nb.training.checkpoints import Run
        said = []
        seeds = [r['result']['seed'] for r in load_results(here / 'results', said.append)]
        if said: yield said[0]
        if set(seeds) != {0, 1}: yield 'a record is lost'
        Run(here / 'results/run').manifest


class Kaggle(Target):
    "`kaggle build` over an older build."
    name = 'kaggle build'
    def prepare(self, here): self.act(here)

    def act(self, here):
        from cifar_nb.delivery.kaggle import build
        build(here)

    def look(self, here):
        from cifar_nb.delivery.kaggle_push import check_notebook
        yield from check_notebook(here)


class BringBack(Target):
    "A notebook's next session copies what the last one left."
    name = 'bring back'
    def prepare(self, here):
        Resumed(self.w).prepare(here)
        (here / 'run').rename(here / 'tiny-3epochs-seed0')
        (here / 'input').mkdir()
        (here / 'tiny-3epochs-seed0').rename(here / 'input/tiny')
        out = here / f'runs/tiny-3epochs-seed{self.w.seed}'  # where a training was killed at once
        out.mkdir(parents=True)
        (out / '.lock').touch()

    def act(self, here):
        from cifar_nb.delivery.session import bring_back
        from cifar_nb.training.jobs import identified, plan_members
        w = self.w
        members = identified(plan_members([w.recipe], [w.seed], out=here / 'runs'), w.x, w.y,
                             ['cpu'],
                             'toy', holdout=60, kernels=False)
        bring_back(members, here / 'input', say=str)


TARGETS = {t.name: t for t
           in (Training, Resumed, Records, RecordsAgain, Progress, Study, Ladder, Publish, Migrate,
               Kaggle, BringBack)}


# The sweeps

@dataclass
class Row:
    "A line of the table: what was tried how often, and what went wrong."
    part: str
    fault: str
    tried: int = 0
    lost: list = field(default_factory=list)
    operations: int = 0

    def add(self, problem: str):
        self.tried += 1
        if problem: self.lost.append(problem)

    def __str__(self):
        lost = len(self.lost)
        return f'{self.part:26}{self.fault:34}{self.tried:6}{self.tried - lost:6}{lost or "":>6}'


def prepared(target: Target, here: Path):
    "The folder `here` as the command `target` finds it."
    template = target.w.here / f'{target.name} template'
    if not template.exists(): must(child(lambda: target.prepare(template), template))
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(template, here, symlinks=True)


def undisturbed(target: Target, here: Path) -> tuple:
    "(state, operations) of the command when nothing happens."
    prepared(target, here)
    o = child(lambda: target.act(here), here, Disk(here, trace=[]))
    must(o)
    return target.state(here), [line[1:] for line in o.text.splitlines() if line.startswith('@')]


def disturbed(target: Target, here: Path, state: dict, mode: str, at: int, what: str) -> str:
    """What goes wrong when the disk fails in the way `mode` at the operation `at` (`what` it does);
    nothing if all is well in the end."""
    prepared(target, here)
    first = child(lambda: target.act(here), here, Disk(here, at, mode))
    if mode not in KILLS and first.complaint: return f'first {first.complaint}'
    if mode in KILLS and first.status != -signal.SIGKILL: return f'it was not killed: {first.last}'
    try:
        for said in target.look(here): return f'in between {said}'
    except Exception as e: return f'a reader fails: {type(e).__name__}: {e}'
    later(here)
    # a file that could not be deleted may stay until the next time
    if first.status != 0 or 'unlink' in what:
        second = child(lambda: target.again(here), here)
        if second.status and not (target.done(here) and 'already finished' in second.last):
            return f'then {second.complaint or second.last}'
    try: return difference(state, target.state(here))
    except (OSError, ValueError) as e: return f'{type(e).__name__}: {e}'


def later(here: Path):
    "Let an hour pass for what killed writers have left."
    for p in here.rglob('.*'):
        if p.is_file() and not p.is_symlink(): os.utime(p, (time.time() - 3600,) * 2)


def sweep(world: World, name: str, modes=tuple(MODES), every: int = 1, say=told) -> list:
    """A row for each mode: the command `name` disturbed at every (or each `every`-th) file
    operation."""
    target, rows = TARGETS[name](world), []
    state, operations = undisturbed(target, world.here / f'{name}-reference')
    for mode in modes:
        row = Row(f'sweep: {name}', f'{MODES[mode]} ({mode})', operations=len(operations))
        for at in range(1, len(operations) + 1):
            if (mode == 'half' and not operations[at - 1].startswith('write')
                or (at + len(rows)) % every):
                continue
            problem = disturbed(target, world.here / 'disturbed', state, mode, at,
                                operations[at - 1])
            row.add(problem and f'{mode} at {at} ({operations[at - 1]}): {problem}')
        rows.append(row)
        say(row)
        for problem in row.lost: say(f'      {problem}')
    return rows


# Damaged files

def as_folder(p): p.unlink(); p.mkdir()
def as_dangling(p): p.unlink(); p.symlink_to(p.parent / 'nowhere')
def as_circle(p): p.unlink(); p.symlink_to(p)
def changed(f): return lambda p: p.write_bytes(f(p.read_bytes()))


DAMAGES = {
    'half of it': changed(lambda b: b[:len(b) // 2]), 'empty': changed(lambda b: b''),
    'zeros': changed(lambda b: bytes(len(b))),
    'zeros from the middle': changed(lambda b: b[:len(b) // 2] + bytes(len(b) - len(b) // 2)),
    '[]': changed(lambda b: b'[]'), '{}': changed(lambda b: b'{}'),
    'zeros in its middle': changed(
        lambda b: b[:len(b) // 2] + bytes(len(b) // 8) + b[len(b) // 2 + len(b) // 8:]),
    'null': changed(lambda b: b'null'), '100,000 brackets': changed(lambda b: b'[' * 100_000),
    '100,000 braces': changed(lambda b: b'{"a":' * 100_000),
    'a byte-order mark': changed(lambda b: b'\xef\xbb\xbf' + b),
    'Latin-1': changed(lambda b: 'Größe'.encode('latin-1') + b),
    'UTF-16': changed(lambda b: b'\xff\xfe' + b),
    'a huge number': changed(lambda b: b'{"a": ' + b'9' * 10_000 + b'}'), 'a folder': as_folder,
    'a dangling link': as_dangling, 'a link to itself': as_circle}

ODD = (None, [], {}, 'x', -1, True, 1.5, 10 ** 400, [[]], {'x': 1}, float('nan'))


def places(v, depth: int = 3, path=()):
    "The paths (keys) to what is in the JSON value `v`, down to `depth`."
    items = v.items() if isinstance(v, dict) else enumerate(v[:2]) if isinstance(v, list) else ()
    for k, w in items:
        yield (*path, k)
        if depth > 1: yield from places(w, depth - 1, (*path, k))


def with_odd(v, path, odd):
    "A copy of the JSON value `v` with `odd` at `path`; with `...` nothing there any more."
    if not path: return odd
    out = v.copy()
    if len(path) == 1 and odd is ...: del out[path[0]]
    else: out[path[0]] = with_odd(v[path[0]], path[1:], odd)
    return out


def oddities(file: Path, n: int, random_) -> dict:
    "`n` ways to change a value in the JSON (or JSON lines) of `file`, by name."
    lines = ([json.loads(line) for line in file.read_text(encoding='utf-8').splitlines()]
             if file.suffix == '.jsonl' else [json.loads(file.read_text(encoding='utf-8'))])
    every = [(path, odd) for path in places(lines[-1]) for odd in (*ODD, ...)]
    def write(path, odd):
        return lambda p: p.write_text(
            '\n'.join(map(json.dumps, [*lines[:-1], with_odd(lines[-1], path, odd)])) + '\n',
            encoding='utf-8')
    return {
        f'{".".join(map(str, path))} = {"nothing" if odd is ... else str(odd)[:12]}': write(
            path, odd) for path, odd in random_.sample(every, min(n, len(every)))}


class Book:
    """A folder with everything that the commands read: runs, results, published networks, the
    notebook for Kaggle, progress."""
    def __init__(self, w: World):
        self.w, self.here = w, w.here / 'book'
        if not self.here.exists(): must(child(self.make, self.here))

    def make(self):
        import pickle

        from cifar_nb.delivery.kaggle import build
        from cifar_nb.delivery.publish import publish
        from cifar_nb.evaluation.records import record_run
        from cifar_nb.studies.ladder import run_ladder
        from cifar_nb.training.checkpoints import Run
        from cifar_nb.training.jobs import identified, plan_members
        w, here = self.w, self.here
        here.mkdir()
        members = identified(plan_members([w.recipe], [0, 1], out=here / 'runs', data='toy'), w.x,
                             w.y,
                             ['cpu'], 'toy')
        w.train(members[0].out, 0, holdout=0)
        w.judge(members[0].out)
        record_run(Run(members[0].out), here / 'results')
        half = w.here / 'half'
        if not half.exists(): Resumed(w).prepare(here / 'half')
        shutil.copytree(half / 'run', here / 'half', dirs_exist_ok=True)
        shutil.copytree(finished(w), here / 'finished')
        w.judge(here / 'finished')
        record_run(Run(here / 'finished'), here / 'results')
        publish(here / 'finished', w.xt, w.yt, 'net', 'fp16', here / 'weights')
        Study(w).run(here / 'results', Study(w).study('kernel', **{'3x3': dict(shortcut_kernel=3)}))
        run_ladder(w.x, w.y, here / 'results', 1, 40, say=str, rungs={'the plain loop': w.recipe})
        build(here / 'kaggle')
        (here / 'progress.json').write_text('{\n "01.1": "solved"\n}\n', encoding='utf-8')
        (here / 'course.pkl').write_bytes(
            pickle.dumps(dict(data=w.xt.numpy(), ids=list(range(len(w.xt))))))


def enter(here):
    try: os.chdir(here)
    except PermissionError: pass  # as another user


def command(*words):
    def do(here, w):
        from cifar_nb.cli import main
        enter(here)
        os.environ['CIFAR_NB_PROGRESS'] = str(here / 'progress.json')
        return main([*words])
    return do


def reproduce_list(here, w):
    from cifar_nb.evaluation.records import load_results
    from cifar_nb.studies.reproduce import bill, missing_runs
    enter(here)
    print(
        bill(missing_runs([w.recipe], [0, 1], load_results('results'), w.x, w.y, 'runs', 'toy'),
             len(w.y)))


def evaluate(here, w):
    from cifar_nb.evaluation.records import record_run
    from cifar_nb.training.checkpoints import Run
    enter(here)
    print([f'{m["accuracy"]:.2f}' for m in w.judge('finished')[:2]])
    record_run(Run('finished'), 'results')


def record(here, w):
    from cifar_nb.evaluation.records import record_run
    from cifar_nb.training.checkpoints import Run
    enter(here)
    record_run(Run('finished'), 'results')


def resume(here, w):
    enter(here)
    w.train(Path('half'), resume=True)


def resume_from_the_folder(here, w):
    from cifar_nb.training.runs import unfinished_runs
    from cifar_nb.training.train import planned
    enter(here)
    print(
        unfinished_runs(
            '.', planned(w.recipe, w.x, w.y, seed=w.seed, holdout=60, kernels=False, data='toy')))


def publish_again(here, w):
    enter(here)
    from cifar_nb.delivery.publish import publish
    publish('finished', w.xt, w.yt, 'net', 'fp16', 'weights')


def load_published(here, w):
    from cifar_nb.evaluation.pretrained import list_pretrained, load_pretrained
    enter(here)
    print(list_pretrained('weights'))
    load_pretrained('net', folder='weights')


def study_again(here, w):
    Study(w).run(here / 'results', Study(w).study('kernel', **{'3x3': dict(shortcut_kernel=3)}))


def ladder_again(here, w):
    from cifar_nb.studies.ladder import ladder_table, run_ladder
    print(
        ladder_table(
            run_ladder(w.x, w.y, here / 'results', 1, 40, say=print,
                       rungs={'the plain loop': w.recipe}), ['the plain loop']))


def study_table(here, w):
    from cifar_nb.evaluation.records import study_records
    from cifar_nb.studies.ablations import study_progress, table
    from cifar_nb.studies.figures import show_studies
    s = Study(w).study('kernel', **{'3x3': dict(shortcut_kernel=3)})
    r = study_records(here / 'results/ablations', print)
    print(table(s, r, 'tiny'), study_progress(here / 'results', [s]))
    show_studies(r, scale='tiny', studies=[s])


def bring_back(here, w):
    from cifar_nb.delivery.session import bring_back
    from cifar_nb.training.jobs import identified, plan_members
    enter(here)
    members = identified(plan_members([w.recipe], [w.seed], out='new'), w.x, w.y, ['cpu'], 'toy',
                         holdout=60, kernels=False)
    bring_back(members, here)


READERS = {  # files (glob) -> the commands that read them
           'finished/*': (evaluate, command('predict', 'finished', 'course.pkl', '--anyway'),
                          publish_again, command('migrate', '.')),
           'finished/evaluations/*.json': (evaluate, publish_again, command('migrate', '.')),
           'half/*': (resume, command('evaluate', 'half'), resume_from_the_folder, bring_back,
                      command('migrate', '.')),
           'runs/*/*.json*': (reproduce_list,),
           'results/*.json': (command('scoreboard'), reproduce_list, record,
                              command('migrate', 'results')),
           'results/ablations/*.json': (
               command('ablate', '--list'), study_table, study_again,
               command('migrate', 'results')),
           'results/ladder/*.json': (ladder_again, command('migrate', 'results')),
           'weights/*': (load_published, publish_again),
           'kaggle/*': (command('kaggle', 'check'),),
           'progress.json': (command('progress'),),
           'course.pkl': (command('predict', 'finished', 'course.pkl', '--anyway'),),
}


def called(do) -> str:
    return (' '.join(do.__closure__[0].cell_contents)
            if do.__closure__ else do.__name__.replace('_', ' '))


def read_damaged(world: World, here: Path, file: str, do, harm, usual='') -> str:
    """What goes wrong when the command `do` finds `file` harmed; `usual` is what it prints
    otherwise."""
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(Book(world).here, here)
    if harm: harm(here / file)
    o = child(lambda: do(here, world), here, limit=60)
    if o.complaint: return o.complaint
    if (file.endswith(('.safetensors', '.pt')) and o.status == 0 and o.text != usual
        and called(do).split()[0] in ('evaluate', 'publish', 'predict', 'resume', 'load')):
        return f'figures of a damaged network: {o.last}'
    folder, name = file.rpartition('/')[::2]
    if o.status == 2 and o.last not in usual and name not in o.text and f'{folder} ' not in o.text:
        return f'the file is not named: {o.last}'


def damages(world: World, odd: int = 40, only: str = '', say=told) -> list:
    """A row for each kind of file: every damage, and `odd` odd values in each file of JSON, with
    every command that reads it."""
    book, rows, random_ = Book(world), [], random.Random(0)
    for pattern, commands in READERS.items():
        if not pattern.startswith(only): continue
        for file in sorted(p for p in book.here.glob(pattern) if p.is_file()
                           and p.suffix not in ('.png', '.md') and not p.name.startswith('.'))[:6]:
            name, row = file.relative_to(book.here).as_posix(), Row(f'damage: {pattern}', file.name)
            usual = {do: child(lambda: do(copied(book, world), world), world.here / 'undamaged')
                     for do in commands}
            for do, o in usual.items():
                if o.complaint: must(o)
            harms = DAMAGES | (oddities(file, odd, random_) if file.suffix in ('.json', '.jsonl')
                               and file.stat().st_size < 100_000 else {})
            for what, harm in harms.items():
                for do in commands:
                    problem = read_damaged(world, world.here / 'damaged', name, do, harm,
                                           usual[do].text)
                    row.add(problem and f'{name}: {what}: {called(do)}: {problem}')
            rows.append(row)
            say(row)
            for problem in row.lost: say(f'      {problem}')
    return rows


def copied(book, world):
    here = world.here / 'undamaged'
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(book.here, here)
    return here


# Signals at random moments

def signals_of(kind: str, when: float) -> list:
    "What `kind` of kill sends, and when."
    if kind == 'STOP, CONT': return [(when, signal.SIGSTOP), (when + .1, signal.SIGCONT)]
    if kind == 'INT twice': return [(when, signal.SIGINT), (when + .01, signal.SIGINT)]
    return [(when, getattr(signal, f'SIG{kind}'))]


KINDS = ('TERM', 'INT', 'INT twice', 'HUP', 'KILL', 'STOP, CONT')
STOPPED = (0, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGHUP, -signal.SIGINT,
           -signal.SIGTERM, -signal.SIGHUP, -signal.SIGKILL)


def shot(target: Target, here: Path, state: dict, kind: str, when: float, tries: int, pause: float,
         random_) -> str:
    """What goes wrong when a signal of `kind` comes `when` (s) after the beginning; the command is
    then called up to `tries` times."""
    prepared(target, here)
    first = child(lambda: target.act(here), here, kills=signals_of(kind, when),
                  aim=target.aim(here, random_))
    if first.traced: return f'first traceback: {first.last}'
    if first.status not in STOPPED: return f'first status {first.status}: {first.last}'
    if kind == 'STOP, CONT' and first.status:
        return f'it went on to status {first.status}: {first.last}'
    try:
        for said in target.look(here): return f'in between {said}'
    except Exception as e: return f'a reader fails: {type(e).__name__}: {e}'
    later(here)
    again = first
    for i in range(tries):
        if again.status == 0: break
        if i: time.sleep(pause)
        again = child(lambda: target.again(here), here)
        if target.done(here) and 'already finished' in again.text and not again.traced: break
        # 3: some are not finished, the same call goes on
        if again.complaint and again.status != 3: return f'then {again.complaint}'
    else:
        if again.status: return f'then {again.last}'
    try: return difference(state, target.state(here))
    except (OSError, ValueError) as e: return f'{type(e).__name__}: {e}'


def kills(world: World, name: str, n: int, kinds=KINDS, tries: int = 1, pause: float = 0,
          say=told) -> list:
    """A row for each kind of signal: the command `name` is hit `n` times at random moments, and
    called again."""
    target, rows, random_ = TARGETS[name](world), [], random.Random(0)
    def shoot(kind, when):
        return shot(target, world.here / 'shot', state, kind, when, tries, pause, random_)
    here = world.here / f'{name}-reference'
    prepared(target, here)
    whole = child(lambda: target.act(here), here)
    must(whole)
    state = target.state(here)
    for kind in kinds:
        row = Row(f'kill: {name}', f'SIG{kind} at random')
        for _ in range(n):
            when = random_.uniform(0, 1.1 * whole.seconds)
            problem = shoot(kind, when)
            row.add(problem and f'{kind} after {when:.2f} s of {whole.seconds:.2f}: {problem}')
        rows.append(row)
        say(row)
        for problem in row.lost: say(f'      {problem}')
    return rows


class Reproduce(Target):
    "`reproduce` of two seeds, each trained in a process of its own."
    name = 'reproduce'
    def act(self, here):
        from cifar_nb.data.images import Images
        from cifar_nb.studies.reproduce import reproduce
        w = self.w
        images = Images(w.x, w.y, w.xt, w.yt, 'toy', 'toy test set')
        left = reproduce([w.recipe], images, here / 'results', here / 'runs', (0, 1), say=str,
                         poll=.1, kernels=False)
        if left: print(f'{len(left)} are not finished')
        return 3 if left else 0

    def state(self, here): return contents(here / 'results')

    def look(self, here):
        from cifar_nb.evaluation.records import load_results
        said = []
        load_results(here / 'results', said.append)
        yield from said


class Search(Target):
    "`search` of three networks with Optuna."
    name = 'search'
    def act(self, here):
        from cifar_nb.core.files import make_folder, to_json, write_atomic
        from cifar_nb.studies.ablations import Scale
        from cifar_nb.studies.search import Space, findings, search
        w = self.w
        study = search(w.x, w.y, 3, f'sqlite:///{here}/search.db', 'tiny',
                       Space((8, 16, 8), (1., 2.), (1, 1), (2, 2), (.02, .1)), w.recipe,
                       Scale('tiny', 200, 40, 'toy'), say=str)
        write_atomic(make_folder(here / 'search') / 'tiny.json', to_json(findings(study)))

    def state(self, here):  # what is proposed after a kill differs
        found = json.loads((here / 'search/tiny.json').read_text(encoding='utf-8'))
        return dict(ended=sum(t['state'] in ('COMPLETE', 'PRUNED') for t in found['trials']),
                    files=[p.name for p in (here / 'search').iterdir()])


class Torchrun(Training):
    "A training by two processes of torchrun, one of which is hit."
    name = 'torchrun'
    def pid(self, here, rank): return here.with_name(f'{here.name} rank {rank}.pid')

    def aim(self, here, random_):
        file = self.pid(here, random_.randrange(2))
        file.unlink(missing_ok=True)
        return lambda: int(file.read_text(encoding='utf-8') or 0) or None if file.exists() else None

    def begin(self, here, resume=False):
        import logging
        # what the agent says of its children is not ours
        logging.getLogger('torch.distributed.elastic').setLevel(logging.CRITICAL)
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch
        config = LaunchConfig(1, 1, 2, run_id='faults', rdzv_endpoint='localhost:0',
                              rdzv_backend='c10d',
                              max_restarts=0, monitor_interval=.1, start_method='fork')
        try: elastic_launch(config, self.work)(here, resume)
        except ChildFailedError: return 128 + signal.SIGTERM  # one was stopped, and so the other
        return 0

    def work(self, here, resume):
        rank = os.environ['RANK']
        self.pid(here, rank).write_text(str(os.getpid()), encoding='utf-8')
        def do():
            from cifar_nb.training.signals import Interrupted
            try: self.w.train(here / 'run', resume=resume)
            except Interrupted:
                if rank == '0': raise
                return 0  # torchrun would end the first before it has spoken
        sys.exit(as_command(do))

    def act(self, here): return self.begin(here)

    def again(self, here):
        return self.begin(
            here, any((here / 'run' / f).exists() for f in ('manifest.json', 'recipe.json')))


TARGETS |= {t.name: t for t in (Reproduce, Search, Torchrun)}


# Several at once

def at_once(dos: list, here: Path, gap: float = 0) -> list:
    "The outcomes of children that begin `gap` seconds after each other."
    texts = [here.with_name(f'{here.name}-{i}.out') for i in range(len(dos))]
    pids = []
    for do, text in zip(dos, texts):
        if pids: time.sleep(gap)
        pids.append(begin(do, text))
    return [ended(p, t) for p, t in zip(pids, texts)]


def two_trainings(w, here, random_, resume=False):
    target = (Resumed if resume else Training)(w)
    state = undisturbed(target, w.here / 'once')[0]
    prepared(target, here)
    outcomes = at_once([lambda: target.act(here)] * 2, here, random_.uniform(0, .2))
    if bad := [o for o in outcomes if o.complaint]: return bad[0].complaint
    if sorted(o.status for o in outcomes) != [0, 2]: return f'both ended with {outcomes[0].status}'
    if not any(s in outcomes[0].text + outcomes[1].text
               for s in ('being trained by another process', 'already holds a run',
                         'already finished')):
        return outcomes[1].last
    return difference(state, target.state(here))


def two_resumes(w, here, random_): return two_trainings(w, here, random_, True)


def two_without_a_folder(w, here, random_):
    from cifar_nb.cli.commands import run_folder
    from cifar_nb.training.train import planned
    here.mkdir()
    def do():
        m = planned(w.recipe, w.x, w.y, seed=w.seed, holdout=60, kernels=False, data='toy')
        w.train(run_folder(m, here))
    for o in at_once([do] * 3, here, random_.uniform(0, .05)):
        if o.status: return o.complaint or o.last
    states = [contents(p) for p in sorted(here.iterdir())]
    if len(states) != 3: return f'{len(states)} folders'
    return difference(states[0], states[1]) or difference(states[0], states[2])


def two_studies(w, here, random_):
    target = Study(w)
    state = undisturbed(target, w.here / 'once')[0]
    prepared(target, here)
    outcomes = at_once([lambda: target.act(here)] * 2, here, random_.uniform(0, .2))
    for o in outcomes:
        if o.complaint: return o.complaint
        if o.status and 'another process' not in o.text: return o.last
    return difference(state, target.state(here))


def eight_records(w, here, random_):
    from cifar_nb.evaluation.records import load_results, record_run
    from cifar_nb.training.checkpoints import Run
    runs = []
    for seed in range(4):
        run = finished(w, seed)
        if not (run / 'evaluations').exists(): w.judge(run)
        runs += [run, run]
    for o in at_once([lambda run=run: record_run(Run(run), here / 'results') and 0 for run in runs],
                     here):
        if o.status: return o.complaint or o.last
    said = []
    seeds = sorted(r['manifest']['seed'] for r in load_results(here / 'results', said.append))
    return '' if seeds == [0, 1, 2, 3] and not said else f'records of the seeds {seeds}; {said}'


def four_publishes(w, here, random_):
    from cifar_nb.evaluation.pretrained import Pretrained, registry
    target = Publish(w)
    prepared(target, here)
    run = finished(w, w.seed)
    names = ['net', 'a', 'b', 'net']
    for o in at_once([lambda n=n: target.publish(run, here, n, True) for n in names], here):
        if o.status: return o.complaint or o.last
    for name in registry(here): Pretrained(name, here).load_net('cpu')
    return ('' if set(registry(here)) == {'net', 'other', 'a', 'b'}
            else f'published are {set(registry(here))}')


def two_evaluations(w, here, random_):
    shutil.copytree(finished(w), here)
    for o in at_once([lambda: w.judge(here) and 0] * 2, here, random_.uniform(0, .3)):
        if o.status: return o.complaint or o.last
    alone = w.here / 'judged once'
    if not alone.exists():
        shutil.copytree(finished(w), alone)
        must(child(lambda: w.judge(alone) and 0, alone))
    return difference(contents(alone), contents(here))


def two_migrations(w, here, random_):
    target = Migrate(w)
    state = undisturbed(target, w.here / 'once')[0]
    prepared(target, here)
    outcomes = at_once([lambda: target.act(here)] * 2, here, random_.uniform(0, .05))
    for o in outcomes:
        if o.complaint: return o.complaint
    if not any(o.status == 0 for o in outcomes): return outcomes[0].last
    return difference(state, target.state(here))


def two_builds(w, here, random_):
    from cifar_nb.delivery.kaggle import build
    from cifar_nb.delivery.kaggle_push import check_notebook
    for o in at_once([lambda: build(here) and 0] * 2, here):
        if o.status: return o.complaint or o.last
    return '; '.join(check_notebook(here))


def folder_vanishes(w, here, random_):
    "Somebody deletes the folder of a training that runs."
    def do():
        def say(line):
            if line.startswith('epoch 1'): shutil.rmtree(here)
        from cifar_nb.training.train import train
        train(w.recipe, w.x, w.y, here, seed=w.seed, kernels=False, progress=False, say=say)
    o = child(do, here)
    return o.complaint or ('' if o.status == 2
                           and here.name in o.text else f'status {o.status}: {o.last}')


AT_ONCE = {'two trainings into one new folder': two_trainings,
           'two --resume of one training': two_resumes, 'three without --out': two_without_a_folder,
           'two studies': two_studies, 'eight records': eight_records,
           'four publish': four_publishes, 'two evaluate': two_evaluations,
           'two migrate': two_migrations,
           'two kaggle build': two_builds, 'the folder vanishes': folder_vanishes}


def repeated(world: World, part: str, tries: dict, n: int, say=told) -> list:
    "A row for each of `tries` (name to a function that tells what went wrong), tried `n` times."
    rows, random_ = [], random.Random(0)
    for fault, f in tries.items():
        row, here = Row(part, fault), world.here / 'tried'
        for _ in range(n):
            shutil.rmtree(here, ignore_errors=True)
            row.add(f(world, here, random_))
        rows.append(row)
        say(row)
        for problem in row.lost: say(f'      {problem}')
    return rows


# Odd places, odd limits, odd environments

def as_nobody(do):
    "`do` as a user who owns nothing; None where we cannot become one."
    def f():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os.environ['HOME'] = '/nonexistent'
        return do()
    return f


def ways_in(w: World, here: Path) -> dict:
    "Commands that read or write in the folder `here` (a copy of the book), by name."
    def cli(*words): return lambda: command(*words)(here, w)
    def new(): w.train(here / 'new')
    return dict(train=new, resume=lambda: resume(here, w), evaluate=lambda: evaluate(here, w),
                record=lambda: record(here, w), study=lambda: study_again(here, w),
                table=lambda: study_table(here, w), publish=lambda: publish_again(here, w),
                reproduce=lambda: reproduce_list(here, w), migrate=cli('migrate', 'results'),
                kaggle=cli('kaggle', 'build', '--folder', str(here / 'kaggle')),
                predict=cli('predict', 'finished', 'course.pkl', '--anyway', '--out', 'new.csv'),
                scoreboard=cli('scoreboard'), bring=lambda: bring_back(here, w),
                find=lambda: resume_from_the_folder(here, w), progress=cli('progress'))


def everywhere(wrap, only=()):
    """A try: every way in, its child wrapped by `wrap(do, here)`; each must end well or with one
    sentence."""
    def f(w, here, random_):
        said = []
        for name in ways_in(w, here):
            if only and name not in only: continue
            shutil.rmtree(here, ignore_errors=True)
            shutil.copytree(Book(w).here, here)
            do = ways_in(w, here)[name]
            o = child(wrap(do, here), here)
            if o.complaint: said.append(f'{name}: {o.complaint}')
        return '; '.join(said)
    return f


def forbidden(mode, only=''):
    "For everybody but the owner the folders (or those called `only`) have `mode`."
    def wrap(do, here):
        for p in [here, *here.rglob('*')]:
            if p.is_dir() and (not only or p.name == only): p.chmod(mode)
        for p in here.parents:
            if (p != Path(p.anchor) and p.is_relative_to(tempfile.gettempdir())
                and str(p) != tempfile.gettempdir()):
                p.chmod(0o755)
        return as_nobody(do)
    return wrap


def unreadable(do, here):
    "Files that only their owner may read, in folders where all may write."
    for p in [here, *here.rglob('*')]: p.chmod(0o777 if p.is_dir() else 0o600)
    for p in here.parents:
        if p.is_relative_to(tempfile.gettempdir()) and str(p) != tempfile.gettempdir():
            p.chmod(0o755)
    return as_nobody(do)


def limited(kind, value):
    "With a limit of the system: the size of a file, open files, ..."
    def wrap(do, here):
        def f():
            import resource
            through_a_pipe()
            resource.setrlimit(getattr(resource, kind), (value, value))
            return do()
        return f
    return wrap


def through_a_pipe():
    "What this process prints goes to another one, which writes it."
    r, w = os.pipe()
    if not os.fork():
        os.close(w)
        while data := os.read(r, 1 << 16): os.write(1, data)
        os._exit(0)
    os.dup2(w, 1)
    os.dup2(w, 2)
    os.close(w)


def small_disk(size):
    "On a disk of its own that is nearly full."
    def f(w, here, random_):
        here.mkdir()
        if subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(here)],
                          stderr=subprocess.DEVNULL).returncode:
            return ''
        try:
            o = child(lambda: w.train(here / 'run'), here.parent / 'small')
            if o.complaint: return o.complaint
            if o.status == 0: return ''
            subprocess.run(['mount', '-o', 'remount,size=64m', str(here)], check=True)
            o = child(lambda: Training(w).again(here), here.parent / 'small')
            if o.status: return f'then {o.last}'
            target = Training(w)
            return difference(undisturbed(target, w.here / 'once')[0], target.state(here))
        finally: subprocess.run(['umount', str(here)])
    return f


def environment(**values):
    "With these variables, where None is one that is not set."
    def wrap(do, here):
        def f():
            enter(here)
            for k, v in values.items():
                if v is None: os.environ.pop(k, None)
                else: os.environ[k] = v.format(here=here)
            return do()
        return f
    return wrap


def places_tried() -> dict:
    out = {}
    if os.geteuid() == 0 and hasattr(os, 'setgroups'):
        out |= {'as another user, all read-only': everywhere(forbidden(0o755)),
                'as another user, nothing to be seen': everywhere(forbidden(0o700, 'tried')),
                'as another user, subfolders closed': everywhere(forbidden(0o700, 'results')),
                'as another user, runs closed': everywhere(forbidden(0o700, 'finished')),
                'as another user, half closed': everywhere(forbidden(0o700, 'half')),
                'as another user, evaluations closed': everywhere(forbidden(0o700, 'evaluations')),
                'as another user, files closed': everywhere(unreadable)}
        out |= {f'a disk of {size}': small_disk(size)
                for size in ('4k', '16k', '32k', '64k', '128k')}
    out |= {f'files of at most {size:,} bytes': everywhere(limited('RLIMIT_FSIZE', size))
            for size in (0, 100, 1000, 10_000)}
    out |= {
        f'at most {n} open files': everywhere(
            limited('RLIMIT_NOFILE', n), ('train', 'evaluate', 'study', 'publish', 'kaggle'))
        for n in (12,)}
    return out


NONSENSE = ('', 'x', '-1', '0', '1.5', '{here}', '{here}/nowhere', '/dev/null',
            '~nobody-is-called-so/x', ' ', 'é', '9' * 400)


def environments_tried() -> dict:
    names = ('CIFAR_NB_DATA', 'CIFAR_NB_CACHE', 'CIFAR_NB_PROGRESS', 'CIFAR_NB_KERNEL',
             'OMP_NUM_THREADS', 'KAGGLE_WORKING', 'KAGGLE_INPUT', 'KAGGLE_KERNEL_RUN_TYPE',
             'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'HOME', 'TMPDIR', 'XDG_CACHE_HOME',
             'CXX', 'COLUMNS', 'MPLBACKEND', 'MPLCONFIGDIR', 'PATH')
    def of(name):
        return lambda w, here, random_: '; '.join(
            filter(None, (in_environment(w, here, **{name: v}) for v in NONSENSE)))
    out = {f'{name} is nonsense': of(name) for name in names}
    def group(**v): return lambda w, here, random_: in_environment(w, here, **v)
    out |= {'RANK and MASTER_ADDR alone': group(RANK='1', MASTER_ADDR='localhost'),
            'RANK beyond WORLD_SIZE': group(
                RANK='2', WORLD_SIZE='2', MASTER_ADDR='localhost', MASTER_PORT='29999'),
            'nonsense of torchrun': group(RANK='x', WORLD_SIZE='y', MASTER_ADDR='z'),
            'no HOME': group(HOME=None), 'no PATH': group(PATH=None)}
    return out


def in_environment(w: World, here: Path, **values) -> str:
    "What goes wrong when every command that looks at the environment finds these `values`."
    def settings():
        enter(here)
        from cifar_nb.core.places import cache_folder, input_folder
        from cifar_nb.data.cifar import find
        from cifar_nb.data.images import find_competition, mounted, working_folder
        from cifar_nb.delivery.session import surroundings
        from cifar_nb.exercises.checker import check, progress_file
        from cifar_nb.training.distributed import asked
        from cifar_nb.training.jobs import threads_each
        (working_folder(), input_folder(), mounted(), find_competition(), surroundings(['cpu']),
         threads_each(2), asked(), cache_folder(), progress_file(), progress())
        check('01.1', lambda: 1)
        find(download=False, say=str)
    def progress():
        from cifar_nb.exercises.checker import progress
        return progress()
    ways = {k: v for k, v in ways_in(w, here).items()
            if k in ('train', 'table', 'reproduce', 'bring')} | dict(settings=settings)
    said = []
    for name, do in ways.items():
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(Book(w).here, here)
        o = child(environment(**values)(do, here), here)
        if o.complaint:
            said.append(f'{name} with {" ".join(f"{k}={v!r}"[:60] for k, v in values.items())}: '
                        f'{o.complaint}')
    return '; '.join(said)


# All of it

SWEPT = ('train', 'resume', 'evaluate', 'evaluate again', 'progress', 'study', 'ladder', 'publish',
         'migrate', 'kaggle build', 'bring back')
KILLED = dict(train={}, study={}, reproduce=dict(tries=8, pause=.5), evaluate={},
              torchrun=dict(kinds=('TERM', 'INT', 'HUP', 'KILL', 'STOP, CONT')))


def parts(world, every: int, shots: int) -> dict:
    "Every part of the table by its name, as a function that gives its rows."
    out = {f'sweep:{n}': lambda n=n: sweep(world(), n, every=every) for n in SWEPT}
    out |= {f'kill:{n}': lambda n=n,
            more=more: kills(world(), n, shots, **more) for n, more in KILLED.items()}
    out |= {f'damage:{pattern}': lambda p=pattern: damages(world(), only=p) for pattern in READERS}
    out['at once'] = lambda: repeated(world(), 'at once', AT_ONCE, max(1, shots // 2))
    out['places'] = lambda: repeated(world(), 'places', places_tried(), 1)
    out['environment'] = lambda: repeated(world(), 'environment', environments_tried(), 1)
    return out


def main(argv=None) -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('names', nargs='*', help='beginnings of the names of parts')
    p.add_argument('--every', type=int, default=1, help='of the file operations each K-th only')
    p.add_argument('--shots', type=int, default=8, help='random kills for each signal')
    p.add_argument('--json', type=Path, help='a file for the rows')
    p.add_argument('--list', action='store_true', help='the names of all parts')
    a = p.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix='faults-') as d:
        made = []
        def world():
            if not made: made.append(World(Path(d)))
            return made[0]
        chosen = {n: f for n, f in parts(world, a.every, a.shots).items() if not a.names
                  or n.startswith(tuple(a.names))}
        if a.list: print('\n'.join(chosen)); return 0
        if not chosen: p.error(f'no part begins with {" or ".join(a.names)}: --list names them')
        print(f'{"part":26}{"fault":34}{"tried":>6}{"well":>6}{"lost":>6}', flush=True)
        rows = []
        for f in chosen.values():
            rows += f()
            if a.json: keep(a.json, rows)
    lost = sum(len(r.lost) for r in rows)
    print(f'{sum(r.tried for r in rows)} tried, {lost} lost')
    return 1 if lost else 0


def keep(file: Path, rows: list):
    "Write `rows` to `file`, over those of the same part and fault, beside all others."
    from cifar_nb.core.files import read_json, to_json, write_atomic
    old = read_json(file) if file.exists() else {}
    write_atomic(
        file,
        to_json(
            old
            | {f'{r.part} | {r.fault}': dict(tried=r.tried, lost=r.lost, operations=r.operations)
               for r in rows}))


if __name__ == '__main__': sys.exit(main())
