//! MADT, the list of processors and interrupt controllers (ACPI 6.5 §5.2.12).

use super::{AcpiError, Signature, seal, table};
use crate::bytes;

const MADT: Signature = *b"APIC";
/// Header, local APIC address, flags; the entries follow.
const FIXED: usize = 44;

/// Types of entries (ACPI 6.5 table 5.21).
mod kind {
    pub(super) const LOCAL_APIC: u8 = 0;
    pub(super) const IO_APIC: u8 = 1;
    pub(super) const LOCAL_APIC_NMI: u8 = 4;
    pub(super) const LOCAL_X2APIC: u8 = 9;
    pub(super) const LOCAL_X2APIC_NMI: u8 = 0xa;
    pub(super) const WAKEUP_MAILBOX: u8 = 0x10;
}

/// A processor in the MADT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MadtCore {
    /// Local APIC ID.
    pub apic_id: u32,
    /// ACPI processor UID.
    pub uid: u32,
    /// Ready for use.
    pub enabled: bool,
    /// Not enabled now, but may become so at run time.
    pub online_capable: bool,
}

/// An I/O APIC in the MADT (ACPI 6.5 §5.2.12.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its ID.
    pub id: u8,
    /// Physical address of its registers.
    pub address: u32,
    /// Global system interrupt of its first pin.
    pub gsi_base: u32,
}

/// The I/O APICs of a MADT, in table order.
///
/// # Errors
/// When `src` is no MADT. What follows a malformed entry is left out.
pub fn madt_io_apics(src: &[u8]) -> Result<impl Iterator<Item = IoApic>, AcpiError> {
    Ok(entries(src)?
        .map_while(Result::ok)
        .filter(|entry| entry.kind == kind::IO_APIC)
        .filter_map(|entry| {
            Some(IoApic {
                id: bytes::u8_at(entry.bytes, 2)?,
                address: bytes::u32_at(entry.bytes, 4)?,
                gsi_base: bytes::u32_at(entry.bytes, 8)?,
            })
        }))
}

struct Entry<'a> {
    offset: usize,
    kind: u8,
    bytes: &'a [u8],
}

impl Entry<'_> {
    fn malformed(&self) -> AcpiError {
        AcpiError::Entry {
            table: MADT,
            offset: self.offset,
        }
    }

    /// The processor that this entry describes; `None` for other types.
    fn core(&self) -> Option<Result<MadtCore, AcpiError>> {
        let read = || {
            let (apic_id, uid, flags) = if self.kind == kind::LOCAL_APIC {
                (
                    u32::from(bytes::u8_at(self.bytes, 3)?),
                    u32::from(bytes::u8_at(self.bytes, 2)?),
                    bytes::u32_at(self.bytes, 4)?,
                )
            } else {
                (
                    bytes::u32_at(self.bytes, 4)?,
                    bytes::u32_at(self.bytes, 12)?,
                    bytes::u32_at(self.bytes, 8)?,
                )
            };
            Some(MadtCore {
                apic_id,
                uid,
                enabled: flags & 1 != 0,
                online_capable: flags & 2 != 0,
            })
        };
        matches!(self.kind, kind::LOCAL_APIC | kind::LOCAL_X2APIC)
            .then(|| read().ok_or_else(|| self.malformed()))
    }

    /// Processor UID of an NMI entry, `Some(None)` for "all processors".
    fn nmi_uid(&self) -> Option<Result<Option<u32>, AcpiError>> {
        let uid = match self.kind {
            kind::LOCAL_APIC_NMI => {
                bytes::u8_at(self.bytes, 2).map(|uid| (uid != u8::MAX).then_some(u32::from(uid)))
            }
            kind::LOCAL_X2APIC_NMI => {
                bytes::u32_at(self.bytes, 4).map(|uid| (uid != u32::MAX).then_some(uid))
            }
            _ => return None,
        };
        Some(uid.ok_or_else(|| self.malformed()))
    }
}

