/* A GPU driver over host memory, that holds its callers to the rules of the real one.

   Compiled with -DCUDA it exports the CUDA driver's entry points, with -DHIP those of HIP: the two share one core, as
   their handles, rules and most of their status numbers are the same. tests/simulated/__init__.py drives it by the
   functions sim_*.

   Streams are queues. What is enqueued runs when somebody must see its result: at a synchronising call, or after a few
   queries; then only what that result depends on, in the order of the enqueueing. A missing dependency so shows as
   stale or poisoned data. Every stream has a vector clock of what surely ran before its next piece of work; memory that
   an allocator hands out again while another stream may still use it is found by these clocks, not by luck.

   A rule broken by the program (a dead handle, memory freed twice or used after, a copy past an end) is written down as
   a violation, and answered by the status that the real driver gives, where it gives one. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(CUDA)
#define NAME(cuda, hip) cuda
#elif defined(HIP)
#define NAME(cuda, hip) hip
#else
#error "compile with -DCUDA or -DHIP"
#endif

typedef uint64_t u64;
typedef unsigned int u32;

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, DEINITIALIZED = 4, NO_DEVICE = 100,
    INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY = 209, PEER_UNSUPPORTED = 217,
    INVALID_HANDLE = 400, ILLEGAL_STATE = 401, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
    OUT_OF_RESOURCES = 701, PEER_ALREADY = 704, PEER_NOT_ENABLED = 705, HOST_REGISTERED = 712, HOST_NOT_REGISTERED = 713,
    LAUNCH_FAILED = 719, COOPERATIVE_TOO_LARGE = 720, NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901, CAPTURE_MERGE = 902, CAPTURE_UNMATCHED = 903, CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905, CAPTURE_IMPLICIT = 906, CAPTURED_EVENT = 907, CAPTURE_THREAD = 908, UPDATE_FAILURE = 910,
    INVALID_CLUSTER = 912, UNKNOWN = 999
};

enum { CONTEXT = 1, STREAM, EVENT, MODULE, FUNCTION, GRAPH, EXEC };
static const char *const KINDS[] = {"", "context", "stream", "event", "module", "function", "graph", "graph exec"};

#define MAX_DEVICES 16
#define GUARD 512
#define GUARD_BYTE 0xA5
#define FRESH 0xFF /* as a float: not a number */
#define FREED 0xFE /* as a float: -1.7e38 */
#define POISON_LIMIT (256u << 20) /* larger memory is not filled: that would make its pages real */

/* ------------------------------------------------------------------------------------------------------- objects */

typedef struct Object Object;
typedef struct Work Work;
typedef struct { u64 stream, seq; } Mark; /* the work of a stream up to seq */
typedef struct { Mark *at; int n, room; } Marks;

struct Work { /* what a stream, or a node of a graph, does */
    int kind; /* KERNEL, COPY, FILL, RECORD, REPLAY */
    int references, device;
    Object *function;
    u32 grid[3], block[3], shared, cluster;
    unsigned char *values;
    u64 nbytes;
    u64 *ranges; /* start, end of the memory behind each pointer among the values */
    int n_ranges;
    u64 dst, src, size; /* COPY; FILL: dst, size elements of width */
    u32 value, width;
    int dst_host, src_host;
    unsigned char *staged;
    Object *event;
    u64 version;
    struct Nodes *nodes;
};
enum { KERNEL, COPY, FILL, RECORD, REPLAY };

typedef struct { Work *work; int *deps; int n_deps; } Node;
typedef struct Nodes { Node *at; int n, room, references; } Nodes;

typedef struct { u64 seq; Work *work; Marks deps; int scanned; } Item;

typedef struct Capture {
    u64 id;
    Object *origin;
    int mode, invalid, done;
    pthread_t thread;
    Nodes *nodes;
} Capture;

struct Object {
    u64 handle;
    int kind, live, device;
    /* stream */
    int blocking, priority, index;
    Item *queue;
    int head, tail, room;
    u64 last, finished, want; /* numbers of items: enqueued, done, demanded */
    u64 *clock; /* by index of stream: what surely ran before the next item */
    int running; /* an item runs in a callback */
    pthread_t runner;
    int asked; /* queries that found it busy */
    Capture *capture;
    int *tails, n_tails; /* nodes that the next node of a capture depends on */
    /* event */
    int timing, recorded;
    u64 version, done_version, nanoseconds;
    Mark mark;
    u64 *event_clock;
    int event_asked;
    /* module, function */
    unsigned char *image;
    u64 image_size, module;
    u32 max_shared;
    char name[256];
    int n_layout;
    u32 *offsets, *sizes;
    u32 limits[3]; /* registers, static shared bytes, local bytes */
    /* graph, exec */
    Nodes *nodes;
    Mark last_launch;
};

typedef struct {
    char name[64], arch[64];
    u64 total, used;
    int sticky, retained;
    u64 context; /* handle */
    int major, minor;
    int warp, sms, threads_per_sm, regs_per_sm;
    u32 shared, shared_optin, shared_per_sm, l2;
    Object *legacy;
    u32 peers; /* a bit for each device whose memory this one may use */
} Device;

enum { DEVICE_MEMORY, PINNED, REGISTERED };
typedef struct { u64 start, size, map, map_size; int kind, device, live; u64 epoch; } Range;
typedef struct { u64 start, size; int alive; Marks users, before; } Block;

typedef struct {
    const char *name;
    u64 calls, countdown; /* countdown: calls until the fault */
    int status, always;
} Entry;
typedef struct { Entry *entry; const char *names; u64 values[8]; int n, status; u64 thread; } Call;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static struct {
    u64 epoch;
    int n_devices, initialised, version, lazy, patience, record, peer, driver_init;
    Device devices[MAX_DEVICES];
    Object **objects;
    u64 n_objects, room, first;
    Object **streams;
    int n_streams, streams_room;
    u64 *host; /* by index of stream: what the host has waited for */
    int clocks; /* length of every clock */
    Range *ranges;
    int n_ranges, ranges_room;
    Block *blocks;
    int n_blocks, blocks_room;
    Entry entries[256];
    int n_entries;
    Call *calls;
    int n_calls, calls_room;
    char **violations;
    int n_violations, violations_room;
    Capture **captures;
    int n_captures;
    u64 capture_ids, sequence;
    long fail_allocation; /* the nth from now has no memory; 0: none */
    int (*loader)(const void *image, u64 size, const char *name, u64 function, u32 *offsets, u32 *sizes, u32 *limits);
    int (*launcher)(u64 function, const u32 *grid, const u32 *block, u32 shared, const void *values, u64 nbytes,
                    const u64 *ranges, int n_ranges, int device);
} sim = {.epoch = 1, .lazy = 1, .patience = 2, .record = 1, .peer = 1, .n_devices = 1};

static __thread struct {
    u64 epoch;
    int device, n_stack; /* -1: no context */
    int stack[16];
    int mode; /* of capture */
    int callback, last_error;
} self;

static int violation(const char *format, ...) {
    char *text = malloc(1024);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, 1024, format, arguments);
    va_end(arguments);
    if (sim.n_violations == sim.violations_room) {
        sim.violations_room = sim.violations_room ? 2 * sim.violations_room : 16;
        sim.violations = realloc(sim.violations, sim.violations_room * sizeof *sim.violations);
    }
    sim.violations[sim.n_violations++] = text;
    return INVALID_VALUE;
}

static u64 now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

static Object *create(int kind, int device) {
    Object *o = calloc(1, sizeof *o);
    if (sim.n_objects == sim.room) {
        sim.room = sim.room ? 2 * sim.room : 64;
        sim.objects = realloc(sim.objects, sim.room * sizeof *sim.objects);
    }
    o->handle = 0x5100000000000000u | (u64)kind << 48 | (sim.first + sim.n_objects + 1) << 4;
    o->kind = kind, o->live = 1, o->device = device;
    sim.objects[sim.n_objects++] = o;
    return o;
}

/* The object of a handle. NULL: *status says why, and what is not left over from an earlier simulation is a violation.*/
static Object *find(u64 handle, int kind, int *status) {
    u64 number = handle >> 4 & 0xfffffffffffu;
    *status = INVALID_HANDLE;
    if (handle >> 56 == 0x51 && (int)(handle >> 48 & 0xff) == kind && number && number <= sim.first) {
        *status = DEINITIALIZED;
        return NULL;
    }
    if (handle >> 56 != 0x51 || number - sim.first > sim.n_objects) {
        violation("%#llx is no handle of a %s", (unsigned long long)handle, KINDS[kind]);
        return NULL;
    }
    Object *o = sim.objects[number - sim.first - 1];
    if (o->kind != kind) {
        violation("a handle of a %s was given where one of a %s is expected", KINDS[o->kind], KINDS[kind]);
        return NULL;
    }
    if (!o->live) {
        violation("a %s was used after it was destroyed", KINDS[kind]);
        return NULL;
    }
    *status = SUCCESS;
    return o;
}

static void mark(Marks *marks, u64 stream, u64 seq) {
    for (int i = 0; i < marks->n; i++)
        if (marks->at[i].stream == stream) {
            if (marks->at[i].seq < seq) marks->at[i].seq = seq;
            return;
        }
    if (marks->n == marks->room) {
        marks->room = marks->room ? 2 * marks->room : 4;
        marks->at = realloc(marks->at, marks->room * sizeof *marks->at);
    }
    marks->at[marks->n++] = (Mark){stream, seq};
}

/* -------------------------------------------------------------------------------------------------------- streams */

static Object *stream_new(int device, int blocking, int priority) {
    Object *s = create(STREAM, device);
    s->blocking = blocking, s->priority = priority, s->index = sim.n_streams;
    if (sim.n_streams == sim.streams_room) {
        sim.streams_room = sim.streams_room ? 2 * sim.streams_room : 16;
        sim.streams = realloc(sim.streams, sim.streams_room * sizeof *sim.streams);
    }
    sim.streams[sim.n_streams++] = s;
    if (sim.n_streams > sim.clocks) { /* every clock grows */
        int before = sim.clocks, after = sim.clocks = sim.n_streams + 16;
        for (u64 i = 0; i < sim.n_objects; i++) {
            Object *o = sim.objects[i];
            u64 **each[] = {&o->clock, &o->event_clock};
            for (int k = 0; k < 2; k++)
                if (*each[k]) {
                    *each[k] = realloc(*each[k], after * sizeof(u64));
                    memset(*each[k] + before, 0, (after - before) * sizeof(u64));
                }
        }
        sim.host = realloc(sim.host, after * sizeof(u64));
        memset(sim.host + before, 0, (after - before) * sizeof(u64));
    }
    s->clock = calloc(sim.clocks, sizeof(u64));
    return s;
}

/* The stream of a handle that a caller gave: 0 and 1 are the legacy default stream of the current device. */
static Object *stream_of(u64 handle, int *status) {
    if (handle > 2) return find(handle, STREAM, status);
    if (handle == 2) {
        *status = NOT_SUPPORTED;
        violation("the per-thread default stream is not simulated");
        return NULL;
    }
    *status = SUCCESS;
    return sim.devices[self.device].legacy;
}

static int is_legacy(Object *s) { return sim.devices[s->device].legacy == s; }

static void join(u64 *clock, const u64 *other) {
    for (int i = 0; i < sim.clocks; i++)
        if (clock[i] < other[i]) clock[i] = other[i];
}

static void release(Work *w);

static void drop_nodes(Nodes *nodes) {
    if (!nodes || --nodes->references) return;
    for (int i = 0; i < nodes->n; i++) {
        release(nodes->at[i].work);
        free(nodes->at[i].deps);
    }
    free(nodes->at);
    free(nodes);
}

static void release(Work *w) {
    if (--w->references) return;
    free(w->values);
    free(w->ranges);
    free(w->staged);
    drop_nodes(w->nodes);
    free(w);
}

static Work *work_new(int kind, int device) {
    Work *w = calloc(1, sizeof *w);
    w->kind = kind, w->device = device, w->references = 1;
    return w;
}

/* --------------------------------------------------------------------------------------------------------- memory */

static int range_index(u64 address) { /* of the last range that starts at or before the address */
    int low = 0, high = sim.n_ranges;
    while (low < high) {
        int middle = (low + high) / 2;
        if (sim.ranges[middle].start <= address) low = middle + 1;
        else high = middle;
    }
    return low - 1;
}

/* The range that holds an address; its end counts as within: an array of no elements may be there. */
static Range *range_of(u64 address) {
    int i = range_index(address);
    return i >= 0 && address <= sim.ranges[i].start + sim.ranges[i].size ? &sim.ranges[i] : NULL;
}

