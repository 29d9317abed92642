"""Threads that share a grid's programs, as machine code: none of them ever holds the interpreter's lock.

A job is a block of memory (`JOB`): the kernel's function, the programs, and the arguments. Its threads take chunks of
programs in rising order from one counter, the calling thread among them. What a program takes is not known before, for
a loop's count may be an argument: each thread measures its chunks, and takes more or fewer programs the next time, few
towards the end. After some ms they all stop, so that Python can look for signals, and go on. One job has the threads at
a time: a launch from another thread while they are busy runs on its own thread, and so does a small one, which `engine`
decides.

The threads are started when first needed, and a forked child starts its own. Signals are not theirs to take.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import struct
import threading
from typing import Any

import cffi
import numpy as np

from tensorlib.runtime import cache, fingerprint
from tensorlib.runtime.native import codegen, linker, machine, settings

#: A job's constant part: the address of `symbol_grid`, bytes of scratch a thread, the status, the first chunk.
HEAD = struct.Struct("<QQQQ")
#: What each launch writes after it: first and last program, the grid's three sizes, the calling thread's scratch.
RANGE = "qqIII4xQ"
START = struct.Struct(HEAD.format + RANGE)
_FIRST = HEAD.size
_RANGE = struct.Struct("<qq")
_STATUS = struct.Struct("<Q")
_STATUS_AT = 16
ARGUMENTS = 128  #: where the kernel's arguments begin
STATUS = 128  #: bytes of the status that follows them

# Looks at the next job before a thread goes to sleep, and at the end of one: for about 20 µs, then for some ms between
# calls that let another thread have the processor. To wake a sleeping thread took 65 µs where one that looks took 10,
# and most operators of a training step are shorter apart than that; without the calls a third thread on two processors
# made a product take 30 ms.
_SPINS, _YIELDS = 600, 6_000
_LATEST = 20_000_000  # ns after which threads stop for Python to look for signals
_SHORT, _LONG = 30_000, 120_000  # ns that a chunk should take: twice as many programs are taken next, or half as many
_FIRST_CHUNK = 64  # programs at most, whatever a kernel's time was said to be
_STACK = 16 << 20

# Offsets in a pool's memory. The system's mutex and conditions take at most 64 bytes each on Linux and macOS.
_MUTEX, _WORK, _DONE, _GENERATION, _RUNNING, _STOP, _JOB, _WORKERS, _BUSY, _MOST, _END, _HALT, _COUNTER, _SIZE = (
    0, 64, 128, 192, 256, 264, 272, 280, 320, 328, 336, 344, 384, 448,
)  # fmt: skip

_TEXT = """
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_setdetachstate(ptr, i32)
declare i32 @sched_yield()
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @posix_memalign(ptr, i64, i64)
declare void @free(ptr)
declare i32 @clock_gettime(i32, ptr)
declare i64 @llvm.umax.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)
{pause}

define internal void @call(ptr %job, i64 %first, i64 %last, ptr %scratch) nounwind {{
  %function = load ptr, ptr %job
  %status.at = getelementptr i8, ptr %job, i64 16
  %status = load ptr, ptr %status.at
  %x.at = getelementptr i8, ptr %job, i64 48
  %x = load i32, ptr %x.at
  %y.at = getelementptr i8, ptr %job, i64 52
  %y = load i32, ptr %y.at
  %z.at = getelementptr i8, ptr %job, i64 56
  %z = load i32, ptr %z.at
  %arguments = getelementptr i8, ptr %job, i64 {arguments}
  call void %function(ptr %arguments, i64 %first, i64 %last, i32 %x, i32 %y, i32 %z, ptr %scratch, ptr %status)
  ret void
}}

; The whole job on the calling thread.
define void @tensorlib_inline(ptr %job) nounwind {{
  %first.at = getelementptr i8, ptr %job, i64 32
  %first = load i64, ptr %first.at
  %last.at = getelementptr i8, ptr %job, i64 40
  %last = load i64, ptr %last.at
  %scratch.at = getelementptr i8, ptr %job, i64 64
  %scratch = load ptr, ptr %scratch.at
  call void @call(ptr %job, i64 %first, i64 %last, ptr %scratch)
  ret void
}}

