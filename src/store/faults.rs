//! Where tests make the disk fail. Nothing happens in the program.

/// Called before a sync of the log.
#[cfg(not(test))]
pub(crate) fn sync() -> std::io::Result<()> {
    Ok(())
}

/// Called between the write of a batch and its sync.
#[cfg(not(test))]
pub(crate) fn written(_sequence: u64, _at: u64, _length: usize) {}

#[cfg(test)]
pub(crate) use on_demand::{FAIL_SYNC, TEAR_AFTER, sync, written};

#[cfg(test)]
mod on_demand {
    use std::io::{self, Write};
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    pub(crate) static FAIL_SYNC: AtomicBool = AtomicBool::new(false);
    /// The process ends after so many batches, before the sync of the last one.
    pub(crate) static TEAR_AFTER: AtomicI64 = AtomicI64::new(-1);

    pub(crate) fn sync() -> io::Result<()> {
        if FAIL_SYNC.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    pub(crate) fn written(sequence: u64, at: u64, length: usize) {
        if TEAR_AFTER.load(Ordering::SeqCst) >= 0 && TEAR_AFTER.fetch_sub(1, Ordering::SeqCst) == 0 {
            let line = format!("@torn {sequence:016x}.log {at} {length}\n");
            std::io::stdout().lock().write_all(line.as_bytes()).expect("the test listens");
            std::process::abort();
        }
    }
}
