//! From a certificate or a token to a user: service-account tokens (bound, and those of secrets) and bootstrap tokens.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use skiff_api::Object;
use skiff_pki::TokenError;

use super::User;
use crate::server::Server;

/// The issuer of service-account tokens, and the audience of those meant for this API.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
pub(crate) const API_AUDIENCE: &str = ISSUER;
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
const AUTHENTICATED: &str = "system:authenticated";
/// Clocks differ, and what is deleted ends its work first.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// Who showed a token, and for which of the asked audiences it is good.
#[derive(Debug)]
pub(crate) struct Known {
    pub user: User,
    pub audiences: Vec<String>,
}

/// Why a token is not believed, as upstream tells who asks for a review of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("invalid bearer token")]
    Unknown,
    #[error("[invalid bearer token, {0}]")]
    Because(String),
}

fn because<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Because(why.into()))
}

/// The user of a client certificate that TLS has verified.
pub(crate) fn certificate_user(der: &[u8]) -> Option<User> {
    let (name, mut groups) = skiff_pki::subject(der)?;
    groups.push(AUTHENTICATED.to_owned());
    let id = format!("X509SHA256={}", skiff_pki::fingerprint(der));
    Some(User { name, groups, extra: vec![credential(id)], ..User::default() })
}

fn credential(id: String) -> (String, Vec<String>) {
    ("authentication.kubernetes.io/credential-id".to_owned(), vec![id])
}

impl Server {
    /// The user of a bearer token, for one of these audiences.
    pub(crate) fn authenticate(&self, token: &str, audiences: &[&str]) -> Result<Known, Refusal> {
        if let Some((id, secret)) = bootstrap_parts(token) {
            let user = self.bootstrap_user(id, secret)?;
            return self.for_api(user, audiences);
        }
        let key = self.options.pki.service_account_key();
        match key.verify(token, skiff_base::time::now().as_second()) {
            Ok(claims) if claims["iss"] == ISSUER => self.bound_user(&claims, audiences),
            Ok(_) => Err(Refusal::Unknown),
            Err(TokenError::Expired) => because("service account token has expired"),
            Err(TokenError::NotYet) => because("service account token is not valid yet"),
            Err(TokenError::Endless) => {
                let claims = key.verify_signature(token).map_err(|_| Refusal::Unknown)?;
                if claims["iss"] != LEGACY_ISSUER {
                    return Err(Refusal::Unknown);
                }
                let user = self.legacy_user(&claims, token)?;
                self.for_api(user, audiences)
            }
            Err(TokenError::Malformed | TokenError::Signature) => Err(Refusal::Unknown),
        }
    }

    /// Tokens that name no audience are good for this API alone.
    fn for_api(&self, user: User, audiences: &[&str]) -> Result<Known, Refusal> {
        if !audiences.contains(&API_AUDIENCE) {
            return Err(Refusal::Unknown);
        }
        Ok(Known { user, audiences: vec![API_AUDIENCE.to_owned()] })
    }

