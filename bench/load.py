"""What a throttled snapshot takes from the server's writers.

pgbench's accounts are updated as fast as the server can; then at half that rate, first alone and then while Tailwater reads a table into
its embedded log at a limited rate. Latencies count from the moment at which a transaction was due.
"""

import re
import subprocess
import time

from postgres import Server
from processes import Failure, say, wait_until
from tailwater import Daemon

ROWS = 1_000_000
SECONDS = 20
BYTES_PER_SECOND = 4 << 20


def figures(run):
    server = Server(run)
    say(f"a table of {ROWS} rows, and accounts")
    server.sql(f"CALL fill('stock', {ROWS})")
    server.sql("VACUUM (FREEZE, ANALYZE) stock")
    pgbench(server, "-i", "-s", "20")
    server.sql("CHECKPOINT")
    fastest, _ = writers(run, server)
    rate = fastest / 2
    say(f"{fastest:.0f} transactions a second at most")
    alone = writers(run, server, rate)
    say(f"alone: {alone}")
    daemon = Daemon(
        run, server, "stock", "stock", "tailwater", snapshot="initial", more={"snapshot.max.bytes.per.second": BYTES_PER_SECOND}
    )
    wait_until(lambda: (daemon.snapshot() or {}).get("rows", 0) > 0, "the first rows of the snapshot", limit=60, process=daemon.process)
    before, start = daemon.snapshot()["rows"], time.monotonic()
    beside = writers(run, server, rate)
    read, seconds = daemon.snapshot()["rows"] - before, time.monotonic() - start
    if before + read >= ROWS:
        raise Failure("the snapshot has ended before its writers have")
    say(f"beside: {beside}")
    daemon.process.stop()
    return [
        (f"writers at {rate:.0f} transactions a second, half of what the server can", "transactions a second", "p95"),
        ("alone", f"{alone[0]:.0f}", f"{alone[1]:.2f} ms"),
        (f"beside a snapshot limited to {BYTES_PER_SECOND >> 20} MiB/s, which reads {read / seconds / 1000:.1f} thousand rows/s",
         f"{beside[0]:.0f} ({beside[0] / alone[0] * 100:.1f} %)", f"{beside[1]:.2f} ms"),
    ]


def pgbench(server, *words):
    command = ["pgbench", *words, "postgres"]
    done = subprocess.run(command, env=server.environment, check=True, timeout=SECONDS + 120, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout


def writers(run, server, rate=None):
    """Transactions a second, and the 95th percentile of their latencies in milliseconds."""
    prefix = run.home / "transactions"
    words = ["-n", "-b", "simple-update", "-c", "4", "-j", "1", "-T", str(SECONDS), "-l", f"--log-prefix={prefix}"]
    told = pgbench(server, *words, *(["-R", f"{rate:.0f}"] if rate else []))
    latencies = []
    for log in run.home.glob("transactions.*"):
        latencies += [int(line.split()[2]) for line in log.read_text().splitlines()]
        log.unlink()
    latencies.sort()
    return float(re.search(r"tps = ([\d.]+)", told)[1]), latencies[int(len(latencies) * 0.95)] / 1000
