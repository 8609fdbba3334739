"""Plain module: compiled kernels for the layers of one network, where a processor has them.

    names = use_cpu_kernels(net)    # swaps layers of this network, in place: see print(net)
    use_torch_layers(net)           # and back

A swapped layer has the weights, the hooks and the names in `state_dict` that it had before; only
its class is another, whose `forward` computes the same in another way. Other networks of the
process are left alone. Tests: tests/test_kernels.py.
"""
import functools
import platform
from contextlib import contextmanager
from timeit import timeit

from torch import nn

from ..models.airbench import PooledGroup
from ..models.resnet import BatchNorm, Conv
from .fused_norm import FusedBatchNorm, norm_kernel
from .gradient import ProductConv, cpu_has
from .winograd import AlreadyPooled, PooledWinogradConv, WinogradConv, kernel, may_pay

__all__ = ['KERNELS', 'use_cpu_kernels', 'use_torch_layers', 'cpu_kernels']

KERNELS = ('fused_norm', 'product', 'winograd')
PLAIN_LAYERS = {FusedBatchNorm: BatchNorm, ProductConv: Conv, WinogradConv: Conv,
                PooledWinogradConv: Conv, AlreadyPooled: nn.MaxPool2d}


def use_cpu_kernels(net: nn.Module, say=print, names=KERNELS) -> list:
    """Swap those layers of `net` that compiled kernels may make faster; sorted, the kernels in use.

    Of `names` 'winograd' is chapter 43's convolution, 'product' the gradient of chapter 42 (on
    processors with tiles for matrices, where 'winograd' brings it along for maps that are too
    small for it), 'fused_norm' the batch norm of chapter 44. Nothing changes for a kernel that
    does not work here; `say` is told why, once."""
    say, used = functools.cache(say), []
    if 'fused_norm' in names and _fuse_norms(net, say): used.append('fused_norm')
    if 'product' in names and _use_products(net): used.append('product')
    if 'winograd' in names and _use_tiles(net, say): used.append('winograd')
    return used


def use_torch_layers(net: nn.Module):
    "Give every layer of `net` the class that it was built with."
    for m in net.modules():
        if type(m) in PLAIN_LAYERS: m.__class__ = PLAIN_LAYERS[type(m)]


@contextmanager
def cpu_kernels(*nets, wanted: bool = True, say=print):
    "`use_cpu_kernels` for `nets` in this block, if they are `wanted`; the names of the first's."
    try:
        used = [use_cpu_kernels(net, say) if wanted else [] for net in nets]
        yield used[0]
    finally:
        for net in nets: use_torch_layers(net)


def _ready(load, what: str, say) -> bool:
    "Whether the kernel that `load` compiles works here: it gives operations, or None and why not."
    seconds, (ops, *_, why) = timeit(load, number=1), load()
    if ops and seconds > 2: say(f'a kernel for {what} was compiled in {seconds:.0f} s and is kept')
    if not ops and platform.system() == 'Linux': say(f'without compiled kernels: {why}')
    return bool(ops)


def _fuse_norms(net, say) -> bool:
    norms = [m for m in net.modules() if type(m) is BatchNorm and m.num_features % 8 == 0]
    if not norms or not _ready(norm_kernel, 'batch norms', say): return False
    for m in norms: m.__class__ = FusedBatchNorm
    return True


def _use_products(net) -> bool:
    convs = [m for m in net.modules() if type(m) is Conv]
    if not convs or not cpu_has('amx_bf16'): return False
    for m in convs: m.__class__ = ProductConv
    return True


def _use_tiles(net, say) -> bool:
    groups = [m for m in net.modules() if isinstance(m, PooledGroup)]
    pooled = [(g, g.conv1) for g in groups if may_pay(g.conv1, True)]
    first = {id(g.conv1) for g in groups}
    others = [m for m in net.modules()
              if type(m) in (Conv, ProductConv) and id(m) not in first and may_pay(m, False)]
    if not pooled and not others or not _ready(kernel, 'convolutions', say): return False
    for g, conv in pooled: conv.__class__, g.pool.__class__ = PooledWinogradConv, AlreadyPooled
    for m in others: m.__class__ = WinogradConv
    return True
