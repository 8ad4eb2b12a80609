//! Certificate signing requests (PKCS #10): read, and signed by one of the cluster's authorities.
//!
//! What is asked for is passed on as it was written, byte by byte (the subject, the key, the alternative names); all else
//! of a certificate is decided here. So keys and subjects of any form can be signed, and a subject may have any number of
//! organizations.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use rcgen::SigningKey as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::{Authority, groups_of, user_of};
use crate::{Error, der};

/// Clocks differ: a certificate holds from a little before it was signed.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// The end of what lives shorter than this is not moved forward by the same.
const SHORT: SignedDuration = SignedDuration::from_hours(8);
const LABEL: &str = "CERTIFICATE REQUEST";
const WRONG_LABEL: &str = "PEM block type must be CERTIFICATE REQUEST";

/// A request whose signature is that of the key in it.
pub struct Request {
    /// DER.
    subject: Vec<u8>,
    /// DER.
    key: Vec<u8>,
    /// DER, the names alone.
    names: Vec<u8>,
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
    pub fn parse(pem: &[u8]) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Request(why.to_owned());
        let block = Pem::iter_from_buffer(pem).next().and_then(Result::ok).filter(|block| block.label == LABEL);
        let block = block.ok_or_else(|| wrong(WRONG_LABEL))?;
        let (rest, read) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|error| wrong(&format!("asn1: structure error: {error}")))?;
        if !rest.is_empty() {
            return Err(wrong("asn1: syntax error: trailing data"));
        }
        read.verify_signature().map_err(|_| wrong("x509: the signature is not one of the key in the request"))?;
        let info = &read.certification_request_info;
        // The signer passes the subject on as it is: what can't be read here would be signed unseen.
        if info.subject.iter_attributes().any(|part| part.as_str().is_err()) {
            return Err(wrong("asn1: structure error: the subject has a string of an unsupported type"));
        }
        let mut request = Self {
            subject: info.subject.as_raw().to_vec(),
            key: info.subject_pki.raw.to_vec(),
            names: Vec::new(),
            common_name: user_of(&info.subject).unwrap_or_default(),
            organizations: groups_of(&info.subject),
            dns_names: Vec::new(),
            ips: Vec::new(),
            has_emails: false,
            has_uris: false,
        };
        for extension in read.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().for_each(|name| request.add(name));
            }
        }
        Ok(request)
    }

    /// Other kinds of names are not passed on.
    fn add(&mut self, name: &GeneralName<'_>) {
        let (tag, content) = match name {
            GeneralName::RFC822Name(name) => {
                self.has_emails = true;
                (0x81, name.as_bytes())
            }
            GeneralName::DNSName(name) => {
                self.dns_names.push((*name).to_owned());
                (0x82, name.as_bytes())
            }
            GeneralName::URI(name) => {
                self.has_uris = true;
                (0x86, name.as_bytes())
            }
            GeneralName::IPAddress(octets) => {
                let ip = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
                let ip = ip.or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from));
                let Ok(ip) = ip else { return };
                self.ips.push(ip);
                (0x87, *octets)
            }
            _ => return,
        };
        self.names.extend(der::value(tag, &[content]));
    }
}

/// What is wrong with text that should be certificates; nothing where there is nothing.
pub fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(pem) {
        // After the last block there may be anything.
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        X509Certificate::from_der(&block.contents).map_err(|error| format!("x509: malformed certificate: {error}"))?;
        blocks += 1;
    }
    match blocks {
        0 if !pem.is_empty() => Err("must contain at least one CERTIFICATE PEM block".to_owned()),
        _ => Ok(()),
    }
}

