"""Recipes planned for another number of epochs, rates that can be drawn, and what is refused.

Rates step by step stand in test_training.py, beside a training.
"""
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_nb.augment.ops import Cutout, Resize
from cifar_nb.core.errors import InputError
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.registry import Registry
from cifar_nb.recipes.spec import (SMALL, Claim, Optimizer, Phase, Recipe, Schedule,
                                   learning_rates, recipe_from_json, stretch)
from cifar_nb.teams.zoo import get_recipe, list_recipes

NET = NetSpec(widths=(4,), depths=(1,), strides=(1,))
EVERY = pytest.mark.parametrize('r', list_recipes(), ids=lambda r: f'{r.name}-{r.variant}')


def recipe(*phases): return Recipe('a', NET, phases)


def planned(epochs, schedule, to, **more):
    return stretch(recipe(Phase(epochs, schedule=schedule, **more)), to).phases[0]


# Rates

@pytest.mark.parametrize('name', ['quick', 'laptop', 'hour'])
def test_the_rates_of_muon_can_be_drawn(name):
    "Linear to zero over all steps: by hand, from the images that each epoch takes."
    r = get_recipe(name)
    p, = r.phases
    assert (p.optimizer.name, p.schedule.shape, p.schedule.unit) == ('Muon', 'linear', 'step')
    assert not p.schedule.warmup_epochs and p.schedule.t_max == r.epochs
    taken = [round(50_000 * p.keep_fraction[min(e, len(p.keep_fraction) - 1)]) if p.keep_fraction
             else 50_000 for e in range(r.epochs)]
    steps = [n // p.batch_size + (n % p.batch_size > 1) for n in taken]
    wanted = [p.optimizer.lr * (1 - sum(steps[:e]) / sum(steps)) for e in range(r.epochs)]
    assert r.learning_rates() == pytest.approx(wanted, rel=1e-6)


@EVERY
def test_every_schedule_can_be_drawn(r):
    rates = learning_rates(r)
    assert len(rates) == r.epochs and min(rates) >= 0 and len(learning_rates(r, 5000)) == r.epochs
    begins = [sum(p.epochs for p in r.phases[:i]) for i in range(len(r.phases))]
    for p, e in zip(r.phases, begins):
        first = p.schedule.warmup_start_factor if p.schedule.warmup_epochs else 1
        assert rates[e] == pytest.approx(p.optimizer.lr * first)
        assert max(rates[e:e + p.epochs]) <= p.optimizer.lr * (1 + 1e-9)


# Another number of epochs

def test_small_twice_as_long_and_a_third_as_long():
    "9 epochs, of them 2 of warm-up and 7 of cosine."
    def numbers(r): s = r.phases[0].schedule; return r.epochs, s.warmup_epochs, s.t_max
    small = get_recipe('small')
    assert numbers(small) == (9, 2, 7)
    assert numbers(small.with_epochs(18)) == (18, 4, 14)
    assert numbers(small.with_epochs(3)) == (3, pytest.approx(2 / 3), pytest.approx(7 / 3))
    assert small.with_epochs(9) == small


def test_whole_epochs_stay_whole():
    s = planned(20, Schedule('cosine', warmup_epochs=5, t_max=15), 7).schedule
    assert (s.warmup_epochs, s.t_max) == (2, 5)  # 1.75 and 5.25
    assert planned(20, Schedule('cosine', warmup_epochs=5, t_max=15), 2).schedule.warmup_epochs == 0
    assert planned(100, Schedule('cosine', t_max=10), 2).schedule.t_max == 1  # never 0


@pytest.mark.parametrize('to, patience', [(50, 10), (10, 2), (25, 5), (3, 1), (100, 20)])
def test_a_plateau_bears_its_share(to, patience):
    assert planned(50, Schedule('plateau', patience=10), to).schedule.patience == patience


@pytest.mark.parametrize('to, milestones', [(16, (8, 12)), (8, (4, 6)), (32, (16, 24)), (3, (1, 2)),
                                            (4, (2, 3))])
def test_milestones_move_along(to, milestones):
    s = Schedule('multistep', milestones=(8, 12))
    assert planned(16, s, to).schedule.milestones == milestones
    s = replace(s, unit='step')
    assert planned(16, s, 6).schedule.milestones == (3, 4.5)


def test_sizes_and_shares_go_with_the_time():
    "8 epochs in 4: each new one ends where two of the old ones end; 4 in 8: each is there twice."
    more = dict(augment=(Cutout(8), Resize((16, 20, 24, 24, 28, 32))),
                keep_fraction=(1, 1, .9, .9, .7))
    p = planned(8, Schedule(), 4, **more)
    assert p.augment == (Cutout(8), Resize((20, 24, 32, 32))) and p.keep_fraction == (1, .9, .7, .7)
    p = planned(4, Schedule(), 8, augment=(Resize((16, 32)),), keep_fraction=(1, .5))
    assert p.augment[0].sizes == (16, 16, 32, 32, 32, 32, 32, 32)
    assert p.keep_fraction == (1, 1, .5, .5, .5, .5, .5, .5)
    assert planned(4, Schedule(), 8).keep_fraction == ()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 200))
