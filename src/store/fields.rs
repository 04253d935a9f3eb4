//! A hash over fields, for what identifies records and requests.

use std::slice;
use std::sync::LazyLock;

use sha2::block_api::compress256;

/// What hashes are of, to keep those of different kinds apart: SHA-256 after one block that names it, which
/// therefore costs nothing more than once.
pub(crate) type Domain = LazyLock<[u32; 8]>;

const BLOCK: usize = 64;

/// See [`Domain`].
pub(crate) fn domain(name: &str) -> [u32; 8] {
    // FIPS 180-4, section 5.3.3.
    let mut state = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    compress256(&mut state, slice::from_ref(&block));
    state
}

/// A SHA-256 over fields, each with its length after it, so that no two lists of fields are alike: read from
/// the end, there is one way to take them apart.
///
/// Done by the block, since what is hashed here is mostly shorter than two of them, and the bookkeeping of a
/// general hasher costs as much as hashing that.
#[derive(Clone)]
pub(crate) struct Fields {
    state: [u32; 8],
    block: [u8; BLOCK],
    /// Bytes so far, the domain's included.
    length: u64,
}

/// The last byte of a field: the kind of it, and its length, or that eight bytes before tell it.
const FIELD: u8 = 0;
const PAYLOAD: u8 = 0x80;
const LONG: u8 = 0x7f;

impl Fields {
    #[inline]
    pub(crate) fn new(domain: &Domain) -> Self {
        Self { state: **domain, block: [0; BLOCK], length: BLOCK as u64 }
    }

    pub(crate) fn with(mut self, field: &[u8]) -> Self {
        self.add(field);
        self
    }

    #[inline]
    pub(crate) fn add(&mut self, field: &[u8]) {
        self.write(field);
        // No address space holds more than 2^64 bytes.
        self.end(FIELD, field.len() as u64);
    }

    /// A piece of a field, of which [`end_payload`](Self::end_payload) tells the length.
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let at = self.at();
        self.length = self.length.wrapping_add(bytes.len() as u64);
        let room = &mut self.block[at..];
        if let Some(room) = room.get_mut(..bytes.len()).filter(|_| at + bytes.len() < BLOCK) {
            room.copy_from_slice(bytes);
            return;
        }
        let (first, rest) = bytes.split_at(room.len());
        room.copy_from_slice(first);
        compress256(&mut self.state, slice::from_ref(&self.block));
        let (blocks, rest) = rest.as_chunks();
        if !blocks.is_empty() {
            compress256(&mut self.state, blocks);
        }
        self.block[..rest.len()].copy_from_slice(rest);
    }

    pub(crate) fn end_payload(&mut self, length: u64) {
        self.end(PAYLOAD, length);
    }

    #[inline]
    fn end(&mut self, kind: u8, length: u64) {
        match u8::try_from(length) {
            Ok(short) if short < LONG => self.write(&[kind | short]),
            _ => {
                self.write(&length.to_le_bytes());
                self.write(&[kind | LONG]);
            }
        }
    }

    pub(crate) fn finish(mut self) -> [u8; 32] {
        let at = self.at();
        self.block[at] = 0x80;
        self.block[at + 1..].fill(0);
        if at >= BLOCK - 8 {
            compress256(&mut self.state, slice::from_ref(&self.block));
            self.block.fill(0);
        }
        let bits = self.length.wrapping_mul(8);
        self.block[BLOCK - 8..].copy_from_slice(&bits.to_be_bytes());
        compress256(&mut self.state, slice::from_ref(&self.block));
        let mut hash = [0; 32];
        for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        hash
    }

    /// Where the next byte goes.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "it is less than 64")]
    fn at(&self) -> usize {
        (self.length % BLOCK as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    static DOMAIN: Domain = Domain::new(|| domain("buttress/test"));

    fn before() -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        bytes[..13].copy_from_slice(b"buttress/test");
        bytes
    }

    #[test]
    fn it_is_the_sha_256_of_the_domains_block_and_the_fields() {
        let data: Vec<u8> = (0_u8..=255).cycle().take(400).collect();
        for length in 0..data.len() {
            // In two pieces, cut everywhere, and then with what is written after a field.
            for cut in [0, length / 3, length / 2, length.saturating_sub(1), length] {
                let mut fields = Fields::new(&DOMAIN);
                fields.write(&data[..cut]);
                fields.write(&data[cut..length]);
                let mut expected = before();
                expected.extend(&data[..length]);
                let expected: [u8; 32] = Sha256::digest(expected).into();
                assert_eq!(fields.finish(), expected, "{length} bytes, cut at {cut}");
            }
        }
    }

    #[test]
    fn a_field_is_its_bytes_and_after_them_its_length() {
        let long = [7; 1000];
        let mut expected = before();
        expected.extend(b"ab\x02\x00");
        expected.extend([9; 126]);
        expected.push(126);
        expected.extend([9; 127]);
        expected.extend(b"\x7f\0\0\0\0\0\0\0\x7f");
        expected.extend(long);
        expected.extend(b"\xe8\x03\0\0\0\0\0\0\x7f");
        expected.extend(b"abc\x83");
        let expected: [u8; 32] = Sha256::digest(expected).into();
        let mut fields = Fields::new(&DOMAIN).with(b"ab").with(b"").with(&[9; 126]).with(&[9; 127]);
        fields.add(&long);
        fields.write(b"a");
        fields.write(b"bc");
        fields.end_payload(3);
        assert_eq!(fields.finish(), expected);
    }
}
