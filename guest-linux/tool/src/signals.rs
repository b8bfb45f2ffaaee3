//! Signals by which a user or the system says that it is enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Whether one of them has come.
#[derive(Debug)]
pub(crate) struct End(Arc<AtomicBool>);

/// From now on those signals end nothing by themselves: ask [`End::asked`].
///
/// # Errors
/// The kernel refuses.
pub(crate) fn end() -> Result<End> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&asked))?;
    }
    Ok(End(asked))
}

impl End {
    /// Whether it is enough.
    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