static Range *add_range(Range r) {
    int at = range_index(r.start) + 1;
    if (sim.n_ranges == sim.ranges_room) {
        sim.ranges_room = sim.ranges_room ? 2 * sim.ranges_room : 64;
        sim.ranges = realloc(sim.ranges, sim.ranges_room * sizeof *sim.ranges);
    }
    memmove(sim.ranges + at + 1, sim.ranges + at, (sim.n_ranges - at) * sizeof *sim.ranges);
    sim.ranges[at] = r;
    sim.n_ranges++;
    return &sim.ranges[at];
}

/* Memory between guards. Its addresses are never used again: a stale pointer stays one. */
static u64 map(u64 size, int kind, int device) {
    u64 whole = (size + 2 * GUARD + 4095) / 4096 * 4096;
    unsigned char *at = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return 0;
    memset(at, GUARD_BYTE, GUARD);
    memset(at + GUARD + size, GUARD_BYTE, GUARD);
    if (size <= POISON_LIMIT) memset(at + GUARD, FRESH, size);
    add_range((Range){(u64)at + GUARD, size, (u64)at, whole, kind, device, 1, sim.epoch});
    return (u64)at + GUARD;
}

static void check_guards(Range *r) {
    if (r->kind == REGISTERED) return;
    for (int side = 0; side < 2; side++) {
        unsigned char *guard = (unsigned char *)(side ? r->start + r->size : r->start - GUARD);
        for (int i = 0; i < GUARD; i++)
            if (guard[i] != GUARD_BYTE) {
                violation("%s of an allocation of %llu bytes at %#llx, memory was overwritten", side ? "behind the end" : "before the start",
                          (unsigned long long)r->size, (unsigned long long)r->start);
                memset(guard, GUARD_BYTE, GUARD);
                break;
            }
    }
}

static void unmap(Range *r) {
    check_guards(r);
    r->live = 0;
    if (r->size <= POISON_LIMIT) memset((void *)r->start, FREED, r->size);
    else madvise((void *)r->map, r->map_size, MADV_DONTNEED);
}

/* What the allocator above registered: the block that holds an address. */
static int block_index(u64 address) {
    int low = 0, high = sim.n_blocks;
    while (low < high) {
        int middle = (low + high) / 2;
        if (sim.blocks[middle].start <= address) low = middle + 1;
        else high = middle;
    }
    return low - 1;
}

static Block *block_of(u64 address) {
    int i = block_index(address);
    return i >= 0 && address < sim.blocks[i].start + sim.blocks[i].size ? &sim.blocks[i] : NULL;
}

/* A use of memory by the next work of a stream (NULL: by a graph's node): the end of what may be used from there. */
static u64 use(u64 address, u64 size, Object *s, const char *what) {
    Range *r = range_of(address);
    u64 end = r ? r->start + r->size : address + size;
    Block *b = block_of(address);
    if (!b) return end;
    if (!b->alive)
        violation("%s uses memory at %#llx that was given back to the allocator", what, (unsigned long long)address);
    if (s) {
        for (int i = 0; i < b->before.n; i++) {
            Object *other = sim.streams[b->before.at[i].stream];
            if (other != s && s->clock[other->index] < b->before.at[i].seq && sim.host[other->index] < b->before.at[i].seq)
                violation("%s on stream %d uses a block of %llu bytes at %#llx, handed out again while stream %d may still "
                          "use it: record_stream is missing, or a wait", what, s->index, (unsigned long long)b->size,
                          (unsigned long long)b->start, other->index);
        }
        mark(&b->users, s->index, s->last + 1);
    }
    return b->start + b->size;
}

/* Whether [address, address + size) is live memory of a device; else a violation. */
static int is_device(u64 address, u64 size, const char *what, int *device) {
    Range *r = range_of(address);
    if (!r || r->kind != DEVICE_MEMORY) {
        violation("%s: %#llx is no device memory", what, (unsigned long long)address);
        return 0;
    }
    if (!r->live) {
        if (r->epoch == sim.epoch) violation("%s: the device memory at %#llx was freed", what, (unsigned long long)address);
        return 0;
    }
    if (address + size > r->start + r->size) {
        violation("%s: %llu bytes at %#llx reach %llu bytes past the end of an allocation of %llu", what,
                  (unsigned long long)size, (unsigned long long)address,
                  (unsigned long long)(address + size - r->start - r->size), (unsigned long long)r->size);
        return 0;
    }
    *device = r->device;
    return 1;
}

/* The same when the call is made: then the block that the memory belongs to counts as well. */
static int is_given(u64 address, u64 size, const char *what, int *device) {
    if (!is_device(address, size, what, device)) return 0;
    Block *b = block_of(address);
    if (!b || !b->alive || address + size <= b->start + b->size) return 1;
    violation("%s: %llu bytes at %#llx reach past the end of a block of %llu", what, (unsigned long long)size,
              (unsigned long long)address, (unsigned long long)b->size);
    return 0;
}

