//! Another kernel in place of the one that runs (kexec_file_load(2)).

use std::ffi::CString;
use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};

/// reboot(2).
const MAGIC: (libc::c_long, libc::c_long) = (0xfee1_dead, 672_274_793);
const KEXEC: libc::c_long = 0x4558_4543;

pub(crate) fn load_and_go(kernel: &str, initrd: &str, command_line: &str) -> Result<()> {
    let kernel = File::open(kernel).with_context(|| format!("cannot open {kernel}"))?;
    let initrd = File::open(initrd).with_context(|| format!("cannot open {initrd}"))?;
    let text = CString::new(command_line)?;
    // SAFETY: the files are open, and the text ends with its NUL.
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            text.as_bytes_with_nul().len(),
            text.as_ptr(),
            0,
        )
    };
    if loaded != 0 {
        bail!("kexec_file_load: {}", Error::last_os_error());
    }
    println!("kexec: loaded=1");
    // SAFETY: nothing of this system is needed any more.
    unsafe { libc::syscall(libc::SYS_reboot, MAGIC.0, MAGIC.1, KEXEC, 0) };
    bail!("reboot: {}", Error::last_os_error());
}

/// The first process of the new kernel.
pub(crate) fn arrived() -> Result<()> {
    // SAFETY: asks for a number.
    let processors = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
    println!("arrived: processors={processors}");
    // SAFETY: the machine has nothing else to do.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    bail!("reboot: {}", Error::last_os_error());
}
