"""Plain module: quick in fewer epochs, its whole plan shrunk: what chapter 00_start expects of a
slow machine. Tests: tests/test_fit.py.
"""
from ..data.cifar import load
from ..recipes.house import QUICK
from .ladder import ladder_table, run_ladder

__all__ = ['lengths', 'command_lengths']


def lengths() -> dict:
    "Name to recipe: quick in 1, 2, 4 and 8 epochs."
    return {f'{n} epoch{"s" * (n > 1)}': QUICK.with_epochs(n) for n in (1, 2, 4, 8)}


def command_lengths(seeds: int = 1, results='results', data: str | None = None,
                    device: str | None = None, say=print):
    "What `cifar_nb ladder lengths` does: train the missing lengths and print the table."
    x, y = load('train', data, say=say)
    records = run_ladder(x, y, results, seeds, device=device, say=say, rungs=lengths(),
                         name='lengths', kernels=None)
    say(str(ladder_table(records, lengths())))
