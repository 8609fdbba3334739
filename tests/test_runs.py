"""The folder of a training: who may write into it, what may go on in it, and in which order it is
written."""
import json
import os
import re
import shutil
import signal
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import cifar_nb.training.loop as training
import cifar_nb.training.train as whole
from cifar_nb.augment.ops import Cutout, RandomCrop, RandomHorizontalFlip
from cifar_nb.cli import main
from cifar_nb.cli.arguments import parser
from cifar_nb.cli.asked import recipe_asked
from cifar_nb.cli.commands import folder_to_resume, run_folder
from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import toy
from cifar_nb.delivery.publish import training_command
from cifar_nb.evaluation.report import evaluate
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.registry import Registry
from cifar_nb.recipes.spec import Optimizer, Phase, Recipe, Schedule, trained
from cifar_nb.teams import zoo
from cifar_nb.teams.zoo import base_of, get_recipe, known_as
from cifar_nb.training import checkpoints, runs
from cifar_nb.training.checkpoints import (Run, keep_best, load_checkpoint, save_checkpoint,
                                           write_weights)
from cifar_nb.training.loop import Trainer, end_epoch, train_epoch
from cifar_nb.training.precision import hardware
from cifar_nb.training.signals import Interrupted, noting_signals
from cifar_nb.training.train import (begin_run, describe_images, finish_run, manifest_of, planned,
                                     run_epochs, train)

TINY = replace(get_recipe('small').with_epochs(3), name='tiny',
               net=replace(get_recipe('small').net, widths=(4, 8, 8)))
TINY = replace(TINY, phases=tuple(replace(p, batch_size=50) for p in TINY.phases))
X, Y = toy(200)
QUIET = dict(device='cpu', precision='fp32', kernels=False, progress=False, say=lambda s: None,
             info=dict(data='toy'))


class Killed(BaseException): "As if the process had ended: nothing of ours catches it."


def stopped(folder, epoch=2, recipe=TINY, **settings):
    "The folder of a training that died just after the checkpoint of `epoch`."
    save = whole.save_checkpoint
    def saved(t, out):
        save(t, out)
        if t.epoch == epoch: raise Killed
    whole.save_checkpoint = saved
    try: train(recipe, X, Y, folder, **QUIET | settings)
    except Killed: pass
    finally: whole.save_checkpoint = save
    return folder


