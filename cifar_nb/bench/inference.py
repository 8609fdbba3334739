"""Plain module: answers raced: one network in several ways.

Tests: tests/test_throughput.py, chapter 40.
"""
import copy

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..augment.arguments import count
from ..augment.ops import normalize
from ..core.tables import Table
from ..core.timing import alternate, middle, once, ratio
from ..models.resnet import finish
from ..recipes.spec import Recipe
from ..training.loop import predict
from ..training.precision import Precision, choose_device, choose_precision
from .augmentation import Pictures, pillow_list
from .training import contenders, machine_facts, peaks, training_images

__all__ = ['Folded', 'fold_batch_norm', 'settled', 'plain_logits', 'ways_to_answer', 'percentile',
           'race_answers', 'alternate_calls', 'latency', 'bench_predict', 'predict_table']


class Folded(nn.Module):
    """What is left of a `BatchNorm` whose numbers are in the convolution: the addition and the
    activation."""
    def forward(self, x, activation=None, add=None): return finish(x, activation, add)

def fold_batch_norm(net: nn.Module) -> nn.Module:
    """A copy of `net`, to evaluate, whose batch norms are folded into the convolutions registered
    right before them."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval
    net = copy.deepcopy(net).eval()
    for m in list(net.modules()):
        children = list(m.named_children())
        for (a, conv), (b, bn) in zip(children, children[1:]):
            if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
                setattr(m, a, fuse_conv_bn_eval(conv, bn)); setattr(m, b, Folded())
    return net

def settled(recipe: Recipe, x, device='cpu') -> nn.Module:
    """A new network of `recipe` whose batch norms have seen the images `x`, not augmented, in
    evaluation mode."""
    torch.manual_seed(0)
    net, xb = (recipe.net.build().to(device).train(),
               normalize(x.to(device), recipe.phases[-1].mean, recipe.phases[-1].std))
    if hasattr(net, 'prepare'): net.prepare(xb)
    with torch.no_grad(): net(xb)
    return net.eval()


def plain_logits(net: nn.Module, x, phase, bs: int = 100) -> torch.Tensor:
    """The plain evaluation loop: torchvision's `ToTensor` and `Normalize` image by image, batches
    of `bs`, fp32."""
    device, out = next(net.parameters()).device, []
    with torch.no_grad():
        for xb in DataLoader(Pictures(x, pillow_list((), phase.mean, phase.std)), bs):
            out.append(net(xb.to(device)))
    return torch.cat(out).cpu()

def ways_to_answer(net: nn.Module, phase, device='cpu') -> dict:
    """Functions from uint8 images to logits of `net`: plain, then `predict` by number format, with
    batch norms and folded."""
    best = choose_precision(torch.device(device))
    formats = {p.name: p for p in (Precision('fp32', 'forced'), best)}
    last = lambda n: n.to(device, memory_format=torch.channels_last)
    whole, folded = (last(copy.deepcopy(net)),
                     {k: last(fold_batch_norm(net)).to(p.dtype) for k, p in formats.items()})
    call = lambda net, p: lambda x: predict(net, x, phase, p, 1000)
    return (
        {'plain': lambda x: plain_logits(net, x, phase)} | {
            k: call(whole, p) for k, p in formats.items()} |
        {f'{k}, folded': call(folded[k], p) for k, p in formats.items()})


def percentile(values: list, p: float) -> float:
    "The value that a share `p` (percent) of `values` stays under, by linear interpolation."
    return torch.quantile(torch.tensor(values, dtype=torch.float64), p/100).item()

def race_answers(recipe: Recipe, x, device='cpu', repeats: int = 3, calls: int = 30) -> list:
    """A row for each way: latency of one image over `repeats*calls` calls, images/s on `x`, ratio
    to the plain loop, relative distance of the logits."""
    ways = ways_to_answer(settled(recipe, x[:250], device), recipe.phases[-1], device)
    logits = {name: f(x) for name, f in ways.items()}
    for f in ways.values(): f(x[:1])
    rounds = alternate({name: lambda f=f: f(x) for name, f in ways.items()}, repeats)
    single = [r for _ in range(repeats) for r in alternate_calls(ways, x[:1], calls)]
    far = {name: ((v - logits['plain']).norm()/logits['plain'].norm()).item()
           for name, v in logits.items()}
    return [{'recipe': recipe.name, 'way': name, **latency([s[name] for s in single]),
             'images/s': len(x)/middle(rounds, name), **ratio(rounds, 'plain', name),
             'distance': far[name],
             'rounds': [r[name] for r in rounds]} for name in ways]

def alternate_calls(ways: dict, x, calls: int) -> list:
    "`calls` seconds of each way, one way after the other."
    seconds = {name: [once(lambda: f(x)) for _ in range(calls)] for name, f in ways.items()}
    return [{name: s[i] for name, s in seconds.items()} for i in range(calls)]

def latency(seconds: list) -> dict:
    "p50 and p95 in ms."
    return {'p50, ms': 1000*percentile(seconds, 50), 'p95, ms': 1000*percentile(seconds, 95)}


def bench_predict(
    names=(),            # as in `bench_train`
    images: int = 1000,
    repeats: int = 3,
    device: str | None = None,
    data=None,
    say=lambda s: None,
) -> dict:
    """Race the ways to answer for the recipes `names` (none: the five reports'): 'rows', machine,
    peaks and settings."""
    for name, value in (('repeats', repeats), ('images', images)):
        count('bench predict', name, value)
    recipes, device = contenders(names), choose_device(device)
    x, _, data = training_images(images, data)
    doc = dict(bench='predict', data=data, images=images, repeats=repeats, **machine_facts(device))
    doc |= dict(peak=peaks(device), rows=[])
    for r in recipes:
        doc['rows'] += (rows := race_answers(r, x, device, repeats))
        say(f"{r.name}: up to {max(row['ratio'] for row in rows):.2f} times the plain loop")
    return doc

def predict_table(doc: dict) -> Table:
    "The rows of `bench_predict` for reading."
    forms = {'images/s': '.0f', 'distance': '.1e'}
    return Table(
        ({k: format(v, forms[k]) if k in forms else v for k, v in r.items() if k != 'rounds'}
         for r in doc['rows']), 3)
