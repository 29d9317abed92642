"""`tensorlib tune`: what a model's training step launches, timed on a GPU or compiled for one that is not there."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorlib as tl
from tensorlib import _native, nn, optim
from tensorlib.errors import ArgumentError
from tensorlib.nn import functional as F
from tensorlib.runtime import ahead, autotune, tables
from tensorlib.runtime.ahead import Request
from tensorlib.train.config import RunConfig, flag
from tensorlib.train.convnet import ConvNet
from tensorlib.train.gpt import VOCABULARY
from tensorlib.train.language import LanguageConfig
from tensorlib.train.vision import VisionConfig

IMAGE_SIZE, CLASSES = (28, 28), 10  # MNIST's and Fashion-MNIST's

#: The settings of each model.
MODELS: dict[str, type[RunConfig]] = {"gpt": LanguageConfig, "images": VisionConfig}


def configured(model: str, given: dict[str, Any]) -> RunConfig:
    """The settings of a model, with those that were given. ArgumentError for one that it does not have."""
    made = MODELS[model]
    unknown = given.keys() - {field.name for field in dataclasses.fields(made)}
    if unknown:
        raise ArgumentError(f"--model {model} has no {flag(min(unknown))}")
    return made(**given)


def _loss(config: RunConfig, device: tl.device) -> tuple[nn.Module, Callable[[], tl.Tensor]]:
    """A model and its training loss on made-up data of the right shape."""
    if isinstance(config, LanguageConfig):
        gpt = config.build(device)
        tokens = tl.randint(0, VOCABULARY, (config.batch, config.block + 1)).to(device)

        def of_tokens() -> tl.Tensor:
            logits = gpt(tokens[:, :-1])
            return F.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))

        return gpt, of_tokens
    assert isinstance(config, VisionConfig)
    net = ConvNet(config.model, IMAGE_SIZE, CLASSES, 73.0, 90.0).to(device=device, dtype=config.weights)
    images = tl.randint(0, 256, (config.batch, *IMAGE_SIZE), dtype=tl.uint8).to(device)
    labels = tl.randint(0, CLASSES, (config.batch,)).to(device)
    return net, lambda: F.cross_entropy(net(images), labels, label_smoothing=config.smoothing)


def training_step(config: RunConfig, device: tl.device) -> None:
    """One step and one evaluation as `tensorlib train` does them, on made-up data; nothing is read back."""
    model, loss_of = _loss(config, device)
    optimizer = optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay)
    with tl.amp.autocast(device.type, dtype=tl.bfloat16, enabled=config.dtype == "bfloat16"):
        loss = loss_of()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    model.eval()
    with tl.no_grad(), tl.amp.autocast(device.type, dtype=tl.bfloat16, enabled=config.dtype == "bfloat16"):
        loss_of()


def workloads(config: RunConfig | None, names: list[str], device: tl.device) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(text, call) of what is to be tuned: a model's step, or else the examples of the named tunables, or of all."""
    if config is not None:
        yield f"a training step, batch {config.batch}, {config.dtype}", lambda: training_step(config, device)
        return
    for name in names or sorted(autotune.tunables):
        tunable = autotune.tunables[name]
        if tunable.examples is None:
            if names:
                raise ArgumentError(f"--op {name} has no examples of its own: say which --model's sizes to tune it for")
            continue
        for text, call in tunable.examples(device):
            yield f"{name} {text}", call


def requests(calls: list[Callable[[], Any]], ranks: int) -> list[Request]:
    """What the calls compile on a compile-only device, and with the model's next best candidates, each once."""
    found: dict[Any, Request] = {}
    for rank in range(ranks):
        with autotune.ranked(rank):
            for call in calls:
                for request in ahead.collect(call):
                    found.setdefault(request.hashable, request)
    return list(found.values())


def table_lines() -> Iterator[str]:
    """What was measured, a line a bucket of problems: the user's tables, then the library's."""
    for source, folder in (("yours", tables.folder()), ("shipped", tables.SHIPPED)):
        for path in sorted(folder.glob("*.json")) if folder is not None and folder.is_dir() else ():
            table = tables.load(path) if source == "yours" else tables.shipped_file(path)
            if table is not None:
                yield f"{table.device} ({table.target}), {source}: {path}"
                yield from _entries(table)


def _entries(table: tables.Table) -> Iterator[str]:
    for name, stamps in sorted(table.tunables.items()):
        known = autotune.tunables.get(name)
        for stamp, buckets in sorted(stamps.items()):
            old = "" if known is not None and known.stamp == stamp else " (of another version of the kernel: not used)"
            for place, results in sorted(buckets.items()):
                timed = sorted((r["ms"], config) for config, r in results.items() if "ms" in r)
                refused = len(results) - len(timed)
                wrong = sum("wrong" in r for r in results.values())
                best = f"{timed[0][0]:.4g} ms: {timed[0][1]}" if timed else "none could be timed"
                note = f"; {refused} skipped" * bool(refused) + f", {wrong} with wrong results" * bool(wrong)
                yield f"  {name}: {place} -> {best} (fastest of {len(timed)}{note}){old}"


# ----------------------------------------------------------------------------------------------------- the processor's

SIZES = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22)


