"How networks are judged, and what is said of it: by hand, or from the logits."
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from cifar_nb.augment.ops import Resize
from cifar_nb.core.manifest import fingerprint
from cifar_nb.data.cifar import SHAPES, toy
from cifar_nb.evaluation.report import (confused_pairs, evaluate, metrics, paired_gain, reliability,
                                        spread, standard_error, worst_mistakes)
from cifar_nb.evaluation.tta import examine
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.cost import training_cost
from cifar_nb.recipes.spec import Optimizer, Phase, Recipe, Schedule
from cifar_nb.studies.scoreboard import spent, ten_minutes
from cifar_nb.teams.claims import trials
from cifar_nb.training import loop as training
from cifar_nb.training.checkpoints import Run
from cifar_nb.training.precision import Precision
from cifar_nb.training.train import train

NET = NetSpec(widths=(4, 8), depths=(1, 1), strides=(2, 2))
PHASE = Phase(2, Optimizer(lr=.05), Schedule(), batch_size=50, mean=(.3, .4, .5), std=(.2, .2, .3))
TTA = ('identity', 'flip', 'left')


def answers(said, sure=5., classes=10):
    "Logits that say the classes `said`, `sure` above the others."
    sure = torch.as_tensor(sure).expand(len(said))
    return F.one_hot(torch.tensor(said), classes) * sure[:, None]


# Figures by hand

def test_precision_and_recall_are_not_the_same():
    "Four images; of class 0 one is found and nothing else is called so."
    y, said = torch.tensor([0, 0, 0, 1]), [0, 1, 1, 1]
    m = metrics(answers(said), y)
    names = list(m['classes'])
    first, second = m['classes'][names[0]], m['classes'][names[1]]
    assert (first['precision'], first['recall']) == (100, pytest.approx(100 / 3))
    assert (second['precision'], second['recall']) == (pytest.approx(100 / 3), 100)
    assert first['f1'] == pytest.approx(50) and first['images'] == 3
    assert m['accuracy'] == 50 and m['images'] == 4
    assert m['confusion'][0][:2] == [1, 2] and m['confusion'][1][:2] == [0, 1]  # rows are true
    wrong, right = math.log(math.exp(5) + 9), math.log(math.exp(5) + 9) - 5
    assert m['loss'] == pytest.approx((2 * right + 2 * wrong) / 4, rel=1e-5)


def test_pairs_are_confused_in_both_directions():
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    for true, said, n in [(0, 1, 5), (1, 0, 4), (2, 3, 1), (3, 2, 7), (2, 2, 50), (0, 3, 6)]:
        confusion[true, said] = n
    assert confused_pairs(confusion, 'abcd') == [('a', 'b', 9), ('c', 'd', 8), ('a', 'd', 6)]
    assert confused_pairs(confusion, 'abcd', n=1) == [('a', 'b', 9)]


def test_the_surest_mistake_comes_first():
    y = torch.tensor([0, 1, 2, 3, 4])
    logits = answers([1, 1, 3, 0, 5], [1., 9., 7., 3., 5.])  # the second is right
    assert worst_mistakes(logits, y).tolist() == [2, 4, 3, 0]
    assert worst_mistakes(logits, y, n=2).tolist() == [2, 4]


def test_standard_errors_and_gains_by_hand():
    assert standard_error(90., 100) == pytest.approx(3.) and standard_error(50., 10_000) == .5
    y = torch.zeros(10, dtype=torch.int64)
    worse, better = answers([0] * 5 + [1] * 5), answers([0] * 7 + [1] * 3)
    gain, error = paired_gain(worse, better, y)
    assert gain == pytest.approx(20) and error == pytest.approx(100 * math.sqrt(.2 * .8 / 10))
    assert spread([90., 92.]) == '91.00% ± 1.41' and spread([90.]) == '90.00%'


def test_answers_fall_into_the_bin_of_their_confidence():
    "Of ten bins the k-th holds what is above k tenths, up to and with the next tenth."
    sure = torch.tensor([.101, .199, .35, .5001, .55, .75, .999], dtype=torch.float64)
    rest = (1 - sure) / 99
    logits = rest.log()[:, None].repeat(1, 100)
    logits[:, 0] = sure.log()
    y = torch.tensor([0, 1, 0, 0, 1, 0, 0])
    r = reliability(logits, y, bins=10)
    assert r.images.tolist() == [0, 2, 0, 1, 0, 2, 0, 1, 0, 1]
    assert r.confidence.tolist() == pytest.approx([0, .15, 0, .35, 0, .52505, 0, .75, 0, .999])
    assert r.accuracy.tolist() == [0, .5, 0, 1, 0, .5, 0, 1, 0, 1]
    half = torch.tensor([[0., 0.]])
    assert reliability(half, y[:1], bins=2).images.tolist() == [1, 0]  # one half is in the first


