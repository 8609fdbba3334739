"""Properties of the operations that no single picture shows: shapes, dtypes, ranges, determinism,
the GPU's path, frequencies."""
import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as TF

import cifar_nb.augment.colour
import cifar_nb.augment.policies
from cifar_nb.augment import preview
from cifar_nb.augment.colour import (ColorJitter, GaussianBlur, PilBlur, RandomGrayscale,
                                     brightness, only)
from cifar_nb.augment.geometry import RandomAffine, RandomRotation, Warp
from cifar_nb.augment.ops import (TRANSFORMS, AlternatingFlip, Augment, CutMix, Cutout, MixUp,
                                  RandomChoice, RandomCrop, RandomErasing, RandomHorizontalFlip,
                                  RandomVerticalFlip, Resize, choose, cutmix, soft,
                                  transform_from_dict)
from cifar_nb.augment.policies import (CIFAR10_POLICY, KIND, LISTS, AugMix, AutoAugment,
                                       RandAugment, TrivialAugmentWide)
from cifar_nb.core.chance import within
from cifar_nb.core.errors import InputError

PLAIN = [RandomCrop(), RandomCrop(2, 'reflect'), RandomCrop(3, 'edge'), RandomHorizontalFlip(),
         RandomVerticalFlip(.5), Cutout(8, 2), RandomErasing(.5), ColorJitter(.3, .3, .3, .1),
         RandomGrayscale(.5), GaussianBlur(p=.5), PilBlur(), RandomRotation(20),
         RandomRotation(20, 'bilinear', .5), RandomAffine(20, (.1, .1), (.8, 1.2), (5., 5.)),
         Warp((RandomRotation(20), RandomHorizontalFlip(), RandomCrop())), AutoAugment(),
         RandAugment(), TrivialAugmentWide(), AugMix()]
MIXES = [MixUp(.2), MixUp(per='batch'), CutMix(), CutMix(per='batch'), RandomChoice(),
         RandomChoice(p=.5)]
quick = settings(max_examples=25, deadline=None)
named = dict(
    ids=lambda op: f'{type(op).__name__}{list(dataclasses.astuple(op)) if op in PLAIN[:3] else ""}')


def gen(seed=0): return torch.Generator().manual_seed(seed)


def pictures(n, h=32, w=32, seed=0, kind=torch.uint8):
    x = torch.randint(0, 256, (n, 3, h, w), generator=gen(seed), dtype=torch.uint8)
    return x if kind == torch.uint8 else (x/255).to(kind)


def run(op, xb, seed=0):
    return Augment([op]).apply(
        xb, torch.arange(len(xb)) % 10, gen(seed), index=torch.arange(len(xb)))


def masked(mask, f, xb, *args, own=False):
    "What `only` does on a device that must not be asked how many images are meant."
    return choose(mask.reshape(-1, *[1]*(xb.ndim-1)), f(xb, *args), xb)


@quick
@given(op=st.sampled_from(PLAIN), n=st.integers(0, 5), h=st.integers(8, 37), w=st.integers(8, 37),
       seed=st.integers(0, 2**20),
       kind=st.sampled_from([torch.uint8, torch.float32]))
def test_shape_dtype_range(op, n, h, w, seed, kind):
    xb = pictures(n, h, w, seed, kind)
    out, _ = run(op, xb, seed)
    assert out.shape == xb.shape and out.dtype == xb.dtype
    assert kind == torch.uint8 or not n or (out.min() >= 0 and out.max() <= 1)


@pytest.mark.parametrize('op', PLAIN + [AlternatingFlip()], **named)
def test_same_seed_same_pictures_and_the_input_is_left_alone(op):
    xb = pictures(40); before = xb.clone()
    assert torch.equal(run(op, xb, 3)[0], run(op, xb, 3)[0])
    assert torch.equal(xb, before)


@pytest.mark.parametrize('op', PLAIN, **named)
def test_memory_layout_does_not_matter(op):
    xb = pictures(20)
    odd = xb.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not odd.is_contiguous() and torch.equal(run(op, odd)[0], run(op, xb)[0])
    assert torch.equal(run(op, pictures(40)[::2])[0], run(op, pictures(40)[::2].contiguous())[0])


@pytest.mark.parametrize('op', [o for o in PLAIN if o != RandomHorizontalFlip()], **named)
def test_each_image_has_its_own_draw(op):
    same = pictures(1).expand(300, -1, -1, -1)
    assert len(run(op, same)[0].flatten(1).unique(dim=0)) >= (
        2 if isinstance(op, (RandomVerticalFlip, RandomGrayscale)) else 25)


