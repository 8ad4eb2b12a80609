use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use jiff::{SignedDuration, Timestamp};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::authority::{Authority, belong_together, covers, days_left, issued_by};
use crate::{Error, KeyPairPem, Request, ServerNames, ServiceAccountKey};

/// A leaf with fewer days than this to live is made anew.
const RENEW_BELOW_DAYS: i64 = 90;

/// Everything under `/var/lib/skiff/server/tls`, made at first start, renewed when near its end.
pub struct ClusterPki {
    directory: PathBuf,
    names: ServerNames,
    server_ca: Authority,
    client_ca: Authority,
    request_header_ca: Authority,
    server: Mutex<KeyPairPem>,
    service_account_key: ServiceAccountKey,
}

impl ClusterPki {
    /// The common name of the front proxy, as upstream's installers call it.
    pub const FRONT_PROXY: &'static str = "front-proxy-client";

    /// Reads what is there and makes what is missing; makes a new serving certificate when it lacks one
    /// of the names or is near its end. An authority that can't be read is an error, never replaced:
    /// every client of the cluster trusts it.
    pub fn ensure(directory: &Path, names: &ServerNames) -> Result<Self, Error> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| Error::Write { path: directory.to_owned(), source })?;
        let server_ca = ensure_authority(directory, "server-ca", "skiff-server-ca")?;
        let client_ca = ensure_authority(directory, "client-ca", "skiff-client-ca")?;
        let request_header_ca = ensure_authority(directory, "request-header-ca", "skiff-request-header-ca")?;
        let server = ensure_server(directory, names, &server_ca)?;
        let service_account_key = ensure_service_account_key(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            names: names.clone(),
            server_ca,
            client_ca,
            request_header_ca,
            server: Mutex::new(server),
            service_account_key,
        })
    }

    /// The authority that clients verify servers with.
    pub fn ca_pem(&self) -> &str {
        self.server_ca.pem()
    }

    /// The authority that servers (this one and the kubelets) verify clients with.
    pub fn client_ca_pem(&self) -> &str {
        self.client_ca.pem()
    }

    /// The authority that extension API servers verify the front proxy with.
    pub fn request_header_ca_pem(&self) -> &str {
        self.request_header_ca.pem()
    }

    /// Who may say to extension API servers whom a request comes from, for one year.
    pub fn front_proxy(&self) -> Result<KeyPairPem, Error> {
        self.request_header_ca.sign_client(Self::FRONT_PROXY, &[])
    }

    /// The API server's own certificate.
    pub fn server(&self) -> KeyPairPem {
        self.server.lock().expect("no one panics while holding it").clone()
    }

    /// Makes a new serving certificate when its end is near. True if it did.
    pub fn renew_server(&self) -> Result<bool, Error> {
        let renewed = ensure_server(&self.directory, &self.names, &self.server_ca)?;
        let mut server = self.server.lock().expect("no one panics while holding it");
        let changed = server.certificate != renewed.certificate;
        *server = renewed;
        Ok(changed)
    }

    /// A client certificate with this identity, for one year. At most two groups.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<KeyPairPem, Error> {
        self.client_ca.sign_client(user, groups)
    }

    /// The certificate that a kubelet serves port 10250 with.
    pub fn kubelet_serving(&self, node: &str, ips: &[IpAddr]) -> Result<KeyPairPem, Error> {
        let names = ServerNames { dns: vec![node.to_owned()], ips: ips.to_vec() };
        self.server_ca.sign_server(&format!("system:node:{node}"), &["system:nodes"], &names)
    }

    /// What the request asks for, by the authority of clients.
    pub fn sign_client_request(
        &self,
        request: &Request,
        usages: &[String],
        life: SignedDuration,
        now: Timestamp,
    ) -> Result<String, Error> {
        self.client_ca.sign_request(request, usages, life, now)
    }

    /// What the request asks for, by the authority of servers.
    pub fn sign_server_request(
        &self,
        request: &Request,
        usages: &[String],
        life: SignedDuration,
        now: Timestamp,
    ) -> Result<String, Error> {
        self.server_ca.sign_request(request, usages, life, now)
    }

    /// Signs and checks service-account tokens.
    pub fn service_account_key(&self) -> &ServiceAccountKey {
        &self.service_account_key
    }
}

