"""Plain module: races and costs as figures. Tests: tests/test_throughput.py, chapter 40."""
from .costs import PARTS
from .training import range_of_ratio

__all__ = ['show_train', 'COLOURS', 'show_costs']


def show_train(doc: dict):
    "A race as a Figure: images/s both ways, and where our steps spend their time."
    import matplotlib.pyplot as plt
    rows, profiles = doc['rows'], doc.get('profiles', {})
    fig, (a, b) = plt.subplots(
        1, 2, figsize=(11, .6*len(rows) + 1.4), layout='constrained', sharey=True)
    for i, r in enumerate(rows):
        _draw_rates(a, i, r)
        _draw_parts(b, i, profiles.get(r['recipe'], []))
    a.set(yticks=range(len(rows)), yticklabels=[r['title'] for r in rows],
          xlabel='images/s; behind the bar the ratio',
          xlim=(0, 1.4*max(r['images/s']['ours'] for r in rows)))
    b.set(xlabel='share of a step of this package', xlim=(0, 1)); a.invert_yaxis()
    fig.suptitle('Two loops, and the parts of a step')
    for ax, columns in ((a, 2), (b, 3)):
        if ax is a or profiles:
            ax.legend(frameon=False, fontsize=9, ncols=columns, loc='lower center',
                      bbox_to_anchor=(.5, 1))
    for ax in (a, b): ax.spines[['top', 'right']].set_visible(False)
    plt.close(fig)
    return fig

def _draw_rates(ax, i, row):
    "Both rates of `row` at height `i`, the ratio behind them."
    rate, name = row['images/s'], lambda s: s if i == 0 else None
    ax.barh(i - .2, rate['theirs'], .36, color='#b0b0b0', label=name('plain PyTorch'))
    ax.barh(i + .2, rate['ours'], .36, color='#2b6cb0', label=name('this package'))
    ax.text(rate['ours'], i + .2, f' {range_of_ratio(row)}', va='center', fontsize=9)


COLOURS = dict(zip([*PARTS, 'the rest'],
                   ('#dd8452', '#937860', '#1f4e8c', '#8172b3', '#55a868', '#6fa8dc', '#c9b458',
                    '#cccccc')))

def _draw_parts(ax, i, parts):
    "The shares `parts` side by side at height `i`."
    left = 0
    for p in parts:
        ax.barh(i, p['share'], .6, left=left, color=COLOURS[p['part']],
                label=p['part'] if i == 0 else None)
        left += p['share']

def show_costs(rows: list):
    """The rows of `cost_table` as a Figure: seconds for 1,000 images against batch size and against
    multiply-adds."""
    import matplotlib.pyplot as plt
    fig, (a, b) = plt.subplots(1, 2, figsize=(9, 2.8), layout='constrained')
    for ax, whats, key in ((a, ('batch',), 'to'), (b, ('width', 'depth'), 'MACs (M)')):
        for what in whats:
            mine = [r for r in rows if r['varied'] == what]
            ax.plot([r[key] for r in mine], [r['s for 1,000 images'] for r in mine],
                    's--' if what == 'depth' else 'o-', ms=4, label=what)
        ax.set(title='Larger batches' if key == 'to' else 'Larger networks',
               ylabel='s for 1,000 images', ylim=(0, None),
               xlabel='batch size' if key == 'to' else 'multiply-adds per image (millions)')
        ax.legend(frameon=False); ax.spines[['top', 'right']].set_visible(False)
    sizes = [r['to'] for r in rows if r['varied'] == 'batch']
    a.set_xscale('log', base=2); a.set_xticks(sizes, sizes)
    plt.close(fig)
    return fig
