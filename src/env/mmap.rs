//! Read-only mappings of files: the one place of the crate where `unsafe` stands.
//!
//! Three calls need it, because their soundness rests on what the compiler cannot see
//! - mapping a file: the bytes behind the slice belong to the file, not to us;
//! - `madvise`: it takes a bare address range;
//! - letting go of the pages of a mapping: it would take them from under a reader.
//!
//! Invariants
//! - No mapping is writable.
//! - A mapping lives as long as the last [`Bytes`] cut from it; only then is it unmapped, in steps: the system keeps every
//!   other call that maps or unmaps waiting for as long as one such call takes.
//! - Bytes of a mapping are read only below the published end of a file that does not shrink, so they do not change.
//!
//! A mapping past the end of the file, or over a failing disk, is a signal when touched. [`populate`] touches the pages
//! inside the kernel instead, which answers with an error. It is a promise about now, not for ever: the kernel may drop
//! clean pages again when memory runs short, which is why callers populate before every use and use at once.
//!
//! What is not here: which ranges to map and how many mappings to keep (`cache`).
#![expect(
    unsafe_code,
    reason = "mappings and madvise; everything else of the crate is safe"
)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions, UncheckedAdvice};

/// Read at a time where a range has to be read only to see that it can be.
const SCRATCH_LEN: usize = 64 << 10;

/// Pages of a mapping are let go of in steps of so many bytes. On a busy machine 64 MiB in memory took 5 to 7 ms at once, and a
/// step of 1 MiB 0.17 ms.
const RELEASE_STEP: usize = 256 << 10;

/// A mapping, let go of in steps.
#[derive(Debug)]
struct Mapping(Mmap);

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let len = self.0.len();
        if len <= RELEASE_STEP {
            return;
        }
        for at in (0..len).step_by(RELEASE_STEP) {
            let step = RELEASE_STEP.min(len - at);
            // SAFETY: the range lies in the mapping, which nobody reads any more: this is its owner's drop. Of a mapping of a
            // file the advice takes away pages that the file still has; nothing is written or lost.
            let released = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, at, step) };
            if released.is_err() {
                // Then it is unmapped in one go, which only takes longer.
                return;
            }
        }
    }
}

/// Maps `len` bytes of `file` from `position`, a multiple of the page size; the range may reach past the end.
///
/// # Errors
/// What `mmap` says.
pub(super) fn map(file: &File, position: u64, len: usize) -> io::Result<Bytes> {
    if len == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is read-only and private to us. The slice stays valid until it is unmapped, which its owner,
    // the `Bytes`, does last. By the module's invariants nobody changes or cuts away the bytes that are read: they lie
    // below the published end, files are append-only, truncation happens in recovery before anything is mapped, and the
    // data directory is locked against other servers. A page that is past the end or unreadable is found by `populate`.
    let mapping = unsafe { MmapOptions::new().offset(position).len(len).map(file) }?;
    Ok(Bytes::from_owner(Mapping(mapping)))
}

/// Makes `bytes`, which lie at `position` of `file`, resident.
///
/// # Errors
/// `UnexpectedEof` when the file ends before they do; else what reading them says.
pub(super) fn populate(file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
    populate_by(make_resident, file, bytes, position)
}

/// As [`populate`], by a call that faults pages in, if the system has it.
fn populate_by(
    make_resident: impl Fn(&[u8]) -> io::Result<()>,
    file: &File,
    bytes: &[u8],
    position: u64,
) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let file_len = file.metadata()?.len();
    if u64::try_from(bytes.len())
        .ok()
        .and_then(|len| position.checked_add(len))
        .is_none_or(|end| end > file_len)
    {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match make_resident(bytes) {
        Ok(()) => Ok(()),
        // Either the kernel has no such call, or a page cannot be had. A read tells the two apart, and says in the
        // second case what is wrong where `madvise` only says "bad address".
        Err(refused) => {
            read_through(file, bytes.len(), position)?;
            match refused.kind() {
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => Ok(()),
                _ => make_resident(bytes),
            }
        }
    }
}

