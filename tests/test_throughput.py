"""The fast loop computes what a textbook loop computes, and the benchmarks say what was measured
and nothing else."""
import copy
import json
import multiprocessing
import statistics
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from cifar_nb.augment.colour import GaussianBlur
from cifar_nb.augment.ops import CutMix, Cutout, RandomCrop, RandomHorizontalFlip
from cifar_nb.bench.commands import command_predict, command_train
from cifar_nb.bench.costs import (bench_parts, cost, cost_table, part_of, profile_step,
                                  varied)
from cifar_nb.bench.inference import (bench_predict, fold_batch_norm, percentile, predict_table,
                                      settled, ways_to_answer)
from cifar_nb.bench.training import (OurWay, TheirWay, bench_train, contender, contenders, derived,
                                     most_memory, race, train_table, training_images)
from cifar_nb.core.errors import InputError
from cifar_nb.core.timing import ratio
from cifar_nb.data.cifar import toy
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.spec import Optimizer, Phase, Recipe, Schedule
from cifar_nb.teams.zoo import get_recipe
from cifar_nb.training.loop import Trainer, end_epoch, train_epoch

STEPS, IMAGES, BATCH = 50, 640, 64  # ten steps an epoch, five epochs
NET = NetSpec(widths=(8, 16), depths=(1, 1), strides=(2, 2))
OPTIMIZERS = {"SGD": Optimizer("SGD", lr=.05, momentum=.9, nesterov=True, weight_decay=5e-4),
              "AdamW": Optimizer("AdamW", lr=2e-3, weight_decay=1e-2)}


def small(optimizer="SGD", smoothing=0., ops=(RandomCrop(), RandomHorizontalFlip(), Cutout(8))):
    cosine = Schedule("cosine", t_max=5, unit="step")
    return Recipe("small", net=NET,
                  phases=(
                      Phase(5, OPTIMIZERS[optimizer], cosine, ops, batch_size=BATCH,
                            label_smoothing=smoothing),))


@pytest.fixture(scope="module")
def data(): return toy(IMAGES, seed=1)


@pytest.fixture(autouse=True)
def one_thread():
    "Two runs that are compared to the last digits must add in the same order."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def known_peaks(monkeypatch):
    "Measuring the machine takes seconds, and no test depends on it."
    monkeypatch.setattr("cifar_nb.bench.training.peaks", lambda device: dict(fp32=100., bf16=200.))


def textbook(name, net, lr):
    "torch's own optimizer and its own cosine over all steps, written without a recipe."
    if name == "SGD":
        opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=.9, nesterov=True,
                              weight_decay=5e-4)
    else: opt = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-2)
    return opt, torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=STEPS)


def both_losses(name, x, y, precision, lr=None, smoothing=0.):
    """The losses of 50 steps: of a plain loop, and of `train_epoch` on the same weights, order and
    augmentation."""
    recipe = small(name, smoothing)
    t = Trainer(recipe, len(x), seed=3, device="cpu", precision=precision)
    net = copy.deepcopy(t.net).to(memory_format=torch.contiguous_format)
    opt, scheduler = textbook(name, net, lr or recipe.phases[0].optimizer.lr)
    augment, plain, fast = recipe.phases[0].to_augment(), [], []
    while len(plain) < STEPS:
        order, rng, seen = t.order.clone(), torch.Generator().set_state(t.rng.get_state()), [0.]
        for i in order.split(BATCH):
            xb, yb = augment(x[i], y[i], generator=rng, memory_format=torch.contiguous_format)
            opt.zero_grad()
            loss = F.cross_entropy(net(xb), yb, label_smoothing=smoothing)
            loss.backward()
            opt.step()
            scheduler.step()
            plain.append(loss.item())
        train_epoch(t, x, y, lambda t: seen.append(t.sums[0].item()))
        fast += [(b - a) / BATCH for a, b in zip(seen, seen[1:])]
        end_epoch(t, 1.)
    return torch.tensor(plain), torch.tensor(fast)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_fifty_steps_give_the_losses_of_a_plain_loop(data, name):
    plain, fast = both_losses(name, *data, "fp32 nchw")
    # something was learned
    assert len(plain) == len(fast) == STEPS and plain[-10:].mean() < plain[:10].mean() - .05
    assert (plain - fast).abs().max() < 1e-5


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_channels_last_differs_by_rounding_only(data, name):
    plain, fast = both_losses(name, *data, "fp32")
    assert (plain - fast)[:5].abs().max() < 1e-3 and (plain - fast).abs().mean() < .02


