"""The engine of the studies: what is recorded is read, what is not is trained once, and nothing
that is finished is lost."""
from dataclasses import replace

import pytest
import torch

from cifar_nb.core.errors import Diverged, InputError
from cifar_nb.core.files import LOCK, locked
from cifar_nb.data.cifar import split, toy
from cifar_nb.recipes.spec import SMALL
from cifar_nb.recipes.vary import vary
from cifar_nb.studies import ladder
from cifar_nb.studies.experiments import Experiment, carry_out
from cifar_nb.training.signals import Interrupted
from cifar_nb.training.train import planned

X, Y = toy(60)
RECIPE = replace(SMALL.with_epochs(1), net=replace(SMALL.net, widths=(4, 8, 8)))


def experiment(seed, done, recipe=RECIPE, fails=None, **asked):
    m = planned(recipe, X, Y, seed=seed, device='cpu', precision='fp32', kernels=False, holdout=10,
                data='toy')
    def train():
        done.append(seed)
        if fails: raise fails
        return dict(manifest=m, variation='it', accuracy=50. + seed, tta_accuracy=60.,
                    tta_transforms=['flip'], pflop=1., seconds=1., **asked)
    return Experiment(f'it, seed {seed}', m, train, ('it',), asked, own=dict(called='today'))


def figures(r): return f'{r["accuracy"]:.0f}%'


def test_what_is_recorded_is_not_trained_again(tmp_path):
    done, said = [], []
    def records():
        return carry_out([experiment(s, done) for s in (0, 1)], tmp_path / 'it', figures,
                         said.append)
    first = records()
    assert (done == [0, 1] and said == ['it, seed 0: 50%', 'it, seed 1: 51%']
            and [r['called'] for r in first] == ['today'] * 2)
    assert [r['accuracy'] for r in records()] == [50., 51.] and done == [0, 1] and len(said) == 2
    assert sorted(p.name for p in (tmp_path / 'it').glob('*.json')) == [
        'it-seed0.json', 'it-seed1.json']


def test_another_recipe_or_question_is_another_experiment(tmp_path):
    done = []
    carry_out([experiment(0, done)], tmp_path, figures, str)
    carry_out([experiment(0, done, vary(RECIPE, lr=.3))], tmp_path, figures, str)
    carry_out(
        [experiment(0, done, asked_for=1), experiment(0, done, asked_for=2),
         experiment(0, done, asked_for=1)], tmp_path, figures, str)
    assert done == [0] * 5  # the list is read once, before the first training
    carry_out([experiment(0, done, asked_for=1), experiment(0, done, asked_for=2)], tmp_path,
              figures, str)
    assert done == [0] * 5 and len([*tmp_path.glob('*.json')]) == 4


def test_one_that_diverges_is_told_and_the_rest_go_on(tmp_path):
    done, said = [], []
    out = carry_out(
        [experiment(0, done, fails=Diverged('the loss is not finite')), experiment(1, done)],
        tmp_path, figures, said.append)
    assert (said == ['it, seed 0: no figure. the loss is not finite', 'it, seed 1: 51%']
            and [r['accuracy'] for r in out] == [51.])


def test_an_interruption_keeps_what_is_finished(tmp_path):
    done = []
    with pytest.raises(Interrupted, match='stopped at it, seed 1; what is finished is kept') as e:
        carry_out([experiment(0, done), experiment(1, done, fails=Interrupted('stopped', 15))],
                  tmp_path, figures, str)
    assert e.value.signum == 15
    assert (len(carry_out([experiment(0, done), experiment(1, done)], tmp_path, figures, str)) == 2
            and done == [0, 1, 1])


def test_one_process_at_a_time(tmp_path):
    with locked(tmp_path / LOCK, 'never'), pytest.raises(
        InputError, match='another process trains for'):
        carry_out([], tmp_path, figures, str)


def test_a_rung_is_judged_with_tta_by_images_that_are_held_out(monkeypatch):
    real, seen = ladder.predict_views, []
    def noted(net, x, *rest, **more):
        seen.append(x)
        return real(net, x, *rest, **more)
    monkeypatch.setattr(ladder, 'predict_views', noted)
    ladder.train_rung('it', vary(RECIPE, batch_size=50), X, Y, held=10, device='cpu')
    assert torch.equal(seen[0], X[split(Y, 10)[1]])


def test_a_gain_is_what_a_rung_adds_to_the_one_below():
    def record(name, accuracy, seconds):
        return dict(variation=name, accuracy=accuracy, tta_accuracy=accuracy + 1, seconds=seconds,
                    tta_transforms=['flip'], pflop=.5)
    rows = [*ladder.ladder_table([record('a', 50., 9.), record('b', 52., 7.), record('b', 54., 5.)],
                                 ('a', 'b'))]
    assert [(r['validation %'], r['gain'], r['seconds, at best']) for r in rows] == [
        ('50.00', '', '9'), ('53.00', '+3.00', '5'), ('54.00', '+1.00', '5')]
