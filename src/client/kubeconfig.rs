//! Reads kubeconfig files: whom to ask, and who asks.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::{Error, Result};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct File {
    clusters: Vec<Named>,
    contexts: Vec<Named>,
    users: Vec<Named>,
    current_context: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: String,
    cluster: Option<Cluster>,
    context: Option<Context>,
    user: Option<User>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
    exec: Option<serde_yaml::Value>,
    auth_provider: Option<serde_yaml::Value>,
}

/// One context of a kubeconfig with its files read: all that is needed to reach a server.
#[derive(Clone)]
pub struct Kubeconfig {
    /// `https://host:port`, perhaps with a path.
    pub server: String,
    /// The namespace of the context; `default` where it names none.
    pub namespace: String,
    /// The certificate authorities to trust; `None`: the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Trust any server.
    pub insecure: bool,
    /// The name that the server's certificate must hold, where it isn't the host of `server`.
    pub tls_server_name: Option<String>,
    /// A certificate chain and its key, both PEM.
    pub client_certificate: Option<(Vec<u8>, Vec<u8>)>,
    pub auth: Auth,
}

/// What goes into the `Authorization` header.
#[derive(Clone, Default)]
pub enum Auth {
    #[default]
    None,
    Token(String),
    /// Read anew for a while now and then, since such tokens are renewed in place.
    TokenFile(PathBuf),
    Basic {
        user: String,
        password: String,
    },
}

impl Kubeconfig {
    /// From the text of a kubeconfig: its current context, or the named one. Files that it names are
    /// looked for from the working directory.
    pub fn parse(text: &str, context: Option<&str>) -> Result<Self> {
        Self::resolve(text, context, Path::new(""))
    }

    /// From a file; the files that it names are looked for beside it.
    pub fn load(path: &Path, context: Option<&str>) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|e| Error::Config(format!("read {}: {e}", path.display())))?;
        Self::resolve(&text, context, path.parent().unwrap_or(Path::new("")))
    }

    fn resolve(text: &str, context: Option<&str>, directory: &Path) -> Result<Self> {
        let file: File =
            serde_yaml::from_str(text).map_err(|e| Error::Config(format!("the kubeconfig is invalid: {e}")))?;
        let context_name = context.unwrap_or(&file.current_context);
        if context_name.is_empty() {
            return Err(Error::Config("the kubeconfig has no current-context: name a context".into()));
        }
        let context = pick(&file.contexts, "context", context_name)?.context.as_ref().unwrap_or(&EMPTY_CONTEXT);
        let cluster = pick(&file.clusters, "cluster", &context.cluster)?.cluster.as_ref();
        let cluster = cluster
            .filter(|cluster| !cluster.server.is_empty())
            .ok_or_else(|| Error::Config(format!("cluster {:?} of the kubeconfig has no server", context.cluster)))?;
        if cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()) {
            return Err(Error::Config(format!(
                "cluster {:?} has a proxy-url, which is not supported",
                context.cluster
            )));
        }
        let nobody = User::default();
        let user = match context.user.as_str() {
            "" => &nobody,
            name => pick(&file.users, "user", name)?.user.as_ref().unwrap_or(&nobody),
        };
        let certificate = read(&user.client_certificate_data, &user.client_certificate, directory)?;
        let key = read(&user.client_key_data, &user.client_key, directory)?;
        let client_certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(Error::Config(format!(
                    "user {:?} has only one of client certificate and key",
                    context.user
                )));
            }
        };
        Ok(Self {
            server: cluster.server.trim_end_matches('/').to_owned(),
            namespace: context.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into()),
            ca_pem: read(&cluster.certificate_authority_data, &cluster.certificate_authority, directory)?,
            insecure: cluster.insecure_skip_tls_verify,
            tls_server_name: cluster.tls_server_name.clone().filter(|name| !name.is_empty()),
            client_certificate,
            auth: auth(user, &context.user, directory)?,
        })
    }
}

static EMPTY_CONTEXT: Context = Context { cluster: String::new(), user: String::new(), namespace: None };