; Nanoseconds since some time.
define internal i64 @now() nounwind {{
  %time = alloca [2 x i64]
  %failed = call i32 @clock_gettime(i32 {clock}, ptr %time)
  %seconds = load i64, ptr %time
  %rest.at = getelementptr i64, ptr %time, i64 1
  %rest = load i64, ptr %rest.at
  %whole = mul i64 %seconds, 1000000000
  %found = add i64 %whole, %rest
  ret i64 %found
}}

; What the threads of a job share.
define internal void @begin(ptr %pool, ptr %job) nounwind {{
  %first.at = getelementptr i8, ptr %job, i64 32
  %first = load i64, ptr %first.at
  %last.at = getelementptr i8, ptr %job, i64 40
  %last = load i64, ptr %last.at
  %workers.at = getelementptr i8, ptr %pool, i64 {workers}
  %workers = load i64, ptr %workers.at
  %threads = add i64 %workers, 1
  %parts = shl i64 %threads, 3
  %total = sub i64 %last, %first
  %even = udiv i64 %total, %parts
  %most = call i64 @llvm.umax.i64(i64 %even, i64 1)
  %most.at = getelementptr i8, ptr %pool, i64 {most}
  store i64 %most, ptr %most.at
  %now = call i64 @now()
  %end = add i64 %now, {latest}
  %end.at = getelementptr i8, ptr %pool, i64 {end}
  store i64 %end, ptr %end.at
  %halt = getelementptr i8, ptr %pool, i64 {halt}
  store atomic i64 0, ptr %halt monotonic, align 8
  %counter = getelementptr i8, ptr %pool, i64 {counter}
  store i64 %first, ptr %counter
  ret void
}}

; Chunks of a job until there are none, until it is time to stop, or until a program has reported an error.
define internal void @take(ptr %pool, ptr %job, ptr %scratch) nounwind {{
entry:
  %most.at = getelementptr i8, ptr %pool, i64 {most}
  %most = load i64, ptr %most.at
  %end.at = getelementptr i8, ptr %pool, i64 {end}
  %end = load i64, ptr %end.at
  %halt = getelementptr i8, ptr %pool, i64 {halt}
  %workers.at = getelementptr i8, ptr %pool, i64 {workers}
  %workers = load i64, ptr %workers.at
  %threads = add i64 %workers, 1
  %parts = shl i64 %threads, 1
  %counter = getelementptr i8, ptr %pool, i64 {counter}
  %last.at = getelementptr i8, ptr %job, i64 40
  %last = load i64, ptr %last.at
  %status.at = getelementptr i8, ptr %job, i64 16
  %status = load ptr, ptr %status.at
  %said.at = getelementptr i8, ptr %job, i64 24
  %said = load i64, ptr %said.at
  %size.first = call i64 @llvm.umin.i64(i64 %said, i64 %most)
  %begun = call i64 @now()
  br label %next
next:
  %size = phi i64 [ %size.first, %entry ], [ %size.next, %some ]
  %since = phi i64 [ %begun, %entry ], [ %now, %some ]
  %state = load atomic i64, ptr %status monotonic, align 8
  %halted = load atomic i64, ptr %halt monotonic, align 8
  %either = or i64 %state, %halted
  %well = icmp eq i64 %either, 0
  %taken = load atomic i64, ptr %counter monotonic, align 8
  %more = icmp slt i64 %taken, %last
  %on = and i1 %well, %more
  br i1 %on, label %take, label %done
take:
  %left = sub i64 %last, %taken
  %fair = udiv i64 %left, %parts
  %few = call i64 @llvm.umin.i64(i64 %size, i64 %fair)
  %chunk = call i64 @llvm.umax.i64(i64 %few, i64 1)
  %from = atomicrmw add ptr %counter, i64 %chunk monotonic
  %any = icmp slt i64 %from, %last
  br i1 %any, label %some, label %done
some:
  %beyond = add i64 %from, %chunk
  %to = call i64 @llvm.umin.i64(i64 %beyond, i64 %last)
  call void @call(ptr %job, i64 %from, i64 %to, ptr %scratch)
  %now = call i64 @now()
  %took = sub i64 %now, %since
  %short = icmp ult i64 %took, {short}
  %long = icmp ugt i64 %took, {long}
  %twice = shl i64 %size, 1
  %larger = call i64 @llvm.umin.i64(i64 %twice, i64 %most)
  %half = lshr i64 %size, 1
  %smaller = call i64 @llvm.umax.i64(i64 %half, i64 1)
  %other = select i1 %long, i64 %smaller, i64 %size
  %size.next = select i1 %short, i64 %larger, i64 %other
  %late = icmp ugt i64 %now, %end
  br i1 %late, label %stop, label %next
stop:
  store atomic i64 1, ptr %halt monotonic, align 8
  br label %done
done:
  ret void
}}

