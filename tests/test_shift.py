"""Spoiled images: any batch, any severity; each image by its own draw; the same seed, the same
images; and what the records say."""
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import functional as F

from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import split, toy
from cifar_nb.evaluation.corruptions import (CORRUPTION_KINDS, CORRUPTIONS, contrast_corruption,
                                             corrupt, corruption_accuracy, defocus_blur,
                                             glass_blur, motion_blur, pixelate, relit, smooth,
                                             snow, survey, zoom_blur)
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.spec import Phase, Recipe
from cifar_nb.studies import shift
from cifar_nb.studies.shift import TRAININGS, train_and_survey, trained_with
from cifar_nb.teams.zoo import get_recipe

ROOT = Path(__file__).parent.parent
RECORDS = {f.stem: json.loads(f.read_text(encoding="utf-8"))
           for f in sorted((ROOT / "results/shift").glob("*.json"))}
RANDOM = set(CORRUPTIONS) - {
    "gaussian_blur", "defocus_blur", "zoom_blur", "brightness", "contrast", "saturate",
    "jpeg_compression", "pixelate"}
each = pytest.mark.parametrize("name", CORRUPTIONS)


def generator(seed=0): return torch.Generator().manual_seed(seed)


def batch(n, seed=0):
    return torch.randint(256, (n, 3, 32, 32), generator=generator(seed), dtype=torch.uint8)


@each
@settings(max_examples=6, deadline=None)
@given(n=st.integers(1, 5), severity=st.integers(1, 5), fill=st.sampled_from([None, 0, 255, 128]))
def test_any_batch_gives_as_many_bytes(name, n, severity, fill):
    x = batch(n) if fill is None else torch.full((n, 3, 32, 32), fill, dtype=torch.uint8)
    before = x.clone()
    out = corrupt(x, name, severity)
    assert (out.shape, out.dtype) == (x.shape, torch.uint8)
    assert torch.equal(x, before), "the images themselves have been changed"


@each
def test_no_image_depends_on_its_neighbours(name):
    """What comes first in a batch is corrupted alike whatever comes after it, unless the draw is;
    and equal images differ where there is a draw."""
    x = batch(1).expand(6, -1, -1, -1).contiguous()
    out = corrupt(x, name, 4)
    same = all(torch.equal(out[0], o) for o in out[1:])
    assert same == (name not in RANDOM)
    if name not in RANDOM:
        mixed = torch.cat([x[:1], batch(5, seed=1)])
        assert torch.equal(corrupt(mixed, name, 4)[0], out[0])


@each
def test_seeds(name):
    x = batch(3)
    assert torch.equal(corrupt(x, name, 3, seed=1), corrupt(x, name, 3, seed=1))
    assert torch.equal(corrupt(x, name, 3, seed=1), corrupt(x, name, 3, seed=2)) == (
        name not in RANDOM)


def test_more_images_than_a_piece_holds():
    x = batch(1203)
    assert torch.equal(corrupt(x, "contrast", 2)[1100:], corrupt(x[1100:], "contrast", 2))


@pytest.mark.parametrize("severity", [0, 6, 2.5, "3", None])
def test_a_severity_that_does_not_exist(severity):
    with pytest.raises(InputError, match="whole number from 1 to 5"):
        corrupt(batch(1), "fog", severity)


def dots(n):
    "`n` black images with a white pixel in the middle."
    v = torch.zeros(n, 3, 32, 32)
    v[..., 16, 16] = 1
    return v


def test_contrast_is_about_the_mean_of_each_channel():
    v = torch.rand(2, 3, 8, 8, generator=generator())
    want = np.stack([[c.mean() + .4 * (c - c.mean()) for c in im] for im in v.numpy()])
    assert np.allclose(contrast_corruption(v, None, .4).numpy(), want, atol=1e-6)


def test_zoom_blur_is_the_mean_of_enlargements():
    v, most = batch(2).float() / 255, 1.11
    out = v.numpy().copy()
    factors = np.arange(1, most, .01)
    for f in factors:
        side = math.ceil(32 / f)
        top = (32 - side) // 2
        big = ndimage.zoom(v.numpy()[:, :, top:top + side, top:top + side], (1, 1, f, f), order=1)
        trim = (big.shape[-1] - 32) // 2
        out += big[..., trim:trim + 32, trim:trim + 32]
    assert np.abs(zoom_blur(v, None, most).numpy() - out / (len(factors) + 1)).max() < 1e-4


@pytest.mark.parametrize('radius, soft, places', [(1, .2, 5), (1.5, .1, 9)])
def test_a_disc_spreads_a_dot_over_what_lies_within_its_radius(radius, soft, places):
    v = dots(1)
    out = defocus_blur(v, None, radius, soft)[0, 0]
    assert (out > .02).sum() == places and out.sum() == pytest.approx(1, abs=1e-5)


