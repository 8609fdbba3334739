"""One thing changed: `Recipe.with_`, `train --set`, `train FILE.json`, what the manifest says of
it, and loggers."""
import json
import re
import subprocess
import sys
import types
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_nb.augment.ops import Cutout, RandomCrop, RandomHorizontalFlip
from cifar_nb.cli import main
from cifar_nb.cli.arguments import parser, setting
from cifar_nb.cli.asked import recipe_asked
from cifar_nb.core.errors import InputError
from cifar_nb.core.manifest import read_manifest, same_experiment, same_training
from cifar_nb.data.cifar import toy
from cifar_nb.delivery.publish import card
from cifar_nb.evaluation.records import load_results
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.change import changes_between, read_recipe
from cifar_nb.recipes.spec import (SMALL, Optimizer, Phase, Recipe, Schedule, recipe_from_json,
                                   trained)
from cifar_nb.recipes.vary import OTHER_NAMES, fields_of
from cifar_nb.teams.zoo import base_of, get_recipe
from cifar_nb.training.loggers import logger, logging_to
from cifar_nb.training.signals import Interrupted
from cifar_nb.training.train import planned, train

ROOT = Path(__file__).parent.parent
PHASE = SMALL.phases[0]
TINY = Recipe('tiny', NetSpec(widths=(4,), depths=(1,), strides=(4,)), title='Tiny', phases=(
    Phase(2, Optimizer(lr=.1, momentum=.9), Schedule('linear', t_max=2), batch_size=64),
    Phase(1, Optimizer(lr=.01), augment=(RandomHorizontalFlip(),), batch_size=32)))
CPU = dict(device='cpu', precision='fp32', progress=False, say=lambda s: None)
X, Y = toy(96)


def only(recipe=SMALL, i=0, **changes):
    "`recipe` with `changes` in its phase `i`, by hand."
    p = replace(recipe.phases[i], **changes)
    return replace(recipe, phases=(*recipe.phases[:i], p, *recipe.phases[i + 1:]))


def unnamed(r): return replace(r, name='', title='')


# Recipe.with_: independent of vary, written out by hand

@pytest.mark.parametrize('changes, wanted, name', [
    (dict(lr=.05), only(optimizer=replace(PHASE.optimizer, lr=.05)), 'small, lr=0.05'),
    (dict(augment=['RandomCrop', dict(transform='Cutout', size=8)]),
     only(augment=(RandomCrop(), Cutout(8))), 'small, augment'),
    (dict(augment=[Cutout(8)]), only(augment=(Cutout(8),)), 'small, augment'),
    (dict(schedule=dict(warmup_epochs=1)),
     only(schedule=replace(PHASE.schedule, warmup_epochs=1)), 'small, warmup_epochs=1'),
    (dict(warmup_epochs=1), only(schedule=replace(PHASE.schedule, warmup_epochs=1)),
     'small, warmup_epochs=1'),
    (dict(schedule='constant'), only(schedule=replace(PHASE.schedule, shape='constant')),
     'small, schedule=constant'),
    (dict(optimizer='AdamW', lr=.001),
     only(optimizer=replace(PHASE.optimizer, name='AdamW', lr=.001)),
     'small, optimizer=AdamW, lr=0.001'),
    (dict(optimizer=dict(name='Adam', lr=.001)),
     only(optimizer=replace(PHASE.optimizer, name='Adam', lr=.001)),
     'small, optimizer=Adam, lr=0.001'),
    # a single field goes before the whole
    (dict(lr=.3, optimizer=dict(lr=.1)), only(optimizer=replace(PHASE.optimizer, lr=.3)),
     'small, lr=0.3, lr=0.1'),
    (dict(ema=.9, label_smoothing=.05), replace(SMALL, ema=.9), 'small, ema=0.9'),
    (dict(block='plain', epochs=9), replace(SMALL, net=replace(SMALL.net, block='plain')),
     'small, block=plain'),
    # possible together only
    (dict(widths=[8, 8], depths=[1, 1], strides=[2, 2]),
     replace(SMALL, net=NetSpec((8, 8), (1, 1), (2, 2))), 'small, widths, depths, strides')])
