//! Text of a message.

use core::fmt::{self, Write};

/// Longest line, bytes.
pub const LONGEST: usize = 200;

/// A line that is being written. What does not fit is cut off.
#[derive(Debug)]
pub struct Line {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Line {
    /// The line with this text.
    #[must_use]
    pub fn new(text: fmt::Arguments<'_>) -> Self {
        let mut line = Self {
            bytes: [0; LONGEST],
            length: 0,
        };
        // An error says that it was cut.
        let _ = line.write_fmt(text);
        line
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..).unwrap_or(&mut []);
        let count = room.len().min(text.len());
        for (to, from) in room.iter_mut().zip(text.as_bytes()) {
            *to = *from;
        }
        self.length += count;
        if count < text.len() {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_off() {
        assert_eq!(Line::new(format_args!("n={} x", 5)).bytes(), b"n=5 x");
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(Line::new(format_args!("{long}")).bytes().len(), LONGEST);
    }
}
