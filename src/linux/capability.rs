//! Capability names and sets.

/// The highest capability that we know (`CAP_CHECKPOINT_RESTORE`).
pub const LAST: u8 = 40;

const NAMES: [&str; LAST as usize + 1] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    pub const EMPTY: Self = Self(0);
    pub const ALL: Self = Self((1 << (LAST as u64 + 1)) - 1);

    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    pub fn contains(self, capability: u8) -> bool {
        self.0 & (1 << capability) != 0
    }

    /// Whether it holds the capability of that name (with or without `CAP_`).
    pub fn has(self, name: &str) -> bool {
        number(name).is_some_and(|capability| self.contains(capability))
    }

    pub fn with(self, capability: u8) -> Self {
        Self(self.0 | 1 << capability)
    }

    pub fn without(self, capability: u8) -> Self {
        Self(self.0 & !(1 << capability))
    }

    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The number of a capability, its name with or without `CAP_`, in any case.
pub fn number(name: &str) -> Option<u8> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare).and_then(|index| u8::try_from(index).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expect) in
            [("CHOWN", Some(0)), ("cap_sys_admin", Some(21)), ("CAP_CHECKPOINT_RESTORE", Some(40)), ("NOPE", None)]
        {
            assert_eq!(number(name), expect, "{name}");
        }
        assert!(CapabilitySet::EMPTY.with(21).has("SYS_ADMIN"));
        assert!(!CapabilitySet::ALL.without(21).has("SYS_ADMIN"));
    }
}