def test_with_changes_what_it_is_told_and_its_name(changes, wanted, name):
    changed = SMALL.with_(**changes)
    assert unnamed(changed) == unnamed(wanted) and changed.name == name
    assert changed.title == SMALL.title + name.removeprefix('small')
    assert recipe_from_json(changed.to_json()) == changed


def test_without_a_change_it_is_the_recipe():
    assert SMALL.with_() == SMALL == SMALL.with_(lr=.2, epochs=9, widths=[64, 128, 256])
    assert SMALL.with_(epochs=3) == SMALL.with_epochs(3)
    assert SMALL.with_(name='mine', title='My own') == replace(SMALL, name='mine', title='My own')
    assert SMALL.with_(name='mine', lr=.1).name == 'mine'


def test_one_phase_alone_goes_before_all():
    changed = TINY.with_(phase2=dict(lr=.5, schedule=dict(gamma=.5)), lr=.2, batch_size=16)
    first, second = TINY.phases
    assert changed.phases == (
        replace(first, optimizer=replace(first.optimizer, lr=.2), batch_size=16),
        replace(second, optimizer=replace(second.optimizer, lr=.5), batch_size=16,
                schedule=Schedule(gamma=.5)))


def test_the_schedule_is_stretched_first_and_set_then():
    changed = SMALL.with_(t_max=1, epochs=3)
    assert changed.phases[0].schedule == replace(SMALL.with_epochs(3).phases[0].schedule, t_max=1)


def test_a_name_stays_short():
    long = SMALL.with_(name='x' * 90, title='T').with_(lr=.05, momentum=.8, batch_size=64)
    assert len(long.name) <= 100 and long.name.startswith('x' * 90)


WRONG = [
    (dict(lr='x'), "lr is not a number; it is 'x'"), (dict(nesterov='True'), 'true or false'),
    (dict(batch_size=2.5), 'batch_size is not a whole number'), (dict(lrr=1), 'did you mean lr'),
    (dict(widths=['a']), r'widths\[0\] is not a whole number'), (dict(lr=True), 'not a number'),
    (dict(lr=float('nan')), 'not a number'), (dict(momentum=-1), 'momentum=-1'),
    (dict(mean=[1, 2]), 'does not have 3 numbers'), (dict(std=[0, 1, 1]), 'std='),
    (dict(augment='RandomCrop'), 'give a list'), (dict(augment=['RandomCorp']), 'RandomCrop'),
    (dict(augment=[dict(transform='Cutout', sise=8)]), 'sise'), (dict(augment=[5]), '5 does not'),
    (dict(augment=[dict(transform=[])]), 'does not describe an operation'),
    (dict(schedule='cosin'), 'did you mean cosine'), (dict(schedule=3), 'schedule=3'),
    (dict(optimizer={'': 1}), 'no field of the optimizer'), (dict(phase2=dict(lr=1)), '1 phase,'),
    (dict(phase0=dict(lr=1)), 'no phase0'), (dict(phase1=3), 'give a dictionary'),
    (dict(phase1=dict(widths=[1])), 'no field of a phase'), (dict(epochs=True), 'whole number'),
    (dict(epochs=0), 'epochs=0'), (dict(without='Cutout'), "no operation of small 'Cutout'"),
    (dict(name=''), 'name='), (dict(name=5), 'name=5'), (dict(width_factor='x'), 'width_factor='),
    (dict(width_factor=-1), 'width_factor=-1'), (dict(depth_factor=1.5), 'depth_factor=1.5'),
    (dict(shape='plateau', gamma=2, warmup_epochs=0, unit='epoch'), 'gamma=2'),
    (dict(warmup_start_factor=2), 'warmup_start_factor'), (dict(milestones=[-1]), '0 or more')]


