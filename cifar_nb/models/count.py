"""Plain module: parameters and multiply-adds of a network from its spec, without building it.

`resnet.count_parameters` and `resnet.count_macs` ask the network itself; tests/test_count.py holds
both against each other.
"""
from dataclasses import replace
from typing import NamedTuple

from .airbench import FastSpec
from .resnet import NetSpec

__all__ = ['Counts', 'counts_of', 'scaled', 'deeper']


class Counts(NamedTuple):
    "Of one network: trainable parameters, and multiply-adds for one image."
    parameters: int
    macs: int

    def __add__(self, other): return Counts(*map(sum, zip(self, other)))


def _conv(c_in: int, c_out: int, kernel: int, side: int) -> Counts:
    "A convolution without bias that puts out `side` x `side` places."
    weights = c_in * c_out * kernel ** 2
    return Counts(weights, weights * side ** 2)


def _linear(c_in: int, c_out: int, bias: bool) -> Counts:
    return Counts((c_in + bias) * c_out, c_in * c_out)


def _norm(c: int, trained: int = 2) -> Counts: return Counts(trained * c, 0)


def _block(spec: NetSpec, c_in: int, c: int, stride: int, side: int) -> Counts:
    "A block of the ResNet `spec` whose output has `side` x `side` places."
    out = _conv(c_in, c, 3, side) + _conv(c, c, 3, side)
    out += _norm(c_in if spec.block == 'preact' else c) + _norm(c)
    if spec.block != 'plain' and (stride != 1 or c_in != c):
        out += _conv(c_in, c, spec.shortcut_kernel, side)
        if spec.block == 'basic': out += _norm(c)
    if spec.se: out += _linear(c, c // spec.se, False) + _linear(c // spec.se, c, False)
    return out


def _resnet(spec: NetSpec, side: int) -> Counts:
    c = spec.stem or spec.widths[0]
    out, before = _conv(3, c, 3, side), spec.block == 'preact'
    if not before: out += _norm(c)
    for width, depth, stride in zip(spec.widths, spec.depths, spec.strides):
        for i in range(depth):
            if i == 0: side = (side - 1) // stride + 1
            out += _block(spec, c, width, stride if i == 0 else 1, side)
            c = width
    return out + (_norm(c) if before else _norm(0)) + _linear(c, spec.classes, True)


def _fast(spec: FastSpec, side: int) -> Counts:
    c, side = 6 * spec.whiten ** 2, side - spec.whiten + 1
    first = _conv(3, c, spec.whiten, side)
    out = Counts(0, first.macs) if spec.whitened else first + _norm(c, 1)  # frozen, or with a bias
    for width in spec.widths:
        out += _conv(c, width, 3, side) + _norm(width, 1)
        side //= 2
        for _ in range(spec.depth - 1): out += _conv(width, width, 3, side) + _norm(width, 1)
        c = width
    return out + _linear(c, spec.classes, False)


def counts_of(spec, size: int = 32) -> Counts:
    """Trainable parameters of the network that `spec` (`NetSpec` or `FastSpec`) describes, and the
    multiply-adds of its convolutions and linear layers for one `3 x size x size` image."""
    return (_fast if isinstance(spec, FastSpec) else _resnet)(spec, size)


def scaled(net: NetSpec, factor: float) -> NetSpec:
    "`net` with all channels multiplied by `factor`."
    def times(c): return max(round(c * factor), 1)
    stem = times(net.stem) if net.stem else 0
    return replace(net, widths=tuple(map(times, net.widths)), stem=stem)


def deeper(net: NetSpec, factor: int) -> NetSpec:
    "`net` with `factor` times the blocks, and as wide as its parameters then allow."
    deep, most = (replace(net, depths=tuple(d * factor for d in net.depths)),
                  counts_of(net).parameters)
    narrower = (scaled(deep, k / 64) for k in range(64, 0, -1))
    return next(n for n in narrower if counts_of(n).parameters <= most)