    fn bound_user(&self, claims: &Value, audiences: &[&str]) -> Result<Known, Refusal> {
        let given: Vec<&str> = match &claims["aud"] {
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        let good: Vec<String> = given.iter().filter(|a| audiences.contains(a)).map(|a| (*a).to_owned()).collect();
        if good.is_empty() {
            let quoted = |list: &[&str]| super::rbac::quoted(&list.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
            return because(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted(&given),
                quoted(audiences)
            ));
        }
        let bound = &claims["kubernetes.io"];
        let namespace = bound["namespace"].as_str().unwrap_or_default();
        let Some((name, uid)) = named(&bound["serviceaccount"]) else { return Err(Refusal::Unknown) };
        self.check_account(namespace, name, uid)?;
        let mut extra = Vec::new();
        if let Some(id) = claims["jti"].as_str() {
            extra.push(credential(format!("JTI={id}")));
        }
        for (what, storage, namespace) in
            [("pod", "pods", namespace), ("secret", "secrets", namespace), ("node", "nodes", "")]
        {
            let Some((name, uid)) = named(&bound[what]) else { continue };
            // A token's node is information unless it is all that the token is bound to.
            if what != "node" || bound["pod"].is_null() {
                let object = self.resource(storage).find(namespace, name).filter(|o| is_alive(o));
                let Some(object) = object else { return because("service account token has been invalidated") };
                if *object.meta.uid != *uid {
                    let found = &object.meta.uid;
                    return because(format!(
                        "{what} UID ({found}) does not match service account {what} ref claim ({uid})"
                    ));
                }
            }
            if what != "secret" {
                extra.push((format!("authentication.kubernetes.io/{what}-name"), vec![name.to_owned()]));
                if !uid.is_empty() {
                    extra.push((format!("authentication.kubernetes.io/{what}-uid"), vec![uid.to_owned()]));
                }
            }
        }
        Ok(Known { user: account_user(namespace, name, uid, extra), audiences: good })
    }

    fn check_account(&self, namespace: &str, name: &str, uid: &str) -> Result<(), Refusal> {
        let Some(account) = self.resource("serviceaccounts").find(namespace, name) else {
            return because(format!("serviceaccounts {name:?} not found"));
        };
        if *account.meta.uid != *uid {
            let found = &account.meta.uid;
            return because(format!("service account UID ({found}) does not match claim ({uid})"));
        }
        if !is_alive(&account) {
            return because("service account token has been invalidated");
        }
        Ok(())
    }

    /// A token that lies in a secret and ends with it.
    fn legacy_user(&self, claims: &Value, token: &str) -> Result<User, Refusal> {
        let claim = |name: &str| claims[format!("kubernetes.io/serviceaccount/{name}")].as_str().unwrap_or_default();
        let (namespace, account, uid) =
            (claim("namespace"), claim("service-account.name"), claim("service-account.uid"));
        if claims["sub"] != format!("system:serviceaccount:{namespace}:{account}") {
            return because("sub claim is invalid");
        }
        let secret = self.resource("secrets").find(namespace, claim("secret.name"));
        let Some(secret) = secret.filter(|secret| secret.meta.deletion_timestamp.is_none()) else {
            return because("Token has been invalidated");
        };
        if secret.meta.labels.contains_key("kubernetes.io/legacy-token-invalid-since") {
            let (secret, namespace) = (claim("secret.name"), namespace);
            return because(format!(
                "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. \
                 Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
                 'kubernetes.io/legacy-token-invalid-since' label from the secret to temporarily allow use of this token"
            ));
        }
        if !is_same(&data(&secret.value(), "token"), token.as_bytes()) {
            return because("Token does not match server's copy");
        }
        self.check_account(namespace, account, uid)?;
        Ok(account_user(namespace, account, uid, Vec::new()))
    }

    /// The user of a bootstrap token, whose secret is in `kube-system`.
    fn bootstrap_user(&self, id: &str, secret: &str) -> Result<User, Refusal> {
        let found = self.resource("secrets").find("kube-system", &format!("bootstrap-token-{id}"));
        let Some(found) = found.filter(|secret| secret.meta.deletion_timestamp.is_none()) else {
            return Err(Refusal::Unknown);
        };
        let value = found.value();
        let text = |key: &str| String::from_utf8(data(&value, key)).unwrap_or_default();
        let now = skiff_base::time::now();
        let good = value["type"] == "bootstrap.kubernetes.io/token"
            && text("token-id") == id
            && is_same(&data(&value, "token-secret"), secret.as_bytes())
            && text("usage-bootstrap-authentication") == "true"
            && !has_expired(&text("expiration"), now);
        let groups = bootstrap_groups(&text("auth-extra-groups"));
        match (good, groups) {
            (true, Some(groups)) => Ok(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() }),
            _ => Err(Refusal::Unknown),
        }
    }
}

fn account_user(namespace: &str, name: &str, uid: &str, extra: Vec<(String, Vec<String>)>) -> User {
    User {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            AUTHENTICATED.to_owned(),
        ],
        uid: uid.to_owned(),
        extra,
    }
}

/// Not deleted, or not for long: a pod that ends still works.
fn is_alive(object: &Object) -> bool {
    let deleted = object.meta.deletion_timestamp.as_deref().and_then(|at| at.parse::<Timestamp>().ok());
    deleted.is_none_or(|at| at > skiff_base::time::now() - LEEWAY)
}

/// The time takes no hint of where the two differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn data(secret: &Value, key: &str) -> Vec<u8> {
    use base64::Engine as _;
    let text = secret["data"][key].as_str().unwrap_or_default();
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
}

/// Six and sixteen small letters and digits, parted by a dot.
fn bootstrap_parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// What is no time has passed.
fn has_expired(expiration: &str, now: Timestamp) -> bool {
    !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |at| at <= now)
}

/// `None` where one of the groups is not for such tokens.
fn bootstrap_groups(extra: &str) -> Option<Vec<String>> {
    let mut groups: Vec<String> = vec!["system:bootstrappers".to_owned()];
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        let rest = group.strip_prefix("system:bootstrappers:")?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = rest.len() <= 256
            && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-')
            && rest.bytes().last().is_some_and(plain);
        if !good {
            return None;
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    groups.push(AUTHENTICATED.to_owned());
    Some(groups)
}

fn named(reference: &Value) -> Option<(&str, &str)> {
    Some((reference["name"].as_str()?, reference["uid"].as_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_tokens() {
        assert_eq!(bootstrap_parts("abc123.0123456789abcdef"), Some(("abc123", "0123456789abcdef")));
        for text in ["abc123", "abc12.0123456789abcdef", "ABC123.0123456789abcdef", "abc123.0123456789abcde", ""] {
            assert_eq!(bootstrap_parts(text), None, "{text}");
        }
        let groups = |extra| bootstrap_groups(extra).map(|groups| groups.join(" "));
        assert_eq!(groups(""), Some("system:bootstrappers system:authenticated".to_owned()));
        assert_eq!(
            groups("system:bootstrappers:b,system:bootstrappers:a"),
            Some("system:bootstrappers system:bootstrappers:a system:bootstrappers:b system:authenticated".to_owned())
        );
        for extra in ["system:masters", "system:bootstrappers:", "system:bootstrappers:a-", "system:bootstrappers:A"] {
            assert_eq!(groups(extra), None, "{extra}");
        }
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        for (text, expect) in
            [("", false), ("2026-01-01T00:00:01Z", false), ("2026-01-01T00:00:00Z", true), ("soon", true)]
        {
            assert_eq!(has_expired(text, now), expect, "{text}");
        }
        assert!(is_same(b"ab", b"ab") && !is_same(b"ab", b"ac") && !is_same(b"ab", b"a"));
    }
}
