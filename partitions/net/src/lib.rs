//! Network cards for partition programs: poll mode, no interrupts, batches, no
//! copies.
//!
//! [`open`] resets a card and starts it; [`Nic`] is what every card can do;
//! [`Pool`] has the buffers. A program that forwards:
//!
//! ```ignore
//! //! Sends every frame back where it came from.
//! #![no_std]
//! #![no_main]
//!
//! use cloister_net::{Batch, Nic, Pool};
//! use cloister_runtime::{Dataplane, Partition, entry, println, set_dataplane};
//!
//! entry!(main);
//!
//! fn main(partition: &Partition) -> u64 {
//!     let Some(mut pool) = Pool::new(1024) else { return 1 };
//!     let Some(device) = partition.devices().next() else { return 1 };
//!     let mut nic = match cloister_net::open(device, &mut pool) {
//!         Ok(nic) => nic,
//!         Err(error) => {
//!             println!("no card: {error}");
//!             return 1;
//!         }
//!     };
//!     if set_dataplane(Dataplane::STRICT | Dataplane::POPULATE).is_err() {
//!         return 1;
//!     }
//!     let mut batch = Batch::new();
//!     loop {
//!         nic.reclaim(&mut pool);
//!         nic.receive(&mut pool, &mut batch);
//!         for frame in &batch {
//!             let (destination, source) = pool.bytes_mut(frame).split_at_mut(6);
//!             destination.swap_with_slice(&mut source[..6]);
//!         }
//!         nic.transmit(&mut pool, &mut batch); // what finds no room stays
//!     }
//! }
//! ```
//!
//! Opening a card reads configuration space, which exits: do it before
//! `set_dataplane`. From then on a card costs no exit.
//!
//! What a device writes (indices, IDs, lengths, status) is checked and never
//! trusted: what makes no sense is dropped and counted ([`Nic::bad`]).
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(
    not(target_os = "none"),
    allow(dead_code, reason = "the drivers are built for partitions alone")
)]

pub mod pool;
mod queue;
mod rings;

#[cfg(target_os = "none")]
mod e1000;
#[cfg(target_os = "none")]
mod open;
#[cfg(target_os = "none")]
pub mod report;
#[cfg(target_os = "none")]
pub mod stack;
#[cfg(target_os = "none")]
mod virtio;

use core::fmt;

pub use pool::{Batch, Frame, Pool};

#[cfg(target_os = "none")]
pub use open::{Card, OpenError, open};

/// Shortest frame that is taken: two addresses and a type.
const MIN_FRAME: u32 = 14;

/// What every network card can do.
pub trait Nic {
    /// Its address.
    fn mac(&self) -> Mac;

    /// Puts frames that have arrived at the end of `batch`, as many as it has
    /// room for, and gives the card new buffers from `pool`.
    fn receive(&mut self, pool: &mut Pool, batch: &mut Batch);

    /// Sends frames from the front of `batch`, as many as the card has room
    /// for: the others stay.
    fn transmit(&mut self, pool: &mut Pool, batch: &mut Batch);

    /// Gives the buffers of frames that are sent back to `pool`.
    fn reclaim(&mut self, pool: &mut Pool);

    /// How often the device said what makes no sense; the frame concerned was
    /// dropped.
    fn bad(&self) -> u64;
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
