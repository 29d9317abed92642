"""Discrete Fourier transforms: every operator declared with ``fft`` in its namespaces."""

from tensorlib._namespace import fill as _fill

__all__, __getattr__ = _fill(__name__, "fft", globals())