def test_as_many_different_pictures_as_chance_allows():
    """300 draws from 81 crops, times 2 flips, meet 81(1-(80/81)^300) and 162(1-(161/162)^300) of
    them, give or take."""
    same = pictures(1).expand(300, -1, -1, -1)
    for ops, cells in ((RandomCrop(),), 81), ((RandomCrop(), RandomHorizontalFlip()), 162):
        met = [len(Augment(ops).apply(same, generator=gen(s))[0].flatten(1).unique(dim=0))
               for s in range(10)]
        expected = cells*(1-(1-1/cells)**300)
        assert abs(sum(met)/10 - expected) < 5*(cells*.25/10)**.5


@pytest.mark.parametrize('op', PLAIN, **named)
def test_floats_are_the_bytes(op):
    """The same draw on bytes and on the same picture as floats: equal, or a rounding apart where
    floats are interpolated."""
    xb = pictures(30)
    levels, floats = run(op, xb)[0], run(op, xb/255)[0]*255
    # a fill is a level, too
    assert (levels - floats).abs().max() <= (
        1.01 if 'bilinear' in str(op) else .501 if isinstance(op, RandomErasing) else 1e-3)


@pytest.mark.parametrize('op', [o for o in PLAIN if not isinstance(o, AugMix)], **named)
def test_the_gpu_path_gives_the_same_pictures(op, monkeypatch):
    xb = pictures(60); want = run(op, xb)[0]
    for module in cifar_nb.augment.colour, cifar_nb.augment.policies:
        monkeypatch.setattr(module, 'only', masked)
    assert torch.equal(run(op, xb)[0], want)


def test_where_nobody_may_look_the_same_images_are_changed():
    x = pictures(40, 8, 8)
    mask = torch.arange(40) % 3 == 0
    here = only(mask, brightness, x, torch.full((40,), .5))
    class Elsewhere(torch.Tensor):
        "A tensor that says it is on a GPU."
        device = property(lambda self: torch.device('cuda'))
    there = only(mask, lambda v, f: brightness(v.as_subclass(torch.Tensor), f),
                 x.as_subclass(Elsewhere), torch.full((40,), .5))
    assert torch.equal(there.as_subclass(torch.Tensor), here) and not torch.equal(here, x)


@pytest.mark.parametrize('op', PLAIN + MIXES, **named)
def test_nothing_waits_for_the_device(op):
    "On fake tensors of another device, whatever would have to look at a value raises."
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode(allow_non_fake_inputs=True):
        cifar_nb.augment.ops.constant.cache_clear()
        for f in (cifar_nb.augment.colour.hue_table, cifar_nb.augment.colour.hue_weights,
                  cifar_nb.augment.policies.compiled, cifar_nb.augment.policies.magnitudes):
            f.cache_clear()
        try:
            xb, yb = (torch.empty(64, 3, 32, 32, dtype=torch.uint8, device='meta'),
                      torch.empty(64, dtype=torch.int64, device='meta'))
            try: out = Augment([op])(xb, yb)
            except NotImplementedError as e:  # before PyTorch 2.7
                if '_standard_gamma' not in str(e): raise
                pytest.skip('this PyTorch has no gamma distribution on fake tensors')
            assert out[0].shape == xb.shape and out[0].device.type == 'meta'
        finally:
            for f in (cifar_nb.augment.ops.constant, cifar_nb.augment.colour.hue_table,
                      cifar_nb.augment.colour.hue_weights, cifar_nb.augment.policies.compiled,
                      cifar_nb.augment.policies.magnitudes):
                f.cache_clear()


@quick
@given(op=st.sampled_from(MIXES), n=st.integers(0, 6), seed=st.integers(0, 2**20))
def test_soft_labels_sum_to_one(op, n, seed):
    xb, yb = run(op, pictures(n, seed=seed), seed)
    assert (yb.shape == (n, 10) and torch.allclose(yb.sum(1), torch.ones(n)) and (yb >= 0).all()
            and xb.dtype == torch.uint8)


