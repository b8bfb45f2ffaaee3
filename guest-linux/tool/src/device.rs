//! The control function: finding it, reading it, calling it.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use cloister_abi::control::{
    CONTROL_BYTES, CONTROL_MAGIC, Call, CallError, ControlPage, MAX_IMAGE, MAX_MESSAGE, Operation,
    PCI_DEVICE, PCI_VENDOR, STATISTICS_BYTES, STATISTICS_MAGIC, StatisticsHeader, TRANSFER_BYTES,
    TRANSFER_IMAGE, TRANSFER_MAGIC,
};
use crc::{CRC_32_ISO_HDLC, Crc};
use rustix::fs::{FlockOperation, flock};

use crate::failure::Failure;
use crate::mapping::Mapping;

const DEVICES: &str = "/sys/bus/pci/devices";

/// The function of the hypervisor that this Linux runs in.
#[derive(Debug)]
pub(crate) struct Device {
    folder: PathBuf,
    statistics: Mapping,
    /// The control page, to look at.
    control: Mapping,
}

impl Device {
    /// Finds and enables it.
    ///
    /// # Errors
    /// [`Failure::NoDevice`]: there is none, or it is not for this user.
    pub(crate) fn open() -> Result<Self> {
        let folder = find()?;
        enable(&folder)?;
        Self::at(folder)
    }

    /// The same again, for another thread.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn again(&self) -> Result<Self> {
        Self::at(self.folder.clone())
    }

    fn at(folder: PathBuf) -> Result<Self> {
        let map = |bar, bytes: u32| {
            let file = open(&folder, bar, false)?;
            Mapping::new(&file, bytes as usize, false)
                .with_context(|| format!("{}/resource{bar}", folder.display()))
        };
        let (control, statistics) = (map(0, CONTROL_BYTES)?, map(2, STATISTICS_BYTES)?);
        let device = Self {
            folder,
            statistics,
            control,
        };
        let header = device.header()?;
        if header.magic.load(Ordering::Acquire) != STATISTICS_MAGIC {
            return Err(Failure::NoDevice(format!(
                "{} is not Cloister's: it shows no statistics",
                device.folder.display()
            ))
            .into());
        }
        let version = header.version.load(Ordering::Relaxed);
        if version != cloister_abi::VERSION {
            bail!(
                "the hypervisor speaks version {version}, this tool {}: use the tool of the same build",
                cloister_abi::VERSION
            );
        }
        Ok(device)
    }

    /// The read-only area.
    pub(crate) fn statistics(&self) -> &Mapping {
        &self.statistics
    }

    /// Its first page.
    ///
    /// # Errors
    /// None in practice: the mapping is large enough.
    pub(crate) fn header(&self) -> Result<&StatisticsHeader> {
        self.statistics.view(0)
    }

    /// Makes one call. Other tools wait meanwhile; the kernel lets them go on
    /// when this process ends, however it ends.
    ///
    /// # Errors
    /// [`Failure::Refused`], in the hypervisor's words.
    pub(crate) fn call(&self, operation: Operation, partition: u8, argument: u32) -> Result<()> {
        let control = Control::lock(&self.folder)?;
        control.call(operation, partition, argument)
    }

    /// Puts `image` into the transfer area and has it loaded.
    ///
    /// # Errors
    /// It is too large; [`Failure::Refused`].
    pub(crate) fn load(&self, partition: u8, image: &[u8]) -> Result<()> {
        if image.len() > MAX_IMAGE as usize {
            bail!(
                "the program's segments take {} bytes, and the transfer area has {MAX_IMAGE}",
                image.len()
            );
        }
        let control = Control::lock(&self.folder)?;
        let file = open(&self.folder, 4, true)?;
        let area = Mapping::new(&file, TRANSFER_BYTES as usize, true)?;
        let checksum = Crc::<u32>::new(&CRC_32_ISO_HDLC).checksum(image);
        area.write(TRANSFER_IMAGE as usize, image)?;
        area.write(0, &TRANSFER_MAGIC.to_le_bytes())?;
        area.write(8, &(image.len() as u64).to_le_bytes())?;
        area.write(16, &u64::from(checksum).to_le_bytes())?;
        let length = u32::try_from(image.len()).context("over 4 GiB")?;
        control.call(Operation::Load, partition, length)
    }

    /// The control page, to look at.
    ///
    /// # Errors
    /// None in practice: the mapping is large enough.
    pub(crate) fn control(&self) -> Result<&ControlPage> {
        self.control.view(0)
    }

    /// Keeps other watchers off until this is dropped. Others see and control
    /// partitions meanwhile.
    ///
    /// # Errors
    /// Somebody watches already.
    pub(crate) fn lock_watch(&self) -> Result<File> {
        let file = open(&self.folder, 2, false)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .context("another \"cloister watch\" is at work; one at a time")?;
        Ok(file)
    }
}

