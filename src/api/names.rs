//! What names may look like: upstream's rules and sentences. Every check gives the list of what is
//! wrong, empty for a good name.

pub const LABEL_MAX: usize = 63;
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                          start and end with an alphanumeric character";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                              '.', and must start and end with an alphanumeric character";
const LABEL_1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                               alphabetic character, and end with an alphanumeric character";
const QUALIFIED_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                              alphanumeric character";
const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
                                '.', and must start and end with an alphanumeric character";

/// How the name of a kind is checked; the second argument says that it is a prefix (generateName).
pub type NameRule = fn(&str, bool) -> Vec<String>;

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn regex_message(rule: &str, regex: &str, examples: &[&str]) -> String {
    let mut out = rule.to_owned();
    if !examples.is_empty() {
        out.push_str(" (e.g. ");
        for (i, example) in examples.iter().enumerate() {
            if i > 0 {
                out.push_str(" or ");
            }
            out.push_str(&format!("'{example}', "));
        }
        out.push_str(&format!("regex used for validation is '{regex}')"));
    } else {
        out.push_str(&format!(" (regex used for validation is '{regex}')"));
    }
    out
}

fn is_lower_alnum(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn matches_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if is_lower_alnum(*a) && is_lower_alnum(*z))
        && bytes.iter().all(|c| is_lower_alnum(*c) || *c == b'-')
}

fn matches_subdomain(value: &str) -> bool {
    value.split('.').all(matches_label)
}

/// `[A-Za-z0-9]` at both ends, and `-_.` between.
fn matches_qualified(value: &str) -> bool {
    let bytes = value.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if a.is_ascii_alphanumeric() && z.is_ascii_alphanumeric())
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// RFC 1123 label: names of namespaces, containers, ports' hosts ...
pub fn dns_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !matches_label(value) {
        if matches_subdomain(value) {
            errors.push("must not contain dots".to_owned());
        } else {
            errors.push(regex_message(LABEL_RULE, "[a-z0-9]([-a-z0-9]*[a-z0-9])?", &["my-name", "123-abc"]));
        }
    }
    errors
}

/// RFC 1123 subdomain: names of most objects.
pub fn dns_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !matches_subdomain(value) {
        let regex = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
        errors.push(regex_message(SUBDOMAIN_RULE, regex, &["example.com"]));
    }
    errors
}

