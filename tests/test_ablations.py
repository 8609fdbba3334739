"""Chapters 20, 32 and 33: studies are what they say, runs are kept once and whole, a search goes on
where it stopped"""
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from cifar_nb.core.errors import InputError
from cifar_nb.core.manifest import fingerprint as mark
from cifar_nb.core.manifest import new_manifest
from cifar_nb.core.statistics import pooled_spread
from cifar_nb.core.tables import words
from cifar_nb.data.cifar import split, toy
from cifar_nb.evaluation.records import Results, find_trial, load_results, study_records
from cifar_nb.evaluation.report import summarize
from cifar_nb.models.count import counts_of, deeper, scaled
from cifar_nb.models.resnet import LIMIT, NetSpec, count_parameters
from cifar_nb.recipes.spec import Phase, recipe_from_json, trained
from cifar_nb.recipes.vary import vary
from cifar_nb.studies import ablations, scoreboard
from cifar_nb.studies.ablate import command_ablate, studies_called
from cifar_nb.studies.ablations import (FAST, MEASURES, SCALES, STUDIES, Scale, Study, disturbed,
                                        measures, plan_trials, recipe_fingerprint, run_study,
                                        study_progress, table, wanted)
from cifar_nb.studies.findings import comparisons, could_see, in_words
from cifar_nb.studies.scales import (CHOSEN, LONG_STUDIES, MEDIUM_STUDIES, RATES, studies_at)
from cifar_nb.teams.claims import (avoided, check_claims, compare, contest, late_decline, mattered,
                                   measured, repeated_by, trial_runs, trials, would_be_seen)
from cifar_nb.teams.reading import differences
from cifar_nb.teams.zoo import TEAMS, get_recipe
from cifar_nb.training.precision import Precision

ROOT = Path(__file__).parent.parent
TINY = replace(vary(FAST, width_factor=.25), name='tiny').with_epochs(1)
DEMO = Scale('demo', 300, 100, 'toy')
CASES = sorted((s.name, scale) for scale in SCALES for s in studies_at(scale))
BY_NAME = {scale: {s.name: s for s in studies_at(scale)} for scale in SCALES}

# what may differ from the base, in the words of `differences`
ROWS = dict(optimizer='phase 1, optimizer', schedule='phase 1, schedule',
            without='phase 1: augment', augment='phase 1: augment', width_factor='network: ',
            depth_factor='network: ',
            label_smoothing='phase 1: label_smoothing', weight_decay='phase 1, optimizer')


@pytest.fixture(scope='module')
def images(): return toy(300)


def a_study(**changes):
    return Study('shortcuts', 'Are they needed?', {'plain': dict(block='plain')},
                 **dict(small=TINY) | changes)


@pytest.mark.parametrize('name, scale', CASES)
def test_variations_differ_in_what_they_say(name, scale):
    recipes = BY_NAME[scale][name].recipes(SCALES[scale])
    base = recipes.pop('base')
    for label, recipe in recipes.items():
        # one thing at a time
        (change, value), = BY_NAME[scale][name].variations[label].items()
        rows = [row[''] for row in differences(base, recipe, 'ab')]
        if scale == 'full' and not rows: continue  # the team's own recipe may already have it
        allowed = ROWS.get(change, f'network: {change}')
        assert rows and all(row.startswith(allowed) for row in rows), (label, rows)
        if change == 'without':
            left = [type(op).__name__ for p in recipe.phases for op in p.augment]
            assert value not in left and len(left) < sum(len(p.augment) for p in base.phases)


@pytest.mark.parametrize('name, scale', CASES)
def test_networks_are_legal_and_recipes_survive_json(name, scale):
    for recipe in BY_NAME[scale][name].recipes(SCALES[scale]).values():
        assert counts_of(recipe.net).parameters <= LIMIT
        assert recipe_from_json(recipe.to_json()) == recipe
        assert len(recipe.learning_rates(1000)) == recipe.epochs


def test_small_variations_all_differ():
    for studies in (STUDIES, LONG_STUDIES, MEDIUM_STUDIES[:1]):
        prints = [recipe_fingerprint(t.recipe) for t in plan_trials(studies, seeds=1)]
        assert len(set(prints)) == len(prints)


