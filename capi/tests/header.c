/* Compiled, not run: sizes, places and values of pccl.h are those that programs were built with, and those
 * that src/types.rs checks on the other side. */
#include "ccoip.h"
#include "pccl.h"

#ifdef __cplusplus
#define CHECK(condition) static_assert(condition, #condition)
#else
#define CHECK_NAMED(condition, line) typedef char check_##line[(condition) ? 1 : -1]
#define CHECK_AT(condition, line) CHECK_NAMED(condition, line)
#define CHECK(condition) CHECK_AT(condition, __LINE__)
#endif
#define AT(type, field, place) CHECK(offsetof(type, field) == (place))
#define SIZE(type, size) CHECK(sizeof(type) == (size))

SIZE(pcclResult_t, 4);
SIZE(ccoip_ipv4_address_t, 4);
SIZE(ccoip_ipv6_address_t, 16);
SIZE(ccoip_inet_address_t, 24);
AT(ccoip_inet_address_t, protocol, 0);
AT(ccoip_inet_address_t, ipv4, 4);
AT(ccoip_inet_address_t, ipv6, 8);
SIZE(ccoip_socket_address_t, 28);
AT(ccoip_socket_address_t, inet, 0);
AT(ccoip_socket_address_t, port, 24);
SIZE(pcclCommCreateParams_t, 36);
AT(pcclCommCreateParams_t, master_address, 0);
AT(pcclCommCreateParams_t, peer_group, 28);
AT(pcclCommCreateParams_t, p2p_connection_pool_size, 32);
SIZE(pcclReduceInfo_t, 24);
AT(pcclReduceInfo_t, local_world_size, 0);
AT(pcclReduceInfo_t, tx_bytes, 8);
AT(pcclReduceInfo_t, rx_bytes, 16);
SIZE(pcclReduceOperandDescriptor_t, 8);
AT(pcclReduceOperandDescriptor_t, datatype, 0);
AT(pcclReduceOperandDescriptor_t, distribution_hint, 4);
SIZE(pcclQuantizationOptions_t, 8);
AT(pcclQuantizationOptions_t, quantized_datatype, 0);
AT(pcclQuantizationOptions_t, algorithm, 4);
SIZE(pcclReduceDescriptor_t, 40);
AT(pcclReduceDescriptor_t, count, 0);
AT(pcclReduceDescriptor_t, op, 8);
AT(pcclReduceDescriptor_t, tag, 16);
AT(pcclReduceDescriptor_t, src_descriptor, 24);
AT(pcclReduceDescriptor_t, quantization_options, 32);
SIZE(pcclReduceOpDescriptor_t, 56);
AT(pcclReduceOpDescriptor_t, sendbuf, 0);
AT(pcclReduceOpDescriptor_t, recvbuf, 8);
AT(pcclReduceOpDescriptor_t, descriptor, 16);
SIZE(struct pcclReduceSingleDescriptor_t, 56);
SIZE(pcclAsyncReduceOp_t, 16);
AT(pcclAsyncReduceOp_t, comm, 0);
AT(pcclAsyncReduceOp_t, tag, 8);
SIZE(pcclRankUuid_t, 16);
SIZE(pcclTensorInfo_t, 40);
AT(pcclTensorInfo_t, name, 0);
AT(pcclTensorInfo_t, data, 8);
AT(pcclTensorInfo_t, count, 16);
AT(pcclTensorInfo_t, datatype, 24);
AT(pcclTensorInfo_t, device_type, 28);
AT(pcclTensorInfo_t, allow_content_inequality, 32);
SIZE(pcclSharedState_t, 24);
AT(pcclSharedState_t, revision, 0);
AT(pcclSharedState_t, count, 8);
AT(pcclSharedState_t, infos, 16);
SIZE(pcclSharedStateSyncInfo_t, 16);
AT(pcclSharedStateSyncInfo_t, tx_bytes, 0);
AT(pcclSharedStateSyncInfo_t, rx_bytes, 8);
SIZE(pcclBuildInfo_t, 1);

CHECK(pcclSuccess == 0 && pcclNotInitialized == 1 && pcclInternalError == 2);
CHECK(pcclInvalidArgument == 3 && pcclInvalidUsage == 4 && pcclTooFewPeers == 5);
CHECK(pcclMasterConnectionFailed == 6 && pcclRankConnectionFailed == 7 && pcclRankConnectionLost == 8);
CHECK(pcclNoSharedStateAvailable == 9 && pcclPendingAsyncOps == 10);
CHECK(pcclUpdateTopologyFailed == 11 && pcclTopologyOptimizationFailed == 12);
CHECK(pcclUint8 == 0 && pcclInt8 == 1 && pcclInt16 == 2 && pcclUint16 == 3 && pcclUint32 == 4);
CHECK(pcclInt32 == 5 && pcclUint64 == 6 && pcclInt64 == 7 && pcclFloat16 == 8 && pcclBFloat16 == 9);
CHECK(pcclFloat == 10 && pcclDouble == 11);
CHECK(pcclDeviceCpu == 0 && pcclDeviceCuda == 1);
CHECK(pcclSum == 0 && pcclAvg == 1 && pcclProd == 2 && pcclMax == 3 && pcclMin == 4);
CHECK(PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE == 1 && PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE == 2);
CHECK(PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS == 3);
CHECK(PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE == 4);
CHECK(PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR == 0);
CHECK(PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY == 1);
CHECK(PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY == 2);
CHECK(pcclDistributionNone == 0 && pcclDistributionNormal == 1 && pcclDistributionUniform == 2);
CHECK(pcclQuantNone == 0 && pcclQuantMinMax == 1 && pcclQuantZeroPointScale == 2);
CHECK(inetIPv4 == 0 && inetIPv6 == 1);
CHECK(CCOIP_PROTOCOL_PORT_MASTER == 48148 && CCOIP_PROTOCOL_PORT_SHARED_STATE == 48149);
CHECK(CCOIP_PROTOCOL_PORT_P2P == 48150 && CCOIP_PROTOCOL_PORT_BANDWIDTH_BENCHMARK == 48151);
