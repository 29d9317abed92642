"""Distributions: PyTorch's numbers, samples against the closed form, gradients of samples, refusals."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import distributions as D

HERE = Path(__file__).parent
EXPECTED = dict(np.load(HERE / "expected.npz"))
_spec = importlib.util.spec_from_file_location("distribution_cases", HERE / "cases.py")
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)


def follows(got, prefix):
    wanted = {k.removeprefix(prefix): v for k, v in EXPECTED.items() if k.startswith(prefix)}
    assert set(got) == set(wanted)
    for key, value in wanted.items():
        assert got[key].dtype == value.dtype and got[key].shape == value.shape, key
        np.testing.assert_allclose(got[key], value, rtol=3e-4, atol=3e-5, err_msg=key)


@pytest.mark.parametrize("name", cases.CASES)
def test_follows_pytorch(name):
    follows(cases.results(name, tl.tensor, D), f"{name}.")


@pytest.mark.parametrize("name", cases.TRANSFORMS)
def test_transforms_follow_pytorch(name):
    follows(cases.transform_results(name, tl.tensor, D), f"transform_{name}.")


def test_divergences_of_two_kinds_follow_pytorch():
    follows(cases.divergences(tl.tensor, D), "kl.")


SAMPLED = [
    D.Normal(1.0, 2.0), D.Uniform(-1.0, 3.0), D.Exponential(2.0), D.Laplace(1.0, 2.0), D.Bernoulli(0.3),
    D.Gamma(2.5, 1.5), D.Gamma(0.3, 1.0), D.Beta(0.5, 2.0), D.Dirichlet(tl.tensor([0.5, 1.0, 3.0])),
    D.MultivariateNormal(tl.tensor([1.0, -1.0]), scale_tril=tl.tensor([[1.0, 0.0], [0.5, 2.0]])),
    D.Binomial(7, 0.3), D.NegativeBinomial(3.0, 0.4), D.Geometric(0.3), D.Poisson(2.5), D.Gumbel(1.0, 2.0),
    D.HalfNormal(2.0), D.LogNormal(0.1, 0.4), D.Weibull(2.0, 1.5), D.Kumaraswamy(2.0, 3.0), D.Pareto(1.0, 9.0),
    D.StudentT(9.0), D.Chi2(3.0), D.FisherSnedecor(5.0, 20.0), D.InverseGamma(9.0, 2.0), D.ContinuousBernoulli(0.3),
    D.GeneralizedPareto(0.5, 1.0, 0.1), D.Multinomial(5, tl.tensor([0.2, 0.3, 0.5])),
    D.OneHotCategorical(tl.tensor([0.2, 0.3, 0.5])), D.Wishart(5.0, tl.eye(2)),
    D.LowRankMultivariateNormal(tl.zeros(3), tl.ones(3, 1), tl.ones(3)),
    D.MixtureSameFamily(D.Categorical(tl.ones(2)), D.Normal(tl.tensor([-1.0, 3.0]), tl.tensor([0.5, 1.0]))),
]  # fmt: skip


@pytest.mark.parametrize("d", SAMPLED, ids=[str(d).split("(")[0] for d in SAMPLED])
def test_samples_have_the_moments(d):
    tl.manual_seed(1)
    n = 40_000
    x = d.sample((n,))
    assert not x.requires_grad and x.shape == (n, *d.event_shape)
    # five standard errors, of the mean and (with a kurtosis of at most 20) of the variance
    assert bool(((x.mean(0) - d.mean).abs() <= 5 * d.stddev / n**0.5).all())
    assert bool(((x.var(0) - d.variance).abs() <= 5 * d.variance * (20 / n) ** 0.5).all())


def test_categorical_samples():
    tl.manual_seed(1)
    d = D.Categorical(tl.tensor([[1.0, 2.0, 1.0], [0.0, 1.0, 0.0]]))
    x = d.sample((20_000,))
    assert x.shape == (20_000, 2) and x.dtype == tl.int64
    share = tl.stack([(x == k).double().mean(0) for k in range(3)], -1)
    np.testing.assert_allclose(share.numpy(), d.probs.numpy(), atol=0.02)


@pytest.mark.parametrize("concentration", [0.05, 0.7, 3.0, 80.0])
def test_gamma_sample_gradient_keeps_the_quantile(concentration):
    """d sample / d concentration is the move that keeps P(concentration, sample): against central differences."""
    tl.manual_seed(2)
    c = tl.full((50,), concentration, dtype=tl.float64, requires_grad=True)
    x = D.Gamma(c, tl.ones(50, dtype=tl.float64)).rsample()
    (slope,) = tl.autograd.grad(x.sum(), c)
    h = 1e-5 * concentration
    with tl.no_grad():
        dp_dc = (tl.special.gammainc(c + h, x) - tl.special.gammainc(c - h, x)) / (2 * h)
        density = D.Gamma(c, tl.ones(50, dtype=tl.float64)).log_prob(x).exp()
        np.testing.assert_allclose((slope * density).numpy(), -dp_dc.numpy(), rtol=1e-5, atol=1e-8)


def test_rsample_is_differentiable():
    loc, scale = tl.zeros(3, requires_grad=True), tl.ones(3, requires_grad=True)
    x = D.Normal(loc, scale).rsample((5,))
    x.sum().backward()
    assert loc.grad.tolist() == [5.0] * 3
    np.testing.assert_allclose(scale.grad.numpy(), x.detach().sum(0).numpy(), rtol=1e-6)
    with pytest.raises(NotImplementedError, match="reparameterised"):
        D.Categorical(tl.ones(3)).rsample()


def test_parameters_asked_for_in_a_sample_stay_tracked():
    logits = tl.zeros(3, requires_grad=True)
    d = D.Bernoulli(logits=logits)
    d.sample()
    d.probs.sum().backward()
    assert logits.grad.tolist() == [0.25] * 3


def test_expand_and_repr():
    d = D.Normal(tl.zeros(3), 1.0).expand((2, 3))
    assert d.batch_shape == (2, 3) and d.sample((4,)).shape == (4, 2, 3)
    assert D.Independent(d, 1).expand((5, 2)).sample().shape == (5, 2, 3)
    assert repr(D.Independent(D.Normal(0.0, 1.0).expand((2,)), 1)) == (
        "Independent(Normal(loc: tensorlib.Size([2]), scale: tensorlib.Size([2])), 1)"
    )


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: D.Normal(0.0, -1.0), r"parameter scale .*GreaterThan\(lower_bound=0.0\)"),
        (lambda: D.Normal(float("nan"), 1.0), "parameter loc"),
        (lambda: D.Normal("0", 1.0), "Number or"),
        (lambda: D.Bernoulli(1.5), "Interval"),
        (lambda: D.Bernoulli(0.5, logits=0.0), "not both"),
        (lambda: D.Categorical(), "not both"),
        (lambda: D.Categorical(tl.tensor(1.0)), "at least one-dimensional"),
        (lambda: D.Uniform(2.0, 1.0), "low"),
        (lambda: D.MultivariateNormal(tl.zeros(2)), "Exactly one"),
        (lambda: D.MultivariateNormal(tl.zeros(2), scale_tril=-tl.eye(2)), "LowerCholesky"),
        (lambda: D.MultivariateNormal(tl.zeros(2), covariance_matrix=-tl.eye(2)), "PositiveDefinite"),
        (lambda: D.Independent(D.Normal(0.0, 1.0), 1), "reinterpreted_batch_ndims"),
        (lambda: D.Normal(0.0, 1.0).log_prob(1.0), "must be a Tensor"),
        (lambda: D.Normal(tl.zeros(2), 1.0).log_prob(tl.zeros(3)), "not broadcastable"),
        (lambda: D.Bernoulli(0.5).log_prob(tl.tensor(0.3)), "Boolean"),
        (lambda: D.Categorical(tl.ones(2)).log_prob(tl.tensor(2)), "IntegerInterval"),
    ],
)
def test_refuses(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_validation_can_be_left_out():
    d = D.Normal(0.0, -1.0, validate_args=False)
    assert d.log_prob(tl.tensor(float("nan"))).isnan()
    try:
        D.Distribution.set_default_validate_args(False)
        D.Bernoulli(7.0)
    finally:
        D.Distribution.set_default_validate_args(True)


def test_kl_rules():
    with pytest.raises(NotImplementedError, match="register_kl"):
        D.kl_divergence(D.Normal(0.0, 1.0), D.Cauchy(0.0, 1.0))

    class Mine(D.Normal):
        """A subclass takes its parent's rule until it has one of its own."""

    p, q = Mine(0.0, 1.0), D.Normal(1.0, 1.0)
    assert D.kl_divergence(p, q).item() == 0.5
    D.register_kl(Mine, D.Normal)(lambda p, q: tl.tensor(7.0))
    assert D.kl_divergence(p, q).item() == 7.0
    zero = D.kl_divergence(D.Categorical(tl.tensor([0.5, 0.5])), D.Categorical(tl.tensor([1.0, 0.0])))
    assert zero.item() == float("inf")


