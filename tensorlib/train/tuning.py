"""`tensorlib tune`: what a model's training step launches, timed on a GPU or compiled for one that is not there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import tensorlib as tl
from tensorlib import nn, optim
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