@pytest.mark.parametrize("name, lr", [("SGD", .0505), ("AdamW", 2.02e-3)])
def test_the_comparison_notices_a_rate_that_is_wrong_by_one_percent(data, name, lr):
    plain, fast = both_losses(name, *data, "fp32 nchw", lr=lr)
    assert (plain - fast).abs().max() > 1e-3


def test_their_way_is_that_loop_too(data):
    "The loop in the benchmark against torch's own parts, without randomness in the images."
    x, y = data
    recipe = small(ops=())
    theirs = TheirWay(recipe, x, y, workers=0)
    net = copy.deepcopy(theirs.net)
    opt, scheduler = textbook("SGD", net, .05)
    torch.manual_seed(5)
    seen = [(xb, yb) for xb, yb in theirs.batches()]
    torch.manual_seed(5)
    losses, plain = theirs.epoch(), []
    for xb, yb in seen:
        loss = F.cross_entropy(net(xb), yb)
        opt.zero_grad(); loss.backward(); opt.step(); scheduler.step()
        plain.append(loss.item())
    assert losses == pytest.approx(plain, abs=1e-5) and theirs.loader is not None


def test_workers_are_gone_after_a_race(data):
    x, y = data
    race(small(), x[:128], y[:128], repeats=1, workers=1, best=dict(fp32=1., bf16=1., fp16=1.))
    for p in multiprocessing.active_children(): p.join(10)
    assert multiprocessing.active_children() == []


