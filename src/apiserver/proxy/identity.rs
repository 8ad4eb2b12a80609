//! Who this server is to the kubelets.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;
use skiff_pki::ClusterPki;

use crate::error::Error;
use crate::http::tls;

/// The certificate lives for a year; a new one is signed long before.
const RENEW_AFTER_S: i64 = 30 * 24 * 3600;

/// The API server as a client of kubelets.
#[derive(Default)]
pub(crate) struct Kubelets(Mutex<Option<Identity>>);

struct Identity {
    config: Arc<ClientConfig>,
    signed: Timestamp,
}

/// Also when the clock was set back: it had been wrong before.
pub(crate) fn is_old(signed: Timestamp, now: Timestamp) -> bool {
    !(0..RENEW_AFTER_S).contains(&now.duration_since(signed).as_secs())
}

impl Kubelets {
    pub fn config(&self, pki: &ClusterPki) -> Result<Arc<ClientConfig>, Error> {
        let now = skiff_base::time::now();
        let mut identity = self.0.lock().expect("nobody panics while holding it");
        if let Some(identity) = identity.as_ref().filter(|identity| !is_old(identity.signed, now)) {
            return Ok(identity.config.clone());
        }
        let pair = pki.client("kube-apiserver", &["system:masters"])?;
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_root_certificates(tls::roots(pki.ca_pem())?)
            .with_client_auth_cert(tls::certificates(&pair.certificate)?, tls::private_key(&pair.key)?)
            .map_err(Error::Tls)?;
        let config = Arc::new(config);
        *identity = Some(Identity { config: config.clone(), signed: now });
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_renewed() {
        let at = |s: i64| Timestamp::from_second(s).expect("a time");
        assert!(!is_old(at(1000), at(1000)) && !is_old(at(1000), at(1000 + RENEW_AFTER_S - 1)));
        assert!(is_old(at(1000), at(1000 + RENEW_AFTER_S)) && is_old(at(1000), at(0)));
    }
}
