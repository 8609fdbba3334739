"""Chapter 31: every plan costs the same and keeps its whole schedule, validation images are not
trained on, and records are told apart"""
import json
import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from cifar_nb.cli import main
from cifar_nb.core.errors import InputError
from cifar_nb.core.statistics import (block_effect, detectable_difference, holm, mcnemar,
                                      pooled_spread, runs_needed, t_interval)
from cifar_nb.data.cifar import split, toy
from cifar_nb.evaluation.records import Results, find_trial, full_record, study_records
from cifar_nb.recipes.cost import training_cost
from cifar_nb.recipes.vary import vary
from cifar_nb.studies import budgets
from cifar_nb.studies.budgets import (ENTRANTS, apart, budgets_table, found, in_steps, pairs, plan,
                                      plans_table, ranked, run_plans, seen, sees, show_budgets,
                                      show_rise, step_rates, validated, whole_blocks)
from cifar_nb.teams.claims import at_equal_budget, or_at_equal_budget
from cifar_nb.teams.zoo import get_recipe, list_recipes
from cifar_nb.training.signals import Interrupted

EVERY = [f'{r.name}:{r.variant}' for r in list_recipes()]


@pytest.fixture(scope='module')
def images(): return toy(900)


def batch(p) -> float:
    "PFLOP of the largest batch of the plan `p`, at the size of the data, for every phase's network"
    size = max(q.batch_size for q in p.recipe.phases)
    return 6e-15 * size * budgets.counts_of(p.recipe.net).macs


@pytest.mark.parametrize('name, epochs, images', [
    ('resnet18', 1, 30_007),        # 1e14 / (6 * 555,422,720) = 30,007.2
    ('dreamfire:code', 1, 20_867),  # 1e14 / (6 * 798,689,792) = 20,867.5
    ('plain', 1, 39_967),           # 1e14 / (6 * 417,008,128) = 39,967.2
    ('narrow_resnet:code', 3, 39_882),      # 1e14 / (6 * 139,299,328 * 3) = 39,882.1
    ('learning_too_deep:code', 2, 30_702),  # 1e14 / (6 * 271,419,904 * 2) = 30,702.7
])
def test_plans_by_hand(name, epochs, images):
    p = plan(name, .1)
    assert (p.recipe.epochs, p.images) == (epochs, images)
    assert int(1e14 / (6 * budgets.counts_of(p.recipe.net).macs * epochs)) == images


def test_a_plan_of_growing_images_by_hand():
    """quick on 1,000 images: 8 epochs of sides 16, 20, 24, 24, 28 and three times 32, from the
    fifth on with 700 images; the convolutions by the formula of chapter 05."""
    def macs(side):
        side -= 1
        total = 3 * 4 * 24 * side ** 2
        for before, c in ((24, 32), (32, 128), (128, 128)):
            total += 9 * before * c * side ** 2
            side //= 2  # then the second of the group, on pooled maps
            total += 9 * c * c * side ** 2
        return total + 128 * 10
    sides = (16, 20, 24, 24, 28, 32, 32, 32)
    spent = sum(6 * n * macs(s) for n, s in zip((1000,) * 4 + (700,) * 4, sides)) / 1e15
    assert macs(32) == 33_066_272 and training_cost(get_recipe('quick'), 1000) == pytest.approx(
        spent, rel=1e-12)
    p = plan('quick', training_cost(get_recipe('quick'), 1000), most=1000)
    assert (p.recipe.epochs, p.images, p.recipe) == (8, 1000, get_recipe('quick'))


@pytest.mark.parametrize('pflop', [.02, .1, 1.3])
@pytest.mark.parametrize('name', EVERY)
def test_every_recipe_costs_the_same_within_a_batch(name, pflop):
    p = plan(name, pflop)
    assert p.budget - batch(p) < p.pflop <= p.budget
    assert p.pflop == training_cost(p.recipe, p.images)
    fewer = p.recipe.epochs - 1  # would not use it up
    if fewer >= len(p.recipe.phases):
        assert training_cost(in_steps(get_recipe(*name.split(':'))).with_epochs(fewer),
                             45_000) < pflop
    assert len(p.recipe.phases) == len(get_recipe(*name.split(':')).phases)


