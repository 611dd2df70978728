/* The C API of PCCL 1.0, and some functions of ours behind the line "Beyond PCCL".
 *
 * Peers hold a communicator each and run the same loop: let newcomers in, share a state, reduce buffers.
 * A master, mostly a process of its own (`pccl master`), keeps the list of who is there.
 *
 * Every function may be called from any thread, gives a code, and never ends the process. Functions that
 * all peers call together ("joint" below) block until all have called, or until those who do not are out of
 * the run, some seconds after they fell silent. After any code but pcclSuccess, pcclGetLastError has a
 * sentence that names the peer, the argument or the limit.
 *
 * Unless a function says otherwise:
 *   pcclNotInitialized    pcclInit was not called.
 *   pcclInvalidArgument   an argument is NULL or out of range, or peers differ in it: correct the program.
 *   pcclInvalidUsage      not connected, connected already, or the handle was destroyed.
 *
 * A peer that is out of the run (evicted, or its master stayed away) has world sizes of 1, and every call
 * of it fails at once. It destroys its communicator, makes a new one, connects and synchronises. */
#ifndef PCCL_H
#define PCCL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ccoip_inet.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pcclResult_t {
    pcclSuccess = 0,
    pcclNotInitialized = 1,
    /* A defect of the library; the text says where. Destroy the communicator. */
    pcclInternalError = 2,
    pcclInvalidArgument = 3,
    pcclInvalidUsage = 4,
    /* Fewer than two peers are in the group: go on alone, or let others in with pcclUpdateTopology. */
    pcclTooFewPeers = 5,
    /* The master cannot be reached, or refused: connect again, also with the same communicator. */
    pcclMasterConnectionFailed = 6,
    /* Never given. */
    pcclRankConnectionFailed = 7,
    /* Peers were lost: read the world size, and call again where it is above 1. */
    pcclRankConnectionLost = 8,
    /* Never given. */
    pcclNoSharedStateAvailable = 9,
    /* All-reduces were started and not awaited: await them first. */
    pcclPendingAsyncOps = 10,
    /* Out of the run. */
    pcclUpdateTopologyFailed = 11,
    /* Out of the run. */
    pcclTopologyOptimizationFailed = 12
} pcclResult_t;

typedef enum pcclDataType_t {
    pcclUint8 = 0,
    pcclInt8 = 1,
    pcclInt16 = 2,
    pcclUint16 = 3,
    pcclUint32 = 4,
    pcclInt32 = 5,
    pcclUint64 = 6,
    pcclInt64 = 7,
    /* Half precision, and the upper half of a float: combined as floats, rounded once a step. */
    pcclFloat16 = 8,
    pcclBFloat16 = 9,
    pcclFloat = 10,
    pcclDouble = 11
} pcclDataType_t;

typedef enum pcclDeviceType_t {
    pcclDeviceCpu = 0,
    /* Not supported: pcclInvalidArgument. */
    pcclDeviceCuda = 1
} pcclDeviceType_t;

typedef enum pcclRedOp_t {
    /* Integers wrap. */
    pcclSum = 0,
    /* The sum divided by the number of contributors; integers towards zero. */
    pcclAvg = 1,
    pcclProd = 2,
    /* NaN where any contribution is. */
    pcclMax = 3,
    pcclMin = 4
} pcclRedOp_t;

typedef enum pcclAttribute_t {
    /* Accepted peers of all groups. */
    PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE = 1,
    /* Accepted peers of this communicator's group. */
    PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE = 2,
    /* Groups with an accepted peer. */
    PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS = 3,
    /* Accepted peers of the largest group. */
    PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE = 4
} pcclAttribute_t;

typedef enum pcclSharedStateSyncStrategy_t {
    /* What most peers hold wins; those that differ receive it. Where one peer of a group says this, all
     * must: the others are evicted. */
    PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR = 0,
    /* Takes what is elected, has no say, never sends. */
    PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY = 1,
    /* Votes and sends; evicted where it would have to receive. */
    PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY = 2
} pcclSharedStateSyncStrategy_t;

/* How values are distributed. Of normal ones, zero point and scale clips outliers, which makes all others
 * more exact; otherwise the range of a block is covered whole. */
typedef enum pcclDistributionHint_t {
    pcclDistributionNone = 0,
    pcclDistributionNormal = 1,
    pcclDistributionUniform = 2
} pcclDistributionHint_t;

/* Descriptors may ask for quantization of floats to an integer type, of which 8 and 16 bits save bytes. Any
 * reduction is possible, and all peers end with the same bits. Elements are quantized in blocks of 1024 with
 * parameters of their own; a block that holds a NaN or an infinity arrives as NaN. With the quantized type the
 * type of the elements they are sent as they are. Types that are no integers give pcclInvalidArgument. */
typedef enum pcclQuantizationAlgorithm_t {
    pcclQuantNone = 0,
    pcclQuantMinMax = 1,
    pcclQuantZeroPointScale = 2
} pcclQuantizationAlgorithm_t;