@quick
@given(lam=st.floats(0, 1), row=st.integers(0, 31), col=st.integers(0, 31))
def test_cutmix_labels_count_pixels(lam, row, col):
    black, white = (torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
                    torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    out, yb = cutmix(torch.cat([black, white]), soft(torch.tensor([0, 1])), torch.tensor([lam]),
                     torch.tensor([row]), torch.tensor([col]), torch.tensor([1, 0]))
    assert abs(yb[0, 1].item() - (out[0, 0] > 0).float().mean().item()) < 1e-6


@pytest.mark.parametrize('op', PLAIN + MIXES + [AlternatingFlip(3)], **named)
def test_json_and_back(op):
    assert transform_from_dict(json.loads(json.dumps(op.to_dict()))) == op
    assert hash(op) == hash(transform_from_dict(op.to_dict()))


@pytest.mark.parametrize('kind', [torch.uint8, torch.float32])
@pytest.mark.parametrize('n', [0, 1, 5])
def test_resize_follows_the_epochs(n, kind):
    xb = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8)
    xb = xb if kind == torch.uint8 else xb.float() / 255
    op = Resize((16, 24, 32))
    for epoch, side in enumerate((16, 24, 32, 32)):
        out = op(xb, epoch=epoch)
        assert out.shape == (n, 3, side, side) and out.dtype == kind
        if n and side != 32:
            assert (out.float() - TF.resize(xb, [side, side], antialias=True).float()).abs().max(
                ) <= (1 if kind == torch.uint8 else 1e-6)
    assert (torch.equal(op(xb, epoch=9), xb)
            and transform_from_dict(json.loads(json.dumps(op.to_dict()))) == op)


@pytest.mark.parametrize(
    'op', [AugMix(), RandAugment(), AutoAugment(), TrivialAugmentWide()],
    ids=lambda o: type(o).__name__)
def test_an_empty_batch_of_a_policy_stays_empty(op):
    for seed in range(3):
        assert op(torch.zeros(0, 3, 8, 8, dtype=torch.uint8),
                  torch.Generator().manual_seed(seed)).shape == (0, 3, 8, 8)


def test_every_operation_is_covered():
    tested = {type(o).__name__ for o in PLAIN + MIXES + [AlternatingFlip(), Resize()]}
    abstract = {'Transform', 'Mixing', 'Geometric', 'Policy'}
    assert {n for n, c in TRANSFORMS.items()
            if c.__module__.startswith('cifar_nb.')} - abstract == tested


@pytest.mark.parametrize('make, says', [
    (lambda: RandomCrop(-1), 'RandomCrop: padding=-1'),
    (lambda: Augment(['RandomHorizontalFlip']),
     "'RandomHorizontalFlip' does not describe an operation"),
    (lambda: ColorJitter('strong'), "brightness='strong'"),
    (lambda: RandomErasing(area=.5), 'area=0.5'),
    (lambda: RandomAffine(translate=.1), 'a pair (x, y)'),
    (lambda: RandomAffine(shear=(95, 0)), 'shear=95'),
    (lambda: RandomCrop(mode='mirror'), "mode='mirror'"),
    (lambda: RandomHorizontalFlip(2), 'p=2'),
    (lambda: RandomHorizontalFlip('x'), "p='x'"),
    (lambda: Cutout(0), 'size=0'), (lambda: RandomErasing(area=(.5, 2)), 'area'),
    (lambda: ColorJitter(hue=1), 'hue=1'),
    (lambda: RandomRotation(-1), 'degrees=-1'),
    (lambda: MixUp(0), 'alpha=0'), (lambda: CutMix(per='epoch'), "per='epoch'"),
    (lambda: AutoAugment('cifar100'), "policy='cifar100'"),
    (lambda: AutoAugment(((('Rotat', .5, 1),),)), "did you mean 'Rotate'"),
    (lambda: AutoAugment(((('Rotate', 5, 1),),)),
     'probability=5'),
    (lambda: AutoAugment(((('Rotate', .5),),)), 'must be (kind, probability, magnitude)'),
    (lambda: RandAugment(magnitude=31), 'magnitude=31'),
    (lambda: AugMix(severity=11), 'severity=11'),
    (lambda: transform_from_dict({'transform': 'Flipp'}),
     "did you mean 'RandomHorizontalFlip'"),
    (lambda: transform_from_dict({'transform': 'RandomHorizontalFlip', 'q': 1}),
     'must be one of p'), (lambda: RandomCrop()(pictures(2).float()), 'must stay in 0 to 1'),
    (lambda: RandomCrop()(pictures(2)[:, :1]), 'N x 3 x H x W'),
    (lambda: RandomCrop()(pictures(2).long()), 'int64'),
    (lambda: CutMix()(pictures(2), torch.zeros(3).long()),
     '3 labels'),
    (lambda: Augment([MixUp()])(pictures(2)), 'no labels'),
    (lambda: AlternatingFlip()(pictures(2)), 'index=None'),
    (lambda: AlternatingFlip(1.5), 'seed=1.5'),
    (lambda: AlternatingFlip(2**32), 'from -4294967296 to'),
    (lambda: Cutout(fill=2.), 'fill=2.0'), (lambda: Cutout(fill=-1.), 'fill=-1.0'),
    (lambda: Cutout(fill='red'), "fill='red'"), (lambda: Cutout(fill=math.nan), 'fill=nan'),
    (lambda: transform_from_dict({'transform': 'RandomErasing', 'fill': [1, 2]}), 'fill=(1, 2)'),
    (lambda: RandomErasing(fill=(0, 0, 1.5)), 'a number from 0 to 1, or three of them'),
    (lambda: RandomRotation(fill=255), 'RandomRotation: fill=255'),
    (lambda: RandomAffine(fill=255), 'fill=255'), (lambda: Warp(fill=255), 'fill=255'),
    (lambda: AutoAugment(fill=255), 'fill=255'), (lambda: RandAugment(fill=255), 'fill=255'),
    (lambda: TrivialAugmentWide(fill=255), 'fill=255'), (lambda: AugMix(fill=255), 'fill=255'),
    (lambda: RandAugment(bins=10**9), 'a whole number from 2 to 1000'),
    (lambda: TrivialAugmentWide(10**9), 'bins=1000000000'),
    (lambda: RandAugment(10**9), 'num_ops='), (lambda: AugMix(width=10**9), 'width='),
    (lambda: AugMix(depth=10**9), 'depth='),
    (lambda: RandomCrop(10**9), 'a whole number from 0 to 1024'),
    (lambda: Cutout(10**9), 'size='), (lambda: Cutout(holes=10**9), 'holes='),
    (lambda: Resize([10**7]), 'a list of whole numbers from 8 to 1024')])
