"""Compiled kernels belong to one network: they are seen in `print(net)`, go away again, and change
nothing of any other network in the process."""
import copy

import pytest
import torch

from cifar_nb.data.cifar import toy
from cifar_nb.kernels import dispatch, gradient, winograd
from cifar_nb.kernels import fused_norm as norm
from cifar_nb.kernels.dispatch import KERNELS, cpu_kernels, use_cpu_kernels, use_torch_layers
from cifar_nb.kernels.fused_norm import norm_kernel
from cifar_nb.kernels.gradient import ProductConv, cpu_has
from cifar_nb.kernels.winograd import WinogradConv, kernel
from cifar_nb.models.airbench import FastSpec
from cifar_nb.models.resnet import BatchNorm, Conv, NetSpec, count_macs
from cifar_nb.recipes.spec import Optimizer, Phase, Recipe, Schedule
from cifar_nb.teams.zoo import get_recipe, list_recipes
from cifar_nb.training.loop import network
from cifar_nb.training.train import train

here = pytest.mark.skipif(
    not kernel()[0] or not norm_kernel()[0], reason="no compiled kernels here")
FAST = FastSpec(widths=(32, 64), activation="relu")
PLAN = Recipe("wide", FAST, (Phase(2, Optimizer("SGD", lr=.02, momentum=.9),
                                   Schedule("linear", t_max=2), batch_size=100),), ema=.9)


def classes(net): return [type(m).__name__ for m in net.modules()]


@here
@pytest.mark.parametrize(
    "spec", [FAST, FastSpec(widths=(64, 64), depth=3), NetSpec(depths=(1, 1, 0, 0))],
    ids=["pooled", "deeper", "residual"])
def test_print_shows_what_was_swapped_and_all_comes_back(spec):
    net = spec.build()
    before, keys = str(net), list(net.state_dict())
    assert use_cpu_kernels(net, str) == [
        k for k in KERNELS if k != "product" or cpu_has("amx_bf16")]
    assert "WinogradConv(" in str(net) and "FusedBatchNorm(" in str(net)
    assert list(net.state_dict()) == keys
    use_torch_layers(net)
    assert str(net) == before and {"Conv", "BatchNorm"} <= set(classes(net))


@here
def test_only_layers_for_which_it_may_pay_are_swapped():
    net = NetSpec(widths=(12, 64), depths=(1, 1), strides=(1, 2)).build()
    assert "winograd" in use_cpu_kernels(net, str)
    swapped = [m for m in net.modules() if isinstance(m, WinogradConv)]
    assert [(m.in_channels, m.out_channels, m.stride) for m in swapped] == [(64, 64, (1, 1))]
    assert type(net.bn1) is BatchNorm  # twelve channels
    assert use_cpu_kernels(torch.nn.Sequential(Conv(4, 4)), str) in ([], ["product"])


@here
def test_what_is_not_asked_for_is_not_swapped():
    for names in (["winograd"], ["fused_norm"], []):
        net = FAST.build()
        assert use_cpu_kernels(net, str, names) == names
        assert ("WinogradConv" in str(net), "FusedBatchNorm" in str(net)) == \
               ("winograd" in names, "fused_norm" in names)


@here
@pytest.mark.parametrize("training", [True, False])
def test_the_answers_are_those_of_torchs_layers(training):
    torch.manual_seed(0)
    net = FAST.build().train(training)
    x = torch.randn(64, 3, 32, 32)
    net.prepare(x)
    other = copy.deepcopy(net)
    use_cpu_kernels(other, str)
    a, b = net(x), other(x)
    torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-3)
    assert not torch.equal(a, b)  # or nothing was swapped
    use_torch_layers(other)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(x), net.eval()(x)) and classes(other) == classes(net)


@here
def test_a_training_changes_nothing_of_another_network():
    """Its logits, its count of multiply-adds and its trace, before, while and after another one is
    trained."""
    torch.manual_seed(0)
    other, x = (NetSpec(widths=(64, 128), depths=(1, 1), strides=(1, 2)).build().eval(),
                torch.randn(64, 3, 32, 32))
    def facts():
        with torch.no_grad(): graph = torch.jit.trace(other, x).inlined_graph
        with torch.no_grad(): return other(x), count_macs(other), [n.kind() for n in graph.nodes()]
    seen = [facts()]
    t = train(PLAN, *toy(600), device="cpu", progress=False,
              say=lambda line: seen.append(facts()) if line.startswith("epoch") else None)
    seen.append(facts())
    assert t.manifest["sittings"][0]["kernels"][-1] == "winograd" and len(seen) == 4
    for logits, macs, graph in seen[1:]:
        assert torch.equal(logits, seen[0][0]) and (macs, graph) == seen[0][1:]