def _trained(function: Callable[..., tl.Tensor], *tensors: tl.Tensor) -> None:
    """Forward and backward."""
    function(*[t.requires_grad_() if t.dtype.is_floating_point else t for t in tensors]).sum().backward()


def cpu_workloads() -> Iterator[tuple[str, Callable[[], Any]]]:
    """(text, call) of what training programs do on the CPU, at each of `SIZES` (elements)."""
    elementwise: dict[str, Callable[..., tl.Tensor]] = dict(
        gelu=F.gelu, gelu_tanh=functools.partial(F.gelu, approximate="tanh"), silu=F.silu, sigmoid=tl.sigmoid,
        tanh=tl.tanh, softplus=F.softplus, mish=F.mish, elu=F.elu, hardswish=F.hardswish, erf=tl.erf, log1p=tl.log1p,
        expm1=tl.expm1, logsigmoid=F.logsigmoid, leaky_relu=F.leaky_relu, clamp=functools.partial(tl.clamp, min=-1.0),
        selu=F.selu, square=tl.square, rsqrt=lambda x: tl.rsqrt(x.abs() + 1), dropout=F.dropout, sin=tl.sin,
        cumsum=functools.partial(tl.cumsum, dim=-1), pow=lambda x: (x.abs() + 0.1) ** 1.5,
    )  # fmt: skip
    rows: dict[str, Callable[..., tl.Tensor]] = dict(
        softmax=functools.partial(F.softmax, dim=-1), log_softmax=functools.partial(F.log_softmax, dim=-1),
        logsumexp=functools.partial(tl.logsumexp, dim=-1), var=functools.partial(tl.var, dim=-1),
        sum=functools.partial(tl.sum, dim=-1), mean=functools.partial(tl.mean, dim=0),
        amax=functools.partial(tl.amax, dim=-1),
    )  # fmt: skip
    for n in SIZES:
        for name, function in elementwise.items():
            yield f"{name} {n}", functools.partial(_trained, function, tl.randn(n))
        width = min(n // 16, 1024)
        for name, function in rows.items():
            yield f"{name} {n}", functools.partial(_trained, function, tl.randn(n // width, width))
        x, w = tl.randn(n // width, width), tl.randn(width)
        yield f"layer_norm {n}", functools.partial(
            _trained, lambda x, w, b, m=width: F.layer_norm(x, (m,), w, b), x, w, tl.randn(width)
        )
        yield f"rms_norm {n}", functools.partial(_trained, lambda x, w, m=width: F.rms_norm(x, (m,), w), x, w)
        images = tl.randn(4, 16, n // 64) if n >= 64 * 16 else tl.randn(2, 16, 2)
        yield f"group_norm {n}", functools.partial(_trained, lambda x: F.group_norm(x, 4), images)
        yield f"batch_norm {n}", functools.partial(
            _trained, lambda x: F.batch_norm(x, None, None, training=True), tl.randn(max(n // 256, 2), 16, 4, 4)
        )
        yield f"max_pool {n}", functools.partial(
            _trained, lambda x: F.max_pool2d(x, 2), tl.randn(max(n // 1024, 1), 4, 16, 16)
        )
        targets = tl.randint(0, width, (n // width,))
        yield f"cross_entropy {n}", functools.partial(_trained, F.cross_entropy, tl.randn(n // width, width), targets)
        table, indices = tl.randn(1000, 64), tl.randint(0, 1000, (max(n // 64, 1),))
        yield f"embedding {n}", functools.partial(_trained, lambda t, i: F.embedding(i, t), table, indices)
        length = max(int((n // 64) ** 0.5), 1)
        q, k, v = (tl.randn(max(n // (64 * length), 1), length, 64) for _ in range(3))
        for causal in (True, False):
            yield f"attention {n}", functools.partial(
                _trained,
                lambda q, k, v, c=causal: F.scaled_dot_product_attention(q, k, v, is_causal=c),
                q[:, None], k[:, None], v[:, None],
            )  # fmt: skip
        for make in (optim.AdamW, functools.partial(optim.SGD, momentum=0.9)):
            yield f"optimizer {n}", functools.partial(_updated, make, n)


def cpu_table(found: Sequence[_native.Measured]) -> Iterator[str]:
    """A line an operator: the ratio of its kernel's time to NumPy's at each size, and from where on it is chosen."""
    least = _native.crossovers(found)
    for name in sorted({m.op for m in found}):
        ratios: dict[int, float] = {}
        for m in found:
            if m.op == name:  # the worst of a size, which is what decides
                ratios[m.size] = max(ratios.get(m.size, 0.0), m.native / m.numpy)
        text = "  ".join(f"{size}: {ratio:.2f}" for size, ratio in sorted(ratios.items()))
        yield f"{name:<36} {f'from {least[name]}' if name in least else 'NumPy':<14} {text}"


def _updated(make: Callable[..., optim.Optimizer], n: int) -> None:
    """One step of an optimizer for n numbers in eight parameters."""
    parameters = [nn.Parameter(tl.randn(n // 8)) for _ in range(8)]
    optimizer = make(parameters, lr=1e-3)
    for p in parameters:
        p.grad = tl.randn(n // 8)
    optimizer.step()