#[derive(Clone, Debug)]
struct Entries<'a> {
    madt: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, AcpiError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.offset;
        if offset >= self.madt.len() {
            return None;
        }
        let read = || {
            let kind = bytes::u8_at(self.madt, offset)?;
            let length = bytes::u8_at(self.madt, offset.checked_add(1)?)?;
            let end = offset.checked_add(usize::from(length))?;
            let bytes = self.madt.get(offset..end)?;
            (length >= 2).then_some(Entry {
                offset,
                kind,
                bytes,
            })
        };
        if let Some(entry) = read() {
            self.offset = offset.saturating_add(entry.bytes.len());
            Some(Ok(entry))
        } else {
            self.offset = self.madt.len();
            Some(Err(AcpiError::Entry {
                table: MADT,
                offset,
            }))
        }
    }
}

fn entries(src: &[u8]) -> Result<Entries<'_>, AcpiError> {
    Ok(Entries {
        madt: table(src, MADT, FIXED)?,
        offset: FIXED,
    })
}

/// Processors of a MADT in table order; made by [`madt_cores`].
#[derive(Clone, Debug)]
pub struct MadtCores<'a> {
    entries: Entries<'a>,
}

impl MadtCores<'_> {
    /// Whether an entry before `offset` has the same APIC ID and is at least
    /// as good as `core`.
    fn listed_before(&self, offset: usize, core: &MadtCore) -> bool {
        Entries {
            madt: self.entries.madt,
            offset: FIXED,
        }
        .map_while(Result::ok)
        .take_while(|entry| entry.offset < offset)
        .filter_map(|entry| entry.core()?.ok())
        .any(|earlier| earlier.apic_id == core.apic_id && earlier.enabled >= core.enabled)
    }
}

impl Iterator for MadtCores<'_> {
    type Item = Result<MadtCore, AcpiError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.entries.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            match entry.core() {
                Some(Ok(core)) if self.listed_before(entry.offset, &core) => {}
                Some(core) => return Some(core),
                None => {}
            }
        }
    }
}

/// The processors that the MADT `src` lists, in its order, the disabled ones
/// included. A processor that firmware lists twice (as local APIC and as local
/// x2APIC) comes once.
///
/// # Errors
/// When `src` is no MADT. The iterator yields an error, and then ends, at an
/// entry with an impossible length.
pub fn madt_cores(src: &[u8]) -> Result<MadtCores<'_>, AcpiError> {
    Ok(MadtCores {
        entries: entries(src)?,
    })
}

/// Writes to `dst` a copy of the MADT `src` with the processors for which
/// `keep` holds (given the APIC ID) and returns its length.
///
/// Left out are: all other processors; disabled ones, which Linux counts as
/// CPUs to be plugged in later; NMI entries that name neither a kept processor
/// nor all of them; and the multiprocessor wakeup mailbox, which would start
/// processors past the hypervisor. I/O APICs and overrides stay.
///
/// # Errors
/// When `src` is no MADT, has an entry with an impossible length, or `dst` is
/// shorter than the result (`src`'s length always suffices).
pub fn filter_madt(
    src: &[u8],
    keep: &dyn Fn(u32) -> bool,
    dst: &mut [u8],
) -> Result<usize, AcpiError> {
    let all = entries(src)?;
    let kept_core = |core: &MadtCore| core.enabled && keep(core.apic_id);
    let kept_uid = |uid: u32| {
        all.clone()
            .filter_map(|entry| entry.ok()?.core()?.ok())
            .any(|core| core.uid == uid && kept_core(&core))
    };
    let mut end = 0;
    let mut append = |bytes: &[u8]| -> Result<(), AcpiError> {
        let available = dst.len();
        bytes::put(dst, end, bytes).ok_or(AcpiError::DestinationTooSmall {
            needed: src.len(),
            available,
        })?;
        end += bytes.len();
        Ok(())
    };
    append(all.madt.get(..FIXED).unwrap_or_default())?;
    for entry in all.clone() {
        let entry = entry?;
        let stays = if let Some(core) = entry.core() {
            kept_core(&core?)
        } else if let Some(uid) = entry.nmi_uid() {
            uid?.is_none_or(kept_uid)
        } else {
            entry.kind != kind::WAKEUP_MAILBOX
        };
        if stays {
            append(entry.bytes)?;
        }
    }
    // The result is no longer than the source, whose length is 32 bits wide.
    let length = u32::try_from(end).unwrap_or(u32::MAX);
    bytes::put(dst, 4, &length.to_le_bytes());
    seal(dst.get_mut(..end).unwrap_or_default());
    Ok(end)
}
