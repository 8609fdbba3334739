"""Spoiled images: any batch, any severity; each image by its own draw; the same seed, the same
images; and what the records say."""
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_nb.core.errors import InputError
from cifar_nb.evaluation.corruptions import (CORRUPTION_KINDS, CORRUPTIONS, corrupt,
                                             corruption_accuracy, relit, survey)
from cifar_nb.studies.shift import TRAININGS, trained_with
from cifar_nb.teams.zoo import get_recipe

ROOT = Path(__file__).parent.parent
RECORDS = {f.stem: json.loads(f.read_text(encoding="utf-8"))
           for f in sorted((ROOT / "results/shift").glob("*.json"))}
RANDOM = set(CORRUPTIONS) - {
    "gaussian_blur", "defocus_blur", "zoom_blur", "brightness", "contrast", "saturate",
    "jpeg_compression", "pixelate"}
each = pytest.mark.parametrize("name", CORRUPTIONS)


def batch(n, seed=0):
    return torch.randint(256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(seed),
                         dtype=torch.uint8)


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
