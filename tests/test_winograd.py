"""The kernel of chapter 43 computes what a convolution computes, to the digit, or is done without.
"""
import pytest
import torch
import torch.nn.functional as F

from cifar_nb.augment.ops import RandomHorizontalFlip
from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import toy
from cifar_nb.kernels import winograd
from cifar_nb.kernels.compiler import kernel_library
from cifar_nb.kernels.dispatch import use_cpu_kernels
from cifar_nb.kernels.winograd import (bench_winograd, by_tiles, is_exact, kernel, tiled_conv,
                                       whole_numbers)
from cifar_nb.models.airbench import FastSpec
from cifar_nb.models.resnet import Conv, NetSpec, count_macs
from cifar_nb.recipes.spec import Optimizer, Phase, Recipe, Schedule
from cifar_nb.training.loop import Trainer, train_epoch

TRANSFORMS, FORMATS, WHY = kernel()
here = pytest.mark.skipif(not TRANSFORMS, reason=f"no kernel: {WHY}")
formats = pytest.mark.parametrize("dtype", FORMATS, ids=str)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 7), (3, 8, 9, 2)])
def test_tiles_are_a_convolution(shape):
    x, w = (torch.randn(shape, dtype=torch.float64),
            torch.randn(5, shape[1], 3, 3, dtype=torch.float64))
    torch.testing.assert_close(by_tiles(x, w), F.conv2d(x, w, padding=1))


@here
@formats
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(
    "n, c, f, side",
    [(1, 8, 8, 2), (3, 24, 64, 31), (7, 64, 256, 15), (5, 256, 256, 7), (9, 256, 128, 3),
     (250, 32, 40, 4), (2, 232, 16, 8), (70, 16, 8, 5)])
def test_exact_in_every_shape(dtype, pool, n, c, f, side):
    assert is_exact(TRANSFORMS, dtype, n, c, f, side, pool)


@here
@formats
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_exact_with_any_number_of_threads(dtype, count, threads):
    threads(count)
    for case in (dict(n=3, c=16, f=24, side=6, pool=False),
                 dict(n=40, c=160, f=136, side=5, pool=True)):
        assert is_exact(TRANSFORMS, dtype, **case)


@here
@formats
def test_sides_may_differ(dtype):
    x, w = whole_numbers(3, 16, 5, 8), whole_numbers(24, 16, 3, 3, seed=1)
    for pool in (False, True):
        y = F.conv2d(x, w, padding=1)
        assert torch.equal(tiled_conv(x.to(dtype), w, pool),
                           (F.max_pool2d(y, 2) if pool else y).to(dtype))


@here
def test_a_wrong_kernel_is_found_out():
    class Wrong:
        winograd_backward = TRANSFORMS.winograd_backward
        @staticmethod
        def winograd(x, w, pool):
            y, which = TRANSFORMS.winograd(x, w, pool)
            y[0, 0, 0, 0] += 1
            return y, which
    class Refuses(Wrong):
        @staticmethod
        def winograd(x, w, pool): raise RuntimeError("brgemm: not here")
    assert (is_exact(TRANSFORMS, torch.float32) and not is_exact(Wrong, torch.float32)
            and not is_exact(Refuses, torch.float32))


def without_cache(monkeypatch, tmp_path, **env):
    monkeypatch.setenv("CIFAR_NB_CACHE", str(tmp_path))
    for k, v in env.items(): monkeypatch.setenv(k, v)
    return kernel.__wrapped__()


def test_it_can_be_switched_off(monkeypatch, tmp_path):
    assert without_cache(monkeypatch, tmp_path, CIFAR_NB_KERNEL="off") == (
        None, (), "CIFAR_NB_KERNEL is off")
    assert not any(tmp_path.iterdir())


@here
def test_without_a_compiler_there_is_a_reason(monkeypatch, tmp_path):
    assert without_cache(monkeypatch, tmp_path, CXX="no-such-compiler") == (
        None, (), "there is no compiler called no-such-compiler")
    assert not [*(tmp_path / "kernels").glob("[!.]*")]


