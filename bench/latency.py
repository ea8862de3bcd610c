"""From a row's own clock to the reader of its topic.

A row says when it was inserted, just before its commit. pgbench inserts at a fixed rate on a schedule, so that a stall delays the rows
behind it in the figures, too. Readers stamp what they receive by the same clock of the same machine:

    floor       a reader of the replication stream: nothing lies between it and the server
    embedded    a client that follows the topic by the worker's REST API
    Kafka       a consumer of the topic

Each has the same time to warm up, of which the JVMs have need: a broker that is new to single requests takes twice the CPU for each of
its first 40,000. What the runs before have left to be written is written first.
"""

import os
import re
import subprocess
import threading
import time
from dataclasses import dataclass

from confluent_kafka import TopicPartition

from processes import Failure, wait_until
from tailwater import Daemon

RATE = 1000
WARM_UP = 45
SECONDS = 20
# Microseconds since 1970 have 16 digits until the year 2286; in JSON the field's name stands before them.
STREAM = re.compile(rb"\D(\d{16})")
JSON = re.compile(rb"moment\W+(\d{16})")
# No match is longer.
LONGEST = 64


@dataclass
class Latency:
    """Milliseconds."""

    who: str
    p50: float
    p95: float
    p99: float
    largest: float


class Reader:
    """Collects pairs of (moment of the row, moment of its arrival), in microseconds, on a thread of its own."""

    def __init__(self, receive, pattern):
        self.seen, self.pattern, self.stopped, self.error = [], pattern, threading.Event(), None
        # What a read has cut off stands before what the next one brings.
        self.rest = b""
        self.thread = threading.Thread(target=self._run, args=(receive,), daemon=True)
        self.thread.start()

    def _run(self, receive):
        try:
            receive(self)
        except Exception as error:  # noqa: BLE001 shown by the thread that waits
            self.error = error

    def take(self, received):
        now = time.time_ns() // 1000
        received = self.rest + received
        end = 0
        for match in self.pattern.finditer(received):
            self.seen.append((int(match[1]), now))
            end = match.end()
        self.rest = received[max(end, len(received) - LONGEST):]

    def stop(self):
        self.stopped.set()
        # Who reads without end ends with what it reads from.
        self.thread.join(2)


def load(server, run, seconds):
    """Inserts RATE rows a second, each in its own transaction; how many."""
    script = run.home / "insert.sql"
    script.write_text("INSERT INTO moments (note) VALUES ('a row of some length, as rows are');\n")
    command = ["pgbench", "-n", "-f", script, "-R", RATE, "-c", 4, "-j", 1, "-T", seconds, "postgres"]
    before = int(server.sql("SELECT count(*) FROM moments"))
    subprocess.run([str(word) for word in command], env=server.environment, check=True, timeout=seconds + 60, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return int(server.sql("SELECT count(*) FROM moments")) - before


def measure(who, run, server, receive, pattern=JSON):
    os.sync()
    reader = Reader(receive, pattern)
    try:
        # The first row has come when the whole path stands.
        def came():
            if reader.error is not None:
                raise Failure(f"{who}: {reader.error}")
            if not reader.seen:
                server.sql("INSERT INTO moments DEFAULT VALUES")
            return reader.seen

        wait_until(came, f"{who}: the first row", limit=60, pause=0.5)
        time.sleep(1)
        before, start = len(reader.seen), time.time_ns() // 1000
        rows = load(server, run, WARM_UP + SECONDS)
        wait_until(lambda: len(reader.seen) - before >= rows, f"{who}: {rows} rows", limit=60)
    finally:
        reader.stop()
    delays = sorted(arrived - moment for moment, arrived in reader.seen if moment >= start + WARM_UP * 1_000_000)
    at = lambda share: delays[min(int(len(delays) * share), len(delays) - 1)] / 1000
    return Latency(who, at(0.5), at(0.95), at(0.99), delays[-1] / 1000)


def floor(run, server):
    server.create_slot("latency_floor")
    command = server.receive_command("latency_floor", "moments", "-")
    receiver = subprocess.Popen(command, env=server.environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    run.on_exit(receiver.kill)

    def receive(reader):
        while received := os.read(receiver.stdout.fileno(), 1 << 20):
            reader.take(received)

    try:
        return measure("a reader of the replication stream", run, server, receive, STREAM)
    finally:
        receiver.terminate()
        receiver.wait()
        server.drop_slot("latency_floor")


def embedded(run, server):
    slot = "latency_embedded"
    daemon = Daemon(run, server, slot, "moments", "moments", snapshot="no_data")

    def receive(reader):
        answer = daemon.follow()
        while received := answer.read1(1 << 20):
            reader.take(received)

    latency = measure("Tailwater, embedded log", run, server, receive)
    daemon.process.stop()
    server.drop_slot(slot)
    return latency


def kafka(run, server, broker):
    slot = "latency_kafka"
    broker.create_topic(f"{slot}.public.moments")
    daemon = Daemon(run, server, slot, "moments", "moments", snapshot="no_data", broker=broker, linger=0)
    daemon.start_source()
    latency = measure("Tailwater, Kafka", run, server, consume(broker, daemon.topic))
    daemon.process.stop()
    server.drop_slot(slot)
    return latency


def debezium(run, server, broker, connect):
    slot = "latency_debezium"
    topic = f"{slot}.public.moments"
    broker.create_topic(topic)
    connect.start_connector(slot, server, "moments", "moments", snapshot="no_data", linger=0)
    latency = measure("Debezium, Kafka", run, server, consume(broker, topic))
    connect.delete_connector(slot)
    server.drop_slot(slot)
    return latency


def consume(broker, topic):
    def receive(reader):
        consumer = broker.new_consumer()
        consumer.assign([TopicPartition(topic, 0, 0)])
        while not reader.stopped.is_set():
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                reader.take(message.value())
        consumer.close()

    return receive
