"""Plain module: several trainings at a time, each in a process of its own, watched and stopped from
here. Tests: tests/test_kaggle.py, tests/test_records.py, chapter 64.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import cifar_nb

from ..core.errors import InputError, check_choice
from ..core.files import make_folder, slug, there, write_atomic
from ..core.manifest import fingerprint, same_experiment
from ..core.plotting import curve_look
from ..recipes.spec import Recipe, recipe_from_json, trained
from .checkpoints import Run
from .distributed import Lost, asked
from .precision import choose_device
from .runs import agreement
from .signals import Interrupted
from .train import describe_images, planned, train

__all__ = ['too_old', 'choose_devices', 'Member', 'plan_members', 'identified', 'is_run_of',
           'train_worker', 'worker_main', 'torchrun_works', 'command_for', 'launch', 'tail',
           'share_done', 'check_runs', 'stop', 'raise_for_status', 'threads_each', 'train_members',
           'status', 'live_curves']


def too_old(capability: tuple, built_for: list) -> bool:
    """Whether a GPU of this compute `capability` has no code in a PyTorch `built_for` (as
    `torch.cuda.get_arch_list()`); of AMD's names ('gfx90a') nothing is known."""
    mine = 10 * capability[0] + capability[1]
    def runs(code):
        kind, n = code.split('_')[0], int(re.sub(r'\D', '', code))
        if not code[-1].isdigit(): return n == mine  # sm_90a: of that capability only
        return n <= mine and (kind == 'compute' or n // 10 == capability[0])
    nvidia = [code for code in built_for if code.startswith(('sm_', 'compute_'))]
    return bool(nvidia) and not any(map(runs, nvidia))

def choose_devices(names=None) -> list:
    """The devices to train on: `names` (one or several), or every GPU, or the CPU; a GPU that
    PyTorch has no code for is an `InputError`."""
    gpus, codes = ([f'cuda:{i}' for i in range(torch.cuda.device_count())],
                   torch.cuda.get_arch_list())
    wanted = [names] if isinstance(names, str) else list(names or gpus or ['cpu'])
    for d in wanted:
        if d in ('cuda', *gpus) and too_old(torch.cuda.get_device_capability(d), codes):
            raise InputError(f'The GPU {torch.cuda.get_device_name(d)} is too old for PyTorch '
                             f'{torch.__version__} ({", ".join(codes)}): choose the accelerator '
                             'GPU T4 x2, or none, in the settings.')
    return [str(choose_device(d)) for d in wanted]


@dataclass
class Member:
    "One training among several: `recipe` and `seed`, with its run in the folder `out`."
    recipe: object
    seed: int
    out: Path
    device: str = ''
    manifest: dict = None   # what its run is (of `planned`); `identified` fills it in
    process: object = None  # the process that trains it
    began: tuple = (0., 0.) # when that was (s), and how much was done by then

    @property
    def name(self) -> str: return self.out.name
    @property
    # what its process prints
    def notes(self) -> Path: return self.out.with_name(f'{self.name}.txt')
    @property
    def finished(self) -> bool: return there(self.out / 'result.json')
    @property
    def begun(self) -> bool:
        return any(there(self.out / f) for f in ('manifest.json', 'recipe.json'))
    @property
    def log(self) -> list:
        try: return Run(self.out).log
        except InputError: return []  # not begun, or damaged, which the training will tell

def plan_members(
    recipes,                  # a recipe, or several
    seeds=(0,),
    epochs: int | None = None,       # None leaves each recipe its own
    out='runs',               # the folder for the members' folders
    data: str = 'cifar10',    # 'toy' and `images` appear in the folders' names
    images: int | None = None,
) -> list:
    "A `Member` for each of `recipes` and each of `seeds`."
    recipes, seeds = [[v] if isinstance(v, (Recipe, int)) else list(v) for v in (recipes, seeds)]
    chosen = [r.with_epochs(epochs) if epochs is not None else r for r in recipes]
    if not chosen or not seeds or any(type(s) is not int or s < 0 for s in seeds):
        raise InputError(f'SEEDS = {seeds!r} with {len(chosen)} recipe(s): give at least one of '
                         'each, and seeds that are whole numbers from 0 on.')
    end = '-toy' * (data == 'toy') + (f'-{images}images' if images else '')
    members, taken = [], {}
    for r in chosen:
        for s in dict.fromkeys(seeds):
            name, what = (
                f'{slug(r.name)}{"-code" * (r.variant == "code")}-{r.epochs}epochs-seed{s}{end}',
                (trained(r), s))
            # the same recipe twice is one training
            if what in [w for w, _ in taken.values()]: continue
            if name in {n for _, n in taken.values()}: name = f'{name}-{fingerprint(what[0])[:6]}'
            taken[len(taken)] = what, name
            members.append(Member(r, s, Path(out) / name))
    return members

def identified(members: list, x: torch.Tensor, y: torch.Tensor, devices=('cpu',),
               data=None, parallel: str = 'members', **settings) -> list:
    """`members` with the manifest of each as it would be trained on `x`, `y` here (`data` as in
    `planned`). Where the folder
    of one holds another training (another hold-out, precision, images, or an older recipe of that
    name), it gets a folder of its own beside it: that of its run if there is one, else the next
    free name."""
    what = data if isinstance(data, dict) else describe_images(x, y, data)
    known = 'holdout', 'precision', 'keep', 'kernels'
    for m in members:
        m.manifest = planned(m.recipe, x, y, seed=m.seed, device=devices[0], data=what,
                             **{k: v for k, v in settings.items() if k in known})
        home = m.out
        for i in range(1, 1000):
            m.out = home if i == 1 else home.with_name(f'{home.name}-{i}')
            if not m.begun or is_run_of(m.out, m.manifest): break
    return members

def is_run_of(folder: Path, manifest: dict) -> bool:
    """Whether the run in `folder` is of the training `manifest`: finished, of the same experiment
    as far as is known; unfinished, one that can go on."""
    try: run = Run(folder); found = run.manifest
    except InputError: return False
    return same_experiment(found, manifest) if run.finished else not agreement(found, manifest)[0]


def train_worker(settings: dict) -> int:
    """Train the member that `settings` describe; the exit status: 0, 2 for a user's mistake, 143
    when it was stopped."""
    s, out, group = dict(settings), Path(settings['out']), asked()
    x, y, curve = torch.load(s.pop('images'), weights_only=True)
    recipe, s['out'], s['resume'] = recipe_from_json(s.pop('recipe')), out, any(
        there(out / f) for f in ('manifest.json', 'recipe.json'))
    s['device'] = s.pop('devices')[group.local]
    try: train(recipe, x, y, curve=curve, say=lambda line: print(line, flush=True), **s)
    except Lost as e: print(f'\n{e}', flush=True); return 3
    except InputError as e: print(f'\n{_SAYS}{e}', flush=True); return 2
    # torchrun ends the others if one ends otherwise
    except Interrupted as e: return 128 + e.signum if group.first else 0
    return 0

_SAYS = 'cifar_nb: '  # begins the sentence of a user's mistake

def worker_main(file):
    """What a member's process does: read the settings in `file` and `train_worker`, until the other
    end of its input is gone."""
    settings = json.loads(Path(file).read_text(encoding='utf-8'))
    def listen():
        while os.read(0, 1): pass  # nothing comes until the notebook's process has ended
        os.kill(os.getpid(), 15)
    threading.Thread(target=listen, daemon=True).start()
    os._exit(train_worker(settings))  # the thread may still be reading


def torchrun_works() -> bool:
    """Whether `torchrun` can start processes that find each other on this machine: for that PyTorch
    must be built with libuv, which builds for Windows may lack."""
    try:
        from torch.distributed import TCPStore
        TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    except (ImportError, RuntimeError): return False
    return True

def command_for(devices: list, file) -> list:
    """The command that trains the member whose settings are in `file`: one process, or `torchrun`
    with one for each of `devices`."""
    serving = [sys.executable, '-c', 'import sys; from cifar_nb.training.jobs import worker_main; '
               'worker_main(sys.argv[1])', str(file)]
    if len(devices) == 1: return serving
    return [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node',
            str(len(devices)), '--no-python', *serving]

def launch(m: Member, devices: list, threads: int, folder, **settings):
    """Start the training of `m` on `devices`, with `threads` of the CPU for each; its settings go
    into `folder`."""
    make_folder(m.out.parent)
    m.began, m.device = (time.time(), share_done(m)), ' '.join(devices)
    path = os.pathsep.join(
        filter(None, [str(Path(cifar_nb.__file__).parents[1]), os.environ.get('PYTHONPATH')]))
    env = os.environ | dict(PYTHONPATH=path, PYTHONIOENCODING='utf-8', OMP_NUM_THREADS=str(threads))
    file = Path(folder, f'{m.name}.json')
    write_atomic(
        file,
        json.dumps(
            settings | dict(recipe=m.recipe.to_json(), seed=m.seed, devices=devices,
                            out=str(m.out))))
    with open(m.notes, 'wb') as notes:
        m.process = subprocess.Popen(
            command_for(devices, file), stdin=subprocess.PIPE, stdout=notes, stderr=notes, env=env,
            start_new_session=True)  # so that the stop button reaches us and not them


_STEP = re.compile(r'epoch (\d+)/\d+:[^\r\n]* (\d+)/(\d+) \[')

def tail(m: Member, size: int = 4000) -> str:
    "The end of what the process of `m` has printed, `size` bytes of it."
    if not m.notes.exists(): return ''
    with open(m.notes, 'rb') as f:
        f.seek(max(0, m.notes.stat().st_size - size))
        return f.read().decode(errors='ignore')

def share_done(m: Member) -> float:
    "How much of its training `m` has done, from 0 to 1."
    done = len(m.log)
    if steps := _STEP.findall(tail(m)):
        epoch, step, of = map(int, steps[-1])
        done = max(done, epoch - 1 + step / of)
    return 1. if m.finished else min(1., done / m.recipe.epochs)


def check_runs(members: list):
    """Raise `InputError` where the folder of one of `members` has a run of another training than
    its manifest says."""
    for m in members:
        if m.begun and not is_run_of(m.out, m.manifest):
            raise InputError(f'{m.out} holds another training: give the recipe another name, or '
                             'delete that folder.')


def stop(members):
    "End the processes of `members`; each saves first."
    started = [m.process for m in members if m.process]
    for p in started: p.terminate()
    for p in started:
        try: p.wait(300)
        except subprocess.TimeoutExpired: p.kill()

def raise_for_status(m: Member):
    """Raise `InputError` with the last sentence of the process of `m` unless it finished or was
    told to stop."""
    m.process.stdin.close()
    if m.process.returncode in (0, 143, -15, 129, -1): return  # finished, or told to stop
    if not m.notes.exists():
        raise InputError(f'The training of {m.name} broke off with status {m.process.returncode}, '
                         f'and what it printed is gone: was {m.notes.parent} removed meanwhile?')
    lines = ([line for line in tail(m, 20_000).splitlines() if re.search(r'\w', line)]
             or ['it printed nothing'])
    if said := [line for line in lines if line.startswith(_SAYS)]:
        raise InputError(said[0].removeprefix(_SAYS))
    raise InputError(f'The training of {m.name} broke off with status {m.process.returncode} '
                     f'({lines[-1].strip()}): see {m.notes}.')


def threads_each(n: int) -> int:
    """Threads of the CPU for each of `n` trainings at a time: those that the environment names, or
    a fair share of the cores."""
    # OpenMP takes '4,2' as well
    named = os.environ.get('OMP_NUM_THREADS', '').split(',')[0].strip()
    return (int(named) if re.fullmatch('[1-9][0-9]{0,3}', named)
            else max(1, (os.cpu_count() or 1) // n))

def train_members(
    members: list,
    # say ['cuda:0', 'cuda:1']; a device that stands here twice trains two at a time
    devices: list,
    x: torch.Tensor,            # uint8 N,3,32,32
    y: torch.Tensor,            # int64 N
    until: float | None = None,        # the time (as time.time(), s) at which to save and stop
    show=lambda members: None,  # called every `poll` seconds
    poll: float = 1.,
    parallel: str = 'members',  # or 'data': one member after the other, each on all devices
    # one that is refused does not stop the others; then (finished, [(member, why)]) comes back
    patient: bool = False,
    curve=None,                 # for `train`: (images, labels) to measure after every epoch
    **settings,                 # for `train`: holdout, precision, info
) -> list:
    """Train what is not finished of `members`, each in processes of its own; the finished ones come
    back."""
    check_choice('PARALLEL', parallel, ('members', 'data'))
    if parallel == 'data' and len(devices) > 1 and not torchrun_works():
        raise InputError("PARALLEL = 'data' needs torchrun, and this PyTorch is built without "
                         "libuv, by which its processes meet: choose PARALLEL = 'members'.")
    if any(m.manifest is None for m in members):
        identified(members, x, y, devices, (settings.get('info') or {}).get('data'), **settings)
    refused, members = _refused(members) if patient else ([], members)
    check_runs(members)
    places = [list(devices)] if parallel == 'data' else [[d] for d in devices]
    waiting, running = [m for m in members if not m.finished], {}
    threads = threads_each(len(devices))
    with tempfile.TemporaryDirectory() as tmp:
        torch.save((x, y, curve), Path(tmp, 'images.pt'))
        try:
            while (waiting or running) and (until is None or time.time() < until):
                for i in [i for i in range(len(places)) if i not in running][:len(waiting)]:
                    running[i] = waiting.pop(0)
                    launch(running[i], places[i], threads, tmp, images=str(Path(tmp, 'images.pt')),
                           **settings)
                time.sleep(poll)
                show(members)
                for i in [i for i, m in running.items() if m.process.poll() is not None]:
                    m = running.pop(i)
                    try: raise_for_status(m)
                    except InputError as e:
                        if not patient: raise
                        refused.append((m, e))
        finally: stop(running.values())
    show(members)
    finished = [m for m in members if m.finished]
    return (finished, refused) if patient else finished

def _refused(members) -> tuple:
    "[(member, why)] of those whose folder holds another training, and the others."
    out = []
    for m in members:
        try: check_runs([m])
        except InputError as e: out.append((m, e))
    return out, [m for m in members if m not in [r for r, _ in out]]


def _clock(seconds: float) -> str:
    return f'{int(seconds // 3600)}:{int(seconds // 60) % 60:02}:{int(seconds) % 60:02}'

def status(members: list, now: float | None = None) -> str:
    """A line for each member: how far it is, its last figures, and the time it still needs at this
    rate."""
    lines = []
    for m in members:
        share, (began, before), last = share_done(m), m.began, (m.log or [{}])[-1]
        shown = [f'epoch {int(share * m.recipe.epochs)} of {m.recipe.epochs}']
        keys = ('train_loss', 'train_accuracy', 'val_accuracy')
        shown += [f'{k.replace("_", " ")} {last[k]:.3g}' for k in keys if k in last]
        if before < share < 1:
            shown.append(
                _clock(((now or time.time()) - began) * (1 - share) / (share - before)) + ' left')
        lines.append(f'{m.name:32} {m.device:7}{"█" * round(20 * share):░<20} {", ".join(shown)}')
    return '\n'.join(lines)

def live_curves(members: list):
    """Training loss and accuracy of all members, epoch by epoch, a marker and color for each
    (validation accuracy dashed), as a Figure."""
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(1, 2, figsize=(9, 2.6), layout='constrained')
    for i, m in enumerate(members):
        for key, ax, style in (('train_loss', 0, '-'), ('train_accuracy', 1, '-'),
                               ('val_accuracy', 1, '--')):
            points = [(l['epoch'], l[key]) for l in m.log if key in l]
            label = None if ax else m.name
            if points:
                axes[ax].plot(*zip(*points), style, ms=4, lw=1, label=label, **curve_look(i))
    for ax, label in zip(axes, ('loss', 'accuracy (%)')):
        ax.set(xlabel='epoch', ylabel=label)
        ax.spines[['top', 'right']].set_visible(False)
    if any(m.log for m in members): axes[0].legend(frameon=False, fontsize=9)
    if any('val_accuracy' in l for m in members for l in m.log):
        axes[1].set_title('dashed: validation', fontsize=9)
    plt.close(fig)
    return fig