@pytest.mark.parametrize('changes, said', WRONG)
def test_what_cannot_be_is_a_sentence(changes, said):
    with pytest.raises(InputError, match=said): SMALL.with_(**changes)


def test_torch_refuses_and_we_say_it():
    with pytest.raises(InputError, match='Optimizer SGD: Nesterov'):
        recipe_asked('small', settings=[('momentum', 0)])
    with pytest.raises(InputError, match='Optimizer Adam: Invalid beta'):
        recipe_asked('small', settings=[('optimizer', 'Adam'), ('betas', [2, 3])])


# What a run is

def plan(recipe, **kwargs): return planned(recipe, X, Y, device='cpu', precision='fp32', **kwargs)


def test_a_changed_recipe_is_another_training_and_an_unchanged_one_is_not():
    assert same_experiment(plan(SMALL), plan(SMALL.with_()))
    assert same_experiment(plan(SMALL), plan(SMALL.with_(title='T', tta_transforms=['flip'])))
    assert not same_training(plan(SMALL), plan(SMALL.with_(lr=.05)))
    assert not same_training(plan(SMALL), plan(SMALL.with_(lr=.05, name='small')))


def test_the_lines_of_what_differs():
    assert changes_between(SMALL, SMALL) == []
    assert changes_between(SMALL, SMALL.with_(lr=.05, dropout=.1, ema=.9, augment=['Cutout'])) == [
        'dropout: 0.0 -> 0.1', 'augment: RandomCrop(mode=reflect), RandomHorizontalFlip() -> '
        'Cutout()', 'lr: 0.2 -> 0.05', 'ema: 0.0 -> 0.9']
    assert changes_between(SMALL, SMALL.with_(epochs=3, lr=.05)) == [
        'epochs: 9 -> 3, with the schedule', 'lr: 0.2 -> 0.05']
    assert changes_between(SMALL, only(epochs=3)) == ['epochs: 9 -> 3']
    assert changes_between(TINY, TINY.with_(phase2=dict(optimizer='Adam', augment=[]))) == [
        'phase2.augment: RandomHorizontalFlip() -> none', 'phase2.optimizer: SGD -> Adam']
    shorter = replace(TINY, phases=TINY.phases[:1])
    assert changes_between(TINY, shorter) == ['phases: 2 -> 1']
    quick = get_recipe('quick')
    assert changes_between(SMALL, replace(SMALL, net=quick.net))[0].startswith('network: NetSpec(')


def test_the_manifest_says_what_differs_and_nobody_compares_it(tmp_path):
    changed = TINY.with_(lr=.05)
    t = train(changed, X, Y, tmp_path / 'run', base=TINY, **CPU)
    m = read_manifest(tmp_path / 'run/manifest.json')
    assert m['differs'] == dict(of='tiny', variant='report', lines=[
        'phase1.lr: 0.1 -> 0.05', 'phase2.lr: 0.01 -> 0.05'])
    assert same_experiment(m, {k: v for k, v in m.items() if k != 'differs'})
    assert 'differs' not in plan(TINY)  # as in manifests from before
    file = tmp_path / 'manifest.json'
    file.write_text(json.dumps(m | dict(differs=dict(of=1))), encoding='utf-8')
    with pytest.raises(InputError, match='differs'): read_manifest(file)
    assert t.manifest == m


def test_a_name_leads_back_to_its_recipe():
    assert base_of(SMALL.with_(lr=.05)) == base_of(SMALL) == SMALL
    assert base_of(replace(SMALL, name='smaller, lr=0.05')) is None
    assert base_of(replace(SMALL, variant='code')) is None


# The words of the command line

