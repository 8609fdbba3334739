"""Plain module: where the time of a training step goes, and what each part of ours is worth.

Tests: tests/test_throughput.py, chapter 40.
"""
import statistics
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ..augment.arguments import count
from ..augment.ops import Augment, Resize
from ..core.tables import Table
from ..core.timing import alternate, middle, once, ratio
from ..kernels.dispatch import KERNELS
from ..recipes.spec import Recipe
from ..recipes.vary import vary
from ..training.precision import choose_device, choose_precision
from .training import OurWay, contender, enough, machine_facts, peaks, training_images, work

__all__ = ['PARTS', 'part_of', 'labelled_calls', 'profile_step', 'spent_in_parts', 'varied',
           'VARIATIONS', 'cost_table', 'cost', 'PIECES', 'bench_parts', 'parts_table']


PARTS = {
    'augmentation': ('augmentation',),
    'optimizer': ('Optimizer.',),
    'convolution, backward': ('ConvolutionBackward', '_ByProductBackward', '_TiledBackward'),
    'pooling': ('max_pool', 'MaxPool', 'aten::mean', 'MeanBackward', 'aten::amax', 'AmaxBackward'),
    'batch norm': ('BatchNorm', 'batch_norm', '_AtOnce', 'cifar_nb::norm'),
    'convolution, forward': ('convolution', 'conv2d', 'winograd', '_Tiled'),
    'elementwise': ('aten::relu', 'aten::silu', 'aten::gelu', 'aten::add', 'aten::to', 'aten::mul',
                    'AddBackward', 'ReluBackward',
                    'SiluBackward', 'GeluBackward', 'ToCopyBackward', 'MulBackward',
                    'ThresholdBackward'),
}

def part_of(event) -> str:
    "The name in PARTS for a profiler's `event`, or 'the rest'."
    chain = []
    while event is not None: chain.append(event.name); event = event.cpu_parent
    found = (part for name in reversed(chain) for part, words in PARTS.items()
             if any(w in name for w in words))
    return next(found, 'the rest')

@contextmanager
def labelled_calls(owner, method: str, name: str):
    "While it lasts, the profiler sees every call of `owner.method` under `name`."
    plain = getattr(owner, method)
    def labelled(*args, **kwargs):
        with record_function(name): return plain(*args, **kwargs)
    setattr(owner, method, labelled)
    try: yield
    finally: setattr(owner, method, plain)


def profile_step(recipe: Recipe, steps: int = 3, device: str | None = None, data=None,
                 precision: str | None = None) -> Table:
    """Where `steps` steps of `recipe` spend their time: rows of 'part', 'ms a step' and 'share' of
    the wall clock."""
    device, n = choose_device(device), steps*recipe.phases[-1].batch_size
    way = OurWay(recipe, *training_images(n, data)[:2], device, precision)
    way.epoch()
    sides = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA]*(device.type == 'cuda')
    with labelled_calls(Augment, '__call__', 'augmentation'), profile(activities=sides) as seen:
        wall = once(way.epoch)
    spent = spent_in_parts(seen.events(), device.type == 'cuda')
    spent['the rest'] += max(0., wall - sum(spent.values()))
    total = sum(spent.values())
    return Table(
        ({'part': part, 'ms a step': 1000*s/steps, 'share': s/total} for part, s in spent.items()),
        3)

def spent_in_parts(events, cuda: bool = False) -> dict:
    """Seconds of each part: those of the operations themselves, or with `cuda` of the kernels that
    they started."""
    spent, own = (dict.fromkeys([*PARTS, 'the rest'], 0.),
                  'self_device_time_total' if cuda else 'self_cpu_time_total')
    for e in events:
        if e.device_type == torch.autograd.DeviceType.CPU: spent[part_of(e)] += getattr(e, own)/1e6
    return spent


def varied(recipe: Recipe, what: str, value) -> Recipe:
    "`recipe` with a batch of `value` images, or every width or depth `value` times as large."
    depths = tuple(d * value for d in recipe.net.depths) if what == 'depth' else ()
    return vary(recipe, **dict(batch=dict(batch_size=value), width=dict(width_factor=value),
                               depth=dict(depths=depths))[what])