@here
def test_what_does_not_compile_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setattr("cifar_nb.kernels.compiler.source", lambda name: "this is not C++")
    assert "the compiler says: " in without_cache(monkeypatch, tmp_path)[2]
    assert not [*(tmp_path / "kernels").glob("[!.]*")]


@here
def test_a_cache_that_cannot_be_written_is_a_reason(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    ops, _, why = without_cache(
        monkeypatch, tmp_path / "file", XDG_CACHE_HOME=str(tmp_path / "file"))
    assert ops is None and "no kernel can be kept in " in why and "CIFAR_NB_CACHE" in why


@here
def test_another_text_or_compiler_has_another_name(monkeypatch):
    name = kernel_library("winograd").name
    assert name == kernel_library("winograd").name and kernel_library("winograd").exists()
    monkeypatch.setattr("cifar_nb.kernels.compiler.subprocess.run", lambda *a,
                        **k: pytest.fail("compiled again"))
    assert kernel_library("winograd").name == name
    monkeypatch.setenv("CXX", "another")
    with pytest.raises(pytest.fail.Exception): kernel_library("winograd")


WIDE = Recipe("wide", net=FastSpec(widths=(32, 64), activation="relu"),
              phases=(
                  Phase(1, Optimizer("SGD", lr=.02, momentum=.9),
                        Schedule("linear", t_max=1, unit="step"), (RandomHorizontalFlip(),),
                        batch_size=50),))


@here
def test_fifty_steps_give_the_losses_of_the_usual_way():
    x, y = toy(2500)
    sums = []
    for quick in (False, True):
        t = Trainer(WIDE, len(x), 0, "cpu", "fp32")
        t.net.prepare(x[:500].float() / 255)
        assert not quick or {'fused_norm', 'winograd'} <= {*use_cpu_kernels(t.net, str)}
        seen = []
        train_epoch(t, x, y, after=lambda t: seen.append(t.sums[0].item()))
        sums.append(seen)
    assert len(sums[0]) == 50 and sums[0] != sums[1]
    torch.testing.assert_close(torch.tensor(sums[1]), torch.tensor(sums[0]), rtol=2e-3, atol=0)
    losses = torch.tensor(sums[0]).diff()
    assert losses[-10:].mean() < .95 * losses[:10].mean()  # it has learned


@here
def test_counting_and_few_images_go_the_usual_way():
    net = FastSpec().build()
    plain = count_macs(net), net.eval()(torch.zeros(1, 3, 32, 32))
    assert use_cpu_kernels(net, str)
    assert (count_macs(net), net(torch.zeros(1, 3, 32, 32)).equal(plain[1])) == (plain[0], True)


@here
def test_a_compiled_network_does_not_ask_for_it():
    net = torch.nn.Sequential(Conv(64, 64)).eval()
    x = torch.randn(64, 64, 8, 8)
    assert use_cpu_kernels(net, str)
    quick = net(x)
    torch.testing.assert_close(
        torch.compile(net, backend="eager", fullgraph=True)(x), quick, rtol=1e-3, atol=1e-3)


@here
def test_networks_of_the_reports_profit_too(monkeypatch):
    net = NetSpec(widths=(64, 128), depths=(1, 1), strides=(1, 2)).build()
    x, calls = torch.randn(8, 3, 16, 16), []
    usual = net(x)
    assert use_cpu_kernels(net, str)
    asked = winograd.winograd_forward
    monkeypatch.setattr(winograd, 'winograd_forward',
                        lambda *a: calls.append(asked(*a)) or calls[-1])
    torch.testing.assert_close(net(x), usual, rtol=1e-3, atol=1e-3)
    assert sum(c is not None for c in calls) >= 2


def test_the_race_says_what_it_cannot_race():
    with pytest.raises(InputError, match="not on cuda: say --device cpu"): bench_winograd("cuda")


@pytest.mark.parametrize("what", ["convolution", "winograd", "norm"])
@pytest.mark.parametrize(
    "mistake, words",
    [(["--recipe", "laptop"], "races shapes of layers"), (["--images", "0"], "images=0"),
     (["--repeats", "-1"], "repeats=-1")])
def test_a_mistake_in_the_call_is_one_sentence(what, mistake, words, capsys):
    from cifar_nb.cli import main
    assert main(["bench", what, *mistake]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