@pytest.mark.parametrize('pflop', [.02, .1])
@pytest.mark.parametrize('name', ENTRANTS)
def test_the_schedule_ends_at_its_last_rate(name, pflop):
    """However short, a plan begins and ends with the rates of the recipe in full length, counted in
    steps, and passes its highest."""
    whole = in_steps(get_recipe(*name.split(':')))
    p = plan(name, pflop)
    short, long = step_rates(p.recipe, p.images), step_rates(whole.with_epochs(20), 4_000)
    assert len(short) == sum(sum(q.steps(p.images)) for q in p.recipe.phases)
    top = max(long)
    assert max(short) == pytest.approx(top, rel=.02)
    # one step of the shorter is a larger share of the fall
    assert abs(short[-1] - long[-1]) < .02 * top
    assert short[-1] <= .2 * top


def test_nothing_but_length_and_unit_is_changed():
    for name in ENTRANTS:
        recipe, p = get_recipe(*name.split(':')), plan(name, .1)
        for a, b in zip(recipe.phases, p.recipe.phases):
            same = replace(b, epochs=a.epochs, schedule=a.schedule, augment=a.augment,
                           keep_fraction=a.keep_fraction)
            assert same == a and (b.schedule.shape, b.schedule.gamma) == (
                a.schedule.shape, a.schedule.gamma)
            assert [type(o) for o in a.augment] == [type(o) for o in b.augment]
        assert (p.recipe.net, p.recipe.ema, p.recipe.clip) == (recipe.net, recipe.ema, recipe.clip)
    plateau = get_recipe('modified_resnet')
    assert in_steps(plateau) == plateau  # a plateau waits for epochs


@pytest.mark.parametrize('pflop', [0, -1, math.nan, math.inf, 1e-4, 1e7])
def test_budgets_that_no_plan_fits(pflop):
    with pytest.raises(InputError): plan('resnet18', pflop)


def test_a_name_that_is_none():
    with pytest.raises(InputError, match='did you mean resnet18'): plan('resnet8', .1)
    with pytest.raises(InputError, match='variant'): plan('quick:a:b', .1)


def test_validation_images_judge_and_are_never_trained_on(images, tmp_path, monkeypatch):
    x, y = images
    given = []
    def watched(recipe, x, y, **kwargs):
        given.append(x)
        return real(recipe, x, y, **kwargs)
    real, predict, asked = budgets.train, budgets.predict, []
    def noted(net, x, *rest):
        asked.append((x, predict(net, x, *rest)))
        return asked[-1][1]
    monkeypatch.setattr(budgets, 'train', watched)
    monkeypatch.setattr(budgets, 'predict', noted)
    r, = run_plans(['quick'], x, y, tmp_path, .00015, 1, 180, data='toy', say=lambda s: None)
    kept, out = split(y, 180)
    used, = given
    judges = {i.numpy().tobytes() for i in x[out]}
    assert len(judges) == 180 and not judges & {i.numpy().tobytes() for i in used}
    assert torch.equal(used, x[kept[:r['images']]]) and r['images'] == len(used)
    assert r['validated'] == validated(x[out], y[out])
    (judges, answers), _ = asked
    assert torch.equal(judges, x[out])
    share = (answers.argmax(1) == y[out]).double().mean().item()
    assert r['accuracy'] == pytest.approx(100 * share, abs=.006)


def test_the_whole_of_cifar10_leaves_45000():
    y = torch.arange(50_000) % 10
    kept, out = split(y, budgets.HELD)
    assert len(kept) == 45_000 and not set(kept.tolist()) & set(out.tolist())


def test_a_toy_study_end_to_end(tmp_path, capsys):
    call = ['budgets', 'quick', 'small:report', '--pflop', '.00015', '--seeds', '2', '--data',
            'toy', '--results', str(tmp_path)]
    assert main(call) == 0
    told = capsys.readouterr().out
    assert 'quick, seed 1' in told and 'p, Holm' in told and 'strictest of all pairs' in told
    files = sorted((tmp_path / 'budgets').glob('*.json'))
    before = [f.read_bytes() for f in files]
    assert len(files) == 4 and main(call) == 0  # read, not trained again
    again = capsys.readouterr().out
    assert 'seed 1:' not in again and [f.read_bytes() for f in files] == before
    for f in files:
        r = json.loads(f.read_text(encoding='utf-8'))
        assert r['manifest']['seed'] == r['seed'] and r['pflop'] <= r['budget'] == .00015
        assert r['manifest']['data'] | dict(fingerprint='') == dict(
            name='toy', images=r['images'], fingerprint='')
        assert r['manifest']['weights'] == 'last' and r['manifest']['validation']['images'] == 0
        assert {'loss', 'train_accuracy', 'epochs', 'parameters', 'macs'} <= set(r)
        assert 'tta_accuracy' not in r
    # a file's name says nothing
    files[0].rename(tmp_path / 'budgets' / 'another.json')
    assert main(call) == 0 and 'seed 1:' not in capsys.readouterr().out


