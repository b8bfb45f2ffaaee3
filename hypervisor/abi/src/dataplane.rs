//! The flags of `set_dataplane`. The values are those of Tilera's Zero
//! Overhead Linux dataplane mode.

use bitflags::bitflags;

bitflags! {
    /// What a core asks for with `set_dataplane`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[repr(transparent)]
    pub struct Dataplane: u64 {
        /// Do not return before the core is quiet.
        const QUIESCE = 0x1;
        /// Any further VM exit is a violation. Implies [`Self::QUIESCE`].
        const STRICT = 0x2;
        /// Catch and name every interrupt, trace every exit. Implies
        /// [`Self::QUIESCE`].
        const DEBUG = 0x4;
        /// Map all of the partition's memory before returning.
        const POPULATE = 0x8;
    }
}

impl Dataplane {
    /// The flags with their kebab-case names, in value order.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("quiesce", Self::QUIESCE),
        ("strict", Self::STRICT),
        ("debug", Self::DEBUG),
        ("populate", Self::POPULATE),
    ];

    /// The flag called `name` in manifests and reports.
    #[must_use]
    pub fn from_kebab(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(n, _)| *n == name)
            .map(|&(_, f)| f)
    }

    /// With the flags that these imply: STRICT and DEBUG imply QUIESCE.
    #[must_use]
    pub const fn with_implied(self) -> Self {
        if self.intersects(Self::STRICT.union(Self::DEBUG)) {
            self.union(Self::QUIESCE)
        } else {
            self
        }
    }
}
