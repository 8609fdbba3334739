"""The operation of chapter 44 computes what batch norm, an addition and an activation compute, or
is done without."""
import re

import pytest
import torch
import torch.nn.functional as F

from cifar_nb.bench.inference import fold_batch_norm
from cifar_nb.core.errors import InputError
from cifar_nb.kernels import fused_norm as norm
from cifar_nb.kernels.compiler import source
from cifar_nb.kernels.dispatch import use_cpu_kernels
from cifar_nb.kernels.fused_norm import FAR, at_once, bench_norm, cases, distances, norm_kernel
from cifar_nb.models.airbench import FastSpec
from cifar_nb.models.resnet import ACTIVATIONS, BatchNorm, Block, NetSpec, count_macs, finish

TRANSFORMS, WHY = norm_kernel()
here = pytest.mark.skipif(not TRANSFORMS, reason=f"no kernel: {WHY}")
CASES = [(d, *c) for d in FAR for c in cases(d)]


@here
@pytest.mark.parametrize("dtype, activation, adds", CASES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [(9, 8, 1, 1), (3, 16, 5, 5), (40, 24, 3, 2), (2, 32, 32, 32), (7, 64, 15, 15), (6, 232, 4, 4),
     (5, 256, 7, 7), (70, 512, 2, 2), (4, 40, 31, 1)], ids=str)
def test_as_close_as_rounding_lets_it_be(dtype, activation, adds, shape):
    assert max(distances(TRANSFORMS, dtype, activation, adds, shape, mean=1.)) < FAR[dtype]


@here
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_number_of_threads(count, threads):
    threads(count)
    for dtype, activation, adds in CASES:
        assert max(distances(TRANSFORMS, dtype, activation, adds, (5, 48, 3, 3))) < FAR[dtype]


@here
def test_the_number_of_threads_changes_no_digit(threads):
    x, g = (torch.randn(50, 40, 9, 9).bfloat16().contiguous(memory_format=torch.channels_last)
            for _ in range(2))
    seen = []
    for count in (1, 2, 5):
        threads(count)
        inputs = [x.clone().requires_grad_(), torch.ones(40).requires_grad_(),
                  torch.zeros(40).requires_grad_()]
        y, mean, var = at_once(*inputs, "gelu")
        seen.append((y, mean, var, *torch.autograd.grad(y, inputs, g)))
    for other in seen[1:]: assert all(torch.equal(a, b) for a, b in zip(seen[0], other))


@here
def test_a_mean_far_from_zero_costs_no_digits():
    x = torch.randn(64, 16, 8, 8).add(1000)
    y, mean, var = at_once(x, torch.ones(16), torch.zeros(16))
    exact = x.double()
    torch.testing.assert_close(var.double(), exact.var((0, 2, 3), correction=0), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        y.double(), F.batch_norm(exact, None, None, training=True), rtol=0, atol=2e-3)


@here
def test_a_constant_channel_gives_its_shift():
    y, _, var = at_once(torch.full((8, 8, 4, 4), 3.), torch.ones(8), torch.arange(8.))
    assert torch.equal(y, torch.arange(8.).view(1, 8, 1, 1).expand_as(y)) and not var.any()


@here
def test_gelu_from_one_end_to_the_other():
    z = torch.linspace(-30, 30, 4096).bfloat16().view(1, 1, 64, 64).expand(1, 8, 64, 64).contiguous(
        memory_format=torch.channels_last)
    mean, std = z[0, 0].float().mean(), z[0, 0].float().var(correction=0).add(1e-5).sqrt()
    # normalized and put back
    y = at_once(z, torch.full((8,), std.item()), torch.full((8,), mean.item()), "gelu")[0]
    torch.testing.assert_close(y.float(), F.gelu(z.float()), rtol=2 ** -7, atol=2e-3)


@here
@pytest.mark.parametrize(
    "dtype, activation",
    [(torch.float32, None), (torch.float32, "relu"), (torch.bfloat16, "gelu")], ids=str)
