"""A session on a borrowed machine: what is found, what is refused, and what the next session takes
over. Chapter 64 walks through it once; here stands what goes wrong, and what nobody looks at."""
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from cifar_nb.augment.ops import RandomHorizontalFlip
from cifar_nb.core.errors import InputError
from cifar_nb.core.files import make_folder
from cifar_nb.data.cifar import CLASSES, toy
from cifar_nb.data.images import load_both, load_images
from cifar_nb.data.pictures import complaint, read_pictures
from cifar_nb.delivery.session import (bring_back, choose_views, find_course, foretold, keeping,
                                       named_recipes, scores, session_start, submit, train_all,
                                       unfinished, which)
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.spec import SMALL, Optimizer, Phase, Recipe, Schedule
from cifar_nb.teams.zoo import get_recipe
from cifar_nb.training.checkpoints import Run
from cifar_nb.training.jobs import (choose_devices, identified, plan_members, raise_for_status,
                                    share_done, too_old, train_members)
from cifar_nb.training.train import train

TINY = Recipe('tiny', NetSpec(widths=(8, 16), depths=(1, 1), strides=(2, 2)),
              tta_transforms=('identity', 'flip'), phases=(
    Phase(2, Optimizer(lr=.1, momentum=.9), Schedule('cosine', t_max=2, unit='step'),
          (RandomHorizontalFlip(),), batch_size=32),))