# A run, judged

@pytest.fixture
def run(tmp_path, monkeypatch):
    x, y = toy(200)
    r = Recipe('judged', NET, (PHASE,), tta_transforms=TTA)
    train(r, x, y, tmp_path / 'run', device='cpu', kernels=False, progress=False, say=str,
          info=dict(data='toy'))
    exact = Precision('fp32', '')
    monkeypatch.setattr(training, 'choose_precision', lambda device, name=None: exact)
    return Run(tmp_path / 'run')


def by_hand(run, x):
    "Logits with the phase's own mean and deviation, in the network's own words."
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (PHASE.mean, PHASE.std))
    with torch.no_grad(): return run.load_net('cpu').eval()((x.float() / 255 - mean) / std)


def test_one_look_and_several_are_told_apart(run):
    x, y = toy(150, seed=1)
    mirrored = torch.cat([x[..., 1:], x[..., -2:-1]], -1)  # one pixel to the left
    plain = by_hand(run, x)
    mean = (plain + by_hand(run, x.flip(-1)) + by_hand(run, mirrored)) / 3
    one, several, logits = examine(run, x, y, 'cpu', classes=list(SHAPES), data='toy')
    torch.testing.assert_close(logits, mean, rtol=0, atol=1e-4)
    result = Run(run.path).result
    for m, want in ((one, plain), (several, mean)):
        assert m['loss'] == pytest.approx(F.cross_entropy(want, y).item(), abs=1e-4)
        assert m['accuracy'] == pytest.approx(100 * (want.argmax(1) == y).double().mean().item())
    assert one['loss'] != pytest.approx(several['loss'], abs=1e-4)
    first, then = ((v.argmax(1) == y).tolist() for v in (plain, mean))
    assert 'paired' not in one and several['paired'] == dict(
        gained=sum(b and not a for a, b in zip(first, then)),
        lost=sum(a and not b for a, b in zip(first, then)))
    kept = {tuple(e['tta']['transforms']): e['metrics']['loss'] for e in run.evaluations}
    assert kept == {('identity',): one['loss'], TTA: several['loss']}
    assert (one['views'], several['views']) == ('single view', 'mean of identity, flip, left')
    assert '| TTA | none |' in (run.path / 'report.md').read_text(encoding='utf-8')
    assert result['parameters'] == sum(p.numel() for p in run.load_net('cpu').parameters())


def test_a_network_is_judged_by_the_numbers_it_was_trained_with(run):
    x, y = toy(150, seed=1)
    m = evaluate(run, x, y, device='cpu', classes=list(SHAPES), data='toy')
    assert m['loss'] == pytest.approx(F.cross_entropy(by_hand(run, x), y).item(), abs=1e-4)


def test_an_evaluation_stands_beside_every_other(run):
    "Other images of the same set, and a set that the network was not trained for."
    x, y = toy(100, seed=1)
    about = dict(device='cpu', classes=list(SHAPES))
    first = evaluate(run, x, y, data='toy', **about)
    others = [evaluate(run, 255 - x, y, data='toy', **about),
              evaluate(run, x.flip(2), y, data='drawn by hand', name='elsewhere', **about)]
    assert len({m['loss'] for m in (first, *others)}) == 3
    assert sorted(e['metrics']['loss'] for e in run.evaluations) == sorted(
        m['loss'] for m in (first, *others))
    assert Run(run.path).result['test']['loss'] == first['loss']


def test_a_foreign_set_first_is_not_the_test_set(run):
    x, y = toy(100, seed=1)
    about = dict(device='cpu', classes=list(SHAPES))
    evaluate(run, x.flip(2), y, data='drawn by hand', name='elsewhere', **about)
    assert 'test' not in Run(run.path).result
    m = evaluate(run, x, y, data='toy', **about)
    assert Run(run.path).result['test']['loss'] == m['loss']


