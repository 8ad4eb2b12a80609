//! Messages of DNS: questions of clients, and answers of other servers.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, unused_imports, reason = "the server uses the rest")]
#[path = "../../../src/dns/wire.rs"]
mod wire;

fuzz_target!(|packet: &[u8]| {
    if let Ok(query) = wire::Query::parse(packet) {
        let _ = (query.name(), query.refusal(), query.cache_key());
        let answer = wire::Answer::empty(wire::Code::NoError).write(&query, query.udp_limit());
        assert!(query.is_answered_by(&answer, query.id), "our own answer");
        assert!(wire::Foreign::parse(&answer).is_some(), "our own answer");
    }
    if let Some(foreign) = wire::Foreign::parse(packet) {
        let _ = (foreign.is_name_error(), foreign.is_truncated(), foreign.keep_s());
        foreign.answers();
        let mut older = packet.to_vec();
        wire::age(&mut older, 7);
        wire::set_id(&mut older, 1);
        assert_eq!(older.len(), packet.len());
    }
});
