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


def counts(*shape):
    return rng.integers(0, 5, shape).astype("float32")


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
    "binomial": ("Binomial", dict(total_count=np.float32(5.0), probs=share(*S)),
                 dict(total_count=np.float32(5.0), probs=share(*S)), counts(4, *S)),
    "cauchy": ("Cauchy", dict(loc=real(*S), scale=positive(*S)), dict(loc=real(*S), scale=positive(*S)), real(*S)),
    "chi2": ("Chi2", dict(df=positive(*S)), dict(df=positive(*S)), positive(*S)),
    "continuous_bernoulli": ("ContinuousBernoulli", dict(probs=share(*S)), dict(probs=share(*S)), share(*S)),
    "continuous_bernoulli_near": ("ContinuousBernoulli", dict(logits=1e-3 * real(*S)), dict(logits=real(*S)),
                                  share(*S)),
    "fishersnedecor": ("FisherSnedecor", dict(df1=5 + positive(*S), df2=5 + positive(*S)),
                       dict(df1=positive(*S), df2=positive(*S)), positive(*S)),
    "generalized_pareto": ("GeneralizedPareto", dict(loc=real(*S), scale=positive(*S), concentration=0.4 * share(*S)),
                           dict(loc=real(*S), scale=positive(*S), concentration=share(*S)), 4 + positive(*S)),
    "geometric": ("Geometric", dict(probs=share(*S)), dict(probs=share(*S)), counts(*S)),
    "gumbel": ("Gumbel", dict(loc=real(*S), scale=positive(*S)), dict(loc=real(*S), scale=positive(*S)), real(*S)),
    "half_cauchy": ("HalfCauchy", dict(scale=positive(*S)), dict(scale=positive(*S)), positive(*S)),
    "half_normal": ("HalfNormal", dict(scale=positive(*S)), dict(scale=positive(*S)), positive(*S)),
    "inverse_gamma": ("InverseGamma", dict(concentration=2 + positive(*S), rate=positive(*S)),
                      dict(concentration=positive(*S), rate=positive(*S)), positive(*S)),
    "kumaraswamy": ("Kumaraswamy", dict(concentration1=positive(*S), concentration0=positive(*S)),
                    dict(concentration1=positive(*S), concentration0=positive(*S)), share(*S)),
    "log_normal": ("LogNormal", dict(loc=real(*S), scale=positive(*S)), dict(loc=real(*S), scale=positive(*S)),
                   positive(*S)),
    "logistic_normal": ("LogisticNormal", dict(loc=real(4, 2), scale=positive(4, 2)),
                        dict(loc=real(4, 2), scale=positive(4, 2)), np.float32([0.2, 0.3, 0.5])),
    "low_rank": ("LowRankMultivariateNormal", dict(loc=real(2, 3), cov_factor=real(3, 2), cov_diag=positive(3)),
                 dict(loc=real(3), cov_factor=real(3, 2), cov_diag=positive(3)), real(4, 2, 3)),
    "multinomial": ("Multinomial", dict(total_count=3, probs=positive(*S)), dict(total_count=3, logits=real(*S)),
                    np.float32([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])),
    "negative_binomial": ("NegativeBinomial", dict(total_count=positive(*S), probs=share(*S)),
                          dict(total_count=positive(*S), probs=share(*S)), counts(*S)),
    "one_hot": ("OneHotCategorical", dict(probs=positive(*S)), dict(logits=real(*S)), np.eye(3, dtype="float32")[:2]),
    "pareto": ("Pareto", dict(scale=share(*S), alpha=2 + positive(*S)), dict(scale=share(*S), alpha=positive(*S)),
               1 + positive(*S)),
    "poisson": ("Poisson", dict(rate=positive(*S)), dict(rate=positive(*S)), counts(*S)),
    "relaxed_bernoulli": ("RelaxedBernoulli", dict(temperature=np.float32(0.7), logits=real(*S)),
                          dict(temperature=np.float32(0.7), probs=share(*S)), share(*S)),
    "relaxed_one_hot": ("RelaxedOneHotCategorical", dict(temperature=np.float32(0.7), logits=real(*S)),
                        dict(temperature=np.float32(0.7), probs=positive(*S)), np.float32([0.2, 0.3, 0.5])),
    "student_t": ("StudentT", dict(df=2 + positive(*S), loc=real(*S), scale=positive(*S)),
                  dict(df=positive(*S), loc=real(*S), scale=positive(*S)), real(*S)),
    "von_mises": ("VonMises", dict(loc=real(*S), concentration=positive(*S)),
                  dict(loc=real(*S), concentration=positive(*S)), real(*S)),
    "weibull": ("Weibull", dict(scale=positive(*S), concentration=1 + positive(*S)),
                dict(scale=positive(*S), concentration=positive(*S)), positive(*S)),
    "lkj": ("LKJCholesky", dict(dim=3, concentration=positive(2)), dict(dim=3, concentration=positive(2)),
            np.float32([[1, 0, 0], [0.6, 0.8, 0], [0, 0.8, 0.6]])),
    "wishart": ("Wishart", dict(df=np.float32(4.5), covariance_matrix=spread(3)),
                dict(df=np.float32(5.5), covariance_matrix=spread(3)), spread(3)),
}  # fmt: skip
#: name -> transform, its arguments, inputs
TRANSFORMS = {
    "affine": ("AffineTransform", (real(3), positive(3), 1), real(*S)),
    "exp": ("ExpTransform", (), real(*S)),
    "power": ("PowerTransform", (np.float32(1.7),), positive(*S)),
    "sigmoid": ("SigmoidTransform", (), real(*S)),
    "softplus": ("SoftplusTransform", (), real(*S)),
    "tanh": ("TanhTransform", (), real(*S)),
    "stick": ("StickBreakingTransform", (), real(*S)),
    "softmax": ("SoftmaxTransform", (), real(*S)),
    "corr": ("CorrCholeskyTransform", (), real(2, 6)),
    "lower": ("LowerCholeskyTransform", (), real(2, 3, 3)),
    "definite": ("PositiveDefiniteTransform", (), real(2, 3, 3)),
    "reshape": ("ReshapeTransform", ((2, 3), (6,)), real(4, 2, 3)),
}
#: Of these, each with each: the divergence where there is one.
CROSS = ("normal", "uniform", "exponential", "laplace", "gamma", "beta", "gumbel", "pareto", "continuous_bernoulli",
         "poisson", "bernoulli_probs")  # fmt: skip
