"""Plain module: from a recipe and images to a run: what is written, in which order, what stops it.

The steps themselves are those of `training.loop`. Tests: tests/test_training.py,
tests/test_runs.py, tests/test_faults.py, chapter 61.
"""
import platform
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from ..augment.ops import normalize
from ..core.errors import InputError, check_choice
from ..core.files import make_folder, there, to_json, write_atomic
from ..core.manifest import in_turn, new_manifest, tensors_fingerprint
from ..core.version import versions
from ..data.cifar import CIFAR10, split
from ..kernels.dispatch import cpu_kernels
from ..models.resnet import count_macs, count_parameters
from ..recipes.change import changes_between
from ..recipes.spec import Recipe, trained
from .checkpoints import (Run, keep_best, load_checkpoint, save_checkpoint, write_lines,
                          write_weights)
from .distributed import agree, asked, from_first, joined
from .loop import (MODES, Trainer, check_seed, compile_forward, end_epoch, loss_and_accuracy,
                   network, predict, train_epoch)
from .precision import Precision, choose_device, choose_precision, hardware, memory_order
from .runs import RunFiles, as_before, claimed, drop_checkpoint
from .signals import Interrupted, noting_signals

__all__ = ['train', 'kept_weights', 'check_compile', 'manifest_of', 'note_uncompiled', 'planned',
           'describe_images', 'first_look', 'first_line', 'run_epochs', 'add_to_curve', 'interrupt',
           'claim', 'begin_run', 'finish_run', 'machine', 'guarded']


def train(
    recipe: Recipe,
    x: torch.Tensor,               # uint8 images N,3,32,32
    y: torch.Tensor,               # int64 labels N
    out=None,                      # folder of the run; None keeps everything in memory
    *,
    seed: int = 0,
    device: str | None = None,     # default: the first CUDA GPU, else the CPU
    precision: str | None = None,  # default: by capability
    holdout: int = 0,              # images held out of `x` for validation, to judge the epochs by
    keep: str | None = None,       # weights: 'last', or 'best on validation' (default with holdout)
    kernels: bool | None = None,   # False: PyTorch's own layers; default: ours where they work
    resume: bool = False,          # go on with what is in `out`
    compile=False,                 # True, or a backend or a mode of `torch.compile`
    # (images, labels) to measure after every epoch: for drawing, for no choice whatever
    curve=None,
    say=print,                     # takes a sentence; `lambda s: None` for silence
    progress: bool = True,         # show a bar
    info: dict | None = None,      # more facts for result.json, say the name of the data
    # a named recipe that `recipe` is a change of: the manifest says what differs
    base: Recipe | None = None,
    # called after every epoch with its line of the log (a dict); what it raises is said once
    callback=None,
) -> Trainer:
    """Train `recipe`, with the other processes if `torchrun` started several; the trainer has
    network and log. Interrupted, it saves and raises `Interrupted`."""
    kept, held = split(y, holdout) if holdout else (torch.arange(len(y)), None)
    keep = kept_weights(keep, holdout)
    check_compile(recipe, compile)
    with (noting_signals() as caught, joined() as group,
          torch.random.fork_rng(range(torch.cuda.device_count())), ExitStack() as stack):
        t = Trainer(recipe, len(kept), seed, device, precision, group)
        t.keep = keep
        if not group.first: say, progress = (lambda s: None), False
        first_look(t, x, kept)
        say(first_line(t))
        nets = [t.net] if t.ema is None else [t.net, t.ema.module]
        used = stack.enter_context(
            cpu_kernels(*nets, wanted=kernels is not False and t.device.type == 'cpu', say=say))
        t.manifest = manifest_of(
            recipe, describe_images(x, y, (info or {}).get('data')), held, seed, keep, t.precision,
            t.device, used, group.size, compile, base)
        out = None if out is None else begin_run(t, Path(out), resume, say, stack)
        if compile:
            compile_forward(t, 'inductor' if compile is True else compile, say)
            if t.forward is t.net: note_uncompiled(t, out)
        held = None if held is None else (x[held], y[held])
        run_epochs(t, x[kept].to(t.device), y[kept].to(t.device), held, out, caught, say, progress,
                   guarded(callback, say) if group.first else None, curve)
        if t.best_weights is not None: network(t).load_state_dict(t.best_weights)
        if out is not None: from_first(group, lambda: finish_run(t, out, holdout, info))
    return t

def kept_weights(keep: str, holdout: int) -> str:
    """Which weights a training keeps: `keep` if it is given and possible, else 'best on validation'
    with a hold-out and 'last' without."""
    keep = keep or ('best on validation' if holdout else 'last')
    check_choice('kind of weights to keep', keep, ('last', 'best on validation'))
    if keep != 'last' and not holdout:
        raise InputError('keep=\'best on validation\' needs images to judge by: hold some out.')
    return keep

