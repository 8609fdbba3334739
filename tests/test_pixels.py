"""What operations and views do to pixels, measured in the pictures that come out.

Each test looks at the output alone, or at what Pillow, torchvision or a paper's own lines make of
the same picture.
"""
import itertools

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageFilter
from scipy import stats
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from cifar_nb.augment.colour import ColorJitter, GaussianBlur, PilBlur
from cifar_nb.augment.geometry import (RandomAffine, RandomRotation, affine_matrix, bilinear,
                                       matrix)
from cifar_nb.augment.ops import (Augment, CutMix, Cutout, MixUp, RandomChoice, RandomCrop,
                                  RandomHorizontalFlip, Resize, cutmix, erasing_boxes, mixup, pad,
                                  soft)
from cifar_nb.augment.policies import (KINDS, AugMix, AutoAugment, RandAugment,
                                       TrivialAugmentWide)
from cifar_nb.core.chance import within
from cifar_nb.delivery.session import mean_of_members
from cifar_nb.evaluation.tta import VIEWS, mean_of_views, view, zoom

COLOURS = torch.randperm(256, generator=torch.Generator().manual_seed(3))[:30].view(10, 3) / 255
CLASSES = torch.arange(10)


def gen(seed=0): return torch.Generator().manual_seed(seed)


def plain_pictures(n=10, side=32):
    "Pictures of one colour each, that of their class; float, so that nothing is rounded."
    labels = torch.arange(n) % 10
    return COLOURS[labels].view(n, 3, 1, 1).expand(n, 3, side, side).clone(), labels


def pictures(n=4, seed=0):
    "Smooth noise, uint8."
    x = torch.rand(n, 3, 12, 12, generator=gen(seed)) * 255
    return TF.resize(x, [32, 32]).round().to(torch.uint8)


# Labels of mixed pictures

def share_of_colours(picture):
    "For a picture of several plain colours the share of its pixels that has each class's colour."
    same = (picture[None] - COLOURS.view(10, 3, 1, 1)).abs().amax(1) < 1e-6
    assert same.any(0).all(), 'a colour that no class has'
    return same.float().mean((1, 2))


def blend_of_colours(picture, own):
    "For a plain picture between the colours of the class `own` and one other: the share of each."
    colour = picture[:, 0, 0]
    assert (picture - colour.view(3, 1, 1)).abs().max() < 1e-6, 'not plain'
    best = None
    for other in range(10):
        step = COLOURS[own] - COLOURS[other]
        w = ((colour - COLOURS[other]) @ step / (step @ step).clamp(min=1e-12)).clamp(0, 1).item()
        off = (w * COLOURS[own] + (1 - w) * COLOURS[other] - colour).abs().max().item()
        if best is None or off < best[0]: best = off, other, w
    off, other, w = best
    assert off < 1e-5, 'between no two classes'
    out = torch.zeros(10)
    out[own] += w
    out[other] += 1 - w
    return out


MEASURES = {MixUp: lambda im, own: blend_of_colours(im, own),
            CutMix: lambda im, own: share_of_colours(im)}


@pytest.mark.parametrize('per', ['image', 'batch'])
@pytest.mark.parametrize('op', MEASURES)
def test_a_label_is_what_can_be_seen(op, per):
    mixed = 0
    for seed in range(6):
        x, y = plain_pictures()
        out, labels = op(alpha=1., per=per)(x, y, gen(seed))
        seen = torch.stack([MEASURES[op](im, k) for k, im in enumerate(out)])
        torch.testing.assert_close(labels, seen, rtol=0, atol=2e-5)
        mixed += (labels.amax(1) < .99).sum()
        own = labels[CLASSES, CLASSES][labels.amax(1) < .999]
        if per == 'batch' and op is MixUp: assert own.max() - own.min() < 1e-5
    assert mixed > 20


@pytest.mark.parametrize('op', MEASURES)
def test_bytes_are_mixed_as_floats_are(op):
    x, y = plain_pictures()
    out, labels = op()((x * 255).round().byte(), y, gen(5))
    want, same = op()(x, y, gen(5))
    assert torch.equal(labels, same) and (out.float() - want * 255).abs().max() <= .501


