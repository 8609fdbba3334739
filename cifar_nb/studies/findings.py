"""Plain module: what the studies of chapter 32 could see, and which of their differences stand.

Tests: tests/test_ablations.py, chapter 32.
"""
from ..core.statistics import detectable_difference, holm, pooled_spread
from ..core.tables import Table
from ..teams.claims import LESS_IS_BETTER, compare, trials

__all__ = ['could_see', 'in_words', 'comparisons']


def could_see(study, runs, scale: str = 'fast', power: float = .8) -> dict:
    """What `study` could see at `scale`: runs of each variation, the spread of its measure (pooled
    standard deviation, points) and the smallest difference to the base that is seen with `power`;
    none with fewer than two runs of each."""
    groups = [v for v in trials(runs, study.name, scale, study.measure).values() if len(v) > 1]
    if len(groups) < 2: return {}
    n, spread = min(map(len, groups)), pooled_spread(groups)
    return {'runs': n, 'spread': spread,
            'could see': detectable_difference(spread, n, power) if spread else 0.}


def in_words(study, runs, scale: str = 'fast') -> str:
    "A sentence with what the study `could_see`, '' where nobody knows."
    told = could_see(study, runs, scale)
    return '' if not told else (
        f'{study.measure}: runs of one kind differ by {told["spread"]:.2f} points (standard '
        f'deviation), so {told["runs"]} of each show a difference of {told["could see"]:.2f} in '
        'four of five such studies.')


def comparisons(studies, runs, scale: str = 'fast') -> Table:
    """One row a variation of `studies` with two runs or more: measure, runs, its mean less that of
    the base with the standard error, what the study could see (all in points), p of Welch's
    test, and p after Holm's correction for all rows."""
    rows = []
    for s in studies:
        found = {k: v for k, v in trials(runs, s.name, scale, s.measure).items() if len(v) > 1}
        if 'base' not in found: continue
        base, sees = found.pop('base'), could_see(s, runs, scale)
        told = ((k, found[k], compare(found[k], base, s.measure in LESS_IS_BETTER))
                for k in s.variations if k in found)
        rows += [{'study': s.name, 'variation': k, 'measure': s.measure, 'runs': len(v),
                  'to the base': f'{c.difference:+.2f} ± {c.error:.2f}',
                  'could see': f'{sees["could see"]:.2f}', 'p': c.p} for k, v, c in told]
    return Table(({**r, 'p, Holm': p} for r, p in zip(rows, holm([r['p'] for r in rows]))),
                 digits=3)