def same_weights(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- what may go on (I5, I6, I11, I12)

OTHER = dict(holdout=dict(holdout=0, x=X[:160], y=Y[:160]), images=dict(x=255 - X),
             labels=dict(y=Y.flip(0)), seed=dict(seed=1), precision=dict(precision='bf16'),
             order=dict(precision='fp32 nchw'),
             weights=dict(keep='last'), recipe=dict(recipe=replace(TINY, clip=1.)),
             epochs=dict(recipe=TINY.with_epochs(4)))


@pytest.mark.parametrize('other', OTHER)
def test_another_training_is_refused_by_name_and_nothing_is_changed(tmp_path, other):
    folder = stopped(tmp_path / 'run', holdout=40)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    s = dict(recipe=TINY, x=X, y=Y, out=folder, resume=True, holdout=40) | QUIET | OTHER[other]
    with pytest.raises(InputError, match='belongs to another training') as e: train(**s)
    assert '\n' not in str(e.value) and 'began' in str(e.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_mended_note_title_or_tta_and_a_new_field_change_nothing(tmp_path):
    folder, alone = stopped(tmp_path / 'run'), train(TINY, X, Y, **QUIET)
    d = json.loads((folder / 'recipe.json').read_text(encoding='utf-8'))
    del d['clip']  # as if an older release had written it
    (folder / 'recipe.json').write_text(json.dumps(d), encoding='utf-8')
    mended = replace(TINY, title='Another title', notes=('mended',), source='somebody',
                     tta_transforms=('flip',))
    t = train(mended, X, Y, folder, resume=True, **QUIET)
    assert t.log == alone.log and same_weights(t.net.state_dict(), alone.net.state_dict())


def test_other_threads_or_kernels_are_another_sitting(tmp_path, threads):
    folder = stopped(tmp_path / 'run')
    threads(torch.get_num_threads() + 1)
    train(TINY, X, Y, folder, resume=True, **QUIET)
    sittings = Run(folder).manifest['sittings']
    assert ([s['epoch'] for s in sittings] == [0, 2]
            and sittings[1]['threads'] == sittings[0]['threads'] + 1)


def test_resume_without_a_name_takes_the_unfinished_run_of_this_training(tmp_path):
    m = planned(TINY, X, Y, device='cpu', precision='fp32', kernels=False, data='toy')
    stopped(tmp_path / 'tiny-3epochs-seed0-toy')
    train(TINY, X, Y, tmp_path / 'tiny-3epochs-seed0-toy-3', **QUIET)  # finished, and later
    stopped(tmp_path / 'tiny-3epochs-seed0-toy-4', seed=1)  # another seed under a name that says 0
    assert folder_to_resume(m, tmp_path) == tmp_path / 'tiny-3epochs-seed0-toy'
    assert run_folder(m, tmp_path) == tmp_path / 'tiny-3epochs-seed0-toy-2'  # a gap is free
    assert run_folder(m, tmp_path) == tmp_path / 'tiny-3epochs-seed0-toy-5'
    said = []
    assert (folder_to_resume(m | dict(seed=7), tmp_path, said.append).name
            == 'tiny-3epochs-seed7-toy' and 'begins anew' in said[0])


# ---- who may write

def test_the_run_that_was_written_to_last_is_found_while_another_is_being_written(tmp_path,
                                                                                  monkeypatch):
    "A temporary file is renamed between the list of the files and the look at them."
    for name, when in (('a', 2000), ('b', 1000)):
        stopped(tmp_path / name)
        for p in (tmp_path / name).iterdir(): os.utime(p, (when, when))
    def listed(folder):
        found = entries(folder)
        return [*found, folder / '.checkpoint.pt.123456', folder / 'log.jsonl.gone']
    entries = runs.entries
    monkeypatch.setattr(runs, 'entries', listed)
    asked = planned(TINY, X, Y, seed=0, device='cpu', precision='fp32', kernels=False, data='toy')
    assert [p.name for p in runs.unfinished_runs(tmp_path, asked)] == ['b', 'a']


def test_a_second_training_is_refused_while_the_first_one_runs(tmp_path, monkeypatch):
    refused = []
    def second(t, *rest):
        for resume in (True, False):
            try: train(TINY, X, Y, tmp_path / 'run', resume=resume, **QUIET)
            except InputError as e: refused.append(str(e))
        return end(t, *rest)
    end = whole.end_epoch
    monkeypatch.setattr(whole, 'end_epoch', second)
    train(TINY.with_epochs(1), X, Y, tmp_path / 'run', **QUIET)
    assert ('is being trained by another process' in refused[0]
            and 'already holds a run' in refused[1])


@pytest.mark.parametrize(
    'left', [(), ('.manifest.json.123',), ('.DS_Store', '.lock'), ('manifest.json',)])
def test_a_killed_first_write_is_no_obstacle(tmp_path, left):
    folder = tmp_path / 'run'
    folder.mkdir()
    for name in left: (folder / name).write_text('half', encoding='utf-8')
    # whole, since it is written whole or not at all; the recipe was not written any more
    if left == ('manifest.json',):
        (folder / 'manifest.json').write_text(
            json.dumps(
                planned(TINY, X, Y, device='cpu', precision='fp32', kernels=False, data='toy')),
            encoding='utf-8')
        with pytest.raises(InputError, match='already holds a run'):
            train(TINY, X, Y, folder, **QUIET)
        train(TINY, X, Y, folder, resume=True, **QUIET)
    else: train(TINY, X, Y, folder, **QUIET)
    assert Run(folder).finished and not list(folder.glob('.*.123'))


# ---- the end of a run (F1, C10)

def test_the_best_weights_survive_whatever_stops_the_end(tmp_path, monkeypatch):
    """Its best epoch is not the last one: stopped anywhere in the last writes, it comes back with
    the weights of the best epoch."""
    scores = iter([50., 70., 60.] + [60.] * 20)
    real = training.loss_and_accuracy
    def falling(logits, y): return real(logits, y)[0], next(scores)
    monkeypatch.setattr(training, 'loss_and_accuracy', falling)
    t = train(TINY, X, Y, tmp_path / 'whole', holdout=40, **QUIET)
    want = load_file(tmp_path / 'whole/model.safetensors')
    assert t.best == 70. and same_weights(want, t.net.state_dict())
    for stop in ('timing.jsonl', 'model.safetensors', 'result.json'):
        scores, seen = iter([50., 70., 60.] + [60.] * 20), []
        write = whole.write_atomic
        def dies(path, data):
            if path.name == stop and len(Run(path.parent).lines('log')) >= 3 and not seen:
                seen.append(1)
                raise Killed
            write(path, data)
        for module in (whole, checkpoints): monkeypatch.setattr(module, 'write_atomic', dies)
        with pytest.raises(Killed): train(TINY, X, Y, tmp_path / stop, holdout=40, **QUIET)
        for module in (whole, checkpoints): monkeypatch.setattr(module, 'write_atomic', write)
        assert seen and not (tmp_path / stop / 'result.json').exists()
        scores = iter([60.] * 20)
        train(TINY, X, Y, tmp_path / stop, holdout=40, resume=True, **QUIET)
        run = Run(tmp_path / stop)
        assert same_weights(load_file(run.path / 'model.safetensors'),
                            want) and run.result['best_val_accuracy'] == 70.
        assert run.result['checkpoint'] == 'best on validation'


def test_the_same_call_gives_the_same_network_with_and_without_a_folder(tmp_path):
    a, b = (train(TINY, X, Y, holdout=40, **QUIET),
            train(TINY, X, Y, tmp_path / 'run', holdout=40, **QUIET))
    assert (same_weights(a.net.state_dict(), b.net.state_dict())
            and same_weights(a.net.state_dict(),
                             Run(tmp_path / 'run').load_net('cpu').state_dict()))
    last = train(TINY, X, Y, holdout=40, keep='last', **QUIET)
    assert [line['train_loss'] for line in last.log] == [line['train_loss'] for line in a.log]


def test_the_same_training_writes_the_same_bytes(tmp_path):
    for name in 'ab': train(TINY, X, Y, tmp_path / name, **QUIET)
    for file in ('model.safetensors', 'log.jsonl', 'recipe.json'):
        assert (tmp_path / 'a' / file).read_bytes() == (tmp_path / 'b' / file).read_bytes()


def test_weights_that_are_no_numbers_are_not_judged(tmp_path):
    from safetensors.torch import save_file
    train(TINY, X, Y, tmp_path / 'run', **QUIET)
    w = load_file(tmp_path / 'run/model.safetensors')
    w['linear.bias'][3] = float('nan')
    save_file(w, tmp_path / 'run/model.safetensors')
    with pytest.raises(InputError, match='not the file that this training wrote'):
        Run(tmp_path / 'run').load_net('cpu')
    r = json.loads((tmp_path / 'run/result.json').read_text(encoding='utf-8'))
    del r['weights']  # as an older release wrote it
    (tmp_path / 'run/result.json').write_text(json.dumps(r), encoding='utf-8')
    with pytest.raises(InputError, match='not numbers'): Run(tmp_path / 'run').load_net('cpu')


def test_a_training_that_diverges_says_so_and_writes_json(tmp_path):
    wild = replace(
        TINY,
        phases=tuple(replace(p, optimizer=replace(p.optimizer, lr=1e30)) for p in TINY.phases))
    with pytest.raises(training.Diverged, match='smaller learning rate'):
        train(wild, X, Y, tmp_path / 'run', **QUIET)
    def no(word): raise ValueError(word)
    for p in (tmp_path / 'run').glob('*.json*'):
        for line in (p.read_text(encoding='utf-8').splitlines()
                     if p.suffix == '.jsonl' else [p.read_text(encoding='utf-8')]):
            json.loads(line, parse_constant=no)
    assert not Run(tmp_path / 'run').finished


@pytest.mark.parametrize('file', ['model.safetensors', 'result.json'])
def test_a_file_of_another_run_is_not_taken(tmp_path, file):
    "Weights, or a result, of seed 1 in the folder of seed 0."
    for s in (0, 1): train(TINY, X, Y, tmp_path / f'run{s}', seed=s, **QUIET)
    shutil.copyfile(tmp_path / 'run1' / file, tmp_path / 'run0' / file)
    with pytest.raises(InputError, match='another run'): Run(tmp_path / 'run0').load_net('cpu')
    with pytest.raises(InputError, match='another run'):
        evaluate(tmp_path / 'run0', X, Y, device='cpu', data='toy', pictured=False)


def test_a_checkpoint_of_a_run_on_other_images_is_not_taken(tmp_path):
    a, b = stopped(tmp_path / 'a'), tmp_path / 'b'
    save = whole.save_checkpoint
    whole.save_checkpoint = lambda t, out: (save(t, out), (_ for _ in ()).throw(Killed()))
    try: train(TINY, 255 - X, Y, b, **QUIET)
    except Killed: pass
    finally: whole.save_checkpoint = save
    shutil.copyfile(b / 'checkpoint.pt', a / 'checkpoint.pt')
    with pytest.raises(InputError, match='the images differ'):
        train(TINY, X, Y, a, resume=True, **QUIET)


def test_a_copied_run_brings_its_evaluations(tmp_path):
    from cifar_nb.delivery.session import copy_run
    train(TINY, X, Y, tmp_path / 'run', **QUIET)
    evaluate(tmp_path / 'run', X[:50], Y[:50], device='cpu', data='toy', pictured=False)
    copy_run(tmp_path / 'run', tmp_path / 'copy')
    assert (Run(tmp_path / 'copy').evaluations == Run(tmp_path / 'run').evaluations != []
            and not (tmp_path / 'copy/.lock').exists())


# ---- cards (I14)

def test_a_card_names_the_command_that_gives_the_network(tmp_path):
    m = planned(get_recipe('quick').with_epochs(2), X, Y, seed=3, device='cpu', precision='fp32',
                kernels=False, holdout=20, data='toy')
    run = dict(data='toy', seed=3, train_images=180)
    assert (
        training_command(m, get_recipe('quick').with_epochs(2),
                         run) == 'cifar_nb train quick --seed 3 --epochs 2 --data toy --images '
        '200 --holdout 20')
    assert training_command(m | dict(recipe=trained(replace(get_recipe('quick'), clip=1.))),
                            get_recipe('quick'), run) == ''
    assert training_command(m | dict(weights='last'), get_recipe('quick').with_epochs(2),
                            run) == '' and training_command(
                                m, get_recipe('quick'), run | dict(data='mine')) == ''
    assert ("--precision 'fp32 nchw'"
            in training_command(m | dict(memory_format='contiguous'),
                                get_recipe('quick').with_epochs(2), run))
    assert training_command(None, TINY, run) == ''
    full = dict(data='cifar10', seed=0, train_images=50_000)
    assert training_command(None, get_recipe('laptop'), full) == 'cifar_nb train laptop --seed 0'


def test_a_recipe_may_have_with_in_its_name(monkeypatch):
    mine = replace(TINY, name='net with plain')
    monkeypatch.setattr(zoo, '_ZOO', Registry(*zoo.list_recipes(), mine))
    assert known_as('net with plain') == get_recipe('net with plain') == mine
    assert known_as('net with plain with resnet18').net == get_recipe('resnet18').net


@pytest.mark.parametrize('asked, variant', [
    ('modified_resnet', 'code'), ('modified_resnet', 'code:resnet18'), ('quick', 'report:plain')])
def test_the_command_of_a_card_trains_the_recipe_it_names(asked, variant):
    recipe = get_recipe(asked, variant)
    said = training_command(None, recipe, dict(data='cifar10', seed=0, train_images=50_000))
    a = parser().parse_args(said.split()[1:])
    assert trained(recipe_asked(a.recipe, a.variant)[0]) == trained(recipe)
    m = planned(recipe.with_epochs(3), X, Y, seed=3, device='cpu', precision='fp32',
                kernels=False, holdout=20, data='toy')
    said = training_command(m, recipe.with_epochs(3), dict(data='toy', seed=3, train_images=180))
    a = parser().parse_args(said.split()[1:])
    again = recipe_asked(a.recipe, a.variant, a.epochs)[0]
    assert (trained(again), a.holdout, a.images, a.seed) == (m['recipe'], 20, 200, 3)
    assert trained(known_as(recipe.name, recipe.variant)) == trained(recipe)
    assert base_of(replace(recipe, name=f'{recipe.name}, lr=0.05')).name == recipe.name


# ---- networks for other images than their own

def test_a_network_that_knows_drawn_shapes_does_not_answer_for_the_course(
    tmp_path, capsys, monkeypatch):
    import pickle
    monkeypatch.chdir(tmp_path)
    assert main(
        ['train', 'small', '--data', 'toy', '--images', '300', '--epochs', '1', '--out', 'run',
         '--device', 'cpu']) == 0
    with open('t.pkl', 'wb') as f:
        pickle.dump(
            {b'data': X[:6].permute(0, 2, 3, 1).contiguous().numpy(), b'ids': list(range(6))}, f)
    capsys.readouterr()
    assert (main(['predict', 'run', 't.pkl', '--out', 'a.csv']) == 2
            and 'toy set' in capsys.readouterr().err and not (tmp_path / 'a.csv').exists())
    assert main(['predict', 'run', 't.pkl', '--out', 'a.csv', '--anyway']) == 0
    assert main(['evaluate', 'run', '--data', 'toy', '--device', 'cpu']) == 0
    result = json.loads((tmp_path / 'run/result.json').read_text(encoding='utf-8'))
    m = json.loads((tmp_path / 'run/manifest.json').read_text(encoding='utf-8'))
    (tmp_path / 'run/manifest.json').write_text(
        json.dumps(m | dict(data=dict(name='cifar10', images=50_000, fingerprint='x'))),
        encoding='utf-8')
    (tmp_path / 'run/result.json').write_text(
        json.dumps(result | dict(data='cifar10')), encoding='utf-8')
    report = (tmp_path / 'run/report.md').read_text(encoding='utf-8')
    # asked for by name: kept beside, and the report stays
    assert main(['evaluate', 'run', '--data', 'toy', '--tta', '--device', 'cpu']) == 0
    assert (tmp_path / 'run/report.md').read_text(encoding='utf-8') == report
    for name in ('CIFAR_NB_DATA', 'KAGGLE_INPUT'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr('cifar_nb.data.cifar.search_places', lambda *a, **k: None)
    monkeypatch.setattr('cifar_nb.data.cifar.fetch', lambda *a,
                        **k: (_ for _ in ()).throw(InputError('no network')))
    capsys.readouterr()
    assert (main(['evaluate', 'run', '--results', 'res', '--device', 'cpu']) == 2
            and 'trained on cifar10' in capsys.readouterr().err and not (tmp_path / 'res').exists())


# ---- on another kind of device

def begun_on_a_gpu(folder, order, step):
    """The checkpoint of `stopped`, as a GPU would have left it after `step` batches of the next
    epoch: its random numbers are 16 bytes, and the images came in an `order` of its own."""
    file = stopped(folder, recipe=BARE)/'checkpoint.pt'
    s = torch.load(file, weights_only=True)
    gpu = torch.zeros(16, dtype=torch.uint8)
    torch.save(s | dict(rng=gpu, cuda_rng=gpu, step=step, order=order), file)
    return folder


BARE = replace(TINY, phases=tuple(replace(p, augment=()) for p in TINY.phases))


def test_a_training_begun_on_a_gpu_goes_on_on_a_cpu_with_the_images_that_are_left(tmp_path):
    order, said, seen = torch.randperm(200, generator=torch.Generator().manual_seed(99)), [], []
    x = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(200, 3, 32, 32)
    folder = begun_on_a_gpu(tmp_path/'run', order, 2)
    t = training.Trainer(BARE, 200, device='cpu', precision='fp32')
    assert checkpoints.load_checkpoint(t, folder)
    p = BARE.phases[-1]
    t.forward = lambda xb: (seen.append(xb), t.net(xb))[1]
    training.train_epoch(t, x.contiguous(), Y)
    pixels = torch.cat(seen)[:, 0, 0, 0]*p.std[0]*255 + p.mean[0]*255
    assert torch.equal(pixels.round().long(), order[100:])  # batches of 50: the last two
    t = train(BARE, X, Y, folder, resume=True, **QUIET | dict(say=said.append))
    assert [line['epoch'] for line in t.log] == [1, 2, 3] and Run(folder).finished
    assert sum('another kind of device' in s for s in said) == 1


def test_what_a_training_draws_after_another_kind_of_device_is_its_own_and_the_same_each_time(
        tmp_path):
    "Not the numbers with which the epoch began, which its first images have had."
    def drawn(step):
        t = training.Trainer(BARE, 200, device='cpu', precision='fp32')
        checkpoints.load_checkpoint(
            t, begun_on_a_gpu(Path(tempfile.mkdtemp(dir=tmp_path)), torch.arange(200), step))
        return torch.rand(4, generator=t.rng)
    first = torch.rand(4, generator=torch.Generator().manual_seed(2))
    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert not torch.equal(drawn(1), first)


def test_a_checkpoint_without_its_order_draws_it_again(tmp_path):
    "As older releases left it, within an epoch: the same images as undisturbed."
    alone = train(BARE, X, Y, **QUIET)
    file = stopped(tmp_path/'run', recipe=BARE)/'checkpoint.pt'
    s = torch.load(file, weights_only=True)
    del s['order']
    torch.save(s, file)
    assert train(BARE, X, Y, tmp_path/'run', resume=True, **QUIET).log == alone.log


# ---- what stops a run, and what is said (chapter 61 tells of it)

PLAN = Recipe('small', NetSpec(widths=(8, 16), depths=(1, 1), strides=(2, 2)),
              (Phase(3, Optimizer(lr=.05, momentum=.9), Schedule('cosine', t_max=3),
                     (RandomCrop(4), RandomHorizontalFlip()), batch_size=64),))
XP, YP = toy(512)
HARD = Recipe('hard', replace(PLAN.net, dropout=.3), ema=.9, clip=1., phases=(
    Phase(1, Optimizer(lr=.05, momentum=.9),
          Schedule('cosine', warmup_epochs=1, t_max=1, unit='step'), (RandomCrop(4), Cutout(8)),
          batch_size=64),
    Phase(2, Optimizer('AdamW', lr=.002), Schedule('multistep', milestones=(1,)),
          (RandomHorizontalFlip(),), batch_size=100, keep_fraction=(.6, .5), label_smoothing=.1)))


class Stop(Exception): pass


@pytest.fixture
def broken():
    "A trainer of `HARD` that stopped after the second step of its second epoch."
    t = Trainer(HARD, len(XP), seed=3, device='cpu')
    def after(t):
        if (t.epoch, t.step) == (1, 2): raise Stop
    train_epoch(t, XP, YP)
    end_epoch(t, 1.)
    with pytest.raises(Stop): train_epoch(t, XP, YP, after)
    return t


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match='is not a run'): Run(tmp_path)


def test_a_checkpoint_goes_on_and_one_cut_off_or_of_another_seed_does_not(broken, tmp_path):
    save_checkpoint(broken, tmp_path)
    fresh = Trainer(HARD, len(XP), seed=3, device='cpu')
    load_checkpoint(fresh, tmp_path)
    assert (fresh.epoch, fresh.step) == (1, 2)
    with pytest.raises(InputError, match=re.escape('(seed differs)')):
        load_checkpoint(Trainer(HARD, len(XP), seed=4, device='cpu'), tmp_path)
    (tmp_path / 'checkpoint.pt').write_bytes((tmp_path / 'checkpoint.pt').read_bytes()[:5000])
    with pytest.raises(InputError, match='may be cut off'): load_checkpoint(fresh, tmp_path)


@pytest.mark.parametrize('error, advice', [
    (PermissionError(13, 'Permission denied'), r'\(Permission denied\): look at its permissions'),
    (MemoryError(), 'too little memory: free some, then resume'),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 'too little memory')])
def test_a_whole_checkpoint_is_not_called_damaged(broken, tmp_path, monkeypatch, error, advice):
    "Whoever is told that it is damaged throws the training away."
    def load(*args, **kwargs): raise error
    save_checkpoint(broken, tmp_path)
    monkeypatch.setattr(torch, 'load', load)
    with pytest.raises(InputError, match=advice) as e: load_checkpoint(broken, tmp_path)
    assert 'start again' not in str(e.value)


def test_a_new_trainer_goes_on_to_the_same_bits(broken):
    def finish(t):
        while t.epoch < t.recipe.epochs: train_epoch(t, XP, YP); end_epoch(t, 1.)
        return t
    saved = checkpoints.snapshot(broken)
    alone = finish(Trainer(HARD, len(XP), seed=3, device='cpu'))
    torch.manual_seed(999)  # another process, another state of the world
    again = Trainer(HARD, len(XP), seed=3, device='cpu')
    checkpoints.restore(again, saved)
    finish(again)
    assert again.log == alone.log
    assert same_weights(training.network(again).state_dict(), training.network(alone).state_dict())


def test_signals_are_noted_and_put_back():
    before = signal.getsignal(signal.SIGINT)
    with noting_signals() as caught: signal.raise_signal(signal.SIGTERM)
    assert caught == [signal.SIGTERM] and signal.getsignal(signal.SIGINT) is before


def test_the_second_signal_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), noting_signals() as caught:
        signal.raise_signal(signal.SIGTERM)
        assert caught == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.skipif(not hasattr(signal, 'SIGHUP'), reason='no terminals to hang up')
