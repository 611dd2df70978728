/* The loop that a training program runs, with everything that may happen to it: peers join in the middle and
 * take the model of the others, one is killed, the others go on. Starts from nothing: a master, three peers as
 * processes, a fourth that joins later, a SIGKILL.
 *
 *     cc -std=c99 train_loop.c -lpccl -pthread -o train_loop && ./train_loop */
#define _POSIX_C_SOURCE 200809L
#include <pccl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT 4096
#define STEPS 400
#define PEERS 4

static void pause_ms(long ms) {
    struct timespec time;
    time.tv_sec = ms / 1000;
    time.tv_nsec = ms % 1000 * 1000000;
    nanosleep(&time, NULL);
}

static void say(int number, const char *call, pcclResult_t result) {
    char text[512];
    pcclGetLastError(NULL, text, sizeof text);
    printf("peer %d: %s: %s: %s\n", number, call, pcclResultToString(result), text);
    fflush(stdout);
}

/* Everybody ends a step with the same weights, bit by bit. Joint. */
static pcclResult_t share(pcclComm_t *comm, float *weights, int64_t *step, uint64_t *revision) {
    static char weights_name[] = "weights", step_name[] = "step";
    pcclTensorInfo_t tensors[2] = {
        {weights_name, weights, COUNT, pcclFloat, pcclDeviceCpu, false},
        {step_name, step, 1, pcclInt64, pcclDeviceCpu, false},
    };
    pcclSharedState_t state = {*revision, 2, tensors};
    pcclResult_t result =
        pcclSynchronizeSharedState(comm, &state, PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR, NULL);
    /* Each sync that succeeded uses up a revision. */
    if (result == pcclSuccess)
        *revision = state.revision + 1;
    return result;
}

/* One membership; false where it is over and another one may be tried. */
static bool train(int number, ccoip_socket_address_t master, float *weights, int64_t *step, uint64_t *revision) {
    static const pcclReduceDescriptor_t average = {
        COUNT, pcclAvg, 0, {pcclFloat, pcclDistributionNone}, {pcclFloat, pcclQuantNone}};
    static float gradient[COUNT];
    pcclCommCreateParams_t params;
    pcclComm_t *comm = NULL;
    pcclResult_t result;
    params.master_address = master;
    params.peer_group = 0;
    params.p2p_connection_pool_size = 0;
    if (pcclCreateCommunicator(&params, &comm) != pcclSuccess)
        return false;
    while ((result = pcclConnect(comm)) == pcclMasterConnectionFailed)
        pause_ms(50);
    bool shares = true;
    while (result == pcclSuccess && *step < STEPS) {
        bool pending = false;
        int world = 1;
        /* Joint: all get the same answer, and so all do the same next. Who was just let in shares first, as
         * those do who let it in. */
        if (!shares) {
            if ((result = pcclArePeersPending(comm, &pending)) != pcclSuccess)
                break;
            if (pending) {
                if ((result = pcclUpdateTopology(comm)) != pcclSuccess)
                    break;
                shares = true;
            }
        }
        while (shares) {
            result = share(comm, weights, step, revision);
            pcclGetAttribute(comm, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &world);
            if (result != pcclSuccess && world == 1)
                break;
            shares = result != pcclSuccess;
        }
        if (result != pcclSuccess)
            break;
        for (int i = 0; i < COUNT; i++)
            gradient[i] = (float)(number + 1) - weights[i] / 100;
        do {
            result = pcclAllReduce(gradient, gradient, &average, comm, NULL);
            if (result == pcclRankConnectionLost)
                say(number, "pcclAllReduce", result);
            /* The gradient is as it was, the world size up to date: again. */
            pcclGetAttribute(comm, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &world);
        } while (result == pcclRankConnectionLost && world > 1);
        if (result == pcclTooFewPeers) {
            /* Alone for now. */
            result = pcclSuccess;
            pause_ms(5);
            continue;
        }
        if (result != pcclSuccess)
            break;
        for (int i = 0; i < COUNT; i++)
            weights[i] += gradient[i] / 8;
        *step += 1;
        pause_ms(2);
    }
    if (result != pcclSuccess)
        say(number, "the run", result);
    pcclDestroyCommunicator(comm);
    return *step >= STEPS;
}

static int peer(int number, ccoip_socket_address_t master, int results) {
    static float weights[COUNT];
    int64_t step = 0;
    uint64_t revision = 0;
    unsigned sum = 0;
    if (pcclInit() != pcclSuccess)
        return 1;
    for (int attempts = 0; !train(number, master, weights, &step, &revision); attempts++) {
        if (attempts == 5)
            return 1;
        /* A new member of the run brings nothing that others should take. */
        revision = 0;
    }
    for (int i = 0; i < COUNT; i++) {
        unsigned bits;
        memcpy(&bits, &weights[i], sizeof bits);
        sum = sum * 31 + bits;
    }
    printf("peer %d: done, weights %08x\n", number, sum);
    return write(results, &sum, sizeof sum) != (ssize_t)sizeof sum;
}

int main(void) {
    ccoip_socket_address_t address = {{inetIPv4, {{127, 0, 0, 1}}, {{0}}}, 0};
    pcclMasterInstance_t *master = NULL;
    pid_t peers[PEERS];
    int failed = 0;
    /* Processes are made before the library has threads; they wait for the master. */
    int pipes[2], results[2];
    if (pipe(pipes) != 0 || pipe(results) != 0)
        return 1;
    for (int number = 0; number < PEERS; number++) {
        peers[number] = fork();
        if (peers[number] == 0) {
            uint16_t port = 0;
            close(pipes[1]);
            if (read(pipes[0], &port, sizeof port) != (ssize_t)sizeof port)
                _exit(1);
            address.port = port;
            /* The last one comes later. */
            if (number == PEERS - 1)
                pause_ms(300);
            int code = peer(number, address, results[1]);
            fflush(stdout);
            _exit(code);
        }
    }
    for (int port = 48148; port < 65536; port++) {
        address.port = (uint16_t)port;
        if (pcclCreateMaster(address, &master) != pcclSuccess)
            return 1;
        if (pcclRunMaster(master) == pcclSuccess)
            break;
        pcclDestroyMaster(master);
    }
    for (int number = 0; number < PEERS; number++)
        failed += write(pipes[1], &address.port, sizeof address.port) != (ssize_t)sizeof address.port;
    close(pipes[1]);
    pause_ms(500);
    printf("killing peer 0\n");
    fflush(stdout);
    kill(peers[0], SIGKILL);
    for (int number = 0; number < PEERS; number++) {
        int status = 0;
        waitpid(peers[number], &status, 0);
        failed += number > 0 && status != 0;
    }
    pcclDestroyMaster(master);
    /* All that were left have the same weights, bit by bit. */
    unsigned sums[PEERS - 1];
    close(results[1]);
    if (read(results[0], sums, sizeof sums) != (ssize_t)sizeof sums)
        return 1;
    for (int i = 0; i < PEERS - 1; i++)
        failed += sums[i] != sums[0];
    return failed != 0;
}
