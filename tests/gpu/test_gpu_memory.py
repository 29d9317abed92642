"""The allocator on a real driver: threads, streams, running out of memory and going on, nothing left behind."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

import tensorlib as T
from tensorlib import _array, nn

MB = 1 << 20


@pytest.fixture(autouse=True)
def poison():
    """No poison here: it is written by the host, which has no room for as much as a GPU has."""
    before = _array.poison(False)
    yield
    _array.poison(before)


def settled():
    """Bytes held by tensors, after everything that is unreachable was freed."""
    gc.collect()
    T.cuda.synchronize()
    return T.cuda.memory_allocated()


def test_freed_memory_is_used_again(small):
    n = MB if small else 256 * MB
    x = T.empty(n, dtype=T.uint8, device="cuda")
    ptr, reserved = x.data_ptr(), T.cuda.memory_reserved()
    del x
    y = T.empty(n, dtype=T.uint8, device="cuda")
    assert y.data_ptr() == ptr and T.cuda.memory_reserved() == reserved


def test_counts_and_cache():
    before = settled()
    x = T.ones(MB, device="cuda")
    assert T.cuda.memory_allocated() - before >= 4 * MB
    assert T.cuda.max_memory_allocated() >= before + 4 * MB
    del x
    assert settled() == before
    T.cuda.empty_cache()
    free = T.cuda.mem_get_info()[0]
    y = T.ones(32 * MB, device="cuda")
    assert free - T.cuda.mem_get_info()[0] >= 128 * MB
    del y
    settled()
    T.cuda.empty_cache()
    assert T.cuda.mem_get_info()[0] >= free


def test_threads(small):
    """Tensors of eight threads, made, computed with and freed at once: nobody sees another's numbers."""
    before, wrong = settled(), []

    def work(seed):
        try:
            rng = np.random.default_rng(seed)
            kept = []
            for i in range(4 if small else 200):
                n = int(rng.integers(1, 200 if small else 200_000))
                value = float(seed * 1000 + i)
                kept.append((T.full((n,), value, device="cuda") + 1, value + 1))
                if len(kept) > 5:
                    t, want = kept.pop(int(rng.integers(len(kept))))
                    if not bool((t == want).all()):
                        wrong.append((seed, i))
            for t, want in kept:
                if not bool((t == want).all()):
                    wrong.append((seed, "end"))
        except Exception as error:
            wrong.append((seed, repr(error)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2 if small else 8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert settled() == before


def test_memory_of_another_stream(small):
    """A tensor freed while another stream still reads it is not given away before that is done."""
    n = 1000 if small else 16 * MB
    side = T.cuda.Stream()
    for i in range(2 if small else 20):
        x = T.full((n,), float(i), device="cuda")
        side.wait_stream(T.cuda.current_stream())
        with T.cuda.stream(side):
            y = x * 2
            for _ in range(3):
                y = y + x
        x.record_stream(side)
        del x
        z = T.full((n,), -1.0, device="cuda")  # would take x's place
        T.cuda.current_stream().wait_stream(side)
        assert bool((y == 5.0 * i).all()), i
        assert bool((z == -1).all())


def test_out_of_memory_and_on(small):
    """The error says what was asked for and what there is; smaller tensors are made afterwards as before."""
    before = settled()
    total = T.cuda.mem_get_info()[1]
    with pytest.raises(T.cuda.OutOfMemoryError, match=r"(?i)out of memory") as caught:
        T.empty(2 * total, dtype=T.uint8, device="cuda")
    text = str(caught.value)
    print(text)
    assert "GiB" in text or "MiB" in text
    assert float(T.ones(1000, device="cuda").sum()) == 1000
    assert settled() == before


def test_the_cache_is_emptied_before_giving_up(small):
    """Cached blocks of sizes that nobody wants any more do not stand in the way of one that takes their place."""
    settled()
    T.cuda.empty_cache()
    free = T.cuda.mem_get_info()[0]
    n = free // 10
    blocks = [T.empty(n, dtype=T.uint8, device="cuda") for _ in range(6)]
    del blocks
    gc.collect()
    assert T.cuda.memory_reserved() >= 6 * n
    whole = T.empty(8 * n, dtype=T.uint8, device="cuda")
    del whole
    settled()
    T.cuda.empty_cache()


def test_training_leaves_nothing_behind():
    """Allocated bytes return to where they were: no cycle keeps a graph, an optimizer's state or a gradient."""

    def train():
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 4)).to("cuda")
        optimizer = T.optim.AdamW(model.parameters())
        x, y = T.randn(8, 16, device="cuda"), T.randint(0, 4, (8,), device="cuda")
        seen = []
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            seen.append(T.cuda.memory_allocated())
        return seen

    train()
    before = settled()
    gc.disable()
    try:
        seen = train()
        assert T.cuda.memory_allocated() == before, "something waits for the garbage collector"
    finally:
        gc.enable()
    assert seen[-1] == seen[-2] == seen[-3]


def test_pinned_tensors(small):
    n = 1000 if small else 4 * MB
    x = T.arange(n, dtype=T.float32).pin_memory()
    assert x.is_pinned()
    y = x.to("cuda", non_blocking=True)
    back = T.empty(n, pin_memory=True)
    back.copy_(y, non_blocking=True)
    T.cuda.synchronize()
    assert np.array_equal(back.numpy(), x.numpy())
