//! `kubectl --as`: one user acts as another, where they may `impersonate` each part of that identity.

use http::{HeaderMap, HeaderValue};
use skiff_api::ApiError;

use super::{ANONYMOUS, Attributes, Authorizer, User};
use crate::call::decode;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Whom the headers ask to be.
#[derive(Debug, Default, PartialEq)]
struct Wish {
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: Vec<(String, Vec<String>)>,
}

/// The identity that the request is answered for; `None`: the caller's own.
pub(crate) fn impersonate(
    authorizer: &Authorizer,
    caller: &User,
    headers: &HeaderMap,
) -> Result<Option<User>, ApiError> {
    let Some(wish) = read(headers).map_err(ApiError::internal)? else { return Ok(None) };
    let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let verb = "impersonate";
        let asked = Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::default() };
        authorizer.authorize(caller, &asked)
    };
    match service_account(&wish.user) {
        Some((namespace, name)) => ask("", "serviceaccounts", "", namespace, name)?,
        None => ask("", "users", "", "", &wish.user)?,
    }
    for group in &wish.groups {
        ask("", "groups", "", "", group)?;
    }
    for (key, values) in &wish.extra {
        for value in values {
            ask("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    if !wish.uid.is_empty() {
        ask("authentication.k8s.io", "uids", "", "", &wish.uid)?;
    }
    Ok(Some(become_user(wish)))
}

/// `Err` is what is wrong with the headers.
fn read(headers: &HeaderMap) -> Result<Option<Wish>, String> {
    if !headers.keys().any(|key| key.as_str().starts_with("impersonate-")) {
        return Ok(None);
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let one = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let mut wish = Wish { user: one(USER), uid: one(UID), ..Wish::default() };
    wish.groups = headers.get_all(GROUP).iter().map(text).collect();
    for key in headers.keys() {
        if let Some(name) = key.as_str().strip_prefix(EXTRA) {
            let values = headers.get_all(key).iter().map(text).collect();
            wish.extra.push((decode(name, false).to_lowercase(), values));
        }
    }
    wish.extra.sort();
    if !wish.user.is_empty() {
        return Ok(Some(wish));
    }
    // As upstream prints references to objects.
    let mut asked: Vec<String> = wish.groups.iter().map(|group| format!("{{Group  {group}    }}")).collect();
    for (key, values) in &wish.extra {
        asked.extend(values.iter().map(|value| format!("{{UserExtra  {value}  authentication.k8s.io/v1  {key}}}")));
    }
    if !wish.uid.is_empty() {
        asked.push(format!("{{UID  {}  authentication.k8s.io/v1  }}", wish.uid));
    }
    if asked.is_empty() {
        return Ok(None);
    }
    Err(format!("requested [{}] without impersonating a user", asked.join(" ")))
}

fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

fn become_user(wish: Wish) -> User {
    let Wish { user: name, mut groups, uid, extra } = wish;
    if let Some((namespace, _)) = service_account(&name)
        && groups.is_empty()
    {
        groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let has = |group: &str| groups.iter().any(|g| g == group);
    let added = match name == ANONYMOUS {
        true => Some(UNAUTHENTICATED).filter(|group| !has(group)),
        false => Some(AUTHENTICATED).filter(|group| !has(group) && !has(UNAUTHENTICATED)),
    };
    groups.extend(added.map(str::to_owned));
    User { name, groups, uid, extra }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn whom_the_headers_ask_for() {
        let groups = |user: &User| user.groups.join(" ");
        for (pairs, name, expect) in [
            (vec![("impersonate-user", "u")], "u", "system:authenticated"),
            (vec![("impersonate-user", "u"), ("impersonate-group", "g")], "u", "g system:authenticated"),
            (
                vec![("impersonate-user", "u"), ("impersonate-group", "system:unauthenticated")],
                "u",
                "system:unauthenticated",
            ),
            (vec![("impersonate-user", ANONYMOUS)], ANONYMOUS, "system:unauthenticated"),
            (
                vec![("impersonate-user", "system:serviceaccount:a:b")],
                "system:serviceaccount:a:b",
                "system:serviceaccounts system:serviceaccounts:a system:authenticated",
            ),
        ] {
            let user = become_user(read(&headers(&pairs)).expect("valid").expect("a wish"));
            assert_eq!((user.name.as_str(), groups(&user).as_str()), (name, expect), "{pairs:?}");
        }
        let wish =
            read(&headers(&[("impersonate-user", "u"), ("impersonate-extra-a%2fb", "c"), ("impersonate-uid", "1")]));
        let user = become_user(wish.expect("valid").expect("a wish"));
        assert_eq!((user.uid.as_str(), user.extra), ("1", vec![("a/b".to_owned(), vec!["c".to_owned()])]));
        assert_eq!(read(&headers(&[])), Ok(None));
        assert_eq!(
            read(&headers(&[("impersonate-group", "g")])),
            Err("requested [{Group  g    }] without impersonating a user".to_owned())
        );
    }
}
