"""`train` beside a training that is written out here as a textbook would write it.

The two share the network, the order of the images (numbers drawn from seed * 10,000 + epoch) and
what augmentation draws. Everything else stands here a second time, in plain PyTorch: the loss, the
optimizers, the rates step by step, clipping, the moving average, which images are taken, how the
validation images judge, and the bf16 recipe of Muon in full precision.
"""
import copy
import json
import math
import signal
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import normalize

from cifar_nb.augment.ops import (AlternatingFlip, Augment, CutMix, MixUp, RandomCrop,
                                  RandomHorizontalFlip, Resize, coin)
from cifar_nb.bench.pace import measure_pace
from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import split, toy
from cifar_nb.models.airbench import FastSpec
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.muon import Muon
from cifar_nb.recipes.spec import Optimizer, Phase, Recipe, Schedule
from cifar_nb.teams.zoo import get_recipe
from cifar_nb.training import loop as training
from cifar_nb.training.checkpoints import Run
from cifar_nb.training.loop import (Diverged, Trainer, compile_forward, end_epoch, network, predict,
                                    train_epoch)
from cifar_nb.training.precision import Precision, choose_device, choose_precision, cpu_has_bf16
from cifar_nb.training.signals import Interrupted
from cifar_nb.training.train import first_look, planned, train

MEAN, STD = (.4914, .4822, .4465), (.247, .2435, .2616)
IMAGES, BATCH = 40, 16  # three steps an epoch, of 16, 16 and 8 images
X, Y = toy(IMAGES, seed=4)
NET = NetSpec(widths=(4, 8), depths=(1, 1), strides=(2, 2))
SGD = Optimizer('SGD', lr=.02, momentum=.9, nesterov=True, weight_decay=5e-4)
DRAWS = (RandomCrop(2), RandomHorizontalFlip())
PHASE = Phase(2, SGD, batch_size=BATCH, augment=DRAWS)


@pytest.fixture(autouse=True)
def one_thread():
    "Two trainings that are compared to the last digits must add in the same order."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The textbook

def sgd(params): return torch.optim.SGD(params, .02, .9, weight_decay=5e-4, nesterov=True)


@dataclass
class Chapter:
    "The rules of one phase."
    epochs: int = 2
    optimizer: object = sgd                 # parameters -> optimizer
    factor: object = lambda step, epoch: 1  # of the peak rate; both counted from the phase's begin
    plateau: dict = None                    # for torch's ReduceLROnPlateau, in place of `factor`
    draws: tuple = DRAWS                    # the operations whose draws are shared
    then: object = lambda xb, **place: xb   # what is done to the images after that
    shares: tuple = ()                      # of the images, for each epoch
    batch: int = BATCH
    micro: int = 0
    smoothing: float = 0.
    mean: tuple = MEAN
    std: tuple = STD

    def normalized(self, x):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        return (x.float() / 255 - mean) / std


def cross_entropy(logits, target, smoothing=0.):
    "Of each image; `target` are classes, or shares of the ten classes."
    if target.ndim == 1: target = torch.eye(10)[target]
    target = (1 - smoothing) * target + smoothing / 10
    return -(target * (logits - logits.logsumexp(1, keepdim=True))).sum(1)


def pieces(order, size):
    "Batches of `size`; a single image that is left over goes with the last one."
    out = [order[i:i + size] for i in range(0, len(order), size)]
    return [*out[:-2], torch.cat(out[-2:])] if len(out) > 1 and len(out[-1]) == 1 else out


def hardest(order, losses, n):
    "The `n` images with the largest losses, as they stand in `order`."
    chosen = sorted(order.tolist(), key=lambda i: -losses[i])[:n]
    return torch.tensor([i for i in order.tolist() if i in chosen])


def clip_(params, most):
    "Shorten the gradient to the norm `most`; whether it was longer."
    grads = [w.grad for w in params if w.grad is not None]
    norm = sum((g.double() ** 2).sum() for g in grads).sqrt().item()
    for g in grads: g *= min(1., most / norm)
    return norm > most


def average(weights, kept):
    "Of the list `weights`, where `kept[k]` of what was before stays when the k-th comes in."
    of = [math.prod(kept[k + 1:]) * (1 - kept[k] if k else 1) for k in range(len(weights))]
    assert sum(of) == pytest.approx(1)
    return {name: sum(a * w[name].double() for a, w in zip(of, weights)).float()
            for name in weights[0]}


def floats(net): return {k: v.clone() for k, v in net.state_dict().items() if v.is_floating_point()}