@pytest.mark.parametrize('alpha', [.2, 1., 4.])
def test_the_blend_is_drawn_from_beta(alpha):
    "Told by the brightness of black and white pictures, each with a partner of the other kind."
    y = torch.arange(4000) % 2
    x = y.float().view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    out, labels = MixUp(alpha=alpha)(x, y, gen(1))
    own = labels.gather(1, y[:, None])[:, 0]
    mixed = (own > 0) & (own < 1)
    seen = torch.where(y == 1, out[:, 0, 0, 0], 1 - out[:, 0, 0, 0])
    torch.testing.assert_close(own, seen, rtol=0, atol=1e-6)
    assert within(mixed.sum(), 4000, .5)
    assert stats.kstest(own[mixed].numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def rand_bbox(size, lam, cx, cy):
    "The box of CutMix's authors (Yun et al. 2019), rows and columns."
    cut = np.sqrt(1. - lam)
    half = int(size * cut) // 2
    return [np.clip(v, 0, size) for v in (cx - half, cx + half, cy - half, cy + half)]


BOXES = [(.3, 10, 20), (.75, 0, 31), (.9, 31, 0), (.01, 16, 16), (1., 5, 5)]


@pytest.mark.parametrize('lam, row, col', BOXES)
def test_the_box_of_cutmix_is_the_authors(lam, row, col):
    x = torch.zeros(2, 3, 32, 32); x[1] = 1
    out, _ = cutmix(x, soft(torch.tensor([0, 1])), torch.tensor([lam] * 2), torch.tensor([row] * 2),
                    torch.tensor([col] * 2), torch.tensor([1, 0]))
    top, bottom, left, right = rand_bbox(32, np.float32(lam), row, col)
    want = torch.zeros(32, 32); want[top:bottom, left:right] = 1
    assert torch.equal(out[0, 0], want) and torch.equal(out[1, 0], 1 - want)


@pytest.mark.parametrize('alpha', [.5, 2.])
def test_the_boxes_are_as_large_as_the_authors(alpha):
    x = torch.arange(2.).repeat(2000).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    out, _ = CutMix(alpha=alpha)(x, torch.zeros(4000, dtype=torch.int64), gen(3))
    pasted = (out[:, 0] != x[:, 0]).float().mean((1, 2)).numpy()
    rng = np.random.default_rng(0)
    def area(lam, cx, cy):
        top, bottom, left, right = rand_bbox(32, lam, cx, cy)
        return (bottom - top) * (right - left) / 1024
    draws = rng.beta(alpha, alpha, 4000), *rng.integers(0, 32, (2, 4000))
    wanted = np.array([area(*d) for d in zip(*draws)])
    assert stats.ks_2samp(pasted[pasted > 0], wanted[wanted > 0]).pvalue > 1e-3


def test_mixup_by_hand():
    x = torch.tensor([100, 200], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    y = soft(torch.tensor([0, 1]))
    out, labels = mixup(x, y, torch.tensor([.25, .9]), torch.tensor([1, 0]))
    assert out[:, 0, 0, 0].tolist() == [175, 190]  # a quarter of 100 and three of 200; 0.9 of 200
    assert labels[:, :2].tolist() == [pytest.approx([.25, .75]), pytest.approx([.1, .9])]


def test_a_choice_mixes_a_batch_in_one_way_or_not_at_all():
    kinds = {'MixUp': 0, 'CutMix': 0, 'none': 0}
    for seed in range(300):
        x, y = plain_pictures()
        out, labels = RandomChoice((MixUp(), CutMix()), p=.8)(x, y, gen(seed))
        moved = (out - x).abs().flatten(1).amax(1) > 1e-6
        plain = out.flatten(2).std(2).amax(1) < 1e-6
        kind = 'none' if not moved.any() else 'MixUp' if plain.all() else 'CutMix'
        kinds[kind] += 1
        if kind == 'none': assert torch.equal(labels, torch.eye(10))
        elif seed < 60:
            measure = MEASURES[MixUp if kind == 'MixUp' else CutMix]
            seen = torch.stack([measure(im, k) for k, im in enumerate(out)])
            torch.testing.assert_close(labels, seen, rtol=0, atol=2e-5)
    assert all(within(kinds[k], 300, p) for k, p in (('none', .2), ('MixUp', .4), ('CutMix', .4)))


# Holes

@pytest.mark.parametrize('size', [1, 4, 5, 16])
def test_a_hole_is_centred_on_any_pixel(size):
    """Each row is covered as often as its distance from a uniform centre says, up to the border
    (DeVries and Taylor 2017: from centre - size // 2 up to centre + size // 2)."""
    n = 20_000
    out = Cutout(size)(torch.full((n, 3, 32, 32), 255, dtype=torch.uint8), gen(2))
    hole = (out == 0).all(1)
    assert torch.equal(hole, (out == 0).any(1)) and torch.equal(hole, out[:, 0] != 255)
    reach = range(-(size // 2), size - size // 2)  # about the centre
    wanted = torch.tensor([sum(0 <= r - d < 32 for d in reach) / 32 for r in range(32)])
    for counts in (hole.any(2).sum(0), hole.any(1).sum(0)):
        assert all(within(c, n, p.item()) for c, p in zip(counts, wanted))
    rows, cols = hole.any(2).sum(1), hole.any(1).sum(1)
    assert (hole.sum((1, 2)) == rows * cols).all() and rows.max() == cols.max() == size


def test_two_holes_and_their_fill():
    out = Cutout(2, holes=2, fill=.4)(torch.full((5000, 3, 32, 32), 255, dtype=torch.uint8), gen())
    assert set(out.unique().tolist()) == {102, 255}
    covered = (out[:, 0] == 102).sum((1, 2))
    assert covered.max() == 8 and (covered > 4).float().mean() > .9


# Crops and flips

def test_crops_come_from_every_place_equally():
    "A picture of its own coordinates: where a crop begins can be read off its middle."
    n, row = 20_000, torch.arange(32)
    x = torch.stack([row[:, None].expand(32, 32), row.expand(32, 32), torch.zeros(32, 32)]).byte()
    out = RandomCrop(2)(x.expand(n, -1, -1, -1), gen(4))
    dy, dx = (out[:, k, 16, 16].int() - 16 for k in (0, 1))
    for d in (dy, dx): assert all(within((d == k).sum(), n, 1 / 5) for k in range(-2, 3))
    assert within(((dy == 2) & (dx == -2)).sum(), n, 1 / 25)
    moved = x[:, 2:, :30]  # down by two rows, left by two columns
    first = ((dy == 2) & (dx == -2)).nonzero()[0, 0]
    assert torch.equal(out[first][:, :30, 2:], moved) and not out[first][:, 30:].any()


def test_a_flip_turns_left_and_right():
    x = torch.arange(32).expand(200, 3, 32, 32).byte()
    out = RandomHorizontalFlip(.5)(x, gen())
    turned = out[:, 0, 0, 0] == 31
    assert within(turned.sum(), 200, .5)
    assert torch.equal(out[turned], x[turned].flip(3)) and torch.equal(out[~turned], x[~turned])


# Colours

def test_the_order_of_a_jitter_is_any_of_24(monkeypatch):
    "With fixed factors the pictures are those of torchvision on Pillow images, all orders alike."
    n, factors = 4800, (.6, 1.5, 1.4, .2)
    fixed = torch.tensor(factors)[:, None]
    monkeypatch.setattr(ColorJitter, 'magnitudes', lambda self, n, *place: fixed.expand(4, n))
    image = pictures(1, seed=7)[:, :, :8, :8]
    steps = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]
    wanted = {}
    for order in itertools.permutations(range(4)):
        im = TF.to_pil_image(image[0])
        for k in order: im = steps[k](im, factors[k])
        key = np.asarray(im).tobytes()
        wanted[key] = wanted.get(key, 0) + 1
    assert len(wanted) > 12
    out = ColorJitter(.5, .5, .5, .3)(image.expand(n, -1, -1, -1), gen(1)).permute(0, 2, 3, 1)
    found = {}
    for im in out: found[im.numpy().tobytes()] = found.get(im.numpy().tobytes(), 0) + 1
    assert set(found) == set(wanted)
    for key, orders in wanted.items(): assert within(found[key], n, orders / 24)


POLICIES = {'RandAugment': (RandAugment(), (31, (32, 32))),
            'TrivialAugmentWide': (TrivialAugmentWide(), (31,))}


@pytest.mark.parametrize('name', POLICIES)
def test_magnitudes_are_torchvisions(name):
    "The kinds that are drawn, their magnitudes, and which of them have a sign."
    op, place = POLICIES[name]
    theirs = getattr(torchvision.transforms, name)()._augmentation_space(*place)
    kinds, sizes = op.draw(30_000, 32, 32, gen())
    assert {KINDS[k] for k in kinds.unique().tolist()} == set(theirs)
    for kind, (values, signed) in theirs.items():
        if not values.ndim: continue  # has no magnitude
        got = sizes[kinds == KINDS.index(kind)]
        wanted = values[[op.magnitude]] if name == 'RandAugment' else values.unique()
        assert got.abs().unique().tolist() == pytest.approx(wanted.tolist(), abs=1e-5), kind
        assert (within((got < 0).sum(), (got != 0).sum(), .5) if signed else (got >= 0).all()), kind


# Sizes

@pytest.mark.parametrize('side', [8, 12, 16, 24, 28, 40])
def test_resized_as_pillow_does(side):
    x = pictures(3, seed=side)
    ours = Resize((side,))(x)
    for im, out in zip(x, ours):
        pil = Image.fromarray(im.permute(1, 2, 0).numpy()).resize((side, side), Image.BILINEAR)
        theirs = torch.from_numpy(np.array(pil)).permute(2, 0, 1)
        assert (out.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize('size', [20, 28, 32, 36, 44, 60])
def test_zoomed_as_pillow_does(size):
    "The middle square, or the picture with a mirrored border; made smaller it is averaged."
    x, m = pictures(3, seed=size), max(0, (size - 32) // 2)
    for im, out in zip(x, zoom(x, size)):
        square = np.pad(im.permute(1, 2, 0).numpy(), ((m, m), (m, m), (0, 0)), 'reflect')
        if size < 32: square = square[(32 - size) // 2:, (32 - size) // 2:][:size, :size]
        pil = Image.fromarray(square).resize((32, 32), Image.BILINEAR)
        theirs = torch.from_numpy(np.array(pil)).permute(2, 0, 1)
        assert (out.int() - theirs.int()).abs().max() <= 1


def test_stripes_become_grey_when_they_are_made_smaller():
    "What is left of one-pixel stripes at half the size is their mean, not one stripe of two."
    x = torch.zeros(1, 3, 32, 32, dtype=torch.uint8); x[..., ::2] = 200
    small = Resize((16,))(x)[..., 2:-2]
    assert (small.int() - 100).abs().max() <= 1
    assert zoom(x, 62)[..., 4:-4].float().std() < 30 < x.float().std()


# Views

def test_views_move_the_way_they_are_called():
    "A bright dot in the dark, and where it goes."
    x = torch.zeros(1, 3, 32, 32, dtype=torch.uint8); x[..., 10, 20] = 255
    def dot(name): return divmod(view(x, name)[0, 0].flatten().argmax().item(), 32)
    moved = {'identity': (10, 20), 'left': (10, 19), 'right': (10, 21), 'up': (9, 20),
             'down': (11, 20), 'flip': (10, 11), 'vflip': (21, 20), 'centre crop': (10, 20),
             'up+left': (9, 19), 'down+right+flip': (11, 10), 'blur': (10, 20),
             'colour blur': (10, 20)}
    assert {name: dot(name) for name in moved} == moved


CORNERS = [('top left', 0, 0), ('top right', 0, 4), ('bottom left', 4, 0), ('bottom right', 4, 4),
           ('zoom in', 2, 2)]


@pytest.mark.parametrize('name, top, left', CORNERS)
def test_the_corners_are_where_they_are_called(name, top, left):
    x = pictures(2, seed=1)
    theirs = TF.resized_crop(x.float(), top, left, 28, 28, [32, 32], antialias=True)
    assert (VIEWS[name](x).float() - theirs).abs().max() <= .51


def test_a_shift_mirrors_the_border():
    x = pictures(1)
    left = view(x, 'left')
    assert torch.equal(left[..., -1], x[..., 30]) and torch.equal(left[..., :-1], x[..., 1:])
    assert torch.equal(view(x, 'down')[..., 0, :], x[..., 1, :])


# Means of answers

def reference(answers, weights):
    "log of the weighted mean of the probabilities, in float64."
    a = answers.double()
    logp = a - torch.logsumexp(a, -1, keepdim=True)
    w = weights.double() / weights.double().sum()
    return torch.logsumexp(logp + w.log().view(-1, 1, 1), 0)


@pytest.mark.parametrize('gap', [1, 30, 100, 200, 1000])
@pytest.mark.parametrize('weights', [None, (1., 2., 3.), (1., 0., 1.)])
def test_a_mean_of_probabilities_stays_finite(gap, weights):
    "Sure answers: the class that nobody names has a probability below the smallest float32."
    answers = torch.randn(3, 6, 10, generator=gen())
    answers[..., 0] += gap
    w = torch.tensor(weights or (1., 1., 1.))
    got = mean_of_views(answers, weights, mean='probabilities')
    assert got.isfinite().all() and got.dtype == torch.float32
    torch.testing.assert_close(got.double(), reference(answers, w), rtol=1e-5, atol=1e-4)
    assert torch.nn.functional.cross_entropy(got, torch.full((6,), 7)).isfinite()
    if weights is None:
        got = mean_of_members(list(answers))
        torch.testing.assert_close(got.double(), reference(answers, w), rtol=1e-5, atol=1e-4)


def test_a_mean_of_logits_by_hand():
    answers = torch.tensor([[[1., 3.]], [[5., -1.]]])
    assert mean_of_views(answers).tolist() == [[3., 1.]]
    assert mean_of_views(answers, (3, 1)).tolist() == [[2., 2.]]


def test_members_that_disagree_are_averaged_as_probabilities():
    "A sure member and an unsure one: the mean of the logits would say something else."
    sure, unsure = torch.tensor([[9., 0., 0.]]), torch.tensor([[0., 1., 0.]])
    p = (sure.softmax(1) + unsure.softmax(1)) / 2
    assert mean_of_members([sure, unsure]).softmax(1).tolist()[0] == pytest.approx(
        p.tolist()[0], abs=1e-6)


def test_augment_normalizes_with_its_own_numbers():
    x = pictures(2)
    got = Augment((), (.1, .2, .3), (.4, .5, .6))(x)
    assert torch.allclose(got, TF.normalize(x / 255, (.1, .2, .3), (.4, .5, .6)), atol=1e-6)


# Draws, and what is resampled

def test_a_jitter_draws_what_it_states():
    m = ColorJitter(.3, .4, 1.5, .1).magnitudes(20_000, gen(), 'cpu')
    assert m.amin(1).tolist() == pytest.approx([.7, .6, 0., -.1], abs=2e-3)
    assert m.amax(1).tolist() == pytest.approx([1.3, 1.4, 2.5, .1], abs=2e-3)


def test_moves_are_drawn_from_what_is_stated():
    n, m = 20_000, matrix(RandomRotation(20.), 20_000, 32, 32, gen())
    angle = torch.atan2(m[:, 1, 0], m[:, 0, 0]).rad2deg()
    assert (angle.min(), angle.max()) == pytest.approx((-20, 20), abs=.02)
    m = matrix(RandomAffine(translate=(.1, .25)), n, 32, 32, gen())
    assert sorted(set(m[:, 0, 2].tolist())) == [*range(-3, 4)]
    assert sorted(set(m[:, 1, 2].tolist())) == [*range(-8, 9)]
    m = matrix(RandomAffine(scale=(.8, 1.5)), n, 32, 32, gen())
    assert (1 / m[:, 0, 0]).aminmax() == pytest.approx((.8, 1.5), abs=1e-3)
    m = matrix(RandomAffine(shear=(10., 20.)), n, 32, 32, gen())
    # torchvision's own matrix of an image that is slanted along x only
    wanted = [TF._get_inverse_affine_matrix([16., 16.], 0., [0., 0.], 1., s)
              for s in ([10., 0.], [0., 20.])]
    assert m[:, 0, 1].abs().max() == pytest.approx(abs(wanted[0][1]), abs=2e-3)
    assert m[:, 1, 0].abs().max() == pytest.approx(abs(wanted[1][3]), abs=2e-3)


def test_a_blur_takes_its_own_deviation():
    x = pictures(3)
    want = torch.stack([TF.gaussian_blur(im, [3, 3], [3., 3.]) for im in x])
    assert (GaussianBlur((3., 3.))(x).int() - want.int()).abs().max() <= 1
    for im, out in zip(x, PilBlur((2., 2.), 1.)(x)):
        pil = TF.to_pil_image(im).filter(ImageFilter.GaussianBlur(2.))
        assert torch.equal(out, TF.pil_to_tensor(pil))


def test_augmix_draws_torchvisions_magnitudes_and_weights():
    op = AugMix(severity=4, width=2, depth=1, alpha=2.)
    weights, kinds, sizes = op.draw(30_000, 32, 32, gen())
    theirs = torchvision.transforms.AugMix()._augmentation_space(10, (32, 32))
    assert {KINDS[k] for k in kinds.unique().tolist()} == set(theirs)
    for kind, (values, signed) in theirs.items():
        if not values.ndim: continue
        got = sizes[kinds == KINDS.index(kind)]
        assert got.abs().unique().tolist() == pytest.approx(
            values[:4].float().unique().tolist(), abs=1e-5), kind
        assert bool((got < 0).any()) == signed, kind
    assert stats.kstest(weights[:, 0].numpy(), stats.beta(2, 2).cdf).pvalue > 1e-3
    share = weights[:, 1] / (1 - weights[:, 0])
    assert stats.kstest(share.numpy(), stats.beta(2, 2).cdf).pvalue > 1e-3


def test_erased_boxes_lie_anywhere_and_are_as_high_as_the_ratio_says():
    (top, left, hs, ws), ok = erasing_boxes(20_000, 32, 32, (.25, .25), (1., 1.), gen())
    assert ok.all() and set(hs.tolist()) == set(ws.tolist()) == {16}
    for place in top, left:
        assert all(within(c, 20_000, 1 / 17) for c in place.bincount(minlength=17))
        assert place.max() == 16
    (_, _, hs, ws), ok = erasing_boxes(2000, 32, 32, (.1, .2), (2., 3.), gen())
    assert (hs > ws).all() and 1.9 < (hs / ws).median() < 3.1  # height / width, as torchvision's


def test_bilinear_is_pillows_within_a_level():
    x, angle = pictures(20, seed=1), torch.linspace(-170, 170, 20, dtype=torch.float64)
    got = bilinear(x, affine_matrix(32, 32, -angle))
    want = torch.stack([TF.pil_to_tensor(TF.rotate(TF.to_pil_image(im), a,
                                                   InterpolationMode.BILINEAR))
                        for im, a in zip(x, angle.tolist())])
    assert (got.int() - want.int()).abs().max() <= 1


def test_a_border_of_edges():
    x = pictures(2)
    assert torch.equal(pad(x, 3, 'edge'), TF.pad(x, 3, padding_mode='edge'))


def test_operations_act_in_their_order():
    x = pictures(3)
    first, second = (AutoAugment((((k, 1., 9),),)) for k in ('Posterize', 'Invert'))
    assert torch.equal(Augment((first, second)).apply(x, generator=gen())[0],
                       TF.invert(TF.posterize(x, 4)))
    assert torch.equal(Augment((second, first)).apply(x, generator=gen())[0],
                       TF.posterize(TF.invert(x), 4))
