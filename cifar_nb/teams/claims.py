"""Plain module: what a report claims beside what was computed or measured: verdicts, and
differences between trials with their error.

Tests: tests/test_teams.py, tests/test_ablations.py, chapter 20.
"""
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from statistics import mean, stdev, variance
from typing import NamedTuple

from ..core.errors import InputError, missing
from ..core.files import read_json, there
from ..core.manifest import UNKNOWN, experiment, fingerprint
from ..core.statistics import detectable_difference, pooled_spread, runs_needed
from ..core.tables import Table, words
from ..evaluation.records import one_a_seed, study_records
from ..evaluation.report import standard_error
from ..recipes.spec import Claim, Recipe

__all__ = ['Estimate', 'estimate', 'Finding', 'decimals', 'verdict', 'Check', 'computed',
           'measured', 'not_checkable', 'check_claims', 'repeated_by', 'stated', 'claims_table',
           'Comparison', 'compare', 'LESS_IS_BETTER', 'trial_runs', 'trials', 'contest', 'mattered',
           'in_all', 'raced']


@dataclass(frozen=True)
class Estimate:
    """The mean `value` of `n` runs, and the `margin` by which one more run may lie beside it (95 of
    100 do), both in the unit of the figure."""
    value: float
    margin: float
    n: int
    def brief(self) -> str: return f'{self.value:.2f} ± {self.margin:.2f} (n = {self.n})'

def estimate(values, groups=()):
    """The `Estimate` (None without any) from the figures `values` (%) of runs that differ by their
    seed, with the spread that the seeds make in all `groups` of such runs; where no run was
    repeated, with two binomial errors on 10,000 images."""
    if not values: return None
    try: from scipy.stats import t
    except ImportError: raise missing('scipy', 'notebook') from None
    repeated, n = [g for g in groups if len(g) > 1], len(values)
    freedom = sum(len(g) - 1 for g in repeated)
    s = pooled_spread(repeated) if repeated else 0.
    # equal runs are repeats of one: nothing is known of their spread
    margin = (float(t.isf(.025, freedom)) * s * (1 + 1 / n) ** .5 if s else
              2 * standard_error(mean(values), 10_000))
    return Estimate(mean(values), margin, n)

class Finding(str):
    """What was found, in words, and `again`: what measures just that again, behind `cifar_nb`."""
    again = ''
    def __new__(cls, told: str, again: str = ''):
        self = super().__new__(cls, told)
        self.again = again
        return self

def decimals(value) -> int:
    """How many digits `value` has after the point, as it is written: 95.53 has 2, 5e-4 has 4, 250
    has 0."""
    return max(0, -Decimal(str(value)).as_tuple().exponent)

def verdict(claim: Claim, found) -> str:
    """'agrees', 'differs', 'open' or 'not checkable': the `claim` beside the figure `found`, None
    where there is none."""
    v, number = claim.value, lambda n: isinstance(n, (int, float)) and not isinstance(n, bool)
    if claim.check == 'not checkable': return 'not checkable'
    if found is None or words(found).startswith('open:'): return 'open'
    if isinstance(found, Estimate):
        least, most = v if isinstance(v, tuple) else (v, v)
        ok = least - found.margin <= found.value <= most + found.margin
    elif isinstance(v, tuple) and number(found): ok = v[0] <= found <= v[1]
    elif not number(v) or not number(found): ok = words(v) == words(found).split(':')[0]
    elif claim.check == 'measured' and claim.unit == '%':
        ok = abs(found - v) <= 2 * standard_error(v, 10_000)
    else: ok = round(found, decimals(v)) == v
    return 'agrees' if ok else 'differs'


class Check(NamedTuple):
    "A claim, and `find(results)`: the figure that it is held against, None while nothing is known."
    claim: Claim
    find: Callable
    again: str = ''  # what measures it again, behind `cifar_nb`, if it is no full run

def computed(what, value, unit, where, find) -> Check:
    "A claim whose figure `find()` computes, from the recipe, the code or the team's own log."
    return Check(Claim(what, value, unit, where), lambda results: find())

def measured(what, value, unit, where, find=lambda results: None, again: str = '') -> Check:
    """A claim that needs trainings: `find(results)` looks for it in the recorded runs, and `again`
    measures it again (default: what `find` says itself)."""
    return Check(Claim(what, value, unit, where, 'measured'), find,
                 again or getattr(find, 'again', ''))

def not_checkable(what, value, where) -> Check:
    "A claim that no computation and no training can settle."
    return Check(Claim(what, value, '', where, 'not checkable'), lambda results: None)


def check_claims(checks, results=()) -> tuple:
    """The claims of `checks`, each with the figure found and the verdict; `results` are the records
    of `load_results`."""
    found = [(c.claim, c.find(results)) for c in checks]
    return tuple(replace(claim, found=f, verdict=verdict(claim, f)) for claim, f in found)