/// RFC 1035 label: names of services before they were relaxed.
pub fn dns_label_1035(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !matches_label(value) || !value.as_bytes().first().is_some_and(u8::is_ascii_lowercase) {
        errors.push(regex_message(LABEL_1035_RULE, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    errors
}

/// An identifier as C has them; its length is another matter.
pub fn c_identifier(value: &str) -> Vec<String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !value.is_empty() && value.bytes().all(word) && !value.starts_with(|c: char| c.is_ascii_digit()) {
        return Vec::new();
    }
    let rule = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
                characters or '_'";
    vec![regex_message(rule, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

/// A subdomain whose first label may be `*`.
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(matches_subdomain) {
        errors.push(regex_message(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of \
             lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["*.example.com"],
        ));
    }
    errors
}

/// A label or annotation key: an optional prefix (a subdomain) and a name.
pub fn qualified_name(value: &str) -> Vec<String> {
    const REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let name = match value.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            *name
        }
        _ => {
            errors.push(format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_message(QUALIFIED_RULE, REGEX, EXAMPLES)
            ));
            return errors;
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !matches_qualified(name) {
        errors.push(format!("name part {}", regex_message(QUALIFIED_RULE, REGEX, EXAMPLES)));
    }
    errors
}

pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !value.is_empty() && !matches_qualified(value) {
        let regex = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
        errors.push(regex_message(LABEL_VALUE_RULE, regex, &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// A name that can stand in a URL path.
pub fn path_segment(value: &str) -> Vec<String> {
    match value {
        "." => vec!["may not be '.'".to_owned()],
        ".." => vec!["may not be '..'".to_owned()],
        _ => path_segment_prefix(value),
    }
}

fn path_segment_prefix(value: &str) -> Vec<String> {
    ['/', '%'].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// The name of an environment variable: any printable ASCII but `=` (relaxed since 1.32).
pub fn relaxed_env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|c| (0x20..=0x7e).contains(&c) && c != b'=') {
        return Vec::new();
    }
    let rule = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    vec![rule.to_owned()]
}

/// The name of an environment variable as the command line takes it.
pub fn env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if value.is_empty() || value.starts_with(|c: char| c.is_ascii_digit()) || !value.bytes().all(good) {
        errors.push(regex_message(
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit",
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        ));
    }
    errors.extend(dots(value));
    errors
}

/// What is wrong with a name that a directory would take for another place, or for a hidden one of its own.
fn dots(value: &str) -> Option<String> {
    let why = match value {
        "." => "must not be '.'",
        ".." => "must not be '..'",
        _ if value.starts_with("..") => "must not start with '..'",
        _ => return None,
    };
    Some(why.to_owned())
}

/// A key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if value.is_empty() || !value.bytes().all(good) {
        errors.push(regex_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errors.extend(dots(value));
    errors
}

/// The name of a port: an IANA service name.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 15 {
        errors.push(too_long(15));
    }
    if value.is_empty() || !value.bytes().all(|c| is_lower_alnum(c) || c == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|c| c.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

pub fn port_number(value: i64) -> Vec<String> {
    if (1..=65535).contains(&value) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".to_owned()] }
}

fn mask_trailing_dash(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => name.to_owned(),
    }
}

/// [`NameRule`] of most kinds.
pub fn name_is_subdomain(name: &str, prefix: bool) -> Vec<String> {
    if prefix { dns_subdomain(&mask_trailing_dash(name)) } else { dns_subdomain(name) }
}

/// [`NameRule`] of namespaces.
pub fn name_is_label(name: &str, prefix: bool) -> Vec<String> {
    if prefix { dns_label(&mask_trailing_dash(name)) } else { dns_label(name) }
}

/// [`NameRule`] of services before 1.36.
pub fn name_is_label_1035(name: &str, prefix: bool) -> Vec<String> {
    if prefix { dns_label_1035(&mask_trailing_dash(name)) } else { dns_label_1035(name) }
}

/// [`NameRule`] of kinds whose names only need to fit into a URL (RBAC).
pub fn name_is_path_segment(name: &str, prefix: bool) -> Vec<String> {
    if prefix { path_segment_prefix(name) } else { path_segment(name) }
}

/// Of a ClusterTrustBundle: that of a signer begins with the signer's name, in which `:` stands for `/`.
pub fn trust_bundle(name: &str, signer: &str) -> Vec<String> {
    if signer.is_empty() {
        return match name.contains(':') {
            true => vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()],
            false => dns_subdomain(name),
        };
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => dns_subdomain(rest),
        None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")],
    }
}

/// Upstream's own resources: without a domain, or of its own domain.
pub fn is_native_resource(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource that is somebody's own: counted in whole numbers, and known to the scheduler by its name alone.
pub fn is_extended_resource(name: &str) -> bool {
    !is_native_resource(name)
        && !name.starts_with("requests.")
        && qualified_name(&format!("requests.{name}")).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad_names() {
        /// A name for it, the rule, good and bad examples.
        type Row = (&'static str, fn(&str) -> Vec<String>, &'static [&'static str], &'static [&'static str]);
        let rules: &[Row] = &[
            ("label", dns_label, &["a", "a-b", "0", "9a"], &["", "A", "-a", "a-", "a.b", "a_b", "é"]),
            ("subdomain", dns_subdomain, &["a", "a.b", "0.a-b"], &["", "A", ".a", "a.", "a..b", "a_b", "a-.b"]),
            ("1035", dns_label_1035, &["a", "a-0"], &["", "0a", "a.b", "A", "a-"]),
            (
                "qualified",
                qualified_name,
                &["a", "A_b.c-d", "example.com/A", "1"],
                &["", "/a", "a/", "a/b/c", "-a", "a-", "A.com/x", "a b"],
            ),
            ("label value", label_value, &["", "a", "A_b.c", "1"], &["-a", "a-", "a b", "a/b"]),
            ("variable", env_var_name, &["A", "a.b-c", "_1"], &["", "1", "a b", "a:b", "..", "..a", "é"]),
            ("env", relaxed_env_var_name, &["A", "a.b-c", "1", "a b"], &["", "a=b", "é"]),
            ("key", config_key, &["a", "A_b", ".a", "a..b"], &["", ".", "..", "..a", "a/b", "a b"]),
            ("port", port_name, &["http", "a-1", "1a"], &["", "1", "a--b", "-a", "a-", "A", "abcdefghijklmnop"]),
            ("segment", path_segment, &["a:b", "A"], &[".", "..", "a/b", "a%b"]),
        ];
        for (rule, check, good, bad) in rules {
            for name in *good {
                assert_eq!(check(name), Vec::<String>::new(), "{rule}: {name:?}");
            }
            for name in *bad {
                assert!(!check(name).is_empty(), "{rule}: {name:?}");
            }
        }
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert!(name_is_subdomain("a-", true).is_empty());
    }

    #[test]
    fn sentences_are_upstreams() {
        assert_eq!(
            dns_subdomain("A_b"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            dns_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
              end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
    }
}
