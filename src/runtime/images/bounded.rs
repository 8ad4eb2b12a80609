//! Tar streams of strangers, read with a limit on what describes an entry: the long names and extended headers before
//! it are held in memory as a whole.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::{Archive, Entry, EntryType};

/// What stands between the content of one entry and that of the next: names, links, and attributes of 1 MiB in all.
const HEADERS: u64 = (1 << 20) + (64 << 10);
const BLOCK: u64 = 512;

/// A stream that ends with an error where the budget does.
pub struct Bounded<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

/// What may still be read.
pub struct Budget(Rc<Cell<u64>>);

pub fn archive<R: Read>(stream: R) -> (Archive<Bounded<R>>, Budget) {
    let left = Rc::new(Cell::new(HEADERS));
    (Archive::new(Bounded { inner: stream, left: left.clone() }), Budget(left))
}

impl Budget {
    /// To be called with each entry, before anything of it is read: allows its content and the headers of the next.
    pub fn enter(&self, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        let size = match entry.header().entry_type() {
            // Its size is the one that it has when it is unpacked.
            EntryType::GNUSparse => entry.header().entry_size()?,
            _ => entry.size(),
        };
        self.0.set(size.saturating_add(BLOCK + HEADERS));
        Ok(())
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the headers of an entry are too long"));
        }
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.inner.read(&mut buffer[..most])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::Header;

    struct Counting<R>(R, Rc<Cell<u64>>);

    impl<R: Read> Read for Counting<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read(buffer)?;
            self.1.set(self.1.get() + count as u64);
            Ok(count)
        }
    }

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_path("file").expect("a name");
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        header
    }

    #[test]
    fn long_headers_do_not_fill_memory() {
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            // A file before it is no reason to allow more.
            let (file, long) = (header(EntryType::Regular, 8 << 20), header(kind, 64 << 20));
            let first = file.as_bytes().chain(io::repeat(0).take(8 << 20));
            let stream = first.chain(long.as_bytes().as_slice()).chain(io::repeat(b'a').take(64 << 20));
            let read = Rc::new(Cell::new(0));
            let directory = tempfile::tempdir().expect("a directory");
            let result = crate::images::unpack::unpack(Counting(stream, read.clone()), directory.path());
            let error = result.expect_err("too long").to_string();
            assert!(error.contains("headers of an entry are too long"), "{kind:?}: {error}");
            assert!(read.get() < 10 << 20, "{kind:?}: {} bytes were read", read.get());
        }
    }

    #[test]
    fn files_of_any_size_and_their_attributes_pass() {
        let mut builder = tar::Builder::new(Vec::new());
        let attribute = vec![b'v'; 60 << 10];
        for _ in 0..3 {
            builder.append_pax_extensions([("SCHILY.xattr.user.a", attribute.as_slice())]).expect("attributes");
            let content = vec![1; (3 << 20) + 1];
            builder
                .append_data(&mut header(EntryType::Regular, content.len() as u64), "f", &content[..])
                .expect("file");
        }
        let bytes = builder.into_inner().expect("a tar");
        let (mut tar, budget) = archive(bytes.as_slice());
        let mut found = 0;
        for entry in tar.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            budget.enter(&entry).expect("allowed");
            // Read in whole, in part, not at all.
            found += io::copy(&mut entry.by_ref().take(found * 2), &mut io::sink()).map(|_| 1).expect("content");
        }
        assert_eq!(found, 3);
    }
}