def test_glass_blur_one_pixel_after_the_other():
    "The authors' loop, in which the swap of two rows of an array is none: the first is lost."
    v = batch(2).float() / 255
    got = glass_blur(v, generator(3), .4, 2)
    x = (smooth(v, .4).clamp(0, 1) * 255 + 1e-3).to(torch.uint8).float() / 255
    g = generator(3)
    for _ in range(2):
        steps = torch.randint(0, 4, (32, 32, 2), generator=g)
        for i in range(31, 1, -1):
            for j in range(31, 1, -1):
                for n in range(2):
                    s = int(steps[i, j, n])
                    x[n, :, i, j] = x[n, :, i - s // 2, j - s % 2]
    torch.testing.assert_close(got, smooth(x, .4), atol=1e-5, rtol=0)


def test_streaks_are_drawn_at_all_angles_up_to_half_a_right_one():
    out, i = motion_blur(dots(500), generator(), 6, 3.)[:, 0], torch.arange(32.) - 16
    down, across = ((out * k).sum((1, 2)) for k in (i[:, None], i))
    angle = torch.atan2(down, across).rad2deg()
    angle = (angle + 90) % 180 - 90
    assert angle.min() < -38 and angle.max() > 38 and angle.abs().max() <= 50


def test_snow_falls_and_lies_on_both_halves():
    """Flakes in streaks that go down more than across, and the same turned by half a turn; the dark
    image beneath them gives nothing."""
    v = torch.zeros(300, 3, 32, 32)
    flakes = snow(v, generator(), .1, .3, 1, .6, 8, 3, 1.)[:, 0]
    assert flakes.max() > .3
    torch.testing.assert_close(flakes, flakes.rot90(2, (1, 2)), atol=1e-6, rtol=0)
    down, across = (flakes.diff(dim=d).abs().mean() for d in (1, 2))
    assert down < .8 * across


def test_pixels_are_means_of_those_they_stand_for():
    v = batch(2).float() / 255
    want = F.avg_pool2d((v * 255).round(), 2).add(.5).floor()
    got = pixelate(v, None, .5) * 255
    assert (got - want.repeat_interleave(2, 2).repeat_interleave(2, 3)).abs().max() <= 1


def test_light():
    x = batch(200)
    lit = relit(x, (.6, .5, .4), (.1, .1, .1)).float() / 255
    assert torch.allclose(lit.mean((0, 2, 3)), torch.tensor([.6, .5, .4]), atol=.005)
    assert torch.allclose(lit.std((0, 2, 3)), torch.tensor([.1, .1, .1]), atol=.005)


def test_trainings_change_one_thing():
    quick = get_recipe("quick")
    assert trained_with(TRAININGS["as it is"]) == quick
    for name, change in TRAININGS.items():
        r = trained_with(change)
        assert (r == quick) == (name == "as it is")
        assert r.epochs == quick.epochs and r.phases[0].augment[-1] == quick.phases[0].augment[-1]


def test_a_training_is_surveyed_on_images_that_are_held_out(monkeypatch):
    (x, y), seen = toy(200), []
    def noted(net, x, *rest, **what):
        seen.append(x)
        return survey(net, x, *rest, **what)
    monkeypatch.setattr(shift, 'survey', noted)
    tiny = Recipe('tiny', NetSpec((4,), (1,), (4,)), (Phase(1, batch_size=50),))
    train_and_survey('as it is', x, y, held=50, recipe=tiny, device='cpu', names=('contrast',),
                     severities=(1,))
    assert torch.equal(seen[0], x[split(y, 50)[1]])


def test_a_survey_counts():
    class Always(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(1, 10)
        def forward(self, x): return torch.eye(10)[3].expand(len(x), 10)
    y = torch.tensor([3, 3, 3, 1])
    s = survey(Always(), batch(4), y, get_recipe("quick").phases[0], ("fog", "contrast"), (1, 2))
    assert s == dict(images=4, clean=75, fog=[75, 75], contrast=[75, 75])
    assert corruption_accuracy(s) == dict(clean=75, corrupted=75, noise=None, blur=None, light=75,
                                          pixels=None)


def test_the_records_are_whole():
    assert {"laptop", "quick"} <= set(RECORDS)
    for name, r in RECORDS.items():
        s = r["survey"]
        assert set(CORRUPTIONS) <= set(s) and all(len(s[n]) == 5 for n in CORRUPTIONS), name
        assert all(0 < a <= s["clean"] + 3 for n in CORRUPTIONS for a in s[n]), name
        assert sum(map(len, CORRUPTION_KINDS.values())) == len(CORRUPTIONS)
    assert {r["variation"] for r in RECORDS.values() if "variation" in r} == set(TRAININGS)


def test_a_try_never_replaces_the_figures_of_all_images(tmp_path):
    from cifar_nb.studies.shift import command_shift
    (tmp_path / "shift").mkdir()
    (tmp_path / "shift/quick.json").write_text(
        '{"asked": "the figures of all images"}', encoding='utf-8')
    for _ in range(2):
        command_shift(["quick"], results=tmp_path, data="toy", device="cpu", images=10, say=str)
    assert (tmp_path / "shift/quick.json").read_text(
        encoding="utf-8") == '{"asked": "the figures of all images"}'
    tries = list((tmp_path / "shift").glob("quick-10images-*.json"))
    assert len(tries) == 1 and json.loads(
        tries[0].read_text(encoding='utf-8'))["survey"]["images"] == 10
    command_shift(["quick"], results=tmp_path, data="toy", device="cpu", images=12, say=str)
    assert len(list((tmp_path / "shift").glob("quick-*.json"))) == 2
