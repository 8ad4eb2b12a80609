#!/usr/bin/env python3
"""Takes the power away from a virtual machine at chosen moments, and looks at what its next start makes of it.

    resets.py DIRECTORY ACCELERATOR CPU SLOWER

One machine runs and is killed; qemu writes down all that it wrote to its disk, in order, with its flushes. From that any
moment can be made: the disk as it was, without what had not been flushed, or with a part of it, as power loss leaves it.
Each of some moments while an image was unpacked becomes a disk, which is started. The dice's seed is printed;
SKIFF_VM_SEED=N throws the same.
"""
import os
import random
import re
import struct
import subprocess
import sys
import threading

DIRECTORY, ACCELERATOR, CPU, SLOWER = sys.argv[1:]
BASE, LOG, CUT = (os.path.join(DIRECTORY, name) for name in ("disk", "disk-log", "disk-cut"))
# A machine that hangs is ended, and is a failure.
LIMIT_S = 600
# The format of dm-log-writes: a sector of its own for each entry, then its data.
SECTOR = 512
FLUSH = 1
# What a disk writes in one piece.
PIECE = 4096


def copy(target):
    subprocess.run(["cp", "--sparse=always", BASE, target], check=True)


class Log:
    """The entries so far: where their data is, where it belongs, its length, whether it is a flush."""

    def __init__(self):
        self.file = open(LOG, "rb")
        self.entries = []
        self.next = SECTOR

    def read(self):
        while True:
            self.file.seek(self.next)
            head = self.file.read(32)
            if len(head) < 32:
                return len(self.entries)
            sector, sectors, flags, _ = struct.unpack("<4Q", head)
            if not sectors and not flags:
                return len(self.entries)
            data, length = self.next + SECTOR, sectors * SECTOR
            self.entries.append((data, sector * SECTOR, length, flags & FLUSH))
            self.next = data + length

    def replay(self, target, end, kept, dice):
        """What is on the disk when power goes after `end` entries, and a share of what was not flushed was written."""
        copy(target)
        flushed = max((at for at in range(end) if self.entries[at][3]), default=0)
        lost = 0
        with open(target, "r+b") as disk:
            for at, (data, place, length, _) in enumerate(self.entries[:end]):
                for begin in range(0, length, PIECE if at > flushed else max(length, 1)):
                    if at > flushed and dice.random() >= kept:
                        lost += 1
                        continue
                    self.file.seek(data + begin)
                    disk.seek(place + begin)
                    disk.write(self.file.read(min(PIECE, length - begin) if at > flushed else length))
        return lost


def boot(disk, words, heard, log=None):
    """Runs a machine until it ends or `heard` (which gets each line of the checks) says so."""
    drive = ["-blockdev", f"driver=file,node-name=file,filename={disk},cache.no-flush=on"]
    top = "file"
    if log:
        drive += ["-blockdev", f"driver=file,node-name=log,filename={log},cache.no-flush=on",
                  "-blockdev", "driver=blklogwrites,node-name=logged,file=file,log=log"]
        top = "logged"
    drive += ["-device", f"virtio-blk-pci,drive={top},discard=off,write-zeroes=off"]
    line = f"root=/dev/vda rw console=ttyS0 quiet panic=1 net.ifnames=0 systemd.show_status=0 skiff.slower={SLOWER} skiff.part=resets {words}"
    machine = subprocess.Popen(
        ["qemu-system-x86_64", "-accel", ACCELERATOR, "-cpu", CPU, "-smp", "2", "-m", "2048", "-nographic", "-no-reboot",
         "-kernel", f"{DIRECTORY}/kernel", "-initrd", f"{DIRECTORY}/initrd", "-append", line, *drive,
         "-nic", "user,model=virtio,restrict=on"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    watchdog = threading.Timer(LIMIT_S, machine.kill)
    watchdog.start()
    try:
        with open(f"{DIRECTORY}/console-resets", "ab") as console:
            for raw in machine.stdout:
                console.write(raw)
                console.flush()
                said = re.search(r"checks\[\d+\]: (.*)", raw.decode(errors="replace").rstrip())
                if said and heard(said[1]):
                    # No signal that it could hear: as pulling the plug.
                    machine.kill()
    finally:
        watchdog.cancel()
        machine.kill()
        machine.wait()


def record():
    """The run that is written down, and what the host had heard by which entry."""
    working = f"{DIRECTORY}/disk-recorded"
    copy(working)
    open(LOG, "wb").close()
    log = Log()
    marks = []

    def heard(said):
        if said in ("begins", "imported") or said.startswith("acknowledged "):
            marks.append((log.read(), said))
        else:
            print(said, flush=True)
        return said == "imported" or said.startswith("FAILED")

    boot(working, "", heard, LOG)
    os.remove(working)
    if not marks or marks[-1][1] != "imported":
        sys.exit("resets: the machine did not come to the end of the import")
    return log, marks


def main():
    seed = int(os.environ.get("SKIFF_VM_SEED") or random.randrange(1 << 32))
    print(f"SKIFF_VM_SEED={seed}", flush=True)
    dice = random.Random(seed)
    log, marks = record()
    begin, end = marks[0][0], marks[-1][0]
    print(f"{end - begin} writes and flushes while layers were unpacked, and {len(marks) - 2} objects", flush=True)
    moments = [
        # Name, entries, the share that is kept of what was not flushed.
        ("while the first layers are unpacked", begin + int((end - begin) * dice.uniform(0.05, 0.5)), 0),
        ("while layers are unpacked, some writes done", begin + int((end - begin) * dice.uniform(0.5, 0.9)), 0.5),
        ("when they get their names", begin + int((end - begin) * dice.uniform(0.9, 1)), 0.5),
        ("right after the import", end, 0),
    ]
    for name, moment, kept in moments:
        lost = log.replay(CUT, moment, kept, dice)
        heard = [said for at, said in marks if at <= moment]
        acknowledged = sum(said.startswith("acknowledged") for said in heard)
        imported = "yes" if "imported" in heard else "no"
        print(f"- power loss {name}: {moment - begin} of {end - begin} writes, of which {lost} pages are lost", flush=True)
        said = []

        def hear(line):
            said.append(line)
            print(line, flush=True)

        boot(CUT, f"skiff.acknowledged={acknowledged} skiff.imported={imported}", hear)
        os.remove(CUT)
        if "all checks held" not in said:
            sys.exit(f"resets: {name}: failed")
    print("all checks held")


main()
