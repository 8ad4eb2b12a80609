//! A peer that speaks SPDY: its frames, whole and in pieces, then all of a connection.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use skiff_base::Scope;
use skiff_streaming::Role;
use skiff_streaming::spdy::{Decoder, Encoder, Frame, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a decoder gives until it wants more or complains; data joined, since it comes as it arrives.
fn frames(pieces: &[&[u8]]) -> Vec<Frame> {
    let (mut decoder, mut input, mut all) = (Decoder::default(), BytesMut::new(), Vec::<Frame>::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(frame)) => match (all.last_mut(), frame) {
                    (
                        Some(Frame::Data { stream, bytes, fin }),
                        Frame::Data { stream: next, bytes: more, fin: ends },
                    ) if !*fin && *stream == next => {
                        *bytes = [&bytes[..], &more[..]].concat().into();
                        *fin = ends;
                    }
                    (_, frame) => all.push(frame),
                },
                Ok(None) => break,
                Err(_) => return all,
            }
        }
    }
    all
}

fuzz_target!(|data: &[u8]| {
    let all = frames(&[data]);
    let (first, second) = data.split_at(data.len() / 2);
    assert_eq!(frames(&[first, second]), all, "in two pieces");
    let (mut encoder, mut written) = (Encoder::default(), BytesMut::new());
    for frame in &all {
        encoder.encode(frame, &mut written);
    }
    let again = frames(&[&written]);
    assert_eq!(again.len(), all.len(), "written and read");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let scope = Scope::new();
        for tunnel in [false, true] {
            let (mut peer, ours) = tokio::io::duplex(64 * 1024);
            let mut session = Session::start(ours, Role::Server, tunnel, &scope);
            // It may have hung up by then.
            drop(peer.write_all(data).await);
            drop(peer.shutdown().await);
            while let Some(mut stream) = session.accept().await {
                let _ = stream.outgoing.write("x".into()).await;
                while stream.incoming.next().await.is_some() {}
            }
            session.gone().cancelled().await;
            drop(session);
            let mut said = Vec::new();
            drop(peer.read_to_end(&mut said).await);
        }
        scope.stop().await;
    });
});
