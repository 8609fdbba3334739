"""Plain module: the colours of the book's figures."""

__all__ = ['STAGES', 'GREY', 'ACCENT']

STAGES = ('#8fb8de', '#5b8fc9', '#35679f', '#1d3f6b')  # a colour a stage, darker as it gets deeper
GREY, ACCENT = '#8a8f98', '#d1622b'
