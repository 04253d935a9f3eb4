//! One piece of memory for all texts of a response.

use std::ops::Range;

use ::http::header::HeaderValue;
use bytes::Bytes;

/// Texts written one after the other. They become one `Bytes`, and the body and the field values are
/// slices of it: one allocation for all of them, as long as `ROOM` bytes are enough, and two if not.
pub(super) struct Sheet<const ROOM: usize> {
    room: Room<ROOM>,
    /// Everything, once it was too much for `room`.
    spilled: Vec<u8>,
}

struct Room<const ROOM: usize> {
    len: usize,
    bytes: [u8; ROOM],
}

impl<const ROOM: usize> AsRef<[u8]> for Room<ROOM> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl<const ROOM: usize> Sheet<ROOM> {
    #[inline]
    pub(super) const fn new() -> Self {
        Self { room: Room { len: 0, bytes: [0; ROOM] }, spilled: Vec::new() }
    }

    /// How much is written.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.text().len()
    }

    /// What is written.
    #[inline]
    pub(super) fn text(&self) -> &[u8] {
        if self.spilled.is_empty() { self.room.as_ref() } else { &self.spilled }
    }

    #[inline]
    pub(super) fn put(&mut self, text: &[u8]) {
        let end = self.room.len + text.len();
        match self.room.bytes.get_mut(self.room.len..end) {
            Some(free) if self.spilled.is_empty() => {
                free.copy_from_slice(text);
                self.room.len = end;
            }
            _ => self.spill(text),
        }
    }

    #[cold]
    fn spill(&mut self, text: &[u8]) {
        if self.spilled.is_empty() {
            self.spilled.reserve(2 * ROOM + text.len());
            self.spilled.extend_from_slice(self.room.as_ref());
        }
        self.spilled.extend_from_slice(text);
    }

    /// Writes the digits of `number` and says where they are.
    #[inline]
    pub(super) fn number(&mut self, number: u64) -> Range<usize> {
        let start = self.len();
        match small(number) {
            Some(&[tens, ones]) => self.put(&[tens, ones]),
            Some(digits) => self.put(digits),
            None => self.put(decimal_digits(number, &mut [0; 20])),
        }
        start..self.len()
    }

    /// All of it. Nothing needs no memory.
    #[inline]
    pub(super) fn finish(self) -> Bytes {
        if !self.spilled.is_empty() {
            Bytes::from(self.spilled)
        } else if self.room.len == 0 {
            Bytes::new()
        } else {
            Bytes::from_owner(self.room)
        }
    }
}

/// A part of a finished sheet as a field value; `None` if it cannot be one.
#[inline]
pub(super) fn value(sheet: &Bytes, at: Range<usize>) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(sheet.slice(at)).ok()
}

/// The digits of `number`, at the end of `room`.
pub(super) fn decimal_digits(mut number: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return &room[at..];
        }
    }
}

/// A number that is a field value. Small ones, the usual case, are there already.
pub(super) enum Number {
    Small(&'static [u8]),
    Written(Range<usize>),
}

impl Number {
    /// Writes it if it is not small.
    #[inline]
    pub(super) fn write<const ROOM: usize>(number: u64, sheet: &mut Sheet<ROOM>) -> Self {
        match small(number) {
            Some(text) => Self::Small(text),
            None => Self::Written(sheet.number(number)),
        }
    }

    #[inline]
    pub(super) fn value(self, sheet: &Bytes) -> Option<HeaderValue> {
        match self {
            Self::Small(text) => value(&Bytes::from_static(text), 0..text.len()),
            Self::Written(at) => value(sheet, at),
        }
    }
}

/// The text of a number below 100.
#[inline]
pub(super) fn small(number: u64) -> Option<&'static [u8]> {
    const PAIRS: &[u8; 200] =
        b"00010203040506070809101112131415161718192021222324252627282930313233343536\
                         37383940414243444546474849505152535455565758596061626364656667686970717273\
                         7475767778798081828384858687888990919293949596979899";
    match usize::try_from(number) {
        Ok(n @ 0..10) => Some(&PAIRS[2 * n + 1..2 * n + 2]),
        Ok(n @ 10..100) => Some(&PAIRS[2 * n..2 * n + 2]),
        _ => None,
    }
}
