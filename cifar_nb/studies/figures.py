"""Plain module: the studies of chapter 32 as a figure. Tests: tests/test_ablations.py, chapter 32.
"""
from statistics import mean

from ..core.plotting import ACCENT, GREY, STAGES
from ..teams.claims import LESS_IS_BETTER, compare, trials
from .scales import studies_at

__all__ = ['show_studies']


def _rows(study, found):
    "(name, figures, comparison) of each variation that can be compared with the base."
    base = found.get('base', ())
    names = [n for n in study.variations if len(found.get(n, ())) > 1 and len(base) > 1]
    return [
        (n, [v - mean(base) for v in found[n]],
         compare(found[n], base, study.measure in LESS_IS_BETTER)) for n in names]

def _draw(ax, study, rows):
    "The `rows` of `study` on the axes `ax`."
    colors = {'better': STAGES[2], 'worse': ACCENT, 'no difference seen': GREY}
    for i, (name, values, c) in enumerate(rows):
        ax.plot(values, [i] * len(values), '.', color=colors[c.finding], alpha=.45, ms=5, mew=0)
        ax.errorbar(c.difference, i, xerr=c.error, fmt='o', ms=5, capsize=3,
                    color=colors[c.finding])
    ax.axvline(0, color='#333', lw=.8)
    ax.spines[['top', 'right']].set_visible(False)
    ax.tick_params(labelsize=9)
    ax.set_yticks(range(len(rows)), [n for n, *_ in rows]); ax.set_ylim(len(rows) - .4, -.6)
    ax.set_title(f'{study.name}: {study.measure}', loc='left', fontsize=9)

def show_studies(runs, group: str | None = None, scale: str = 'fast', studies=None):
    """Differences to the base, in points, of all studies of `group` that have runs, as a Figure;
    blue is better, orange worse, grey not told apart."""
    import matplotlib.pyplot as plt
    drawn = [(s, _rows(s, trials(runs, s.name, scale, s.measure)))
             for s in studies or studies_at(scale) if group in (None, s.group)]
    drawn = [(s, rows) for s, rows in drawn if rows]
    heights = [len(rows) + 1.2 for _, rows in drawn] or [1]
    fig, axes = plt.subplots(
        len(heights), 1, figsize=(7, .27 * sum(heights) + .5), height_ratios=heights, squeeze=False,
        layout='constrained')
    for ax, (s, rows) in zip(axes[:, 0], drawn): _draw(ax, s, rows)
    if not drawn:
        axes[0, 0].axis('off')
        of = 'of this group ' * bool(group)
        axes[0, 0].text(.5, .5, f'no study {of}has been run at scale {scale!r} yet',
                        ha='center', color=GREY)
    else: axes[-1, 0].set_xlabel('difference to the base (points)', fontsize=9)
    plt.close(fig)
    return fig
