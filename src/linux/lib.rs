//! Linux without Kubernetes: netlink, nf_tables, namespaces, mounts, cgroups, pidfd, seccomp, BPF.
//! The only crate with `unsafe`.
//!
//! Containers, bottom-up: [`capability`] names and sets, [`process`] fork, pidfd, namespaces and identities,
//! [`socket`] messages with descriptors, [`mount`] the new mount calls and the table of mounts, [`cgroup`] v1 and v2
//! behind one set of verbs (device access on v2 by a BPF program), [`seccomp`] profiles compiled to filters,
//! [`security_module`] AppArmor and SELinux, [`user_namespace`].
//! systemd: [`bus`]. Directories: [`mark`], [`inotify`], [`walk`]. Networks: [`net`]. The process itself: [`memory`].
//!
//! Must not know: Kubernetes.
#![allow(unsafe_code, reason = "system calls; each block says why it is sound")]

pub mod bus;
pub mod capability;
pub mod cgroup;
mod device_filter;
pub mod inotify;
pub mod mark;
pub mod memory;
pub mod mount;
pub mod net;
pub mod process;
pub mod seccomp;
pub mod security_module;
pub mod socket;
pub mod user_namespace;
pub mod walk;