#: What exists in closed form, besides log_prob, the divergence and their gradients.
MOMENTS = ("mean", "mode", "variance", "stddev", "entropy")


def known(f):
    """What f gives; None where there is no closed form."""
    try:
        return f()
    except NotImplementedError:
        return None


def build(name, which, tensor, distributions, requires_grad=False):
    """A distribution of CASES, and its tensors by name."""
    given = CASES[name][which]
    made = {k: v if isinstance(v, int) else tensor(v).requires_grad_(requires_grad) for k, v in given.items()}
    return getattr(distributions, CASES[name][0])(**made), {k: v for k, v in made.items() if not isinstance(v, int)}


def results(name, tensor, distributions):
    """The numbers of one case. ``tensor`` makes a tensor of an array, ``distributions`` is the package."""
    d, p = build(name, 1, tensor, distributions, requires_grad=True)
    (q, _), x = build(name, 2, tensor, distributions), tensor(CASES[name][3])
    out = {"log_prob": d.log_prob(x), "kl": known(lambda: distributions.kl_divergence(d, q))}
    (out["log_prob"].sum() + (0 if out["kl"] is None else 2 * out["kl"].sum())).backward()
    out |= {f"grad_{k}": v.grad for k, v in p.items()}
    for m in MOMENTS:
        out[m] = known(lambda m=m: getattr(d, m)() if m == "entropy" else getattr(d, m))
    third = tensor(np.float32(0.3))
    out["cdf"], out["icdf"] = known(lambda: d.cdf(x)), known(lambda: d.icdf(third))
    out["enumerate_support"] = known(d.enumerate_support)
    if len(d.batch_shape):
        block = distributions.Independent(d, 1)
        out["independent"] = block.log_prob(x)
        other_block = distributions.Independent(q.expand(d.batch_shape), 1)
        out["independent_kl"] = known(lambda: distributions.kl_divergence(block, other_block))
    return {k: v.detach().numpy() for k, v in out.items() if v is not None}


def transform_results(name, tensor, distributions):
    """A transform's value, its inverse of that, and the log of its Jacobian."""
    kind, args, x = TRANSFORMS[name]
    args = [tensor(a) if isinstance(a, np.ndarray | np.floating) else a for a in args]
    t = getattr(distributions.transforms, kind)(*args)
    x = tensor(x).requires_grad_()
    y = t(x)
    y.sum().backward()
    out = {"y": y, "x": t.inv(y), "log": known(lambda: t.log_abs_det_jacobian(x, y)), "grad": x.grad}
    return {k: v.detach().numpy() for k, v in out.items() if v is not None}


def divergences(tensor, distributions):
    """KL of every pair of CROSS that has one."""
    out = {}
    for one in CROSS:
        for other in CROSS:
            (p, _), (q, _) = build(one, 1, tensor, distributions), build(other, 1, tensor, distributions)
            kl = known(lambda p=p, q=q: distributions.kl_divergence(p, q))
            if kl is not None:
                out[f"{one}|{other}"] = np.broadcast_to(kl.numpy(), S)
    return out