; As much of a job on the calling thread as there is time for: the first program that is not done.
define i64 @tensorlib_alone(ptr %job) nounwind {{
  %pool = alloca [{size} x i8], align 64
  %workers.at = getelementptr i8, ptr %pool, i64 {workers}
  store i64 0, ptr %workers.at
  %scratch.at = getelementptr i8, ptr %job, i64 64
  %scratch = load ptr, ptr %scratch.at
  call void @begin(ptr %pool, ptr %job)
  call void @take(ptr %pool, ptr %job, ptr %scratch)
  %counter = getelementptr i8, ptr %pool, i64 {counter}
  %next = load i64, ptr %counter
  ret i64 %next
}}

; The same shared with the workers, unless another thread has them.
define i64 @tensorlib_share(ptr %pool, ptr %job) nounwind {{
entry:
  %busy = getelementptr i8, ptr %pool, i64 {busy}
  %pair = cmpxchg ptr %busy, i64 0, i64 1 acquire monotonic
  %mine = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %mine, label %start, label %alone
alone:
  %reached = call i64 @tensorlib_alone(ptr %job)
  ret i64 %reached
start:
  %scratch.at = getelementptr i8, ptr %job, i64 64
  %scratch = load ptr, ptr %scratch.at
  %workers.at = getelementptr i8, ptr %pool, i64 {workers}
  %workers = load i64, ptr %workers.at
  call void @begin(ptr %pool, ptr %job)
  %job.at = getelementptr i8, ptr %pool, i64 {job}
  store ptr %job, ptr %job.at
  %running = getelementptr i8, ptr %pool, i64 {running}
  store atomic i64 %workers, ptr %running release, align 8
  call void @wake(ptr %pool)
  call void @take(ptr %pool, ptr %job, ptr %scratch)
  br label %spin
spin:
  %spins = phi i64 [ {spins}, %start ], [ %fewer, %again ], [ %fewer, %yield ]
  %left = load atomic i64, ptr %running acquire, align 8
  %over = icmp eq i64 %left, 0
  br i1 %over, label %finish, label %again
again:
  {pause.call}
  %fewer = sub i64 %spins, 1
  %polite = icmp ult i64 %fewer, {yields}
  br i1 %polite, label %yield, label %spin
yield:
  call i32 @sched_yield()
  %tired = icmp eq i64 %fewer, 0
  br i1 %tired, label %sleep, label %spin
sleep:
  call i32 @pthread_mutex_lock(ptr %pool)
  br label %check
check:
  %still = load atomic i64, ptr %running acquire, align 8
  %empty = icmp eq i64 %still, 0
  br i1 %empty, label %unlock, label %wait
wait:
  %done = getelementptr i8, ptr %pool, i64 {done}
  call i32 @pthread_cond_wait(ptr %done, ptr %pool)
  br label %check
unlock:
  call i32 @pthread_mutex_unlock(ptr %pool)
  br label %finish
finish:
  %counter = getelementptr i8, ptr %pool, i64 {counter}
  %next = load i64, ptr %counter
  store atomic i64 0, ptr %busy release, align 8
  ret i64 %next
}}

