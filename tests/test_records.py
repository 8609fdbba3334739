"""Records are found by what they are; figures are filed under what they measured, and nothing
replaces anything else."""
import json
from dataclasses import replace

import pytest
import torch

from cifar_nb.cli import main
from cifar_nb.core.errors import InputError
from cifar_nb.core.files import json_records
from cifar_nb.core.manifest import UNKNOWN, same_experiment
from cifar_nb.data.cifar import CIFAR10, SHAPES, toy
from cifar_nb.data.images import Images
from cifar_nb.evaluation.records import (counts_as_full, file_stem, find_trial, full_record,
                                         grouped, keep_trial, load_results, one_a_seed, record_run,
                                         study_records, with_test_figures)
from cifar_nb.evaluation.records import test_evaluations as of_the_test_set
from cifar_nb.evaluation.report import evaluate, summarize, viewed
from cifar_nb.recipes.spec import SMALL, trained
from cifar_nb.studies.reproduce import recorded, reproduce
from cifar_nb.teams.zoo import get_recipe
from cifar_nb.training.checkpoints import Run
from cifar_nb.training.jobs import Member, identified, is_run_of, plan_members, train_members
from cifar_nb.training.train import train

TINY = replace(get_recipe('small').with_epochs(1), name='tiny',
               net=replace(get_recipe('small').net, widths=(4, 8, 8)))
X, Y = toy(200)
XT, YT = toy(50, seed=1)
QUIET = dict(device='cpu', precision='fp32', progress=False, say=lambda s: None,
             info=dict(data='toy'))
NAMES = dict(name='toy test set', classes=list(SHAPES), data='toy')


@pytest.fixture
def run(tmp_path):
    train(TINY, X, Y, tmp_path / 'run', **QUIET)
    return Run(tmp_path / 'run')


def figures(folder): return [r['result']['test']['accuracy'] for r in load_results(folder)]


def edited(path, **changes):
    d = json.loads(path.read_text(encoding='utf-8'))
    path.write_text(json.dumps(d | changes), encoding='utf-8')


# ---- I1: evaluations

def test_an_evaluation_on_another_set_replaces_nothing_and_is_filed_as_nothing_else(run, tmp_path):
    m = evaluate(run, XT, YT, device='cpu', **NAMES)
    kept = record_run(run, tmp_path / 'results')
    other = evaluate(run, 255 - XT, YT.flip(0), device='cpu',
                     **NAMES | dict(name='spoiled', data='spoiled'))
    assert other['loss'] != m['loss']
    assert (record_run(Run(run.path), tmp_path / 'results') == kept
            and figures(tmp_path / 'results') == [m['accuracy']])
    r, = load_results(tmp_path / 'results')
    assert (sorted(e['images']['name'] for e in r['evaluations']) == ['spoiled', 'toy test set']
            and Run(run.path).result['test']['accuracy'] == m['accuracy'])
    assert {e['weights'] for e in r['evaluations']} == {run.weights}


def test_a_run_of_cifar_10_has_no_figure_from_another_set():
    m = full_record(TINY)['manifest']
    def e(tta, **images):
        return dict(
            images=dict(name='test set', data='cifar10', images=10_000,
                        fingerprint=CIFAR10['test']) | images, tta=dict(transforms=tta),
            metrics=dict(accuracy=1.))
    assert of_the_test_set(m, [e(['identity'])])
    for images in (dict(data='toy'), dict(fingerprint='of the first hundred', images=100),
                   dict(fingerprint=CIFAR10['train'])):
        assert not of_the_test_set(m, [e(['identity'], **images)])
    both = with_test_figures(
        dict(test='typed by hand', seed=0), m, [e(['identity', 'flip']), e(['identity'])])
    assert set(both) == {'seed', 'test',
                         'test, mean of identity, flip'} and both['test']['views'] == 'single view'
    assert with_test_figures(dict(test=3), m, [e(['identity'], data='toy')]) == {}


def test_an_evaluation_with_other_tta_or_precision_stands_beside(run):
    for tta in (('identity',), ('identity', 'flip'), ('identity',)):
        evaluate(run, XT, YT, device='cpu', tta=tta, **NAMES)
    assert len(run.evaluations) == 2
    e = run.evaluations[0]
    assert {'weights', 'images', 'tta', 'precision', 'memory_format', 'kernels', 'processor',
            'versions', 'metrics'} <= set(e) and e['kernels'] == []


