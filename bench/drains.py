"""Figures of one backlog or one table, read by whom it may be."""

import time
from dataclasses import dataclass

from processes import wait_until
from tailwater import Daemon

FIRST = 1_000_000
# Milliseconds that both sides' producers wait for company.
LINGER = 50


@dataclass
class Drain:
    """What it took to read `rows` rows. CPU and memory are of the process that reads; absent where nobody looked."""

    who: str
    rows: int
    seconds: float
    cpu: float
    broker_cpu: float | None = None
    # Of the first million rows: seconds, CPU, CPU of the broker
    first: tuple[float, float, float] | None = None
    anonymous: int | None = None
    resident: int | None = None

    def warm(self):
        """Rows, seconds, CPU and CPU of the broker behind the first million."""
        if self.first is None:
            return self.rows, self.seconds, self.cpu, self.broker_cpu
        seconds, cpu, broker_cpu = self.first
        return self.rows - FIRST, self.seconds - seconds, self.cpu - cpu, self.broker_cpu - broker_cpu

    def with_memory(self, process):
        self.anonymous, self.resident = process.largest_anonymous, process.largest_resident
        return self


def tail_embedded(run, server, slot, rows, end, more=None):
    """Drains a slot into the embedded log. It ends when the end is confirmed to the server: then all of it is durable."""
    start = time.monotonic()
    daemon = Daemon(run, server, slot, "changes", "tailwater", snapshot="no_data", more=more or {})
    server.wait_for_slot(slot, f"confirmed_flush_lsn >= '{end}'", daemon.process)
    return ended(daemon, "Tailwater, embedded log", rows, start)


def snapshot_embedded(run, server, slot, table, rows, strategy="consistent", connections=1):
    """Reads a table into the embedded log. It ends when a row behind the snapshot is confirmed: then all rows before it are durable."""
    start = time.monotonic()
    more = {"snapshot.strategy": strategy, "snapshot.max.threads": connections}
    daemon = Daemon(run, server, slot, table, "tailwater", snapshot="initial", more=more)
    server.wait_for_slot(slot, "confirmed_flush_lsn IS NOT NULL", daemon.process)
    if strategy == "watermark":
        # The log goes on beside the snapshot.
        def complete():
            return (daemon.snapshot() or {}).get("state") == "complete"

        wait_until(complete, f"the snapshot of {table}", limit=300, process=daemon.process)
    end = server.end(table)
    server.wait_for_slot(slot, f"confirmed_flush_lsn > '{end}'", daemon.process)
    drain = ended(daemon, "Tailwater, embedded log", rows, start)
    server.drop_slot(slot)
    return drain


def ended(daemon, who, rows, start):
    drain = Drain(who, rows, time.monotonic() - start, daemon.process.cpu()).with_memory(daemon.process)
    daemon.process.stop()
    return drain


def tail_kafka(run, server, broker, slot, rows):
    """Drains a slot into Kafka. It ends when the topic holds the last row."""
    return into_kafka(run, server, broker, slot, "changes", rows, "no_data")


def snapshot_kafka(run, server, broker, slot, table, rows):
    drain = into_kafka(run, server, broker, slot, table, rows, "initial")
    server.drop_slot(slot)
    return drain


def into_kafka(run, server, broker, slot, table, rows, snapshot):
    broker.create_topic(f"{slot}.public.{table}")
    daemon = Daemon(run, server, slot, table, "tailwater", snapshot=snapshot, broker=broker, linger=LINGER)
    start = time.monotonic(), daemon.process.cpu(), broker.process.cpu()
    daemon.start_source()
    drain = until_in_kafka("Tailwater, Kafka", daemon.process, broker, daemon.topic, rows, start)
    daemon.process.stop()
    return drain


def debezium(connect, server, broker, slot, table, rows, snapshot):
    topic = f"{slot}.public.{table}"
    broker.create_topic(topic)
    start = time.monotonic(), connect.process.cpu(), broker.process.cpu()
    connect.start_connector(slot, server, table, "tailwater", snapshot=snapshot, linger=LINGER)
    drain = until_in_kafka("Debezium, Kafka", connect.process, broker, topic, rows, start)
    connect.delete_connector(slot)
    server.drop_slot(slot)
    return drain


def until_in_kafka(who, process, broker, topic, rows, start):
    """Watches a topic until it holds the rows. `start`: the time, and the seconds of CPU of `process` and of the broker."""
    first = None

    def since_start():
        now = time.monotonic(), process.cpu(), broker.process.cpu()
        return tuple(after - before for after, before in zip(now, start, strict=True))

    def reached():
        nonlocal first
        held = broker.records(topic)
        if first is None and held >= FIRST:
            first = since_start()
        return held >= rows

    wait_until(reached, f"{who}: {rows} rows in {topic}", limit=300, process=process)
    return Drain(who, rows, *since_start(), first if rows > FIRST else None).with_memory(process)