def test_rates_are_chosen_with_other_seeds_than_those_that_judge():
    "And a chosen rate lies between two others, which the records have to say were worse."
    rates, optimizer = MEDIUM_STUDIES
    chosen, judged = ({t.seed for t in plan_trials([s], SCALES['medium'], 4)}
                      for s in (rates, optimizer))
    assert (chosen, judged) == ({0}, {1, 2, 3, 4})
    for name, rate in CHOSEN.items(): assert min(RATES[name]) < rate < max(RATES[name])
    assert set(optimizer.variations) == {f'{n}, rate {r:g}' for n, r in CHOSEN.items()}
    assert all(optimizer.variations[k] == rates.variations[k] for k in optimizer.variations)


def test_the_chosen_rates_are_the_best_of_those_recorded():
    found = trials(study_records(ROOT / 'results/ablations'), 'rates', 'medium')
    for name, rates in RATES.items():
        (scores,) = zip(*(found[f'{name}, rate {r:g}'] for r in rates))
        assert rates[scores.index(max(scores))] == CHOSEN[name]


def test_bases_of_one_name_that_differ_are_both_trained():
    "And one that two studies share is trained once."
    smooth = vary(FAST, label_smoothing=.1)
    a, b, c = (Study(n, 'why?', {n: dict(clip=clip)}, small=base)
               for n, clip, base in (('a', 1., FAST), ('b', 2., smooth), ('c', 3., FAST)))
    bases = [t.recipe for t in plan_trials([a, b, c], seeds=1) if t.study == '']
    assert bases == [FAST, smooth]


def test_trials_are_planned_in_whole_blocks():
    "All variations of a seed, and then those of the next: a block is whole wherever one stops."
    plan = [t.seed for t in plan_trials([BY_NAME['fast']['schedule']], seeds=3)]
    assert plan == sorted(plan) and len(plan) == 12


def test_only_the_medium_scale_asks_for_kernels(images, monkeypatch):
    asked = {}
    monkeypatch.setattr(ablations, 'planned', lambda *a, kernels, **k: asked.update(it=kernels))
    for name, scale in SCALES.items():
        wanted(plan_trials([a_study()], scale, 1)[0], scale, *images)
        assert asked.pop('it') is (name == 'medium')


def test_teams_own_recipes_are_the_full_bases():
    studies = studies_at('full')
    for s in studies: assert s.recipes(SCALES['full'])['base'] == get_recipe(s.team)
    assert {s.name for s in STUDIES} - {s.name for s in studies} == {'high rate',
                                                                     '18-layer batch norm'}
    decay = BY_NAME['full']['weight decay'].recipes(SCALES['full'])
    now, then = (decay[k].phases[0].optimizer.weight_decay for k in ('base', 'ten times'))
    assert 0 < 10 * now == then


@settings(max_examples=20, deadline=None)
@given(factor=st.integers(1, 4), width=st.sampled_from([16, 24, 32]), depth=st.integers(1, 2))
def test_deeper_is_not_larger(factor, width, depth):
    net = NetSpec((width, 2 * width), (depth, depth), (1, 2))
    deep = deeper(net, factor)
    assert (deep.depths == (depth * factor,) * 2
            and count_parameters(deep.build()) <= count_parameters(net.build()))
    assert deeper(net, 1) == net and scaled(net, 1) == net


def test_max_pool_changes_no_count_and_old_files_are_read():
    spec = NetSpec((16, 32), (1, 1), (1, 2))
    assert replace(spec, pool='max').build().state_dict().keys() == spec.build().state_dict().keys()
    old = json.loads(FAST.to_json())
    del old['net']['pool']
    assert recipe_from_json(json.dumps(old)) == FAST


def test_operations_left_out_are_told_in_the_record(images, tmp_path):
    "A record is JSON, whatever has changed."
    study = a_study()
    study = replace(study, variations={'without RandomCrop': dict(without='RandomCrop')})
    record = run_study(study, *images, tmp_path, DEMO, 1, say=str)[1]
    (what, before, after), = record['changes']
    assert (what, after) == ('phase 1: augment', 'RandomHorizontalFlip()')
    assert before == 'RandomCrop(), RandomHorizontalFlip()'