def test_a_run_that_was_not_asked_about_its_test_set_is_not_recorded(run, tmp_path):
    with pytest.raises(InputError, match='not been evaluated'):
        record_run(run, tmp_path / 'results')
    evaluate(run, XT, YT, device='cpu', **NAMES | dict(data='another'))
    with pytest.raises(InputError, match='not been evaluated'):
        record_run(Run(run.path), tmp_path / 'results')
    assert not (tmp_path / 'results').exists()


def test_a_result_that_is_not_of_its_manifest_is_refused(run):
    edited(run.path / 'result.json', data='cifar10')
    with pytest.raises(InputError, match='not the result of the run'): Run(run.path).result
    edited(run.path / 'result.json', data='toy', seed=5)
    with pytest.raises(InputError, match='not the result of the run'): Run(run.path).result


# ---- F5, I8: where records lie

@pytest.mark.parametrize('name', ['/abs/x', '../x', 'a/b', '..', '', 'con: "x"?', '.hidden'])
def test_no_name_leads_out_of_the_folder(run, tmp_path, name):
    evaluate(run, XT, YT, device='cpu', **NAMES)
    for file in ('manifest.json', 'result.json'):
        edited(run.path / file, **{'name' if file == 'manifest.json' else 'recipe': name})
    before = {p for p in tmp_path.rglob('*.json')}
    path = record_run(Run(run.path), tmp_path / 'results')
    assert (path.parent == tmp_path / 'results'
            and {p for p in tmp_path.rglob('*.json')} - before == {path}
            and not path.name.startswith('.'))


def test_another_precision_kernel_or_network_of_that_name_stands_beside(run, tmp_path):
    evaluate(run, XT, YT, device='cpu', **NAMES)
    folder = tmp_path / 'results'
    record_run(run, folder)
    m = json.loads((run.path / 'manifest.json').read_text(encoding='utf-8'))
    sitting = m['sittings'][0]
    changes = [dict(precision='bf16'), dict(sittings=[sitting | dict(kernels=['winograd'])]),
               dict(sittings=[sitting | dict(processor='another')]),
               dict(sittings=[sitting | dict(threads=99)]), dict(seed=1)]
    for i, change in enumerate(changes):
        (run.path / 'manifest.json').write_text(
            json.dumps(m | change | dict(run=f'run{i}')), encoding='utf-8')
        edited(run.path / 'result.json', run=f'run{i}', **change if 'seed' in change else {})
        record_run(Run(run.path), folder)
    assert len(load_results(folder)) == 1 + len(changes)
    record_run(Run(run.path), folder)
    assert len(load_results(folder)) == 1 + len(changes)


def test_the_same_experiment_again_on_the_same_machine_is_one_record(tmp_path):
    for i in range(2):
        train(TINY, X, Y, tmp_path / f'run{i}', **QUIET)
        evaluate(tmp_path / f'run{i}', XT, YT, device='cpu', **NAMES)
        path = record_run(Run(tmp_path / f'run{i}'), tmp_path / 'results')
    assert [path] == [p for p, _ in json_records(tmp_path / 'results')]


def test_records_are_found_by_what_they_are_not_by_their_names(run, tmp_path):
    evaluate(run, XT, YT, device='cpu', **NAMES)
    path = record_run(run, tmp_path / 'results')
    path.rename(path.with_name('anything at all.json'))
    assert (record_run(run, tmp_path / 'results').name == 'anything at all.json'
            and len(load_results(tmp_path / 'results')) == 1)


# ---- I13: damaged and foreign files

@pytest.mark.parametrize(
    'raw',
    [b'{"a":', b'', b'[1]', b'3', b'\xef\xbb\xbf{}', b'\xff\xfe{',
     b'{"result": {"recipe": "small"}}', b'{"result": 3}', b'{"result": {}, "log": 3}',
     b'{"bench": "x"}',
     b'{"result": {"recipe": "a", "epochs": 1, "seed": 0}, "manifest": {"schema": 1}}',
     b'[' * 100_000])
