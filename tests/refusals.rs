//! Bad input of every sort: each gets a message that says what is wrong, and the server stays up.

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use harness::{Machine, NODE, OUTSIDE, eventually, result, skiff, text};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn manifests_that_are_wrong() {
    let machine = Machine::with_server();
    let refused = |manifest: &str, arguments: &[&str]| {
        let file = machine.directory.path().join("manifest.yaml");
        std::fs::write(&file, manifest).expect("write the manifest");
        let file = file.to_string_lossy().into_owned();
        let mut all = vec!["create", "-f", &file];
        all.extend(arguments);
        machine.try_kubectl(&all).expect_err("this manifest is refused")
    };
    for (manifest, arguments, expect) in [
        ("a: [", &[][..], "error"),
        ("apiVersion: v1\nkind: Pot\nmetadata: {name: a}", &[][..], "no matches for kind \"Pot\" in version \"v1\""),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndatas: {a: b}",
            &["--validate=strict"][..],
            "unknown field \"datas\"",
        ),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: A_b}", &[][..], "Invalid value: \"A_b\""),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}", &[][..], "spec.containers: Required value"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: b, ports: [{containerPort: 99999}]}]}",
            &[][..],
            "must be between 1 and 65535",
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {selector: {matchLabels: {a: b}}, \
             template: {metadata: {labels: {a: c}}, spec: {containers: [{name: a, image: b}]}}}",
            &[][..],
            "`selector` does not match template `labels`",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nowhere}",
            &[][..],
            "namespaces \"nowhere\" not found",
        ),
    ] {
        let said = refused(manifest, arguments);
        assert!(said.contains(expect), "{manifest}\n{said}");
    }
    machine.apply("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 30008}]}");
    let said = refused(
        "apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 30008}]}",
        &[],
    );
    assert!(said.contains("Invalid value: 30008: provided port is already allocated"), "{said}");
    assert_eq!(machine.kubectl(&["get", "--raw", "/readyz"]), "ok");
}

#[test]
fn a_machine_that_is_not_fit() {
    let mut machine = Machine::new();
    let run =
        |machine: &Machine, script: &str| text(&machine.command("sh").args(["-c", script]).output().expect("run"));
    let skiff = skiff().to_string_lossy().into_owned();

    let said = run(&machine, &format!("setpriv --reuid 65534 --clear-groups {skiff} server 2>&1"));
    assert!(said.contains("has to run as root"), "{said}");
    let said = run(&machine, &format!("{skiff} server --cluster-cidr 10.42.0.1/16 2>&1"));
    assert!(said.contains("the network is 10.42.0.0/16"), "{said}");
    let said = run(
        &machine,
        &format!("echo 'nod-name: a' > /etc/skiff/config.yaml; {skiff} server 2>&1; rm /etc/skiff/config.yaml"),
    );
    assert!(said.contains("nod-name") && said.contains("--help"), "{said}");
    let said = run(
        &machine,
        &format!(
            "mkdir -p /var/lib/skiff/server/db && printf 'format 99\\nnode 1\\n' > /var/lib/skiff/server/db/FORMAT; {skiff} server 2>&1; rm -r /var/lib/skiff/server"
        ),
    );
    assert!(said.contains("99") && said.contains("/var/lib/skiff/server/db"), "{said}");

    machine.start(&[]);
    machine.wait_ready();
    let said = run(&machine, &format!("{skiff} server 2>&1"));
    assert!(said.contains("runs already") && said.contains("--run-dir"), "a second server: {said}");
    let said = run(&machine, &format!("{skiff} server --data-dir /var/lib/other --run-dir /run/other 2>&1"));
    assert!(said.contains("containers of another Skiff") && said.contains("--cgroup-root"), "groups in use: {said}");
    let other = "--disable-agent --run-dir /run/third";
    let said = run(&machine, &format!("{skiff} server --data-dir /var/lib/third {other} 2>&1"));
    let told = said.contains("another program listens on 0.0.0.0:6443") && said.contains("--https-listen-port");
    assert!(told, "a port that is taken: {said}");
    let said = run(&machine, &format!("{skiff} server --https-listen-port 7443 {other} 2>&1"));
    assert!(said.contains("another process uses the store"), "a data directory that is taken: {said}");
    assert!(machine.server_runs());
}

#[test]
fn a_registry_that_is_down() {
    let machine = Machine::with_server();
    machine.inside.must(&["sh", "-c", &format!("printf 'mirrors:\\n  down.test:\\n    endpoint: [\"http://{OUTSIDE}:5999\"]\\n' > /etc/skiff/registries.yaml")]);
    machine.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: \"down.test/x:1\"}]}",
    );
    eventually("the pod tells why", LIMIT, || {
        let said = machine.kubectl(&["describe", "pod", "a"]);
        let told = said.contains("Failed to pull image \"down.test/x:1\"")
            && said.contains("refused")
            && said.contains("ErrImagePull");
        if told { Ok(()) } else { Err(said) }
    });
}

