"""Tailwater on one of its two topic logs."""

import http.client
import json

from processes import Failure, Process, free_port, wait_until


class Daemon:
    """A worker that runs one source. Without a broker the log is embedded and the source runs from a file; with one the log is Kafka and
    the source is made by `start_source`.

    A name stands for the slot, the topic prefix and, on Kafka, the worker's own topics; another name is another worker.
    """

    def __init__(self, run, server, name, table, publication, *, snapshot, broker=None, linger=1, more=()):
        folder = run.home / name
        (folder / "connectors").mkdir(parents=True, exist_ok=True)
        source = {
            "name": name,
            "connector.class": "postgres",
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
        self.source = json.dumps(source)
        if broker is None:
            (folder / "connectors" / "source.yaml").write_text(self.source)
        (folder / "worker.yaml").write_text(json.dumps(worker))
        self.name, self.topic, self.port = name, f"{name}.public.{table}", free_port()
        command = [run.program, "run", "--config", folder / "worker.yaml", "--connectors", folder / "connectors"]
        self.process = Process(run, name, [*command, "--data-dir", folder / "data", "--listen", f"127.0.0.1:{self.port}"])

        if broker is not None:
            wait_until(lambda: self.request("GET", "/connectors")[0] == 200, f"the start of {name}", limit=60, process=self.process)

    def start_source(self):
        """Makes the source on a worker with Kafka, whose own start is none of its business, nor is Kafka Connect's of Debezium's."""
        status, body = self.request("PUT", f"/connectors/{self.name}/config", self.source)
        if status != 201:
            raise Failure(f"{self.name} is refused: {body.decode(errors='replace')}")

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            return exchange(connection, method, path, body)
        finally:
            connection.close()

    def snapshot(self):
        """How far the snapshot of the one table is; `None` while nothing is known."""
        status, body = self.request("GET", f"/connectors/{self.name}/snapshot")
        tables = json.loads(body)["tables"] if status == 200 else []
        return tables[0] if tables else None

    def follow(self):
        """The answer that goes on with each record of the topic, from its first, once the worker serves it."""
        followed = []

        def is_served():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
            try:
                connection.request("GET", f"/topics/{self.topic}/follow")
                answer = connection.getresponse()
            except OSError:
                return False
            followed.append(answer)
            return answer.status == 200

        wait_until(is_served, f"the topic {self.topic}", limit=60, process=self.process)
        return followed[-1]


def exchange(connection, method, path, body=None):
    """Status and body of an answer; no status while nobody listens yet."""
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        connection.close()
        return None, b""
