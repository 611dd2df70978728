#!/usr/bin/env python3
"""Runs PCCL's published Python package on our libpccl.so.

    cargo build --release -p pccl-capi && python3 capi/pypccl/run.py

The package (`pypccl` 1.0.0) is fetched as a test input and stored nowhere in this repository: its Python files are
unpacked under `target/pypccl`, with our shared object in the place of theirs. Needs Python 3.9 or newer with venv.

Each scenario is a function: what one peer does, in a process of its own, and what the others are to have seen.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "target" / "pypccl"
TIMEOUT_S = 60


# What peers do. Each returns what its process prints; raises where something is wrong.


def sums_averages_and_extremes_of_every_type(peer):
    np, pccl = peer.np, peer.pccl
    comm = peer.gather()
    names = "uint8 int8 uint16 uint32 int32 uint64 int64 float16 float32 float64".split()
    ones = sum(range(1, peer.count + 1))
    for name in names:
        for op, expected in [("SUM", ones), ("MAX", peer.count), ("MIN", 1)]:
            send = np.full(1001, peer.number + 1, dtype=name)
            recv = np.zeros_like(send)
            comm.all_reduce(send, recv, op=getattr(pccl.ReduceOp, op))
            assert (recv == expected).all(), (name, op, recv[:3])
            assert (send == peer.number + 1).all(), "the input is never written"
    value = np.full(7, float(peer.number), dtype=np.float32)
    info = comm.all_reduce(value, value, op=pccl.ReduceOp.AVG)
    assert (value == (peer.count - 1) / 2).all() and info.local_world_size == peer.count
    return info.tx_bytes > 0


def quantized_sums_have_the_same_bits_on_every_peer(peer):
    np, pccl = peer.np, peer.pccl
    comm = peer.gather()
    out = []
    for algorithm in (pccl.QuantizationAlgorithm.MIN_MAX, pccl.QuantizationAlgorithm.ZERO_POINT_SCALE):
        options = pccl.QuantizationOptions(pccl.DataType.UINT8, algorithm)
        send = np.random.default_rng(peer.number).standard_normal(10_000).astype(np.float32)
        expected = sum(
            np.random.default_rng(n).standard_normal(10_000).astype(np.float32) for n in range(peer.count)
        )
        recv = np.zeros_like(send)
        info = comm.all_reduce(send, recv, op=pccl.ReduceOp.SUM, quantization_options=options)
        assert abs(recv - expected).max() < 0.1
        # A byte for each element, and some more.
        share = 2 * (peer.count - 1) / peer.count * send.size
        assert share < info.tx_bytes < 1.1 * share + 1000, info.tx_bytes
        out.append(recv.tobytes().hex()[:4000])
    # Constant, and of one element.
    value = np.full(1, 42 + peer.number, dtype=np.float32)
    comm.all_reduce(value, value, op=pccl.ReduceOp.MAX, quantization_options=options)
    assert value[0] == 42 + peer.count - 1
    pair = np.full(64, 42 if peer.number == 0 else 43 if peer.number == 1 else 0, dtype=np.float32)
    comm.all_reduce(pair, pair, op=pccl.ReduceOp.SUM, quantization_options=options)
    assert (pair == 85).all(), pair[:3]
    return out


def operations_beside_each_other_end_each_with_its_own_result(peer):
    np, pccl = peer.np, peer.pccl
    comm = peer.gather()
    buffers = [np.full(5000, float(tag * (peer.number + 1)), dtype=np.float32) for tag in range(16)]
    handles = [comm.all_reduce_async(b, b, op=pccl.ReduceOp.SUM, tag=tag) for tag, b in enumerate(buffers)]
    assert comm.are_peers_pending() is False
    for tag in reversed(range(16)):
        ok, status, _ = handles[tag].wait()
        assert ok and status == 0
        assert handles[tag].wait()[0], "asked again, it says the same"
        assert (buffers[tag] == tag * sum(range(1, peer.count + 1))).all()


def many_with_retry_reduces_each(peer):
    np, pccl = peer.np, peer.pccl
    comm = peer.gather()
    buffers = [np.full(3000, float(i), dtype=np.float32) for i in range(20)]
    info = comm.all_reduce_multiple_with_retry(peer.descriptors(buffers), max_in_flight=4)
    assert info.local_world_size == peer.count
    assert all((b == i * peer.count).all() for i, b in enumerate(buffers))


def what_most_peers_hold_is_shared_and_costs_nothing_the_next_time(peer):
    np = peer.np
    comm = peer.gather()
    weights = np.full(1000, 7.0 if peer.number == 1 else 1.0, dtype=np.float32)
    state = peer.state(weights)
    info = comm.sync_shared_state(state)
    assert (weights == 1.0).all() and (info.rx_bytes > 0) == (peer.number == 1)
    for _ in range(3):
        state.push_revision()
        weights += 1
        info = comm.sync_shared_state(state)
        assert info.rx_bytes == 0 and info.tx_bytes == 0
    return weights[0].item()


def a_sender_is_followed_by_those_who_receive(peer):
    pccl = peer.pccl
    comm = peer.gather()
    weights = peer.np.full(1000, float(peer.number), dtype=peer.np.float64)
    strategy = pccl.SharedStateSyncStrategy
    info = comm.sync_shared_state(
        peer.state(weights), strategy.SEND_ONLY if peer.number == 0 else strategy.RECEIVE_ONLY
    )
    assert (weights == 0.0).all() and (info.rx_bytes > 0) == (peer.number > 0)


def receivers_alone_all_fail(peer):
    comm = peer.gather()
    weights = peer.np.full(10, float(peer.number), dtype=peer.np.float32)
    peer.fails("INVALID_USAGE", comm.sync_shared_state, peer.state(weights), peer.receive_only())


def who_mixes_receiving_among_those_who_enforce_is_out(peer):
    comm = peer.gather()
    weights = peer.np.full(10, 1.0, dtype=peer.np.float32)
    if peer.number == peer.count - 1:
        peer.fails("INVALID_USAGE", comm.sync_shared_state, peer.state(weights), peer.receive_only())
        assert peer.world(comm) == 1
        peer.fails("UPDATE_TOPOLOGY_FAILED", comm.update_topology)
    else:
        comm.sync_shared_state(peer.state(weights))


def a_killed_peer_costs_an_error_and_no_input(peer):
    np, pccl = peer.np, peer.pccl
    comm = peer.gather()
    value = np.full(400_000, float(peer.number + 1), dtype=np.float32)
    if peer.number == peer.count - 1:
        # With the others in an operation that needs it.
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    peer.fails("RANK_CONNECTION_LOST", comm.all_reduce, value, value, op=pccl.ReduceOp.SUM)
    assert (value == peer.number + 1).all()
    assert peer.world(comm) == peer.count - 1
    comm.all_reduce(value, value, op=pccl.ReduceOp.SUM)
    assert (value == sum(range(1, peer.count))).all()
    return value[0].item()


def without_others_there_is_nothing_to_reduce(peer):
    pccl = peer.pccl
    comm = peer.connect()
    value = peer.np.zeros(4, dtype=peer.np.float32)
    peer.fails("TOO_FEW_PEERS", comm.all_reduce, value, value, op=pccl.ReduceOp.SUM)
    peer.fails("INVALID_USAGE", comm.optimize_topology)
    info = comm.sync_shared_state(peer.state(value))
    assert (info.tx_bytes, info.rx_bytes) == (0, 0)
    fresh = pccl.Communicator(f"127.0.0.1:{peer.port}", 0)
    peer.fails("INVALID_USAGE", fresh.update_topology)
    for wrong in ("no.such.host:1", "1.2.3:4"):
        try:
            pccl.Communicator(wrong, 0)
        except ValueError:
            continue
        raise AssertionError(f"{wrong} is an address")


def the_masters_end_ends_the_run_at_once(peer):
    pccl = peer.pccl
    comm = peer.gather()
    print("ready", flush=True)
    while peer.world(comm) > 1:
        time.sleep(0.005)
    value = peer.np.zeros(4, dtype=peer.np.float32)
    peer.fails("TOO_FEW_PEERS", comm.all_reduce, value, value, op=pccl.ReduceOp.SUM)
    peer.fails("UPDATE_TOPOLOGY_FAILED", comm.update_topology)
    peer.fails("INVALID_USAGE", comm.are_peers_pending)


def destructors_in_odd_orders_hang_nowhere(peer):
    pccl = peer.pccl
    master = pccl.MasterNode(listen_address=f"127.0.0.1:{free_port()}")
    master.run()
    port = master.__dict__.get("_port")
    comm = peer.gather()
    never = pccl.Communicator("127.0.0.1:1", 0)
    value = peer.np.ones(1000, dtype=peer.np.float32)
    handle = comm.all_reduce_async(value, value, op=pccl.ReduceOp.SUM, tag=3)
    if peer.number == 0:
        assert handle.wait()[0]
    master.interrupt()
    del master, never, port
    if peer.number == 0:
        comm.are_peers_pending()
    else:
        # Not awaited, and the interpreter ends with everything alive.
        comm.are_peers_pending()
        handle.wait()


SCENARIOS = {
    sums_averages_and_extremes_of_every_type: 3,
    quantized_sums_have_the_same_bits_on_every_peer: 3,
    operations_beside_each_other_end_each_with_its_own_result: 3,
    many_with_retry_reduces_each: 3,
    what_most_peers_hold_is_shared_and_costs_nothing_the_next_time: 3,
    a_sender_is_followed_by_those_who_receive: 3,
    receivers_alone_all_fail: 2,
    who_mixes_receiving_among_those_who_enforce_is_out: 3,
    a_killed_peer_costs_an_error_and_no_input: 3,
    without_others_there_is_nothing_to_reduce: 1,
    the_masters_end_ends_the_run_at_once: 2,
    destructors_in_odd_orders_hang_nowhere: 2,
}


class Peer:
    """What a scenario's function is given in a peer's process."""

    def __init__(self, number, count, port):
        import numpy
        import pccl

        self.np, self.pccl = numpy, pccl
        self.number, self.count, self.port = number, count, port

    def connect(self):
        comm = self.pccl.Communicator(f"127.0.0.1:{self.port}", 0)
        comm.connect(5)
        return comm

    def world(self, comm):
        return comm.get_attribute(self.pccl.Attribute.LOCAL_WORLD_SIZE)

    def gather(self):
        """All of the scenario's peers in one run, and nobody leaves before all know."""
        comm = self.connect()
        while self.world(comm) < self.count:
            if comm.are_peers_pending():
                comm.update_topology()
            time.sleep(0.002)
        one = self.np.ones(1, dtype=self.np.float32)
        comm.all_reduce(one, one, op=self.pccl.ReduceOp.SUM, tag=1 << 40)
        return comm

    def state(self, array):
        tensor = self.pccl.TensorInfo.from_numpy(array, "weights", allow_content_inequality=False)
        return self.pccl.SharedState([tensor])

    def receive_only(self):
        return self.pccl.SharedStateSyncStrategy.RECEIVE_ONLY

    def descriptors(self, buffers):
        pccl = self.pccl
        return [
            pccl.ReduceOpDescriptor.from_numpy(
                buffer,
                buffer,
                pccl.ReduceDescriptor(
                    count=buffer.size,
                    op=pccl.ReduceOp.SUM,
                    tag=tag,
                    operand_descriptor=pccl.ReduceOperandDescriptor(pccl.DataType.FLOAT),
                    quantization_options=pccl.QuantizationOptions(
                        pccl.DataType.FLOAT, pccl.QuantizationAlgorithm.NONE
                    ),
                ),
            )
            for tag, buffer in enumerate(buffers)
        ]

    def fails(self, name, call, *arguments, **named):
        try:
            call(*arguments, **named)
        except self.pccl.PCCLError as error:
            assert error.result.name == name, f"{error}, not {name}"
            return
        raise AssertionError(f"it did not fail with {name}")


