"""Facts about the machine, as the page of results shows them. No name and no path of it."""

import os
import pathlib
import platform

from common import has, output


def first(text, default=""):
    return text.splitlines()[0].strip() if text.strip() else default


def facts(folder):
    cpu = [line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text()
           .splitlines() if line.startswith("model name")]
    memory = pathlib.Path("/proc/meminfo").read_text().split()[1]
    virtual = "virtual machine" if "hypervisor" in pathlib.Path("/proc/cpuinfo").read_text() else ""
    told = {
        "cores": str(os.cpu_count()),
        "cpu": " ".join(filter(None, (cpu[0] if cpu else platform.machine(), virtual))),
        "memory": f"{int(memory) / 1024 / 1024:.0f} GiB",
        "kernel": "Linux " + platform.release().split("-")[0],
        "disk": output("findmnt", "-n", "-o", "FSTYPE", "-T", folder).strip(),
    }
    for name, command in {"git": ("git", "--version"), "node": ("node", "--version"),
                          "rustc": ("rustc", "--version"), "tar": ("tar", "--version"),
                          "rclone": ("rclone", "version"), "s3fs": ("s3fs", "--version"),
                          "zerofs": ("zerofs", "--version")}.items():
        if has(command[0]):
            told[name] = first(output(*command))
    return told