/// `None` where the file does not exist.
fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    skiff_base::file::replace(path, text.as_bytes(), 0o600)
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// The key goes to disk first: a certificate without its key would be worth nothing.
fn write_pair(directory: &Path, name: &str, pair: &KeyPairPem) -> Result<(), Error> {
    write(&directory.join(format!("{name}.key")), &pair.key)?;
    write(&directory.join(format!("{name}.crt")), &pair.certificate)
}

fn read_pair(directory: &Path, name: &str) -> Result<Option<KeyPairPem>, Error> {
    let key = read(&directory.join(format!("{name}.key")))?;
    let certificate = read(&directory.join(format!("{name}.crt")))?;
    Ok(certificate.zip(key).map(|(certificate, key)| KeyPairPem { certificate, key }))
}

fn ensure_authority(directory: &Path, name: &str, common_name: &str) -> Result<Authority, Error> {
    let path = directory.join(format!("{name}.crt"));
    if let Some(pair) = read_pair(directory, name)? {
        let loaded = Authority::load(&pair).filter(|_| belong_together(&pair));
        return loaded.ok_or(Error::Damaged { path, what: "certificate authority" });
    }
    if path.exists() {
        // Clients trust it, but its key is lost. (A key alone is that of a first start that did not come to its end.)
        return Err(Error::Damaged { path: directory.join(format!("{name}.key")), what: "key" });
    }
    let (authority, pair) = Authority::generate(&format!("{common_name}@{:016x}", rand::random::<u64>()))?;
    write_pair(directory, name, &pair)?;
    Ok(authority)
}

fn ensure_server(directory: &Path, names: &ServerNames, authority: &Authority) -> Result<KeyPairPem, Error> {
    const NAME: &str = "serving-kube-apiserver";
    if let Some(pair) = read_pair(directory, NAME)? {
        let fresh = days_left(&pair.certificate, Timestamp::now()).is_some_and(|days| days >= RENEW_BELOW_DAYS);
        let usable = belong_together(&pair) && issued_by(&pair.certificate, authority.pem());
        if fresh && usable && covers(&pair.certificate, names) {
            return Ok(pair);
        }
    }
    let pair = authority.sign_server("kube-apiserver", &[], names)?;
    write_pair(directory, NAME, &pair)?;
    Ok(pair)
}