def churn_peer(peer):
    """Rounds of many reductions until it is told to end, over whoever is there. Each peer gives a bit of its own, so
    a sum says whose buffers are in it; every success must hold one set of at least two peers, this one included."""
    np, pccl = peer.np, peer.pccl
    own = float(1 << peer.number)
    comm = peer.connect()
    rounds, is_new = 0, True
    while True:
        # Those who let this peer in reduce next, and so does it.
        if not is_new and comm.are_peers_pending():
            comm.update_topology()
        is_new = False
        buffers = [np.full(20_000, own, dtype=np.float32) for _ in range(6)]
        try:
            comm.all_reduce_multiple_with_retry(peer.descriptors(buffers), max_in_flight=2)
        except pccl.PCCLError as error:
            assert error.result.name == "TOO_FEW_PEERS", error
            assert all((b == own).all() or (b != own).all() for b in buffers)
            time.sleep(0.005)
            continue
        for buffer in buffers:
            total = int(buffer[0])
            assert (buffer == total).all(), "a part of a buffer is another sum"
            assert total & int(own) and total != int(own), f"{total} is no complete sum"
        rounds += 1
        print(rounds, flush=True)


def churn(rounds, seed):
    """Kills one of four peers and starts it again, once a round."""
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    master, port = start_master()
    peers = {}
    try:
        for number in range(4):
            peers[number] = start_peer("churn", number, 4, port)
            os.set_blocking(peers[number].stdout.fileno(), False)
        for _ in range(rounds):
            time.sleep(chance.uniform(0.05, 0.4))
            victim = chance.randrange(4)
            peers[victim].kill()
            peers[victim].wait()
            for number, process in peers.items():
                if number != victim and process.poll() is not None:
                    raise AssertionError(f"peer {number} ended: {process.communicate()[1][-1500:]}")
            peers[victim] = start_peer("churn", victim, 4, port)
            os.set_blocking(peers[victim].stdout.fileno(), False)
        # All go on afterwards: nobody hangs.
        for number, process in peers.items():
            deadline, said = time.monotonic() + TIMEOUT_S, 0
            while said < 2:
                said += len(process.stdout.readlines())
                if process.poll() is not None:
                    raise AssertionError(f"peer {number} ended: {process.communicate()[1][-1500:]}")
                if time.monotonic() > deadline:
                    raise AssertionError(f"peer {number} reduces no more")
                time.sleep(0.02)
    finally:
        for process in [*peers.values(), master]:
            end(process)


