#!/usr/bin/env python3
"""Writes a docker archive of one layer: busybox with all its names.

    image.py BUSYBOX ARCHIVE
"""
import hashlib
import io
import json
import subprocess
import sys
import tarfile


def add(archive, name, data, mode=0o755):
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def link(archive, name, target):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    archive.addfile(entry)


def directory(archive, name, mode=0o755):
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    archive.addfile(entry)


busybox, target = sys.argv[1:]
layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as archive:
    for name in ("bin", "etc", "root", "proc", "sys", "dev"):
        directory(archive, name)
    directory(archive, "tmp", 0o1777)
    with open(busybox, "rb") as file:
        add(archive, "bin/busybox", file.read())
    for name in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split():
        if name != "busybox":
            link(archive, f"bin/{name}", "busybox")
    add(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)
    add(archive, "etc/group", b"root:x:0:\n", 0o644)
diff_id = "sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()
config = json.dumps({
    "architecture": "amd64",
    "os": "linux",
    "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
    "rootfs": {"type": "layers", "diff_ids": [diff_id]},
}).encode()
name = hashlib.sha256(config).hexdigest() + ".json"
manifest = [{"Config": name, "RepoTags": ["busybox:1.36"], "Layers": ["layer.tar"]}]
with tarfile.open(target, "w") as archive:
    add(archive, name, config, 0o644)
    add(archive, "layer.tar", layer.getvalue(), 0o644)
    add(archive, "manifest.json", json.dumps(manifest).encode(), 0o644)
