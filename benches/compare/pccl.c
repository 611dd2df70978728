/* What a libpccl.so, PCCL's or ours, needs for one blocking all-reduce of f32, measured as `pccl bench` does it:
 * small all-reduces as a barrier, then the operation, and the slowest process's time counts.
 *
 *     cc -O2 -I capi/include -o all_reduce pccl.c /path/to/libpccl.so -pthread
 *     ./all_reduce 2 4:200 67108864:10
 *
 * The arguments are the number of peers and BYTES:ITERATIONS; three iterations before them are not counted. One
 * line of JSON is printed for each. `cargo xtask compare --pccl /path/to/libpccl.so` reads them. */
#define _GNU_SOURCE
#include <pccl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WARMUP = 3, PEERS_MAX = 64, ITERATIONS_MAX = 10000, HUGE_PAGE_BYTES = 2 << 20 };

/* Of each peer and iteration, in memory that all processes share. */
static double (*seconds)[ITERATIONS_MAX];

static void must(pcclResult_t result, const char *call) {
    if (result != pcclSuccess) {
        fprintf(stderr, "%s: code %d\n", call, (int)result);
        exit(1);
    }
}
#define MUST(call) must(call, #call)

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int ascending(const void *a, const void *b) {
    double one = *(const double *)a, other = *(const double *)b;
    return (one > other) - (one < other);
}

static void reduce(pcclComm_t *comm, const float *send, float *recv, size_t count, uint64_t tag) {
    pcclReduceDescriptor_t sum = {
        count, pcclSum, tag, {pcclFloat, pcclDistributionNone}, {pcclFloat, pcclQuantNone}};
    MUST(pcclAllReduce(send, recv, &sum, comm, NULL));
}

static float *buffer(size_t count) {
    size_t bytes = (count * sizeof(float) + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    void *memory = NULL;
    if (posix_memalign(&memory, HUGE_PAGE_BYTES, bytes) != 0)
        exit(1);
    madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

static void measure(pcclComm_t *comm, int number, int peers, long bytes, long iterations) {
    size_t count = (size_t)bytes / sizeof(float);
    float *send = buffer(count), *recv = buffer(count), expected = (float)peers * (float)(peers + 1) / 2;
    for (size_t i = 0; i < count; i++) {
        send[i] = (float)(number + 1);
        recv[i] = 0;
    }
    for (long iteration = 0; iteration < WARMUP + iterations; iteration++) {
        float small[PEERS_MAX] = {0}, ignored[PEERS_MAX];
        reduce(comm, small, ignored, PEERS_MAX, 1);
        reduce(comm, small, ignored, PEERS_MAX, 1);
        double started = now();
        reduce(comm, send, recv, count, 0);
        if (iteration >= WARMUP)
            seconds[number][iteration - WARMUP] = now() - started;
    }
    for (size_t i = 0; i < count; i++) {
        if (recv[i] != expected) {
            fprintf(stderr, "element %zu is %g, not %g\n", i, (double)recv[i], (double)expected);
            exit(1);
        }
    }
    /* All have written their times. */
    float small[PEERS_MAX] = {0}, ignored[PEERS_MAX];
    reduce(comm, small, ignored, PEERS_MAX, 1);
    if (number == 0) {
        static double slowest[ITERATIONS_MAX];
        for (long i = 0; i < iterations; i++) {
            slowest[i] = 0;
            for (int peer = 0; peer < peers; peer++)
                slowest[i] = seconds[peer][i] > slowest[i] ? seconds[peer][i] : slowest[i];
        }
        qsort(slowest, (size_t)iterations, sizeof(double), ascending);
        printf("{\"bytes\":%ld,\"seconds_median\":%.9f}\n", bytes, slowest[(iterations - 1) / 2]);
        fflush(stdout);
    }
    reduce(comm, small, ignored, PEERS_MAX, 1);
    free(send);
    free(recv);
}

static int peer(int number, int peers, ccoip_socket_address_t master, int argc, char **argv) {
    pcclCommCreateParams_t params;
    pcclComm_t *comm = NULL;
    int world = 0;
    params.master_address = master;
    params.peer_group = 0;
    params.p2p_connection_pool_size = 1;
    /* Ends with the process that started it. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    MUST(pcclInit());
    MUST(pcclCreateCommunicator(&params, &comm));
    MUST(pcclConnect(comm));
    for (;;) {
        bool pending = false;
        MUST(pcclGetAttribute(comm, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &world));
        if (world >= peers)
            break;
        MUST(pcclArePeersPending(comm, &pending));
        if (pending)
            MUST(pcclUpdateTopology(comm));
    }
    for (int i = 2; i < argc; i++) {
        char *rest = NULL;
        long bytes = strtol(argv[i], &rest, 10);
        long iterations = *rest == ':' ? strtol(rest + 1, &rest, 10) : 0;
        if (*rest != '\0' || bytes < (long)sizeof(float) || iterations < 1 || iterations > ITERATIONS_MAX) {
            fprintf(stderr, "`%s` is no BYTES:ITERATIONS\n", argv[i]);
            return 1;
        }
        measure(comm, number, peers, bytes, iterations);
    }
    MUST(pcclDestroyCommunicator(comm));
    return 0;
}

int main(int argc, char **argv) {
    ccoip_socket_address_t address = {{inetIPv4, {{127, 0, 0, 1}}, {{0}}}, 0};
    pcclMasterInstance_t *master = NULL;
    int peers = argc > 1 ? atoi(argv[1]) : 0, pipes[2], failed = 0;
    if (peers < 2 || peers > PEERS_MAX || pipe(pipes) != 0) {
        fprintf(stderr, "usage: %s PEERS BYTES:ITERATIONS ...\n", argv[0]);
        return 2;
    }
    seconds = mmap(NULL, (size_t)peers * sizeof *seconds, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (seconds == MAP_FAILED)
        return 1;
    /* Before the library has threads; the peers wait for the master's port. */
    for (int number = 0; number < peers; number++) {
        if (fork() == 0) {
            close(pipes[1]);
            if (read(pipes[0], &address.port, sizeof address.port) != (ssize_t)sizeof address.port)
                _exit(1);
            _exit(peer(number, peers, address, argc, argv));
        }
    }
    for (int port = 47000; port < 48000; port++) {
        address.port = (uint16_t)port;
        MUST(pcclCreateMaster(address, &master));
        if (pcclRunMaster(master) == pcclSuccess)
            break;
        MUST(pcclDestroyMaster(master));
        master = NULL;
    }
    if (master == NULL)
        return 1;
    for (int number = 0; number < peers; number++)
        failed += write(pipes[1], &address.port, sizeof address.port) != (ssize_t)sizeof address.port;
    close(pipes[1]);
    for (int number = 0; number < peers; number++) {
        int status = 0;
        wait(&status);
        failed += status != 0;
    }
    MUST(pcclInterruptMaster(master));
    MUST(pcclMasterAwaitTermination(master));
    MUST(pcclDestroyMaster(master));
    return failed != 0;
}
