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
from ..core.manifest import experiment, fingerprint, kernels_of
from ..core.statistics import detectable_difference, pooled_spread, runs_needed
from ..core.tables import Table, words
from ..evaluation.records import largest_kind, last_began, one_a_seed, study_records
from ..evaluation.report import standard_error
from ..recipes.spec import Claim, Recipe

__all__ = ['Estimate', 'estimate', 'Finding', 'decimals', 'verdict', 'Check', 'computed',
           'measured', 'not_checkable', 'check_claims', 'repeated_by', 'stated', 'found_in_words',
           'claims_table',
           'Comparison', 'compare', 'LESS_IS_BETTER', 'trial_runs', 'trials', 'late_decline',
           'if_as_found', 'would_be_seen', 'contest', 'avoided', 'mattered',
           'at_equal_budget', 'or_at_equal_budget', 'in_all', 'raced']


@dataclass(frozen=True)
class Estimate:
    """The mean `value` of `n` runs, the `margin` by which one more run may lie beside it (95 of 100
    do), and the standard deviation `spread` of the runs (0 where none was repeated), all in the
    unit of the figure."""
    value: float
    margin: float
    n: int
    spread: float = 0.
    def brief(self) -> str: return f'{self.value:.2f} ± {self.margin:.2f} (n = {self.n})'

def estimate(values, groups=()):
    """The `Estimate` (None without any) from the figures `values` (%) of runs that differ by their
    seed, with the spread that the seeds make in all `groups` of such runs; where no run was
    repeated, with two binomial errors on 10,000 images."""
    if not values: return None
    try: from scipy.stats import t
    except ImportError: raise missing('scipy') from None
    repeated, n = [g for g in groups if len(g) > 1], len(values)
    freedom = sum(len(g) - 1 for g in repeated)
    s = pooled_spread(repeated) if repeated else 0.
    # equal runs are repeats of one: nothing is known of their spread
    margin = (float(t.isf(.025, freedom)) * s * (1 + 1 / n) ** .5 if s else
              2 * standard_error(mean(values), 10_000))
    return Estimate(mean(values), margin, n, s)

class Finding(str):
    """What was found, in words; `again`, what measures just that again, behind `cifar_nb`; and `p`
    of the test that decides, times the number of tests it was chosen from (None without one)."""
    again, p = '', None
    def __new__(cls, told: str, again: str = '', p: float | None = None):
        self = super().__new__(cls, told)
        self.again, self.p = again, p
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

def not_checkable(what, value, where, why: str) -> Check:
    "A claim that no computation and no training can settle, and `why`."
    return Check(Claim(what, value, '', where, 'not checkable'), lambda results: why)


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

def found_in_words(claim: Claim) -> str:
    "What was found, in words; of a measured claim without any, that it waits for a run."
    return 'no run yet' if claim.check == 'measured' and claim.found is None else words(claim.found)

def claims_table(checks, results=()) -> Table:
    """One row a claim: what is claimed, the report's figure and its place, how it is checked, the
    figure found, the verdict."""
    return Table(
        {'claim': c.what, 'report': stated(c), 'where': c.where, 'check': c.check,
         'found': found_in_words(c), 'verdict': c.verdict} for c in check_claims(checks, results))


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
    except ImportError: raise missing('scipy') from None
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
LESS_IS_BETTER = ('falls', 'late decline', 'gap')

def trial_runs(results) -> list:
    """The single runs of chapter 32's studies in `ablations` beside the records `results` (of
    `load_results`); none without a folder."""
    folder = getattr(results, 'folder', None)
    return study_records(Path(folder, 'ablations')) if folder else []

def _setting(r: dict) -> str:
    "What trials must share to be compared: everything but the recipe and the seed."
    return fingerprint(
        {k: v for k, v in experiment(r['manifest']).items() if k not in ('recipe', 'seed')})

def trials(runs, study: str, scale: str, measure: str | Callable = 'accuracy') -> dict:
    """The figures of each variation of `study`, those of its base under 'base': name to list, one a
    seed.

    Only trials of one data set, hold-out, precision and set of kernels, and beside the base that
    their records name, with the seeds of the variations; of several the newest. `measure` is one
    of those that a record holds, or a function of the record."""
    ours = [r for r in runs if r.get('scale') == scale]
    own = [r for r in ours if r.get('study') == study]
    if real := [r for r in own if r['manifest']['data'].get('name') != 'toy']: own = real
    if not own: return {}
    last = max(own, key=last_began)
    own = [r for r in own if (_setting(r), r['base']) == (_setting(last), last['base'])]
    seeds = {r['manifest']['seed'] for r in own}  # rates may be chosen with other ones
    out = {
        'base': [r for r in ours if _setting(r) == _setting(last)
                 and fingerprint(r['manifest']['recipe']) == last['base']
                 and r['manifest']['seed'] in seeds]}
    for name in dict.fromkeys(r['variation'] for r in own):
        same = [r for r in own if r['variation'] == name]
        newest = max(same, key=last_began)['manifest']['recipe']
        out[name] = [r for r in same if r['manifest']['recipe'] == newest]
    figure = measure if callable(measure) else lambda r: r['measures'][measure]
    return {name: [figure(r) for r in one_a_seed(rs)] for name, rs in out.items() if rs}

