"""Plain module: one stop-watch: a function alone, or several ways by turns, so that what else the
machine does meets all of them. Tests: tests/test_timing.py.
"""
import statistics
import time

__all__ = ['once', 'best', 'alternate', 'ratio', 'middle', 'in_turns']


def once(f) -> float:
    "Seconds that one `f()` takes."
    begin = time.perf_counter()
    f()
    return time.perf_counter() - begin


def best(f, least: float = .05) -> float:
    """Seconds that `f()` takes: it is run once to warm up, then until `least` seconds have gone by;
    the best run counts."""
    f()
    runs: list[float] = []
    start = time.perf_counter()
    while not runs or time.perf_counter() - start < least: runs.append(once(f))
    return min(runs)


def alternate(ways: dict, repeats: int) -> list:
    "`repeats` rounds in which each function of `ways` runs once, in turn: dicts of seconds."
    return [{name: once(f) for name, f in ways.items()} for _ in range(repeats)]


def ratio(rounds: list, theirs: str = 'theirs', ours: str = 'ours') -> dict:
    "How many times as long `theirs` takes, round by round: median ('ratio'), 'least' and 'most'."
    each = [r[theirs] / r[ours] for r in rounds]
    return {'ratio': statistics.median(each), 'least': min(each), 'most': max(each)}


def middle(rounds: list, name: str) -> float:
    "Median seconds of `name`."
    return statistics.median(r[name] for r in rounds)


def in_turns(repeats: int, **ways) -> dict:
    """Two functions, named by `ways`, take turns, after two rounds to warm up: the median
    milliseconds of each, and the ratio of the first's time to the second's (median, least,
    most)."""
    a, b = ways
    rounds = alternate(ways, repeats + 2)[2:]
    times = {f'{name}, ms': round(1e3 * middle(rounds, name), 2) for name in ways}
    return times | {k: round(v, 2) for k, v in ratio(rounds, a, b).items()}
