//! Whom a client believes over TLS.
//!
//! Those whom we ask (webhooks, registries, servers of API groups, clusters of others) were set up for clients that are
//! written in Go, and are believed as such clients believe them:
//!
//! - A certificate that is itself among the trusted ones is believed, though it is marked as an authority's: that is what
//!   `openssl req -x509` makes, and what people serve with. rustls takes no authority's certificate for a server's.
//! - A connection that ends without TLS' own word for it has ended ([`Ending`]). Whether the answer was whole, the
//!   protocol above knows by its lengths.
//!
//! Must not know: who asks whom, and why.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whose certificates are good.
#[derive(Debug)]
pub enum Trust {
    /// Those that these vouch for, or that are among them.
    Roots(RootCertStore),
    /// All: who answers is not asked.
    Anyone,
}

impl Trust {
    /// The authorities of the system. What rustls can't read of them is of no use, and no error.
    pub fn system() -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    }

    /// A client's configuration, to which its own certificate is still to be added.
    pub fn client(self) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
        let provider = Arc::new(ring::default_provider());
        let authorities = match &self {
            Self::Roots(roots) if !roots.is_empty() => {
                let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone());
                Some(builder.build().map_err(|e| Error::General(e.to_string()))?)
            }
            _ => None,
        };
        let verifier = Verifier { trust: self, authorities, provider: provider.clone() };
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
    }
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    /// rustls' own; none where there are no authorities.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Trust::Roots(roots) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let Some(authorities) = &self.authorities else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let refused = match authorities.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Ok(verified) => return Ok(verified),
            Err(refused) => refused,
        };
        // It says so when everything else about the certificate itself, its dates above all, was found good.
        if !is_authority_as_server(&refused) || !is_among(certificate, roots) {
            return Err(refused);
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// rustls hands its checker's reason on as a text.
fn is_authority_as_server(refused: &Error) -> bool {
    matches!(refused, Error::InvalidCertificate(CertificateError::Other(why)) if why.to_string() == "CaUsedAsEndEntity")
}

/// By name and key, which is all that an authority is known by.
fn is_among(certificate: &CertificateDer<'_>, roots: &RootCertStore) -> bool {
    let mut own = RootCertStore::empty();
    own.add(certificate.clone().into_owned()).is_ok() && roots.roots.contains(&own.roots[0])
}

/// A stream that ends where its connection does.
pub struct Ending<S>(pub S);

impl<S: AsyncRead + Unpin> AsyncRead for Ending<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, buffer) {
            Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ending<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    /// A certificate that vouches for itself, made as `openssl req -x509` does.
    struct Own {
        certificate: CertificateDer<'static>,
        key: Vec<u8>,
    }

    fn own(valid: bool) -> Own {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["hook.a.svc".to_owned()]).expect("a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if !valid {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        Own { certificate: params.self_signed(&key).expect("signed").der().clone(), key: key.serialize_der() }
    }

    /// What a client reads of a server that ends without a word of TLS.
    async fn read(server: &Own, trust: Trust, name: &str) -> io::Result<String> {
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::try_from(server.key.clone()).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![server.certificate.clone()], key)
            .expect("a certificate");
        let (near, far) = tokio::io::duplex(1 << 16);
        let serving = async {
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(far).await?;
            stream.write_all(b"hello").await?;
            stream.flush().await
        };
        let asking = async {
            let config = trust.client().expect("a configuration").with_no_client_auth();
            let name = ServerName::try_from(name.to_owned()).expect("a name");
            let mut stream = Ending(TlsConnector::from(Arc::new(config)).connect(name, near).await?);
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok(text)
        };
        let (_, read) = tokio::join!(serving, asking);
        read
    }

    fn roots(of: &Own) -> Trust {
        let mut roots = RootCertStore::empty();
        roots.add(of.certificate.clone()).expect("a root");
        Trust::Roots(roots)
    }

    #[tokio::test]
    async fn a_server_that_is_its_own_authority_is_believed() {
        let server = own(true);
        assert_eq!(read(&server, roots(&server), "hook.a.svc").await.expect("an answer"), "hello");
        let refused = async |server: &Own, trust: Trust, name: &str| {
            read(server, trust, name).await.expect_err("refused").to_string()
        };
        let other_name = refused(&server, roots(&server), "other.a.svc").await;
        assert!(other_name.contains("not valid for name"), "{other_name}");
        let unknown = refused(&server, roots(&own(true)), "hook.a.svc").await;
        assert!(unknown.contains("CaUsedAsEndEntity") || unknown.contains("UnknownIssuer"), "{unknown}");
        let none = refused(&server, Trust::Roots(RootCertStore::empty()), "hook.a.svc").await;
        assert!(none.contains("UnknownIssuer"), "{none}");
        let late = own(false);
        let expired = refused(&late, roots(&late), "hook.a.svc").await;
        assert!(expired.contains("expired"), "{expired}");
        assert_eq!(read(&late, Trust::Anyone, "any.name").await.expect("an answer"), "hello");
    }
}