; Another generation of the pool: its workers look at the job, or stop.
define internal void @wake(ptr %pool) nounwind {{
  call i32 @pthread_mutex_lock(ptr %pool)
  %generation = getelementptr i8, ptr %pool, i64 {generation}
  %old = atomicrmw add ptr %generation, i64 1 release
  %work = getelementptr i8, ptr %pool, i64 {work}
  call i32 @pthread_cond_broadcast(ptr %work)
  call i32 @pthread_mutex_unlock(ptr %pool)
  ret void
}}

define internal ptr @worker(ptr %pool) nounwind {{
entry:
  %scratch.at = alloca ptr
  store ptr null, ptr %scratch.at
  %generation = getelementptr i8, ptr %pool, i64 {generation}
  %stop = getelementptr i8, ptr %pool, i64 {stop}
  %work = getelementptr i8, ptr %pool, i64 {work}
  %job.at = getelementptr i8, ptr %pool, i64 {job}
  %running = getelementptr i8, ptr %pool, i64 {running}
  br label %idle
idle:
  %seen = phi i64 [ 0, %entry ], [ %now, %finished ]
  %size = phi i64 [ 0, %entry ], [ %has, %finished ]
  br label %spin
spin:
  %spins = phi i64 [ {spins}, %idle ], [ %fewer, %again ], [ %fewer, %yield ]
  %glance = load atomic i64, ptr %generation acquire, align 8
  %newer = icmp ne i64 %glance, %seen
  br i1 %newer, label %begin, label %again
again:
  {pause.call}
  %fewer = sub i64 %spins, 1
  %polite = icmp ult i64 %fewer, {yields}
  br i1 %polite, label %yield, label %spin
yield:
  call i32 @sched_yield()
  %tired = icmp eq i64 %fewer, 0
  br i1 %tired, label %sleep, label %spin
sleep:
  call i32 @pthread_mutex_lock(ptr %pool)
  br label %check
check:
  %look = load atomic i64, ptr %generation acquire, align 8
  %woken = icmp ne i64 %look, %seen
  br i1 %woken, label %unlock, label %wait
wait:
  call i32 @pthread_cond_wait(ptr %work, ptr %pool)
  br label %check
unlock:
  call i32 @pthread_mutex_unlock(ptr %pool)
  br label %begin
begin:
  %now = load atomic i64, ptr %generation acquire, align 8
  %asked = load atomic i64, ptr %stop acquire, align 8
  %leave = icmp ne i64 %asked, 0
  br i1 %leave, label %end, label %run
run:
  %job = load ptr, ptr %job.at
  %wanted.at = getelementptr i8, ptr %job, i64 8
  %wanted = load i64, ptr %wanted.at
  %small = icmp ult i64 %size, %wanted
  br i1 %small, label %grow, label %work.on
grow:
  %old = load ptr, ptr %scratch.at
  call void @free(ptr %old)
  store ptr null, ptr %scratch.at
  %failed = call i32 @posix_memalign(ptr %scratch.at, i64 64, i64 %wanted)
  %without = icmp ne i32 %failed, 0
  br i1 %without, label %finished.without, label %work.on
work.on:
  %mine = phi i64 [ %size, %run ], [ %wanted, %grow ]
  %scratch = load ptr, ptr %scratch.at
  call void @take(ptr %pool, ptr %job, ptr %scratch)
  br label %finished.with
finished.without:
  store ptr null, ptr %scratch.at
  br label %finished.with
finished.with:
  %has = phi i64 [ %mine, %work.on ], [ 0, %finished.without ]
  %left = atomicrmw sub ptr %running, i64 1 acq_rel
  %last = icmp eq i64 %left, 1
  br i1 %last, label %tell, label %finished
tell:
  call i32 @pthread_mutex_lock(ptr %pool)
  %done = getelementptr i8, ptr %pool, i64 {done}
  call i32 @pthread_cond_broadcast(ptr %done)
  call i32 @pthread_mutex_unlock(ptr %pool)
  br label %finished
finished:
  br label %idle
end:
  %rest = load ptr, ptr %scratch.at
  call void @free(ptr %rest)
  %gone = atomicrmw sub ptr %running, i64 1 acq_rel
  ret ptr null
}}