class Textbook:
    """A training of the network of `spec` by `chapters`, from beginning to end: `log`, `weights`
    after each step, `kept` after each epoch (the average, where `ema` gives the share that it keeps
    of itself after n updates), and how often the gradient was too long (`clipped`)."""
    def __init__(self, spec, *chapters, x=X, y=Y, seed=0, clip=0., ema=None, val=None):
        self.x, self.y, self.seed, self.clip, self.ema, self.val = x, y, seed, clip, ema, val
        self.log, self.weights, self.kept, self.clipped = [], [], [], 0
        self.last = [math.inf] * len(x)  # the loss of each image when it was last seen
        with torch.random.fork_rng():    # dropout goes on where the weights were drawn
            torch.manual_seed(seed)
            self.net = spec.build()
            first = chapters[0].normalized
            if hasattr(self.net, 'prepare'): self.net.prepare(first(x[:5000]))
            self.judge = copy.deepcopy(self.net).eval()
            for c in chapters: self.phase(c)

    def phase(self, c):
        begun, opt, step = len(self.log), c.optimizer(self.net.parameters()), 0
        peaks = [g['lr'] for g in opt.param_groups]
        plateau = c.plateau and torch.optim.lr_scheduler.ReduceLROnPlateau(opt, **c.plateau)
        for e in range(c.epochs):
            rng = torch.Generator().manual_seed(self.seed * 10_000 + len(self.log))
            order = torch.randperm(len(self.x), generator=rng)
            if c.shares:
                share = c.shares[min(e, len(c.shares) - 1)]
                order = hardest(order, self.last, round(len(order) * share))
            loss, hits, rates = 0., 0, []
            self.net.train()
            for i in pieces(order, c.batch):
                for g, peak in zip(opt.param_groups, peaks):
                    if not plateau: g['lr'] = peak * c.factor(step, e)
                rates.append(opt.param_groups[0]['lr'])
                sums = self.step(c, opt, i, rng, epoch=len(self.log), e=e, begun=begun)
                loss, hits, step = loss + sums[0], hits + sums[1], step + 1
            self.end_epoch(c, lr=rates[0], train_loss=loss / len(order),
                           train_accuracy=100 * hits / len(order))
            if plateau:
                line = self.log[-1]
                plateau.step(line['val_loss' if c.plateau and self.val else 'train_loss'])

    def step(self, c, opt, i, rng, **place):
        xb, yb = Augment(c.draws).apply(self.x[i], self.y[i], rng)
        xb = c.normalized(c.then(xb, i=i, seed=self.seed, **place))
        opt.zero_grad()
        loss = hits = 0
        for p in pieces(torch.arange(len(i)), c.micro or len(i)):
            logits = self.net(xb[p])
            each = cross_entropy(logits, yb[p], c.smoothing)
            (each.sum() / len(i)).backward()
            classes = yb[p] if yb.ndim == 1 else yb[p].argmax(1)
            loss, hits = loss + each.sum().item(), hits + (logits.argmax(1) == classes).sum().item()
            plain = cross_entropy(logits.detach(), yb[p]).tolist()
            for k, v in zip(i[p].tolist(), plain): self.last[k] = v
        if self.clip: self.clipped += clip_(self.net.parameters(), self.clip)
        opt.step()
        self.weights.append(floats(self.net))
        return loss, hits

    def end_epoch(self, c, **line):
        n = len(self.weights)
        kept = self.weights[-1]
        if self.ema: kept = average(self.weights, [self.ema(k) for k in range(n)])
        if self.val:
            self.judge.load_state_dict(kept, strict=False)  # no counters
            with torch.no_grad(): logits = self.judge(c.normalized(self.val[0]))
            line['val_loss'] = cross_entropy(logits, self.val[1]).mean().item()
            line['val_accuracy'] = 100 * (logits.argmax(1) == self.val[1]).float().mean().item()
        self.log.append(dict(epoch=len(self.log) + 1) | line)
        self.kept.append(kept)

    @property
    def best(self):
        "What was kept after the first of the epochs that are best on the validation images."
        scores = [round(line['val_accuracy'], 3) for line in self.log]
        return self.kept[scores.index(max(scores))]


# The comparison

@dataclass(frozen=True)
class Bare:
    "A network without batch norm."
    def build(self):
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(900, 10))


def recipe(*phases, net=NET, **rest): return Recipe('toy', net, phases or (PHASE,), **rest)


def ours(r, x=X, y=Y, out=None, precision='fp32 nchw', say=str, **more):
    return train(r, x, y, out, device='cpu', precision=precision, kernels=False, progress=False,
                 say=say, **more)


def check_weights(net, wanted, atol=2e-5):
    state = net.state_dict()
    for name, want in wanted.items():
        error = (state[name] - want).abs().max().item()
        assert error <= atol, (name, error)


def check(t, book, kept=None, atol=2e-5):
    "The log of the trainer `t` is that of the `book`, its network what the book kept at last."
    assert len(t.log) == len(book.log)
    for line, want in zip(t.log, book.log):
        assert line == pytest.approx(want, rel=1e-5, abs=atol)
    check_weights(network(t), kept or book.kept[-1], atol)


def held_out(holdout, x=X, y=Y):
    "(images, labels) that `train` keeps, and the (images, labels) that it holds out."
    kept, held = split(y, holdout)
    return dict(x=x[kept], y=y[kept], val=(x[held], y[held]))


def test_the_textbook_learns_and_notices_a_percent():
    "What the other tests rest on: the losses fall, and a rate that is wrong by 1% is seen."
    long, wrong = Chapter(6), Chapter(6, lambda ps: torch.optim.SGD(ps, .0202, .9, 0, 5e-4, True))
    t = ours(recipe(replace(PHASE, epochs=6)))
    assert t.log[-1]['train_loss'] < t.log[0]['train_loss'] - .2
    check(t, Textbook(NET, long))
    with pytest.raises(AssertionError): check(t, Textbook(NET, wrong))


OPTIMIZERS = {
    'SGD': (Optimizer('SGD', lr=.1), lambda ps: torch.optim.SGD(ps, lr=.1)),
    'dampened': (Optimizer('SGD', lr=.01, momentum=.9, dampening=.5, weight_decay=.01),
                 lambda ps: torch.optim.SGD(ps, .01, momentum=.9, dampening=.5, weight_decay=.01)),
    'Adam': (Optimizer('Adam', lr=.01, betas=(.8, .9), weight_decay=.01),
             lambda ps: torch.optim.Adam(ps, .01, (.8, .9), weight_decay=.01)),
    'AdamW': (Optimizer('AdamW', lr=.01, betas=(.8, .9), weight_decay=.1),
              lambda ps: torch.optim.AdamW(ps, .01, (.8, .9), weight_decay=.1)),
    'RMSprop': (Optimizer('RMSprop', lr=.003, momentum=.9, weight_decay=.01),
                lambda ps: torch.optim.RMSprop(ps, .003, momentum=.9, weight_decay=.01))}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_optimizers_are_torchs(name):
    mine, theirs = OPTIMIZERS[name]
    net = NET if mine.name == 'SGD' else Bare()  # batch norm leaves gradients of 0 but for rounding
    p = replace(PHASE, optimizer=mine)           # behind it, which the others divide by their size
    check(ours(recipe(p, net=net)), Textbook(net, Chapter(optimizer=theirs)))


