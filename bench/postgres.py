"""The database of a run: PostgreSQL 15 with its defaults for durability."""

import os
import signal
import subprocess

from processes import Failure, Process, free_port, owner, timed, wait_until

PROGRAMS = "/usr/lib/postgresql/15/bin"

# Rows of eight columns and some 300 bytes, in transactions of 1000 or all in one.
TABLES = """
CREATE TABLE changes (
    id bigint PRIMARY KEY, account int, status text, amount numeric(12,2), created timestamptz, updated timestamp, note text, detail jsonb
);
CREATE TABLE stock (LIKE changes INCLUDING ALL);
CREATE TABLE moments (
    id bigserial PRIMARY KEY, moment bigint NOT NULL DEFAULT extract(epoch FROM clock_timestamp()) * 1000000, note text
);
CREATE PUBLICATION tailwater FOR TABLE changes, stock;
CREATE PUBLICATION moments FOR TABLE moments;
CREATE PROCEDURE fill(name regclass, rows bigint, rows_of_transaction bigint DEFAULT 1000) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 0 .. rows / rows_of_transaction - 1 LOOP
        EXECUTE format('INSERT INTO %s SELECT i, i %% 1000, ''status '' || i %% 7, i %% 1000000 / 100.0, now(), now(), '
            'repeat(md5(i::text), 3), jsonb_build_object(''item'', i, ''count'', i %% 10, ''gift'', i %% 2 = 0) '
            'FROM generate_series($1, $2) i', name)
            USING n * rows_of_transaction + 1, (n + 1) * rows_of_transaction;
        COMMIT;
    END LOOP;
END $$;
"""


class Server:
    def __init__(self, run):
        if not os.access(f"{PROGRAMS}/pg_recvlogical", os.X_OK):
            raise Failure(f"there is no {PROGRAMS}/pg_recvlogical")
        folder = run.home / "server"
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, owner(True)["user"], owner(True)["group"])
        self.port = free_port()
        self.environment = {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres", "PGDATABASE": "postgres"}
        initdb = [f"{PROGRAMS}/initdb", "-D", f"{folder}/data", "-U", "postgres", "-A", "trust", "--no-locale", "-E", "UTF8"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/", **owner(True))
        settings = {
            "listen_addresses": "127.0.0.1",
            "wal_level": "logical",
            "max_replication_slots": 40,
            "shared_buffers": "512MB",
            "max_wal_size": "16GB",
            "checkpoint_timeout": "1h",
            "autovacuum": "off",
        }
        settings = [f"--{name}={value}" for name, value in settings.items()]
        command = [f"{PROGRAMS}/postgres", "-D", f"{folder}/data", "-p", str(self.port), "-k", str(folder), *settings]
        self.process = Process(run, "postgres", command, end=signal.SIGINT, as_server=True)
        is_ready = [f"{PROGRAMS}/pg_isready", "-q"]
        wait_until(lambda: subprocess.run(is_ready, env=self.environment).returncode == 0, "the server's start", limit=60, process=self.process)
        self.sql(TABLES)

    def psql(self, text):
        return [f"{PROGRAMS}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-A", "-t", "-c", text]

    def sql(self, text, limit=300):
        """The answer to one or more statements."""
        done = subprocess.run(self.psql(text), env=self.environment, timeout=limit, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()

    def end(self, table):
        """The place behind all that is committed; one more row behind it lets a reader see that it is reached."""
        place = self.sql("SELECT pg_current_wal_insert_lsn()")
        self.sql(f"INSERT INTO {table} (id) SELECT least(min(id), 0) - 1 FROM {table}")
        return place

    def create_slot(self, slot):
        self.sql(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")

    def drop_slot(self, slot):
        """Drops a slot as soon as its reader is gone."""
        free = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
        wait_until(lambda: self.sql(free) == "0", f"the end of the reader of {slot}", limit=60)
        self.sql(f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'")

    def wait_for_slot(self, slot, condition, process, limit=300):
        """Waits for a condition on a slot. One session looks: a program started for each look would load the machine."""
        look = f"SELECT FROM pg_replication_slots WHERE slot_name = '{slot}' AND {condition}"
        loop = f"DO $$ BEGIN WHILE NOT EXISTS ({look}) LOOP PERFORM pg_sleep(0.002); END LOOP; END $$"
        waiting = subprocess.Popen(self.psql(loop), env=self.environment)
        try:
            wait_until(lambda: waiting.poll() is not None, f"{condition} of {slot}", limit=limit, process=process, pause=0.002)
        finally:
            waiting.kill()
            waiting.wait()

    def receive_command(self, slot, publication, output, *options):
        command = [f"{PROGRAMS}/pg_recvlogical", "-d", "postgres", "--slot", slot, "--start", "--no-loop", "-f", output, *options]
        return [*command, "-o", "proto_version=1", "-o", f"publication_names={publication}"]

    def receive(self, slot, end):
        """Drains a slot by the server's own tool; seconds, and seconds of CPU."""
        return timed(self.receive_command(slot, "tailwater", "/dev/null", "--endpos", end), env=self.environment, limit=300)

    def copy(self, table):
        """Reads a table by the server's own tool; seconds, and seconds of CPU."""
        return timed(self.psql(f"COPY {table} TO STDOUT"), env=self.environment, limit=300, stdout=subprocess.DEVNULL)
