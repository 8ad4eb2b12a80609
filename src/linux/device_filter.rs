//! Device access on cgroup v2: a small BPF program per container, made here, without libbpf.
//!
//! The kernel asks it at every open and mknod; it answers 1 where a rule allows everything that is asked for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::cgroup::{DeviceRule, DeviceType};

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61;
const AND_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const COPY_32: u8 = 0xbc;
const SET_64: u8 = 0xb7;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, immediate }
}

fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        // The first word holds the kind in its low half and the access in its high half.
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(AND_32, KIND, 0, 0, 0xffff),
        instruction(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        instruction(SHIFT_RIGHT_32, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules {
        let kind = if rule.kind == DeviceType::Block { 1 } else { 2 };
        let access = i32::from(rule.make) | i32::from(rule.read) << 1 | i32::from(rule.write) << 2;
        // Each entry that differs leaves to the next rule; the offsets are filled in when the length is known.
        let mut block = vec![instruction(JUMP_NOT_EQUAL, KIND, 0, 0, kind)];
        if access != 7 {
            block.push(instruction(COPY_32, SCRATCH, ACCESS, 0, 0));
            block.push(instruction(AND_32, SCRATCH, 0, 0, access));
            block.push(instruction(JUMP_NOT_EQUAL_REGISTER, SCRATCH, ACCESS, 0, 0));
        }
        for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(number) = number {
                block.push(instruction(JUMP_NOT_EQUAL, register, 0, 0, number as i32));
            }
        }
        block.push(instruction(SET_64, 0, 0, 0, 1));
        block.push(instruction(EXIT, 0, 0, 0, 0));
        let length = block.len();
        for (index, step) in block.iter_mut().enumerate() {
            if matches!(step.code, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER) {
                step.offset = (length - index - 1) as i16;
            }
        }
        code.extend(block);
    }
    code.push(instruction(SET_64, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

fn bpf<T>(command: i32, attributes: &T) -> io::Result<i64> {
    // SAFETY: the attributes are a prefix of the kernel's union, whose size we give; the rest counts as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn load(rules: &[DeviceRule]) -> io::Result<OwnedFd> {
    let code = program(rules);
    let attributes = LoadAttributes {
        program_type: TYPE_CGROUP_DEVICE,
        instruction_count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttributes::default()
    };
    let fd = bpf(PROG_LOAD, &attributes)?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

/// Loads a program for the rules and attaches it to the group, where it stays as long as the group.
pub(crate) fn attach(group: BorrowedFd<'_>, rules: &[DeviceRule]) -> io::Result<()> {
    let program = load(rules)?;
    let attributes = AttachAttributes {
        target: group.as_raw_fd() as u32,
        program: program.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &attributes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const NULL_ONLY: DeviceRule = DeviceRule {
        kind: DeviceType::Character,
        major: Some(1),
        minor: Some(3),
        read: true,
        write: true,
        make: false,
    };

    /// On v1 machines the unified hierarchy is mounted beside it, and takes the same programs.
    fn unified() -> std::path::PathBuf {
        let both = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let found = both.into_iter().find(|path| std::path::Path::new(path).join("cgroup.controllers").exists());
        found.expect("a cgroup2 mount").into()
    }

    #[test]
    fn only_listed_devices_open() {
        let group = unified().join(format!("skiff-test-devices-{}", std::process::id()));
        std::fs::create_dir(&group).expect("a group");
        let directory = std::fs::File::open(&group).expect("opened");
        let attached = attach(directory.as_fd(), &[NULL_ONLY]);
        let script = format!(
            "echo $$ > {}/cgroup.procs; cat /dev/null && echo null; head -c1 /dev/zero >/dev/null && echo zero; true",
            group.display()
        );
        let output = Command::new("sh").args(["-c", &script]).output().expect("run");
        std::fs::remove_dir(&group).expect("removed");
        attached.expect("attached");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "null\n");
    }
}
