"""What the compilers make of the kernels (bench/kernels.py): how binaries are read, and that nothing got worse."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tensorlib as T
from tensorlib._device import TARGETS
from tensorlib.op import jit, launch
from tensorlib.runtime import ahead, hardware

ROOT = Path(__file__).parents[1]
#: Changed kernels that a run compiles at most, half a second each; the hashes choose them.
MOST = 8


@pytest.fixture(scope="module")
def kernels():
    path = ROOT / "bench" / "kernels.py"
    spec = importlib.util.spec_from_file_location("bench_kernels", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# -------------------------------------------------------------------------------------------------- reading a binary


SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.U16 R2, desc[UR4][R2.64] ;
.L_x_0:
        /*0020*/               @P0 LDG.E.128.CONSTANT R8, desc[UR8][R12.64] ;
        /*0030*/                   LDGSTS.E.BYPASS.LTC128B.128 [R1], desc[UR8][R12.64] ;
        /*0040*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0050*/                   STL [R1], R3 ;
        /*0060*/              @!P1 BRA `(.L_x_0) ;
        /*0070*/                   STG.E.64 desc[UR8][R12.64], R2 ;
        /*0080*/                   EXIT ;
.L_x_1:
        /*0090*/                   LDL R3, [R1] ;
        /*00a0*/                   BRA `(.L_x_0) ;
"""
GCN = """
softmax_kernel:
\ts_load_dwordx4 s[4:7], s[0:1], 0x0
.LBB0_1:
\tbuffer_load_dwordx4 v[2:5], v1, s[4:7], 0 offen
\tglobal_load_ushort v6, v[1:2], off
\tbuffer_load_dwordx4 v1, s[4:7], 0 offen lds
\tv_mfma_f32_32x32x8_bf16_1k a[0:15], v[2:3], v[4:5], a[0:15]
\tscratch_store_dword off, v3, off offset:4 ; 4-byte Folded Spill
\ts_cbranch_scc1 .LBB0_1
\tbuffer_store_short_d16_hi v1, v2, s[4:7], 0 offen
\ts_endpgm
"""


def test_an_nvidia_kernel_is_read(kernels):
    """Widths, what is in a loop (a jump back from behind the end makes none), matrix units, spills."""
    row = kernels.read(kernels.instructions(SASS.splitlines(), False), False)
    assert row["loads"] == {"16": 2, "2": 1} and row["looped loads"] == {"16": 2} and row["stores"] == {"8": 1}
    assert row["instructions"] == {"cp.async": 1, "wgmma": 1} and row["looped spills"] == 1


def test_an_amd_kernel_is_read(kernels):
    row = kernels.read(kernels.instructions(GCN.splitlines(), True), True)
    assert row["loads"] == {"16": 2, "2": 1} == row["looped loads"] and row["stores"] == {"2": 1}
    assert row["instructions"] == {"mfma": 1, "to lds": 1} and row["looped spills"] == 1


@pytest.mark.parametrize("target", ["sm_90", "gfx942", "gfx1100"])
def test_a_softmax_is_measured(kernels, target):
    """By the compiler and the tools that come with Triton: what is known of this kernel whatever the version."""
    x = T.empty(8192, 1024, dtype=T.bfloat16, device=target)
    (request,) = ahead.collect(lambda: T.softmax(x, -1))
    row = {"target": target, **kernels.measure(request)}
    assert "error" not in row and 8 < row["registers"] <= 255 and row["spills"] == 0 and row["code"] > 500
    assert kernels.wide(row) >= 0.5 and "16" in row["stores"] and row["dots"] == []
    assert 0 < row["programs"] <= 32 and row["shared"] <= hardware.nominal(target).shared


@jit
def column_kernel(out, x, M, stride, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i * stride, mask=i < M), mask=i < M)


def test_what_gets_worse_is_told(kernels):
    """A kernel before and after its rows became columns and its registers too few: real code of both."""
    x = T.empty(1 << 20, dtype=T.float32, device="sm_90")._array

    def rows(stride, **options):
        (request,) = ahead.collect(
            lambda: launch(column_kernel, 1, x, x, 8192, stride, BLOCK=8192, options=options or None)
        )
        return {"target": "sm_90", **kernels.measure(request)}

    good, strided, squeezed = rows(1), rows(48), rows(1, maxnreg=24)
    assert kernels.regressions(good, good) == []
    lost = " ".join(kernels.regressions(good, strided))
    assert good["spills"] == 0 and "lost its 16-byte loads" in lost and "of 4 bytes" in lost, lost
    assert any("spills" in text for text in kernels.regressions(good, squeezed)), squeezed
    matrix = {**good, "instructions": {"wgmma": 4}}
    assert "no matrix instructions any more; there were wgmma" in kernels.regressions(matrix, good)[0]
    assert kernels.regressions(good, {"error": "ptxas: no"}) == ["no longer compiles: ptxas: no"]
    assert "smaller blocks" in "".join(kernels.regressions(good, {**good, "spills": 400}))


