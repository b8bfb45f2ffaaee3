//! What is wrong with a manifest.

use core::fmt;

use heapless::String;

/// Whether a problem keeps the system from booting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The manifest is refused.
    Error,
    /// It runs, but perhaps not as wanted.
    Warning,
}

/// One thing that is wrong, and what would be right.
///
/// It is shown as `partition[1].cpus: what is wrong; what would be right`.
/// Partitions and channels are numbered from 0 in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether it is an error.
    pub severity: Severity,
    /// The key concerned, e.g. `partition[1].cpus`.
    pub key: String<48>,
    /// What is wrong; what would be right. Cut when it is too long.
    pub message: String<320>,
}

impl Problem {
    /// An error about `key`.
    #[must_use]
    pub fn error(key: fmt::Arguments<'_>, message: fmt::Arguments<'_>) -> Self {
        Self::new(Severity::Error, key, message)
    }

    /// A warning about `key`.
    #[must_use]
    pub fn warning(key: fmt::Arguments<'_>, message: fmt::Arguments<'_>) -> Self {
        Self::new(Severity::Warning, key, message)
    }

    fn new(severity: Severity, key: fmt::Arguments<'_>, message: fmt::Arguments<'_>) -> Self {
        Self {
            severity,
            key: cut(key),
            message: cut(message),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl core::error::Error for Problem {}

/// The text, as much of it as fits.
fn cut<const N: usize>(text: fmt::Arguments<'_>) -> String<N> {
    struct Cut<const N: usize>(String<N>);
    impl<const N: usize> fmt::Write for Cut<N> {
        fn write_str(&mut self, piece: &str) -> fmt::Result {
            for character in piece.chars() {
                self.0.push(character).map_err(|_| fmt::Error)?;
            }
            Ok(())
        }
    }
    let mut cut = Cut(String::new());
    // An error says that the rest does not fit: it is left out.
    let _ = fmt::Write::write_fmt(&mut cut, text);
    cut.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let long = "ü".repeat(400);
        let problem = Problem::error(format_args!("key"), format_args!("{long}"));
        assert_eq!(problem.message.as_str(), "ü".repeat(160));
    }
}
