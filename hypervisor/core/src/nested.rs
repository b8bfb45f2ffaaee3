//! Nested page tables: entry formats and the builder.

/// Entry format of a nested page table.
pub trait Format {}