def test_phases_share_the_epochs(lengths, to):
    r = recipe(*(Phase(n, augment=(Cutout(2),)) for n in lengths))
    if to < len(lengths):
        with pytest.raises(InputError, match=f'{len(lengths)} or more'): stretch(r, to)
        return
    new = [p.epochs for p in stretch(r, to).phases]
    assert sum(new) == to and min(new) >= 1
    if to % sum(lengths) == 0: assert new == [n * to // sum(lengths) for n in lengths]
    shares = zip(new, lengths)
    if to >= 4 * len(lengths): assert all(abs(a - b * to / sum(lengths)) <= 4 for a, b in shares)


@EVERY
def test_a_recipe_in_its_own_time_is_itself_and_in_twice_the_time_has_the_same_course(r):
    assert r.with_epochs(r.epochs) == r
    if any(p.schedule.unit == 'epoch' for p in r.phases): return
    top = max(p.optimizer.lr for p in r.phases)
    twice = r.with_epochs(2 * r.epochs).learning_rates()[::2]
    assert twice == pytest.approx(r.learning_rates(), abs=.02 * top)


# What is refused

WRONG = [(Optimizer, dict(lr=v), 'lr') for v in (0, -.1, float('nan'), float('inf'), 1e39)]
WRONG += [
    (Optimizer, dict(name='Muon', bias_lr=0), 'bias_lr'), (Optimizer, dict(name='sdg'), 'SGD'),
    (Schedule, dict(shape='cosine'), 't_max'), (Schedule, dict(shape='sine'), 'cosine'),
    (Schedule, dict(shape='linear', t_max=1.5), 'whole epochs'),
    (Schedule, dict(unit='day'), 'unit'),
    (Schedule, dict(shape='plateau', warmup_epochs=2), 'plateau'),
    (Phase, dict(epochs=0), 'epochs'), (Phase, dict(epochs=1, batch_size=0), 'batch_size'),
    (Phase, dict(epochs=1, micro_batch=-1), 'micro_batch'),
    (Phase, dict(epochs=1, label_smoothing=1.), 'label_smoothing'),
    (Phase, dict(epochs=1, keep_fraction=(.5, 0)), 'keep_fraction'),
    (Recipe, dict(name='a', net=NET, phases=()), 'at least one phase'),
    (Recipe, dict(name='a', net=NET, phases=(Phase(1),), ema=1.), 'ema'),
    (Recipe, dict(name='a', net=NET, phases=(Phase(1),), clip=-1), 'clip')]


@pytest.mark.parametrize('cls, given, word', WRONG)
def test_what_cannot_be_is_one_sentence(cls, given, word):
    with pytest.raises(InputError, match=word) as e: cls(**given)
    assert '\n' not in str(e.value)


# What is refused, in a sentence that says what is wrong

SMALL_MINE = Registry(SMALL)
SLIM = replace(SMALL, net=replace(SMALL.net, widths=(32, 64, 128)))
REFUSED = {
    'an optimizer in small letters': (lambda: Optimizer('adamw'), 'did you mean AdamW'),
    'a rate of zero': (lambda: Optimizer(lr=0), 'above 0'),
    'a schedule cut off': (lambda: Schedule('cosin'), 'did you mean cosine'),
    'a cosine without a length': (lambda: Schedule('cosine'), 'a length above 0'),
    'half an epoch': (lambda: Schedule('cosine', t_max=2.5), 'not whole epochs'),
    'a rate that turns its sign': (lambda: Schedule('multistep', milestones=(2,), gamma=-1),
                                   'gamma=-1'),
    'a patience below none': (lambda: Schedule('plateau', patience=-5), 'patience=-5'),
    **{f'a drop after {m} epochs, within the warm-up': (
        lambda m=m: Schedule('multistep', warmup_epochs=5, milestones=(m, 10)),
        'after the warm-up of 5 epochs') for m in (2, 5)},
    'a plateau with warm-up': (lambda: Schedule('plateau', warmup_epochs=5), 'no warm-up'),
    'no epoch': (lambda: Phase(0), 'epochs=0'),
    'half an image': (lambda: Phase(1, batch_size=.5), 'batch_size'),
    **{f'keep_fraction={wrong!r}': (lambda wrong=wrong: Phase(2, keep_fraction=wrong),
                                    'give a list with the share')
       for wrong in ((1, 0), .7, 'all', (1, None))},
    'a kind of check': (lambda: Claim('accuracy', 95.53, '%', check='mesured'), 'measured'),
    'no phase': (lambda: Recipe('empty', NetSpec(), ()), 'at least one phase'),
    'an unknown field': (lambda: recipe_from_json(SMALL.to_json().replace('"ema"',
                                                                          '"lerning_rate"')),
                         "unknown field 'lerning_rate'"),
    'no JSON': (lambda: recipe_from_json('[1, 2'), 'not a recipe'),
    'fewer epochs than phases': (lambda: TWO.with_epochs(1), 'epochs=1'),
    'a field that is none': (lambda: SMALL.with_(lrr=.05), 'did you mean lr'),
    'a name that is none': (lambda: SMALL_MINE.get('smal'), 'did you mean small'),
    'a variant that is none': (lambda: SMALL_MINE.get('small', variant='paper'),
                               "variant of small called 'paper'"),
    'a name that is taken': (lambda: SMALL_MINE.add(SLIM), 'Another recipe is called small'),
}
TWO = Recipe('two', NetSpec(),
             (Phase(100, schedule=Schedule('multistep', milestones=(50, 75))),
              Phase(100, schedule=Schedule('cosine', t_max=100))))


@pytest.mark.parametrize('what', REFUSED)
def test_what_is_no_recipe_is_refused(what):
    call, why = REFUSED[what]
    with pytest.raises(InputError, match=re.escape(why)): call()


@pytest.mark.parametrize('phase, why', [
    (dict(epochs=1, micro_batch=-1), 'Phase: micro_batch=-1; give a whole number, 0 for the whole '
                                     'batch.'),
    (dict(epochs=1, micro_batch=.5), 'Phase: micro_batch=0.5; give a whole number, 0 for the whole '
                                     'batch.'),
    (dict(epochs=100_001), 'Phase: epochs=100001; give a whole number from 1 to 100,000.'),
    (dict(epochs=1, batch_size='8'), "Phase: batch_size='8'; give a whole number from 1 to "
                                     "100,000."),
    (dict(epochs=1, label_smoothing=1.), 'Phase: label_smoothing=1.0; give a share from 0 up to '
                                         '1.'),
    (dict(epochs=1, std=(1, 0, 1)), 'Phase: std=(1, 0, 1); give each channel a number above 0.')])
def test_a_phase_says_which_field_is_wrong(phase, why):
    with pytest.raises(InputError) as e: Phase(**phase)
    assert str(e.value) == why
    assert Phase(1, micro_batch=10**9).micro_batch == 10**9


def test_a_refused_recipe_leaves_the_registry_as_it_was():
    mine = Registry(SMALL)
    with pytest.raises(InputError): mine.add(SLIM)
    assert mine.get('small') == SMALL and mine.list() == [SMALL]


def test_the_plan_of_steps_is_linear_in_steps_and_shares_are_stretched():
    fewer = Recipe('fewer', NetSpec(),
                   (Phase(6, Optimizer(lr=1), Schedule('linear', t_max=6, unit='step'),
                          batch_size=100, keep_fraction=(1, 1, 1, .8, .6, .4)),))
    assert [fewer.with_epochs(n).phases[0].keep_fraction for n in (2, 3, 6)] == [
        (1, .4), (1, .8, .4), (1, 1, 1, .8, .6, .4)]
    assert fewer.learning_rates(1000) == pytest.approx(
        [1 - sum([10, 10, 10, 8, 6, 4][:e]) / 48 for e in range(6)])
    assert SMALL.with_epochs(3).phases[0].schedule.warmup_epochs == pytest.approx(2 / 3)


def test_milestones_stay_apart():
    crowd = Recipe('crowd', NetSpec(),
                   (Phase(25, schedule=Schedule('multistep', milestones=(10, 12, 15, 30))),))
    assert [crowd.with_epochs(n).phases[0].schedule.milestones for n in (5, 4, 3, 25)] == [
        (2, 3, 4, 6), (1, 2, 3, 5), (1, 1, 2, 4), (10, 12, 15, 30)]


def test_milestones_stay_behind_the_warm_up():
    "20 epochs in 4: five of warm-up are one, and a drop after six (1.2) comes after two."
    warm = Schedule('multistep', warmup_epochs=5, milestones=(6, 12))
    assert planned(20, warm, 4).schedule.milestones == (2, 3)
    for to in range(1, 60): planned(20, warm, to)  # no length is refused
    assert planned(20, replace(warm, unit='step'), 4).schedule.milestones == pytest.approx(
        (1.2, 2.4))