; Start up to %wanted workers on zeroed memory; how many there are.
define i64 @tensorlib_start(ptr %pool, i64 %wanted) nounwind {{
entry:
  %attributes = alloca [256 x i8], align 16
  %thread = alloca i64
  call i32 @pthread_mutex_init(ptr %pool, ptr null)
  %work = getelementptr i8, ptr %pool, i64 {work}
  call i32 @pthread_cond_init(ptr %work, ptr null)
  %done = getelementptr i8, ptr %pool, i64 {done}
  call i32 @pthread_cond_init(ptr %done, ptr null)
  call i32 @pthread_attr_init(ptr %attributes)
  call i32 @pthread_attr_setstacksize(ptr %attributes, i64 {stack})
  call i32 @pthread_attr_setdetachstate(ptr %attributes, i32 {detached})
  br label %next
next:
  %count = phi i64 [ 0, %entry ], [ %more, %made ]
  %enough = icmp uge i64 %count, %wanted
  br i1 %enough, label %end, label %make
make:
  %failed = call i32 @pthread_create(ptr %thread, ptr %attributes, ptr @worker, ptr %pool)
  %good = icmp eq i32 %failed, 0
  br i1 %good, label %made, label %end
made:
  %more = add i64 %count, 1
  br label %next
end:
  %workers = getelementptr i8, ptr %pool, i64 {workers}
  store i64 %count, ptr %workers
  ret i64 %count
}}

; Ask the workers to end, after the job that they have. Whether they do: not while another thread has them.
define i64 @tensorlib_stop(ptr %pool) nounwind {{
  %busy = getelementptr i8, ptr %pool, i64 {busy}
  %pair = cmpxchg ptr %busy, i64 0, i64 1 acquire monotonic
  %mine = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %mine, label %end, label %used
end:
  %workers.at = getelementptr i8, ptr %pool, i64 {workers}
  %workers = load i64, ptr %workers.at
  %running = getelementptr i8, ptr %pool, i64 {running}
  store atomic i64 %workers, ptr %running release, align 8
  %stop = getelementptr i8, ptr %pool, i64 {stop}
  store atomic i64 1, ptr %stop release, align 8
  call void @wake(ptr %pool)
  ret i64 1
used:
  ret i64 0
}}
"""
_PAUSES = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}


def text(features: machine.Features) -> str:
    """The module of the threads."""
    declaration, call = _PAUSES.get(features.architecture, ("", "fence acquire"))
    values = {
        "pause": declaration, "arguments": ARGUMENTS, "work": _WORK, "done": _DONE, "generation": _GENERATION,
        "running": _RUNNING, "stop": _STOP, "job": _JOB, "workers": _WORKERS, "busy": _BUSY, "most": _MOST,
        "end": _END, "halt": _HALT, "counter": _COUNTER, "size": _SIZE, "latest": _LATEST, "short": _SHORT,
        "long": _LONG, "clock": 6 if "darwin" in features.triple else 1, "spins": _SPINS + _YIELDS, "yields": _YIELDS,
        "stack": _STACK, "detached": 2 if "darwin" in features.triple else 1,
    }  # fmt: skip
    return _TEXT.replace("{pause.call}", call).format(**values)


def _forever(kept: Any) -> None:
    """Keep an object when the interpreter ends as well: a thread may still be looking for work in it then."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


