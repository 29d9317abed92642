"""Every distribution with parameters, a value and a second set of parameters: run under PyTorch and under tensorlib."""

import numpy as np

rng = np.random.default_rng(3)
S = (2, 3)


def real(*shape):
    return rng.standard_normal(shape).astype("float32")


def positive(*shape):
    return np.exp(real(*shape))


def share(*shape):
    return rng.uniform(0.05, 0.95, shape).astype("float32")


def lower(n):
    return np.tril(real(n, n), -1) + np.diag(positive(n))


def spread(n):
    return (lambda a: a @ a.T + np.eye(n, dtype="float32"))(lower(n))


def category(*shape):
    return rng.integers(0, 5, shape)


def coin(*shape):
    return rng.integers(0, 2, shape).astype("float32")


#: name -> distribution, parameters, parameters of q, a value
CASES = {
    "normal": ("Normal", dict(loc=real(*S), scale=positive(3)), dict(loc=real(*S), scale=positive(*S)), real(4, *S)),
    "uniform": ("Uniform", dict(low=real(*S) - 4, high=real(*S) + 4), dict(low=real(*S) - 9, high=real(*S) + 9),
                share(*S)),
    "exponential": ("Exponential", dict(rate=positive(*S)), dict(rate=positive(*S)), positive(*S)),
    "laplace": ("Laplace", dict(loc=real(*S), scale=positive(*S)), dict(loc=real(*S), scale=positive(*S)), real(*S)),
    "bernoulli_probs": ("Bernoulli", dict(probs=share(*S)), dict(probs=share(*S)), coin(*S)),
    "bernoulli_logits": ("Bernoulli", dict(logits=real(*S)), dict(logits=real(*S)), coin(4, *S)),
    "categorical_probs": ("Categorical", dict(probs=positive(*S, 5)), dict(probs=positive(*S, 5)), category(4, *S)),
    "categorical_logits": ("Categorical", dict(logits=real(*S, 5)), dict(logits=real(*S, 5)), category(*S)),
    "gamma": ("Gamma", dict(concentration=positive(*S), rate=positive(*S)),
              dict(concentration=positive(*S), rate=positive(*S)), positive(*S)),
    "beta": ("Beta", dict(concentration1=positive(*S), concentration0=positive(*S)),
             dict(concentration1=positive(*S), concentration0=positive(*S)), share(*S)),
    "dirichlet": ("Dirichlet", dict(concentration=positive(*S)), dict(concentration=positive(*S)),
                  np.float32([[0.2, 0.3, 0.5], [0.25, 0.5, 0.25]])),
    "mvn_tril": ("MultivariateNormal", dict(loc=real(2, 3), scale_tril=lower(3)),
                 dict(loc=real(3), scale_tril=lower(3)), real(4, 2, 3)),
    "mvn_covariance": ("MultivariateNormal", dict(loc=real(3), covariance_matrix=spread(3)),
                       dict(loc=real(3), covariance_matrix=spread(3)), real(3)),
    "mvn_precision": ("MultivariateNormal", dict(loc=real(3), precision_matrix=spread(3)),
                      dict(loc=real(3), precision_matrix=spread(3)), real(3)),
}  # fmt: skip
#: What exists in closed form, besides log_prob, the divergence and their gradients.
MOMENTS = ("mean", "mode", "variance", "stddev", "entropy")
EXTRA = {
    "cdf": ("normal", "uniform", "exponential", "laplace"),
    "icdf": ("normal", "uniform", "exponential", "laplace"),
    "enumerate_support": ("bernoulli_probs", "categorical_logits"),
}


def results(name, tensor, distributions):
    """The numbers of one case. ``tensor`` makes a tensor of an array, ``distributions`` is the package."""
    kind, params, other, value = CASES[name]
    make = getattr(distributions, kind)
    p = {k: tensor(v).requires_grad_() for k, v in params.items()}
    d, q, x = make(**p), make(**{k: tensor(v) for k, v in other.items()}), tensor(value)
    out = {"log_prob": d.log_prob(x), "kl": distributions.kl_divergence(d, q)}
    (out["log_prob"].sum() + 2 * out["kl"].sum()).backward()
    out |= {f"grad_{k}": v.grad for k, v in p.items()}
    out |= {m: getattr(d, m)() if m == "entropy" else getattr(d, m) for m in MOMENTS}
    for method, names in EXTRA.items():
        if name in names:
            args = {"cdf": (x,), "icdf": (tensor(np.float32(0.3)),), "enumerate_support": ()}[method]
            out[method] = getattr(d, method)(*args)
    if len(d.batch_shape):
        block = distributions.Independent(d, 1)
        out["independent"] = block.log_prob(x)
        other_block = distributions.Independent(q.expand(d.batch_shape), 1)
        out["independent_kl"] = distributions.kl_divergence(block, other_block)
    return {k: v.detach().numpy() for k, v in out.items()}
