"""Curves of a figure that only their color tells apart: who does not see colors cannot read its
legend. tools/chapters.py asks it about every figure that a chapter draws."""
from contextlib import contextmanager


def look(handle):
    "How an entry of a legend is drawn, without its color; None for bars, areas and the like."
    line = handle[0] if isinstance(handle, tuple) else handle  # of an errorbar, its line
    if hasattr(line, "get_marker"):
        hollow = str(line.get_markerfacecolor()) in ("none", "white")
        dashes = getattr(line, "_unscaled_dash_pattern", None)  # get_linestyle says "--" for all
        return str(line.get_marker()), str(line.get_linestyle()), str(dashes), hollow
    if hasattr(line, "get_offsets"):  # of a scatter, its marker
        hollow = not len(line.get_facecolor())
        return tuple(map(tuple, line.get_paths()[0].vertices.round(3).tolist())), hollow
    return None


def entries(ax):
    "(handle, label) of what has a label in the axes `ax`, and of what its legend makes up."
    there, legend = [*zip(*ax.get_legend_handles_labels())], ax.get_legend()
    shown = zip(legend.legend_handles, legend.get_texts()) if legend else ()
    more = [(h, t.get_text()) for h, t in shown]
    return there + [(h, label) for h, label in more if label not in (l for _, l in there)]


def alike(figure) -> list:
    "The labels of curves and points in one axes of the `figure` that are drawn alike, in pairs."
    out = []
    for ax in figure.axes:
        seen = {}
        for handle, label in entries(ax):
            first = seen.setdefault(look(handle), label)
            if look(handle) and first != label: out.append((first, label))
    return out


@contextmanager
def watched():
    "A list to which is added what is `alike` in the figures that are drawn meanwhile."
    from matplotlib.backend_bases import FigureCanvasBase as Canvas
    found, draw = [], Canvas.print_figure
    def print_figure(self, *args, **kwargs):
        found.extend(alike(self.figure))
        return draw(self, *args, **kwargs)
    Canvas.print_figure = print_figure
    try: yield found
    finally: Canvas.print_figure = draw
