/* Reduces in the background: a second thread starts and awaits all-reduces while the first one goes on
 * training and looks for newcomers. Two peers of one program; see hello.c for how they meet.
 *
 *     cc -std=c99 async_reduce.c -lpccl -pthread -o async_reduce && ./async_reduce */
#include <pccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT 100000
#define OPERATIONS 8

static ccoip_socket_address_t master_address;

static void must(pcclResult_t result, const char *call) {
    if (result != pcclSuccess) {
        char text[512];
        pcclGetLastError(NULL, text, sizeof text);
        fprintf(stderr, "%s: %s: %s\n", call, pcclResultToString(result), text);
        exit(1);
    }
}
#define MUST(call) must(call, #call)

struct reducing {
    pcclComm_t *comm;
    float *buffers[OPERATIONS];
};

/* All in flight at once, each under a tag of its own. */
static void *reduce(void *argument) {
    struct reducing *reducing = (struct reducing *)argument;
    pcclAsyncReduceOp_t operations[OPERATIONS];
    pcclReduceDescriptor_t sum = {
        COUNT, pcclAvg, 0, {pcclFloat, pcclDistributionNone}, {pcclFloat, pcclQuantNone}};
    for (int i = 0; i < OPERATIONS; i++) {
        sum.tag = (uint64_t)i;
        MUST(pcclAllReduceAsync(reducing->buffers[i], reducing->buffers[i], &sum, reducing->comm, &operations[i]));
    }
    for (int i = 0; i < OPERATIONS; i++)
        MUST(pcclAwaitAsyncReduce(&operations[i], NULL));
    return NULL;
}

static void *peer(void *argument) {
    float own = *(const float *)argument;
    pcclCommCreateParams_t params;
    struct reducing reducing;
    pthread_t background;
    int world = 0, wrong = 0;
    bool pending = false;
    params.master_address = master_address;
    params.peer_group = 0;
    params.p2p_connection_pool_size = 0;
    MUST(pcclCreateCommunicator(&params, &reducing.comm));
    MUST(pcclConnect(reducing.comm));
    for (;;) {
        MUST(pcclGetAttribute(reducing.comm, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &world));
        if (world >= 2)
            break;
        MUST(pcclArePeersPending(reducing.comm, &pending));
        if (pending)
            MUST(pcclUpdateTopology(reducing.comm));
    }
    for (int i = 0; i < OPERATIONS; i++) {
        reducing.buffers[i] = (float *)malloc(COUNT * sizeof(float));
        if (reducing.buffers[i] == NULL)
            exit(1);
        for (int k = 0; k < COUNT; k++)
            reducing.buffers[i][k] = own + (float)i;
    }
    if (pthread_create(&background, NULL, reduce, &reducing) != 0)
        exit(1);
    /* Joint, and allowed meanwhile. */
    for (int i = 0; i < 10; i++)
        MUST(pcclArePeersPending(reducing.comm, &pending));
    pthread_join(background, NULL);
    for (int i = 0; i < OPERATIONS; i++) {
        wrong += reducing.buffers[i][COUNT - 1] != 1.5f + (float)i;
        free(reducing.buffers[i]);
    }
    printf("%d averages, %d of them wrong\n", OPERATIONS, wrong);
    MUST(pcclDestroyCommunicator(reducing.comm));
    return wrong == 0 ? NULL : argument;
}

int main(void) {
    static float one = 1, two = 2;
    pcclMasterInstance_t *master = NULL;
    pthread_t other;
    void *failed = NULL;
    MUST(pcclInit());
    master_address.inet.protocol = inetIPv4;
    master_address.inet.ipv4.data[0] = 127;
    master_address.inet.ipv4.data[3] = 1;
    for (int port = 48148; port < 65536; port++) {
        master_address.port = (uint16_t)port;
        MUST(pcclCreateMaster(master_address, &master));
        if (pcclRunMaster(master) == pcclSuccess)
            break;
        MUST(pcclDestroyMaster(master));
    }
    if (pthread_create(&other, NULL, peer, &two) != 0)
        return 1;
    void *own_failed = peer(&one);
    pthread_join(other, &failed);
    MUST(pcclDestroyMaster(master));
    return own_failed != NULL || failed != NULL;
}
