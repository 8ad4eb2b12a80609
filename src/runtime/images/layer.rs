//! A layer on its way from a byte stream to a snapshot directory: decompressed, unpacked, and
//! verified against both its digests before anyone sees it.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};

use super::unpack::{Implied, unpack};

const READ_BUFFER: usize = 256 << 10;

/// Reads `stream` to its end into `root`. `digest` is that of the stream as it comes, `diff_id` that
/// of the tar inside; both as `sha256:<hex>`. `None` where there is nothing to compare with.
pub fn unpack_verified(stream: impl Read, root: &Path, digest: Option<&str>, diff_id: &str) -> io::Result<Implied> {
    let mut outer = Hashing::new(stream);
    let mut inner = Hashing::new(decompress(&mut outer)?);
    let implied = unpack(&mut inner, root)?;
    // What follows the end-of-archive blocks counts for the digests.
    io::copy(&mut inner, &mut io::sink())?;
    let found = inner.digest();
    io::copy(&mut outer, &mut io::sink())?;
    if let Some(digest) = digest {
        compare("layer", digest, &outer.digest())?;
    }
    compare("layer content", diff_id, &found)?;
    Ok(implied)
}

/// The plain stream, whatever it is packed with; told by its first bytes, since media types lie.
pub fn decompress<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(READ_BUFFER, stream);
    let head = stream.fill_buf()?;
    if head.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(stream)))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(stream).map_err(io::Error::other)?;
        Ok(Box::new(decoder))
    } else {
        Ok(Box::new(stream))
    }
}

/// Fails unless both digests are the same.
pub fn compare(what: &str, expect: &str, found: &str) -> io::Result<()> {
    if expect == found {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("{what} digest mismatch: expected {expect}, got {found}")))
}

/// `sha256:<hex>` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

fn hex(hash: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in hash {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Hashes what passes.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    fn digest(self) -> String {
        hex(self.hash.finalize().as_slice())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// The blocking end of a download: what the task behind the channel receives. A failure of the
/// download arrives as an error, so a stream that broke off never looks complete.
pub struct ChannelReader {
    receiver: tokio::sync::mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl ChannelReader {
    pub fn new(receiver: tokio::sync::mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { receiver, current: Bytes::new() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, "a", b"hi".as_slice()).expect("append");
        builder.into_inner().expect("tar")
    }

    #[test]
    fn verifies_both_digests() {
        let plain = tar();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&plain).expect("gzip");
        let packed = packed.finish().expect("gzip");
        let (digest, diff_id) = (sha256(&packed), sha256(&plain));
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (name, stream, digest, diff_id, expect) in [
            ("good", &packed, &digest, &diff_id, None),
            ("plain", &plain, &diff_id, &diff_id, None),
            ("lies outside", &packed, &diff_id, &diff_id, Some("layer digest mismatch")),
            ("lies inside", &packed, &digest, &digest, Some("layer content digest mismatch")),
        ] {
            let root = directory.path().join(name);
            std::fs::create_dir(&root).expect("mkdir");
            let result = unpack_verified(stream.as_slice(), &root, Some(digest), diff_id);
            match expect {
                None => assert!(result.is_ok() && root.join("a").exists(), "{name}: {result:?}"),
                Some(text) => assert!(result.expect_err(name).to_string().contains(text)),
            }
        }
        let root = directory.path().join("cut");
        std::fs::create_dir(&root).expect("mkdir");
        unpack_verified(&packed[..packed.len() - 9], &root, Some(&digest), &diff_id).expect_err("cut short");
    }
}
