//! Memory sizes, as system files write them: a number and K, M or G.

use core::fmt;

/// 1 KiB.
pub(crate) const KIB: u64 = 1 << 10;
/// 1 MiB.
pub(crate) const MIB: u64 = 1 << 20;
/// 1 GiB.
pub(crate) const GIB: u64 = 1 << 30;

/// Bytes, shown with the largest unit that leaves no fraction: `64M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl Size {
    /// Reads `64K`, `64M` or `2G`. [`None`] for anything else, and for sizes
    /// of 2^64 bytes and more.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (digits, unit) = match text.split_at_checked(text.len().checked_sub(1)?)? {
            (digits, "K") => (digits, KIB),
            (digits, "M") => (digits, MIB),
            (digits, "G") => (digits, GIB),
            _ => return None,
        };
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        digits.parse::<u64>().ok()?.checked_mul(unit).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(GIB, "G"), (MIB, "M"), (KIB, "K")];
        for (unit, letter) in units {
            if self.0 != 0 && self.0.is_multiple_of(unit) {
                return write!(f, "{}{letter}", self.0 / unit);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(Size::parse("64M"), Some(Size(64 * MIB)));
        assert_eq!(Size::parse("2G"), Some(Size(2 * GIB)));
        assert_eq!(Size::parse("64K"), Some(Size(64 * KIB)));
        for wrong in [
            "",
            "M",
            "64",
            "64 M",
            "64m",
            "64MiB",
            "-1M",
            "+1M",
            "1.5G",
            "0x10M",
            "64µ",
            "18446744073709551615G",
            "99999999999999999999K",
        ] {
            assert_eq!(Size::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        for text in ["64M", "2G", "68K", "1025M"] {
            assert_eq!(Size::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Size(1500).to_string(), "1500 bytes");
    }
}