def test_wrong_calls_are_told(capsys):
    for call in (['--seeds', '0'], ['--pflop', '-1'], ['--pflop', 'x'], ['nobody']):
        assert main(['budgets', '--list', *call]) == 2
        assert capsys.readouterr().err.count('\n') == 1


def test_interrupted_it_keeps_what_is_finished(images, tmp_path, monkeypatch):
    real, calls = budgets.run_plan, []
    def second_stops(*args):
        calls.append(args)
        if len(calls) == 2: raise Interrupted('stop', signal.SIGINT)
        return real(*args)
    monkeypatch.setattr(budgets, 'run_plan', second_stops)
    with pytest.raises(Interrupted, match='quick, seed 1; what is finished is kept'):
        run_plans(['quick'], *images, tmp_path, .00015, 2, 180, data='toy', say=lambda s: None)
    assert [r['seed'] for r in study_records(tmp_path / 'budgets')] == [0]


def record(p, seed=0, accuracy=50., data='cifar10', judge='v', **own):
    m = full_record(p.recipe, seed=seed, images=p.images)['manifest']
    m['data'] = dict(name=data, images=p.images, fingerprint=f'{data}, the first {p.images}')
    return dict(manifest=m, variation=p.name, budget=p.budget, accuracy=accuracy, loss=1.,
                train_accuracy=accuracy + 1, seconds=1., pflop=p.pflop, epochs=p.recipe.epochs,
                images=p.images, seed=seed, validated=dict(images=5000, fingerprint=judge),
                **budgets.counts_of(p.recipe.net)._asdict()) | own


def kept(tmp_path, rows):
    (tmp_path / 'budgets').mkdir(exist_ok=True)
    for i, r in enumerate(rows):
        (tmp_path / 'budgets' / f'{i}.json').write_text(json.dumps(r), encoding='utf-8')
    return Results([], tmp_path)


def test_two_recipes_at_the_largest_budget_that_both_have(tmp_path):
    "p by scipy; toy runs and other images do not count; too short to say no."
    names = 'modified_resnet:code', 'modified_resnet:code:resnet18'
    def rows(pflop, a, b, **own):
        return [record(plan(n, pflop), i, x, **own) for n, values in zip(names, (a, b))
                for i, x in enumerate(values)]
    high, low = [50., 51, 52], [45., 46.5, 46]
    p = stats.ttest_ind(high, low, equal_var=False).pvalue
    found = at_equal_budget(kept(tmp_path, rows(.1, high, low)), *names)
    assert found == f'yes: at 0.1 PFLOP each, accuracy +5.2 ± 0.7 points (n = 3, p = {p:.2g})'
    assert found.again == f'budgets {names[0]} {names[1]}' and found.p == pytest.approx(p)
    assert at_equal_budget(kept(tmp_path, rows(.1, low, high)), *names).startswith(
        'open: at 0.1 PFLOP each, too short to refute, accuracy -5.2')
    more = rows(.1, high, low) + rows(.3, low * 2, high * 2) + rows(.5, [50.], low)
    found = at_equal_budget(kept(tmp_path, more), *names)
    assert found.startswith('open: at 0.3 PFLOP each, too short') and found.again.endswith(
        ' --pflop 0.3 --seeds 6')
    for none in (rows(.1, high, [45.]), rows(.1, high, low, data='toy'), [],
                 rows(.1, high, []) + rows(.1, [], low, judge='w')):
        for f in (tmp_path / 'budgets').iterdir(): f.unlink()
        assert at_equal_budget(kept(tmp_path, none), *names) is None
    assert at_equal_budget([], *names) is None


@pytest.mark.parametrize('full, answer', [
    ('yes: 3', 'yes: 3'), ('no: 3', 'no: 3'), ('open: 3', 'yes: at'), (None, 'yes: at')])
def test_equal_budgets_decide_what_full_runs_leave_open(full, answer, tmp_path):
    names = 'modified_resnet:code', 'modified_resnet:code:resnet18'
    rows = [record(plan(n, .1), i, x + i) for n, x in zip(names, (50., 40.)) for i in range(3)]
    find = or_at_equal_budget(lambda results: full, *names)
    told = find(kept(tmp_path, rows))
    assert told.startswith(answer)
    assert told.endswith('; no difference seen in full runs') == (full == 'open: 3')
    if answer != full: assert told.again == f'budgets {names[0]} {names[1]}' and told.p < .01
    find = or_at_equal_budget(lambda results: full, *names[::-1])  # the worse of the two
    worse = {'yes: at': 'open: at 0.1 PFLOP each, too short to refute', 'open: 3': 'open: 3'}
    assert find(kept(tmp_path, rows)).startswith(full if full == 'open: 3' else
                                                 worse.get(answer, answer))
    assert or_at_equal_budget(lambda results: full, *names)([]) == full