def repeated_by(check: Check, found, recipe: Recipe) -> str:
    """The command that measures again what `check` found, '' for a claim that is not measured;
    `recipe` is the team's, whose full run settles what no other command does."""
    if check.claim.check != 'measured': return ''
    again = getattr(found, 'again', '') or check.again or f'reproduce {recipe.name}'
    return f'cifar_nb {again}'

def stated(claim: Claim) -> str:
    "The claim's value with its unit, a range as '93 to 94 %'."
    value = (f'{" to ".join(words(v) for v in claim.value)}' if isinstance(claim.value, tuple)
             and claim.unit else words(claim.value))
    return f'{value} {claim.unit}'.strip()

def claims_table(checks, results=()) -> Table:
    """One row a claim: what is claimed, the report's figure and its place, how it is checked, the
    figure found, the verdict."""
    return Table(
        {'claim': c.what, 'report': stated(c), 'where': c.where, 'check': c.check, 'found': c.found,
         'verdict': c.verdict} for c in check_claims(checks, results))


class Comparison(NamedTuple):
    "Some runs beside others; all but `p` in the unit of the figures."
    mean: float
    spread: float      # standard deviation of these runs
    difference: float  # their mean less that of the others
    error: float       # standard error of the difference
    p: float           # of Welch's two-sided test
    finding: str       # 'better', 'worse' or 'no difference seen'

def compare(these, others, lower: bool = False, alpha: float = .05) -> Comparison:
    """`these` figures (two or more) beside the `others`, by Welch's test (1947) at level `alpha`;
    `lower`: less is better."""
    try: from scipy.stats import t
    except ImportError: raise missing('scipy', 'notebook') from None
    if min(len(these), len(others)) < 2:
        raise InputError(f'{len(these)} and {len(others)} runs cannot be compared; give two or '
                         'more of each, with other seeds.')
    (m, v), (k, w) = ((mean(a), variance(a) / len(a)) for a in (these, others))
    difference, error = m - k, (v + w) ** .5
    # the squares of the variances themselves may underflow
    shares = [s / (v + w) for s in (v, w)] if error else [1, 0]
    freedom = 1 / (shares[0] ** 2 / (len(these) - 1) + shares[1] ** 2 / (len(others) - 1))
    # equal runs are repeats of one: nothing is known of their spread
    p = float(2 * t.sf(abs(difference) / error, freedom)) if error else 1.0
    return Comparison(m, stdev(these), difference, error, p,
                      'no difference seen' if p >= alpha else 'better'
                      if (difference > 0) != lower else 'worse')


# among the measures of a run; of the others, more is better
LESS_IS_BETTER = ('falls', 'late fall', 'gap')

def trial_runs(results) -> list:
    """The single runs of chapter 32's studies in `ablations` beside the records `results` (of
    `load_results`); none without a folder."""
    folder = getattr(results, 'folder', None)
    return study_records(Path(folder, 'ablations')) if folder else []

def _setting(r: dict) -> str:
    "What trials must share to be compared: everything but the recipe and the seed."
    return fingerprint(
        {k: v for k, v in experiment(r['manifest']).items() if k not in ('recipe', 'seed')})

def _began(r: dict) -> str:
    return (r['manifest']['sittings'][0].get('began', '')
            if r['manifest']['sittings'][0].get('began') != UNKNOWN else '')

def trials(runs, study: str, scale: str, measure: str = 'accuracy') -> dict:
    """The figures of each variation of `study`, those of its base under 'base': name to list, one a
    seed.

    Only trials of one data set, hold-out, precision and set of kernels, and beside the base that
    their records name, with the seeds of the variations; of several the newest."""
    ours = [r for r in runs if r.get('scale') == scale]
    own = [r for r in ours if r.get('study') == study]
    if real := [r for r in own if r['manifest']['data'].get('name') != 'toy']: own = real
    if not own: return {}
    last = max(own, key=_began)
    own = [r for r in own if (_setting(r), r['base']) == (_setting(last), last['base'])]
    seeds = {r['manifest']['seed'] for r in own}  # rates may be chosen with other ones
    out = {
        'base': [r for r in ours if _setting(r) == _setting(last)
                 and fingerprint(r['manifest']['recipe']) == last['base']
                 and r['manifest']['seed'] in seeds]}
    for name in dict.fromkeys(r['variation'] for r in own):
        same = [r for r in own if r['variation'] == name]
        newest = max(same, key=_began)['manifest']['recipe']
        out[name] = [r for r in same if r['manifest']['recipe'] == newest]
    return {name: [r['measures'][measure] for r in one_a_seed(rs)] for name, rs in out.items()
            if rs}


# what a verdict says of the scale of its study, the most telling scale first
_SCALES = dict(full='at full scale', medium='at medium scale', long='at small scale, in 40 epochs',
               fast='at small scale')

def _at_best_scale(results, study, measure, wanted):
    """(words, figures of each variation) at the first scale at which `wanted(figures)` holds, the
    most telling one first, else None."""
    runs = [r for r in trial_runs(results) if r['manifest']['data'].get('name') != 'toy']
    for scale, name in _SCALES.items():
        found = {k: v for k, v in trials(runs, study, scale, measure).items() if len(v) > 1}
        if wanted(found): return name, found