def late_decline(curve: list) -> float:
    """By how much an accuracy falls late, in points: the mean of `curve`, one value an epoch, over
    its third quarter less that over the last; 0 in a single epoch. The best epoch would be no
    measure: of a curve that goes up and down it is the luckiest."""
    if len(curve) < 2: return 0.
    quarter = max(1, len(curve) // 4)
    return mean(curve[-2 * quarter:-quarter]) - mean(curve[-quarter:])


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

def if_as_found(difference: float, error: float, spread: float, n: int,
                alpha: float = .05) -> str:
    """After a comparison of `n` runs each that saw nothing: the runs of each that would show the
    `difference` in 80 of 100 such comparisons, if it is the true one. '' where they are no more
    than `n`, without a spread, and where it does not exceed its standard `error`: then nobody
    knows."""
    enough = spread and abs(difference) > error and runs_needed(difference, spread, alpha=alpha)
    return f'; n = {enough} if it is as found' if enough and enough > n else ''

def would_be_seen(difference: float, error: float, spread: float, n: int,
                  alpha: float = .05) -> str:
    """After a comparison of `n` runs each that saw nothing: the difference that would have been
    seen in 80 of 100 such comparisons, and `if_as_found`, or where nobody knows the runs that would
    show one point. '' without a spread."""
    if not spread: return ''
    more, enough = if_as_found(difference, error, spread, n, alpha), runs_needed(1., spread,
                                                                                 alpha=alpha)
    if abs(difference) <= error and enough > n: more = f'; n = {enough} would show 1 point'
    return f'; {detectable_difference(spread, n, alpha=alpha):.1f} would be{more}'

def _told(where, a, b, what, claimed, again, lower=False, alpha=.05, short=False, more=''):
    """'yes', 'no' or 'open' with the comparison of the figures `a` and `b` (None: with 0) in words,
    and where none is seen what `would_be_seen`; one of .05 / `alpha` tests, by which p is
    multiplied (Bonferroni). `short`: such trainings cannot say no. `again` measures it again;
    `more` is said at the end."""
    c = compare(a, b or [0., 0.], lower, alpha)
    seen, p = c.finding != 'no difference seen', min(1., c.p * .05 / alpha)
    answer = ('yes' if seen and c.finding in claimed else 'no' if seen and not short else 'open')
    why = '' if answer != 'open' else ', too short to refute' if seen else ' no difference seen'
    runs = [len(g) for g in (a, b) if g]
    n, could = ' and '.join(map(str, dict.fromkeys(runs))), ''
    if b and not seen:
        could = would_be_seen(c.difference, c.error, pooled_spread([a, b]), min(runs), alpha)
    return Finding(f'{answer}: {where}{why}, {what} {c.difference:+.1f} ± {c.error:.1f} points '
                   f'(n = {n}, p = {p:.2g}{could}){more}', again, p)


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
            late: bool = False, told: str = '', looks: int = 1) -> Callable:
    """`find(results)` for the claim that the best of the variations `better` of a study beats the
    best of `than` by `measure` (a gain: beats 0, `than=()`); in a name `*` stands for anything.
    `late`: it may pay in long trainings only, so short ones cannot refute it; `told`: what the
    measure is called; `looks`: how often the runs were compared while some were added. A gap,
    and accuracy on disturbed images, is told with the accuracy, which moves it as well."""
    lower = measure in LESS_IS_BETTER
    def named(found, patterns): return [n for n in found if any(fnmatch(n, p) for p in patterns)]
    def has(found, patterns):
        return not patterns or named(found, patterns) and {
            p for p in patterns if '*' not in p} <= set(found)
    def best_name(found, names): return (min if lower else max)(names, key=lambda n: mean(found[n]))
    def best(found, names): return found[best_name(found, names)]
    def find(results):
        there = _at_best_scale(results, study, measure,
                               lambda found: has(found, better) and has(found, than))
        if not there: return None
        where, found = there
        these, others = named(found, better), named(found, than)
        a, b = best(found, these), best(found, others) if than else None
        # the best of several: so many tests
        alpha = .05 / (len(these) * max(1, len(others))) / looks
        more = '' if measure not in ('gap', 'disturbed') else _accuracy_of(
            results, study, *(best_name(found, names) for names in (these, others)))
        return _told(where, a, b, told or measure, ('better',),
                     _study_again(study, where, a, b or ()), lower, alpha,
                     late and where in (_SCALES['fast'], _SCALES['medium']), more)
    return _told_by(study, find)