/// Faults in the pages that hold `bytes`, as reading them would, but with an error in place of a signal.
#[cfg(target_os = "linux")]
pub(super) fn make_resident(bytes: &[u8]) -> io::Result<()> {
    let page = rustix::param::page_size();
    let before = bytes.as_ptr().addr() % page;
    let first_page = bytes.as_ptr().wrapping_sub(before).cast_mut().cast();
    let len = (before + bytes.len()).next_multiple_of(page);
    // SAFETY: every page of the range holds a byte of a live slice, so all of it is mapped memory. This advice reads the
    // pages and changes neither their content nor their protection, so it is harmless even to bytes of no mapping.
    unsafe { rustix::mm::madvise(first_page, len, rustix::mm::Advice::LinuxPopulateRead) }?;
    Ok(())
}

/// Other systems have no such call; the caller falls back to reading.
#[cfg(not(target_os = "linux"))]
fn make_resident(_bytes: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Reads `len` bytes at `position` and drops them: they are in the page cache then, or the read has failed.
fn read_through(file: &File, len: usize, position: u64) -> io::Result<()> {
    let mut scratch = vec![0; SCRATCH_LEN.min(len)];
    let mut at = position;
    let mut left = len;
    while left > 0 {
        let part = left.min(SCRATCH_LEN);
        file.read_exact_at(&mut scratch[..part], at)?;
        at += part as u64;
        left -= part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_fallback_reads_every_byte_of_the_range_and_finds_the_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 3 * SCRATCH_LEN + 5]).unwrap();
        read_through(&file, 3 * SCRATCH_LEN, 5).unwrap();
        let past = read_through(&file, 3 * SCRATCH_LEN + 1, 5).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn on_a_system_without_the_call_bytes_are_resident_once_they_were_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, vec![7; 2 * SCRATCH_LEN]).unwrap();
        let open = |options: &mut std::fs::OpenOptions| options.open(&path).unwrap();
        let file = open(std::fs::OpenOptions::new().read(true));
        let bytes = map(&file, 0, 2 * SCRATCH_LEN).unwrap();
        for lacking in [io::ErrorKind::InvalidInput, io::ErrorKind::Unsupported] {
            populate_by(|_| Err(lacking.into()), &file, &bytes, 0).unwrap();
            // Of a file that cannot be read nothing is said to be there.
            let unread = open(std::fs::OpenOptions::new().append(true));
            populate_by(|_| Err(lacking.into()), &unread, &bytes, 0).unwrap_err();
        }
        let failing = |_: &[u8]| Err(io::ErrorKind::Other.into());
        populate_by(failing, &file, &bytes, 0).expect_err("the page can be read and not be had");
    }

    #[test]
    fn bytes_that_are_no_mapping_are_left_as_they_are() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100]).unwrap();
        let bytes = vec![1; 100];
        populate(&file, &bytes, 0).unwrap();
        assert_eq!(bytes, vec![1; 100]);
    }

    #[test]
    fn a_part_of_a_mapping_stays_until_its_last_holder_lets_go_of_it() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 3 * RELEASE_STEP + 5]).unwrap();
        let whole = map(&file, 0, 4 * RELEASE_STEP).unwrap();
        populate(&file, &whole[..3 * RELEASE_STEP + 5], 0).unwrap();
        let part = whole.slice(2 * RELEASE_STEP..3 * RELEASE_STEP + 5);
        drop(whole);
        assert_eq!(part, vec![7; RELEASE_STEP + 5]);
    }

    #[test]
    fn a_page_past_the_end_is_an_error_of_madvise_and_no_signal() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100]).unwrap();
        let bytes = map(&file, 0, 1 << 20).unwrap();
        make_resident(&bytes[..100]).unwrap();
        assert!(make_resident(&bytes[1 << 19..]).is_err());
    }
}