fn pick<'a>(all: &'a [Named], what: &str, name: &str) -> Result<&'a Named> {
    all.iter()
        .find(|named| named.name == name)
        .ok_or_else(|| Error::Config(format!("the kubeconfig has no {what} {name:?}")))
}

/// Data within the kubeconfig goes before a file, as with kubectl.
fn read(data: &Option<String>, path: &Option<PathBuf>, directory: &Path) -> Result<Option<Vec<u8>>> {
    if let Some(data) = data.as_deref().filter(|data| !data.is_empty()) {
        let clean: String = data.split_whitespace().collect();
        let decoded = STANDARD.decode(clean);
        return decoded.map(Some).map_err(|e| Error::Config(format!("the kubeconfig holds broken base64: {e}")));
    }
    let Some(path) = path.as_ref().filter(|path| !path.as_os_str().is_empty()) else { return Ok(None) };
    let path = directory.join(path);
    fs::read(&path).map(Some).map_err(|e| Error::Config(format!("read {}: {e}", path.display())))
}

fn auth(user: &User, name: &str, directory: &Path) -> Result<Auth> {
    if user.exec.is_some() || user.auth_provider.is_some() {
        let what = if user.exec.is_some() { "exec" } else { "auth-provider" };
        return Err(Error::Config(format!(
            "user {name:?} of the kubeconfig authenticates by {what}, which is not supported: use a token or a client certificate"
        )));
    }
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(path) = &user.token_file {
        return Ok(Auth::TokenFile(directory.join(path)));
    }
    if let Some(token) = filled(&user.token) {
        return Ok(Auth::Token(token));
    }
    Ok(match filled(&user.username) {
        Some(name) => Auth::Basic { user: name, password: user.password.clone().unwrap_or_default() },
        None => Auth::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
apiVersion: v1
kind: Config
current-context: one
clusters:
- name: c
  cluster: {server: "https://10.0.0.1:6443/", certificate-authority-data: Y2E=}
- name: files
  cluster: {server: "https://10.0.0.2:6443", certificate-authority: ca.pem, tls-server-name: kubernetes}
contexts:
- name: one
  context: {cluster: c, user: cert, namespace: app}
- name: two
  context: {cluster: files, user: token}
- name: half
  context: {cluster: c, user: half}
- name: plugin
  context: {cluster: c, user: plugin}
- name: lost
  context: {cluster: gone, user: token}
users:
- name: cert
  user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}
- name: token
  user: {token: secret}
- name: half
  user: {client-certificate-data: Y2VydA==}
- name: plugin
  user: {exec: {command: aws}}
"#;

    #[test]
    fn reads_contexts_and_the_files_beside() {
        let one = Kubeconfig::parse(TEXT, None).expect("the current context");
        assert_eq!((one.server.as_str(), one.namespace.as_str()), ("https://10.0.0.1:6443", "app"));
        assert_eq!(one.ca_pem.as_deref(), Some(b"ca".as_slice()));
        assert_eq!(one.client_certificate, Some((b"cert".to_vec(), b"key".to_vec())));

        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("config"), TEXT).expect("written");
        fs::write(directory.path().join("ca.pem"), "file").expect("written");
        let two = Kubeconfig::load(&directory.path().join("config"), Some("two")).expect("the named context");
        assert_eq!(two.ca_pem.as_deref(), Some(b"file".as_slice()));
        assert_eq!((two.namespace.as_str(), two.tls_server_name.as_deref()), ("default", Some("kubernetes")));
        assert!(matches!(two.auth, Auth::Token(token) if token == "secret"));
    }

    #[test]
    fn says_what_is_wrong() {
        let check = |text: &str, context: Option<&str>, expect: &str| match Kubeconfig::parse(text, context) {
            Err(Error::Config(message)) => assert!(message.contains(expect), "{message}"),
            _ => panic!("{context:?} must not be accepted"),
        };
        check(TEXT, Some("none"), r#"no context "none""#);
        check(TEXT, Some("lost"), r#"no cluster "gone""#);
        check(TEXT, Some("half"), "only one of client certificate and key");
        check(TEXT, Some("plugin"), "by exec");
        check("{}", None, "no current-context");
        check("[", None, "invalid");
    }
}
