"""Plain module: a network in evaluation mode for a while. Tests: tests/test_blocks.py."""
from contextlib import contextmanager

from torch import nn

__all__ = ['evaluating']


@contextmanager
def evaluating(net: nn.Module):
    "`net` in evaluation mode inside; then each of its modules as it was."
    modes = {m: m.training for m in net.modules()}
    try: yield net.eval()
    finally:
        for m, training in modes.items(): m.training = training