def test_a_single_view_is_what_the_recipe_says(tmp_path):
    "A recipe that asks for mirrored images only is judged by those."
    x, y = toy(100)
    recipe = Recipe('a', NET, (PHASE,), tta_transforms=('flip',))
    t = train(recipe, x, y, device='cpu', out=tmp_path, progress=False, say=str)
    x, y = toy(100, seed=1)
    one, mirrored, logits = examine(Run(tmp_path), x, y, 'cpu', classes=list(SHAPES), data='toy')
    wanted = training.predict(training.network(t), x.flip(3), PHASE)
    assert torch.allclose(logits, wanted, atol=1e-5)
    assert mirrored['loss'] == pytest.approx(F.cross_entropy(wanted, y).item(), abs=1e-5)
    assert abs(one['loss'] - mirrored['loss']) > 1e-4


# What a training costs

def test_the_cost_of_a_training_by_hand():
    """Stem, two convolutions of a block and the last layer: 3*4*9, 4*4*9 twice at each of 32 x 32
    places, and 4*10. Forward and backward are three times a forward, two operations each."""
    net = NetSpec(widths=(4,), depths=(1,), strides=(1,))
    def macs(side): return (3 * 4 * 9 + 2 * 4 * 4 * 9) * side ** 2 + 40
    plain = Recipe('a', net, (Phase(2),))
    assert training_cost(plain, 1000) == pytest.approx(6e-15 * 2000 * macs(32))
    p = Phase(3, augment=(Resize((16, 24)),), keep_fraction=(1, .5))
    wanted = 1000 * macs(16) + 500 * macs(24) + 500 * macs(24)
    two = Recipe('a', net, (p, replace(p, augment=(), keep_fraction=())))
    assert training_cost(two, 1000) == pytest.approx(6e-15 * (wanted + 3000 * macs(32)))
    log = [dict(epoch=1), dict(epoch=3, test_accuracy=50.)]  # of 50,000 images
    assert spent(two, log) == [(pytest.approx(6e-15 * 50 * wanted), 50.)]


def test_the_quickest_learner_stands_first():
    def record(name, best):
        return dict(result=dict(recipe=name, macs=1e6, epochs=2, train_images=900, val_images=100,
                                seconds=60., images_per_second=30., best_val_accuracy=best))
    rows = ten_minutes([record('a', 50.), record('b', 90.), record('c', 70.)])
    assert [r['recipe'] for r in rows] == ['b', 'c', 'a']
    assert rows[0]['validation %'] == '90.0 ± 3.0' and rows[0]['images seen'] == '1,800'


# What studies found

def trial(name, figure, seed, recipe=None, base='b', **changes):
    m = dict(recipe=recipe or ('b' if name == 'base' else name), seed=seed,
             data=dict(name='cifar10', fingerprint='x'), sittings=[dict(kernels=[])])
    return dict(manifest=m | changes, scale='fast', study='' if name == 'base' else 's',
                variation=name, base=fingerprint(base), measures=dict(accuracy=figure))


def of_a_study(figures, **changes):
    return [trial(name, figure, seed, **changes) for name in ('base', 'v')
            for seed, figure in enumerate(figures[name])]


@pytest.mark.parametrize('changes', [
    dict(sittings=[dict(kernels=['winograd'])]), dict(data=dict(name='cifar10', fingerprint='y')),
    dict(validation=dict(images=5)), dict(precision='bf16')])
@pytest.mark.parametrize('turned', [False, True])
def test_trials_are_of_one_setting_in_whatever_order(changes, turned):
    new, old = dict(base=[70., 71.], v=[72., 73.]), dict(base=[10., 11.], v=[12., 13.])
    began = [dict(kernels=[], began='2030-01-01T00:00:00Z')]
    rows = of_a_study(new, sittings=began), of_a_study(old, **changes)
    assert trials(sum(rows[::-1] if turned else rows, []), 's', 'fast') == new


@pytest.mark.parametrize('turned', [False, True])
def test_trials_stand_beside_the_base_that_they_name(turned):
    new = dict(base=[70., 71.], v=[72., 73.])
    began = [dict(kernels=[], began='2030-01-01T00:00:00Z')]
    older = [trial('base', 10., 0, recipe='older', base='older'),
             trial('v', 11., 0, base='older'), trial('v', 11., 1, base='older')]
    rows = of_a_study(new, sittings=began), older
    assert trials(sum(rows[::-1] if turned else rows, []), 's', 'fast') == new
