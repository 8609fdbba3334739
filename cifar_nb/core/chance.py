"""Plain module: whether what was counted fits a probability. Tests: tests/test_augment.py,
chapters 07a and 07d.
"""
import torch

__all__ = ['within']


def within(count, n, p, sigmas=5.) -> bool:
    """Whether every `count` (a number or a tensor) out of `n` lies within `sigmas` binomial
    standard deviations of `n*p`."""
    return bool(((torch.as_tensor(count) - n*p).abs() <= sigmas*(n*p*(1-p))**.5 + 1e-9).all())
