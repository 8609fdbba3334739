"""Figures that say what they show."""
import base64
import io

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from cifar_nb.core.plotting import described


def test_a_figure_carries_its_text_and_is_drawn_sharp():
    fig = plt.figure(figsize=(4, 2))
    plt.close(fig)
    data, about = described(fig, 'an empty figure of four by two')._repr_mimebundle_()
    with Image.open(io.BytesIO(base64.b64decode(data['image/png']))) as picture:
        assert picture.size == (600, 300)
    assert about == {'image/png': {'alt': 'an empty figure of four by two', 'width': 384}}
    assert data['text/plain'] == 'an empty figure of four by two'


@pytest.mark.parametrize('alt', ['', 'png', 'a figure', 'this is a figure'])
def test_a_text_that_describes_nothing_is_refused(alt):
    with pytest.raises(ValueError, match='describes nothing'): described(None, alt)