def test_records_of_another_budget_seed_or_judge_are_not_ours():
    p, other = plan('quick', .1), plan('quick', .2)
    ours = record(p)
    for stranger in (record(other), record(p, 1), record(p, judge='w'), record(p, data='toy')):
        assert find_trial([stranger], ours['manifest'], validated=ours['validated']) is None
    assert find_trial([ours], record(p)['manifest'], validated=ours['validated']) is ours
    assert found([record(other), record(p, data='toy')], [p]) == {}
    ladder = dict(manifest=ours['manifest'], variation='x', accuracy=1.)
    mixed = [record(p, 2), record(p, 0), record(p, 1, judge='w'), record(other, 1), ladder]
    assert [r['seed'] for r in found(mixed, [p, other])['quick']] == [1]  # the last plan's
    assert [r['seed'] for r in found(mixed, [p])['quick']] == [0, 2]
    row, = plans_table([p], mixed)
    assert row['seeds recorded'] == [0, 2]


def test_a_damaged_record_is_passed_over(tmp_path):
    good = record(plan('quick', .1))
    for i, bad in enumerate((good, {**good, 'accuracy': None}, {**good, 'macs': 'x'},
                             {k: v for k, v in good.items() if k != 'validated'})):
        (tmp_path / f'{i}.json').write_text(json.dumps(bad), encoding='utf-8')
    told = []
    assert len(study_records(tmp_path, told.append)) == 1 and len(told) == 3


def many(scores: dict) -> dict:
    "Runs of `scores`, recipe to accuracies."
    return {n: [record(plan(n, .1), i, a) for i, a in enumerate(v)] for n, v in scores.items()}


def test_only_seeds_that_all_have_count():
    runs = whole_blocks(many({'quick': [1., 2., 3.], 'plain': [1., 2.]}))
    assert {n: len(rs) for n, rs in runs.items()} == dict(quick=2, plain=2)
    assert whole_blocks({}) == {} and whole_blocks(many({'quick': [1.], 'plain': []})) == {}


def test_tables_and_figure():
    runs = many({'plain': [30., 31., 32.], 'quick': [80., 81., 82.], 'resnet18': [31., 32., 30.5]})
    assert list(ranked(runs)) == ['quick', 'resnet18', 'plain']
    row = budgets_table(runs)[0]
    low, high = stats.t.interval(.95, 2, 81, stats.sem([80, 81, 82]))
    assert (row['recipe'], row['95% interval']) == ('quick', f'± {(high - low) / 2:.2f}')
    rows = pairs(runs)
    assert [(r['better'], r['than']) for r in rows] == [
        ('quick', 'resnet18'), ('quick', 'plain'), ('resnet18', 'plain')]
    ps = [stats.ttest_ind(ranked(runs)[a], ranked(runs)[b], equal_var=False).pvalue
          for a, b in (('quick', 'resnet18'), ('quick', 'plain'), ('resnet18', 'plain'))]
    assert [r['p'] for r in rows] == pytest.approx(ps)
    assert [r['p, Holm'] for r in rows] == pytest.approx(holm(ps))
    assert rows[2]['p, Holm'] > .05 > rows[1]['p, Holm']
    fig = show_budgets(runs)
    assert [len(ax.texts) for ax in fig.axes] == [3] * 3
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    # a line from 0.1 to 0.3 for each of three, a dot for each run
    ax = show_rise({.3: runs, .1: runs}).axes[0]
    lines = [tuple(line.get_xdata()) for line in ax.lines if line.get_linestyle() == '-']
    dots = [tuple(line.get_ydata()) for line in ax.lines if line.get_linestyle() == 'None']
    assert lines == [(.1, .3)] * 3 and dots.count((31, 32, 30.5)) == 2
    assert {t.get_text() for t in ax.texts} == set(runs)
    few = many({'plain': [30.], 'quick': [80.]})
    assert pairs(few) == [] and sees(few) == {} and len(budgets_table(few)) == 2
    assert show_budgets({}) and show_budgets(few)
    assert apart([3, 1, 1.5], 1) == [3, 1, 2]
    # far from the others, nothing is in the way
    assert apart([3, 1, 1.5], 1, [1, 1, 4]) == [3, 1, 1.5]
    assert seen(runs['resnet18'][0]) == 30_007


