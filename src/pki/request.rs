//! Certificate signing requests (PKCS #10): read, and signed by one of the cluster's authorities.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType, SerialNumber,
    date_time_ymd,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::Error;
use crate::authority::Authority;

/// Clocks differ: a certificate holds from a little before it was signed.
const BACKDATE_S: i64 = 300;

/// A request whose signature is that of the key in it.
pub struct Request {
    params: CertificateSigningRequestParams,
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    /// Whether it asks for names of mail accounts.
    pub has_emails: bool,
    /// Whether it asks for URIs.
    pub has_uris: bool,
}

impl Request {
    /// From PEM; the error says what is wrong with it.
    pub fn parse(pem: &str) -> Result<Self, Error> {
        let params = CertificateSigningRequestParams::from_pem(pem).map_err(Error::Request)?;
        let wrong = || Error::Request(rcgen::Error::CouldNotParseCertificationRequest);
        let (_, text) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| wrong())?;
        let (_, read) = X509CertificationRequest::from_der(&text.contents).map_err(|_| wrong())?;
        let subject = &read.certification_request_info.subject;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned).ok();
        let mut request = Self {
            common_name: subject.iter_common_name().next().and_then(text).unwrap_or_default(),
            organizations: subject.iter_organization().filter_map(text).collect(),
            dns_names: Vec::new(),
            ips: Vec::new(),
            has_emails: false,
            has_uris: false,
            params,
        };
        for name in &request.params.params.subject_alt_names {
            match name {
                SanType::DnsName(name) => request.dns_names.push(name.to_string()),
                SanType::IpAddress(ip) => request.ips.push(*ip),
                SanType::Rfc822Name(_) => request.has_emails = true,
                _ => request.has_uris = true,
            }
        }
        Ok(request)
    }
}

impl Authority {
    /// A certificate for the request's names and key, for what `usages` (Kubernetes' words) say.
    pub(crate) fn sign_request(
        &self,
        request: Request,
        usages: &[String],
        life_s: i64,
        now: Timestamp,
    ) -> Result<String, Error> {
        let subject = request.common_name.clone();
        if request.organizations.len() > 2 {
            return Err(Error::Groups(subject));
        }
        let mut params = request.params;
        let certificate = &mut params.params;
        // rcgen read one organization, the last: see `authority`.
        if let [first, _] = request.organizations.as_slice() {
            certificate.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), first.as_str());
        }
        certificate.is_ca = IsCa::ExplicitNoCa;
        certificate.serial_number = Some(SerialNumber::from(rand::random::<u64>() >> 1));
        certificate.use_authority_key_identifier_extension = true;
        certificate.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
        certificate.extended_key_usages = usages.iter().filter_map(|usage| extended_usage(usage)).collect();
        let epoch = date_time_ymd(1970, 1, 1);
        let at = |second: i64| epoch + Duration::from_secs(second.max(0).unsigned_abs());
        certificate.not_before = at(now.as_second() - BACKDATE_S);
        certificate.not_after = at((now.as_second() + life_s).min(self.ends_s()));
        let signed = params.signed_by(self.issuer()).map_err(|source| Error::Sign { subject, source })?;
        Ok(signed.pem())
    }
}

fn key_usage(usage: &str) -> Option<KeyUsagePurpose> {
    Some(match usage {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn extended_usage(usage: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match usage {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

    use super::*;
    use crate::{ClusterPki, ServerNames};

    fn request(organizations: &[&str], names: &[&str]) -> String {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (organization, kind) in
            organizations.iter().zip([DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])])
        {
            params.distinguished_name.push(kind, *organization);
        }
        params.distinguished_name.push(DnType::CommonName, "jane");
        params.serialize_request(&key).expect("a request").pem().expect("PEM")
    }

    #[test]
    fn requests_are_read_and_signed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let pki = ClusterPki::ensure(directory.path(), &ServerNames::default()).expect("keys");
        let now = Timestamp::now();
        let pem = request(&["devs", "ops"], &["a.b", "10.0.0.1"]);
        let read = Request::parse(&pem).expect("valid");
        assert_eq!((read.common_name.as_str(), read.organizations.join(" ")), ("jane", "devs ops".to_owned()));
        assert_eq!((read.dns_names.join(" "), read.ips.len()), ("a.b".to_owned(), 1));
        let usages = ["client auth".to_owned(), "digital signature".to_owned()];
        let signed = pki.sign_client_request(read, &usages, 3600, now).expect("signed");
        let (_, text) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).expect("PEM");
        let (name, mut groups) = crate::subject(&text.contents).expect("a subject");
        groups.sort();
        assert_eq!((name.as_str(), groups.join(" ")), ("jane", "devs ops".to_owned()));
        let certificate = text.parse_x509().expect("a certificate");
        assert_eq!(certificate.validity().not_after.timestamp(), now.as_second() + 3600);
        let usage = certificate.extended_key_usage().expect("readable").expect("there");
        assert!(usage.value.client_auth && !usage.value.server_auth);
        let forever = pki.sign_client_request(Request::parse(&pem).expect("valid"), &usages, i64::MAX / 4, now);
        let (_, text) = x509_parser::pem::parse_x509_pem(forever.expect("signed").as_bytes()).expect("PEM");
        let ends = text.parse_x509().expect("a certificate").validity().not_after.timestamp();
        assert!(ends < now.as_second() + 11 * 366 * 86_400, "not after its authority");
        assert!(
            Request::parse("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----").is_err()
        );
    }
}