def test_transformed_distribution_and_cache():
    """A squashed normal, as in soft actor-critic: the cache gives the value before tanh back."""
    loc = tl.zeros(3, requires_grad=True)
    d = D.TransformedDistribution(D.Normal(loc, 1.0), [D.TanhTransform(cache_size=1)])
    y = d.rsample()
    d.log_prob(y).sum().backward()
    assert loc.grad.shape == (3,) and d.has_rsample and d.expand((2, 3)).sample().shape == (2, 3)
    assert d.transforms[0].inv(y) is d.transforms[0]._cached_x_y[0]
    assert D.TanhTransform().inv.inv == D.TanhTransform()
    assert repr(D.ExpTransform().inv) == "_InverseTransform(ExpTransform())"


@pytest.mark.parametrize(
    "constraint",
    [D.constraints.real, D.constraints.positive, D.constraints.unit_interval, D.constraints.interval(-1.0, 2.0),
     D.constraints.less_than(1.0), D.constraints.greater_than(-2.0), D.constraints.simplex, D.constraints.corr_cholesky,
     D.constraints.independent(D.constraints.positive, 1)],
    ids=repr,
)  # fmt: skip
def test_registered_transforms_lead_there(constraint):
    x = tl.randn(4, 6)
    for registry in (D.biject_to, D.transform_to):
        t = registry(constraint)
        y = t(x)
        assert bool(constraint.check(y).all())
        assert y.shape == t.forward_shape(x.shape)
        np.testing.assert_allclose(t(t.inv(y)).numpy(), y.numpy(), rtol=2e-3, atol=1e-4)
    with pytest.raises(NotImplementedError, match="Cannot transform _Dependent"):
        D.biject_to(D.constraints.dependent)