def draw(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    "An input folder with two picture sets, a working folder, no data anywhere else."
    monkeypatch.setenv('KAGGLE_INPUT', str(tmp_path / 'input'))
    monkeypatch.setenv('KAGGLE_WORKING', str(tmp_path / 'working'))
    monkeypatch.setenv('CIFAR_NB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('CIFAR_NB_DATA', '')
    (tmp_path / 'working').mkdir()
    (x, y), png = toy(60), tmp_path / 'input/datasets/anna/pngs/cifar10'
    table = tmp_path / 'input/competitions/cifar-10'
    for i in range(60):
        draw(png / ('train' if i % 6 else 'test') / CLASSES[y[i]] / f'{i:04}.png', x[i])
        draw(table / f'train/{i + 1}.png', x[i])
    (table / 'trainLabels.csv').write_text(
        'id,label\n' + ''.join(f'{i + 1},{CLASSES[k]}\n' for i, k in enumerate(y)),
        encoding='utf-8')
    return tmp_path


def test_a_picture_of_another_size_or_broken(place):
    x, _ = toy(1)
    draw(place / 'wide.png', x[0, :, :20])
    whole = (place / 'input/competitions/cifar-10/train/1.png').read_bytes()
    (place / 'broken.png').write_bytes(whole[:60])
    with pytest.raises(InputError, match='32 x 20 pixels'): read_pictures([place / 'wide.png'])
    with pytest.raises(InputError, match='cannot be read as a picture'):
        read_pictures([place / 'broken.png'])


def test_a_table_without_pictures(place):
    (place / 'trainLabels.csv').write_text('id,label\n1,frog\n', encoding='utf-8')
    assert complaint(place, CLASSES).replace(str(place), '') == (
        ' has trainLabels.csv but no pictures for it: add a dataset in which train.7z is unpacked.')


def test_images_are_found_or_it_is_said_what_is_mounted(place):
    pictures = load_both(place / 'input/datasets/anna/pngs/cifar10', say=str)
    with pytest.raises(InputError, match='from 1 to 50'): pictures.first(51)
    assert load_images(say=str).x.shape == (54, 3, 32, 32)
    offline = patch('cifar_nb.data.cifar.urlopen', side_effect=OSError('no network'))
    with patch.dict(os.environ, dict(KAGGLE_INPUT=str(place / 'working'))), offline:
        with pytest.raises(InputError, match='holds nothing, and the internet gave none'):
            load_images(say=str)
    with pytest.raises(InputError, match='holds no data_batch_1'): load_images(place / 'working')
    assert load_images('toy', say=str).test == 'toy test set'


def test_cards_that_are_too_old_and_devices_that_are_not_there():
    assert [too_old(c, b) for c, b in (((6, 0), ['sm_60']), ((9, 0), ['sm_80', 'compute_80']),
                                       ((7, 0), ['sm_75']), ((9, 0), ['sm_90a']),
                                       ((12, 1), ['sm_120a', 'compute_120a']),
                                       ((11, 0), ['gfx900', 'gfx90a', 'gfx1030', 'gfx1100']))] == [
        False, False, True, False, True, False]
    for names in (['cuda:99'], 'cuda:99'):
        with pytest.raises(InputError, match="no device 'cuda:99'"): choose_devices(names)
    assert choose_devices('cpu') == ['cpu']


def test_the_public_competition_is_not_called_missing(place):
    images, said = load_images(say=str), []
    assert find_course(images, say=said.append) is None
    where = place / 'input/competitions/cifar-10'
    assert len(said) == 1 and said[0].startswith(
        f'ATTENTION: {where} is the public competition cifar-10, whose test pictures are not')
    assert 'test_predictions.csv' in said[0] and 'Add Input' not in said[0]
    (where / 'trainLabels.csv').unlink()
    find_course(images, say=said.append)
    assert 'add your competition with Add Input' in said[1]


@pytest.fixture
def on_kaggle(monkeypatch): monkeypatch.setenv('KAGGLE_KERNEL_RUN_TYPE', 'Batch')


def stat(folder, began, boot=1_000_000):
    "The two files as Linux writes them where the first process began at `began`."
    ticks = round((began - boot) * os.sysconf('SC_CLK_TCK'))
    fields = ['S', *['7'] * 18, str(ticks), *['8'] * 30]  # those from the third on
    (folder / 'one').write_text(f'1 (a name) 9) {" ".join(fields)}\n', encoding='utf-8')
    (folder / 'all').write_text(f'cpu 1 2 3\nbtime {boot}\nprocesses 5\n', encoding='utf-8')
    return folder / 'one', folder / 'all'


@pytest.mark.skipif(not hasattr(os, 'sysconf'), reason='no clock ticks here')
def test_the_hours_count_from_the_start_of_kaggles_session(tmp_path, on_kaggle):
    now, said = time.time(), []
    began = session_start(now, *stat(tmp_path, now - 7200), say=said.append)
    assert abs(began - (now - 7200)) < .1
    assert said == ['The session began 120 minutes ago: HOURS counts from there.']


@pytest.mark.skipif(not hasattr(os, 'sysconf'), reason='no clock ticks here')
def test_a_start_that_cannot_be_the_sessions_does_not_count(tmp_path, monkeypatch, on_kaggle):
    now = time.time()
    def told(*files): return session_start(now, *files, say=pytest.fail)
    assert told(*stat(tmp_path, now - 13 * 3600)) == told(*stat(tmp_path, now + 3600)) == now
    one, every = stat(tmp_path, now - 7200)
    assert told(tmp_path / 'none', every) == told(one, one) == told(every, every) == now
    monkeypatch.delenv('KAGGLE_KERNEL_RUN_TYPE')
    assert told(one, every) == now


def test_where_files_do_not_stay_it_is_said(tmp_path, monkeypatch):
    left = plan_members([SMALL], out=tmp_path)
    monkeypatch.delenv('KAGGLE_KERNEL_RUN_TYPE', raising=False)
    told = {'here': unfinished(left)}
    for kind in ('Batch', 'Interactive'):
        monkeypatch.setenv('KAGGLE_KERNEL_RUN_TYPE', kind)
        told[kind] = unfinished(left)
        assert keeping() in told[kind]
    monkeypatch.delenv('KAGGLE_KERNEL_RUN_TYPE')
    monkeypatch.setitem(sys.modules, 'google.colab', None)
    told['Colab'] = unfinished(left)
    words = {'Persistence': ['Interactive'], 'Quick Save': ['Interactive'], 'Drive': ['Colab'],
             'Add Input': ['Batch', 'Interactive'], 'gone': ['Interactive', 'Colab'],
             'with this version': ['Batch'], 'these settings': [*told]}
    for word, places in words.items():
        assert sorted(places) == sorted(p for p, text in told.items() if word in text), word


def test_a_recipe_can_bring_its_variant_and_the_setting_is_for_those_that_have_it():
    def chosen(names, *variant):
        return [(r.name, r.variant) for r in named_recipes(names, *variant, say=said.append)]
    said = []
    assert chosen('dreamfire:code') == [('dreamfire', 'code')]
    assert chosen(['hour', 'dreamfire', 'dreamfire:report', TINY], 'code') == [
        ('hour', 'report'), ('dreamfire', 'code'), ('dreamfire', 'report'), ('tiny', 'report')]
    assert said == ["hour has no variant 'code': it is trained as 'report'."]
    for names, variant, why in ((['hour:code'], 'report', 'no variant of hour'),
                                ('dreamfir:code', 'report', 'did you mean dreamfire'),
                                ('hour', 'cod', 'no VARIANT')):
        with pytest.raises(InputError, match=why): named_recipes(names, variant, say=str)


def test_what_will_be_submitted_is_said_before_the_training(tmp_path):
    def told(name, seeds=(0, 1), choice='auto'):
        return foretold(plan_members(get_recipe(name), seeds, out=tmp_path), choice).splitlines()
    *_, two = told('hour')
    assert two == ('Together 9,688,256 parameters, over the limit of 5,000,000: submitted is the '
                   'first, hour-70epochs-seed0; the others show the spread.')
    *_, two = told('quick')
    assert two.endswith('994,432 parameters, within the limit of 5,000,000: submitted is their '
                        'mean.')
    assert told('hour', choice='mean')[2].endswith('over the limit of 5,000,000: submitted is '
                                                   'their mean.')
    assert len(told('hour', (0,))) == 1
    with pytest.raises(InputError, match='no SUBMIT'): told('quick', choice='best')


def test_members_are_planned_by_whole_seeds():
    with pytest.raises(InputError, match='whole numbers'): plan_members(SMALL, ['one'])


def test_no_name_of_a_recipe_leads_out_of_the_folder_or_to_anothers(tmp_path):
    "`launch` names files after the folder, so that two of one name would share them."
    names = ['a/x', 'b/x', '../../evil', '/tmp/abs', 'c:\\d']
    members = plan_members([replace(SMALL, name=n) for n in names], out=tmp_path)
    assert [m.out.parent for m in members] == [tmp_path] * len(members)
    assert len({m.name for m in members}) == len(members)


def test_the_share_that_is_done_is_read_from_log_and_progress_bar(tmp_path):
    "Step 16 of 32 in epoch 2 of 4 is three eighths of the way."
    fake = plan_members([SMALL], epochs=4, out=make_folder(tmp_path / 'runs'))[0]
    bar = 'epoch 1/4: lr 0.2\n\repoch 2/4:  50%|####    | 16/32 [00:05<00:05,  3.00step/s]'
    fake.notes.write_text(bar, encoding='utf-8')
    assert (share_done(fake), share_done(plan_members([SMALL], out=tmp_path)[0])) == (.375, 0.)


def test_another_training_in_its_place_gets_another_folder(tmp_path):
    fake = plan_members([SMALL], epochs=4, out=tmp_path)[0]
    make_folder(fake.out)
    # nine epochs, not four
    (fake.out / 'recipe.json').write_text(get_recipe('small').to_json(), encoding='utf-8')
    identified([fake], *toy(200), data='toy')
    assert fake.out.name.endswith('-2') and not fake.begun


@pytest.fixture(scope='module')
def members(tmp_path_factory):
    "Two members, stopped by the button and trained to the end, and one that a signal stopped."
    here, (x, y) = tmp_path_factory.mktemp('members'), toy(256)
    trained = plan_members([TINY], (0, 1), out=here / 'runs')
    def stop_button(members):
        if any(m.log for m in members): raise KeyboardInterrupt
    try: train_members(trained, ['cpu', 'cpu'], x, y, show=stop_button, poll=.02)
    except KeyboardInterrupt: pass
    train_members(trained, ['cpu', 'cpu'], x, y, poll=.1)
    assert all(m.finished for m in trained)
    def signal_in_epoch_2(s):
        if s.startswith('epoch 1'): signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match='--resume'):
        train(TINY, x, y, here / 'stopped/tiny', device='cpu', progress=False,
              say=signal_in_epoch_2)
    return here, trained, x, y


def test_a_mistake_in_a_member_arrives_as_its_sentence(members, tmp_path):
    _, trained, x, y = members
    with pytest.raises(InputError, match='larger than the 10 training images'):
        train_members(plan_members([TINY], (7,), out=tmp_path), ['cpu'], x[:10], y[:10], poll=.1)
    with pytest.raises(InputError, match='no PARALLEL'):
        train_members(trained, ['cpu'], x, y, parallel='both')


def test_that_the_hours_are_over_is_said(tmp_path):
    said, left = [], plan_members([TINY], out=tmp_path)
    assert train_all(left, ['cpu'], *toy(64), until=time.time(), say=said.append) == left
    assert said[0].startswith('The hours are over') and 'HOURS' in said[0]
    assert said[1].startswith('Not finished: ') and len(said) == 2


GREEDY = TINY.with_(name='greedy', batch_size=4096)


def test_a_member_that_fails_does_not_stop_the_others(tmp_path):
    (x, y), said = toy(256), []
    bad, good = members = plan_members([GREEDY, TINY], out=tmp_path)
    assert train_all(members, ['cpu', 'cpu'], x, y, poll=.1, say=said.append) == [good]
    assert good.finished and good.process.returncode == 0
    assert said == [f'ATTENTION: {bad.name} was left out: A batch of 4096 is larger than the 256 '
                    'training images; give more images or a smaller batch.',
                    f'Finished: {good.name}']
    with pytest.raises(InputError, match='larger than the 256 training images'):
        train_all([bad], ['cpu'], x, y, poll=.1, say=pytest.fail)


def test_the_stop_button_tells_what_is_saved_and_what_was_left_out(tmp_path):
    (x, y), said = toy(256), []
    bad, good = members = plan_members([GREEDY, TINY.with_epochs(400)], out=tmp_path)
    def stop_button(members):
        if bad.process.poll() is not None and good.log: raise KeyboardInterrupt
    assert train_all(members, ['cpu', 'cpu'], x, y, show=stop_button, poll=.05,
                     say=said.append) == [good]
    assert said[0].startswith(f'ATTENTION: {bad.name} was left out: A batch of 4096')
    assert said[1].startswith(f'Not finished: {good.name} at epoch {len(good.log)} of 400.')
    assert len(said) == 2 and (good.out / 'checkpoint.pt').is_file()


@pytest.mark.parametrize('platform, status, refused', [
    ('win32', 1, False), ('win32', 2, True), ('linux', 1, True), ('linux', 143, False)])
def test_who_is_told_to_stop_is_not_left_out(platform, status, refused, tmp_path, monkeypatch):
    one, = plan_members([TINY], out=tmp_path)
    def pressed(members, *args, **kwargs):
        ended = SimpleNamespace(returncode=status, stdin=open(os.devnull, 'rb'))
        one.process = ended
        raise KeyboardInterrupt
    monkeypatch.setattr('cifar_nb.delivery.session.train_members', pressed)
    monkeypatch.setattr(sys, 'platform', platform)
    if not refused: assert train_all([one], ['cpu'], *toy(10), say=str) == [one]
    else:
        with pytest.raises(InputError, match=f'broke off with status {status}'):
            train_all([one], ['cpu'], *toy(10), say=str)


def test_a_folder_that_is_removed_while_it_trains_is_named(tmp_path):
    one, = plan_members([TINY], out=tmp_path / 'runs')
    def ended(): one.process = SimpleNamespace(returncode=2, stdin=open(os.devnull, 'rb'))
    ended()
    with pytest.raises(InputError, match=f"was {re.escape(str(tmp_path / 'runs'))} removed"):
        raise_for_status(one)
    one.notes.parent.mkdir()
    one.notes.touch()
    ended()
    with pytest.raises(InputError, match=r'\(it printed nothing\): see'): raise_for_status(one)


def test_a_pytorch_without_libuv_cannot_share_a_member(members, monkeypatch):
    "As a build for Windows; what torch then says is from torch 2.6."
    _, trained, x, y = members
    def refuse(*args, **kwargs):
        raise RuntimeError('use_libuv was requested but PyTorch was build without libuv support')
    monkeypatch.setattr('torch.distributed.TCPStore', refuse)
    with pytest.raises(InputError, match="without libuv.*choose PARALLEL = 'members'"):
        train_members(trained, ['cpu', 'cpu'], x, y, parallel='data')
    train_members(trained, ['cpu'], x, y, parallel='data')  # one device needs no torchrun


def test_finished_runs_are_brought_back_and_others_are_named(members, tmp_path, monkeypatch):
    here, _, x, y = members
    monkeypatch.setenv('KAGGLE_INPUT', str(tmp_path / 'input'))
    shutil.copytree(here / 'stopped', tmp_path / 'input/notebooks/anna/first/runs')
    with pytest.raises(InputError, match='an unfinished run of tiny'):
        bring_back(identified(plan_members(SMALL, out=tmp_path / 'other'), x, y))
    shutil.copytree(here / 'runs', tmp_path / 'input/notebooks/anna/second/runs')
    done = plan_members([TINY], (0, 1), out=tmp_path / 'the day after')
    bring_back(identified(done, x, y), say=str)
    assert [m.finished for m in done] == [True, True]


def test_which_answers_are_handed_in(members, tmp_path):
    both, logits = [Run(m.out) for m in members[1]], torch.randn(2, 100, 10)
    assert which('auto', both) == 'mean' and choose_views(TINY) == ('identity', 'flip')
    with pytest.raises(InputError, match='did you mean mean'): which('meen', both)
    with pytest.raises(InputError, match='cannot be written'):
        submit(both, list(logits), torch.arange(100), tmp_path / 'nowhere', say=str)


def test_each_run_has_its_own_score():
    "Two that are sure, one always right and one always wrong by less; so their mean is right."
    y = torch.arange(20) % 10
    right, wrong = 9. * torch.eye(10)[y], 3. * torch.eye(10)[(y + 1) % 10]
    runs = [SimpleNamespace(path=Path(name), result=dict(parameters=n))
            for name, n in (('a', 1500), ('b', 2500))]
    assert [[*row.values()] for row in scores(runs, y, plain=[right, wrong])] == [
        ['a', '1,500', '100.00%'], ['b', '2,500', '0.00%'], ['mean of the 2', '4,000', '100.00%']]
