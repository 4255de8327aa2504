//! Names of hosts as some of gRPC's clients write them, mended for h2.
//!
//! Those in C, those made of them and those in Java take the path of a Unix socket for one, as in
//! ``:authority: tmp%2Fsocket`` or ``/tmp/socket``, or several addresses. That is no name of a host by
//! RFC 3986, so h2 refuses the call. Here underscores take the place of what it may not hold, before h2
//! reads it, which changes no length. Nobody goes by the name.

mod fields;

use self::fields::Fields;

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const PRIORITY_BYTES: usize = 5;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

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
    /// There is nothing to mend, or what is sent is odd: it is left to h2.
    Done,
}

/// Mends what one client sends, as it is read.
pub struct Authority {
    at: At,
    fields: Fields,
}

impl Default for Authority {
    fn default() -> Self {
        Self {
            at: At::Preface {
                left: PREFACE_BYTES,
            },
            fields: Fields::default(),
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
                    self.fields.mend(&mut bytes[..taken]);
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
        if kind == HEADERS {
            self.fields.begin(match flags & PRIORITY {
                0 => 0,
                _ => PRIORITY_BYTES,
            });
        }
        match (kind, left) {
            (HEADERS, _) if flags & PADDED != 0 => self.at = At::Done,
            (HEADERS | CONTINUATION, 0) => self.end(is_last),
            (HEADERS | CONTINUATION, _) => self.at = At::Headers { left, is_last },
            (_, 0) => self.next(),
            _ => self.at = At::Other { left },
        }
    }

    /// Ends a frame of headers; of one call, the last has all of them.
    fn end(&mut self, is_last: bool) {
        if is_last && !self.fields.has_mended {
            // The first call says no name that has to be mended, and so no other will.
            self.at = At::Done;
        } else {
            self.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &[u8] = b":authority";
    const LONG: u8 = 0x7f;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// A name that is written out, and one of the static table, with a value that looks like a name.
    const PATH: &[u8] = b"\x40\x05:path\x04/a/b\x04\x03A%2";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or_default();
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    fn call(authority: &[u8]) -> Vec<u8> {
        let name = [b"\x40\x0a", NAME].concat();
        frame(
            HEADERS,
            END_HEADERS,
            &[PATH, &name, &value(authority)].concat(),
        )
    }

    /// As clients in Java write it.
    fn indexed_call(authority: &[u8]) -> Vec<u8> {
        frame(
            HEADERS,
            END_HEADERS,
            &[PATH, b"\x41", &value(authority), b"\x83\x86"].concat(),
        )
    }

    /// A string with its length.
    fn value(authority: &[u8]) -> Vec<u8> {
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
        [&length, authority].concat()
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
        fn names_are_mended_however_the_bytes_come(cut in 1..200usize) {
            let (one, other) = (call(b"run%2Fa%2Fb"), indexed_call(b"1.2.3.4:5,1.2.3.5:6"));
            let message = frame(0, 1, b"\x0a:authority\x03%%%");
            let all = mended(&[PREFACE, SETTINGS, &one, &message, &other], cut);
            let (one, other) = (call(b"run_2Fa_2Fb"), indexed_call(b"1.2.3.4_5_1.2.3.5_6"));
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
    fn a_path_as_clients_in_java_write_it_is_mended() {
        let all = mended(&[PREFACE, &indexed_call(b"/tmp/a.sock")], 1000);
        assert_eq!(all, [PREFACE, &indexed_call(b"_tmp_a.sock")].concat());
    }

    #[test]
    fn a_packed_name_and_what_comes_behind_padding_are_left_as_they_are() {
        let packed = frame(HEADERS, END_HEADERS, b"\x41\x83a%/\x40\x8aA:author%/\x02%/");
        let padded = frame(HEADERS, END_HEADERS | PADDED, b"\x02\x41\x02a%\0\0");
        for call in [packed, padded] {
            assert_eq!(mended(&[PREFACE, &call], 1000), [PREFACE, &call].concat());
        }
    }

    #[test]
    fn a_priority_before_the_fields_is_no_field() {
        let fields = [b"\x40\x41\x01\x04/".as_slice(), b"\x41", &value(b"a%")].concat();
        let all = mended(
            &[PREFACE, &frame(HEADERS, END_HEADERS | PRIORITY, &fields)],
            1000,
        );
        assert!(all.ends_with(b"\x40\x41\x01\x04/\x41\x02a_"));
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
