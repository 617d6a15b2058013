"""PostgreSQL: pgbench, kill -9 of the server and a restart, amcheck, a resumed workspace."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time

import common
import tools
from common import Failed, run

USER = "postgres"


class Server:
    """A server whose data is in one folder."""

    def __init__(self, folder, log, port):
        self.folder, self.log, self.port = folder, log, port
        log.touch()
        shutil.chown(log, USER, USER)
        versions = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
        if not versions:
            raise Failed("PostgreSQL is not installed")
        self.programs = versions[-1]

    def call(self, program, *words, **how):
        how.setdefault("out", subprocess.PIPE)
        environment = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": USER}
        told = run("runuser", "-u", USER, "--", self.programs / program, *words, cwd="/",
                   env=environment, **how)
        return (told or b"").decode()

    def start(self):
        settings = (f"-c port={self.port} -c listen_addresses=127.0.0.1 "
                    "-c unix_socket_directories= -c shared_buffers=32MB")
        self.call("pg_ctl", "start", "-w", "-t", 120, "-D", self.folder, "-o", settings,
                  "-l", self.log, out=subprocess.DEVNULL)

    def stop(self):
        self.call("pg_ctl", "stop", "-w", "-m", "fast", "-D", self.folder)

    def kill(self):
        """The server's process and all of its children at once."""
        first = int((self.folder / "postmaster.pid").read_text().split()[0])
        children = [pid for pid in tools.processes() if parent_of(pid) == first]
        for pid in [first, *children]:
            tools.kill(pid)

    def ask(self, query):
        return self.call("psql", "-At", "-c", query, USER).strip()

    def check(self):
        """Every index against its table, and what pgbench keeps in balance."""
        self.call("pg_amcheck", "--install-missing", "--heapallindexed", "--parent-check", "-d",
                  USER)
        sums = {self.ask(f"select coalesce(sum({column}), 0) from {table}")
                for table, column in (("pgbench_accounts", "abalance"), ("pgbench_tellers",
                                      "tbalance"), ("pgbench_branches", "bbalance"),
                                      ("pgbench_history", "delta"))}
        if len(sums) != 1:
            raise Failed(f"the sums of the tables differ: {sums}")
        return int(self.ask("select count(*) from pgbench_history"))


def parent_of(pid):
    with contextlib.suppress(OSError):
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return None


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def postgres(bed):
    seconds = bed.size(5, 30)
    with bed.workspace() as workspace:
        workspace.start("--checkpoint-interval", "2s")
        folder = workspace.path / "data"
        folder.mkdir(mode=0o700)
        shutil.chown(folder, USER, USER)
        server = Server(folder, bed.folder / "server.log", free_port())
        server.call("initdb", "-k", "-A", "trust", "-D", folder)
        server.start()
        server.call("pgbench", "-q", "-i", "-s", 3, USER)
        server.call("pgbench", "-n", "-c", 4, "-j", 2, "-T", seconds, USER)
        counted = server.check()
        for _ in bed.rounds(1, 3):
            acknowledged = killed(bed, server)
            counted, before = server.check(), counted
            if counted < before + acknowledged:
                raise Failed(f"{counted} transactions left of {before} and {acknowledged}")
        server.stop()
        workspace.resume_empty()
        server.start()
        if server.check() != counted:
            raise Failed("the resumed workspace has other rows")
        server.stop()
        server.call("pg_checksums", "--check", "-D", folder)
    bed.count(counted)


def killed(bed, server):
    """Transactions, each acknowledged before the next, until the server is killed."""
    log = bed.folder / "transactions"
    script = bed.folder / "insert.sql"
    script.write_text("insert into pgbench_history (tid, bid, aid, delta) values (1, 1, 1, 0);\n")
    for path in (log, script):
        path.touch()
        os.chmod(path, 0o666)
    with open(log, "wb") as out:
        command = ["runuser", "-u", USER, "--", server.programs / "pgbench", "-n", "-c", "2", "-f",
                   script, "-T", "60", "--progress", "1", "--verbose-errors", USER]
        environment = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": USER}
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd="/",
                                 env=common.ENVIRONMENT | environment)
    time.sleep(bed.random().uniform(1, 4))
    server.kill()
    child.wait(60)
    acknowledged = processed(log.read_text(errors="replace"))
    server.start()
    return acknowledged


def processed(text):
    """Transactions that pgbench had an answer to."""
    for line in text.splitlines():
        if line.startswith("number of transactions actually processed:"):
            return int(line.split(":")[1].split("/")[0])
    raise Failed(f"pgbench does not say how many transactions there were:\n{text[-1500:]}")