def test_mistakes_are_told_in_one_sentence(make, says):
    with pytest.raises(InputError) as e: make()
    assert says in str(e.value) and '\n' not in str(e.value)


def test_frequencies():
    n = 100_000
    dot = torch.zeros(1, 3, 2, 2, dtype=torch.uint8); dot[..., 0] = 1
    many = dot.expand(n, -1, -1, -1)
    assert within(RandomHorizontalFlip(.3)(many, gen())[:, 0, 0, 1].sum(), n, .3)
    assert within(RandomVerticalFlip(.05)(many.transpose(2, 3), gen())[:, 0, 1, 0].sum(), n, .05)
    kinds, sizes = AutoAugment().draw(n, 32, 32, gen())
    assert within(((kinds[:, 0] == KIND['Posterize']) | (kinds[:, 1] == KIND['Posterize'])).sum(),
                  n, .3/25)
    shear = sizes[:, 0][kinds[:, 0] == KIND['ShearY']]
    assert within((shear > 0).sum(), len(shear), .5)
    sure = AutoAugment(tuple(((k, 1., m),) for s in CIFAR10_POLICY for k, _, m in s[:1])).draw(
        n, 32, 32, gen())[0]
    for k in {s[0][0] for s in CIFAR10_POLICY}:
        assert within((sure == KIND[k]).sum(), n, sum(s[0][0] == k for s in CIFAR10_POLICY)/25)


def test_erased_areas_follow_torchvision():
    "Areas and shares of erased images against 4,000 draws of torchvision's own rule."
    from torchvision.transforms import RandomErasing as Theirs
    torch.manual_seed(0)
    theirs = torch.tensor(
        [
            h*w for _, _, h, w, _ in (
                Theirs.get_params(torch.zeros(3, 32, 32), (.02, .33), (.3, 3.3), [0.])
                for _ in range(4000))])/1024
    ours = (
        RandomErasing(1., fill=(1., 1., 1.))(
            torch.zeros(20_000, 3, 32, 32, dtype=torch.uint8), gen())[:, 0] > 0).float().mean(
                (1, 2))
    assert abs(ours.mean() - theirs.mean()) < 5*theirs.std()/4000**.5
    # the quantile itself is known to 1/60
    for q in .1, .5, .9: assert within((ours <= theirs.quantile(q)).sum(), len(ours), q, 15)
    some = RandomErasing(.2, fill=(1., 1., 1.))(
        torch.zeros(20_000, 3, 32, 32, dtype=torch.uint8), gen()).flatten(1).any(1).sum()
    assert within(some, 20_000, .2)


