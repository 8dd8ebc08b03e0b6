//! Field lines that are the same for many heads: formatted once, appended by copying.

use crate::message::KnownSet;
use crate::message::fields::Fields;
use crate::message::fields::buffer::Line;

/// Field lines made once (per connection, per configuration) and appended to every head that is
/// to have them: one copy of the bytes, one of the records.
#[derive(Debug, Clone, Default)]
pub struct Block {
    bytes: Box<[u8]>,
    /// Positions in `bytes`.
    lines: Box<[Line]>,
    names: KnownSet,
}

impl Block {
    /// The fields as they are now; what was removed from them is left behind.
    pub fn from_fields(fields: &Fields) -> Self {
        let buffer = fields.buffer();
        let mut bytes = Vec::new();
        let lines = buffer
            .live()
            .map(|line| {
                let start = bytes.len() as u32;
                bytes.extend_from_slice(buffer.slice((line.start, line.end)));
                Line {
                    start,
                    end: bytes.len() as u32,
                    ..*line
                }
            })
            .collect();
        Block {
            bytes: bytes.into(),
            lines,
            names: buffer.present,
        }
    }

    /// The known names that it has a line of, to remove before it is appended.
    pub fn names(&self) -> KnownSet {
        self.names
    }
}

impl Fields {
    /// Adds every line of the block; what has the same names stays.
    pub fn append_block(&mut self, block: &Block) {
        let Block {
            bytes,
            lines,
            names,
        } = block;
        self.buffer_mut().append_lines(bytes, lines, *names);
    }

    /// The same for a block whose last value is another one for each head: `value`, which has no
    /// control bytes, takes the place of as many bytes.
    pub fn append_block_ending(&mut self, block: &Block, value: &[u8]) {
        self.append_block(block);
        self.buffer_mut().overwrite_end(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Known;

    #[test]
    fn the_last_value_of_a_block_can_be_each_heads_own() {
        let mut fields = Fields::new();
        fields.append(Known::Via, b"1.1 x");
        fields.append(Known::XRequestId, b"a-0000");
        let block = Block::from_fields(&fields);
        let mut head = Fields::new();
        head.append_block_ending(&block, b"1234");
        head.append(Known::Host, b"a");
        assert_eq!(head.get(Known::Via), Some(&b"1.1 x"[..]));
        assert_eq!(head.get(Known::XRequestId), Some(&b"a-1234"[..]));
        assert_eq!(head.get(Known::Host), Some(&b"a"[..]));
    }

    #[test]
    fn a_block_is_appended_as_its_fields_would_be() {
        let mut fields = Fields::new();
        fields.append(Known::Host, b"gone");
        fields.append_text("X-One", b"1");
        fields.append(Known::Via, b"1.1 x");
        fields.remove(Known::Host);
        let block = Block::from_fields(&fields);
        assert_eq!(block.names(), KnownSet::of(&[Known::Via]));

        let mut head = Fields::new();
        head.append(Known::Host, b"a");
        head.append_block(&block);
        head.append_block(&Block::default());
        head.append_block(&block);
        let mut out = Vec::new();
        head.write(&mut out, KnownSet::EMPTY);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "Host: a\r\nX-One: 1\r\nVia: 1.1 x\r\nX-One: 1\r\nVia: 1.1 x\r\n"
        );
        assert_eq!(head.get_text("x-one"), Some(&b"1"[..]));
        assert_eq!(head.get(Known::Via), Some(&b"1.1 x"[..]));
        assert_eq!(head.count(Known::Via), 2, "nothing was replaced");
        head.remove(Known::Via);
        assert_eq!(head.len(), 3, "a block's lines are edited as any other");
    }
}