@pytest.mark.parametrize('text, wanted', [
    ('lr=0.05', .05), ('lr=.05', .05), ('lr=1e-3', .001), ('nesterov=true', True),
    ('nesterov=True', True), ('block=plain', 'plain'), ('widths=[1, 2]', [1, 2]), ('lr=a=b', 'a=b'),
    ('betas=(.9, .99)', (.9, .99)), ('augment=[{"transform": "Cutout"}]', [dict(transform='Cutout')]
    ), ('lr=', ''), (' lr = 3 ', 3), ('lr=' + '[' * 5000, '[' * 5000), ('lr=\x00', '\x00')])
def test_a_value_is_json_or_else_a_text(text, wanted):
    key, value = setting(text)
    assert value == wanted and type(value) is type(wanted) and key == text.partition('=')[0].strip()


def asked(*settings, recipe='small', **kwargs):
    return recipe_asked(recipe, settings=list(map(setting, settings)), **dict(
        say=lambda s: None) | kwargs)[0]


def test_settings_are_with_in_other_words():
    assert asked('lr=.05', 'schedule.t_max=3') == SMALL.with_(lr=.05, schedule=dict(t_max=3))
    assert asked('optimizer.lr=.05') == SMALL.with_(lr=.05)
    assert asked('optimizer.name=Adam', 'name=mine') == SMALL.with_(optimizer='Adam', name='mine')
    assert asked('optimizer={"name": "Adam"}', 'name=mine').name == 'mine'
    assert asked('net.dropout=.1', 'phase1.lr=.1', 'phase1.schedule.t_max=3') == SMALL.with_(
        dropout=.1, phase1=dict(lr=.1, t_max=3))
    assert asked('net={"widths": [8, 16, 32], "block": "plain"}', 'dropout=.1') == SMALL.with_(
        net=dict(widths=[8, 16, 32], block='plain'), dropout=.1)
    whole = json.dumps(replace(SMALL.net, depths=(2, 1, 1)).to_dict())
    assert asked(f'net={whole}').net == replace(SMALL.net, depths=(2, 1, 1))
    assert asked('net={"depth": 3}', recipe='laptop').net == replace(get_recipe('laptop').net,
                                                                     depth=3)
    assert asked('epochs=3') == asked(epochs=3) == SMALL.with_epochs(3)
    assert asked('width_factor=.5', 'without=RandomCrop').net.widths == (32, 64, 128)


TWICE = [(('lr=1', 'lr=1'), 'lr is given twice'), (('lr=1', 'optimizer.lr=2'), 'the same field'),
         (('optimizer={"lr": 1}', 'lr=2'), 'both say what lr is'),
         (('net={"dropout": 0.1}', 'dropout=0.2'), 'net and dropout both say'),
         (('net={"dropout": 0.1}', 'net={"dropout": 0.1}'), 'net is given twice'),
         (('schedule=linear', 'shape=cosine'), 'both say what shape is'),
         (('phase1.lr=1', 'phase1.optimizer.lr=1'), 'the same field'),
         (('phase1.schedule=linear', 'phase1.shape=linear'), 'both say')]


@pytest.mark.parametrize('settings, said', TWICE)
def test_what_is_said_twice(settings, said):
    with pytest.raises(InputError, match=said): asked(*settings)