class Runtime:
    """The threads' functions, linked, and how they are called."""

    def __init__(self) -> None:
        features = machine.host()
        module = text(features)
        key = fingerprint.digest("\0".join((module, features.text, codegen.version())))
        symbols = ("tensorlib_inline", "tensorlib_alone", "tensorlib_share", "tensorlib_start", "tensorlib_stop")
        found = cache.load(key)
        if found is None:
            image = codegen.compile(module, features)
            cache.store(key, {"kernel": "threads", "target": "native"}, image)
        else:
            image = found[1]
        self.loaded = linker.load(image, *symbols)
        _forever(self.loaded)
        self.ffi = cffi.FFI()
        cast = self.ffi.cast
        self.inline = cast("void(*)(void *)", self.loaded["tensorlib_inline"])
        self.alone = cast("int64_t(*)(void *)", self.loaded["tensorlib_alone"])
        self.share = cast("int64_t(*)(void *, void *)", self.loaded["tensorlib_share"])
        self.start = cast("int64_t(*)(void *, int64_t)", self.loaded["tensorlib_start"])
        self.stop = cast("int64_t(*)(void *)", self.loaded["tensorlib_stop"])


@functools.cache
def runtime() -> Runtime:
    """The functions of the threads: compiled once, then from the disk."""
    return Runtime()


class Pool:
    """Worker threads that wait for jobs."""

    def __init__(self, workers: int) -> None:
        functions = runtime()
        self._bytes = np.zeros(_SIZE + 64, np.uint8)
        _forever(self._bytes)
        self.address = functions.ffi.cast("void *", self._bytes.ctypes.data + -self._bytes.ctypes.data % 64)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.workers = functions.start(self.address, workers)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._stopped = False

    def stop(self) -> None:
        """End the workers, unless another thread is using them just now."""
        if not self._stopped:
            self._stopped = bool(runtime().stop(self.address))


class _State:
    """The process's threads."""

    lock = threading.Lock()
    pool: Pool | None = None
    #: Pools that are to stop or have: their workers may still look at their memory, a few hundred bytes.
    stopping: list[Pool] = []  # noqa: RUF012


def _resize() -> None:
    """End the workers: the next job starts as many as there are to be."""
    with _State.lock:
        if _State.pool is not None:
            _State.stopping.append(_State.pool)
            _State.pool = None
        for pool in _State.stopping:  # one that another thread is using stays until the next time
            pool.stop()


settings.threads_changed.append(_resize)


def pool() -> Pool:
    """The workers, started if there are none."""
    found = _State.pool
    if found is None:
        with _State.lock:
            found = _State.pool
            if found is None:
                found = _State.pool = Pool(settings.get_num_threads() - 1)
    return found


def first_chunk(nanoseconds: float) -> int:
    """Programs that a thread takes first, of so many nanoseconds each: what `HEAD` holds."""
    return max(1, min(_FIRST_CHUNK, int(_SHORT / 8 / nanoseconds)))


def run(job: Any, total: int) -> None:
    """Run a job of total programs on all threads. Signals are seen between its parts."""
    functions = runtime()
    alone = settings.get_num_threads() == 1
    threads = None if alone else pool().address
    next = functions.alone(job) if alone else functions.share(threads, job)
    while next < total:
        memory = functions.ffi.buffer(job, ARGUMENTS)
        if functions.ffi.cast("int64_t *", _STATUS.unpack_from(memory, _STATUS_AT)[0])[0]:  # a program's error
            break
        _RANGE.pack_into(memory, _FIRST, next, total)
        next = functions.alone(job) if alone else functions.share(threads, job)


class Scratch(threading.local):
    """A thread's own memory for its jobs."""

    address = 0
    size = 0
    owner: Any = None

    def grow(self, size: int) -> int:
        """The address of at least size bytes."""
        if self.size < size:
            self.owner = np.empty(size + 64, np.uint8)
            start = self.owner.ctypes.data
            self.address, self.size = start + -start % 64, size
        return self.address


scratch = Scratch()


def _after_fork() -> None:
    """A child has none of its parent's threads."""
    _State.lock = threading.Lock()
    _State.pool = None
    _State.stopping.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
