//! What a partition program links.
#![no_std]
