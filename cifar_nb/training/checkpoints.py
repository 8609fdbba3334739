"""Plain module: the state of a training on disk: snapshots to go on from, and runs that are opened.

Tests: tests/test_training.py, tests/test_runs.py, tests/test_faults.py, chapter 61.
"""
import io
import json
from pathlib import Path

import torch
from torch import nn

from ..core.errors import InputError
from ..core.files import there, to_json, write_atomic
from ..core.manifest import differing, fingerprint
from ..core.names import renamed_log
from ..recipes.spec import advance, recipe_from_json, trained
from .loop import Trainer, network
from .precision import choose_device, memory_order
from .runs import RunFiles, as_before, read_checkpoint

__all__ = ['snapshot', 'restore', 'begun_elsewhere', 'Run', 'write_lines', 'save_checkpoint',
           'load_checkpoint', 'keep_best', 'write_weights', 'unfinished_net']


_PARTS = ('net', 'opt', 'scaler', 'ema')

def snapshot(t: Trainer) -> dict:
    "Everything that `restore` needs to go on exactly here."
    s = {k: getattr(t, k).state_dict() for k in _PARTS if getattr(t, k) is not None}
    s |= {k: getattr(t, k) for k
          in ('seed', 'images', 'epoch', 'step', 'sums', 'lr', 'log', 'timing', 'best')}
    s |= dict(recipe=t.recipe.to_json(), precision=t.precision.name,
              memory_format=memory_order(t.precision), rng=t.rng.get_state(),
              torch_rng=torch.get_rng_state())
    if t.best_weights is not None: s['best_weights'] = t.best_weights
    if t.manifest: s['manifest'] = t.manifest
    if t.curve: s['curve'] = t.curve
    s['order'] = t.order.to(torch.int32)
    if t.losses is not None: s['losses'] = t.losses
    if t.device.type == 'cuda': s['cuda_rng'] = torch.cuda.get_rng_state(t.device)
    if t.phase.schedule.shape == 'plateau': s['plateau'] = t.scheduler.state_dict()
    return s

def restore(t: Trainer, s: dict):
    """Put the snapshot `s` into a trainer made with the same recipe, images, seed and precision.

    On the kind of device where it was taken the training goes on to the digit; on another one with
    other random numbers, and, in the epoch that was interrupted, with the images that are left."""
    t.epoch = s['epoch']
    t.begin_phase()
    t.begin_epoch()
    for k in ('step', 'lr', 'timing', 'best'): setattr(t, k, s[k])
    t.log, t.curve = [renamed_log(line) for line in s['log']], s.get('curve', [])
    t.best_weights = ({k: v.cpu() for k, v in s['best_weights'].items()}
                      if s.get('best_weights') else None)
    if 'order' in s: t.order = s['order'].to(t.device, torch.int64)
    if t.losses is not None: t.losses = s['losses'].to(t.device)
    t.sums.copy_(s['sums'])
    done = t.epoch - t.begun
    if 'plateau' in s: t.scheduler.load_state_dict(s['plateau'])
    else:
        advance(t.scheduler, sum(t.phase.steps(t.images)[:done]) + t.step
                if t.phase.schedule.unit == 'step' else done)
    for k in _PARTS:
        if getattr(t, k) is not None: getattr(t, k).load_state_dict(s[k])
    if t.ema is not None: t.ema.multi_avg_fn.n = int(t.ema.n_averaged)
    if begun_elsewhere(t, s):
        # the numbers of one kind of device mean nothing to another's: others of this epoch's own
        t.rng.manual_seed(int(fingerprint([t.seed, t.epoch, t.step]), 16) % 2 ** 63)
    else: t.rng.set_state(s['rng'].cpu())
    torch.set_rng_state(s['torch_rng'].cpu())
    if 'cuda_rng' in s and t.device.type == 'cuda':
        torch.cuda.set_rng_state(s['cuda_rng'].cpu(), t.device)

def begun_elsewhere(t: Trainer, s: dict) -> bool:
    """Whether the snapshot `s` was taken on another kind of device than that of `t`, whose random
    numbers are others."""
    return s['rng'].numel() != t.rng.get_state().numel()