def test_one_damaged_or_foreign_file_is_passed_over_and_named(tmp_path, raw, capsys):
    (tmp_path / 'x.json').write_bytes(raw)
    (tmp_path / '._x.json').write_bytes(b'\0\5\x16\7\0\2\xff')
    said = []
    assert load_results(tmp_path, said.append) == [] and len(said) == 1 and 'x.json' in said[0]
    if raw in (b'{"a":', b'\xff\xfe{', b'{"result": {"recipe": "small"}}'):
        for_each = [['scoreboard'],
                    ['reproduce', 'dreamfire:code', '--list', '--data', 'toy', '--seeds', '1']]
    else: for_each = []
    for verb in for_each:
        assert main([*verb, '--results', str(tmp_path)]) == 0
        assert 'Traceback' not in capsys.readouterr().err
    (tmp_path / 'ablations').mkdir(); (tmp_path / 'ablations' / 'x.json').write_bytes(raw)
    assert study_records(tmp_path / 'ablations', said.append) == []
    assert (main(['ablate', '--list', '--results', str(tmp_path)]) == 0
            and 'Traceback' not in capsys.readouterr().err)


def test_a_folder_of_results_that_is_not_there_is_a_sentence(tmp_path, capsys):
    assert main(['scoreboard', '--results', str(tmp_path / 'typo')]) == 2
    assert 'There is no folder' in capsys.readouterr().err


# ---- averages

def test_only_what_is_comparable_is_averaged():
    a, b = (full_record(TINY, dict(test=dict(accuracy=90.)), seed=s) for s in (0, 1))
    others = [full_record(TINY, dict(test=dict(accuracy=10.)), kernels=['winograd']),
              full_record(TINY, dict(test=dict(accuracy=10.)), images=45_000),
              full_record(replace(TINY, clip=1.), dict(test=dict(accuracy=10.)))]
    unknown = full_record(TINY, dict(test=dict(accuracy=10.)))
    unknown['manifest']['sittings'][0]['kernels'] = UNKNOWN
    groups = grouped([a, *others, b, unknown])
    assert [len(g) for g in groups] == [2, 1, 1, 1, 1] and [r['seed'] for r in groups[0]] == [0, 1]
    again = full_record(TINY, dict(test=dict(accuracy=91.)), seed=1)
    assert [r['result']['test']['accuracy'] for r in one_a_seed([a, b, again])] == [90., 91.]
    assert [counts_as_full(r) for r in (a, others[1])] == [True, False]


def test_runs_of_two_machines_are_two_rows_and_the_fastest_counts():
    def record(seed, machine, seconds):
        return full_record(TINY, dict(
            parameters=9, macs=10**6, hardware=machine, threads=2, precision='fp32', torch='2',
            seconds=seconds, images_per_second=1000 / seconds, test=dict(accuracy=90. + seed),
            **{'test, mean of identity, flip': dict(accuracy=91.),
               'test, mean of identity, flip, left': dict(accuracy=95.)}), seed=seed)
    rs = [record(0, 'A', 20.), record(1, 'A', 10.), record(2, 'B', 5.)]
    assert [[r['seed'] for r in g] for g in grouped(rs)] == [[0, 1], [2]]
    first, second = summarize(rs).splitlines()[2:]
    assert '90.50% ± 0.71 | 95.00% ± 0.00 | 2 | 10 | 100 | A, 2 threads' in first
    assert '92.00% | 95.00% | 1 | 5 | 200 | B, 2 threads' in second
    assert viewed(rs[0]['result']) == 95.


def test_of_several_records_of_a_seed_the_one_that_began_last_stands():
    "Whatever their files are called: `x-2.json`, the newer, sorts before `x.json`."
    def record(accuracy, *began):
        r = full_record(TINY, dict(test=dict(accuracy=accuracy)))
        r['manifest']['sittings'] = [r['manifest']['sittings'][0] | dict(began=b) for b in began]
        return r
    old, unknown = record(90., '2026-11-02T00:00:00Z'), record(91., UNKNOWN)
    again = record(92., '2026-11-01T00:00:00Z', '2026-11-03T00:00:00Z')
    other = full_record(TINY, seed=1)
    assert one_a_seed([again, other, old, unknown]) == [again, other]
    assert one_a_seed([old, unknown]) == one_a_seed([unknown, old]) == [old]


# ---- I3, I2: reproduce

PICTURES = Images(X, Y, XT, YT, 'toy', 'toy test set')


def member(recipe, folder, **settings):
    return identified([Member(recipe, 0, folder)], X, Y, ['cpu'], 'toy', **settings)[0]


def test_a_recipe_that_changed_since_is_not_recorded(run, tmp_path):
    evaluate(run, XT, YT, device='cpu', **NAMES)
    record_run(run, tmp_path / 'results')
    results = load_results(tmp_path / 'results')
    assert recorded(member(TINY, tmp_path / 'm', precision='fp32', kernels=False),
                    [r | dict(manifest=with_kernels(r['manifest'], [])) for r in results])
    changed = replace(
        TINY,
        phases=tuple(replace(p, optimizer=replace(p.optimizer, lr=1e-4)) for p in TINY.phases))
    assert not recorded(member(changed, tmp_path / 'n', precision='fp32', kernels=False), results)