/// The control page, held by this process alone.
struct Control {
    mapping: Mapping,
    /// Holds the lock.
    _file: File,
}

impl Control {
    fn lock(folder: &Path) -> Result<Self> {
        let file = open(folder, 0, true)?;
        flock(&file, FlockOperation::LockExclusive)
            .with_context(|| format!("cannot lock {}/resource0", folder.display()))?;
        let mapping = Mapping::new(&file, CONTROL_BYTES as usize, true)?;
        let control = Self {
            mapping,
            _file: file,
        };
        if control.page()?.magic.load(Ordering::Relaxed) != CONTROL_MAGIC {
            return Err(Failure::NoDevice(format!(
                "{} is not Cloister's: it has no control page",
                folder.display()
            ))
            .into());
        }
        Ok(control)
    }

    fn page(&self) -> Result<&ControlPage> {
        self.mapping.view(0)
    }

    fn call(&self, operation: Operation, partition: u8, argument: u32) -> Result<()> {
        let page = self.page()?;
        let served = page.served.load(Ordering::Acquire);
        let [low, high, ..] = std::process::id().to_le_bytes();
        let value = Call {
            operation,
            partition,
            tag: u16::from_le_bytes([low, high]),
            argument,
        }
        .encode();
        // Release: a plain MOV, which the hypervisor decodes.
        page.doorbell.store(value, Ordering::Release);
        if page.served.load(Ordering::Acquire) == served
            || page.last.load(Ordering::Relaxed) != value
        {
            bail!("the hypervisor did not answer the call, or somebody else called meanwhile");
        }
        let result = page.result.load(Ordering::Relaxed);
        if result == 0 {
            return Ok(());
        }
        let length = usize::try_from(page.message_length.load(Ordering::Relaxed))
            .unwrap_or(0)
            .min(MAX_MESSAGE);
        let bytes: Vec<u8> = page
            .message
            .iter()
            .take(length)
            .map(|byte| byte.load(Ordering::Relaxed))
            .collect();
        let message = String::from_utf8_lossy(&bytes).into_owned();
        let message = match CallError::from_result(result) {
            Some(_) if !message.is_empty() => message,
            error => format!("error {result} ({error:?})"),
        };
        Err(Failure::Refused(message).into())
    }
}

/// The control function's folder in sysfs.
fn find() -> Result<PathBuf> {
    functions(PCI_VENDOR, PCI_DEVICE).next().ok_or_else(|| {
        Failure::NoDevice(format!(
            "no PCI function {PCI_VENDOR:04x}:{PCI_DEVICE:04x} in {DEVICES}: \
             this Linux does not run in Cloister, or sysfs is not mounted"
        ))
        .into()
    })
}

/// The folders of all functions of this kind.
pub(crate) fn functions(vendor: u16, device: u16) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(DEVICES).into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    folders.filter(move |folder| {
        number(folder, "vendor") == Some(vendor) && number(folder, "device") == Some(device)
    })
}

/// A number that a file of the function's folder has.
pub(crate) fn number(folder: &Path, file: &str) -> Option<u16> {
    let text = fs::read_to_string(folder.join(file)).ok()?;
    u16::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

/// Turns decoding on, once.
pub(crate) fn enable(folder: &Path) -> Result<()> {
    let file = folder.join("enable");
    let enabled = fs::read_to_string(&file).is_ok_and(|text| text.trim() != "0");
    if enabled {
        return Ok(());
    }
    fs::write(&file, "1").map_err(|error| {
        Failure::NoDevice(format!("{}: {error}; only root may use it", file.display())).into()
    })
}

/// The file of BAR `bar`.
pub(crate) fn open(folder: &Path, bar: u8, write: bool) -> Result<File> {
    let path = folder.join(format!("resource{bar}"));
    OpenOptions::new()
        .read(true)
        .write(write)
        .open(&path)
        .map_err(|error| {
            Failure::NoDevice(format!("{}: {error}; only root may use it", path.display())).into()
        })
}