# Processes.


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(WORK / "package"), "PCCL_LISTEN_PORTS": "0"}
    environment.setdefault("PCCL_MASTER_GRACE_MS", "0")
    environment.setdefault("PCCL_RECOVERY_WINDOW_MS", "0")
    return subprocess.Popen(
        [str(WORK / "venv/bin/python"), str(Path(__file__).resolve()), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def start_master():
    # Another program may take the port first.
    for _ in range(20):
        port = free_port()
        process = start("--master", port)
        if process.stdout.readline().strip() == "up":
            return process, port
        end(process)
    raise AssertionError("no master")


def start_peer(name, number, count, port):
    return start("--peer", name, number, count, port)


def end(process):
    if process.poll() is None:
        process.kill()
    process.communicate()


def play(scenario, count):
    master, port = start_master()
    peers = [start_peer(scenario.__name__, number, count, port) for number in range(count)]
    results = []
    try:
        if scenario is the_masters_end_ends_the_run_at_once:
            for process in peers:
                assert process.stdout.readline().strip() == "ready", process.communicate()[1][-1500:]
            end(master)
        for number, process in enumerate(peers):
            said, complained = process.communicate(timeout=TIMEOUT_S)
            killed = scenario is a_killed_peer_costs_an_error_and_no_input and number == count - 1
            if process.returncode != (-signal.SIGKILL if killed else 0):
                raise AssertionError(f"peer {number} ended with {process.returncode}: {complained[-1500:]}")
            if not killed:
                results.append(said.strip().splitlines()[-1])
        assert len(set(results)) == 1, "the peers have seen different things"
    finally:
        for process in [*peers, master]:
            end(process)


def prepare(library):
    """The package's Python files, our library in the place of theirs, and a Python with what they import."""
    python = WORK / "venv/bin/python"
    if not python.exists():
        venv.create(WORK / "venv", with_pip=True)
    marker = WORK / "ready"
    if not marker.exists():
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "cffi", "numpy"], check=True, timeout=300)
        wheel = "--no-deps --python-version 3.12 --platform manylinux_2_17_x86_64 --only-binary=:all:".split()
        subprocess.run([*pip, "download", *wheel, "-d", str(WORK), "pypccl==1.0.0"], check=True, timeout=300)
        shutil.rmtree(WORK / "package", ignore_errors=True)
        zipfile.ZipFile(next(WORK.glob("pypccl-*.whl"))).extractall(WORK / "package")
        marker.touch()
    shutil.copy(library, WORK / "package/pccl/libpccl.so")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--library", type=Path, default=ROOT / "target/release/libpccl.so")
    arguments.add_argument("--only", default="", help="scenarios whose name contains this")
    arguments.add_argument("--rounds", type=int, default=20, help="of kills")
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments.add_argument("--list", action="store_true")
    arguments.add_argument("--master", type=int, help=argparse.SUPPRESS)
    arguments.add_argument("--peer", nargs=4, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.master:
        import pccl

        master = pccl.MasterNode(listen_address=f"127.0.0.1:{chosen.master}")
        master.run()
        print("up", flush=True)
        # The package waits in the master's destructor.
        return 0
    if chosen.peer:
        name, number, count, port = chosen.peer
        work = churn_peer if name == "churn" else globals()[name]
        print(json.dumps(work(Peer(int(number), int(count), int(port)))))
        return 0

    def churned():
        churn(chosen.rounds, chosen.seed)

    parts = {scenario.__name__: (lambda s=scenario, c=count: play(s, c)) for scenario, count in SCENARIOS.items()}
    parts["each_success_is_a_complete_sum_while_peers_are_killed"] = churned
    parts = {name: part for name, part in parts.items() if chosen.only in name}
    if chosen.list:
        print("\n".join(parts))
        return 0
    try:
        prepare(chosen.library)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"skipped: needs Python's venv and a package index: {error}")
        return 1 if os.environ.get("PCCL_TEST_REQUIRE_ALL") else 0
    failed = 0
    for name, part in parts.items():
        began = time.monotonic()
        try:
            part()
            print(f"ok {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception as error:  # Whatever it was, the others are still run.
            failed += 1
            print(f"FAILED {name}: {error!r}", flush=True)
    print(f"{len(parts)} scenarios, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
