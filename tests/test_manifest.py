"What a run is, and the three questions about two of them."
import copy
import hashlib
import json
from dataclasses import replace

import pytest
import torch

from cifar_nb.augment.ops import AlternatingFlip, Cutout
from cifar_nb.core import manifest as M
from cifar_nb.core.errors import InputError
from cifar_nb.core.names import renamed_recipe
from cifar_nb.data.cifar import CIFAR10, load, search_places, toy
from cifar_nb.recipes.spec import MOST, recipe_from_json, recipe_of, trained, trained_twin
from cifar_nb.teams.zoo import get_recipe, list_recipes
from cifar_nb.training.train import describe_images, planned

X, Y = toy(100)
QUICK = get_recipe('quick').with_epochs(2)
SETTINGS = dict(device='cpu', precision='fp32', kernels=False, data='toy')


def plan(recipe=QUICK, x=X, y=Y, **changes): return planned(recipe, x, y, **SETTINGS | changes)


BASE = plan()


def test_the_same_call_is_the_same_experiment_but_another_run():
    again = plan()
    assert (M.same_training(BASE, again) and M.same_experiment(BASE, again)
            and M.comparable(BASE, again))
    assert BASE['run'] != again['run'] and json.loads(json.dumps(BASE)) == BASE


OTHER = [('recipe', plan(QUICK.with_epochs(3))), ('recipe', plan(replace(QUICK, clip=1.))),
         ('images', plan(x=255 - X)), ('images', plan(y=Y.flip(0))),
         ('images', plan(x=X[:90], y=Y[:90])), ('held out', plan(holdout=10)),
         ('precision', plan(precision='bf16')), ('order', plan(precision='fp32 nchw'))]


@pytest.mark.parametrize('word, other', OTHER)
def test_whatever_decides_is_compared_and_named(word, other):
    assert (not M.same_training(BASE, other) and not M.same_experiment(BASE, other)
            and not M.comparable(BASE, other))
    assert any(word in said for said in M.differing(BASE, other)), M.differing(BASE, other)


def test_another_seed_is_comparable_only():
    other = plan(seed=1)
    assert (M.comparable(BASE, other) and not M.same_experiment(BASE, other)
            and not M.same_training(BASE, other))
    assert M.differing(BASE, other) == ['the seed']


def test_kernels_make_another_experiment_but_a_training_may_go_on_without_them():
    other = copy.deepcopy(BASE)
    other['sittings'][0]['kernels'] = ['winograd']
    assert (M.same_training(BASE, other) and not M.same_experiment(BASE, other)
            and not M.comparable(BASE, other))


@pytest.mark.parametrize('one, other, same', [
    (1, 2, False), (2, 2, True), (1, None, True), (M.UNKNOWN, 1, True), (8, 2, False)])
def test_figures_of_divided_batches_are_not_averaged_with_others(one, other, same):
    "Batch norm sees the part of one process: 32 images of 64 where there are two."
    a, b = (copy.deepcopy(BASE) for _ in range(2))
    for m, n in ((a, one), (b, other)):
        m['sittings'][0].pop('processes', None)
        if n is not None: m['sittings'][0]['processes'] = n
    assert M.comparable(a, b) == M.comparable(b, a) == same
    assert M.same_training(a, b)  # it may go on with more processes or fewer


def test_which_weights_are_kept_is_part_of_it():
    best, last = plan(holdout=10), plan(holdout=10, keep='last')
    assert (best['weights'], last['weights'], BASE['weights']) == (
        'best on validation', 'last', 'last') and not M.same_experiment(best, last)
    with pytest.raises(InputError, match='hold some out'): plan(keep='best on validation')


def test_machine_and_versions_do_not_count():
    other = copy.deepcopy(BASE)
    other['sittings'][0] |= dict(
        processor='another', threads=99, processes=2, versions=dict(torch='9'))
    assert (M.same_experiment(BASE, other)
            and M.machines([BASE, other]) == sorted({BASE['sittings'][0]['processor'], 'another'}))


def test_names_notes_titles_and_tta_do_not_count():
    twin = replace(QUICK, name='mine', variant='code', title='T', notes=('mended',), source='me',
                   tta_transforms=('flip',))
    assert M.same_experiment(BASE, plan(twin))


def test_unknown_equals_only_unknown():
    a, b = copy.deepcopy(BASE), copy.deepcopy(BASE)
    a['sittings'][0]['kernels'] = M.UNKNOWN
    assert not M.same_experiment(a, b)
    b['sittings'][0]['kernels'] = M.UNKNOWN
    assert M.same_experiment(a, b)
    a['recipe'] = M.UNKNOWN
    assert not M.same_training(a, b) and not M.is_known(a) and M.is_known(BASE)


def test_a_changed_default_changes_the_recipe_and_a_new_field_does_not():
    """Every default is spelled out: what today's default is does not matter to what was written
    yesterday."""
    cut = replace(QUICK, phases=tuple(replace(p, augment=(Cutout(),)) for p in QUICK.phases))
    d = trained(cut)
    assert d['phases'][0]['augment'][0] == dict(transform='Cutout', size=16, holes=1, fill=0.)
    older = copy.deepcopy(d)
    # as if the default had been 12 when it was written
    older['phases'][0]['augment'][0]['size'] = 12
    assert trained(older) != d
    # written before these fields were thought of
    del older['clip'], older['phases'][0]['micro_batch']
    older['phases'][0]['augment'][0]['size'] = 16
    assert trained(older) == trained(
        replace(cut, clip=0., phases=tuple(replace(p, micro_batch=0) for p in cut.phases)))