@here
def test_whatever_happens_in_the_block_the_kernels_go():
    net = FAST.build()
    before = str(net)
    with pytest.raises(KeyError), cpu_kernels(net, say=str) as names:
        assert "winograd" in names and str(net) != before
        raise KeyError
    assert str(net) == before
    with cpu_kernels(net, wanted=False, say=str) as names: assert names == [] and str(net) == before


@here
def test_a_trained_network_is_the_plain_one_of_its_spec():
    t = train(PLAN, *toy(600), device="cpu", progress=False, say=str)
    plain = FAST.build().eval().to(memory_format=torch.channels_last)
    for net in (t.net, t.ema.module, network(t)): assert classes(net) == classes(plain)
    plain.load_state_dict(network(t).state_dict())
    x = torch.randn(8, 3, 32, 32, requires_grad=True)
    net = network(t).eval()
    assert torch.equal(net(x), plain(x))
    g, = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    assert torch.autograd.grad(g.square().sum(), x)[0].isfinite().all()  # and once more


@here
def test_two_trainings_are_the_same_and_differ_from_one_without(tmp_path):
    a, b, c = (train(PLAN, *toy(600), device="cpu", kernels=k, progress=False, say=str)
               for k in (None, None, False))
    losses = [[line["train_loss"] for line in t.log] for t in (a, b, c)]
    assert losses[0] == losses[1] != losses[2]
    assert c.manifest["sittings"][0]["kernels"] == []
    assert losses[0] == pytest.approx(losses[2], rel=.01)


def test_why_there_are_none_is_said_once(monkeypatch):
    why = "there is no compiler called g++"
    monkeypatch.setattr(dispatch, "norm_kernel", lambda: (None, why))
    monkeypatch.setattr(dispatch, "kernel", lambda: (None, (), why))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    net, said = FAST.build(), []
    assert use_cpu_kernels(net, said.append) in ([], ["product"])
    assert said == [f"without compiled kernels: {why}"] and "Winograd" not in str(net)
    assert use_cpu_kernels(torch.nn.Linear(2, 2), said.append) == [] and len(said) == 1


def test_products_are_for_processors_with_tiles(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(dispatch, "cpu_has", lambda *flags: has)
        net = FAST.build()
        assert use_cpu_kernels(net, str, ["product"]) == ["product"] * has
        assert any(type(m) is ProductConv for m in net.modules()) == has


def test_a_list_of_flags_that_is_no_text(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_bytes(b"model name: \xff\nflags: avx amx_bf16\n")
    monkeypatch.setattr(gradient, "Path", lambda _: tmp_path / "cpuinfo")
    asked = cpu_has.__wrapped__  # without what it remembers of this processor
    assert asked("amx_bf16") and not asked("amx_fp16")


def test_a_gpu_is_left_alone():
    x = torch.zeros(250, 64, 8, 8, device="meta")
    conv, bn = WinogradConv(64, 64).to("meta"), norm.FusedBatchNorm(64).to("meta")
    assert winograd.winograd_forward(conv, x, False) is None and norm.fused_forward(bn, x) is None
    assert bn(conv(x), "relu").shape == x.shape


@pytest.mark.parametrize("recipe", sorted({(r.name, r.variant) for r in list_recipes()}))
def test_torchinfo_counts_the_multiply_adds_that_we_count(recipe):
    from torchinfo import summary
    net = get_recipe(*recipe).net.build()
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    shown = summary(net, (1, 3, 32, 32), verbose=0, device="cpu").summary_list
    bias = {id(m): m.bias is not None for m in net.modules() if isinstance(m, kinds)}
    macs = 0
    for info in shown:
        if isinstance(info.module, kinds):
            outputs = torch.Size(info.output_size).numel()
            macs += info.macs - outputs * bias[id(info.module)]  # torchinfo counts a bias as one
    assert macs == count_macs(net)


@pytest.mark.parametrize("recipe", sorted({(r.name, r.variant) for r in list_recipes()}))
def test_a_trace_counts_the_multiply_adds_that_we_count(recipe):
    from torch.utils.flop_counter import FlopCounterMode
    net = get_recipe(*recipe).net.build().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter: net(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() == 2 * count_macs(net)
    assert not any(m._forward_hooks for m in net.modules()) and not net.training


def test_a_linear_layer_counts_for_every_row_that_it_sees():
    "By hand: 16 rows of 12 numbers each make 5, and then one row of 80 makes 2."
    class Rows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(12, 5), torch.nn.Linear(80, 2)

        def forward(self, x): return self.b(self.a(x[:, :, :8, :8].reshape(1, 16, 12)).flatten(1))
    assert count_macs(Rows()) == 16 * 12 * 5 + 80 * 2