def test_a_hangup_is_noted_and_one_that_is_ignored_stays_so():
    "As under nohup."
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with noting_signals() as caught: signal.raise_signal(signal.SIGHUP)
        assert caught == [] and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with noting_signals() as caught: signal.raise_signal(signal.SIGHUP)
        assert caught == [signal.SIGHUP]
    finally: signal.signal(signal.SIGHUP, before)


def test_the_first_line_says_what_trains_where():
    assert whole.first_line(Trainer(PLAN, 512, device='cpu', precision='fp32')) == (
        'small: 5,346 parameters, 3 epochs of 512 images, cpu, fp32, channels last (forced)')


def test_the_best_weights_are_kept_and_written(tmp_path):
    t = Trainer(PLAN, len(XP), device='cpu')
    t.keep = 'best on validation'
    for score in (50., 70., 60.): t.log.append(dict(val_accuracy=score)); keep_best(t)
    write_weights(tmp_path / 'w.safetensors', t.best_weights, t)
    assert t.best == 70. and sorted(t.best_weights) == sorted(t.net.state_dict())
    assert (tmp_path / 'w.safetensors').stat().st_size > 4 * 5_346


class SignalInStep:
    "A list of signals that has one in it while step `at` of the first epoch is being taken."
    def __init__(self, t, at): self.t, self.at = t, at
    def __bool__(self): return (self.t.epoch, self.t.step) == (0, self.at)
    def __getitem__(self, i): return signal.SIGTERM