def check_compile(recipe: Recipe, compile):
    """Raise `InputError` for micro-batches with CUDA graphs, whose memory holds the gradients of
    one of them only."""
    if compile in MODES and any(0 < p.micro_batch < p.batch_size for p in recipe.phases):
        raise InputError(f'compile {compile!r} keeps the gradients of one micro-batch only, and '
                         f'{recipe.name} adds up several: compile it without a mode.')

def manifest_of(recipe: Recipe, data: dict, held, seed: int, keep: str, precision: Precision,
                device, kernels: list, processes: int = 1, compile=False,
                base: Recipe | None = None) -> dict:
    """What a training is, for `manifest.json`; `data` from `describe_images`, `held` the indices of
    the images held out, None for none; `base` the named recipe that `recipe` is a change of."""
    validation = (dict(images=0, indices=None) if held is None else
                  dict(images=len(held), indices=tensors_fingerprint(held)))
    return new_manifest(
        trained(recipe), recipe.name, recipe.variant, data=data, seed=check_seed(seed),
        weights=keep, validation=validation,
        precision=precision.name, memory_format=memory_order(precision), device=device.type,
        processor=hardware(device), processes=processes,
        threads=torch.get_num_threads(), kernels=kernels,
        differs=base and dict(of=base.name, variant=base.variant,
                              lines=changes_between(base, recipe)),
        compile='inductor' if compile is True else compile or False, versions=versions())

def note_uncompiled(t: Trainer, out: Path | None):
    "Put into the manifest that the network of this sitting runs as it is written, after all."
    t.manifest['sittings'][-1]['compile'] = False
    def write(): write_atomic(out / 'manifest.json', to_json(t.manifest))
    if out is not None: from_first(t.group, write)

def planned(recipe: Recipe, x, y, *, seed: int = 0, device: str | None = None,
            precision: str | None = None, holdout: int = 0, keep: str | None = None,
            kernels: bool | None = None,
            data=None) -> dict:
    """The manifest that `train` with these arguments would write on this machine; `data` is the
    name of the images, or what `describe_images` said of them."""
    device = choose_device(asked().device(device))
    held = split(y, holdout)[1] if holdout else None
    data = data if isinstance(data, dict) else describe_images(x, y, data)
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        net = recipe.net.build()
    with cpu_kernels(net, wanted=kernels is not False and device.type == 'cpu',
                     say=lambda s: None) as used:
        return manifest_of(recipe, data, held, seed, kept_weights(keep, holdout),
                           choose_precision(device, precision), device, used, asked().size)

def describe_images(x: torch.Tensor, y: torch.Tensor, name: str | None = None) -> dict:
    """Name, number and fingerprint of the images `x` and labels `y`; CIFAR-10's own are known by
    what they are."""
    mark = tensors_fingerprint(x, y)
    return dict(name='cifar10' if mark in CIFAR10.values() else name or 'unnamed', images=len(y),
                fingerprint=mark)

def first_look(t: Trainer, x: torch.Tensor, kept: torch.Tensor):
    """Show a network that asks for it (it has `prepare`, as in chapter 46) 5,000 training images
    before its first step."""
    if hasattr(t.net, 'prepare'):
        t.net.prepare(normalize(x[kept[:5000]].to(t.device), t.phase.mean, t.phase.std))

def first_line(t: Trainer) -> str:
    "What is about to be trained, on what, and why so."
    r, p, several = (t.recipe, t.precision,
                     f', one of {t.group.size} processes' if t.group.size > 1 else '')
    return (f'{r.title or r.name}: {count_parameters(t.net):,} parameters, {r.epochs} epochs of '
            f'{t.images:,} images, {t.device}{several}, {p.name}, '
            f'{"channels last" if p.channels_last else "channels first"} ({p.reason})')


def run_epochs(t, x, y, held, out, caught, say, progress, callback=None, curve=None):
    "Train until the recipe's last epoch, saving after each one and at a signal."
    from tqdm.auto import tqdm
    while t.epoch < t.recipe.epochs:
        start, at, epoch = time.perf_counter(), t.step, f'epoch {t.epoch + 1}/{t.recipe.epochs}'
        with tqdm(total=t.steps, initial=at, desc=epoch, unit='step', leave=False,
                  disable=not progress, mininterval=.5) as bar:
            def after(t):
                bar.update()
                signum = agree(t.group, caught)
                if signum and t.step < t.steps: interrupt(t, out, signum)
            train_epoch(t, x, y, after)
            t.sums.tolist()  # waits for the device
        share = max(1 - at / t.steps, 1 / t.steps)  # of the epoch, that was trained in this run
        phase = t.phase
        end_epoch(t, (time.perf_counter() - start) / share, held)
        if curve is not None: add_to_curve(t, *curve, phase)
        keep_best(t)
        if out is not None and t.epoch < t.recipe.epochs:
            from_first(t.group, lambda: save_checkpoint(t, out))
        say(
            f'{epoch}: ' + ', '.join(
                f'{k.replace("_", " ")} {v:.4g}' for k, v in t.log[-1].items() if k != 'epoch') +
            f', {t.timing[-1]["images_per_second"]:.0f} images/s')
        if callback is not None: callback(t.log[-1] | (t.curve[-1] if curve is not None else {}))
        signum = agree(t.group, caught)
        if signum and t.epoch < t.recipe.epochs: interrupt(t, out, signum)

