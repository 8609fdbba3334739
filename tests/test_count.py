"""Parameters and multiply-adds by a formula, against networks that are built, and what a training
costs."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_nb.augment.ops import Resize
from cifar_nb.models.airbench import FastSpec
from cifar_nb.models.count import counts_of, deeper, scaled
from cifar_nb.models.resnet import NetSpec, count_macs, count_parameters
from cifar_nb.recipes.cost import training_cost
from cifar_nb.recipes.spec import Phase, Recipe
from cifar_nb.teams.zoo import list_recipes


def by_building(spec, size=32):
    net = spec.build()
    return count_parameters(net), count_macs(net, size)


@pytest.mark.parametrize(
    'r', {r.net: r for r in list_recipes()}.values(), ids=lambda r: f'{r.name}-{r.variant}')
def test_of_every_recipe(r):
    for size in (32, 20): assert counts_of(r.net, size) == by_building(r.net, size)


stages = st.integers(1, 3).flatmap(
    lambda n: st.tuples(
        *[st.lists(st.integers(a, b), min_size=n, max_size=n)
          for a, b in ((4, 9), (0, 2), (1, 3))]))


@settings(max_examples=60, deadline=None)
@given(stages, st.integers(0, 6), st.sampled_from(('basic', 'plain', 'preact')),
       st.sampled_from((1, 3)), st.sampled_from((0, 2, 4)), st.sampled_from(('default', 'kaiming')),
       st.integers(7, 33))
def test_of_any_resnet(stages, stem, block, kernel, se, init, size):
    widths, depths, strides = stages
    if not max(depths): depths[0] = 1
    spec = NetSpec(widths, depths, strides, stem=stem, block=block, shortcut_kernel=kernel, se=se,
                   init=init)
    assert counts_of(spec, size) == by_building(spec, size)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=3), st.sampled_from((2, 3)),
       st.integers(1, 4), st.booleans(), st.integers(16, 33))
def test_of_any_pooled_network(widths, depth, whiten, whitened, size):
    spec = FastSpec(widths, depth, whiten=whiten, whitened=whitened)
    assert counts_of(spec, size) == by_building(spec, size)


def test_resnet18_by_hand():
    assert counts_of(NetSpec()) == (11_173_962, 555_422_720)


def test_wider_and_deeper():
    net = NetSpec((16, 32), (1, 2), (1, 2), stem=8)
    assert (scaled(net, .5).widths == (8, 16) and scaled(net, .5).stem == 4
            and scaled(net, 1e-9).widths == (1, 1))
    deep = deeper(net, 3)
    assert (deep.depths == (3, 6)
            and .9 < counts_of(deep).parameters / counts_of(net).parameters <= 1)


def test_the_cost_of_a_training_by_hand():
    "Two phases; the second takes half of its images, at half the side in its first epoch."
    net = NetSpec((8,), (1,), (1,))
    r = Recipe('a', net, (Phase(1), Phase(2, keep_fraction=(.5,), augment=(Resize((16, 32)),))))
    big, small = count_macs(net.build(), 32), count_macs(net.build(), 16)
    assert training_cost(r, 1000) == pytest.approx(6e-15 * (1000 * big + 500 * small + 500 * big))
