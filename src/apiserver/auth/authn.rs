//! From a certificate or a token to a user.

use serde_json::Value;
use skiff_pki::ServiceAccountKey;

use super::User;
use crate::cache::Cache;

/// The issuer of service-account tokens, and the audience of those meant for this API.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
pub(crate) const API_AUDIENCE: &str = ISSUER;

/// The user of a client certificate that TLS has verified.
pub(crate) fn certificate_user(der: &[u8]) -> Option<User> {
    let (name, mut groups) = skiff_pki::subject(der)?;
    groups.push("system:authenticated".to_owned());
    Some(User { name, groups, ..User::default() })
}

/// The user of a service-account token; `None` where it is not believed: forged, expired, for another
/// audience, or bound to something that is gone.
pub(crate) fn authenticate_bearer(
    token: &str,
    key: &ServiceAccountKey,
    cache: &Cache,
    audiences: &[&str],
) -> Option<User> {
    let claims = key.verify(token, skiff_base::time::now().as_second()).ok()?;
    let meant = |audience: &Value| audience.as_str().is_some_and(|a| audiences.contains(&a));
    let for_us = match &claims["aud"] {
        Value::Array(list) => list.iter().any(meant),
        one => meant(one),
    };
    if claims["iss"] != ISSUER || !for_us {
        return None;
    }
    let bound = &claims["kubernetes.io"];
    let namespace = bound["namespace"].as_str()?;
    let (name, uid) = named(&bound["serviceaccount"])?;
    let account = cache.resource("serviceaccounts").find(namespace, name)?;
    if *account.meta.uid != *uid || account.meta.deletion_timestamp.is_some() {
        return None;
    }
    let mut extra = vec![];
    if let Some(id) = claims["jti"].as_str() {
        extra.push(("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]));
    }
    for (what, storage, namespace) in
        [("pod", "pods", namespace), ("secret", "secrets", namespace), ("node", "nodes", "")]
    {
        let Some((name, uid)) = named(&bound[what]) else { continue };
        // A token's node is information unless it is all that the token is bound to.
        if what != "node" || bound["pod"].is_null() {
            let object = cache.resource(storage).find(namespace, name)?;
            if *object.meta.uid != *uid {
                return None;
            }
        }
        if what != "secret" {
            extra.push((format!("authentication.kubernetes.io/{what}-name"), vec![name.to_owned()]));
            extra.push((format!("authentication.kubernetes.io/{what}-uid"), vec![uid.to_owned()]));
        }
    }
    Some(User {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ],
        uid: uid.to_owned(),
        extra,
    })
}

fn named(reference: &Value) -> Option<(&str, &str)> {
    Some((reference["name"].as_str()?, reference["uid"].as_str()?))
}