def test_alternating_flip_shows_each_image_both_ways():
    xb, index = pictures(500), torch.randperm(50_000, generator=gen())[:500]
    even, odd, later = (AlternatingFlip(1)(xb, epoch=e, index=index) for e in (0, 1, 2))
    assert torch.equal(even.flip(3), odd) and torch.equal(even, later)
    turned = torch.stack(
        [AlternatingFlip(s)(xb, index=index).ne(xb).flatten(1).any(1) for s in range(200)]).sum(0)
    assert within(turned, 200, .5, 6)


def test_the_reports_lists_run_and_give_a_normalized_batch():
    for name, ops in LISTS.items():
        xb = Augment(ops)(pictures(8), generator=gen(), dtype=torch.bfloat16)
        assert (xb.dtype == torch.bfloat16
                and xb.is_contiguous(memory_format=torch.channels_last)), (name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('op', PLAIN, **named)
def test_on_a_gpu(op):
    xb = pictures(300).cuda()
    for _ in range(2): Augment([op])(xb)
    torch.cuda.set_sync_debug_mode('error')
    try: out = Augment([op]).apply(xb, generator=torch.Generator('cuda').manual_seed(0))[0]
    finally: torch.cuda.set_sync_debug_mode('default')
    assert torch.equal(
        out, Augment([op]).apply(
            xb, generator=torch.Generator('cuda').manual_seed(0))[0]) and out.dtype == torch.uint8


def test_a_class_of_ones_own_harms_nobody():
    """In a notebook: one of a new name can be written down and read, one of a known name cannot be
    taken for it."""
    from dataclasses import dataclass

    from cifar_nb.augment.ops import TRANSFORMS, Cutout, Transform, transform_from_dict
    known = dict(TRANSFORMS)
    def own(name, default, call):
        cls = type(Transform)(name, (Transform,),
                              dict(__annotations__=dict(size=int), size=default, apply=call,
                                   __module__='__main__'))
        return dataclass(frozen=True)(cls)
    try:
        mine = own('Mine', 3, lambda self, xb, generator=None: xb)
        assert transform_from_dict(mine(4).to_dict()) == mine(4)
        # the cell was run again
        assert own('Mine', 5, lambda self, xb, generator=None: xb)().to_dict() == {
            'transform': 'Mine', 'size': 5}
        other = own('Cutout', 3, lambda self, xb, generator=None: xb)
        assert (TRANSFORMS['Cutout'] is Cutout
                and transform_from_dict({'transform': 'Cutout', 'size': 8}) == Cutout(8))
        with pytest.raises(InputError, match='another operation is called Cutout'):
            other().to_dict()
    finally:
        TRANSFORMS.clear()
        TRANSFORMS.update(known)


def test_a_chapter_run_as_a_notebook_is_written_like_its_export(tmp_path):
    """Its classes are not the package's, and may be written down as those, as long as nothing in
    them was changed."""
    code = Path(cifar_nb.augment.colour.__file__).read_text(encoding='utf-8').replace(
        'from .', 'from cifar_nb.augment.').replace('augment..', '')
    for old, new, same in (('', '', True), ('class RandomGrayscale', 'class RandomGrayscale', True),
                           ('p: float = .1', 'p: float = .3', False)):
        assert not old or old in code, old
        script = tmp_path / 'chapter.py'
        script.write_text(code.replace(old, new) + '\nprint(RandomGrayscale().to_dict())\n'
                          if old else code + '\nprint(RandomGrayscale().to_dict())\n',
                          encoding='utf-8')
        p = subprocess.run([sys.executable, str(script)], capture_output=True, encoding='utf-8',
                           env=os.environ
                           | {'PYTHONPATH': str(Path(cifar_nb.__file__).parent.parent)})
        assert (p.returncode == 0) == same, p.stderr
        assert same or 'another operation is called RandomGrayscale' in p.stderr


def test_every_stop_of_a_slider_gives_another_picture():
    "And where it counts in whole numbers, none is left out between two stops."
    x = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8,
                      generator=torch.Generator().manual_seed(0))
    def shown(name, s): return preview.draws(x, preview.at_strength(name, s), seed=1)
    for name, (_, last) in preview.STEPS.items():
        at = preview.positions(name)
        pictures = [shown(name, s) for s in at]
        assert not any(torch.equal(a, b) for a, b in zip(pictures, pictures[1:])), name
        if name in ('RandomCrop', 'Cutout', 'RandAugment', 'AugMix'):
            found = [preview.at_strength(name, s) for s in at]
            assert all(preview.at_strength(name, i/720) in found for i in range(721)), name
    for name in 'AutoContrast', 'Equalize', 'Invert':
        assert torch.equal(shown(name, 0.), shown(name, 1.)) and not preview.has_strength(name)