def test_numbers_that_are_none_stay_none(dtype, activation):
    "As in torch a ReLU lets through what comes back to them: 512 ones, summed for the shift."
    x = torch.randn(8, 16, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    x[0, 3, 0, 0] = float("nan")
    shift = torch.zeros(16).requires_grad_()
    y = at_once(x.requires_grad_(), torch.ones(16), shift, activation)[0]
    grad, of_shift = torch.autograd.grad(y.float().sum(), (x, shift))
    if activation == "relu": assert of_shift[3] == 512
    for v in (y, grad):
        assert v[:, 3].isnan().all() and not v[:, :3].isnan().any() and not v[:, 4:].isnan().any()


@here
@pytest.mark.parametrize(
    "dtype, activation, adds",
    [(torch.bfloat16, "gelu", True), (torch.float32, "gelu", False), (torch.float32, "silu", False),
     (torch.float64, None, False)], ids=str)
def test_what_it_cannot_do_it_refuses(dtype, activation, adds):
    x = torch.randn(8, 16, 4, 4, dtype=dtype)
    with pytest.raises(InputError, match="at_once does not know"):
        at_once(x, torch.ones(16), torch.zeros(16), activation, x if adds else None)


@here
def test_only_asked_for_gradients_matter():
    x, w, b = torch.randn(8, 16, 8, 8), torch.ones(16), torch.zeros(16).requires_grad_()
    y = at_once(x, w, b, "relu")[0]
    assert torch.equal(torch.autograd.grad(y.sum(), b)[0], (y > 0).sum((0, 2, 3)).float())
    with torch.no_grad(): assert not at_once(x, w, b)[0].requires_grad


@pytest.mark.parametrize("name, f", [("CDF", lambda z: .5 * (1 + torch.erf(z / 2 ** .5))),
                                     (
                                         "SLOPE", lambda z: torch.func.vmap(
                                             torch.func.grad(F.gelu))(z))])
def test_the_polynomials_of_the_source(name, f):
    """Up to 4 they are as near to the normal distribution and to GELU's slope as bf16 can tell, and
    half of a half."""
    numbers = re.search(rf"{name}\[\] = \{{(.*?)\}}", source("fused_norm"), re.DOTALL)[1]
    c = [float(v) for v in re.findall(r"[-+.e\d]+(?=f)", numbers)]
    z = torch.linspace(-4, 4, 2001, dtype=torch.float64)
    assert len(c) == 9 and (.5 + z * sum(v * z ** (2 * i) for i, v in enumerate(c)) - f(z)).abs(
        ).max() < 2 ** -12


def without_cache(monkeypatch, tmp_path, **env):
    monkeypatch.setenv("CIFAR_NB_CACHE", str(tmp_path))
    for k, v in env.items(): monkeypatch.setenv(k, v)
    return norm_kernel.__wrapped__()


def test_it_can_be_switched_off(monkeypatch, tmp_path):
    assert without_cache(monkeypatch, tmp_path, CIFAR_NB_KERNEL="off") == (
        None, "CIFAR_NB_KERNEL is off")
    assert not any(tmp_path.iterdir())


@here
def test_without_a_compiler_there_is_a_reason(monkeypatch, tmp_path):
    assert without_cache(monkeypatch, tmp_path, CXX="no-such-compiler") == (
        None, "there is no compiler called no-such-compiler")
    assert not [*(tmp_path / "kernels").glob("[!.]*")]


@here
def test_a_wrong_kernel_is_found_out(monkeypatch):
    class Wrong:
        norm = TRANSFORMS.norm
        @staticmethod
        def norm_backward(*args):
            dx, *rest = TRANSFORMS.norm_backward(*args)
            return dx * 1.02, *rest
    assert max(distances(TRANSFORMS, torch.float32)) < FAR[torch.float32] < max(
        distances(Wrong, torch.float32))
    monkeypatch.setattr(norm, "distances", lambda ops, *a: distances(Wrong, *a))
    assert norm_kernel.__wrapped__() == (
        None, "the compiled kernel does not compute what it should")


NETS = {"gelu": FastSpec(widths=(16, 32), activation="gelu"),
        "relu": FastSpec(widths=(16, 32), activation="relu"),
        "residual": NetSpec(widths=(16, 32), depths=(1, 1), strides=(1, 2)),
        "plain": NetSpec(widths=(16,), depths=(2,), strides=(1,), block="plain"),
        "squeezed": NetSpec(widths=(16, 32), depths=(1, 1), strides=(1, 2), se=4)}


@here
@pytest.mark.parametrize("spec", NETS.values(), ids=NETS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_a_network_is_the_usual_one(spec, precision):
    torch.manual_seed(0)
    net, x, y = (spec.build().to(memory_format=torch.channels_last),
                 torch.randn(32, 3, 32, 32).contiguous(memory_format=torch.channels_last),
                 torch.randint(10, (32,)))
    if hasattr(net, "prepare"): net.prepare(x)
    before, seen = {k: v.clone() for k, v in net.state_dict().items()}, []
    for quick in (False, True):
        net.load_state_dict(before)
        net.zero_grad()
        assert not quick or use_cpu_kernels(net, str, ['fused_norm'])
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"): logits = net(x)
        F.cross_entropy(logits.float(), y).backward()
        seen.append(
            torch.cat(
                [logits.detach().float().flatten(),
                 *(p.grad.flatten() / (p.grad.norm() + 1e-3) for p in net.parameters()
                   if p.grad is not None), *(
                       v.float().flatten() for k, v in net.state_dict().items() if "running" in k
                       or "tracked" in k)]))
    usual, ours = seen
    assert (usual - ours).norm() <= dict(fp32=2e-3, bf16=.12)[precision] * usual.norm()
    # GELU's polynomials are for bf16
    assert torch.equal(usual, ours) == (precision == "fp32" and spec is NETS["gelu"])


@here
def test_judging_and_counting_go_the_usual_way():
    net = NetSpec(widths=(16,), depths=(1,), strides=(1,)).build()
    plain = count_macs(net), net.eval()(torch.ones(16, 3, 32, 32))
    assert use_cpu_kernels(net, str, ['fused_norm'])
    assert count_macs(net) == plain[0] and torch.equal(net(torch.ones(16, 3, 32, 32)), plain[1])


@here
def test_what_it_does_not_know_goes_the_usual_way():
    bn, x = BatchNorm(16), torch.randn(64, 16, 8, 8)
    def asked(bn=bn, x=x, **k): return norm.fused_forward(bn, x, **k) is not None
    assert (asked() and asked(activation="relu", add=x.clone())
            and asked(x=x.bfloat16(), activation="gelu"))
    odd = [dict(bn=BatchNorm(12), x=x[:, :12]), dict(x=x.half()), dict(x=x.double()),
           dict(activation="silu"), dict(activation="gelu"), dict(x=x.bfloat16(), add=x),
           dict(x=x.bfloat16(), activation="gelu", add=x.bfloat16()), dict(x=x[:2]),
           dict(bn=BatchNorm(16384), x=torch.randn(1, 16384, 1, 1)),
           dict(bn=BatchNorm(16, affine=False)), dict(bn=BatchNorm(16, momentum=None)),
           dict(bn=BatchNorm(16, track_running_stats=False)), dict(bn=BatchNorm(16).eval()),
           dict(x=torch.zeros(64, 16, 8, 8, device="meta"))]
    assert [k for k in odd if asked(**k)] == []


@here
def test_a_compiled_network_does_not_ask_for_it():
    block, x = Block(16, 16), torch.randn(16, 16, 8, 8)
    assert use_cpu_kernels(block, str, ['fused_norm'])
    quick = block(x)
    torch.testing.assert_close(
        torch.compile(block, backend="eager", fullgraph=True)(x), quick, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("adds", [False, True])
def test_what_follows_a_norm(activation, adds):
    x, add, plain = torch.randn(4, 6, 5, 5), torch.randn(4, 6, 5, 5), torch.nn.BatchNorm2d(6)
    z = plain(x) + add if adds else plain(x)
    want = dict(relu=F.relu, silu=F.silu, gelu=F.gelu).get(activation, lambda v: v)(z)
    torch.testing.assert_close(BatchNorm(6)(x, activation, add if adds else None), want)
    torch.testing.assert_close(
        finish(plain.eval()(x), activation), finish(plain(x).clone(), activation))


@pytest.mark.parametrize("se", [0, 4])
def test_folded_blocks_still_add_and_bend(se):
    block, x = Block(16, 32, stride=2, se=se), torch.randn(4, 16, 8, 8)
    for _ in range(3): block(torch.randn(16, 16, 8, 8))
    block.eval()
    torch.testing.assert_close(fold_batch_norm(block)(x), block(x), rtol=1e-4, atol=1e-4)
    assert (block(x) >= 0).all()


def test_the_race_says_what_it_cannot_race(monkeypatch):
    with pytest.raises(InputError, match="not on cuda: say --device cpu"): bench_norm("cuda")
    monkeypatch.setattr(norm, "norm_kernel", lambda: (None, "there is no compiler"))
    with pytest.raises(InputError, match="no kernel to race: there is no compiler"): bench_norm()
