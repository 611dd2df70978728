/* Two peers of one program add up a buffer. On real machines each peer is a program of its own, and so is the
 * master (`pccl master`). Takes the port to try first for that: hello [PORT]
 *
 *     cc -std=c99 hello.c -lpccl -pthread -o hello && ./hello */
#include <pccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT 1000

static ccoip_socket_address_t master_address;

/* Says which call failed and why, and ends the program. */
static void must(pcclResult_t result, const char *call) {
    if (result != pcclSuccess) {
        char text[512];
        pcclGetLastError(NULL, text, sizeof text);
        fprintf(stderr, "%s: %s: %s\n", call, pcclResultToString(result), text);
        exit(1);
    }
}
#define MUST(call) must(call, #call)

static void *peer(void *argument) {
    float own = *(const float *)argument;
    pcclCommCreateParams_t params;
    pcclComm_t *comm = NULL;
    params.master_address = master_address;
    params.peer_group = 0;
    params.p2p_connection_pool_size = 0;
    MUST(pcclCreateCommunicator(&params, &comm));
    MUST(pcclConnect(comm));

    /* Whoever is in lets the other one in. The size is asked first: who was let in is done already. */
    int world = 0;
    for (;;) {
        bool pending = false;
        MUST(pcclGetAttribute(comm, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &world));
        if (world >= 2)
            break;
        MUST(pcclArePeersPending(comm, &pending));
        if (pending)
            MUST(pcclUpdateTopology(comm));
    }

    static const pcclReduceDescriptor_t sum = {
        COUNT, pcclSum, 0, {pcclFloat, pcclDistributionNone}, {pcclFloat, pcclQuantNone}};
    float send[COUNT], recv[COUNT];
    for (int i = 0; i < COUNT; i++)
        send[i] = own;
    pcclReduceInfo_t info;
    MUST(pcclAllReduce(send, recv, &sum, comm, &info));
    printf("gave %g, got %g, of %u peers\n", (double)own, (double)recv[COUNT - 1], (unsigned)info.local_world_size);
    MUST(pcclDestroyCommunicator(comm));
    return recv[0] == 3.0f && recv[COUNT - 1] == 3.0f ? NULL : argument;
}

int main(int argc, char **argv) {
    static float one = 1, two = 2;
    pcclMasterInstance_t *master = NULL;
    pthread_t other;
    void *failed = NULL;
    MUST(pcclInit());
    master_address.inet.protocol = inetIPv4;
    master_address.inet.ipv4.data[0] = 127;
    master_address.inet.ipv4.data[3] = 1;
    /* The first free one: a master takes the port it is given, or none. */
    int port = argc > 1 ? atoi(argv[1]) : 48148;
    for (; port < 65536; port++) {
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
    MUST(pcclInterruptMaster(master));
    MUST(pcclMasterAwaitTermination(master));
    MUST(pcclDestroyMaster(master));
    return own_failed != NULL || failed != NULL;
}