@pytest.mark.parametrize('argv, said', [
    (['--set', 'lrr=1'], 'did you mean lr?'), (['--set', 'lr'], 'is not KEY=VALUE'),
    (['--set', '=1'], 'is not KEY=VALUE'), (['--set', 'schedule.t_mx=1'], 'did you mean t_max?'),
    (['--set', 'sched.t_max=1'], 'did you mean schedule?'), (['--set', 'phase1=1'], 'phase1.lr'),
    (['--set', 'phase1.ema=1'], 'no field of a phase'), (['--set', 'lr=abc'], 'not a number'),
    (['--set', 'augment=[RandomCrop]'], 'give a list of operations'),
    (['--set', 'augment=["RandomCorp"]'], "did you mean 'RandomCrop'?"),
    (['--set', 'tta_transforms=["flop"]'], 'did you mean flip?'),
    (['--set', 'classes=5'], 'the images have 10 classes'),
    (['--set', 'epochs=3', '--epochs', '3'], '--set epochs'),
    (['--set', 'net={"widhts": [8, 16, 32]}'], 'did you mean widths?'),
    (['--set', 'net=resnet18'], 'a dictionary of what is to change'),
    (['--set', 'phase1.net={"dropout": 0}'], 'no field of a phase'),
    (['--set', 'phases=[]'], 'phases cannot be set: its fields are set one by one, lr=0.05'),
    (['--set', 'notes=mine'], 'notes cannot be set: it tells people'),
    (['--set', 'source=mine'], 'source cannot be set: it tells people'),
    (['--set', 'variant=code'], '--variant code'), (['--set', 'phase1.notes=x'], 'cannot be set'),
    (['--set', 'xyzzy=1'], "recipe 'xyzzy'; recipe.to_json(), and the recipe.json of a run, show"),
    (['--set', 'name=quick'], 'quick is another recipe already'),
    (['--log', 'tensorbord'], 'tensorboard')])
def test_a_mistake_is_one_line_and_status_2(argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['train', 'small', '--data', 'toy', *argv]) == 2
    out, err = capsys.readouterr()
    assert said in err and len(err.splitlines()) == 1 and not any(tmp_path.iterdir())


@pytest.mark.parametrize('other, field', [
    ('wd', 'weight_decay'), ('learning_rate', 'lr'), ('bs', 'batch_size'), ('batch', 'batch_size'),
    ('augmentation', 'augment'), ('augmentations', 'augment'), ('aug', 'augment'),
    ('opt', 'optimizer'), ('scheduler', 'schedule'), ('warmup', 'warmup_epochs'), ('tta',
    'tta_transforms'), ('model', 'net'), ('width', 'widths'), ('LR', 'lr')])
def test_other_names_of_a_field_lead_to_it(other, field):
    for change in lambda: asked(f'{other}=1'), lambda: SMALL.with_(**{other: 1}):
        with pytest.raises(InputError, match=rf'{other}.; did you mean {field}\?$'): change()


def test_every_other_name_leads_to_a_field_and_is_none():
    known = {k for r in (SMALL, get_recipe('laptop')) for names in fields_of(r).values()
             for k in names} | {'net', 'epochs'}
    assert {*OTHER_NAMES.values()} <= known and not known & OTHER_NAMES.keys()


def test_a_near_name_is_one_of_three_at_most():
    with pytest.raises(InputError) as e: asked('warmup_epoch_factor=1')
    near = str(e.value).partition('did you mean ')[2].rstrip('?').replace(' or ', ', ').split(', ')
    assert {'warmup_start_factor', 'warmup_epochs'} <= {*near} and len(near) <= 3


def test_a_setting_without_equals_does_not_wait_for_torch():
    code = ('import sys; from cifar_nb.cli import main; status = main(["train", "quick", "--set", '
            '"lr"]); print(status, "torch" in sys.modules)')
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, encoding='utf-8')
    assert p.stdout == '2 False\n', p.stderr


# Recipes in files

def changed_json(**changes): return json.dumps(TINY.to_dict() | changes)


def with_optimizer(**changes):
    d = TINY.to_dict()
    d['phases'][0]['optimizer'] |= changes
    return json.dumps(d)


@pytest.mark.parametrize('text, said', [
    (None, 'cannot be read'), ('', 'is empty'), ('{"name"', 'is not JSON'), ('[1]', 'holds a list'),
    ('{"a": 1}', 'it lacks name'), (b'{"name": "\xe9"}', 'is not text in UTF-8'),
    ('[' * 100_000, 'is not JSON'), (changed_json(net='x'), 'net is not a dictionary'),
    (changed_json(lr=1), "unknown field 'lr'"), (changed_json(phases=[]), 'at least one phase'),
    (changed_json(ema='x'), 'ema is not a number'), (changed_json(name=5), 'name is not a text'),
    (with_optimizer(weight_decay='x'), 'weight_decay is not a number'),
    (with_optimizer(lr=float('nan')), 'lr is not a number'),
    (with_optimizer(betas=[1]), 'does not have 2 numbers'), (with_optimizer(name=1), 'not a text'),
    (changed_json(net=dict(widths=[4], depths=[1], strides=[4], classes=5)), 'classes=5'),
    (changed_json(variant='code', tta_transforms=['flop']), 'did you mean flip?')])
