#!/bin/sh
# What an all-reduce reaches over long links, beside what eight streams of iperf3 reach on every edge
# of the ring at once, in one run. For `stress wan`, which runs it on each machine; as root, after
# `cargo build --release --workspace`:
#
#     target/release/stress wan --peers 3 --rtt-ms 50 -- sh benches/wan.sh
#     target/release/stress wan --peers 3 --rtt-ms 50 --loss-ppm 1000 -- sh benches/wan.sh warm
#     target/release/stress wan --peers 3 --rtt-ms 100 -- sh benches/wan.sh small
#
#     target/release/stress wan --peers 3 --rtt-ms 50 --rate-mbit 200 -- sh benches/wan.sh quantized
#
# Arguments name the parts that are run: edges, warm, fresh, idle, many, small, quantized. Without any, all but
# the last.
set -eu
export PCCL_LOG_LEVEL="${PCCL_LOG_LEVEL:-WARN}"
parts=${*:-edges warm fresh idle many small}
pccl=${PCCL:-target/release/pccl}
host=${PCCL_WAN_ADDRESSES%% *}
port=38148
next=$(((PCCL_WAN_PEER + 1) % PCCL_WAN_PEERS + 1))

say() {
    [ "$PCCL_WAN_PEER" != 0 ] || echo "== $*"
}

# Each has a master of its own, and so lanes that have carried nothing yet.
bench() {
    port=$((port + 1))
    if [ "$PCCL_WAN_PEER" = 0 ]; then
        "$pccl" master --listen "$host:$port" &
        master=$!
        "$pccl" bench all-reduce --master "$host:$port" --peers "$PCCL_WAN_PEERS" "$@"
        kill "$master"
        wait "$master" 2>/dev/null || true
    else
        "$pccl" bench all-reduce --master "$host:$port" --peers "$PCCL_WAN_PEERS" "$@" >/dev/null
    fi
}

edges() {
    say "iperf3, eight streams on every edge at once"
    iperf3 -s -1 -p 5201 >/dev/null &
    server=$!
    sleep 1
    iperf3 -c "10.77.0.$next" -P 8 -O 2 -t 8 | grep 'SUM.*receiver'
    wait "$server"
}

for part in edges $parts; do
    case $part in
    edges)
        # Once at the start, and where it is asked for by name first.
        [ "${measured:-}" ] || edges
        measured=1
        ;;
    warm)
        say "after one operation that is not counted"
        bench --bytes 64MiB --warmup 1 --iters 11
        bench --bytes 256MiB --warmup 1 --iters 5
        ;;
    fresh)
        say "first operation on fresh lanes, three times"
        for _ in 1 2 3; do bench --bytes 64MiB --warmup 0 --iters 1; done
        ;;
    idle)
        say "after 60 s idle"
        bench --bytes 64MiB --warmup 1 --iters 3 --pause 60
        ;;
    many)
        say "sixteen of 16 MiB at once, and one of 256 MiB"
        for _ in 1 2; do
            bench --bytes 16MiB --concurrent 16 --warmup 1 --iters 3
            bench --bytes 256MiB --warmup 1 --iters 3
        done
        ;;
    quantized)
        say "256 MiB as it is, as int8 and as int4, by turns"
        for _ in 1 2; do
            bench --bytes 256MiB --warmup 1 --iters 3
            bench --bytes 256MiB --warmup 1 --iters 3 --quantize int8
            bench --bytes 256MiB --warmup 1 --iters 3 --quantize int4
        done
        ;;
    small)
        say "a small operation"
        bench --bytes 4 --ping --iters 20
        ;;
    *)
        echo "wan.sh: no part is named $part" >&2
        exit 2
        ;;
    esac
done
