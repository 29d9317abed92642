"""Parametrizations that are often wanted: orthogonal, of unit spectral norm, of a learnt length."""

from __future__ import annotations

from typing import Any, TypeVar

from tensorlib import linalg
from tensorlib._core import Tensor
from tensorlib._dtypes import finfo
from tensorlib.nn import functional as F
from tensorlib.nn.module import Module
from tensorlib.nn.utils.parametrize import register_parametrization
from tensorlib.nn.utils.spectral_norm import Power, output_dim
from tensorlib.nn.utils.weight_norm import norm_except_dim, weight_of
from tensorlib.ops import cat, eye, geqrf, randn, zeros_like

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]

T = TypeVar("T", bound=Module)


def _orthonormal(a: Tensor) -> Tensor:
    """The nearest thing to a with orthonormal columns that a QR factorisation gives, its signs kept."""
    x, tau = geqrf(a)
    return linalg.householder_product(x, tau) * x.diagonal(dim1=-2, dim2=-1).sgn().unsqueeze(-2)


def _is_orthonormal(q: Tensor) -> bool:
    eps = 10 * q.shape[-1] * finfo(q.dtype).eps
    gap = q.mH @ q - eye(q.shape[-1], dtype=q.dtype, device=q.device)
    return bool((gap.abs() <= eps).all())


class _Orthogonal(Module):
    base: Tensor | None

    def __init__(self, weight: Tensor, orthogonal_map: str, use_trivialization: bool) -> None:
        super().__init__()
        if weight.is_complex() and orthogonal_map == "householder":
            raise ValueError("The householder parametrization does not support complex tensors.")
        self.shape = weight.shape
        self.orthogonal_map = orthogonal_map
        self.use_trivialization = use_trivialization
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, x: Tensor) -> Tensor:
        n, k = x.shape[-2:]
        transposed = n < k
        if transposed:
            x, n, k = x.mT, k, n
        if self.orthogonal_map == "householder":
            a = x.tril(diagonal=-1)
            tau = 2.0 / (1.0 + (a * a).sum(dim=-2))
            q = linalg.householder_product(a, tau) * x.diagonal(dim1=-2, dim2=-1).int().unsqueeze(-2)
        else:
            x = x.tril()
            if n != k:
                x = cat([x, x.new_zeros(n, n - k).expand(*x.shape[:-2], -1, -1)], dim=-1)
            a = x - x.mH
            if self.orthogonal_map == "matrix_exp":
                q = linalg.matrix_exp(a)
            else:
                unit = eye(n, dtype=a.dtype, device=a.device)
                q = linalg.solve(unit.add(a, alpha=-0.5), unit.add(a, alpha=0.5))
            q = q[..., :k]
        if self.use_trivialization:
            q = self.base @ q
        return q.mT if transposed else q  # type: ignore[no-any-return]

    def right_inverse(self, q: Tensor) -> Tensor:
        if q.shape != self.shape:
            raise ValueError(
                f"Expected a matrix or batch of matrices of shape {self.shape}. Got a tensor of shape {q.shape}."
            )
        first = q
        n, k = q.shape[-2:]
        transposed = n < k
        if transposed:
            q, n, k = q.mT, k, n
        if not self.use_trivialization:
            if self.orthogonal_map != "householder":
                raise NotImplementedError(
                    "It is not possible to assign to the matrix exponential or the Cayley parametrizations when "
                    "use_trivialization=False."
                )
            a, tau = geqrf(q)
            diagonal = a.diagonal(dim1=-2, dim2=-1)
            diagonal.sign_()
            diagonal.masked_fill_(tau == 0.0, -1.0)
            return a.mT if transposed else a  # type: ignore[no-any-return]
        if n == k:
            q = q.clone() if _is_orthonormal(q) else _orthonormal(q)
        else:
            more = randn(*q.shape[:-2], n, n - k, dtype=q.dtype, device=q.device)
            q = _orthonormal(cat([q, more], dim=-1))
        self.base = q
        start = zeros_like(first)
        start.diagonal(dim1=-2, dim2=-1).fill_(-1.0)
        return start


def orthogonal(
    module: T, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> T:
    """Make a matrix, or a batch of them, orthogonal (its rows where it is wide), whatever is learnt.

    orthogonal_map: "matrix_exp" of a skew-symmetric matrix, its "cayley" transform, or a "householder" product; by
    default matrix_exp where it is square, householder elsewhere. use_trivialization: relative to what the weight was.
    Lezcano-Casado 2019. ValueError for what is no matrix and for an unknown map.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    if weight.ndim < 2:
        raise ValueError(f"Expected a matrix or batch of matrices. Got a tensor of {weight.ndim} dimensions.")
    if orthogonal_map is None:
        square = weight.shape[-2] == weight.shape[-1]
        orthogonal_map = "matrix_exp" if square or weight.is_complex() else "householder"
    if orthogonal_map not in ("matrix_exp", "cayley", "householder"):
        raise ValueError(
            f'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". Got: {orthogonal_map}'
        )
    made = _Orthogonal(weight, orthogonal_map, use_trivialization)
    register_parametrization(module, name, made, unsafe=True)
    return module


class _WeightNorm(Module):
    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_of(weight_v, weight_g, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return norm_except_dim(weight, 2, self.dim), weight


def weight_norm(module: T, name: str = "weight", dim: int | None = 0) -> T:
    """name = g v / |v|: ``original0`` is g, the norms over all dimensions but ``dim``, ``original1`` is v.

    dim None: one norm of the whole. Salimans & Kingma 2016.
    """

    def from_hooks(state: dict[str, Any], prefix: str, *_: Any) -> None:
        for old, new in ((f"{name}_g", 0), (f"{name}_v", 1)):
            if prefix + old in state:
                state[f"{prefix}parametrizations.{name}.original{new}"] = state.pop(prefix + old)

    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)
    module._register_load_state_dict_pre_hook(from_hooks)
    return module


class _SpectralNorm(Module):
    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        if not -weight.ndim <= dim < weight.ndim:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [-{weight.ndim}, {weight.ndim - 1}] but got {dim})"
            )
        self.power = Power(dim % weight.ndim, n_power_iterations, eps)
        if weight.ndim > 1:
            u, v = self.power.start(weight)
            self.register_buffer("_u", u)
            self.register_buffer("_v", v)
            self.power.iterate(self.power.matrix(weight.detach()), u, v, 15, "u")

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.power.eps)  # type: ignore[no-any-return]
        matrix = self.power.matrix(weight)
        if self.training:
            self.power.iterate(matrix, self._u, self._v, self.power.iterations, "u")
        return weight / self.power.sigma(matrix, self._u.clone(), self._v.clone())  # type: ignore[no-any-return]

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(
    module: T, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> T:
    """name over its largest singular value, which power iterations follow each time it is read in training.

    dim: what counts as rows, by default the layer's outputs. Miyato et al. 2018. ValueError for no iterations, and
    where the module has no such tensor.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    made = _SpectralNorm(weight, n_power_iterations, output_dim(module, dim), eps)
    register_parametrization(module, name, made)
    return module
