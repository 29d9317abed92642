"""Probability distributions: parameters in, samples, log-probabilities and divergences out, differentiable."""

from tensorlib.distributions import constraints, kl
from tensorlib.distributions.bernoulli import Bernoulli
from tensorlib.distributions.beta import Beta
from tensorlib.distributions.categorical import Categorical
from tensorlib.distributions.dirichlet import Dirichlet
from tensorlib.distributions.distribution import Distribution
from tensorlib.distributions.exponential import Exponential
from tensorlib.distributions.gamma import Gamma
from tensorlib.distributions.independent import Independent
from tensorlib.distributions.kl import kl_divergence, register_kl
from tensorlib.distributions.laplace import Laplace
from tensorlib.distributions.multivariate_normal import MultivariateNormal
from tensorlib.distributions.normal import Normal
from tensorlib.distributions.uniform import Uniform

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Dirichlet",
    "Distribution",
    "Exponential",
    "Gamma",
    "Independent",
    "Laplace",
    "MultivariateNormal",
    "Normal",
    "Uniform",
    "constraints",
    "kl",
    "kl_divergence",
    "register_kl",
]
