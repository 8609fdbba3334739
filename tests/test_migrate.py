"""Records and runs of the first release get a manifest: what agrees is known, what nobody wrote
down is unknown, and everything still loads."""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_nb.augment.ops import AlternatingFlip
from cifar_nb.core.errors import InputError
from cifar_nb.core.files import json_records, locked
from cifar_nb.core.manifest import (UNKNOWN, comparable, is_known, kernels_of, same_experiment,
                                    tensors_fingerprint)
from cifar_nb.data.cifar import load, search_places, split, toy
from cifar_nb.evaluation.records import load_results, study_records
from cifar_nb.recipes.house import QUICK
from cifar_nb.recipes.spec import trained
from cifar_nb.studies.ablations import SCALES, STUDIES, plan_trials
from cifar_nb.studies.migrate import FIRST, HELD, command_migrate, migrated, old_mark
from cifar_nb.teams.zoo import get_recipe
from cifar_nb.training.checkpoints import Run
from cifar_nb.training.loop import predict
from cifar_nb.training.precision import Precision
from cifar_nb.training.runs import as_before
from cifar_nb.training.train import train

ROOT = Path(__file__).parent.parent
# written by that commit: two finished runs, two that were stopped after their second epoch, and
# logits
OLD = Path(__file__).parent / 'e242a67'
X, Y = toy(200)
XT, YT = toy(40, seed=1)
LOGITS = json.loads((OLD / 'logits.json').read_text(encoding='utf-8'))
HELD_OUT = dict(fast_tiny=0, res_tiny=40)


def logits(run):
    return predict(run.load_net('cpu'), XT, run.recipe.phases[-1], Precision('fp32', ''))


