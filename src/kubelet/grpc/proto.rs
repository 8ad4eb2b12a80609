//! Messages of Protocol Buffers, field by field.

use std::collections::BTreeMap;

/// A message that is being written; what has its default value is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn block(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field << 3 | 2));
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    #[must_use]
    pub(crate) fn text(mut self, field: u32, text: &str) -> Self {
        if !text.is_empty() {
            self.block(field, text.as_bytes());
        }
        self
    }

    #[must_use]
    pub(crate) fn texts<'a>(mut self, field: u32, texts: impl IntoIterator<Item = &'a str>) -> Self {
        texts.into_iter().for_each(|text| self.block(field, text.as_bytes()));
        self
    }

    #[must_use]
    pub(crate) fn number(mut self, field: u32, value: u64) -> Self {
        if value != 0 {
            self.varint(u64::from(field << 3));
            self.varint(value);
        }
        self
    }

    /// Also where it is empty: that it is there says something.
    #[must_use]
    pub(crate) fn message(mut self, field: u32, message: &Self) -> Self {
        self.block(field, &message.0);
        self
    }

    #[must_use]
    pub(crate) fn map(mut self, field: u32, map: &BTreeMap<String, String>) -> Self {
        for (key, value) in map {
            let entry = Self::new().text(1, key).text(2, value);
            self.block(field, &entry.0);
        }
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Block(&'a [u8]),
}

/// A message that was read; a field that is missing has its default value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields<'a>(Vec<(u32, Value<'a>)>);

impl<'a> Fields<'a> {
    /// `None` for bytes that are no message.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (mut rest, mut fields) = (bytes, Vec::new());
        while !rest.is_empty() {
            let key = varint(&mut rest)?;
            let value = match key & 7 {
                0 => Value::Number(varint(&mut rest)?),
                1 => Value::Block(take(&mut rest, 8)?),
                2 => {
                    let length = usize::try_from(varint(&mut rest)?).ok()?;
                    Value::Block(take(&mut rest, length)?)
                }
                5 => Value::Block(take(&mut rest, 4)?),
                _ => return None,
            };
            fields.push((u32::try_from(key >> 3).ok()?, value));
        }
        Some(Self(fields))
    }

    fn blocks(&self, field: u32) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(number, _)| *number == field).filter_map(|(_, value)| match value {
            Value::Block(bytes) => Some(*bytes),
            Value::Number(_) => None,
        })
    }

    pub(crate) fn text(&self, field: u32) -> String {
        self.blocks(field).last().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }

    /// A nested message as it is, for whoever keeps it.
    pub(crate) fn bytes(&self, field: u32) -> Option<&'a [u8]> {
        self.blocks(field).next()
    }

    pub(crate) fn texts(&self, field: u32) -> Vec<String> {
        self.blocks(field).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    pub(crate) fn number(&self, field: u32) -> u64 {
        let numbers = self.0.iter().filter(|(number, _)| *number == field);
        let mut last = numbers.filter_map(|(_, value)| match value {
            Value::Number(number) => Some(*number),
            Value::Block(_) => None,
        });
        last.next_back().unwrap_or(0)
    }

    pub(crate) fn messages(&self, field: u32) -> Vec<Fields<'a>> {
        self.blocks(field).filter_map(Self::parse).collect()
    }

    pub(crate) fn map(&self, field: u32) -> BTreeMap<String, String> {
        self.messages(field).iter().map(|entry| (entry.text(1), entry.text(2))).collect()
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let map = BTreeMap::from([("k".to_owned(), "v".to_owned()), ("e".to_owned(), String::new())]);
        let inner = Message::new().number(1, 300);
        let message = Message::new().text(1, "a").texts(2, ["x", ""]).number(3, 1).message(4, &inner).map(5, &map);
        let bytes = message.clone().message(6, &Message::new()).into_bytes();
        let fields = Fields::parse(&bytes).expect("a message");
        assert_eq!((fields.text(1), fields.texts(2)), ("a".to_owned(), vec!["x".to_owned(), String::new()]));
        assert_eq!((fields.number(3), fields.number(9)), (1, 0));
        assert_eq!(fields.messages(4)[0].number(1), 300);
        assert_eq!(fields.map(5), map);
        assert_eq!((fields.messages(6).len(), fields.messages(7).len()), (1, 0));
        // Defaults take no room; the bytes are the format's.
        assert_eq!(Message::new().text(1, "").number(2, 0), Message::new());
        assert_eq!(Message::new().text(1, "ab").number(2, 150).into_bytes(), [0x0a, 2, b'a', b'b', 0x10, 0x96, 1]);
        for bad in [&[0x0a][..], &[0x0a, 5, 1][..], &[0xff; 11][..], &[0x0b, 1][..]] {
            assert!(Fields::parse(bad).is_none(), "{bad:?}");
        }
    }
}
