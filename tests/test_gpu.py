"""What only a GPU can show: the same digits with and without CUDA graphs, and a compiled training
that learns what the plain one learns. Without a GPU all of it is left out."""
import pytest
import torch

from cifar_nb.augment.policies import LISTS
from cifar_nb.recipes.vary import vary
from cifar_nb.teams.zoo import get_recipe
from cifar_nb.training.graphs import Replay
from cifar_nb.training.loop import Trainer
from cifar_nb.training.train import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def noise(n):
    g = torch.Generator().manual_seed(1)
    return (torch.randint(0, 256, (n, 3, 32, 32), generator=g, dtype=torch.uint8),
            torch.randint(0, 10, (n,), generator=g))


@pytest.mark.parametrize("team", LISTS)
def test_a_graph_draws_what_the_operations_draw(team):
    from cifar_nb.augment.ops import Augment
    x, y = (v.cuda() for v in noise(512))
    augment, rng = Augment(LISTS[team]), torch.Generator("cuda").manual_seed(7)
    def draw(i): return augment(x[i], y[i], generator=rng, dtype=torch.bfloat16)
    indices = [torch.randperm(512, device="cuda")[:64] for _ in range(5)]
    want = [[v.clone() for v in draw(i)] for i in indices]
    end = rng.get_state()
    rng.manual_seed(7)
    replay = Replay(draw, indices[0], rng)
    for i, (xb, yb) in zip(indices, want):
        got = replay(i)
        assert torch.equal(got[0], xb) and torch.equal(got[1], yb)
    assert torch.equal(rng.get_state(), end)
    assert not torch.equal(want[0][0], want[1][0])


def test_a_seed_set_between_replays_counts():
    "Each epoch sets the generator anew, as a resumed training does."
    x, y = (v.cuda() for v in noise(64))
    rng, index = torch.Generator("cuda").manual_seed(1), torch.arange(64, device="cuda")
    replay = Replay(lambda i: torch.rand(4, generator=rng, device="cuda") + i[:4], index, rng)
    first = replay(index).clone()
    other = replay(index).clone()
    rng.manual_seed(1)
    assert torch.equal(replay(index), first) and not torch.equal(first, other)


def short(name, variant="code", epochs=1):
    return vary(get_recipe(name, variant), epochs=epochs, batch_size=64)


@pytest.mark.parametrize("compile", [False, "inductor", "reduce-overhead"])
def test_a_compiled_training_learns_what_the_plain_one_learns(compile):
    """Compiled kernels round otherwise, so the losses agree as far as the noise of bf16 in 60 steps
    lets them; statistics of batch norm are kept up to date in graphs too."""
    x, y = noise(640)
    x[:, 0] = (y * 25).to(torch.uint8)[:, None, None]  # something to learn
    recipe = vary(get_recipe("small", "report"), epochs=6, batch_size=64)
    plain = train(recipe, x, y, seed=1, device="cuda", say=lambda s: None, progress=False)
    other = train(recipe, x, y, seed=1, device="cuda", compile=compile, say=print, progress=False)
    ours, theirs = ([line["train_loss"] for line in t.log] for t in (plain, other))
    assert ours[0] - ours[-1] > .5
    assert max(abs(a - b) for a, b in zip(ours, theirs)) < .25 * ours[0]
    for (k, a), b in zip(plain.net.state_dict().items(), other.net.state_dict().values()):
        if "num_batches" in k: assert a == b
        if k.endswith("running_mean"): assert b.abs().sum() > 0


def test_graphs_change_no_digit_of_a_training():
    x, y = noise(320)
    recipe = short("dreamfire")
    def once(graphs):
        t = Trainer(recipe, 320, seed=3, device="cuda")
        t.graphs = graphs
        from cifar_nb.training.loop import train_epoch
        drawn = []
        forward = t.forward
        t.forward = lambda xb: (drawn.append(xb.clone()), forward(xb))[1]
        train_epoch(t, x.cuda(), y.cuda())
        assert (t.replay is not None) == graphs
        return drawn
    assert all(torch.equal(a, b) for a, b in zip(once(False), once(True), strict=True))


@pytest.mark.parametrize("first, then", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_training_goes_on_on_another_kind_of_device(first, then, tmp_path):
    from cifar_nb.training import train as whole
    x, y = noise(640)
    x[:, 0] = (y * 25).to(torch.uint8)[:, None, None]
    recipe = vary(get_recipe("small", "report"), epochs=4, batch_size=64)
    def once(device, **more):
        return train(recipe, x, y, tmp_path, device=device, precision="fp32", kernels=False,
                     progress=False, say=lambda s: None, **more)
    save = whole.save_checkpoint
    def dies(t, out):
        save(t, out)
        if t.epoch == 2: raise KeyboardInterrupt
    whole.save_checkpoint = dies
    try: once(first)
    except KeyboardInterrupt: pass
    finally: whole.save_checkpoint = save
    t = once(then, resume=True)
    losses = [line["train_loss"] for line in t.log]
    assert len(losses) == 4 and losses[3] < losses[1]
    assert [s["device"] for s in t.manifest["sittings"]] == [first, then]
