"""Pre-activation blocks: the paper's formula, its size, and everything that the other kinds of
blocks can do."""
import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from cifar_nb.bench.inference import fold_batch_norm
from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import toy
from cifar_nb.models.airbench import FastSpec
from cifar_nb.models.resnet import (LIMIT, Block, NetSpec, PreActBlock, count_macs,
                                    count_parameters, memory)
from cifar_nb.recipes.spec import Optimizer, Phase, Recipe, Schedule, recipe_from_json
from cifar_nb.teams.reading import draw_net, parts
from cifar_nb.training.loop import predict
from cifar_nb.training.train import train

SPECS = {
    "two stages": NetSpec((8, 16), (2, 1), (1, 2), block="preact"),
    "one stage and a stem": NetSpec((16,), (2,), (2,), stem=8, block="preact"),
    "wide shortcut": NetSpec((8, 16), (1, 1), (1, 2), shortcut_kernel=3, block="preact"),
    "squeezed": NetSpec((8, 16), (1, 2), (1, 2), se=4, block="preact"),
    "a stage left out": NetSpec(
        (8, 12, 16), (1, 0, 1), (1, 2, 2), block="preact", init="kaiming", pool="max"),
}
every = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride, c_out", [(1, 8), (1, 16), (2, 8), (2, 16)])
def test_the_formula_of_the_paper(stride, c_out, training):
    block, x = PreActBlock(8, c_out, stride).train(training), torch.randn(4, 8, 7, 7)
    for bn in (block.bn1, block.bn2):
        torch.nn.init.uniform_(bn.weight, .5, 2.)
        torch.nn.init.normal_(bn.bias)
        torch.nn.init.uniform_(bn.running_var, .5, 2.)
    def norm(bn, v):
        return F.batch_norm(v, bn.running_mean.clone(), bn.running_var.clone(), bn.weight, bn.bias,
                            training)
    a = F.relu(norm(block.bn1, x))
    out = F.conv2d(
        F.relu(norm(block.bn2, F.conv2d(a, block.conv1.weight, stride=stride, padding=1))),
        block.conv2.weight, padding=1)
    shortcut = F.conv2d(a, block.shortcut[0].weight, stride=stride) if len(block.shortcut) else x
    assert len(block.shortcut) == (stride != 1 or c_out != 8)
    torch.testing.assert_close(block(x), shortcut + out, rtol=1e-4, atol=1e-4)


def test_as_many_parameters_as_norms_and_convolutions_have():
    spec = NetSpec((64, 128, 256), (3, 3, 3), (1, 2, 2), block="preact")
    convolutions = (27 * 64 + 9
                    * (6 * 64 ** 2 + 64 * 128 + 5 * 128 ** 2 + 128 * 256 + 5 * 256 ** 2) + 64 * 128
                    + 128 * 256)
    norms = 2 * (6 * 64 + (64 + 5 * 128) + (128 + 5 * 256) + 256)
    assert count_parameters(spec.build()) == convolutions + norms + 256 * 10 + 10 < LIMIT


@every
def test_a_spec_goes_through_json_and_its_parts_add_up(spec):
    assert NetSpec(**json.loads(json.dumps(spec.to_dict()))) == spec
    net = spec.build()
    assert (sum(p.parameters for p in parts(spec)) == count_parameters(net)
            and sum(p.macs for p in parts(spec)) == count_macs(net))
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10) and len(draw_net(spec).axes) >= 1


@every
def test_folded_it_gives_the_same_answers(spec):
    net = spec.build()
    for _ in range(3): net(torch.randn(32, 3, 16, 16))
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.weight, .5, 2.)
            torch.nn.init.normal_(m.bias)
    folded, xb = fold_batch_norm(net.eval()), torch.randn(16, 3, 16, 16)
    with torch.no_grad(): torch.testing.assert_close(folded(xb), net(xb), rtol=1e-3, atol=1e-3)
    blocks = [m for m in folded.modules() if isinstance(m, PreActBlock)]
    # the first norm has no convolution before it
    assert blocks and all(isinstance(b.bn1, torch.nn.BatchNorm2d)
                          and not isinstance(b.bn2, torch.nn.BatchNorm2d) for b in blocks)


def test_it_trains_and_its_run_can_be_read(tmp_path):
    from cifar_nb.training.checkpoints import Run
    recipe = Recipe("pre", net=SPECS["two stages"],
                    phases=(
                        Phase(2, Optimizer("SGD", lr=.05, momentum=.9), Schedule("cosine", t_max=2),
                              batch_size=64),))
    assert recipe_from_json(recipe.to_json()) == recipe
    t = train(recipe, *toy(512), tmp_path / "run", device="cpu", progress=False, say=str)
    assert t.log[-1]["train_loss"] < t.log[0]["train_loss"]
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(
        Run(tmp_path / "run").load_net("cpu")(x), t.net.eval()(x), rtol=1e-3, atol=1e-3)


def test_the_other_kinds_are_as_they_were():
    assert {k.split(".")[0] for k in NetSpec((8,), (1,), (1,)).build().state_dict()} == {
        "conv1", "bn1", "stages", "linear"}
    assert isinstance(NetSpec((8,), (1,), (1,), block="plain").build().stages[0][0], Block)


def test_few_channels_and_an_odd_batch_do_not_break_memory(tmp_path):
    """oneDNN's own way back through such a shortcut writes beyond its memory where there are two
    threads and AVX-512."""
    code = """
import torch
from cifar_nb.models.resnet import Block
torch.set_num_threads(2)
for i in range(150):
    block = Block(8, 16, stride=2).to(memory_format=torch.channels_last)
    block(torch.randn(7, 8, 16, 16).contiguous(memory_format=torch.channels_last)).sum().backward()
    rest = [torch.empty(100 * k) for k in range(20)]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-500:]


def test_networks_without_end_are_refused_before_they_are_built():
    for changes in (dict(widths=(8,), depths=(10 ** 6,), strides=(1,)),
                    dict(widths=(10 ** 9,), depths=(1,), strides=(1,)),
                    dict(widths=(8,) * 10 ** 5, depths=(1,) * 10 ** 5, strides=(1,) * 10 ** 5)):
        with pytest.raises(InputError, match="typing error"): NetSpec(**changes)
    for widths in ((8,) * 200, (10 ** 9,)):
        with pytest.raises(InputError, match="typing error"): FastSpec(widths=widths)


@pytest.mark.parametrize("mistake, sentence", [
    (dict(block="bottleneck"), "choose 'basic', 'plain' or 'preact'"),
    (dict(dropout=1.), "dropout"), (dict(pool="median"), "choose 'avg' or 'max'"),
    (dict(stem=-3), "stem=-3; give 0 or"), (dict(widths=(32, 64)), "have 2, 4 and 4 entries")])
def test_a_spec_that_makes_no_sense_says_so(mistake, sentence):
    with pytest.raises(InputError, match=sentence): NetSpec(**mistake)


@pytest.mark.parametrize("look", [
    count_macs, memory, lambda net: predict(net, toy(4)[0], Phase(1))])
@pytest.mark.parametrize("fails", [False, True])
def test_each_module_stays_in_its_mode(look, fails):
    "Also where the network fails; and no hook stays behind."
    net = NetSpec((8,), (1,), (1,)).build().train()
    net.bn1.eval()
    if fails: net.linear.weight = torch.nn.Parameter(torch.zeros(10, 3))
    before = [m.training for m in net.modules()]
    try: look(net)
    except RuntimeError: assert fails
    else: assert not fails
    assert [m.training for m in net.modules()] == before and not net.bn1.training
    assert not any(m._forward_hooks for m in net.modules())
