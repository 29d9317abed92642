"""Every layer on the GPU, held to the CPU: outputs, gradients, buffers, evaluation mode."""

from __future__ import annotations

import layer_cases
import numpy as np
import pytest

import tensorlib as T
from tensorlib import nn

CASES = {"test_layer": lambda: [layer_cases.name_of(i) for i in range(len(layer_cases.CASES))]}


class _OnGPU:
    """``nn`` whose layers are made on the GPU: parameters and buffers too."""

    def __getattr__(self, name):
        made = getattr(nn, name)
        return lambda *args, **options: made(*args, **options).to("cuda")


@pytest.mark.filterwarnings("ignore:kl_div. reduction 'mean'", "ignore:Implicit dimension choice")
def test_layer(case):
    number = int(case.split("-")[0])
    layer = layer_cases.CASES[number]
    here, there = (
        layer_cases.run(
            home, layer, lambda a, d=device: T.tensor(a, device=d), lambda t: t.detach().cpu().numpy().copy()
        )
        for home, device in ((nn, "cpu"), (_OnGPU(), "cuda"))
    )
    assert sorted(here) == sorted(there)
    for name, want in here.items():
        got = there[name]
        if want.dtype.kind in "US":
            assert got.tolist() == want.tolist()
        else:
            assert got.shape == want.shape and got.dtype == want.dtype, name
            np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5, err_msg=name)