RULES = {
    'label smoothing': (dict(label_smoothing=.2), dict(smoothing=.2)),
    'MixUp': (dict(augment=(*DRAWS, MixUp(.8))), dict(draws=(*DRAWS, MixUp(.8)))),
    'CutMix': (dict(augment=(*DRAWS, CutMix())), dict(draws=(*DRAWS, CutMix()))),
    'smoothed MixUp': (dict(augment=(MixUp(),), label_smoothing=.1),
                       dict(draws=(MixUp(),), smoothing=.1)),
    'one image left over': (dict(batch_size=13), dict(batch=13)),  # 13, 13 and 14
    'a batch of everything': (dict(batch_size=40), dict(batch=40)),
    'micro-batches': (dict(micro_batch=6, label_smoothing=.1), dict(micro=6, smoothing=.1)),
    'one image left over of a batch': (dict(micro_batch=5), dict(micro=5)),  # 5, 5 and 6
    'its own mean and deviation': (dict(mean=(.1, .2, .3), std=(.4, .5, .6)),) * 2,
    'hard examples': (dict(epochs=8, keep_fraction=(1, .49, .33)),  # 19.6 and 13.2 images
                      dict(epochs=8, shares=(1, .49, .33))),
    'smoothed hard examples': (
        dict(epochs=3, keep_fraction=(1, .5), label_smoothing=.3, micro_batch=5),
        dict(epochs=3, shares=(1, .5), smoothing=.3, micro=5))}


@pytest.mark.parametrize('name', RULES)
def test_rules_of_a_phase(name):
    mine, theirs = RULES[name]
    check(ours(recipe(replace(PHASE, **mine)), seed=3), Textbook(NET, Chapter(**theirs), seed=3))


def test_dropout_draws_on_where_the_weights_were_drawn():
    net = replace(NET, dropout=.5)
    check(ours(recipe(net=net), seed=1), Textbook(net, Chapter(), seed=1))


def test_channels_last_differs_by_rounding():
    check(ours(recipe(), precision='fp32'), Textbook(NET, Chapter()), atol=5e-3)


def test_the_gradient_is_clipped():
    book = Textbook(NET, Chapter(3), clip=1.)
    assert 0 < book.clipped < 9, 'choose a norm that clips some steps and not all'
    check(ours(recipe(replace(PHASE, epochs=3), clip=1.)), book)
    unclipped = ours(recipe(replace(PHASE, epochs=3)))
    with pytest.raises(AssertionError): check(unclipped, book)


def test_501_images_of_quick():
    "The last piece of 250 would have been a single image."
    x, y = toy(501, seed=1)
    p = replace(PHASE, epochs=1, batch_size=500, micro_batch=250)
    check(ours(recipe(p), x, y), Textbook(NET, Chapter(1, batch=500, micro=250), x=x, y=y))
    quick = replace(get_recipe('quick'), net=FastSpec(widths=(4, 4, 4))).with_epochs(2)
    t = ours(quick, x, y)
    assert all(math.isfinite(line['train_loss']) for line in t.log) and len(t.log) == 2


def test_modes_are_left_as_they_were_and_training_does_not_ask():
    "Judging in between leaves the network as it was; a network left in evaluation mode is trained."
    p = replace(PHASE, epochs=1)
    t = Trainer(recipe(p), IMAGES, device='cpu', precision='fp32 nchw')
    for mode in (True, False):
        t.net.train(mode)
        predict(t.net, X, p)
        assert all(m.training == mode for m in t.net.modules())
    train_epoch(t, X, Y)
    end_epoch(t, 1.)
    check(t, Textbook(NET, Chapter(1)))


# Micro-batches of a network without batch norm are the batch

@pytest.mark.parametrize('micro', [2, 5, 7, 15, 16, 100])
def test_micro_batches_give_the_gradient_of_the_batch(micro):
    p = replace(PHASE, micro_batch=micro, label_smoothing=.1)
    check(ours(recipe(p, net=Bare())), Textbook(Bare(), Chapter(smoothing=.1)))


# The moving average

EMA = {'from the start': (dict(ema=.8, ema_warmup=False), lambda n: .8),
       'warmed up': (dict(ema=.5), lambda n: min(.5, (1 + n) / (10 + n))),  # .5 from 8 updates on
       'never warm': (dict(ema=.999), lambda n: (1 + n) / (10 + n))}


@pytest.mark.parametrize('name', EMA)
@pytest.mark.parametrize('keep', ['last', 'best on validation'])
def test_the_average_is_judged_and_kept(name, keep):
    mine, theirs = EMA[name]
    book = Textbook(NET, Chapter(5), ema=theirs, **held_out(10))
    t = ours(recipe(replace(PHASE, epochs=5), **mine), holdout=10, keep=keep)
    check(t, book, book.best if keep != 'last' else None)
    check_weights(t.net, book.weights[-1])  # and the network goes its own way


def test_the_average_without_validation_images():
    t = ours(recipe(ema=.8, ema_warmup=False))
    book = Textbook(NET, Chapter(), ema=lambda n: .8)
    check(t, book)
    assert any((book.kept[-1][k] - w).abs().max() > 1e-2 for k, w in floats(t.net).items())


# Which weights are kept

