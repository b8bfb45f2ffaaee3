//! The argument string.
//!
//! | word | meaning | without it |
//! |---|---|---|
//! | `quanta=N` | end after N quanta | 0: never |
//! | `work=N` | iterations (one RDTSC each) of a quantum | 1 |
//! | `report=N` | print progress every N quanta | 0: never |
//! | `gap=CYCLES` | count gaps longer than this | 10 times the median of a warm-up |
//! | `mode=strict\|quiesce\|debug\|none` | dataplane mode | strict, as far as allowed |
//! | `populate=0\|1` | with POPULATE or without | 1, as far as allowed |
//! | `flags=A+B` | exactly these dataplane flags, by name, `none` or a number | |

use core::fmt;

use cloister_runtime::Dataplane;
use cloister_runtime::args::{self, BadNumber};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Quanta, or 0 for no end.
    pub quanta: u64,
    /// Iterations of a quantum, at least 1.
    pub work: u64,
    /// Quanta between two lines of progress, or 0 for none.
    pub report: u64,
    /// Threshold in TSC cycles.
    pub gap: Option<u64>,
    /// The flags to ask for; empty: do not ask.
    pub flags: Dataplane,
}

impl Options {
    /// Reads an argument string of a partition that may ask for `allowed`.
    ///
    /// # Errors
    /// The first word that is unknown or has a bad value.
    pub fn parse(text: &str, allowed: Dataplane) -> Result<Options, Error<'_>> {
        let mut options = Self {
            quanta: 0,
            work: 1,
            report: 0,
            gap: None,
            flags: Dataplane::empty(),
        };
        let mut mode = None;
        let mut populate = None;
        let mut exact = None;
        for (key, value) in args::pairs(text) {
            let number = || args::number(value).map_err(|e| Error::Number(key, e));
            match key {
                "quanta" => options.quanta = number()?,
                "work" => options.work = number()?.max(1),
                "report" => options.report = number()?,
                "gap" => options.gap = Some(number()?),
                "mode" => mode = Some(parse_mode(value).ok_or(Error::Mode(value))?),
                "populate" => populate = Some(number()? != 0),
                "flags" => exact = Some(args::flags(value).ok_or(Error::Flags(value))?),
                _ => return Err(Error::Unknown(key)),
            }
        }
        options.flags = exact.unwrap_or_else(|| {
            let mode = mode.unwrap_or((Dataplane::STRICT | Dataplane::QUIESCE) & allowed);
            match populate {
                Some(true) => mode | Dataplane::POPULATE,
                Some(false) => mode,
                None => mode | (Dataplane::POPULATE & allowed),
            }
        });
        Ok(options)
    }
}

fn parse_mode(name: &str) -> Option<Dataplane> {
    Some(match name {
        "strict" => Dataplane::STRICT | Dataplane::QUIESCE,
        "quiesce" => Dataplane::QUIESCE,
        "debug" => Dataplane::DEBUG | Dataplane::QUIESCE,
        "none" => Dataplane::empty(),
        _ => return None,
    })
}

/// What is wrong with the argument string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<'a> {
    /// No such word.
    Unknown(&'a str),
    /// The value of this word.
    Number(&'a str, BadNumber<'a>),
    /// No such mode.
    Mode(&'a str),
    /// No such flags.
    Flags(&'a str),
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(key) => write!(
                f,
                "args: unknown word `{key}`: known are quanta, work, report, gap, mode, populate and flags"
            ),
            Self::Number(key, error) => write!(f, "args: {key}: {error}"),
            Self::Mode(name) => write!(
                f,
                "args: mode: `{name}` is none of strict, quiesce, debug and none"
            ),
            Self::Flags(text) => write!(
                f,
                "args: flags: `{text}` is neither names of quiesce, strict, debug and populate joined with +, nor none, nor a number"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Dataplane = Dataplane::all();

    fn flags(text: &str, allowed: Dataplane) -> Dataplane {
        Options::parse(text, allowed).unwrap().flags
    }

    #[test]
    fn by_default_as_strict_as_allowed() {
        let strict = Dataplane::QUIESCE | Dataplane::STRICT | Dataplane::POPULATE;
        assert_eq!(flags("", ALL), strict);
        assert_eq!(flags("", Dataplane::QUIESCE), Dataplane::QUIESCE);
        assert_eq!(flags("", Dataplane::empty()), Dataplane::empty());
    }

    #[test]
    fn what_is_named_is_asked_for_even_if_not_allowed() {
        let quiesce = Dataplane::QUIESCE;
        assert_eq!(flags("mode=quiesce populate=0", ALL), quiesce);
        assert_eq!(flags("mode=quiesce", quiesce), quiesce);
        assert_eq!(
            flags("mode=quiesce populate=1", quiesce),
            quiesce | Dataplane::POPULATE
        );
        assert_eq!(
            flags("flags=strict+populate mode=none", quiesce),
            Dataplane::STRICT | Dataplane::POPULATE
        );
        assert_eq!(flags("flags=0x100", ALL).bits(), 0x100);
        assert_eq!(flags("mode=none populate=0", ALL), Dataplane::empty());
        assert_eq!(flags("flags=none", ALL), Dataplane::empty());
    }

    #[test]
    fn numbers() {
        let options = Options::parse("quanta=5 work=0 report=2 gap=0x10", ALL).unwrap();
        assert_eq!(
            (options.quanta, options.work, options.report, options.gap),
            (5, 1, 2, Some(16))
        );
    }

    #[test]
    fn bad_words_are_named() {
        let error = |text| Options::parse(text, ALL).unwrap_err();
        assert_eq!(error("quantum=1"), Error::Unknown("quantum"));
        assert_eq!(error("mode=fast"), Error::Mode("fast"));
        assert_eq!(error("flags=strict+fast"), Error::Flags("strict+fast"));
        assert_eq!(
            error("work=1k"),
            Error::Number("work", BadNumber { text: "1k" })
        );
    }
}
