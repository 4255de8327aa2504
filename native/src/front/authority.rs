//! Names of hosts as gRPC's clients in C and those made of them write them, mended for h2.
//!
//! They take the path of a Unix socket for one, as in ``:authority: tmp%2Fsocket``, or several
//! addresses. That is no name of a host by RFC 3986, so h2 refuses the call. Here underscores take the
//! place of what it may not hold, before h2 reads it, which changes no length. Nobody goes by the name.

/// The name of the header as it is written when it is not in a table, with its length before it.
/// No value holds it, because a line feed is not for values.
const NAME: &[u8] = b"\x0a:authority";
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// The first byte of a length that is longer than one byte. A greater one is of a packed value.
const LONG: u8 = 0x7f;
/// What is longer is no name of anything.
const MOST_SHIFT: u32 = 14;

/// Where in what the client sends.
enum At {
    Preface {
        left: usize,
    },
    Head {
        bytes: [u8; HEAD_BYTES],
        have: usize,
    },
    Headers {
        left: usize,
        is_last: bool,
    },
    Other {
        left: usize,
    },
    /// Its first call says no name that has to be mended, and so will none.
    Done,
}

/// Where in a block of headers.
enum Within {
    /// So many bytes of the name were met.
    Name(usize),
    /// The length of the value is more than this, and the next seven bits of it are to come.
    Length(usize, u32),
    /// So many bytes of the value are to come, and whether that is all of it.
    Value(usize, bool),
}

/// Mends what one client sends, as it is read.
pub struct Authority {
    at: At,
    within: Within,
    has_mended: bool,
}

impl Default for Authority {
    fn default() -> Self {
        Self {
            at: At::Preface {
                left: PREFACE_BYTES,
            },
            within: Within::Name(0),
            has_mended: false,
        }
    }
}