/// When the first of the certificates ends; `None`: there is none.
pub fn ends(pem: &[u8]) -> Option<Timestamp> {
    let block = Pem::iter_from_buffer(pem).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

impl Authority {
    /// A certificate for the request's names and key, for what `usages` (Kubernetes' words) say, and for as long as its
    /// authority at most.
    pub(crate) fn sign_request(
        &self,
        request: &Request,
        usages: &[String],
        life: SignedDuration,
        now: Timestamp,
    ) -> Result<String, Error> {
        let failed = |why: &str| Error::Refused { subject: request.common_name.clone(), why: why.to_owned() };
        let issuer = self.facts().ok_or_else(|| failed("the authority's certificate can't be read"))?;
        let start = now - BACKDATE;
        let end = if life < SHORT { now + life } else { start + life };
        let end = end.min(issuer.ends);
        if end <= now {
            return Err(failed("refusing to sign a certificate that expired in the past"));
        }
        let algorithm = self.algorithm().ok_or_else(|| failed("the authority's key is of an unknown kind"))?;
        let mut serial: [u8; 16] = rand::random();
        // Positive, and never shorter.
        serial[0] = serial[0] & 0x7f | 0x40;
        let to_be_signed = der::value(
            der::SEQUENCE,
            &[
                &der::value(0xa0, &[&der::value(der::INTEGER, &[&[2]])]),
                &der::value(der::INTEGER, &[&serial]),
                &algorithm,
                &issuer.subject,
                &der::value(der::SEQUENCE, &[&der::time(start), &der::time(end)]),
                &request.subject,
                &request.key,
                &der::value(0xa3, &[&extensions(request, usages, issuer.key_id.as_deref())]),
            ],
        );
        let signature = self
            .issuer()
            .key()
            .sign(&to_be_signed)
            .map_err(|source| Error::Sign { subject: request.common_name.clone(), source })?;
        let signature = der::value(der::BIT_STRING, &[&[0], &signature]);
        Ok(to_pem("CERTIFICATE", &der::value(der::SEQUENCE, &[&to_be_signed, &algorithm, &signature])))
    }
}

fn to_pem(label: &str, content: &[u8]) -> String {
    let text = BASE64.encode(content);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out + &format!("-----END {label}-----\n")
}

/// The second arc of `2.5.29`, in which these extensions are.
const KEY_USAGE: u8 = 15;
const ALTERNATIVE_NAMES: u8 = 17;
const BASIC_CONSTRAINTS: u8 = 19;
const AUTHORITY_KEY: u8 = 35;
const EXTENDED_KEY_USAGE: u8 = 37;

fn extensions(request: &Request, usages: &[String], authority_key: Option<&[u8]>) -> Vec<u8> {
    let extension = |arc: u8, critical: bool, content: &[u8]| {
        let flag = der::value(der::BOOLEAN, &[&[0xff]]);
        let flag: &[u8] = if critical { &flag } else { &[] };
        der::value(der::SEQUENCE, &[&der::oid(&[0x55, 0x1d, arc]), flag, &der::value(der::OCTET_STRING, &[content])])
    };
    let mut all = Vec::new();
    let bits: Vec<u8> = usages.iter().filter_map(|usage| key_usage(usage)).collect();
    if !bits.is_empty() {
        all.extend(extension(KEY_USAGE, true, &der::named_bits(&bits)));
    }
    let mut extended: Vec<&[u8]> = usages.iter().filter_map(|usage| extended_usage(usage)).collect();
    extended.sort_unstable();
    extended.dedup();
    if !extended.is_empty() {
        let oids: Vec<u8> = extended.into_iter().flat_map(der::oid).collect();
        all.extend(extension(EXTENDED_KEY_USAGE, false, &der::value(der::SEQUENCE, &[&oids])));
    }
    // No authority.
    all.extend(extension(BASIC_CONSTRAINTS, true, &der::value(der::SEQUENCE, &[])));
    if let Some(id) = authority_key {
        all.extend(extension(AUTHORITY_KEY, false, &der::value(der::SEQUENCE, &[&der::value(0x80, &[id])])));
    }
    if !request.names.is_empty() {
        let nameless = request.subject == der::value(der::SEQUENCE, &[]);
        all.extend(extension(ALTERNATIVE_NAMES, nameless, &der::value(der::SEQUENCE, &[&request.names])));
    }
    der::value(der::SEQUENCE, &[&all])
}

/// The bit of RFC 5280.
fn key_usage(usage: &str) -> Option<u8> {
    Some(match usage {
        "signing" | "digital signature" => 0,
        "content commitment" => 1,
        "key encipherment" => 2,
        "data encipherment" => 3,
        "key agreement" => 4,
        "cert sign" => 5,
        "crl sign" => 6,
        "encipher only" => 7,
        "decipher only" => 8,
        _ => return None,
    })
}

/// The encoded object identifier.
fn extended_usage(usage: &str) -> Option<&'static [u8]> {
    Some(match usage {
        "any" => &[0x55, 0x1d, 0x25, 0],
        "server auth" => &[0x2b, 6, 1, 5, 5, 7, 3, 1],
        "client auth" => &[0x2b, 6, 1, 5, 5, 7, 3, 2],
        "code signing" => &[0x2b, 6, 1, 5, 5, 7, 3, 3],
        "email protection" | "s/mime" => &[0x2b, 6, 1, 5, 5, 7, 3, 4],
        "ipsec end system" => &[0x2b, 6, 1, 5, 5, 7, 3, 5],
        "ipsec tunnel" => &[0x2b, 6, 1, 5, 5, 7, 3, 6],
        "ipsec user" => &[0x2b, 6, 1, 5, 5, 7, 3, 7],
        "timestamping" => &[0x2b, 6, 1, 5, 5, 7, 3, 8],
        "ocsp signing" => &[0x2b, 6, 1, 5, 5, 7, 3, 9],
        "microsoft sgc" => &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3],
        "netscape sgc" => &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair, PKCS_ED25519, SanType};

    use super::*;
    use crate::{ClusterPki, ServerNames};

    fn ask(change: impl FnOnce(&mut CertificateParams)) -> String {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let mut params = CertificateParams::new(vec!["a.b".to_owned(), "10.0.0.1".to_owned()]).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in [
            (DnType::OrganizationName, "devs"),
            (DnType::CustomDnType(vec![2, 5, 4, 10]), "ops"),
            (DnType::CommonName, "jane"),
        ] {
            params.distinguished_name.push(kind, value);
        }
        change(&mut params);
        params.serialize_request(&key).expect("a request").pem().expect("PEM")
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn requests_are_read_and_signed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let pki = ClusterPki::ensure(directory.path(), &ServerNames::default()).expect("keys");
        let now = Timestamp::now();
        // What is asked for beside names is not passed on.
        let pem = ask(|params| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0])];
            params.subject_alt_names.push(SanType::URI("a://b".try_into().expect("a URI")));
        });
        let read = Request::parse(pem.as_bytes()).expect("valid");
        assert_eq!((read.common_name.as_str(), read.organizations.join(" ")), ("jane", "devs ops".to_owned()));
        assert_eq!((read.dns_names.join(" "), read.ips.len()), ("a.b".to_owned(), 1));
        assert!(read.has_uris && !read.has_emails);
        let usages = words(&["client auth", "digital signature", "signing", "decipher only"]);
        let hour = SignedDuration::from_hours(1);
        let signed = pki.sign_client_request(&read, &usages, hour, now).expect("signed");
        assert_eq!(check_certificates(signed.as_bytes()), Ok(()));
        let (_, text) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).expect("PEM");
        let (name, groups) = crate::subject(&text.contents).expect("a subject");
        assert_eq!((name.as_str(), groups.join(" ")), ("jane", "devs ops".to_owned()));
        let certificate = text.parse_x509().expect("a certificate");
        let (_, authority) = x509_parser::pem::parse_x509_pem(pki.client_ca_pem().as_bytes()).expect("PEM");
        let authority = authority.parse_x509().expect("a certificate");
        certificate.verify_signature(Some(authority.public_key())).expect("signed by the authority");
        assert_eq!(certificate.issuer().as_raw(), authority.subject().as_raw());
        assert_eq!(certificate.validity().not_before.timestamp(), now.as_second() - 300);
        assert_eq!(certificate.validity().not_after.timestamp(), now.as_second() + 3600);
        assert_eq!(ends(signed.as_bytes()).map(Timestamp::as_second), Some(now.as_second() + 3600));
        let usage = certificate.extended_key_usage().expect("readable").expect("there");
        assert!(usage.value.client_auth && !usage.value.server_auth);
        let usage = certificate.key_usage().expect("readable").expect("there");
        assert!(usage.critical && usage.value.digital_signature() && usage.value.decipher_only());
        assert!(!usage.value.key_cert_sign() && !certificate.is_ca());
        let names = certificate.subject_alternative_name().expect("readable").expect("there");
        assert_eq!(names.value.general_names.len(), 3);
        assert_eq!(certificate.extensions().len(), 5, "{:?}", certificate.extensions());
        // Five minutes of a long life lie before now; none is longer than the authority's.
        for (life, ends) in [
            (SignedDuration::from_hours(8760), Some(now.as_second() + 8760 * 3600 - 300)),
            (SignedDuration::from_hours(24 * 366 * 20), None),
        ] {
            let signed = pki.sign_server_request(&read, &usages, life, now).expect("signed");
            let (_, text) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).expect("PEM");
            let end = text.parse_x509().expect("a certificate").validity().not_after.timestamp();
            assert!(end < now.as_second() + 11 * 366 * 86_400 && ends.is_none_or(|ends| ends == end), "{end}");
        }
        let late = now + SignedDuration::from_hours(24 * 366 * 20);
        assert!(pki.sign_client_request(&read, &usages, hour, late).is_err());
    }

    #[test]
    fn what_is_no_request_is_told() {
        let good = ask(|_| {});
        let body: String = good.lines().filter(|line| !line.starts_with("---")).collect();
        let mut bytes = BASE64.decode(&body).expect("base64");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        for (pem, expect) in [
            (String::new(), WRONG_LABEL),
            ("text".to_owned(), WRONG_LABEL),
            (good.replace(LABEL, "NEW CERTIFICATE REQUEST"), WRONG_LABEL),
            (to_pem(LABEL, b"text"), "asn1: structure error"),
            (to_pem(LABEL, &bytes), "x509: the signature is not one of the key"),
        ] {
            let error = Request::parse(pem.as_bytes()).err().expect("refused").to_string();
            assert!(error.starts_with(expect), "{error}");
        }
        for (pem, expect) in [
            ("", Ok(())),
            ("text", Err("must contain at least one CERTIFICATE PEM block")),
            (good.as_str(), Err("only CERTIFICATE PEM blocks are allowed, found \"CERTIFICATE REQUEST\"")),
        ] {
            assert_eq!(check_certificates(pem.as_bytes()), expect.map_err(str::to_owned));
        }
        assert!(check_certificates(to_pem("CERTIFICATE", b"text").as_bytes()).is_err());
    }
}
