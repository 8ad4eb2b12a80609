//! AppArmor and SELinux: whether the kernel enforces them, and the profile or label that the next program gets.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::{mount, walk};

/// Which of them are in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SecurityModules {
    pub app_armor: bool,
    pub se_linux: bool,
}

impl SecurityModules {
    pub fn detect() -> Self {
        Self::detect_below(Path::new("/sys"))
    }

    fn detect_below(sys: &Path) -> Self {
        let enabled = fs::read_to_string(sys.join("module/apparmor/parameters/enabled"));
        Self {
            app_armor: sys.join("kernel/security/apparmor").exists() && enabled.is_ok_and(|text| text.starts_with('Y')),
            se_linux: sys.join("fs/selinux/enforce").exists(),
        }
    }
}

/// The names of the AppArmor profiles that are loaded.
pub fn app_armor_profiles() -> io::Result<Vec<String>> {
    fs::read_to_string("/sys/kernel/security/apparmor/profiles").map(|text| profile_names(&text))
}

/// Of lines like `docker-default (enforce)`.
fn profile_names(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.rsplit_once(" (")).map(|(name, _)| name.trim().to_owned()).collect()
}

/// The next execve of this process runs under that AppArmor profile.
pub fn set_app_armor_profile(profile: &str) -> io::Result<()> {
    let text = format!("exec {profile}");
    match write_in_proc("thread-self/attr/apparmor/exec", &text) {
        // Before Linux 5.8 there is one file for all modules.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && !Path::new("/proc/thread-self/attr/apparmor").exists() =>
        {
            write_in_proc("thread-self/attr/exec", &text)
        }
        other => other,
    }
}

/// The next execve of this process runs with that SELinux label.
pub fn set_se_linux_label(label: &str) -> io::Result<()> {
    write_in_proc("thread-self/attr/exec", label)
}

/// A file in its place would take the text, and the program run unconfined.
fn write_in_proc(path: &str, text: &str) -> io::Result<()> {
    io::Write::write_all(&mut mount::open_in_proc(path, libc::O_WRONLY)?, text.as_bytes())
}

/// Gives a file, or a directory with all in it on its file system, an SELinux label. Containers that run already may do
/// there what they like meanwhile.
pub fn relabel(path: &Path, label: &str) -> io::Result<()> {
    walk::visit(path, true, &mut |file, _| {
        xattr::set_deref(format!("/proc/self/fd/{}", file.as_raw_fd()), "security.selinux", label.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |path: &str| directory.path().join(path);
        let detect = || SecurityModules::detect_below(directory.path());
        assert_eq!(detect(), SecurityModules::default());
        for path in ["module/apparmor/parameters", "kernel/security/apparmor", "fs/selinux"] {
            fs::create_dir_all(at(path)).expect("a directory");
        }
        fs::write(at("module/apparmor/parameters/enabled"), "N\n").expect("written");
        assert_eq!(detect(), SecurityModules::default());
        fs::write(at("module/apparmor/parameters/enabled"), "Y\n").expect("written");
        fs::write(at("fs/selinux/enforce"), "1").expect("written");
        assert_eq!(detect(), SecurityModules { app_armor: true, se_linux: true });
    }

    #[test]
    fn names_of_profiles() {
        let list = "docker-default (enforce)\n/usr/bin/man (complain)\nnot a profile\n:ns://a b (enforce)\n";
        assert_eq!(profile_names(list), ["docker-default", "/usr/bin/man", ":ns://a b"]);
    }

    /// Where no module takes them, that is said, not passed over.
    #[test]
    fn a_profile_that_no_kernel_takes() {
        let modules = SecurityModules::detect();
        if !modules.app_armor {
            assert!(set_app_armor_profile("none").is_err());
        }
        if !modules.se_linux {
            assert!(set_se_linux_label("system_u:system_r:container_t:s0").is_err());
        }
    }

    #[test]
    fn labels_reach_every_file() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("sub")).expect("a directory");
        fs::write(directory.path().join("sub/file"), "").expect("a file");
        std::os::unix::fs::symlink("/etc", directory.path().join("link")).expect("a link");
        // The attribute is a plain one for root where SELinux is not there to judge it.
        relabel(directory.path(), "system_u:object_r:container_file_t:s0").expect("labelled (needs root)");
        for path in ["", "sub", "sub/file", "link"] {
            let label = xattr::get(directory.path().join(path), "security.selinux").expect("read");
            assert_eq!(label.as_deref(), Some(&b"system_u:object_r:container_file_t:s0"[..]), "{path}");
        }
        assert_eq!(xattr::get("/etc", "security.selinux").expect("read"), None);
    }

    #[test]
    fn a_directory_that_becomes_a_link_leads_nowhere() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let directory = tempfile::tempdir().expect("a directory");
        let [volume, outside] = ["volume", "outside"].map(|name| directory.path().join(name));
        fs::create_dir_all(volume.join("sub")).expect("a directory");
        fs::create_dir(&outside).expect("a directory");
        fs::write(outside.join("secret"), "").expect("a file");
        std::os::unix::fs::symlink(&outside, volume.join("other")).expect("a link");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let (here, flags) = (nix::fcntl::AT_FDCWD, nix::fcntl::RenameFlags::RENAME_EXCHANGE);
                    let turned = nix::fcntl::renameat2(here, &volume.join("sub"), here, &volume.join("other"), flags);
                    turned.expect("exchanged");
                }
            });
            for _ in 0..500 {
                drop(relabel(&volume, "system_u:object_r:container_file_t:s0"));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let label = xattr::get(outside.join("secret"), "security.selinux").expect("read");
        assert_eq!(label, None, "a file outside was labelled");
    }
}
