//! The form of a log segment: a head, then records in batches; pure.
//!
//! ```text
//! head:   "SKIFFLOG" | version u32 | crc u32 | sequence number u64
//! record: length u32 | crc u32 | batch u64 | kind u8 | payload | zeros up to a multiple of 8
//! ```
//!
//! A batch is what one write and one fdatasync bring to disk; the next batch is written only after that. So if a
//! record of a later batch stands behind a broken one, the broken one had been durable: the file is corrupt. If none
//! does, the broken one was never acknowledged: it is the torn tail of a crash, and is cut.
//!
//! The crc covers the segment's sequence number, so that a reused file's old records are never taken for new ones.

use crate::codec::{put_u32, put_u64};

pub(crate) const SEGMENT_BYTES: u64 = 8 << 20;
pub(crate) const HEAD_BYTES: usize = 24;
const RECORD_HEAD_BYTES: usize = 17;
const MAGIC: &[u8; 8] = b"SKIFFLOG";
const VERSION: u32 = 1;
/// Set in the kind of a batch's last record.
const LAST: u8 = 0x80;

pub(crate) mod kind {
    pub const ENTRY: u8 = 1;
    pub const VOTE: u8 = 2;
    /// All entries behind the log id (or all, without one) are taken back.
    pub const TRUNCATE: u8 = 3;
}

pub(crate) fn head(sequence: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&head_crc(sequence).to_le_bytes());
    put_u64(&mut out, sequence);
    out
}

/// The sequence number that a valid head carries.
pub(crate) fn read_head(bytes: &[u8]) -> Option<u64> {
    let sequence = u64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?);
    (bytes[..HEAD_BYTES] == head(sequence)[..]).then_some(sequence)
}

fn head_crc(sequence: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(MAGIC);
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(&sequence.to_le_bytes());
    hasher.finalize()
}

/// How much of a segment a record with such a payload takes.
pub(crate) fn record_bytes(payload: usize) -> usize {
    (RECORD_HEAD_BYTES + payload).next_multiple_of(8)
}

/// Records on their way to disk in one write.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    last_record: usize,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a record; returns where its payload starts and how long it is.
    pub fn push(&mut self, sequence: u64, batch: u64, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) -> (usize, usize) {
        self.seal(sequence, 0);
        self.last_record = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 8]);
        put_u64(&mut self.bytes, batch);
        self.bytes.push(kind);
        let start = self.bytes.len();
        payload(&mut self.bytes);
        let length = self.bytes.len() - start;
        let mut written = Vec::with_capacity(4);
        put_u32(&mut written, length);
        self.bytes[self.last_record..self.last_record + 4].copy_from_slice(&written);
        (start, length)
    }

    /// Writes the last record's checksum.
    fn seal(&mut self, sequence: u64, flag: u8) {
        let Some(record) = self.bytes.get_mut(self.last_record..).filter(|record| !record.is_empty()) else { return };
        record[16] |= flag;
        let crc = record_crc(sequence, record);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// The bytes to write.
    pub fn finish(&mut self, sequence: u64) -> &[u8] {
        self.seal(sequence, LAST);
        self.last_record = self.bytes.len();
        &self.bytes
    }

    pub fn clear(&mut self) {
        // One huge batch must not keep its memory for ever.
        if self.bytes.capacity() > 1 << 20 {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.last_record = 0;
    }
}

/// `record` without padding.
fn record_crc(sequence: u64, record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&record[..4]);
    hasher.update(&record[8..]);
    hasher.finalize()
}

/// A valid record in a segment's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub batch: u64,
    pub kind: u8,
    /// The last of its batch.
    pub last: bool,
    /// Where the payload starts.
    pub start: usize,
    pub length: usize,
}

impl Found {
    pub fn next_record(&self) -> usize {
        (self.start + self.length).next_multiple_of(8)
    }
}

/// The record at `at`, if a valid one stands there.
pub(crate) fn record_at(sequence: u64, segment: &[u8], at: usize) -> Option<Found> {
    let head = segment.get(at..at + RECORD_HEAD_BYTES)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(head[4..8].try_into().ok()?);
    let batch = u64::from_le_bytes(head[8..16].try_into().ok()?);
    let record = segment.get(at..at.checked_add(RECORD_HEAD_BYTES)?.checked_add(length)?)?;
    if batch == 0 || record_crc(sequence, record) != crc {
        return None;
    }
    let start = at + RECORD_HEAD_BYTES;
    Some(Found { batch, kind: head[16] & !LAST, last: head[16] & LAST != 0, start, length })
}

/// Where a segment's valid records end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub at: usize,
    /// The number of the batch that would come next.
    pub next_batch: u64,
    /// A record of a later batch stands behind the end: something durable is broken.
    pub corrupt: bool,
    /// Nothing of a batch that was under way stands there: it can be written on.
    pub clean: bool,
}

