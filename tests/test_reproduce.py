"""The full runs: what is refused, who is left out, and what Ctrl-C leaves. Chapter 65 walks through
a whole one; tests/test_cli.py stops and resumes the command."""
import signal
from unittest.mock import patch

import pytest

from cifar_nb.augment.ops import RandomHorizontalFlip
from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import toy
from cifar_nb.data.images import Images
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.cost import training_cost
from cifar_nb.recipes.spec import Optimizer, Phase, Recipe, Schedule
from cifar_nb.studies import reproduce as module
from cifar_nb.studies.reproduce import choose_recipes, command_reproduce, reproduce
from cifar_nb.training.signals import Interrupted
from cifar_nb.training.train import planned

TINY = Recipe('tiny', NetSpec(widths=(8, 16), depths=(1, 1), strides=(2, 2)),
              tta_transforms=('identity', 'flip'), phases=(
    Phase(1, Optimizer(lr=.1, momentum=.9), Schedule('cosine', t_max=1, unit='step'),
          (RandomHorizontalFlip(),), batch_size=32),))


@pytest.fixture
def small(tmp_path):
    "Arguments of the command for a try in a folder of its own."
    words = []
    return words, dict(data='toy', results=tmp_path / 'results', runs=tmp_path / 'runs',
                       device='cpu', images=256, say=words.append)


@pytest.mark.parametrize('name, why', [('dreamfir', 'did you mean dreamfire'),
                                       ('dreamfire:codes', "called 'codes'")])
def test_names_that_are_none(name, why):
    with pytest.raises(InputError, match=why): choose_recipes([name])


@pytest.mark.parametrize('wrong, why', [(dict(together=0), '--together 0'),
                                        (dict(minutes=-1), '--minutes -1'),
                                        (dict(images=0), '--images 0')])
def test_numbers_that_are_none(small, wrong, why):
    with pytest.raises(InputError, match=why): command_reproduce(['small'], **small[1] | wrong)


def test_what_is_listed_is_not_trained_and_what_has_no_time_is_named(small):
    words, settings = small
    assert len(command_reproduce(['small'], 2, listed=True, **settings)) == 2
    left = command_reproduce(['small'], 1, minutes=1e-9, **settings)
    assert [m.name for m in left] == ['small-9epochs-seed0-toy-256images']
    assert words[-1].startswith('1 of 1 are not finished'), words


@pytest.fixture
def without_images(monkeypatch):
    "No CIFAR-10 on this machine, and no network."
    for name in ('CIFAR_NB_DATA', 'KAGGLE_INPUT'): monkeypatch.delenv(name, raising=False)
    for name in ('cifar_nb.data.cifar.search_places', 'cifar_nb.studies.reproduce.search_places'):
        monkeypatch.setattr(name, lambda *a, **k: None)
    asked = []
    def fetch(*args, **kwargs):
        asked.append(args)
        raise InputError('no network')
    monkeypatch.setattr('cifar_nb.data.cifar.fetch', fetch)
    return asked


def test_a_list_needs_no_images(small, without_images, monkeypatch):
    """Nothing is downloaded, what is recorded of CIFAR-10 is known, and the rest costs what all its
    images cost."""
    words, settings = small
    settings |= dict(data=None, images=None)
    recipe = choose_recipes(['small'])[0]
    cifar10 = dict(name='cifar10', images=50_000, fingerprint='cfa34a9486d19f31')
    m = planned(recipe, None, None, seed=1, device='cpu', data=cifar10)
    monkeypatch.setattr(module, 'load_results',
                        lambda folder: [dict(manifest=m, result=dict(test={}))])
    members = command_reproduce(['small'], 3, listed=True, **settings)
    assert [m.name for m in members] == ['small-9epochs-seed0', 'small-9epochs-seed2']
    assert f'{training_cost(recipe, 50_000) * 2:.3g}' in words[-1].split() and not without_images
    # of the first of them nothing is known
    assert len(command_reproduce(['small'], 3, listed=True, **settings | dict(images=500))) == 3
    assert f'{training_cost(recipe, 500) * 3:.3g}' in words[-1].split() and not without_images
    with pytest.raises(InputError, match='from 1 to 50000'):
        command_reproduce(['small'], listed=True, **settings | dict(images=50_001))


def test_a_list_of_images_that_are_here_counts_them(small):
    assert small[1]['images'] == 256
    command_reproduce(['small'], 1, listed=True, **small[1] | dict(images=None))
    assert f'{training_cost(choose_recipes(["small"])[0], 5_000):.3g}' in small[0][-1].split()


def test_where_there_are_no_images_it_says_what_a_shell_can_do(small, without_images):
    with pytest.raises(InputError, match='name its folder with --data, or say --data toy') as e:
        command_reproduce(['small'], 1, **small[1] | dict(data=None))
    assert 'Add Input' not in str(e.value) and len(without_images) == 1


def test_ctrl_c_says_how_to_go_on(small):
    def ctrl_c(members, *args, show, **kwargs):
        signal.raise_signal(signal.SIGINT)
        show(members)
    with patch.object(module, 'train_members', ctrl_c):
        with pytest.raises(Interrupted, match='everything is saved in .*, and the same command '
                                              'goes on') as e:
            command_reproduce(['small'], 1, **small[1])
    assert e.value.signum == signal.SIGINT


def test_one_that_is_refused_does_not_stop_the_others(tmp_path):
    images, said = Images(*toy(20), *toy(50, seed=1), 'toy', 'toy test set'), []
    fits = Recipe('fits', TINY.net, (Phase(1, batch_size=10),))
    left = reproduce([TINY, fits], images, tmp_path / 'results', tmp_path / 'runs', poll=.1,
                     say=said.append)
    assert [m.recipe.name for m in left] == ['tiny']
    assert 'larger than the 20 training images' in said[-1]
    assert len(list((tmp_path / 'results').glob('fits*.json'))) == 1


def test_a_line_has_the_accuracy_with_tta_where_there_is_one(tmp_path):
    images, said = Images(*toy(64), *toy(50, seed=1), 'toy', 'toy test set'), []
    plain = Recipe('plain', TINY.net, (Phase(1, batch_size=16),))
    assert reproduce([TINY, plain], images, tmp_path / 'results', tmp_path / 'runs', poll=.1,
                     say=said.append) == []
    with_tta, without = sorted((s for s in said if 'images/s' in s), key=len, reverse=True)
    assert '% with TTA) in ' in with_tta and 'TTA' not in without


def test_the_speed_of_a_machine_is_that_of_its_fastest_run():
    runs = [dict(seconds=s, images_per_second=v, hardware='A', precision='fp32')
            for s, v in ((20., 50.), (10., 100.), (30., 33.))]
    assert module._speed(runs) == {
        'seconds, at best': '10', 'images/s': '100', 'machine': 'A, fp32'}