def test_a_signal_in_the_last_step_of_an_epoch_lets_it_be_closed():
    "A checkpoint with no step left to do could not be continued."
    t = Trainer(PLAN, len(XP), device='cpu')
    with pytest.raises(Interrupted, match='stopped in epoch 1, step 3 of 8'):
        run_epochs(t, XP, YP, None, None, SignalInStep(t, 3), say=str, progress=False)
    run_epochs(t, XP, YP, None, None, SignalInStep(t, t.steps), say=str, progress=False)
    assert len(t.log) == 3
    with pytest.raises(Interrupted, match='nothing was saved'):
        whole.interrupt(t, None, signal.SIGINT)


def opened(recipe, folder, resume):
    "A trainer of `recipe` with `folder`, which is let go at once."
    t = Trainer(recipe, len(XP), device='cpu')
    t.manifest = manifest_of(recipe, describe_images(XP, YP), None, 0, 'last', t.precision,
                             t.device, [])
    with ExitStack() as stack: return begin_run(t, folder, resume, stack=stack)


def test_a_run_is_begun_once_and_resumed_as_what_it_is(tmp_path):
    begun = opened(PLAN, tmp_path / 'begun', resume=False)
    with pytest.raises(InputError, match='is not a run'):
        whole.claim(Trainer(PLAN, len(XP), device='cpu'), tmp_path, resume=False)
    with pytest.raises(InputError, match='already holds a run'): opened(PLAN, begun, resume=False)
    with pytest.raises(InputError, match='the recipe differs'):
        opened(PLAN.with_epochs(4), begun, resume=True)
    assert opened(PLAN, begun, resume=True) == begun