def test_a_study_is_run_once_and_read_back(images, tmp_path):
    said = []
    records = run_study(a_study(), *images, tmp_path, DEMO, 2, say=said.append)
    assert len(said) == 4 and trial_runs(Results([], tmp_path)) == sorted(
        records, key=lambda r: (r['study'] or 'base', r['manifest']['seed']))
    assert (run_study(a_study(), *images, tmp_path, DEMO, 2, say=said.append) == records
            and len(said) == 4)
    assert study_progress(tmp_path, [a_study()], DEMO, 2)[0]['done'] == '4 of 4'
    assert [row['runs'] for row in table(a_study(), records, 'demo')] == [2, 2]
    assert all(len(p.read_text(encoding='utf-8')) < 6000
               for p in (tmp_path / 'ablations').glob('*.json'))

    # a base is shared, another recipe's run is not taken for ours, a damaged file is made anew
    other = Study('another', '?', {'max': dict(pool='max')}, small=TINY)
    run_study(other, *images, tmp_path, DEMO, 2, say=said.append)
    assert len(said) == 6
    changed = a_study(small=replace(TINY, phases=(replace(TINY.phases[0], label_smoothing=.1),)))
    known = study_records(tmp_path / 'ablations')
    assert all(find_trial(known, wanted(t, DEMO, *images))
               for t in plan_trials([a_study()], DEMO, 2))
    assert not any(find_trial(known, wanted(t, DEMO, *images))
                   for t in plan_trials([changed], DEMO, 2))
    # other images of that number
    assert not any(find_trial(known, wanted(t, DEMO, 255 - images[0], images[1]))
                   for t in plan_trials([a_study()], DEMO, 2))
    bad = next((tmp_path / 'ablations').glob('demo-toy-base*'))
    bad.write_text('{"half', encoding='utf-8')
    passed = []
    assert len(study_records(tmp_path / 'ablations', passed.append)) == 5 and bad.name in passed[0]
    # made anew beside it
    assert (len(run_study(a_study(), *images, tmp_path, DEMO, 2, say=lambda s: None)) == 4
            and bad.read_text(encoding='utf-8') == '{"half')
    assert len(study_records(tmp_path / 'ablations', passed.append)) == 6


class Reads(nn.Module):
    "Says the class that the mean of the red channel stands for: 25 levels each."
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 10)

    def forward(self, x):
        return nn.functional.one_hot((x[:, 0] * 255).mean((1, 2)).div(25).long().clamp(0, 9),
                                     10).float()


def test_the_measures_of_a_study_by_hand():
    "The curve is 10, 30, 20, 40; every third image has another label than its colour says."
    said = torch.arange(100) % 10
    x = (25 * said + 12).byte().view(-1, 1, 1, 1).expand(-1, 3, 32, 32).contiguous()
    y = torch.where(torch.arange(100) % 3 > 0, said, (said + 1) % 10)
    kept, out = split(y, 20)
    t = SimpleNamespace(net=Reads(), ema=None, phase=Phase(4, mean=(0,) * 3, std=(1,) * 3),
                        precision=Precision('fp32', ''),
                        log=[dict(val_accuracy=v) for v in (10., 30., 20., 40.)])
    m = measures(t, x, y, 20)
    trained_on, held = (100 * (said == y)[i].double().mean().item() for i in (kept[:20], out))
    assert trained_on != held
    assert (m['accuracy'], m['speed'], m['falls'], m['late decline']) == (40, 25, 10, -20)
    assert m['gap'] == pytest.approx(trained_on - 40)
    assert [m[k] for k in MEASURES if k.startswith('gain')] == pytest.approx([held - 40] * 2)
    right = [(d[:, 0].double().mean((1, 2)) / 25).long().clamp(0, 9) == y[out]
             for d in disturbed(x[out])]
    assert m['disturbed'] == pytest.approx(100 * torch.cat(right).double().mean().item(), abs=.01)


def test_runs_of_studies_do_not_disturb_the_results(images, tmp_path):
    (tmp_path / 'ablations').mkdir()
    (tmp_path / 'ablations' / 'x.json').write_text('{}', encoding="utf-8")
    assert load_results(tmp_path) == [] and summarize(load_results(tmp_path)).startswith('Nothing')