static Range *pinned_at(u64 address, u64 size) {
    for (int i = range_index(address); i >= 0; i--) {
        Range *r = &sim.ranges[i];
        if (r->kind != DEVICE_MEMORY && r->live && address >= r->start && address + size <= r->start + r->size) return r;
        if (address > r->start + r->size && r->kind != REGISTERED) break;
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------ execution */

static int peer_allowed(int device, int owner) { return device == owner || sim.devices[device].peers >> owner & 1; }

static int run_work(Work *w) {
    int device, status = SUCCESS;
    if (w->kind == KERNEL) {
        Object *f = w->function;
        for (int i = 0; i < f->n_layout; i++) {
            u64 value = 0;
            if (f->sizes[i] != 8) continue;
            memcpy(&value, w->values + f->offsets[i], 8);
            Range *r = value ? range_of(value) : NULL;
            if (!r || r->kind == REGISTERED) continue;
            if (!r->live && r->epoch == sim.epoch) {
                violation("kernel %s: parameter %d points into memory at %#llx that was freed before it ran", f->name, i,
                          (unsigned long long)value);
                return ILLEGAL_ADDRESS;
            }
            if (r->kind == DEVICE_MEMORY && !peer_allowed(w->device, r->device)) {
                violation("kernel %s on device %d: parameter %d points into memory of device %d without peer access",
                          f->name, w->device, i, r->device);
                return ILLEGAL_ADDRESS;
            }
        }
        if (sim.launcher) {
            self.callback++;
            pthread_mutex_unlock(&lock);
            status = sim.launcher(f->handle, w->grid, w->block, w->shared, w->values, w->nbytes, w->ranges, w->n_ranges, w->device);
            pthread_mutex_lock(&lock);
            self.callback--;
        }
        return status;
    }
    if (w->kind == COPY) {
        if (!w->dst_host && !is_device(w->dst, w->size, "a copy, when it ran", &device)) return ILLEGAL_ADDRESS;
        if (!w->src_host && !is_device(w->src, w->size, "a copy, when it ran", &device)) return ILLEGAL_ADDRESS;
        if ((w->dst_host == 1 && !pinned_at(w->dst, w->size)) || (w->src_host == 1 && !pinned_at(w->src, w->size))) {
            violation("a copy: pinned host memory was freed before the copy ran");
            return ILLEGAL_ADDRESS;
        }
        memmove((void *)w->dst, w->staged ? w->staged : (void *)w->src, w->size);
    } else if (w->kind == FILL) {
        if (!is_device(w->dst, w->size * w->width, "a fill, when it ran", &device)) return ILLEGAL_ADDRESS;
        for (u64 i = 0; w->width > 1 && i < w->size; i++) memcpy((char *)w->dst + i * w->width, &w->value, w->width);
        if (w->width == 1) memset((void *)w->dst, (int)w->value, w->size);
    } else if (w->kind == RECORD) {
        if (w->event->version == w->version) w->event->nanoseconds = now();
        if (w->event->done_version < w->version) w->event->done_version = w->version;
    } else { /* REPLAY: of the nodes whose dependencies ran, the one captured last */
        Nodes *nodes = w->nodes;
        char *done = calloc(nodes->n + 1, 1);
        for (int left = nodes->n; left && !status; left--) {
            int pick = -1;
            for (int i = nodes->n - 1; i >= 0 && pick < 0; i--) {
                int ready = !done[i];
                for (int k = 0; ready && k < nodes->at[i].n_deps; k++) ready = done[nodes->at[i].deps[k]];
                if (ready) pick = i;
            }
            status = run_work(nodes->at[pick].work);
            done[pick] = 1;
        }
        free(done);
    }
    return status;
}

static void demand(Object *s, u64 seq) {
    if (seq > s->last) seq = s->last;
    if (s->want < seq) s->want = seq;
}

/* Run what is demanded, and nothing else: of all streams, the item that was enqueued first. */
static void settle(void) {
    for (int more = 1; more;) { /* what the demanded items depend on is demanded */
        more = 0;
        for (int i = 0; i < sim.n_streams; i++) {
            Object *s = sim.streams[i];
            for (int k = s->head; k < s->tail && s->queue[k].seq <= s->want; k++) {
                if (s->queue[k].scanned) continue;
                s->queue[k].scanned = more = 1;
                for (int j = 0; j < s->queue[k].deps.n; j++)
                    demand(sim.streams[s->queue[k].deps.at[j].stream], s->queue[k].deps.at[j].seq);
            }
        }
    }
    for (;;) {
        Object *next = NULL;
        int waiting = 0;
        for (int i = 0; i < sim.n_streams; i++) {
            Object *s = sim.streams[i];
            if (s->running) {
                if (s->finished < s->want && !pthread_equal(s->runner, pthread_self()) && !self.callback) waiting = 1;
                continue;
            }
            if (s->head == s->tail || s->queue[s->head].seq > s->want) continue;
            int ready = 1;
            Marks *deps = &s->queue[s->head].deps;
            for (int j = 0; j < deps->n; j++) ready &= sim.streams[deps->at[j].stream]->finished >= deps->at[j].seq;
            if (ready && (!next || s->queue[s->head].seq < next->queue[next->head].seq)) next = s;
        }
        if (!next && !waiting) return;
        if (!next) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        Item item = next->queue[next->head++];
        next->running = 1, next->runner = pthread_self();
        Device *d = &sim.devices[next->device];
        if (!d->sticky) {
            int status = run_work(item.work);
            if (status && !d->sticky) d->sticky = status;
        }
        next->running = 0;
        next->finished = item.seq;
        next->asked = 0;
        release(item.work);
        free(item.deps.at);
        if (next->head == next->tail) next->head = next->tail = 0;
        pthread_cond_broadcast(&changed);
    }
}

/* The host waits for a stream up to an item, and so for all that this depends on. */
static void wait_for(Object *s, u64 seq) {
    demand(s, seq);
    settle();
    for (int i = 0; i < sim.n_streams; i++) {
        Object *o = sim.streams[i];
        u64 seen = o->want < o->finished ? o->want : o->finished;
        if (sim.host[i] < seen) sim.host[i] = seen;
    }
}

static void wait_for_device(int device) {
    for (int i = 0; i < sim.n_streams; i++)
        if (sim.streams[i]->device == device) demand(sim.streams[i], sim.streams[i]->last);
    wait_for(sim.devices[device].legacy, 0);
}

static void take_clock(Object *s, Object *before) { /* all that was given to `before` so far precedes s's next item */
    join(s->clock, before->clock);
    if (s->clock[before->index] < before->last) s->clock[before->index] = before->last;
}

/* The dependencies that a stream's next work has by itself: the legacy stream waits for the blocking ones, they for it.*/
static void implicit(Object *s, Marks *deps) {
    join(s->clock, sim.host);
    if (!s->blocking) return;
    Object *legacy = sim.devices[s->device].legacy;
    for (int i = 0; i < sim.n_streams; i++) {
        Object *o = sim.streams[i];
        if (o == s || o->device != s->device || !o->blocking || (s != legacy && o != legacy)) continue;
        take_clock(s, o);
        if (o->finished < o->last) mark(deps, o->index, o->last);
    }
}

static void push(Object *s, Work *w, Marks deps) {
    if (s->tail == s->room) {
        s->room = s->room ? 2 * s->room : 16;
        s->queue = realloc(s->queue, s->room * sizeof *s->queue);
    }
    s->last = ++sim.sequence;
    s->clock[s->index] = s->last;
    s->queue[s->tail++] = (Item){s->last, w, deps, 0};
    s->asked = 0;
    if (!sim.lazy) {
        demand(s, s->last);
        settle();
    }
}

/* -------------------------------------------------------------------------------------------------------- capture */

static void invalidate(Capture *c) { c->invalid = 1; }

static int add_node(Nodes *nodes, Work *w, const int *deps, int n_deps) {
    if (nodes->n == nodes->room) {
        nodes->room = nodes->room ? 2 * nodes->room : 16;
        nodes->at = realloc(nodes->at, nodes->room * sizeof *nodes->at);
    }
    int *copy = malloc((n_deps + 1) * sizeof(int));
    memcpy(copy, deps, n_deps * sizeof(int));
    nodes->at[nodes->n] = (Node){w, copy, n_deps};
    return nodes->n++;
}

static void set_tails(Object *s, const int *tails, int n) {
    int *copy = malloc((n + 1) * sizeof(int));
    if (n) memcpy(copy, tails, n * sizeof(int));
    free(s->tails);
    s->tails = copy, s->n_tails = n;
}

static void add_tails(Object *s, const int *tails, int n) {
    int *all = malloc((s->n_tails + n + 1) * sizeof(int)), count = 0;
    for (int i = 0; i < s->n_tails + n; i++) {
        int node = i < s->n_tails ? s->tails[i] : tails[i - s->n_tails], known = 0;
        for (int k = 0; k < count; k++) known |= all[k] == node;
        if (!known) all[count++] = node;
    }
    free(s->tails);
    s->tails = all, s->n_tails = count;
}

/* Whether work may go to a stream now: the legacy stream not while a blocking one of its device is captured. */
static int admit(Object *s) {
    if (s->capture && s->capture->invalid) return CAPTURE_INVALIDATED;
    if (is_legacy(s))
        for (int i = 0; i < sim.n_streams; i++) {
            Object *o = sim.streams[i];
            if (o->capture && o->blocking && o->device == s->device) {
                invalidate(o->capture);
                return CAPTURE_IMPLICIT;
            }
        }
    return SUCCESS;
}

/* Give work to a stream, or to the graph that it is captured into. */
static int submit(Object *s, Work *w) {
    if (s->capture) {
        int node = add_node(s->capture->nodes, w, s->tails, s->n_tails);
        set_tails(s, &node, 1);
        return SUCCESS;
    }
    Marks deps = {0};
    implicit(s, &deps);
    push(s, w, deps);
    return SUCCESS;
}

/* A synchronising or querying call must not meet a capturing stream. */
static int not_captured(Object *s) {
    if (s->capture) {
        int status = s->capture->invalid ? CAPTURE_INVALIDATED : CAPTURE_UNSUPPORTED;
        invalidate(s->capture);
        return status;
    }
    return admit(s);
}

static int unsafe(void) {
    int status = SUCCESS;
    if (self.mode == 2) return SUCCESS;
    for (int i = 0; i < sim.n_captures; i++) {
        Capture *c = sim.captures[i];
        int mine = pthread_equal(c->thread, pthread_self());
        if ((mine && c->mode != 2) || (!mine && c->mode == 0 && self.mode == 0)) {
            invalidate(c);
            status = CAPTURE_UNSUPPORTED;
        }
    }
    return status;
}

/* ---------------------------------------------------------------------------------------------------------- calls */

static void fresh_thread(void) {
    if (self.epoch == sim.epoch) return;
    memset(&self, 0, sizeof self);
    self.epoch = sim.epoch;
    self.device = NAME(-1, 0);
}

static Entry *entry_of(const char *name) {
    for (int i = 0; i < sim.n_entries; i++)
        if (!strcmp(sim.entries[i].name, name)) return &sim.entries[i];
    Entry *e = &sim.entries[sim.n_entries++];
    e->name = strdup(name);
    return e;
}

static void start(void) {
    sim.initialised = 1;
    for (int i = 0; i < sim.n_devices; i++) {
        Device *d = &sim.devices[i];
        if (!d->legacy) {
            d->legacy = stream_new(i, 1, 0);
            d->context = create(CONTEXT, i)->handle;
        }
    }
}

enum { INIT = 1, CURRENT = 2, UNSAFE = 4 }; /* what a call needs: cuInit, a context; and whether a capture forbids it */

static int enter(Call *call, Entry *entry, int flags, const char *names, const u64 *values, int n) {
    *call = (Call){.entry = entry, .names = names, .n = n, .thread = (u64)pthread_self()};
    memcpy(call->values, values, n * sizeof(u64));
    fresh_thread();
    entry->calls++;
    if (entry->status && entry->countdown > 1) entry->countdown--;
    else if (entry->status) {
        int status = entry->status;
        if (!entry->always) entry->status = 0;
        return status;
    }
    if (!flags) return SUCCESS;
    if (!sim.initialised) {
        if (NAME(1, 0)) return NOT_INITIALIZED;
        if (!sim.n_devices) return NO_DEVICE;
        start();
    }
    if (flags & CURRENT) {
        if (self.device < 0) {
            violation("%s: no context is current in this thread", entry->name);
            return INVALID_CONTEXT;
        }
        if (sim.devices[self.device].sticky) return sim.devices[self.device].sticky;
    }
    return flags & UNSAFE ? unsafe() : SUCCESS;
}

static int leave(Call *call, int status) {
    call->status = status;
    if (status) self.last_error = status;
    if (sim.record && sim.n_calls < 1 << 20) {
        if (sim.n_calls == sim.calls_room) {
            sim.calls_room = sim.calls_room ? 2 * sim.calls_room : 1024;
            sim.calls = realloc(sim.calls, sim.calls_room * sizeof *sim.calls);
        }
        sim.calls[sim.n_calls++] = *call;
    }
    pthread_mutex_unlock(&lock);
    return status;
}

#define A(...) (u64[]){__VA_ARGS__}, (int)(sizeof((u64[]){__VA_ARGS__}) / sizeof(u64))
/* The body of an entry point: lock, count, injected faults, the conditions, the work, the record. */
#define API(flags, names, work, ...)                                                                                   \
    do {                                                                                                               \
        static Entry *entry_;                                                                                          \
        Call call_;                                                                                                    \
        pthread_mutex_lock(&lock);                                                                                     \
        if (!entry_) entry_ = entry_of(__func__);                                                                      \
        int status_ = enter(&call_, entry_, flags, names, __VA_ARGS__);                                                  \
        if (!status_) status_ = (work);                                                                                \
        return leave(&call_, status_);                                                                                 \
    } while (0)
#define NONE (u64[]){0}, 0
#define EXPORT __attribute__((visibility("default")))

/* ------------------------------------------------------------------------------------------- the core of each call */

static int sticky_now(void) { return self.device >= 0 ? sim.devices[self.device].sticky : SUCCESS; }

static int do_init(void) {
    if (!sim.n_devices) return NO_DEVICE;
    start();
    return SUCCESS;
}

static int device_ok(int device) { return device >= 0 && device < sim.n_devices ? SUCCESS : INVALID_DEVICE; }

static int do_malloc(u64 *out, u64 size) {
    Device *d = &sim.devices[self.device];
    if (!size || !out) return INVALID_VALUE;
    if (sim.fail_allocation && --sim.fail_allocation == 0) return OUT_OF_MEMORY;
    if (d->used + size > d->total) return OUT_OF_MEMORY;
    *out = map(size, DEVICE_MEMORY, self.device);
    if (!*out) return OUT_OF_MEMORY;
    d->used += size;
    return SUCCESS;
}

static Range *start_of(u64 address, int kind, const char *what, int *status) {
    int i = range_index(address);
    Range *r = i >= 0 && sim.ranges[i].start == address ? &sim.ranges[i] : NULL;
    *status = INVALID_VALUE;
    if (r && r->epoch != sim.epoch) {
        *status = DEINITIALIZED;
        return NULL;
    }
    if (!r || r->kind != kind) {
        violation("%s: %#llx is not the start of an allocation", what, (unsigned long long)address);
        return NULL;
    }
    if (!r->live) {
        violation("%s: the memory at %#llx was freed before", what, (unsigned long long)address);
        return NULL;
    }
    *status = SUCCESS;
    return r;
}

static int do_free(u64 address) {
    int status;
    if (!address) return SUCCESS;
    Range *r = start_of(address, DEVICE_MEMORY, "free", &status);
    if (!r) return status;
    wait_for_device(r->device); /* as the real ones do */
    r = start_of(address, DEVICE_MEMORY, "free", &status);
    if (!r) return status;
    for (int i = 0; i < sim.n_blocks; i++)
        if (sim.blocks[i].alive && sim.blocks[i].start >= r->start && sim.blocks[i].start < r->start + r->size) {
            violation("a segment of %llu bytes was freed with a living block in it", (unsigned long long)r->size);
            break;
        }
    sim.devices[r->device].used -= r->size;
    unmap(r);
    return sim.devices[r->device].sticky;
}

static int do_info(size_t *available, size_t *total) {
    Device *d = &sim.devices[self.device];
    *available = d->total - d->used, *total = d->total;
    return SUCCESS;
}

static int do_host_allocate(u64 *out, u64 size) {
    if (!size || !out) return INVALID_VALUE;
    if (sim.fail_allocation && --sim.fail_allocation == 0) return OUT_OF_MEMORY;
    *out = map(size, PINNED, -1);
    return *out ? SUCCESS : OUT_OF_MEMORY;
}

static int do_host_free(u64 address) {
    int status;
    Range *r = start_of(address, PINNED, "freeing host memory", &status);
    if (r) unmap(r);
    return status;
}

static int do_register(u64 address, u64 size) {
    if (!address || !size) return INVALID_VALUE;
    for (int i = 0; i < sim.n_ranges; i++) {
        Range *r = &sim.ranges[i];
        if (r->live && r->kind != DEVICE_MEMORY && address < r->start + r->size && r->start < address + size) return HOST_REGISTERED;
    }
    for (int i = 0; i < sim.n_ranges; i++) /* an earlier registration of the same address */
        if (sim.ranges[i].start == address && !sim.ranges[i].live && sim.ranges[i].kind == REGISTERED) {
            sim.ranges[i].live = 1, sim.ranges[i].size = size, sim.ranges[i].epoch = sim.epoch;
            return SUCCESS;
        }
    add_range((Range){address, size, 0, 0, REGISTERED, -1, 1, sim.epoch});
    return SUCCESS;
}

static int do_unregister(u64 address) {
    for (int i = 0; i < sim.n_ranges; i++)
        if (sim.ranges[i].start == address && sim.ranges[i].live && sim.ranges[i].kind == REGISTERED) {
            sim.ranges[i].live = 0;
            return SUCCESS;
        }
    return HOST_NOT_REGISTERED;
}

enum { TO_DEVICE, TO_HOST, WITHIN, PEER };

static int do_copy(u64 dst, u64 src, u64 size, u64 handle, int direction, int synchronous) {
    int status, dst_device = -1, src_device = -1;
    Object *s = stream_of(handle, &status);
    if (!s || (status = admit(s))) return status;
    if (!size) return SUCCESS;
    if (!dst || !src) return INVALID_VALUE;
    if (direction != TO_HOST && !is_given(dst, size, "a copy's destination", &dst_device)) return INVALID_VALUE;
    if (direction != TO_DEVICE && !is_given(src, size, "a copy's source", &src_device)) return INVALID_VALUE;
    Work *w = work_new(COPY, s->device);
    w->dst = dst, w->src = src, w->size = size;
    if (direction == WITHIN && !peer_allowed(dst_device, src_device) && !peer_allowed(src_device, dst_device)) {
        violation("a copy from device %d to device %d without peer access", src_device, dst_device);
        return INVALID_VALUE;
    }
    int pageable = 0;
    if (direction == TO_DEVICE || direction == TO_HOST) {
        u64 host = direction == TO_DEVICE ? src : dst;
        Range *there = range_of(host);
        if (there && there->kind == DEVICE_MEMORY && host < there->start + there->size && there->epoch == sim.epoch) {
            violation("a copy: device memory at %#llx was given as host memory", (unsigned long long)host);
            return INVALID_VALUE;
        }
        if (there && there->kind == PINNED && (!there->live || host + size > there->start + there->size) && there->epoch == sim.epoch) {
            violation("a copy: pinned host memory at %#llx is freed or too short", (unsigned long long)host);
            return INVALID_VALUE;
        }
        pageable = !pinned_at(host, size);
        *(direction == TO_DEVICE ? &w->src_host : &w->dst_host) = pageable ? 2 : 1;
        if (pageable && s->capture) {
            invalidate(s->capture);
            return CAPTURE_UNSUPPORTED;
        }
        if (pageable && direction == TO_DEVICE) {
            w->staged = malloc(size);
            memcpy(w->staged, (void *)src, size);
        }
    }
    Object *counted = s->capture ? NULL : s;
    Marks deps = {0};
    if (counted) implicit(s, &deps); /* the clock, before the uses are judged */
    free(deps.at);
    if (direction != TO_HOST) use(dst, size, counted, "a copy");
    if (direction != TO_DEVICE) use(src, size, counted, "a copy");
    status = submit(s, w);
    if (!status && !s->capture && ((pageable && direction == TO_HOST) || synchronous)) {
        wait_for(s, s->last);
        status = sim.devices[s->device].sticky;
    }
    return status;
}

static int do_fill(u64 dst, u32 value, u64 count, u32 width, u64 handle) {
    int status, device;
    Object *s = stream_of(handle, &status);
    if (!s || (status = admit(s))) return status;
    if (!count) return SUCCESS;
    if (!is_given(dst, count * width, "a fill's destination", &device) || dst % width) return INVALID_VALUE;
    Work *w = work_new(FILL, s->device);
    w->dst = dst, w->value = value, w->size = count, w->width = width;
    Marks deps = {0};
    if (!s->capture) implicit(s, &deps);
    free(deps.at);
    use(dst, count * width, s->capture ? NULL : s, "a fill");
    return submit(s, w);
}

static int do_peer(int device, int peer) {
    if (device_ok(peer) || device == peer) return INVALID_DEVICE;
    if (!sim.peer) return PEER_UNSUPPORTED;
    if (sim.devices[device].peers >> peer & 1) return PEER_ALREADY;
    sim.devices[device].peers |= 1u << peer;
    return SUCCESS;
}

static int do_stream_create(u64 *out, u32 flags, int priority) {
    if (flags > 1) return INVALID_VALUE;
    if (priority < NAME(-5, -1)) priority = NAME(-5, -1);
    if (priority > NAME(0, 1)) priority = NAME(0, 1);
    *out = stream_new(self.device, !flags, priority)->handle;
    return SUCCESS;
}

static int do_stream_destroy(u64 handle) {
    int status;
    if (handle <= 2) return INVALID_HANDLE;
    Object *s = find(handle, STREAM, &status);
    if (!s) return status;
    if (s->capture) return not_captured(s);
    s->live = 0; /* what it was given still runs */
    return SUCCESS;
}

static int do_stream_synchronize(u64 handle) {
    int status;
    Object *s = stream_of(handle, &status);
    if (!s || (status = not_captured(s)) || (status = unsafe())) return status;
    if (is_legacy(s)) /* it waits for the blocking ones */
        for (int i = 0; i < sim.n_streams; i++)
            if (sim.streams[i]->blocking && sim.streams[i]->device == s->device) demand(sim.streams[i], sim.streams[i]->last);
    wait_for(s, s->last);
    return sim.devices[s->device].sticky;
}

/* Whether work up to an item is done, for a query: after `patience` refusals it is run. */
static int query(Object *s, u64 seq, int *asked) {
    if (s->finished < seq && (sim.patience < 0 || (*asked)++ < sim.patience)) return NOT_READY;
    wait_for(s, seq);
    if (sim.devices[s->device].sticky) return sim.devices[s->device].sticky;
    return s->finished < seq ? NOT_READY : SUCCESS;
}

static int do_stream_query(u64 handle) {
    int status;
    Object *s = stream_of(handle, &status);
    if (!s || (status = not_captured(s)) || (status = unsafe())) return status;
    return query(s, s->last, &s->asked);
}

static int do_wait_event(u64 handle, u64 event_handle) {
    int status;
    Object *s = stream_of(handle, &status), *e = s ? find(event_handle, EVENT, &status) : NULL;
    if (!s || !e || (status = admit(s))) return status;
    if (e->capture) {
        if (e->capture->done) return CAPTURED_EVENT;
        if (e->capture->invalid) return CAPTURE_INVALIDATED;
        if (is_legacy(s)) {
            invalidate(e->capture);
            return CAPTURE_IMPLICIT;
        }
        if (s->capture && s->capture != e->capture) {
            invalidate(e->capture);
            invalidate(s->capture);
            return CAPTURE_MERGE;
        }
        if (!s->capture) {
            s->capture = e->capture;
            set_tails(s, NULL, 0);
        }
        add_tails(s, e->tails, e->n_tails);
        return SUCCESS;
    }
    if (s->capture) {
        if (!e->recorded) return SUCCESS;
        invalidate(s->capture);
        return CAPTURE_ISOLATION;
    }
    if (!e->recorded) return SUCCESS;
    join(s->clock, e->event_clock);
    Work *w = work_new(RECORD, s->device); /* an item that does nothing */
    w->event = e, w->version = 0;
    Marks deps = {0};
    implicit(s, &deps);
    Object *of = sim.streams[e->mark.stream];
    if (of->finished < e->mark.seq) mark(&deps, of->index, e->mark.seq);
    push(s, w, deps);
    return SUCCESS;
}

static int do_event_create(u64 *out, u32 flags) {
    if (flags & ~NAME(7u, 0xf0000007u)) return INVALID_VALUE;
    Object *e = create(EVENT, self.device);
    e->timing = !(flags & 2);
    e->event_clock = calloc(sim.clocks, sizeof(u64));
    *out = e->handle;
    return SUCCESS;
}

static int do_event_destroy(u64 handle) {
    int status;
    Object *e = find(handle, EVENT, &status);
    if (e) e->live = 0;
    return status;
}

static int do_event_record(u64 handle, u64 stream) {
    int status;
    Object *s = stream_of(stream, &status), *e = s ? find(handle, EVENT, &status) : NULL;
    if (!s || !e || (status = admit(s))) return status;
    if (e->device != s->device) {
        violation("an event of device %d is recorded on a stream of device %d", e->device, s->device);
        return INVALID_HANDLE;
    }
    e->recorded = 1, e->event_asked = 0;
    if (s->capture) {
        e->capture = s->capture;
        set_tails(e, s->tails, s->n_tails);
        return SUCCESS;
    }
    e->capture = NULL;
    Work *w = work_new(RECORD, s->device);
    w->event = e, w->version = ++e->version;
    submit(s, w);
    e->mark = (Mark){s->index, s->last};
    memcpy(e->event_clock, s->clock, sim.clocks * sizeof(u64));
    return SUCCESS;
}

static int event_seen(Object *e) {
    if (e->capture) {
        if (!e->capture->done) invalidate(e->capture);
        return CAPTURED_EVENT;
    }
    return unsafe();
}

static int do_event_query(u64 handle) {
    int status;
    Object *e = find(handle, EVENT, &status);
    if (!e || (status = event_seen(e))) return status;
    if (!e->recorded) return SUCCESS;
    return query(sim.streams[e->mark.stream], e->mark.seq, &e->event_asked);
}

static int do_event_synchronize(u64 handle) {
    int status;
    Object *e = find(handle, EVENT, &status);
    if (!e || (status = event_seen(e))) return status;
    if (e->recorded) wait_for(sim.streams[e->mark.stream], e->mark.seq);
    return sim.devices[e->device].sticky;
}

static int do_elapsed(float *out, u64 start_handle, u64 end_handle) {
    int status;
    Object *a = find(start_handle, EVENT, &status), *b = a ? find(end_handle, EVENT, &status) : NULL;
    if (!a || !b) return status;
    if (!a->timing || !b->timing || !a->recorded || !b->recorded || a->device != b->device) return INVALID_HANDLE;
    if (a->done_version < a->version || b->done_version < b->version) return NOT_READY;
    *out = (float)((double)b->nanoseconds - (double)a->nanoseconds) / 1e6f;
    return SUCCESS;
}

static int do_synchronize(void) {
    int status = unsafe();
    if (status) return status;
    wait_for_device(self.device);
    return sticky_now();
}

/* -- modules and launches */

static u64 image_size(const unsigned char *image) {
    if (!image) return 0;
    if (!memcmp(image, "\177SIM", 4)) {
        u32 size;
        memcpy(&size, image + 4, 4);
        return size;
    }
    if (memcmp(image, "\177ELF", 4)) return 0;
    u64 segments, sections, size;
    uint16_t segment_size, segment_count, section_size, section_count;
    memcpy(&segments, image + 32, 8), memcpy(&sections, image + 40, 8);
    memcpy(&segment_size, image + 54, 2), memcpy(&segment_count, image + 56, 2);
    memcpy(&section_size, image + 58, 2), memcpy(&section_count, image + 60, 2);
    size = sections + (u64)section_size * section_count;
    if (segments + (u64)segment_size * segment_count > size) size = segments + (u64)segment_size * segment_count;
    for (int i = 0; i < section_count; i++) {
        const unsigned char *at = image + sections + (u64)i * section_size;
        u32 type;
        u64 offset, length;
        memcpy(&type, at + 4, 4), memcpy(&offset, at + 24, 8), memcpy(&length, at + 32, 8);
        if (type != 8 && offset + length > size) size = offset + length; /* 8: a section without bytes */
    }
    return size;
}

static int do_load(u64 *out, const unsigned char *image) {
    u64 size = image_size(image);
    if (!size) return INVALID_IMAGE;
    if (sim.loader) {
        self.callback++;
        int device = self.device;
        pthread_mutex_unlock(&lock);
        int status = sim.loader(image, size, NULL, (u64)device, NULL, NULL, NULL);
        pthread_mutex_lock(&lock);
        self.callback--;
        if (status < 0) return -status;
    }
    Object *m = create(MODULE, self.device);
    m->image = malloc(size);
    memcpy(m->image, image, size);
    m->image_size = size;
    *out = m->handle;
    return SUCCESS;
}

static int do_unload(u64 handle) {
    int status;
    Object *m = find(handle, MODULE, &status);
    if (!m) return status;
    wait_for_device(m->device);
    for (u64 i = 0; i < sim.n_objects; i++)
        if (sim.objects[i]->kind == FUNCTION && sim.objects[i]->module == handle) sim.objects[i]->live = 0;
    m->live = 0;
    return SUCCESS;
}

static int do_function(u64 *out, u64 handle, const char *name) {
    int status;
    u32 offsets[1024], sizes[1024], limits[3] = {32, 0, 0};
    Object *m = find(handle, MODULE, &status);
    if (!m) return status;
    Object *f = create(FUNCTION, m->device);
    int n = 0;
    if (sim.loader) {
        self.callback++;
        pthread_mutex_unlock(&lock);
        n = sim.loader(m->image, m->image_size, name, f->handle, offsets, sizes, limits);
        pthread_mutex_lock(&lock);
        self.callback--;
    }
    if (n < 0) {
        f->live = 0;
        return -n;
    }
    f->module = handle;
    f->max_shared = NAME(48u << 10, sim.devices[m->device].shared_optin);
    snprintf(f->name, sizeof f->name, "%s", name);
    f->n_layout = n;
    f->offsets = malloc((n + 1) * sizeof(u32)), f->sizes = malloc((n + 1) * sizeof(u32));
    memcpy(f->offsets, offsets, n * sizeof(u32)), memcpy(f->sizes, sizes, n * sizeof(u32));
    memcpy(f->limits, limits, sizeof limits);
    *out = f->handle;
    return SUCCESS;
}

static int do_function_attribute(int *out, int attribute, u64 handle) {
    int status;
    Object *f = find(handle, FUNCTION, &status);
    if (!f) return status;
    int values[] = {1024, (int)f->limits[1], 0, (int)f->limits[2], (int)f->limits[0], 90, 90, 0, (int)f->max_shared, -1};
    if (attribute < 0 || attribute > 9) return INVALID_VALUE;
    *out = values[attribute];
    return SUCCESS;
}

static int do_set_attribute(u64 handle, int attribute, int value) {
    int status;
    Object *f = find(handle, FUNCTION, &status);
    if (!f) return status;
    if (attribute == 8) {
        if (value < 0 || (u32)value > sim.devices[f->device].shared_optin) return INVALID_VALUE;
        f->max_shared = (u32)value;
    } else if (attribute != 9 && attribute != 14) return INVALID_VALUE;
    return SUCCESS;
}

static int do_launch(u64 handle, const u32 *grid, const u32 *block, u32 shared, u64 stream, void **parameters, void **extra,
                     int cooperative, u32 cluster, int pdl) {
    int status;
    Object *f = find(handle, FUNCTION, &status), *s = f ? stream_of(stream, &status) : NULL;
    if (!f || !s || (status = admit(s))) return status;
    Device *d = &sim.devices[s->device];
    if (f->device != s->device || s->device != self.device) {
        violation("kernel %s of device %d, launched on a stream of device %d, with device %d current", f->name, f->device,
                  s->device, self.device);
        return INVALID_HANDLE;
    }
    u64 threads = (u64)block[0] * block[1] * block[2], blocks = (u64)grid[0] * grid[1] * grid[2];
    int configuration = NAME(INVALID_VALUE, 9);
    if (!threads || !blocks || threads > 1024 || block[0] > 1024 || block[1] > 1024 || block[2] > NAME(64u, 1024u))
        return configuration;
    if (grid[0] > 0x7fffffffu || grid[1] > NAME(65535u, 65536u) || grid[2] > NAME(65535u, 65536u)) return configuration;
    if (NAME(0, (u64)grid[0] * block[0] > 0xffffffffu)) return configuration;
    if (shared > f->max_shared) return NAME(INVALID_VALUE, OUT_OF_MEMORY);
    if ((cluster > 1 || pdl) && d->major < 9) return NOT_SUPPORTED;
    if (cluster > 1 && (cluster > 8 || grid[0] % cluster)) return INVALID_CLUSTER;
    if (cooperative) {
        u64 fit = (u64)d->threads_per_sm / threads;
        if (shared && d->shared_per_sm / shared < fit) fit = d->shared_per_sm / shared;
        if (blocks > fit * (u64)d->sms) return COOPERATIVE_TOO_LARGE;
    }
    Work *w = work_new(KERNEL, s->device);
    w->function = f, w->shared = shared, w->cluster = cluster;
    memcpy(w->grid, grid, sizeof w->grid), memcpy(w->block, block, sizeof w->block);
    if (f->n_layout) {
        w->nbytes = f->offsets[f->n_layout - 1] + f->sizes[f->n_layout - 1];
        w->values = calloc(1, w->nbytes + 8);
        w->ranges = malloc(2 * f->n_layout * sizeof(u64));
        if (parameters)
            for (int i = 0; i < f->n_layout; i++) {
                if (!parameters[i]) {
                    violation("kernel %s: parameter %d of %d is missing", f->name, i, f->n_layout);
                    return INVALID_VALUE;
                }
                memcpy(w->values + f->offsets[i], parameters[i], f->sizes[i]);
            }
        else if (extra && extra[0] == (void *)1 && extra[2] == (void *)2) {
            size_t given = *(size_t *)extra[3];
            if (given < w->nbytes) {
                violation("kernel %s: %zu bytes of parameters, it reads %llu", f->name, given, (unsigned long long)w->nbytes);
                return INVALID_VALUE;
            }
            memcpy(w->values, extra[1], w->nbytes);
        } else {
            violation("kernel %s: its %d parameters are missing", f->name, f->n_layout);
            return INVALID_VALUE;
        }
        Object *counted = s->capture ? NULL : s;
        Marks deps = {0};
        if (counted) implicit(s, &deps);
        free(deps.at);
        for (int i = 0; i < f->n_layout; i++) {
            u64 value;
            if (f->sizes[i] != 8 && f->sizes[i] != 128) continue; /* an address, or the tensor map that begins with one */
            memcpy(&value, w->values + f->offsets[i], 8);
            Range *r = value ? range_of(value) : NULL;
            if (!r || !r->live) continue;
            char what[300];
            snprintf(what, sizeof what, "kernel %s, parameter %d,", f->name, i);
            u64 end = use(value, 1, counted, what);
            Block *b = block_of(value);
            w->ranges[2 * w->n_ranges] = b ? b->start : r->start;
            w->ranges[2 * w->n_ranges++ + 1] = end;
        }
    }
    return submit(s, w);
}

/* -- capture and graphs */

static int do_capture_begin(u64 handle, int mode) {
    int status;
    if (mode < 0 || mode > 2) return INVALID_VALUE;
    Object *s = stream_of(handle, &status);
    if (!s) return status;
    if (is_legacy(s)) return CAPTURE_UNSUPPORTED;
    if (s->capture) return ILLEGAL_STATE;
    Capture *c = calloc(1, sizeof *c);
    c->id = ++sim.capture_ids, c->origin = s, c->mode = mode, c->thread = pthread_self();
    c->nodes = calloc(1, sizeof(Nodes));
    c->nodes->references = 1;
    sim.captures = realloc(sim.captures, (sim.n_captures + 1) * sizeof *sim.captures);
    sim.captures[sim.n_captures++] = c;
    s->capture = c;
    set_tails(s, NULL, 0);
    return SUCCESS;
}

static int do_capture_end(u64 handle, u64 *graph) {
    int status;
    *graph = 0;
    Object *s = stream_of(handle, &status);
    if (!s) return status;
    Capture *c = s->capture;
    if (!c) return ILLEGAL_STATE;
    if (c->origin != s) {
        invalidate(c);
        return CAPTURE_UNMATCHED;
    }
    if (c->mode != 2 && !pthread_equal(c->thread, pthread_self())) return CAPTURE_THREAD;
    status = c->invalid ? CAPTURE_INVALIDATED : SUCCESS;
    char *joined = calloc(c->nodes->n + 1, 1); /* nodes that the end of the origin depends on */
    for (int i = 0; i < s->n_tails; i++) joined[s->tails[i]] = 1;
    for (int i = c->nodes->n - 1; i >= 0; i--)
        for (int k = 0; joined[i] && k < c->nodes->at[i].n_deps; k++) joined[c->nodes->at[i].deps[k]] = 1;
    for (int i = 0; i < sim.n_streams; i++) {
        Object *o = sim.streams[i];
        if (o->capture != c) continue;
        for (int k = 0; !status && o != s && k < o->n_tails; k++)
            if (!joined[o->tails[k]]) status = CAPTURE_UNJOINED;
        o->capture = NULL;
    }
    free(joined);
    c->done = 1;
    for (int i = 0; i < sim.n_captures; i++)
        if (sim.captures[i] == c) sim.captures[i] = sim.captures[--sim.n_captures];
    if (status) {
        drop_nodes(c->nodes);
        return status;
    }
    Object *g = create(GRAPH, s->device);
    g->nodes = c->nodes;
    *graph = g->handle;
    return SUCCESS;
}

static int do_capture_info(u64 handle, int *state, u64 *id) {
    int status;
    Object *s = stream_of(handle, &status);
    if (!s) return status;
    if (is_legacy(s) && (status = admit(s))) return status;
    *state = !s->capture ? 0 : s->capture->invalid ? 2 : 1;
    if (id && s->capture) *id = s->capture->id;
    return SUCCESS;
}

static int do_exchange(int *mode) {
    if (*mode < 0 || *mode > 2) return INVALID_VALUE;
    int before = self.mode;
    self.mode = *mode;
    *mode = before;
    return SUCCESS;
}

static int do_instantiate(u64 *out, u64 handle) {
    int status;
    Object *g = find(handle, GRAPH, &status);
    if (!g) return status;
    Object *e = create(EXEC, g->device);
    e->nodes = g->nodes;
    e->nodes->references++;
    *out = e->handle;
    return SUCCESS;
}

static int do_graph_launch(u64 handle, u64 stream) {
    int status;
    Object *e = find(handle, EXEC, &status), *s = e ? stream_of(stream, &status) : NULL;
    if (!e || !s || (status = admit(s))) return status;
    if (s->capture) { /* its nodes become nodes of the captured graph */
        int offset = s->capture->nodes->n;
        char *inner = calloc(e->nodes->n + 1, 1);
        for (int i = 0; i < e->nodes->n; i++) {
            Node *n = &e->nodes->at[i];
            int deps[n->n_deps + 1];
            for (int k = 0; k < n->n_deps; k++) deps[k] = n->deps[k] + offset, inner[n->deps[k]] = 1;
            n->work->references++;
            add_node(s->capture->nodes, n->work, n->n_deps ? deps : s->tails, n->n_deps ? n->n_deps : s->n_tails);
        }
        int tails[e->nodes->n + 1], n_tails = 0;
        for (int i = 0; i < e->nodes->n; i++)
            if (!inner[i]) tails[n_tails++] = offset + i;
        if (n_tails) set_tails(s, tails, n_tails);
        free(inner);
        return SUCCESS;
    }
    for (int i = 0; i < e->nodes->n; i++) {
        Work *w = e->nodes->at[i].work;
        if (w->kind == KERNEL && !w->function->live) {
            violation("a graph with kernel %s is launched after its module was unloaded", w->function->name);
            return INVALID_HANDLE;
        }
    }
    Work *w = work_new(REPLAY, s->device);
    w->nodes = e->nodes;
    e->nodes->references++;
    Marks deps = {0};
    implicit(s, &deps);
    if (e->last_launch.seq) { /* an exec does not run beside itself */
        Object *other = sim.streams[e->last_launch.stream];
        if (other->finished < e->last_launch.seq) mark(&deps, other->index, e->last_launch.seq);
        if (s->clock[other->index] < e->last_launch.seq) s->clock[other->index] = e->last_launch.seq;
    }
    push(s, w, deps);
    e->last_launch = (Mark){s->index, s->last};
    return SUCCESS;
}

static int do_update(u64 exec, u64 graph, int *result) {
    int status;
    Object *e = find(exec, EXEC, &status), *g = e ? find(graph, GRAPH, &status) : NULL;
    if (!e || !g) return status;
    Nodes *a = e->nodes, *b = g->nodes;
    *result = 0;
    if (a->n != b->n) *result = 2;
    for (int i = 0; !*result && i < a->n; i++) {
        Work *x = a->at[i].work, *y = b->at[i].work;
        if (a->at[i].n_deps != b->at[i].n_deps || memcmp(a->at[i].deps, b->at[i].deps, a->at[i].n_deps * sizeof(int))) *result = 2;
        else if (x->kind != y->kind) *result = 3;
        else if (x->kind == KERNEL && x->function->device != y->function->device) *result = 7;
        else if (x->kind == COPY && (x->dst_host != y->dst_host || x->src_host != y->src_host)) *result = 5;
    }
    if (*result) return UPDATE_FAILURE;
    drop_nodes(a);
    e->nodes = b;
    b->references++;
    return SUCCESS;
}

static int do_graph_destroy(u64 handle, int kind) {
    int status;
    Object *g = find(handle, kind, &status);
    if (!g) return status;
    g->live = 0;
    drop_nodes(g->nodes);
    g->nodes = NULL;
    return SUCCESS;
}

static int do_nodes(u64 handle, void **out, size_t *n) {
    int status;
    Object *g = find(handle, GRAPH, &status);
    if (!g) return status;
    if (!out) *n = (size_t)g->nodes->n;
    else
        for (size_t i = 0; i < *n; i++) out[i] = i < (size_t)g->nodes->n ? (void *)g->nodes->at[i].work : NULL;
    return SUCCESS;
}

static int do_dot(u64 handle, const char *path) {
    static const char *const NAMES[] = {"kernel", "memcpy", "memset", "event", "graph"};
    int status;
    Object *g = find(handle, GRAPH, &status);
    if (!g) return status;
    FILE *file = fopen(path, "w");
    if (!file) return NAME(304, 304);
    fprintf(file, "digraph dot {\n");
    for (int i = 0; i < g->nodes->n; i++) {
        Work *w = g->nodes->at[i].work;
        fprintf(file, "  node%d [label=\"%s %s\"];\n", i, NAMES[w->kind], w->kind == KERNEL ? w->function->name : "");
        for (int k = 0; k < g->nodes->at[i].n_deps; k++) fprintf(file, "  node%d -> node%d;\n", g->nodes->at[i].deps[k], i);
    }
    fprintf(file, "}\n");
    fclose(file);
    return SUCCESS;
}

static int do_check(u64 handle, int kind) {
    int status;
    find(handle, kind, &status);
    return status;
}

static int do_upload(u64 exec, u64 stream) {
    int status = do_check(exec, EXEC);
    return status ? status : (stream_of(stream, &status), status);
}

static int do_write_string(char *out, int size, const char *text) {
    snprintf(out, (size_t)size, "%s", text);
    return SUCCESS;
}

static int do_write(void *out, const void *bytes, size_t size) {
    memcpy(out, bytes, size);
    return SUCCESS;
}

static int do_uuid(unsigned char *out, int device) {
    for (int i = 0; i < 16; i++) out[i] = (unsigned char)(0x10 * device + i);
    return SUCCESS;
}

static const struct { int code; const char *cuda, *hip, *text; } ERRORS[] = {
    {0, "CUDA_SUCCESS", "hipSuccess", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "hipErrorInvalidValue", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "hipErrorOutOfMemory", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "hipErrorNotInitialized", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", "hipErrorDeinitialized", "driver shutting down"},
    {9, "", "hipErrorInvalidConfiguration", "invalid configuration argument"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "hipErrorNoDevice", "no GPU device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "hipErrorInvalidDevice", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "hipErrorInvalidImage", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "hipErrorInvalidContext", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "hipErrorNoBinaryForGpu", "no kernel image is available for execution on the device"},
    {217, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", "hipErrorPeerAccessUnsupported", "peer access is not supported between these two devices"},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", "hipErrorOperatingSystem", "OS call failed or operation not supported on this OS"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "hipErrorInvalidHandle", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", "hipErrorIllegalState", "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "hipErrorNotFound", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "hipErrorNotReady", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "hipErrorIllegalAddress", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "hipErrorLaunchOutOfResources", "too many resources requested for launch"},
    {704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "hipErrorPeerAccessAlreadyEnabled", "peer access is already enabled"},
    {705, "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", "hipErrorPeerAccessNotEnabled", "peer access has not been enabled"},
    {710, "CUDA_ERROR_ASSERT", "hipErrorAssert", "device-side assert triggered"},
    {712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "hipErrorHostMemoryAlreadyRegistered", "part or all of the requested memory range is already mapped"},
    {713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "hipErrorHostMemoryNotRegistered", "pointer does not correspond to a registered memory region"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "hipErrorLaunchFailure", "unspecified launch failure"},
    {720, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "hipErrorCooperativeLaunchTooLarge", "too many blocks in cooperative launch"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "hipErrorNotSupported", "operation not supported"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "hipErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "hipErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"},
    {902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "hipErrorStreamCaptureMerge", "operation would result in a merge of separate capture sequences"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "hipErrorStreamCaptureUnmatched", "capture was not ended in the same stream as it began"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "hipErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "hipErrorStreamCaptureIsolation", "dependency created on uncaptured work in another stream"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "hipErrorStreamCaptureImplicit", "operation would make the legacy stream depend on a capturing blocking stream"},
    {907, "CUDA_ERROR_CAPTURED_EVENT", "hipErrorCapturedEvent", "operation not permitted on an event last recorded in a capturing stream"},
    {908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "hipErrorStreamCaptureWrongThread", "attempt to terminate a thread-local capture sequence from another thread"},
    {910, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", "hipErrorGraphExecUpdateFailure", "the graph update was not performed because it included changes which violated constraints"},
    {912, "CUDA_ERROR_INVALID_CLUSTER_SIZE", "", "cluster misconfiguration"},
    {999, "CUDA_ERROR_UNKNOWN", "hipErrorUnknown", "unknown error"},
};

static const char *error_text(int code, int name) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) return name ? NAME(ERRORS[i].cuda, ERRORS[i].hip) : ERRORS[i].text;
    return NULL;
}

/* What a launch configuration says; CUlaunchConfig and HIP_LAUNCH_CONFIG are the same. */
typedef struct { int id; char pad[4]; union { char bytes[64]; u32 words[16]; } value; } Attribute;
typedef struct { u32 grid[3], block[3], shared; u64 stream; Attribute *attributes; u32 n; } Config;

static int do_launch_config(const Config *c, u64 function, void **parameters, void **extra) {
    int cooperative = 0, pdl = 0;
    u32 cluster = 1;
    for (u32 i = 0; i < c->n; i++) {
        Attribute *a = &c->attributes[i];
        if (a->id == 2) cooperative = (int)a->value.words[0];
        else if (a->id == 4) {
            cluster = a->value.words[0] * a->value.words[1] * a->value.words[2];
            if (!cluster) return INVALID_VALUE;
        } else if (a->id == 6) pdl = (int)a->value.words[0];
        else if (a->id != 0 && a->id != 5 && a->id != 8) return INVALID_VALUE;
    }
    return do_launch(function, c->grid, c->block, c->shared, c->stream, parameters, extra, cooperative, cluster, pdl);
}

/* ---------------------------------------------------------------------------------- the entry points, both vendors */

#define DO(cuda, hip, parameters, flags, names, arguments, work)                                                       \
    EXPORT int NAME(cuda, hip) parameters { API(flags, names, work, arguments); }
#define BOTH 3 /* initialised, with a context */

DO(cuInit, hipInit, (u32 flags), 0, "flags", A(flags), sim.driver_init ? sim.driver_init : do_init())
DO(cuDriverGetVersion, hipDriverGetVersion, (int *out), 0, "", NONE, (*out = sim.version, 0))
DO(cuDeviceGetCount, hipGetDeviceCount, (int *out), INIT, "", NONE, (*out = sim.n_devices, 0))
DO(cuDeviceGet, hipDeviceGet, (int *out, int i), INIT, "ordinal", A((u64)i), device_ok(i) ? INVALID_DEVICE : (*out = i, 0))
DO(cuDeviceGetName, hipDeviceGetName, (char *out, int n, int i), INIT, "device", A((u64)i), device_ok(i) ? INVALID_DEVICE : do_write_string(out, n, sim.devices[i].name))
DO(cuDeviceTotalMem_v2, hipDeviceTotalMem, (size_t *out, int i), INIT, "device", A((u64)i), device_ok(i) ? INVALID_DEVICE : (*out = sim.devices[i].total, 0))
DO(cuDeviceGetUuid_v2, hipDeviceGetUuid, (void *out, int i), INIT, "device", A((u64)i), device_ok(i) ? INVALID_DEVICE : do_uuid(out, i))
DO(cuDeviceCanAccessPeer, hipDeviceCanAccessPeer, (int *out, int i, int j), INIT, "device peer", A((u64)i, (u64)j), device_ok(i) || device_ok(j) ? INVALID_DEVICE : (*out = sim.peer && i != j, 0))

DO(cuMemAlloc_v2, hipMalloc, (u64 *out, size_t n), BOTH | UNSAFE, "nbytes", A(n), do_malloc(out, n))
DO(cuMemFree_v2, hipFree, (u64 p), BOTH | UNSAFE, "ptr", A(p), do_free(p))
DO(cuMemGetInfo_v2, hipMemGetInfo, (size_t *available, size_t *total), BOTH, "", NONE, do_info(available, total))
DO(cuMemHostAlloc, hipHostMalloc, (u64 *out, size_t n, u32 flags), BOTH | UNSAFE, "nbytes flags", A(n, flags), do_host_allocate(out, n))
DO(cuMemFreeHost, hipHostFree, (u64 p), BOTH | UNSAFE, "ptr", A(p), do_host_free(p))
DO(cuMemHostRegister_v2, hipHostRegister, (u64 p, size_t n, u32 flags), BOTH | UNSAFE, "ptr nbytes flags", A(p, n, flags), do_register(p, n))
DO(cuMemHostUnregister, hipHostUnregister, (u64 p), BOTH | UNSAFE, "ptr", A(p), do_unregister(p))
DO(cuMemcpyHtoDAsync_v2, hipMemcpyHtoDAsync, (u64 d, u64 h, size_t n, u64 s), BOTH, "dst src nbytes stream", A(d, h, n, s), do_copy(d, h, n, s, TO_DEVICE, 0))
DO(cuMemcpyDtoHAsync_v2, hipMemcpyDtoHAsync, (u64 h, u64 d, size_t n, u64 s), BOTH, "dst src nbytes stream", A(h, d, n, s), do_copy(h, d, n, s, TO_HOST, 0))
DO(cuMemcpyDtoDAsync_v2, hipMemcpyDtoDAsync, (u64 d, u64 e, size_t n, u64 s), BOTH, "dst src nbytes stream", A(d, e, n, s), do_copy(d, e, n, s, WITHIN, 0))
DO(cuMemcpyHtoD_v2, hipMemcpyHtoD, (u64 d, u64 h, size_t n), BOTH | UNSAFE, "dst src nbytes", A(d, h, n), do_copy(d, h, n, 0, TO_DEVICE, 1))
DO(cuMemcpyDtoH_v2, hipMemcpyDtoH, (u64 h, u64 d, size_t n), BOTH | UNSAFE, "dst src nbytes", A(h, d, n), do_copy(h, d, n, 0, TO_HOST, 1))
DO(cuMemcpyDtoD_v2, hipMemcpyDtoD, (u64 d, u64 e, size_t n), BOTH | UNSAFE, "dst src nbytes", A(d, e, n), do_copy(d, e, n, 0, WITHIN, 0))
DO(cuMemsetD8Async, hipMemsetD8Async, (u64 d, unsigned char v, size_t n, u64 s), BOTH, "dst value count stream", A(d, v, n, s), do_fill(d, v, n, 1, s))
DO(cuMemsetD16Async, hipMemsetD16Async, (u64 d, unsigned short v, size_t n, u64 s), BOTH, "dst value count stream", A(d, v, n, s), do_fill(d, v, n, 2, s))
DO(cuMemsetD32Async, hipMemsetD32Async, (u64 d, u32 v, size_t n, u64 s), BOTH, "dst value count stream", A(d, v, n, s), do_fill(d, v, n, 4, s))

DO(cuStreamCreateWithPriority, hipStreamCreateWithPriority, (u64 *out, u32 flags, int priority), BOTH, "flags priority", A(flags, (u64)priority), do_stream_create(out, flags, priority))
DO(cuStreamCreate, hipStreamCreateWithFlags, (u64 *out, u32 flags), BOTH, "flags", A(flags), do_stream_create(out, flags, 0))
DO(cuStreamDestroy_v2, hipStreamDestroy, (u64 s), BOTH, "stream", A(s), do_stream_destroy(s))
DO(cuStreamSynchronize, hipStreamSynchronize, (u64 s), BOTH, "stream", A(s), do_stream_synchronize(s))
DO(cuStreamQuery, hipStreamQuery, (u64 s), BOTH, "stream", A(s), do_stream_query(s))
DO(cuStreamWaitEvent, hipStreamWaitEvent, (u64 s, u64 e, u32 flags), BOTH, "stream event", A(s, e), do_wait_event(s, e))
DO(cuCtxGetStreamPriorityRange, hipDeviceGetStreamPriorityRange, (int *least, int *greatest), BOTH, "", NONE, (*least = NAME(0, 1), *greatest = NAME(-5, -1), 0))
DO(cuEventCreate, hipEventCreateWithFlags, (u64 *out, u32 flags), BOTH, "flags", A(flags), do_event_create(out, flags))
DO(cuEventDestroy_v2, hipEventDestroy, (u64 e), BOTH, "event", A(e), do_event_destroy(e))
DO(cuEventRecord, hipEventRecord, (u64 e, u64 s), BOTH, "event stream", A(e, s), do_event_record(e, s))
DO(cuEventQuery, hipEventQuery, (u64 e), BOTH, "event", A(e), do_event_query(e))
DO(cuEventSynchronize, hipEventSynchronize, (u64 e), BOTH, "event", A(e), do_event_synchronize(e))
DO(cuEventElapsedTime, hipEventElapsedTime, (float *out, u64 a, u64 b), BOTH, "start end", A(a, b), do_elapsed(out, a, b))
DO(cuCtxSynchronize, hipDeviceSynchronize, (void), BOTH, "", NONE, do_synchronize())

DO(cuModuleLoadData, hipModuleLoadData, (u64 *out, const void *image), BOTH | UNSAFE, "", NONE, do_load(out, image))
DO(cuModuleUnload, hipModuleUnload, (u64 m), BOTH | UNSAFE, "module", A(m), do_unload(m))
DO(cuModuleGetFunction, hipModuleGetFunction, (u64 *out, u64 m, const char *name), BOTH, "module", A(m), do_function(out, m, name))
DO(cuFuncGetAttribute, hipFuncGetAttribute, (int *out, int a, u64 f), BOTH, "attribute function", A((u64)a, f), do_function_attribute(out, a, f))
DO(cuFuncSetAttribute, hipFuncSetAttribute, (u64 f, int a, int v), BOTH, "function attribute value", A(f, (u64)a, (u64)v), do_set_attribute(f, a, v))
DO(cuLaunchKernel, hipModuleLaunchKernel, (u64 f, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, u64 s, void **p, void **extra), BOTH,
   "function grid_x grid_y grid_z block shared stream", A(f, gx, gy, gz, (u64)bx * by * bz, shared, s),
   do_launch(f, (u32[]){gx, gy, gz}, (u32[]){bx, by, bz}, shared, s, p, extra, 0, 1, 0))
DO(cuLaunchCooperativeKernel, hipModuleLaunchCooperativeKernel, (u64 f, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, u64 s, void **p), BOTH,
   "function grid_x grid_y grid_z block shared stream", A(f, gx, gy, gz, (u64)bx * by * bz, shared, s),
   do_launch(f, (u32[]){gx, gy, gz}, (u32[]){bx, by, bz}, shared, s, p, NULL, 1, 1, 0))
DO(cuLaunchKernelEx, hipDrvLaunchKernelEx, (const Config *c, u64 f, void **p, void **extra), BOTH,
   "function grid_x grid_y grid_z shared stream attributes", A(f, c->grid[0], c->grid[1], c->grid[2], c->shared, c->stream, c->n), do_launch_config(c, f, p, extra))

DO(cuStreamBeginCapture_v2, hipStreamBeginCapture, (u64 s, int mode), BOTH, "stream mode", A(s, (u64)mode), do_capture_begin(s, mode))
DO(cuStreamEndCapture, hipStreamEndCapture, (u64 s, u64 *graph), BOTH, "stream", A(s), do_capture_end(s, graph))
DO(cuStreamIsCapturing, hipStreamIsCapturing, (u64 s, int *state), BOTH, "stream", A(s), do_capture_info(s, state, NULL))
DO(cuStreamGetCaptureInfo, hipStreamGetCaptureInfo, (u64 s, int *state, u64 *id), BOTH, "stream", A(s), do_capture_info(s, state, id))
DO(cuStreamGetCaptureInfo_v2, hipStreamGetCaptureInfo_v2, (u64 s, int *state, u64 *id, void *graph, void *deps, void *n), BOTH, "stream", A(s), do_capture_info(s, state, id))
DO(cuThreadExchangeStreamCaptureMode, hipThreadExchangeStreamCaptureMode, (int *mode), INIT, "mode", A((u64)*mode), do_exchange(mode))
DO(cuGraphInstantiateWithFlags, hipGraphInstantiateWithFlags, (u64 *out, u64 g, u64 flags), BOTH, "graph flags", A(g, flags), do_instantiate(out, g))
DO(cuGraphLaunch, hipGraphLaunch, (u64 e, u64 s), BOTH, "exec stream", A(e, s), do_graph_launch(e, s))
DO(cuGraphUpload, hipGraphUpload, (u64 e, u64 s), BOTH, "exec stream", A(e, s), do_upload(e, s))
DO(cuGraphDestroy, hipGraphDestroy, (u64 g), BOTH, "graph", A(g), do_graph_destroy(g, GRAPH))
DO(cuGraphExecDestroy, hipGraphExecDestroy, (u64 e), BOTH, "exec", A(e), do_graph_destroy(e, EXEC))
DO(cuGraphGetNodes, hipGraphGetNodes, (u64 g, void **out, size_t *n), BOTH, "graph", A(g), do_nodes(g, out, n))
DO(cuGraphDebugDotPrint, hipGraphDebugDotPrint, (u64 g, const char *path, u32 flags), BOTH, "graph flags", A(g, flags), do_dot(g, path))

#ifdef CUDA /* ---------------------------------------------------------------------------------------------- CUDA's */

static int context_device(u64 handle, int *status) {
    Object *c = find(handle, CONTEXT, status);
    return c ? c->device : -1;
}

static int do_set_context(u64 handle) {
    int status = SUCCESS, device = handle ? context_device(handle, &status) : -1;
    if (!status) self.device = device;
    return status;
}

static int do_push_context(u64 handle) {
    int status, device = context_device(handle, &status);
    if (status || self.n_stack == 16) return status ? status : INVALID_CONTEXT;
    self.stack[self.n_stack++] = self.device;
    self.device = device;
    return SUCCESS;
}

static int do_pop_context(u64 *out) {
    if (self.device < 0) return INVALID_CONTEXT;
    if (out) *out = sim.devices[self.device].context;
    self.device = self.n_stack ? self.stack[--self.n_stack] : -1;
    return SUCCESS;
}

static int do_retain(u64 *out, int device) {
    if (device_ok(device)) return INVALID_DEVICE;
    sim.devices[device].retained++;
    *out = sim.devices[device].context;
    return SUCCESS;
}

static int do_release(int device) {
    if (device_ok(device)) return INVALID_DEVICE;
    if (!sim.devices[device].retained) return INVALID_CONTEXT;
    sim.devices[device].retained--;
    return SUCCESS;
}

static int do_attribute(int *out, int attribute, int device) {
    if (device_ok(device)) return INVALID_DEVICE;
    Device *d = &sim.devices[device];
    switch (attribute) {
    case 1: case 2: case 3: *out = 1024; break;
    case 4: *out = 64; break;
    case 5: *out = 0x7fffffff; break;
    case 6: case 7: *out = 65535; break;
    case 8: *out = (int)d->shared; break;
    case 10: *out = d->warp; break;
    case 12: *out = 65536; break;
    case 13: *out = 1980000; break;
    case 16: *out = d->sms; break;
    case 18: *out = 0; break;
    case 33: *out = 0x10 + device; break;
    case 34: case 50: *out = 0; break;
    case 36: *out = 2619000; break;
    case 37: *out = 5120; break;
    case 38: *out = (int)d->l2; break;
    case 39: *out = d->threads_per_sm; break;
    case 75: *out = d->major; break;
    case 76: *out = d->minor; break;
    case 81: *out = (int)d->shared_per_sm; break;
    case 82: *out = d->regs_per_sm; break;
    case 97: *out = (int)d->shared_optin; break;
    case 106: *out = 32; break;
    case 120: case 127: *out = d->major >= 9; break;
    case 19: case 31: case 41: case 78: case 83: case 95: case 99: case 102: case 115: *out = 1; break;
    default:
        if (attribute < 1 || attribute > 150) return INVALID_VALUE;
        *out = 0;
    }
    return SUCCESS;
}

static int do_enable_peer(u64 context) {
    int status, peer = context_device(context, &status);
    return status ? status : do_peer(self.device, peer);
}

static int do_copy_peer(u64 dst, u64 dst_context, u64 src, u64 src_context, size_t n, u64 s) {
    int status, to = context_device(dst_context, &status), from = status ? -1 : context_device(src_context, &status), device;
    if (status) return status;
    if (n && (!is_device(dst, n, "a peer copy's destination", &device) || device != to)) return INVALID_VALUE;
    if (n && (!is_device(src, n, "a peer copy's source", &device) || device != from)) return INVALID_VALUE;
    return do_copy(dst, src, n, s, PEER, 0);
}

static int do_tensor_map(unsigned char *out, int type, u32 rank, u64 address, const u64 *dims, const u64 *strides,
                         const u32 *box, const u32 *steps, int interleave, int swizzle, int fill) {
    static const int SIZES[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
    static const u32 SPANS[] = {0, 32, 64, 128};
    if (!out || (u64)out % 64 || type < 0 || type > 12 || rank < 1 || rank > 5 || address % 16 || interleave) return INVALID_VALUE;
    if (swizzle < 0 || swizzle > 3 || box[0] * (u32)SIZES[type] % 16) return INVALID_VALUE;
    if (swizzle && box[0] * (u32)SIZES[type] > SPANS[swizzle]) return INVALID_VALUE;
    for (u32 i = 0; i < rank; i++) {
        if (!dims[i] || dims[i] > 1ull << 32 || !box[i] || box[i] > 256 || !steps[i] || steps[i] > 8) return INVALID_VALUE;
        if (i && (strides[i - 1] % 16 || strides[i - 1] >= 1ull << 40)) return INVALID_VALUE;
    }
    memset(out, 0, 128); /* readable: the address, type, rank, then dims, strides and boxes */
    memcpy(out, &address, 8);
    out[8] = (unsigned char)type, out[9] = (unsigned char)rank, out[10] = (unsigned char)swizzle, out[11] = (unsigned char)fill;
    for (u32 i = 0; i < rank; i++) {
        u32 dim = (u32)(dims[i] - 1);
        uint16_t size = (uint16_t)box[i];
        memcpy(out + 16 + 4 * i, &dim, 4);
        if (i) memcpy(out + 40 + 8 * (i - 1), strides + i - 1, 8);
        memcpy(out + 80 + 2 * i, &size, 2);
    }
    return SUCCESS;
}

DO(cuDeviceGetAttribute, , (int *out, int a, int i), INIT, "attribute device", A((u64)a, (u64)i), do_attribute(out, a, i))
EXPORT int cuDeviceGetPCIBusId(char *out, int n, int i) {
    API(INIT, "device", device_ok(i) ? INVALID_DEVICE : (snprintf(out, (size_t)n, "0000:%02x:00.0", 0x10 + i), 0), A((u64)i));
}
DO(cuDevicePrimaryCtxRetain, , (u64 *out, int i), INIT, "device", A((u64)i), do_retain(out, i))
DO(cuDevicePrimaryCtxRelease_v2, , (int i), INIT, "device", A((u64)i), do_release(i))
DO(cuDevicePrimaryCtxGetState, , (int i, u32 *flags, int *active), INIT, "device", A((u64)i), device_ok(i) ? INVALID_DEVICE : (*flags = 0, *active = sim.devices[i].retained > 0, 0))
DO(cuCtxSetCurrent, , (u64 c), INIT, "context", A(c), do_set_context(c))
DO(cuCtxGetCurrent, , (u64 *out), INIT, "", NONE, (*out = self.device < 0 ? 0 : sim.devices[self.device].context, 0))
DO(cuCtxPushCurrent_v2, , (u64 c), INIT, "context", A(c), do_push_context(c))
DO(cuCtxPopCurrent_v2, , (u64 *out), INIT, "", NONE, do_pop_context(out))
DO(cuCtxGetDevice, , (int *out), BOTH, "", NONE, (*out = self.device, 0))
DO(cuCtxEnablePeerAccess, , (u64 c, u32 flags), BOTH, "context flags", A(c, flags), do_enable_peer(c))
DO(cuMemcpyPeerAsync, , (u64 d, u64 dc, u64 e, u64 ec, size_t n, u64 s), BOTH, "dst dst_context src src_context nbytes stream", A(d, dc, e, ec, n, s), do_copy_peer(d, dc, e, ec, n, s))
DO(cuModuleLoadDataEx, , (u64 *out, const void *image, u32 n, void *options, void *values), BOTH | UNSAFE, "", NONE, do_load(out, image))
DO(cuGraphExecUpdate_v2, , (u64 e, u64 g, int *info), BOTH, "exec graph", A(e, g), do_update(e, g, info))
DO(cuTensorMapEncodeTiled, , (void *out, int type, u32 rank, u64 address, const u64 *dims, const u64 *strides, const u32 *box, const u32 *steps, int interleave, int swizzle, int promotion, int fill), INIT,
   "type rank address interleave swizzle promotion fill", A((u64)type, rank, address, (u64)interleave, (u64)swizzle, (u64)promotion, (u64)fill), do_tensor_map(out, type, rank, address, dims, strides, box, steps, interleave, swizzle, fill))
EXPORT int cuGetErrorName(int code, const char **out) { return (*out = error_text(code, 1)) && **out ? SUCCESS : INVALID_VALUE; }
EXPORT int cuGetErrorString(int code, const char **out) { return (*out = error_text(code, 0)) ? SUCCESS : INVALID_VALUE; }

#else /* ------------------------------------------------------------------------------------------------------ HIP's */

static int do_set_device(int device) {
    if (device_ok(device)) return INVALID_DEVICE;
    self.device = device;
    return SUCCESS;
}

static int do_attribute(int *out, int attribute, int device) {
    if (device_ok(device)) return INVALID_DEVICE;
    Device *d = &sim.devices[device];
    switch (attribute) {
    case 56: case 26: *out = 1024; break;
    case 57: *out = d->threads_per_sm; break;
    case 29: *out = 0x7fffffff; break;
    case 30: case 31: *out = 65536; break;
    case 87: *out = d->warp; break;
    case 63: *out = d->sms; break;
    case 74: case 75: *out = (int)d->shared; break;
    case 76: case 10002: *out = (int)d->shared_per_sm; break;
    case 19: *out = (int)d->l2; break;
    case 5: *out = 2100000; break;
    case 60: *out = 1300000; break;
    case 59: *out = 8192; break;
    case 16: *out = 0; break;
    case 67: *out = 0x10 + device; break;
    case 68: case 69: *out = 0; break;
    case 23: *out = d->major; break;
    case 61: *out = d->minor; break;
    case 71: *out = 65536; break;
    case 72: *out = d->regs_per_sm; break;
    case 10: case 88: case 24: case 8: case 78: case 3: case 90: *out = 1; break;
    default:
        if (attribute < 0 || (attribute > 95 && attribute < 10000) || attribute > 10030) return INVALID_VALUE;
        *out = 0;
    }
    return SUCCESS;
}

static int do_properties(unsigned char *p, int device) { /* hipDeviceProp_tR0600 by its offsets */
    if (device_ok(device)) return INVALID_DEVICE;
    Device *d = &sim.devices[device];
    memset(p, 0, 1472);
    strcpy((char *)p, d->name);
    do_uuid(p + 256, device);
#define PUT(offset, type, value) memcpy(p + offset, &(type){(type)(value)}, sizeof(type))
    PUT(288, u64, d->total), PUT(296, u64, d->shared), PUT(304, int, 65536), PUT(308, int, d->warp), PUT(320, int, 1024);
    PUT(324, int, 1024), PUT(328, int, 1024), PUT(332, int, 1024), PUT(336, int, 0x7fffffff), PUT(340, int, 65536), PUT(344, int, 65536);
    PUT(348, int, 2100000), PUT(360, int, d->major), PUT(364, int, d->minor), PUT(388, int, d->sms), PUT(576, int, 1);
    PUT(584, int, 0x10 + device), PUT(608, int, 1300000), PUT(612, int, 8192), PUT(616, int, d->l2), PUT(624, int, d->threads_per_sm);
    PUT(640, u64, d->shared_per_sm), PUT(648, int, d->regs_per_sm), PUT(688, int, 1), PUT(696, u64, d->shared_optin);
    strcpy((char *)p + 1160, d->arch);
    PUT(1416, u64, d->shared_per_sm);
    return SUCCESS;
}

static int do_copy_peer(u64 dst, int to, u64 src, int from, size_t n, u64 s) {
    int device;
    if (n && (!is_device(dst, n, "a peer copy's destination", &device) || device != to)) return INVALID_VALUE;
    if (n && (!is_device(src, n, "a peer copy's source", &device) || device != from)) return INVALID_VALUE;
    return do_copy(dst, src, n, s, PEER, 0);
}

static int do_copy_kind(u64 dst, u64 src, size_t n, int kind, u64 s, int synchronous) {
    if (kind < 1 || kind > 4) return 21;
    if (kind == 4) {
        Range *to = range_of(dst), *from = range_of(src);
        kind = to && to->kind == DEVICE_MEMORY ? from && from->kind == DEVICE_MEMORY ? 3 : 1 : 2;
    }
    return do_copy(dst, src, n, s, kind == 1 ? TO_DEVICE : kind == 2 ? TO_HOST : WITHIN, synchronous);
}

DO(, hipRuntimeGetVersion, (int *out), 0, "", NONE, (*out = sim.version, 0))
DO(, hipSetDevice, (int i), INIT, "device", A((u64)i), do_set_device(i))
DO(, hipGetDevice, (int *out), INIT, "", NONE, (*out = self.device, 0))
DO(, hipDeviceGetAttribute, (int *out, int a, int i), INIT, "attribute device", A((u64)a, (u64)i), do_attribute(out, a, i))
DO(, hipGetDevicePropertiesR0600, (void *out, int i), INIT, "device", A((u64)i), do_properties(out, i))
EXPORT int hipDeviceGetPCIBusId(char *out, int n, int i) {
    API(INIT, "device", device_ok(i) ? INVALID_DEVICE : (snprintf(out, (size_t)n, "0000:%02x:00.0", 0x10 + i), 0), A((u64)i));
}
DO(, hipDeviceEnablePeerAccess, (int peer, u32 flags), BOTH, "peer flags", A((u64)peer, flags), do_peer(self.device, peer))
DO(, hipMemcpyPeerAsync, (u64 d, int to, u64 e, int from, size_t n, u64 s), BOTH, "dst dst_device src src_device nbytes stream", A(d, (u64)to, e, (u64)from, n, s), do_copy_peer(d, to, e, from, n, s))
DO(, hipMemcpyAsync, (u64 d, u64 e, size_t n, int kind, u64 s), BOTH, "dst src nbytes kind stream", A(d, e, n, (u64)kind, s), do_copy_kind(d, e, n, kind, s, 0))
DO(, hipMemcpy, (u64 d, u64 e, size_t n, int kind), BOTH | UNSAFE, "dst src nbytes kind", A(d, e, n, (u64)kind), do_copy_kind(d, e, n, kind, 0, 1))
DO(, hipMemsetAsync, (u64 d, int v, size_t n, u64 s), BOTH, "dst value count stream", A(d, (u64)v, n, s), do_fill(d, (u32)v & 255, n, 1, s))
DO(, hipModuleLoadDataEx, (u64 *out, const void *image, u32 n, void *options, void *values), BOTH | UNSAFE, "", NONE, do_load(out, image))
DO(, hipGraphInstantiate, (u64 *out, u64 g, void *node, char *log, size_t n), BOTH, "graph", A(g), do_instantiate(out, g))
DO(, hipGraphExecUpdate, (u64 e, u64 g, void *node, int *result), BOTH, "exec graph", A(e, g), do_update(e, g, result))
EXPORT const char *hipGetErrorName(int code) { const char *text = error_text(code, 1); return text && *text ? text : "hipErrorUnknown"; }
EXPORT const char *hipGetErrorString(int code) { const char *text = error_text(code, 0); return text ? text : "unknown error"; }
EXPORT int hipDrvGetErrorName(int code, const char **out) { return (*out = error_text(code, 1)) ? SUCCESS : INVALID_VALUE; }
EXPORT int hipDrvGetErrorString(int code, const char **out) { return (*out = error_text(code, 0)) ? SUCCESS : INVALID_VALUE; }
EXPORT int hipPeekAtLastError(void) { return self.last_error; }
EXPORT int hipGetLastError(void) {
    int status = self.last_error;
    self.last_error = SUCCESS;
    return status;
}
#endif

/* --------------------------------------------------------------------------------------------- control, for the tests */

#define LOCKED(type, work)                                                                                             \
    do {                                                                                                               \
        pthread_mutex_lock(&lock);                                                                                     \
        type result_ = (work);                                                                                         \
        pthread_mutex_unlock(&lock);                                                                                   \
        return result_;                                                                                                \
    } while (0)

/* Forget everything; handles and addresses of before stay known as such. */
EXPORT void sim_reset(int devices, int version) {
    pthread_mutex_lock(&lock);
    for (u64 i = 0; i < sim.n_objects; i++) { /* queued work is dropped; what is small stays: handles may be asked for */
        Object *o = sim.objects[i];
        free(o->queue), free(o->clock), free(o->event_clock), free(o->image), free(o->offsets), free(o->sizes), free(o->tails);
        free(o);
    }
    sim.first += sim.n_objects;
    sim.n_objects = 0;
    for (int i = 0; i < sim.n_ranges; i++)
        if (sim.ranges[i].live && sim.ranges[i].kind != REGISTERED) {
            sim.ranges[i].live = 0;
            madvise((void *)sim.ranges[i].map, sim.ranges[i].map_size, MADV_DONTNEED);
        }
    int kept = 0;
    for (int i = 0; i < sim.n_ranges; i++)
        if (sim.ranges[i].kind != REGISTERED) sim.ranges[kept++] = sim.ranges[i];
    sim.n_ranges = kept;
    sim.n_streams = sim.n_blocks = sim.n_calls = sim.n_captures = sim.initialised = sim.driver_init = 0;
    sim.clocks = 0;
    free(sim.host);
    sim.host = NULL;
    for (int i = 0; i < sim.n_violations; i++) free(sim.violations[i]);
    sim.n_violations = 0;
    for (int i = 0; i < sim.n_entries; i++) sim.entries[i].calls = 0, sim.entries[i].status = 0;
    memset(sim.devices, 0, sizeof sim.devices);
    sim.fail_allocation = 0, sim.loader = NULL, sim.launcher = NULL;
    sim.lazy = 1, sim.patience = 2, sim.record = 1, sim.peer = 1;
    sim.n_devices = devices, sim.version = version;
    sim.epoch++;
    pthread_mutex_unlock(&lock);
}

EXPORT void sim_device(int i, const char *name, const char *arch, u64 total, const int *numbers) {
    Device *d = &sim.devices[i];
    snprintf(d->name, sizeof d->name, "%s", name);
    snprintf(d->arch, sizeof d->arch, "%s", arch);
    d->total = total;
    d->major = numbers[0], d->minor = numbers[1], d->warp = numbers[2], d->sms = numbers[3], d->threads_per_sm = numbers[4];
    d->regs_per_sm = numbers[5], d->shared = (u32)numbers[6], d->shared_optin = (u32)numbers[7], d->shared_per_sm = (u32)numbers[8];
    d->l2 = (u32)numbers[9];
}

EXPORT void sim_options(int lazy, int patience, int record, int peer) {
    sim.lazy = lazy, sim.patience = patience, sim.record = record, sim.peer = peer;
}

EXPORT void sim_callbacks(void *loader, void *launcher) {
    *(void **)&sim.loader = loader;
    *(void **)&sim.launcher = launcher;
}

static int set_fault(const char *name, u64 nth, int status, int always) {
    Entry *e = entry_of(name);
    e->countdown = nth, e->status = status, e->always = always;
    return 0;
}

EXPORT int sim_fail(const char *name, u64 nth, int status, int always) { LOCKED(int, set_fault(name, nth, status, always)); }
EXPORT void sim_fail_allocation(long nth) { sim.fail_allocation = nth; }
EXPORT void sim_stick(int device, int status) { sim.devices[device].sticky = status; }
EXPORT int sim_sticky(int device) { return sim.devices[device].sticky; }
EXPORT void sim_limit(int device, u64 total) { sim.devices[device].total = total; }
EXPORT u64 sim_used(int device) { return sim.devices[device].used; }
EXPORT u64 sim_count(const char *name) { LOCKED(u64, entry_of(name)->calls); }

static int drain(void) {
    for (int i = 0; i < sim.n_streams; i++) demand(sim.streams[i], sim.streams[i]->last);
    settle();
    return 0;
}

static int pending(void) {
    int n = 0;
    for (int i = 0; i < sim.n_streams; i++) n += sim.streams[i]->tail - sim.streams[i]->head;
    return n;
}

static int live(int kind) {
    int n = 0;
    for (u64 i = 0; i < sim.n_objects; i++) n += sim.objects[i]->kind == kind && sim.objects[i]->live;
    return n;
}

static int live_ranges(int kind) {
    int n = 0;
    for (int i = 0; i < sim.n_ranges; i++) n += sim.ranges[i].kind == kind && sim.ranges[i].live;
    return n;
}

static int check_all(void) {
    for (int i = 0; i < sim.n_ranges; i++)
        if (sim.ranges[i].live) check_guards(&sim.ranges[i]);
    return sim.n_violations;
}

/* An address within live memory: 1, of a device; 2, of the host; 0: none of the driver's; -1: freed. */
static int what_is(u64 address) {
    Range *r = range_of(address);
    return !r ? 0 : !r->live ? -1 : r->kind == DEVICE_MEMORY ? 1 : 2;
}

EXPORT int sim_drain(void) { LOCKED(int, drain()); }
EXPORT int sim_pending(void) { LOCKED(int, pending()); }
EXPORT int sim_live(int kind) { LOCKED(int, live(kind)); }
EXPORT int sim_live_ranges(int kind) { LOCKED(int, live_ranges(kind)); }
EXPORT int sim_check(void) { LOCKED(int, check_all()); }
EXPORT int sim_what(u64 address) { LOCKED(int, what_is(address)); }
EXPORT int sim_n_violations(void) { return sim.n_violations; }
EXPORT const char *sim_violation(int i) { return sim.violations[i]; }

static int forgive(int from) {
    while (sim.n_violations > from) free(sim.violations[--sim.n_violations]);
    return 0;
}

EXPORT int sim_forgive(int from) { LOCKED(int, forgive(from)); }
EXPORT int sim_violate(const char *text) { LOCKED(int, violation("%s", text)); }
EXPORT int sim_n_calls(void) { return sim.n_calls; }
EXPORT void sim_forget_calls(void) { sim.n_calls = 0; }

EXPORT const char *sim_call(int i, const char **names, u64 *values, int *n, int *status, u64 *thread) {
    Call *c = &sim.calls[i];
    *names = c->names, *n = c->n, *status = c->status, *thread = c->thread;
    memcpy(values, c->values, sizeof c->values);
    return c->entry->name;
}

/* The allocator above hands out [start, start + size), for whom alone accesses are checked from now on. */
static int add_block(u64 start, u64 size) {
    if (!size || !range_of(start)) return 0;
    Marks before = {0};
    int first = block_index(start);
    if (first < 0 || sim.blocks[first].start + sim.blocks[first].size <= start) first++;
    int last = first;
    for (; last < sim.n_blocks && sim.blocks[last].start < start + size; last++) {
        Block *b = &sim.blocks[last];
        if (b->alive)
            violation("a block of %llu bytes at %#llx overlaps a living one of %llu at %#llx", (unsigned long long)size,
                      (unsigned long long)start, (unsigned long long)b->size, (unsigned long long)b->start);
        Marks *each[] = {&b->users, &b->before};
        for (int k = 0; k < 2; k++) {
            for (int j = 0; j < each[k]->n; j++) mark(&before, each[k]->at[j].stream, each[k]->at[j].seq);
            free(each[k]->at);
        }
    }
    if (sim.n_blocks + 1 > sim.blocks_room) {
        sim.blocks_room = sim.blocks_room ? 2 * sim.blocks_room : 64;
        sim.blocks = realloc(sim.blocks, sim.blocks_room * sizeof *sim.blocks);
    }
    memmove(sim.blocks + first + 1, sim.blocks + last, (sim.n_blocks - last) * sizeof *sim.blocks);
    sim.n_blocks += 1 - (last - first);
    sim.blocks[first] = (Block){start, size, 1, {0}, before};
    return 0;
}

static int end_block(u64 start) {
    int i = block_index(start);
    if (i >= 0 && sim.blocks[i].start == start) sim.blocks[i].alive = 0;
    return 0;
}

EXPORT int sim_block(u64 start, u64 size) { LOCKED(int, add_block(start, size)); }
EXPORT int sim_unblock(u64 start) { LOCKED(int, end_block(start)); }
EXPORT u64 sim_handle_device(u64 handle) {
    u64 number = handle >> 4 & 0xfffffffffffu;
    LOCKED(u64, number > sim.first && number - sim.first <= sim.n_objects ? (u64)sim.objects[number - sim.first - 1]->device : 0);
}