def test_sittings_are_written_where_the_machine_changed():
    machine = {k: v for k, v in BASE['sittings'][0].items() if k not in ('began', 'epoch')}
    assert M.with_sitting(BASE, 3, **machine) is BASE
    two = M.with_sitting(BASE, 3, **machine | dict(processor='another', kernels=['winograd']))
    assert ([s['epoch'] for s in two['sittings']] == [0, 3]
            and M.kernels_of(two) == [[], ['winograd']])
    # a mixture is neither the one nor the other
    assert M.same_training(BASE, two) and not M.same_experiment(BASE, two)


def test_whole_floats_are_integers():
    assert M.fingerprint([1, 2.0]) == M.fingerprint([1.0, 2]) != M.fingerprint([1, 2.5])


@pytest.mark.parametrize(
    'dtype', [torch.uint8, torch.int64, torch.float32, torch.bfloat16, torch.bool])
def test_a_fingerprint_sees_every_value_kind_and_shape(dtype):
    t = torch.tensor([[1, 0, 1], [0, 1, 1]]).to(dtype)
    want = hashlib.sha256(
        f'{dtype} (2, 3);'.encode() + t.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
    assert (M.tensors_fingerprint(t) == want != M.tensors_fingerprint(t.view(3, 2))
            and M.tensors_fingerprint(t.T) != want)
    assert M.tensors_fingerprint(t, t) != M.tensors_fingerprint(torch.cat([t, t]))
    u = t.clone(); u[1, 2] = 0
    assert M.tensors_fingerprint(u) != want


@pytest.mark.skipif(search_places(None) is None, reason='no CIFAR-10 here')
def test_cifar_10_is_known_by_what_it_is():
    for part in ('train', 'test'):
        assert describe_images(*load(part, say=str), 'anything') == dict(
            name='cifar10', images=50_000 if part == 'train' else 10_000, fingerprint=CIFAR10[part])


@pytest.mark.parametrize('r', list_recipes(), ids=lambda r: f'{r.name}-{r.variant}')
def test_a_manifest_gives_its_recipe_back(r):
    m = dict(recipe=json.loads(json.dumps(trained(r))), name=r.name, variant=r.variant)
    assert trained(recipe_of(m)) == trained(r) == trained_twin(m)['recipe']


def test_what_is_no_manifest_is_a_sentence(tmp_path):
    for text in ('{}', '[]', '{"schema": 1}', json.dumps(BASE | dict(sittings=[])), 'x'):
        (tmp_path / 'manifest.json').write_text(text, encoding='utf-8')
        with pytest.raises(InputError, match='manifest.json'):
            M.read_manifest(tmp_path / 'manifest.json')
    (tmp_path / 'manifest.json').write_text(json.dumps(BASE | dict(schema=99)), encoding='utf-8')
    with pytest.raises(InputError, match='later cifar_nb'):
        M.read_manifest(tmp_path / 'manifest.json')


@pytest.mark.parametrize('seed', [-1, 2 ** 32, 99999999999999999999, 1.5, 'one', True])
def test_a_seed_is_a_whole_number_that_fits(seed):
    with pytest.raises(InputError, match='seed'): plan(seed=seed)


def test_old_names_are_read_through_the_table():
    old = dict(name='a', net=dict(widths=[8], depths=[1], strides=[1]), views=['identity', 'flip'],
               ema=.9,
               phases=[
                   dict(epochs=2, hardest=[1, .5],
                        schedule=dict(shape='cosine', warmup=1, start=.2, t_max=1),
                        augment=[dict(op='Crop', padding=2),
                                 dict(op='Warp', ops=[dict(op='Rotation', degrees=3.)]),
                                 dict(op='OneOf', ops=[dict(op='MixUp')])])])
    r = recipe_from_json(json.dumps(old))
    p = r.phases[0]
    assert (r.tta_transforms, r.ema_warmup, p.keep_fraction) == (
        ('identity', 'flip'), False, (1, .5))
    assert (p.schedule.warmup_epochs, p.schedule.warmup_start_factor) == (1, .2)
    assert ([type(t).__name__ for t in p.augment] == ['RandomCrop', 'Warp', 'RandomChoice']
            and type(p.augment[1].transforms[0]).__name__ == 'RandomRotation')
    assert (recipe_from_json(r.to_json()) == r
            and not any(f'"{word}"' in r.to_json()
                        for word in ('views', 'hardest', 'warmup', 'start', 'op', 'ops', 'Crop')))
    assert renamed_recipe(json.loads(r.to_json())) == json.loads(r.to_json())


def test_plans_without_end_are_refused():
    with pytest.raises(InputError, match='up to'): QUICK.with_epochs(10 ** 9)
    with pytest.raises(InputError): replace(QUICK.phases[0], epochs=MOST + 1)
    assert AlternatingFlip().seed == 0


def test_a_fingerprint_is_the_sha256_of_sorted_json():
    "So it is the same in any order, in any process, and in the next release."
    want = hashlib.sha256(b'{"a": [1, 2.5], "b": {"c": null}}').hexdigest()
    assert M.fingerprint({'b': {'c': None}, 'a': (1.0, 2.5)}, 64) == want
    assert M.fingerprint({'a': [1, 2.5], 'b': {'c': None}}) == want[:16]


@pytest.mark.parametrize('sittings, told', [
    ([dict(processor='A')], 'A'), ([dict(processor='A'), dict(processor='A', kernels=[])], 'A'),
    ([dict(processor='A'), dict(processor='B'), dict(processor='A')], 'A, then B, then A'),
    ([dict(began='x')], 'unknown'), ([], 'unknown')])
def test_the_machines_of_a_run_one_after_the_other(sittings, told):
    from cifar_nb.core.manifest import in_turn
    assert in_turn(dict(sittings=sittings)) == told