def test_problems_are_found_and_grouped(kernels):
    name = "softmax 8192×1024, bfloat16"
    row = {
        "case": name, "kernel": "softmax_kernel", "number": 1, "key": "k", "constants": "BLOCK_N=1024 WIDE=0",
        "warps": 4, "stages": 2, "shared": 0, "programs": 8, "registers": 255, "spills": 64, "code": 1,
        "dots": ["bf16"], "instructions": {}, "loads": {"2": 32}, "looped loads": {}, "stores": {}, "looped spills": 5,
    }  # fmt: skip
    found = kernels.problems([{**row, "target": t} for t in ("sm_90", "gfx942")])
    assert len(found) == 3 and all("sm_90 gfx942: " in line for line in found), found
    assert found[0].startswith("NO MATRIX UNITS  softmax_kernel of softmax 8192×1024")
    assert found[1].startswith("SPILLS IN A LOOP") and found[2].startswith("NARROW LOADS")
    assert kernels.problems([{**row, "target": "sm_90", "shared": 1 << 20}])[0].startswith(("NO MATRIX", "TOO MUCH"))


# ------------------------------------------------------------------------------------------------------- the table


def test_the_tool_keeps_what_it_measured(kernels, tmp_path, capsys, monkeypatch):
    """A table is made, not made again, read, checked; a row whose kernel changed is compared."""
    path = tmp_path / "kernels.json"
    arguments = ["--only", "^softmax 8192.*float32", "--targets", "gfx942", "--jobs", "1", "--out", str(path)]
    by_processes = [*arguments[:-3], "2", *arguments[-2:]]
    done = subprocess.run([sys.executable, kernels.__file__, *by_processes], capture_output=True, text=True)
    assert done.returncode == 0 and "nothing is wrong" in done.stdout, done.stderr
    rows = json.loads(path.read_text())["kernels"]
    assert [r["kernel"] for r in rows] == ["softmax_kernel", "softmax_grad_kernel"] and "gfx942" in rows[0]["target"]
    assert "| softmax_kernel | 4w" in path.with_suffix(".md").read_text()
    assert kernels.main([*arguments, "--check"]) == 0 and "nothing got worse\n0 kernels" in capsys.readouterr().out
    monkeypatch.setattr(kernels, "measure", lambda request: pytest.fail("measured again"))
    assert kernels.main(arguments) == 0
    for row in rows:
        row["key"] = "changed"
    kernels.save(path, rows)
    monkeypatch.setattr(kernels, "measure", lambda request: {**rows[0], "spills": 512})
    assert kernels.main([*arguments, "--check"]) == 1
    assert "gfx942: softmax_kernel of softmax 8192×1024, float32 " in (said := capsys.readouterr().out)
    assert "spills 512 bytes" in said and "2 kernels are not those of kernels.json; 2 of them were compiled" in said


def test_no_kernel_got_worse(kernels):
    """Every case's kernels by hash; some of those that changed since the table was made are compiled and compared."""
    path = kernels.RESULTS / f"kernels-{kernels.version()}.json"
    if not path.exists():
        pytest.skip(f"no table was made with Triton {kernels.version()}: python bench/kernels.py")
    worse, _, stale = kernels.check(path, kernels.cases(), TARGETS, MOST)
    remedy = f"({stale} kernels changed; where it is meant so, python bench/kernels.py makes the table anew)"
    assert not worse, "\n".join([*worse, remedy])


@pytest.mark.parametrize("path", sorted((ROOT / "bench" / "results").glob("kernels-*.json")), ids=lambda p: p.stem)
def test_the_tables_hold_together(kernels, path):
    """Every case of each of its targets; what fails, fits no memory or leaves matrix units unused is seen here."""
    rows = kernels.load(path)
    targets = {row["target"] for row in rows}
    assert {"sm_90", "gfx942"} <= targets <= set(TARGETS)
    expected = {(c.name, t) for c in kernels.cases() for t in c.targets if t in targets}
    assert {(row["case"], row["target"]) for row in rows} == expected
    assert len({(row["target"], kernels._identity(row)) for row in rows}) == len(rows)
    assert [p for p in kernels.found_problems(rows) if p.severity == 0] == []
    products = [r for r in rows if r["case"] == "matmul 4096³, bfloat16"]
    units = {r["target"]: set(r["instructions"]) & set(kernels.MATRIX) for r in products}
    usual = dict(sm_80="mma.sync", sm_90="wgmma", sm_100="tcgen05", sm_120="mma.sync", gfx1100="wmma", gfx1201="wmma")
    assert units == {t: {usual.get(t, "mfma")} for t in targets}
    assert np.median([kernels.wide(r) for r in products]) == 1.0