/// Walks the records; the first must be of the batch `next_batch` (any, if 0).
pub(crate) fn scan<E>(
    sequence: u64,
    segment: &[u8],
    mut next_batch: u64,
    mut visit: impl FnMut(Found) -> Result<(), E>,
) -> Result<End, E> {
    let mut at = HEAD_BYTES;
    let mut inside: Option<u64> = None;
    while let Some(found) = record_at(sequence, segment, at) {
        let expected = match inside {
            Some(batch) => found.batch == batch,
            None => next_batch == 0 || found.batch == next_batch,
        };
        if !expected {
            break;
        }
        visit(found)?;
        inside = (!found.last).then_some(found.batch);
        next_batch = found.batch + 1;
        at = found.next_record();
    }
    // What is broken belongs to the batch that is under way, or to the next one.
    let broken_batch = inside.unwrap_or(next_batch);
    let corrupt = later_batch(sequence, segment, at, broken_batch);
    let clean = inside.is_none() && !corrupt && !later_batch(sequence, segment, at, next_batch.saturating_sub(1));
    // After a torn batch the writer leaves one number out, so that a later scan tells "torn" from "lost".
    Ok(End { at, next_batch: if inside.is_some() { broken_batch + 2 } else { next_batch }, corrupt, clean })
}

/// Is there a valid record of a batch behind `batch`?
fn later_batch(sequence: u64, segment: &[u8], from: usize, batch: u64) -> bool {
    const CHUNK: usize = 4096;
    const PLAUSIBLE: u64 = 1 << 24;
    static ZEROS: [u8; CHUNK] = [0; CHUNK];
    let mut at = from;
    while at + RECORD_HEAD_BYTES <= segment.len() {
        if segment.get(at..at + CHUNK) == Some(&ZEROS) {
            at += CHUNK;
            continue;
        }
        let number = u64::from_le_bytes(segment[at + 8..at + 16].try_into().expect("eight bytes"));
        // The number alone rules nearly everything out; a checksum of megabytes at every place would take for ever.
        let later = number > batch && number < batch.saturating_add(PLAUSIBLE);
        if later && record_at(sequence, segment, at).is_some() {
            return true;
        }
        at += 8;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQUENCE: u64 = 5;

    /// Three batches of two records each.
    fn sample() -> (Vec<u8>, Vec<usize>) {
        let mut segment = head(SEQUENCE);
        let mut ends = vec![segment.len()];
        for number in 7..10u64 {
            let mut batch = Batch::default();
            for record in 0..2u8 {
                batch.push(SEQUENCE, number, kind::ENTRY, |out| {
                    out.extend(std::iter::repeat_n(record + 1, 10 * number as usize));
                });
            }
            segment.extend_from_slice(batch.finish(SEQUENCE));
            ends.push(segment.len());
        }
        (segment, ends)
    }

    fn scanned(segment: &[u8], next_batch: u64) -> (usize, End) {
        let mut records = 0;
        let end = scan(SEQUENCE, segment, next_batch, |found| {
            assert_eq!(found.kind, kind::ENTRY);
            records += 1;
            Ok::<_, ()>(())
        });
        (records, end.unwrap())
    }

    #[test]
    fn heads_name_their_segment() {
        assert_eq!(read_head(&head(SEQUENCE)), Some(SEQUENCE));
        let mut broken = head(SEQUENCE);
        broken[20] ^= 1;
        assert_eq!(read_head(&broken), None);
        assert_eq!(read_head(&broken[..10]), None);
    }

    #[test]
    fn a_whole_segment_is_read_to_its_end() {
        let (mut segment, ends) = sample();
        segment.resize(ends[3] + 5000, 0);
        assert_eq!(scanned(&segment, 7), (6, End { at: ends[3], next_batch: 10, corrupt: false, clean: true }));
        assert_eq!(scanned(&segment, 0).0, 6, "the first segment may begin with any batch");
        assert_eq!(scanned(&segment, 8).0, 0, "a batch is missing in front");
    }

    #[test]
    fn any_cut_in_the_last_batch_is_a_torn_tail() {
        let (segment, ends) = sample();
        // The last bytes are padding.
        for cut in ends[2]..ends[3] - 7 {
            let mut torn = segment.clone();
            torn[cut..].fill(0);
            let (records, end) = scanned(&torn, 7);
            assert!((4..=5).contains(&records) && !end.corrupt, "cut at {cut}: {records} {end:?}");
            assert_eq!(end.next_batch, if records == 4 { 9 } else { 11 }, "cut at {cut}");
            assert_eq!(end.clean, records == 4, "cut at {cut}");
        }
    }

    #[test]
    fn what_a_later_scan_could_take_for_more_is_not_written_over() {
        let (mut segment, ends) = sample();
        // The first record of the last batch did not come to disk, the second did.
        segment[ends[2] + RECORD_HEAD_BYTES] ^= 0x55;
        let (records, end) = scanned(&segment, 7);
        assert!(records == 4 && !end.corrupt && !end.clean, "{records} {end:?}");
    }

    #[test]
    fn any_damage_before_the_last_batch_is_corruption() {
        let (segment, ends) = sample();
        for at in ends[0]..ends[2] {
            let mut damaged = segment.clone();
            damaged[at] ^= 0x55;
            let (_, end) = scanned(&damaged, 7);
            // Padding between records means nothing.
            assert!(end.corrupt || end.at == ends[3], "damage at {at}: {end:?}");
            assert!(end.corrupt || segment[at] == 0, "damage at {at}: {end:?}");
        }
    }

    #[test]
    fn records_of_an_earlier_use_of_the_file_are_not_taken() {
        let (segment, ends) = sample();
        let other = SEQUENCE + 1;
        let mut reused = segment.clone();
        reused[..HEAD_BYTES].copy_from_slice(&head(other));
        let end = scan(other, &reused, 10, |_| Err("no record is valid")).unwrap();
        assert_eq!(end, End { at: HEAD_BYTES, next_batch: 10, corrupt: false, clean: true });
        assert!(ends[3] > end.at);
    }
}
