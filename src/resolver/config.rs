//! resolv.conf(5), with the limits of glibc.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const DNS_PORT: u16 = 53;
const SERVERS: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub servers: Vec<SocketAddr>,
    pub search: Vec<String>,
    pub ndots: usize,
    pub timeout: Duration,
    pub attempts: u32,
    /// Ask by TCP alone.
    pub tcp: bool,
    /// Ask for IPv4 addresses alone.
    pub no_aaaa: bool,
}

impl Config {
    /// What is not understood is as if it weren't there.
    pub(crate) fn parse(text: &str) -> Self {
        let mut config = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            tcp: false,
            no_aaaa: false,
        };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if config.servers.len() < SERVERS => {
                    config.servers.extend(words.next().and_then(server));
                }
                // The last line counts.
                Some("domain" | "search") => {
                    let domains = words.map(|word| word.trim_end_matches('.').to_owned());
                    config.search = domains.filter(|domain| !domain.is_empty()).collect();
                }
                Some("options") => words.for_each(|word| config.option(word)),
                _ => {}
            }
        }
        if config.servers.is_empty() {
            config.servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT)));
        }
        config
    }

    fn option(&mut self, word: &str) {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        let number = |range: std::ops::RangeInclusive<u32>| {
            let value = value.parse::<u32>().ok()?;
            Some(value.clamp(*range.start(), *range.end()))
        };
        match name {
            "ndots" => self.ndots = number(0..=15).map_or(self.ndots, |n| n as usize),
            "timeout" => self.timeout = number(1..=30).map_or(self.timeout, |n| Duration::from_secs(n.into())),
            "attempts" => self.attempts = number(1..=5).unwrap_or(self.attempts),
            "use-vc" => self.tcp = true,
            "no-aaaa" => self.no_aaaa = true,
            _ => {}
        }
    }

    /// What is asked for, in turn, when someone looks for `name`. A dot at its end keeps it as it is.
    pub(crate) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(rooted) = name.strip_suffix('.') {
            return vec![rooted.to_owned()];
        }
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        let dots = name.matches('.').count();
        names.insert(if dots >= self.ndots { 0 } else { names.len() }, name.to_owned());
        names
    }
}

/// Tests name a port too, as the files of some resolvers do. The zone of a link-local address is a number here.
fn server(word: &str) -> Option<SocketAddr> {
    word.parse().ok().or_else(|| word.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_counts_is_read() {
        let config = Config::parse(
            "# made by hand\nsearch old\nnameserver 192.0.2.1 ; first\nnameserver 2001:db8::1\nnameserver nonsense\n\
             nameserver 127.0.0.1:5300\nnameserver 192.0.2.4\nsearch lan. example.com\n\
             options ndots:5 timeout:0 attempts:9 rotate use-vc\noptions no-aaaa ndots:x\n",
        );
        let servers: Vec<String> = config.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "127.0.0.1:5300"]);
        assert_eq!(config.search, ["lan", "example.com"]);
        assert_eq!((config.ndots, config.timeout, config.attempts), (5, Duration::from_secs(1), 5));
        assert!(config.tcp && config.no_aaaa);
    }

    #[test]
    fn an_empty_file_means_the_server_of_this_host() {
        let config = Config::parse("");
        assert_eq!(config.servers, [SocketAddr::from(([127, 0, 0, 1], 53))]);
        assert_eq!((config.ndots, config.timeout, config.attempts), (1, Duration::from_secs(5), 2));
    }

    #[test]
    fn dots_decide_which_name_is_asked_for_first() {
        let config = Config::parse("search lan example.com\noptions ndots:2");
        let check = |name: &str, expect: &[&str]| assert_eq!(config.candidates(name), expect, "{name}");
        check("a", &["a.lan", "a.example.com", "a"]);
        check("a.b", &["a.b.lan", "a.b.example.com", "a.b"]);
        check("a.b.c", &["a.b.c", "a.b.c.lan", "a.b.c.example.com"]);
        check("a.", &["a"]);
    }
}