def _accuracy_of(results, study, this, other) -> str:
    "The accuracy of the variation `this` of `study` less that of `other`, in words."
    _, found = _at_best_scale(results, study, 'accuracy', lambda found: {this, other} <= set(found))
    c = compare(found[this], found[other])
    return f', accuracy {c.difference:+.1f} ± {c.error:.1f}'

def avoided(study: str, by: str, without: str) -> Callable:
    """`find(results)` for the claim that the variation `by` of a study avoids the `late_decline`
    that comes with `without`: there it is above 0, and here it is less. Open while there is nothing
    to avoid."""
    told = 'late decline'
    def of_curve(r): return late_decline(r['curve'])  # older records hold no such measure
    def find(results):
        there = _at_best_scale(results, study, of_curve, lambda found: {by, without} <= set(found))
        if not there: return None
        (where, found), name = there, f'{told} with {without}'
        again = _study_again(study, where, found[by], found[without])
        alone = _told(where, found[without], None, name, ('better',), again)
        if not alone.startswith('yes'):
            told_alone = alone.split(': ', 1)[1].replace(' no difference seen', '')
            return Finding(f'open: nothing to avoid {told_alone}; a longer training may have it',
                           again, alone.p)
        return _told(where, found[by], found[without], told, ('better',), again, lower=True)
    return _told_by(study, find)

def mattered(study: str, measure: str = 'accuracy', looks: int = 1) -> Callable:
    """`find(results)` for the claim that what `study` varies makes a difference to `measure`: the
    surest of its comparisons with the base; `looks` as for `contest`."""
    def find(results):
        there = _at_best_scale(results, study, measure,
                               lambda found: 'base' in found and len(found) > 1)
        if not there: return None
        where, found = there
        base, others = found['base'], {k: v for k, v in found.items() if k != 'base'}
        name = min(others, key=lambda k: compare(others[k], base).p)
        return _told(where, others[name], base, f'{measure} with {name}', ('better', 'worse'),
                     _study_again(study, where, others[name], base), measure in LESS_IS_BETTER,
                     .05 / len(others) / looks)
    return _told_by(study, find)


def at_equal_budget(results, one: str, other: str):
    """Whether the recipe `one` ends with more accuracy than `other` where both may cost the same
    (chapter 31), as a `Finding` at the largest budget with two seeds or more of both; None without
    them. Such trainings are short, and cannot refute."""
    folder = getattr(results, 'folder', None)
    runs = [r for r in (study_records(Path(folder, 'budgets')) if folder else [])
            if r['variation'] in (one, other) and r['manifest']['data'].get('name') != 'toy']
    for budget in sorted({r['budget'] for r in runs}, reverse=True):
        both = [largest_kind([r for r in runs if (r['budget'], r['variation']) == (budget, name)],
                             _judged) for name in (one, other)]
        if min(map(len, both)) < 2 or _judged(both[0][0]) != _judged(both[1][0]): continue
        (a, b), seeds = ([[r['accuracy'] for r in rs] for rs in both]), max(map(len, both))
        again = f'budgets {one} {other}' + f' --pflop {budget:g}' * (budget != .1)
        return _told(f'at {budget:g} PFLOP each', a, b, 'accuracy', ('better',),
                     again + f' --seeds {seeds}' * (seeds != 3), short=True)

def _judged(r: dict) -> tuple:
    "What two records of budgets must share to be compared: the images asked about, and how."
    m = r['manifest']
    return r['validated'], kernels_of(m), m['precision'], m['memory_format']

def or_at_equal_budget(full: Callable, one: str, other: str) -> Callable:
    """`find(results)` for the claim that `one` is better than `other`: what `full(results)` finds
    in full runs, and where that is open what is found `at_equal_budget`, told with it."""
    def find(results):
        found = full(results)
        if found is not None and not words(found).startswith('open'): return found
        short = at_equal_budget(results, one, other)
        if found is None or short is None or short.startswith('open'): return found or short
        return Finding(f'{short}; no difference seen in full runs', short.again, short.p)
    return find

def in_all(measure: str) -> Callable:
    """`find(results)` for the claim that `measure`, what a change gains beside the same network
    without it, is above 0: over the trials of all studies at small scale."""
    def find(results):
        runs = [r for r in trial_runs(results) if r['manifest']['data'].get('name') != 'toy']
        gains = [r['measures'][measure] for r in runs
                 if r['scale'] == 'fast' and measure in r['measures']]
        if len(gains) < 2: return None
        return _told('over all small studies', gains, None, measure, ('better',), 'ablate')
    return find

def raced(results, bench: str, **row):
    """The images/s of the first row with the values of `row` in the record `bench`.json of a race,
    which lies beside the records `results`; None without one."""
    folder = getattr(results, 'folder', None)
    file = folder and Path(folder, 'bench', f'{bench}.json')
    rows = read_json(file, 'race again.')['rows'] if file and there(file) else []
    return next((r['images/s'] for r in rows if row.items() <= r.items()), None)
