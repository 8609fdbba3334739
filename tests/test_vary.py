"One way to change a recipe."
from dataclasses import replace

import pytest

from cifar_nb.core.errors import InputError
from cifar_nb.recipes.house import LAPTOP, QUICK
from cifar_nb.recipes.spec import SMALL, Optimizer, Schedule
from cifar_nb.recipes.vary import vary
from cifar_nb.teams.zoo import get_recipe

PHASE = SMALL.phases[0]


def phase(**changes): return replace(SMALL, phases=(replace(PHASE, **changes),))


@pytest.mark.parametrize('changes, wanted', [
    ({}, SMALL), (dict(block='plain'), replace(SMALL, net=replace(SMALL.net, block='plain'))),
    (dict(batch_size=64), phase(batch_size=64)),
    (dict(optimizer=Optimizer('Adam', .001)),
     phase(optimizer=Optimizer('Adam', .001))),
    (dict(lr=.3), phase(optimizer=replace(PHASE.optimizer, lr=.3))),
    (dict(ema=.9, clip=1.),
     replace(SMALL, ema=.9, clip=1.)),
    (dict(optimizer=Optimizer('Adam', .001), lr=.5), phase(optimizer=Optimizer('Adam', .5))),
    (dict(without='RandomCrop'), phase(augment=PHASE.augment[1:])),
    (dict(width_factor=.5),
     replace(
                                                  SMALL,
                                                  net=replace(SMALL.net, widths=(32, 64, 128)))),
    (dict(net=QUICK.net), replace(SMALL, net=QUICK.net)),
    (dict(net=QUICK.net, depth=3), replace(SMALL, net=replace(QUICK.net, depth=3))),
    (dict(net=dict(block='plain'), dropout=.1),
     replace(SMALL, net=replace(SMALL.net, block='plain', dropout=.1))),
    (dict(schedule=lambda p: Schedule('linear', t_max=p.epochs)),
     phase(schedule=Schedule('linear', t_max=9)))])
def test_what_is_asked_for_and_nothing_else(changes, wanted):
    assert vary(SMALL, **changes) == wanted


@pytest.mark.parametrize('changes, why', [
    (dict(net='resnet18'), 'net=.resnet18.: give a NetSpec'), (dict(net=None), 'give a NetSpec'),
    (dict(net=dict(width=(8,))), 'field of the network .width.; did you mean width'),
    (dict(net=dict(dropout=.1), dropout=.2), 'net and dropout both say')])
def test_a_network_that_is_none(changes, why):
    with pytest.raises(InputError, match=why) as e: vary(SMALL, **changes)
    assert '\n' not in str(e.value)


def test_all_phases_are_changed():
    two = get_recipe('learning_too_deep', 'code')
    assert len(two.phases) > 1 and all(p.batch_size == 7 for p in vary(two, batch_size=7).phases)


def test_deeper_at_equal_parameters():
    deep = vary(SMALL, depth_factor=2).net
    assert deep.depths == (2, 2, 2) and deep.widths < SMALL.net.widths


@pytest.mark.parametrize(
    'changes, said',
    [(dict(batchsize=1), 'did you mean batch_size'),
     (dict(activation='gelu'), 'no field of a recipe'),
     (dict(name='mine'), 'no field of a recipe')])
def test_unknown_fields(changes, said):
    with pytest.raises(InputError, match=said): vary(SMALL, **changes)


def test_the_fields_are_those_of_its_network():
    assert vary(LAPTOP, activation='relu').net.activation == 'relu'
    with pytest.raises(InputError, match='NetSpec'): vary(QUICK, width_factor=2)