fn ensure_service_account_key(directory: &Path) -> Result<ServiceAccountKey, Error> {
    let path = directory.join("service.key");
    let text = match read(&path)? {
        Some(text) => text,
        None => {
            let text = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Key)?.serialize_pem();
            write(&path, &text)?;
            text
        }
    };
    ServiceAccountKey::load(&text).ok_or(Error::Damaged { path, what: "service-account key" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kubeconfig, subject, write_kubeconfig};
    use std::os::unix::fs::PermissionsExt;

    fn names(dns: &[&str]) -> ServerNames {
        ServerNames {
            dns: dns.iter().map(|d| (*d).to_owned()).collect(),
            ips: vec!["10.43.0.1".parse().expect("an address")],
        }
    }

    fn der(pem: &str) -> Vec<u8> {
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM").1.contents
    }

    #[test]
    fn first_start_makes_and_later_starts_keep() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let first = ClusterPki::ensure(directory.path(), &names(&["kubernetes"])).expect("first start");
        for entry in fs::read_dir(directory.path()).expect("listing") {
            let mode = entry.expect("entry").metadata().expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let second = ClusterPki::ensure(directory.path(), &names(&["kubernetes"])).expect("second start");
        assert_eq!(first.ca_pem(), second.ca_pem());
        assert_eq!(first.client_ca_pem(), second.client_ca_pem());
        assert_eq!(first.server().certificate, second.server().certificate);
        assert_eq!(first.service_account_key().id(), second.service_account_key().id());
        assert!(!second.renew_server().expect("nothing due"));

        let third = ClusterPki::ensure(directory.path(), &names(&["kubernetes", "extra"])).expect("another name");
        assert_eq!(first.ca_pem(), third.ca_pem());
        assert_ne!(first.server().certificate, third.server().certificate);
        assert!(covers(&third.server().certificate, &names(&["kubernetes", "extra"])));
        assert!(!covers(&first.server().certificate, &names(&["extra"])));
    }

    #[test]
    fn damaged_authorities_are_refused_and_damaged_leaves_replaced() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        drop(ClusterPki::ensure(directory.path(), &names(&["a"])).expect("first start"));
        fs::write(directory.path().join("serving-kube-apiserver.crt"), "garbage").expect("written");
        let pki = ClusterPki::ensure(directory.path(), &names(&["a"])).expect("the leaf is made anew");
        assert!(covers(&pki.server().certificate, &names(&["a"])));
        fs::write(directory.path().join("client-ca.crt"), "garbage").expect("written");
        let error = ClusterPki::ensure(directory.path(), &names(&["a"])).err().expect("refused").to_string();
        assert!(error.contains("client-ca.crt"), "{error}");
    }

    #[test]
    fn halves_of_pairs_are_noticed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        drop(ClusterPki::ensure(directory.path(), &names(&["a"])).expect("first start"));
        // A renewal that ended after the first of its two files.
        let stranger = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key").serialize_pem();
        fs::write(directory.path().join("serving-kube-apiserver.key"), &stranger).expect("written");
        let pki = ClusterPki::ensure(directory.path(), &names(&["a"])).expect("the leaf is made anew");
        assert!(belong_together(&pki.server()));
        let key = directory.path().join("server-ca.key");
        let kept = fs::read(&key).expect("a key");
        fs::write(&key, &stranger).expect("written");
        let error = ClusterPki::ensure(directory.path(), &names(&["a"])).err().expect("another's key").to_string();
        assert!(error.contains("server-ca.crt"), "{error}");
        fs::remove_file(&key).expect("removed");
        let error = ClusterPki::ensure(directory.path(), &names(&["a"])).err().expect("no key").to_string();
        assert!(error.contains("server-ca.key"), "{error}");
        fs::write(&key, kept).expect("written");
        let again = ClusterPki::ensure(directory.path(), &names(&["a"])).expect("restored");
        assert_eq!(again.ca_pem(), pki.ca_pem());
    }

    #[test]
    fn identities_and_validity() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let pki = ClusterPki::ensure(directory.path(), &names(&["a"])).expect("first start");
        let groups = ["system:masters", "more"];
        let client = pki.client("admin", &groups).expect("signed");
        let expect = ("admin".to_owned(), groups.map(str::to_owned).to_vec());
        assert_eq!(subject(&der(&client.certificate)), Some(expect));
        assert!(issued_by(&client.certificate, pki.client_ca_pem()));
        assert!(!issued_by(&client.certificate, pki.ca_pem()));
        assert!(pki.client("admin", &["a", "b", "c"]).is_err());
        let kubelet = pki.kubelet_serving("n1", &["10.0.0.1".parse().expect("an address")]).expect("signed");
        assert_eq!(subject(&der(&kubelet.certificate)).expect("a subject").0, "system:node:n1");
        let front = pki.front_proxy().expect("signed");
        assert_eq!(subject(&der(&front.certificate)), Some((ClusterPki::FRONT_PROXY.to_owned(), Vec::new())));
        assert!(issued_by(&front.certificate, pki.request_header_ca_pem()));
        assert!(!issued_by(&front.certificate, pki.client_ca_pem()), "it is no identity of ours");

        // Valid in 1970 (no clock yet) and for most of a year from now.
        let bytes = der(&pki.server().certificate);
        let certificate = x509_parser::parse_x509_certificate(&bytes).expect("DER").1;
        assert_eq!(certificate.validity().not_before.timestamp(), 0);
        assert!(days_left(&pki.server().certificate, Timestamp::now()).expect("a certificate") > 360);

        let text = kubeconfig("https://127.0.0.1:6443", pki.ca_pem(), &client);
        let config: serde_json::Value = serde_yaml::from_str(&text).expect("YAML");
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
        assert_eq!(config["current-context"], "default");
        let path = directory.path().join("admin.kubeconfig");
        write_kubeconfig(&path, "https://127.0.0.1:6443", pki.ca_pem(), &client).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }
}
