//! Service-account tokens: JSON Web Tokens (RFC 7519) signed with ECDSA P-256 (ES256, RFC 7518).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::UnparsedPublicKey;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::Error;

/// Signs and checks tokens.
pub struct ServiceAccountKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    id: String,
    header: String,
}

/// Why a token is not believed. (Its content is not part of the message.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is no JSON Web Token")]
    Malformed,
    #[error("the token was not signed by this cluster")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    /// It may be one of those that lie in secrets and end with them: see [`ServiceAccountKey::verify_signature`].
    #[error("the token has no end")]
    Endless,
}

impl ServiceAccountKey {
    /// From PKCS #8 PEM.
    pub(crate) fn load(pem: &str) -> Option<Self> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pem.contents, &random).ok()?;
        let id = BASE64.encode(ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref()));
        let header = BASE64.encode(json!({"alg": "ES256", "kid": id}).to_string());
        Some(Self { pair, random, id, header })
    }

    /// The `kid` of its tokens.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn sign(&self, claims: &Value) -> Result<String, Error> {
        let signed = format!("{}.{}", self.header, BASE64.encode(claims.to_string()));
        let signature = self.pair.sign(&self.random, signed.as_bytes()).map_err(|_| Error::ServiceAccountKey)?;
        Ok(format!("{signed}.{}", BASE64.encode(signature)))
    }

    /// The claims of a token that this key signed and whose time (`nbf`, `exp`) is now. Who is meant,
    /// and for which audience, is the caller's to check.
    pub fn verify(&self, token: &str, now_s: i64) -> Result<Value, TokenError> {
        let claims = self.verify_signature(token)?;
        let time = |name: &str| claims[name].as_i64();
        match (time("nbf"), time("exp")) {
            (_, Some(exp)) if exp <= now_s => Err(TokenError::Expired),
            // Clocks may differ by a little.
            (Some(nbf), _) if nbf > now_s + 60 => Err(TokenError::NotYet),
            (_, None) => Err(TokenError::Endless),
            _ => Ok(claims),
        }
    }

    /// The claims of a token that this key signed, whatever they say of its time.
    pub fn verify_signature(&self, token: &str) -> Result<Value, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| BASE64.decode(part).map_err(|_| TokenError::Malformed);
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        if header["alg"] != "ES256" {
            return Err(TokenError::Signature);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Malformed)
    }

    /// The public key as a JSON Web Key Set (RFC 7517).
    pub fn jwks(&self) -> Value {
        // Uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..65]),
        }]})
    }
}

/// A signature of a text by a bootstrap token (HS256), as a JSON Web Signature without the text (RFC 7515, appendix F).
pub fn detached_signature(text: &str, token_id: &str, token_secret: &str) -> String {
    let header = BASE64.encode(json!({"alg": "HS256", "kid": token_id}).to_string());
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, token_secret.as_bytes());
    let tag = ring::hmac::sign(&key, format!("{header}.{}", BASE64.encode(text)).as_bytes());
    format!("{header}..{}", BASE64.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ServiceAccountKey {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        ServiceAccountKey::load(&pair.serialize_pem()).expect("loads")
    }

    #[test]
    fn texts_are_signed_by_bootstrap_tokens() {
        // What upstream's tests expect of the same.
        assert_eq!(
            detached_signature(
                "Hello from the other side. I must have called a thousand times.",
                "joshua",
                "my voice is my passcode"
            ),
            "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
        );
    }

    #[test]
    fn believes_its_own_tokens_in_their_time_only() {
        let (key, other) = (key(), key());
        let token = key.sign(&json!({"sub": "a", "nbf": 1000, "exp": 2000})).expect("signs");
        assert_eq!(key.verify(&token, 1500).expect("valid")["sub"], "a");
        let endless = key.sign(&json!({"sub": "a"})).expect("signs");
        let forged = token.replace(token.split('.').nth(1).expect("claims"), &BASE64.encode("{\"exp\":9999}"));
        let none = format!("{}.{}.", BASE64.encode("{\"alg\":\"none\"}"), BASE64.encode("{\"exp\":9999}"));
        for (key, token, now_s, expect) in [
            (&key, token.as_str(), 2000, TokenError::Expired),
            (&key, &token, 900, TokenError::NotYet),
            (&other, &token, 1500, TokenError::Signature),
            (&key, &forged, 1500, TokenError::Signature),
            (&key, &none, 1500, TokenError::Signature),
            (&key, "a.b", 1500, TokenError::Malformed),
            (&key, "", 1500, TokenError::Malformed),
            (&key, &endless, 1500, TokenError::Endless),
        ] {
            assert_eq!(key.verify(token, now_s), Err(expect), "{token} at {now_s}");
        }
        assert_eq!(key.verify_signature(&endless).expect("signed")["sub"], "a");
        assert_eq!(other.verify_signature(&endless), Err(TokenError::Signature));
        assert_eq!(key.jwks()["keys"][0]["kid"], key.id());
    }
}