CHILD = """
    import sys
    from dataclasses import replace
    from cifar_nb.recipes.vary import vary
    from cifar_nb.studies.ablations import *
    from cifar_nb.data.cifar import toy
    tiny = replace(vary(FAST, width_factor=.25), name='tiny').with_epochs({epochs})
    study = Study('shortcuts', '?', dict(plain=dict(block='plain')), small=tiny)
    def say(s): print(s, flush=True)
    run_study(study, *toy(300), sys.argv[1], Scale('demo', 300, 100, 'toy'), 2, say=say)
"""


@pytest.mark.skipif(os.name != 'posix', reason='signals')
def test_killed_half_way_leaves_whole_files_only(tmp_path):
    code = textwrap.dedent(CHILD.format(epochs=2))
    p = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE,
                         encoding="utf-8")
    assert 'base' in p.stdout.readline()  # the first run is kept, the second under way
    p.send_signal(signal.SIGKILL)
    p.wait()
    p.stdout.close()
    names = sorted(f.name for f in (tmp_path / 'ablations').glob('*.json'))
    assert 'demo-toy-base-tiny-seed0.json' in names and len(names) < 4
    for f in (tmp_path / 'ablations').glob('*.json'): json.loads(f.read_text(encoding="utf-8"))
    done = run_study(a_study(small=TINY.with_epochs(2)), *toy(300), tmp_path, DEMO, 2,
                     say=lambda s: None)
    assert len(done) == 4 and len(trial_runs(Results([], tmp_path))) == 4


def manifest(recipe, seed, data='cifar10'):
    data = dict(name=data, images=1000, fingerprint=data)
    return new_manifest(recipe, 'b', 'report', data, dict(images=0, indices=None), seed, 'last',
                        'fp32', 'contiguous', kernels=[])


def records(better, worse, study='s', scale='fast', data='cifar10'):
    def r(name, v, seed):
        return dict(manifest=manifest('b' if name == 'base' else name, seed, data), scale=scale,
                    study='' if name == 'base' else study, variation=name, base=mark('b'),
                    seconds=1., measures=dict(accuracy=v, gap=v))
    return [r(name, v, i) for name, values in (('base', better), ('x', worse))
            for i, v in enumerate(values)]


def keep(tmp_path, rows):
    (tmp_path / 'ablations').mkdir(parents=True, exist_ok=True)
    for i, r in enumerate(rows):
        (tmp_path / 'ablations' / f'{r["scale"]}{i}.json').write_text(
            json.dumps(r), encoding="utf-8")
    return Results([], tmp_path)


def test_findings_are_honest(tmp_path):
    near, far = [70.0, 70.5, 71.0], [60.0, 60.5, 61.0]
    results = keep(tmp_path, records(near, far))
    assert contest('s', ['base'], ['x'])(results).startswith('yes: at small scale')
    assert contest('s', ['x'])(results).startswith('no: at small scale')
    assert contest('s', ['x'], late=True)(results).startswith('open: at small scale, too short')
    assert contest('s', ['x'], measure='gap')(results).startswith('yes')
    assert mattered('s')(results).startswith('yes')
    assert contest('s', ['y'])(results) is None and mattered('t')(results) is None
    results = keep(
        tmp_path, records(near, far[::-1], scale='fast') + records(
            near, [70.2, 70.4, 71.2], scale='full'))
    assert contest('s', ['base'], ['x'])(results).startswith('open: at full scale no difference '
                                                             'seen')
    toys = keep(tmp_path / 'ablations', records(near, far, data='toy'))
    assert contest('s', ['base'], ['x'])(toys) is None


def test_every_claim_of_a_study_is_judged_by_it(tmp_path):
    number = {m.report.title: m.report.source[7:10] for m in TEAMS}
    results = keep(
        tmp_path,
        [
            dict(manifest=manifest(trained(t.recipe), t.seed), scale='fast', seconds=1.,
                 study=t.study, variation=t.variation, base=recipe_fingerprint(t.base),
                 curve=[50.] * 8, measures=dict.fromkeys(MEASURES, 50. + t.seed))
            for t in plan_trials(STUDIES)])
    judged = {f'{number[title]}: {c.what}' for title, c in scoreboard.all_claims(results)
              if 'at small scale' in words(c.found)}
    assert judged == {c for s in STUDIES for c in s.claims}