VARIATIONS = dict(batch=(16, 32, 64, 128, 256, 512), width=(.5, 1, 2), depth=(1, 2, 3))

def cost_table(
    recipe: Recipe,
    images: int = 512,               # an epoch
    repeats: int = 2,                # epochs, whose median counts
    device: str | None = None,
    data=None,                       # as in `bench_train`
    best: dict | None = None,        # what `peaks` gave
    variations: dict | None = None,  # what to vary: values; default: VARIATIONS
) -> Table:
    """Seconds for 1,000 images, our way, as batch, width and depth of `recipe` vary, and the share
    of the peak."""
    device, (x, y, _) = choose_device(device), training_images(images, data)
    best, variations = best or peaks(device), variations or VARIATIONS
    return Table(
        ({'varied': what, 'to': v, **cost(varied(recipe, what, v), x, y, device, repeats, best)}
         for what, values in variations.items() for v in values), 3)

def cost(recipe: Recipe, x, y, device, repeats: int, best: dict) -> dict:
    """Parameters, multiply-adds (M), seconds for 1,000 images and share of peak of training
    `recipe` our way."""
    enough(recipe, len(x))
    way, w = OurWay(recipe, x, y, device), work(recipe)
    way.epoch()
    s = statistics.median(once(way.epoch) for _ in range(repeats)) * 1000/len(x)
    return {'parameters': w['parameters'], 'MACs (M)': w['macs']/1e6, 's for 1,000 images': s,
            'share of peak': 6e-6*w['macs']/s/best[way.trainer.precision.name]}


# what is taken away: the precision to train in (None: the machine's), and the kernels that are left
PIECES = {
    'nothing': (None, KERNELS),
    'half-width numbers': ('fp32', KERNELS), 'channels last': ('nchw', KERNELS),
    'our convolutions': (None, ('fused_norm',)), 'our norms': (None, ('product', 'winograd'))}


def bench_parts(names=('laptop',), images: int | None = None, repeats: int = 3,
                device: str | None = None, data=None) -> dict:
    """For each recipe of `names` and each of `PIECES`: how many times as long an epoch of `images`
    (default: 4,096) takes without it; 'rows', and the machine."""
    device, images = choose_device(device), 4096 if images is None else images
    for name, value in (('images', images), ('repeats', repeats)):
        count('bench parts', name, value)
    x, y, data = training_images(images, data)
    doc = dict(bench='parts', data=data, images=images, repeats=repeats, **machine_facts(device),
               peak=peaks(device), rows=[])
    for recipe in map(contender, names):
        enough(recipe, images)
        doc['rows'] += _without(recipe, x, y, device, repeats)
    return doc

def _whole(ops) -> tuple: return tuple(op for op in ops if not isinstance(op, Resize))

def _without(recipe, x, y, device, repeats) -> list:
    """The rows of `recipe`, on whole images: every way takes an epoch to warm up, and then they
    alternate."""
    best = choose_precision(device).name
    recipe = replace(recipe, phases=tuple(replace(p, augment=_whole(p.augment))
                                          for p in recipe.phases))
    def way(precision, kernels):
        ours = OurWay(recipe, x, y, device, f'{best} nchw' if precision == 'nchw' else precision,
                      kernels=kernels)
        ours.epoch()
        return ours.epoch
    rounds = alternate({name: way(*piece) for name, piece in PIECES.items()}, repeats)
    return [{'recipe': recipe.name, 'without': name, 'images/s': len(x) / middle(rounds, name),
             **ratio(rounds, name, 'nothing'), 'rounds': [r[name] for r in rounds]}
            for name in PIECES]

def parts_table(doc: dict) -> Table:
    "The rows of `bench_parts` for reading."
    words = {'half-width numbers': 'bf16', 'our norms': 'our batch norms'}
    return Table(({'recipe': r['recipe'], 'without': words.get(r['without'], r['without']),
                   'images/s': round(r['images/s']),
                   **{k: f"{r[k]:.2f}" for k in ('ratio', 'least', 'most')}} for r in doc['rows']),
                 3)
