"""Figures beside the real peer: one server, one broker, one after another.

    tail       one backlog, drained by pg_recvlogical, by Tailwater into its embedded log and into Kafka, by Debezium into Kafka
    snapshot   one table, read by psql's COPY and by the same three
    latency    from commit to the reader of the topic, at 1,000 transactions a second

Kafka's topics have one partition; both sides write JSON without schemas, compressed by lz4. The first million rows of a run into Kafka
are shown apart: in it the JVMs of broker and peer warm up.
"""

import drains
import latency
from drains import FIRST, Drain
from kafka import Broker, Connect
from postgres import Server
from processes import say


def figures(run, rows):
    server, broker = Server(run), Broker(run)
    say(f"a backlog of {rows} rows")
    for slot in ("tail_received", "tail_embedded", "tail_kafka", "tail_debezium"):
        server.create_slot(slot)
    server.sql(f"CALL fill('changes', {rows})")
    end = server.end("changes")
    server.sql("CHECKPOINT")
    # Its own reader's warm-up is the page cache's.
    tail = [Drain("`pg_recvlogical -f /dev/null`", rows, *server.receive("tail_received", end))]
    told(tail)
    tail.append(drains.tail_embedded(run, server, "tail_embedded", rows, end))
    told(tail)
    tail.append(drains.tail_kafka(run, server, broker, "tail_kafka", rows))
    told(tail)
    for slot in ("tail_received", "tail_embedded", "tail_kafka"):
        server.drop_slot(slot)

    say(f"a table of {rows} rows")
    server.sql("VACUUM (FREEZE, ANALYZE) changes")
    server.sql("CHECKPOINT")
    server.copy("changes")
    snapshot = [Drain("`psql -c \"COPY … TO STDOUT\" >/dev/null`", rows, *server.copy("changes"))]
    told(snapshot)
    snapshot.append(drains.snapshot_embedded(run, server, "snapshot_embedded", "changes", rows))
    told(snapshot)
    snapshot.append(drains.snapshot_kafka(run, server, broker, "snapshot_kafka", "changes", rows))
    told(snapshot)

    say("latency")
    latencies = [latency.floor(run, server)]
    told(latencies)
    latencies.append(latency.embedded(run, server))
    told(latencies)
    latencies.append(latency.kafka(run, server, broker))
    told(latencies)

    say("Debezium")
    connect = Connect(run, broker)
    tail.append(drains.debezium(connect, server, broker, "tail_debezium", "changes", rows, "no_data"))
    told(tail)
    snapshot.append(drains.debezium(connect, server, broker, "snapshot_debezium", "changes", rows, "initial"))
    told(snapshot)
    latencies.append(latency.debezium(run, server, broker, connect))
    told(latencies)
    return throughput("tail", rows, tail), throughput("snapshot", rows, snapshot), latency_table(latencies)


def told(measured):
    say(str(measured[-1]))


def throughput(what, rows, measured):
    """Rates behind the first million rows where that is shown apart, else of all."""
    table = [(f"{what} of {rows} rows", "thousand rows/s", "first million", "CPU a row", "broker's CPU a row", "RssAnon", "RSS")]

    def micro(seconds, of):
        return "" if seconds is None else f"{seconds / of * 1e6:.1f} µs"

    def mega(size):
        return "" if size is None else f"{size / 1e6:.0f} MB"

    for drain in measured:
        warm, seconds, cpu, broker_cpu = drain.warm()
        first = "" if drain.first is None else f"{FIRST / drain.first[0] / 1000:.0f}, {micro(drain.first[1], FIRST)}"
        table.append((drain.who, f"{warm / seconds / 1000:.0f}", first, micro(cpu, warm), micro(broker_cpu, warm), mega(drain.anonymous), mega(drain.resident)))
    return table


def latency_table(measured):
    table = [(f"commit to topic at {latency.RATE} transactions a second", "p50", "p95", "p99", "largest")]
    for one in measured:
        table.append((one.who, *(f"{value:.1f} ms" for value in (one.p50, one.p95, one.p99, one.largest))))
    return table