def test_the_better_scale_speaks(tmp_path):
    near, far = [70., 70.5, 71.], [60., 60.5, 61.]
    rows = records(near, far)
    for scale, where in (('long', 'at small scale, in 40 epochs'), ('medium', 'at medium scale'),
                         ('full', 'at full scale')):
        rows += records(far, near, scale=scale)
        assert contest('s', ['x'])(keep(tmp_path, rows)).startswith(f'yes: {where}, accuracy +10.0')
    # what may pay late is refuted where the training is long, and there only
    for scale, answer in (('fast', 'open'), ('medium', 'open'), ('long', 'no'), ('full', 'no')):
        only = keep(tmp_path / scale, records(near, far, scale=scale))
        assert contest('s', ['x'], late=True)(only).startswith(f'{answer}: at ')


@pytest.mark.parametrize('scale, runs, options', [
    ('medium', (8, 8), ' --scale medium --seeds 8'), ('fast', (4, 12), ' --seeds 12'),
    ('fast', (3, 3), ''), ('long', (2, 3), ' --scale long'), ('fast', (0, 0), '')])
def test_what_repeats_a_verdict_runs_its_scale_and_seeds(scale, runs, options, tmp_path):
    few, many = ([60. + i / 10 for i in range(n)] for n in runs)
    results = keep(tmp_path, records(few, many, 'two words', scale))
    for find in (contest('two words', ['x']), mattered('two words')):
        check = measured('better', 'yes', '', 'lessons', find)
        found = check_claims([check], results)[0].found
        assert (found is None) == (runs == (0, 0))
        told = repeated_by(check, found, get_recipe('narrow_resnet'))
        assert told == 'cifar_nb ablate two-words' + options


def curves(good, bad, scale='long', study='s'):
    "Records of the base and of x with these curves, one a seed."
    rows = records([0.] * len(good), [0.] * len(bad), study, scale)
    return [r | dict(curve=c) for r, c in zip(rows, [*good, *bad])]


RISES = [[10., 20, 30, 40, 50, 60, 70, 80], [11., 20, 30, 40, 50, 60, 70, 82],
         [10., 20, 30, 40, 50, 63, 70, 80]]
NOISE = [[10., 20, 30, 40, 80, 60, 70, 72], [10., 20, 30, 40, 60, 80, 70, 69],
         [10., 20, 30, 40, 77, 63, 70, 71]]
FALLS = [[10., 20, 30, 40, 80, 80, 70, 72], [10., 20, 30, 40, 81, 80, 70, 70],
         [10., 20, 30, 40, 80, 79, 71, 70]]


def test_a_late_decline_is_of_quarters():
    """By hand: (50 + 60) / 2 - (70 + 80) / 2 = -20. A curve that goes up and down has a best epoch
    far above its last and no decline."""
    assert [late_decline(c) for c in RISES] == [-20., -21., -18.5]
    assert [late_decline(c) for c in NOISE] == [-1., .5, -.5]
    assert [late_decline(c) for c in FALLS] == [9., 10.5, 9.]
    assert [late_decline([5., 7., 6., 3.][:n]) for n in (1, 2, 3, 4)] == [0., -2., 1., 3.]


@pytest.mark.parametrize('bad, good, says', [
    (FALLS, RISES, 'yes: WHERE, late decline -29.3 '),
    (NOISE, RISES, 'open: nothing to avoid WHERE, late decline with x -0.3 '),
    (RISES, RISES, 'open: nothing to avoid WHERE, late decline with x -19.8'),
    (FALLS, FALLS, 'open: WHERE no difference seen, late decline +0.0 '),
    (FALLS, [[b + 20 if i in (4, 5) else b for i, b in enumerate(c)] for c in FALLS],
     'no: WHERE, late decline +20.0 ')])
def test_what_does_not_happen_cannot_be_avoided(bad, good, says, tmp_path):
    found = avoided('s', 'base', 'x')(keep(tmp_path, curves(good, bad)))
    assert found.startswith(says.replace('WHERE', 'at small scale, in 40 epochs'))
    assert found.again == 'ablate s --scale long'