typedef struct pcclComm_t pcclComm_t;
typedef struct pcclMasterInstanceState_t pcclMasterInstance_t;

typedef struct pcclRankUuid_t {
    uint8_t data[16];
} pcclRankUuid_t;

typedef struct pcclCommCreateParams_t {
    ccoip_socket_address_t master_address;
    /* Reduces and shares its state with the peers of the same group only. */
    uint32_t peer_group;
    /* TCP connections to each neighbour. Up to 8 the library chooses, 4 or 8 by the length of the path; at
     * most 256. One operation uses all of them. */
    uint32_t p2p_connection_pool_size;
} pcclCommCreateParams_t;

typedef struct pcclReduceInfo_t {
    /* Peers whose buffers are in the result; the smallest number, of several operations. */
    uint32_t local_world_size;
    /* Bytes sent and received for it: elements or their codes, parameters of blocks, headers of frames. */
    uint64_t tx_bytes;
    uint64_t rx_bytes;
} pcclReduceInfo_t;

typedef struct pcclReduceOperandDescriptor_t {
    pcclDataType_t datatype;
    pcclDistributionHint_t distribution_hint;
} pcclReduceOperandDescriptor_t;

typedef struct pcclQuantizationOptions_t {
    pcclDataType_t quantized_datatype;
    pcclQuantizationAlgorithm_t algorithm;
} pcclQuantizationOptions_t;

typedef struct pcclReduceDescriptor_t {
    /* Elements. 0 is allowed, and moves nothing. */
    size_t count;
    pcclRedOp_t op;
    /* Names the operation: the same at all peers, unique among those not awaited. */
    uint64_t tag;
    pcclReduceOperandDescriptor_t src_descriptor;
    pcclQuantizationOptions_t quantization_options;
} pcclReduceDescriptor_t;

typedef struct pcclReduceSingleDescriptor_t {
    void *sendbuf;
    /* The same pointer for an operation in place. */
    void *recvbuf;
    pcclReduceDescriptor_t descriptor;
} pcclReduceOpDescriptor_t;

typedef struct pcclAsyncReduceOp_t {
    pcclComm_t *comm;
    uint64_t tag;
} pcclAsyncReduceOp_t;

typedef struct pcclTensorInfo_t {
    /* Unique, 1 to 1024 bytes of UTF-8. */
    const char *name;
    /* Host memory, of any alignment. */
    void *data;
    /* Elements. */
    size_t count;
    pcclDataType_t datatype;
    pcclDeviceType_t device_type;
    /* The content may differ between peers of one revision; a peer of an older one is given it once. */
    bool allow_content_inequality;
} pcclTensorInfo_t;

typedef struct pcclSharedState_t {
    /* Raise it by one after each sync that succeeded. Newcomers present 0. */
    uint64_t revision;
    size_t count;
    /* The same names, types and sizes in the same order at all peers of a group. */
    pcclTensorInfo_t *infos;
} pcclSharedState_t;

typedef struct pcclSharedStateSyncInfo_t {
    uint64_t tx_bytes;
    /* 0 where this peer had everything. */
    uint64_t rx_bytes;
} pcclSharedStateSyncInfo_t;

typedef struct pcclBuildInfo_t {
    bool has_cuda_support;
} pcclBuildInfo_t;

/* Comes before everything else but the master's functions. Any number of times. */
pcclResult_t pcclInit(void);

/* No network traffic. pcclInvalidArgument also where a PCCL_ variable of the environment makes no sense. */
pcclResult_t pcclCreateCommunicator(const pcclCommCreateParams_t *params, pcclComm_t **comm_out);

/* World sizes as of the last change that this peer was told of, after a failed operation those of the
 * survivors. Does not block; `p_attribute_out` is left alone where it fails. */
pcclResult_t pcclGetAttribute(const pcclComm_t *communicator, pcclAttribute_t attribute, int *p_attribute_out);

/* Leaves the run. Calls of other threads end, started operations too: their buffers are free on return. The
 * others see it as a peer that left. */
pcclResult_t pcclDestroyCommunicator(pcclComm_t *communicator);

/* Joins the run: blocks until the peers in it call pcclUpdateTopology, not at all where nobody is there.
 *   pcclInvalidArgument          a setting makes no sense: it is checked with the others here.
 *   pcclMasterConnectionFailed   not reached in 10 s, or refused. May be called again. */
pcclResult_t pcclConnect(pcclComm_t *communicator);

/* Joint, of all groups: lets those in who connect.
 *   pcclPendingAsyncOps, pcclUpdateTopologyFailed */
pcclResult_t pcclUpdateTopology(pcclComm_t *communicator);

/* Joint, of all groups: whether anybody waits to be let in, the same answer for all. May run beside
 * all-reduces.
 *   pcclInvalidUsage   also where this peer is out of the run. */
pcclResult_t pcclArePeersPending(const pcclComm_t *communicator, bool *pending_out);

