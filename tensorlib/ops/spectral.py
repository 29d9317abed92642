"""Short-time Fourier transforms: frames of a signal, each under a window, and the signal put together from them."""

from __future__ import annotations

import warnings
from typing import Any

from tensorlib._arguments import outside
from tensorlib._core import Tensor
from tensorlib._dispatch import dtype_name
from tensorlib._promotion import category
from tensorlib._samples import Draw, between, draw, each
from tensorlib.errors import ArgumentError, DtypeError, ShapeError, TensorlibError
from tensorlib.op import composite
from tensorlib.ops.create import ones
from tensorlib.ops.fourier import _fft_c2c, _fft_c2r, _fft_r2c
from tensorlib.ops.joining import pad
from tensorlib.ops.strided import _unfold_grad
from tensorlib.ops.views import narrow


class SpectrumError(TensorlibError, RuntimeError):
    """A short-time transform that cannot be made, or not be inverted."""


def _lengths(name: str, n_fft: int, hop_length: int | None, win_length: int | None) -> tuple[int, int]:
    hop = n_fft // 4 if hop_length is None else hop_length
    width = n_fft if win_length is None else win_length
    if hop <= 0:
        raise ArgumentError(f"{name}: expected hop_length > 0, but got hop_length={hop}")
    if not 0 < width <= n_fft:
        raise ArgumentError(f"{name}: expected 0 < win_length <= n_fft, but got win_length={width}, n_fft={n_fft}")
    return hop, width


def _checked_window(name: str, window: Tensor | None, width: int) -> None:
    if window is not None and window._array.shape != (width,):
        raise ShapeError(
            f"{name}: expected a 1D window tensor of size equal to win_length={width}, "
            f"but got window with size {tuple(window._array.shape)}"
        )


def _full_window(window: Tensor | None, like: Any, width: int, n_fft: int) -> Any:
    """The window, ones for None, in the middle of ``n_fft`` elements."""
    if window is None:
        dtype = like.dtype.to_real()
        window = ones(width, dtype=dtype, device=like.device)
    before = (n_fft - width) // 2
    return pad(window, (before, n_fft - width - before)) if width < n_fft else window


_SIGNALS = each(
    draw((16,), 4, return_complex=True), draw((2, 17), 5, hop_length=2, return_complex=True),
    draw((2, 16), 6, 2, 4, between(0.2, 1, 4), return_complex=True),
    draw((12,), 4, center=False, normalized=True, return_complex=True),
    draw((12,), 4, pad_mode="constant", onesided=False, return_complex=True),
    draw((12,), 4, 3, return_complex=False),
)  # fmt: skip


@composite(samples=_SIGNALS)
def stft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Tensor:
    """Σ_k window[k] input[t hop_length + k] exp(-2πi jk / n_fft): frequency j of frame t, (…, frequencies, frames).

    input (length,) or (batch, length). ``win_length`` (n_fft for None) elements of ``window`` (ones for None) stand in
    the middle of a frame; ``hop_length`` is n_fft // 4 for None. ``center``: frame t is centred at t hop_length, the
    signal padded by ``pad_mode``. ``normalized``: divided by √n_fft. ``onesided`` (True for None and real input): the
    first n_fft // 2 + 1 frequencies. ``return_complex`` must be given for real input; False gives (…, 2).
    """
    x: Any = input
    if center:
        if align_to_window is not None:
            raise ArgumentError("stft: align_to_window should only be set when center = false")
        half = n_fft // 2
        shape = x._array.shape
        x = pad(x.view((1,) * (3 - len(shape)) + tuple(shape)), (half, half), pad_mode)
        x = x.view(x._array.shape[3 - len(shape) :])
    shape, dtype = x._array.shape, x._array.dtype
    if category(dtype) < 2:
        raise DtypeError(f"stft: expected a tensor of floating point or complex values, got {dtype_name(dtype)}")
    if len(shape) not in (1, 2):
        raise ShapeError(f"stft: expected a 1D or 2D tensor, got shape {tuple(shape)}")
    of_complex = dtype.kind == "c" or (window is not None and window._array.dtype.kind == "c")
    if return_complex is None and not of_complex:
        raise ArgumentError(
            "stft: requires the return_complex parameter be given for real inputs: return_complex=True for a complex "
            "result, or False for its parts (…, 2)"
        )
    batch = x.unsqueeze(0) if len(shape) == 1 else x
    length = shape[-1]
    if not 0 < n_fft <= length:
        raise ArgumentError(f"stft: expected 0 < n_fft <= {length}, but got n_fft={n_fft}")
    hop, width = _lengths("stft", n_fft, hop_length, win_length)
    _checked_window("stft", window, width)
    aligned = not center and bool(align_to_window)
    if aligned:  # only the window's part of a frame has to lie within the signal
        before = (n_fft - width) // 2
        batch = pad(batch, (before, before))
        length += 2 * before
    frames = batch.unfold(1, n_fft, hop)
    if window is not None or width < n_fft:
        frames = frames * _full_window(window, x, width, n_fft)
    scale = "root" if normalized else "none"
    complex_frames = frames._array.dtype.kind == "c"
    half_only = not complex_frames if onesided is None else onesided
    if complex_frames:
        if half_only:
            raise ArgumentError("stft: Cannot have onesided output if window or input is complex")
        found = _fft_c2c(frames, (2,), scale, True)
    else:
        found = _fft_r2c(frames, (2,), scale, half_only)
    found = found.transpose(1, 2)
    if len(shape) == 1:
        found = found.squeeze(0)
    if return_complex is False:
        found = found.view_as_real()
    return found  # type: ignore[no-any-return]