def test_more_looks_need_a_smaller_p(tmp_path):
    "p is 0.04, by scipy; of two looks each needs 0.025."
    from scipy.stats import ttest_ind
    a, b = [70., 70.5, 71.], [68.8, 69.3, 69.8]
    assert .025 < ttest_ind(a, b, equal_var=False).pvalue < .05
    results = keep(tmp_path, records(a, b))
    for find in (partial(contest, 's', ['base'], ['x']), partial(mattered, 's')):
        assert find()(results).startswith('yes: ') and find(looks=2)(results).startswith('open: ')
        p = ttest_ind(a, b, equal_var=False).pvalue
        assert find()(results).p == pytest.approx(p)
        twice = find(looks=2)(results)  # by Bonferroni, in words too
        assert twice.p == pytest.approx(2 * p) and f'p = {2 * p:.2g}' in twice


def test_a_gap_is_told_with_the_accuracy(tmp_path):
    rows = [r | dict(measures=dict(gap=g, accuracy=a)) for r, g, a in zip(
        records([1.] * 3, [2.] * 3), [5., 6, 7, 20, 21, 22], [60., 61, 62, 64, 65, 66])]
    found = contest('s', ['base'], ['x'], 'gap')(keep(tmp_path, rows))
    assert found.startswith('yes: at small scale, gap -15.0 ± 0.8 points (n = 3, p = ')
    assert found.endswith('), accuracy -4.0 ± 0.8')  # (1 / 3 + 1 / 3) ** .5 = 0.82


@pytest.mark.parametrize('a, b, says', [
    ([65.] * 3, [60.] * 3, ''),                                 # no spread, nothing known
    ([60., 62, 64], [60.] * 3, '; 4.3 would be; n = 9 if it is as found'),
    ([60.2, 62, 64], [60., 62, 64], '; 6.0 would be; n = 61 would show 1 point'),  # below its error
    ([60., 62, 64], [60., 62, 64], '; 6.1 would be; n = 64 would show 1 point')])  # Cohen's table
def test_what_would_have_been_seen(a, b, says):
    "Power by scipy's noncentral t; within its error a difference is one point; none for no spread."
    from scipy.stats import nct, t
    c, spread = compare(a, b), pooled_spread([a, b])
    assert would_be_seen(c.difference, c.error, spread, 3) == says
    if says:
        true, n = 1 if 'point' in says else abs(c.difference), int(says.split('n = ')[1].split()[0])
        def power(n):
            return nct.sf(t.ppf(.975, 2 * n - 2), 2 * n - 2, true / spread * (n / 2) ** .5)
        assert power(n - 1) < .8 <= power(n)


def test_a_star_in_a_name_stands_for_any_rate(tmp_path):
    def rates(a, b, c):
        named = {'base': 'base', 'x': 'Adam, rate 0.1'}
        rows = [r | dict(variation=named[r['variation']]) for r in records(a, b)]
        other = [r | dict(variation='AdamW, rate 0.1', manifest=r['manifest'] | dict(recipe='w'))
                 for r in records(a, c)[len(a):]]
        return rows + other
    low, middle, high = [60., 60.5, 61.], [70., 70.5, 71.], [80., 80.5, 81.]
    results = keep(tmp_path, rates(middle, low, high))
    assert contest('s', ['base'], ['Adam, rate *'])(results).startswith('yes')
    assert contest('s', ['AdamW, rate *'])(results).startswith('yes')
    assert contest('s', ['base', 'SGD, rate *'], ['Adam*'])(results).startswith('no')
    assert contest('s', ['SGD, rate *'])(results) is None
    assert contest('s', ['base', 'y'], ['Adam*'])(results) is None


def test_a_base_counts_with_the_seeds_of_its_variations(tmp_path):
    "The seed by which rates were chosen is not among those that judge."
    rows = records([90., 70., 70.5, 71.], [60., 60.5, 61., 61.5])
    rows = [r for r in rows if r['variation'] == 'base' or r['manifest']['seed']]
    assert trials(rows, 's', 'fast') == dict(base=[70., 70.5, 71.], x=[60.5, 61., 61.5])