@pytest.mark.parametrize('keep', ['last', 'best on validation', None])
def test_the_same_network_with_and_without_a_folder(keep, tmp_path):
    r, book = recipe(replace(PHASE, epochs=5)), Textbook(NET, Chapter(5), **held_out(10))
    assert any((book.best[k] - v).abs().max() > 1e-2 for k, v in book.kept[-1].items())  # are two
    wanted = book.kept[-1] if keep == 'last' else book.best
    check(ours(r, holdout=10, keep=keep), book, wanted)
    check(ours(r, holdout=10, keep=keep, out=tmp_path / 'a'), book, wanted)
    check_weights(Run(tmp_path / 'a').load_net('cpu'), wanted)
    assert Run(tmp_path / 'a').result['checkpoint'] == (keep or 'best on validation')


def test_the_same_weights_with_and_without_a_folder(tmp_path):
    a, b = ours(recipe(ema=.9), seed=2), ours(recipe(ema=.9), seed=2, out=tmp_path / 'a')
    c = Run(tmp_path / 'a').load_net('cpu')
    for k, v in network(a).state_dict().items():
        assert torch.equal(v, network(b).state_dict()[k]) and torch.equal(v, c.state_dict()[k]), k
    check(a, Textbook(NET, Chapter(), seed=2, ema=lambda n: min(.9, (1 + n) / (10 + n))))


# Rates

def rises(steps, start): return lambda i: start + (1 - start) * i / (steps - 1)


def cosine(i, steps, least=0.): return least + (1 - least) * (1 + math.cos(math.pi * i / steps)) / 2


SCHEDULES = {  # of four epochs of three steps; the factor of the step, or of the epoch
    'constant': (Schedule(), lambda i, e: 1),
    'cosine of epochs': (Schedule('cosine', t_max=4, eta_min=.004), lambda i, e: cosine(e, 4, .2)),
    'cosine of steps': (Schedule('cosine', t_max=4, unit='step'), lambda i, e: cosine(i, 12)),
    'linear of epochs': (Schedule('linear', t_max=4), lambda i, e: 1 - e / 4),
    'linear of steps': (Schedule('linear', t_max=4, unit='step'), lambda i, e: 1 - i / 12),
    'linear to an early end': (Schedule('linear', t_max=2, unit='step'),
                               lambda i, e: max(0, 1 - i / 6)),
    'milestones of epochs': (Schedule('multistep', milestones=(1, 3), gamma=.3),
                             lambda i, e: .3 ** ((e >= 1) + (e >= 3))),
    'milestones of steps': (Schedule('multistep', milestones=(1.5, 2), gamma=.3, unit='step'),
                            lambda i, e: .3 ** ((i >= 4) + (i >= 6))),  # 4.5 is rounded to even
    'warm-up of epochs': (Schedule('linear', warmup_epochs=2, warmup_start_factor=.2, t_max=2),
                          lambda i, e: (.2, 1, 1, .5)[e]),
    'warm-up of steps': (
        Schedule('cosine', warmup_epochs=2, warmup_start_factor=.1, t_max=2, unit='step'),
        lambda i, e: rises(6, .1)(i) if i < 6 else cosine(i - 6, 6)),
    'warm-up, then milestones': (
        Schedule('multistep', warmup_epochs=1, milestones=(2, 3), unit='step'),
        lambda i, e: rises(3, .1)(i) if i < 3 else .1 ** ((i >= 6) + (i >= 9)))}


@pytest.mark.parametrize('name', SCHEDULES)
def test_rates_step_by_step(name):
    schedule, factor = SCHEDULES[name]
    r = recipe(replace(PHASE, epochs=4, schedule=schedule))
    book = Textbook(NET, Chapter(4, factor=factor))
    check(ours(r), book)
    rates = [line['lr'] for line in book.log]
    assert r.learning_rates(IMAGES) == pytest.approx(rates)
    assert len(set(rates)) > 1 or name == 'constant'


def test_a_plan_of_steps_counts_those_that_hard_examples_leave():
    "Epochs of 3, 2 and 1 steps are 2 in the mean: a line to zero over 3 epochs has 6 steps."
    line = Schedule('linear', t_max=3, unit='step')
    r = recipe(replace(PHASE, epochs=3, keep_fraction=(1, .6, .2), schedule=line))
    book = Textbook(NET, Chapter(3, shares=(1, .6, .2), factor=lambda i, e: 1 - i / 6))
    assert len(book.weights) == 6
    check(ours(r), book)
    assert r.learning_rates(IMAGES) == pytest.approx([.02, .01, .02 / 6])


def noise(images, seed):
    "Images and labels that can be learned by heart only: what is gained there is lost elsewhere."
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8, generator=g)
    return x, torch.arange(images) % 10


def test_the_plateau_goes_by_the_validation_loss():
    x, y = noise(50, 1)
    rules, place = dict(factor=.3, patience=0), held_out(10, x, y)
    schedule = Schedule('plateau', gamma=.3, patience=0)
    p = replace(PHASE, epochs=6, augment=(), schedule=schedule)
    book = Textbook(NET, Chapter(6, draws=(), plateau=rules), **place)
    blind = Textbook(NET, Chapter(6, draws=(), plateau=rules), x=place['x'], y=place['y'])
    rates = [[line['lr'] for line in b.log] for b in (book, blind)]
    assert rates[0] != rates[1] and rates[0][-1] < .02, 'the training loss would decide otherwise'
    check(ours(recipe(p), x, y, holdout=10, keep='last'), book)
    check(ours(recipe(p), place['x'], place['y']), blind)


# Phases

def turned(xb, i, seed, epoch, **_):
    "Mirrored as the coin of the image says, the other way in odd epochs of the training."
    heads = coin(i, seed) != (epoch % 2 == 1)
    return torch.stack([im.flip(-1) if h else im for im, h in zip(xb, heads)])


def sized(*sides):
    def resize(xb, e, **_):
        side = (sides[e],) * 2
        return F.interpolate(xb.float(), side, mode='bilinear', antialias=True).round().byte()
    return resize