def test_holm_beside_its_definition():
    """The smallest level at which the procedure of Holm (1979) rejects: step down, stop at the
    first p that is above its share."""
    rng = np.random.default_rng(0)
    def rejected(ps, alpha):
        out = [False] * len(ps)
        for k, i in enumerate(np.argsort(ps)):
            if ps[i] > alpha / (len(ps) - k): break
            out[i] = True
        return out
    for n in (1, 2, 7, 36):
        ps = list(rng.uniform(0, .2, n))
        for alpha in (.01, .05, .3):
            assert rejected(ps, alpha) == [p <= alpha for p in holm(ps)]
    assert holm([]) == [] and holm([.01, .02, .03, .005]) == pytest.approx([.03, .04, .04, .02])


def test_intervals_and_spread_beside_scipy():
    a, b = [70., 71.5, 72.], [60., 60.4, 61.]
    m, half = t_interval(a)
    assert (m - half, m + half) == pytest.approx(
        stats.t.interval(.95, 2, np.mean(a), stats.sem(a)))
    assert pooled_spread([a, b]) == pytest.approx(
        ((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2) ** .5)
    with pytest.raises(InputError): t_interval([1.])


def test_what_seeds_share_as_least_squares_find_it():
    "The residuals of linear models with and without the columns; and columns that are far apart."
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=shape) + 3 * rng.normal(size=(shape[0], 1))
              for shape in ((2, 8), (5, 3), (3, 4))]
    def left(with_columns):  # sum of squares, degrees of freedom
        total = freedom = 0
        for t in tables:
            row, column = (i.ravel() for i in np.indices(t.shape))
            X = np.eye(t.shape[0])[row]
            if with_columns: X = np.hstack([X, np.eye(t.shape[1])[column]])
            w, *_ = np.linalg.lstsq(X, t.ravel(), rcond=None)
            total += ((t.ravel() - X @ w) ** 2).sum()
            freedom += t.size - np.linalg.matrix_rank(X)
        return total, freedom
    (less, few), (more, many) = left(True), left(False)
    F = (more - less) / (many - few) / (less / few)
    assert block_effect([t.tolist() for t in tables]) == pytest.approx(
        (F, stats.f.sf(F, many - few, few)))
    assert block_effect([(t + np.arange(t.shape[1])).tolist() for t in tables])[1] < 1e-3



@pytest.mark.parametrize('n, power, alpha', [(3, .8, .05), (5, .9, .01), (3, .8, .05 / 36)])
def test_what_n_runs_see_by_simulation(n, power, alpha):
    d = detectable_difference(2., n, power, alpha)
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 2, (20_000, n)), rng.normal(d, 2, (20_000, n))
    assert np.mean(stats.ttest_ind(a, b, axis=1).pvalue < alpha) == pytest.approx(power, abs=.012)


def test_what_n_runs_see_by_a_table():
    """Cohen (1988), table 2.4.1: for d = 0.8 and power .80, 26 in each group; for 0.5, 64."""
    assert detectable_difference(1, 26) == pytest.approx(.8, abs=.01)
    assert detectable_difference(1, 64) == pytest.approx(.5, abs=.005)
    with pytest.raises(InputError): detectable_difference(1, 1)


@pytest.mark.parametrize('d, n', [(.2, 393), (.5, 64), (.8, 26), (1.4, 9), (.1, None)])
def test_how_many_runs_a_difference_needs_by_a_table(d, n):
    """Cohen (1988), table 2.4.1: two-sided, alpha .05, power .80; for d = 0.1 over a thousand."""
    for sign in (2, -2):
        found = runs_needed(sign * d, 2.)
        assert found == n if n is None else abs(found - n) <= 1
    assert runs_needed(0., 1.) is None and runs_needed(5., 0.) == 2


def test_an_idea_that_costs_less_gets_more_epochs():
    net = vary(get_recipe('narrow_resnet', 'code'), width_factor=.5)
    assert budgets.epochs_for(net, .1, 45_000) > budgets.epochs_for(
        get_recipe('narrow_resnet', 'code'), .1, 45_000)


@pytest.mark.parametrize('gained, lost', [(0, 0), (1, 0), (5, 5), (9, 2), (120, 86), (300, 310)])
def test_mcnemars_test_is_the_exact_one(gained, lost):
    """Against scipy's binomial test; nobody disagreeing is no evidence."""
    want = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.
    assert math.isclose(mcnemar(gained, lost), want, rel_tol=1e-9)
