"""Plain module: which device, which number format, which order in memory, and why.

Tests: chapter 61, tests/test_training.py.
"""
import platform
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch

from ..core.errors import InputError
from ..kernels.gradient import cpu_has

__all__ = ['Precision', 'memory_order', 'hardware', 'cpu_has_bf16', 'choose_device',
           'choose_precision']


class Precision(NamedTuple):
    """A number format for the forward pass, the weights staying in fp32, and the order of images
    and weights in memory."""
    name: str                   # 'fp32', 'bf16' or 'fp16'
    reason: str                 # why it was chosen
    channels_last: bool = True  # N,H,W,C in memory; False: N,C,H,W

    @property
    def dtype(self) -> torch.dtype:
        return dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)[self.name]
    @property
    def memory_format(self):
        return torch.channels_last if self.channels_last else torch.contiguous_format
    def autocast(self, device: torch.device):
        "A block in which layers compute in this format; in fp32 nothing, which every device knows."
        return nullcontext() if self.name == 'fp32' else torch.autocast(device.type, self.dtype)

def memory_order(p: Precision) -> str:
    "The order in memory by name, for records."
    return 'channels_last' if p.channels_last else 'contiguous'

def hardware(device) -> str:
    "The name of the GPU that `device` is, or of the processor, as far as the system tells."
    if torch.device(device).type == 'cuda': return torch.cuda.get_device_name(device)
    try:
        return next(l.split(':')[1].strip()
                    for l in Path('/proc/cpuinfo').read_text(
                        encoding='utf-8', errors='replace').splitlines()
                    if l.startswith('model name'))
    except (OSError, StopIteration): return platform.processor() or platform.machine()

def cpu_has_bf16() -> bool:
    "Whether this processor multiplies bf16 in hardware (AVX512-BF16 or AMX-BF16)."
    return (cpu_has('avx512_bf16', 'amx_bf16')
            or getattr(torch.cpu, '_is_avx512_bf16_supported', lambda: False)())


def choose_device(name: str | None = None) -> torch.device:
    """The device `name` ('cpu', 'cuda', 'cuda:1', 'mps'), by default the first CUDA GPU or else the
    CPU; one that is not there raises `InputError`."""
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        if device.type not in ('cpu', 'cuda', 'mps'): raise RuntimeError
        torch.zeros(1, device=device).cpu()
        return device
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        if 'kernel image' in str(e):
            raise InputError(f'The GPU {name} is too old for PyTorch {torch.__version__}: choose '
                             '--device cpu, or install an older PyTorch.') from None
        n = torch.cuda.device_count() if torch.cuda.is_available() else 0
        has = ['cpu', *(f'cuda:{i}' for i in range(n))]
        if torch.backends.mps.is_available(): has.append('mps')
        raise InputError(f'There is no device {str(name)!r} here; this machine has '
                         f'{", ".join(has)}: leave --device out or name one of these.') from None

def choose_precision(
    device: torch.device,
    # 'fp32', 'bf16', 'fp16', or 'auto'; 'fp32 nchw' also forces the order N,C,H,W
    name: str | None = None,
) -> Precision:
    "The fastest number format that `device` has in hardware, or the one that is forced by `name`."
    if name in ('auto nchw', 'fp32 nchw', 'bf16 nchw', 'fp16 nchw'):
        return choose_precision(device, name[:-5])._replace(channels_last=False)
    if name not in (None, 'auto', 'fp32', 'bf16', 'fp16'):
        raise InputError(f"There is no precision {name!r}; choose 'auto', 'fp32', 'bf16' or "
                         "'fp16', with ' nchw' behind it for that memory order.")
    if name == 'fp16' and device.type == 'cpu':
        raise InputError(
            "fp16 on a CPU is slower than fp32 and overflows; choose 'bf16' or 'fp32'.")
    if name not in (None, 'auto'): return Precision(name, 'forced')
    if device.type == 'cpu':
        return (Precision('bf16', 'the CPU has bf16 instructions')
                if cpu_has_bf16() else Precision('fp32', 'the CPU has no bf16 instructions'))
    if device.type != 'cuda': return Precision('fp32', f'no choice is made for {device.type}')
    major, minor = torch.cuda.get_device_capability(device)
    name = 'bf16' if major >= 8 else 'fp16' if major == 7 else 'fp32'
    return Precision(name, f'CUDA compute capability {major}.{minor}')