def test_comparisons_against_scipy_and_by_hand(tmp_path):
    """Welch's p is scipy's; Holm's of two is twice the smaller one; the spread of 70, 71, 72 is 1,
    and three of each see 3.06 points: the noncentral t of statsmodels' TTestIndPower at 4 degrees
    of freedom."""
    from scipy.stats import nct, t, ttest_ind
    base, x, y = [70., 71., 72.], [73., 74., 75.], [70.5, 71.5, 72.5]
    rows = records(base, x) + [
        r | dict(variation='y', manifest=r['manifest'] | dict(recipe='y'))
        for r in records(base, y)[3:]]
    study = Study('s', 'Why?', dict(x={}, y={}))
    told = comparisons([study], rows)
    p = [ttest_ind(v, base, equal_var=False).pvalue for v in (x, y)]
    assert [row['p'] for row in told] == pytest.approx(p)
    assert [row['p, Holm'] for row in told] == pytest.approx([2 * min(p), max(p)])
    assert [row['to the base'] for row in told] == ['+3.00 ± 0.82', '+0.50 ± 0.82']
    sees = could_see(study, rows)
    assert (sees['runs'], sees['spread']) == (3, pytest.approx(1))
    shift, edge = sees['could see'] / (2 / 3) ** .5, t.ppf(.975, 4)
    assert nct.sf(edge, 4, shift) + nct.cdf(-edge, 4, shift) == pytest.approx(.8, abs=.002)
    assert f'{sees["could see"]:.2f}' in in_words(study, rows)
    assert in_words(study, rows[:1]) == '' and not could_see(study, [])
    assert not comparisons([study], rows[3:]) and not comparisons([study], [])


@settings(max_examples=40, deadline=None)
@given(a=st.lists(st.floats(0, 100), min_size=2, max_size=6),
       b=st.lists(st.floats(0, 100), min_size=2, max_size=6))
@example(a=[0., 0.], b=[0., 1e-132])  # whose variance has no square
@example(a=[90., 90.], b=[89.99, 89.99])
def test_compare_is_antisymmetric(a, b):
    x, y = compare(a, b), compare(b, a)
    assert x.difference == -y.difference and x.p == y.p
    assert {x.finding, y.finding} in ({'better', 'worse'}, {'no difference seen'})


def test_equal_runs_say_nothing_of_a_spread():
    """Two repeats of one run beside two of another: no test can tell a difference without knowing
    how much seeds differ."""
    c = compare([90., 90.], [89.99, 89.99])
    assert (c.p, c.finding) == (1., 'no difference seen')


def test_the_best_of_several_needs_a_surer_difference(tmp_path):
    """Welch's p of x over the base is .0229 (scipy): enough for one question, not for the best of
    three."""
    from scipy.stats import ttest_ind
    base, x = [70., 70.4, 70.8], [71.2, 71.7, 72.1]
    p = ttest_ind(x, base, equal_var=False).pvalue
    assert .05 / 3 < p < .05
    low = [60., 60.5, 61.]
    results = keep(
        tmp_path, records(base, x) + [
            r | dict(variation=n, manifest=r['manifest'] | dict(recipe=n)) for n in 'yz'
            for r in records(base, low)[3:]])
    assert (contest('s', ['x'])(results).startswith('yes')
            and contest('s', ['x', 'y', 'z'])(results).startswith('open'))


def test_trials_of_other_recipes_data_and_kernels_are_not_mixed(tmp_path):
    good, near, far = [70., 70.5, 71.], [70.2, 70.6, 71.1], [10., 10.5, 11.]
    other = [
        r | dict(base=mark('old'),
                 manifest=r['manifest'] | dict(
                     recipe=r['manifest']['recipe'] + ' of an older plan'))
        for r in records(far, good)]
    toy = records(far, far, data='toy')
    kernels = [r | dict(manifest=r['manifest'] | dict(sittings=[dict(kernels=['winograd'])]))
               for r in records(far, far)]
    new = [
        r
        | dict(
            manifest=r['manifest'] | dict(
                sittings=[dict(kernels=[], began='2026-12-01T00:00:00Z')]))
        for r in records(good, near)]
    assert trials(other + toy + kernels + new, 's', 'fast') == dict(base=good, x=near)