def guarded(callback, say=print):
    """`callback`, for which no training ends: the first error that it raises is said, and from then
    on it is not called any more."""
    if callback is None: return None
    failed = []
    def call(line):
        if failed: return
        try: callback(line)
        except Exception as e:
            failed.append(e)
            why = f'{type(e).__name__}: {e}'.splitlines()[0][:200]
            say(f'The callback has failed in epoch {line["epoch"]} ({why}); the training goes on '
                'without it, and log.jsonl is complete.')
    return call

def add_to_curve(t: Trainer, x, y, phase):
    """Note loss and accuracy (%) of the network on the images `x` with the labels `y` after the
    epoch that has ended, which was of `phase`: it draws no random number and changes nothing."""
    def judge(): return loss_and_accuracy(predict(network(t), x, phase, t.precision), y)
    loss, accuracy = from_first(t.group, judge)
    t.curve.append(dict(epoch=t.epoch, test_loss=loss, test_accuracy=accuracy))

def interrupt(t, out, signum):
    "Save and raise `Interrupted`."
    if out is not None: from_first(t.group, lambda: save_checkpoint(t, out))
    where = f'epoch {t.epoch + 1}, step {t.step} of {t.steps}'
    raise Interrupted(f'stopped in {where}'
                      + (f'; {out} is saved, go on with --resume'
                         if out is not None else '; nothing was saved (no out)'), signum)


def claim(t: Trainer, out: Path, resume: bool, say=print, stack: ExitStack | None = None) -> str:
    """Make `out` the folder of this training, locked until `stack` closes, and give its name; a
    folder that holds anything else is an `InputError`."""
    make_folder(Path(out).parent)
    t.claim = stack or ExitStack()
    return str(
        claimed(t.claim, out, t.recipe,
                getattr(t, 'manifest', None) or dict(recipe=trained(t.recipe)), resume, say))

def begin_run(t: Trainer, out: Path, resume: bool, say=print,
              stack: ExitStack | None = None) -> Path:
    "Claim `out` (that of the first process), and go on with the checkpoint that is in it."
    out = Path(from_first(t.group, lambda: claim(t, out, resume, say, stack)))
    begun = from_first(t.group, lambda: RunFiles(out).manifest)
    # by a release without manifests
    if trained(t.recipe) != begun['recipe'] == trained(as_before(t.recipe, t.seed)):
        t.recipe = as_before(t.recipe, t.seed)
    if t.manifest: t.manifest = begun
    if there(out / 'checkpoint.pt'):
        elsewhere = load_checkpoint(t, out)
        say(f'going on in {out} at epoch {t.epoch + 1}, step {t.step}')
        if elsewhere:
            say(f'it was begun on another kind of device: on {t.device.type} the random numbers '
                'are others, so the digits are not those of a training in one place')
    return out


def finish_run(t: Trainer, out: Path, holdout: int = 0, info: dict | None = None):
    """Write log, model.safetensors and, last, result.json; then drop the checkpoint, which is no
    longer needed."""
    write_lines(t, out)
    write_weights(out / 'model.safetensors', network(t).state_dict(), t)
    seconds = sum(line['seconds'] for line in t.timing)
    write_atomic(out / 'result.json', to_json(dict(
        recipe=t.recipe.name, variant=t.recipe.variant, seed=t.seed, epochs=t.recipe.epochs,
        train_images=t.images, val_images=holdout, parameters=count_parameters(t.net),
        macs=count_macs(t.recipe.net.build()), seconds=round(seconds, 2),
        images_per_second=round(sum(sum(p.taken(t.images)) for p in t.recipe.phases) / seconds, 1),
        checkpoint=t.keep,
        best_val_accuracy=t.best if t.best_weights is not None else None, last=t.log[-1],
        **machine(t),
        **{**(info or {}), 'data': t.manifest['data']['name'], 'run': t.manifest['run'],
           'weights': Run.weights_of(out)})))
    drop_checkpoint(out)

def machine(t: Trainer) -> dict:
    "What the training ran on: the machines of all its sittings, one after the other."
    m = t.manifest or dict(sittings=[dict(device=t.device.type, processor=hardware(t.device))])
    return dict(device=in_turn(m, 'device'), hardware=in_turn(m), processes=t.group.size,
                threads=torch.get_num_threads(), precision=t.precision.name,
                reason=t.precision.reason, memory_format=memory_order(t.precision),
                torch=torch.__version__, python=platform.python_version())
