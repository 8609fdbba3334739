"""Plain module: batches drawn by a CUDA graph: what an augmentation launches one by one, several
hundred small operations, is recorded once and launched at once. The digits stay the same.

Tests: tests/test_gpu.py (they need a GPU), tests/test_training.py.
"""
import warnings

import torch

__all__ = ['Replay', 'replaying']


class Replay:
    """`draw(index)`, which must not wait for the GPU, as a CUDA graph for batches of the size of
    `index` (int64); it draws from `rng`, a generator of that GPU, as `draw` does. What a call
    returns is overwritten by the next one."""
    def __init__(self, draw, index: torch.Tensor, rng: torch.Generator):
        self.draw, self.index = draw, index.clone()  # what the graph reads must stay
        before, side = rng.get_state(), torch.cuda.Stream(index.device)
        try:
            side.wait_stream(torch.cuda.current_stream(index.device))
            with torch.cuda.stream(side):  # what is made once only is made here
                for _ in range(2): draw(self.index)
            torch.cuda.current_stream(index.device).wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            self.graph.register_generator_state(rng)
            with torch.cuda.graph(self.graph): self.batch = draw(self.index)
        finally: rng.set_state(before)

    def __call__(self, index: torch.Tensor):
        self.index.copy_(index)
        self.graph.replay()
        return self.batch


def replaying(t, draw, x: torch.Tensor):
    """`draw` for the batches of the current phase of the trainer `t` from the images `x`, by a
    `Replay` where `t.graphs` asks for one, batches are whole, and no operation looks at the epoch;
    where that fails, `draw` itself, with a warning."""
    p = t.phase
    if not t.graphs or t.device.type != 'cuda' or any(op.alternates for op in p.augment):
        return draw
    known = x.data_ptr(), t.begun
    if t.replay is None or t.replay[0] != known:
        try: t.replay = known, Replay(draw, t.order[:p.batch_size], t.rng)
        except (RuntimeError, AttributeError) as e:
            warnings.warn(f'The augmentation cannot be replayed as a CUDA graph ({e}), so it runs '
                          'as it is written.', stacklevel=2)
            t.replay = known, draw
    quick = t.replay[1]
    return lambda index: (quick if len(index) == p.batch_size else draw)(index)
