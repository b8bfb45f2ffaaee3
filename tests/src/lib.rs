//! Boots machines and counts exits.
