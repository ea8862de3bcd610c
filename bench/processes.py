"""The processes of a run: started, measured, and ended whatever happens to the run."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """What is wrong, for the person who runs this."""


def say(text):
    print(f"-- {text}", file=sys.stderr, flush=True)


class Process:
    """A server or a daemon. What it says goes into a file of the run's folder."""

    def __init__(self, run, name, command, *, end=signal.SIGTERM, as_server=False):
        self.name, self.log, self.end = name, run.home / f"{name}.log", end
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True, **owner(as_server)
            )
        self.largest_anonymous = self.largest_resident = 0
        self.sampler = threading.Thread(target=self._sample, daemon=True)
        self.sampler.start()
        run.on_exit(self.stop)

    def cpu(self):
        """Seconds of user and system time so far."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def _sample(self):
        """Keeps the largest RssAnon and RSS in bytes."""
        while self.child.poll() is None:
            try:
                lines = Path(f"/proc/{self.child.pid}/status").read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                return
            sizes = {name: int(value.split()[0]) * 1024 for name, value in (line.split(":", 1) for line in lines) if name in ("RssAnon", "VmRSS")}
            self.largest_anonymous = max(self.largest_anonymous, sizes.get("RssAnon", 0))
            self.largest_resident = max(self.largest_resident, sizes.get("VmRSS", 0))
            time.sleep(0.1)

    def check(self):
        if self.child.poll() is not None:
            raise Failure(f"{self.name} has ended:\n{self.last_words()}")

    def last_words(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def stop(self, limit=60):
        """Ends it in order; a process that does not end in time is killed."""
        if self.child.poll() is not None:
            return
        self.child.send_signal(self.end)
        try:
            self.child.wait(limit)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def owner(as_server):
    """Postgres refuses to run as root."""
    if not as_server or os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": os.getgrouplist("postgres", user.pw_gid)}


def wait_until(condition, what, *, limit, process=None, pause=0.02):
    """Waits for `condition` to hold, no longer than `limit` seconds, while `process` runs."""
    deadline = time.monotonic() + limit
    while not (found := condition()):
        if process is not None:
            process.check()
        if time.monotonic() > deadline:
            words = f":\n{process.last_words()}" if process is not None else ""
            raise Failure(f"{what} takes more than {limit} s{words}")
        time.sleep(pause)
    return found


def timed(command, *, limit, **options):
    """Runs a program to its end; seconds that it took, and seconds of CPU."""
    before, start = os.times(), time.monotonic()
    subprocess.run(command, check=True, timeout=limit, stdin=subprocess.DEVNULL, **options)
    seconds, after = time.monotonic() - start, os.times()
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


class Run:
    """A folder for everything, and what is to be ended, the last one first."""

    def __init__(self, program):
        self.program = program
        self.endings = contextlib.ExitStack()
        self.on_exit = self.endings.callback
        self.home = Path(tempfile.mkdtemp(prefix="tailwater-bench-"))
        self.on_exit(shutil.rmtree, self.home, ignore_errors=True)
        self.home.chmod(0o755)

    def __enter__(self):
        def interrupt(*_):
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, interrupt)
        signal.signal(signal.SIGINT, interrupt)
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave servers behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.endings.close()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