/* Joint, of all groups: a place for a better order of the ring. The order is kept for now.
 *   pcclInvalidUsage   also where this peer is alone.   pcclPendingAsyncOps, pcclTopologyOptimizationFailed */
pcclResult_t pcclOptimizeTopology(const pcclComm_t *communicator);

/* Combines `sendbuff` of all peers of the group into `recvbuff` of each; blocks until the outcome is the same
 * for all. As pcclAllReduceAsync and pcclAwaitAsyncReduce. `reduce_info_out` may be NULL. */
pcclResult_t pcclAllReduce(const void *sendbuff, void *recvbuff, const pcclReduceDescriptor_t *descriptor,
                           const pcclComm_t *communicator, pcclReduceInfo_t *reduce_info_out);

/* Starts an all-reduce. The buffers belong to it until it was awaited. They are one (in place), or do not
 * overlap; of any alignment.
 *   pcclInvalidArgument   also where the tag is in use.   pcclTooFewPeers */
pcclResult_t pcclAllReduceAsync(const void *sendbuff, void *recvbuff, const pcclReduceDescriptor_t *descriptor,
                                const pcclComm_t *communicator, pcclAsyncReduceOp_t *reduce_handle_out);

/* Blocks until an all-reduce has ended; once for each, from any thread. After a failure `sendbuff` is as it was,
 * also in place; a `recvbuff` of its own holds nothing of meaning. `reduce_info_out` may be NULL.
 *   pcclRankConnectionLost   peers were lost, or nothing with this tag waits to be awaited.
 *   pcclInvalidArgument      peers described it differently. */
pcclResult_t pcclAwaitAsyncReduce(const pcclAsyncReduceOp_t *reduce_handle, pcclReduceInfo_t *reduce_info_out);

/* Runs all-reduces of different tags, at most `max_in_flight` at once, and again those that fail because
 * peers were lost. pcclSuccess: every one was reduced, though not all over the same peers. Otherwise those
 * that succeeded keep their results, the others' `sendbuf` is as it was, and none is in flight.
 *   pcclTooFewPeers   nobody else is left. */
pcclResult_t pcclAllReduceMultipleWithRetry(const pcclReduceOpDescriptor_t *descriptors, size_t count,
                                            const pcclComm_t *communicator, pcclReduceInfo_t *reduce_info_out,
                                            int max_in_flight);

/* Joint, of the group: makes the shared state the same, bit by bit, and sets its revision. After a failure
 * tensors may hold parts of two versions, which a later sync makes whole. `sync_info_out` may be NULL. Alone it
 * succeeds and moves nothing.
 *   pcclPendingAsyncOps
 *   pcclInvalidUsage   it failed, or this peer is out of the run: where the world size is above 1 call again. */
pcclResult_t pcclSynchronizeSharedState(const pcclComm_t *communicator, pcclSharedState_t *shared_state,
                                        pcclSharedStateSyncStrategy_t strategy,
                                        pcclSharedStateSyncInfo_t *sync_info_out);

/* A master for exactly this address. It listens from pcclRunMaster on. */
pcclResult_t pcclCreateMaster(ccoip_socket_address_t listen_address, pcclMasterInstance_t **p_master_handle_out);

/* Does not block. Once for each master.
 *   pcclInvalidUsage   it ran before, the address is taken, or the port is 0. */
pcclResult_t pcclRunMaster(pcclMasterInstance_t *master_instance);

/* Tells it to stop, and returns. pcclInvalidUsage: it never ran. */
pcclResult_t pcclInterruptMaster(pcclMasterInstance_t *master_instance);

/* Blocks until it has stopped, which needs pcclInterruptMaster. pcclInvalidUsage: it never ran. */
pcclResult_t pcclMasterAwaitTermination(pcclMasterInstance_t *master_instance);

/* Stops it if it runs. */
pcclResult_t pcclDestroyMaster(pcclMasterInstance_t *master_instance);

/* Needs no pcclInit. */
pcclResult_t pcclGetBuildInfo(pcclBuildInfo_t *info);

/* ---- Beyond PCCL: not in its libpccl.so ---- */

/* The text of the last call of a communicator that failed, in whatever thread; where it is NULL or was destroyed,
 * of the last call of this thread that failed. Empty where none did. Writes at most `size_bytes`, a zero byte
 * included, and returns the length of the whole text without it. `text_out` may be NULL. */
size_t pcclGetLastError(const pcclComm_t *communicator, char *text_out, size_t size_bytes);

/* The name of a code. Never NULL, never freed. */
const char *pcclResultToString(pcclResult_t result);

/* Of this library, such as "0.1.0". Never NULL, never freed. */
const char *pcclGetVersion(void);

/* Changes a setting before pcclConnect: "lanes", "listen_ports", "master_grace_ms", ... (capi/README.md has all).
 *   pcclInvalidArgument   no such key, or the value makes no sense; the text names both. */
pcclResult_t pcclSetOption(pcclComm_t *communicator, const char *key, const char *value);

#ifdef __cplusplus
}
#endif

#endif
