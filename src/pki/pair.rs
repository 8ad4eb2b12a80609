//! Whether a certificate and a key that somebody brought belong together, in the words of Go's library.

use rcgen::{KeyPair, PublicKeyData};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::bundle::{Block, CERTIFICATE, blocks};

/// Identifiers of the kinds of keys, in DER.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const CURVE: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const EDWARDS: &[u8] = &[0x2b, 0x65, 0x70];

/// What is wrong with two PEM texts of which the first holds a certificate, perhaps with those that vouch for it, and the
/// second its key.
pub fn check_pair(certificate: &[u8], key: &[u8]) -> Result<(), String> {
    let [certificate, key] = [certificate, key].map(String::from_utf8_lossy);
    let leaf = first(&certificate, |label| label == CERTIFICATE).map_err(|skipped| match skipped.as_slice() {
        [] => "failed to find any PEM data in certificate input".to_owned(),
        [one] if is_key(one) => {
            "failed to find certificate PEM data in certificate input, but did find a private key; \
             PEM inputs may have been switched"
                .to_owned()
        }
        _ => not_found("\"CERTIFICATE\" PEM block in certificate input", &skipped),
    })?;
    let key = first(&key, is_key).map_err(|skipped| match skipped.as_slice() {
        [] => "failed to find any PEM data in key input".to_owned(),
        [CERTIFICATE] => "found a certificate rather than a key in the PEM for the private key".to_owned(),
        _ => not_found("PEM block with type ending in \"PRIVATE KEY\" in key input", &skipped),
    })?;
    let (_, certificate) =
        X509Certificate::from_der(&leaf.contents).map_err(|e| format!("failed to parse certificate: {e}"))?;
    let public = certificate.public_key();
    let kind = match key.label {
        "RSA PRIVATE KEY" => RSA,
        "EC PRIVATE KEY" => CURVE,
        _ => *[RSA, CURVE, EDWARDS]
            .iter()
            .find(|id| contains(&key.contents, id))
            .ok_or_else(|| "failed to parse private key".to_owned())?,
    };
    if kind != public.algorithm.algorithm.as_bytes() {
        return Err("private key type does not match public key type".to_owned());
    }
    // A private key of RSA begins with both numbers of the public one, that of a curve ends with its point.
    let point = &*public.subject_public_key.data;
    let held = if kind == RSA { inner(point) } else { point };
    let same =
        || KeyPair::try_from(key.contents.as_slice()).is_ok_and(|key| key.subject_public_key_info() == public.raw);
    if contains(&key.contents, held) || same() {
        Ok(())
    } else {
        Err("private key does not match public key".to_owned())
    }
}

fn is_key(label: &str) -> bool {
    label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY")
}

/// The first block that is wanted, or the labels of all.
fn first(text: &str, wanted: impl Fn(&str) -> bool) -> Result<Block<'_>, Vec<&str>> {
    let mut skipped = Vec::new();
    for block in blocks(text) {
        if wanted(block.label) {
            return Ok(block);
        }
        skipped.push(block.label);
    }
    Err(skipped)
}

fn not_found(what: &str, skipped: &[&str]) -> String {
    format!("failed to find {what} after skipping PEM blocks of the following types: [{}]", skipped.join(" "))
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && all.windows(part.len()).any(|window| window == part)
}

/// What a value in DER holds, without its tag and its length.
fn inner(der: &[u8]) -> &[u8] {
    let length = der.get(1).map_or(0, |first| if first & 0x80 == 0 { 0 } else { usize::from(first & 0x7f) });
    der.get(2 + length..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

    #[test]
    fn a_key_is_its_certificates_or_not() {
        let made = |algorithm| {
            let key = KeyPair::generate_for(algorithm).expect("a key");
            let certificate = CertificateParams::default().self_signed(&key).expect("signed");
            (certificate.pem(), key.serialize_pem())
        };
        let ([one, other], edwards) = ([(); 2].map(|()| made(&PKCS_ECDSA_P256_SHA256)), made(&PKCS_ED25519));
        let check = |certificate: &str, key: &str| check_pair(certificate.as_bytes(), key.as_bytes());
        let wrong = |why: &str| Err(why.to_owned());
        assert_eq!(check(&one.0, &one.1), Ok(()));
        assert_eq!(check(&edwards.0, &edwards.1), Ok(()));
        assert_eq!(check(&format!("{}{}", one.0, other.0), &one.1), Ok(()), "the first is the key's");
        for (certificate, key, why) in [
            (&one.0, &other.1, "private key does not match public key"),
            (&one.0, &edwards.1, "private key type does not match public key type"),
            (&one.0, &one.0, "found a certificate rather than a key in the PEM for the private key"),
            (&"x".to_owned(), &one.1, "failed to find any PEM data in certificate input"),
            (&one.0, &"x".to_owned(), "failed to find any PEM data in key input"),
        ] {
            assert_eq!(check(certificate, key), wrong(why));
        }
        assert!(check(&one.1, &one.0).is_err_and(|why| why.contains("may have been switched")));
    }

    /// Made by openssl: `genrsa 1024`, in both writings.
    #[test]
    fn a_key_of_rsa() {
        let certificate = include_bytes!("testdata/rsa.crt");
        for key in [&include_bytes!("testdata/rsa.key")[..], &include_bytes!("testdata/rsa.pkcs1.key")[..]] {
            assert_eq!(check_pair(certificate, key), Ok(()));
        }
        let other = include_bytes!("testdata/other.key");
        assert_eq!(check_pair(certificate, other), Err("private key does not match public key".to_owned()));
    }
}
