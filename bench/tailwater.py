"""Tailwater on one of its two topic logs."""

import http.client
import json

from processes import Process, free_port, wait_until


class Daemon:
    """A worker that runs one source. With a broker the log is Kafka, without one it is embedded.

    A name stands for the slot, the topic prefix and, on Kafka, the worker's own topics; another name is another worker.
    """

    def __init__(self, run, server, name, table, publication, *, snapshot, broker=None, linger=1, more=()):
        folder = run.home / name
        (folder / "connectors").mkdir(parents=True, exist_ok=True)
        source = {
            "name": name,
            "connector": "postgres",
            "topic.prefix": name,
            "database.hostname": "127.0.0.1",
            "database.port": server.port,
            "database.user": "postgres",
            "database.password": "unused",
            "database.dbname": "postgres",
            "table.include.list": f"public.{table}",
            "slot.name": name,
            "publication.name": publication,
            "publication.autocreate.mode": "disabled",
            "snapshot.mode": snapshot,
            "status.update.interval.ms": 10,
            **dict(more),
        }
        worker = {"memory.budget": "16MiB"}
        if broker is not None:
            worker |= {"topics.engine": "kafka", "topics.kafka.bootstrap.servers": broker.address}
            worker |= {"topics.kafka.compression.type": "lz4", "topics.kafka.producer.linger.ms": linger, "group.id": name}
            for kind in ("config", "offset", "status"):
                worker[f"{kind}.storage.topic"] = f"{name}-{kind}"
                worker[f"{kind}.storage.replication.factor"] = 1
        # JSON is YAML.
        (folder / "connectors" / "source.yaml").write_text(json.dumps(source))
        (folder / "worker.yaml").write_text(json.dumps(worker))
        self.name, self.topic, self.port = name, f"{name}.public.{table}", free_port()
        command = [run.program, "run", "--config", folder / "worker.yaml", "--connectors", folder / "connectors"]
        self.process = Process(run, name, [*command, "--data-dir", folder / "data", "--listen", f"127.0.0.1:{self.port}"])

    def snapshot(self):
        """How far the snapshot of the one table is; `None` while nothing is known."""
        status, body = get(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30), f"/connectors/{self.name}/snapshot")
        tables = json.loads(body)["tables"] if status == 200 else []
        return tables[0] if tables else None

    def wait_for_topic(self):
        """Returns a connection to the worker, once it serves the topic."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        wait_until(lambda: self.records(connection, 0) is not None, f"the topic {self.topic}", limit=60, process=self.process)
        return connection

    def records(self, connection, offset):
        """The bytes of the records from an offset on; `None` while there is no such topic."""
        status, body = get(connection, f"/topics/{self.topic}/records?offset={offset}&limit=1000")
        return body if status == 200 else None


def get(connection, path):
    """Status and body of an answer; no status while nobody listens yet."""
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        connection.close()
        return None, b""