def test_workers_are_gone_after_a_mistake(data, monkeypatch):
    x, y = data
    monkeypatch.setattr(OurWay, "epoch", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        race(small(), x[:128], y[:128], repeats=1, workers=1, best=dict(fp32=1.))
    for p in multiprocessing.active_children(): p.join(10)
    assert multiprocessing.active_children() == []


def test_every_augmentation_of_the_reports_has_a_plain_counterpart(data):
    x, y = data
    for r in contenders() + [contender("learning_too_deep:report")]:
        way = TheirWay(replace(r, net=NET), x[:r.phases[-1].batch_size],
                       y[:r.phases[-1].batch_size], workers=0)
        (xb, yb), = way.batches()
        assert (xb.shape[1:] == (3, 32, 32) and xb.dtype == torch.float32
                and yb.ndim == 1 + (r.name == "learning_too_deep" and r.variant == "report"))


def test_mixing_and_blur_train(data):
    x, y = data
    assert len(
        TheirWay(small(ops=(GaussianBlur(p=.5), CutMix())), x[:128], y[:128], workers=0).epoch(
            )) == 2


def test_ratios_come_from_rounds():
    rounds = [dict(theirs=4., ours=2.), dict(theirs=9., ours=1.), dict(theirs=3., ours=1.),
              dict(theirs=5., ours=2.)]
    assert ratio(rounds) == dict(ratio=2.75, least=2., most=9.)  # by hand: 2, 9, 3, 2.5
    row = dict(images=100, precision="bf16", macs=10**9, rounds=rounds,
               data=[dict(theirs=v, ours=v / 6) for v in (2., .9, 1.)])
    d = derived(row, dict(fp32=200., bf16=400.))
    assert (d["images/s"]["theirs"] == pytest.approx(100 / 4.5)
            and d["images/s"]["ours"] == pytest.approx(100 / 1.5))
    assert (d["GFLOP/s"]["ours"] == pytest.approx(400.)
            and d["share of peak"]["ours"] == pytest.approx(1.))
    assert (d["share of peak"]["theirs"] == pytest.approx(6 * 100 / 4.5 / 200)
            and d["augmentation"]["theirs"] == pytest.approx(.2))


def test_bench_train_has_what_it_should(data, monkeypatch):
    said = []
    monkeypatch.setattr("cifar_nb.bench.training.contenders",
                        lambda names: [replace(get_recipe(n), net=NET) for n in names])
    doc = json.loads(
        json.dumps(
            bench_train(["small"], images=128, repeats=2, device="cpu", workers=0, data=data,
                        say=said.append)))
    assert {"bench", "hardware", "threads", "torch", "torchvision", "peak", "images", "repeats",
            "workers", "data", "rows"} <= set(doc)
    row, = doc["rows"]
    assert (row["recipe"], row["batch"], row["images"], row["parameters"]) == (
        "small", 128, 128, sum(p.numel() for p in NET.build().parameters()))
    assert (len(row["rounds"]) == 2
            and all(set(r) == {"theirs", "ours"} and min(r.values()) > 0 for r in row["rounds"]))
    assert row["ratio"] == pytest.approx(
        statistics.median(r["theirs"] / r["ours"]
                          for r in row["rounds"])) and row["least"] <= row["ratio"] <= row["most"]
    for key in ("images/s", "GFLOP/s", "share of peak", "augmentation", "MB"):
        assert set(row[key]) == {"theirs", "ours"} and min(row[key].values()) > 0
    assert len(said) == 1 and "small:report" in said[0] and len(train_table(doc)) == 1


@pytest.mark.parametrize("recipe", ["small", "quick"])
def test_bench_predict_has_what_it_should(recipe, data):
    doc = bench_predict([recipe], images=64, repeats=2, device="cpu", data=data)
    rows = doc["rows"]
    assert ([r["way"] for r in rows][:2] == ["plain", "fp32"]
            and sum("folded" in r["way"] for r in rows) >= 1)
    assert rows[0]["ratio"] == rows[0]["least"] == 1.
    for r in rows:
        assert (0 < r["p50, ms"] <= r["p95, ms"] and len(r["rounds"]) == 2
                and r["distance"] < (.05 if "bf16" in r["way"] else 1e-4))
        assert r["ratio"] == pytest.approx(
            statistics.median(a / b for a, b in zip(rows[0]["rounds"], r["rounds"])))
    assert json.loads(json.dumps(doc)) and len(predict_table(doc)) == len(rows)


def test_the_command_writes_its_json(tmp_path):
    said = []
    doc = command_predict(["small"], 32, 1, "cpu", tmp_path / "predict.json", say=said.append)
    assert json.loads((tmp_path / "predict.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(doc)) and len(said) == 2


@pytest.mark.parametrize("mistake, sentence", [
    (lambda d: bench_train(["quik"], data=d), "did you mean"),
    (lambda d: contender("dreamfyre"), "did you mean"),
    (lambda d: command_train(["quik"], say=str), "no recipe 'quik'"),
    (lambda d: cost(varied(get_recipe("small"), "batch", 999), *d, "cpu", 1, {}),
     "do not fill a batch"),
    (lambda d: bench_train(["dreamfire:cod"], data=d), "variant"),
    (lambda d: bench_train(["small"], repeats=0, data=d), "repeats=0"),
    (lambda d: bench_train(["small"], images=0, data=d), "images=0"),
    (lambda d: bench_train(["small"], images=100, data=d), "--images 128 or more"),
    (lambda d: bench_train(["small"], images=10**6, data=d), "were asked for"),
    (lambda d: bench_train(["small"], workers=-1, data=d), "workers=-1"),
    (lambda d: bench_train(["small"], images=128, device="gpu", data=d), "no device 'gpu'"),
    (lambda d: bench_predict(["small"], repeats=-1, data=d), "repeats=-1"),
    (lambda d: bench_parts(["small"], images=0, data=d), "bench parts: images=0"),
    (lambda d: bench_parts(["small"], 128, repeats=0, data=d), "bench parts: repeats=0"),
    (lambda d: bench_predict(["small"], images=10**6, data=d), "were asked for"),
    (lambda d: command_predict(["small"], 32, 1, "cpu", "/nowhere/at/all.json", say=str),
     "cannot be written"),
    (
        lambda d: cost_table(get_recipe("small"), 128, data=d, device="cpu",
                             best=dict(fp32=1., bf16=1.), variations=dict(batch=(256,))),
        "do not fill a batch"),
])
def test_a_mistake_is_one_sentence(data, mistake, sentence):
    with pytest.raises(InputError) as e: mistake(data)
    assert sentence in str(e.value) and "\n" not in str(e.value)


def test_folding_keeps_the_answers_and_leaves_no_batch_norm(data):
    x, _ = data
    for spec in (NET, replace(NET, block="plain"), replace(NET, se=4),
                 replace(NET, stem=4, shortcut_kernel=3)):
        net = settled(replace(small(), net=spec), x[:64])
        for m in net.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(m.weight, .5, 2.)
                torch.nn.init.normal_(m.bias)
        folded, xb = fold_batch_norm(net), torch.randn(16, 3, 32, 32)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
        with torch.no_grad(): torch.testing.assert_close(folded(xb), net(xb), rtol=1e-4, atol=1e-4)
    # the original is as it was
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())


def test_ways_to_answer_agree(data):
    x, _ = data
    recipe = small()
    ways = ways_to_answer(settled(recipe, x[:64]), recipe.phases[0])
    plain = ways["plain"](x)
    for name, f in sorted(ways.items()):
        assert ((f(x) - plain).norm() / plain.norm()).item() < (
            .05 if "bf16" in name else 1e-4), name


def test_profile_accounts_for_the_whole_step(data):
    table = profile_step(small(), steps=4, device="cpu", data=data)
    share = {r["part"]: r["share"] for r in table}
    assert sum(share.values()) == pytest.approx(1.) and all(v > 0 for v in share.values())
    assert all(
        r["ms a step"] == pytest.approx(r["share"] * table[0]["ms a step"] / table[0]["share"])
        for r in table)


class Event:
    def __init__(self, name, parent=None): self.name, self.cpu_parent = name, parent


def test_the_outermost_name_decides():
    backward = Event("autograd::engine::evaluate_function: ConvolutionBackward0")
    assert (part_of(
        Event(
            "aten::empty",
            Event("aten::convolution_backward", backward))) == "convolution, backward")
    assert part_of(Event("aten::add", Event("augmentation"))) == "augmentation"
    assert part_of(Event("aten::add_")) == "elementwise"
    assert part_of(Event("aten::mul_", Event("Optimizer.step#SGD.step"))) == "optimizer"
    assert part_of(Event("aten::nll_loss")) == "the rest"


def test_varied_changes_one_thing():
    r = small()
    assert varied(r, "batch", 16).phases[0].batch_size == 16 and varied(r, "batch", 16).net == NET
    assert (varied(r, "width", .5).net.widths == (4, 8)
            and varied(r, "width", .5).net.depths == NET.depths)
    assert varied(r, "depth", 3).net.depths == (3, 3) and varied(r, "depth", 3).phases == r.phases


def test_memory_and_percentiles_by_hand():
    assert most_memory(lambda: torch.zeros(10**6, dtype=torch.uint8) + 1) == pytest.approx(
        2., abs=.01)
    assert percentile([0., 10.], 95) == pytest.approx(9.5)


def test_what_ran_is_raced():
    assert [(r.name, r.variant) for r in contenders()] == [
        ("narrow_resnet", "code"), ("modified_resnet", "code"), ("learning_too_deep", "code"),
        ("dreamfire", "code"), ("neural_nomads", "report")]


def test_images_are_counted(data):
    with pytest.raises(InputError, match=f'There are {IMAGES:,} training images'):
        training_images(IMAGES + 1, data)
    assert training_images(5, data)[0].shape == (5, 3, 32, 32)
