//! The TLS side of a kubeconfig.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use skiff_tls::Trust;

use crate::kubeconfig::Kubeconfig;
use crate::{Error, Result};

pub(crate) fn config(kubeconfig: &Kubeconfig) -> Result<ClientConfig> {
    let wrong = |what: &str, e: &dyn std::fmt::Display| Error::Config(format!("{what}: {e}"));
    let trust = if kubeconfig.insecure { Trust::Anyone } else { Trust::Roots(roots(kubeconfig)?) };
    let builder = trust.client().map_err(|e| wrong("the certificate authority can't be used", &e))?;
    let mut config = match &kubeconfig.client_certificate {
        Some((certificate, key)) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
                .collect::<std::result::Result<_, _>>()
                .map_err(|e| wrong("the client certificate can't be read", &e))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| wrong("the client key can't be read", &e))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| wrong("the client certificate can't be used", &e))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(kubeconfig: &Kubeconfig) -> Result<RootCertStore> {
    let roots = match &kubeconfig.ca_pem {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                certificate
                    .map_err(|e| e.to_string())
                    .and_then(|certificate| roots.add(certificate).map_err(|e| e.to_string()))
                    .map_err(|e| Error::Config(format!("the certificate authority can't be read: {e}")))?;
            }
            roots
        }
        None => Trust::system(),
    };
    if roots.is_empty() {
        return Err(Error::Config(
            "no certificate authority is known: add certificate-authority-data to the cluster".into(),
        ));
    }
    Ok(roots)
}

/// For servers that nobody can vouch for: HTTP/1.1 with whatever certificate there is.
pub fn unverified_tls() -> ClientConfig {
    Trust::Anyone.client().expect("the provider has all versions' ciphers").with_no_client_auth()
}