def test_a_second_phase_has_its_own_rules_and_goes_on():
    "A fresh optimizer, its own rates, batches, sizes and hard examples; weights and average go on."
    first = replace(PHASE, epochs=3, augment=(RandomCrop(2), AlternatingFlip()),
                    schedule=Schedule('linear', t_max=4))
    second = Phase(3, OPTIMIZERS['dampened'][0], Schedule('cosine', t_max=3), batch_size=10,
                   augment=(RandomCrop(2), AlternatingFlip(), Resize((16, 24, 32))),
                   keep_fraction=(.5, 1), label_smoothing=.1)
    then = (turned, lambda xb, **p: sized(16, 24, 32)(turned(xb, **p), **p))
    third = dict(draws=(RandomCrop(2),), factor=lambda i, e: 1 - e / 4)
    last = dict(draws=(RandomCrop(2),), factor=lambda i, e: cosine(e, 3), shares=(.5, 1), batch=10)
    book = Textbook(NET, Chapter(3, then=then[0], **third), Chapter(
        3, OPTIMIZERS['dampened'][1], then=then[1], smoothing=.1, **last), seed=5, ema=lambda n: .7)
    r = recipe(first, second, ema=.7, ema_warmup=False)
    check(ours(r, seed=5), book)
    assert r.learning_rates(IMAGES) == pytest.approx([line['lr'] for line in book.log])


def test_which_way_an_image_looks_first_depends_on_the_seed():
    x, index = torch.arange(32).expand(64, 3, 32, 32).byte(), torch.arange(64)
    def shown(seed, epoch, begun=0):
        place = dict(epoch=epoch, begun=begun, index=index, seed=seed)
        return Augment((AlternatingFlip(),)).apply(x, index, **place)[0][:, 0, 0, 0] > 0
    for seed in range(5):
        assert torch.equal(shown(seed, 3, 3), ~shown(seed, 2))  # across the border of a phase
        assert 16 < (shown(seed, 0) != shown(seed + 1, 0)).sum() < 48


# The first look

def test_the_whitening_layer_sees_training_images_only():
    "On the patches of the images that are not held out its outputs are uncorrelated."
    net, place = FastSpec(widths=(4, 4, 4)), held_out(20)
    t = ours(recipe(replace(PHASE, epochs=1), net=net), holdout=20)
    filters = t.net.whiten.weight.detach().flatten(1).double()
    def covariance(x):
        p = F.unfold(Chapter().normalized(x), 2).transpose(1, 2).reshape(-1, 12).double()
        return p.T @ p / len(p)
    wanted = torch.linalg.eigvalsh(covariance(place['x'])).flip(0)
    wanted = torch.diag(wanted / (wanted + 5e-4))
    assert torch.equal(filters[12:], -filters[:12])
    error = (filters[:12] @ covariance(place['x']) @ filters[:12].T - wanted).abs().max()
    other = (filters[:12] @ covariance(X) @ filters[:12].T - wanted).abs().max()
    assert error < 1e-3 and other > 1e-2, (error, other)


def test_the_first_look_is_at_5000_images_normalized_as_in_training():
    x = torch.randint(256, (5100, 3, 8, 8), dtype=torch.uint8)
    p = replace(PHASE, mean=(.1, .2, .3), std=(.4, .5, .6))
    t = Trainer(recipe(p, net=FastSpec(widths=(4, 4, 4))), len(x), device='cpu', precision='fp32')
    seen = []
    t.net.prepare = seen.append
    first_look(t, x, torch.arange(10, 5100))
    torch.testing.assert_close(seen[0], normalize(x[10:5010] / 255, p.mean, p.std))


# Muon

def newton_schulz(g, steps=3):
    "The quintic of Jordan's airbench94_muon, in double precision."
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.double() / g.double().norm()
    tall = x.shape[0] > x.shape[1]
    if tall: x = x.T
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if tall else x


class ReferenceMuon(torch.optim.Optimizer):
    """Filters: momentum, Nesterov, norm reset, orthogonalized step. Biases and head: SGD, whose
    decay does not grow with the rate's peak (a step takes lr/peak * decay of the weight)."""
    def __init__(self, params, lr, bias_lr, head_lr, momentum, decay=0., plain=.85, steps=3):
        params = [p for p in params if p.requires_grad]
        kinds = {4: lr, 1: bias_lr, 2: head_lr}
        super().__init__([dict(params=[p for p in params if p.ndim == n], lr=rate, n=n, peak=rate)
                          for n, rate in kinds.items()], {})
        self.momentum, self.decay, self.plain, self.steps = momentum, decay, plain, steps

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group['params']:
                mu = self.momentum if group['n'] == 4 else self.plain
                g = p.grad if group['n'] == 4 else p.grad + self.decay / group['peak'] * p
                buf = self.state[p].setdefault('buf', torch.zeros_like(p))
                buf.mul_(mu).add_(g)
                g = g + mu * buf
                if group['n'] == 4:
                    p.mul_(len(p) ** .5 / p.norm())
                    g = newton_schulz(g.reshape(len(g), -1), self.steps).view(p.shape).float()
                p.add_(g, alpha=-group['lr'])


def test_muon_is_the_published_one():
    "Six steps on gradients that hang together, against the description in double precision."
    g = torch.Generator().manual_seed(0)
    shapes = [(8, 4, 3, 3), (64, 3, 1, 1), (5,), (10, 8)]
    mine, theirs = ([nn.Parameter(torch.randn(s, generator=torch.Generator().manual_seed(1)))
                     for s in shapes] for _ in range(2))
    rates = dict(bias_lr=.2, head_lr=.3)
    a = Muon(mine, .05, .6, True, weight_decay=.01, **rates)
    b = ReferenceMuon(theirs, .05, momentum=.6, decay=.01, **rates)
    start, drift = [p.detach().clone() for p in mine], [torch.randn(s, generator=g) for s in shapes]
    for step in range(6):
        for p, q, d in zip(mine, theirs, drift):
            p.grad = d + torch.randn(p.shape, generator=g)
            q.grad = p.grad.clone()
        for opt in (a, b):
            opt.step()
            for group in opt.param_groups: group['lr'] *= .9
    for p, q, s in zip(mine, theirs, start):
        error = (p - q).norm() / (q - s).norm()
        assert error < (.02 if p.ndim == 4 else 1e-5), (tuple(p.shape), error)


