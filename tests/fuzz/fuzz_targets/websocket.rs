//! A peer that speaks WebSocket: its frames, and exec's channels over them in all protocols.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use skiff_base::Scope;
use skiff_streaming::Role;
use skiff_streaming::channels::{Channels, Protocol, RESIZE, STDIN};
use skiff_streaming::websocket::{Decoder, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// All bytes of data, and how many events there were.
fn data_of(pieces: &[&[u8]], role: Role) -> Vec<u8> {
    let (mut decoder, mut input, mut all) = (Decoder::new(role), BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(Event::Data { bytes, .. })) => all.extend_from_slice(&bytes),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return all,
            }
        }
    }
    all
}

fuzz_target!(|data: &[u8]| {
    for role in [Role::Server, Role::Client] {
        let whole = data_of(&[data], role);
        let (first, second) = data.split_at(data.len() / 2);
        assert_eq!(data_of(&[first, second], role), whole, "in two pieces");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let scope = Scope::new();
        for name in ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"] {
            let protocol = Protocol::of(name).expect("it is known");
            let (mut peer, ours) = tokio::io::duplex(64 * 1024);
            let mut channels = Channels::start(ours, Role::Server, protocol, &[STDIN, RESIZE], &scope);
            drop(peer.write_all(data).await);
            drop(peer.shutdown().await);
            let mut stdin = channels.incoming(STDIN).expect("it was asked for");
            drop(channels.incoming(RESIZE));
            while stdin.next().await.is_some() {}
            channels.gone().cancelled().await;
            drop(channels);
            let mut said = Vec::new();
            drop(peer.read_to_end(&mut said).await);
        }
        scope.stop().await;
    });
});