def test_mistakes_are_sentences(images, tmp_path):
    for call in (lambda: command_ablate(['optimiser']), lambda: command_ablate(['kernel'], 'huge'),
                 lambda: command_ablate(['kernel'], seeds=1),
                 lambda: studies_called(['kernel'], 'medium'),
                 lambda: run_study(a_study(), *images, tmp_path, DEMO._replace(images=999))):
        with pytest.raises(InputError) as e: call()
        assert '\n' not in str(e.value) and str(e.value)[-1] in '.?'
    assert not list(tmp_path.iterdir())


def test_list_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, 'train', None)
    said = []
    command_ablate(results=tmp_path, listed=True, say=said.append)
    assert 'optimizer' in said[0] and not list(tmp_path.iterdir())


def test_search_refuses_and_resumes(tmp_path):
    pytest.importorskip('optuna')
    from cifar_nb.studies.search import Space, findings, search
    x, y = toy(250)
    options = dict(storage=f'sqlite:///{tmp_path}/s.db',
                   space=Space((8, 16, 8), depth=(1, 2), macs=3_000_000), base=TINY,
                   scale=Scale('demo', 250, 50), say=lambda s: None)
    for storage in ('sqlite:////no/such/place/s.db', 'nonsense', 'what:///x'):
        with pytest.raises(InputError, match='cannot be used') as e:
            search(x, y, 1, **options | dict(storage=storage))
        assert '\n' not in str(e.value)
    assert len(search(x, y, 3, **options).trials) == 3
    study = search(x, y, 5, **options)
    assert len(study.trials) == 5 and len(search(x, y, 5, **options).trials) == 5
    with pytest.raises(InputError, match='another space'):
        search(x, y, 6, **options | dict(base=TINY.with_epochs(2)))
    found = findings(study)
    assert all(r['curve'] or r['reason'] for r in found['trials'])
    assert all(bool(r['reason']) == (r['macs'] > 3_000_000 or r['parameters'] > LIMIT)
               for r in found['trials'])


def test_a_trial_of_a_search_is_judged_by_images_that_it_does_not_see(monkeypatch):
    optuna = pytest.importorskip('optuna')
    from cifar_nb.studies import search
    x, y = toy(300)
    kept, out = split(y, 100)
    end, seen = search.end_epoch, []
    def noted(t, seconds, held):
        seen.append(held)
        end(t, seconds, held)
    monkeypatch.setattr(search, 'end_epoch', noted)
    fixed = optuna.trial.FixedTrial(dict(width=8, growth=1.0, depth1=1, depth2=1, depth3=1, lr=.1))
    search.objective(fixed, x, y, search.Space(width=(8, 16, 8)),
                     FAST.with_epochs(1), 100, 'cpu')
    assert torch.equal(seen[0][0], x[out]) and torch.equal(seen[0][1], y[out])


def test_search_without_optuna_is_a_sentence(monkeypatch):
    from cifar_nb.studies.search import need_optuna
    monkeypatch.setitem(sys.modules, 'optuna', None)
    with pytest.raises(InputError, match=r'optuna is not installed here: run'): need_optuna()


def test_a_gain_over_all_studies_is_students_test(tmp_path):
    "Against scipy's test of one sample; toy trials and those of another scale do not count."
    from scipy.stats import ttest_1samp

    from cifar_nb.evaluation.records import full_record
    from cifar_nb.teams.claims import in_all
    from cifar_nb.teams.zoo import get_recipe
    gains = [-1., -2., -1.5, .2]
    (tmp_path / 'ablations').mkdir()
    for i, gain in enumerate([*gains, 50., 60.]):
        m = full_record(get_recipe('small'), seed=i)['manifest']
        if gain == 50.: m = m | dict(data=dict(name='toy', images=5, fingerprint='t'))
        r = dict(manifest=m, scale='long' if gain == 60. else 'fast', study='s', variation='x',
                 base='b', seconds=1., measures=dict(gain=gain))
        (tmp_path / f'ablations/{i}.json').write_text(json.dumps(r), encoding='utf-8')
    said = in_all('gain')(Results([], tmp_path))
    p = ttest_1samp(gains, 0).pvalue
    assert said == (f'open: over all small studies no difference seen, gain -1.1 ± 0.5 points '
                    f'(n = 4, p = {p:.2g})')
    assert said.again == 'ablate'
    assert in_all('gain')([]) is None and in_all('other')(Results([], tmp_path)) is None
