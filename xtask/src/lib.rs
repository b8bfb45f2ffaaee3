//! cargo xtask VERB.
