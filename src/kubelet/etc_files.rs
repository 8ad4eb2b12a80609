//! `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname` of a pod.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// What resolvers bear; more is cut off.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;
/// A host name has at most this many characters.
const MAX_HOSTNAME: usize = 63;

/// The pod's own name, and its name with domain where it has one.
pub(crate) fn hostname(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = pod::spec(pod);
    if let Some(fixed) = spec.hostname_override.as_deref().filter(|h| !h.is_empty()) {
        return (fixed.to_owned(), None);
    }
    let name = match spec.hostname.as_deref().filter(|h| !h.is_empty()) {
        Some(name) => name.to_owned(),
        None => {
            let cut: String = pod::name(pod).chars().take(MAX_HOSTNAME).collect();
            cut.trim_end_matches(['-', '.']).to_owned()
        }
    };
    let full = spec
        .subdomain
        .as_deref()
        .filter(|s| !s.is_empty())
        .map(|subdomain| format!("{name}.{subdomain}.{}.svc.{cluster_domain}", pod::namespace(pod)));
    (name, full)
}

pub(crate) fn hosts(pod: &Pod, pod_ips: &[IpAddr], cluster_domain: &str, host_file: Option<&str>) -> String {
    let mut text = match host_file {
        Some(own) => format!("# Kubernetes-managed hosts file (host network).\n{own}"),
        None => {
            let mut text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
                ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
                fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
                .to_owned();
            let (name, full) = hostname(pod, cluster_domain);
            for ip in pod_ips {
                match &full {
                    Some(full) => text.push_str(&format!("{ip}\t{full}\t{name}\n")),
                    None => text.push_str(&format!("{ip}\t{name}\n")),
                }
            }
            text
        }
    };
    let aliases = pod::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
        }
    }
    text
}

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    pub(crate) nameservers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

impl Resolver {
    pub(crate) fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
                // The last one counts.
                Some("search" | "domain") => {
                    resolver.searches = words.map(|w| w.trim_end_matches('.').to_owned()).collect();
                    resolver.searches.retain(|s| !s.is_empty());
                }
                Some("options") => resolver.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        resolver
    }

    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }

    fn set_option(&mut self, name: &str, value: Option<&str>) {
        self.options.retain(|o| o.split(':').next() != Some(name));
        self.options.push(match value.filter(|v| !v.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        });
    }
}

/// By dnsPolicy and dnsConfig; the text, where something had to be cut off, is for an event.
pub(crate) fn resolver(pod: &Pod, host: &Resolver, dns: IpAddr, cluster_domain: &str) -> (Resolver, Option<String>) {
    let spec = pod::spec(pod);
    let host_network = spec.host_network == Some(true);
    let mut resolver = match spec.dns_policy.as_deref() {
        Some("None") => Resolver::default(),
        Some("Default") => host.clone(),
        Some("ClusterFirstWithHostNet") => cluster_first(pod, host, dns, cluster_domain),
        _ if host_network => host.clone(),
        _ => cluster_first(pod, host, dns, cluster_domain),
    };
    if let Some(config) = &spec.dns_config {
        resolver.nameservers.extend(config.nameservers.iter().flatten().cloned());
        resolver.searches.extend(config.searches.iter().flatten().map(|s| s.trim_end_matches('.').to_owned()));
        for option in config.options.iter().flatten() {
            resolver.set_option(option.name.as_deref().unwrap_or_default(), option.value.as_deref());
        }
    }
    unique(&mut resolver.nameservers);
    unique(&mut resolver.searches);
    let warning = cut(&mut resolver);
    (resolver, warning)
}

fn cluster_first(pod: &Pod, host: &Resolver, dns: IpAddr, cluster_domain: &str) -> Resolver {
    let namespace = pod::namespace(pod);
    let mut searches =
        vec![format!("{namespace}.svc.{cluster_domain}"), format!("svc.{cluster_domain}"), cluster_domain.to_owned()];
    searches.extend(host.searches.iter().cloned());
    Resolver { nameservers: vec![dns.to_string()], searches, options: vec!["ndots:5".to_owned()] }
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

fn cut(resolver: &mut Resolver) -> Option<String> {
    let mut warnings = Vec::new();
    if resolver.nameservers.len() > MAX_NAMESERVERS {
        resolver.nameservers.truncate(MAX_NAMESERVERS);
        warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            resolver.nameservers.join(" ")
        ));
    }
    let before = resolver.searches.len();
    resolver.searches.truncate(MAX_SEARCHES);
    while resolver.searches.join(" ").len() > MAX_SEARCH_CHARACTERS {
        resolver.searches.pop();
    }
    if resolver.searches.len() < before {
        warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            resolver.searches.join(" ")
        ));
    }
    (!warnings.is_empty()).then(|| warnings.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sample(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "n"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn resolvers() {
        let host = Resolver::parse("# x\nnameserver 192.0.2.53\nsearch lan.\noptions edns0\n");
        let dns = "10.43.0.10".parse().expect("an address");
        let cluster =
            "search n.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.43.0.10\noptions ndots:5\n";
        let own = "search lan\nnameserver 192.0.2.53\noptions edns0\n";
        for (spec, expected) in [
            (json!({"containers": []}), cluster),
            (json!({"containers": [], "dnsPolicy": "ClusterFirst"}), cluster),
            (json!({"containers": [], "dnsPolicy": "Default"}), own),
            (json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirst"}), own),
            (json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), cluster),
            (
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["a.b"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "search a.b\nnameserver 192.0.2.1\noptions ndots:2 edns0\n",
            ),
            (
                json!({"containers": [], "dnsConfig": {"nameservers": ["10.43.0.10", "192.0.2.1"], "options": [{"name": "ndots", "value": "1"}]}}),
                "search n.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.43.0.10\nnameserver 192.0.2.1\noptions ndots:1\n",
            ),
        ] {
            let (found, warning) = resolver(&sample(spec.clone()), &host, dns, "cluster.local");
            assert_eq!((found.render().as_str(), warning), (expected, None), "{spec}");
        }
        let many = json!({"containers": [], "dnsConfig": {"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]}});
        let (found, warning) = resolver(&sample(many), &host, dns, "cluster.local");
        assert_eq!(found.nameservers.len(), 3);
        assert!(warning.is_some_and(|w| w.ends_with("10.43.0.10 192.0.2.1 192.0.2.2")));
    }

    #[test]
    fn hosts_files() {
        let ips = ["10.42.0.9".parse().expect("an address")];
        let pod = sample(json!({"containers": [], "subdomain": "db",
            "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a.test", "b.test"]}]}));
        let text = hosts(&pod, &ips, "cluster.local", None);
        assert!(
            text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-"),
            "{text}"
        );
        assert!(
            text.ends_with("ip6-allrouters\n10.42.0.9\tweb-0.db.n.svc.cluster.local\tweb-0\n\n# Entries added by HostAliases.\n192.0.2.9\ta.test\tb.test\n"),
            "{text}"
        );
        let plain = hosts(&sample(json!({"containers": []})), &ips, "cluster.local", None);
        assert!(plain.ends_with("10.42.0.9\tweb-0\n"), "{plain}");
        let host = hosts(&sample(json!({"containers": []})), &ips, "cluster.local", Some("127.0.0.1 x\n"));
        assert_eq!(host, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 x\n");
    }

    #[test]
    fn host_names() {
        let name = |spec| hostname(&sample(spec), "cluster.local").0;
        assert_eq!(name(json!({"containers": []})), "web-0");
        assert_eq!(name(json!({"containers": [], "hostname": "other"})), "other");
    }
}
