//! Tests of reading lines in blocks.

use proptest::prelude::*;

use super::*;

/// Gives its bytes in pieces of the given lengths.
struct Pieces {
    bytes: Vec<u8>,
    lens: Vec<usize>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self
            .lens
            .pop()
            .unwrap_or(7)
            .max(1)
            .min(self.bytes.len())
            .min(buffer.len());
        buffer[..len].copy_from_slice(&self.bytes[..len]);
        self.bytes.drain(..len);
        Ok(len)
    }
}

fn blocks(bytes: &[u8], lens: Vec<usize>, max_line_bytes: usize) -> Vec<Result<Block, InputError>> {
    let mut blocks = Blocks::new(
        Pieces {
            bytes: bytes.to_vec(),
            lens,
        },
        max_line_bytes,
    );
    let mut all = Vec::new();
    while let Some(block) = blocks.next() {
        let ended = block.is_err();
        all.push(block);
        if ended {
            break;
        }
    }
    all
}

proptest! {
    #[test]
    fn lines_come_whole_and_numbered_however_they_are_read(
        lines in prop::collection::vec("[a-c\\r]{0,12}", 0..20),
        newline_at_end: bool,
        lens in prop::collection::vec(1..9_usize, 0..40),
    ) {
        let mut text = lines.join("\n");
        if newline_at_end && !lines.is_empty() {
            text.push('\n');
        }
        let expected: Vec<(u64, Vec<u8>)> =
            (1..).zip(text.lines_kept().into_iter().map(Vec::from)).collect();
        let mut found = Vec::new();
        for block in blocks(text.as_bytes(), lens, 1 << 20) {
            let block = block.expect("no line is too long");
            found.extend(block.lines().map(|(number, line)| (number, line.to_vec())));
        }
        prop_assert_eq!(found, expected);
    }
}

/// The plain meaning of "lines": what ends with a newline, and what is left at the end if it is not empty.
trait LinesKept {
    fn lines_kept(&self) -> Vec<&[u8]>;
}

impl LinesKept for String {
    fn lines_kept(&self) -> Vec<&[u8]> {
        let bytes: Vec<&[u8]> = self.as_bytes().split_inclusive(|byte| *byte == b'\n').collect();
        bytes
            .into_iter()
            .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
            .collect()
    }
}

#[test]
fn an_empty_input_has_no_line() {
    assert_eq!(blocks(b"", vec![], 10), []);
}

#[test]
fn a_block_goes_out_as_soon_as_a_line_is_whole() {
    let found = blocks(b"a\nbc\nd", vec![2, 1, 3], 10);
    let texts: Vec<_> = found
        .into_iter()
        .map(|block| block.expect("short lines").bytes)
        .collect();
    assert_eq!(
        texts,
        [
            b"a\nb".to_vec().split_off(3),
            b"a\n".to_vec(),
            b"bc\n".to_vec(),
            b"d".to_vec()
        ][1..]
    );
}

#[test]
fn a_line_without_end_is_refused_by_its_number_before_it_fills_memory() {
    let mut bytes = b"ok\n".to_vec();
    bytes.extend(std::iter::repeat_n(b'x', 100));
    let found = blocks(&bytes, vec![1; 200], 20);
    assert_eq!(
        found.last(),
        Some(&Err(InputError::LineTooLong {
            line: 2,
            max_line_bytes: 20
        }))
    );
    assert_eq!(found.len(), 2);
}
