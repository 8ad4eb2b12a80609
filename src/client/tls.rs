//! The TLS side of a kubeconfig.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::kubeconfig::Kubeconfig;
use crate::{Error, Result};

pub(crate) fn config(kubeconfig: &Kubeconfig) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let wrong = |what: &str, e: &dyn std::fmt::Display| Error::Config(format!("{what}: {e}"));
    let verifier: Arc<dyn ServerCertVerifier> = if kubeconfig.insecure {
        Arc::new(TrustAll { provider: provider.clone() })
    } else {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(kubeconfig)?), provider.clone())
            .build()
            .map_err(|e| wrong("the certificate authority can't be used", &e))?
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong("set up TLS", &e))?
        // The verifier is rustls' own, unless the kubeconfig asks for none.
        .dangerous()
        .with_custom_certificate_verifier(verifier);
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
    let mut roots = RootCertStore::empty();
    match &kubeconfig.ca_pem {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                certificate
                    .map_err(|e| e.to_string())
                    .and_then(|certificate| roots.add(certificate).map_err(|e| e.to_string()))
                    .map_err(|e| Error::Config(format!("the certificate authority can't be read: {e}")))?;
            }
        }
        None => {
            // What the system holds that rustls can't use, it can't use; others may do.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(Error::Config(
            "no certificate authority is known: add certificate-authority-data to the cluster".into(),
        ));
    }
    Ok(roots)
}

/// For servers that nobody can vouch for: HTTP/1.1 with whatever certificate there is.
pub fn unverified_tls() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has all versions' ciphers")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAll { provider }))
        .with_no_client_auth()
}

/// For `insecure-skip-tls-verify`.
#[derive(Debug)]
struct TrustAll {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
