#!/usr/bin/env python3
"""Writes a docker archive: busybox with all its names, and on top of it layers of files that tell when one is damaged.

    image.py BUSYBOX ARCHIVE NAME [LAYERS FILES]

Each further layer has FILES files below /part-N, of a few KiB each, and their sums in /sums-N, so that `sha256sum -c`
in a container looks at all of them.
"""
import hashlib
import io
import json
import random
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


def system(archive, busybox):
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


def part(archive, number, files):
    dice = random.Random(number)
    directory(archive, f"part-{number}")
    sums = []
    for index in range(files):
        name, data = f"part-{number}/{index}", dice.randbytes(dice.randrange(16384))
        add(archive, name, data, 0o644)
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
    add(archive, f"sums-{number}", "".join(sums).encode(), 0o644)


def written(fill, *arguments):
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        fill(archive, *arguments)
    return layer.getvalue()


busybox, target, name = sys.argv[1:4]
parts, files = map(int, sys.argv[4:] or (0, 0))
layers = [written(system, busybox)] + [written(part, number, files) for number in range(parts)]
config = json.dumps({
    "architecture": "amd64",
    "os": "linux",
    "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]},
}).encode()
config_name = hashlib.sha256(config).hexdigest() + ".json"
names = [f"layer-{number}.tar" for number in range(len(layers))]
manifest = [{"Config": config_name, "RepoTags": [name], "Layers": names}]
with tarfile.open(target, "w") as archive:
    add(archive, config_name, config, 0o644)
    for layer_name, layer in zip(names, layers):
        add(archive, layer_name, layer, 0o644)
    add(archive, "manifest.json", json.dumps(manifest).encode(), 0o644)