def _told(where, a, b, what, claimed, lower=False, alpha=.05, late=False):
    """'yes', 'no' or 'open' with the comparison of the figures `a` and `b` (None: with 0) in words,
    and where none is seen with the difference that would have been, in 80 of 100 such comparisons,
    and the runs of each that would show the one found; `late`: short trainings cannot say no."""
    c = compare(a, b or [0., 0.], lower, alpha)
    seen = c.finding != 'no difference seen'
    answer = ('yes' if seen and c.finding in claimed else 'no' if seen
              and not (late and where in (_SCALES['fast'], _SCALES['medium'])) else 'open')
    why = '' if answer != 'open' else ', too short to refute' if seen else ' no difference seen'
    runs = [len(g) for g in (a, b) if g]
    n, could = ' and '.join(map(str, dict.fromkeys(runs))), ''
    if b and not seen:
        spread = pooled_spread([a, b])
        least = detectable_difference(spread, min(runs), alpha=alpha)
        enough = runs_needed(c.difference, spread, alpha=alpha)
        could = (f'; {least:.1f} would be, and this with n '
                 + (f'= {enough}' if enough else 'above 1,000'))
    return (f'{answer}: {where}{why}, {what} {c.difference:+.1f} ± {c.error:.1f} points '
            f'(n = {n}, p = {c.p:.2g}{could})')


def _study_again(study: str, where: str = '', *groups) -> str:
    "The command of `study` at the scale that `where` names, with the seeds of `groups` of figures."
    scale = next((s for s, name in _SCALES.items() if name == where), 'fast')
    seeds = max(map(len, groups), default=3)  # three unless it is told otherwise
    return (f'ablate {study.replace(" ", "-")}' + f' --scale {scale}' * (scale != 'fast')
            + f' --seeds {seeds}' * (seeds != 3))

def _told_by(study: str, find):
    "`find`, which says by which command its study is run, as long as nothing is found."
    find.again = _study_again(study)
    return find


def contest(study: str, better, than=('base',), measure: str = 'accuracy',
            late: bool = False, told: str = '') -> Callable:
    """`find(results)` for the claim that the best of the variations `better` of a study beats the
    best of `than` by `measure` (a gain: beats 0, `than=()`); in a name `*` stands for anything.
    `late`: it may pay in long trainings only, so short ones cannot refute it; `told`: what the
    measure is called."""
    lower = measure in LESS_IS_BETTER
    def named(found, patterns): return [n for n in found if any(fnmatch(n, p) for p in patterns)]
    def has(found, patterns):
        return not patterns or named(found, patterns) and {
            p for p in patterns if '*' not in p} <= set(found)
    def best(found, names): return (min if lower else max)((found[n] for n in names), key=mean)
    def find(results):
        there = _at_best_scale(results, study, measure,
                               lambda found: has(found, better) and has(found, than))
        if not there: return None
        where, found = there
        these, others = named(found, better), named(found, than)
        a, b = best(found, these), best(found, others) if than else None
        # the best of several: so many tests
        alpha = .05 / (len(these) * max(1, len(others)))
        return Finding(_told(where, a, b, told or measure, ('better',), lower, alpha, late),
                       _study_again(study, where, a, b or ()))
    return _told_by(study, find)

def mattered(study: str, measure: str = 'accuracy') -> Callable:
    """`find(results)` for the claim that what `study` varies makes a difference to `measure`: the
    surest of its comparisons with the base."""
    def find(results):
        there = _at_best_scale(results, study, measure,
                               lambda found: 'base' in found and len(found) > 1)
        if not there: return None
        where, found = there
        base, others = found['base'], {k: v for k, v in found.items() if k != 'base'}
        name = min(others, key=lambda k: compare(others[k], base).p)
        told = _told(where, others[name], base, f'{measure} with {name}', ('better', 'worse'),
                     measure in LESS_IS_BETTER, .05 / len(others))
        return Finding(told, _study_again(study, where, others[name], base))
    return _told_by(study, find)


def in_all(measure: str) -> Callable:
    """`find(results)` for the claim that `measure`, what a change gains beside the same network
    without it, is above 0: over the trials of all studies."""
    def find(results):
        runs = [r for r in trial_runs(results) if r['manifest']['data'].get('name') != 'toy']
        gains = [r['measures'][measure] for r in runs if measure in r['measures']]
        if len(gains) < 2: return None
        return Finding(_told('over all studies', gains, None, measure, ('better',)), 'ablate')
    return find

def raced(results, bench: str, **row):
    """The images/s of the first row with the values of `row` in the record `bench`.json of a race,
    which lies beside the records `results`; None without one."""
    folder = getattr(results, 'folder', None)
    file = folder and Path(folder, 'bench', f'{bench}.json')
    rows = read_json(file, 'race again.')['rows'] if file and there(file) else []
    return next((r['images/s'] for r in rows if row.items() <= r.items()), None)
