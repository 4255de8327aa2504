//! The fields in a block of headers, told apart as RFC 7541 has them.
//!
//! That is done without its tables: a value that is in one was sent before. Values that are packed
//! (Huffman) are left as they are: no client packs a name that has to be mended.

const NAME: &[u8] = b":authority";
/// Its place in the static table.
const NAME_INDEX: u8 = 1;
/// Of a number's further bytes all but the last, and of lengths those of packed strings.
const HIGH: u8 = 0x80;
/// The first byte of a length that is longer than one byte.
const LONG: u8 = 0x7f;
/// What is longer is no name of anything.
const MOST_SHIFT: u32 = 14;

/// Where in a block of headers.
#[derive(Clone, Copy)]
enum Within {
    /// A field begins.
    Field,
    /// The rest of a number, and what comes behind it.
    Number { has_value: bool },
    /// The length of a string.
    Length(Text),
    /// The length is more than this, and the next seven bits of it are to come.
    LongLength(Text, usize, u32),
    /// So many bytes of a string are to come, and whether that is all of it.
    Bytes(Text, usize, bool),
}

/// What a string is.
#[derive(Clone, Copy)]
enum Text {
    /// A name, so many bytes of which are those of the one that is looked for.
    Name(usize),
    Authority,
    /// Another value.
    Other,
}

impl Text {
    /// The same, of which nothing is read.
    fn packed(self) -> Self {
        match self {
            Self::Name(_) => Self::Name(NAME.len() + 1),
            _ => Self::Other,
        }
    }

    /// What comes behind the first byte of its length.
    fn begin(self, length: u8) -> Within {
        match length {
            LONG => Within::LongLength(self, usize::from(LONG), 0),
            length => self.of(usize::from(length)),
        }
    }

    fn of(self, length: usize) -> Within {
        match length {
            0 => self.behind(),
            length => Within::Bytes(self, length, true),
        }
    }

    fn behind(self) -> Within {
        match self {
            Self::Name(met) if met == NAME.len() => Within::Length(Self::Authority),
            Self::Name(_) => Within::Length(Self::Other),
            _ => Within::Field,
        }
    }
}

/// Mends the blocks of headers that one client sends.
pub struct Fields {
    within: Within,
    /// Whether there ever was anything to mend.
    pub has_mended: bool,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            within: Within::Field,
            has_mended: false,
        }
    }
}

impl Fields {
    /// Begins a block, whose fields come behind so many bytes.
    pub fn begin(&mut self, before: usize) {
        self.within = match before {
            0 => Within::Field,
            _ => Within::Bytes(Text::Other, before, false),
        };
    }

    /// Mends the bytes of the block that come next.
    pub fn mend(&mut self, mut bytes: &mut [u8]) {
        while let Some(&first) = bytes.first() {
            let taken = match self.within {
                Within::Bytes(_, left, _) => bytes.len().min(left),
                _ => 1,
            };
            let (now, rest) = bytes.split_at_mut(taken);
            self.within = match self.within {
                Within::Field => field(first),
                Within::Number { has_value } => match (first & HIGH, has_value) {
                    (0, true) => Within::Length(Text::Other),
                    (0, false) => Within::Field,
                    _ => self.within,
                },
                Within::Length(text) => match first {
                    HIGH.. => text.packed().begin(first & !HIGH),
                    length => text.begin(length),
                },
                Within::LongLength(text, length, shift) => {
                    let length = length + (usize::from(first & !HIGH) << shift);
                    match first & HIGH {
                        0 => text.of(length),
                        _ if shift < MOST_SHIFT => Within::LongLength(text, length, shift + 7),
                        // No name of anything: the rest is left to h2.
                        _ => Within::Bytes(Text::Other, usize::MAX, false),
                    }
                }
                Within::Bytes(text, left, is_whole) => {
                    let text = self.read(text, now, is_whole && taken == left);
                    match left - taken {
                        0 => text.behind(),
                        left => Within::Bytes(text, left, false),
                    }
                }
            };
            bytes = rest;
        }
    }

    /// Reads a string, or a part of one.
    fn read(&mut self, text: Text, bytes: &mut [u8], is_whole: bool) -> Text {
        match text {
            Text::Name(met) if NAME[met.min(NAME.len())..].starts_with(bytes) => {
                Text::Name(met + bytes.len())
            }
            Text::Name(_) => Text::Name(NAME.len() + 1),
            Text::Authority => {
                self.mend_value(bytes, is_whole);
                text
            }
            Text::Other => text,
        }
    }

    /// Mends a value, or a part of one: of that it is not known what the rest holds.
    fn mend_value(&mut self, value: &mut [u8], is_whole: bool) {
        let is_odd = |byte: &u8| matches!(byte, b'%' | b',' | b'/');
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

/// What comes behind the first byte of a field: see section 6 of RFC 7541.
fn field(first: u8) -> Within {
    let (bits, has_value) = match first {
        0x80.. => (7, false),
        0x40.. => (6, true),
        0x20.. => (5, false),
        _ => (4, true),
    };
    let most = (1 << bits) - 1;
    match (first & most, has_value) {
        (index, _) if index == most => Within::Number { has_value },
        (_, false) => Within::Field,
        (0, true) => Within::Length(Text::Name(0)),
        (NAME_INDEX, true) => Within::Length(Text::Authority),
        (_, true) => Within::Length(Text::Other),
    }
}
