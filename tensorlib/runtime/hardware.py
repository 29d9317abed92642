"""What a kernel's cost depends on: a GPU's multiprocessors, memories and peak rates.

A GPU that is there says most of this itself. For a target that is not, and for the rates that no driver tells, the
numbers are those of the makers' data sheets for the usual device of that target: they rank configurations, they are
not measurements.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tensorlib._device import device as Device

KB, MB = 1 << 10, 1 << 20


class Estimate(NamedTuple):
    """What a model says of a configuration on a problem."""

    seconds: float  #: only the order counts
    shared: int = 0  #: bytes of shared memory a program needs; more than the device has prunes the configuration
    registers: float = 0  #: of 32 bits a lane; what exceeds the device's spills, which the model prices


class Hardware(NamedTuple):
    """One device, as a cost model sees it. Sizes in bytes, rates a second unless a cycle is named."""

    name: str
    target: str  #: "sm_90", "gfx942", ...; "interpret", "native"
    family: str  #: "nvidia", "cdna", "rdna", "interpret", "native"
    multiprocessors: int
    warp_size: int
    threads: int  #: resident on a multiprocessor
    registers: int  #: of 32 bits, of a multiprocessor
    shared: int  #: that one program may have
    shared_total: int  #: of a multiprocessor
    l2: int
    clock: float  #: Hz
    bandwidth: float  #: of device memory
    half: int  #: floating-point operations a cycle and multiprocessor, float16 and bfloat16 with float32 sums
    tf32: int  #: the same for float32 rounded to tf32 on matrix units; 0: there are none
    single: int  #: float32
    double: int  #: float64
    l2_rate: int  #: bytes a cycle that a multiprocessor gets from L2 while the others ask as well

    @property
    def on_host(self) -> bool:
        """Whether it is not a GPU: kernels run over host memory, one program after another on a thread."""
        return self.family in ("interpret", "native")

    @property
    def float32_modes(self) -> tuple[str, ...]:
        """How products of float32 can be made: Triton's ``input_precision``. The processor computes in float32."""
        if self.family == "native":
            return ("ieee",)
        if self.family in ("nvidia", "interpret"):
            return ("ieee", "tf32", "tf32x3") if self.tf32 else ("ieee",)
        return ("ieee", "tf32") if self.tf32 else ("ieee",)

    @property
    def float8(self) -> bool:
        """Whether matrix units multiply float8_e4m3fn and float8_e5m2 as they are."""
        return self.target in ("sm_89", "sm_90", "sm_100", "sm_103", "sm_110", "sm_120", "sm_121", "gfx950", "gfx1201")

    @property
    def byte_products(self) -> bool:
        """Whether matrix units multiply int8 and float8, at twice the rate of float16."""
        return self.target not in ("gfx90a", "gfx1100")

    @property
    def max_registers(self) -> int:
        """Registers that one lane can have."""
        return {"nvidia": 255, "cdna": 512, "rdna": 256}.get(self.family, 1 << 20)

    def occupancy(self, warps: int, registers: float, shared: int) -> int:
        """How many programs a multiprocessor holds at a time; 0 when it cannot hold one."""
        threads = warps * self.warp_size
        lanes = min(registers, self.max_registers) * threads
        by_shared = self.shared_total // (shared + KB) if shared else 32
        if shared <= self.shared and not by_shared:
            by_shared = 1
        return int(max(0, min(self.threads // threads, self.registers // max(lanes, 1), by_shared, 32)))


# name, multiprocessors, threads, registers, shared KB of a program, of a multiprocessor, L2 MB, GHz, GB/s,
# operations a cycle and multiprocessor: half, tf32, single, double; bytes a cycle from L2 (published microbenchmarks)
_NOMINAL: dict[str, tuple[Any, ...]] = {
    "sm_75": ("NVIDIA T4", 40, 1024, 65536, 64, 64, 4, 1.59, 320, 1024, 0, 128, 4, 16),
    "sm_80": ("NVIDIA A100", 108, 2048, 65536, 163, 164, 40, 1.41, 1555, 2048, 1024, 128, 128, 40),
    "sm_86": ("NVIDIA GeForce RTX 3090", 82, 1536, 65536, 99, 100, 6, 1.70, 936, 512, 256, 256, 4, 16),
    "sm_89": ("NVIDIA GeForce RTX 4090", 128, 1536, 65536, 99, 100, 72, 2.52, 1008, 512, 256, 256, 4, 16),
    "sm_90": ("NVIDIA H100", 132, 2048, 65536, 227, 228, 50, 1.83, 3350, 4096, 2048, 256, 256, 40),
    "sm_100": ("NVIDIA B200", 148, 2048, 65536, 227, 228, 126, 1.85, 8000, 8192, 4096, 256, 128, 40),
    "sm_120": ("NVIDIA GeForce RTX 5090", 170, 1536, 65536, 99, 100, 96, 2.41, 1792, 512, 256, 256, 4, 16),
    "gfx90a": ("AMD Instinct MI250X", 110, 2048, 131072, 64, 64, 8, 1.70, 1638, 1024, 0, 256, 256, 48),
    "gfx942": ("AMD Instinct MI300X", 304, 2048, 131072, 64, 64, 32, 2.10, 5300, 2048, 1024, 256, 256, 48),
    "gfx950": ("AMD Instinct MI355X", 256, 2048, 131072, 160, 160, 32, 2.40, 8000, 4096, 0, 256, 128, 48),
    "gfx1100": ("AMD Radeon RX 7900 XTX", 96, 1024, 98304, 64, 64, 6, 2.50, 960, 512, 0, 128, 4, 24),
    "gfx1201": ("AMD Radeon RX 9070 XT", 64, 1024, 98304, 64, 64, 8, 2.97, 640, 1024, 0, 128, 4, 24),
}

#: Triton's interpreter: one program after another, so that fewer of them are faster, and no limit on a tile.
INTERPRETER = Hardware(
    "Triton's interpreter", "interpret", "interpret", 1, 1, 1 << 20, 1 << 40, 1 << 40, 1 << 40, 1 << 20, 1e9, 1e9,
    1, 1, 1, 1, 1,
)  # fmt: skip

#: Machine code of the processor: the same, but a tile has to stay in its caches.
NATIVE = INTERPRETER._replace(name="this processor", target="native", family="native")


def nominal(target: str) -> Hardware:
    """The usual device of a target; of one that is not listed, its nearest listed relative's with the target's name."""
    amd = target.startswith("gfx")
    known = target
    if known not in _NOMINAL:
        relatives = [t for t in _NOMINAL if t.startswith("gfx") == amd and _rdna(t) == _rdna(target)]
        older = [t for t in relatives if _number(t) <= _number(target)]
        known = max(older, key=_number) if older else min(relatives, key=_number)
    name, count, threads, registers, shared, total, l2, ghz, gbs, *rates = _NOMINAL[known]
    rdna = _rdna(target)
    return Hardware(
        name, target, "rdna" if rdna else "cdna" if amd else "nvidia", count, 64 if amd and not rdna else 32,
        threads, registers, shared * KB, total * KB, l2 * MB, ghz * 1e9, gbs * 1e9, *rates,
    )  # fmt: skip


def _number(target: str) -> int:
    return int(target[3:], 16)


def _rdna(target: str) -> bool:
    return target.startswith(("gfx10", "gfx11", "gfx12"))


def described(properties: Any) -> Hardware:
    """A GPU by its driver's properties (PyTorch's field names); what they do not say is its target's nominal rate."""
    usual = nominal(properties.target)
    told: dict[str, Any] = {
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "warp_size": properties.warp_size,
        "threads": properties.max_threads_per_multi_processor,
        "registers": properties.regs_per_multiprocessor,
        "shared": max(properties.shared_memory_per_block_optin, properties.shared_memory_per_block),
        "shared_total": properties.shared_memory_per_multiprocessor,
        "l2": properties.L2_cache_size,
        "clock": properties.clock_rate * 1e3,  # kHz
        # Both edges of the clock carry data; a driver that no longer tells the clock says 0.
        "bandwidth": properties.memory_clock_rate * 1e3 * 2 * properties.memory_bus_width / 8,
    }
    told = {name: value for name, value in told.items() if value}
    # HIP tells half of CDNA's, and the shared memory of a program for that of a multiprocessor.
    told["registers"] = max(told.get("registers", 0), usual.registers)
    told["shared_total"] = max(told.get("shared_total", usual.shared_total), told.get("shared", usual.shared))
    return usual._replace(**told)


_known: dict[Device, tuple[Any, Hardware]] = {}  # with the engine that said so: tests change it


def hardware(device: Device) -> Hardware:
    """What runs the kernels of a device on which there are arrays, or of a target."""
    found = _known.get(device)
    if found is None or found[0] is not device.engine:
        if device.type in ("cuda", "hip"):
            made = described(device.engine.properties)
        else:
            made = NATIVE if device.type == "native" else nominal(device.type) if device.compile_only else INTERPRETER
        found = _known[device] = device.engine, made
    return found[1]


def vector_warps(device: Device, elements: int, itemsize: int, most: int = 4) -> int:
    """Warps of a program of so many elements, ``most`` or as many as leave every lane 16 bytes of them."""
    return max(1, min(most, elements * itemsize // (16 * hardware(device).warp_size)))


# ------------------------------------------------------------------------------------------------- a tile of a product


class Tile(NamedTuple):
    """The (m, n) block of a product that one program makes, ``k`` terms of its sums at a time."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


_LATENCY = 800  # cycles from asking device memory to having the data, about, on all of them
_STEP = 60  # cycles of a step's addresses, masks and barriers
_START = 1500  # cycles of a program's start and end


def product_cost(
    gpu: Hardware, tile: Tile, dtype: np.dtype[Any], precision: str, programs: int, steps: int, nbytes: float,
    extra_registers: float = 0.0, extra_cycles: float = 0.0, persistent: bool = False,
    hidden: float = 0.0,
) -> Estimate:  # fmt: skip
    """What ``programs`` programs of ``steps`` steps over K cost: a roofline of what each level of memory and the matrix
    units take, latency that the pipeline does not hide, and whole rounds of programs over the multiprocessors.

    Shared memory and registers are fitted to what Triton 3.9 compiles for nine targets (docs/tuning.md). nbytes: what
    device memory moves at least. extra_*: of a step, beyond a plain product's: addresses and masks. persistent: one
    program a multiprocessor makes tile after tile, and ``hidden`` of storing one goes on during the next.
    """
    m, n, k, warps, stages = tile
    if gpu.on_host:
        return Estimate(float(programs * steps))
    size = dtype.itemsize
    half, tf32 = size <= 2, size == 4 and precision != "ieee" and gpu.tf32 > 0
    asynchronous = gpu.target in _WGMMA and (half or tf32) and m >= 64 and warps >= 4
    rate = gpu.half if half else gpu.tf32 if tf32 else gpu.double if size == 8 else gpu.single
    if size == 1 and gpu.byte_products:
        rate *= 2
    elif tf32 and precision == "tf32x3":
        rate //= 3
    # Shared memory: the operands of every stage; matrix units that read it directly need one more than a pipeline
    # through registers does. The result passes through it, rearranged, at the end.
    stage = (m + n) * k * size
    direct = asynchronous or gpu.target == "gfx950"
    buffers = stages if direct else max(stages - 1, 1)
    shared = max(buffers * stage, 0 if half else m * n * size)
    if gpu.target == "gfx950":
        shared += shared // 24  # padding
    elif asynchronous:
        shared += 64  # barriers
    # Registers: the sums, and the operands on their way.
    threads = warps * gpu.warp_size
    sums = m * n * max(size // 4, 1) / threads
    fixed, slope = _REGISTERS["asynchronous" if asynchronous else _KINDS[gpu.family, size == 8, half or tf32]]
    registers = fixed + slope * sums + extra_registers
    if precision == "tf32x3":  # each operand is two
        registers *= 2
    # Cycles of one step of one program that has the multiprocessor to itself.
    compute = 2 * m * n * k / max(rate, 1)
    from_l2 = (m + n) * k * size / gpu.l2_rate
    rows, columns = _share(m, n, warps)
    from_shared = 0.0 if asynchronous else warps * (rows + columns) * k * size / 128
    # What a warp or a lane multiplies by itself has to be large for operands in registers to be used again; what a
    # matrix unit reads from shared memory does not pass through registers.
    if not asynchronous:
        compute *= 1 + (512 / (rows * columns) if half or tf32 else 16 / sums)
    step = max(compute, from_l2, from_shared) + _STEP + extra_cycles
    spilled = registers - gpu.max_registers
    if spilled > 0:
        step *= 1 + spilled / 32
    occupancy = max(gpu.occupancy(warps, registers, shared), 1)
    here = -(-programs // gpu.multiprocessors)  # programs of the busiest multiprocessor
    rounds, rest = divmod(here, occupancy)
    least = _LATENCY / max(stages - 1, 1)

    def together(count: int) -> float:
        """Cycles of ``count`` programs that share a multiprocessor: few warps leave its matrix units waiting."""
        busy = min(1.0, 0.7 + 0.3 * count * warps / 8)
        return steps * max(count * step / busy, least)

    storing = m * n * size / 32
    if persistent:  # the multiprocessor holds one at a time
        cycles = here * (together(1) + (1 - hidden) * storing) + hidden * storing + _START
    else:
        cycles = rounds * together(occupancy) + (together(rest) if rest else 0)
        cycles += (rounds + bool(rest)) * _START + here * storing
    seconds, moving = cycles / gpu.clock, nbytes / gpu.bandwidth
    return Estimate(max(seconds, moving) + 0.1 * min(seconds, moving), shared, registers)


# --------------------------------------------------------------------------------------------- rows, reductions, scans


def stream_cost(
    gpu: Hardware, programs: int, warps: int, registers: float, steps: int, held: float, nbytes: float, work: float
) -> Estimate:
    """What ``programs`` programs cost that wait for memory ``steps`` times, each time for ``held`` bytes.

    The resident ones wait together: a multiprocessor gets its share of the bandwidth while enough bytes are under way
    to cover the latency (Little's law). Programs come in whole rounds. nbytes: what device memory moves in all; work:
    operations of single lanes in all.
    """
    occupancy = max(gpu.occupancy(warps, registers, 0), 1)
    here = -(-programs // gpu.multiprocessors)  # programs of the busiest multiprocessor
    rounds, rest = divmod(here, occupancy)
    rate = gpu.bandwidth / gpu.clock / gpu.multiprocessors  # bytes a cycle
    busy = work / (128 * gpu.multiprocessors) / max(here, 1)  # cycles a program computes

    def together(count: int) -> float:
        return max(steps * max(count * held / rate, _LATENCY), count * busy) + _START / 2 + 10 * warps

    cycles = rounds * together(occupancy) + (together(rest) if rest else 0)
    seconds, moving = cycles / gpu.clock, nbytes / gpu.bandwidth
    return Estimate(max(seconds, moving) + 0.1 * min(seconds, moving), 0, registers)


_WGMMA = ("sm_90", "sm_100", "sm_103", "sm_110")
# Registers of a lane: fixed, and for each register of sums.
_REGISTERS = {
    "asynchronous": (55, 1.0), "nvidia matrix": (75, 1.45), "nvidia": (60, 2.8), "double": (35, 1.7),
    "cdna": (40, 2.0), "rdna matrix": (55, 1.45), "rdna": (40, 2.8),
}  # fmt: skip
_KINDS = {
    (family, double, matrix): "double" if double else "cdna" if family == "cdna" else family + " matrix" * matrix
    for family in ("nvidia", "cdna", "rdna")
    for double in (False, True)
    for matrix in (False, True)
}


def _share(m: int, n: int, warps: int) -> tuple[int, int]:
    """Rows and columns of a tile that one of its warps multiplies: as square as can be."""
    rows, columns = m, n
    while warps > 1:
        warps //= 2
        if rows >= columns and rows > 16:
            rows //= 2
        else:
            columns = max(columns // 2, 8)
    return rows, columns