def test_the_result_says_what_was_trained_where(tmp_path):
    begun = opened(PLAN, tmp_path / 'begun', resume=False)
    t = Trainer(PLAN, len(XP), device='cpu')
    t.log, t.timing = ([dict(epoch=1, lr=.1, train_loss=1., train_accuracy=50.)],
                       [dict(epoch=1, seconds=2.)])
    t.manifest = Run(begun).manifest
    finish_run(t, begun)
    result = Run(begun).result
    assert (result['data'], result['hardware']) == (t.manifest['data']['name'], hardware('cpu'))
    here = whole.machine(t)
    assert (here['memory_format'], here['processes']) == ('channels_last', 1)


def test_an_epoch_gone_on_with_counts_as_a_whole_one(monkeypatch):
    "Three seconds for the second half of an epoch are six for all of it."
    t = Trainer(TINY.with_epochs(1), len(X), device='cpu', precision='fp32')
    t.step = t.steps // 2
    assert t.steps == 4
    now = iter((10., 13.))
    monkeypatch.setattr(whole.time, 'perf_counter', lambda: next(now))
    run_epochs(t, X, Y, None, None, [], str, progress=False)
    assert t.timing[0]['seconds'] == 6.


def test_time_and_speed_of_a_result_are_of_all_epochs(tmp_path):
    train(TINY, X, Y, tmp_path / 'run', **QUIET)
    r, timing = Run(tmp_path / 'run').result, Run(tmp_path / 'run').lines('timing')
    seconds = sum(line['seconds'] for line in timing)
    assert len(timing) == 3 and r['seconds'] == pytest.approx(seconds, abs=.006)
    images = sum(sum(p.taken(len(X))) for p in TINY.phases)
    assert r['images_per_second'] == pytest.approx(images / seconds, abs=.06)


def test_a_run_that_is_there_is_neither_overwritten_nor_trained_again(tmp_path):
    quiet = dict(device='cpu', progress=False, say=lambda s: None)
    train(TINY, X, Y, tmp_path / 'run', **quiet)
    with pytest.raises(InputError, match='already holds a run'):
        train(TINY, X, Y, tmp_path / 'run', **quiet)
    with pytest.raises(InputError, match='already finished'):
        train(TINY, X, Y, tmp_path / 'run', resume=True, **quiet)
    with pytest.raises(InputError, match='is not a run'): train(TINY, X, Y, tmp_path, **quiet)


def test_a_signal_in_the_second_epoch_and_the_same_call_again(tmp_path):
    def signal_in_epoch_2(s):
        if s.startswith('epoch 1'): signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match='go on with --resume'):
        train(TINY, X, Y, tmp_path / 'cut', **QUIET | dict(say=signal_in_epoch_2))
    train(TINY, X, Y, tmp_path / 'cut', resume=True, **QUIET)
    train(TINY, X, Y, tmp_path / 'whole', **QUIET)
    assert Run(tmp_path / 'cut').log == Run(tmp_path / 'whole').log
