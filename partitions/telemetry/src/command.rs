//! What the other end may ask for.

use cloister_runtime::args;

/// A command: the text of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `rate=N`: one report every N rounds, at least 1.
    Rate(u64),
    /// `cpuid`: execute that instruction, which exits.
    Cpuid,
    /// `stop`: end.
    Stop,
}

impl Command {
    /// The command that `message` is; `None` for what is none.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let text = core::str::from_utf8(message).ok()?;
        let mut words = args::pairs(text);
        let word = words.next()?;
        if words.next().is_some() {
            return None;
        }
        match word {
            ("rate", number) => args::number(number).ok().filter(|&n| n > 0).map(Self::Rate),
            ("cpuid", "") => Some(Self::Cpuid),
            ("stop", "") => Some(Self::Stop),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        assert_eq!(Command::parse(b"rate=10"), Some(Command::Rate(10)));
        assert_eq!(Command::parse(b" stop\n"), Some(Command::Stop));
        assert_eq!(Command::parse(b"cpuid"), Some(Command::Cpuid));
    }

    #[test]
    fn what_is_none_does_nothing() {
        for text in [
            &b""[..],
            b"rate",
            b"rate=",
            b"rate=0",
            b"rate=x",
            b"stop now",
            b"stop=1",
            b"\xff",
            b"halt",
        ] {
            assert_eq!(Command::parse(text), None, "{text:?}");
        }
    }
}