def test_a_file_that_is_no_recipe_is_one_line_and_status_2(text, said, tmp_path, capsys):
    file = tmp_path / 'mine.json'
    if text is not None: file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(['train', str(file), '--data', 'toy', '--out', str(tmp_path / 'run')]) == 2
    out, err = capsys.readouterr()
    assert said in err and len(err.splitlines()) == 1 and not (tmp_path / 'run').exists()


def test_a_file_with_a_mark_and_a_folder(tmp_path):
    (tmp_path / 'recipe.json').write_bytes(b'\xef\xbb\xbf' + TINY.to_json().encode())
    assert read_recipe(tmp_path) == TINY == read_recipe(tmp_path / 'recipe.json')
    assert recipe_asked(str(tmp_path)) == (TINY, None)
    changed, base = recipe_asked(str(tmp_path), settings=[('lr', .3)], say=lambda s: None)
    assert base == TINY and changed == TINY.with_(lr=.3)
    with pytest.raises(InputError, match='cannot be read'): read_recipe(tmp_path / 'nothing')


def test_a_file_may_not_pass_for_a_known_recipe(tmp_path):
    file = tmp_path / 'mine.json'
    def called(recipe):
        file.write_text(recipe.to_json(), encoding='utf-8')
        said = []
        own, base = recipe_asked(str(file), say=said.append)
        assert trained(own) == trained(recipe) and base == SMALL
        return own.name, bool(said)
    assert called(SMALL) == called(SMALL.with_epochs(3)) == ('small', False)
    assert called(only(batch_size=7)) == ('small, mine', True)
    assert called(SMALL.with_(lr=.05)) == ('small, lr=0.05', False)
    assert called(replace(SMALL, notes=('mended',))) == ('small', False)


def test_a_folder_does_not_hide_a_known_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'small').mkdir()
    assert recipe_asked('small') == (SMALL, SMALL)
    with pytest.raises(InputError, match='did you mean small'): recipe_asked('smal')
    (tmp_path / 'f.json').write_text(SMALL.to_json(), encoding='utf-8')
    with pytest.raises(InputError, match='leave --variant out'): recipe_asked('f.json', 'code')


def test_a_variant_may_stand_behind_the_name():
    assert recipe_asked('dreamfire:code')[0] == recipe_asked('dreamfire', 'code')[0] == get_recipe(
        'dreamfire', 'code')
    other, base = recipe_asked('dreamfire:code:resnet18', epochs=3)
    assert (other.net, other.epochs) == (get_recipe('resnet18').net, 3)
    assert base == get_recipe('dreamfire', 'code:resnet18')
    assert other.phases[0].optimizer == get_recipe('dreamfire', 'code').phases[0].optimizer
    for asked, why in ((('dreamfire:code', 'report'), 'give one'), (('dreamfire:cod',), 'code'),
                       (('dreamfire:',), 'variant'), (('C:/runs/gone',), 'C:/runs/gone'),
                       (('dreamfire:code:resnet81',), 'resnet18')):
        with pytest.raises(InputError, match=why): recipe_asked(*asked)


# The whole command

@pytest.fixture
def tiny(tmp_path, monkeypatch):
    "A folder with tiny.json, in which the command is called; gives what calls it."
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tiny.json').write_text(TINY.to_json(), encoding='utf-8')
    return lambda *argv: main(['train', 'tiny.json', '--data', 'toy', '--images', '96', '--device',
                               'cpu', '--precision', 'fp32', *argv])


