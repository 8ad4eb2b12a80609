use std::net::IpAddr;

/// The addresses that a hosts(5) file gives to `name`, in its order. `name` has no dot at its end.
pub(crate) fn find(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(ip)) = words.next().map(str::parse) else { continue };
        if words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case(name)) && !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_are_found_whatever_their_case() {
        let text = "127.0.0.1\tlocalhost\n::1 localhost ip6-localhost\n# 192.0.2.9 db\n192.0.2.1 DB.example db # db2\n\
            nonsense db\n192.0.2.2 db\n192.0.2.1 db\n";
        let check = |name: &str, expect: &[&str]| {
            let found: Vec<String> = find(text, name).iter().map(ToString::to_string).collect();
            assert_eq!(found, expect, "{name}");
        };
        check("localhost", &["127.0.0.1", "::1"]);
        check("Db", &["192.0.2.1", "192.0.2.2"]);
        check("db.example", &["192.0.2.1"]);
        check("db2", &[]);
        check("192.0.2.1", &[]);
    }
}
