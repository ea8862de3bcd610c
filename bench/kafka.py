"""Kafka 4.3 as one broker, and Kafka Connect with real Debezium, tuned for throughput or for latency.

Both are what `scripts/install-test-servers connect` installs. The client that looks at topics is librdkafka's for Python, of
`scripts/install-test-servers clients`.
"""

import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from processes import Process, free_port, wait_until

CACHE = Path(os.environ.get("TAILWATER_TEST_SERVERS") or ("/var/cache/tailwater" if os.geteuid() == 0 else Path.home() / ".cache/tailwater"))
VERSION = "4.3.1"


def write_properties(file, settings):
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def java(libs, heap, *words):
    return ["java", f"-Xmx{heap}", "-Dlog4j2.level=WARN", "-cp", f"{libs}/*", *words]


class Broker:
    def __init__(self, run):
        libs, folder = CACHE / f"kafka-{VERSION}" / "libs", run.home / "kafka"
        folder.mkdir()
        port, controller = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "listeners": f"CLIENT://{self.address},CONTROLLER://127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "CLIENT",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": folder / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
        }
        file = folder / "server.properties"
        write_properties(file, settings)
        storage = java(libs, "256m", "kafka.tools.StorageTool", "format", "--cluster-id", "tailwaterTestCluster00", "--config", str(file))
        subprocess.run(storage, check=True, timeout=60, stdout=subprocess.DEVNULL)
        self.process = Process(run, "kafka", java(libs, "1g", "kafka.Kafka", str(file)))
        self.admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        self.consumer = self.new_consumer()
        run.on_exit(self.consumer.close)
        wait_until(self._answers, "the start of Kafka", limit=60, process=self.process, pause=0.2)

    def _answers(self):
        try:
            return self.admin.list_topics(timeout=1).brokers
        except KafkaException:
            return None

    def new_consumer(self):
        return Consumer({"bootstrap.servers": self.address, "group.id": "look", "enable.auto.commit": False, "log_level": 0})

    def create_topic(self, topic):
        """A topic of one partition. Both sides write to topics that are there."""
        for created in self.admin.create_topics([NewTopic(topic, 1, 1)]).values():
            created.result(30)

    def records(self, topic):
        """How many records a topic holds."""
        return self.consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1]


class Connect:
    """A worker of Kafka Connect with Debezium's connector for PostgreSQL."""

    def __init__(self, run, broker):
        libs, folder, port = CACHE / f"kafka-connect-{VERSION}" / "libs", run.home / "connect", free_port()
        folder.mkdir()
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "bootstrap.servers": broker.address,
            "group.id": "connect",
            "listeners": self.url,
            "plugin.path": CACHE / f"kafka-connect-{VERSION}" / "plugins",
            "key.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "key.converter.schemas.enable": "false",
            "value.converter.schemas.enable": "false",
        }
        for kind in ("config", "offset", "status"):
            settings[f"{kind}.storage.topic"] = f"connect-{kind}"
            settings[f"{kind}.storage.replication.factor"] = 1
        file = folder / "worker.properties"
        write_properties(file, settings)
        self.process = Process(run, "connect", java(libs, "2g", "org.apache.kafka.connect.cli.ConnectDistributed", str(file)))
        wait_until(self._answers, "the start of Kafka Connect", limit=120, process=self.process, pause=0.2)

    def _answers(self):
        try:
            return self.request("GET", "/connectors") is not None
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def request(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=90) as answer:
            return json.loads(answer.read() or "null")

    def start_connector(self, name, server, table, publication, *, snapshot, linger):
        """Debezium with large batches, a short poll and lz4; `linger` in milliseconds is what its producer waits for company."""
        self.request("PUT", f"/connectors/{name}/config", {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "topic.prefix": name,
            "database.hostname": "127.0.0.1",
            "database.port": str(server.port),
            "database.user": "postgres",
            "database.password": "unused",
            "database.dbname": "postgres",
            "plugin.name": "pgoutput",
            "slot.name": name,
            "publication.name": publication,
            "publication.autocreate.mode": "disabled",
            "table.include.list": f"public.{table}",
            "snapshot.mode": snapshot,
            "max.batch.size": "20000",
            "max.queue.size": "80000",
            "poll.interval.ms": "10",
            "producer.override.linger.ms": str(linger),
            "producer.override.compression.type": "lz4",
        })

    def delete_connector(self, name):
        """Its tasks store their offsets and let go of the slot."""
        self.request("DELETE", f"/connectors/{name}")