def test_a_training_with_muon():
    net = FastSpec(widths=(8, 8, 8), bn_momentum=.3, whitened=False)
    o = Optimizer('Muon', lr=.05, momentum=.8, nesterov=True, bias_lr=2., head_lr=30.,
                  weight_decay=1e-3)
    line = Schedule('linear', t_max=3, unit='step')
    theirs = Chapter(3, lambda ps: ReferenceMuon(ps, .05, 2., 30., .8, 1e-3), smoothing=.2,
                     factor=lambda i, e: 1 - i / 9)
    t, book = (ours(recipe(Phase(3, o, line, DRAWS, BATCH, label_smoothing=.2), net=net)),
               Textbook(net, theirs))
    losses = [[row['train_loss'] for row in log] for log in (t.log, book.log)]
    assert losses[0] == pytest.approx(losses[1], abs=.02) and losses[1][-1] < losses[1][0] - .1
    start = floats(Textbook(net, replace(theirs, epochs=0)).net)
    for k, v in book.kept[-1].items():
        moved = (v - start[k]).norm()
        assert (network(t).state_dict()[k] - v).norm() <= .05 * moved + 1e-6, k


# Stopped and gone on

WHOLE = recipe(
    replace(PHASE, augment=(*DRAWS, MixUp()), label_smoothing=.1,
            schedule=Schedule('cosine', warmup_epochs=1, t_max=1, unit='step'), micro_batch=5),
    replace(PHASE, epochs=3, keep_fraction=(1, .6), augment=(RandomCrop(2), AlternatingFlip()),
            schedule=Schedule('plateau', gamma=.3, patience=0)),
    net=replace(NET, dropout=.3), ema=.7, clip=1.2)


@pytest.fixture(scope='module')
def whole():
    "50 images, and the textbook's training of `WHOLE` on 40 of them."
    torch.set_num_threads(1)
    x, y = toy(50, seed=2)
    mixed = Chapter(2, draws=WHOLE.phases[0].augment, smoothing=.1, micro=5,
                    factor=lambda i, e: rises(3, .1)(i) if i < 3 else cosine(i - 3, 3))
    waits = Chapter(3, draws=(RandomCrop(2),), then=turned, shares=(1, .6),
                    plateau=dict(factor=.3, patience=0))
    book = Textbook(WHOLE.net, mixed, waits, seed=6, clip=1.2, **held_out(10, x, y),
                    ema=lambda n: min(.7, (1 + n) / (10 + n)))
    return x, y, book


@pytest.fixture
def stop_at(monkeypatch):
    "Raises a real Ctrl-C after each of these steps, counted over all trainings of the test."
    usual, count, wanted = training.update, [0], set()
    def update(t, sums):
        usual(t, sums)
        count[0] += 1
        if count[0] in wanted: signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(training, 'update', update)
    return wanted.update


@pytest.mark.parametrize('keep', ['last', 'best on validation'])
def test_a_training_that_is_never_stopped(whole, keep):
    x, y, book = whole
    assert len(book.weights) == 13 and 0 < book.clipped < 13, book.clipped
    assert book.log[-1]['lr'] < book.log[2]['lr'] and book.best is book.kept[1]
    wanted = book.best if keep != 'last' else None
    check(ours(WHOLE, x, y, seed=6, holdout=10, keep=keep), book, wanted)


def gone_on(out, x, y, **more):
    "The training in `out`, gone on with until it is finished, and how often it was stopped."
    for n in range(99):
        try: return ours(WHOLE, x, y, out, seed=6, holdout=10, resume=n > 0, **more), n
        except Interrupted as e: assert out.name in str(e)


@pytest.mark.parametrize('step', range(1, 13))
def test_stopped_after_any_step_it_ends_as_the_textbook_does(whole, stop_at, tmp_path, step):
    x, y, book = whole
    stop_at({step})
    t, stops = gone_on(tmp_path / 'run', x, y)
    assert stops == 1
    check(t, book, book.best)
    check_weights(Run(tmp_path / 'run').load_net('cpu'), book.best)


def test_stopped_after_every_step_it_ends_as_the_textbook_does(whole, stop_at, tmp_path):
    x, y, book = whole
    stop_at(range(1, 13))
    t, stops = gone_on(tmp_path / 'run', x, y, keep='last')
    assert stops == 12
    check(t, book)
    check_weights(Run(tmp_path / 'run').load_net('cpu'), book.kept[-1])


def test_a_third_of_muons_steps_in_each_sitting(stop_at, tmp_path):
    net = FastSpec(widths=(4, 4, 4), whitened=False)
    o = Optimizer('Muon', lr=.05, momentum=.8, nesterov=True, bias_lr=.2, head_lr=3.)
    r = recipe(Phase(3, o, Schedule('linear', t_max=3, unit='step'), DRAWS, BATCH), net=net)
    whole = floats(ours(r).net)
    stop_at({9 + 4, 9 + 6})
    for n in range(3):
        try: t = ours(r, out=tmp_path / 'run', resume=n > 0)
        except Interrupted: continue
    assert n == 2
    check_weights(t.net, whole, atol=0)


# What goes wrong

