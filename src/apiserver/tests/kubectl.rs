//! Upstream's kubectl, as users have it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use skiff_pki::write_kubeconfig;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{Cluster, with_account};

/// Output and whether it succeeded.
pub(super) async fn kubectl(config: &Path, arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("kubectl")
        .args(arguments)
        .env("KUBECONFIG", config)
        .env("HOME", config.parent().expect("it is in a directory"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl is installed (Debian: kubernetes-client)");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).await.expect("kubectl reads");
    drop(stdin);
    let output = child.wait_with_output().await.expect("kubectl ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// An administrator's kubeconfig.
pub(super) fn config_of(cluster: &Cluster) -> PathBuf {
    let config = cluster.directory.path().join("admin.kubeconfig");
    let client = cluster.pki.client("admin", &["system:masters"]).expect("a certificate");
    let url = format!("https://{}", cluster.server.local_addr());
    write_kubeconfig(&config, &url, cluster.pki.ca_pem(), &client).expect("written");
    config
}

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: web}}
spec:
  containers:
  - {name: c, image: nginx, ports: [{containerPort: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: nginx}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, nodePort: 30008}]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_what_users_do() {
    let cluster = Cluster::start().await;
    with_account(&cluster).await;
    let config = config_of(&cluster);
    for (arguments, expect) in [
        ("apply -f -", "deployment.apps/web created"),
        ("apply -f -", "service/web unchanged"),
        ("get pods", "p      0/1     Pending"),
        ("get pods -o wide", "NOMINATED NODE"),
        ("get svc web", "80:30008/TCP"),
        ("get svc kubernetes -o jsonpath={.spec.clusterIP}", "10.43.0.1"),
        ("get deploy,pods -l app=web", "pod/p"),
        ("get pods -A --field-selector=metadata.name=p -o name", "pod/p"),
        ("scale deployment web --replicas=5", "deployment.apps/web scaled"),
        ("get deployment web -o jsonpath={.spec.replicas}", "5"),
        ("label pod p extra=1", "pod/p labeled"),
        ("annotate pod p note=1", "pod/p annotated"),
        ("patch deployment web -p {\"spec\":{\"replicas\":2}}", "deployment.apps/web patched"),
        ("set image deployment/web c=nginx:2", "deployment.apps/web image updated"),
        ("describe deployment web", "RollingUpdate"),
        ("describe pod p", "QoS Class:"),
        ("create configmap c --from-literal=a=b", "configmap/c created"),
        ("get configmaps c -o yaml", "a: b"),
        ("create namespace n", "namespace/n created"),
        ("api-resources", "deployments"),
        ("explain pod.spec.containers", "containers"),
        ("create deployment made --image=nginx", "deployment.apps/made created"),
        ("expose deployment made --port=80", "service/made exposed"),
        ("get pod p --subresource=resize", "p      0/1     Pending"),
        ("replace -f -", "deployment.apps/web replaced"),
        ("replace -f - --subresource=status", "service/web replaced"),
        ("apply -f - --subresource=status --server-side", "deployment.apps/web serverside-applied"),
        ("patch deployment web --subresource=scale -p {\"spec\":{\"replicas\":4}}", "scale.autoscaling/web patched\n"),
        ("get deployment web --subresource=scale", "NAME   DESIRED   AVAILABLE   AGE\nweb    4         0"),
        ("get nothing", "the server doesn't have a resource type"),
        ("get pod nothing", "Error from server (NotFound): pods \"nothing\" not found"),
        ("delete -f - --wait=false", "service \"web\" deleted"),
        ("delete configmap --all", "configmap \"c\" deleted"),
        ("get pods", "No resources found in default namespace."),
    ] {
        let words: Vec<&str> = arguments.split(' ').collect();
        let (_, text) = kubectl(&config, &words, MANIFEST).await;
        assert!(text.contains(expect), "kubectl {arguments}: {text}");
    }
    cluster.stop().await;
}
