//! TLS: our certificate, and client certificates where clients have one.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring::{default_provider, sign::any_supported_type};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use skiff_pki::{ClusterPki, KeyPairPem};

use crate::error::Error;

/// The certificate that is shown now, to clients or to servers; it can be replaced while the server runs.
#[derive(Debug)]
pub(crate) struct Serving(ArcSwap<CertifiedKey>);

impl Serving {
    pub fn new(pair: &KeyPairPem) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self(ArcSwap::new(certified(pair)?))))
    }

    pub fn replace(&self, pair: &KeyPairPem) -> Result<(), Error> {
        self.0.store(certified(pair)?);
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for Serving {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    read.map_err(|_| Error::Certificate("a certificate is not PEM"))
}

pub(crate) fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| Error::Certificate("a private key is not PEM"))
}

pub(crate) fn roots(pem: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(Error::Tls)?;
    }
    Ok(roots)
}

fn certified(pair: &KeyPairPem) -> Result<Arc<CertifiedKey>, Error> {
    let key = any_supported_type(&private_key(&pair.key)?).map_err(Error::Tls)?;
    Ok(Arc::new(CertifiedKey::new(certificates(&pair.certificate)?, key)))
}

pub(crate) fn server_config(pki: &ClusterPki, serving: Arc<Serving>) -> Result<ServerConfig, Error> {
    let provider = Arc::new(default_provider());
    // Who shows no certificate may still show a token, or ask for what is public.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pki.client_ca_pem())?), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|_| Error::Certificate("the client certificate authority can't be used"))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