def strict(text):
    "JSON that every reader takes: no NaN, no Infinity."
    def no(word): raise ValueError(word)
    return json.loads(text, parse_constant=no)


@dataclass(frozen=True)
class Steep:
    "A layer whose first step leads out of the numbers: its loss is one, its weights are none."
    def build(self):
        net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
        nn.init.zeros_(net[1].weight)
        return net


def diverging(epochs=1, lr=1e30, net=NET, rule=(), **more):
    rule = dict(optimizer=Optimizer('SGD', lr=lr), batch_size=30) | dict(rule)
    p = replace(PHASE, epochs=epochs, **rule)
    return recipe(p, net=net, **more)


DIVERGING = {
    'in its first epoch': diverging(rule=dict(batch_size=10)), 'in its second epoch': diverging(3),
    'clipped': diverging(2, clip=1.), 'its average': diverging(2, ema=.9),
    'its weights only': diverging(net=Steep(), rule=dict(std=(1e-12,) * 3)),
}


@pytest.mark.parametrize('holdout', [0, 10])
@pytest.mark.parametrize('r', DIVERGING.values(), ids=DIVERGING)
def test_a_training_that_diverges_stops_and_says_so(r, holdout, tmp_path):
    out = tmp_path / 'run'
    with pytest.raises(Diverged) as e:
        ours(r, X[:30 + holdout], Y[:30 + holdout], out=out, holdout=holdout)
    assert '\n' not in str(e.value) and 'diverged' in str(e.value) and 'rate' in str(e.value)
    assert not (out / 'result.json').exists() and not (out / 'model.safetensors').exists()
    for f in out.rglob('*.json'): strict(f.read_text(encoding='utf-8'))
    for f in out.glob('*.jsonl'):
        for line in f.read_text(encoding='utf-8').splitlines(): strict(line)
    if (out / 'checkpoint.pt').exists():
        s = torch.load(out / 'checkpoint.pt', weights_only=True)
        assert all(v.isfinite().all() for v in s['net'].values()), 'nobody can go on from there'


@pytest.mark.parametrize('seed', [-1, 2 ** 32, 10 ** 20, 1.5, True, '1', None])
def test_a_seed_that_is_none(seed):
    with pytest.raises(InputError, match='seed .*whole number from 0') as e:
        ours(recipe(), seed=seed)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('seed', [0, 2 ** 32 - 1])
def test_the_first_and_the_last_seed(seed):
    p = replace(PHASE, epochs=1, augment=(AlternatingFlip(),))
    check(ours(recipe(p), seed=seed), Textbook(NET, Chapter(1, draws=(), then=turned), seed=seed))


# What is only noted

def test_a_test_curve_changes_nothing_and_is_that_of_the_network_of_each_epoch(tmp_path):
    """Every epoch's line against the network that a training of that many epochs ends with (the
    rate is constant), stopped and resumed; the rest of the run is the same to the digit."""
    r = recipe(replace(PHASE, epochs=3, schedule=Schedule('constant')))
    xt, yt = X, Y
    quiet = ours(r, out=tmp_path/'quiet')
    drawn = ours(r, out=tmp_path/'drawn', curve=(xt, yt))
    assert quiet.log == drawn.log and not quiet.curve
    for a, b in zip(quiet.net.state_dict().values(), drawn.net.state_dict().values()):
        assert torch.equal(a, b)
    text = (tmp_path/'drawn/test.jsonl').read_text(encoding='utf-8')
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines == drawn.curve and not (tmp_path/'quiet/test.jsonl').exists()
    for n, line in enumerate(lines, 1):
        net = ours(recipe(replace(r.phases[0], epochs=n))).net.eval()
        with torch.no_grad():
            logits = net(Augment((), PHASE.mean, PHASE.std)(xt).contiguous())
        assert line['epoch'] == n
        assert line['test_loss'] == pytest.approx(F.cross_entropy(logits, yt).item(), rel=1e-4)
        assert line['test_accuracy'] == pytest.approx(
            100 * (logits.argmax(1) == yt).float().mean().item(), abs=1.01)


def test_a_test_curve_goes_on(tmp_path):
    r, xt, yt = recipe(replace(PHASE, epochs=3)), X, Y
    whole = ours(r, curve=(xt, yt)).curve
    def stop(sentence):
        if sentence.startswith('epoch 2'): signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted): ours(r, out=tmp_path/'run', curve=(xt, yt), say=stop)
    assert len(Run(tmp_path/'run').lines('test')) == 2
    assert ours(r, out=tmp_path/'run', curve=(xt, yt), resume=True).curve == whole
    assert Run(tmp_path/'run').lines('test') == whole


@pytest.mark.parametrize('how, kept', [('nonsense', False), ('eager', 'eager')])
def test_the_manifest_says_whether_the_network_was_compiled(how, kept, tmp_path):
    "Where a backend does not work, the network stays as it is written, and the manifest says so."
    t = ours(recipe(replace(PHASE, epochs=1)), out=tmp_path/'run', compile=how)
    m = json.loads((tmp_path/'run/manifest.json').read_text(encoding='utf-8'))
    assert m['sittings'][-1]['compile'] == kept == t.manifest['sittings'][-1]['compile']


def test_graphs_want_whole_batches():
    says = "'reduce-overhead' keeps the gradients of one micro-batch"
    with pytest.raises(InputError, match=says):
        ours(recipe(replace(PHASE, micro_batch=5)), compile='reduce-overhead')


def test_sizes_of_batches_are_warmed_up_without_gradients_of_others(monkeypatch):
    "Gradients lie in the memory of a CUDA graph: those of one size must be gone before the next."
    t, kept = Trainer(recipe(), 100, device='cpu'), []
    def noted(t, xb, yb, whole, counts=True):
        kept.append((len(xb), [p.grad is None for p in t.net.parameters()]))
        return gradients(t, xb, yb, whole, counts)
    gradients = training.gradients
    monkeypatch.setattr(training, 'gradients', noted)
    training.warm_up(t)
    assert len(kept) > 1 and all(all(none) for _, none in kept)


