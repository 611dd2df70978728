/* A master that runs until SIGINT or SIGTERM: master ADDRESS PORT, such as `master 0.0.0.0 48148`.
 *
 *     cc -std=c99 master.c -lpccl -pthread -o master */
#define _POSIX_C_SOURCE 200809L
#include <pccl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    ccoip_socket_address_t address = {{inetIPv4, {{0, 0, 0, 0}}, {{0}}}, 0};
    unsigned part[4];
    pcclMasterInstance_t *master = NULL;
    sigset_t signals;
    int signal_number = 0;
    char text[512];

    if (argc != 3 || sscanf(argv[1], "%u.%u.%u.%u", &part[0], &part[1], &part[2], &part[3]) != 4) {
        fprintf(stderr, "usage: %s ADDRESS PORT\n", argv[0]);
        return 2;
    }
    for (int i = 0; i < 4; i++)
        address.inet.ipv4.data[i] = (uint8_t)part[i];
    address.port = (uint16_t)atoi(argv[2]);

    /* Before any thread is there, so that the signals wait for us alone. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);

    if (pcclCreateMaster(address, &master) != pcclSuccess || pcclRunMaster(master) != pcclSuccess) {
        pcclGetLastError(NULL, text, sizeof text);
        fprintf(stderr, "%s\n", text);
        return 1;
    }
    printf("listening on %s port %d\n", argv[1], (int)address.port);
    fflush(stdout);
    sigwait(&signals, &signal_number);
    pcclInterruptMaster(master);
    pcclMasterAwaitTermination(master);
    return pcclDestroyMaster(master) != pcclSuccess;
}
