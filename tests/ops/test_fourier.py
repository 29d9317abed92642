"""Fourier transforms beside NumPy's and what holds of them: inverses, energy, shifts, frames put together again."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib
from tensorlib import fft
from tensorlib.errors import DimError, DtypeError

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
@pytest.mark.parametrize("norm", ["forward", "backward", "ortho"])
def test_inverses(n: int, norm: str) -> None:
    x = tensorlib.tensor(RNG.standard_normal((3, n)))
    z = tensorlib.complex(x, x.flip(0))
    assert tensorlib.allclose(fft.ifft(fft.fft(z, norm=norm), norm=norm), z)
    assert tensorlib.allclose(fft.irfftn(fft.rfftn(x, norm=norm), s=x.shape, norm=norm), x)
    assert tensorlib.allclose(fft.hfft(fft.ihfft(x, norm=norm), n, norm=norm), x)
    assert tensorlib.allclose(fft.ifftshift(fft.fftshift(x)), x)


def test_energy() -> None:
    """Parseval: with norm="ortho" the energy is kept."""
    x = tensorlib.tensor(RNG.standard_normal((4, 6)))
    assert float((fft.fftn(x, norm="ortho").abs() ** 2).sum()) == pytest.approx(float((x**2).sum()))


def test_convolution_theorem() -> None:
    x, y = (tensorlib.tensor(RNG.standard_normal(9)) for _ in range(2))
    by_fft = fft.irfft(fft.rfft(x) * fft.rfft(y), 9)
    direct = tensorlib.stack([(x * y.flip(0).roll(k + 1)).sum() for k in range(9)])
    assert tensorlib.allclose(by_fft, direct)


def test_dtypes() -> None:
    assert fft.fft(tensorlib.ones(4)).dtype is tensorlib.complex64
    assert fft.rfft(tensorlib.ones(4, dtype=tensorlib.int64)).dtype is tensorlib.complex64
    assert fft.irfft(tensorlib.ones(4, dtype=tensorlib.complex128)).dtype is tensorlib.float64
    with pytest.raises(DtypeError, match="real input"):
        fft.rfft(tensorlib.tensor([1j]))
    with pytest.raises(DtypeError, match="Unsupported dtype"):
        fft.fft(tensorlib.ones(4).half())
    with pytest.raises(DimError, match="no dimensions"):
        fft.fft(tensorlib.tensor(1.0))


@pytest.mark.parametrize("center", [True, False])
def test_frames_put_together(center: bool) -> None:
    """istft of stft is the signal, where the windows cover it."""
    x = tensorlib.tensor(RNG.standard_normal((2, 32)))
    window = tensorlib.tensor(np.hanning(10)[1:-1])
    spectrum = tensorlib.stft(x, 8, 2, window=window, center=center, return_complex=True)
    assert spectrum.shape[1] == 5
    back = tensorlib.istft(spectrum, 8, 2, window=window, center=center, length=32)
    assert tensorlib.allclose(back, x)
    with pytest.raises(RuntimeError, match="window overlap add min"):
        tensorlib.istft(spectrum, 8, 2, window=window * 0)
