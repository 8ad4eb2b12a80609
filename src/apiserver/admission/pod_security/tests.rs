use super::*;
use serde_json::json;

fn at(level: Level, version: Version) -> LevelVersion {
    LevelVersion { level, version }
}

fn told(level: Level, version: Version, spec: Value) -> String {
    details(&findings(at(level, version), &json!({"metadata": {}, "spec": spec})))
}

#[test]
fn a_plain_pod_is_baseline_and_a_careful_one_restricted() {
    let plain = json!({"containers": [{"name": "c"}]});
    assert_eq!(told(Level::Privileged, Version::Latest, json!({"hostPID": true})), "");
    assert_eq!(told(Level::Baseline, Version::Latest, plain.clone()), "");
    assert_eq!(
        told(Level::Restricted, Version::Latest, plain.clone()),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != \
         true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" \
         must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(
        told(Level::Restricted, Version::Minor(7), plain),
        "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)"
    );
    let context =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}});
    let careful = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": context}], "volumes": [{"name": "v", "emptyDir": {}}]});
    assert_eq!(told(Level::Restricted, Version::Latest, careful), "");
}

#[test]
fn baseline_checks_speak_upstreams_words() {
    let check =
        |spec: Value, expect: &str| assert_eq!(told(Level::Baseline, Version::Latest, spec.clone()), expect, "{spec}");
    let of = |context: Value| json!({"containers": [{"name": "a", "securityContext": context}]});
    check(json!({"hostNetwork": true, "hostIPC": true}), "host namespaces (hostNetwork=true, hostIPC=true)");
    check(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "hostPath volumes (volume \"v\")");
    check(
        json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 0}]}, {"name": "b", "ports": [{"hostPort": 443}]}]}),
        "hostPort (containers \"a\", \"b\" use hostPorts 443, 80)",
    );
    check(of(json!({"privileged": true})), "privileged (container \"a\" must not set securityContext.privileged=true)");
    check(
        of(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "BPF"]}})),
        "non-default capabilities (container \"a\" must not include \"BPF\", \"SYS_ADMIN\" in \
         securityContext.capabilities.add)",
    );
    check(
        of(json!({"procMount": "Unmasked"})),
        "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
    );
    let mut relaxed = of(json!({"procMount": "Unmasked"}));
    relaxed["hostUsers"] = json!(false);
    check(relaxed, "");
    check(
        of(json!({"seLinuxOptions": {"type": "x", "user": "u"}})),
        "seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
    );
    let mut both = of(json!({"seccompProfile": {"type": "Unconfined"}}));
    both["securityContext"] = json!({"seccompProfile": {"type": "Unconfined"}, "sysctls": [{"name": "net.ipv4.tcp_rmem"}, {"name": "kernel.x"}]});
    check(
        both,
        "seccompProfile (pod and container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\"), \
         forbidden sysctls (kernel.x)",
    );
    check(
        of(json!({"appArmorProfile": {"type": "Unconfined"}})),
        "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")",
    );
    check(
        of(json!({"windowsOptions": {"hostProcess": true}})),
        "hostProcess (container \"a\" must not set securityContext.windowsOptions.hostProcess=true)",
    );
    check(
        json!({"initContainers": [{"name": "i", "livenessProbe": {"httpGet": {"host": "h"}}}]}),
        "probe or lifecycle host (container \"i\" uses probe or lifecycle host \"h\")",
    );
}

#[test]
fn versions_differ() {
    let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
    assert_eq!(told(Level::Baseline, Version::Minor(31), sysctl.clone()), "forbidden sysctls (net.ipv4.tcp_rmem)");
    assert_eq!(told(Level::Baseline, Version::Minor(99), sysctl), "");
    let probe = json!({"containers": [{"name": "c", "livenessProbe": {"tcpSocket": {"host": "h"}}}]});
    assert_eq!(told(Level::Baseline, Version::Minor(33), probe), "");
    let pod =
        json!({"metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}}, "spec": {}});
    assert_eq!(
        details(&findings(at(Level::Baseline, Version::Minor(18)), &pod)),
        "seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
    );
    assert_eq!(findings(at(Level::Baseline, Version::Minor(19)), &pod), []);
}

#[test]
fn restricted_checks_speak_upstreams_words() {
    let context = json!({"allowPrivilegeEscalation": false, "runAsNonRoot": false, "runAsUser": 0,
        "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}, "seccompProfile": {"type": "Localhost"}});
    let spec = json!({"containers": [{"name": "c", "securityContext": context}],
        "volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "nfs": {"server": "s"}}]});
    assert_eq!(
        told(Level::Restricted, Version::Latest, spec),
        "unrestricted capabilities (container \"c\" must not include \"CHOWN\" in securityContext.capabilities.add), \
         restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\"), runAsNonRoot != \
         true (container \"c\" must not set securityContext.runAsNonRoot=false), runAsUser=0 (container \"c\" must not set \
         runAsUser=0)"
    );
}

#[test]
fn only_new_images_and_containers_are_looked_at_again() {
    let old = json!({"spec": {"containers": [{"name": "a", "image": "x"}]}});
    let check = |change: fn(&mut Value), expect: bool| {
        let mut new = old.clone();
        change(&mut new);
        assert_eq!(is_significant(&new, &old), expect, "{new}");
    };
    check(|_| {}, false);
    check(|pod| pod["metadata"] = json!({"labels": {"a": "b"}}), false);
    check(|pod| pod["spec"]["containers"][0]["image"] = json!("y"), true);
    check(|pod| pod["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "z"}]), true);
}

#[test]
fn pods_that_are_there_are_counted_by_what_is_wrong() {
    let pod = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let pods = [
        pod("b", json!({"hostPID": true})),
        pod("a", json!({"hostIPC": true})),
        pod("c", json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]})),
        pod("d", json!({})),
    ];
    assert_eq!(
        existing("x", at(Level::Baseline, Version::Latest), &pods),
        [
            "existing pods in namespace \"x\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 1 other pod): host namespaces",
            "c: privileged",
        ]
    );
}