# Devices, formats and kernels

@pytest.mark.parametrize('call, why', [
    (lambda: choose_device('gpu'), "no device 'gpu'"),
    (lambda: choose_device('cuda:99'), 'this machine has cpu.*: leave --device out'),
    (lambda: choose_precision(choose_device('cpu'), 'fp16'), 'overflows'),
    (lambda: choose_precision(choose_device('cpu'), 'bf8'), "no precision 'bf8'")])
def test_what_this_machine_has_not(call, why):
    with pytest.raises(InputError, match=why): call()


@pytest.mark.parametrize('there', [True, False])
def test_a_mac_is_told_what_its_gpu_is_called(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: there)
    has = 'cpu, mps' if there else 'cpu'
    with pytest.raises(InputError, match=f'this machine has {has}: leave'): choose_device('gpu')


def test_a_card_that_is_too_old(monkeypatch):
    def zeros(*args, **kwargs): raise RuntimeError('no kernel image is available')
    monkeypatch.setattr(torch, 'zeros', zeros)
    with pytest.raises(InputError, match='too old'): choose_device('cuda')


def test_the_format_is_the_hardwares_unless_forced():
    assert isinstance(cpu_has_bf16(), bool)
    assert choose_precision(torch.device('cpu')).name == ('bf16' if cpu_has_bf16() else 'fp32')
    forced = choose_precision(torch.device('cpu'), 'fp32 nchw')
    assert forced.memory_format is torch.contiguous_format


@pytest.mark.parametrize('capability, name', [
    ((6, 1), 'fp32'), ((7, 0), 'fp16'), ((7, 5), 'fp16'), ((8, 0), 'bf16'), ((8, 9), 'bf16'),
    ((9, 0), 'bf16'), ((10, 0), 'bf16')])
def test_the_format_of_a_gpu(capability, name, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    assert choose_precision(torch.device('cuda')).name == name


def test_optimizers_are_fused_on_gpus_where_torch_has_that():
    names = 'SGD', 'Adam', 'AdamW', 'RMSprop'
    assert [training.fused_option(name, torch.device('cuda')) for name in names] == [
        dict(fused=True)] * 3 + [{}]
    assert training.fused_option('SGD', torch.device('cpu')) == {}


def test_a_batch_larger_than_all_images():
    with pytest.raises(InputError, match='larger than the 10 training images'):
        Trainer(recipe(), 10)


def test_a_compiled_network_is_warm_for_every_batch_and_side():
    """`torch.compile` takes a graph for each shape that it meets: those of a training all before it
    begins. Batches of 16 and 8 images of 8 and 12 pixels, then (.8 of the images are 32) of 16 only
    with 16: five shapes."""
    taken = []
    def backend(graph, inputs):
        taken.append(1)
        return graph.forward
    plan = Recipe('growing', NET, (Phase(3, SGD, batch_size=BATCH, keep_fraction=(1, 1, .8),
                                         augment=(*DRAWS, Resize((8, 12, 16)))),))
    t, said = Trainer(plan, IMAGES, device='cpu', precision='fp32'), []
    torch._dynamo.reset()
    compile_forward(t, backend, said.append)
    assert 'compiled' in said[0] and len(taken) == 5
    for _ in range(3):
        train_epoch(t, X, Y)
        end_epoch(t, 1.)
    assert len(taken) == 5


@pytest.mark.parametrize('images, sizes', [
    (101, {50, 51}), (102, {50, 2}), (100, {50}), (50, {50})])
def test_a_network_is_warmed_up_for_the_batches_that_come(images, sizes):
    "A single image that is left over goes with the last batch: 101 in batches of 50 are 50 and 51."
    t = Trainer(Recipe('r', NET, (Phase(1, SGD, batch_size=50),)), images, device='cpu')
    assert training._shapes(t) == {(n, 32) for n in sizes}
    met = []
    t.net.register_forward_hook(lambda net, inputs, y: met.append(len(y)))
    train_epoch(t, *toy(images))
    assert set(met) == sizes


def test_a_network_that_does_not_compile_has_no_graphs(monkeypatch):
    def fail(t): raise RuntimeError('no compiler')
    monkeypatch.setattr(training, 'warm_up', fail)
    t, said = Trainer(recipe(), IMAGES, device='cpu'), []
    compile_forward(t, 'reduce-overhead', said.append)
    assert 'does not work here (RuntimeError: no compiler)' in said[0]
    assert t.forward is t.net and not t.graphs


def test_random_numbers_of_all_cards_are_kept_by_name(monkeypatch):
    "Where there are several, `fork_rng` warns in each process unless it is told which."
    asked, fork = [], torch.random.fork_rng
    def noted(devices=None, **rest):
        asked.append(devices)
        return fork(devices, **rest)
    monkeypatch.setattr(torch.random, 'fork_rng', noted)
    ours(recipe(Phase(1, SGD, batch_size=BATCH)))
    planned(recipe(), X, Y, device='cpu')
    measure_pace(recipe(), X, Y, 1, 'cpu')
    assert len(asked) >= 3 and all(d == range(torch.cuda.device_count()) for d in asked)


def test_fp32_needs_nothing_of_a_device():
    "torch 2.4 refuses `autocast('mps', enabled=False)`; a device nobody knows stands for it."
    class Unknown: type = 'toaster'
    with Precision('fp32', '').autocast(Unknown): assert not torch.is_autocast_enabled('cpu')
    with pytest.raises(RuntimeError): Precision('bf16', '').autocast(Unknown).__enter__()
    with Precision('bf16', '').autocast(torch.device('cpu')):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
