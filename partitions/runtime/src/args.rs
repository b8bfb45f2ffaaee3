//! The argument string: words separated by spaces, each `key=value` or `key`.

use core::fmt;

use cloister_abi::Dataplane;

/// The words of an argument string, in order, split at the first `=`. A word
/// without `=` has the value "".
pub fn pairs(args: &str) -> impl Iterator<Item = (&str, &str)> {
    args.split_whitespace()
        .map(|word| word.split_once('=').unwrap_or((word, "")))
}

/// Value of the first word whose key is `key`.
#[must_use]
pub fn find<'a>(args: &'a str, key: &str) -> Option<&'a str> {
    pairs(args).find(|&(k, _)| k == key).map(|(_, value)| value)
}

/// A number: decimal, or hexadecimal after `0x`; `_` may separate digits.
///
/// # Errors
/// When `text` is empty, holds anything else, or exceeds 64 bits.
pub fn number(text: &str) -> Result<u64, BadNumber<'_>> {
    let error = BadNumber { text };
    let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let mut value = None;
    for character in digits.chars().filter(|&c| c != '_') {
        let digit = character.to_digit(radix).ok_or(error)?;
        value = Some(
            value
                .unwrap_or(0u64)
                .checked_mul(u64::from(radix))
                .and_then(|v| v.checked_add(u64::from(digit)))
                .ok_or(error)?,
        );
    }
    value.ok_or(error)
}

/// Dataplane flags: names, joined with `+`; `none`; or a number,
/// whose bits need not be flags. `None` for anything else.
#[must_use]
pub fn flags(text: &str) -> Option<Dataplane> {
    if text == "none" {
        return Some(Dataplane::empty());
    }
    if let Ok(bits) = number(text) {
        return Some(Dataplane::from_bits_retain(bits));
    }
    text.split('+').map(Dataplane::from_kebab).collect()
}

/// What [`number`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadNumber<'a> {
    /// The text that is no number.
    pub text: &'a str,
}

impl fmt::Display for BadNumber<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no number: write it in decimal, or in hexadecimal after 0x, up to 64 bits",
            self.text
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_at_the_first_equals_sign() {
        let words: Vec<_> = pairs("  a=1 b  c=x=y ").collect();
        assert_eq!(words, [("a", "1"), ("b", ""), ("c", "x=y")]);
    }

    #[test]
    fn the_first_of_two_equal_keys_counts() {
        assert_eq!(find("n=1 n=2", "n"), Some("1"));
        assert_eq!(find("nn=1", "n"), None);
        assert_eq!(find("flag", "flag"), Some(""));
    }

    #[test]
    fn numbers() {
        assert_eq!(number("0"), Ok(0));
        assert_eq!(number("100_000"), Ok(100_000));
        assert_eq!(number("0xfee0_0000"), Ok(0xfee0_0000));
        assert_eq!(number("18446744073709551615"), Ok(u64::MAX));
        for bad in [
            "",
            "_",
            "0x",
            "-1",
            "1k",
            "0xg",
            "18446744073709551616",
            "1e3",
        ] {
            assert_eq!(number(bad), Err(BadNumber { text: bad }));
        }
    }

    #[test]
    fn flags_by_name_or_number() {
        assert_eq!(flags("none"), Some(Dataplane::empty()));
        assert_eq!(
            flags("strict+populate"),
            Some(Dataplane::STRICT | Dataplane::POPULATE)
        );
        assert_eq!(flags("0x100").map(|f| f.bits()), Some(0x100));
        assert_eq!(flags("strict+"), None);
        assert_eq!(flags(""), None);
    }
}
