use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::{Error, KeyPairPem};

/// The YAML of a kubeconfig whose cluster, context and user are all named `default`. `server` is a
/// URL such as `https://127.0.0.1:6443`.
pub fn kubeconfig(server: &str, ca_pem: &str, client: &KeyPairPem) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default", "cluster": {
            "server": server, "certificate-authority-data": BASE64.encode(ca_pem),
        }}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        "current-context": "default",
        "users": [{"name": "default", "user": {
            "client-certificate-data": BASE64.encode(&client.certificate),
            "client-key-data": BASE64.encode(&client.key),
        }}],
    });
    serde_yaml::to_string(&config).expect("a JSON value is YAML too")
}

/// Puts a kubeconfig where only its owner reads it, in one step.
pub fn write_kubeconfig(path: &Path, server: &str, ca_pem: &str, client: &KeyPairPem) -> Result<(), Error> {
    skiff_base::file::replace(path, kubeconfig(server, ca_pem, client).as_bytes(), 0o600)
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}