impl Authority {
    /// Mends the bytes that come next.
    pub fn mend(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = match &mut self.at {
                At::Done => return,
                At::Preface { left } | At::Other { left } => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    if *left == 0 {
                        self.next();
                    }
                    taken
                }
                At::Head { bytes: head, have } => {
                    let taken = bytes.len().min(HEAD_BYTES - *have);
                    head[*have..*have + taken].copy_from_slice(&bytes[..taken]);
                    *have += taken;
                    if *have == HEAD_BYTES {
                        let head = *head;
                        self.begin(head);
                    }
                    taken
                }
                At::Headers { left, is_last } => {
                    let (taken, is_last) = (bytes.len().min(*left), *is_last);
                    *left -= taken;
                    let has_ended = *left == 0;
                    self.look_at(&mut bytes[..taken]);
                    if has_ended {
                        self.end(is_last);
                    }
                    taken
                }
            };
            bytes = &mut bytes[taken..];
        }
    }

    fn next(&mut self) {
        self.at = At::Head {
            bytes: [0; HEAD_BYTES],
            have: 0,
        };
    }

    /// Begins a frame.
    fn begin(&mut self, [high, middle, low, kind, flags, ..]: [u8; HEAD_BYTES]) {
        let left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let is_last = flags & END_HEADERS != 0;
        match (kind, left) {
            (HEADERS | CONTINUATION, 0) => self.end(is_last),
            (HEADERS | CONTINUATION, _) => self.at = At::Headers { left, is_last },
            (_, 0) => self.next(),
            _ => self.at = At::Other { left },
        }
    }

    /// Ends a frame of headers; of one call, the last has all of them.
    fn end(&mut self, is_last: bool) {
        if !is_last {
            self.next();
        } else if self.has_mended {
            self.within = Within::Name(0);
            self.next();
        } else {
            self.at = At::Done;
        }
    }

    fn look_at(&mut self, mut bytes: &mut [u8]) {
        while let Some(&first) = bytes.first() {
            let mut taken = 1;
            self.within = match self.within {
                Within::Value(left, is_whole) => {
                    taken = bytes.len().min(left);
                    self.mend_value(&mut bytes[..taken], is_whole && taken == left);
                    match left - taken {
                        0 => Within::Name(0),
                        left => Within::Value(left, false),
                    }
                }
                Within::Name(met) if met == NAME.len() => match first {
                    LONG => Within::Length(usize::from(LONG), 0),
                    length @ 1..LONG => Within::Value(usize::from(length), true),
                    _ => Within::Name(0),
                },
                Within::Length(length, shift) => {
                    let length = length + (usize::from(first & 0x7f) << shift);
                    match first {
                        0..0x80 => Within::Value(length, true),
                        _ if shift < MOST_SHIFT => Within::Length(length, shift + 7),
                        _ => Within::Name(0),
                    }
                }
                Within::Name(met) if first == NAME[met] => Within::Name(met + 1),
                Within::Name(_) => Within::Name(usize::from(first == NAME[0])),
            };
            bytes = &mut bytes[taken..];
        }
    }

    /// Mends a value, or a part of one: of that it is not known what the rest holds.
    fn mend_value(&mut self, value: &mut [u8], is_whole: bool) {
        let is_odd = |byte: &u8| matches!(byte, b'%' | b',');
        if is_whole && !value.iter().any(is_odd) {
            return;
        }
        for byte in value {
            if !byte.is_ascii_alphanumeric() && !matches!(byte, b'.' | b'-') {
                *byte = b'_';
                self.has_mended = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or_default();
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    fn call(authority: &[u8]) -> Vec<u8> {
        let length = match authority.len() {
            short @ 0..127 => vec![u8::try_from(short).unwrap_or_default()],
            long => {
                let rest = long - 127;
                let low = u8::try_from(rest & 0x7f).unwrap_or_default();
                match rest >> 7 {
                    0 => vec![LONG, low],
                    high => vec![LONG, 0x80 | low, u8::try_from(high).unwrap_or_default()],
                }
            }
        };
        let block = [b"\x40\x05:path\x04/a/b\x40", NAME, &length, authority];
        frame(HEADERS, END_HEADERS, &block.concat())
    }

    fn mended(pieces: &[&[u8]], cut: usize) -> Vec<u8> {
        let mut all = pieces.concat();
        let mut authority = Authority::default();
        for piece in all.chunks_mut(cut) {
            authority.mend(piece);
        }
        all
    }

    proptest! {
        #[test]
        fn percent_signs_are_mended_however_the_bytes_come(cut in 1..200usize) {
            let (one, other) = (call(b"run%2Fa%2Fb"), call(b"1.2.3.4:5,1.2.3.5:6"));
            let message = frame(0, 1, b"\x0a:authority\x03%%%");
            let all = mended(&[PREFACE, SETTINGS, &one, &message, &other], cut);
            let (one, other) = (call(b"run_2Fa_2Fb"), call(b"1.2.3.4_5_1.2.3.5_6"));
            prop_assert_eq!(all, [PREFACE, SETTINGS, &one, &message, &other].concat());
        }

        #[test]
        fn what_a_client_sends_is_as_long_as_it_was(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 1..50usize
        ) {
            let mut authority = Authority::default();
            let mut all = bytes.clone();
            for piece in all.chunks_mut(cut) {
                authority.mend(piece);
            }
            prop_assert!(all.iter().zip(&bytes).all(|(now, before)| now == before || *now == b'_'));
        }
    }

    #[test]
    fn a_long_name_is_mended() {
        for length in [126, 127, 128, 300] {
            let value = [b"%".repeat(length - 1).as_slice(), b"a"].concat();
            let all = mended(&[PREFACE, &call(&value)], 1000);
            let mended = [b"_".repeat(length - 1).as_slice(), b"a"].concat();
            assert_eq!(all, [PREFACE, &call(&mended)].concat());
        }
    }

    #[test]
    fn a_name_in_two_frames_is_mended() {
        let call = call(b"a%2Fb");
        let (first, second) = call[HEAD_BYTES..].split_at(20);
        let frames = [
            frame(HEADERS, 0, first),
            frame(CONTINUATION, END_HEADERS, second),
        ];
        let all = mended(&[PREFACE, &frames.concat()], 1000);
        assert!(all.ends_with(b"a_2Fb"));
    }

    #[test]
    fn after_a_call_with_a_name_as_others_have_it_nothing_is_looked_at() {
        let calls = [call(b"[::1]:50551"), call(b"a%2Fb")].concat();
        assert_eq!(mended(&[PREFACE, &calls], 1000), [PREFACE, &calls].concat());
    }
}