def with_kernels(m, kernels):
    return {**m, 'sittings': [s | dict(kernels=kernels) for s in m['sittings']]}


def test_a_finished_run_of_an_older_recipe_of_that_name_is_not_recorded(tmp_path):
    old = replace(
        TINY,
        phases=tuple(replace(p, optimizer=replace(p.optimizer, lr=1e-4)) for p in TINY.phases))
    settings = dict(results=tmp_path / 'results', runs=tmp_path / 'runs', devices=['cpu'], poll=.05,
                    say=lambda s: None, precision='fp32')
    assert reproduce([old], PICTURES, **settings) == []
    assert reproduce([TINY], PICTURES, **settings) == []
    rates = sorted(r['manifest']['recipe']['phases'][0]['optimizer']['lr']
                   for r in load_results(tmp_path / 'results'))
    assert rates == [1e-4, TINY.phases[0].optimizer.lr]
    # the older run is still there
    assert len(list((tmp_path / 'runs').glob('tiny*/result.json'))) == 2


# ---- I4, I7: members

def test_another_holdout_precision_or_set_of_images_is_another_member(tmp_path):
    def trained_with(x=X, y=Y, **settings):
        m, = identified(plan_members([TINY], (0,), out=tmp_path), x, y, ['cpu'], 'toy', **settings)
        train_members([m], ['cpu'], x, y, poll=.05, info=dict(data='toy'), **settings)
        return m
    first = trained_with(precision='fp32', holdout=50)
    assert Run(first.out).manifest['validation']['images'] == 50
    for settings in (dict(precision='fp32'), dict(precision='fp32 nchw'),
                     dict(precision='fp32', x=255 - X)):
        m = trained_with(**settings)
        assert m.out != first.out and Run(m.out).manifest['validation']['images'] == 0
    assert len(list(tmp_path.glob('tiny*/result.json'))) == 4
    again = trained_with(precision='fp32', holdout=50)
    assert again.out == first.out


def test_the_same_recipe_twice_is_one_member_and_two_of_a_name_are_two(tmp_path):
    other = replace(TINY, clip=1.)
    assert len(plan_members([SMALL, SMALL], out=tmp_path)) == 1
    assert len({m.out for m in plan_members([TINY, other], out=tmp_path)}) == 2


def test_a_toy_run_is_not_taken_for_one_of_other_images(tmp_path):
    m, = identified(plan_members([TINY], (0,), out=tmp_path / 'a'), X, Y, ['cpu'], 'toy',
                    precision='fp32')
    train(TINY, X, Y, m.out, **QUIET)
    assert is_run_of(m.out, m.manifest)
    for x in (255 - X, torch.cat([X, X])[:200].flip(0)):
        other, = identified(plan_members([TINY], (0,), out=tmp_path / 'b'), x, Y, ['cpu'],
                            'cifar10',
                            precision='fp32')
        assert not is_run_of(m.out, other.manifest)


# ---- studies

def test_trials_are_kept_beside_each_other_and_found_by_their_manifest(tmp_path):
    m = full_record(TINY)['manifest']
    for lr in (.1, .2, .1):
        recipe = json.loads(json.dumps(trained(TINY)))
        recipe['phases'][0]['optimizer']['lr'] = lr
        kept = keep_trial(tmp_path,
                          dict(manifest=m | dict(recipe=recipe), variation='v', asked={},
                               seconds=1., survey=dict(images=1, clean=1.)),
                          'a title: with / signs', also=('asked',))
    assert (len(list(tmp_path.glob('*.json'))) == 2
            and same_experiment(find_trial(study_records(tmp_path), kept['manifest'])['manifest'],
                                kept['manifest']))
    keep_trial(tmp_path, kept | dict(asked=dict(seed=2)), 'a title: with / signs', also=('asked',))
    assert (len(list(tmp_path.glob('*.json'))) == 3
            and find_trial(study_records(tmp_path), kept['manifest'],
                           asked=dict(seed=2))['asked'] == dict(seed=2))
    assert find_trial(study_records(tmp_path), kept['manifest'] | dict(seed=9)) is None
    assert file_stem(m) == 'tiny-report-1epochs-seed0-x'
