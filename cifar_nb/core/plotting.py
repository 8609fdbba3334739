"""Plain module: the colours of the book's figures, and figures that say what they show.

Tests: tests/test_plotting.py.
"""
import base64
import io

__all__ = ['STAGES', 'GREY', 'ACCENT', 'curve_look', 'Described', 'described']

STAGES = ('#8fb8de', '#5b8fc9', '#35679f', '#1d3f6b')  # a colour a stage, darker as it gets deeper
GREY, ACCENT = '#8a8f98', '#d1622b'
# of Okabe and Ito
_COLORS = ('#0072B2', '#D55E00', '#009E73', '#E69F00', '#CC79A7', '#56B4E9', '#000000')
_MARKERS = 'os^DvPX*<>'


def curve_look(i: int) -> dict:
    "Color and marker of the `i`-th of many curves: no two of the first 70 have both in common."
    return dict(color=_COLORS[i % len(_COLORS)], marker=_MARKERS[i % len(_MARKERS)])


class Described:
    "A matplotlib Figure with a text for those who cannot see it, drawn sharp (150 dots an inch)."
    def __init__(self, figure, alt: str, dpi: int = 150):
        self.figure, self.alt, self.dpi = figure, alt, dpi

    def _repr_mimebundle_(self, include=None, exclude=None):
        out = io.BytesIO()
        self.figure.savefig(out, format='png', dpi=self.dpi, facecolor='white')
        width = round(self.figure.get_figwidth() * 96)  # shown at the size at which it was laid out
        return ({'image/png': base64.b64encode(out.getvalue()).decode(), 'text/plain': self.alt},
                {'image/png': {'alt': self.alt, 'width': width}})


def described(figure, alt: str) -> Described:
    """`figure` (a matplotlib Figure) with the text `alt`, which says in a sentence or two what is
    to be seen in it: kind, axes, and what it shows."""
    if len(alt.split()) < 5: raise ValueError(f'{alt!r} describes nothing: write a sentence.')
    return Described(figure, alt)
