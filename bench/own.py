"""Tailwater's own figures, with the embedded log: medians of several rounds.

    tail       one backlog, drained in turn by pg_recvlogical and by Tailwater
    snapshot   one table, read in turn by psql's COPY and by Tailwater, by both strategies
    start      from exec to the first durable record, slot and publication existing
    memory     while one transaction of three million rows arrives, as a whole and streamed
    size       of the stripped program
"""

import shutil
import statistics
import subprocess
import time

import drains
from postgres import Server
from processes import say
from tailwater import Daemon


def figures(run, rows, rounds):
    server = Server(run)
    say(f"a backlog of {rows} rows")
    for round in range(rounds):
        server.create_slot(f"received_{round}")
        server.create_slot(f"tail_{round}")
    server.sql(f"CALL fill('changes', {rows})")
    end = server.end("changes")
    server.sql("CHECKPOINT")
    received, tails = [], []
    for round in range(rounds):
        received.append(server.receive(f"received_{round}", end)[0])
        tails.append(drains.tail_embedded(run, server, f"tail_{round}", rows, end))
        say(f"tail {round}: pg_recvlogical {received[-1]:.2f} s, {describe(tails[-1])}")

    # On the slot and the data of the last round.
    starts = []
    for round in range(rounds):
        end = server.end("changes")
        start = time.monotonic()
        daemon = Daemon(run, server, f"tail_{rounds - 1}", "changes", "tailwater", snapshot="no_data")
        server.wait_for_slot(f"tail_{rounds - 1}", f"confirmed_flush_lsn > '{end}'", daemon.process)
        starts.append(time.monotonic() - start)
        daemon.process.stop()
        say(f"start {round}: {starts[-1] * 1000:.0f} ms")
    server.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")

    say(f"a table of {rows} rows")
    server.sql(f"CALL fill('stock', {rows})")
    server.sql("VACUUM (FREEZE, ANALYZE) stock")
    server.sql("CHECKPOINT")
    server.copy("stock")
    copied, snapshots, by_two, chunked = [], [], [], []
    for round in range(rounds):
        copied.append(server.copy("stock")[0])
        snapshots.append(drains.snapshot_embedded(run, server, f"stock_{round}", "stock", rows))
        by_two.append(drains.snapshot_embedded(run, server, f"stock_by_two_{round}", "stock", rows, connections=2))
        chunked.append(drains.snapshot_embedded(run, server, f"stock_in_chunks_{round}", "stock", rows, "watermark"))
        say(f"snapshot {round}: psql {copied[-1]:.2f} s, {describe(snapshots[-1])}, by two {describe(by_two[-1])}, in chunks {describe(chunked[-1])}")
    server.sql("TRUNCATE changes")

    huge = 3 * rows
    say(f"a transaction of {huge} rows")
    memory = {}
    for way in ("whole", "streamed"):
        server.create_slot(f"huge_{way}")
    server.sql(f"CALL fill('changes', {huge}, {huge})")
    end = server.end("changes")
    for way in ("whole", "streamed"):
        more = {"transaction.streaming": way == "streamed", "spill.directory": str(run.home)}
        drain = drains.tail_embedded(run, server, f"huge_{way}", huge, end, more)
        memory[way] = drain.anonymous
        say(f"{way}: {describe(drain)}")

    program = run.home / "program"
    shutil.copy(run.program, program)
    subprocess.run(["strip", program], check=True)

    def rate(seconds):
        return rows / statistics.median(seconds) / 1000

    def ratio(others, ours):
        return statistics.median(other / own.seconds for other, own in zip(others, ours, strict=True))

    def cpu(all_drains):
        return statistics.median(drain.cpu for drain in all_drains) / rows * 1e6

    largest = max(drain.anonymous for drain in tails + snapshots + by_two + chunked)
    of_consistent = statistics.median(one.seconds / other.seconds for one, other in zip(snapshots, chunked, strict=True))
    return [
        ("figure", "Tailwater", "beside it, in the same run"),
        (f"a backlog of {rows} rows into the embedded log, from exec", f"{rate([drain.seconds for drain in tails]):.0f} thousand rows/s",
         f"`pg_recvlogical -f /dev/null` {rate(received):.0f} thousand; ratio {ratio(received, tails):.2f}"),
        ("CPU of the process", f"{cpu(tails):.1f} µs a row", ""),
        (f"consistent snapshot of {rows} rows, from exec", f"{rate([drain.seconds for drain in snapshots]):.0f} thousand rows/s",
         f'`psql -c "COPY … TO STDOUT" >/dev/null` {rate(copied):.0f} thousand; ratio {ratio(copied, snapshots):.2f}'),
        ("CPU of the process", f"{cpu(snapshots):.1f} µs a row", ""),
        ("… with `snapshot.max.threads: 2`", f"{rate([drain.seconds for drain in by_two]):.0f} thousand rows/s", f"ratio {ratio(copied, by_two):.2f}"),
        (f"watermark snapshot of {rows} rows, from exec", f"{rate([drain.seconds for drain in chunked]):.0f} thousand rows/s",
         f"the consistent one; ratio {of_consistent:.2f}"),
        ("CPU of the process", f"{cpu(chunked):.1f} µs a row", ""),
        ("largest RssAnon of all these runs, `memory.budget: 16MiB`", f"{largest / 1e6:.0f} MB", ""),
        (f"… while a transaction of {huge} rows arrives, whole and streamed",
         f"{memory['whole'] / 1e6:.0f} MB and {memory['streamed'] / 1e6:.0f} MB", ""),
        ("exec to the first durable record", f"{statistics.median(starts) * 1000:.0f} ms", ""),
        ("stripped program", f"{program.stat().st_size / 1e6:.1f} MB", ""),
    ]


def describe(drain):
    return f"{drain.who} {drain.seconds:.2f} s with {drain.cpu:.2f} s of CPU, {drain.anonymous / 1e6:.0f} MB"
