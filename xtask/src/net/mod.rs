//! Packets from the host: the other end of a virtual machine's network cards.
//!
//! A [`Cable`] leads from a card to the host. Over two of them
//! [`Generator`] sends frames through a program that forwards, and checks
//! every byte of what comes back; over one [`Echo`] does the same with
//! datagrams.

mod cable;
mod generator;
mod udp;

pub use cable::Cable;
pub use generator::{Generator, Throughput};
pub use udp::Echo;
