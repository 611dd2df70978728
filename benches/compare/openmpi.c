/* What MPI needs for one blocking all-reduce of f32, measured as `pccl bench` does it: a barrier,
 * then the operation, and the slowest process's time counts.
 *
 *     mpicc -O2 -o all_reduce openmpi.c
 *     mpirun -np 2 --mca pml ob1 --mca btl tcp,self ./all_reduce 4:200 67108864:10
 *
 * Each argument is BYTES:ITERATIONS; three iterations before them are not counted. One line of
 * JSON is printed for each. `cargo xtask compare` reads them. */
#define _GNU_SOURCE
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { WARMUP = 3, HUGE_PAGE_BYTES = 2 << 20 };

static int ascending(const void *a, const void *b) {
    double one = *(const double *)a, other = *(const double *)b;
    return (one > other) - (one < other);
}

/* On huge pages, as our own buffers are. */
static float *buffer(size_t count) {
    size_t bytes = (count * sizeof(float) + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    void *memory = NULL;
    if (posix_memalign(&memory, HUGE_PAGE_BYTES, bytes) != 0) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

static void measure(long bytes, long iterations, int rank, int world) {
    size_t count = (size_t)bytes / sizeof(float);
    float *send = buffer(count), *receive = buffer(count);
    double *seconds = calloc((size_t)iterations, sizeof(double));
    if (seconds == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (size_t i = 0; i < count; i++) {
        send[i] = (float)(rank + 1);
        receive[i] = 0;
    }
    for (long iteration = 0; iteration < WARMUP + iterations; iteration++) {
        MPI_Barrier(MPI_COMM_WORLD);
        MPI_Barrier(MPI_COMM_WORLD);
        double started = MPI_Wtime();
        MPI_Allreduce(send, receive, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        double elapsed = MPI_Wtime() - started, slowest = 0;
        MPI_Reduce(&elapsed, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
        if (iteration >= WARMUP)
            seconds[iteration - WARMUP] = slowest;
    }
    float expected = (float)world * (float)(world + 1) / 2;
    for (size_t i = 0; i < count; i++) {
        if (receive[i] != expected) {
            fprintf(stderr, "element %zu is %g, not %g\n", i, receive[i], expected);
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
    }
    qsort(seconds, (size_t)iterations, sizeof(double), ascending);
    if (rank == 0)
        printf("{\"bytes\":%ld,\"seconds_median\":%.9f}\n", bytes, seconds[(iterations - 1) / 2]);
    free(seconds);
    free(send);
    free(receive);
}

int main(int argc, char **argv) {
    int rank, world;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    for (int i = 1; i < argc; i++) {
        char *rest = NULL;
        long bytes = strtol(argv[i], &rest, 10);
        long iterations = *rest == ':' ? strtol(rest + 1, &rest, 10) : 0;
        if (*rest != '\0' || bytes < (long)sizeof(float) || bytes > 1L << 33 || iterations < 1) {
            fprintf(stderr, "`%s` is no BYTES:ITERATIONS\n", argv[i]);
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
        measure(bytes, iterations, rank, world);
    }
    MPI_Finalize();
    return 0;
}
