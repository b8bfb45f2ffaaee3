//! Addresses, which JSON's numbers cannot hold.

use std::fmt;

use serde::{Serialize, Serializer};

/// An address: `0x…` in text, and a string of that form in JSON, whose readers
/// keep 53 bits of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address(pub(crate) u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:#x}", self.0))
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_64_bits_survive_json() {
        let text = serde_json::to_string(&Address(0xffff_ffff_8100_0001)).unwrap();
        assert_eq!(text, "\"0xffffffff81000001\"");
    }
}
