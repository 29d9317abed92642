"""KL(p || q) = E_p[log p - log q], in closed form, by the types of p and q."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.autograd import grad
from tensorlib.distributions.bernoulli import Bernoulli
from tensorlib.distributions.beta import Beta
from tensorlib.distributions.binomial import Binomial
from tensorlib.distributions.categorical import Categorical
from tensorlib.distributions.cauchy import Cauchy
from tensorlib.distributions.continuous_bernoulli import ContinuousBernoulli
from tensorlib.distributions.dirichlet import Dirichlet
from tensorlib.distributions.distribution import Distribution
from tensorlib.distributions.exp_family import ExponentialFamily
from tensorlib.distributions.exponential import Exponential
from tensorlib.distributions.gamma import Gamma
from tensorlib.distributions.geometric import Geometric
from tensorlib.distributions.gumbel import EULER, Gumbel
from tensorlib.distributions.half_normal import HalfNormal
from tensorlib.distributions.independent import Independent
from tensorlib.distributions.laplace import Laplace
from tensorlib.distributions.lowrank_multivariate_normal import LowRankMultivariateNormal
from tensorlib.distributions.multivariate_normal import MultivariateNormal
from tensorlib.distributions.normal import Normal
from tensorlib.distributions.one_hot_categorical import OneHotCategorical
from tensorlib.distributions.pareto import Pareto
from tensorlib.distributions.poisson import Poisson
from tensorlib.distributions.transformed_distribution import TransformedDistribution
from tensorlib.distributions.uniform import Uniform
from tensorlib.errors import UnsupportedError

__all__ = ["kl_divergence", "register_kl"]

_Rule = Callable[[Any, Any], Tensor]
_RULES: dict[tuple[type[Distribution], type[Distribution]], _Rule] = {}


def register_kl(type_p: type[Distribution], type_q: type[Distribution]) -> Callable[[_Rule], _Rule]:
    """Declare the decorated function(p, q) as KL(p || q) of two types and of their subclasses."""

    def register(rule: _Rule) -> _Rule:
        _RULES[type_p, type_q] = rule
        return rule

    return register


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """KL(p || q), of the batch shape of both.

    UnsupportedError, a NotImplementedError, where no rule for the two types is known.
    """
    for a in type(p).__mro__:
        for b in type(q).__mro__:
            rule = _RULES.get((a, b))
            if rule is not None:
                return rule(p, q)
    raise UnsupportedError(
        f"No KL(p || q) is implemented for p type {type(p).__name__} and q type {type(q).__name__}: "
        "declare one with register_kl, or average p.log_prob - q.log_prob over samples of p"
    )


@register_kl(Normal, Normal)
def _normal(p: Normal, q: Normal) -> Tensor:
    ratio = (p.scale / q.scale) ** 2
    return 0.5 * (ratio + ((p.loc - q.loc) / q.scale) ** 2 - 1 - ratio.log())


@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    inf = float("inf")
    one = p.probs * (ops.softplus(-q.logits) - ops.softplus(-p.logits))
    one = one.masked_fill(q.probs == 0, inf).masked_fill(p.probs == 0, 0)
    zero = (1 - p.probs) * (ops.softplus(q.logits) - ops.softplus(p.logits))
    zero = zero.masked_fill(q.probs == 1, inf).masked_fill(p.probs == 1, 0)
    return one + zero


@register_kl(Categorical, Categorical)
def _categorical(p: Categorical, q: Categorical) -> Tensor:
    terms = p.probs * (p.logits - q.logits)
    terms = terms.masked_fill((q.probs == 0).expand(terms.shape), float("inf"))
    return terms.masked_fill((p.probs == 0).expand(terms.shape), 0).sum(-1)


@register_kl(Uniform, Uniform)
def _uniform(p: Uniform, q: Uniform) -> Tensor:
    inside = ((q.high - q.low) / (p.high - p.low)).log()
    return inside.masked_fill((q.low > p.low) | (q.high < p.high), float("inf"))


@register_kl(Exponential, Exponential)
def _exponential(p: Exponential, q: Exponential) -> Tensor:
    ratio = q.rate / p.rate
    return ratio - ratio.log() - 1


@register_kl(Laplace, Laplace)
def _laplace(p: Laplace, q: Laplace) -> Tensor:
    ratio = p.scale / q.scale
    away = (p.loc - q.loc).abs()
    return -ratio.log() + away / q.scale + ratio * (-away / p.scale).exp() - 1


@register_kl(MultivariateNormal, MultivariateNormal)
def _multivariate_normal(p: MultivariateNormal, q: MultivariateNormal) -> Tensor:
    if p.event_shape != q.event_shape:
        raise ValueError(
            "KL-divergence between two Multivariate Normals with different event shapes cannot be computed: "
            f"{tuple(p.event_shape)} and {tuple(q.event_shape)}"
        )
    batch = ops.broadcast_shapes(p.batch_shape, q.batch_shape)
    n = p.event_shape[0]
    mine, theirs = p.scale_tril.expand((*batch, n, n)), q.scale_tril.expand((*batch, n, n))
    trace = (ops.linalg_solve_triangular(theirs, mine, upper=False) ** 2).sum((-2, -1))
    away = (q.loc - p.loc).expand((*batch, n)).unsqueeze(-1)
    squared = (ops.linalg_solve_triangular(theirs, away, upper=False) ** 2).sum((-2, -1))
    return q._half_log_det() - p._half_log_det() + 0.5 * (trace + squared - n)


@register_kl(Independent, Independent)
def _independent(p: Independent, q: Independent) -> Tensor:
    if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
        raise UnsupportedError(
            f"KL of Independents: reinterpreted_batch_ndims {p.reinterpreted_batch_ndims} and "
            f"{q.reinterpreted_batch_ndims}: expected the same"
        )
    return p._sum(kl_divergence(p.base_dist, q.base_dist))


@register_kl(Gamma, Gamma)
def _gamma(p: Gamma, q: Gamma) -> Tensor:
    a, b = p.concentration, q.concentration
    return (
        b * (p.rate / q.rate).log() + b.lgamma() - a.lgamma() + (a - b) * a.digamma() + (q.rate - p.rate) * a / p.rate
    )


@register_kl(Beta, Beta)
def _beta(p: Beta, q: Beta) -> Tensor:
    return kl_divergence(p._dirichlet, q._dirichlet)


@register_kl(Dirichlet, Dirichlet)
def _dirichlet(p: Dirichlet, q: Dirichlet) -> Tensor:
    a, b = p.concentration, q.concentration
    total = a.sum(-1, keepdim=True)
    norms = total.squeeze(-1).lgamma() - b.sum(-1).lgamma() - (a.lgamma() - b.lgamma()).sum(-1)
    return norms + ((a - b) * (a.digamma() - total.digamma())).sum(-1)


def _low(p: Any) -> Tensor:
    """The Cholesky factor of a (low-rank) normal's covariance, as PyTorch's rules take the two together."""
    tril: Tensor = p.scale_tril
    return tril


@register_kl(LowRankMultivariateNormal, LowRankMultivariateNormal)
@register_kl(MultivariateNormal, LowRankMultivariateNormal)
@register_kl(LowRankMultivariateNormal, MultivariateNormal)
def _low_rank(p: Any, q: Any) -> Tensor:
    if p.event_shape != q.event_shape:
        raise ValueError(
            "KL-divergence between two (Low Rank) Multivariate Normals with different event shapes cannot be computed: "
            f"{tuple(p.event_shape)} and {tuple(q.event_shape)}"
        )
    return _multivariate_normal(
        MultivariateNormal(p.loc, scale_tril=_low(p), validate_args=False),
        MultivariateNormal(q.loc, scale_tril=_low(q), validate_args=False),
    )


@register_kl(Binomial, Binomial)
def _binomial(p: Binomial, q: Binomial) -> Tensor:
    if bool((p.total_count < q.total_count).any()):
        raise UnsupportedError("KL between Binomials where q.total_count > p.total_count is not implemented")
    kl = p.total_count * (p.probs * (p.logits - q.logits) + (-p.probs).log1p() - (-q.probs).log1p())
    return kl.masked_fill(p.total_count > q.total_count, math.inf)


@register_kl(OneHotCategorical, OneHotCategorical)
def _one_hot(p: OneHotCategorical, q: OneHotCategorical) -> Tensor:
    return _categorical(p._categorical, q._categorical)


@register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _continuous_bernoulli(p: ContinuousBernoulli, q: ContinuousBernoulli) -> Tensor:
    norms = p._log_norm() + (-p.probs).log1p() - q._log_norm() - (-q.probs).log1p()
    return p.mean * (p.logits - q.logits) + norms


@register_kl(Geometric, Geometric)
def _geometric(p: Geometric, q: Geometric) -> Tensor:
    return -p.entropy() - (-q.probs).log1p() / p.probs - q.logits


@register_kl(Gumbel, Gumbel)
def _gumbel(p: Gumbel, q: Gumbel) -> Tensor:
    ratio, away = p.scale / q.scale, (q.loc - p.loc) / q.scale
    return -ratio.log() - away + ratio * EULER + (away + (1 + ratio).lgamma()).exp() - (1 + EULER)


@register_kl(HalfNormal, HalfNormal)
def _half_normal(p: HalfNormal, q: HalfNormal) -> Tensor:
    return _normal(p.base_dist, q.base_dist)


@register_kl(Pareto, Pareto)
def _pareto(p: Pareto, q: Pareto) -> Tensor:
    ratio = q.alpha / p.alpha
    return (q.alpha * (p.scale / q.scale).log() - ratio.log() + ratio - 1).masked_fill(p.scale < q.scale, math.inf)


@register_kl(Poisson, Poisson)
def _poisson(p: Poisson, q: Poisson) -> Tensor:
    return p.rate * (p.rate.log() - q.rate.log()) - (p.rate - q.rate)


@register_kl(Cauchy, Cauchy)
def _cauchy(p: Cauchy, q: Cauchy) -> Tensor:
    return ((p.scale + q.scale) ** 2 + (p.loc - q.loc) ** 2).log() - (4 * p.scale * q.scale).log()


@register_kl(TransformedDistribution, TransformedDistribution)
def _transformed(p: TransformedDistribution, q: TransformedDistribution) -> Tensor:
    if p.transforms != q.transforms or p.event_shape != q.event_shape:
        raise UnsupportedError("KL of TransformedDistributions: expected the same transforms and event shapes")
    return kl_divergence(p.base_dist, q.base_dist)


@register_kl(ExponentialFamily, ExponentialFamily)
def _exponential_family(p: ExponentialFamily, q: ExponentialFamily) -> Tensor:
    """F(theta_q) - F(theta_p) - <theta_q - theta_p, grad F(theta_p)>: a Bregman divergence of the normalizer."""
    if type(p) is not type(q):
        raise UnsupportedError("KL of different exponential families cannot be computed as a Bregman divergence")
    thetas = [theta.detach().requires_grad_() for theta in p._natural_params]
    norm = p._log_normalizer(*thetas)
    result = q._log_normalizer(*q._natural_params) - norm
    batch = ops.broadcast_shapes(p.batch_shape, q.batch_shape)
    for mine, theirs, slope in zip(
        thetas, q._natural_params, grad(norm.sum(), thetas, create_graph=True), strict=True
    ):
        result = result - ((theirs - mine) * slope).reshape((*batch, -1)).sum(-1)
    return result


@register_kl(Bernoulli, Poisson)
def _bernoulli_poisson(p: Bernoulli, q: Poisson) -> Tensor:
    return -p.entropy() - (p.probs * q.rate.log() - q.rate)


@register_kl(Normal, Laplace)
def _normal_laplace(p: Normal, q: Laplace) -> Tensor:
    away = p.loc - q.loc
    z = away / p.scale
    absolute = math.sqrt(2 / math.pi) * p.scale * (-0.5 * z**2).exp() + away * ops.erf(z / math.sqrt(2))
    return -p.entropy() + (2 * q.scale).log() + absolute / q.scale


def _infinite(p: Any, q: Any) -> Tensor:
    """Where p has mass that q has not."""
    return ops.full(ops.broadcast_shapes(p.batch_shape, q.batch_shape), math.inf)


for _pair in (
    *((p, q) for p in (Exponential, Gamma) for q in (Beta, ContinuousBernoulli, Uniform, Pareto)),
    *((p, q) for p in (Gumbel, Laplace, Normal) for q in (Beta, ContinuousBernoulli, Exponential, Gamma, Pareto,
      Uniform)),
    (Beta, Pareto), (ContinuousBernoulli, Pareto), (Pareto, Beta), (Pareto, ContinuousBernoulli), (Pareto, Uniform),
    (Poisson, Bernoulli), (Poisson, Binomial),
):  # fmt: skip
    register_kl(*_pair)(_infinite)


# What is left is a cross entropy -E_p[log q] less p's entropy. Each q asks for some expectations, each p knows them.


def _mean_log(p: Any) -> Tensor:
    """E[log x]."""
    if isinstance(p, Beta):
        return p.concentration1.digamma() - (p.concentration1 + p.concentration0).digamma()
    if isinstance(p, Gamma):
        return p.concentration.digamma() - p.rate.log()
    if isinstance(p, Exponential):
        return -EULER - p.rate.log()
    if isinstance(p, Pareto):
        return p.scale.log() + 1 / p.alpha
    return (ops.xlogy(p.high, p.high) - ops.xlogy(p.low, p.low)) / (p.high - p.low) - 1  # Uniform


def _mean_exp(p: Any, t: Tensor) -> Tensor:
    """E[exp(-t x)]."""
    if isinstance(p, Gamma):
        return (p.rate / (p.rate + t)) ** p.concentration
    if isinstance(p, Exponential):
        return p.rate / (p.rate + t)
    if isinstance(p, Normal):
        return (0.5 * (t * p.scale) ** 2 - t * p.loc).exp()
    return ((-t * p.low).exp() - (-t * p.high).exp()) / (t * (p.high - p.low))  # Uniform


def _to_exponential(p: Any, q: Exponential) -> Tensor:
    return -q.rate.log() + q.rate * p.mean


def _to_gamma(p: Any, q: Gamma) -> Tensor:
    c = q.concentration
    return c.lgamma() - c * q.rate.log() + (1 - c) * _mean_log(p) + q.rate * p.mean


def _to_normal(p: Any, q: Normal) -> Tensor:
    return 0.5 * math.log(2 * math.pi) + q.scale.log() + (p.variance + (p.mean - q.loc) ** 2) / (2 * q.scale**2)


def _to_gumbel(p: Any, q: Gumbel) -> Tensor:
    return q.scale.log() + (p.mean - q.loc) / q.scale + (q.loc / q.scale).exp() * _mean_exp(p, 1 / q.scale)


def _to_continuous_bernoulli(p: Any, q: ContinuousBernoulli) -> Tensor:
    return -p.mean * q.logits - (-q.probs).log1p() - q._log_norm()


def _to_beta(p: Uniform, q: Beta) -> Tensor:
    a, b = q.concentration1, q.concentration0
    mirrored = Uniform(1 - p.high, 1 - p.low, validate_args=False)
    norm = a.lgamma() + b.lgamma() - (a + b).lgamma()
    return norm + (1 - a) * _mean_log(p) + (1 - b) * _mean_log(mirrored)


def _to_pareto(p: Uniform, q: Pareto) -> Tensor:
    return (q.alpha + 1) * _mean_log(p) - (q.alpha * q.scale**q.alpha).log()


def _to_uniform(p: Any, q: Uniform) -> Tensor:
    return (q.high - q.low).log()


def _bounds(d: Any) -> tuple[Any, Any]:
    """Of the support."""
    if isinstance(d, Uniform):
        return d.low, d.high
    if isinstance(d, (Beta, ContinuousBernoulli)):
        return 0.0, 1.0
    if isinstance(d, Pareto):
        return d.scale, math.inf
    return (0.0 if isinstance(d, (Exponential, Gamma)) else -math.inf), math.inf


def _cross(cross_entropy: Callable[[Any, Any], Tensor]) -> _Rule:
    def rule(p: Any, q: Any) -> Tensor:
        (low, high), (lowest, highest) = _bounds(p), _bounds(q)
        kl = cross_entropy(p, q) - p.entropy()
        outside = ops.as_tensor(low < lowest) | ops.as_tensor(high > highest)
        return kl.masked_fill(outside, math.inf)

    return rule


for _types, _target, _entropy in (
    ((Beta, ContinuousBernoulli, Gamma, Pareto, Uniform), Exponential, _to_exponential),
    ((Beta, Exponential, Pareto, Uniform), Gamma, _to_gamma),
    ((Beta, ContinuousBernoulli, Exponential, Gamma, Gumbel, Laplace, Pareto, Uniform), Normal, _to_normal),
    ((Exponential, Gamma, Normal, Uniform), Gumbel, _to_gumbel),
    ((Beta, Uniform), ContinuousBernoulli, _to_continuous_bernoulli),
    ((Uniform,), Beta, _to_beta),
    ((Uniform,), Pareto, _to_pareto),
    ((Beta, ContinuousBernoulli), Uniform, _to_uniform),
):
    for _type in _types:
        register_kl(_type, _target)(_cross(_entropy))