class Run(RunFiles):
    """A training's folder `path`, opened for reading: recipe, log, result, manifest, evaluations,
    and the network."""
    def load_net(self, device: str | None = None) -> nn.Module:
        "The trained network in evaluation mode, from model.safetensors."
        from safetensors.torch import load_file
        self.check_weights()
        net = self.recipe.net.build()
        try: net.load_state_dict(load_file(self.path / 'model.safetensors'))
        except Exception as e:
            raise InputError(f'{self.path / "model.safetensors"} does not fit its recipe or is '
                             f'damaged ({type(e).__name__}): train again.') from None
        bad = [k for k, v in net.state_dict().items() if v.is_floating_point()
               and not v.isfinite().all()]
        if bad:
            raise InputError(f'{self.path / "model.safetensors"} has weights that are not numbers '
                             f'(in {bad[0]}): train again, with a smaller learning rate.')
        return net.to(choose_device(device), memory_format=torch.channels_last).eval()


def unfinished_net(run: RunFiles, device: str | None = None) -> nn.Module:
    """The network of an unfinished training as its checkpoint has it, in evaluation mode: the
    weights that were best on the validation images where those are kept, else the moving average
    where the recipe has one, else the last."""
    s = read_checkpoint(run.path)
    net, average = run.recipe.net.build(), s.get('ema') or {}
    weights = s.get('best_weights') or {
        k.removeprefix('module.'): v for k, v in average.items() if k.startswith('module.')
    } or s['net']
    try: net.load_state_dict(weights)
    except RuntimeError:
        raise InputError(f'{run.path / "checkpoint.pt"} does not fit its recipe: start again with '
                         'another --out.') from None
    return net.to(choose_device(device), memory_format=torch.channels_last).eval()


def write_lines(t: Trainer, out: Path):
    """Write log and timing of `t` into the folder `out`, a line of JSON an epoch, and the test
    curve if it has one."""
    files = dict(log=t.log, timing=t.timing) | (dict(test=t.curve) if t.curve else {})
    for name, lines in files.items():
        write_atomic(out / f'{name}.jsonl', ''.join(to_json(line, None) + '\n' for line in lines))

def save_checkpoint(t: Trainer, out: Path):
    "Write log, timing and everything else of `t` into the folder `out`."
    buffer = io.BytesIO()
    torch.save(snapshot(t), buffer)
    write_lines(t, out)
    write_atomic(out / 'checkpoint.pt', buffer.getvalue())

def load_checkpoint(t: Trainer, out: Path) -> bool:
    """Go on where the checkpoint in `out` stopped; it must come from the same recipe, images, seed
    and precision. Returns whether it was made on another kind of device."""
    file, s = out / 'checkpoint.pt', read_checkpoint(out)
    ours = dict(recipe=trained(t.recipe), seed=t.seed, images=t.images, precision=t.precision.name,
                memory_format=memory_order(t.precision))
    theirs = s | dict(recipe=trained(recipe_from_json(s['recipe'])),
                      memory_format=s.get('memory_format', ours['memory_format']))
    if 'memory_format' not in s:
        theirs['recipe'] = trained(as_before(recipe_from_json(s['recipe']), s['seed']))
    other = [k for k, v in ours.items() if theirs.get(k) != v]
    if not other and 'manifest' in s and t.manifest:
        other = differing(s['manifest'], t.manifest, ('kernels',))
    if other:
        raise InputError(f'{file} belongs to another training ({", ".join(other)} '
                         f'differ{"s" * (len(other) == 1)}): resume with the same settings or '
                         'choose another --out.')
    restore(t, s)
    best = out / 'best.safetensors'  # an older release kept the best weights beside the checkpoint
    if t.best >= 0 and t.best_weights is None and there(best):
        from safetensors.torch import load_file
        try: t.best_weights = load_file(best)
        except Exception as e:
            raise InputError(f'{best} cannot be read ({type(e).__name__}), it may be cut off: '
                             'start again with another --out.') from None
    return begun_elsewhere(t, s)


def keep_best(t: Trainer):
    """Keep the weights of the epoch that is best on the validation images so far, if those are
    asked for."""
    score = t.log[-1].get('val_accuracy', -1.0)
    if score <= t.best or t.keep == 'last': return
    t.best, t.best_weights = score, {
        k: v.detach().cpu().clone() for k, v in network(t).state_dict().items()}

def write_weights(path: Path, weights: dict, t: Trainer):
    "Write `weights` as safetensors, with the recipe's name: the same bytes for the same weights."
    from safetensors.torch import save
    weights = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    # one entry: several would come in any order
    about = json.dumps(dict(recipe=t.recipe.name, variant=t.recipe.variant, seed=t.seed))
    write_atomic(path, save(weights, metadata=dict(cifar_nb=about)))
