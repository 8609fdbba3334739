"""Plain module: what `cifar_nb bench train`, `predict` and `parts` do.

Tests: tests/test_throughput.py.
"""
import json

from ..core.files import check_writable, write_atomic
from ..teams.zoo import get_recipe
from .costs import bench_parts, cost_table, parts_table, profile_step
from .inference import bench_predict, predict_table
from .training import bench_train, contenders, machine_line, train_table

__all__ = ['command_train', 'command_predict', 'command_parts']


def command_train(names=(), images: int | None = None, repeats: int = 3, device: str | None = None,
                  out=None, say=print,
                  workers: int = 2, compile: bool = False) -> dict:
    """`cifar_nb bench train`: the race, each recipe's profile and the costs, told to `say` and,
    with `out`, kept as JSON."""
    check_writable(out)
    doc = bench_train(names, images, repeats, device, workers, compile, say=say)
    say(f'\n{train_table(doc)}\n{machine_line(doc)}')
    doc['profiles'] = {r.name: profile_step(r, 3, device) for r in contenders(names)}
    doc['costs'] = cost_table(get_recipe('small'), device=device, best=doc['peak'])
    say(f"\nthe recipe small, one thing varied at a time:\n{doc['costs']}")
    if out: write_atomic(out, json.dumps(doc, indent=1))
    return doc

def command_predict(names=(), images: int = 1000, repeats: int = 3, device: str | None = None,
                    out=None, say=print) -> dict:
    "`cifar_nb bench predict`: latency and throughput, told to `say` and, with `out`, kept as JSON."
    check_writable(out)
    doc = bench_predict(names, images, repeats, device, say=say)
    say(f'\n{predict_table(doc)}\n{machine_line(doc)}')
    if out: write_atomic(out, json.dumps(doc, indent=1))
    return doc

def command_parts(names=(), images: int | None = None, repeats: int = 3, device: str | None = None,
                  out=None, say=print) -> dict:
    """`cifar_nb bench parts`: what each piece of our loop is worth, told to `say` and, with `out`,
    kept as JSON."""
    check_writable(out)
    doc = bench_parts(names or ('laptop',), images, repeats, device)
    say(f'{parts_table(doc)}\n{machine_line(doc)}')
    if out: write_atomic(out, json.dumps(doc, indent=1))
    return doc
