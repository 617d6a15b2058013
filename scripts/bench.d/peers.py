"""Other filesystems on the same S3 server, behind the same slow line."""

import pathlib
import subprocess

from common import ENVIRONMENT, MORTAL, drop_caches, is_mount, remove, run, stop_process, sync, unmount, wait_for
from contenders import Contender
from s3 import BUCKET


class Peer(Contender):
    """A mount with a daemon in the foreground and a cache that can be emptied."""

    forgets = True
    coldness = "unmounted, its cache emptied, caches dropped, mounted again"

    def __init__(self, name, folder, line):
        super().__init__(name, folder / "mount")
        self.folder, self.line, self.process = folder, line, None
        self.cache = folder / "cache"

    def command(self):
        """What serves the mount."""
        raise NotImplementedError

    def attach(self):
        """For servers that are mounted by somebody else."""

    def start(self):
        for folder in (self.path, self.cache):
            folder.mkdir(parents=True, exist_ok=True)
        self.wake()

    def wake(self):
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(
            [*MORTAL, *(str(word) for word in self.command())], stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, env=ENVIRONMENT | self.line.server.credentials)
        self.attach()
        wait_for(lambda: is_mount(self.path), f"{self.name} mounts", 60)

    def sleep(self):
        """Everything in S3, nothing mounted."""
        self.thaw()
        sync(self.path)
        unmount(self.path)
        stop_process(self.process)
        self.process = None

    def stop(self):
        self.thaw()
        unmount(self.path)
        stop_process(self.process)
        self.process = None

    def forget(self):
        """As on another machine."""
        remove(self.cache)
        self.cache.mkdir()

    def make_cold(self, how):
        if how == "remounted":
            self.sleep()
            self.forget()
            drop_caches()
            self.wake()
        else:
            super().make_cold(how)

    def pids(self):
        return [self.process.pid] if self.process else []


class RcloneMount(Peer):
    def command(self):
        config = self.folder / "rclone.conf"
        keys = self.line.server.credentials
        config.write_text(
            "[s3]\ntype = s3\nprovider = Ceph\nforce_path_style = true\nno_check_bucket = true\n"
            f"access_key_id = {keys['AWS_ACCESS_KEY_ID']}\n"
            f"secret_access_key = {keys['AWS_SECRET_ACCESS_KEY']}\nendpoint = {self.line.endpoint}\n")
        return ["rclone", "--config", config, "mount", f"s3:{BUCKET}/{self.name}", self.path,
                "--vfs-cache-mode", "full", "--cache-dir", self.cache, "--dir-cache-time", "1h",
                "--vfs-write-back", "1s", "--file-perms", "0777",
                "--dir-perms", "0777", "--transfers", "16", "--allow-other"]

    def sleep(self):
        # It says nowhere that its write-back is done but in what it sends.
        self.thaw()
        sync(self.path)
        self.line.wait_quiet(quiet_secs=3, seconds_max=900)
        super().sleep()


class S3fs(Peer):
    def start(self):
        # It mounts no folder of a bucket that is not there yet.
        self.line.server.command("bucket", self.name)
        super().start()

    def command(self):
        keys = self.line.server.credentials
        password = self.folder / "password"
        password.write_text(f"{keys['AWS_ACCESS_KEY_ID']}:{keys['AWS_SECRET_ACCESS_KEY']}\n")
        password.chmod(0o600)
        return ["s3fs", self.name, self.path, "-f", "-o", f"url={self.line.endpoint}",
                "-o", "use_path_request_style", "-o", f"passwd_file={password}", "-o", "sigv4",
                "-o", f"use_cache={self.cache}", "-o", "allow_other",
                "-o", "parallel_count=8", "-o", "multipart_size=16", "-o", "endpoint=us-east-1"]


class ZeroFs(Peer):
    """By its 9P server and its own FUSE client, as its manual recommends."""

    def command(self):
        config = self.folder / "zerofs.toml"
        keys = self.line.server.credentials
        config.write_text(f"""[cache]
dir = "{self.cache}"
disk_size_gb = 10.0
[storage]
url = "s3://{BUCKET}/{self.name}"
encryption_password = "benchmark"
[servers.ninep]
unix_socket = "{self.folder / '9p.sock'}"
[aws]
access_key_id = "{keys['AWS_ACCESS_KEY_ID']}"
secret_access_key = "{keys['AWS_SECRET_ACCESS_KEY']}"
endpoint = "{self.line.endpoint}"
default_region = "us-east-1"
allow_http = "true"
""")
        return ["zerofs", "run", "-c", config]

    def attach(self):
        socket = self.folder / "9p.sock"
        wait_for(socket.exists, "zerofs listens", 60)
        run("mount", "-t", "9p", "-o",
            "trans=unix,version=9p2000.L,cache=loose,msize=1048576,access=client", socket, self.path)

    def sleep(self):
        # A 9p mount writes back when it goes; the server is then asked to end.
        super().sleep()
        pathlib.Path(self.folder / "9p.sock").unlink(missing_ok=True)


KINDS = {"rclone": RcloneMount, "s3fs": S3fs, "zerofs": ZeroFs}
