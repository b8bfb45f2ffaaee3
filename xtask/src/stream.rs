//! Takes console bytes apart: plain output, and lines that begin with the
//! byte 0x1e, which are meant for us.

/// Byte before a line for machines: RS, as in RFC 7464.
const MARK: u8 = cloister_abi::record::MARK;
const _: () = assert!(MARK == guest_linux::MARK);
/// A marked line longer than this is none: the byte was plain output.
const LONGEST: usize = 64 * 1024;

/// A piece of a console's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// To be shown as it is.
    Plain(Vec<u8>),
    /// A line for machines, without mark and line end.
    Marked(String),
}

/// Splits one console's output, whatever the sizes of the chunks.
#[derive(Debug, Default)]
pub struct Splitter {
    /// The marked line so far, if we are in one.
    marked: Option<Vec<u8>>,
}

impl Splitter {
    /// The pieces that `chunk` completes.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        for &byte in chunk {
            match &mut self.marked {
                None if byte == MARK => {
                    if !plain.is_empty() {
                        pieces.push(Piece::Plain(std::mem::take(&mut plain)));
                    }
                    self.marked = Some(Vec::new());
                }
                None => plain.push(byte),
                Some(line) if byte == b'\n' => {
                    let text = String::from_utf8_lossy(line).trim_end().to_owned();
                    pieces.push(Piece::Marked(text));
                    self.marked = None;
                }
                Some(line) => {
                    line.push(byte);
                    if line.len() > LONGEST {
                        plain.append(line);
                        self.marked = None;
                    }
                }
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Plain(plain));
        }
        pieces
    }
}

/// Collects plain bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The lines that `bytes` complete, without their ends.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                lines.push(self.take());
            } else {
                self.rest.push(byte);
            }
        }
        lines
    }

    /// What is left without a line end.
    pub fn finish(&mut self) -> Option<String> {
        (!self.rest.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.rest);
        String::from_utf8_lossy(&line)
            .trim_end_matches('\r')
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_do_not_matter() {
        let bytes = b"one\r\n\x1e{\"a\":1}\r\ntwo \x1estatus 3\nrest";
        let expected = [
            Piece::Plain(b"one\r\n".to_vec()),
            Piece::Marked("{\"a\":1}".into()),
            Piece::Plain(b"two ".to_vec()),
            Piece::Marked("status 3".into()),
            Piece::Plain(b"rest".to_vec()),
        ];
        assert_eq!(Splitter::default().push(bytes), expected);
        let mut splitter = Splitter::default();
        let mut pieces: Vec<Piece> = Vec::new();
        for byte in bytes {
            for piece in splitter.push(&[*byte]) {
                match (pieces.last_mut(), piece) {
                    (Some(Piece::Plain(last)), Piece::Plain(more)) => last.extend(more),
                    (_, piece) => pieces.push(piece),
                }
            }
        }
        assert_eq!(pieces, expected);
    }

    #[test]
    fn an_endless_marked_line_is_given_back() {
        let mut splitter = Splitter::default();
        let mut chunk = vec![MARK];
        chunk.extend(vec![b'x'; LONGEST + 10]);
        let plain: usize = splitter
            .push(&chunk)
            .iter()
            .map(|piece| match piece {
                Piece::Plain(bytes) => bytes.len(),
                Piece::Marked(_) => 0,
            })
            .sum();
        assert_eq!(plain, LONGEST + 10);
    }

    #[test]
    fn lines() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"a\r\nb"), ["a"]);
        assert_eq!(lines.push(b"c\n"), ["bc"]);
        assert_eq!(lines.finish(), None);
        lines.push(b"tail");
        assert_eq!(lines.finish().as_deref(), Some("tail"));
    }
}
