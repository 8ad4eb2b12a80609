//! The other world of cgroups: on a machine with v1, the same tests once more in a mount namespace that has v2 only.
//!
//! Its controllers stay with v1, so this shows everything but limits: groups, ends, device programs, namespaces, execs.

use std::process::Command;

use skiff_linux::cgroup::Cgroups;

crate::tests![on_v2];

const AGAIN: [&str; 8] = [
    "containers::security::devices_are_out_of_reach",
    "containers::security::given_devices",
    "containers::execs::it_is_as_the_container_is",
    "containers::lifecycle::a_shared_process_namespace",
    "containers::lifecycle::host_namespaces",
    "containers::lifecycle::removal_leaves_nothing",
    "containers::crashes::the_supervisor_is_killed",
    "containers::streams::a_terminal",
];

async fn on_v2() {
    if Cgroups::detect().expect("cgroups").is_v2() {
        // Then all the others ran on it.
        return;
    }
    let own = std::env::current_exe().expect("this executable");
    // unshare(1) makes all mounts private first: nothing of this reaches the host.
    let script = "umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    for test in AGAIN {
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(&own)
            .args([test, "--exact"])
            .output()
            .expect("unshare runs");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && stdout.contains("ok"), "{test} on v2:\n{stdout}{stderr}");
    }
}