_WINDOW = Draw((5,), "uniform", 0.5, 1, "float32", grad=False)


@composite(
    samples=each(
        draw((3, 5), 4), draw((2, 3, 6), 5, 2), draw((4, 5), 6, 2, 5, _WINDOW),
        draw((4, 5), 4, onesided=False, return_complex=True), draw((3, 5), 4, length=3),
        draw((3, 5), 4, center=False, normalized=True), draw((4, 4), 4, onesided=False),
        draw((3, 6), 5, 3, window=_WINDOW, center=False),
    )
)  # fmt: skip
def istft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """The signal of least squared distance to the frames of ``stft``: overlapping frames are added, over window².

    input (…, frequencies, frames), complex; arguments as those given to ``stft``. ``onesided`` None: as the number of
    frequencies says. ``length``: cut to it, or followed by zeros. SpectrumError where the windows leave an element
    uncovered. Griffin & Lim 1984.
    """
    x: Any = input
    if not x.is_complex():
        raise DtypeError(
            "istft: requires a complex-valued input tensor matching the output from stft with return_complex=True"
        )
    shape = x._array.shape
    if not x._array.size:
        raise ShapeError(f"istft: input tensor cannot be empty, got shape {tuple(shape)}")
    if len(shape) not in (2, 3):
        raise ShapeError(f"istft: expected a tensor with 2 or 3 dimensions, got shape {tuple(shape)}")
    frequencies, n_frames = shape[-2:]
    half_only = frequencies != n_fft if onesided is None else onesided
    if frequencies != (n_fft // 2 + 1 if half_only else n_fft):
        raise ShapeError(
            f"istft: expected the frequency dimension (3rd to the last) of the input tensor to match n_fft: "
            f"{n_fft // 2 + 1 if half_only else n_fft} with onesided={half_only}, but got {frequencies}"
        )
    hop, width = _lengths("istft", n_fft, hop_length, win_length)
    if hop > width:
        raise ArgumentError(f"istft: expected 0 < hop_length <= win_length, but got hop_length={hop} and {width}")
    _checked_window("istft", window, width)
    if return_complex and half_only:
        raise ArgumentError("istft: Cannot have onesided output if window or input is complex")
    if not return_complex and window is not None and window._array.dtype.kind == "c":
        raise DtypeError("istft: Complex windows are incompatible with return_complex=False")
    weights = _full_window(window, x, width, n_fft)
    spectra = (x if len(shape) == 3 else x.unsqueeze(0)).transpose(1, 2)
    scale = "root" if normalized else "n"
    if return_complex:
        frames: Any = _fft_c2c(spectra, (2,), scale, False)
    else:
        kept = spectra if half_only else narrow(spectra, 2, 0, n_fft // 2 + 1)
        frames = _fft_c2r(kept, (2,), scale, n_fft)
    whole = n_fft + hop * (n_frames - 1)
    frames = frames * weights
    batch = frames._array.shape[0]
    signal: Any = _unfold_grad(frames, (batch, whole), 1, n_fft, hop)
    squares = (weights * weights).expand(1, n_frames, n_fft)
    envelope: Any = _unfold_grad(squares, (1, whole), 1, n_fft, hop)
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else whole - n_fft // 2 if center else whole
    signal, envelope = signal[:, start:end], envelope[:, start:end]
    lowest = float(envelope.detach().abs().min())
    if not lowest > 1e-11:
        raise SpectrumError(f"istft: window overlap add min: {lowest}: expected windows that cover every element")
    signal = signal / envelope
    if end > whole:
        warnings.warn(
            "The length of signal is shorter than the length parameter. Result is being padded with zeros in the tail. "
            "Please check your center and hop_length settings.",
            stacklevel=outside(),
        )
        signal = pad(signal, (0, end - whole))
    return signal if len(shape) == 3 else signal.squeeze(0)  # type: ignore[no-any-return]
