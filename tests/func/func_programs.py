"""Programs over transforms that run under PyTorch and under tensorlib alike: each gives tensors to compare."""

import numpy as np


def programs(T, func, vmap):
    """{name: a function of nothing that gives tensors}."""
    rng = np.random.default_rng(7)

    def normal(*shape):
        return T.tensor(rng.standard_normal(shape).astype(np.float64))

    F = T.nn.functional
    grad, jvp, vjp, hessian = func.grad, func.jvp, func.vjp, func.hessian
    jacrev, jacfwd, linearize = func.jacrev, func.jacfwd, func.linearize
    x, y, v, w, batch = normal(5, 3), normal(5, 4), normal(3), normal(3, 4), normal(5, 3, 4)
    labels = T.tensor([0, 1, 2, 3, 1])
    params = {"0.weight": normal(4, 3), "0.bias": normal(4), "2.weight": normal(2, 4), "2.bias": normal(2)}
    net = T.nn.Sequential(T.nn.Linear(3, 4), T.nn.Tanh(), T.nn.Linear(4, 2))
    image, kernel, bias = normal(3, 2, 6, 6), normal(4, 2, 3, 3), normal(4)
    query, positive = normal(2, 2, 3, 4), normal(4, 3, 3)
    positive = positive @ positive.mT + 3 * T.eye(3, dtype=T.float64)

    def mlp(p, x):
        return func.functional_call(net, p, (x,))

    def loss(p, x):
        return mlp(p, x).pow(2).mean()

    def convolved(k, b, i):
        return F.max_pool2d(F.relu(F.conv2d(i.unsqueeze(0), k, b, padding=1)), 2).pow(2).sum()

    def normed(weight, bias, row):
        return F.gelu(F.layer_norm(row, (3,), weight, bias)).pow(2).sum()

    def entropy(w, row, label):
        return F.cross_entropy((row @ w).unsqueeze(0), label.unsqueeze(0))

    def attended(q):
        return F.scaled_dot_product_attention(q, q, q).pow(2).sum()

    def adapted(w):
        def task(w, row, target):
            def inner(w):
                return ((row @ w - target) ** 2).mean()

            return inner(w - 0.1 * grad(inner)(w))

        return vmap(task, (None, 0, 0))(w, x, y).mean()

    def one(s):
        return T.tensor(s, dtype=T.float64)

    return {
        "dims": lambda: vmap(lambda a, b: (a.sum(), b * 2), (1, -1), (0, 1))(x.T, x.T),
        "nested": lambda: vmap(vmap(lambda a, b: a @ b, (None, 0)), (0, None))(x, x),
        "tree": lambda: vmap(lambda d: {"a": d["x"].sum(), "b": d["y"][0]}, in_dims=({"x": 0, "y": 1},))(
            {"x": x, "y": w.mT @ x.mT}
        ),
        "chunks": lambda: vmap(lambda a: a.softmax(0), chunk_size=2)(x),
        "products": lambda: (
            vmap(T.matmul)(x, batch), vmap(T.matmul, (None, 0))(v, batch), vmap(T.matmul, (0, None))(x, w),
        ),
        "indices": lambda: (vmap(lambda a, i: a[i])(x, labels % 3), vmap(lambda a: a[T.tensor([2, 0])])(x)),
        "in place": lambda: (vmap(lambda a: T.zeros_like(a).add_(a))(x), vmap(lambda a: a.clone().mul_(a))(x)),
        "numbers": lambda: vmap(lambda s: (s.sum(), s.expand(2), s.cumsum(0), s.softmax(0), T.stack([s, s])))(x[:, 0]),
        "promotion": lambda: vmap(lambda s: s * x.float())(T.arange(3, dtype=T.float64)),
        "per-sample gradients": lambda: vmap(grad(loss), (None, 0))(params, x),
        "hessian of an mlp": lambda: hessian(loss)(params, x),
        "adaptation": lambda: (adapted(w), grad(adapted)(w), hessian(lambda s: adapted(w * s))(one(1.3))),
        "jacobians": lambda: [j(lambda a, b: (a @ b, a.sum()), argnums=(0, 1))(v, w) for j in (jacrev, jacfwd)],
        "third order": lambda: grad(grad(grad(lambda s: s**4)))(one(2.0)),
        "no confusion": lambda: (
            grad(lambda a: a * grad(lambda c: a + c)(one(1.0)))(one(3.0)),
            jvp(lambda a: a * jvp(lambda c: a * c, (one(1.0),), (one(1.0),))[1], (one(3.0),), (one(1.0),)),
        ),
        "every order": lambda: [
            outer(inner(lambda a: T.sin(a @ w).prod()))(v) for outer in (jacrev, jacfwd) for inner in (jacrev, jacfwd)
        ],
        "batch of hessians": lambda: vmap(hessian(lambda a: T.sin(a @ w).prod()))(x),
        "linearize": lambda: linearize(lambda a: (a @ w).sin(), v)[1](v),
        "vjp": lambda: vjp(lambda a: (a @ w).sin(), x)[1](y),
        "aux": lambda: (
            grad(lambda a: ((a**2).sum(), a * 3), has_aux=True)(x), jacrev(lambda a: (a**2, a), has_aux=True)(v),
        ),
        "convolution": lambda: vmap(grad(convolved, argnums=(0, 1)), (None, None, 0))(kernel, bias, image),
        "convolutions": lambda: vmap(lambda k: F.conv2d(image, k))(T.stack([kernel, kernel * 2])),
        "forward over reverse": lambda: jvp(grad(lambda k: convolved(k, bias, image[0])), (kernel,), (kernel,)),
        "reverse over forward": lambda: grad(
            lambda k: jvp(lambda k: convolved(k, bias, image[0]), (k,), (kernel,))[1]
        )(kernel),
        "layer norm": lambda: (
            vmap(grad(normed, (0, 1)), (None, None, 0))(v, v + 1, x), hessian(lambda a: normed(v, v, a))(v),
        ),
        "cross entropy": lambda: vmap(grad(entropy), (None, 0, 0))(w, x, labels),
        "cross entropy forward": lambda: jvp(lambda w: vmap(entropy, (None, 0, 0))(w, x, labels), (w,), (w * 2,)),
        "attention": lambda: vmap(grad(attended))(query),
        "decompositions": lambda: (
            vmap(T.linalg.inv)(positive), vmap(grad(lambda a: T.linalg.cholesky(a).sum()))(positive),
            vmap(jacrev(lambda a: T.linalg.slogdet(a)[1]))(positive), jvp(T.linalg.det, (positive,), (positive,)),
        ),
        "ensemble": lambda: vmap(mlp, (0, None))({k: T.stack([p, p * 2]) for k, p in params.items()}, x),
        "functional": lambda: (
            T.autograd.functional.jacobian(lambda a, b: (a @ b, a * 2), (v, w)),
            T.autograd.functional.jacobian(lambda a, b: (a @ b, a * 2), (v, w), vectorize=True),
            T.autograd.functional.jacobian(lambda a: a @ w, v, vectorize=True, strategy="forward-mode"),
            T.autograd.functional.hessian(lambda a, b: (a @ b).sin().sum(), (v, w)),
            T.autograd.functional.hvp(lambda a: (a @ w).sin().sum(), v, v),
            T.autograd.functional.vhp(lambda a: (a @ w).sin().sum(), v, v),
            T.autograd.functional.jvp(lambda a: (a @ w).sin(), v, v),
        ),
        "dual level": lambda: _dual(T, x, w),
    }  # fmt: skip


def _dual(T, x, w):
    forward = T.autograd.forward_ad
    with forward.dual_level():
        made = forward.make_dual(x, x * 2)
        y = (made @ w).softmax(1).clone()
        y[0] = 1.0
        z = T.zeros(5, 4, dtype=T.float64)
        z[1] = (made @ w)[0]
        return [tuple(forward.unpack_dual(t)) for t in (y, z * 2)]


def leaves(value):
    """The tensors of a result, in order."""
    if isinstance(value, dict):
        return [t for key in value for t in leaves(value[key])]
    if isinstance(value, (tuple, list)):
        return [t for part in value for t in leaves(part)]
    return [value]