def test_train_with_a_setting_and_the_same_from_its_own_file(tiny, tmp_path, capsys):
    assert tiny('--set', 'lr=0.05', '--results', 'results') == 0
    run = tmp_path / 'runs/tiny_lr_0.05-3epochs-seed0-toy'
    assert 'tiny with phase1.lr: 0.1 -> 0.05; phase2.lr: 0.01 -> 0.05' in capsys.readouterr().out
    assert read_recipe(run) == TINY.with_(lr=.05)
    m = read_manifest(run / 'manifest.json')
    assert m['differs']['of'] == 'tiny' and len(m['differs']['lines']) == 2
    record, = load_results(tmp_path / 'results')
    assert record['manifest']['differs'] == m['differs'] and record['result']['recipe'] == m['name']
    # the unchanged one does not take its place
    assert tiny('--results', 'results') == 0 and len(load_results(tmp_path / 'results')) == 2
    assert main(['train', str(run), '--data', 'toy', '--images', '96', '--device', 'cpu',
                 '--precision', 'fp32', '--out', 'again']) == 0
    assert ((tmp_path / 'again/log.jsonl').read_bytes() == (run / 'log.jsonl').read_bytes())
    entry = dict(manifest=m, parameters=1, images=1, set='s', kind='fp16', accuracy=1.,
                 file='x', bytes=1, sha256='', run=record['result'] | dict(accuracy=1., data='toy'))
    assert 'tiny with phase1.lr: 0.1 -> 0.05' in card('x', entry, read_recipe(run))


def test_resume_asks_for_the_same_settings(tiny, tmp_path, monkeypatch, capsys):
    from cifar_nb.training import train as module
    real = module.save_checkpoint
    def stop(t, out):
        real(t, out)
        raise Interrupted('stopped', 2)
    with monkeypatch.context() as patch:
        patch.setattr(module, 'save_checkpoint', stop)
        assert tiny('--set', 'lr=0.05', '--out', 'run') == 130
    assert tiny('--set', 'lr=0.04', '--out', 'run', '--resume') == 2
    assert 'the recipe differs' in capsys.readouterr().err
    assert tiny('--out', 'run', '--resume') == 2
    assert tiny('--set', 'optimizer.lr=5e-2', '--out', 'run', '--resume') == 0
    alone = train(TINY.with_(lr=.05), *[v[:96] for v in toy(5000)], **CPU)
    lines = (tmp_path / 'run/log.jsonl').read_text(encoding='utf-8').splitlines()
    assert [json.loads(line)['train_loss'] for line in lines] == pytest.approx(
        [line['train_loss'] for line in alone.log])


# Loggers

def test_a_callback_sees_every_line_and_cannot_change_the_log():
    seen = []
    def note(line): seen.append(dict(line)); line.clear()
    t = train(TINY, X, Y, callback=note, curve=(X, Y), **CPU)
    alone = train(TINY, X, Y, **CPU).log
    assert t.log == alone and len(alone) == 3
    assert [{k: line[k] for k in own} for line, own in zip(seen, alone)] == alone
    assert [line['test_accuracy'] for line in seen] == [c['test_accuracy'] for c in t.curve]


def test_a_callback_that_fails_ends_nothing(tmp_path):
    said, calls = [], []
    def fail(line): calls.append(line); raise RuntimeError('no\ndisk')
    t = train(TINY, X, Y, tmp_path / 'run', callback=fail, **CPU | dict(say=said.append))
    assert len(calls) == 1 and (tmp_path / 'run/result.json').exists() and len(t.log) == 3
    assert sum('has failed in epoch 1 (RuntimeError: no)' in s for s in said) == 1
    assert t.log == train(TINY, X, Y, **CPU).log


class Writer:
    "Stands in for torch's SummaryWriter."
    made = []
    def __init__(self, folder):
        self.folder, self.rows, self.open = folder, [], True
        Writer.made.append(self)
    def add_scalar(self, key, value, step): self.rows.append((key, value, step))
    def flush(self): pass
    def close(self): self.open = False


