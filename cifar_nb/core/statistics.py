"""Plain module: how sure a mean of few runs is, what many comparisons cost, what n runs can see.

Tests: tests/test_budgets.py.
"""
from bisect import bisect_left
from math import comb
from statistics import mean, stdev

from .errors import InputError, missing

__all__ = ['t_interval', 'holm', 'mcnemar', 'pooled_spread', 'block_effect',
           'detectable_difference', 'runs_needed']


def _scipy() -> tuple:
    "The modules `stats` and `optimize` of scipy, or an `InputError` that says how to get them."
    try: from scipy import optimize, stats
    except ImportError: raise missing('scipy') from None
    return stats, optimize


def t_interval(values, level: float = .95) -> tuple:
    """Mean of `values` (two or more) and half the width of its interval of Student (1908) at
    `level`, in their unit."""
    if len(values) < 2: raise InputError('An interval needs two runs or more, with other seeds.')
    t = _scipy()[0].t.ppf((1 + level) / 2, len(values) - 1)
    return mean(values), float(t) * stdev(values) / len(values) ** .5


def holm(ps) -> list:
    """The p-values `ps` of several tests, adjusted after Holm (1979): at most a share alpha of such
    families has any adjusted p below alpha where nothing differs. In the order of `ps`."""
    out, highest = [0.] * len(ps), 0.
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1., (len(ps) - rank) * ps[i]))
        out[i] = highest
    return out


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test (1947): of `gained + lost` images about which
    two judges of the same images disagree, so many are right with the second only and with the
    first only. Every image tells against nobody where both are right or both are wrong."""
    n, k = gained + lost, min(gained, lost)
    return min(1., 2 * sum(comb(n, i) for i in range(k + 1)) / 2 ** n)


def pooled_spread(groups) -> float:
    "The standard deviation within `groups` (lists of two values or more), pooled over them."
    freedom = sum(len(g) - 1 for g in groups)
    return (sum((v - mean(g)) ** 2 for g in groups for v in g) / freedom) ** .5


def block_effect(tables) -> tuple:
    """(F, p) for the question whether the columns of `tables` differ once the means of the rows are
    taken off: the analysis of variance of two ways without repeats, pooled. A table is a list of
    rows of equal length, two or more of each; a column is a block, such as the runs of one seed."""
    stats, _ = _scipy()
    squares, freedom = [0., 0.], [0, 0]  # between columns, and what remains
    for rows in tables:
        rows = [[v - mean(row) for v in row] for row in rows]
        columns = [mean(c) for c in zip(*rows, strict=True)]
        n, m = len(rows), len(columns)
        squares[0] += n * sum(c ** 2 for c in columns)
        squares[1] += sum((v - c) ** 2 for row in rows for v, c in zip(row, columns))
        freedom[0] += m - 1
        freedom[1] += (m - 1) * (n - 1)
    F = squares[0] / freedom[0] / (squares[1] / freedom[1])
    return F, float(stats.f.sf(F, *freedom))


def detectable_difference(spread: float, n: int, power: float = .8, alpha: float = .05) -> float:
    """The smallest difference of two means of `n` runs each, with the standard deviation `spread`,
    that a two-sided t-test at level `alpha` sees with probability `power`; in the unit of
    `spread`."""
    if n < 2: raise InputError(f'{n} runs have no spread; give two or more.')
    (stats, optimize), freedom = _scipy(), 2 * n - 2
    critical = stats.t.ppf(1 - alpha / 2, freedom)
    # the spread that a test estimates, in the unit of the true one: 4,000 equally likely values
    found = (stats.chi2.ppf([(i + .5) / 4000 for i in range(4000)], freedom) / freedom) ** .5
    def lack(shift):  # below 0 while the test would see too little
        seen = stats.norm.cdf(shift - critical * found) + stats.norm.cdf(-shift - critical * found)
        return seen.mean() - power
    return float(optimize.brentq(lack, 0, 40 * critical) * spread * (2 / n) ** .5)


def runs_needed(difference: float, spread: float, power: float = .8, alpha: float = .05,
                most: int = 1000) -> int | None:
    """The fewest runs of each of two kinds with which a true `difference` is seen with probability
    `power`, by `detectable_difference`; None where `most` are not enough."""
    def sees(n): return detectable_difference(spread, n, power, alpha) <= abs(difference)
    if not sees(most): return None
    return bisect_left(range(2, most + 1), True, key=sees) + 2
