//! The Linux side: Debian's cloud kernel, downloaded and unpacked but never
//! installed or changed, and an initramfs made here around Debian's static
//! busybox.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let cache = guest_linux::Cache::new("target/guest-linux");
//! let kernel = guest_linux::Kernel::fetch(&cache)?;
//! let initrd = guest_linux::Initramfs::new(&cache, &kernel)?
//!     .modules(&["dummy"])?
//!     .run("nproc; uname -r")
//!     .build()?;
//! # Ok(())
//! # }
//! ```

pub mod cpio;
pub mod initramfs;
pub mod kernel;
pub mod modules;
pub mod packages;

pub use initramfs::{Initramfs, MARK, RUN_STATUS, USER_SPACE};
pub use kernel::Kernel;
pub use packages::Cache;