def test_tensorboard_gets_the_figures(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard',
                        types.SimpleNamespace(SummaryWriter=Writer))
    Writer.made.clear()
    assert tiny('--log', 'tensorboard', '--out', 'run') == 0
    writer, = Writer.made
    log = [json.loads(line)
           for line in (tmp_path / 'run/log.jsonl').read_text(encoding='utf-8').splitlines()]
    wanted = [(k, v, line['epoch']) for line in log for k, v in line.items() if k != 'epoch']
    assert writer.rows == wanted and not writer.open
    assert writer.folder.replace('\\', '/') == 'run/tensorboard'


def test_trackio_gets_the_figures_under_a_name_of_its_own(tmp_path, monkeypatch):
    rows, ended = [], []
    class Tracked:
        def log(self, figures, step): rows.append((step, figures))
        def finish(self): ended.append(True); raise OSError('late')
    def init(**kwargs): rows.append(kwargs); return Tracked()
    monkeypatch.setitem(sys.modules, 'trackio', types.SimpleNamespace(init=init))
    said, out = [], tmp_path / 'run'
    with logging_to(logger('trackio'), out, said.append) as callback:
        t = train(TINY, X, Y, out, callback=callback, base=TINY, **CPU)
    asked, *rows = rows
    assert asked['name'] == f'run-{t.manifest["run"]}' and asked['project'] == 'cifar_nb'
    assert asked['config']['differs'] == dict(of='tiny', variant='report', lines=[])
    assert rows == [(line['epoch'], {k: v for k, v in line.items() if k != 'epoch'})
                    for line in t.log]
    assert ended and 'late' in said[-1]


@pytest.mark.parametrize('name, module', [('tensorboard', 'torch.utils.tensorboard'),
                                          ('trackio', 'trackio')])
def test_a_logger_that_is_not_installed_is_said_before_the_training(name, module, tiny, tmp_path,
                                                                    monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert tiny('--log', name) == 2
    assert (f'{name} is not installed here: run `{sys.executable} -m pip install {name}`, and '
            in capsys.readouterr().err)
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('python, written', [
    ('/opt/.venv/bin/python', '/opt/.venv/bin/python'), ('', 'python'), (None, 'python'),
    (r'C:\My Files\.venv\Scripts\python.exe', r'"C:\My Files\.venv\Scripts\python.exe"')])
def test_what_is_missing_is_installed_for_the_python_that_runs(python, written, monkeypatch):
    from cifar_nb.core.errors import missing
    monkeypatch.setattr(sys, 'executable', python)
    assert str(missing('optuna')) == (
        f'optuna is not installed here: run `{written} -m pip install optuna`, and try again.')


def test_every_package_that_can_be_missing_is_one_of_the_extras():
    "So that the command installs what `cifar_nb[...]` would, from the same index."
    cfg = ConfigParser(delimiters=['='])
    cfg.read(ROOT / 'settings.ini', encoding='utf-8')
    extras = {re.split('[<>=]', word)[0] for k in ('notebook', 'search', 'kaggle', 'log', 'docs')
              for word in cfg['DEFAULT'][f'{k}_requirements'].split()}
    texts = [p.read_text(encoding='utf-8') for p in (ROOT / 'cifar_nb').rglob('*.py')]
    asked = {n for t in texts for n in re.findall(r"missing\('([\w-]+)'", t)}
    assert len(asked) >= 5 and asked <= extras
    assert not [t for t in texts if re.search(r'pip install "?cifar_nb\[', t)]


def test_loggers_of_the_command_are_those_there_are():
    from cifar_nb.training.loggers import LOGGERS
    sub = next(a.choices for a in parser()._actions if a.dest == 'command')
    log = next(a for a in sub['train']._actions if a.dest == 'log')
    assert set(log.choices) == set(LOGGERS)
