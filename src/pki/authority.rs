//! A certificate authority and what it signs: ECDSA P-256 throughout.

use std::net::IpAddr;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData,
    SanType, date_time_ymd,
};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

use crate::{Error, der};

const AUTHORITY_YEARS: i32 = 10;
const LEAF_YEARS: i32 = 1;
/// A clock before this is not set yet: certificates must outlive the moment when it is.
const BUILT_FOR_YEAR: i16 = 2026;

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct KeyPairPem {
    pub certificate: String,
    /// PKCS #8.
    pub key: String,
}

impl std::fmt::Debug for KeyPairPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyPairPem(..)")
    }
}

/// The names that a serving certificate vouches for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerNames {
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
}

impl ServerNames {
    fn alternatives(&self) -> Result<Vec<SanType>, Error> {
        let mut names = Vec::new();
        for name in &self.dns {
            names.push(SanType::DnsName(name.clone().try_into().map_err(|_| Error::Name(name.clone()))?));
        }
        names.extend(self.ips.iter().copied().map(SanType::IpAddress));
        Ok(names)
    }
}

/// Of an authority's certificate.
pub(crate) struct IssuerFacts {
    /// DER.
    pub subject: Vec<u8>,
    pub key_id: Option<Vec<u8>>,
    pub ends: Timestamp,
}

/// Signs certificates.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new one; its key is returned for safekeeping.
    pub(crate) fn generate(name: &str) -> Result<(Self, KeyPairPem), Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Key)?;
        let mut params = params(name, &[], AUTHORITY_YEARS);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
        let certificate =
            params.self_signed(&key).map_err(|source| Error::Sign { subject: name.to_owned(), source })?;
        let pair = KeyPairPem { certificate: certificate.pem(), key: key.serialize_pem() };
        Ok((Self { pem: pair.certificate.clone(), issuer: Issuer::new(params, key) }, pair))
    }

    /// `None` where the texts hold no authority.
    pub(crate) fn load(pair: &KeyPairPem) -> Option<Self> {
        let key = KeyPair::from_pem(&pair.key).ok()?;
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, key).ok()?;
        Some(Self { pem: pair.certificate.clone(), issuer })
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// What certificates say of who signed them.
    pub(crate) fn facts(&self) -> Option<IssuerFacts> {
        let read = |certificate: &X509Certificate<'_>| {
            let key_id = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
            let ends = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
            Some(IssuerFacts { subject: certificate.subject().as_raw().to_vec(), key_id, ends })
        };
        with_certificate(&self.pem, read).flatten()
    }

    /// How its key signs, as a DER AlgorithmIdentifier; `None` for keys that are not made here.
    pub(crate) fn algorithm(&self) -> Option<Vec<u8>> {
        const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
        const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
        const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
        const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
        let key = self.issuer.key().algorithm();
        let (oid, parameters): (&[u8], &[u8]) = match () {
            () if *key == PKCS_ECDSA_P256_SHA256 => (ECDSA_SHA256, &[]),
            () if *key == PKCS_ECDSA_P384_SHA384 => (ECDSA_SHA384, &[]),
            () if *key == PKCS_ED25519 => (ED25519, &[]),
            () if *key == PKCS_RSA_SHA256 => (RSA_SHA256, &[5, 0]),
            () => return None,
        };
        Some(der::value(der::SEQUENCE, &[&der::oid(oid), parameters]))
    }

    pub(crate) fn sign_server(&self, user: &str, groups: &[&str], names: &ServerNames) -> Result<KeyPairPem, Error> {
        let mut params = params(user, groups, LEAF_YEARS);
        params.subject_alt_names = names.alternatives()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(user, params)
    }

    pub(crate) fn sign_client(&self, user: &str, groups: &[&str]) -> Result<KeyPairPem, Error> {
        if groups.len() > 2 {
            return Err(Error::Groups(user.to_owned()));
        }
        let mut params = params(user, groups, LEAF_YEARS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(user, params)
    }

    fn sign(&self, subject: &str, mut params: CertificateParams) -> Result<KeyPairPem, Error> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Key)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|source| Error::Sign { subject: subject.to_owned(), source })?;
        Ok(KeyPairPem { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn params(name: &str, organizations: &[&str], years: i32) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    // rcgen keeps one value per type; the same OID written out is a type of its own to it, so there is
    // room for two groups, and no identity of ours has more (`sign_client` checks).
    for (organization, kind) in
        organizations.iter().zip([DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])])
    {
        subject.push(kind, *organization);
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.not_before = date_time_ymd(1970, 1, 1);
    let floor = jiff::civil::date(BUILT_FOR_YEAR, 1, 1);
    let end = Timestamp::now().to_zoned(TimeZone::UTC).date().max(floor).saturating_add(Span::new().years(years));
    params.not_after = date_time_ymd(end.year().into(), end.month().unsigned_abs(), end.day().unsigned_abs());
    params
}

/// Whole days until the first certificate of the PEM text ends; `None` where there is no certificate.
pub fn days_left(pem: &str, now: Timestamp) -> Option<i64> {
    with_certificate(pem, |certificate| (certificate.validity().not_after.timestamp() - now.as_second()) / 86_400)
}

/// User (CN) and groups (O) of a DER certificate, as Kubernetes reads them.
pub fn subject(der: &[u8]) -> Option<(String, Vec<String>)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject();
    Some((user_of(name)?, groups_of(name)))
}

/// The last common name, as Go reads subjects.
pub(crate) fn user_of(subject: &X509Name<'_>) -> Option<String> {
    Some(subject.iter_common_name().last()?.as_str().ok()?.to_owned())
}

pub(crate) fn groups_of(subject: &X509Name<'_>) -> Vec<String> {
    subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect()
}

/// SHA-256 of a DER certificate, in hexadecimal digits.
pub fn fingerprint(der: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the certificate holds all these names.
pub(crate) fn covers(pem: &str, names: &ServerNames) -> bool {
    use x509_parser::extensions::GeneralName;
    with_certificate(pem, |certificate| {
        let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return false };
        let held = &alternatives.value.general_names;
        let has_dns = |name: &String| held.iter().any(|h| matches!(h, GeneralName::DNSName(held) if held == name));
        let has_ip = |ip: &IpAddr| {
            let octets = match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            held.iter().any(|h| matches!(h, GeneralName::IPAddress(held) if *held == octets.as_slice()))
        };
        names.dns.iter().all(has_dns) && names.ips.iter().all(has_ip)
    })
    .unwrap_or(false)
}

/// Whether `leaf` names `authority` as its issuer. (Names of authorities hold a random part.)
pub(crate) fn issued_by(leaf: &str, authority: &str) -> bool {
    let subject = with_certificate(authority, |authority| authority.subject().as_raw().to_vec());
    let issuer = with_certificate(leaf, |leaf| leaf.issuer().as_raw().to_vec());
    subject.is_some() && subject == issuer
}

/// Whether the key is the certificate's: the two are written one after the other, and a crash may come between.
pub(crate) fn belong_together(pair: &KeyPairPem) -> bool {
    let Ok(key) = KeyPair::from_pem(&pair.key) else { return false };
    let certified = with_certificate(&pair.certificate, |certificate| certificate.public_key().raw.to_vec());
    certified.is_some_and(|certified| certified == key.subject_public_key_info())
}

fn with_certificate<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    Some(look(&certificate))
}