@pytest.mark.parametrize('name', HELD_OUT)
def test_networks_of_the_first_release_give_the_same_logits(name):
    torch.testing.assert_close(
        logits(Run(OLD / name)), torch.tensor(LOGITS[name]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', HELD_OUT)
def test_a_run_that_the_first_release_stopped_goes_on_to_the_same_weights(name, tmp_path):
    """The finished run beside it is that of the same commit, recipe and seed: the best weights,
    hard examples, flips and average all have to be found again."""
    shutil.copytree(OLD / f'{name}_stopped', tmp_path / 'run')
    said, want = [], Run(OLD / name)
    train(want.recipe, X, Y, tmp_path / 'run', seed=1, device='cpu', precision='fp32',
          kernels=False, holdout=HELD_OUT[name], progress=False, resume=True, say=said.append,
          info=dict(data='toy'))
    run = Run(tmp_path / 'run')
    assert any('stay marked as unknown' in s
               for s in said) and run.manifest['data']['fingerprint'] == UNKNOWN
    assert [line['epoch'] for line in run.log] == [1, 2, 3] and run.log[:2] == want.log[:2]
    assert run.log[2]['train_loss'] == pytest.approx(want.log[2]['train_loss'], rel=1e-4)
    torch.testing.assert_close(logits(run), torch.tensor(LOGITS[name]), rtol=1e-3, atol=1e-3)
    assert not (run.path / 'best.safetensors').exists()


def test_a_stopped_run_of_the_first_release_refuses_other_settings(tmp_path):
    shutil.copytree(OLD / 'res_tiny_stopped', tmp_path / 'run')
    before = {p.name: p.read_bytes() for p in (tmp_path / 'run').iterdir()}
    recipe = Run(OLD / 'res_tiny').recipe
    for changes in (dict(seed=2), dict(holdout=0), dict(holdout=20), dict(precision='bf16')):
        settings = dict(seed=1, device='cpu', precision='fp32', holdout=40, progress=False,
                        resume=True, say=str) | changes
        with pytest.raises(InputError): train(recipe, X, Y, tmp_path / 'run', **settings)
    with pytest.raises(InputError):
        train(replace(recipe, clip=2.), X, Y, tmp_path / 'run', seed=1, device='cpu',
              precision='fp32', holdout=40, progress=False, resume=True, say=str)
    after = {p.name: p.read_bytes() for p in (tmp_path / 'run').iterdir() if p.name != '.lock'}
    assert after == before


def test_runs_are_migrated_once(tmp_path):
    shutil.copytree(OLD, tmp_path / 'runs', ignore=shutil.ignore_patterns('logits.json'))
    said = []
    command_migrate(tmp_path / 'runs', say=said.append)
    assert said[-1].startswith('4 records and runs')
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    command_migrate(tmp_path / 'runs', say=said.append)
    assert ('everything' in said[-1]
            and {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before)
    run = Run(tmp_path / 'runs/fast_tiny')
    assert [(e['tta']['transforms'][0], e['metrics']['accuracy']) for e in run.evaluations][0] == (
        'identity', Run(OLD / 'fast_tiny').result['test']['accuracy'])
    assert (kernels_of(run.manifest) == UNKNOWN and run.manifest['seed'] == 1
            and not is_known(run.manifest))


@pytest.mark.parametrize('first', ['migrate', 'resume', 'neither'])
@pytest.mark.parametrize('name', HELD_OUT)
def test_an_old_run_goes_on_after_a_migration_and_after_another_interruption(name, first, tmp_path):
    import cifar_nb.training.train as T
    shutil.copytree(OLD / f'{name}_stopped', tmp_path / 'run')
    recipe = Run(OLD / name).recipe
    settings = dict(seed=1, device='cpu', precision='fp32', kernels=False, holdout=HELD_OUT[name],
                    progress=False, resume=True, say=str, info=dict(data='toy'))
    class Killed(BaseException): pass
    if first == 'migrate': command_migrate(tmp_path, say=str)
    if first == 'resume':
        finish = T.finish_run
        T.finish_run = lambda *a, **k: (_ for _ in ()).throw(Killed())
        try:
            with pytest.raises(Killed): train(recipe, X, Y, tmp_path / 'run', **settings)
        finally: T.finish_run = finish
        assert (tmp_path / 'run/manifest.json').exists()
    train(recipe, X, Y, tmp_path / 'run', **settings)
    torch.testing.assert_close(
        logits(Run(tmp_path / 'run')), torch.tensor(LOGITS[name]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('migrate', [False, True])
def test_an_old_run_without_a_checkpoint_begins_anew_as_todays(migrate, tmp_path):
    (tmp_path / 'run').mkdir()
    shutil.copyfile(OLD / 'fast_tiny/recipe.json', tmp_path / 'run/recipe.json')
    if migrate: command_migrate(tmp_path, say=str)
    train(Run(OLD / 'fast_tiny').recipe, X, Y, tmp_path / 'run', seed=1, device='cpu',
          precision='fp32', kernels=False, progress=False, resume=True, say=str,
          info=dict(data='toy'))
    m = Run(tmp_path / 'run').manifest
    assert is_known(m) and m['seed'] == 1 and Run(tmp_path / 'run').result['seed'] == 1


def test_a_damaged_checkpoint_of_an_old_run_changes_nothing(tmp_path):
    shutil.copytree(OLD / 'res_tiny_stopped', tmp_path / 'run')
    (tmp_path / 'run/checkpoint.pt').write_bytes(b'half')
    with pytest.raises(InputError, match='cannot be read'):
        train(Run(OLD / 'res_tiny').recipe, X, Y, tmp_path / 'run', seed=1, device='cpu',
              precision='fp32', holdout=40, progress=False, resume=True, say=str)
    assert not (tmp_path / 'run/manifest.json').exists()


def test_migrating_goes_on_over_what_is_damaged_or_foreign_and_writes_nowhere_else(tmp_path):
    home = tmp_path / 'in' / 'side'
    for name in ('a', 'b', 'c'): shutil.copytree(OLD / 'res_tiny', home / name)
    (home / 'b/result.json').write_text('{"half', encoding='utf-8')
    r = json.loads((home / 'c/result.json').read_text(encoding='utf-8'))
    r['data'] = '../../../pwned'
    for k in r:
        if k.startswith('test'): r[k]['set'] = 'test set'
    (home / 'c/result.json').write_text(json.dumps(r), encoding='utf-8')
    for i, d in enumerate(
        [{'result': {'recipe': 'small'}}, {'study': 1, 'variation': 2, 'measures': 3, 'base': 4},
         {'rung': 'a', 'recipe': 1, 'curve': 2},
         {'training': 'x', 'survey': {}, 'mark': 1}, {'network': 'x', 'survey': 3},
         {'space': 1, 'trials': 2, 'importance': 3, 'recipe': 4}]):
        (home / f'{i}.json').write_text(json.dumps(d), encoding='utf-8')
    said = []
    command_migrate(home, say=said.append)
    assert ([n for n in 'abc' if (home / n / 'manifest.json').exists()] == ['a', 'c']
            and sum('left as it is' in s for s in said) == 7)
    assert (sorted(p.name for p in tmp_path.iterdir()) == ['in']
            and sorted(p.name for p in (tmp_path / 'in').iterdir()) == ['side']
            and not list(tmp_path.rglob('pwned*/..')))


def test_migrating_again_after_a_kill_doubles_nothing(tmp_path):
    d = old_record()
    # as if killed between writing and deleting
    for name in ('old name.json', 'twin.json'):
        (tmp_path / name).write_text(json.dumps(d), encoding='utf-8')
    command_migrate(tmp_path, say=str)
    assert [p.name for p in tmp_path.glob('*.json')] == ['quick-report-8epochs-seed0-cpu.json']
    with pytest.raises(InputError, match='did you mean winograd'):
        command_migrate(tmp_path, 'winogard')


def test_a_folder_that_another_process_works_in_is_left_alone(tmp_path):
    "What a training or a study is just writing is no leftover; what a killed one left is."
    for name in ('busy', 'free'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'x.json').write_text(json.dumps(old_record()), encoding='utf-8')
        (tmp_path / name / '.checkpoint.pt.123').write_bytes(b'half')
    said = []
    with locked(tmp_path / 'busy/.lock', ''): command_migrate(tmp_path, say=said.append)
    assert {'.checkpoint.pt.123', 'x.json'} < {p.name for p in (tmp_path / 'busy').iterdir()}
    assert 'schema' not in json.loads((tmp_path / 'busy/x.json').read_text(encoding='utf-8'))
    assert sum('busy is left as it is: another process works there' in s for s in said) == 1
    assert not (tmp_path / 'free/.checkpoint.pt.123').exists() and said[-1].startswith('1 record')
    with locked(tmp_path / 'busy/.lock', ''): command_migrate(tmp_path, say=said.append)
    assert said[-1].startswith('everything else in')


def test_records_of_which_nothing_is_known_are_not_averaged():
    from cifar_nb.evaluation.records import grouped
    other = old_record(recipe='quack'), old_record(recipe='quack', macs=3)
    rs = [dict(manifest=m['manifest'], result=m['result'] | dict(manifest=m['manifest']))
          for m in (migrated(d)[0] for d in other)]
    assert [len(g) for g in grouped(rs)] == [1, 1]


def test_what_took_no_notice_of_the_seed_is_told_in_todays_words():
    "Before, every seed flipped as seed 0 does now; an average did not warm up."
    flips = [t.seed for seed in (0, 3) for p in as_before(QUICK, seed).phases for t in p.augment
             if isinstance(t, AlternatingFlip)]
    assert flips == [0, -3] and as_before(QUICK, 0) == QUICK
    assert not as_before(replace(QUICK, ema=.9), 0).ema_warmup


def old_record(**changes):
    r = get_recipe('quick')
    log = [dict(epoch=i + 1, lr=lr, train_loss=1., train_accuracy=50.)
           for i, lr in enumerate(r.learning_rates())]
    result = dict(recipe='quick', variant='report', seed=0, epochs=8, train_images=50_000,
                  held_out=0, parameters=497_216, macs=33_066_272, seconds=60.,
                  images_per_second=1.,
                  checkpoint='last', best_held_accuracy=None, last=log[-1], device='cpu',
                  hardware='a', processes=1, threads=2, precision='bf16',
                  memory_format='channels_last',
                  torch='2.15.0', python='3.11', data='cifar10',
                  test=dict(accuracy=90.5, images=10_000, set='test set', views='single view'))
    return dict(result=result | changes, log=log, timing=[])


def test_a_record_that_agrees_with_its_recipe_is_known_but_for_its_kernels():
    r, name = migrated(old_record())
    m = r['manifest']
    assert (m['recipe'] == trained(QUICK) and m['data']['fingerprint'] == FIRST[50_000]
            and kernels_of(m) == UNKNOWN and name == 'quick-report-8epochs-seed0-cpu')
    assert 'test' not in r['result'] and r['evaluations'][0]['metrics']['accuracy'] == 90.5
    assert (not same_experiment(m, migrated(old_record(), [])[0]['manifest'])
            and is_known(migrated(old_record(), [])[0]['manifest']))


@pytest.mark.parametrize(
    'changes', [dict(parameters=1), dict(macs=1), dict(epochs=9), dict(recipe='quack')])
def test_a_record_that_does_not_agree_says_that_its_recipe_is_unknown(changes):
    assert migrated(old_record(**changes))[0]['manifest']['recipe'] == UNKNOWN


def test_other_learning_rates_are_another_recipe():
    d = old_record()
    d['log'][3]['lr'] *= 2
    assert migrated(d)[0]['manifest']['recipe'] == UNKNOWN


def test_a_record_that_tells_of_its_sittings_keeps_them():
    def sitting(done, cpu):
        return dict(began='2026-11-25 23:40', cpu=cpu, torch='2.14.1', threads=1,
                    beside_other_work=True, epochs_done={'quick:report': done, 'other:code': 3})
    told = dict(commit='e242a679aee67861cf9e88402e1e9803f970caed',
                sittings=[sitting(0, 'one'), sitting(0, 'one'), sitting(5, 'two'),
                          sitting(8, 'three')],
                test_curve=[dict(epoch=1, test_accuracy=30.)])
    r, _ = migrated(old_record() | dict(long_run=told), ['winograd'])
    assert [(s['epoch'], s['processor'], s['kernels'], s['versions']['commit'])
            for s in r['manifest']['sittings']] == [
        (0, 'one', ['winograd'], 'e242a679aee6'), (5, 'two', ['winograd'], 'e242a679aee6')]
    assert (r['test_curve'] == told['test_curve'] and r['beside_other_work']
            and is_known(r['manifest']))


def test_an_older_run_that_is_evaluated_again_keeps_its_older_figures(tmp_path):
    from cifar_nb.data.cifar import SHAPES
    from cifar_nb.evaluation.report import evaluate
    shutil.copytree(OLD / 'res_tiny', tmp_path / 'run')
    before = Run(tmp_path / 'run').evaluations
    evaluate(tmp_path / 'run', XT, YT, device='cpu', name='toy test set', classes=list(SHAPES),
             data='toy', tta=('identity', 'flip', 'left'))
    after = Run(tmp_path / 'run').evaluations
    assert len(before) == 2 and len(after) == 3 and all(e in after for e in before)


def test_what_has_a_manifest_or_is_no_record_is_left_alone():
    assert (migrated(migrated(old_record())[0]) is None
            and migrated(dict(bench='train', rows=[])) is None and migrated({}) is None)


def test_the_marks_of_the_first_release_are_computed_as_it_did():
    """Two of the marks that stood in its records: the base of the studies, and quick with colour
    jitter for chapter 50."""
    from cifar_nb.studies.ablations import FAST
    from cifar_nb.studies.shift import TRAININGS, trained_with
    assert (old_mark(FAST, 12_500, 2_500) == MARKS['fast']
            and old_mark(trained_with(TRAININGS['jitter']), 50_000, 2_000) == MARKS['jitter'])


MARKS = dict(fast='aeb01f7c38', jitter='f928ac54f6')


@pytest.mark.skipif(search_places(None) is None, reason='no CIFAR-10 here')
def test_the_fingerprints_of_the_first_images_are_those_of_cifar_10():
    x, y = load('train', say=str)
    for n, mark in FIRST.items(): assert tensors_fingerprint(x[:n], y[:n]) == mark
    for (n, held), mark in HELD.items(): assert tensors_fingerprint(split(y[:n], held)[1]) == mark


# ---- what lies in the repository

def test_every_record_of_the_repository_has_a_manifest_and_they_are_what_they_say():
    folders = [ROOT / 'results',
               *(p for p in (ROOT / 'results').iterdir() if p.is_dir() and p.name != 'bench')]
    records = [(p, d) for f in folders for p, d in json_records(f)]
    assert len(records) >= 200 and all('schema' in d for _, d in records)
    manifests = {p: d['manifest'] for p, d in records if 'manifest' in d}
    assert not [p.name for p, m in manifests.items() if m['recipe'] == UNKNOWN]


def test_runs_without_kernels_are_not_those_with():
    quick = [r for r in load_results(ROOT / 'results') if r['manifest']['name'] == 'quick']
    without = load_results(ROOT / 'results/without_kernel')
    assert quick and without
    for a in quick:
        assert not any(same_experiment(a['manifest'], b['manifest'])
                       or comparable(a['manifest'], b['manifest']) for b in without)


def test_the_studies_find_their_records():
    known = study_records(ROOT / 'results/ablations')
    begun = {r['study'] for r in known if r['scale'] == 'fast'}
    studies = [s for s in STUDIES if s.name in begun]
    assert len(studies) >= 16  # as many were migrated; of later ones some may not be run yet
    for t in plan_trials(studies, SCALES['fast'], 2):
        assert any(r['manifest']['recipe'] == trained(t.recipe) and r['manifest']['seed'] == t.seed
                   for r in known), (t.study, t.variation)
