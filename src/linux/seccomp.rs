//! Seccomp: profiles as OCI writes them, compiled to the kernel's classic BPF without libseccomp.
//!
//! A compiled [`Filter`] is plain data: made once, installed by any number of containers. System calls of another
//! architecture than the executable's (32-bit programs) get `ENOSYS`.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::capability::CapabilitySet;

#[cfg(target_arch = "x86_64")]
const TABLE: &str = include_str!("syscalls/x86_64.txt");
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const TABLE: &str = include_str!("syscalls/aarch64.txt");
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// What OCI calls `linux.seccomp`; also the format of a Localhost profile.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    pub default_action: Action,
    #[serde(default)]
    pub default_errno_ret: Option<u16>,
    #[serde(default)]
    pub syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    pub names: Vec<String>,
    pub action: Action,
    #[serde(default)]
    pub errno_ret: Option<u16>,
    #[serde(default)]
    pub args: Vec<Argument>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Action {
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Argument {
    pub index: u8,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    pub op: Operator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// A program for `seccomp(2)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Vec<libc::sock_filter>);

impl Profile {
    /// Reads a profile as Docker and OCI write it.
    pub fn parse(json: &[u8]) -> io::Result<Self> {
        serde_json::from_slice(json).map_err(|error| io::Error::other(format!("the seccomp profile is wrong: {error}")))
    }

    /// What container runtimes apply by default: a list of allowed calls, wider with more capabilities.
    pub fn runtime_default(capabilities: CapabilitySet) -> Self {
        let rule = |names: &str, action, args: Vec<Argument>, errno_ret| Rule {
            names: names.split_whitespace().map(str::to_owned).collect(),
            action,
            errno_ret,
            args,
        };
        let allow = |names: &str| rule(names, Action::Allow, Vec::new(), None);
        let when = |names: &str, index, value, value_two, op| {
            rule(names, Action::Allow, vec![Argument { index, value, value_two, op }], None)
        };
        let mut syscalls = vec![allow(include_str!("syscalls/default.txt"))];
        // AF_VSOCK (40) reaches the hypervisor, past every network namespace.
        syscalls.push(when("socket", 0, 40, 0, Operator::NotEqual));
        // The personalities that only turn off randomisation or choose a plain one.
        for value in [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff] {
            syscalls.push(when("personality", 0, value, 0, Operator::Equal));
        }
        #[cfg(target_arch = "x86_64")]
        syscalls.push(allow("arch_prctl modify_ldt"));
        for (capability, names) in BY_CAPABILITY {
            if capabilities.has(capability) {
                syscalls.push(allow(names));
            }
        }
        if !capabilities.has("SYS_ADMIN") {
            // No new namespaces; clone3 hides its flags from us, and programs fall back to clone at ENOSYS.
            let namespaces = 0x7e02_0000;
            syscalls.push(when("clone", 0, namespaces, 0, Operator::MaskedEqual));
            syscalls.push(rule("clone3", Action::Errno, Vec::new(), Some(libc::ENOSYS as u16)));
        }
        Self { default_action: Action::Errno, default_errno_ret: None, syscalls }
    }

    /// Compiles the profile; calls that this architecture does not have are left out.
    pub fn compile(&self) -> io::Result<Filter> {
        let numbers = table();
        let mut by_number: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
        for rule in &self.syscalls {
            for number in rule.names.iter().filter_map(|name| numbers.get(name.as_str())) {
                by_number.entry(*number).or_default().push(rule);
            }
        }
        let default = action(self.default_action, self.default_errno_ret);
        let mut program = Assembler::new();
        for (number, rules) in &by_number {
            program.syscall(*number, rules, default)?;
        }
        program.finish(default)
    }
}

const BY_CAPABILITY: [(&str, &str); 14] = [
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
];

fn table() -> BTreeMap<&'static str, u32> {
    let mut words = TABLE.split_whitespace();
    let mut table = BTreeMap::new();
    while let (Some(name), Some(number)) = (words.next(), words.next()) {
        table.insert(name, number.parse().expect("the table holds pairs of a name and a number"));
    }
    table
}

fn action(action: Action, errno: Option<u16>) -> u32 {
    match action {
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::Errno => libc::SECCOMP_RET_ERRNO | u32::from(errno.unwrap_or(libc::EPERM as u16)),
        Action::Trace => libc::SECCOMP_RET_TRACE | u32::from(errno.unwrap_or(libc::EPERM as u16)),
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Allow => libc::SECCOMP_RET_ALLOW,
    }
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

/// A jump to the end of the current rule, to be filled in.
const FAIL: u8 = 255;

struct Assembler {
    code: Vec<libc::sock_filter>,
    /// Neighbouring numbers with one answer: (first, last, answer), not yet written.
    range: Option<(u32, u32, u32)>,
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

impl Assembler {
    fn new() -> Self {
        let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        let mut code = vec![
            step(LOAD, 0, 0, OFFSET_ARCH),
            step(JUMP_EQUAL, 1, 0, AUDIT_ARCH),
            step(RETURN, 0, 0, enosys),
            step(LOAD, 0, 0, OFFSET_NUMBER),
        ];
        if cfg!(target_arch = "x86_64") {
            // x32 has the same architecture and bit 30 in its numbers.
            code.extend([step(JUMP_GREATER_OR_EQUAL, 0, 1, 0x4000_0000), step(RETURN, 0, 0, enosys)]);
        }
        Self { code, range: None }
    }

    fn syscall(&mut self, number: u32, rules: &[&Rule], default: u32) -> io::Result<()> {
        if let Some(rule) = rules.first().filter(|rule| rule.args.is_empty()) {
            let answer = action(rule.action, rule.errno_ret);
            match &mut self.range {
                Some((_, last, same)) if *last + 1 == number && *same == answer => *last = number,
                _ => {
                    self.flush();
                    self.range = Some((number, number, answer));
                }
            }
            return Ok(());
        }
        self.flush();
        let mut block = Vec::new();
        for rule in rules {
            block.extend(conditions(rule)?);
            if rule.args.is_empty() {
                break;
            }
        }
        if rules.iter().all(|rule| !rule.args.is_empty()) {
            block.push(step(RETURN, 0, 0, default));
        }
        let length = u8::try_from(block.len()).map_err(|_| io::Error::other("too many conditions for one call"))?;
        self.code.push(step(JUMP_EQUAL, 0, length, number));
        self.code.extend(block);
        Ok(())
    }

    fn flush(&mut self) {
        if let Some((first, last, answer)) = self.range.take() {
            if first == last {
                self.code.push(step(JUMP_EQUAL, 0, 1, first));
            } else {
                self.code.push(step(JUMP_GREATER_OR_EQUAL, 0, 2, first));
                self.code.push(step(JUMP_GREATER, 1, 0, last));
            }
            self.code.push(step(RETURN, 0, 0, answer));
        }
    }

    fn finish(mut self, default: u32) -> io::Result<Filter> {
        self.flush();
        self.code.push(step(RETURN, 0, 0, default));
        if self.code.len() > 4096 {
            return Err(io::Error::other("the seccomp profile is too long for the kernel"));
        }
        Ok(Filter(self.code))
    }
}

/// One rule: all its arguments must hold, else the next rule is tried with the accumulator free to use.
fn conditions(rule: &Rule) -> io::Result<Vec<libc::sock_filter>> {
    let mut code = Vec::new();
    for argument in &rule.args {
        if argument.index > 5 {
            return Err(io::Error::other("a system call has six arguments"));
        }
        // Little-endian: the low half comes first.
        let low_at = OFFSET_ARGUMENTS + 8 * u32::from(argument.index);
        let (low, high) = (argument.value as u32, (argument.value >> 32) as u32);
        let load_high = step(LOAD, 0, 0, low_at + 4);
        let load_low = step(LOAD, 0, 0, low_at);
        match argument.op {
            Operator::Equal => {
                code.extend([load_high, step(JUMP_EQUAL, 0, FAIL, high), load_low, step(JUMP_EQUAL, 0, FAIL, low)])
            }
            Operator::NotEqual => {
                code.extend([load_high, step(JUMP_EQUAL, 0, 2, high), load_low, step(JUMP_EQUAL, FAIL, 0, low)])
            }
            Operator::MaskedEqual => {
                let (want_low, want_high) = (argument.value_two as u32, (argument.value_two >> 32) as u32);
                code.extend([
                    load_high,
                    step(AND, 0, 0, high),
                    step(JUMP_EQUAL, 0, FAIL, want_high),
                    load_low,
                    step(AND, 0, 0, low),
                    step(JUMP_EQUAL, 0, FAIL, want_low),
                ]);
            }
            Operator::Greater | Operator::GreaterOrEqual => {
                let compare = if argument.op == Operator::Greater { JUMP_GREATER } else { JUMP_GREATER_OR_EQUAL };
                // A greater high half decides; an equal one leaves it to the low half.
                code.extend([
                    load_high,
                    step(JUMP_GREATER, 3, 0, high),
                    step(JUMP_EQUAL, 0, FAIL, high),
                    load_low,
                    step(compare, 0, FAIL, low),
                ]);
            }
            Operator::Less | Operator::LessOrEqual => {
                let compare = if argument.op == Operator::Less { JUMP_GREATER_OR_EQUAL } else { JUMP_GREATER };
                code.extend([
                    load_high,
                    step(JUMP_GREATER_OR_EQUAL, 0, 3, high),
                    step(JUMP_EQUAL, 0, FAIL, high),
                    load_low,
                    step(compare, FAIL, 0, low),
                ]);
            }
        }
    }
    code.push(step(RETURN, 0, 0, action(rule.action, rule.errno_ret)));
    let length = code.len();
    for (index, step) in code.iter_mut().enumerate() {
        let beyond = u8::try_from(length - index - 1).map_err(io::Error::other)?;
        if matches!(step.code, JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_OR_EQUAL) {
            if step.jt == FAIL {
                step.jt = beyond;
            }
            if step.jf == FAIL {
                step.jf = beyond;
            }
        }
    }
    Ok(code)
}

impl Filter {
    /// Applies the filter to the calling thread and what it becomes, for good. Needs `no_new_privs` or CAP_SYS_ADMIN.
    pub fn install(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).map_err(io::Error::other)?,
            filter: self.0.as_ptr().cast_mut(),
        };
        // SAFETY: the program is valid for the call; the kernel copies and checks it.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_LOG,
                &raw const program,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the filter answers: the kernel's machine, for tests.
    #[cfg(test)]
    fn run(&self, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [0u8; 64];
        data[0..4].copy_from_slice(&number.to_le_bytes());
        data[4..8].copy_from_slice(&AUDIT_ARCH.to_le_bytes());
        for (index, argument) in arguments.iter().enumerate() {
            data[16 + 8 * index..24 + 8 * index].copy_from_slice(&argument.to_le_bytes());
        }
        let (mut pc, mut accumulator) = (0, 0u32);
        loop {
            let libc::sock_filter { code, jt, jf, k } = self.0[pc];
            pc += 1;
            let mut jump = |holds: bool| pc += usize::from(if holds { jt } else { jf });
            match code {
                LOAD => {
                    let at = k as usize;
                    accumulator = u32::from_le_bytes(data[at..at + 4].try_into().expect("four bytes"));
                }
                AND => accumulator &= k,
                JUMP_EQUAL => jump(accumulator == k),
                JUMP_GREATER => jump(accumulator > k),
                JUMP_GREATER_OR_EQUAL => jump(accumulator >= k),
                RETURN => return k,
                _ => panic!("unknown instruction {code:#x}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

    fn number(name: &str) -> u32 {
        table()[name]
    }

    #[test]
    fn the_default_profile() {
        let plain = Profile::runtime_default(CapabilitySet::EMPTY).compile().expect("compiled");
        let admin = Profile::runtime_default(CapabilitySet::ALL).compile().expect("compiled");
        let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        for (name, argument, expect, expect_admin) in [
            ("read", 0, ALLOW, ALLOW),
            ("execve", 0, ALLOW, ALLOW),
            ("futex", 0, ALLOW, ALLOW),
            ("mount", 0, EPERM, ALLOW),
            ("unshare", 0, EPERM, ALLOW),
            ("bpf", 0, EPERM, ALLOW),
            ("init_module", 0, EPERM, ALLOW),
            ("keyctl", 0, EPERM, EPERM),
            ("io_uring_setup", 0, EPERM, EPERM),
            ("clone", 0x11, ALLOW, ALLOW),
            ("clone", 0x1000_0000, EPERM, ALLOW),
            ("clone3", 0, enosys, ALLOW),
            ("socket", 2, ALLOW, ALLOW),
            ("socket", 40, EPERM, EPERM),
            ("personality", 0xffff_ffff, ALLOW, ALLOW),
            ("personality", 0x4_0000, EPERM, EPERM),
        ] {
            let arguments = [argument, 0, 0, 0, 0, 0];
            assert_eq!(plain.run(number(name), arguments), expect, "{name} {argument:#x}");
            assert_eq!(admin.run(number(name), arguments), expect_admin, "{name} {argument:#x} as admin");
        }
    }

    #[test]
    fn operators_over_64_bits() {
        let values = [0u64, 1, 5, 6, u64::from(u32::MAX), 1 << 32, (1 << 32) + 5, (5 << 32) + 1, u64::MAX];
        type Check = fn(u64, u64) -> bool;
        let operators: [(Operator, Check); 6] = [
            (Operator::Equal, |a, b| a == b),
            (Operator::NotEqual, |a, b| a != b),
            (Operator::Less, |a, b| a < b),
            (Operator::LessOrEqual, |a, b| a <= b),
            (Operator::Greater, |a, b| a > b),
            (Operator::GreaterOrEqual, |a, b| a >= b),
        ];
        for (op, holds) in operators {
            for value in values {
                let argument = Argument { index: 2, value, value_two: 0, op };
                let rule =
                    Rule { names: vec!["read".into()], action: Action::Allow, errno_ret: None, args: vec![argument] };
                let profile = Profile { default_action: Action::Errno, default_errno_ret: None, syscalls: vec![rule] };
                let filter = profile.compile().expect("compiled");
                for given in values {
                    let expect = if holds(given, value) { ALLOW } else { EPERM };
                    let answer = filter.run(number("read"), [7, 7, given, 7, 7, 7]);
                    assert_eq!(answer, expect, "{given:#x} {op:?} {value:#x}");
                }
            }
        }
    }

    #[test]
    fn reads_what_docker_writes() {
        let json = br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
            {"names":["chmod","nosuchcall"],"action":"SCMP_ACT_ERRNO","errnoRet":38},
            {"names":["kill"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":1,"value":9,"op":"SCMP_CMP_EQ"}]}]}"#;
        let filter = Profile::parse(json).expect("parsed").compile().expect("compiled");
        assert_eq!(filter.run(number("read"), [0; 6]), ALLOW);
        assert_eq!(filter.run(number("fchmodat"), [0; 6]), ALLOW);
        assert_eq!(filter.run(number("kill"), [1, 15, 0, 0, 0, 0]), ALLOW);
        assert_eq!(filter.run(number("kill"), [1, 9, 0, 0, 0, 0]), libc::SECCOMP_RET_KILL_PROCESS);
        assert!(Profile::parse(b"{}").is_err());
    }
}