#[test]
fn garbage_on_the_api_port() {
    let mut machine = Machine::with_server();
    let talk = |bytes: &'static [u8]| {
        let thread = machine.inside.on_thread(move || {
            let mut stream = TcpStream::connect((NODE, 6443)).expect("connect");
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set the time-out");
            stream.write_all(bytes).expect("write");
            let mut answer = Vec::new();
            // A reset is an answer too.
            drop(stream.read_to_end(&mut answer));
            String::from_utf8_lossy(&answer).into_owned()
        });
        thread.join().expect("the client does not panic")
    };
    assert!(talk(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").contains("Client sent an HTTP request to an HTTPS server."));
    talk(b"\x00\xff\x16\x03garbage garbage garbage");
    talk(&[0x16, 0x03, 0x01, 0xff, 0xff, 0x01]);
    let curl = |path: &str, arguments: &str| {
        let script = format!("curl -sSk -o - -w '\\n%{{http_code}}' {arguments} https://127.0.0.1:6443{path}");
        result(&machine.command("sh").args(["-c", &script]).output().expect("run curl"))
            .unwrap_or_else(|why| panic!("{script}: {why}"))
    };
    let big = machine.directory.path().join("big.json");
    std::fs::write(&big, vec![b' '; 4 << 20]).expect("written");
    // What is refused before its body has come is told so, whatever carries it.
    let posted = format!("--data-binary @{} -H 'Content-Type: application/json'", big.display());
    let maps = "/api/v1/namespaces/default/configmaps";
    let token = machine.kubectl(&["create", "token", "default"]);
    for (who, expect) in [("nonsense", "\n401"), (token.trim(), "\n413")] {
        for version in ["--http1.1", "--http2"] {
            let said = curl(maps, &format!("{version} {posted} -H 'Authorization: Bearer {who}'"));
            assert!(said.ends_with(expect) && said.contains("\"kind\": \"Status\""), "{version} {who}: {said}");
        }
    }
    for (path, arguments, expect) in [
        ("/api/v1/pods", "", "\n403"),
        ("/healthz", "", "ok\n200"),
        ("/livez", "", "ok\n200"),
        ("/readyz", "", "ok\n200"),
        ("/version", "", "\n200"),
        ("/version/", "", "\n200"),
        ("/api/v1/pods", "-H 'Authorization: Bearer nonsense'", "\n401"),
    ] {
        let said = curl(path, arguments);
        assert!(said.ends_with(expect), "{path} {arguments}: {said}");
    }
    assert!(machine.server_runs());
    assert_eq!(machine.kubectl(&["get", "--raw", "/readyz"]), "ok");
}

#[test]
fn a_disk_that_is_full() {
    let mut machine = Machine::new();
    machine.inside.must(&[
        "sh",
        "-c",
        "mkdir -p /var/lib/skiff/server && mount -t tmpfs -o size=128m tmpfs /var/lib/skiff/server",
    ]);
    machine.start(&[]);
    machine.wait_ready();
    machine.kubectl(&["create", "configmap", "before", "--from-literal=a=b"]);
    machine.inside.must(&["sh", "-c", "dd if=/dev/zero of=/var/lib/skiff/server/ballast bs=64k 2>/dev/null; true"]);
    let value = format!("--from-literal=a={}", "x".repeat(100_000));
    let refused =
        (0..2000).find_map(|i| machine.try_kubectl(&["create", "configmap", &format!("filler-{i}"), &value]).err());
    let said = refused.expect("a full disk refuses writes");
    assert!(said.contains("the disk of the cluster's store is full: free space"), "{said}");
    assert!(machine.server_runs(), "the server stays up");
    machine.kubectl(&["get", "configmap", "before"]);
    // A start does as one that runs: what is there is shown, what is new waits for room.
    machine.inside.must(&["sh", "-c", "cat /dev/zero >/var/lib/skiff/server/rest 2>/dev/null; true"]);
    machine.end_server(Signal::SIGKILL);
    machine.start(&[]);
    eventually("a start on a full disk", LIMIT, || machine.try_kubectl(&["get", "configmap", "before"]));
    let said = machine.try_kubectl(&["create", "configmap", "late", &value]).expect_err("it is full still");
    assert!(said.contains("the disk of the cluster's store is full: free space"), "{said}");
    machine.inside.must(&["rm", "/var/lib/skiff/server/ballast", "/var/lib/skiff/server/rest"]);
    eventually("with room, writes go on", LIMIT, || {
        machine.try_kubectl(&["create", "configmap", "after", "--from-literal=a=b"])
    });
    machine.end_server(Signal::SIGKILL);
    machine.start(&[]);
    machine.wait_ready();
    machine.kubectl(&["get", "configmap", "before", "after"]);
}
