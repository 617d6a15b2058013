"""A real S3 server on loopback, and the slow line to it that counts."""

import json
import re
import socket
import subprocess
import time
import urllib.request

from common import BINARIES, ENVIRONMENT, MORTAL, ROOT, output, run, say, stop_process

BUCKET = "bench"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """Ceph RGW by scripts/s3-server; its objects are in memory, so that its disk is nobody's."""

    def __init__(self, folder):
        self.env = {"DORMOUSE_S3_DATA": str(folder / "ceph"), "DORMOUSE_S3_PORT": str(free_port()),
                    "DORMOUSE_S3_MON_PORT": str(free_port())}

    def command(self, word, *more, **how):
        return output(ROOT / "scripts" / "s3-server", word, *more, env=self.env, **how)

    def start(self):
        say("starting Ceph RGW")
        self.command("install", timeout=1800)
        self.stop()
        # Its daemons would keep a pipe of ours open: no output is read.
        run(ROOT / "scripts" / "s3-server", "start", env=self.env)
        told = self.command("env")
        words = dict(re.findall(r"(\w+)=(\S+)", told))
        self.endpoint = words.pop("DORMOUSE_ENDPOINT")
        #: What clients need in their environment.
        self.credentials = words
        self.command("bucket", BUCKET)

    def stop(self):
        self.command("stop")
        self.command("wipe")


class Line:
    """The proxy: how slow, what goes wrong, and what went through it."""

    def __init__(self, server, latency_millis, bytes_per_sec):
        self.server = server
        self.latency_millis, self.bytes_per_sec = latency_millis, bytes_per_sec
        self.process = None

    def start(self):
        command = [*MORTAL, BINARIES / "examples" / "s3_proxy", "--upstream", self.server.endpoint]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT)
        told = json.loads(self.process.stdout.readline())
        self.endpoint, self.control = told["endpoint"], told["control"]
        self.slow()

    def stop(self):
        stop_process(self.process)

    def ask(self, path, method="POST", body=None):
        headers = {"Content-Type": "application/json"} if body else {}
        request = urllib.request.Request(self.control + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def slow(self):
        self.ask(f"/wire?latency_millis={self.latency_millis}&bytes_per_sec={self.bytes_per_sec}")

    def fast(self):
        """For what is prepared and not measured."""
        self.ask("/wire?latency_millis=0&bytes_per_sec=0")

    def faults(self, rules, seed=0, away=False):
        """What goes wrong from now on; nothing without rules."""
        script = {"seed": seed, "rules": rules, "away": away}
        self.ask("/faults", body=json.dumps(script).encode())

    def seen(self):
        """What each rule has matched and met."""
        return json.loads(self.ask("/faults", "GET"))

    def reset(self):
        return json.loads(self.ask("/reset"))

    def counts(self):
        return json.loads(self.ask("/counts", "GET"))

    def requests(self):
        return json.loads(self.ask("/requests", "GET"))

    def wait_quiet(self, quiet_secs=0.5, seconds_max=60):
        """Waits until nothing has been asked for a while: background transfers are done."""
        end, seen, since = time.monotonic() + seconds_max, None, time.monotonic()
        while time.monotonic() < end:
            counts = self.counts()
            now = (counts["requests"], counts["in_flight"])
            if now != seen or counts["in_flight"]:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= quiet_secs:
                return
            time.sleep(0.02)


class Rclone:
    """rclone as a plain S3 client: how the baseline moves its archive, and what a mount needs."""

    def __init__(self, folder, line):
        self.config = folder / "rclone.conf"
        keys = line.server.credentials
        self.config.write_text(
            "[s3]\ntype = s3\nprovider = Ceph\nforce_path_style = true\n"
            f"access_key_id = {keys['AWS_ACCESS_KEY_ID']}\n"
            f"secret_access_key = {keys['AWS_SECRET_ACCESS_KEY']}\nendpoint = {line.endpoint}\n"
            "no_check_bucket = true\n")
        # Pieces as large as dormouse's packs, and as many at once as a fast client would send.
        self.command = ["rclone", "--config", str(self.config), "--s3-chunk-size", "16M",
                        "--s3-upload-concurrency", "8", "--multi-thread-streams", "8",
                        "--multi-thread-cutoff", "16M", "--buffer-size", "64M"]

    def text(self, *words):
        return " ".join([*self.command, *(f"'{word}'" for word in words)])
